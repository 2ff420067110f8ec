"""A process that is forked while other threads save, load and record: it goes on by itself."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flambe_save.cli
import flambe_save.page
from flambe_save import load, recording, save
from flambe_save.deferred_init.patches import SHOWING, Watch
from flambe_save.schema.schema import schema_of

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

_LOCKS = (type(threading.Lock()), type(threading.RLock()))


def global_locks() -> dict[str, Any]:
    """Return all locks of the package that belong to no object of a call: in modules, classes, and objects there."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] != "flambe_save" or name.startswith("flambe_save.testing"):
            continue
        for key, value in vars(module).items():
            is_own = getattr(value, "__module__", type(value).__module__).partition(".")[0] == "flambe_save"
            holders = {"": module} | ({key: value} if is_own and hasattr(value, "__dict__") else {})
            for where, holder in holders.items():
                for inner, lock in [*vars(holder).items()]:
                    if isinstance(lock, _LOCKS) and id(lock) not in seen:
                        seen.add(id(lock))
                        found[f"{name}.{where}.{inner}".replace("..", ".")] = lock
    return found


def in_child(work: Callable[[], Any]) -> bool:
    """Fork, and return whether the child could do some work in ten seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: its own pool does not survive a fork."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_forked_child_saves_and_loads_whatever_other_threads_hold(tmp_path: Path, one_thread: None) -> None:
    """Every lock that all threads share is made anew in the child."""
    path = save({"model": nn.Linear(2, 2)}, tmp_path / "save")
    locks, go_on, held = global_locks(), threading.Event(), threading.Event()
    assert {"flambe_save.running.LOCK", "flambe_save.describing.recording._CONSTRUCTORS._lock"} <= locks.keys()

    def hold() -> None:
        for lock in locks.values():
            lock.acquire()
        held.set()
        go_on.wait(30)
        for lock in locks.values():
            lock.release()

    def work() -> None:
        with recording():
            assert schema_of(nn.Linear(2, 2)) is not None
        assert load(path)["model"].in_features == 2
        flambe_save.save_async({"model": nn.Linear(2, 2)}, tmp_path / "other").result()
        assert load(tmp_path / "other")["model"].in_features == 2

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    try:
        assert in_child(work)
    finally:
        go_on.set()
        thread.join()


def test_a_forked_child_is_left_with_nothing_of_other_threads(one_thread: None) -> None:
    """What another thread has replaced for a while is put back in the child; what the forking one has stays."""
    before, entered, go_on = torch.get_rng_state, threading.Event(), threading.Event()
    constructor = nn.Linear.__init__

    def other() -> None:
        user = object()
        watch = Watch(lambda name: None, SHOWING)
        watch.enter(user)
        with recording():
            entered.set()
            go_on.wait(30)
        watch.leave(user)

    def is_as_before() -> None:
        assert torch.get_rng_state is before
        assert nn.Linear.__init__ is constructor

    def records() -> None:
        assert schema_of(nn.Linear(1, 1)) is not None

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)
    try:
        assert torch.get_rng_state is not before
        assert in_child(is_as_before)
        with recording():
            assert in_child(records)
    finally:
        go_on.set()
        thread.join()
    assert torch.get_rng_state is before
    assert nn.Linear.__init__ is constructor
