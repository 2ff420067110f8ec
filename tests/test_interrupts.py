"""An interrupt at any call, return or line of what reads or writes a save leaves the process, and the path, whole."""

from __future__ import annotations

import contextvars
import gc
import os
import random
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import TORTURE
from torch import nn

import flambe_save
from flambe_save import Component, load, load_state, load_state_from_file, reseal, save, untrusted, verify
from flambe_save.conversion import convert, extract
from flambe_save.deferred_init import generators, mode
from flambe_save.support import in_order
from flambe_save.support.parallel import CollectionPaused
from flambe_save.support.undoing import note_undo

HERE = os.path.dirname(os.path.abspath(flambe_save.__file__)) + os.sep
POINTS = 30  # of each case, without FLAMBE_SAVE_TORTURE
# Where a tracer sees a line and an interrupt cannot come: CPython looks for signals at calls and jumps alone, so not on
# the way out of a ``with`` or into a ``finally``
_WAYS_OUT = ("with ", "finally:", "try:")


class Model(Component, nn.Module):
    """Draws random numbers, more than are drawn at once."""

    def __init__(self, size: int = 200) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size)
        self.inner = nn.Sequential(nn.Linear(size, 2), nn.ReLU())
        self.note = {"a": [1, (2.5, "x")]}
        self.register_attrs("note")


