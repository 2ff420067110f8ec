"""TorchCodec: values to ``.pt`` files, as ``torch.save`` writes them, and back by a reader of our own.

The reader takes the zip apart itself: torch checks neither the zip nor its CRCs, and its ``weights_only`` unpickler
does not know Flambe's idioms. It also reads the files of torch before 1.6, which are no zips. docs/format.md
describes both.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import types
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import torch

from flambe_save.codecs.data import Portable, say_what, to_data
from flambe_save.codecs.options import DumpOptions, LoadOptions, Place, placer
from flambe_save.codecs.rebuild import DTYPES, UNTYPED, check
from flambe_save.codecs.unpickler import (
    CarefulUnpickler,
    DataUnpickler,
    Inert,
    broken_pickle,
    is_empty_dict,
    pickle_end,
)
from flambe_save.errors import CorruptSaveError, LoadError, UnknownFormatError, UnsupportedObjectError
from flambe_save.layout import what_it_is
from flambe_save.registry import MOVED
from flambe_save.state import State

__all__ = ["TorchCodec", "unpickle_data", "unpickle_trusting", "unpicklable"]

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number, pickled
_LEGACY_PROTOCOL = 1001


class TorchCodec:
    """Any values, most often a node's State, in a ``.pt`` file. Data needs no trust to be read again."""

    suffix = ".pt"
    needs_pickle = False

    def dump(self, values: Any, file: BinaryIO, options: DumpOptions) -> list[str]:
        """Write values with :func:`torch.save`; say what in them is more than data.

        Data is pickled by the standard library, so that it can be read without the pickle module of whoever wrote it.

        Raises
        ------
        UnsupportedObjectError
            If something cannot be pickled; the message names it.
        """
        prepared, opaque = to_data(values)
        module: Any = options.pickle_module if opaque else pickle
        buffer = io.BytesIO()  # torch writes a zip, which wants to seek; a store's file need not
        try:
            if hasattr(module, "Pickler"):
                torch.save(prepared, buffer, pickle_module=module, pickle_protocol=options.pickle_protocol)
            else:  # torch.save could not use it; the reader takes a bare pickle too
                prepared, _ = to_data(values, Portable.wrapper())
                module.dump(prepared, buffer, protocol=options.pickle_protocol)
        except Exception as error:
            raise unpicklable(values, opaque, error) from error
        file.write(buffer.getbuffer())
        return say_what(opaque)

    def load(self, file: BinaryIO, options: LoadOptions) -> Any:
        """Read values; tensors share the memory of one buffer per file.

        Raises
        ------
        UntrustedError
            If the file holds more than data and the caller does not trust it.
        CorruptSaveError
            If it is damaged.
        """
        data = _content(file)
        if not options.trust.weights_only:
            return _load_trusting(file, data, options)
        return _load_data(file, data, options)

    def check(self, file: BinaryIO, options: LoadOptions) -> None:
        """Compare every record of the zip with its checksum, and walk through the pickle's opcodes, executing none.

        Raises
        ------
        CorruptSaveError
            If it is damaged.
        """
        data = _content(file)
        if data[:4] == _ZIP_MAGIC:
            records = _Records(file, data, options)
            for name in records.names:
                records.read(name)
            data = bytearray(records.read("data.pkl"))
        try:
            pickle_end(data)
        except pickle.UnpicklingError as error:
            raise broken_pickle(error, options.node, options.file) from error

    def is_empty(self, data: bytes, options: LoadOptions) -> bool:
        """Whether a file holds an empty dict, told without unpickling it.

        Raises
        ------
        CorruptSaveError
            If it is damaged.
        """
        if data[:4] == _ZIP_MAGIC:
            data = bytes(_Records(io.BytesIO(data), bytearray(data), options).read("data.pkl"))
        return is_empty_dict(data)


def _content(file: BinaryIO) -> bytearray:
    data = bytearray(file.seek(0, io.SEEK_END))
    file.seek(0)
    file.readinto(data)  # type: ignore[attr-defined]
    return data


def _load_data(file: BinaryIO, data: bytearray, options: LoadOptions, *, is_nested: bool = False) -> Any:
    """Read a torch file, zip or legacy, or a bare pickle, as data; ``data`` is the content of ``file``."""
    place = placer(options.map_location)
    if data[:4] == _ZIP_MAGIC:
        return _read_zip(_Records(file, data, options), options, place, is_nested=is_nested)
    found = what_it_is(bytes(data[:200]))
    if found is not None and _LEGACY_START not in data[:32]:
        raise CorruptSaveError(
            f"this is {found[0]}, and no torch file", node=options.node, file=options.file, fix=found[1]
        )
    stream = io.BytesIO(data)
    first = unpickle_data(stream, options)
    if type(first) is not int or first != _LEGACY_MAGIC:
        return first  # Flambe before 0.4 wrote the stash as a bare pickle
    return _read_legacy(stream, options, place, is_nested=is_nested)


