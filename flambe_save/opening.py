"""Find what a load of a save will ask for, before it is written and without running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flambe_save.asking import ask_of_config, door_to
from flambe_save.codecs import IMPOSSIBLE, check_referring, unknown_globals
from flambe_save.errors import Finding, UnsupportedObjectError
from flambe_save.formats import Plan
from flambe_save.layout import CONFIG_FILE, STASH_FILE
from flambe_save.pt import LoadOptions, MemorySource
from flambe_save.questions import EVERYTHING, pickled
from flambe_save.registry import CODECS
from flambe_save.schema.questions import may_ask
from flambe_save.trust import NO_TRUST

_READ = 16 << 20  # bytes of a file; of a larger one only the names in its pickle are listed

_warned: set[tuple[str, ...]] = set()  # causes of warnings in this process


class Needs(NamedTuple):
    """Parts of a save that only a trusting load will read.

    Attributes
    ----------
    what : list of str
        A sentence for each.
    door : str
        The narrowest argument of a load that allows all of them.
    inside : int
        Bytes of tensors that are inside pickles, and not in the state.
    """

    what: list[str]
    door: str
    inside: int = 0


def needs_of(config: str, tags: dict[str, str], plan: Plan) -> Needs:
    """Find what a load of a planned save will ask for.

    Pickles are audited, as in a load that trusts nothing: placeholders take the places of their classes and functions,
    and none of their code runs. To unpickle may do anything: open a file, and so empty it. Where the audit cannot show
    that names are enough, the argument is ``weights_only=False``. Of a file of more than 16 MiB only the names are
    listed.

    Parameters
    ----------
    config : str
        Of the root.
    tags : dict of str to str
        Tag -> dotted path.

    Raises
    ------
    UnsupportedObjectError
        If no load can unpickle a value.
    """
    audit = NO_TRUST.audit()
    assert audit.findings is not None
    if may_ask(config, tags):
        ask_of_config(config, tags, audit, "")
    what = [*plan.opaque, *dict.fromkeys(f"{CONFIG_FILE}: {row.what}" for row in audit.findings)]
    if not what:
        return Needs([], "")
    inside = sum(len(data) for _, data in plan.referring)
    for name, draft in plan.files.items():
        if not draft.opaque:
            continue
        if name.endswith(STASH_FILE):
            inside += sum(item.nbytes() for item in draft.storages)
        if draft.size <= _READ:
            CODECS[plan.codec].load(MemorySource(bytearray(bytes(draft))), LoadOptions(audit, file=name))
            _check_possible(audit.findings, name, draft.opaque)
        else:
            audit.decide(pickled(unknown_globals(draft.pickled)), file=name)
    for name, data in plan.referring:
        check_referring(data, LoadOptions(audit, file=name))
        _check_possible(audit.findings, name, plan.opaque)
    return Needs(what, door_to(audit.findings), inside)


def _check_possible(rows: Sequence[Finding], name: str, what: Sequence[str]) -> None:
    for row in rows:
        if row.what.startswith(IMPOSSIBLE):
            error = row.what.removeprefix(IMPOSSIBLE)
            raise UnsupportedObjectError(
                f"no load can read a pickled part of this object ({error}): {'; '.join(what[:3])}",
                fix="Correct how its class is pickled (`__reduce__`, `__setstate__`), or leave it out of the object.",
                file=name,
            )


def is_news(door: str, what: list[str]) -> bool:
    """Whether no save of this process has needed this argument for the same classes yet."""
    # A list of names is a cause by itself; what needs every door has causes of many kinds
    cause = (door, *(sorted({sentence.rpartition(" ")[2] for sentence in what}) if door == EVERYTHING else ()))
    if cause in _warned:
        return False
    _warned.add(cause)
    return True
