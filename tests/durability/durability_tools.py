"""Models, forked children, and a tap on every operation that changes a disk; shared by the durability tests.

``FLAMBE_SAVE_TORTURE`` set to a number runs the long forms, that number of times as long.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import pathlib
import pickle
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers.places import TORTURE
from torch import nn

from flambe_save import Component, load, save
from flambe_save.storage import filesystem as disk

SHAPES = {
    "run": (False, False),
    "run.tar.gz": (True, False),
    "run.pkl": (False, True),
    "run.pkl.tar.gz": (True, True),
}
every_shape = pytest.mark.parametrize(("name", "flags"), SHAPES.items(), ids=SHAPES)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked and killed")
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc/self/fd")

PATIENCE = 120.0  # seconds until a child counts as hanging


def times(short: int, long: int) -> int:
    """Return how often something is done: short in everyday tests, long times the factor under torture."""
    return max(1, round(long * TORTURE)) if TORTURE else short


# ------------------------------------------------------------------------------------------------------------- models


class Part(Component, nn.Module):
    """A component inside: tensors of each kind, all of one number."""

    def __init__(self, number: int = 0, size: int = 5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size, 3), float(number)))
        self.register_buffer("counts", torch.full((size,), number))
        self.history = torch.full((2,), float(number), dtype=torch.float64)
        self.register_attrs("history")


class Whole(Component, nn.Module):
    """A model with one part or two, all of whose tensors hold one number, so that a mixture of two saves shows."""

    def __init__(self, number: int = 0, size: int = 5, parts: int = 1) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((size,), float(number)))
        self.parts = nn.ModuleDict({f"part{index}": Part(number, size) for index in range(parts)})
        self.steps = [number, torch.full((3,), number)]
        self.register_attrs("steps")


def values_of(obj: Component) -> dict[str, Any]:
    """Return what an object holds, tensors as type, shape and bytes, so that ``==`` compares them to the bit."""
    return {key: _plain(value) for key, value in obj.get_state().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().contiguous().numpy().tobytes()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def number_in(obj: Whole) -> int:
    """Return the one number that all tensors of a model hold; fail where they differ."""
    numbers = {float(number) for tensor in _tensors(obj.get_state()) for number in tensor.detach().reshape(-1)}
    assert len(numbers) == 1, f"a mixture of saves: {sorted(numbers)}"
    return int(numbers.pop())


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values.values() if hasattr(values, "values") else values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list):
            yield torch.tensor([float(item) for item in value if isinstance(item, int)])
            yield from _tensors([item for item in value if isinstance(item, torch.Tensor)])


def write(model: Any, path: Any, flags: tuple[bool, bool], **options: Any) -> str:
    """Save in a shape; overwriting unless told otherwise, and from one thread, so that operations have an order."""
    return save(model, path, *flags, overwrite=options.pop("overwrite", True), **{"threads": 1, **options})


def outcome(path: Any, wanted: dict[str, dict[str, Any]]) -> str:
    """Load, and return which of the models it was, or ``"nothing"``; an error of any other kind is let out."""
    from flambe_save import SaveNotFoundError

    try:
        found = values_of(load(path))
    except SaveNotFoundError:
        return "nothing"
    return next((name for name, values in wanted.items() if values == found), f"something else: {found}")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return all that is below a folder, hidden things too: bytes of files, None for folders."""
    found: dict[str, bytes | None] = {}
    for here, folders, files in os.walk(folder):
        before = os.path.relpath(here, folder) + os.sep
        found.update((before + name, None) for name in folders)
        for name in files:
            found[before + name] = Path(here, name).read_bytes()
    return found


def copy(source: Path, target: Path) -> None:
    """Copy a save of any shape."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def remove(path: Path) -> None:
    """Remove a file or folder, however deep: ``rm`` does not recurse."""
    if sys.platform == "win32":
        shutil.rmtree(path, ignore_errors=True)
    else:
        subprocess.run(["rm", "-rf", "--", os.fspath(path)], check=True, timeout=300)


# ------------------------------------------------------------------------------------------------------------ children


class Raised(NamedTuple):
    """An exception of a child's, as its parent sees it."""

    kind: type[BaseException]
    text: str
    file: str | None
    fix: str | None

    def is_a(self, *kinds: type[BaseException]) -> bool:
        """Whether it is of one of these classes."""
        return issubclass(self.kind, kinds)


class Ended(NamedTuple):
    """How a child ended: its exit status (negative: the signal), and what it returned or raised."""

    status: int
    value: Any = None
    raised: Raised | None = None


