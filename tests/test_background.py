"""save_async: a copy is taken at once, and written while training goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flambe_save.background as background
import flambe_save.saving as saving
from flambe_save import Component, NeedsTrustWarning, SaveError, TargetExistsError, load, save, save_async, verify
from flambe_save.testing.codec import same


class Net(Component, nn.Module):
    """A layer, its twin that shares the weight, a buffer, and attributes of all sorts."""

    def __init__(self, size: int = 300) -> None:
        super().__init__()
        self.first = nn.Linear(size, size)
        self.second = nn.Linear(size, size)
        self.second.weight = self.first.weight
        self.register_buffer("seen", torch.zeros(size))
        self.steps = 0
        self.history: list[Any] = []
        self.table = {"words": ["a", "b"], "counts": torch.zeros(3)}
        self.register_attrs("steps", "history", "table")


def spoil(net: Net) -> None:
    """Change everything in place."""
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers(), net.table["counts"]):
            tensor.fill_(float("nan"))  # type: ignore[union-attr]
    net.steps = -1
    net.history.append("spoilt")
    net.table["words"].append("spoilt")  # type: ignore[union-attr]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what background saves wait for before they write."""
    event = threading.Event()
    write = saving.Saving.write

    def wait_and_write(self: saving.Saving) -> str:
        if threading.current_thread() is not threading.main_thread():
            assert event.wait(60)
        return write(self)

    monkeypatch.setattr(saving.Saving, "write", wait_and_write)
    return event


SHAPES: dict[str, dict[str, Any]] = {
    "folder": {},
    "archive": {"compress": True},
    "pickle": {"pickle_only": True},
    "packed pickle": {"pickle_only": True, "compress": True},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_changed_after_the_call_is_not_saved(
    shape: dict[str, Any], gate: threading.Event, tmp_path: Path
) -> None:
    """Nothing that is done to the model, tensors, containers or attributes, shows in the file: it is a plain save's."""
    net = Net()
    expected = Path(save(net, tmp_path / "plain" / "net", **shape))
    future = save_async(net, tmp_path / "net", **shape)
    assert isinstance(future, Future)
    assert not future.done()
    spoil(net)
    gate.set()
    path = Path(future.result(60))
    if path.is_dir():
        assert {file.name: file.read_bytes() for file in path.iterdir()} == {
            file.name: file.read_bytes() for file in expected.iterdir()
        }
    else:
        assert path.read_bytes() == expected.read_bytes()


def test_ties_stay_ties(gate: threading.Event, tmp_path: Path) -> None:
    """What shares memory is copied once, and is one after a load."""
    net = Net()
    future = save_async(net, tmp_path / "net")
    spoil(net)
    gate.set()
    loaded = load(future.result(60))
    assert loaded.first.weight is loaded.second.weight
    assert not loaded.first.weight.isnan().any()
    assert verify(tmp_path / "net") == []


def test_a_whole_training_run(gate: threading.Event, tmp_path: Path) -> None:
    """Optimizer moments and steps are those of the call, while the training goes on."""
    model = nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)

    def train() -> None:
        optimizer.zero_grad()
        model(torch.ones(4, 20)).square().sum().backward()
        optimizer.step()
        scheduler.step()

    train()
    run = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "epoch": 1}
    save(run, tmp_path / "plain")
    future = save_async(run, tmp_path / "run")
    for _ in range(3):
        train()
    run["epoch"] = 4
    gate.set()
    one, other = load(tmp_path / "plain"), load(future.result(60))
    assert other["epoch"] == 1
    assert same(one["model"].state_dict(), other["model"].state_dict())
    assert same(one["optimizer"].state_dict(), other["optimizer"].state_dict())
    assert same(one["scheduler"].state_dict(), other["scheduler"].state_dict())


def test_many_saves_while_the_model_changes(tmp_path: Path) -> None:
    """Twenty saves of a model that is changed all the time each hold one moment: all numbers are the step's."""
    net = nn.Sequential(*[nn.Linear(200, 200) for _ in range(8)])
    futures = []
    for step in range(20):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(step)
        futures.append(save_async(net, tmp_path / str(step)))
    for step, future in enumerate(futures):
        values = {
            float(number) for tensor in load(future.result(60)).state_dict().values() for number in tensor.unique()
        }
        assert values == {float(step)}


