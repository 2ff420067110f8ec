"""Watching, while an object is built, what torch's modes cannot see: who keeps the random state, and threads.

deferral.py has all that it has put off run before any of these goes on.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.utils.dlpack

__all__ = ["Watch"]

# Functions that show what is there now: all are looked up by these names when they are called
_SHOWING: tuple[tuple[Any, str], ...] = (
    (torch, "get_rng_state"),
    (torch.random, "get_rng_state"),
    (torch.utils.dlpack, "to_dlpack"),
    (threading.Thread, "start"),
)


class Watch:
    """Between ``enter`` and ``leave``, calls ``before`` with the name of a function that somebody is about to call.

    The functions are replaced for the whole process, by ones that do nothing more in threads that build nothing.

    Parameters
    ----------
    before : callable
        Told the name; it sees to it itself that it means the right thread.
    """

    _lock = threading.Lock()
    _users: dict[object, int] = {}  # noqa: RUF012  # what enters it, and the thread that it is in
    _replaced: list[tuple[Any, str, Any, Any]] = []  # noqa: RUF012  # where, name, the function, and ours

    def __init__(self, before: Callable[[str], None]) -> None:
        self._before = before

    def enter(self, user: object) -> None:
        """Begin for a user; to be left by it."""
        with Watch._lock:
            Watch._users[user] = threading.get_ident()
            if not Watch._replaced:
                Watch._replaced = [
                    (where, name, vars(where)[name], _telling(vars(where)[name], name, self._before))
                    for where, name in _SHOWING
                ]
                for where, name, _, ours in Watch._replaced:
                    setattr(where, name, ours)

    def leave(self, user: object) -> None:
        """End for a user, if it has begun; the functions are as before when the last one has left."""
        with Watch._lock:
            Watch._users.pop(user, None)
            Watch._put_back()

    @staticmethod
    def _put_back() -> None:
        if not Watch._users:
            for where, name, function, ours in Watch._replaced:
                if vars(where)[name] is ours:  # somebody else may have replaced it meanwhile
                    setattr(where, name, function)
            Watch._replaced = []

    @staticmethod
    def _after_fork() -> None:
        """Go on in a process that was just forked, where there is no other thread; one of them may hold the lock."""
        Watch._lock = threading.Lock()
        Watch._users = {user: thread for user, thread in Watch._users.items() if thread == threading.get_ident()}
        Watch._put_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Watch._after_fork)


def _telling(function: Callable[..., Any], name: str, before: Callable[[str], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def tell(*args: Any, **kwargs: Any) -> Any:
        before(name)
        return function(*args, **kwargs)

    return tell
