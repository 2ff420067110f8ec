"""Threads for work that releases Python's lock: reads, writes and checksums of megabytes.

Plain threads, and not an executor of concurrent.futures: those refuse work while the interpreter shuts down, when a
save in the background may still have to be finished.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from flambe_save.errors import FlambeSaveError
from flambe_save.support.undoing import note_undo

T = TypeVar("T")
R = TypeVar("R")

_MOST = 4  # more threads than this only wait for each other: memory and disks are what is slow


def default_threads() -> int:
    """Return the default number of threads."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST, available)


def check_threads(threads: int | None, error: type[FlambeSaveError]) -> int:
    """Return the number of threads that a caller asks for.

    Raises
    ------
    error
        If it is not a whole number above 0.
    """
    if threads is None:
        return default_threads()
    if type(threads) is not int or threads < 1:
        raise error(f"threads={threads!r} is not a number of threads", fix="Pass a whole number above 0, or none.")
    return threads


def in_threads(call: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """Call a function for each item, in several threads; the results are in the items' order.

    This thread works too, with up to ``threads - 1`` others.

    After an error no further call begins; the first one's error is raised when all threads have stopped.
    """
    waiting: Sequence[T] = list(items)
    if threads <= 1 or len(waiting) <= 1:
        return [call(item) for item in waiting]
    results: list[Any] = [None] * len(waiting)
    errors: list[BaseException] = []
    left = iter(range(len(waiting)))
    lock = threading.Lock()

    def work() -> None:
        while not errors:
            with lock:
                index = next(left, None)
            if index is None:
                return
            try:
                results[index] = call(waiting[index])
            except BaseException as error:
                errors.append(error)

    helpers = [threading.Thread(target=work, name="flambe_save-work") for _ in range(min(threads, len(waiting)) - 1)]
    try:
        with contextlib.suppress(RuntimeError):  # the interpreter exits, or the system has no more threads
            for helper in helpers:
                helper.start()
        work()
    except BaseException as error:  # an interrupt between two calls
        errors.append(error)
    # Invariant: no helper outlives this call, whatever interrupts it: it reads and writes memory of the caller's
    while any(helper.is_alive() for helper in helpers):
        try:
            for helper in helpers:
                if helper.is_alive():
                    helper.join()
        except BaseException as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return results


class CollectionPaused:
    """Pauses garbage collection inside its ``with``, where it would take half the time.

    Objects outside cycles are freed as ever. It is one switch for the whole process: the last of several threads to
    leave turns it on again, unless it was off before.
    """

    _lock = threading.Lock()
    _users: set[CollectionPaused] = set()  # noqa: RUF012  (of all threads)
    _was_on = False

    def __enter__(self) -> None:
        kind = CollectionPaused
        self._forget = note_undo(self._leave)
        with kind._lock:
            if not kind._users:
                kind._was_on = gc.isenabled()
            kind._users.add(self)
            gc.disable()

    def __exit__(self, *error: object) -> None:
        self._leave()
        self._forget()

    def _leave(self) -> None:
        kind = CollectionPaused
        with kind._lock:
            kind._users.discard(self)
            if not kind._users and kind._was_on:
                gc.enable()
                kind._was_on = False


def _after_fork() -> None:
    """Reset the switch in a forked process, where the threads that were inside do not exist."""
    kind = CollectionPaused
    if kind._users and kind._was_on:
        gc.enable()
    kind._lock, kind._users, kind._was_on = threading.Lock(), set(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def spans(start: int, stop: int, threads: int, least: int) -> list[tuple[int, int]]:
    """Cut a range of bytes into spans of at least ``least`` bytes, one for each thread at most."""
    count = min(threads, (stop - start) // least)
    if count <= 1:
        return [(start, stop)]
    step = -(-(stop - start) // count)
    return [(begin, min(begin + step, stop)) for begin in range(start, stop, step)]
