"""The power goes while a save is written: what was synced, in which order, and what can be found afterwards."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from durability_tools import (
    SHAPES,
    Operation,
    Whole,
    every_shape,
    needs_fork,
    needs_proc,
    operations_of,
    outcome,
    times,
    tree,
    values_of,
    without_renameat2,
    write,
)
from helpers.places import TORTURE
from power_model import Disk, State, lay_out

from flambe_save import LoadError, load

pytestmark = [needs_fork, needs_proc]

Figure = Callable[[str, object], None]


class Recorded(NamedTuple):
    """A save that was written by a process that is gone, operation by operation."""

    operations: list[Operation]
    disk: Disk  # as it was before
    folder: Path
    inside: str  # the save's path below the folder
    wanted: dict[str, dict[str, Any]]

    @property
    def path(self) -> str:
        """Where the save is."""
        return str(self.folder / self.inside)

    @property
    def swap(self) -> int:
        """The index of the operation that made the new save the one at the path."""
        return next(
            index
            for index, operation in enumerate(self.operations)
            if operation.name in ("rename", "replace", "link", "exchange")
            and (operation.paths[-1] == self.path or (operation.name == "exchange" and self.path in operation.paths))
        )


def record(
    tmp_path: Path, name: str, flags: tuple[bool, bool], *, first: bool = False, swap: bool = True, **options: Any
) -> Recorded:
    """Save in a child that is watched: over an old save, or below folders that are not there yet."""
    old, new = Whole(1, 300, 2), Whole(2, 400)
    folder = tmp_path / "disk"
    folder.mkdir()
    inside = f"some/where/{name}" if first else name
    if not first:
        write(old, folder / inside, flags)
    disk = Disk(folder)

    def body() -> None:
        if not swap:
            without_renameat2()
        write(new, folder / inside, flags, overwrite=not first, **options)

    operations = operations_of(body, done=True)
    wanted = {"new": values_of(new), **({} if first else {"old": values_of(old)})}
    assert outcome(folder / inside, wanted) == "new"
    return Recorded(operations, disk, folder, inside, wanted)


# ------------------------------------------------------------------------------------------------------- the order


def check_order(recorded: Recorded) -> None:
    """Assert that all that was made is synced between its last change and the swap."""
    operations, swap = recorded.operations, recorded.swap
    changed: dict[str, int] = {}
    synced: dict[str, int] = {}
    for index, operation in enumerate(operations[:swap]):
        if operation.name in ("open", "truncate", "write", "ftruncate", "mkdir"):
            changed[operation.paths[0]] = index
            if operation.name != "write":
                changed[os.path.dirname(operation.paths[0])] = index
        elif operation.name in ("fsync", "fdatasync"):
            synced[operation.paths[0]] = index
    aside = operations[swap].paths[0] if operations[swap].paths[0] != recorded.path else operations[swap].paths[-1]
    written = {path for path in changed if path == aside or path.startswith(aside + os.sep)}
    assert written, "nothing was written aside"
    late = sorted(path for path in written if synced.get(path, -1) < changed[path])
    assert not late, f"not synced after the last change and before the swap: {late}"


def check_after(recorded: Recorded) -> None:
    """Assert that the folder is synced after the swap, and that nothing of the old save is removed before."""
    operations, swap = recorded.operations, recorded.swap
    after = operations[swap + 1 :]
    parent = os.path.dirname(recorded.path)
    syncs = [index for index, operation in enumerate(after) if operation[:2] == ("fsync", (parent,))]
    removals = [index for index, operation in enumerate(after) if operation.name in ("unlink", "remove", "rmdir")]
    assert syncs, "the folder that holds the save is not synced after the swap"
    # Where a second name was given to the new file, removing its first name loses nothing
    safe = operations[swap].name == "link" or not removals
    assert safe or syncs[0] < removals[0], "the old save is removed before the swap is on the disk"


def cases(**all_options: dict[str, bool]) -> pytest.MarkDecorator:
    """Run a test with each of some options."""
    return pytest.mark.parametrize("options", all_options.values(), ids=all_options)


@every_shape
@cases(plain={}, durable={"durable": True}, by_renames={"swap": False})
def test_an_overwrite_is_synced_in_order(
    name: str, flags: tuple[bool, bool], options: dict[str, bool], tmp_path: Path
) -> None:
    """Files, folders, swap, the folder above, and only then is the old save removed."""
    recorded = record(tmp_path, name, flags, **options)
    check_order(recorded)
    check_after(recorded)


@every_shape
def test_a_durable_first_save_is_synced_in_order(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """With ``durable=True`` a fresh save too; and the folders made for it, in the folders that list them."""
    recorded = record(tmp_path, name, flags, first=True, durable=True)
    check_order(recorded)
    check_after(recorded)
    made = {operation.paths[0]: index for index, operation in enumerate(recorded.operations) if operation[0] == "mkdir"}
    for folder in (recorded.folder / "some", recorded.folder / "some/where"):
        syncs = [
            index
            for index, operation in enumerate(recorded.operations)
            if operation[:2] == ("fsync", (str(folder.parent),))
        ]
        assert syncs, f"{folder.parent} is never synced, so {folder} may be lost"
        assert syncs[-1] > made[str(folder)]


@every_shape
def test_a_plain_first_save_syncs_nothing(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """Where there is nothing to lose, nobody waits for the disk unless asked to."""
    recorded = record(tmp_path, name, flags, first=True)
    assert not [operation for operation in recorded.operations if operation.name in ("fsync", "fdatasync")]


# ------------------------------------------------------------------------------------------------------- every cut


def states_of(recorded: Recorded, *, extra: int) -> list[tuple[int, State]]:
    """Return what may be found after a cut between any two operations, each state once."""
    rng = random.Random(recorded.inside)
    states: list[tuple[int, State]] = []
    seen = set()
    for index in range(len(recorded.operations) + 1):
        if index:
            recorded.disk.replay(recorded.operations[index - 1])
        for state in recorded.disk.cuts(rng, extra):
            # What a load can see: the save, and an old one called aside
            visible = {
                name: content
                for name, content in state.items()
                if name.startswith(recorded.inside) or name.partition("/")[0].endswith("-old")
            }
            last = index == len(recorded.operations)
            key = (last, *sorted(visible.items()))
            if key not in seen:
                seen.add(key)
                states.append((index, state))
    assert recorded.disk.now() == {os.path.normpath(name): data for name, data in tree(recorded.folder).items()}
    return states


def look(recorded: Recorded, state: State, tmp_path: Path) -> str:
    """Lay a state out, and load from it."""
    folder = tmp_path / "found"
    lay_out(state, folder)
    try:
        return outcome(folder / recorded.inside, recorded.wanted)
    finally:
        shutil.rmtree(folder)


@every_shape
@cases(
    overwrite={},
    overwrite_durably={"durable": True},
    first_durably={"first": True, "durable": True},
    overwrite_by_renames={"swap": False},
    first_by_link={"first": True, "durable": True, "swap": False},
)
def test_any_power_cut_leaves_one_whole_save(
    name: str, flags: tuple[bool, bool], options: dict[str, bool], tmp_path: Path, figure: Figure
) -> None:
    """Whatever part of what was not synced is lost, a load gives the old or the new; after the save's end, the new."""
    recorded = record(tmp_path, name, flags, **options)
    states = states_of(recorded, extra=times(3, 50))
    if not TORTURE and len(states) > 60:
        states = states[:: len(states) // 50] + states[-3:]
    allowed = {"nothing" if "old" not in recorded.wanted else "old", "new"}
    counts: Counter[str] = Counter()
    for index, state in states:
        found = look(recorded, state, tmp_path)
        where = f"cut after {index} of {len(recorded.operations)}: {[o[:2] for o in recorded.operations[:index]][-1:]}"
        assert found in ({"new"} if index == len(recorded.operations) else allowed), f"{where}: {sorted(state)}"
        counts[found] += 1
    assert counts["new"] > 0
    figure("different states after a power cut", len(states))
    figure("found", dict(counts))


@every_shape
def test_a_plain_first_save_is_never_taken_for_what_it_is_not(
    name: str, flags: tuple[bool, bool], tmp_path: Path, figure: Figure
) -> None:
    """What was not synced may be lost; then a load says so, and gives no other model than the one saved."""
    recorded = record(tmp_path, name, flags, first=True)
    counts: Counter[str] = Counter()
    for _, state in states_of(recorded, extra=times(3, 50)):
        try:
            found = look(recorded, state, tmp_path)
        except LoadError:
            found = "an error"
        assert found in ("nothing", "new", "an error"), sorted(state)
        counts[found] += 1
    figure("found", dict(counts))


def test_a_save_over_what_a_power_cut_left(tmp_path: Path, figure: Figure) -> None:
    """After any cut the next save goes through, and nothing is left beside it."""
    saves = 0
    for number, options in enumerate(({}, {"swap": False}, {"first": True, "durable": True})):
        (tmp_path / str(number)).mkdir()
        recorded = record(tmp_path / str(number), "run", SHAPES["run"], **options)
        states = states_of(recorded, extra=1)
        rng = random.Random(number)
        for _, state in rng.sample(states, min(len(states), times(8, 400))):
            folder = tmp_path / "found"
            lay_out(state, folder)
            path = folder / recorded.inside
            model = Whole(9)
            write(model, path, SHAPES["run"])
            assert values_of(load(path)) == values_of(model)
            assert os.listdir(path.parent) == ["run"]
            shutil.rmtree(folder)
            saves += 1
    figure("saves over what a power cut left", saves)
