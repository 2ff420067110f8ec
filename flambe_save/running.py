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

RUNNING: dict[str, Future[str]] = {}  # by the real path of the save
LOCK = threading.Lock()
is_over = False  # whether the interpreter has waited for its threads, and will wait for no others


def wait_for(*paths: str | None) -> None:
    """Wait for saves to these paths in the background; their errors go to their own callers."""
    for running in map(save_to, paths):
        if running is not None:
            running.exception()


def save_to(path: str | None) -> Future[str] | None:
    """Return the Future of the save in the background to a path, or None."""
    if path is None:
        return None
    with LOCK:
        return RUNNING.get(os.path.realpath(path))


def _finish() -> None:
    """Wait for all saves, also those that an exit handler began."""
    global is_over
    is_over = True
    with LOCK:
        waiting = list(RUNNING.values())
    for future in waiting:
        future.exception()


def _forget() -> None:
    """Forget, in a forked process, the saves that its parent writes."""
    global LOCK
    LOCK = threading.Lock()
    RUNNING.clear()


atexit.register(_finish)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
