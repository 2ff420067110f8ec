"""Random states during a load: kept for the caller, and tracked for deferred draws."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch

from flambe_save.support.undoing import note_undo

Setters: TypeAlias = "list[Callable[[], Any]]"


class _Kept:
    """Random states to restore, and the loads under way that share them."""

    def __init__(self, user: ForkRng) -> None:
        self.setters = _setters()
        self.users = {user}


_lock = threading.Lock()
_shared: _Kept | None = None  # of the loads in all threads, which all draw from the same generators
_mine: ContextVar[_Kept | None] = ContextVar("random states to restore", default=None)


def _after_fork() -> None:
    """Reset a process that was just forked: the loads of other threads are not there."""
    global _lock, _shared
    _lock, _shared = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ForkRng:
    """Restores the random states of torch, numpy and Python at the end of its ``with``.

    They are torch's CPU generator, those of CUDA devices where CUDA is in use, numpy's global one where numpy is
    imported, and that of Python's ``random``. Where loads of several threads overlap, the last to end restores what the
    first has found.
    """

    def __init__(self) -> None:
        self._outer = _mine.get()
        self._kept: _Kept | None = None

    def __enter__(self) -> None:
        global _shared
        self._forget = note_undo(self._end)
        with _lock:
            if self._outer is not None:
                self._kept = _Kept(self)
            elif _shared is None:
                self._kept = _Kept(self)  # so that an interrupt before the next line ends it
                _shared = self._kept
            else:
                self._kept = _shared
                _shared.users.add(self)
        _mine.set(self._kept)

    def __exit__(self, *error: object) -> None:
        self._end()
        self._forget()

    def _end(self) -> None:
        global _shared
        kept = self._kept
        if kept is None:
            return
        _mine.set(self._outer)
        with _lock:
            kept.users.discard(self)
            if not kept.users:
                _call(kept.setters)
                _shared = None if kept is _shared else _shared


def restore_random_states() -> None:
    """Restore what the ``ForkRng`` in force will, now and not at its end: later changes stay."""
    kept = _mine.get()
    if kept is not None:
        _call(kept.setters)


def _call(setters: Setters) -> None:
    while setters:
        setters[-1]()
        setters.pop()  # afterwards: after an interrupt it is called again


def _setters() -> Setters:
    """Functions that restore the present random states."""
    setters: Setters = []

    def keep(setter: Callable[[Any], Any], state: Any) -> None:
        setters.append(lambda: setter(state))

    keep(torch.set_rng_state, torch.get_rng_state())  # a load around this one makes its deferred draws first
    for generator in torch.cuda.default_generators if torch.cuda.is_initialized() else ():  # type: ignore[no-untyped-call]
        keep(generator.set_state, generator.get_state())
    keep(random.setstate, random.getstate())
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        keep(numpy_random.set_state, numpy_random.get_state(legacy=False))
    return setters


class GeneratorTimeline:
    """States of torch's CPU generator, as if the deferred draws had been made.

    Draws are numbered. While any is deferred, the generator is one number further than where they begin. So any state
    that code sets, even the one that they begin with, differs from the present one, and later draws go on from it.
    Before code gets the state, all deferred draws are made (patches.py).
    """

    def __init__(self) -> None:
        self._generator = torch.default_generator
        self._one = torch.empty(1)
        self._starts: dict[int, torch.Tensor] = {}  # the states that were set, by the first draw after each
        self._set: torch.Tensor | None = None  # the generator's since the last draw was deferred
        self._count = 0

    def defer(self) -> int:
        """Defer a draw, and return its number."""
        now = self._generator.get_state()
        if self._set is None or not torch.equal(now, self._set):
            self._starts[self._count] = now
            self._one.uniform_()
            self._set = self._generator.get_state()
        self._count += 1
        return self._count - 1

    def replay(self) -> Callable[[int | None], None]:
        """The function to call before each deferred draw, which sets the generator's state.

        It takes the number of the draw; the draws come in order, and None after the last.
        """
        now = self._generator.get_state()
        starts: dict[int | None, torch.Tensor] = dict(self._starts.items())
        if self._set is not None and not torch.equal(now, self._set):
            starts[None] = now
        self._starts, self._set = {}, None

        def before(number: int | None) -> None:
            if number in starts:
                self._generator.set_state(starts[number])

        return before
