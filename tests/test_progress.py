"""progress=: how far saves and loads are, told to a function or shown on a terminal; what it raises ends them."""

from __future__ import annotations

import io
import itertools
import os
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import FLAMBE
from torch import nn

import flambe_save.support.progress as progress_module
from flambe_save import (
    Component,
    CorruptSaveError,
    load,
    load_state,
    load_state_from_file,
    save,
    save_async,
    save_state_to_file,
    verify,
)
from flambe_save.formats.directory import DIRECTORY
from flambe_save.pt import DumpOptions, zip_reader
from flambe_save.support.progress import NO_PROGRESS, progress_of
from flambe_save.testing.codec import same
from flambe_save.tree import tree_from_state

MIB = 1 << 20


class Part(Component, nn.Module):
    """Weights of some MiB, or of none."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.layers = nn.ParameterList([nn.Parameter(torch.rand(512, 1024)) for _ in range(count)])


class Whole(Component, nn.Module):
    """A large part, a larger one and a small one."""

    def __init__(self, large: Part, larger: Part, small: Part) -> None:
        super().__init__()
        self.large, self.larger, self.small = large, larger, small


def whole() -> Whole:
    """Return a model of 22 MiB in folders of 6, 16 and 0 MiB."""
    return Whole(Part(3), Part(8), Part(0))


class Watch:
    """Notes what it is called with, and raises an error at a call where it is given one."""

    def __init__(self, error: BaseException | None = None, at: int = 3) -> None:
        self.calls: list[tuple[int, int]] = []
        self.threads: set[int] = set()
        self.most = 0
        self._inside = 0
        self._error = error
        self._at = at

    def __call__(self, done: int, total: int) -> None:
        self._inside += 1
        self.most = max(self.most, self._inside)
        self.calls.append((done, total))
        self.threads.add(threading.get_ident())
        time.sleep(1e-4)  # lets other threads in, if they can come in
        self._inside -= 1
        if self._error is not None and len(self.calls) >= self._at:
            raise self._error

    @property
    def total(self) -> int:
        """The one total that was told."""
        (total,) = {total for _, total in self.calls}
        return total

    def went_well(self, *, steps: int) -> bool:
        """Whether the calls are those of something that was done to its end, in at least so many steps."""
        done = [count for count, _ in self.calls]
        apart = all(after - before >= MIB for before, after in itertools.pairwise(done[:-1]))
        is_whole = done[0] == 0 and done[-1] == self.total
        return is_whole and done == sorted(set(done)) and apart and self.most == 1 and len(done) > steps


SHAPES: dict[str, dict[str, Any]] = {
    "folder": {},
    "durable folder": {"durable": True, "digest": "sha256"},
    "archive": {"compress": True},
    "pickle": {"pickle_only": True},
    "packed pickle": {"pickle_only": True, "compress": True},
}
of_every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handle memory in small pieces, so that few MiB make many."""
    monkeypatch.setattr(progress_module, "_PIECE", 2 * MIB)
    monkeypatch.setattr("flambe_save.formats.pickle._STEP", 2 * MIB)


def size_of(path: str, besides: tuple[str, ...] = ()) -> int:
    """Return how many bytes the files of a save have."""
    place = Path(path)
    files = [place] if place.is_file() else [item for item in place.rglob("*") if item.is_file()]
    return sum(item.stat().st_size for item in files if item.name not in besides)


# ------------------------------------------------------------------------------------------------ what is told


@of_every_shape
@pytest.mark.parametrize("threads", [1, 4])
def test_saves_tell_every_byte_once(shape: dict[str, Any], threads: int, tmp_path: Path) -> None:
    """A save tells bytes, more each time, to all that its files have before they are packed; and is the same save."""
    model, watch = whole(), Watch()
    path = save(model, tmp_path / "told" / "net", progress=watch, threads=threads, **shape)
    plain = save(model, tmp_path / "plain" / "net", threads=threads, **shape)
    assert watch.went_well(steps=5)
    assert size_of(path) == size_of(plain)
    if "compress" not in shape:
        assert watch.total == size_of(path, besides=("manifest.json",))


