"""FolderStore and FileStore: saves on a local disk, written aside and committed by one rename.

:class:`Aside` is that rule, once, for folders, files and archives (tar.py): the target holds the old save or the new
one, never a part of either.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, ClassVar, TypeVar

from flambe_save.errors import CorruptSaveError, LoadError, SaveError, TargetExistsError
from flambe_save.layout import PROTOCOL_FILE

__all__ = ["Aside", "FileStore", "FolderStore", "files_below", "finish"]

S = TypeVar("S", bound="_LocalStore")

_ASIDE = ".flambe-aside"
_OLD = ".flambe-aside-old"  # an old save between two renames: put back where the new one never arrived


class Aside:
    """A place beside the target where a save is written, until :meth:`commit` makes it the target.

    Parameters
    ----------
    target : path
        Where the save shall be; where that is a link, what it points to. Missing parent folders are made, and removed
        again by :meth:`discard`.
    overwrite : bool
        Whether a save that is there may be replaced. Something that is no save never is.
    folder : bool
        Whether the save is a folder.

    Raises
    ------
    TargetExistsError
        If something is there and may not be replaced.
    """

    def __init__(self, target: str | os.PathLike[str], *, overwrite: bool, folder: bool) -> None:
        self.target = Path(os.path.realpath(target))
        self._overwrite = overwrite
        self._folder = folder
        self._check_target()
        self.path = self._name(_ASIDE)
        self._made_parents = _make_parents(self.target.parent)
        try:
            _remove_leftovers(self.target)
            if folder:
                self.path.mkdir()
            else:
                self.path.touch(exist_ok=False)
        except BaseException:
            self.discard()
            raise

    def commit(self) -> None:
        """Make what was written the target; an old save is synced against, swapped out, then removed."""
        self._check_target()
        if self._folder and self._overwrite and self.target.is_dir():
            # The old save may be the only good copy: the new one is on the disk before the old one goes.
            _sync(self.path)
            old = self.path
            if not _exchange(self.path, self.target):
                old = self._name(_OLD)
                os.rename(self.target, old)
                try:
                    os.rename(self.path, self.target)
                except BaseException:
                    os.rename(old, self.target)
                    raise
            # The new save is in place: what fails from here on is no failure of it
            with contextlib.suppress(OSError):
                _sync_folder(self.target.parent)
            shutil.rmtree(old, ignore_errors=True)
        else:
            if self._overwrite and os.path.lexists(self.target):
                _sync(self.path)
            os.replace(self.path, self.target)

    def discard(self) -> None:
        """Remove what was written, and the parent folders made for it."""
        if self._folder:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)
        for parent in self._made_parents:
            try:
                parent.rmdir()
            except OSError:
                break

    def _name(self, suffix: str) -> Path:
        token = f"{os.getpid()}-{secrets.token_hex(4)}"
        return self.target.with_name(f".{_short(self.target.name)}.{token}{suffix}")

    def _check_target(self) -> None:
        if not os.path.lexists(self.target):
            return
        shown = str(self.target)
        if self._folder and self.target.is_dir() and not any(self.target.iterdir()):
            return  # an empty folder holds nothing to lose, and a rename onto it succeeds
        if not self._overwrite:
            raise TargetExistsError(
                f"there is already something at {shown!r}",
                file=shown,
                fix="Choose another path, or overwrite=True.",
            )
        if not ((self.target / PROTOCOL_FILE).is_file() if self._folder else self.target.is_file()):
            raise TargetExistsError(
                f"what is at {shown!r} is no save of this kind, so overwrite=True does not remove it",
                file=shown,
                fix="Choose another path, or remove it yourself.",
            )


class _LocalStore:
    """What folders and files have in common: where they are, and how their ``with`` is entered and left."""

    _is_folder: ClassVar[bool]

    def __init__(self, path: str | os.PathLike[str], mode: str = "r", *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self._mode = mode
        self._overwrite = overwrite
        self._aside: Aside | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __enter__(self: S) -> S:
        if self._mode == "w":
            self._aside = Aside(self.path, overwrite=self._overwrite, folder=self._is_folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finish(self._aside, failed=kind is not None)


class FolderStore(_LocalStore):
    """A folder whose files are the names.

    Parameters
    ----------
    path : path
        The folder.
    mode : {"r", "w"}
    overwrite : bool
        With ``"w"``: whether a save that is there is replaced.
    """

    _is_folder = True

    def names(self) -> list[str]:
        """Return the files below the folder, ``/`` between folders, sorted; hidden ones are the system's, not ours."""
        return sorted(files_below(self.path, ""))

    def reader(self, name: str) -> BinaryIO:
        """Open a file of the folder."""
        return _open(self.path / name, name)

    def writer(self, name: str) -> BinaryIO:
        """Create a file, and its folder where needed, aside from the target."""
        assert self._aside is not None, "a store is written inside its with block"
        path = self._aside.path / name
        try:
            return open(path, "xb")
        except FileNotFoundError:
            path.parent.mkdir(parents=True)
            return open(path, "xb")


