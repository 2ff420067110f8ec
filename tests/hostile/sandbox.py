"""Runs a function in a forked child within limits of time and memory, and says how it went."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import pickle
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Python's own tables of characters, which zipfile and others look up by name
HARMLESS = (
    "flambe_save.adapters.",
    "encodings",
)
PAGE = resource.getpagesize()


class Killed(AssertionError):
    """The child did not come back: a crash, or more time than it had."""


def in_child(function: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return what a function returns in a forked child; the child is killed when its time is over."""
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads; the child uses none
        child = os.fork()
    if not child:
        os.close(reading)
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                answer = pickle.dumps((True, function()))
            except BaseException:
                answer = pickle.dumps((False, traceback.format_exc()))
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(answer)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        raise Killed("it took too long" if number == signal.SIGALRM else f"it crashed: {signal.Signals(number).name}")
    fine, value = pickle.loads(answer)
    assert fine, value
    return value


def limit(seconds: float, more_memory: int) -> None:
    """Give this process so much more time and memory."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * PAGE
    resource.setrlimit(resource.RLIMIT_AS, (now + more_memory, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def peak() -> int:
    """Return the most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def no_imports() -> Iterator[list[str]]:
    """Refuse to import what is not imported yet, and note it."""
    asked: list[str] = []
    real_import, real_import_module = builtins.__import__, importlib.import_module

    def check(name: str) -> None:
        if name not in sys.modules and not name.startswith(HARMLESS):
            asked.append(name)
            raise ImportError(f"{name} is not imported yet")

    def guarded(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        full = name
        if level:
            full = importlib.util.resolve_name("." * level + name, (globals or {}).get("__package__") or "")
        check(full)
        return real_import(name, globals, locals, fromlist, level)

    def guarded_module(name: str, package: str | None = None) -> Any:
        check(importlib.util.resolve_name(name, package) if name.startswith(".") else name)
        return real_import_module(name, package)

    builtins.__import__, importlib.import_module = guarded, guarded_module
    try:
        yield asked
    finally:
        builtins.__import__, importlib.import_module = real_import, real_import_module
