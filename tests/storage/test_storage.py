"""Stores: the contract of each, and that a disk holds the old save or the new one whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from helpers.places import MODULES
from hypothesis import given, settings
from hypothesis import strategies as st
from other_process import run_program

from flambe_save.errors import CorruptSaveError, SaveError, SaveNotFoundError, TargetExistsError
from flambe_save.layout import PROTOCOL_FILE
from flambe_save.storage import (
    FileStore,
    FolderStore,
    MemoryStore,
    Store,
    TarStore,
    atomic,
    create_store,
    open_store,
)
from flambe_save.testing import StoreContract

OLD = {PROTOCOL_FILE: b"1", "state.pt": b"old", "encoder/state.pt": b"old too", "encoder/stale.txt": b"stale"}
NEW = {PROTOCOL_FILE: b"1", "state.pt": b"new", "encoder/state.pt": b"new too"}


class TestFolderStoreContract(StoreContract):
    """A folder on a disk."""

    def make_writer(self, path: Any) -> Store:
        """Return a store that replaces."""
        return FolderStore(path, "w", overwrite=True)

    def make_reader(self, path: Any) -> Store:
        """Return a store that reads."""
        return FolderStore(path)


class TestFileStoreContract(StoreContract):
    """A single file."""

    files: ClassVar[Mapping[str, bytes]] = {"": bytes(range(256)) * 500}

    def make_writer(self, path: Any) -> Store:
        """Return a store that replaces."""
        return FileStore(path, "w", overwrite=True)

    def make_reader(self, path: Any) -> Store:
        """Return a store that reads."""
        return FileStore(path)


class TestTarStoreContract(StoreContract):
    """An archive of a folder."""

    def make_writer(self, path: Any) -> Store:
        """Return a store that replaces."""
        return TarStore(path, "w", overwrite=True)

    def make_reader(self, path: Any) -> Store:
        """Return a store that reads."""
        return TarStore(path)


class TestSingleTarStoreContract(TestTarStoreContract):
    """An archive of a single file."""

    files: ClassVar[Mapping[str, bytes]] = {"": bytes(range(256)) * 500}

    def make_writer(self, path: Any) -> Store:
        """Return a store that replaces."""
        return TarStore(path, "w", single=True, overwrite=True)


class TestMemoryStoreContract(StoreContract):
    """A dict in memory."""

    @pytest.fixture(autouse=True)
    def _saves(self) -> None:
        self.saves: dict[Any, dict[str, bytes]] = {}

    def make_writer(self, path: Any) -> Store:
        """Return a store that replaces."""
        return MemoryStore(self.saves.setdefault(path, {}))

    def make_reader(self, path: Any) -> Store:
        """Return a store that reads."""
        return MemoryStore(self.saves.setdefault(path, {}))


KINDS = {
    "folder": {"archive": False, "single": False},
    "file": {"archive": False, "single": True},
    "tar": {"archive": True, "single": False},
    "single_tar": {"archive": True, "single": True},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> dict[str, bool]:
    """Return the arguments of ``create_store`` for each kind of store on a disk."""
    return request.param


def of_kind(files: Mapping[str, bytes], kind: Mapping[str, bool]) -> dict[str, bytes]:
    """Return files as a store of a kind can hold them."""
    return {"": files["state.pt"]} if kind["single"] else dict(files)


def write(path: Path, kind: Mapping[str, bool], files: Mapping[str, bytes], *, overwrite: bool = False) -> None:
    """Write and commit files."""
    with create_store(path, **kind, overwrite=overwrite) as store:
        fill(store, of_kind(files, kind))


def fill(store: Store, files: Mapping[str, bytes] | list[tuple[str, bytes]]) -> None:
    """Write files."""
    for name, data in files.items() if isinstance(files, Mapping) else files:
        with store.writer(name) as file:
            file.write(data)


def read(path: Path) -> dict[str, bytes]:
    """Return what is at a path."""
    with open_store(path) as store:
        files = {}
        for name in store.names():
            with store.reader(name) as file:
                files[name] = file.read()
        return files


def tree(folder: Path) -> list[str]:
    """Return all that is in a folder, hidden things too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---------------------------------------------------------------------------------------------------- what is there


