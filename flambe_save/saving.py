"""Saving: the steps of a save, each once: plan its files, say what a load will ask for, write them.

api.py has the public functions that take them; background.py takes the last one in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from flambe_save.errors import (
    NeedsTrustWarning,
    UnsupportedObjectError,
    quote_some,
    warn,
)
from flambe_save.formats import Format, Plan
from flambe_save.fresh import FreshLoad
from flambe_save.layout import TAGS_KEY
from flambe_save.opening import Needs, is_news, needs_of
from flambe_save.pt import DumpOptions
from flambe_save.registry import FORMATS
from flambe_save.state import Stash
from flambe_save.tree import SaveTreeNode, prefixed, tree_from_state
from flambe_save.writing import Target, write_plan

__all__ = ["Saving"]

_LARGE = 1 << 20  # bytes inside pickles, of which a save says how many they are
_WEIGHTS = "\nThe weights of its modules need none: load_state(model, path)"


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
        chosen: Format = FORMATS[target.format or ("pickle" if target.is_single else "directory")]
        self.plan: Plan = chosen.plan(tree, options)
        if not is_built and self.plan.opaque:
            raise UnsupportedObjectError(
                f"a state is more than data: {quote_some(self.plan.opaque)}",
                fix="Return tensors, numbers, texts and containers of these from state_dict.",
            )
        self._tags: dict[str, str] = tree.state._metadata[""].get(TAGS_KEY, {})
        self._needs = needs_of(tree.config, self._tags, self.plan) if is_built else Needs([], "")
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
        what, door, inside = self._needs
        if not what or not is_news(door, what):
            return
        shown = "; ".join(what[:3]) + (f"; and {len(what) - 3:,} more" if len(what) > 3 else "")
        if inside >= _LARGE:
            shown += f"; {inside / 1e6:,.1f} MB of it are inside pickles, where load_state does not find them"
        warn(f"this save holds more than data ({shown})\nso a load needs {door}{self._hint}", NeedsTrustWarning)


def _holds_a_module(node: SaveTreeNode) -> bool:
    values = node.object_stash.values() if isinstance(node.object_stash, Stash) else ()
    return any(isinstance(value, torch.nn.Module) for value in values)
