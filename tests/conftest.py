"""Shared fixtures: the component classes of the golden saves, a fresh seed, and torch kept to one thread per worker.

Here is also what `make quick` leaves out: the marks `slow`, `process` and `browser` of tests and whole files.
"""

from __future__ import annotations

import gc
import importlib
import random
import sys
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from helpers.seeding import seed

from flambe_save import opening

GOLDEN = Path(__file__).parent / "golden"
for _folder in ("flambe_0_4", "before_rooms"):  # so that the modules behind the golden saves import
    sys.path.insert(0, str(GOLDEN / _folder))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Make every test start from the same random numbers."""
    seed(0)
    torch.set_num_threads(1)
    opening._warned.clear()  # each test is told of what needs trust


MARKS: dict[str, frozenset[str]] = {  # files
    "slow": frozenset(
        (
            *("test_edits", "test_random_modules", "test_round_trip", "test_interrupts", "test_every_value"),
            *("test_history", "test_config_budgets", "test_attributes", "test_fast_paths", "test_benchmarks"),
            *("test_transformers", "test_timm", "test_peft", "test_geometric", "test_sklearn", "test_resuming"),
            *("test_optimizers", "test_background", "test_conversion", "test_docs", "test_check", "test_init"),
            *("test_fuzz", "test_faults", "test_crash", "test_concurrent", "test_large_trees", "test_power_cut"),
            *("test_ecosystem", "test_resuming_libraries", "test_wrapped_training"),
        )
    ),
    "process": frozenset(
        (
            *("test_cli_docs", "test_examples", "test_scripts", "test_redefined", "test_forks", "test_versions"),
            *("test_layers", "test_audit_work"),
        )
    ),
    "browser": frozenset(("test_page_browser", "test_site_browser")),
}
STARTS_PYTHON = ("run_program", "run_python", "subprocess", "command", "on_terminal", "deaths")
SLOW = frozenset(("test_both_ways_of_reading_agree", "test_sets_do_not_depend_on_the_hash_seed", "test_any_sizes"))
MANY = 12  # cases of one test, of which `make quick` takes a tenth
# They fork the process of the tests, which takes longer the more memory it has
FORKING = frozenset(
    (
        *("test_crash", "test_faults", "test_power_cut", "test_concurrent", "test_large_trees"),
        *("test_hostile", "test_doors", "test_fuzz", "test_forks"),
    )
)
# They import large libraries, which stay in memory
LIBRARIES = frozenset(
    (
        *("test_geometric", "test_lightning", "test_peft", "test_sklearn", "test_timm", "test_transformers"),
        *("test_resuming_libraries", "test_wrapped_training"),
    )
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option for the order of tests."""
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run files, and the tests of each, in a random order")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Mark what takes long, what starts other programs, and all but a tenth of a test's many cases; order the rest."""
    mark(items)
    yield  # deselects
    arrange(items)
    seed = config.getoption("shuffle")
    if seed is not None:
        draw = random.Random(seed)
        files = list(dict.fromkeys(item.path for item in items))
        place = {path: number for number, path in enumerate(draw.sample(files, len(files)))}
        draw.shuffle(items)
        items.sort(key=lambda item: place[item.path])  # a fixture of a file is made once


def pytest_collection_finish() -> None:
    """Let garbage collections, of which some tests make many, look at what the tests make alone.

    Without this each looks at all that was imported too, and copies its memory in each forked process.
    """
    importlib.import_module("hypothesis")  # its start looks for referrers, which are not found afterwards
    gc.collect()
    gc.freeze()


def arrange(items: list[pytest.Item]) -> None:
    """Put tests that fork first, and those of large libraries where the second of two workers begins."""
    forking = [item for item in items if item.path.stem in FORKING]
    libraries = [item for item in items if item.path.stem in LIBRARIES]
    others = [item for item in items if item.path.stem not in FORKING | LIBRARIES]
    half = max(0, len(items) // 2 - len(forking))
    while 0 < half < len(others) and others[half].path == others[half - 1].path:  # a fixture of a file is made once
        half += 1
    items[:] = [*forking, *others[:half], *libraries, *others[half:]]


def mark(items: list[pytest.Item]) -> None:
    """Mark tests for `make quick`."""
    cases: dict[tuple[Path, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        for mark, files in MARKS.items():
            if item.path.stem in files:
                item.add_marker(mark)
        if getattr(item, "originalname", None) in SLOW:
            item.add_marker("slow")
        function = getattr(item, "function", None)
        names = getattr(getattr(function, "__code__", None), "co_names", ())
        if any(name in STARTS_PYTHON for name in names):
            item.add_marker("process")
        cases[item.path, getattr(item, "originalname", None) or item.name].append(item)
    for found in cases.values():
        for number, item in enumerate(found if len(found) > MANY else ()):
            if number % 10:
                item.add_marker("slow")
