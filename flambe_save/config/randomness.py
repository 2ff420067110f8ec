"""Random states while an object is loaded: the caller's, which stay as they are, and the one that deferral.py puts off.

``kept_random_states`` gives the caller back what was there. ``Stream`` is where torch's CPU generator would be, had the
draws that are put off been made.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch

__all__ = ["Stream", "give_back_random_states", "kept_random_states"]

Setters: TypeAlias = "list[Callable[[], Any]]"
Draw: TypeAlias = "Callable[[torch.Generator], Any]"  # draws from a generator, into memory of its own


class _Kept:
    """Random states to give back, and how many loads are under way that share them."""

    def __init__(self) -> None:
        self.setters = _setters()
        self.users = 0


_lock = threading.Lock()
_shared: _Kept | None = None  # of the loads in all threads, which all draw from the same generators
_mine: ContextVar[_Kept | None] = ContextVar("random states to give back", default=None)


def _after_fork() -> None:
    """Begin anew, in a process that was just forked: the loads of other threads are not there."""
    global _lock, _shared
    _lock, _shared = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Give back, at the end of the ``with``, the random states of torch, numpy and Python that were there before.

    They are torch's CPU generator, those of CUDA devices where CUDA is in use, numpy's global one where numpy is
    imported, and that of Python's ``random``. Where loads of several threads overlap, the last to end gives back what
    the first has found.
    """
    global _shared
    is_inner = _mine.get() is not None
    with _lock:
        if is_inner or _shared is None:
            kept = _Kept()
            _shared = _shared if is_inner else kept
        else:
            kept = _shared
        kept.users += 1
    token = _mine.set(kept)
    try:
        yield
    finally:
        _mine.reset(token)
        with _lock:
            kept.users -= 1
            if not kept.users:
                _call(kept.setters)
                _shared = None if kept is _shared else _shared


def give_back_random_states() -> None:
    """Give them back now, and not at the end: what is set from here on stays."""
    kept = _mine.get()
    if kept is not None:
        _call(kept.setters)


def _call(setters: Setters) -> None:
    while setters:
        setters.pop()()


def _setters() -> Setters:
    """Return calls that bring back the random states as they are now."""
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators += torch.cuda.default_generators
    setters: Setters = []

    def keep(setter: Callable[[Any], Any], state: Any) -> None:
        setters.append(lambda: setter(state))

    for generator in generators:
        keep(generator.set_state, generator.get_state())
    keep(random.setstate, random.getstate())
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        keep(numpy_random.set_state, numpy_random.get_state(legacy=False))
    return setters


class Stream:
    """Where torch's CPU generator would be, had the draws that are put off been made.

    While draws are put off, the generator holds a stand-in, another one after each draw. So code that keeps its state,
    seeds it, and puts the state back, puts back a stand-in, which tells at which draw that was; and any state that is
    no stand-in of now was set by somebody. The stand-ins have the seed that the generator had, and are good states to
    draw from, for other threads.

    Draws are numbered through the whole load. A *part* is a run of them between which nobody set a state.
    """

    def __init__(self) -> None:
        self._generator = torch.default_generator
        self._draws: list[Draw] = []
        self._first: list[int] = []  # the first draw of each part
        self._start: list[torch.Tensor | int] = []  # the state that each part begins with, or after which draw it is
        self._after: dict[int, torch.Tensor] = {}  # true states after so many draws, as far as they are known
        self._set: torch.Tensor | None = None  # the stand-in that is in the generator now
        self._last: torch.Tensor | None = None  # the stand-in of the last draw
        self._one = torch.empty(1)
        self._stand_ins = torch.Generator()  # gives them again, to number them
        self._numbers: dict[tuple[int, ...], int] = {}

    def put_off(self, draw: Draw) -> int:
        """Put off a draw, and return its number."""
        now = self._generator.get_state()
        if self._set is None or not torch.equal(now, self._set):
            self._first.append(len(self._draws))
            self._start.append(self._meaning(now))
            stand_in = self._begin() if self._last is None else self._last.clone()
            stand_in[:8] = now[:8]  # torch.initial_seed() tells what it would
            self._generator.set_state(stand_in)
        self._draws.append(draw)
        self._one.uniform_()
        self._set = self._last = self._generator.get_state()
        return len(self._draws) - 1

    def make(self) -> Callable[[int | None], None]:
        """Return what is to be called before each draw that was put off, with its number, and at the end with None.

        The draws are then made from the generator itself, in order.
        """
        now = self._generator.get_state()
        found = None if self._set is None or torch.equal(now, self._set) else self._meaning(now)
        self._set = None
        is_first = True

        def before(number: int | None) -> None:
            nonlocal is_first
            done = len(self._draws) if number is None else number
            part = None if number is None else bisect_right(self._first, number) - 1
            if number is None or self._first[part or 0] == number:
                if not is_first:
                    self._after[done] = self._generator.get_state()
                if part is not None:
                    self._generator.set_state(self._true(self._start[part]))
                elif found is not None:
                    self._generator.set_state(self._true(found))
            is_first = False

        return before

    def _begin(self) -> torch.Tensor:
        """Return the first stand-in."""
        self._stand_ins.manual_seed(int.from_bytes(os.urandom(8), "little") >> 1)
        return self._stand_ins.get_state()

    def _meaning(self, state: torch.Tensor) -> torch.Tensor | int:
        """Return after which draw the true state is that a stand-in stands for; a state that is none, itself."""
        if self._last is None:
            return state
        while len(self._numbers) < len(self._draws):
            self._one.uniform_(generator=self._stand_ins)
            self._numbers[_beginning(self._stand_ins.get_state())] = len(self._numbers) + 1
        return self._numbers.get(_beginning(state), state)

    def _true(self, state: torch.Tensor | int) -> torch.Tensor:
        """Return a state itself, or the one after a draw; draws are made again to find it, where it is not known."""
        if isinstance(state, torch.Tensor):
            return state
        if state not in self._after:
            part = bisect_right(self._first, state - 1) - 1
            again = torch.Generator()
            again.set_state(self._true(self._start[part]))
            for draw in self._draws[self._first[part] : state]:
                draw(again)
            self._after[state] = again.get_state()
        return self._after[state]


def _beginning(state: torch.Tensor) -> tuple[int, ...]:
    """Return what tells a state from others, beside its seed: where it is in its words, and some of these."""
    return tuple(state[8:128].view(torch.int64).tolist())
