"""TorchCodec: values to ``.pt`` files, as ``torch.save`` writes them, and back; both by hand.

torch spends most of a save in a slow CRC, and its reader checks neither the zip (records.py) nor its CRCs, while its
``weights_only`` unpickler does not know Flambe's idioms. Files of torch before 1.6, which are no zips, are read too.
docs/format.md describes both.
"""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias, cast

import dill
import torch
from torch.serialization import location_tag

from flambe_save.codecs.data import Portable, check_no_file, say_what, to_data
from flambe_save.codecs.dense import DTYPES as DENSE_TYPES
from flambe_save.codecs.dense import dump_plain
from flambe_save.codecs.naming import by_names, find_in_script
from flambe_save.codecs.numpy_types import check
from flambe_save.codecs.placement import Placer
from flambe_save.codecs.rebuild import DTYPES, UNTYPED
from flambe_save.codecs.storages import storage_of
from flambe_save.codecs.unpickler import (
    CarefulUnpickler,
    DataUnpickler,
    Inert,
)
from flambe_save.errors import (
    CorruptSaveError,
    LoadError,
    StateMismatchWarning,
    UnknownFormatError,
    UnsupportedObjectError,
    quote_some,
    warn,
)
from flambe_save.layout import what_it_is
from flambe_save.pt.dense import PlainState, load_plain
from flambe_save.pt.opcodes import broken_pickle, pickle_end
from flambe_save.pt.options import DumpOptions, LoadOptions
from flambe_save.pt.sources import HeldSource, Source
from flambe_save.pt.zip_reader import ZIP_MAGIC, Records, is_zip
from flambe_save.pt.zip_writer import Draft, empty_dict, zip_of
from flambe_save.registry import MOVED
from flambe_save.state import Referring, Stash, State

__all__ = [
    "CODEC",
    "REFERENCE",
    "TorchCodec",
    "as_load_errors",
    "elsewhere_of",
    "persistent_storages",
    "pickled_once",
    "read_zip",
    "reading_storages",
    "trusting_module",
    "unpicklable",
    "unpickle_data",
    "unpickle_trusting",
]

REFERENCE = "object"  # begins the persistent id of what is no storage: a number follows, which a config explains

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number, pickled
_LEGACY_PROTOCOL = 1001


class TorchCodec:
    """Any values, most often a node's State, in a ``.pt`` file. Data needs no trust to be read again."""

    suffix = ".pt"
    needs_pickle = False

    def dump(self, values: Any, options: DumpOptions) -> Draft:
        """Draft a file of values, as :func:`torch.save` writes it.

        Data is pickled by the standard library, so that it can be read without the pickle module of whoever wrote it.

        Raises
        ------
        UnsupportedObjectError
            If something cannot be pickled; the message names it.
        """
        if not values and type(values) in (dict, Stash):
            return empty_dict(options.pickle_protocol)
        plain = dump_plain(values, options.pickle_protocol)
        if plain is not None:
            return zip_of(*plain)
        prepared, opaque = to_data(values)
        module: Any = options.pickle_module if opaque else pickle
        try:
            if hasattr(module, "Pickler"):
                elsewhere = elsewhere_of(values)
                return zip_of(*pickled_once(prepared, module, options.pickle_protocol, elsewhere), say_what(opaque))
            buffer = io.BytesIO()  # a bare pickle then, which the reader takes too
            prepared, _ = to_data(values, Portable.wrapper())
            module.dump(prepared, buffer, protocol=options.pickle_protocol)
        except Exception as error:
            raise unpicklable(values, opaque, error) from error
        return Draft(buffer.getvalue(), opaque=say_what(opaque))

    def load(self, source: Source, options: LoadOptions) -> Any:
        """Read values. Tensors get memory of their own, or share that of a file that is mapped.

        Raises
        ------
        UntrustedError
            If the file holds more than data and the caller does not trust it.
        CorruptSaveError
            If it is damaged.
        """
        if not options.trust.weights_only:
            return _load_trusting(source, options)
        return _load_data(source, options)


CODEC = TorchCodec()


# ------------------------------------------------------------------------------------------------ writing


def elsewhere_of(values: Any) -> Mapping[int, str]:
    """Return what the save has in other places than the stash that is written."""
    if not isinstance(values, Stash):
        return {}
    own = {
        id(item) for value in values.values() for item in (value.values if isinstance(value, Referring) else (value,))
    }
    return {number: name for number, name in values.elsewhere.items() if number not in own}