def test_errors_come_with_the_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong while writing is raised by result(), logged for those who do not ask, and leaves nothing."""
    save(Net(), tmp_path / "net")
    future = save_async(Net(), tmp_path / "net")
    with pytest.raises(TargetExistsError):
        future.result(60)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net"]
    assert [(record.levelname, "in the background failed" in record.message) for record in caplog.records] == [
        ("ERROR", True)
    ]


def test_arguments_are_checked_at_once(tmp_path: Path) -> None:
    """What is wrong with the call itself is raised by it."""
    with pytest.raises(SaveError, match="digest"):
        save_async(Net(), tmp_path / "net", digest="md5")
    assert list(tmp_path.iterdir()) == []


def test_what_needs_trust_is_told_at_once(tmp_path: Path) -> None:
    """The warning comes from the call, not from the thread."""
    with pytest.warns(NeedsTrustWarning, match=r"builtins\.iter"):
        future = save_async({"code": iter([1])}, tmp_path / "net")
    assert Path(future.result(60)).is_dir()


def test_a_second_save_to_the_path_waits(gate: threading.Event, tmp_path: Path) -> None:
    """Saves to one path follow each other, in the background or not; the last one stays."""
    first = save_async({"number": 1}, tmp_path / "net")
    timer = threading.Timer(0.3, gate.set)
    timer.start()
    second = save_async({"number": 2}, tmp_path / "net", overwrite=True)
    assert first.done()
    save({"number": 3}, tmp_path / "net", overwrite=True)
    assert second.done()
    assert load(tmp_path / "net") == {"number": 3}


def test_a_base_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    """A chain of saves in the background, each on the one before, comes out whole, whatever is started when."""
    net = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    futures = [save_async(net, tmp_path / "0")]
    for step in range(1, 6):
        with torch.no_grad():
            net[0].weight.fill_(step)
        futures.append(save_async(net, tmp_path / str(step), base=tmp_path / str(step - 1)))
    save(net, tmp_path / "last", base=tmp_path / "5")
    for step, future in enumerate(futures):
        assert verify(future.result(60)) == []
        assert step == 0 or load(tmp_path / str(step))[0].weight.unique().tolist() == [step]
    assert verify(tmp_path / "last") == []


def test_a_base_is_replaced_by_what_is_based_on_it(tmp_path: Path) -> None:
    """A save to the very path of its base waits for the earlier one there, and not for itself."""
    net = nn.Linear(100, 100)
    for _ in range(3):
        last = save_async(net, tmp_path / "net", overwrite=True, base=tmp_path / "net" if _ else None)
    assert verify(last.result(60)) == []


def test_saves_to_other_paths_do_not_wait(gate: threading.Event, tmp_path: Path) -> None:
    """A save that takes long holds up none but those to its own path."""
    slow = save_async({"number": 1}, tmp_path / "slow")
    save({"number": 2}, tmp_path / "fast")
    assert not slow.done()
    gate.set()
    assert load(slow.result(60)) == {"number": 1}


def test_without_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that does not fit is a SaveError at once; the path is free again."""

    def refuse(size: int) -> torch.UntypedStorage:
        raise MemoryError

    monkeypatch.setattr(background, "new_storage", refuse)
    background._spare.keep([])
    with pytest.raises(SaveError, match="memory for a copy"):
        save_async(Net(), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []
    assert Path(save(Net(), tmp_path / "net")).is_dir()


def test_the_memory_of_copies_is_used_again(tmp_path: Path) -> None:
    """The second copy is made in the memory of the first; with keep_memory=False none is kept."""
    net = nn.Linear(500, 500)
    save_async(net, tmp_path / "1").result(60)
    kept = [storage.data_ptr() for storages in background._spare._storages.values() for storage in storages]
    save_async(net, tmp_path / "2").result(60)
    again = [storage.data_ptr() for storages in background._spare._storages.values() for storage in storages]
    assert sorted(again) == sorted(kept) != []
    save_async(net, tmp_path / "3", keep_memory=False).result(60)
    assert background._spare._storages == {}


def test_the_model_may_be_deleted_meanwhile(gate: threading.Event, tmp_path: Path) -> None:
    """The copy does not hold on to the model's own memory."""
    import weakref

    net = nn.Linear(100, 100)
    gone = weakref.ref(net.weight)
    future = save_async(net, tmp_path / "net")
    del net
    assert gone() is None
    gate.set()
    assert Path(future.result(60)).is_dir()


def test_the_path_is_that_of_the_call(gate: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, and that of a base, mean what they meant at the call, wherever the program goes then."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    save({"number": 1}, "base")
    future = save_async({"number": 1}, "net", base="base")
    monkeypatch.chdir(tmp_path / "elsewhere")
    gate.set()
    assert future.result(60) == str(tmp_path / "net")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_two_saves_at_a_time(gate: threading.Event, tmp_path: Path) -> None:
    """A third save waits for the first, so that copies do not pile up where the disk is slow."""
    futures = [save_async({"number": number}, tmp_path / str(number)) for number in range(2)]
    threading.Timer(0.3, gate.set).start()
    futures.append(save_async({"number": 2}, tmp_path / "2"))
    assert any(future.done() for future in futures[:2])
    assert [load(future.result(60)) for future in futures] == [{"number": number} for number in range(3)]


def test_memory_that_another_process_changes(tmp_path: Path) -> None:
    """Of shared memory, which may change at any time, what is written is what the checksum is of."""
    shared = torch.zeros(3_000_000).share_memory_()
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            shared.add_(1)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        paths = [save({"shared": shared}, tmp_path / str(number)) for number in range(5)]
    finally:
        stop.set()
        thread.join()
    assert [verify(path) for path in paths] == [[]] * 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_waits_for_nobody(gate: threading.Event, tmp_path: Path) -> None:
    """The save of the parent is none of the child's, which can save there itself."""
    future = save_async({"number": 1}, tmp_path / "net")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of threads and forks
        child = os.fork()
    if not child:
        signal.alarm(30)
        try:
            save({"number": 2}, tmp_path / "net")
            save_async({"number": 3}, tmp_path / "other")
        finally:
            os._exit(0 if (tmp_path / "net").is_dir() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gate.set()
    with pytest.raises(TargetExistsError):
        future.result(60)


def test_without_threads_it_is_saved_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread, the call itself writes, and the path is free afterwards."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    future = save_async({"number": 1}, tmp_path / "net")
    assert future.done()
    assert load(future.result()) == {"number": 1}
    assert save({"number": 2}, tmp_path / "net", overwrite=True) == str(tmp_path / "net")


EXIT_HANDLER_SCRIPT = """
import atexit, sys
if sys.argv[2] == "first":
    atexit.register(lambda: flambe_save.save_async({"a": torch.ones(2_000_000)}, sys.argv[1]))
import torch
import flambe_save
if sys.argv[2] == "last":
    atexit.register(lambda: flambe_save.save_async({"a": torch.ones(2_000_000)}, sys.argv[1]))
"""


@pytest.mark.parametrize("when", ["first", "last"])
def test_an_exit_handler_may_save(when: str, tmp_path: Path) -> None:
    """A save that begins when the program is about to end is finished, whenever the handler was registered."""
    subprocess.run([sys.executable, "-c", EXIT_HANDLER_SCRIPT, str(tmp_path / "net"), when], check=True)
    assert verify(tmp_path / "net") == []


EXIT_SCRIPT = """
import sys, time
import torch
import flambe_save.saving as saving
from flambe_save import save_async

write = saving.Saving.write
def slowly(self):
    time.sleep(1)
    return write(self)
saving.Saving.write = slowly
save_async(torch.nn.Sequential(*[torch.nn.Linear(1200, 1200) for _ in range(4)]), sys.argv[1], threads=3)
"""


def test_the_interpreter_waits(tmp_path: Path) -> None:
    """A program that ends right after the call leaves a whole save, written by several threads."""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-W", "error", "-c", EXIT_SCRIPT, str(tmp_path / "net")], check=True)
    assert time.monotonic() - begin > 1
    assert verify(tmp_path / "net") == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu(tmp_path: Path) -> None:
    """A copy on the GPU's own stream is what the model was at the call, whatever the GPU does next."""
    net = nn.Linear(4000, 4000, device="cuda")
    with torch.no_grad():
        net.weight.fill_(1)
        future = save_async(net, tmp_path / "net")
        for step in range(50):
            net.weight.fill_(step + 2)
    assert load(future.result(60), map_location="cpu").weight.unique().tolist() == [1.0]
