"""What a load of a save will ask for: found, and tried, on the plan, before anything of it is written."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import NamedTuple

from flambe_save.codecs import check_referring, unknown_globals
from flambe_save.deferred_init.generators import KeptRandomStates
from flambe_save.errors import LoadError, UnsupportedObjectError
from flambe_save.formats import Plan
from flambe_save.loading import ask_of_config, door_to, names_in
from flambe_save.pt import Draft, DumpOptions, HeldSource, LoadOptions
from flambe_save.registry import CODECS
from flambe_save.schema.audit import asks_for
from flambe_save.trust import EVERYTHING, NO_TRUST, Trust

__all__ = ["Needs", "is_news", "needs_of"]

_TRIED = 16 << 20  # bytes of a file; of a larger one the names in its pickle are listed, and it is not unpickled


_told: set[tuple[str, ...]] = set()  # what this process has been warned of
_opened: dict[tuple[str, ...], str] = {}  # what opens that for which these arguments are asked


class Needs(NamedTuple):
    """What of a save only a trusting load will read.

    Attributes
    ----------
    what : list of str
        A sentence for each thing.
    door : str
        The narrowest argument of a load that opens all of it.
    """

    what: list[str]
    door: str


def needs_of(config: str, tags: dict[str, str], plan: Plan, options: DumpOptions) -> Needs:
    """Return what a load of a planned save will ask for.

    What is pickled is unpickled here, with the trust that the door names: so a door that is named opens the save. That
    is done once in a process for the same names: it runs code of the pickled classes. Of a file of more than 16 MiB,
    and of pickles that refer to what else a load builds, the names are listed alone.

    Parameters
    ----------
    config : str
        Of the root.
    tags : dict of str to str
        Its tags: tag -> dotted path.
    plan : Plan
    options : DumpOptions
        By which the plan was made.

    Raises
    ------
    UnsupportedObjectError
        If something was pickled that no load unpickles.
    """
    what = [*plan.opaque, *(f"config.yaml: {sentence}" for sentence in asks_for(config, tags))]
    if not what:
        return Needs([], "")
    audit = NO_TRUST.audit()
    assert audit.findings is not None
    opaque = [(name, draft) for name, draft in plan.files.items() if draft.opaque]
    for name, draft in opaque:
        if draft.size <= _TRIED:
            _read(plan, name, draft, LoadOptions(audit))
        else:
            audit.check_globals(unknown_globals(draft.pickled), node=None, file=name)
    for name, data in plan.referring:
        check_referring(data, LoadOptions(audit, file=name))
    if config.strip():
        ask_of_config(config, tags, audit, "")
    door = door_to(audit.findings)
    asked = tuple(sorted({row.argument for row in audit.findings}))
    if asked in _opened:
        return Needs(what, _opened[asked])
    by_name = Trust(trusted=tuple(names_in(audit.findings)))
    wide = Trust(weights_only=False)
    for name, draft in opaque:
        if draft.size > _TRIED:
            continue
        error = None
        for trust in (by_name, wide) if door != EVERYTHING else (wide,):
            error = _error_of(plan, name, draft, LoadOptions(trust, pickle_module=options.pickle_module))
            if error is None:
                break
            door = EVERYTHING
        if error is not None:
            raise UnsupportedObjectError(
                f"what is pickled of this no load can read ({error}): {'; '.join(draft.opaque[:3])}",
                fix="Correct how its class is pickled (`__reduce__`, `__setstate__`), or leave it out of the object.",
                file=name,
            )
    _opened[asked] = door
    return Needs(what, door)


def is_news(door: str, what: list[str]) -> bool:
    """Whether this is the first time in this process that a save needs a door, for things of the same classes."""
    # A list of names is a cause by itself; what needs every door has causes of many kinds
    cause = (door, *(sorted({sentence.rpartition(" ")[2] for sentence in what}) if door == EVERYTHING else ()))
    if cause in _told:
        return False
    _told.add(cause)
    return True


def _read(plan: Plan, name: str, draft: Draft, options: LoadOptions) -> object:
    return CODECS[plan.codec].load(HeldSource(bytearray(bytes(draft))), replace(options, file=name))


def _error_of(plan: Plan, name: str, draft: Draft, options: LoadOptions) -> str | None:
    """Return what a file raises when it is read; None where it is read."""
    try:
        with KeptRandomStates(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _read(plan, name, draft, options)
    except LoadError as error:
        return error.message
    except Exception as error:  # whatever a class raises
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None
