"""Saving: the steps of a save, each once: plan its files, compare them with an earlier save, write them.

api.py has the public functions that take them; background.py takes the last one in a thread of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flambe_save.codecs import DumpOptions
from flambe_save.errors import (
    FlambeSaveError,
    NeedsTrustWarning,
    SaveError,
    UnsupportedObjectError,
    quote_some,
    warn,
)
from flambe_save.formats import Format, Plan
from flambe_save.formats.base import Base
from flambe_save.fresh import FreshLoad
from flambe_save.layout import ARCHIVE_SUFFIX, PICKLE_SUFFIX, TAGS_KEY
from flambe_save.opening import Needs, is_news, needs_of
from flambe_save.registry import FORMATS
from flambe_save.state import Stash
from flambe_save.storage import cards_at, check_outside, check_replaceable, create_store, local_path
from flambe_save.support.progress import NO_PROGRESS, Progress
from flambe_save.tree import SaveTreeNode, prefixed, tree_from_state

__all__ = ["Saving", "Target", "check_level", "final_path", "write_plan"]

_WEIGHTS = "\nThe weights of its modules need none: load_state(model, path)"


@dataclass(frozen=True)
class Target:
    """Where a save is written, and how.

    Parameters
    ----------
    path : str
        Just this, whatever it ends in.
    is_archive, is_single, overwrite, durable : bool
        As ``compress``, ``pickle_only``, ``overwrite`` and ``durable`` of :func:`flambe_save.save`.
    base : str, optional
        An earlier save, whose files are linked to where they have not changed.
    level : int, optional
        Of an archive's compression.
    check : callable, optional
        Called with the path of what was written, before it is committed; what it raises ends the save.
    """

    path: str
    is_archive: bool = False
    is_single: bool = False
    overwrite: bool = False
    durable: bool = False
    base: str | None = None
    level: int | None = None
    check: Callable[[Path], None] | None = None


class Saving:
    """A save that is planned: what is pickled is fixed, tensors are read when it is written.

    Parameters
    ----------
    state : State or mapping
    target : Target
    options : DumpOptions
    is_built : bool
        Whether the save says how the object is built. If not, it holds data alone.

    Attributes
    ----------
    threads : int
    progress : Progress
        As the options have it.
    plan : Plan
        May be replaced by one that reads other memory.

    Raises
    ------
    UnsupportedObjectError
        If something cannot be represented.
    """

    def __init__(
        self, state: Mapping[str, Any], target: Target, options: DumpOptions, *, is_built: bool = True
    ) -> None:
        self.target = target
        self.threads = options.threads
        self.progress = options.progress
        tree = tree_from_state(state)
        chosen: Format = FORMATS["pickle" if target.is_single else "directory"]
        self.plan: Plan = chosen.plan(tree, options)
        if not is_built and self.plan.opaque:
            raise UnsupportedObjectError(
                f"a state is more than data: {quote_some(self.plan.opaque)}",
                fix="Return tensors, numbers, texts and containers of these from state_dict.",
            )
        self._tags: dict[str, str] = tree.state._metadata[""].get(TAGS_KEY, {})
        self._needs = needs_of(tree.config, self._tags, self.plan, options) if is_built else Needs([], "")
        self._hint = _WEIGHTS if any(map(_holds_a_module, prefixed(tree).values())) else ""

    def check_freshly(self) -> None:
        """Have a fresh process load what will be written, and compare it, before it is committed."""
        self.target = replace(self.target, check=FreshLoad(self._needs.door, self._tags.values()).check)

    def write(self) -> str:
        """Write the save and return its path.

        Raises
        ------
        SaveError
            If it cannot be written; nothing is left behind.
        LoadError
            If the base is damaged, or no save; nothing is written then.
        """
        return write_plan(self.plan, self.target, self.threads, self.progress)

    def tell(self) -> None:
        """Warn where a default load will refuse a part of the save: once in a process for what needs the same trust."""
        what, door = self._needs
        if not what or not is_news(door, what):
            return
        shown = "; ".join(what[:3]) + (f"; and {len(what) - 3:,} more" if len(what) > 3 else "")
        warn(f"this save holds more than data ({shown})\nso a load needs {door}{self._hint}", NeedsTrustWarning)


def _holds_a_module(node: SaveTreeNode) -> bool:
    values = node.object_stash.values() if isinstance(node.object_stash, Stash) else ()
    return any(isinstance(value, torch.nn.Module) for value in values)


def final_path(path: str | os.PathLike[str], compress: bool, pickle_only: bool) -> str:
    """Return the path of a save with the endings that it shall have.

    Raises
    ------
    SaveError
        If it is no path, or a URL for which there is no store.
    """
    local = local_path(path, SaveError)
    final = local.rstrip("/" + os.sep) or local
    if not final or "\0" in final:
        raise SaveError(f"{final!r} is no path", fix="Name the folder or file that the save shall be.")
    if pickle_only and not final.endswith((PICKLE_SUFFIX, PICKLE_SUFFIX + ARCHIVE_SUFFIX)):
        final = final.removesuffix(ARCHIVE_SUFFIX) + PICKLE_SUFFIX
    if compress and not final.endswith(ARCHIVE_SUFFIX):
        final += ARCHIVE_SUFFIX
    return final


def check_level(
    level: int | None,
    *,
    is_archive: bool,
    otherwise: str = "there is no archive",
    fix: str = f"Pass an output that ends in {ARCHIVE_SUFFIX} and a level of 0 to 9, or no level.",
) -> None:
    """Refuse a level of compression that is none, or that nothing would use.

    Parameters
    ----------
    level : int, optional
    is_archive : bool
    otherwise : str
        What is so where it is no archive.
    fix : str
        What the caller's caller should pass.

    Raises
    ------
    SaveError
    """
    if level is not None and (not is_archive or isinstance(level, bool) or level not in range(10)):
        what = f"level={level!r} is no level" if is_archive else f"level is of the compression, and {otherwise}"
        raise SaveError(what, fix=fix)


def write_plan(plan: Plan, target: Target, threads: int, progress: Progress = NO_PROGRESS) -> str:
    """Write a plan's files to where the target says, and return its path; errors are those of :meth:`Saving.write`."""
    with progress:  # around what makes a SaveError of any OSError: a caller's own stays what it is
        try:
            check_outside(target.path)
            if target.overwrite:
                check_replaceable(target.path, keeps_cards=not (target.is_archive or target.is_single))
            if target.base is None:
                _write(plan, target, threads, progress)
            else:
                with Base(target.base) as base:
                    _write(plan, target, threads, progress, base)
        except FlambeSaveError:
            raise
        except OSError as error:
            named = str(error.filename or "")  # relative to a descriptor, often, which says nothing
            raise SaveError(
                f"the save cannot be written: {error.strerror or error}",
                file=named if os.path.isabs(named) else target.path,
                fix="Nothing was left behind; check space and permissions, and save again.",
            ) from error
    return target.path


def _write(plan: Plan, target: Target, threads: int, progress: Progress, base: Base | None = None) -> None:
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
        if target.overwrite and not (target.is_archive or target.is_single):
            for name, content in cards_at(target.path).items():
                with store.writer(name, len(content)) as file:
                    file.write(content)