def pickled_once(
    values: Any,
    module: Any,
    protocol: int,
    elsewhere: Mapping[int, str],
    references: Mapping[int, int] = types.MappingProxyType({}),
) -> tuple[bytes, list[torch.UntypedStorage]]:
    """Pickle values, and warn of what in them is a copy of something that the save has elsewhere too."""
    copies: list[str] = []

    def pickled(module: Any, **options: Any) -> tuple[bytes, list[torch.UntypedStorage]]:
        copies.clear()
        return _pickled(values, module, protocol, elsewhere, copies, references, **options)

    found = by_names(pickled, lambda found: found[0]) if module is dill else None
    if found is None:
        try:
            found = pickled(module)
        except Exception:
            if module is not dill:
                raise
            # By value, dill pickles classes that it does not find under their names, as those of torch.optim
            found = pickled(module, byref=True)
    if copies:
        warn(
            f"a pickle holds copies of what the save has elsewhere: {quote_some([*dict.fromkeys(copies)])}; a load "
            "makes two objects of each",
            StateMismatchWarning,
        )
    return found


def _pickled(
    values: Any,
    module: Any,
    protocol: int,
    elsewhere: Mapping[int, str] = types.MappingProxyType({}),
    copies: list[str] | None = None,
    references: Mapping[int, int] = types.MappingProxyType({}),
    **options: Any,
) -> tuple[bytes, list[torch.UntypedStorage]]:
    """Pickle values, as torch.save does, with numbers where storages are; return these in order.

    ``copies`` gets the names of what is ``elsewhere``, by its id. What is among ``references``, by its id, is not
    pickled: its number stands for it.
    """
    numbers: dict[int, int] = {}
    storages: list[torch.UntypedStorage] = []
    types: dict[int, torch.dtype] = {}

    class Pickler(module.Pickler):  # type: ignore[misc]
        def persistent_id(self, obj: Any) -> Any:
            if id(obj) in references:
                return REFERENCE, references[id(obj)]
            if isinstance(obj, torch.storage.TypedStorage):
                untyped: Any = obj._untyped_storage
                kind, dtype, count = getattr(torch, obj._pickle_storage_type()), obj.dtype, obj._size()  # type: ignore[no-untyped-call]
            elif isinstance(obj, torch.UntypedStorage):
                untyped, kind, dtype, count = obj, torch.UntypedStorage, torch.uint8, obj.nbytes()
            else:
                check_no_file(obj)
                if copies is not None and id(obj) in elsewhere:
                    copies.append(elsewhere[id(obj)])
                return None
            number = numbers.setdefault(untyped._cdata, len(storages))
            if number == len(storages):
                storages.append(untyped)
            if types.setdefault(number, dtype) is not dtype:
                raise pickle.PicklingError("tensors of different types view one memory, which torch cannot load")
            return "storage", kind, str(number), location_tag(untyped), count

    buffer = io.BytesIO()
    Pickler(buffer, protocol=protocol, **options).dump(values)
    return buffer.getvalue(), storages


# ------------------------------------------------------------------------------------------------ reading