def test_open_store_looks_at_the_content(tmp_path: Path, kind: dict[str, bool]) -> None:
    """A folder, an archive and a file are told apart by what they hold, whatever they are called."""
    write(tmp_path / "misleading.txt", kind, NEW)
    assert read(tmp_path / "misleading.txt") == of_kind(NEW, kind)


def test_nothing_there_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """A path that does not exist is an error that is a FileNotFoundError and names what is near."""
    (tmp_path / "run1.pkl").touch()
    with pytest.raises(SaveNotFoundError, match=r"no save at .*run1'(?s:.)*'run1\.pkl'") as info:
        open_store(tmp_path / "run1")
    assert isinstance(info.value, FileNotFoundError)


def test_hidden_files_are_not_of_the_save(tmp_path: Path) -> None:
    """What the system puts into a folder, .DS_Store and the like, is no part of a save."""
    write(tmp_path / "save", KINDS["folder"], NEW)
    (tmp_path / "save/.DS_Store").write_bytes(b"x")
    (tmp_path / "save/encoder/.nfs0001").write_bytes(b"x")
    assert read(tmp_path / "save") == NEW


@pytest.mark.parametrize(("store", "name"), [(FileStore, "a"), (TarStore, "")], ids=["file", "tar"])
def test_a_name_that_a_store_cannot_hold(tmp_path: Path, store: Any, name: str) -> None:
    """A single file takes no names, a tree needs them; either is a SaveError, and nothing is left."""
    with pytest.raises(SaveError, match="cannot hold"), store(tmp_path / "save", "w") as open_one:
        open_one.writer(name)
    assert tree(tmp_path) == []


