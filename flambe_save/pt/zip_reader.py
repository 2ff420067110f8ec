"""Records: a zip as torch writes it, read without trust in its directory.

torch does not check for names that come twice, records that overlap or are compressed, and a directory that differs
from a record's own header.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, NamedTuple

from flambe_save.errors import CorruptSaveError, quote
from flambe_save.pt.opcodes import pickle_end
from flambe_save.pt.options import PROTOCOL, LoadOptions
from flambe_save.pt.pickled import load_pickled
from flambe_save.pt.sources import MemorySource, Source
from flambe_save.pt.zip_writer import END, END_64, ENTRY, HEADER, LOCATOR, MOST, empty_dict

ZIP_MAGIC = b"PK\3\4"
_LONGEST_END = END.size + 0xFFFF
_LARGE = 1 << 20  # bytes of a record from which it is read to memory of its own
_ENCRYPTED = 1
_NEWEST = 63  # version of the format; newer ones may mean something else


class _Entry(NamedTuple):
    path: str
    raw: bytes  # the path, as it is written
    checksum: int
    size: int
    offset: int


class Records:
    """The records of a torch zip by their names inside its one folder.

    Parameters
    ----------
    source : Source
    options : LoadOptions

    Raises
    ------
    CorruptSaveError
        If the directory is damaged, or describes more than a zip of stored records.
    """

    def __init__(self, source: Source, options: LoadOptions) -> None:
        self._source = source
        self._options = options
        self._entries: dict[str, _Entry] = {}
        self._places: dict[str, tuple[int, int]] = {}  # of records that were looked up
        try:
            entries = sorted(self._read_directory(), key=lambda entry: entry.offset)
        except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
            raise self.damaged(f"the zip is damaged: {error}") from error
        seen: set[str] = set()
        end = 0
        root = entries[0].path.partition("/")[0] if entries else ""
        for entry in entries:
            folder, _, name = entry.path.partition("/")
            lower = entry.path.lower()
            if lower in seen or folder != root:
                raise self.damaged(f"its record {quote(entry.path)} comes twice, or lies in another folder")
            if entry.offset < end:
                raise self.damaged(f"its record {quote(entry.path)} lies on another")
            seen.add(lower)
            end = entry.offset + HEADER.size + len(entry.raw) + entry.size
            self._entries[name] = entry
        if end > self._directory_at:
            raise self.damaged("its last record lies on the directory")
        large = [self.place(name) for name, entry in self._entries.items() if entry.size >= _LARGE]
        source.set_apart([(start, start + size) for start, size in large])

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def place(self, name: str) -> tuple[int, int]:
        """The start and the size of a record's content, in bytes."""
        if name in self._places:
            return self._places[name]
        entry = self._entries.get(name)
        if entry is None:
            raise self.damaged(f"its record {quote(name)} is missing")
        begin = entry.offset + HEADER.size
        header = self._source.piece(entry.offset, begin + len(entry.raw))
        if len(header) < HEADER.size:
            raise self.damaged(f"its record {quote(name)} has no header")
        magic, *_, name_length, extra_length = HEADER.unpack_from(header)
        if magic != ZIP_MAGIC:
            raise self.damaged(f"its record {quote(name)} has no header")
        if name_length != len(entry.raw) or bytes(header[HEADER.size :]) != entry.raw:
            raise self.damaged(f"its record {quote(name)} has another name in its own header")
        start = begin + name_length + extra_length
        if start + entry.size > self._directory_at:
            raise self.damaged(f"its record {quote(name)} is cut short")
        place = self._places[name] = start, entry.size
        return place

    def check(self, name: str) -> None:
        """Compare a record with its own checksum.

        Raises
        ------
        CorruptSaveError
            If it differs.
        """
        start, size = self.place(name)
        if self._source.checksum(start, start + size) != self._entries[name].checksum:
            raise self.damaged(f"its record {quote(name)} does not match its checksum")

    def read(self, name: str) -> bytes:
        """Read a record's content; it is compared with its own checksum."""
        start, size = self.place(name)
        if self._options.is_verified:
            self.check(name)
        return bytes(self._source.piece(start, start + size))

    def damaged(self, what: str) -> CorruptSaveError:
        """The error for a damaged zip."""
        fix = "The file was cut or changed since it was saved; take it from a copy."
        return self._options.corrupt(f"this torch file cannot be read: {what}", fix)

    def _read_directory(self) -> list[_Entry]:
        source = self._source
        tail_at = max(0, source.size - _LONGEST_END)
        tail = bytes(source.piece(tail_at, source.size))
        end_at = tail.rfind(b"PK\5\6")
        if end_at < 0:
            raise ValueError("it has no end")
        _, disk, first_disk, here, count, size, offset, comment = END.unpack_from(tail, end_at)
        if end_at + END.size + comment != len(tail):
            raise ValueError("something comes after its end")
        end_at += tail_at
        locator_at = end_at - LOCATOR.size
        if locator_at >= 0 and bytes(source.piece(locator_at, locator_at + 4)) == b"PK\6\7":  # torch always has it
            _, disk, end_at, _ = LOCATOR.unpack(source.piece(locator_at, locator_at + LOCATOR.size))
            if end_at + END_64.size != locator_at:
                raise ValueError("its end in 64 bits is not where it should be")
            magic, _, _, _, disk, first_disk, here, count, size, offset = END_64.unpack(
                source.piece(end_at, locator_at)
            )
            if magic != b"PK\6\6":
                raise ValueError("its end has no 64 bits")
        if disk or first_disk or here != count or offset + size != end_at:
            raise ValueError("its end does not fit its directory")
        self._directory_at: int = offset
        directory = bytes(source.piece(offset, end_at))
        entries, at = [], 0
        for _ in range(count):
            entry, at = _entry(directory, at)
            entries.append(entry)
        if at != len(directory):
            raise ValueError("its directory is longer than its entries")
        return entries