def _load_data(source: Source, options: LoadOptions, *, is_nested: bool = False) -> Any:
    """Read a torch file, zip or legacy, or a bare pickle, as data."""
    place = Placer(options.map_location)
    if is_zip(source):
        records = Records(source, options)
        return read_zip(records, options, reading_storages(records, source, options, place), is_nested=is_nested)
    data = source.piece(0, source.size)
    found = what_it_is(bytes(data[:200]))
    if found is not None and _LEGACY_START not in bytes(data[:32]):
        fix = found[1].replace("FILE", options.file or "FILE")
        raise CorruptSaveError(f"this is {found[0]}, and no torch file", node=options.node, file=options.file, fix=fix)
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
        Returns the storage of a record, given its key, the device that it was on, and its size in bytes.
    is_nested : bool
        Whether the zip is inside another one.
    """
    if "constants.pkl" in records or any(name.startswith("code/") for name in records.names):
        raise UnknownFormatError(
            "this is a TorchScript archive, which is a program and no data",
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
            raise broken_pickle(error, options.node, options.file) from error

    return unpickle_data(io.BytesIO(data), options, persistent_storages(storage), is_nested=is_nested)


def persistent_storages(storage: StorageOf) -> Callable[[Any], Any]:
    """Return what turns persistent ids into storages."""

    def storage_of(pid: Any) -> Any:
        kind, key, location, numel = _checked_pid(pid)
        return _typed(storage(key, location, numel * _itemsize(kind)), kind)

    return storage_of


def reading_storages(records: Records, source: Source, options: LoadOptions, place: Placer) -> StorageOf:
    """Return what reads the storages of a zip to where they are wanted, each once."""
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
            if options.is_verified and not options.is_vouched_for:
                records.check(f"data/{key}")
            found = storages[key] = place(found, location) if callable(options.map_location) else found
        return found

    return storage


def _read_plain(plain: PlainState, storage: StorageOf, options: LoadOptions) -> OrderedDict[str, torch.Tensor]:
    """Put a plain state together from its description and its storages."""
    values: OrderedDict[str, torch.Tensor] = OrderedDict()
    for key, (kind, record, location, shape, stride) in plain.tensors.items():
        dtype, count = DENSE_TYPES[kind], math.prod(shape)
        memory = storage(record, location, count * dtype.itemsize)
        last = sum([(length - 1) * step for length, step in zip(shape, stride, strict=True)])
        check(last < count or not count, f"{key!r} reaches past its storage")
        values[key] = torch.empty(0, dtype=dtype, device=memory.device).set_(memory, 0, shape, stride)
    if plain.metadata is not None:
        metadata = unpickle_data(io.BytesIO(plain.metadata), options)
        values._metadata = metadata  # type: ignore[attr-defined]
    return values


def _read_legacy(stream: io.BytesIO, options: LoadOptions, place: Placer, *, is_nested: bool) -> Any:
    """Read what follows the magic number: protocol, system, the object, the storage keys, then the raw storages."""
    protocol, system = unpickle_data(stream, options), unpickle_data(stream, options)
    if protocol != _LEGACY_PROTOCOL or not (isinstance(system, dict) and system.get("little_endian") is True):
        raise CorruptSaveError(
            "a torch file of an unknown protocol or byte order", node=options.node, file=options.file
        )
    start = stream.tell()
    needed: dict[str, Any] = {}
    try:
        pickle_end(stream.getbuffer()[start:])
        _Collector(stream, needed).load()
    except Exception as error:
        raise broken_pickle(error, options.node, options.file) from error
    keys = unpickle_data(stream, options)
    is_list = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not is_list or not set(needed) <= set(keys):
        raise CorruptSaveError("a torch file without its storages", node=options.node, file=options.file)
    raw: dict[str, bytearray] = {}
    for key in keys:
        size = int.from_bytes(stream.read(8), "little") * _itemsize(needed.get(key))
        raw[key] = bytearray(stream.read(min(size, len(stream.getbuffer()))))
    placed: dict[str, torch.UntypedStorage] = {}

    def storage_of(pid: Any) -> Any:
        kind, key, location, numel = _checked_pid(pid[:5])
        check(len(raw[key]) == numel * _itemsize(kind), f"storage {key} is cut short")
        if key not in placed:
            placed[key] = place(_untyped(memoryview(raw[key])), location)
        untyped: Any = placed[key]
        if len(pid) > 5 and pid[5] is not None:
            _, offset, size = pid[5]
            untyped = untyped[offset * _itemsize(kind) : (offset + size) * _itemsize(kind)]
        return _typed(untyped, kind)

    stream.seek(start)
    return unpickle_data(stream, options, storage_of, is_nested=is_nested)


class _Collector(CarefulUnpickler):
    """Walks a legacy pickle, building nothing, to learn which storages it wants and of what type."""

    def __init__(self, stream: io.BytesIO, needed: dict[str, Any]) -> None:
        super().__init__(stream, encoding="utf-8")
        self._needed = needed

    def find_class(self, module: str, name: str) -> Any:
        if name == "UntypedStorage":
            return UNTYPED
        return DTYPES.get(f"{module}.{name}", Inert)

    def persistent_load(self, pid: Any) -> Any:
        kind, key, _, _ = _checked_pid(pid[:5])
        self._needed[key] = kind
        return Inert()


def _checked_pid(pid: Any) -> tuple[Any, str, str, int]:
    """Return a persistent id's storage type (a dtype or ``UNTYPED``), key, location and length."""
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


def _untyped(raw: memoryview) -> torch.UntypedStorage:
    """Return a storage over a buffer, sharing it."""
    if not len(raw):
        return torch.UntypedStorage(0)  # type: ignore[no-untyped-call]
    return torch.frombuffer(raw, dtype=torch.uint8).untyped_storage()