def test_a_name_is_written_once(tmp_path: Path) -> None:
    """Writing one name twice into a folder is an error, not a silent replacement."""
    with FolderStore(tmp_path / "save", "w") as store:
        fill(store, {"a": b"1"})
        with pytest.raises(FileExistsError, match="File exists"):
            store.writer("a")
    assert read(tmp_path / "save") == {"a": b"1"}
    with pytest.raises(FileExistsError, match="File exists"), FolderStore(tmp_path / "other", "w") as store:
        fill(store, [("a", b"1"), ("a", b"2")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["save"]


# ----------------------------------------------------------------------------------------------- targets and overwrite


def test_an_existing_save_is_not_replaced_unasked(tmp_path: Path, kind: dict[str, bool]) -> None:
    """Without ``overwrite`` the error comes at once, is a FileExistsError and a ValueError, and nothing changes."""
    write(tmp_path / "save", kind, OLD)
    before = tree(tmp_path)
    with pytest.raises(TargetExistsError, match="overwrite=True") as info, create_store(tmp_path / "save", **kind):
        pytest.fail("the block must not be entered")
    assert isinstance(info.value, FileExistsError)
    assert isinstance(info.value, ValueError)
    assert (tree(tmp_path), read(tmp_path / "save")) == (before, of_kind(OLD, kind))


def test_overwrite_leaves_nothing_of_the_old(tmp_path: Path, kind: dict[str, bool]) -> None:
    """The new save takes the place of the old one, with no stale file and nothing beside it."""
    write(tmp_path / "save", kind, OLD)
    if kind == KINDS["folder"]:
        (tmp_path / "save/notes.txt").write_text("mine")
    write(tmp_path / "save", kind, NEW, overwrite=True)
    assert read(tmp_path / "save") == of_kind(NEW, kind)
    assert [path.name for path in tmp_path.iterdir()] == ["save"]


def test_overwrite_where_nothing_is(tmp_path: Path, kind: dict[str, bool]) -> None:
    """``overwrite`` does not ask that there be an old save."""
    write(tmp_path / "save", kind, NEW, overwrite=True)
    assert read(tmp_path / "save") == of_kind(NEW, kind)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_is_a_free_place(tmp_path: Path, overwrite: bool) -> None:
    """A folder made beforehand, as by ``mkdtemp``, may become the save."""
    (tmp_path / "save").mkdir()
    write(tmp_path / "save", KINDS["folder"], NEW, overwrite=overwrite)
    assert read(tmp_path / "save") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["save"]


def test_overwrite_spares_a_folder_that_is_no_save(tmp_path: Path, kind: dict[str, bool]) -> None:
    """Photos are never replaced by a save, of any kind."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"meow")
    with (
        pytest.raises(TargetExistsError, match="not a save"),
        create_store(tmp_path / "photos", **kind, overwrite=True),
    ):
        pytest.fail("the block must not be entered")
    assert tree(tmp_path) == ["photos", "photos/cat.jpg"]


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    """A file in the place of a folder stays."""
    (tmp_path / "save").write_bytes(b"a file")
    with pytest.raises(TargetExistsError, match="not a save"), FolderStore(tmp_path / "save", "w", overwrite=True):
        pytest.fail("the block must not be entered")
    assert (tmp_path / "save").read_bytes() == b"a file"


@pytest.mark.parametrize("linked", ["folder", "file", "tar"])
def test_overwrite_through_a_link(tmp_path: Path, linked: str) -> None:
    """A link to a save, ``latest`` say, can be saved to: the path then gives the new save, and no debris is left."""
    kind = KINDS[linked]
    write(tmp_path / "run7", kind, OLD)
    (tmp_path / "latest").symlink_to("run7")
    write(tmp_path / "latest", kind, NEW, overwrite=True)
    assert read(tmp_path / "latest") == of_kind(NEW, kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "run7"]
    assert read(tmp_path / "run7") in (of_kind(OLD, kind), of_kind(NEW, kind))


def test_the_target_may_appear_meanwhile(tmp_path: Path, kind: dict[str, bool]) -> None:
    """Of two writers to one path the first to commit wins; the other gets an error and leaves nothing."""
    with create_store(tmp_path / "save", **kind) as one:
        fill(one, of_kind(OLD, kind))
        with (  # noqa: PT012
            pytest.raises(TargetExistsError, match="already"),
            create_store(tmp_path / "save", **kind) as other,
        ):
            fill(other, of_kind(NEW, kind))
            write(tmp_path / "save", kind, NEW)
        assert read(tmp_path / "save") == of_kind(NEW, kind)
        shutil.rmtree(tmp_path / "save", ignore_errors=True)
        (tmp_path / "save").unlink(missing_ok=True)
    assert read(tmp_path / "save") == of_kind(OLD, kind)
    assert [path.name for path in tmp_path.iterdir()] == ["save"]


NAMES = {
    "letters": "x" * 255,
    "three_byte_letters": "\N{SNOWMAN}" * 80,
    "four_byte_letters": "\N{PILE OF POO}" * 62,
    "spaces": "a b\tc",
    "dash": "-rf",
    "percent": "%",
    "dots": "a.b.c",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_that_the_disk_allows(tmp_path: Path, kind: dict[str, bool], name: str) -> None:
    """The name that a save has while it is written is not longer than the disk allows, if its own is not."""
    write(tmp_path / name, kind, OLD)
    write(tmp_path / name, kind, NEW, overwrite=True)
    assert read(tmp_path / name) == of_kind(NEW, kind)
    assert [path.name for path in tmp_path.iterdir()] == [name]


# ---------------------------------------------------------------------------------------------------------- failures


def test_an_exception_leaves_no_debris(tmp_path: Path, kind: dict[str, bool]) -> None:
    """After an exception the disk is as before: no file, no temporary folder, no parent folder made for the save."""
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyboardInterrupt), create_store(tmp_path / "mine/a/b/save", **kind) as store:  # noqa: PT012
        fill(store, of_kind(NEW, kind))
        raise KeyboardInterrupt
    assert tree(tmp_path) == ["mine"]


def test_parents_that_others_use_stay(tmp_path: Path, kind: dict[str, bool]) -> None:
    """A parent folder made for the save is not removed after an exception if something else is in it by then."""
    with pytest.raises(KeyboardInterrupt), create_store(tmp_path / "a/b/save", **kind):  # noqa: PT012
        (tmp_path / "a/other").touch()
        raise KeyboardInterrupt
    assert tree(tmp_path) == ["a", "a/other"]


def test_parents_are_made(tmp_path: Path, kind: dict[str, bool]) -> None:
    """Missing parent folders are made and stay."""
    write(tmp_path / "a/b/save", kind, NEW)
    assert read(tmp_path / "a/b/save") == of_kind(NEW, kind)


@contextlib.contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    """Set a limit of the system's for a while."""
    soft, hard = resource.getrlimit(what)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(what, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("there", [False, True], ids=["fresh", "overwrite"])
def test_a_disk_that_takes_no_more(tmp_path: Path, kind: dict[str, bool], there: bool) -> None:
    """Where writing fails, the OSError comes out, the old save is intact and nothing is left beside it."""
    target = tmp_path / "a/save"
    if there:
        write(target, kind, OLD)
    before = tree(tmp_path)
    big = {**NEW, "state.pt": os.urandom(1 << 20)}
    with pytest.raises(OSError, match="too large") as info, limited(resource.RLIMIT_FSIZE, 1000):
        write(target, kind, big, overwrite=there)
    assert info.value.errno == errno.EFBIG
    assert tree(tmp_path) == before
    assert not there or read(target) == of_kind(OLD, kind)


def test_a_store_that_cannot_be_entered_leaves_nothing(tmp_path: Path, kind: dict[str, bool]) -> None:
    """Where even beginning fails, parents that were made for the save are gone again."""
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    with (
        pytest.raises(OSError, match="Too many open files"),
        limited(resource.RLIMIT_NOFILE, lowest),
        create_store(tmp_path / "a/b/save", **kind) as store,
    ):
        fill(store, of_kind(NEW, kind))
    assert tree(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="descriptors of folders are POSIX")
def test_files_of_deep_folders_are_opened_from_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder of a chain is looked up once, not from the top for each file; also there and back."""
    files = {"/".join(["inside"] * level + [name]): b"%d" % level for level in range(200) for name in ("a", "b")}
    files |= {"/".join(["outside" * 30] * level + ["a"]): b"o" for level in range(3)}
    with FolderStore(tmp_path / "deep", "w") as store:
        for name, data in files.items():
            with store.writer(name) as file:
                file.write(data)
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda *args, **options: opened.append(args) or real(*args, **options))
    with FolderStore(tmp_path / "deep") as store:
        names = sorted(files, key=lambda name: (name.count("/"), name))
        opened.clear()
        for name in names:
            with store.reader(name) as file:
                assert file.read() == files[name]
        assert len(opened) < 1.2 * len(files)
        for name in [*reversed(names), names[-1], names[0]]:
            with store.reader(name) as file:
                assert file.read() == files[name]
        before = len(os.listdir("/dev/fd"))
    assert len(os.listdir("/dev/fd")) <= before - 2  # the folder, and the one near to the last name


def test_a_name_too_long_for_the_disk(tmp_path: Path, kind: dict[str, bool]) -> None:
    """A target that cannot be named so is an OSError that leaves nothing."""
    with pytest.raises(OSError, match="too long") as info:
        write(tmp_path / "a" / ("x" * 256), kind, NEW)
    assert info.value.errno == errno.ENAMETOOLONG
    assert tree(tmp_path) == []


def test_a_commit_that_fails_leaves_the_old(
    tmp_path: Path, kind: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the last step itself fails, the old save stays and the new one goes."""
    write(tmp_path / "save", kind, OLD)

    def fail(*arguments: Any) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, fail)
    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    with pytest.raises(OSError, match="the disk is broken"):
        write(tmp_path / "save", kind, NEW, overwrite=True)
    assert read(tmp_path / "save") == of_kind(OLD, kind)
    assert [path.name for path in tmp_path.iterdir()] == ["save"]


@pytest.mark.parametrize("step", [1, 2])
def test_each_rename_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Where folders cannot be swapped in one step, a failure of either rename leaves the old save in its place."""
    write(tmp_path / "save", KINDS["folder"], OLD)
    calls = []
    rename = os.rename

    def fail_once(one: Any, other: Any) -> None:
        calls.append(one)
        if len(calls) == step:
            raise OSError(errno.EIO, "the disk is broken")
        rename(one, other)

    monkeypatch.setattr(os, "rename", fail_once)
    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    with pytest.raises(OSError, match="the disk is broken"):
        write(tmp_path / "save", KINDS["folder"], NEW, overwrite=True)
    assert read(tmp_path / "save") == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["save"]


def test_folders_are_swapped_without_the_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where folders cannot be swapped in one step, two renames do it."""
    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    write(tmp_path / "save", KINDS["folder"], OLD)
    write(tmp_path / "save", KINDS["folder"], NEW, overwrite=True)
    assert read(tmp_path / "save") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["save"]


def test_the_new_save_is_on_the_disk_before_the_old_one_goes(
    tmp_path: Path, kind: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overwriting syncs every file of the new save first, and only then swaps."""
    write(tmp_path / "save", kind, OLD)
    events: list[str] = []

    def note(name: str, function: Any) -> Any:
        def noting(*arguments: Any) -> Any:
            events.append(name)
            return function(*arguments)

        return noting

    monkeypatch.setattr(os, "fsync", note("sync", os.fsync))
    monkeypatch.setattr(os, "replace", note("swap", os.replace))
    monkeypatch.setattr(atomic, "exchange", note("swap", atomic.exchange))
    write(tmp_path / "save", kind, NEW, overwrite=True)
    files = len(NEW) if kind == KINDS["folder"] else 1
    assert events.count("swap") == 1
    assert events[: events.index("swap")].count("sync") >= files


# --------------------------------------------------------------------------------------------------------- leftovers


def dead_process() -> int:
    """Return the id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_dead_processes_go(tmp_path: Path, kind: dict[str, bool]) -> None:
    """The next save to a path removes what a process that was killed left aside for it, and nothing else."""
    dead, alive = dead_process(), os.getppid()
    gone = [f".save.{dead}-01234567.flambe-aside", f".save.{dead}-89abcdef.flambe-aside"]
    stays = [
        f".save.{alive}-01234567.flambe-aside",
        f".other.{dead}-01234567.flambe-aside",
        f".save.{dead}-01234567.flambe-aside.txt",
        f"save.{dead}-01234567.flambe-aside",
        f".save.x{dead}-01234567.flambe-aside",
    ]
    for name in (gone[0], *stays):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.pt").write_bytes(b"x")
    (tmp_path / gone[1]).write_bytes(b"x")
    write(tmp_path / "save", kind, NEW)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["save", *stays])


# Kills a writing process at every step that touches the file system, one after the other, and looks at what is there.
DEATHS = """
import os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from test_storage import create_store, KINDS, NEW, OLD, atomic, of_kind, read, write

root = Path(sys.argv[1])
swap = sys.argv[2] == "swap"

def die_at(step):
    counted = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree")
    left = step
    def hook(event, arguments):
        nonlocal left
        if event in counted:
            left -= 1
            if left == 0:
                os._exit(9)
    sys.addaudithook(hook)

def outcome(path, kind):
    if not os.path.lexists(path):
        return "nothing"
    files = read(path)
    return "old" if files == of_kind(OLD, kind) else "new" if files == of_kind(NEW, kind) else repr(files)

for name, kind in KINDS.items() if swap else [("folder", KINDS["folder"])]:
    for there in (False, True):
        for step in range(1, 200):
            folder = root / name / f"{there}{step}"
            folder.mkdir(parents=True)
            path = folder / "save"
            if there:
                write(path, kind, OLD)
            child = os.fork()
            if not child:
                if not swap:
                    atomic.exchange = lambda one, other: False
                die_at(step)
                write(path, kind, NEW, overwrite=there)
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            seen = outcome(path, kind)
            try:
                with create_store(path, **kind, overwrite=True):
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            failed = outcome(path, kind)
            write(path, kind, NEW, overwrite=True)
            left = [entry.name for entry in folder.iterdir()]
            print(name, there, step, status, seen, failed, outcome(path, kind), len(left), sep="|")
            if status == 0:
                break
"""


def deaths(folder: Path, how: str) -> list[list[str]]:
    """Return what was seen after each death: kind, old save there, step, exit status, and what was at the path."""
    result = run_program(DEATHS, folder, how, places=MODULES)
    assert result.returncode == 0, result.stderr[-2000:]
    return [line.split("|") for line in result.stdout.splitlines()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that die at a given step")
def test_a_process_may_die_at_any_step(tmp_path: Path) -> None:
    """Killed at whatever step, a writer leaves the whole old save or the whole new one, and the next save cleans up."""
    rows = deaths(tmp_path, "swap")
    for name, there, step, _, seen, after_a_failed_save, after_a_save, left in rows:
        allowed = ("old", "new") if there == "True" else ("nothing", "new")
        assert seen in allowed, f"{name}, killed at step {step}: {seen}"
        assert after_a_failed_save in allowed, f"{name}, killed at step {step}"
        assert (after_a_save, left) == ("new", "1"), f"{name}, killed at step {step}"
    assert {(name, there) for name, there, *_ in rows} == {
        (name, there) for name in KINDS for there in ("False", "True")
    }
    assert len({status for _, _, _, status, *_ in rows}) == 2  # some died, some lived
    assert len(rows) > 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that die at a given step")
def test_a_process_may_die_between_two_renames(tmp_path: Path) -> None:
    """Where folders cannot be swapped in one step, what a killed writer moved aside is put back by the next save."""
    rows = deaths(tmp_path, "no swap")
    for name, there, step, _, _, after_a_failed_save, after_a_save, left in rows:
        allowed = ("old", "new") if there == "True" else ("nothing", "new")
        assert after_a_failed_save in allowed, f"{name}, killed at step {step}"
        assert (after_a_save, left) == ("new", "1"), f"{name}, killed at step {step}"
    assert len(rows) > 20


# ------------------------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_is_respected(tmp_path: Path, kind: dict[str, bool], umask: int) -> None:
    """Files and folders get the permissions that any program's would, fresh or overwritten."""
    before = os.umask(umask)
    try:
        write(tmp_path / "save", kind, OLD)
        write(tmp_path / "save", kind, NEW, overwrite=True)
    finally:
        os.umask(before)
    for path in (tmp_path / "save", *(tmp_path / "save").rglob("*")):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_what_was_readable_to_more_stays_so(tmp_path: Path, kind: dict[str, bool]) -> None:
    """A save that replaces one keeps the permissions that somebody has given it, and no narrower ones."""
    target = tmp_path / "save"
    before = os.umask(0o077)
    try:
        write(target, kind, OLD)
        for path in (target, *target.rglob("*")):
            path.chmod(0o775 if path.is_dir() else 0o664)
        write(target, kind, NEW, overwrite=True)
        wide = {path: stat.S_IMODE(path.stat().st_mode) for path in (target, *target.rglob("*"))}
        for path in wide:
            path.chmod(0o500 if path.is_dir() else 0o400)
        write(target, kind, NEW, overwrite=True)
    finally:
        os.umask(before)
    assert set(wide.values()) <= {0o775, 0o664}
    for path in (target, *target.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


# --------------------------------------------------------------------------------------------------------------- tar


def test_an_archive_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of an archive depend on its name and content: not on time, folder, user or umask."""
    write(tmp_path / "save.tar.gz", KINDS["tar"], NEW)
    monkeypatch.setattr("time.time", lambda: 1.0)
    before = os.umask(0o077)
    try:
        write(tmp_path / "elsewhere/save.tar.gz", KINDS["tar"], NEW)
    finally:
        os.umask(before)
    one, other = [(tmp_path / name / "save.tar.gz").read_bytes() for name in ("", "elsewhere")]
    assert one == other
    assert one[4:8] == bytes(4)  # gzip's time


@pytest.mark.parametrize("files", [NEW, {"": b"single"}], ids=["tree", "single"])
def test_an_archive_is_as_flambe_packs_it(tmp_path: Path, files: dict[str, bytes]) -> None:
    """The root comes first, named as the file; every folder comes before what is in it; nothing tells who wrote it."""
    kind = {"archive": True, "single": "" in files}
    with create_store(tmp_path / "run.tar.gz", **kind) as store:
        fill(store, files)
    with tarfile.open(tmp_path / "run.tar.gz") as tar:
        members = tar.getmembers()
    seen: set[str] = set()
    for member in members:
        parent = os.path.dirname(member.name)
        assert not parent or parent in seen
        assert member.isdir() or member.isreg()
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.mode == (0o755 if member.isdir() else 0o644)
        seen.add(member.name)
    assert members[0].name == "run"
    assert sorted(seen) == (
        ["run"] if "" in files else ["run", "run/encoder", *sorted(f"run/{name}" for name in files)]
    )


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs tar")
def test_tar_reads_it_and_we_read_tar(tmp_path: Path) -> None:
    """``tar`` unpacks an archive to the files that were written, and what ``tar`` packs again is read."""
    files = {**NEW, "a" * 120 + "/" + "b" * 120 + "/β.txt": b"long", "empty": b""}
    write(tmp_path / "run.tar.gz", KINDS["tar"], files)
    subprocess.run(["tar", "-xzf", "run.tar.gz"], cwd=tmp_path, check=True)
    assert read(tmp_path / "run") == files
    subprocess.run(["tar", "-czf", "again.tar.gz", "run"], cwd=tmp_path, check=True)
    subprocess.run(["tar", "-czf", "dot.tar.gz", "./run"], cwd=tmp_path, check=True)
    assert read(tmp_path / "again.tar.gz") == read(tmp_path / "dot.tar.gz") == files


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"x"
) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, data


def pack(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    """Write an archive that no store of ours would write."""
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)


ROOT = member("run", tarfile.DIRTYPE)
HOSTILE = {
    "symlink": [ROOT, member("run/link", tarfile.SYMTYPE, "/elsewhere/file")],
    "symlink_inside": [ROOT, member("run/a"), member("run/link", tarfile.SYMTYPE, "a")],
    "symlink_root": [member("run", tarfile.SYMTYPE, "/etc"), member("run/passwd")],
    "hard_link": [ROOT, member("run/a"), member("run/link", tarfile.LNKTYPE, "run/a")],
    "device": [ROOT, member("run/dev", tarfile.CHRTYPE)],
    "block_device": [ROOT, member("run/dev", tarfile.BLKTYPE)],
    "fifo": [ROOT, member("run/fifo", tarfile.FIFOTYPE)],
    "absolute": [member("/elsewhere/file")],
    "absolute_inside": [ROOT, member("/run/a")],
    "parent": [ROOT, member("../a")],
    "parent_inside": [ROOT, member("run/../../a")],
    "parent_only": [member("..", tarfile.DIRTYPE), member("../a")],
    "two_roots": [ROOT, member("run/a"), member("other/a")],
    "beside_a_file": [member("run.pkl"), member("other.pkl")],
    "twice": [ROOT, member("run/a", data=b"1"), member("run/a", data=b"2")],
    "twice_but_for_dots": [ROOT, member("run/a", data=b"1"), member("run/./a", data=b"2")],
    "root_twice": [member("run"), member("run/a")],
    "file_and_folder": [ROOT, member("run/a"), member("run/a/b")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Links, devices, names that lead out of the archive and names that come twice are refused; nothing is unpacked."""
    pack(tmp_path / "run.tar.gz", *members)
    with pytest.raises(CorruptSaveError, match=r"neither a plain file|points outside|outside the archive's root|twice"):
        read(tmp_path / "run.tar.gz")
    assert tree(tmp_path) == ["run.tar.gz"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return the path of an archive."""
    write(tmp_path / "run.tar.gz", KINDS["tar"], {**NEW, "weights": os.urandom(3000)})
    return tmp_path / "run.tar.gz"


def test_a_truncated_archive_is_corrupt(archive: Path) -> None:
    """However short an archive is cut, it is a CorruptSaveError that names the file."""
    data = archive.read_bytes()
    for length in [*range(2, len(data), 37), len(data) - 8, len(data) - 1]:
        archive.write_bytes(data[:length])
        with pytest.raises(CorruptSaveError, match=r"not an intact .tar.gz.*run\.tar\.gz"):
            read(archive)


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_an_archive_that_ends_too_early_is_corrupt(archive: Path, blocks: int) -> None:
    """A tar cut between its blocks, and zipped well, lacks its end mark or members and is not taken for whole."""
    whole = gzip.decompress(archive.read_bytes()).rstrip(b"\0")
    archive.write_bytes(gzip.compress(whole[: len(whole) // 512 * 512 - blocks * 512]))
    with pytest.raises(CorruptSaveError, match="not an intact"):
        read(archive)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_archive_never_reads_as_another(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes changed in an archive: a CorruptSaveError, or the files that were packed."""
    path = tmp_path_factory.mktemp("damaged") / "run.tar.gz"
    write(path, KINDS["tar"], NEW)
    whole = bytearray(path.read_bytes())
    start = data.draw(st.integers(2, len(whole)))  # without its first two bytes it is another kind of save
    whole[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    path.write_bytes(whole)
    try:
        files = read(path)
    except CorruptSaveError:
        return
    assert files == NEW


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_forged_archive_never_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes changed inside the tar, zipped again so that all checksums are right: files, or a CorruptSaveError."""
    path = tmp_path_factory.mktemp("forged") / "run.tar.gz"
    write(path, KINDS["tar"], {"\u03b1": b"x" * 600, "b" * 150: b"y"})
    whole = bytearray(gzip.decompress(path.read_bytes()))
    start = data.draw(st.integers(0, 3000))
    whole[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20) | st.just(b"\xff" * 12))
    header = start // 512 * 512
    if data.draw(st.booleans()) and header + 512 <= len(whole):  # make the header's own checksum right too
        block = whole[header : header + 512]
        block[148:156] = b" " * 8
        whole[header + 148 : header + 156] = b"%06o\0 " % sum(block)
    path.write_bytes(gzip.compress(bytes(whole)))
    try:
        names = list(read(path))
    except CorruptSaveError:
        return
    assert all(not name.startswith(("/", "..")) and "/../" not in name for name in names)


# ------------------------------------------------------------------------------------------------------------- memory


def test_memory_shares_its_dict(tmp_path: Path) -> None:
    """The dict that a MemoryStore was given is changed by a commit, as a whole, and by nothing else."""
    files = dict(OLD)
    store = MemoryStore(files)
    with store:
        fill(store, NEW)
        assert files == OLD
    assert store.files is files
    assert files == NEW