class Child:
    """A forked process that runs one function, tells what came of it, and never returns into the tests.

    Parameters
    ----------
    body : callable
        What it runs; its result must pickle.
    """

    def __init__(self, body: Callable[[], Any]) -> None:
        self._result, answer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: xdist has one
            self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.close(self._result)
                told = pickle.dumps(_run(body))
                status = 71
                _write_all(answer, told)
                status = 0
            finally:
                os._exit(status)
        os.close(answer)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the child a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = PATIENCE) -> Ended:
        """Wait for the end; a child that hangs is killed, and the test fails."""
        chunks = []
        end = time.monotonic() + timeout
        with contextlib.closing(os.fdopen(self._result, "rb", buffering=0)) as pipe:
            while True:
                ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
                if not ready:
                    self.kill()
                    os.waitpid(self.pid, 0)
                    pytest.fail(f"a child did nothing for {timeout} seconds")
                chunk = pipe.read(1 << 20)
                if not chunk:
                    break
                chunks.append(chunk)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if status != 0:
            return Ended(status)
        value, raised = pickle.loads(b"".join(chunks))
        return Ended(0, value, raised)


def in_child(body: Callable[[], Any]) -> Ended:
    """Run a function in a forked process."""
    return Child(body).wait()


def _run(body: Callable[[], Any]) -> tuple[Any, Raised | None]:
    try:
        return body(), None
    except BaseException as error:
        text = str(error)
        return None, Raised(type(error), text, getattr(error, "file", None), getattr(error, "fix", None))


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[_REAL["write"](handle, view) :]
    os.close(handle)


def open_handles() -> int:
    """Return how many file descriptors this process has."""
    return len(os.listdir("/proc/self/fd")) - 1


# --------------------------------------------------------------------------------------------------------------- a tap


class Operation(NamedTuple):
    """One operation that changes a disk, or syncs it."""

    name: str
    paths: tuple[str, ...]
    data: bytes = b""
    offset: int = 0
    half: Callable[[], object] | None = None  # do a part of it: of a write, the first half of the bytes


Watcher = Callable[[Operation], None]

_ONE_PATH = ("mkdir", "unlink", "remove", "rmdir", "truncate")
_TWO_PATHS = ("rename", "replace", "link")
_HANDLES = ("fsync", "fdatasync", "ftruncate", "posix_fallocate")
_OTHERS = ("write", "pwrite", "open", "symlink", "writev", "sendfile", "copy_file_range")
_REAL = {name: getattr(os, name) for name in (*_ONE_PATH, *_TWO_PATHS, *_HANDLES, *_OTHERS) if hasattr(os, name)}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_OPEN = io.open


