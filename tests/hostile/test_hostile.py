"""Each hostile or damaged save is refused by a default load, in good time, without a trace, in words that help."""

from __future__ import annotations

import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from casebook import marker, warm
from cases import CASES, Case
from hostile_archives import FREE
from sandbox import HARMLESS, Worker, forget_peak, limit, no_imports, peak

from flambe_save import FlambeSaveError, StateMismatchError, load, load_state_from_file, untrusted, verify
from flambe_save.storage import tar_checks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="cases run in forked processes")

SECONDS = 6.0
MEMORY = 3 << 30
GROWTH = 700 << 20  # built_bytes is 512 MiB
LONGEST_LINE = 1500
NO_MEMORY = re.compile(r"(?i)can't allocate|cannot allocate|bad_alloc|MemoryError|out of memory")


class Outcome(NamedTuple):
    """What became of a load."""

    kinds: list[str]  # the error's class and its bases; empty where there was no error
    text: str
    warned: list[str]
    marked: bool
    asked: list[str]  # modules that it tried to import
    imported: list[str]
    seconds: float
    growth: int
    looked: bool = False  # it was only asked what it wants, or whether it is whole


def outcome_of(function: Callable[[Path], object], path: Path, folder: Path) -> Outcome:
    """Load in this process, which must be a child, and note all that can be seen of it."""
    forget_peak()
    before, start, memory = set(sys.modules), time.monotonic(), peak()
    kinds, text = [], ""
    with warnings.catch_warnings(record=True) as caught, no_imports() as asked:
        warnings.simplefilter("always")
        try:
            function(path)
        except BaseException as error:
            kinds, text = [kind.__name__ for kind in type(error).__mro__], str(error)
    took, growth = time.monotonic() - start, peak() - memory
    new = sorted(name for name in set(sys.modules) - before if not name.startswith(HARMLESS))
    warned = [str(item.message) for item in caught if issubclass(item.category, UserWarning)]
    return Outcome(kinds, text, warned, marker(folder).exists(), asked, new, took, growth)


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what a load always imports."""
    warm(tmp_path_factory.mktemp("warm"))


def run(name: str, folder: Path) -> list[Outcome]:
    """Make a case and load it: the object, and where that is refused too, the state; then look at what is in it."""
    with pytest.MonkeyPatch.context() as patch:
        if name.startswith("gzip_bomb_"):
            patch.setattr(tar_checks, "FREE", FREE)
        return outcomes(CASES[name], folder)


def outcomes(case: Case, folder: Path) -> list[Outcome]:
    """Return what became of each look at a case, in order."""
    path = case.make(folder)
    limit(SECONDS, MEMORY)
    found = [outcome_of(load, path, folder)]
    if case.state:
        found.append(outcome_of(load_state_from_file, path, folder))
    for function in (untrusted, verify):
        limit(SECONDS, MEMORY)
        found.append(outcome_of(function, path, folder)._replace(looked=True))
    return found


def check_text(text: str, kinds: list[str]) -> None:
    """Check an error's text: short, without control characters, and no invitation to trust."""
    lines = text.split("\n")
    assert all(line.isprintable() for line in lines), f"characters that do not print: {text!r}"
    assert all(len(line) <= LONGEST_LINE for line in lines), f"a line of {max(map(len, lines))} characters"
    if StateMismatchError.__name__ not in kinds:
        assert len([line for line in lines if line.strip()]) <= 2, text
    else:
        assert len(lines) <= 100
    assert "weights_only=False" not in lines[0].partition(". ")[0], text
    assert not NO_MEMORY.search(text), f"memory was asked for, and only the limit stopped it: {text}"
    assert " object at 0x" not in text, text


@pytest.fixture(scope="module")
def child(_warm: None) -> Iterator[Worker]:
    """A process in which cases run; one that a case kills is replaced."""
    worker = Worker(run)
    yield worker
    worker.close()


@pytest.mark.parametrize("name", CASES)
def test_is_refused(name: str, child: Worker, tmp_path: Path) -> None:
    """A default load gives the error of the table, and does nothing else; nor does looking at what it asks for."""
    case = CASES[name]
    expected = {kind.__name__ for kind in case.errors}
    for found in child(name, tmp_path):
        assert not found.marked, "the payload ran"
        if not found.looked:
            assert found.kinds, f"it was loaded; {case.rule}"
            assert expected & set(found.kinds), f"{found.kinds[0]}: {found.text}"
            assert re.search(case.message, found.text), found.text
        assert not found.kinds or FlambeSaveError.__name__ in found.kinds, f"{found.kinds[0]}: {found.text}"
        assert found.asked == [], f"it tried to import {found.asked}"
        assert found.imported == []
        assert found.growth < GROWTH, f"it took {found.growth >> 20} MiB"
        check_text(found.text, found.kinds)
        for text in found.warned:
            assert all(line.isprintable() for line in text.replace("\t", " ").split("\n")), repr(text)


def test_there_are_enough() -> None:
    """The table holds what it is meant to hold."""
    assert len(CASES) >= 100
    assert all(case.rule for case in CASES.values())
