"""A save that fails says what is wrong and changes nothing: the old save stays, no debris, no handle left open."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from durability_tools import (
    Ended,
    Operation,
    Raised,
    Whole,
    at,
    every_shape,
    in_child,
    needs_fork,
    needs_proc,
    open_handles,
    operations_of,
    tree,
    values_of,
    watch,
    without_renameat2,
    write,
)
from helpers.places import TORTURE
from torch import nn

from flambe_save import Component, FlambeSaveError, LoadError, SaveError, TargetExistsError, load, save

pytestmark = [needs_fork, needs_proc, pytest.mark.usefixtures("_unsynced")]

Figure = Callable[[str, object], None]

either = pytest.mark.parametrize("there", [True, False], ids=["overwrite", "first"])


def attempt(body: Callable[[], Any]) -> Ended:
    """Run a save in a child; its value is the difference in open handles, whatever became of the save."""

    def counted() -> int:
        before = open_handles()
        try:
            body()
        finally:
            leaked = open_handles() - before
            if leaked:
                os._exit(99)
        return leaked

    ended = in_child(counted)
    assert ended.status != 99, "file descriptors are leaked"
    return ended


def check_message(raised: Raised | None, path: Path) -> None:
    """Assert that an error is a SaveError that names the file and the fix, in two lines, in plain characters."""
    assert raised is not None
    assert raised.is_a(SaveError), raised
    assert raised.file, raised
    assert os.path.isabs(raised.file), raised
    assert raised.file in (str(path), *map(str, path.parents)) or raised.file.startswith(str(path.parent)), raised
    assert raised.file in raised.text
    assert raised.fix, raised
    assert raised.fix in raised.text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", raised.text)


def place(tmp_path: Path, name: str, flags: tuple[bool, bool], there: bool) -> tuple[Path, Whole]:
    """Return a path, with an old save there or below folders that are not there, and the old model."""
    old = Whole(1, 300, 2)
    if there:
        write(old, tmp_path / "at" / name, flags)
    else:
        (tmp_path / "at").mkdir()
    return tmp_path / "at" / name if there else tmp_path / "at" / "new" / "folders" / name, old


def check_unchanged(path: Path, before: dict[str, bytes | None], top: Path, old: Whole | None) -> None:
    """Assert that nothing changed, and that the old save loads."""
    assert sorted(tree(top)) == sorted(before)
    assert tree(top) == before
    if old is not None:
        assert values_of(load(path)) == values_of(old)


# ---------------------------------------------------------------------------------------------------------- full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root on Linux may make a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk may not be made here: {mounted.stderr.strip()[-200:]}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


class Noise(Component, nn.Module):
    """Random numbers, which no archive shrinks."""

    def __init__(self, kilobytes: int) -> None:
        super().__init__()
        self.noise = nn.Parameter(torch.rand(kilobytes * 256, generator=torch.Generator().manual_seed(0)))


def no_precheck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every disk say that it has room."""
    plenty = shutil.disk_usage("/")._replace(free=1 << 50)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: plenty)
    for name in ("statvfs", "fstatvfs"):
        real = getattr(os, name)

        def roomy(path: Any, real: Callable[[Any], Any] = real) -> Any:
            values = list(real(path))
            values[2:5] = [1 << 40] * 3
            return os.statvfs_result(values)

        monkeypatch.setattr(os, name, roomy)


@either
@pytest.mark.parametrize("checked", [True, False], ids=["checked_before", "runs_out"])
@every_shape
def test_a_full_disk(
    name: str,
    flags: tuple[bool, bool],
    checked: bool,
    there: bool,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    figure: Figure,
) -> None:
    """A model larger than what is free: a SaveError, whether that is seen before or in the middle."""
    path, old = place(small_disk, name, flags, there)
    if not checked:
        no_precheck(monkeypatch)
    fitted = refused = 0
    for kilobytes in (*([] if not TORTURE else range(50, 4000, 150)), 10, 1600, 1950, 2500, 6000):
        big = Noise(kilobytes)
        before = tree(small_disk)
        ended = attempt(partial(write, big, path, flags))
        if ended.raised is None:
            fitted += 1
            assert values_of(load(path)) == values_of(big)
            shutil.rmtree(small_disk / "at")
            path, old = place(small_disk, name, flags, there)
            continue
        refused += 1
        check_message(ended.raised, path)
        assert re.search(r"(?i)space|free|full", ended.raised.text), ended.raised.text
        check_unchanged(path, before, small_disk, old if there else None)
    assert fitted >= 1
    assert refused >= 2
    figure("saves onto a full disk refused", refused)


