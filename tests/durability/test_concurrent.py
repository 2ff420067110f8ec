"""Several processes and threads at one path: writers that meet, and readers that never see a part of a save."""

from __future__ import annotations

import mmap
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from durability_tools import (
    SHAPES,
    Child,
    Ended,
    Operation,
    Whole,
    at,
    every_shape,
    needs_fork,
    number_in,
    times,
    values_of,
    watch,
    without_renameat2,
    write,
)

from flambe_save import FlambeSaveError, SaveError, TargetExistsError, load
from flambe_save.storage import open_store

pytestmark = needs_fork

Figure = Callable[[str, object], None]

every_system = pytest.mark.parametrize("swap", [True, False], ids=["swap", "by_renames"])


class Shared:
    """A few numbers that forked processes see together."""

    def __init__(self, count: int = 4) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 8 * count)).cast("q")  # each is read and written in one piece

    def __getitem__(self, index: int) -> int:
        return self._numbers[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._numbers[index] = value


def together(*bodies: Callable[[], Any]) -> list[Ended]:
    """Run functions in as many processes, which begin at one moment."""
    ready = Shared(len(bodies))

    def waiting(index: int, body: Callable[[], Any]) -> Any:
        ready[index] = 1
        while not all(ready[other] for other in range(len(bodies))):
            pass
        return body()

    children = [Child(lambda index=index, body=body: waiting(index, body)) for index, body in enumerate(bodies)]
    return [child.wait() for child in children]


# ------------------------------------------------------------------------------------------------------- two writers


@pytest.mark.parametrize("overwrite", [False, True], ids=["first", "overwrite"])
@every_shape
def test_two_writers(name: str, flags: tuple[bool, bool], overwrite: bool, tmp_path: Path, figure: Figure) -> None:
    """Two processes save to one path: one result, whole, of one that was told so; the other is told that it lost."""
    path = tmp_path / name
    if overwrite:
        write(Whole(9), path, flags)
    results: Counter[str] = Counter()
    rounds = times(4, 200)
    for round_ in range(rounds):
        if not overwrite:
            _clear(tmp_path)
        models = {number: Whole(number, 50 * number) for number in (1, 2)}
        ended = together(
            *(lambda model=model: write(model, path, flags, overwrite=overwrite) for model in models.values())
        )
        assert [one.status for one in ended] == [0, 0], ended
        winners = [number for number, one in enumerate(ended, 1) if one.raised is None]
        assert winners, f"nobody won: {ended}"
        for one in ended:
            if one.raised is not None:
                assert one.raised.is_a(SaveError if overwrite else TargetExistsError), one.raised
                assert path.name in one.raised.text
                assert one.raised.fix
        assert overwrite or len(winners) == 1, "both were told that they were first"
        loaded = load(path)
        assert number_in(loaded) in winners, f"round {round_}: what is there was not saved successfully"
        assert values_of(loaded) == values_of(models[number_in(loaded)])
        assert os.listdir(tmp_path) == [name]
        results["one won" if len(winners) == 1 else "one after the other"] += 1
    figure("rounds of two writers", rounds)
    figure("results", dict(results))


@every_system
@every_shape
def test_a_target_that_was_replaced_meanwhile(name: str, flags: tuple[bool, bool], swap: bool, tmp_path: Path) -> None:
    """A save that began before another one ended does not overwrite it: the slower writer is told."""
    path = tmp_path / name
    write(Whole(9), path, flags)
    turn = Shared()

    def slow() -> None:
        if not swap:
            without_renameat2()

        def wait(operation: Operation) -> None:
            turn[0] = 1
            while not turn[1]:
                time.sleep(0.001)

        watch(before=at(1, wait, ("write",)))
        write(Whole(1), path, flags)

    child = Child(slow)
    end = time.monotonic() + 60
    while not turn[0]:
        assert time.monotonic() < end, "the other process never began"
        time.sleep(0.001)
    write(Whole(2), path, flags)
    turn[1] = 1
    ended = child.wait()
    assert ended.raised is not None
    assert ended.raised.is_a(SaveError), ended.raised
    assert number_in(load(path)) == 2
    assert os.listdir(tmp_path) == [name]


def test_many_writers_beside_each_other(tmp_path: Path) -> None:
    """Processes that save to different paths in one folder do not disturb each other, however alike the names are."""
    names = ["run", "run.1", "run.1.2", "run.pkl", "run.1.pkl", "run.tar.gz"]

    def body(name: str, number: int) -> None:
        for _ in range(times(5, 50)):
            write(Whole(number), tmp_path / name, SHAPES.get(name, (False, name.endswith(".pkl"))))

    ended = together(*(lambda name=name, number=number: body(name, number) for number, name in enumerate(names)))
    assert [(one.status, one.raised) for one in ended] == [(0, None)] * len(names)
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert [number_in(load(tmp_path / name)) for name in names] == list(range(len(names)))


def _clear(folder: Path) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir():
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


# ------------------------------------------------------------------------------------------- readers beside a writer


@contextmanager
def looping(path: Path, flags: tuple[bool, bool], *, swap: bool = True) -> Iterator[Shared]:
    """Have a process save the numbers 1, 2, 3, ... to a path for as long as the block runs.

    Yields numbers seen by both: [0] is the last save that ended, [1] the one that began.
    """
    seen = Shared()
    write(Whole(0), path, flags)

    def body() -> None:
        if not swap:
            without_renameat2()
        model = Whole(0)
        number = 0
        while not seen[2]:
            number += 1
            model = Whole(number)
            seen[1] = number
            write(model, path, flags)
            seen[0] = number

    child = Child(body)
    try:
        yield seen
    finally:
        seen[2] = 1
        ended = child.wait()
    assert (ended.status, ended.raised) == (0, None), ended


@every_system
@every_shape
def test_loads_beside_a_writer(name: str, flags: tuple[bool, bool], swap: bool, tmp_path: Path, figure: Figure) -> None:
    """Whatever a writer is doing, each load gives one whole save, none older than the last that had ended."""
    loads = times(40, 400)
    different = set()
    with looping(tmp_path / name, flags, swap=swap) as seen:
        for _ in range(loads):
            before = seen[0]
            number = number_in(load(tmp_path / name))
            assert before <= number <= seen[1]
            different.add(number)
        last = seen
    assert number_in(load(tmp_path / name)) == last[0]
    assert os.listdir(tmp_path) == [name]
    figure("loads beside a writer", loads)
    figure("saves that the writer made meanwhile", last[0])
    figure("different saves loaded", len(different))
    assert len(different) > 1


@every_shape
def test_threads_load_beside_a_writer(name: str, flags: tuple[bool, bool], tmp_path: Path, figure: Figure) -> None:
    """Several threads of one process load while another process saves."""
    loads, failures = Counter[int](), []
    each = times(8, 80)

    def reader(index: int) -> None:
        try:
            for _ in range(each):
                before = seen[0]
                number = number_in(load(tmp_path / name))
                assert before <= number <= seen[1]
                loads[index] += 1
        except BaseException as error:
            failures.append(error)

    with looping(tmp_path / name, flags) as seen:
        threads = [threading.Thread(target=reader, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    assert sum(loads.values()) == 4 * each
    figure("loads of four threads beside a writer", 4 * each)


@every_shape
def test_a_part_is_loaded_beside_a_writer(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """``node=`` too gives a part of one whole save."""
    with looping(tmp_path / name, flags) as seen:
        for _ in range(times(8, 100)):
            before = seen[0]
            assert before <= number_in(load(tmp_path / name, node="parts.part0")) <= seen[1]


@every_shape
def test_a_store_that_was_opened_before_a_swap(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """Who has opened a store and reads on after a swap gets the old save's bytes, or an error; never a mixture."""
    path = tmp_path / name
    write(Whole(1), path, flags)
    old = contents(path)
    with open_store(path) as store:
        names = store.names()
        first = names[0]
        with store.reader(first) as file:
            assert file.read() == old[first]
            write(Whole(2), path, flags)
            file.seek(0)
            assert file.read() == old[first]
        new = contents(path)
        assert new != old
        for each in names:
            try:
                with store.reader(each) as file:
                    found = file.read()
            except (KeyError, OSError, FlambeSaveError):
                assert name == "run", "a single file that was opened stays readable"
                continue
            # A single file may be the new one, as it is whole by itself
            whole = [old[each], new.get(each)] if name == "run.pkl" else [old[each]]
            assert found in whole, f"{each} is the new save's, among the old one's"


def contents(path: Path) -> dict[str, bytes]:
    """Return what a store reads at a path."""
    with open_store(path) as store:
        files = {}
        for each in store.names():
            with store.reader(each) as file:
                files[each] = file.read()
        return files
