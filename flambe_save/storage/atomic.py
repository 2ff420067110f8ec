"""AtomicWrite: write a save aside, beside its target, and make it the target in one step.

The target holds the old save or the new one, never a part of either, at whatever instant the process dies. leftovers.py
removes what a process leaves then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from flambe_save.errors import SaveError, TargetExistsError
from flambe_save.storage.direct_io import DirectFile, go_direct
from flambe_save.storage.filesystem import (
    CREATE_FLAGS,
    Descriptors,
    FileIdentity,
    Folder,
    WholeFile,
    exchange,
    rename_new,
    reserve,
    sync_folder,
    sync_tree,
)
from flambe_save.storage.leftovers import ASIDE, OLD, OURS, name_beside, remove_all, remove_leftovers
from flambe_save.storage.locks import lock_file, open_locked
from flambe_save.storage.modes import keep_modes, keep_modes_of_folder
from flambe_save.storage.overwrite import is_save_folder
from flambe_save.support.undoing import note_undo

_LARGE = 1 << 20  # bytes from which a durable file is written past the page cache, and blocks are reserved


class AtomicWrite:
    """A path beside the target where a save is written; :meth:`commit` makes it the target.

    Parameters
    ----------
    target : path
        Path of the save; of a link, the path that it points to. Missing parent folders are made, and removed again by
        :meth:`discard`.
    overwrite : bool
        Whether a save that is there may be replaced. Something that is not a save never is.
    folder : bool
        Whether the save is a folder.
    durable : bool
        Whether :meth:`commit` returns only when the save is on the disk, and not in the system's memory alone.
    size : int
        Bytes that will be written at least, as far as that is known.
    check : callable, optional
        Called by :meth:`commit` with the path of the complete save before it becomes the target; an error of it ends
        the save.

    Raises
    ------
    TargetExistsError
        If something is there and may not be replaced.
    SaveError
        If there is not enough space for ``size``.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        overwrite: bool,
        folder: bool,
        durable: bool = False,
        size: int = 0,
        check: Callable[[Path], None] | None = None,
    ) -> None:
        self._check = check
        self.target = Path(os.path.realpath(target))
        self._overwrite = overwrite
        self._is_folder = folder
        self._durable = durable
        remove_leftovers(self.target)  # which may put an old save back
        self._check_target()
        self._replaces = _identity(self.target)
        self.path = name_beside(self.target, ASIDE)
        self.folder: Folder | None = None
        self._lock = Descriptors()
        self._small = Descriptors()  # the file that :meth:`put` writes: one note of what to close does for all
        self._old: Path | None = None
        self._files: list[str] = []
        self._folders: dict[str, None] = {"": None}  # in the order of their making
        self._making = threading.Lock()
        self._made_parents: list[Path] = []
        self.forget = note_undo(self.discard)  # to be called when it is ended
        OURS.add(self.path.name)
        try:
            _make_parents(self.target.parent, self._made_parents)
            _check_space(self.target, size)
            if folder:
                self.path.mkdir()
                self.folder = Folder(self.path)
                open_locked(self.path, self._lock, wait=True)
            else:
                self._lock.append(os.open(self.path, CREATE_FLAGS, 0o666))
                lock_file(self._lock, wait=True)
        except BaseException:
            self.discard()
            raise

    def create(self, name: str, size: int = 0) -> BinaryIO:
        """Create a file of a folder, and the folders that it lies in, for writing; from any thread.

        ``size`` is the number of its bytes, as far as that is known.
        """
        folder = self._folder_for(name)
        self._files.append(name)
        opened = Descriptors()
        folder.open(name, opened, CREATE_FLAGS)
        return self._opened(opened, size)

    def put(self, name: str, data: bytes | bytearray) -> None:
        """Create a file of a folder with all its bytes; not from several threads at once."""
        folder = self._folder_for(name)
        self._files.append(name)
        folder.open(name, self._small, CREATE_FLAGS)
        try:
            WholeFile(self._small).write(data)
        finally:
            os.close(self._small.pop())

    def open(self, size: int = 0) -> BinaryIO:
        """Open the single file for writing."""
        opened = Descriptors()
        opened.append(os.open(self.path, os.O_WRONLY | getattr(os, "O_BINARY", 0)))
        return self._opened(opened, size)

    def _opened(self, opened: Descriptors, size: int) -> BinaryIO:
        if size >= _LARGE:
            if self._durable and go_direct(opened[0]):
                return cast(BinaryIO, DirectFile(opened))
            reserve(opened[0], size)
        return cast(BinaryIO, WholeFile(opened))

    def link(self, name: str, other: Folder, meant: FileIdentity) -> bool:
        """Hard-link a new name to that of another folder; False if it cannot, or the file differs."""
        folder = self._folder_for(name)
        try:
            found = other.link(name, folder)
        except OSError:  # on another disk, or one without links, or too many of them
            return False
        if found != meant:
            folder.remove(name, folder=False)
            return False
        self._files.append(name)
        return True

    def _folder_for(self, name: str) -> Folder:
        """Return the open folder, once the folders that a file lies in are made."""
        assert self.folder is not None, "a single file has no names"
        parent = name.rpartition("/")[0]
        if parent in self._folders:
            return self.folder
        missing: list[str] = []
        while parent and parent not in self._folders:  # what is around a folder was made before it
            missing.append(parent)
            parent = parent.rpartition("/")[0]
        with self._making:
            for parent in reversed(missing):
                if parent not in self._folders:
                    self.folder.make_folder(parent)
                    self._folders[parent] = None
        return self.folder

    # -------------------------------------------------------------------------------------------- the end

    def commit(self) -> None:
        """Make what was written the target.

        An old save is swapped out when the new one is on the disk, and only then removed.

        Raises
        ------
        TargetExistsError, SaveError
            If something came to be at the target, or took the old save's place, since this save began.
        """
        if self._check is not None:
            self._check(self.path)
        self._check_target()
        if self._replaces is not None:
            self._keep_modes()
        if self._durable or self._replaces is not None:
            # An old save may be the only good copy: the new one is on the disk before the old one goes
            sync_tree(self.path)
        if self._replaces is None or not os.path.lexists(self.target):
            self._arrive()
            return
        old = self.path
        if not self._exchange():
            self._check_unchanged(_identity(self.target))
            old = self._put_instead()
        # The new save is in place: an error from here on counts only where durability was promised
        with contextlib.nullcontext() if self._durable else contextlib.suppress(OSError):
            sync_folder(self.target.parent)
        self._let_go()
        remove_all(old)

    def _keep_modes(self) -> None:
        """Give the new save the permissions of the old one."""
        if self.folder is not None:
            keep_modes_of_folder(self.folder, self.target, self._files, [*filter(None, self._folders), "."])
        else:
            keep_modes(self.path, self.target)

    def _arrive(self) -> None:
        """Rename to where nothing is."""
        try:
            rename_new(self.path, self.target, folder=self._is_folder)
        except FileExistsError as error:
            raise TargetExistsError(
                f"something came to be at {str(self.target)!r} while this was written: another process saves there",
                file=str(self.target),
                fix="What is there is complete. Give each process its own path, or save again with overwrite=True.",
            ) from error
        if self._durable:
            for folder in [self.target, *self._made_parents]:
                sync_folder(folder.parent)
        self._let_go()

    def _exchange(self) -> bool:
        """Swap with the old save; swap back if it is not the one that was there at the beginning."""
        if not exchange(self.path, self.target):
            return False
        if _identity(self.path) != self._replaces:
            exchange(self.path, self.target)
            self._check_unchanged(None)
        return True

    def _put_instead(self) -> Path:
        """Take the old save's place where the system cannot swap; return the old one's new path."""
        if not self._is_folder:
            os.replace(self.path, self.target)
            return self.path
        old = self._old = name_beside(self.target, OLD)
        try:
            os.rename(self.target, old)
            os.rename(self.path, self.target)
        except BaseException:
            if not os.path.lexists(self.target):
                os.rename(old, self.target)
            raise
        return old

    def _check_unchanged(self, found: object) -> None:
        if found != self._replaces:
            raise SaveError(
                f"the save at {str(self.target)!r} was replaced while this was written: another process saves there",
                file=str(self.target),
                fix="What is there is complete and was kept. Give each process its own path, or save again.",
            )

    def discard(self) -> None:
        """Remove what was written, and the parent folders made for it."""
        # Invariant: nothing is removed through the descriptor once the folder is the target. An interrupt may come
        # after the swap; then what lies aside is the old save.
        if self.folder is not None and not self.folder.was_replaced():
            # No file is opened for this: it works where too many are open
            for name in self._files:
                with contextlib.suppress(OSError):
                    self.folder.remove(name, folder=False)
            for name in reversed([name for name in self._folders if name]):
                with contextlib.suppress(OSError):
                    self.folder.remove(name, folder=True)
        self._let_go()
        remove_all(self.path)
        if self._old is not None and os.path.lexists(self.target):
            remove_all(self._old)
        for parent in self._made_parents:
            try:
                parent.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                break

    def _let_go(self) -> None:
        if self.folder is not None:
            self.folder.close()
            self.folder = None
        self._lock.close()
        self._small.close()
        OURS.discard(self.path.name)

    # -------------------------------------------------------------------------------------------- the target

    def _check_target(self) -> None:
        if not os.path.lexists(self.target):
            return
        shown = str(self.target)
        if self._is_folder and self.target.is_dir() and not any(self.target.iterdir()):
            return  # an empty folder holds nothing to lose, and a rename onto it succeeds
        is_save = is_save_folder(self.target) if self._is_folder else self.target.is_file()
        if not self._overwrite:
            raise TargetExistsError(
                f"there is already something at {shown!r}",
                file=shown,
                fix="Choose another path, or overwrite=True." if is_save else "Choose another path.",
            )
        if not is_save:
            raise TargetExistsError(
                f"what is at {shown!r} is not a save of this kind, so overwrite=True does not remove it",
                file=shown,
                fix="Choose another path, or remove it yourself.",
            )


def finish(aside: AtomicWrite | None, *, failed: bool) -> None:
    """End a store's ``with``: commit, or discard after an exception or where committing fails."""
    if aside is None:
        return
    try:
        if not failed:
            aside.commit()
    except BaseException:
        failed = True
        raise
    finally:
        if failed:
            aside.discard()
        aside.forget()


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return device, inode and time of a save; None for nothing or an empty folder."""
    try:
        facts = os.stat(path)
        if os.path.isdir(path) and not os.listdir(path):
            return None
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Make a folder and those it lies in, noting in ``made`` what was made, the innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for parent in reversed(missing):
        made.insert(0, parent)  # before it is there: an interrupt may come right after
        parent.mkdir(exist_ok=True)


def _check_space(target: Path, size: int) -> None:
    try:
        total, _, free = shutil.disk_usage(target.parent)
    except OSError:  # a file system without these counts
        return
    if size > free and total > 0:
        raise SaveError(
            f"the disk has no space for the save: it needs {size:,} bytes, and {free:,} are free",
            file=str(target),
            fix="Nothing was written. Make space, or save elsewhere.",
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