@of_every_shape
@pytest.mark.parametrize("threads", [1, 4])
def test_loads_tell_every_byte_once(shape: dict[str, Any], threads: int, tmp_path: Path) -> None:
    """A load tells what it reads of a folder, or what a file has, mapped or not; and it loads the same."""
    model = whole()
    path = save(model, tmp_path / "net", **shape)
    for mmap, check in itertools.product((False, True), (False, True)):
        watch = Watch()
        loaded = load(path, progress=watch, threads=threads, mmap=mmap, verify=check)
        assert watch.went_well(steps=5 if check or not mmap else 2)
        assert watch.total == size_of(path, besides=("manifest.json", "requirements.txt"))
        assert same(loaded.state_dict(), model.state_dict())


@of_every_shape
def test_states_and_objects_that_are_there(shape: dict[str, Any], tmp_path: Path) -> None:
    """States alone, and loads into an object, tell the same bytes."""
    model = whole()
    path = save(model, tmp_path / "net", **shape)
    watches = [Watch() for _ in range(3)]
    state = load_state_from_file(path, progress=watches[0])
    load_state(whole(), path, progress=watches[1])
    save_state_to_file(state, tmp_path / "again", progress=watches[2], **shape)
    assert [watch.went_well(steps=5) for watch in watches] == [True] * 3
    assert watches[0].total == watches[1].total


@of_every_shape
def test_verify_tells_as_it_reads(shape: dict[str, Any], tmp_path: Path) -> None:
    """What is compared with several checksums is read several times, and its bytes count once in all."""
    path, watch = save(whole(), tmp_path / "net", **shape), Watch()
    assert verify(path, progress=watch) == []
    assert watch.went_well(steps=5)
    assert watch.total == size_of(path, besides=("manifest.json",))


