"""MemoryStore: names to bytes in a dict, for saves without a disk. Files over buffers."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast


class BufferReader(io.BufferedIOBase):
    """Reads a buffer as a file.

    Parameters
    ----------
    buffer : memoryview
        Bytes. If they are writable, :meth:`getbuffer` returns them and not a copy.
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
        """Return the buffer, to write to and to keep; a copy of it if it is read-only."""
        self._check_open()
        if self._buffer.readonly:
            self._buffer = memoryview(bytearray(self._buffer))
        return self._buffer

    def read(self, size: int | None = -1, /) -> bytes:
        """Return a copy of the next bytes, by default of all."""
        self._check_open()
        begin = min(self._position, len(self._buffer))
        end = len(self._buffer) if size is None or size < 0 else min(begin + size, len(self._buffer))
        self._position = max(self._position, end)
        return bytes(self._buffer[begin:end])

    def read1(self, size: int = -1, /) -> bytes:
        """Return the same as :meth:`read`."""
        return self.read(size)

    def readinto(self, into: Any, /) -> int:
        """Copy the next bytes to another buffer, and return their number."""
        self._check_open()
        target = memoryview(into)
        count = max(min(target.nbytes, len(self._buffer) - self._position), 0)
        if count:  # an empty view cannot be cast
            target.cast("B")[:count] = self._buffer[self._position : self._position + count]
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position; one behind the end reads as empty."""
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._buffer)}[whence]
        if base + offset < 0:
            raise ValueError(f"{base + offset} is not a position in a file")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        self._check_open()
        return self._position

    def close(self) -> None:
        """Release the buffer; callers of :meth:`getbuffer` keep it."""
        self._buffer = memoryview(b"")
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")


class BufferWriter(io.BytesIO):
    """Collects bytes, and calls ``done`` with them when its ``with`` ends without an error."""

    def __init__(self, done: Callable[[bytes], object]) -> None:
        super().__init__()
        self._done = done

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._done(self.getvalue())
        super().__exit__(kind, *rest)  # type: ignore[arg-type]


class MemoryStore:
    """A store in memory.

    Parameters
    ----------
    files : dict of str to bytes, optional
        The committed files; shared with the caller, and replaced as a whole by a commit.
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
        """Open a new name; readers see it after the store's ``with``."""
        return BufferWriter(functools.partial(self._pending.__setitem__, name))

    def __enter__(self) -> MemoryStore:
        self._pending = {}
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self._pending:
            self.files.clear()
            self.files.update(self._pending)
        self._pending = {}
