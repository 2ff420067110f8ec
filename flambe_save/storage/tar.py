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
import re
import tarfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from flambe_save.errors import CorruptSaveError, SaveError
from flambe_save.layout import ARCHIVE_SUFFIX, PICKLE_SUFFIX
from flambe_save.storage.local import Aside, finish
from flambe_save.storage.memory import BufferWriter

__all__ = ["TarStore"]

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_TEXT = 64 << 20
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
    """

    def __init__(
        self, path: str | os.PathLike[str], mode: str = "r", *, single: bool = False, overwrite: bool = False
    ) -> None:
        self.path = Path(path)
        self._mode = mode
        self._single = single
        self._overwrite = overwrite
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

    def writer(self, name: str) -> BinaryIO:
        """Collect a member in memory; it goes into the archive when its ``with`` is left."""
        if bool(name) == self._single:
            raise SaveError(f"this archive cannot hold {name!r}", file=str(self.path))
        return BufferWriter(functools.partial(self._add, f"{self._root}/{name}" if name else self._root))

    def __enter__(self) -> TarStore:
        if self._mode == "r":
            self._read()
            return self
        self._aside = Aside(self.path, overwrite=self._overwrite, folder=False)
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
        parts = member.split("/")[:-1]
        for count in range(len(parts)):
            folder = "/".join(parts[: count + 1])
            if folder not in self._folders:
                self._folders.add(folder)
                info = tarfile.TarInfo(folder)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                self._tar.addfile(info)
        info = tarfile.TarInfo(member)
        info.size, info.mode = len(data), 0o644
        self._tar.addfile(info, io.BytesIO(data))

    def _read(self) -> None:
        root: str | None = None
        try:
            with gzip.open(self.path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                for info in tar:
                    name = self._checked_name(info)
                    if root is None:
                        root = name
                    inner = "" if name == root else name.removeprefix(f"{root}/")
                    parents = {inner[: match.start()] for match in re.finditer("/", inner)} | {""}
                    inside_a_file = inner != "" and not self._files.keys().isdisjoint(parents)
                    outside = name != root and inner == name
                    if outside or inside_a_file or inner in self._files:
                        raise self._damaged(f"the member {name!r} lies outside the archive's root or comes twice")
                    if not info.isfile():
                        continue
                    if info.size > _MAX_TEXT and not name.endswith((".pt", PICKLE_SUFFIX)):
                        raise self._damaged(f"the member {name!r} has {info.size} bytes, too many for its kind")
                    content = tar.extractfile(info)
                    assert content is not None
                    self._files[inner] = content.read()
                while stream.read(1 << 20):  # gzip checks its CRC at the very end, which tarfile does not read
                    pass
        except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, OverflowError, zlib.error) as error:
            raise self._damaged(f"this is no intact .tar.gz: {error}") from error

    def _checked_name(self, info: tarfile.TarInfo) -> str:
        name = posixpath.normpath(info.name)
        if not (info.isfile() or info.isdir()) or info.issparse():
            raise self._damaged(f"the member {info.name[:200]!r} is neither a plain file nor a folder")
        if name.startswith(("/", "..")) or name == ".":
            raise self._damaged(f"the member {info.name[:200]!r} points outside the archive")
        return name

    def _damaged(self, message: str) -> CorruptSaveError:
        return CorruptSaveError(message, file=str(self.path), fix="Get the archive again from where it came.")
