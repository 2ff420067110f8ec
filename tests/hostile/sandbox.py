"""Runs functions in forked children within limits of time and memory, and says how it went."""

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
        raise Killed(_cause(status))
    fine, value = pickle.loads(answer)
    assert fine, value
    return value


class Worker:
    """A forked child that calls a function again and again, so that a fork is not paid for each case.

    A child that dies is replaced by another at the next call, and so is one that has answered often: what a case leaves
    behind in its process is then gone.

    Parameters
    ----------
    function : callable
        What is called; it limits itself.
    answers : int
        How often one child is asked.
    """

    def __init__(self, function: Callable[..., Any], answers: int = 100) -> None:
        self._function = function
        self._most = answers
        self._answers = 0
        self._child: int | None = None
        self._ask: Any = None
        self._answer: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Return what the function returns there.

        Raises
        ------
        Killed
            If the child died, or did not come back in time.
        AssertionError
            With the trace, where the function raised anything.
        """
        if self._child is None or self._answers >= self._most:
            self._begin()
        self._answers += 1
        pickle.dump(arguments, self._ask)
        self._ask.flush()
        try:
            fine, value = pickle.load(self._answer)
        except EOFError:
            raise self._death() from None
        assert fine, value
        return value

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._ask.close()
            self._answer.close()
            os.waitpid(self._child, 0)
            self._child = None

    def _begin(self) -> None:
        self.close()
        sys.stdout.flush()
        sys.stderr.flush()
        (asked, ask), (answer, answered) = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer Pythons warn of threads; the child uses none
            self._child = os.fork()
        if not self._child:
            os.close(ask)
            os.close(answer)
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                with os.fdopen(asked, "rb") as questions, os.fdopen(answered, "wb") as answers:
                    self._serve(questions, answers)
            finally:
                os._exit(0)
        os.close(asked)
        os.close(answered)
        self._ask, self._answer, self._answers = os.fdopen(ask, "wb"), os.fdopen(answer, "rb"), 0

    def _serve(self, questions: Any, answers: Any) -> None:
        while True:
            try:
                arguments = pickle.load(questions)
            except EOFError:
                return
            try:
                answer = pickle.dumps((True, self._function(*arguments)))
            except BaseException:
                answer = pickle.dumps((False, traceback.format_exc()))
            signal.setitimer(signal.ITIMER_REAL, 0)
            answers.write(answer)
            answers.flush()

    def _death(self) -> Killed:
        assert self._child is not None
        self._ask.close()
        self._answer.close()
        _, status = os.waitpid(self._child, 0)
        self._child = None
        return Killed(_cause(status))


def _cause(status: int) -> str:
    number = os.WTERMSIG(status)
    return "it took too long" if number == signal.SIGALRM else f"it crashed: {signal.Signals(number).name}"


def limit(seconds: float, more_memory: int) -> None:
    """Give this process so much more time and memory."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * PAGE
    resource.setrlimit(resource.RLIMIT_AS, (now + more_memory, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def peak() -> int:
    """Return the most memory that this process has had since :func:`forget_peak`, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) * 1024


def forget_peak() -> None:
    """Let :func:`peak` count from what this process has now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


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
