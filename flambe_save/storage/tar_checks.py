"""Checks of archives: the bytes that one may unpack to, and the names of its members."""

from __future__ import annotations

import gzip
import posixpath
from pathlib import Path
from typing import BinaryIO

from flambe_save.errors import CorruptSaveError, LimitError, quote
from flambe_save.support.progress import Progress
from flambe_save.trust import Limits

FREE = 256 << 20  # bytes that any archive may unpack to, whatever its own size


def damaged_archive(message: str, where: Path) -> CorruptSaveError:
    """Return the error for a damaged archive."""
    return CorruptSaveError(message, file=str(where), fix="Get the archive again from where it came.")


def not_intact(error: Exception, where: Path) -> CorruptSaveError:
    """Return the error for an archive that does not unpack."""
    return damaged_archive(f"this is not an intact .tar.gz: {error}", where)


class MemberNames:
    """Names of an archive's members, checked one by one."""

    def __init__(self, limits: Limits, where: Path) -> None:
        self._limits = limits
        self._where = where
        self._count = 0
        self._root: str | None = None
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, given: str, *, is_folder: bool) -> str:
        """Return a member's name inside the archive's root, which is the first member.

        Raises
        ------
        LimitError
            If there are too many.
        CorruptSaveError
            If it leads out of the archive, or comes twice.
        """
        self._count += 1
        if self._count > self._limits.members:
            raise LimitError(
                f"the archive has more than {self._limits.members:,} members",
                file=str(self._where),
                fix=f"If they are meant, allow them: load(..., limits=Limits(members={10 * self._count})).",
            )
        name = posixpath.normpath(given)
        if name.startswith(("/", "..")) or name == ".":
            raise damaged_archive(f"the member {quote(given)} points outside the archive", self._where)
        if self._root is None:
            self._root = name
        inner = "" if name == self._root else name.removeprefix(f"{self._root}/")
        outside = name != self._root and inner == name
        above, inside_a_file = inner, False
        while above and not inside_a_file and above not in self._folders:
            above = above.rpartition("/")[0]
            inside_a_file = above in self._files
        if outside or inside_a_file or inner in self._files:
            raise damaged_archive(
                f"the member {quote(name)} lies outside the archive's root or comes twice", self._where
            )
        (self._folders if is_folder else self._files).add(inner)
        return inner


def check_unpacked(count: int, packed: int, limits: Limits, where: str) -> None:
    """Refuse to unpack more bytes than the limits allow for so many packed ones: a LimitError."""
    if count > min(limits.unpacked_bytes, FREE + limits.ratio * packed):
        raise LimitError(
            f"the archive unpacks to more than {count:,} bytes, from {packed:,}",
            file=where,
            fix="If it is meant to, a model of zeros say, allow it: load(..., limits=Limits("
            + (
                f"unpacked_bytes={10 * count}))."
                if count > limits.unpacked_bytes
                else f"ratio={max(10_000, 10 * limits.ratio):g}))."
            ),
        )


class Metered:
    """Unpacked bytes of an archive, read no further than the limits allow."""

    def __init__(
        self, unpacked: gzip.GzipFile, packed: BinaryIO, limits: Limits, where: str, progress: Progress
    ) -> None:
        self._progress = progress
        self._unpacked = unpacked
        self._packed = packed
        self._limits = limits
        self._where = where
        self._count = 0
        self._position = 0

    def read(self, size: int) -> bytes:
        data = self._unpacked.read(size)
        self._count += len(data)
        before, self._position = self._position, self._packed.tell()
        check_unpacked(self._count, self._position, self._limits, self._where)
        self._progress.advance(self._position - before)
        return data
