"""Read a save, or a part of it, and again if it was replaced meanwhile; nothing is built."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from flambe_save.errors import CorruptSaveError, FlambeSaveError, LoadError, SaveNotFoundError, SaveReplacedError
from flambe_save.formats import Damage, ReadOptions, Saved, format_of
from flambe_save.formats.directory import DIRECTORY
from flambe_save.layout import REQUIREMENTS_FILE
from flambe_save.pt import LoadOptions
from flambe_save.registry import FORMATS
from flambe_save.storage import Store, TarStore, open_store, whole_save
from flambe_save.support.progress import NO_PROGRESS, ShowProgress, progress_of
from flambe_save.support.undoing import takes_back
from flambe_save.trust import Limits, Trust

R = TypeVar("R")

_ATTEMPTS = 100  # how often a load begins again because the save was replaced under it


def reading(attempt: Callable[[], R], where: str) -> R:
    """Read, and again if the save was replaced meanwhile; an OSError becomes a LoadError."""
    left = _ATTEMPTS
    while True:
        try:
            return attempt()
        except SaveReplacedError:
            left -= 1
            if not left:
                raise
        except OSError as error:
            if isinstance(error, FlambeSaveError):
                raise
            raise LoadError(f"the save cannot be read: {error.strerror or error}", file=where) from error


def read(path: str | os.PathLike[str], node: str, options: LoadOptions) -> Saved:
    """Read a save, or a part of it; the manifest of the whole checks a folder inside a save."""
    where = os.fspath(path)
    limits = options.trust.limits

    def attempt() -> Saved:
        wanted = ReadOptions(options, node, where)
        root, folder = whole_save(path)
        if folder:
            with open_store(root, limits, threads=options.threads) as store:
                saved = DIRECTORY.read_folder(store, folder, wanted)
                if saved is not None:
                    return saved
        with opened(path, wanted) as (store, wanted):
            return format_of(store, where).read(store, wanted)

    return reading(attempt, where)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], options: ReadOptions) -> Iterator[tuple[Store, ReadOptions]]:
    """Open a save. The store reports progress while it unpacks an archive; reads of it do not."""
    values = options.values
    with open_store(path, values.trust.limits, threads=values.threads, progress=values.progress) as store:
        if isinstance(store, TarStore):
            options = replace(options, values=replace(values, progress=NO_PROGRESS))
        yield store, options


def read_around(
    path: str | os.PathLike[str], node: str, options: LoadOptions, *, is_inside: bool = False
) -> tuple[Saved, str]:
    """Read the component at a key, or the nearest one around it; return the rest of the key.

    With ``is_inside`` the key is known to have no folder, and is not tried.
    """
    outer = node.rpartition(".")[0] if is_inside else node
    while True:
        try:
            return read(path, outer, options), node[len(outer) :].removeprefix(".")
        except SaveNotFoundError:
            if not outer:
                raise
            outer = outer.rpartition(".")[0]


@contextlib.contextmanager
def errors_of(path: str | os.PathLike[str], name: str = "load") -> Iterator[None]:
    """Add the path to errors, and name the caller's function in their advice."""
    try:
        yield
    except FlambeSaveError as error:
        error.fix = error.fix and error.fix.replace("load(...", f"{name}(...")
        error.locate(file=os.fspath(path))
        raise


def shape_of(path: str | os.PathLike[str], limits: Limits | None) -> tuple[bool, bool, str | None]:
    """Return whether a save is an archive and a single pickle, and its requirements or None."""
    where = os.fspath(path)

    def attempt() -> tuple[bool, bool, str | None]:
        requirements = None
        with open_store(path, limits) as store:
            if REQUIREMENTS_FILE in store.names():
                with store.reader(REQUIREMENTS_FILE) as file:
                    requirements = file.read().decode()
            return isinstance(store, TarStore), format_of(store, where) is FORMATS["pickle"], requirements

    return reading(attempt, where)


@takes_back
def verify(
    path: str | os.PathLike[str], *, limits: Limits | None = None, progress: ShowProgress = False
) -> list[Damage]:
    """Read a whole save and list its damage; nothing is unpickled or built.

    Parameters
    ----------
    path, limits
        As :func:`load`. Of a folder inside a save, that folder is read.
    progress : bool or callable
        As :func:`load`. A file with two or three checksums is read as often; its bytes count in parts.

    Returns
    -------
    list of Damage
        ``(node, file, problem)``; empty where the save is whole.

    Raises
    ------
    LoadError
        Where there is no save, or it cannot be read: SaveNotFoundError, UnknownFormatError, LimitError.
    """
    where = os.fspath(path)
    meter = progress_of(progress, "Verifying")
    options = ReadOptions(LoadOptions(Trust.of(limits=limits), progress=meter), "", where)

    def attempt() -> list[Damage]:
        try:
            with opened(path, options) as (store, wanted):
                found = list(format_of(store, where).inspect(store, wanted).verify())
                if found:
                    raise _Found(found)  # an error makes the store check whether it was replaced meanwhile
        except _Found as damage:
            return damage.rows
        except CorruptSaveError as error:  # a damaged archive
            return [Damage(error.node, error.file, error.message)]
        return []

    with meter:
        return reading(attempt, where)


class _Found(Exception):
    """Damage that verifying found."""

    def __init__(self, rows: list[Damage]) -> None:
        super().__init__()
        self.rows = rows