def is_zip(source: Source) -> bool:
    """Whether a source is a zip, as torch writes since 1.6."""
    return bytes(source.piece(0, len(ZIP_MAGIC))) == ZIP_MAGIC


def check_file(source: Source, options: LoadOptions) -> None:
    """Compare a torch file's records with their checksums, and walk its pickle; nothing is run.

    A file of torch before 1.6 is a pickle as a whole.

    Raises
    ------
    CorruptSaveError
        If it is damaged.
    """
    if is_zip(source):
        records = Records(source, options)
        for name in records.names:
            records.check(name)
        data: Any = records.read("data.pkl")
    else:
        data = source.piece(0, source.size)
    try:
        pickle_end(data)
    except pickle.UnpicklingError as error:
        raise options.broken_pickle(error) from error


def holds_nothing(data: bytes, options: LoadOptions) -> bool:
    """Whether the bytes of a torch file hold an empty dict; nothing is unpickled.

    Raises
    ------
    CorruptSaveError
        If it is damaged.
    """
    if data == bytes(empty_dict(PROTOCOL)):
        return True
    source = MemorySource(bytearray(data))
    return load_pickled(Records(source, options).read("data.pkl") if is_zip(source) else data) == {}


def _entry(directory: bytes, at: int) -> tuple[_Entry, int]:
    magic, _, version, flags, method, _, _, checksum, packed, size, *rest = ENTRY.unpack_from(directory, at)
    name_length, extra_length, comment, disk, _, _, offset = rest
    name_at = at + ENTRY.size
    extra_at = name_at + name_length
    end = extra_at + extra_length + comment
    if magic != b"PK\1\2" or end > len(directory):
        raise ValueError("its directory is cut short")
    if MOST in (size, packed, offset):
        packed, size, offset = _in_64_bits(directory[extra_at : extra_at + extra_length], packed, size, offset)
    if method or packed != size or flags & _ENCRYPTED or disk or version > _NEWEST:
        raise ValueError("a record is compressed, of a newer kind, or not in this file")
    raw = directory[name_at:extra_at]
    return _Entry(raw.decode(), raw, checksum, size, offset), end


def _in_64_bits(extra: bytes, packed: int, size: int, offset: int) -> tuple[int, int, int]:
    """Replace those of the numbers that exceed 32 bits; field 1 has them with 64, in this order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == 1:
            numbers = list(struct.unpack_from(f"<{length // 8}Q", extra[: at + length], at))
            size = numbers.pop(0) if size == MOST else size
            packed = numbers.pop(0) if packed == MOST else packed
            offset = numbers.pop(0) if offset == MOST else offset
            return packed, size, offset
        at += length
    raise ValueError("a record's size has no 64 bits")
