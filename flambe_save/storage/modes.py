"""Permissions: a save that replaces another keeps those of the old one."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from flambe_save.layout import PROTOCOL_FILE
from flambe_save.storage.filesystem import Folder

_BITS = 0o777 | stat.S_ISGID


def keep_modes(new: Path, old: Path) -> None:
    """Add the permissions of the file that another is to replace."""
    with contextlib.suppress(OSError):  # a disk without permissions
        mode = _wider(os.stat(new), os.stat(old))
        if mode is not None:
            os.chmod(new, mode)


def keep_modes_of_folder(new: Folder, old: Path, files: Iterable[str], folders: Iterable[str]) -> None:
    """Add the old permissions to files and folders of the same names; the root's to others.

    ``files`` and ``folders`` are all names in the new folder, whose root is ``"."``; ``old`` is the replaced one.
    """
    with contextlib.suppress(OSError), Folder(old) as before:
        for names, fallback in ((files, PROTOCOL_FILE), (folders, ".")):
            root = before.stat(fallback)
            for name in names:
                try:
                    wanted = before.stat(name)
                except OSError:
                    wanted = root
                mode = _wider(new.stat(name), wanted)
                if mode is not None:
                    new.chmod(name, mode)


def _wider(found: os.stat_result, wanted: os.stat_result) -> int | None:
    """Return the permissions of two files of a kind together; None where the first has them all.

    A file that is a link to one of another save keeps its own, which are that one's too.
    """
    is_shared = stat.S_ISREG(found.st_mode) and found.st_nlink > 1
    is_of_one_kind = stat.S_IFMT(found.st_mode) == stat.S_IFMT(wanted.st_mode)
    if is_shared or not is_of_one_kind or not wanted.st_mode & _BITS & ~found.st_mode:
        return None
    return (found.st_mode | wanted.st_mode) & _BITS
