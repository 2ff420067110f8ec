"""Sources: the bytes of a file that is read, kept, mapped, or read into a tensor's memory.

zip_writer.py is the other side. Checksums are taken on the way, so that nothing is read twice to be compared.
"""

from __future__ import annotations

import bisect
import ctypes
import io
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from flambe_save.errors import CorruptSaveError
from flambe_save.support.checksum import combine, crc32
from flambe_save.support.parallel import in_threads, spans
from flambe_save.support.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    import torch

__all__ = ["FileSource", "MemorySource", "Source", "memory_of", "open_source", "pieces_of"]

_SMALL = 1 << 20  # bytes; a file up to here is read at once
_STEP = 1 << 20  # bytes that are read, and then counted into the checksum while the processor still has them at hand
_LEAST = 8 << 20  # bytes that are worth a thread of their own


class Source(Protocol):
    """The bytes of one file.

    Attributes
    ----------
    size : int
    is_held : bool
        Whether all bytes are there already, so that a checksum of them costs no reading.
    is_shared : bool
        Whether storages share the bytes.
    progress : Progress
        The file's own. It counts the bytes that are read, and is finished by the reader that needs no more of the file.
    """

    size: int
    is_held: bool
    is_shared: bool
    progress: Progress

    def piece(self, start: int, stop: int) -> memoryview:
        """Return some of the bytes: shared, where the source keeps them."""

    def kept(self, start: int, stop: int) -> memoryview | None:
        """Return some of the bytes where they are in memory already: the source's own, not a copy."""

    def read_into(self, data: memoryview, start: int) -> None:
        """Fill memory with the bytes from ``start``."""

    def checksum(self, start: int = 0, stop: int | None = None) -> int:
        """Return the CRC-32 of some of the bytes, or of all."""

    def set_apart(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Announce, in order, the ranges that will be asked for as storages.

        All others are read now, if they need to be.
        """


class MemorySource:
    """Bytes that are in memory, or mapped.

    Parameters
    ----------
    data : buffer
        Writable.
    threads : int
    is_shared : bool
        Whether storages share the bytes. Otherwise they are copies with memory of their own, which can be resized.
    progress : Progress
    """

    is_held = True

    def __init__(
        self, data: Any, threads: int = 1, *, is_shared: bool = False, progress: Progress = NO_PROGRESS
    ) -> None:
        self._data = memoryview(data).cast("B")
        self.is_shared = is_shared
        self._threads = threads
        self.size = len(self._data)
        self.progress = progress

    def piece(self, start: int, stop: int) -> memoryview:
        return self._data[start:stop]

    def kept(self, start: int, stop: int) -> memoryview | None:
        return self._data[start:stop]

    def read_into(self, data: memoryview, start: int) -> None:
        data[:] = self._data[start : start + len(data)]

    def checksum(self, start: int = 0, stop: int | None = None) -> int:
        stop = self.size if stop is None else stop
        parts = spans(start, stop, self._threads, _LEAST)
        found = in_threads(self._count, parts, self._threads)
        return _joined(found, [end - begin for begin, end in parts])

    def _count(self, part: tuple[int, int]) -> int:
        checksum = 0
        for piece in self.progress.pieces(self._data[slice(*part)]):
            checksum = crc32(piece, checksum)
        return checksum

    def set_apart(self, ranges: Sequence[tuple[int, int]]) -> None:
        return


class FileSource:
    """Bytes of an open file that are read when they are asked for.

    Parameters
    ----------
    descriptor : int
        Stays the caller's.
    size : int
    threads : int
        How many read at once.
    is_checked : bool
        Whether checksums are taken while reading.
    progress : Progress
    """

    is_held = False
    is_shared = False

    def __init__(
        self,
        descriptor: int,
        size: int,
        threads: int = 1,
        *,
        is_checked: bool = True,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self.progress = progress
        self._descriptor = descriptor
        self._threads = threads
        self._is_checked = is_checked
        self.size = size
        self._starts: list[int] = []  # where each block of bytes begins that is kept
        self._blocks: list[memoryview] = []
        self._known: dict[int, tuple[int, int]] = {}  # where a piece begins -> where it ends, and its checksum

    def piece(self, start: int, stop: int) -> memoryview:
        kept = self.kept(start, stop)
        if kept is not None:
            return kept
        data = memoryview(bytearray(max(0, min(stop, self.size) - start)))
        self._fill(data, start)
        return data

    def read_into(self, data: memoryview, start: int) -> None:
        self._note(start, start + len(data), self._read(data, start))

    def checksum(self, start: int = 0, stop: int | None = None) -> int:
        total, stop = 0, self.size if stop is None else stop
        while start < stop:
            end, found = self._known.get(start, (0, 0))
            if not start < end <= stop:
                end = min([begin for begin in self._known if begin > start] + [stop])
                kept = self.kept(start, end)
                found = self._count(start, end) if kept is None else crc32(kept)
            total = combine(total, found, end - start)
            start = end
        return total

    def set_apart(self, ranges: Sequence[tuple[int, int]]) -> None:
        here = 0
        for start, stop in [*ranges, (self.size, self.size)]:
            if start > here:
                block = memoryview(bytearray(start - here))
                self._note(here, start, self._read(block, here))
                self._starts.append(here)
                self._blocks.append(block)
            here = stop

    def kept(self, start: int, stop: int) -> memoryview | None:
        index = bisect.bisect_right(self._starts, start) - 1
        if index < 0:
            return None
        begin, block = self._starts[index], self._blocks[index]
        return block[start - begin : stop - begin] if stop <= begin + len(block) else None

    def _note(self, start: int, stop: int, checksum: int) -> None:
        if self._is_checked:
            self._known[start] = stop, checksum

    def _read(self, data: memoryview, start: int) -> int:
        """Fill memory from the file; return the checksum of the bytes."""
        parts = spans(0, len(data), self._threads, _LEAST)
        found = in_threads(lambda part: self._fill(data[part[0] : part[1]], start + part[0]), parts, self._threads)
        return _joined(found, [end - begin for begin, end in parts])

    def _fill(self, data: memoryview, start: int) -> int:
        checksum = 0
        for here in range(0, len(data), _STEP):
            part = data[here : here + _STEP]
            _read_at(self._descriptor, part, start + here)
            if self._is_checked:
                checksum = crc32(part, checksum)
            self.progress.advance(len(part))
        return checksum

    def _count(self, start: int, stop: int) -> int:
        """Return the checksum of the bytes that are not kept."""

        def count(part: tuple[int, int]) -> int:
            buffer, checksum = memoryview(bytearray(min(_STEP, part[1] - part[0]))), 0
            for here in range(*part, _STEP):
                chunk = buffer[: min(_STEP, part[1] - here)]
                _read_at(self._descriptor, chunk, here)
                checksum = crc32(chunk, checksum)
                self.progress.advance(len(chunk))
            return checksum

        parts = spans(start, stop, self._threads, _LEAST)
        return _joined(in_threads(count, parts, self._threads), [end - begin for begin, end in parts])


def open_source(
    file: BinaryIO,
    *,
    mapped: bool = False,
    threads: int = 1,
    is_checked: bool = True,
    progress: Progress = NO_PROGRESS,
    passes: int = 1,
) -> Source:
    """Return the source of an open file.

    The file is read to its end only if it is small, or not a file of the system.

    Parameters
    ----------
    file : file
        Open for reading, at its beginning; stays the caller's.
    mapped : bool
        Whether storages shall share memory with the file, as far as the system can do that. What is written to them
        never gets into the file.
    threads : int
    is_checked : bool
        Whether checksums will be asked for.
    progress : Progress
        The file gets its share of it: what is large, or mapped, is counted while it is read, all else when that share
        is finished.
    passes : int
        How often all of it will be read.
    """
    try:
        descriptor = file.fileno()
    except (OSError, AttributeError):
        if hasattr(file, "getbuffer") and not isinstance(file, io.BytesIO):  # that could not be closed any more
            held: Any = file.getbuffer()
        else:
            held = bytearray(file.read())
        return MemorySource(held, threads, progress=progress.share(len(held), passes))
    size = os.fstat(descriptor).st_size
    progress = progress.share(size, passes)
    if mapped and size:
        try:
            pages = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
            return MemorySource(pages, threads, is_shared=True, progress=progress)
        except (OSError, ValueError):  # a file system that cannot
            pass
    if size > _SMALL and hasattr(os, "preadv"):
        return FileSource(descriptor, size, threads, is_checked=is_checked, progress=progress)
    data = bytearray(size)
    filled = 0
    while filled < size and (count := file.readinto(memoryview(data)[filled:])):  # type: ignore[attr-defined]
        filled += count
    return MemorySource(data if filled == size else data[:filled], threads, progress=progress)


def pieces_of(source: Source) -> Iterator[memoryview]:
    """Yield all bytes of a source, a megabyte at a time."""
    return (source.piece(start, min(start + _STEP, source.size)) for start in range(0, source.size, _STEP))


def memory_of(storage: torch.UntypedStorage) -> memoryview:
    """Return the memory of a CPU storage, shared and writable; it lives as long as the storage."""
    size = storage.nbytes()
    if not size:
        return memoryview(b"")
    array: Any = ctypes.c_ubyte * size
    return memoryview(array.from_address(storage.data_ptr())).cast("B")


def _read_at(descriptor: int, data: memoryview, start: int) -> None:
    """Fill memory from a place in a file.

    Raises
    ------
    CorruptSaveError
        If the file ends before.
    """
    while len(data):
        count = os.preadv(descriptor, [data], start)
        if not count:
            raise CorruptSaveError("the file ends too early", fix="Take it from a copy of the save.")
        data, start = data[count:], start + count


def _joined(checksums: Sequence[int], lengths: Sequence[int]) -> int:
    total = checksums[0]
    for checksum, length in zip(checksums[1:], lengths[1:], strict=True):
        total = combine(total, checksum, length)
    return total