def test_verify_moves_with_every_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a file is done when the first of two passes over it is: the second is not one long wait at its end."""
    path, watch = save_state_to_file({"w": torch.rand(4 * MIB)}, tmp_path / "net"), Watch()
    check, before = zip_reader.check_file, []

    def late(source: Any, options: Any) -> None:
        before.append(watch.calls[-1][0] / watch.calls[-1][1])
        check(source, options)

    monkeypatch.setattr(zip_reader, "check_file", late)
    assert verify(path, progress=watch) == []
    assert any(0.4 < share < 0.6 for share in before)


def test_damage_ends_no_verification(tmp_path: Path) -> None:
    """A save with damaged and missing files is told of to its end."""
    path, watch = save(whole(), tmp_path / "net"), Watch()
    state = tmp_path / "net" / "larger" / "state.pt"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    (tmp_path / "net" / "large" / "state.pt").unlink()
    assert [row.node for row in verify(path, progress=watch)] == ["large", "larger"]
    assert watch.went_well(steps=5)


def test_parts_tell_their_own_bytes(tmp_path: Path) -> None:
    """node=, or a folder inside a save, tells the bytes of that part."""
    path = save(whole(), tmp_path / "net")
    part = size_of(f"{path}/larger")
    watches = [Watch(), Watch(), Watch()]
    load(path, node="larger", progress=watches[0])
    load(f"{path}/larger", progress=watches[1])
    load_state(whole().larger.layers, path, node="larger.layers", progress=watches[2])
    assert [watch.total for watch in watches] == [part] * 3
    assert all(watch.went_well(steps=5) for watch in watches)


def test_a_part_of_an_archive_ends_with_all_of_it(tmp_path: Path) -> None:
    """Of an archive the total is its own size, and a load of one node ends there."""
    path, watch = save(whole(), tmp_path / "net", compress=True), Watch()
    load(path, node="large", progress=watch)
    assert watch.went_well(steps=2)
    assert watch.total == size_of(path)


def test_what_is_linked_is_done_when_it_is(tmp_path: Path) -> None:
    """With base=, files that are linked count as those that are written."""
    model, watch = whole(), Watch()
    base = save(model, tmp_path / "one")
    with torch.no_grad():
        model.large.layers[0].add_(1)
    path = save(model, tmp_path / "two", base=base, progress=watch)
    assert (tmp_path / "one/larger/state.pt").samefile(tmp_path / "two/larger/state.pt")
    assert watch.went_well(steps=3)
    assert watch.total == size_of(path, besides=("manifest.json",))


def test_links_are_told_before_the_commit(tmp_path: Path) -> None:
    """An error at the last call of a save that links all that is large leaves nothing behind either."""
    model, counted = whole(), Watch()
    base = save(model, tmp_path / "one")
    save(model, tmp_path / "two", base=base, progress=counted, threads=1)
    error = RuntimeError("stop")
    watch = Watch(error, at=len(counted.calls))
    found = raised_by(lambda: save(model, tmp_path / "three", base=base, progress=watch, threads=1))
    assert found is error
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_archives_of_anybody_else(tmp_path: Path) -> None:
    """An archive that other programs packed is told of as it is unpacked."""
    path, watch = tmp_path / "net.tar.gz", Watch()
    save(whole(), tmp_path / "net")
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(tmp_path / "net", "net")
    load(path, progress=watch)
    assert watch.went_well(steps=5)
    assert watch.total == size_of(str(path))


def test_flambes_own_saves(tmp_path: Path) -> None:
    """Where no manifest lists the sizes, they are those of the files; an archive of anybody else tells its own."""
    flambe = FLAMBE
    folders = [
        item.parent for item in flambe.rglob("protocol_version.txt") if "manifest.json" not in os.listdir(item.parent)
    ]
    outer = [str(item) for item in folders if item.parent not in folders]
    archives = [str(item) for item in flambe.rglob("*.tar.gz")]
    assert outer
    for path in outer[:3] + archives[:3]:
        watch = Watch()
        load_state_from_file(path, progress=watch)
        assert watch.calls[-1] == (size_of(path, besides=("requirements.txt",)),) * 2


def test_it_is_told_from_the_background(tmp_path: Path) -> None:
    """save_async tells what is written while the caller goes on, from another thread."""
    watch = Watch()
    save_async(whole(), tmp_path / "net", progress=watch, threads=1).result()
    assert watch.went_well(steps=5)
    assert threading.get_ident() not in watch.threads


def test_several_threads_tell_in_turn(tmp_path: Path) -> None:
    """Whichever thread writes or reads tells, one at a time."""
    watch = Watch()
    large = {str(index): Part(8) for index in range(6)}
    save(large, tmp_path / "net", progress=watch, threads=4)
    load(tmp_path / "net", progress=watch, threads=4)
    assert len(watch.threads) > 1
    assert watch.most == 1


def test_it_begins_again_in_addition(tmp_path: Path) -> None:
    """What was read of a save that was replaced meanwhile stays done: the number never goes back."""
    watch = Watch()
    with progress_of(watch, "Reading") as progress:
        progress.advance(5)  # before there is a total: of no effect
        progress.begin(10 * MIB)
        progress.advance(4 * MIB)
        progress.begin(10 * MIB)
        progress.advance(20 * MIB)
    assert watch.calls == [(0, 10 * MIB), (4 * MIB, 10 * MIB), (4 * MIB, 14 * MIB), (14 * MIB, 14 * MIB)]


def test_what_is_left_is_done_at_the_end() -> None:
    """Tensors that are never read, on meta say, count when all is done; after an error nothing does."""
    watch, failed = Watch(), Watch()
    with progress_of(watch, "Reading") as progress:
        progress.begin(10)

    def fail() -> None:
        with progress_of(failed, "Reading") as progress:
            progress.begin(10)
            raise KeyError

    assert isinstance(raised_by(fail), KeyError)
    assert (watch.calls, failed.calls) == ([(0, 10), (10, 10)], [(0, 10)])


def test_the_share_of_a_file_is_its_size() -> None:
    """However often a file is read, it counts no more than its size, and no less when it is finished."""
    watch = Watch()
    with progress_of(watch, "Reading") as progress:
        progress.begin(8 * MIB)
        share = progress.share(4 * MIB, passes=2)
        for _ in range(4):
            share.advance(4 * MIB)
        progress.share(3 * MIB).finish()
    assert [done // MIB for done, _ in watch.calls] == [0, 2, 4, 7, 8]


def test_nothing_is_asked_where_nobody_is_told(tmp_path: Path) -> None:
    """Without progress, memory is written as it is, in one piece, and files have no share of their own."""
    data = memoryview(bytearray(100 * MIB))
    assert progress_of(False, "Saving") is NO_PROGRESS
    assert NO_PROGRESS.share(5) is NO_PROGRESS
    assert [piece is data for piece in NO_PROGRESS.pieces(data)] == [True]


@pytest.mark.parametrize("argument", [1, None, "yes", 0.5])
def test_what_is_neither_is_refused(argument: Any, tmp_path: Path) -> None:
    """Anything but True, False and a callable is a TypeError, before anything is written."""
    with pytest.raises(TypeError, match=r"progress must be .*callable of \(done, total\)"):
        save({"a": 1}, tmp_path / "net", progress=argument)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------ errors

# Among them those that are taken for something else where files are read and written
ERRORS = [RuntimeError("stop"), OSError(5, "mine"), KeyError("mine"), MemoryError("mine"), ValueError("mine")]
ERRORS += [CorruptSaveError("mine"), KeyboardInterrupt(), SystemExit(3)]  # type: ignore[list-item]
by_every_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


def raised_by(call: Callable[[], Any]) -> BaseException | None:
    """Return what a call raises."""
    try:
        call()
    except BaseException as error:
        return error
    return None


@by_every_error
@of_every_shape
def test_an_error_ends_a_save(error: BaseException, shape: dict[str, Any], tmp_path: Path) -> None:
    """What the function raises is raised as it is; nothing is left behind, and the function is not called again."""
    model = whole()
    for threads in (1, 4):
        watch = Watch(error)
        found = raised_by(
            lambda watch=watch, threads=threads: save(  # type: ignore[misc]
                model, tmp_path / "net", progress=watch, threads=threads, **shape
            )
        )
        assert found is error
        assert len(watch.calls) == 3
        assert os.listdir(tmp_path) == []


@of_every_shape
def test_an_error_ends_a_load(shape: dict[str, Any], tmp_path: Path) -> None:
    """A load, and a verification, that is ended so says nothing of the save: it is not damaged."""
    path = save(whole(), tmp_path / "net", **shape)
    calls: list[Callable[..., Any]] = [load, load_state_from_file, verify]
    for call, error in itertools.product(calls, ERRORS):
        watch = Watch(error)
        found = raised_by(lambda call=call, watch=watch: call(path, progress=watch))  # type: ignore[misc]
        assert found is error
        assert len(watch.calls) == 3
    assert verify(path) == []


@pytest.mark.parametrize("at", [1, "last"])
def test_an_error_at_either_end_leaves_nothing(at: Any, tmp_path: Path) -> None:
    """The first call and the last one end a save as those between: the last comes before it is committed."""
    counted = Watch()
    old = save({"a": torch.ones(3)}, tmp_path / "net")
    save(whole(), tmp_path / "other", progress=counted, threads=1)
    error = RuntimeError("stop")
    watch = Watch(error, at=len(counted.calls) if at == "last" else at)
    found = raised_by(lambda: save(whole(), tmp_path / "net", overwrite=True, progress=watch, threads=1))
    assert found is error
    assert watch.calls[-1] == counted.calls[len(watch.calls) - 1]
    assert load(old)["a"].tolist() == [1, 1, 1]
    assert sorted(os.listdir(tmp_path)) == ["net", "other"]


def test_an_error_in_the_background_is_the_results(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A save in the background that is ended so raises it where the result is asked for."""
    error = KeyboardInterrupt()
    future = save_async(whole(), tmp_path / "net", progress=Watch(error))
    assert future.exception() is error
    assert os.listdir(tmp_path) == []


