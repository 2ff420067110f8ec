"""Drafts: files that are ready to write, whose tensors are not copied yet.

A codec makes a draft quickly. Only the thread that writes it reads the tensors' memory.
"""

from __future__ import annotations

import ctypes
import functools
import pickle
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from flambe_save.pt.sources import Source, memory_of
from flambe_save.support.checksum import combine, crc32
from flambe_save.support.libc import c_function
from flambe_save.support.parallel import in_threads, spans

if TYPE_CHECKING:
    import torch

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Content: TypeAlias = "bytes | torch.UntypedStorage"

_LARGE = 1 << 20  # bytes; smaller pieces are gathered before they are written


class Draft:
    """A file of plain bytes.

    Parameters
    ----------
    *pieces : bytes
    opaque : sequence of str
        A sentence for each value in it that only a trusting load reads.

    Attributes
    ----------
    size : int
        Bytes of the file.
    """

    def __init__(self, *pieces: bytes, opaque: Sequence[str] = ()) -> None:
        self._pieces = pieces
        self.opaque = opaque
        self.size = sum(map(len, pieces))

    @property
    def storages(self) -> list[torch.UntypedStorage]:
        """The storages that are read when the file is written."""
        return []

    @property
    def pickled(self) -> bytes:
        """The pickle in the file."""
        return self._pieces[0]

    def with_storages(self, change: Callable[[torch.UntypedStorage], torch.UntypedStorage]) -> Draft:
        """A draft of the same file that reads other storages of the same sizes."""
        return self

    def large_parts(self) -> dict[int, memoryview]:
        """Memory of large parts of the file that can be written in any order, by their offsets."""
        return {}

    def chunks(self) -> Iterator[tuple[Buffer, int]]:
        """Yield the file's bytes in pieces, each with its CRC-32.

        A piece is valid until the next one. Storages on other devices are copied here one at a time.
        """
        for piece in self._pieces:
            yield piece, crc32(piece)

    def chunks_knowing(self, checksums: Mapping[int, int]) -> Iterator[tuple[Buffer, int]]:
        """Yield what :meth:`chunks` does, given checksums of :meth:`large_parts` by their offsets."""
        return self.chunks()

    def same_as(self, source: Source, threads: int = 1) -> int | None:
        """The file's CRC-32 if a source has the same bytes; else None.

        All bytes are compared. But the checksums of large records are those in the source, so the result has to be
        compared with one that is known from elsewhere.
        """
        return _checksum_if_same(self.chunks(), source, threads)

    def __bytes__(self) -> bytes:
        return b"".join(bytes(chunk) for chunk, _ in self.chunks())


# ------------------------------------------------------------------------------------------------ zips

# The zip format (PKWARE's APPNOTE.TXT): a record's own header, its entry in the directory, and the directory's end
HEADER = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
_VERSION, _VERSION_64 = 20, 45
_DATE = 33  # 1980-01-01, the earliest in a zip: files do not depend on the clock
MOST, _MANY = 0xFFFFFFFF, 0xFFFF  # stand for a number that is elsewhere, in 64 bits
_LIMIT = MOST  # from which numbers need 64 bits
_ALIGNMENT = 64  # of each record's content in the file, as torch.save has it
_SMALL: Any = ctypes.c_ubyte * _LARGE  # memory from an address on: one type for all, since a type takes long to make
_PADDING = b"FB"  # the extra field in which torch.save puts it


class Record(NamedTuple):
    """A record of a zip; its size is in bytes."""

    name: bytes
    content: Content
    size: int


