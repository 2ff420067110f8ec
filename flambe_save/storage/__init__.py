"""Stores: names to bytes, wherever the bytes are. formats/ say which names a save has.

A save is either a folder of names (``encoder/state.pt``) or one single file, whose name is ``""``: the root itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

from flambe_save.errors import LoadError, SaveError, SaveNotFoundError, quote
from flambe_save.layout import MANIFEST_FILE, MANIFEST_START, PROTOCOL_FILE
from flambe_save.storage.leftovers import old_save
from flambe_save.storage.local import FileStore, FolderStore
from flambe_save.storage.memory import MemoryStore
from flambe_save.storage.overwrite import cards_at, check_outside, check_replaceable
from flambe_save.storage.schemes import StoreMaker, local_path, maker_of
from flambe_save.storage.tar import TarStore
from flambe_save.support.progress import NO_PROGRESS, Progress
from flambe_save.trust import Limits

__all__ = [
    "FileStore",
    "FolderStore",
    "MemoryStore",
    "Store",
    "StoreMaker",
    "TarStore",
    "cards_at",
    "check_outside",
    "check_replaceable",
    "create_store",
    "local_path",
    "maker_of",
    "open_store",
    "put",
    "whole_save",
]


class Store(Protocol):
    """Names and their bytes. Used with ``with``; open for reading or for writing, never both.

    Writing: each ``writer(name)`` is used with ``with`` and closed before the next one is asked for; where the store
    ``is_concurrent``, by several threads, each for itself. Leaving the store's own ``with`` commits: only then does a
    reader see the save, whole. An exception leaves nothing that a reader accepts. The caller may change a buffer as
    soon as ``write`` returns.

    Reading: a file with a ``fileno`` may be mapped; any other is read.
    """

    is_concurrent: bool

    def names(self) -> list[str]:
        """Return every name, sorted; ``[""]`` where the save is a single file."""

    def reader(self, name: str) -> BinaryIO:
        """Open a name for reading; KeyError where there is none."""

    def writer(self, name: str, size: int | None = None) -> BinaryIO:
        """Open a new name for writing; ``size`` is the number of its bytes, where that is known.

        A store that relies on the size raises a SaveError where it was wrong.
        """

    def __enter__(self) -> Store: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def put(store: Store, name: str, data: bytes) -> None:
    """Write a small file to a store, all at once."""
    if isinstance(store, FolderStore):
        store.put(name, data)
        return
    with store.writer(name, len(data)) as file:
        file.write(data)


def open_store(
    path: str | os.PathLike[str],
    limits: Limits | None = None,
    *,
    threads: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Store:
    """Open a folder, an archive or a file for reading; its content says which it is.

    Where a process died between setting an old save aside and putting the new one in its place, the old one is read.
    ``threads`` unpack an archive; by default as many as there are cores, four at most. ``progress`` counts what is
    unpacked; a reader of files counts for itself.

    Raises
    ------
    SaveNotFoundError
        If there is nothing there; the message names what is near.
    LoadError
        If it is a URL for which there is no store.
    """
    maker = maker_of(path)
    if maker is not None:
        return maker.open(os.fspath(path), limits)
    where = Path(local_path(path, LoadError))
    if "\0" in str(where):
        raise SaveNotFoundError(f"{str(where)!r} is not a path", file=str(where))
    found = _present(where)
    if found is None:
        raise SaveNotFoundError(f"there is no save at {str(where)!r}", file=str(where), fix=_near(where))
    place, mode = found
    if stat.S_ISDIR(mode):
        store = FolderStore(place)
        store.stands_for = where if place != where else None
        return store
    if not stat.S_ISREG(mode):
        raise SaveNotFoundError(
            f"what is at {str(where)!r} is neither a file nor a folder",
            file=str(where),
            fix="A save is a folder, a .pkl, or a .tar.gz of either.",
        )
    if TarStore.recognises(place):
        return TarStore(place, limits=limits, threads=threads, progress=progress)
    return FileStore(place)


def _present(where: Path) -> tuple[Path, int] | None:
    """Return the path of the save, or of the old one that was set aside for it, and its mode."""
    mode = _mode(where)
    if mode is None:
        aside = old_save(where)
        aside_mode = None if aside is None else _mode(aside)
        if aside is not None and aside_mode is not None:
            return aside, aside_mode
        mode = _mode(where)  # the new save may have come between the two looks
    return None if mode is None else (where, mode)


def _mode(path: Path) -> int | None:
    try:
        return os.stat(path).st_mode
    except OSError:
        return None


def whole_save(path: str | os.PathLike[str]) -> tuple[str | os.PathLike[str], str]:
    """Return the root of the save that holds a folder, and its name there; else path and ``""``.

    A part is checked by the manifest of the whole, which is at the root alone.
    """
    if maker_of(path) is not None:
        return path, ""
    here = Path(local_path(path, LoadError))
    if "\0" in str(here) or not (here / PROTOCOL_FILE).is_file():
        return here, ""
    real = Path(os.path.realpath(here))
    root = real
    while (root.parent / PROTOCOL_FILE).is_file():
        root = root.parent
    if not (root / MANIFEST_FILE).is_file():  # a part that was fetched without what is around it but the manifest
        root = next(filter(_has_manifest, root.parents), root)
    return (here, "") if root == real else (root, real.relative_to(root).as_posix())


def _has_manifest(folder: Path) -> bool:
    """Whether a manifest of a save lies in a folder."""
    try:
        with open(folder / MANIFEST_FILE, "rb") as file:
            return file.read(len(MANIFEST_START)) == MANIFEST_START
    except OSError:
        return False


def create_store(
    path: str | os.PathLike[str],
    *,
    archive: bool,
    single: bool,
    overwrite: bool = False,
    durable: bool = False,
    size: int = 0,
    level: int | None = None,
    threads: int | None = None,
    check: Callable[[Path], None] | None = None,
) -> Store:
    """Make a store that will appear at ``path`` when its ``with`` is left.

    Parameters
    ----------
    archive : bool
        A .tar.gz.
    single : bool
        The save is one file, so the only name will be ``""``.
    overwrite : bool
        Whether something at ``path`` may be replaced.
    durable : bool
        Whether leaving the store waits until the save is on the disk.
    size : int
        Bytes that there must be space for; not checked for an archive, which may need less.
    level : int, optional
        0 to 9, the compression of an archive.
    threads : int, optional
        How many threads compress an archive.
    check : callable, optional
        Called with the path of the complete save before it is at ``path``; an error of it ends the save.

    Raises
    ------
    SaveError
        If ``path`` is a URL, and something is asked for that only local saves have.
    """
    maker = maker_of(path)
    if maker is not None:
        if archive or check is not None:
            what = "an archive" if archive else "a save that is loaded before it is committed"
            raise SaveError(f"{what} is local, and {quote(path)} is a URL", fix="Save to a local path and copy that.")
        return maker.create(os.fspath(path), overwrite=overwrite, size=size)
    if archive:
        return TarStore(
            path, "w", single=single, overwrite=overwrite, durable=durable, level=level, threads=threads, check=check
        )
    kind = FileStore if single else FolderStore
    return kind(path, "w", overwrite=overwrite, durable=durable, size=size, check=check)


def _near(path: Path) -> str:
    """Return the advice for a path that does not exist: names near it."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        names = []
    alike = [name for name in names if name.startswith((path.name, path.stem))] or names
    listing = ", ".join(repr(name) for name in alike[:5]) or "nothing"
    return f"Check the path; {str(folder)!r} holds {listing}{', ...' if len(alike) > 5 else ''}."
