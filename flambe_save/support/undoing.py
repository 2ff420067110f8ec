"""Undoing: changes of a save or load end with it, wherever an interrupt stops it.

An interrupt (KeyboardInterrupt) is raised between any two steps of Python: also when a ``with`` has been entered and
its body not begun, or in the middle of its exit. So a change is noted before it is made, and the call that undoes it
must work whether it was made or not, and again if it was stopped itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_current: ContextVar[Undoing | None] = ContextVar("undoing", default=None)


class Undoing:
    """Runs the noted calls at its end. Enter it twice: ``with Undoing() as undoing, undoing:``.

    The first entry changes nothing; the last exit continues where an interrupt stopped the first.
    """

    def __init__(self) -> None:
        self._calls: dict[object, Callable[[], None]] = {}
        self._is_entered = False
        self._outer = _current.get()

    def __enter__(self) -> Undoing:
        if self._is_entered:
            _current.set(self)
        self._is_entered = True
        return self

    def __exit__(self, *error: object) -> None:
        while self._calls:
            key = next(reversed(self._calls))
            try:
                self._calls[key]()
            except Exception:
                self._calls.pop(key, None)
                raise
            self._calls.pop(key, None)
        _current.set(self._outer)

    def note(self, undo: Callable[[], None]) -> object:
        """Note a call for the end, the last one first; return a key for :meth:`forget`."""
        key = object()
        self._calls[key] = undo
        return key

    def keep(self) -> None:
        """Drop all notes: the changes stay."""
        self._calls.clear()

    def forget(self, key: object) -> None:
        """Take a note back."""
        self._calls.pop(key, None)


def takes_back(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that reads or writes: changes noted in it are undone at its end."""

    @functools.wraps(function)
    def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        with Undoing() as undoing, undoing:
            return function(*args, **kwargs)

    return whole


def note_undo(undo: Callable[[], None]) -> Callable[[], None]:
    """Note a call for the end of this thread's save or load; return a function to drop it."""
    undoing = _current.get()
    if undoing is None:
        return _nothing
    key = undoing.note(undo)
    return lambda: undoing.forget(key)


def _nothing() -> None:
    return


class Setting(Generic[T]):
    """Inside its ``with``, a context variable has another value.

    Parameters
    ----------
    variable : ContextVar
        One that has a default.
    value : object
    """

    __slots__ = ("_before", "_forget", "_value", "_variable")

    def __init__(self, variable: ContextVar[T], value: T) -> None:
        self._variable, self._value = variable, value
        self._before = variable.get()
        self._forget = _nothing

    def __enter__(self) -> None:
        self._forget = note_undo(self._undo)
        self._variable.set(self._value)

    def __exit__(self, *error: object) -> None:
        self._undo()
        self._forget()

    def _undo(self) -> None:
        self._variable.set(self._before)