class ZipDraft(Draft):
    """A zip of stored records as torch.save writes them, aligned to 64 bytes; zip64 if needed."""

    def __init__(self, records: Sequence[Record], opaque: Sequence[str] = ()) -> None:
        self._records = records
        self.opaque = opaque
        self._places: list[tuple[int, int, int]] = []  # offset of each record, size of its padding, offset of its bytes
        here = directory = 0
        for name, _, size in records:
            begin = here + HEADER.size + len(name) + (20 if size >= _LIMIT else 0)
            padding = -begin % _ALIGNMENT
            if 0 < padding < 4:  # an extra field has a header itself
                padding += _ALIGNMENT
            begin += padding
            self._places.append((here, padding, begin))
            directory += ENTRY.size + len(name) + len(_extra(size, here))
            here = begin + size
        self._directory_at = here
        self._directory_size = directory
        self._is_large = here + self._directory_size >= _LIMIT or len(records) >= _MANY
        ends = END.size + (END_64.size + LOCATOR.size if self._is_large else 0)
        self.size = here + self._directory_size + ends

    @property
    def storages(self) -> list[torch.UntypedStorage]:
        return [content for _, content, _ in self._records if not isinstance(content, bytes)]

    @property
    def pickled(self) -> bytes:
        return next(content for _, content, _ in self._records if isinstance(content, bytes))

    def with_storages(self, change: Callable[[torch.UntypedStorage], torch.UntypedStorage]) -> ZipDraft:
        changed = [
            record if isinstance(record.content, bytes) else record._replace(content=change(record.content))
            for record in self._records
        ]
        return ZipDraft(changed, self.opaque)

    def same_as(self, source: Source, threads: int = 1) -> int | None:
        if source.size != self.size:
            return None
        at = HEADER.size - 16  # of a header's checksum
        claimed = [bytes(source.piece(offset + at, offset + at + 4)) for offset, _, _ in self._places]
        known = {begin: int.from_bytes(raw, "little") for (_, _, begin), raw in zip(self._places, claimed, strict=True)}
        return _checksum_if_same(self.chunks_knowing(known), source, threads)

    def large_parts(self) -> dict[int, memoryview]:
        found: dict[int, memoryview] = {}
        for (_, content, size), (_, _, begin) in zip(self._records, self._places, strict=True):
            if size < _LARGE or isinstance(content, bytes):
                continue
            if content.device.type == "cpu" and not content.is_shared():
                found[begin] = memory_of(content)
        return found

    def chunks(self) -> Iterator[tuple[Buffer, int]]:
        return self.chunks_knowing({})

    def chunks_knowing(self, checksums: Mapping[int, int]) -> Iterator[tuple[Buffer, int]]:
        directory, small = bytearray(), bytearray()
        cpu = None  # the device, once one of its storages came
        for (name, content, size), (offset, padding, begin) in zip(self._records, self._places, strict=True):
            held: Any = content
            data: Any = content
            if not isinstance(content, bytes):
                if content.device != cpu and content.device.type != "cpu":
                    held = content.cpu()  # type: ignore[no-untyped-call]
                else:
                    cpu = content.device
                    held = content.clone() if content.is_shared() else content  # type: ignore[no-untyped-call]
                address = _SMALL.from_address
                data = memory_of(held) if size >= _LARGE else memoryview(address(held.data_ptr()))[:size]
            checksum = checksums[begin] if begin in checksums else crc32(data)
            extra, more, version, short = _padding(padding), _extra(size, offset), _VERSION, size
            if size >= _LIMIT:
                extra, version, short = struct.pack("<2H2Q", 1, 16, size, size) + extra, _VERSION_64, MOST
            common = (0, 0, 0, _DATE, checksum, short, short, len(name))
            small += HEADER.pack(b"PK\3\4", version, *common, len(extra)) + name + extra
            if size < _LARGE:
                small += data
            if size >= _LARGE or len(small) >= _LARGE:
                yield small, crc32(small)
                small = bytearray()
            if size >= _LARGE:
                yield data, checksum
            version, place = (_VERSION_64, min(offset, MOST)) if more else (_VERSION, offset)
            directory += ENTRY.pack(b"PK\1\2", version, version, *common, len(more), 0, 0, 0, 0, place)
            directory += name + more
        small += directory + self._end()
        yield small, crc32(small)

    def _end(self) -> bytes:
        count, size, offset = len(self._records), self._directory_size, self._directory_at
        ends = b""
        if self._is_large:
            ends = END_64.pack(b"PK\6\6", END_64.size - 12, 45, 45, 0, 0, count, count, size, offset)
            ends += LOCATOR.pack(b"PK\6\7", 0, offset + size, 1)
            count, size, offset = _MANY, MOST, MOST
        return ends + END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0)


@functools.cache
def _padding(size: int) -> bytes:
    return struct.pack("<2sH", _PADDING, size - 4) + b"Z" * (size - 4) if size else b""


def _extra(size: int, offset: int) -> bytes:
    """The 64-bit field of a record's directory entry, empty if 32 bits are enough."""
    if size < _LIMIT > offset:
        return b""
    numbers = ([size, size] if size >= _LIMIT else []) + ([offset] if offset >= _LIMIT else [])
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


def zip_of(data: bytes, storages: Sequence[torch.UntypedStorage], opaque: Sequence[str] = ()) -> ZipDraft:
    """Draft a torch file of a pickle and the storages that it numbers."""
    records = [Record(b"archive/data.pkl", data, len(data)), Record(b"archive/byteorder", b"little", 6)]
    records += [Record(b"archive/data/%d" % index, item, item.nbytes()) for index, item in enumerate(storages)]
    records.append(Record(b"archive/version", b"3\n", 2))
    return ZipDraft(records, opaque)


@functools.cache
def empty_dict(protocol: int) -> Draft:
    """Draft the torch file of an empty dict, as most stashes are."""
    return Draft(bytes(zip_of(pickle.dumps({}, protocol), [])))


# ------------------------------------------------------------------------------------------------ comparing


def _checksum_if_same(chunks: Iterable[tuple[Buffer, int]], source: Source, threads: int) -> int | None:
    here = total = 0
    for chunk, checksum in chunks:
        if not _same_bytes(chunk, source.piece(here, here + len(chunk)), threads):
            return None
        total, here = combine(total, checksum, len(chunk)), here + len(chunk)
    return total if here == source.size else None


def _same_bytes(one: Buffer, other: memoryview, threads: int) -> bool:
    if len(one) != len(other):
        return False
    if not isinstance(one, memoryview) or _memcmp is None:
        return bytes(one) == other
    array: Any = ctypes.c_ubyte * len(one)
    places = [ctypes.addressof(array.from_buffer(item)) for item in (one, other)]
    parts = spans(0, len(one), threads, _LARGE)

    def differ(part: tuple[int, int]) -> int:
        begin, end = part
        return int(_memcmp(places[0] + begin, places[1] + begin, end - begin))

    return not any(in_threads(differ, parts, threads))


_memcmp = c_function("memcmp")  # it stops at the first byte that differs
if _memcmp is not None:
    _memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
