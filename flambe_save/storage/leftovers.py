"""Leftovers: files that atomic.py put beside a target, and that no process writes any more."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from flambe_save.storage.filesystem import Descriptors, Folder
from flambe_save.storage.locks import HAS_LOCKS, open_locked

ASIDE = ".flambe-aside"
OLD = ".flambe-aside-old"  # an old save between two renames: it counts as the target where the new one never arrived
_NAME = re.compile(r"\.(?P<target>.*)\.(?P<pid>\d+)-[0-9a-f]{8}\.flambe-aside(-old)?", re.DOTALL)
_YOUNG = 60  # seconds for which an aside of a living process is left alone although nothing holds it
_LONG_AGO = 24 * 3600  # seconds after which an aside is a leftover where the system has no locks
OURS: set[str] = set()  # names of the asides of this process


def old_save(target: Path) -> Path | None:
    """Return an old save that was set aside for a new one, which is not at the target yet."""
    found = [path for path, is_old in _asides(Path(os.path.realpath(target))) if is_old]
    return min(found, default=None)


def name_beside(target: Path, suffix: str) -> Path:
    """Return an unused path beside a target."""
    token = f"{os.getpid()}-{os.urandom(4).hex()}"
    return target.with_name(f".{_short(target.name)}.{token}{suffix}")


def _short(name: str) -> str:
    """Return the beginning of a name: with its endings it must fit the disk's 255 bytes."""
    return os.fsencode(name)[:100].decode("utf-8", "ignore")


def _asides(target: Path) -> Iterator[tuple[Path, bool]]:
    """Yield ``(path, is_old)`` of files aside for a target; old saves were set aside."""
    name = _short(target.name)
    try:
        there = os.listdir(target.parent)
    except OSError:
        return
    for entry in there:
        match = _NAME.fullmatch(entry) if entry.endswith((ASIDE, OLD)) else None
        if match and match["target"] == name:
            yield target.with_name(entry), entry.endswith(OLD)


def remove_leftovers(target: Path) -> None:
    """Remove leftovers of dead processes for a target; put back an old save that none replaced."""
    for path, is_old in list(_asides(target)):
        if not _is_left_over(path):
            continue
        if is_old and not os.path.lexists(target):
            os.rename(path, target)
        else:
            remove_all(path)


def _is_left_over(path: Path) -> bool:
    """Whether no process writes here: it would hold a lock, which ends with the process."""
    if path.name in OURS:
        return False
    try:
        with Descriptors() as lock:
            open_locked(path, lock)
            age = time.time() - os.stat(path).st_mtime
    except OSError:  # another process has just removed it, or holds it
        return False
    match = _NAME.fullmatch(path.name)
    assert match is not None, "only asides are asked about"
    pid = int(match["pid"])
    if not HAS_LOCKS:
        return age > _LONG_AGO
    return pid == os.getpid() or age > _YOUNG or not _alive(pid)  # it may just be about to take its lock


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def remove_all(path: Path) -> None:
    """Remove a file, or a folder and all in it, as far as that is possible."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()  # where it is empty already, nothing need be opened
                return
            with Folder(path) as folder:
                folder.remove_all()
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
