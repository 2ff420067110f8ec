"""Table of the saves in the background, for code that uses their paths.

background.py writes the saves.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["LOCK", "RUNNING", "is_over", "save_to", "wait_for"]

RUNNING: dict[str, Future[str]] = {}  # by the real path of the save
LOCK = threading.Lock()
is_over = False  # whether the interpreter has waited for its threads, and waits for no more


def wait_for(*paths: str | None) -> None:
    """Wait for saves to these paths in the background; an error of one goes to its own caller."""
    for running in map(save_to, paths):
        if running is not None:
            running.exception()


def save_to(path: str | None) -> Future[str] | None:
    """Return the Future of the save that is being written to a path in the background, or None."""
    if path is None:
        return None
    with LOCK:
        return RUNNING.get(os.path.realpath(path))


def _finish() -> None:
    """Wait for all saves: those that an exit handler began, too."""
    global is_over
    is_over = True
    with LOCK:
        waiting = list(RUNNING.values())
    for future in waiting:
        future.exception()


def _forget() -> None:
    """Forget, in a process that was just forked, the saves that go on in the other one only."""
    global LOCK
    LOCK = threading.Lock()
    RUNNING.clear()


atexit.register(_finish)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
