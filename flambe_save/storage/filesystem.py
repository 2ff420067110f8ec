"""Disk: an open folder and the files below it, for atomic.py and local.py.

Calls on a folder go through its descriptor where the system has such calls (all but Windows): a folder that is swapped
out while it is read is still the one that was opened, and names may be longer than a path may be.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import functools
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

from flambe_save.errors import CorruptSaveError, LoadError
from flambe_save.support.libc import c_function
from flambe_save.support.undoing import note_undo

R = TypeVar("R")

_BY_DESCRIPTOR = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
# Of four bytes at most: systems take 1023, or 4095; the rest of a longer name is looked up from where that ends
_MAX_CHARS = 250
_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_MANY = 100  # files; past this one sync of the file system is faster than one of each file
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


FileIdentity: TypeAlias = tuple[int, ...]


def identity(facts: os.stat_result) -> FileIdentity:
    """Return device, inode, size and time, which differ once a file is changed or another.

    The inode alone is not enough: a disk may soon give it to another file.
    """
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


class Descriptors(list[int]):
    """Open files, closed at the end of the ``with``, or of an interrupted save or load.

    A returned descriptor would be lost where an interrupt comes with the return, so functions append it here.
    """

    _forget: Callable[[], None] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._forget = note_undo(self.close)

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self, but: int = 0, after: int = 0) -> None:
        """Close them, the oldest first, except some of the newest, and those before ``after``."""
        while len(self) > but + after:
            os.close(self.pop(after))
        if not self and self._forget is not None:
            self._forget()


class Kind(enum.Enum):
    """Kind of a folder's entry; links to files, pipes and devices count as files until opened."""

    FILE = enum.auto()
    FOLDER = enum.auto()
    LINK_TO_FOLDER = enum.auto()