def test_an_error_keeps_what_it_came_of(tmp_path: Path) -> None:
    """An error that was taken for another on its way says no more than what its raiser said."""
    cause = ValueError("cause")
    error = OSError(5, "mine")
    error.__cause__ = cause
    found = raised_by(lambda: save(whole(), tmp_path / "net", progress=Watch(error)))
    assert found is error
    assert (error.__cause__, error.__context__) == (cause, None)


def test_an_error_stops_the_other_threads() -> None:
    """A thread that goes on after the function raised in another one gets that error, without a further call."""
    error = RuntimeError("stop")
    watch = Watch(error, at=2)
    progress = progress_of(watch, "Reading")
    progress.begin(10 * MIB)
    found = [raised_by(lambda: progress.advance(2 * MIB)), raised_by(lambda: progress.advance(1))]
    assert found == [error, error]
    assert len(watch.calls) == 2


def test_a_state_keeps_no_function(tmp_path: Path) -> None:
    """A stash that is not opened yet does not hold on to the function of the load."""
    import weakref

    watch = Watch()
    gone = weakref.ref(watch)
    path = save(whole(), tmp_path / "net")
    state = load_state_from_file(path, progress=watch)
    del watch
    assert len(state) == 11
    assert gone() is None


# ------------------------------------------------------------------------------------------------ terminals