def _read_zip(records: _Records, options: LoadOptions, place: Place, *, is_nested: bool) -> Any:
    if "constants.pkl" in records.names or any(name.startswith("code/") for name in records.names):
        raise UnknownFormatError(
            "this is a TorchScript archive, which is a program and no data",
            node=options.node,
            file=options.file,
            fix="Load it with torch.jit.load, if you know who wrote it, and save its state_dict().",
        )
    if "data.pkl" not in records.names:
        raise records.damaged("it holds no data.pkl, so it was not written by torch.save")
    if "byteorder" in records.names and bytes(records.read("byteorder")) != b"little":
        raise records.damaged("its tensors are big-endian")
    storages: dict[str, torch.UntypedStorage] = {}

    def storage_of(pid: Any) -> Any:
        kind, key, location, numel = _checked_pid(pid)
        if key not in storages:
            raw = records.read(f"data/{key}")
            check(len(raw) == numel * _itemsize(kind), f"storage {key} holds {len(raw)} bytes, not {numel} of {kind}")
            storages[key] = place(_untyped(raw), location)
        return _typed(storages[key], kind)

    return unpickle_data(io.BytesIO(bytes(records.read("data.pkl"))), options, storage_of, is_nested=is_nested)


class _Records:
    """The records of a torch zip by their names inside its one folder, each checked against its CRC when read."""

    def __init__(self, file: BinaryIO, data: bytearray, options: LoadOptions) -> None:
        self._data = memoryview(data)  # writable, because tensors will share it
        self._options = options
        self.names: dict[str, zipfile.ZipInfo] = {}
        try:
            entries = zipfile.ZipFile(file).infolist()
        except (
            zipfile.BadZipFile,
            ValueError,
            struct.error,
            NotImplementedError,
            UnicodeDecodeError,
        ) as error:
            raise self.damaged(f"the zip is damaged: {error}") from error
        seen: set[str] = set()
        end = 0
        for info in sorted(entries, key=lambda item: item.header_offset):
            root, _, name = info.filename.partition("/")
            if info.filename.lower() in seen or root != entries[0].filename.partition("/")[0]:
                raise self.damaged(f"its record {info.filename[:200]!r} comes twice, or lies in another folder")
            if info.compress_type != zipfile.ZIP_STORED or info.header_offset < end:
                raise self.damaged(f"its record {info.filename[:200]!r} is compressed, or lies on another")
            seen.add(info.filename.lower())
            end = info.header_offset + 30 + len(info.filename) + info.file_size
            self.names[name] = info

    def read(self, name: str) -> memoryview:
        if name not in self.names:
            raise self.damaged(f"its record {name[:200]!r} is missing")
        info = self.names[name]
        header = bytes(self._data[info.header_offset : info.header_offset + 30])
        if len(header) < 30 or header[:4] != _ZIP_MAGIC:
            raise self.damaged(f"its record {name[:200]!r} has no header")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = info.header_offset + 30 + name_length + extra_length
        if self._data[start - extra_length - name_length : start - extra_length] != info.orig_filename.encode():
            raise self.damaged(f"its record {name[:200]!r} has another name in its own header")
        record = self._data[start : start + info.file_size]
        if len(record) != info.file_size or zlib.crc32(record) != info.CRC:
            raise self.damaged(f"its record {name[:200]!r} does not match its checksum")
        return record

    def damaged(self, what: str) -> CorruptSaveError:
        return CorruptSaveError(
            f"this torch file cannot be read: {what}",
            node=self._options.node,
            file=self._options.file,
            fix="The file was cut or changed since it was saved; take it from a copy.",
        )


def _read_legacy(stream: io.BytesIO, options: LoadOptions, place: Place, *, is_nested: bool) -> Any:
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
    is_torch = data[:4] == _ZIP_MAGIC or _LEGACY_START in data[:32]
    check(is_torch, "a nested torch file that is none")
    found = _load_data(io.BytesIO(data), bytearray(data), options, is_nested=True)
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
    with _as_load_errors(options):
        return (_trusting_module(options).load if has_unpickler else load)(stream, **options.pickle_load_args)


def _load_trusting(file: BinaryIO, data: bytearray, options: LoadOptions) -> Any:
    if data[:4] == _ZIP_MAGIC:
        records = _Records(file, data, options)
        for name in records.names:
            records.read(name)  # torch itself would read a damaged record without a word
    elif _LEGACY_START not in data[:32]:
        return unpickle_trusting(io.BytesIO(data), options)
    with _as_load_errors(options):
        return torch.load(
            io.BytesIO(data),
            cast(Any, options.map_location),
            _trusting_module(options),
            weights_only=False,
            **options.pickle_load_args,
        )


@contextlib.contextmanager
def _as_load_errors(options: LoadOptions) -> Iterator[None]:
    """Turn what a trusted pickle raises into an error that says where it was."""
    try:
        yield
    except (LoadError, MemoryError):
        raise
    except Exception as error:
        raise LoadError(
            f"{type(error).__name__} while unpickling: {str(error)[:200]}", node=options.node, file=options.file
        ) from error


def _trusting_module(options: LoadOptions) -> Any:
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
            return super().find_class(module, name)

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