class Folder:
    """An open folder; names below it have ``/`` between their parts. Used with ``with``.

    Parameters
    ----------
    path : path
        A link to a folder is followed; below it none is.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._opened = Descriptors()
        if _BY_DESCRIPTOR:
            self._opened.append(os.open(path, _FOLDER_FLAGS))
        # The folder that the last long name was looked up in: the next one is most often below it
        self._near: tuple[str, int | None] = "", self._descriptor
        self._lock = threading.Lock()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder; files that were opened below it stay open."""
        self._opened.close()

    @property
    def _descriptor(self) -> int | None:
        return self._opened[0] if self._opened else None

    def fileno(self) -> int:
        """Return the descriptor; OSError where there is none."""
        if self._descriptor is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._descriptor

    def was_replaced(self) -> bool:
        """Whether the path now leads to another folder, or to none."""
        if self._descriptor is None:
            return False
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
        except OSError:
            return True

    def open(self, name: str, into: Descriptors, flags: int = _READ_FLAGS) -> None:
        """Open a file, or a folder with ``os.O_DIRECTORY``; the descriptor is the caller's to close."""
        if self._opened and len(name) <= _MAX_CHARS:  # as nearly always: a call less for each file
            into.append(os.open(name, flags, 0o666, dir_fd=self._opened[0]))
        else:
            self._at(name, lambda part, **at: into.append(os.open(part, flags, 0o666, **at)))

    def link(self, name: str, other: Folder) -> FileIdentity:
        """Link the same name in another folder to a file of this one; return the file's identity."""

        def at_source(source: str, **source_at: int) -> FileIdentity:
            def at_target(target: str, **target_at: int) -> FileIdentity:
                between = {f"{end}_dir_fd": at["dir_fd"] for end, at in (("src", source_at), ("dst", target_at)) if at}
                os.link(source, target, **between)  # type: ignore[arg-type]
                return identity(os.stat(target, follow_symlinks=False, **target_at))

            return other._at(name, at_target)

        return self._at(name, at_source)

    def make_folder(self, name: str) -> None:
        """Make one folder."""
        self._at(name, lambda part, **at: os.mkdir(part, **at))

    def stat(self, name: str) -> os.stat_result:
        """Return the status of a file or folder; a link is not followed."""
        return self._at(name, lambda part, **at: os.stat(part, follow_symlinks=False, **at))

    def chmod(self, name: str, mode: int) -> None:
        """Set the permissions of a file or folder."""
        self._at(name, lambda part, **at: os.chmod(part, mode, **at))

    def remove(self, name: str, *, folder: bool) -> None:
        """Remove a file or a link, or an empty folder."""
        self._at(name, lambda part, **at: (os.rmdir if folder else os.unlink)(part, **at))

    def remove_all(self) -> None:
        """Remove all that is below, as far as that is possible."""
        folders: list[str] = []
        for name, kind in self.walk():
            if kind is Kind.FOLDER:
                folders.append(name)
            else:
                with contextlib.suppress(OSError):
                    self.remove(name, folder=False)
        for name in reversed(folders):  # a folder comes after the one it is in
            with contextlib.suppress(OSError):
                self.remove(name, folder=True)

    def walk(self, skip: Callable[[str], bool] = lambda name: False) -> Iterator[tuple[str, Kind]]:
        """Yield ``(name, kind)`` for all below, a folder before its entries; links are not followed.

        ``skip`` is called with the last part of a name; where it is true, the entry is left out with all in it.
        """
        waiting = [""]
        while waiting:
            here = waiting.pop()
            for last, kind in self._entries(here):
                if not skip(last):
                    name = f"{here}/{last}" if here else last
                    yield name, kind
                    if kind is Kind.FOLDER:
                        waiting.append(name)

    def _entries(self, name: str) -> list[tuple[str, Kind]]:
        if self._descriptor is None:
            with os.scandir(self.path / name) as found:
                return [(entry.name, _kind(entry)) for entry in found]
        with Descriptors() as opened:
            self.open(name or ".", opened, _FOLDER_FLAGS | getattr(os, "O_NOFOLLOW", 0))
            with os.scandir(opened[0]) as found:
                return [(entry.name, _kind(entry)) for entry in found]

    def _at(self, name: str, call: Callable[..., R]) -> R:
        """Call with a name short enough for the system, and the folder that it is relative to."""
        if self._descriptor is None:
            return call(os.fspath(self.path / name))
        if len(name) <= _MAX_CHARS:
            return call(name, dir_fd=self._descriptor)
        with self._lock:  # while another thread does not close the folder near to the name
            near, here = self._near
            if not name.startswith(near):
                near, here = "", self._descriptor
            rest = name[len(near) :]
            while len(rest) > _MAX_CHARS and "/" in rest:
                end = rest.rfind("/", 0, _MAX_CHARS) + 1 or rest.index("/") + 1
                self._opened.append(os.open(rest[:end], _FOLDER_FLAGS, dir_fd=here))
                near, here, rest = near + rest[:end], self._opened[-1], rest[end:]
                self._near = near, here
                self._opened.close(but=1, after=1)
            return call(rest, dir_fd=here)


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_dir(follow_symlinks=False):
        return Kind.FOLDER
    return Kind.LINK_TO_FOLDER if entry.is_symlink() and entry.is_dir() else Kind.FILE


def open_regular(open_it: Callable[[Descriptors], object], name: str, folder: Path) -> io.FileIO:
    """Open a regular file or a link to one; refuse a pipe or a device without waiting for it.

    ``open_it`` adds the descriptor to those that it is given.

    Raises
    ------
    KeyError
        If there is none.
    LoadError
        If it may not be read, or is not a regular file.
    """
    with Descriptors() as opened:
        try:
            open_it(opened)
        except FileNotFoundError:
            raise KeyError(name) from None
        except PermissionError as error:
            raise LoadError(
                f"you may not read {name!r}", file=str(folder / name), fix="Ask its owner for permission."
            ) from error
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            raise CorruptSaveError(f"cannot read {name!r}: {error.strerror}", file=str(folder / name)) from error
        if not stat.S_ISREG(os.fstat(opened[0]).st_mode):
            raise CorruptSaveError(f"{name!r} is not a regular file", file=str(folder / name))
        return io.FileIO(opened.pop())  # without a buffer: callers read all at once, or buffer themselves


