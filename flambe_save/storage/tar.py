"""TarStore: a save inside one .tar.gz, as Flambe packs it: the root first, regular files and folders only.

The archive's bytes depend on its content and file name alone: no times, no users, no modes of this machine.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import os
import posixpath
import tarfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from flambe_save.errors import CorruptSaveError, LimitError, SaveError, quote
from flambe_save.layout import ARCHIVE_SUFFIX
from flambe_save.storage.aside import Aside, finish
from flambe_save.storage.disk import open_file
from flambe_save.storage.memory import BufferWriter
from flambe_save.trust import Limits

__all__ = ["TarStore"]

_GZIP_MAGIC = b"\x1f\x8b"
_FREE = 256 << 20  # bytes that any archive may unpack to, whatever its own size
_LEVEL = 6  # weights hardly shrink: higher levels cost time and gain nothing


class TarStore:
    """The members of a .tar.gz; names are relative to the archive's root folder.

    Reading holds the archive's files in memory while the store is open; nothing is ever extracted to a disk.

    Parameters
    ----------
    path : path
        The archive.
    mode : {"r", "w"}
    single : bool
        With ``"w"``: the root is one file, named ``""`` here, and not a folder.
    overwrite : bool
        With ``"w"``: whether a file that is there is replaced.
    durable : bool
        With ``"w"``: whether leaving the store waits until the save is on the disk.
    limits : Limits, optional
        With ``"r"``: what the archive may unpack to.
    """

    is_concurrent = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: str = "r",
        *,
        single: bool = False,
        overwrite: bool = False,
        durable: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.path = Path(path)
        self._mode = mode
        self._single = single
        self._overwrite = overwrite
        self._durable = durable
        self._limits = limits or Limits()
        self._aside: Aside | None = None
        self._files: dict[str, bytes] = {}
        self._folders: set[str] = set()
        self._tar: tarfile.TarFile | None = None
        self._closing = contextlib.ExitStack()
        self._root = self.path.name.removesuffix(ARCHIVE_SUFFIX) or "save"

    def __repr__(self) -> str:
        return f"TarStore({str(self.path)!r})"

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether a file begins as a gzip stream does."""
        with open(path, "rb") as file:
            return file.read(2) == _GZIP_MAGIC

    def names(self) -> list[str]:
        """Return the files of the archive, sorted; ``[""]`` where its root is a file."""
        return sorted(self._files)

    def reader(self, name: str) -> BinaryIO:
        """Open a member."""
        return io.BytesIO(self._files[name])

    def writer(self, name: str, size: int | None = None) -> BinaryIO:
        """Collect a member in memory; it goes into the archive when its ``with`` is left."""
        if bool(name) == self._single:
            raise SaveError(f"this archive cannot hold {name!r}", file=str(self.path))
        return BufferWriter(functools.partial(self._add, f"{self._root}/{name}" if name else self._root))

    def __enter__(self) -> TarStore:
        if self._mode == "r":
            self._read()
            return self
        self._aside = Aside(self.path, overwrite=self._overwrite, folder=False, durable=self._durable)
        try:
            file = self._closing.enter_context(open(self._aside.path, "wb"))
        except BaseException:
            self._aside.discard()
            raise
        # An empty name and a time of 0, because gzip records both
        stream = self._closing.enter_context(gzip.GzipFile("", "wb", _LEVEL, file, mtime=0))
        self._tar = self._closing.enter_context(tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files = {}
        try:
            self._closing.close()
        except BaseException:
            finish(self._aside, failed=True)
            raise
        finish(self._aside, failed=kind is not None)

    def _add(self, member: str, data: bytes) -> None:
        assert self._tar is not None, "a store is written inside its with block"
        missing = []
        folder = member
        while (folder := folder.rpartition("/")[0]) and folder not in self._folders:
            missing.append(folder)
        for folder in reversed(missing):
            self._folders.add(folder)
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            self._tar.addfile(info)
        info = tarfile.TarInfo(member)
        info.size, info.mode = len(data), 0o644
        self._tar.addfile(info, io.BytesIO(data))

    def _read(self) -> None:
        try:
            with open_file(self.path) as file, gzip.open(file) as unpacked:
                stream: Any = _Metered(unpacked, file, self._limits, str(self.path))
                with tarfile.open(fileobj=stream, mode="r|") as tar:
                    self._read_members(tar)
                while rest := stream.read(1 << 20):  # gzip checks its CRC at the very end, which tarfile does not read
                    if rest.strip(b"\0"):
                        raise self._damaged("something comes after the archive's end")
        except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, OverflowError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the system's trouble, not the archive's
                raise
            raise self._damaged(f"this is no intact .tar.gz: {error}") from error

    def _read_members(self, tar: tarfile.TarFile) -> None:
        root: str | None = None
        folders: set[str] = set()
        for count, info in enumerate(tar, 1):
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            if count > self._limits.members:
                raise LimitError(
                    f"the archive has more than {self._limits.members:,} members",
                    file=str(self.path),
                    fix=f"If they are meant, allow them: load(..., limits=Limits(members={10 * count})).",
                )
            name = self._checked_name(info)
            if root is None:
                root = name
            inner = "" if name == root else name.removeprefix(f"{root}/")
            outside = name != root and inner == name
            above, inside_a_file = inner, False
            while above and not inside_a_file and above not in folders:
                above = above.rpartition("/")[0]
                inside_a_file = above in self._files
            if outside or inside_a_file or inner in self._files:
                raise self._damaged(f"the member {quote(name)} lies outside the archive's root or comes twice")
            if not info.isfile():
                folders.add(inner)
                continue
            content = tar.extractfile(info)
            assert content is not None
            self._files[inner] = content.read()

    def _checked_name(self, info: tarfile.TarInfo) -> str:
        name = posixpath.normpath(info.name)
        if not (info.isfile() or info.isdir()) or info.issparse():
            raise self._damaged(f"the member {quote(info.name)} is neither a plain file nor a folder")
        if name.startswith(("/", "..")) or name == ".":
            raise self._damaged(f"the member {quote(info.name)} points outside the archive")
        return name

    def _damaged(self, message: str) -> CorruptSaveError:
        return CorruptSaveError(message, file=str(self.path), fix="Get the archive again from where it came.")


class _Metered:
    """What an archive unpacks to, read no further than the limits allow."""

    def __init__(self, unpacked: gzip.GzipFile, packed: BinaryIO, limits: Limits, where: str) -> None:
        self._unpacked = unpacked
        self._packed = packed
        self._limits = limits
        self._where = where
        self._count = 0

    def read(self, size: int) -> bytes:
        data = self._unpacked.read(size)
        self._count += len(data)
        packed = self._packed.tell()
        if self._count > min(self._limits.unpacked_bytes, _FREE + self._limits.ratio * packed):
            raise LimitError(
                f"the archive unpacks to more than {self._count:,} bytes, from {packed:,}",
                file=self._where,
                fix="If it is meant to, a model of zeros say, allow it: load(..., limits=Limits("
                + (
                    f"unpacked_bytes={10 * self._count}))."
                    if self._count > self._limits.unpacked_bytes
                    else f"ratio={max(10_000, 10 * self._limits.ratio):g}))."
                ),
            )
        return data
