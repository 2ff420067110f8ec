"""FolderStore and FileStore: saves on a local disk, committed by one rename."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, ClassVar, TypeVar

from flambe_save.errors import CorruptSaveError, SaveError, SaveReplacedError
from flambe_save.storage.atomic import AtomicWrite, finish
from flambe_save.storage.filesystem import FileIdentity, Folder, Kind, open_file, open_regular

S = TypeVar("S", bound="_LocalStore")


class _LocalStore:
    """Base of folders and files: the path, and the ``with`` that writes aside."""

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
        self._make_aside = functools.partial(
            AtomicWrite, self.path, overwrite=overwrite, folder=self._is_folder, durable=durable, size=size, check=check
        )
        self._aside: AtomicWrite | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __enter__(self: S) -> S:
        if self._mode == "w":
            self._aside = self._make_aside()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
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
        With ``"w"``: called with the path of the complete save before it is committed; an error of it ends the save.
    """

    _is_folder = True
    _folder: Folder
    _names: list[str] | None = None
    stands_for: Path | None = None  # the target, where this is an old save that was set aside

    def __enter__(self) -> FolderStore:
        super().__enter__()
        self._names = None
        if self._mode == "r":
            try:
                self._folder = Folder(self.path)
            except FileNotFoundError as error:  # deleted since its path was looked at
                raise self._replaced() from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object = None, *rest: object) -> None:
        if self._mode != "r":
            super().__exit__(kind)
            return
        was_replaced = isinstance(error, Exception) and self._was_replaced()
        self._folder.close()
        if was_replaced and isinstance(error, Exception):
            raise self._replaced() from error

    def _was_replaced(self) -> bool:
        """Whether another save took the folder's place, or a new one that of an old save set aside."""
        has_gone = self.stands_for is not None and os.path.lexists(self.stands_for)
        return has_gone or self._folder.was_replaced()

    def _replaced(self) -> SaveReplacedError:
        return SaveReplacedError(
            "the save was replaced while it was read, and what was read is gone",
            file=str(self.path),
            fix="Load it again.",
        )

    def names(self) -> list[str]:
        """Return the names of the files below the folder, sorted; hidden ones are left out.

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
            if self._was_replaced():
                raise self._replaced() from None
            raise

    def writer(self, name: str, size: int | None = None) -> BinaryIO:
        """Create a file, and its folder where needed, aside from the target."""
        assert self._aside is not None, "a store is written inside its with block"
        return self._aside.create(name, size or 0)

    def put(self, name: str, data: bytes | bytearray) -> None:
        """Create a small file with all its bytes; not from several threads at once."""
        assert self._aside is not None, "a store is written inside its with block"
        self._aside.put(name, data)

    def link(self, name: str, other: FolderStore, meant: FileIdentity) -> bool:
        """Hard-link a name to the same name of another open store; False where that cannot be done.

        ``meant`` identifies the file; another one that took its name is not linked to.
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
