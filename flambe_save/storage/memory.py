"""MemoryStore: names to bytes in a dict, for tests and for saves that never touch a disk. Files that are buffers."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from types import TracebackType
from typing import Any, BinaryIO, cast

__all__ = ["BufferReader", "BufferWriter", "MemoryStore"]


class BufferReader(io.BufferedIOBase):
    """Reads a buffer as a file.

    Parameters
    ----------
    buffer : memoryview
        Bytes. Where they can be written to, :meth:`getbuffer` hands on just these.
    """

    def __init__(self, buffer: memoryview) -> None:
        super().__init__()
        self._buffer = buffer
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def getbuffer(self) -> memoryview:
        """Return bytes that whoever asks may write to and keep: the buffer itself, or a copy of what is read-only."""
        self._check_open()
        if self._buffer.readonly:
            self._buffer = memoryview(bytearray(self._buffer))
        return self._buffer

    def read(self, size: int | None = -1, /) -> bytes:
        """Return a copy of the next bytes, of all where there is no size."""
        self._check_open()
        begin = min(self._position, len(self._buffer))
        end = len(self._buffer) if size is None or size < 0 else min(begin + size, len(self._buffer))
        self._position = max(self._position, end)
        return bytes(self._buffer[begin:end])

    def read1(self, size: int = -1, /) -> bytes:
        """Do as :meth:`read`."""
        return self.read(size)

    def readinto(self, into: Any, /) -> int:
        """Copy the next bytes to another buffer; return how many."""
        self._check_open()
        target = memoryview(into)
        count = max(min(target.nbytes, len(self._buffer) - self._position), 0)
        if count:  # an empty view cannot be cast
            target.cast("B")[:count] = self._buffer[self._position : self._position + count]
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place; what lies behind the end is empty."""
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._buffer)}[whence]
        if base + offset < 0:
            raise ValueError(f"{base + offset} is no place in a file")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the place."""
        self._check_open()
        return self._position

    def close(self) -> None:
        """Let go of the buffer, which stays with those who have it."""
        self._buffer = memoryview(b"")
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")


class BufferWriter(io.BytesIO):
    """Collects one name's bytes and hands them to ``done`` when its ``with`` is left without an error."""

    def __init__(self, done: Callable[[bytes], object]) -> None:
        super().__init__()
        self._done = done

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._done(self.getvalue())
        super().__exit__(kind, *rest)  # type: ignore[arg-type]


class MemoryStore:
    """A store in memory; what was committed is in ``files``.

    Parameters
    ----------
    files : dict of str to bytes, optional
        What a reader sees; shared with the caller, and replaced as a whole by a commit.
    """

    is_concurrent = True

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = {} if files is None else files
        self._pending: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"MemoryStore({len(self.files)} files)"

    def names(self) -> list[str]:
        """Return the committed names, sorted."""
        return sorted(self.files)

    def reader(self, name: str) -> BinaryIO:
        """Open a committed name."""
        return cast("BinaryIO", BufferReader(memoryview(self.files[name])))

    def writer(self, name: str, size: int | None = None) -> BinaryIO:
        """Open a new name; it shows once the store is left."""
        return BufferWriter(functools.partial(self._pending.__setitem__, name))

    def __enter__(self) -> MemoryStore:
        self._pending = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._pending:
            self.files.clear()
            self.files.update(self._pending)
        self._pending = {}
