"""Sources: the bytes of a file, read, mapped, or in memory, with their checksums.

Checksums are computed while reading, so that nothing is read twice.
"""

from __future__ import annotations

import bisect
import ctypes
import io
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from flambe_save.errors import CorruptSaveError
from flambe_save.support.checksum import combine, crc32
from flambe_save.support.parallel import in_threads, spans
from flambe_save.support.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    import torch

_SMALL = 1 << 20  # bytes; a file up to here is read at once
_STEP = 1 << 20  # bytes that are read at once; their checksum is computed while they are in the processor's cache
_LEAST = 8 << 20  # bytes that are worth a thread of their own


class Source(Protocol):
    """The bytes of one file.

    Attributes
    ----------
    size : int
    is_held : bool
        Whether all bytes are in memory, so that a checksum reads no file.
    is_shared : bool
        Whether storages share the bytes.
    progress : Progress
        Counts the bytes of this file that are read. The reader finishes it when it needs no more of them.
    """

    size: int
    is_held: bool
    is_shared: bool
    progress: Progress

    def piece(self, start: int, stop: int) -> memoryview:
        """Some of the bytes, shared if the source keeps them."""

    def kept(self, start: int, stop: int) -> memoryview | None:
        """The source's own memory of some of the bytes; None if they are not in memory."""

    def read_into(self, data: memoryview, start: int) -> None:
        """Fill memory with the bytes from ``start``."""

    def checksum(self, start: int = 0, stop: int | None = None) -> int:
        """The CRC-32 of some of the bytes, or of all."""

    def set_apart(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Announce, in order, the ranges that will be read as storages; all others are read now."""


class MemorySource:
    """Bytes that are in memory, or mapped.

    Parameters
    ----------
    data : buffer
        Writable.
    threads : int
    is_shared : bool
        Whether storages share the bytes. Copies, which have memory of their own, can be resized.
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

    kept = piece

    def read_into(self, data: memoryview, start: int) -> None:
        data[:] = self._data[start : start + len(data)]

    def checksum(self, start: int = 0, stop: int | None = None) -> int:
        return _in_parts(self._count, start, self.size if stop is None else stop, self._threads)

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
        Number of threads that read.
    is_checked : bool
        Whether checksums are computed while reading.
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
        self._starts: list[int] = []  # of the blocks that are kept
        self._blocks: list[memoryview] = []
        self._known: dict[int, tuple[int, int]] = {}  # start of a piece -> its end and its checksum

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
        begins = sorted(self._known)
        while start < stop:
            end, found = self._known.get(start, (0, 0))
            if not start < end <= stop:
                end = min([*begins[(after := bisect.bisect_right(begins, start)) : after + 1], stop])
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
        """Fill memory from the file, and return the checksum."""
        return _in_parts(lambda part: self._fill(data[slice(*part)], start + part[0]), 0, len(data), self._threads)

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
        """The checksum of bytes that are not in memory."""

        def count(part: tuple[int, int]) -> int:
            buffer, checksum = memoryview(bytearray(min(_STEP, part[1] - part[0]))), 0
            for here in range(*part, _STEP):
                chunk = buffer[: min(_STEP, part[1] - here)]
                _read_at(self._descriptor, chunk, here)
                checksum = crc32(chunk, checksum)
                self.progress.advance(len(chunk))
            return checksum

        return _in_parts(count, start, stop, self._threads)


def open_source(
    file: BinaryIO,
    *,
    mapped: bool = False,
    threads: int = 1,
    is_checked: bool = True,
    progress: Progress = NO_PROGRESS,
    passes: int = 1,
) -> Source:
    """Open the source of a file; a small one, or one that is not the system's, is read now.

    Parameters
    ----------
    file : file
        Open for reading, at its beginning; stays the caller's.
    mapped : bool
        Whether storages share memory with the file, if the system can map it. Writes to them do not change the file.
    threads : int
    is_checked : bool
        Whether checksums will be needed.
    progress : Progress
        The file gets its share of it. Large and mapped files count their bytes while they are read, others at the end.
    passes : int
        Number of times that the file will be read.
    """
    try:
        descriptor = file.fileno()
    except (OSError, AttributeError):
        if hasattr(file, "getbuffer") and not isinstance(
            file, io.BytesIO
        ):  # which cannot be closed while a view is in use
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
    return MemorySource(bytearray(file.read()), threads, progress=progress)


def pieces_of(source: Source) -> Iterator[memoryview]:
    """Yield all bytes of a source, a megabyte at a time."""
    return (source.piece(start, min(start + _STEP, source.size)) for start in range(0, source.size, _STEP))


def memory_of(storage: torch.UntypedStorage) -> memoryview:
    """The memory of a CPU storage, shared and writable, valid as long as the storage lives."""
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
        If the file ends too early.
    """
    while len(data):
        count = os.preadv(descriptor, [data], start)
        if not count:
            raise CorruptSaveError("the file ends too early", fix="Take it from a copy of the save.")
        data, start = data[count:], start + count


def _in_parts(count: Callable[[tuple[int, int]], int], start: int, stop: int, threads: int) -> int:
    """Join the checksums of a range's parts, which threads compute."""
    if stop - start < 2 * _LEAST:  # as of most files
        return count((start, stop))
    parts = spans(start, stop, threads, _LEAST)
    total, *others = in_threads(count, parts, threads)
    for (begin, end), checksum in zip(parts[1:], others, strict=True):
        total = combine(total, checksum, end - begin)
    return total