class FileStore(_LocalStore):
    """A single file; its only name is ``""``.

    Parameters
    ----------
    path : path
        The file.
    mode : {"r", "w"}
    overwrite : bool
        With ``"w"``: whether a file that is there is replaced.
    """

    _is_folder = False

    def names(self) -> list[str]:
        """Return ``[""]``."""
        return [""]

    def reader(self, name: str) -> BinaryIO:
        """Open the file."""
        if name:
            raise KeyError(name)
        return _open(self.path, self.path.name)

    def writer(self, name: str) -> BinaryIO:
        """Create the file aside from the target."""
        assert self._aside is not None, "a store is written inside its with block"
        if name:
            raise SaveError(f"a single file cannot hold {name!r}", file=str(self.path))
        return open(self._aside.path, "wb")


def finish(aside: Aside | None, *, failed: bool) -> None:
    """End a store's ``with``: commit, or discard after an exception or where committing fails."""
    if aside is None:
        return
    if failed:
        aside.discard()
        return
    try:
        aside.commit()
    except BaseException:
        aside.discard()
        raise


def _open(path: Path, name: str) -> BinaryIO:
    """Open a regular file, or a link to one; a pipe or a device is refused without waiting for it."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise KeyError(name) from None
    except PermissionError as error:
        raise LoadError(f"you may not read {name!r}", file=str(path), fix="Ask its owner for permission.") from error
    except OSError as error:
        raise CorruptSaveError(f"cannot read {name!r}: {error.strerror}", file=str(path)) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CorruptSaveError(f"{name!r} is no regular file", file=str(path))
    return os.fdopen(handle, "rb")


def files_below(folder: Path, prefix: str) -> Iterator[str]:
    """Yield the files below a folder, those with a leading dot left out; links to folders count as files."""
    stack = [(folder, prefix)]
    while stack:
        here, before = stack.pop()
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    stack.append((Path(entry.path), f"{before}{entry.name}/"))
                else:
                    yield before + entry.name


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder and its parents; return those that were missing, deepest first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
    return missing


def _short(name: str) -> str:
    """Return the beginning of a name, so that a longer one beside it still fits the disk's 255 bytes."""
    return os.fsencode(name)[:100].decode("utf-8", "ignore")


def _remove_leftovers(target: Path) -> None:
    """Remove what processes that are gone left aside for this target; put back an old save that none replaced."""
    ours = re.compile(re.escape(f".{_short(target.name)}.") + r"(\d+)-[0-9a-f]{8}" + re.escape(_ASIDE) + "(-old)?")
    for entry in list(os.scandir(target.parent)):
        match = ours.fullmatch(entry.name)
        if match and not _alive(int(match[1])):
            if match[2] and not os.path.lexists(target):
                os.rename(entry.path, target)
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _sync(path: Path) -> None:
    """Force a file, or a folder and all below it, to the disk."""
    if not path.is_dir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        return
    for folder, _, files in os.walk(path):
        for name in files:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(folder))


def _sync_folder(path: Path) -> None:
    if os.name == "posix":  # Windows cannot open a folder, and needs no sync of it
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step (Linux's renameat2 with RENAME_EXCHANGE); False where that is not to be had."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    at_cwd, exchange = -100, 2
    return bool(renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0)
