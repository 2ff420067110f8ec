"""Read torch files as data: zips, files of torch before 1.6, bare pickles."""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from flambe_save.codecs.careful import CarefulUnpickler, Placeholder
from flambe_save.codecs.numpy_types import check
from flambe_save.codecs.placement import Placer
from flambe_save.codecs.safe_globals import DTYPES, UNTYPED
from flambe_save.codecs.storages import storage_of
from flambe_save.codecs.unpickler import DataUnpickler, is_harmless
from flambe_save.errors import UnknownFormatError
from flambe_save.layout import LEGACY_TORCH, what_it_is
from flambe_save.pt.dense import SMALL, PlainState, load_plain
from flambe_save.pt.opcodes import pickle_end
from flambe_save.pt.options import LoadOptions
from flambe_save.pt.sources import MemorySource, Source
from flambe_save.pt.zip_reader import ZIP_MAGIC, Records, is_zip

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def load_data(source: Source, options: LoadOptions, *, is_nested: bool = False) -> Any:
    """Read a torch file, zip or legacy, or a bare pickle, as data."""
    place = Placer(options.map_location)
    if is_zip(source):
        records = Records(source, options)
        return read_zip(records, options, reading_storages(records, source, options, place), is_nested=is_nested)
    data = source.piece(0, source.size)
    found = what_it_is(bytes(data[:200]))
    if found is not None and LEGACY_TORCH not in bytes(data[:32]):
        fix = found[1].replace("FILE", options.file or "FILE")
        raise options.corrupt(f"this is {found[0]}, not a torch file", fix)
    stream = io.BytesIO(data)
    first = unpickle_data(stream, options)
    if type(first) is not int or first != _LEGACY_MAGIC:
        return first  # Flambe before 0.4 wrote the stash as a bare pickle
    return _read_legacy(stream, options, place, is_nested=is_nested)


StorageOf: TypeAlias = Callable[[str, str, int], torch.UntypedStorage]


def read_zip(records: Records, options: LoadOptions, storage: StorageOf, *, is_nested: bool = False) -> Any:
    """Read the values of a torch zip.

    Parameters
    ----------
    records : Records
    options : LoadOptions
    storage : callable
        Called with a record's key, the device that it was on, and its size in bytes; returns its storage.
    is_nested : bool
        Whether the zip is inside another one.
    """
    if "constants.pkl" in records or any(name.startswith("code/") for name in records.names):
        raise UnknownFormatError(
            "this is a TorchScript archive, which is a program, not data",
            node=options.node,
            file=options.file,
            fix="Load it with torch.jit.load, if you know who wrote it, and save its state_dict().",
        )
    if "data.pkl" not in records:
        raise records.damaged("it holds no data.pkl, so it was not written by torch.save")
    if "byteorder" in records and records.read("byteorder") != b"little":
        raise records.damaged("its tensors are big-endian")
    data = records.read("data.pkl")
    plain = load_plain(data)
    if plain is not None:
        try:
            return _read_plain(plain, storage, options)
        except pickle.UnpicklingError as error:
            raise options.broken_pickle(error) from error
    return unpickle_data(io.BytesIO(data), options, persistent_storages(storage), is_nested=is_nested)


def persistent_storages(storage: StorageOf) -> Callable[[Any], Any]:
    """A function that turns persistent ids into storages."""

    def storage_of(pid: Any) -> Any:
        kind, key, location, numel = _checked_pid(pid)
        return _typed(storage(key, location, numel * _itemsize(kind)), kind)

    return storage_of


def reading_storages(records: Records, source: Source, options: LoadOptions, place: Placer) -> StorageOf:
    """A function that reads each storage of a zip once, to the device that is wanted."""
    storages: dict[str, torch.UntypedStorage] = {}

    def storage(key: str, location: str, size: int) -> torch.UntypedStorage:
        start, length = records.place(f"data/{key}")
        check(length == size, f"storage {key} holds {length} bytes, not {size}")  # torch would make it larger
        found = storages.get(key)
        if found is None:
            device = place.device(location)
            if device is not None and device.type == "meta":
                found = torch.UntypedStorage(size, device=device)  # type: ignore[no-untyped-call]
            else:
                found = storage_of(source, start, start + size, device)
            if options.is_verified and not options.checksums_known:
                records.check(f"data/{key}")
            found = storages[key] = place(found, location) if callable(options.map_location) else found
        return found

    return storage


def _read_plain(plain: PlainState, storage: StorageOf, options: LoadOptions) -> OrderedDict[str, torch.Tensor]:
    """Put a plain state together from its description and its storages."""
    values: OrderedDict[str, torch.Tensor] = OrderedDict()
    for key, tensor in plain.tensors.items():
        kind, record, location, shape, stride = tensor
        dtype: torch.dtype = getattr(torch, kind)
        memory = storage(record, location, math.prod(shape) * dtype.itemsize)
        check(tensor.fits, f"{key!r} reaches past its storage")
        values[key] = torch.empty(0, dtype=dtype, device=memory.device).set_(memory, 0, shape, stride)
    if plain.metadata is not None:
        values._metadata = _metadata_in(plain.metadata, options)  # type: ignore[attr-defined]
    return values