class Interruption:
    """Raises KeyboardInterrupt at one of the events in this package, or counts them."""

    def __init__(self, at: int | None = None) -> None:
        self.count, self._at, self.place = 0, at, ""

    def __enter__(self) -> Interruption:
        sys.settrace(self._begin)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _begin(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(HERE):
            return None
        self._step(frame, event, argument)
        return self._step

    def _step(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "exception" or (event == "line" and _is_way_out(frame)):
            return self._step
        if self.count == self._at:
            sys.settrace(None)
            self.place = (
                f"{frame.f_code.co_filename.removeprefix(HERE)}:{frame.f_lineno} {frame.f_code.co_name} {event}"
            )
            raise KeyboardInterrupt(self.place)
        self.count += 1
        return self._step


_LINES: dict[str, list[str]] = {}


def _is_way_out(frame: Any) -> bool:
    name = frame.f_code.co_filename
    if name not in _LINES:
        _LINES[name] = Path(name).read_text().splitlines()
    return _LINES[name][frame.f_lineno - 1].lstrip().startswith(_WAYS_OUT)


def _ours() -> dict[str, Any]:
    """Return the context variables of this package that are set, and to what."""
    return {
        variable.name: value
        for variable, value in contextvars.copy_context().items()
        if value is not None and value is not False and value != frozenset() and variable.name in NAMES
    }


WATCHES = (mode._watch, mode._making)
# A file that a function returns is lost where the interrupt comes with the return: it is closed at once all the same
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
NAMES = {
    "undoing",
    "random states to restore",
    "deferral in force",
    "trust in force",
    "assembled",
    "described",
    "in parts",
    "opener of pickles",
    "saved",
    "shared",
}


@pytest.fixture(autouse=True)
def _without_garbage() -> None:
    """Have what earlier tests left in cycles closed now, and not while descriptors are counted."""
    gc.collect()


def _process() -> dict[str, Any]:
    """Return what of the process a save or a load might change."""
    flags = vars(torch.utils._python_dispatch)
    for thread in threading.enumerate():
        if thread.name.startswith("flambe_save"):  # it was told to end, and does so by itself
            thread.join(10)
    return {
        "gc": gc.isenabled(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
        "flags": [flags[name] for name in sorted(flags) if name.startswith("_is_in_")],
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "variables": _ours(),
        "torch's numbers": torch.get_rng_state().tolist(),
        "Python's numbers": random.getstate(),
        "descriptors": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else [],
        "threads": threading.active_count(),
        "users": (set(CollectionPaused._users), *(set(watch._users) for watch in WATCHES), generators._shared),
        "locks": [
            lock.locked() for lock in (CollectionPaused._lock, *(watch._lock for watch in WATCHES), generators._lock)
        ],
        "functions": (torch.get_rng_state.__module__, threading.Thread.start.__module__),
        "filters": warnings.filters,
    }


def _interrupt(call: Callable[[], object], at: int | None) -> Interruption:
    """Make a call with an interrupt, which is to come out."""
    assert gc.isenabled()
    dropped: list[Any] = []
    with pytest.MonkeyPatch.context() as patch, Interruption(at) as found:
        patch.setattr(sys, "unraisablehook", dropped.append)  # what Python drops where it clears an object away
        try:
            next(_made_apart(call))
        except KeyboardInterrupt:
            assert at is not None
        else:
            sys.settrace(None)
            assert at is None or dropped, f"the interrupt at {found.place} is lost"
    dropped.clear()
    return found


def _made_apart(call: Callable[[], object]) -> Iterator[object]:
    """Make a call in a generator, which has its own note of the exception at hand.

    CPython keeps that note where a tracer raises at the end of an ``except``, and an interrupt could not come.
    """
    yield call()


def _check_process(before: dict[str, Any], where: str) -> None:
    after = _process()
    if after != before:
        gc.collect()  # contextlib.ExitStack leaves the interrupt in a cycle, and with it what is mapped
        after = _process()
    assert after == before, f"{where}: {[key for key in before if before[key] != after[key]]}"


def _points(count: int, salt: str) -> Iterator[int]:
    wanted = range(count)
    return iter(wanted if TORTURE else sorted(random.Random(salt).sample(wanted, min(POINTS, count))))


def _make(path: Path, size: int, **options: Any) -> str:
    torch.manual_seed(size)
    return save(Model(size), path, **options)


WAYS: dict[str, dict[str, Any]] = {
    "folder": {},
    "archive": {"compress": True},
    "pickle": {"pickle_only": True},
}


def fill(path: str) -> None:
    load_state(FILLED, path)


FILLED = Model()
READERS = {"load": load, "state": load_state_from_file, "fill": fill, "verify": verify, "untrusted": untrusted}


@pytest.mark.parametrize("function", READERS.values(), ids=READERS)
@pytest.mark.parametrize("way", WAYS)
def test_interrupted_load(way: str, function: Callable[[Any], object], tmp_path: Path) -> None:
    """A load that is interrupted leaves all as it was, wherever the interrupt comes."""
    path = _make(tmp_path / "m", 200, **WAYS[way])
    function(path)
    count = _interrupt(lambda: function(path), None).count
    before, there = _process(), sorted(os.listdir(tmp_path))
    for at in _points(count, way):
        found = _interrupt(lambda: function(path), at)
        _check_process(before, f"{at}, {found.place}")
    assert sorted(os.listdir(tmp_path)) == there
    assert count > 200
    function(path)
    assert _process() == before


WRITERS: dict[str, Callable[[str, str], object]] = {
    "convert": lambda path, out: convert(path, f"{out}.tar.gz"),
    "convert to one file": lambda path, out: convert(path, f"{out}.safetensors"),
    "extract": lambda path, out: extract(path, "inner", out),
}


class Pair(Component, nn.Module):
    """Has a component inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Model(8)


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_interrupted_verb(writer: Callable[[str, str], object], tmp_path: Path) -> None:
    """A verb that is interrupted leaves nothing, or all that it makes."""
    path, place = save(Pair(), tmp_path / "m"), tmp_path / "into"

    def run() -> None:
        writer(path, str(place / "out"))

    run()
    (made,) = os.listdir(place)
    _clear(place)
    count = _interrupt(run, None).count
    _clear(place)
    before = _process()
    for at in _points(count, "verb"):
        found = _interrupt(run, at)
        _check_process(before, f"{at}, {found.place}")
        if place.exists():
            assert os.listdir(place) == [made], found.place
            assert made.endswith(".safetensors") or verify(place / made) == [], found.place
        _clear(place)
    assert count > 200
    assert verify(path) == []


def test_interrupted_reseal(tmp_path: Path) -> None:
    """The manifest is the old one or the new one."""
    path = save(Pair(), tmp_path / "m")
    config, manifest = tmp_path / "m" / "config.yaml", tmp_path / "m" / "manifest.json"
    old = manifest.read_bytes()
    config.write_text(config.read_text() + "# edited\n")
    names = sorted(os.listdir(path))
    reseal(path)
    new = manifest.read_bytes()
    manifest.write_bytes(old)
    count = _interrupt(lambda: reseal(path), None).count
    before = _process()
    for at in _points(count, "reseal"):
        manifest.write_bytes(old)
        found = _interrupt(lambda: reseal(path), at)
        _check_process(before, f"{at}, {found.place}")
        assert manifest.read_bytes() in (old, new), found.place
        assert sorted(os.listdir(path)) == names, found.place
    assert count > 200


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_interrupted_save(way: str, is_new: bool, tmp_path: Path) -> None:
    """A save that is interrupted leaves the old save or the new one, and nothing beside it."""
    model, options = Model(8), WAYS[way]
    place = tmp_path / "into"

    def again() -> str:
        return save(model, place / "deep" / "m", overwrite=not is_new, **options)

    path = Path(_make(place / "deep" / "m", 4, **options))
    old, name = path.stat().st_ino, path.name
    new = verify(save(model, tmp_path / "other", **options))
    assert new == []
    if is_new:
        _clear(place)
    count = _interrupt(again, None).count
    if is_new:
        _clear(place)
    before = _process()
    ends = set()
    for at in _points(count, f"{way} {is_new}"):
        found = _interrupt(again, at)
        _check_process(before, f"{at}, {found.place}")
        if path.exists():
            assert sorted(os.listdir(path.parent)) == [name], found.place
            assert verify(path) == [], found.place
            size = load_state_from_file(path)["layer.bias"].numel()
            assert size in ((8,) if is_new else (4, 8)), found.place
            ends.add(size)
        else:
            assert is_new, found.place
            assert not place.exists(), found.place
            ends.add(0)
        if is_new:
            _clear(place)
        elif path.stat().st_ino != old:
            old = (
                Path(_make(path if way == "folder" else place / "deep" / "m", 4, overwrite=True, **options))
                .stat()
                .st_ino
            )
    assert ends
    assert count > 200


def _clear(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)


def test_an_interrupt_right_after_threads_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes the threads of an archive back can be called before its note has been returned."""

    def noting(undo: Callable[[], None]) -> Callable[[], None]:
        note_undo(undo)
        raise KeyboardInterrupt

    monkeypatch.setattr(in_order, "note_undo", noting)
    with pytest.raises(KeyboardInterrupt):
        save(Model(8), tmp_path / "m", compress=True)
    assert os.listdir(tmp_path) == []
