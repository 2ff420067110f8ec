"""A process that saves is killed, anywhere: what is at the path is the old save or the new one, equal to the bit."""

from __future__ import annotations

import ctypes
import os
import random
import select
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from durability_tools import (
    SHAPES,
    Child,
    Ended,
    Operation,
    Whole,
    at,
    copy,
    die,
    every_shape,
    in_child,
    needs_fork,
    needs_proc,
    operations_of,
    outcome,
    times,
    tree,
    values_of,
    watch,
    without_renameat2,
    write,
)
from helpers.places import TORTURE

from flambe_save import load, writing

pytestmark = [needs_fork, needs_proc, pytest.mark.usefixtures("_unsynced")]

Figure = Callable[[str, object], None]


class Trial(NamedTuple):
    """Two models, an old one perhaps saved already, and a new one that a child is about to save over it."""

    name: str
    flags: tuple[bool, bool]
    old: Whole | None
    new: Whole
    stored: Path  # the old save, to be copied
    folder: Path  # where each trial happens

    @property
    def path(self) -> Path:
        """Where the child saves."""
        return self.folder / self.name

    @property
    def wanted(self) -> dict[str, dict[str, Any]]:
        """What may be found after the child was killed."""
        return {**({} if self.old is None else {"old": values_of(self.old)}), "new": values_of(self.new)}

    def begin(self) -> None:
        """Put the old save back, and nothing else."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        if self.old is not None:
            copy(self.stored, self.path)

    def look(self, where: object = "", *, saving_heals: bool = False) -> str:
        """Look at what a killed child left: a whole save, and after the next save nothing beside it."""
        found = "not looked"
        if not saving_heals:
            found = outcome(self.path, self.wanted)
            allowed = {"new", "nothing" if self.old is None else "old"}
            assert found in allowed, f"{where}: {found}; in the folder: {sorted(tree(self.folder))}"
        third = Whole(3, parts=1)
        write(third, self.path, self.flags)
        assert values_of(load(self.path)) == values_of(third), where
        assert os.listdir(self.folder) == [self.name], where
        return found


def trial(tmp_path: Path, name: str, flags: tuple[bool, bool], *, first: bool = False) -> Trial:
    """Return a trial; of two sizes, so that a file that is half old and half new would show."""
    old, new = Whole(1, 1500, 2), Whole(2, 2000)
    write(old, tmp_path / "stored" / name, flags)
    return Trial(name, flags, None if first else old, new, tmp_path / "stored" / name, tmp_path / "trial")


SWAPS = ("rename", "replace", "link", "exchange")
MODES = {
    "overwrite": {},
    "overwrite_durably": {"durable": True},
    "first": {"first": True},
    "first_durably": {"first": True, "durable": True},
    "overwrite_by_renames": {"swap": False},
    "first_by_link": {"first": True, "swap": False},
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def body_of(one: Trial, mode: dict[str, bool]) -> Callable[[], object]:
    """Return what the child does."""
    options = {"durable": True} if mode.get("durable") else {}

    def body() -> None:
        if not mode.get("swap", True):
            without_renameat2()
        write(one.new, one.path, one.flags, **options)

    return body


# ------------------------------------------------------------------------------------------------- at every operation


@every_mode
@every_shape
def test_killed_at_every_operation(
    name: str, flags: tuple[bool, bool], mode: dict[str, bool], tmp_path: Path, figure: Figure
) -> None:
    """Killed before each operation that changes the disk, and halfway through each write."""
    one = trial(tmp_path, name, flags, first=mode.get("first", False))
    body = body_of(one, mode)
    one.begin()
    operations = operations_of(body)
    one.look()
    deaths = [(step, "before") for step in range(1, len(operations) + 1)]
    deaths += [(step, "half") for step, operation in enumerate(operations, 1) if operation.half is not None]
    if not TORTURE and len(deaths) > 30:
        deaths = deaths[:: 4 if mode == {} else 7]  # the torture does every one
    deaths += [(step, "after") for step, operation in enumerate(operations, 1) if operation.name in SWAPS]
    seen: Counter[str] = Counter()
    for step, when in deaths:
        one.begin()

        def act(operation: Operation, when: str = when) -> None:
            if when == "half" and operation.half is not None:
                operation.half()
            die()

        def doomed(step: int = step, when: str = when, act: Callable[[Operation], None] = act) -> None:
            if when == "after":
                watch(after=at(sum(operation.name in SWAPS for operation in operations[:step]), act, SWAPS))
            else:
                watch(before=at(step, act))
            body()

        ended = in_child(doomed)
        assert ended.status == -signal.SIGKILL, f"at step {step} of {len(operations)}: {ended}"
        where = f"killed {when} step {step}, {operations[step - 1][:2]}"
        seen[one.look(where, saving_heals=not mode.get("swap", True) and step % 4 == 0)] += 1
    figure("kills survived", len(deaths))
    figure("operations of a save", len(operations))
    figure("found", dict(seen))
    assert seen["nothing" if one.old is None else "old"] > 0
    assert seen["new"] > 0


@pytest.mark.parametrize("heal", ["load", "save"])
def test_killed_between_two_renames(heal: str, tmp_path: Path, figure: Figure) -> None:
    """Where folders cannot be swapped, the old save is aside for an instant; the next load or save puts it back."""
    one = trial(tmp_path, "run", SHAPES["run"])
    body = body_of(one, {"swap": False})
    one.begin()
    operations = operations_of(body)
    one.look()
    renames = [step for step, operation in enumerate(operations, 1) if operation.name in ("rename", "replace")]
    between = 0
    for step in renames:
        one.begin()

        def doomed(step: int = step) -> None:
            watch(before=at(step, die))
            body()

        assert in_child(doomed).status == -signal.SIGKILL
        if os.path.lexists(one.path):
            one.look()
            continue
        between += 1
        if heal == "load":
            assert outcome(one.path, one.wanted) in ("old", "new")
        else:  # a save that may not replace must see that there is something
            with pytest.raises(FileExistsError):
                write(Whole(3), one.path, one.flags, overwrite=False)
            assert outcome(one.path, one.wanted) in ("old", "new")
        one.look()
    assert between == 1
    figure("deaths between two renames healed", between)


def test_killed_again_while_healing(tmp_path: Path, figure: Figure) -> None:
    """A second kill, at every operation of the save that puts an old save back, changes nothing of that."""
    one = trial(tmp_path, "run", SHAPES["run"])
    body = body_of(one, {"swap": False})
    one.begin()
    operations = operations_of(body)
    between = [step for step, operation in enumerate(operations, 1) if operation.name in ("rename", "replace")][-1]
    left = tmp_path / "left"

    def doomed() -> None:
        watch(before=at(between, die))
        body()

    one.begin()
    assert in_child(doomed).status == -signal.SIGKILL
    assert not os.path.lexists(one.path)
    one.folder.rename(left)

    def again() -> None:
        shutil.rmtree(one.folder, ignore_errors=True)
        shutil.copytree(left, one.folder)

    again()
    steps = len(operations_of(body))
    assert steps > 0
    for step in range(1, steps + 1) if TORTURE or steps < 20 else (*range(1, steps, 5), steps):
        again()

        def doomed_again(step: int = step) -> None:
            watch(before=at(step, die))
            body()

        assert in_child(doomed_again).status == -signal.SIGKILL
        one.look(f"killed again at step {step} of {steps}")
    figure("second kills survived", steps)


# ------------------------------------------------------------------------------------------------- at the store's level


class Doomed:
    """A store that dies at the n-th of its calls: enter, writer, write, close, exit."""

    def __init__(self, store: Any, count: Callable[[], None]) -> None:
        self._store, self._count = store, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __enter__(self) -> Doomed:
        self._count()
        self._store.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._count()
        self._store.__exit__(*error)
        self._count()

    def writer(self, name: str, size: int | None = None) -> Any:
        """Open a name."""
        self._count()
        return DoomedFile(self._store.writer(name, size), self._count)


class DoomedFile:
    """A file of such a store."""

    def __init__(self, file: Any, count: Callable[[], None]) -> None:
        self._file, self._count = file, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> DoomedFile:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._count()
        self._file.__exit__(*error)
        self._count()

    def write(self, data: Any) -> int:
        """Write."""
        self._count()
        written = self._file.write(data)
        self._count()
        return written


@every_shape
def test_killed_at_every_call_of_the_store(name: str, flags: tuple[bool, bool], tmp_path: Path, figure: Figure) -> None:
    """Killed before and after each call that a format makes of its store."""
    one = trial(tmp_path, name, flags)
    kills = 0
    for step in range(1, 1000, 1 if TORTURE or "pkl" in name else 3):
        one.begin()

        def doomed(step: int = step) -> None:
            left = [step]

            def count() -> None:
                left[0] -= 1
                if left[0] == 0:
                    die()

            real = writing.create_store
            writing.create_store = lambda *args, **kwargs: Doomed(real(*args, **kwargs), count)  # type: ignore[assignment]
            write(one.new, one.path, one.flags)
            assert left[0] < step - 3, "the store was not wrapped"

        ended = in_child(doomed)
        one.look()
        if ended.status == 0:
            assert ended.raised is None, ended.raised
            break
        assert ended.status == -signal.SIGKILL
        kills += 1
    assert kills >= 5
    figure("kills survived", kills)


# ------------------------------------------------------------------------------------------------- at every system call

CALLS = (
    "openat,open,creat,write,pwrite64,writev,fsync,fdatasync,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,rmdir,ftruncate"
)


def traced(body: Callable[[], object], *options: str) -> tuple[Ended, str]:
    """Run a function in a child under strace; return how it ended, and what strace said."""
    ready, go = os.pipe()

    def waiting() -> None:
        os.close(go)
        pr_set_ptracer, any_process = 0x59616D61, -1
        ctypes.CDLL(None).prctl(pr_set_ptracer, any_process, 0, 0, 0)
        os.read(ready, 1)
        os.mkdir("/this is where the save begins, nowhere")

    def marked() -> None:
        try:
            waiting()
        except OSError:
            pass
        body()

    child = Child(marked)
    os.close(ready)
    command = ["strace", "-f", "-qq", "-p", str(child.pid), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as tracer:
        _until_traced(child.pid, tracer)
        os.write(go, b"x")
        os.close(go)
        ended = child.wait()
        said = tracer.stderr.read() if tracer.stderr else ""
    return ended, said


def _until_traced(pid: int, tracer: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        status = Path(f"/proc/{pid}/status").read_text()
        if "TracerPid:\t0\n" not in status or tracer.poll() is not None:
            return
        time.sleep(0.001)
    pytest.fail("strace did not attach")


def _why_no_strace() -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed"
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        command = ["strace", "-qq", "-e", "trace=write", "-e", "inject=write:signal=SIGKILL:when=99", "-p"]
        try:
            subprocess.run([*command, str(sleeper.pid)], capture_output=True, text=True, timeout=1, check=True)
        except subprocess.TimeoutExpired:
            return None
        except subprocess.CalledProcessError as error:
            return f"strace may not trace here: {error.stderr.strip()[-200:]}"
        finally:
            sleeper.send_signal(signal.SIGKILL)
    return None


@pytest.fixture(scope="module")
def _strace() -> None:
    """Skip where system calls cannot be traced and changed."""
    reason = _why_no_strace()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.usefixtures("_strace")
@every_shape
def test_killed_at_a_system_call(name: str, flags: tuple[bool, bool], tmp_path: Path, figure: Figure) -> None:
    """Killed by strace at the n-th system call that writes, which no layer of Python's can hide."""
    one = trial(tmp_path, name, flags)
    body = body_of(one, {})
    one.begin()
    log = tmp_path / "calls"
    ended, _ = traced(body, "-e", f"trace={CALLS}", "-o", str(log))
    assert (ended.status, ended.raised) == (0, None)
    lines = log.read_text().splitlines()
    begin = next(index for index, line in enumerate(lines) if "where the save begins" in line)
    calls = [line.split(None, 1)[1].partition("(")[0] for line in lines[begin + 1 :] if "(" in line]
    assert len(calls) > 5, lines
    steps = list(range(1, len(calls) + 1))
    if not TORTURE and len(steps) > 6:
        steps = random.Random(name).sample(steps[:-1], 5) + steps[-1:]
    kills = 0
    for step in steps:
        one.begin()
        # Counted from the mark: strace counts each kind of call for itself
        kind = calls[step - 1]
        when = calls[:step].count(kind) + sum(
            line.split(None, 1)[1].startswith(f"{kind}(") for line in lines[: begin + 1]
        )
        ended, said = traced(body, "-e", f"trace={kind}", "-e", f"inject={kind}:signal=SIGKILL:when={when}")
        assert ended.status in (-signal.SIGKILL, 0), (ended, said)
        kills += ended.status != 0
        one.look()
    assert kills >= min(len(steps), 3) / 2
    figure("system calls of a save", len(calls))
    figure("kills survived", kills)


# ------------------------------------------------------------------------------------------------- at random instants


@every_shape
def test_killed_at_a_random_instant(name: str, flags: tuple[bool, bool], tmp_path: Path, figure: Figure) -> None:
    """Two models saved in turn, without end, until a kill that comes whenever it comes."""
    one = trial(tmp_path, name, flags)
    other = one.old
    rng = random.Random(name)
    seen: Counter[str] = Counter()
    kills = times(12, 150)
    for _ in range(kills):
        one.begin()
        begun, begin = os.pipe()

        def endless(begin: int = begin) -> None:
            os.write(begin, b"x")
            while True:
                write(one.new, one.path, one.flags)
                write(other, one.path, one.flags)

        child = Child(endless)
        os.close(begin)
        assert select.select([begun], [], [], 60)[0]
        os.close(begun)
        time.sleep(rng.uniform(0, 0.03))
        child.kill()
        assert child.wait().status == -signal.SIGKILL
        seen[one.look()] += 1
    figure("kills survived", kills)
    figure("found", dict(seen))
