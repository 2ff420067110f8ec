"""FolderStore and FileStore: saves on a local disk, written aside and committed by one rename (aside.py)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, ClassVar, TypeVar

from flambe_save.errors import CorruptSaveError, SaveError, SaveReplacedError
from flambe_save.storage.aside import Aside, finish
from flambe_save.storage.disk import FileIdentity, Folder, Kind, open_file, open_regular

__all__ = ["FileStore", "FolderStore"]

S = TypeVar("S", bound="_LocalStore")


class _LocalStore:
    """What folders and files have in common: where they are, and how their ``with`` is entered and left."""

    _is_folder: ClassVar[bool]
    is_concurrent = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: str = "r",
        *,
        overwrite: bool = False,
        durable: bool = False,
        size: int = 0,
        check: Callable[[Path], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self._mode = mode
        self._overwrite = overwrite
        self._durable = durable
        self._size = size
        self._check = check
        self._aside: Aside | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __enter__(self: S) -> S:
        if self._mode == "w":
            self._aside = Aside(
                self.path,
                overwrite=self._overwrite,
                folder=self._is_folder,
                durable=self._durable,
                size=self._size,
                check=self._check,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finish(self._aside, failed=kind is not None)


class FolderStore(_LocalStore):
    """A folder whose files are the names.

    A reader keeps to the folder that it opened, also when another save takes its place meanwhile.

    Parameters
    ----------
    path : path
        The folder.
    mode : {"r", "w"}
    overwrite : bool
        With ``"w"``: whether a save that is there is replaced.
    durable : bool
        With ``"w"``: whether leaving the store waits until the save is on the disk.
    size : int
        With ``"w"``: bytes that there must be space for.
    check : callable, optional
        With ``"w"``: called with the path of what was written, before it is committed; what it raises ends the save.
    """

    _is_folder = True
    _folder: Folder
    _names: list[str] | None = None
    stands_for: Path | None = None  # the path that an old save, set aside, is read for

    def __enter__(self) -> FolderStore:
        super().__enter__()
        self._names = None
        if self._mode == "r":
            try:
                self._folder = Folder(self.path)
            except FileNotFoundError as error:  # it was there a moment ago
                raise self._replaced() from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mode != "r":
            super().__exit__(kind, error, trace)
            return
        was_replaced = error is not None and (self._folder.was_replaced() or self._has_gone())
        self._folder.close()
        if was_replaced and isinstance(error, Exception):
            raise self._replaced() from error

    def _has_gone(self) -> bool:
        """Whether this is an old save that was set aside, and a new one has come, so that it is being removed."""
        return self.stands_for is not None and os.path.lexists(self.stands_for)

    def _replaced(self) -> SaveReplacedError:
        return SaveReplacedError(
            "the save was replaced while it was read, and what was read is gone",
            file=str(self.path),
            fix="Load it again.",
        )

    def names(self) -> list[str]:
        """Return the files below the folder, ``/`` between folders, sorted; hidden ones are the system's, not ours.

        Raises
        ------
        CorruptSaveError
            If there is a link to a folder: it could lead anywhere.
        """
        if self._names is not None:
            return list(self._names)
        found = []
        for name, kind in self._folder.walk(skip=lambda last: last.startswith(".")):
            if kind is Kind.LINK_TO_FOLDER:
                raise CorruptSaveError(
                    f"{name!r} is a link to a folder, which no save holds",
                    file=name,
                    fix="Put the folder itself in its place, if it is part of this save.",
                )
            if kind is Kind.FILE:
                found.append(name)
        self._names = sorted(found)
        return list(self._names)

    def reader(self, name: str) -> BinaryIO:
        """Open a file of the folder.

        Raises
        ------
        SaveReplacedError
            If it is gone, since another save took the folder's place.
        """
        try:
            return open_regular(functools.partial(self._folder.open, name), name, self.path)
        except KeyError:
            if self._folder.was_replaced() or self._has_gone():
                raise self._replaced() from None
            raise

    def writer(self, name: str, size: int | None = None) -> BinaryIO:
        """Create a file, and its folder where needed, aside from the target."""
        assert self._aside is not None, "a store is written inside its with block"
        return self._aside.create(name, size or 0)

    def link(self, name: str, other: FolderStore, meant: FileIdentity) -> bool:
        """Make a name a hard link to the same name of another store; False where that cannot be done.

        Parameters
        ----------
        name : str
        other : FolderStore
            Open for reading.
        meant : FileIdentity
            Which file; another one that took its name is not linked to.
        """
        assert self._aside is not None, "a store is written inside its with block"
        return self._aside.link(name, other._folder, meant)


class FileStore(_LocalStore):
    """A single file; its only name is ``""``.

    Parameters
    ----------
    path : path
        The file.
    mode, overwrite, durable, size, check
        As for :class:`FolderStore`.
    """

    _is_folder = False

    def names(self) -> list[str]:
        """Return ``[""]``."""
        return [""]

    def reader(self, name: str) -> BinaryIO:
        """Open the file."""
        if name:
            raise KeyError(name)
        return open_file(self.path)

    def writer(self, name: str, size: int | None = None) -> BinaryIO:
        """Create the file aside from the target."""
        assert self._aside is not None, "a store is written inside its with block"
        if name:
            raise SaveError(f"a single file cannot hold {name!r}", file=str(self.path))
        return self._aside.open(size or 0)
