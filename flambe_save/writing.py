"""Write a plan's files beside the target, then put them in place in one step, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from flambe_save.errors import FlambeSaveError, LoadError, SaveError
from flambe_save.formats import Plan
from flambe_save.formats.incremental import BaseSave
from flambe_save.layout import ARCHIVE_SUFFIX, PICKLE_SUFFIX
from flambe_save.registry import FORMATS
from flambe_save.storage import cards_at, check_outside, check_replaceable, create_store, local_path, maker_of, put
from flambe_save.support.progress import NO_PROGRESS, Progress
from flambe_save.trust import check_switches


@dataclass(frozen=True)
class Target:
    """Options for the target and container of a save.

    Parameters
    ----------
    path : str
        The path, with its ending.
    is_archive, is_single, overwrite, durable : bool
        As ``compress``, ``pickle_only``, ``overwrite`` and ``durable`` of :func:`flambe_save.save`.
    base : str, optional
        An earlier save; files that have not changed are links to its files.
    level : int, optional
        Compression level of an archive.
    check : callable, optional
        Called with the path of the written files before they are committed; its errors end the save.
    format : str
        The name of the format; by default that of a single file, or of a folder.
    """

    path: str
    is_archive: bool = False
    is_single: bool = False
    overwrite: bool = False
    durable: bool = False
    base: str | None = None
    level: int | None = None
    check: Callable[[Path], None] | None = None
    format: str = ""

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str],
        compress: bool,
        pickle_only: bool,
        overwrite: bool,
        durable: bool,
        base: str | os.PathLike[str] | None,
        level: int | None,
        format: str | None,
    ) -> Target:
        """Check the arguments of :func:`flambe_save.save` that say where a save goes, and as what.

        Raises
        ------
        TypeError
            If a switch is neither True nor False.
        SaveError, LoadError
            If the path, the level or the format is not one, or the base cannot be linked to.
        """
        check_switches(compress=compress, pickle_only=pickle_only, overwrite=overwrite, durable=durable)
        pickle_only = pickle_only or format == "pickle"
        final = final_path(path, compress, pickle_only)
        check_level(level, is_archive=compress)
        base = local_path(base, LoadError) if base is not None else None
        chosen = format if format is not None else "pickle" if pickle_only else "directory"
        if chosen not in FORMATS or pickle_only != (chosen == "pickle"):
            known = ", ".join(FORMATS)
            what = f"no format {chosen!r} is known" if chosen not in FORMATS else f"{chosen!r} is not a single pickle"
            raise SaveError(what, fix=f"Pass format= one of {known}; pickle_only=True is format='pickle'.")
        return cls(final, compress, pickle_only, overwrite, durable, base, level, format=chosen)

    @property
    def is_local(self) -> bool:
        """Whether the path is not a URL."""
        return maker_of(self.path) is None


def final_path(path: str | os.PathLike[str], compress: bool, pickle_only: bool) -> str:
    """Return the path of a save with its endings.

    Raises
    ------
    SaveError
        If it is not a path, or a URL for which there is no store.
    """
    local = os.fspath(path) if maker_of(path) is not None else local_path(path, SaveError)
    final = local.rstrip("/" + os.sep) or local
    if not final or "\0" in final:
        raise SaveError(f"{final!r} is not a path", fix="Name the folder or file that the save shall be.")
    if pickle_only and not final.endswith((PICKLE_SUFFIX, PICKLE_SUFFIX + ARCHIVE_SUFFIX)):
        final = final.removesuffix(ARCHIVE_SUFFIX) + PICKLE_SUFFIX
    if compress and not final.endswith(ARCHIVE_SUFFIX):
        final += ARCHIVE_SUFFIX
    return final


def check_level(level: int | None, *, is_archive: bool) -> None:
    """Refuse a compression level that is not one, or that is not used.

    Raises
    ------
    SaveError
    """
    if level is not None and (not is_archive or isinstance(level, bool) or level not in range(10)):
        raise SaveError(
            f"level={level!r} is not a level" if is_archive else "level is of the compression of an archive",
            fix=f"Pass a level of 0 to 9 for an archive: compress=True, or an output that ends in {ARCHIVE_SUFFIX}.",
        )


def write_plan(plan: Plan, target: Target, threads: int, progress: Progress = NO_PROGRESS) -> str:
    """Write a plan's files to the target and return its path; raises as :meth:`Saving.write`."""
    with progress:  # outside the try, which makes SaveErrors of OSErrors: those of the caller stay as they are
        try:
            if target.is_local:
                check_outside(target.path)
            if target.is_local and target.overwrite:
                check_replaceable(target.path, keeps_cards=not (target.is_archive or target.is_single))
            if target.base is not None and not target.is_local:
                raise SaveError("base= links files of this machine, and the save is at a URL", file=target.path)
            with nullcontext() if target.base is None else BaseSave(target.base) as base:
                _write(plan, target, threads, progress, base)
        except FlambeSaveError:
            raise
        except OSError as error:
            named = str(error.filename or "")  # often relative to a descriptor, and then no help
            raise SaveError(
                f"the save cannot be written: {error.strerror or error}",
                file=named if os.path.isabs(named) else target.path,
                fix="Nothing was left behind; check space and permissions, and save again.",
            ) from error
    return target.path


def _write(plan: Plan, target: Target, threads: int, progress: Progress, base: BaseSave | None) -> None:
    progress.begin(plan.size)
    linked = base.compare(plan, threads) if base is not None else 0
    with create_store(
        target.path,
        archive=target.is_archive,
        single=target.is_single,
        overwrite=target.overwrite,
        durable=target.durable,
        size=plan.size - linked,
        level=target.level,
        threads=threads,
        check=target.check,
    ) as store:
        plan.write(store, threads, base.link if base is not None else None, progress)
        if target.is_local and target.overwrite and not (target.is_archive or target.is_single):
            for name, content in cards_at(target.path).items():
                put(store, name, content)