def _metadata_in(data: bytes, options: LoadOptions) -> Any:
    if len(data) <= SMALL and is_harmless(data):
        with contextlib.suppress(Exception):  # which the other way reports
            return pickle.Unpickler(io.BytesIO(data)).load()
    return unpickle_data(io.BytesIO(data), options)


def _read_legacy(stream: io.BytesIO, options: LoadOptions, place: Placer, *, is_nested: bool) -> Any:
    """Read a legacy file after its magic number.

    That is the protocol, the system, the object, the storages' keys, and the raw storages.
    """
    protocol, system = unpickle_data(stream, options), unpickle_data(stream, options)
    if protocol != _LEGACY_PROTOCOL or not (isinstance(system, dict) and system.get("little_endian") is True):
        raise options.corrupt("a torch file of an unknown protocol or byte order")
    start = stream.tell()
    needed: dict[str, Any] = {}
    try:
        pickle_end(stream.getbuffer()[start:])
        _Collector(stream, needed).load()
    except Exception as error:
        raise options.broken_pickle(error) from error
    keys = unpickle_data(stream, options)
    is_list = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not is_list or not set(needed) <= set(keys):
        raise options.corrupt("a torch file without its storages")
    raw: dict[str, bytearray] = {}
    for key in keys:
        size = int.from_bytes(stream.read(8), "little") * _itemsize(needed.get(key))
        raw[key] = bytearray(stream.read(min(size, len(stream.getbuffer()))))
    placed: dict[str, torch.UntypedStorage] = {}

    def storage(pid: Any) -> Any:
        kind, key, location, numel = _checked_pid(pid[:5])
        check(len(raw[key]) == numel * _itemsize(kind), f"storage {key} is cut short")
        if key not in placed:
            held = MemorySource(raw[key], is_shared=True)
            placed[key] = place(storage_of(held, 0, held.size), location)
        untyped: Any = placed[key]
        if len(pid) > 5 and pid[5] is not None:
            _, offset, size = pid[5]
            untyped = untyped[offset * _itemsize(kind) : (offset + size) * _itemsize(kind)]
        return _typed(untyped, kind)

    stream.seek(start)
    return unpickle_data(stream, options, storage, is_nested=is_nested)


class _Collector(CarefulUnpickler):
    """Walks a legacy pickle, building nothing, to find its storages and their types."""

    def __init__(self, stream: io.BytesIO, needed: dict[str, Any]) -> None:
        super().__init__(stream, encoding="utf-8")
        self._needed = needed

    def find_class(self, module: str, name: str) -> Any:
        if name == "UntypedStorage":
            return UNTYPED
        return DTYPES.get(f"{module}.{name}", Placeholder)

    def persistent_load(self, pid: Any) -> Any:
        kind, key, _, _ = _checked_pid(pid[:5])
        self._needed[key] = kind
        return Placeholder()


def _checked_pid(pid: Any) -> tuple[Any, str, str, int]:
    """Check a persistent id; return its storage type or ``UNTYPED``, key, location and length."""
    check(isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage", "an unknown persistent id")
    _, kind, key, location, numel = pid
    check(isinstance(kind, torch.dtype) or kind is UNTYPED, "a storage without a type")
    check(isinstance(key, str) and isinstance(location, str), "a storage without a key or a location")
    check(type(numel) is int and numel >= 0, "a storage of no size")
    return kind, key, location, numel


def _itemsize(kind: Any) -> int:
    return kind.itemsize if isinstance(kind, torch.dtype) else 1


def _typed(untyped: torch.UntypedStorage, kind: Any) -> Any:
    if not isinstance(kind, torch.dtype):
        return untyped
    make: Any = torch.storage.TypedStorage
    return make(wrap_storage=untyped, dtype=kind, _internal=True)


def unpickle_data(
    stream: io.BytesIO,
    options: LoadOptions,
    storage_of: Any = None,
    *,
    is_nested: bool = False,
    files: Mapping[bytes, Source] = types.MappingProxyType({}),
) -> Any:
    """Unpickle one object as data, under the caller's trust; some bytes in it stand for files."""
    left = {**files}  # each is read once, so that a pickle takes no more memory than its file
    nested = None if is_nested else lambda data: _storage_in(data, options, left)
    return DataUnpickler(stream, options, storage_of=storage_of, nested=nested).unpickle()


def _storage_in(data: Any, options: LoadOptions, files: dict[bytes, Source]) -> Any:
    """Stand in for ``torch.storage._load_from_bytes``, which reads a torch file of one storage."""
    check(isinstance(data, bytes), "a nested torch file that is not one")
    source = files.pop(data, None) or MemorySource(bytearray(data))
    begin = bytes(source.piece(0, 32))
    check(begin[:4] == ZIP_MAGIC or LEGACY_TORCH in begin, "a nested torch file that is not one")
    found = load_data(source, replace(options, checksums_known=False), is_nested=True)
    check(isinstance(found, (torch.UntypedStorage, torch.storage.TypedStorage)), "a nested torch file of other values")
    return found