@pytest.mark.parametrize(("name", "flags"), [("run", (False, False)), ("run.pkl", (False, True))])
def test_free_space_is_looked_at_before_writing(
    name: str, flags: tuple[bool, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is too little room, nothing is written; how small an archive gets is not known before."""
    path, old = place(tmp_path, name, flags, True)
    little = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: little)
    values = list(os.statvfs("/"))
    values[3:5] = [0, 0]
    for call in ("statvfs", "fstatvfs"):
        monkeypatch.setattr(os, call, lambda path: os.statvfs_result(values))
    before = tree(tmp_path)

    def body() -> list[str]:
        written: list[str] = []
        watch(before=lambda operation: written.append(operation.name) if operation.name == "write" else None)
        try:
            write(Whole(2, 3000), path, flags)
        except SaveError as error:
            if written:
                raise AssertionError(f"written before the check: {written}") from error
            raise
        return written

    check_message(attempt(body).raised, path)
    check_unchanged(path, before, tmp_path, old)


# --------------------------------------------------------------------------------------------- errors at each operation


def failing(number: int) -> Callable[[Operation], None]:
    """Return what raises the system's error of a number."""

    def act(operation: Operation) -> None:
        raise OSError(number, os.strerror(number), operation.paths[0])

    return act


def from_then_on(step: int, act: Callable[[Operation], None], names: tuple[str, ...]) -> Callable[[Operation], None]:
    """Return a watcher that acts at the n-th of some operations and at each one after it."""
    seen = [0]

    def watcher(operation: Operation) -> None:
        if operation.name in names:
            seen[0] += 1
            if seen[0] >= step:
                act(operation)

    return watcher


FAULTS = {
    "no_space": (errno.ENOSPC, ("write", "close", "mkdir", "open", "truncate"), True),
    "no_space_once": (errno.ENOSPC, ("write",), False),
    "broken": (
        errno.EIO,
        ("write", "fsync", "mkdir", "open", "truncate", "close", "rename", "replace", "link", "syncfs"),
        False,
    ),
}


@either
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@every_shape
def test_an_error_at_each_operation(
    name: str,
    flags: tuple[bool, bool],
    fault: tuple[int, tuple[str, ...], bool],
    there: bool,
    tmp_path: Path,
    figure: Figure,
) -> None:
    """Whichever operation fails: the new save is whole, or a SaveError, the old one and nothing else."""
    number, names, lasting = fault
    path, old = place(tmp_path, name, flags, there)
    new = Whole(2, 400)
    before = tree(tmp_path)
    refused = passed = 0
    for step in steps_of(lambda: write(new, path, flags), names, tmp_path, before):

        def body(step: int = step) -> None:
            if lasting:
                watch(before=from_then_on(step, failing(number), names))
            else:
                watch(before=at(step, failing(number), names))
            write(new, path, flags)

        ended = attempt(body)
        assert ended.status == 0, ended
        if ended.raised is None:
            # What fails after the swap is no failure of the save
            assert values_of(load(path)) == values_of(new), f"step {step}"
            passed += 1
            restore(tmp_path, before)
            continue
        refused += 1
        check_message(ended.raised, path)
        check_unchanged(path, before, tmp_path, old if there else None)
    assert refused > 0
    figure("errors injected", refused + passed)


def steps_of(
    body: Callable[[], Any],
    names: tuple[str, ...],
    folder: Path,
    before: dict[str, bytes | None],
    done: bool = False,
) -> list[int]:
    """Return which of some operations to fail at: every one under torture, else some, the swap among them.

    The save is done once, to count them, and undone.
    """
    tried = [operation.name for operation in operations_of(body, done=done) if operation.name in names]
    restore(folder, before)
    count = len(tried)
    steps = list(range(1, count + 1))
    if TORTURE or count < 12:
        return steps
    swaps = [step for step in steps if tried[step - 1] in ("rename", "replace", "link", "exchange")]
    around = [step + beside for step in swaps for beside in (-1, 0, 1, 2) if 0 < step + beside <= count]
    return sorted({*steps[:2], *steps[:: count // 3], *around, *steps[-2:]})


def is_whole(path: Path) -> bool:
    """Whether a save loads."""
    try:
        load(path)
    except LoadError:
        return False
    return True


def restore(folder: Path, before: dict[str, bytes | None]) -> None:
    """Make a folder hold what it held."""
    for entry in os.scandir(folder):
        if entry.is_dir():
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    for name in sorted(name for name, content in before.items() if content is None):
        (folder / name).mkdir(exist_ok=True)
    for name, content in before.items():
        if content is not None:
            (folder / name).write_bytes(content)


@either
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("swap", [True, False], ids=["swap", "by_renames"])
@every_shape
def test_an_interrupt_at_each_operation(
    name: str, flags: tuple[bool, bool], there: bool, swap: bool, done: bool, tmp_path: Path, figure: Figure
) -> None:
    """Ctrl-C anywhere comes through as it is; the old save or the new one is there, whole, and nothing beside it."""
    path, old = place(tmp_path, name, flags, there)
    new = Whole(2, 400)
    before = tree(tmp_path)
    found: Counter[str] = Counter()
    when = "after" if done else "before"

    def interrupt(operation: Operation) -> None:
        raise KeyboardInterrupt

    def saving() -> None:
        if not swap:
            without_renameat2()
        write(new, path, flags)

    names = ("write", "mkdir", "fsync", "rename", "replace", "link", "exchange", "unlink", "rmdir")
    if not done:  # after an open the handle would be lost between two bytecodes, which no program can help
        names = (*names, "open", "truncate", "close")
    for step in steps_of(saving, names, tmp_path, before, done):

        def body(step: int = step) -> None:
            watch(**{when: at(step, interrupt, names)})
            saving()

        ended = attempt(body)
        assert ended.status == 0, ended
        assert ended.raised is not None, f"the interrupt at step {step} was swallowed"
        assert ended.raised.kind is KeyboardInterrupt, ended.raised
        where = f"step {step}"
        assert not os.path.lexists(path) or is_whole(path), f"{where}: {sorted(tree(tmp_path))}"
        if os.path.lexists(path) and values_of(load(path)) == values_of(new):
            found["new"] += 1
            assert os.listdir(path.parent) == [name], where
            restore(tmp_path, before)
            continue
        found["old" if there else "nothing"] += 1
        check_unchanged(path, before, tmp_path, old if there else None)
    figure("interrupts survived", sum(found.values()))
    figure("found", dict(found))


# --------------------------------------------------------------------------------------------------- places and rights


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that any user may reach."""
    folder = Path(tempfile.mkdtemp(prefix="flambe-save-"))
    folder.chmod(0o755)
    yield folder
    for here, folders, _ in os.walk(folder):
        for name in folders:
            os.chmod(os.path.join(here, name), 0o755)
    shutil.rmtree(folder)


def as_anybody() -> None:
    """Become a user whom permissions bind; only in a child."""
    if os.geteuid() == 0:
        nobody = 65534
        os.setgroups([])
        os.setgid(nobody)
        os.setuid(nobody)


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs Unix permissions")
@pytest.mark.parametrize("kind", ["read_only", "unreachable", "first_in_read_only"])
@every_shape
def test_a_folder_that_may_not_be_written(name: str, flags: tuple[bool, bool], kind: str, open_folder: Path) -> None:
    """A folder that is read-only, or not the user's: a SaveError that says so, and the old save stays."""
    there = kind != "first_in_read_only"
    path, old = place(open_folder, name, flags, there)
    before = tree(open_folder)
    (open_folder / "at").chmod(0o000 if kind == "unreachable" else 0o555)
    try:

        def body() -> None:
            as_anybody()
            write(Whole(2), path, flags)

        ended = attempt(body)
    finally:
        (open_folder / "at").chmod(0o755)
    check_message(ended.raised, path)
    assert re.search("(?i)permission|denied|may not", ended.raised.text if ended.raised else "")
    check_unchanged(path, before, open_folder, old if there else None)


@every_shape
def test_a_disk_mounted_read_only(name: str, flags: tuple[bool, bool], small_disk: Path) -> None:
    """A disk that nobody may write, root neither."""
    path, old = place(small_disk, name, flags, True)
    before = tree(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    ended = attempt(lambda: write(Whole(2), path, flags))
    check_message(ended.raised, path)
    check_unchanged(path, before, small_disk, old)


@either
@every_shape
def test_too_many_open_files(name: str, flags: tuple[bool, bool], there: bool, tmp_path: Path, figure: Figure) -> None:
    """However few files may be open: the save goes through, or is a SaveError that leaves all as it was."""
    path, old = place(tmp_path, name, flags, there)
    new = Whole(2)
    before = tree(tmp_path)
    results: Counter[str] = Counter()
    for spare in range(0, 16, 1 if TORTURE else 3):

        def body(spare: int = spare) -> None:
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            highest = max(map(int, os.listdir("/proc/self/fd")))
            gaps = [os.open(os.devnull, os.O_RDONLY)]  # filled, so that as many may be opened as the limit says
            while gaps[-1] <= highest:
                gaps.append(os.open(os.devnull, os.O_RDONLY))
            resource.setrlimit(resource.RLIMIT_NOFILE, (gaps[-1] + 1 + spare, hard))
            try:
                write(new, path, flags)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                for handle in gaps:
                    os.close(handle)

        ended = attempt(body)
        assert ended.status == 0, ended
        if ended.raised is None:
            results["saved"] += 1
            assert values_of(load(path)) == values_of(new)
            restore(tmp_path, before)
            continue
        results["refused"] += 1
        check_message(ended.raised, path)
        check_unchanged(path, before, tmp_path, old if there else None)
    assert results["saved"] > 0
    assert results["refused"] > 0
    figure("results", dict(results))


class Hooked(Component):
    """Says what it holds, or fails to."""

    error: BaseException | None = None

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner
        self.value = torch.ones(2)
        self.register_attrs("value")

    def _state(self, state_dict: Any, prefix: str, local_metadata: dict[str, Any]) -> Any:
        if Hooked.error is not None:
            raise Hooked.error
        return state_dict


@either
@pytest.mark.parametrize(
    "error",
    [ValueError("my mistake\x1b[31m"), KeyError("k"), OSError(5, "mine"), RecursionError("mine")],
    ids=lambda error: type(error).__name__,
)
@every_shape
def test_a_state_hook_that_raises(
    name: str,
    flags: tuple[bool, bool],
    error: Exception,
    there: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exception of the user's own hook is a SaveError that names the component, with the exception as its cause."""
    path, old = place(tmp_path, name, flags, there)
    before, handles = tree(tmp_path), open_handles()
    monkeypatch.setattr(Hooked, "error", error)
    with pytest.raises(SaveError, match=r"Hooked") as info:
        write(Hooked(Hooked()), path, flags)
    assert info.value.__cause__ is error
    assert "\x1b" not in str(info.value)
    assert open_handles() == handles
    check_unchanged(path, before, tmp_path, old if there else None)


@either
@every_shape
def test_an_interrupt_in_a_state_hook(
    name: str, flags: tuple[bool, bool], there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a hook comes through."""
    path, old = place(tmp_path, name, flags, there)
    before = tree(tmp_path)
    monkeypatch.setattr(Hooked, "error", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write(Hooked(), path, flags)
    check_unchanged(path, before, tmp_path, old if there else None)


@every_shape
def test_something_else_is_there(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """A file where a folder is wanted, or the other way round, stays, and is a TargetExistsError."""
    path = tmp_path / name
    if name == "run":
        path.write_bytes(b"precious")
    else:
        path.mkdir()
        (path / "cat.jpg").write_bytes(b"precious")
    before, handles = tree(tmp_path), open_handles()
    for overwrite in (False, True):
        with pytest.raises(TargetExistsError) as info:
            write(Whole(2), path, flags, overwrite=overwrite)
        assert str(path) in str(info.value)
        assert info.value.fix
    assert (tree(tmp_path), open_handles()) == (before, handles)


@pytest.mark.parametrize("below", ["", "deeper/still"])
@every_shape
def test_a_parent_that_is_a_file(name: str, flags: tuple[bool, bool], below: str, tmp_path: Path) -> None:
    """No folder can be made below a file."""
    (tmp_path / "file").write_bytes(b"precious")
    path = tmp_path / "file" / below / name
    before, handles = tree(tmp_path), open_handles()
    with pytest.raises(SaveError) as info:
        write(Whole(2), path, flags)
    assert str(tmp_path / "file") in str(info.value)
    assert info.value.fix
    assert (tree(tmp_path), open_handles()) == (before, handles)


@pytest.mark.parametrize("length", [230, 250, 255, 256, 300, 5000])
@every_shape
def test_a_name_of_any_length(name: str, flags: tuple[bool, bool], length: int, tmp_path: Path) -> None:
    """A name that the disk takes is saved to; a longer one, or too long a path, is a SaveError that says so."""
    path = tmp_path / ("x" * (length - len(name)) + name)
    if length > 4096:
        path = tmp_path / "made/for/it" / (("x" * 200 + "/") * (length // 200)) / name
    handles = open_handles()
    if length <= 255:
        model = Whole(2)
        write(model, path, flags)
        write(model, path, flags)
        assert values_of(load(path)) == values_of(model)
        assert os.listdir(tmp_path) == [path.name]
    else:
        with pytest.raises(SaveError, match=r"(?i)too long") as info:
            write(Whole(2), path, flags)
        assert info.value.fix
        assert tree(tmp_path) == {}
    assert open_handles() == handles


@every_shape
def test_a_path_that_is_none(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """A path with a NUL in it, an empty one, and a loop of links are errors of ours, and leave nothing."""
    (tmp_path / "loop").symlink_to("loop")
    for path in ("", f"{tmp_path}/a\0b/{name}", tmp_path / "loop" / name):
        with pytest.raises(FlambeSaveError):
            save(Whole(2), path, *flags, overwrite=True)
    assert os.listdir(tmp_path) == ["loop"]
