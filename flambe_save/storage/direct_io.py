"""DirectFile: write large files past the system's page cache, for durable saves.

Bytes that go through the page cache are copied there first, and from there to the disk when the file is synced.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
from typing import Any

from flambe_save.storage.filesystem import Descriptors

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_BUFFER = 8 << 20  # bytes
_BLOCK = 4096  # bytes; what is written begins and ends at multiples of it


def go_direct(descriptor: int) -> bool:
    """Let a new file be written past the page cache; False where the system cannot."""
    if fcntl is None or not hasattr(os, "O_DIRECT"):
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_DIRECT)
    except OSError:  # a file system without this mode
        return False
    return True


class DirectFile(io.RawIOBase):
    """A new file written past the page cache, after :func:`go_direct`. Used with ``with``.

    Parameters
    ----------
    opened : Descriptors
        One; closed with the file.
    """

    def __init__(self, opened: Descriptors) -> None:
        super().__init__()
        self._opened = opened
        self._buffer = mmap.mmap(-1, _BUFFER)  # which begins at a page
        self._address = ctypes.addressof(ctypes.c_ubyte.from_buffer(self._buffer))
        self._filled = 0
        self._size = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer, and return how many."""
        view = memoryview(data).cast("B")
        for_address: Any = (ctypes.c_ubyte * len(view)).from_buffer if not view.readonly else None
        here = 0
        while here < len(view):
            count = min(len(view) - here, _BUFFER - self._filled)
            if for_address is not None and count > _BLOCK:  # other threads run meanwhile
                source = ctypes.addressof(for_address(view)) + here
                ctypes.memmove(self._address + self._filled, source, count)
            else:
                self._buffer[self._filled : self._filled + count] = bytes(view[here : here + count])
            self._filled += count
            here += count
            if self._filled == _BUFFER:
                self._flush(_BUFFER)
        self._size += len(view)
        return len(view)

    def close(self) -> None:
        """Write the rest of the buffer and close the file."""
        if self.closed:
            return
        try:
            if self._filled:
                self._flush(-(-self._filled // _BLOCK) * _BLOCK)
                os.ftruncate(self._opened[0], self._size)
        finally:
            self._opened.close()
            super().close()

    def _flush(self, size: int) -> None:
        with memoryview(self._buffer) as whole:
            left = whole[:size]
            while left:
                left = left[os.write(self._opened[0], left) :]
        self._filled = 0
