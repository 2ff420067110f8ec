"""Patches for what torch's modes do not see: reads of the random state, DLPack, threads.

mode.py runs all deferred operations before any of these goes on.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils.dlpack

# Functions that show present values: callers look all of them up by these names
SHOWING: tuple[tuple[Any, str], ...] = (
    (torch, "get_rng_state"),
    (torch.random, "get_rng_state"),
    (torch.utils.dlpack, "to_dlpack"),
    (threading.Thread, "start"),
)
# Functions that make a module, and copy one
MAKING: tuple[tuple[Any, str], ...] = ((torch.nn.Module, "__init__"), (torch.nn.Module, "__setstate__"))


class Watch:
    """Calls ``before`` with a function's name ahead of each call, from ``enter`` to ``leave``.

    The functions are replaced for the whole process. In threads that build nothing, the new ones only call the old.

    Parameters
    ----------
    before : callable
        Called with the name. It checks itself that this is the right thread.
    functions : sequence of (object, str)
        Where they are, and their names.
    """

    def __init__(self, before: Callable[[str], None], functions: Sequence[tuple[Any, str]]) -> None:
        self._before = before
        self._functions = functions
        self._lock = threading.Lock()
        self._users: dict[object, int] = {}  # and the thread that each is in
        self._replaced: list[tuple[Any, str, Any, Any]] = []  # where, name, the function, and ours
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def enter(self, user: object) -> None:
        """Begin for a user, who has to leave."""
        with self._lock:
            self._users[user] = threading.get_ident()
            if not self._replaced:
                self._replaced = [
                    (where, name, vars(where)[name], _announced(vars(where)[name], name, self._before))
                    for where, name in self._functions
                ]
                for where, name, _, ours in self._replaced:
                    setattr(where, name, ours)

    def leave(self, user: object) -> None:
        """End for a user, if it has begun; the last one restores the functions."""
        with self._lock:
            self._users.pop(user, None)
            self._put_back()

    def _put_back(self) -> None:
        if not self._users:
            for where, name, function, ours in self._replaced:
                if vars(where)[name] is ours:  # other code may have replaced it meanwhile
                    setattr(where, name, function)
            self._replaced = []

    def _after_fork(self) -> None:
        """Recover in a forked process, which has one thread: another thread may hold the lock."""
        self._lock = threading.Lock()
        self._users = {user: thread for user, thread in self._users.items() if thread == threading.get_ident()}
        self._put_back()


def _announced(function: Callable[..., Any], name: str, before: Callable[[str], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def announced(*args: Any, **kwargs: Any) -> Any:
        before(name)
        return function(*args, **kwargs)

    return announced
