"""Pack a folder or .pkl into an archive and unpack it, its files as they are (copying.py)."""

from __future__ import annotations

import os

from flambe_save.conversion.copying import copy_save
from flambe_save.errors import SaveError
from flambe_save.formats import format_of
from flambe_save.layout import ARCHIVE_SUFFIX
from flambe_save.reading import errors_of, reading
from flambe_save.registry import FORMATS
from flambe_save.storage import TarStore, open_store
from flambe_save.support.progress import ShowProgress, progress_of
from flambe_save.support.undoing import takes_back
from flambe_save.trust import Limits
from flambe_save.writing import Target, check_level, final_path

__all__ = ["pack", "unpack"]


@takes_back
def pack(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    level: int | None = None,
    limits: Limits | None = None,
    progress: ShowProgress = False,
) -> str:
    """Put a save that is a folder, or a .pkl, into an archive; :func:`unpack` is the inverse.

    The files are copied as they are, manifest included, and compared with it: nothing is unpickled, so nothing in the
    save needs trust.

    Parameters
    ----------
    path : str or path
        A save; of a folder inside a save, the archive is a save of its own.
    out : str or path, optional
        The archive, by default ``path`` with ``.tar.gz`` behind it; that is appended where it is missing.
    overwrite : bool
        Whether a save that is there is replaced, in one step.
    level : int, optional
        Of the compression, as of :func:`flambe_save.save`. With the same level, the archive is to the byte what a save
        with ``compress=True`` to that path would have been.
    limits : Limits, optional
    progress : bool or callable
        As of :func:`flambe_save.save`.

    Returns
    -------
    str
        The path of the archive.

    Raises
    ------
    SaveError
        If ``path`` is an archive already, or the archive cannot be written. Nothing is left behind.
    TargetExistsError
        If something is there already.
    CorruptSaveError
        If a file is damaged; the error names it.
    LoadError
        If there is no save, or it cannot be read.
    """
    where = os.fspath(path)
    check_level(level, is_archive=True)

    def attempt() -> str:
        with open_store(path, limits) as store:
            if isinstance(store, TarStore):
                raise SaveError(f"{where!r} is an archive already", file=where, fix="Copy the file.")
            is_single = format_of(store, where) is FORMATS["pickle"]
        final = final_path(where.rstrip("/" + os.sep) + ARCHIVE_SUFFIX if out is None else out, True, is_single)
        target = Target(final, True, is_single, overwrite, level=level)
        return copy_save(path, target, limits=limits, progress=progress_of(progress, "Packing"))

    with errors_of(path, name="pack"):
        return reading(attempt, where)


@takes_back
def unpack(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    limits: Limits | None = None,
    progress: ShowProgress = False,
) -> str:
    """Unpack a save from an archive: a folder, or a .pkl. Inverse of :func:`pack`.

    The notes of :func:`pack` hold here too.

    Parameters
    ----------
    path : str or path
        The archive.
    out : str or path, optional
        Where, by default ``path`` without its ``.tar.gz``.
    overwrite : bool
        Whether a save that is there is replaced, in one step.
    limits : Limits, optional
        What the archive may unpack to.
    progress : bool or callable
        As of :func:`flambe_save.save`.

    Returns
    -------
    str
        The path of the folder or the .pkl.

    Raises
    ------
    SaveError
        If ``path`` is not an archive, or what is in it cannot be written. Nothing is left behind.
    TargetExistsError, CorruptSaveError, LoadError
        As :func:`pack`.
    """
    where = os.fspath(path)

    def attempt() -> str:
        with open_store(path, limits) as store:
            if not isinstance(store, TarStore):
                raise SaveError(f"{where!r} is not an archive", file=where, fix="It can be read as it is.")
            is_single = store.names() == [""]
        if out is None and not where.endswith(ARCHIVE_SUFFIX):
            raise SaveError(
                f"{where!r} does not end in {ARCHIVE_SUFFIX}, so its name does not say where to",
                file=where,
                fix="Say it: unpack(path, out).",
            )
        final = final_path(where.removesuffix(ARCHIVE_SUFFIX) if out is None else out, False, is_single)
        target = Target(final, False, is_single, overwrite)
        return copy_save(path, target, limits=limits, progress=progress_of(progress, "Unpacking"))

    with errors_of(path, name="unpack"):
        return reading(attempt, where)
