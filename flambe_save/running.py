"""Which saves are being written in the background, for all who use their paths. background.py writes them."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future

__all__ = ["LOCK", "RUNNING", "save_to", "wait_for"]

RUNNING: dict[str, Future[str]] = {}  # by the real path of the save
LOCK = threading.Lock()


def wait_for(*paths: str | None) -> None:
    """Wait until no save to these paths is being written in the background; if it fails, its own caller is told."""
    for running in map(save_to, paths):
        if running is not None:
            running.exception()


def save_to(path: str | None) -> Future[str] | None:
    """Return what will be known of the save that is being written to a path in the background, if one is."""
    if path is None:
        return None
    with LOCK:
        return RUNNING.get(os.path.realpath(path))