def unpickle_data(stream: io.BytesIO, options: LoadOptions, storage_of: Any = None, *, is_nested: bool = False) -> Any:
    """Unpickle one object as data, under the caller's trust."""
    return DataUnpickler(
        stream,
        options.trust,
        storage_of=storage_of,
        arguments=options.pickle_load_args,
        nested=None if is_nested else lambda data: _storage_in(data, options),
        node=options.node,
        file=options.file,
    ).unpickle()


def _storage_in(data: Any, options: LoadOptions) -> Any:
    """Stand in for ``torch.storage._load_from_bytes``: a pickle holds a whole torch file of one storage."""
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError("a nested torch file that is no bytes")
    is_torch = data[:4] == ZIP_MAGIC or _LEGACY_START in data[:32]
    check(is_torch, "a nested torch file that is none")
    found = _load_data(HeldSource(bytearray(data)), replace(options, is_vouched_for=False), is_nested=True)
    check(isinstance(found, (torch.UntypedStorage, torch.storage.TypedStorage)), "a nested torch file of no storage")
    return found


# ------------------------------------------------------------------------------------- loads that trust everything


def unpickle_trusting(stream: io.BytesIO, options: LoadOptions) -> Any:
    """Unpickle with the caller's pickle module, which may run anything.

    Raises
    ------
    LoadError
        If it raises, or has a ``load`` of its own but no Unpickler, through which ``map_location`` would reach tensors.
    """
    load = options.pickle_module.load
    has_unpickler = hasattr(options.pickle_module, "Unpickler") or load is pickle.load
    if not has_unpickler and options.map_location is not None:
        raise LoadError(
            "a pickle module without an Unpickler cannot follow map_location", fix="Pass pickle_module=dill."
        )
    with as_load_errors(options):
        return (trusting_module(options).load if has_unpickler else load)(stream, **options.pickle_load_args)


def _load_trusting(source: Source, options: LoadOptions) -> Any:
    if is_zip(source):
        records = Records(source, options)
        plain = load_plain(records.read("data.pkl")) if "data.pkl" in records else None
        if plain is not None:
            return _load_data(source, options)
        if options.is_verified and not options.is_vouched_for:
            for name in records.names:
                records.check(name)  # torch itself would read a damaged record without a word
    data = io.BytesIO(source.piece(0, source.size))
    if not is_zip(source) and _LEGACY_START not in data.getbuffer()[:32].tobytes():
        return unpickle_trusting(data, options)
    with as_load_errors(options):
        return torch.load(
            data,
            cast(Any, options.map_location),
            trusting_module(options),
            weights_only=False,
            **options.pickle_load_args,
        )


@contextlib.contextmanager
def as_load_errors(options: LoadOptions) -> Iterator[None]:
    """Turn what a trusted pickle raises into an error that says where it was."""
    try:
        yield
    except (LoadError, MemoryError):
        raise
    except Exception as error:
        raise LoadError(
            f"{type(error).__name__} while unpickling: {str(error)[:200]}", node=options.node, file=options.file
        ) from error


def trusting_module(options: LoadOptions) -> Any:
    """Return the caller's pickle module with an Unpickler that knows Flambe's State and honours ``map_location``."""
    base: Any = getattr(options.pickle_module, "Unpickler", pickle.Unpickler)

    def load_from_bytes(data: bytes) -> Any:
        return torch.load(io.BytesIO(data), cast(Any, options.map_location), weights_only=False)

    class Unpickler(base):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) == ("flambe.compile.serialization", "State"):
                return State
            if (module, name) == ("torch.storage", "_load_from_bytes"):
                return load_from_bytes
            if f"{module}.{name}" in MOVED:
                return MOVED[f"{module}.{name}"]
            return find_in_script(module, name) or super().find_class(module, name)

    def load(file: Any, **arguments: Any) -> Any:
        return Unpickler(file, **arguments).load()

    return types.SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=load)


def unpicklable(values: Any, opaque: list[tuple[str, Any]], error: Exception) -> UnsupportedObjectError:
    """Make the error for values that a pickle module refused."""
    if not opaque and isinstance(values, dict):  # then it is a tensor of a type that torch cannot save
        opaque = [(str(key), value) for key, value in values.items() if not _saves(value)]
    what = "; ".join(say_what(opaque[:5])) or "a value"
    return UnsupportedObjectError(
        f"this cannot be pickled ({str(error)[:200]}): {what}",
        fix="There are three ways out: register_adapter() for its type; leave it out of what is saved, to be made "
        "again by whoever holds it; or make it picklable, to be kept in the stash, for which a load needs trust.",
    )


def _saves(value: Any) -> bool:
    try:
        torch.save(value, io.BytesIO())
    except Exception:
        return False
    return True