class Terminal:
    """A terminal: inside its ``with`` it is the standard error output, and ``shown`` then is what was written to it."""

    def __init__(self) -> None:
        self.shown = ""

    def __enter__(self) -> Terminal:
        self._master, slave = os.openpty()
        self._file = os.fdopen(slave, "w", encoding="utf-8")
        self._data = bytearray()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        self._before, sys.stderr = sys.stderr, self._file
        return self

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # how the end shows on Linux
                return
            if not data:
                return
            self._data += data

    def __exit__(self, *error: object) -> None:
        sys.stderr = self._before
        self._file.close()
        self._thread.join(30)
        os.close(self._master)
        self.shown = self._data.decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return a terminal, of 100 columns."""
    if not hasattr(os, "openpty"):
        pytest.skip("this system has no pseudo-terminals")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have bars drawn at each report."""
    monkeypatch.setattr(progress_module, "_PAUSE", 0.0)


@pytest.mark.usefixtures("_often")
def test_a_bar_on_a_terminal(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """True shows bytes, a rate and the time that is left, in one line that is rewritten, on the error output alone."""
    monkeypatch.setattr(sys, "stdout", output := io.StringIO())
    with terminal:
        path = save(whole(), tmp_path / "net", progress=True)
        load(path, progress=True)
        verify(path, progress=True)
    shown = terminal.shown
    assert [word in shown for word in ("Saving", "Loading", "Verifying", "MB/s", "0:00")] == [True] * 5
    assert shown.count("\n") == 3
    assert "\u2501\u2500" in shown
    assert "\u2501 100 %" in shown
    assert "23." in shown  # MB
    assert output.getvalue() == ""


@pytest.mark.usefixtures("_often")
def test_a_bar_ends_with_an_error(terminal: Terminal) -> None:
    """What is written next begins a line of its own, with the cursor shown."""

    def fail() -> None:
        with progress_of(True, "Reading [b]it[/b]") as meter:
            meter.begin(10 * MIB)
            meter.advance(5 * MIB)
            raise KeyError

    with terminal:
        assert isinstance(raised_by(fail), KeyError)
        sys.stderr.write("next\n")
    shown = terminal.shown
    assert "Reading [b]it[/b]" in shown
    assert shown.count("\n") == 2
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")
    assert shown.endswith("next\r\n")


@pytest.mark.usefixtures("_often")
def test_a_bar_of_the_background(terminal: Terminal, tmp_path: Path) -> None:
    """save_async shows its bar too."""
    with terminal:
        save_async(whole(), tmp_path / "net", progress=True).result()
    assert "Saving" in terminal.shown


def test_a_bar_is_drawn_now_and_then(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast save draws its bar at the begin and at the end, and not between."""
    monkeypatch.setattr(progress_module, "_PAUSE", 1000.0)
    with terminal:
        save(whole(), tmp_path / "net", progress=True)
    assert terminal.shown.count("\rSaving") == 2


def test_a_line_keeps_to_the_width(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is longer than the terminal would scroll it."""
    monkeypatch.setenv("COLUMNS", "40")
    with terminal, progress_of(True, "Reading " * 20) as meter:
        meter.begin(10)
        meter.advance(10)
    assert max(map(len, terminal.shown.replace("\n", "\r").split("\r"))) == 39


@pytest.mark.usefixtures("_often")
def test_a_terminal_that_is_gone_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save goes on when its bar cannot be drawn any more."""
    model = whole()

    class Gone(io.TextIOBase):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    path = save(model, tmp_path / "net", progress=True)
    assert same(load(path, progress=True).state_dict(), model.state_dict())


def test_nothing_is_shown_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """True writes nothing to a file or a pipe, and does without an error output."""
    path = tmp_path / "log"
    with open(path, "w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        save(whole(), tmp_path / "one", progress=True)
    load(tmp_path / "one", progress=True)  # it is closed now
    monkeypatch.setattr(sys, "stderr", None)
    verify(tmp_path / "one", progress=True)
    assert path.read_text() == ""


def test_formats_say_what_they_read(tmp_path: Path) -> None:
    """A plan's size is the bytes that its files have, but for the manifest: what is told comes to it by itself."""
    watch = Watch()
    from flambe_save.adapters import get_state
    from flambe_save.storage import MemoryStore

    plan = DIRECTORY.plan(tree_from_state(get_state(whole())), DumpOptions())
    progress = progress_of(watch, "Saving")
    progress.begin(plan.size)
    with MemoryStore() as store:
        plan.write(store, 2, None, progress)
    assert watch.went_well(steps=5)