def watch(before: Watcher | None = None, after: Watcher | None = None) -> None:
    """Have every write-side operation of this process told, before and after it happens.

    Python's files, the functions of ``os`` (with handles and ``dir_fd`` resolved to paths) and the exchange of two
    folders are tapped. For good: only a forked child should call this. A watcher may raise in place of the operation;
    a file's ``close`` has happened when it is told, as a handle that stays open would be the watcher's fault.
    """
    hidden = [False]

    def succeeded(code: int) -> bool:
        return code == 0

    def told(operation: Operation, act: Callable[[], Any], good: Callable[[Any], bool] = lambda result: True) -> Any:
        if hidden[0] or not _on_disk(operation.paths):
            return act()
        if before is not None:
            before(operation)
        hidden[0] = True
        try:
            result = act()
        finally:
            hidden[0] = False
        if after is not None and good(result):
            after(operation)
        return result

    def tap(name: str, paths: Callable[..., tuple[str, ...]]) -> None:
        real = getattr(os, name)  # a test may have made fsync do nothing

        def tapped(*args: Any, **kwargs: Any) -> Any:
            return told(Operation(name, paths(*args, **kwargs)), lambda: real(*args, **kwargs))

        _replace(name, tapped)

    for name in _ONE_PATH:
        tap(name, lambda path, *args, dir_fd=None, **kwargs: (_absolute(path, dir_fd),))
    for name in _TWO_PATHS:
        tap(
            name,
            lambda one, other, *, src_dir_fd=None, dst_dir_fd=None, **kwargs: (
                _absolute(one, src_dir_fd),
                _absolute(other, dst_dir_fd),
            ),
        )
    for name in _HANDLES:
        if name in _REAL:
            tap(name, lambda handle, *args: (_absolute(handle),))

    def unknown(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a way to write that the tests do not know; teach them")

    for name in ("symlink", "writev", "sendfile", "copy_file_range"):
        if name in _REAL:
            _replace(name, unknown)

    def os_write(handle: int, data: Any) -> int:
        view = memoryview(data).cast("B")
        operation = Operation("write", (_absolute(handle),), bytes(view), _tell(handle), _half(handle, view))
        return told(operation, lambda: _REAL["write"](handle, data))

    def os_pwrite(handle: int, data: Any, offset: int) -> int:
        operation = Operation("write", (_absolute(handle),), bytes(data), offset)
        return told(operation, lambda: _REAL["pwrite"](handle, data, offset))

    def os_open(path: Any, flags: int, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> int:
        def act() -> int:
            return _REAL["open"](path, flags, *args, dir_fd=dir_fd, **kwargs)

        if not flags & _WRITES:
            return act()
        name = "truncate" if flags & os.O_TRUNC else "open"
        return told(Operation(name, (_absolute(path, dir_fd),)), act)

    _replace("write", os_write)
    _replace("pwrite", os_pwrite)
    _replace("open", os_open)

    class TappedFile(io.FileIO):
        def __init__(self, file: Any, mode: str, closefd: bool = True, opener: Any = None) -> None:
            def act() -> None:
                super(TappedFile, self).__init__(file, mode, closefd, opener)

            if isinstance(file, int) or opener is not None:
                act()
            else:
                told(Operation("truncate" if "w" in mode else "open", (_absolute(file),)), act)

        def write(self, data: Any) -> int:
            handle, view = self.fileno(), memoryview(data).cast("B")
            operation = Operation("write", (_absolute(handle),), bytes(view), _tell(handle), _half(handle, view))
            return told(operation, lambda: super(TappedFile, self).write(data))

        def truncate(self, size: int | None = None) -> int:
            operation = Operation("ftruncate", (_absolute(self.fileno()),))
            return told(operation, lambda: super(TappedFile, self).truncate(size))

        def close(self) -> None:
            if self.closed:
                return
            paths = (_absolute(self.fileno()),)
            super().close()
            told(Operation("close", paths), lambda: None)

    def tapped_open(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set(mode) & set("wxa+"):
            return _OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw: Any = TappedFile(file, mode.replace("t", "").replace("b", "") + "b", closefd, opener)
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        binary: Any = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, size)
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline)

    builtins.open = io.open = tapped_open  # type: ignore[assignment]
    accessor: Any = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10's, which keeps os's functions
    if accessor is not None:
        accessor.open = staticmethod(tapped_open)

    library_call = disk.c_function

    def tapped_library_call(name: str) -> Any:
        call = library_call(name)
        if call is None:
            return None
        if name == "syncfs":
            return lambda handle: told(Operation("syncfs", (_absolute(handle),)), lambda: call(handle), succeeded)
        if name == "fallocate":  # it changes nothing that can be read
            return call
        assert name == "renameat2", f"{name} is a way to write that the tests do not know; teach them"

        def renameat2(at: int, one: bytes, other_at: int, other: bytes, flags: int) -> int:
            exchange = 2
            operation = Operation("exchange" if flags == exchange else "rename", (_absolute(one), _absolute(other)))
            return told(operation, lambda: call(at, one, other_at, other, flags), succeeded)

        return renameat2

    disk.c_function = tapped_library_call


def without_renameat2() -> None:
    """Make this process one whose system has no renameat2, so that it must do with rename and link; for good."""
    library_call = disk.c_function
    disk.c_function = lambda name: None if name == "renameat2" else library_call(name)


def _replace(name: str, function: Callable[..., Any]) -> None:
    setattr(os, name, function)
    accessor: Any = getattr(pathlib, "_NormalAccessor", None)
    if accessor is not None and hasattr(accessor, name):
        setattr(accessor, name, staticmethod(function))


def _absolute(path: Any, dir_fd: int | None = None) -> str:
    if isinstance(path, int):
        try:
            return os.readlink(f"/proc/self/fd/{path}")
        except OSError:  # a path longer than the system tells
            return f"/too/deep/{path}"
    text = os.fsdecode(path)
    if not os.path.isabs(text):
        text = os.path.join(os.getcwd() if dir_fd is None else _absolute(dir_fd), text)
    return os.path.normpath(text)


def _on_disk(paths: tuple[str, ...]) -> bool:
    return all(path.startswith("/") and not path.startswith(("/proc/", "/dev/null")) for path in paths)


def _tell(handle: int) -> int:
    return os.lseek(handle, 0, os.SEEK_CUR) if stat.S_ISREG(os.fstat(handle).st_mode) else 0


def _half(handle: int, view: memoryview) -> Callable[[], object]:
    return lambda: _REAL["write"](handle, view[: len(view) // 2])


def die(*_: object) -> None:
    """End this process as a power button would."""
    os.kill(os.getpid(), signal.SIGKILL)


def at(step: int, act: Callable[[Operation], None], names: tuple[str, ...] = ()) -> Watcher:
    """Return a watcher that acts at the n-th operation (of these names, or of all), counted from 1."""
    left = [step]

    def watcher(operation: Operation) -> None:
        if not names or operation.name in names:
            left[0] -= 1
            if left[0] == 0:
                act(operation)

    return watcher


def operations_of(body: Callable[[], Any], *, done: bool = False) -> list[Operation]:
    """Run a function in a child and return the operations that it tried, or those that were done."""

    def run() -> list[tuple[Any, ...]]:
        seen: list[tuple[Any, ...]] = []

        def note(operation: Operation) -> None:
            seen.append((*operation[:4], operation.half is not None))

        watch(**{"after" if done else "before": note})
        body()
        return seen

    ended = in_child(run)
    assert ended.raised is None, ended.raised
    assert ended.status == 0, ended
    return [Operation(*fields[:4], id if fields[4] else None) for fields in ended.value]