class WholeFile:
    """A new file whose ``write`` takes all that it is given. Used with ``with``.

    Python's own files do much more, which takes longer than making a small file.

    Parameters
    ----------
    opened : Descriptors
        One; closed with the file.
    """

    __slots__ = ("_opened",)

    def __init__(self, opened: Descriptors) -> None:
        self._opened = opened

    def write(self, data: Any) -> int:
        """Write bytes, and return how many."""
        size = os.write(self._opened[0], data)
        while size < len(data):
            size += os.write(self._opened[0], memoryview(data)[size:])
        return size

    def write_at(self, data: memoryview, offset: int) -> None:
        """Write bytes at an offset, from any thread; the place of :meth:`write` stays."""
        while data:
            count = os.pwrite(self._opened[0], data, offset)
            data, offset = data[count:], offset + count

    def skip(self, count: int) -> None:
        """Move the place of :meth:`write` behind bytes that were written already."""
        os.lseek(self._opened[0], count, os.SEEK_CUR)

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def __enter__(self) -> WholeFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def reserve(descriptor: int, size: int) -> None:
    """Ask for the disk's blocks of a new file at once, where the system can; it stays empty.

    Else the system looks for them with each write, which takes a third of the time of writing.
    """
    call = c_function("fallocate")
    if call is not None:
        keep_size = 1
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
        call(descriptor, keep_size, 0, size)  # where it fails, writing says why


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; errors as of :func:`open_regular`."""
    return io.BufferedReader(
        open_regular(lambda opened: opened.append(os.open(path, _READ_FLAGS)), path.name, path.parent)
    )


# ------------------------------------------------------------------------------------------------ renaming

_AT_CWD, _NO_REPLACE, _EXCHANGE = -100, 1, 2


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step (renameat2, RENAME_EXCHANGE); False where the system cannot."""
    return _renameat2(one, other, _EXCHANGE) == 0


def rename_new(source: Path, target: Path, *, folder: bool) -> None:
    """Rename in one step to a path where nothing is; a folder may replace an empty folder.

    Raises
    ------
    FileExistsError
        If something is there.
    """
    if folder:
        try:
            os.rename(source, target)  # the system itself refuses any other target than an empty folder
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
            raise
        return
    code = _renameat2(source, target, _NO_REPLACE)
    if code == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if code == 0:
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: there is a moment between look and rename
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(source, target)
    else:
        os.unlink(source)


def _renameat2(one: Path, other: Path, flags: int) -> int:
    """Return 0, or the error's number; ENOSYS where there is no such call."""
    call = c_function("renameat2")
    if call is None:
        return errno.ENOSYS
    if call(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), flags) == 0:
        return 0
    return ctypes.get_errno() or errno.ENOSYS


# ------------------------------------------------------------------------------------------------ syncing


def sync_tree(path: Path) -> None:
    """Force a file, or a folder and all below it, to the disk.

    A folder of very many files is synced with its whole file system at once (Linux's syncfs), which is faster.
    """
    if not path.is_dir():
        _sync(lambda opened: opened.append(os.open(path, os.O_RDONLY)))
        return
    with Folder(path) as folder:
        names = list(folder.walk())
        call = c_function("syncfs") if len(names) > _MANY else None
        if call is not None and call(folder.fileno()) == 0:
            return
        for name, kind in reversed(names):  # what is in a folder before the folder
            if kind is Kind.FILE:
                _sync(functools.partial(folder.open, name))
            elif os.name == "posix":  # Windows cannot open a folder, and needs no sync of it
                _sync(functools.partial(folder.open, name, flags=_FOLDER_FLAGS))
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Force a folder's own entries to the disk."""
    if os.name == "posix":
        _sync(lambda opened: opened.append(os.open(path, _FOLDER_FLAGS)))


def _sync(open_it: Callable[[Descriptors], object]) -> None:
    with Descriptors() as opened:
        open_it(opened)
        os.fsync(opened[0])
