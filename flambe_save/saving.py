"""Plan a save, write it, and warn of what a load will ask for.

api.py has the public functions that take them; background.py writes in a thread of its own.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from flambe_save.adapters import Passed, get_state, get_unbuilt_state
from flambe_save.errors import NeedsTrustWarning, SaveError, UnsupportedObjectError, quote_some, warn
from flambe_save.formats import Format, Plan
from flambe_save.fresh import FreshLoad
from flambe_save.layout import CONFIG_KEY, TAGS_KEY
from flambe_save.opening import Needs, is_news, needs_of
from flambe_save.pt import DumpOptions, PickleModule
from flambe_save.registry import FORMATS
from flambe_save.running import wait_for
from flambe_save.state import Stash, State
from flambe_save.support.parallel import CollectionPaused, check_threads
from flambe_save.support.progress import ShowProgress, progress_of
from flambe_save.support.undoing import takes_back
from flambe_save.tree import SaveTreeNode, prefixed, tree_from_state
from flambe_save.trust import check_switches
from flambe_save.writing import Target, write_plan

_LARGE = 1 << 20  # bytes inside pickles, of which a save says how many they are
_WEIGHTS = "\nThe weights of its modules need none: load_state(model, path)"


class Saving:
    """A save that is planned: what is pickled is fixed, tensors are read when it is written.

    Parameters
    ----------
    is_built : bool
        Whether the save says how the object is built. If not, it holds data alone.

    Attributes
    ----------
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
        self.target, self.options = target, options
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

    @classmethod
    @takes_back
    def of_object(cls, obj: Any, target: Target, options: DumpOptions, *, build: bool, check: bool) -> Saving:
        """Collect the state of an object and plan its save.

        Parameters
        ----------
        build, check : bool
            As :func:`flambe_save.save`.

        Raises
        ------
        UnsupportedObjectError
            If the object, or a part of it, cannot be represented, or changes meanwhile.
        """
        check_switches(build=build, check=check)
        if check and not build:
            raise SaveError(
                "check=True loads the save, and build=False writes one that no load opens", fix="Pass one of them."
            )
        with CollectionPaused():
            passed = Passed()
            state = _state_of(obj, passed) if build else get_unbuilt_state(obj, passed)
            saving = cls(state, target, options, is_built=build)
            if check:
                fresh = FreshLoad(saving._needs.door, saving._tags.values())
                saving.target = replace(target, check=fresh.check)
            passed.check()
        return saving

    def write(self) -> str:
        """Write the save and return its path.

        Raises
        ------
        SaveError
            If it cannot be written; nothing is left behind.
        LoadError
            If the base is damaged, or is not a save; nothing is written then.
        """
        return write_plan(self.plan, self.target, self.options.threads, self.options.progress)

    def write_now(self) -> str:
        """Wait for saves of the same path in the background, write, and warn."""
        wait_for(self.target.path, self.target.base)
        path = self.write()
        self.warn_needs_trust()
        return path

    def warn_needs_trust(self) -> None:
        """Warn that a default load refuses a part of the save, once a process for each trust."""
        what, door, inside = self._needs
        if not what or not is_news(door, what):
            return
        shown = "; ".join(what[:3]) + (f"; and {len(what) - 3:,} more" if len(what) > 3 else "")
        if inside >= _LARGE:
            shown += f"; {inside / 1e6:,.1f} MB of it are inside pickles, where load_state does not find them"
        warn(f"this save holds more than data ({shown})\nso a load needs {door}{self._hint}", NeedsTrustWarning)


def dump_options(
    pickle_module: PickleModule, protocol: int, digest: str | None, threads: int | None, progress: ShowProgress
) -> DumpOptions:
    """Check the arguments of :func:`flambe_save.save` that say how files are written."""
    if not 2 <= protocol <= pickle.HIGHEST_PROTOCOL:
        raise SaveError(f"pickle protocol {protocol!r}; it must be 2 to {pickle.HIGHEST_PROTOCOL}")
    if digest not in (None, "sha256"):
        raise SaveError(f"no digest {digest!r} is known", fix="Pass digest='sha256', or none.")
    count, meter = check_threads(threads, SaveError), progress_of(progress, "Saving")
    return DumpOptions(pickle_module, protocol, digest, threads=count, progress=meter)


def _state_of(obj: Any, passed: Passed) -> State:
    state = get_state(obj, passed=passed)
    if not state._metadata[""].get(CONFIG_KEY):
        raise UnsupportedObjectError(
            f"the arguments that this {type(obj).__qualname__} was built with cannot be written as a mapping of names "
            "to values",
            fix="Give arguments by position or by keyword, not the same name both ways, and call no __new__ of its "
            "own.",
        )
    return state


def _holds_a_module(node: SaveTreeNode) -> bool:
    values = node.object_stash.values() if isinstance(node.object_stash, Stash) else ()
    return any(isinstance(value, torch.nn.Module) for value in values)
