"""Lock files and folders, where the system can: a lock ends with the process that holds it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flambe_save.storage.filesystem import Descriptors

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HAS_LOCKS = fcntl is not None


def open_locked(path: Path, lock: Descriptors, *, wait: bool = False) -> None:
    """Open and lock a file or folder, where the system has such locks.

    The maker of an aside waits for the lock: another process may hold it for a moment, to see whether it is taken.

    Raises
    ------
    BlockingIOError
        If another process, or another AtomicWrite, holds it; not with ``wait``.
    """
    if fcntl is not None:
        lock.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        lock_file(lock, wait=wait)


def lock_file(lock: Descriptors, *, wait: bool) -> None:
    """Lock what is open; errors as :func:`open_locked`."""
    if fcntl is not None:
        try:
            fcntl.flock(lock[0], fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass  # a file system without locks: then age and process number must do
