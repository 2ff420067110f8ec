"""MemoryStore: names to bytes in a dict, for tests and for saves that never touch a disk."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO

__all__ = ["BufferWriter", "MemoryStore"]


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
        return io.BytesIO(self.files[name])

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
