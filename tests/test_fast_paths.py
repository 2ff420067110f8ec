"""Mapping, skipping checksums, threads, parts and durable files: the same result, by another way."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import (
    Component,
    CorruptSaveError,
    LoadError,
    SaveError,
    load,
    load_state,
    load_state_from_file,
    save,
    save_state_to_file,
    verify,
)
from flambe_save.storage import FolderStore, direct_io
from flambe_save.storage.filesystem import Descriptors, WholeFile
from flambe_save.support.parallel import in_threads
from flambe_save.testing.codec import same

ONE = 1 << 20


class Part(Component, nn.Module):
    """Weights of 1.2 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(550, 550)
        self.norm = nn.BatchNorm1d(550)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x))


class Whole(Component, nn.Module):
    """Three parts."""

    def __init__(self, one: Part, two: Part, three: Part) -> None:
        super().__init__()
        self.one, self.two, self.three = one, two, three

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.three(self.two(self.one(x)))


@pytest.fixture
def model() -> Whole:
    """Return a model whose buffers are not what constructors make them."""
    model = Whole(Part(), Part(), Part())
    model(torch.randn(8, 550))
    return model


@pytest.fixture
def path(model: Whole, tmp_path: Path) -> Path:
    """Return a save of it."""
    return Path(save(model, tmp_path / "run"))


def is_mapped(tensor: torch.Tensor, below: Path) -> bool:
    """Whether a tensor's memory is that of a file below a folder."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(number, 16) for number in line.split()[0].split("-"))
        if begin <= tensor.data_ptr() < end:
            return str(below) in line
    return False


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc")

WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "mapped": {"mmap": True},
    "mapped, unchecked": {"mmap": True, "verify": False},
    "unchecked": {"verify": False},
    "one thread": {"threads": 1},
    "three threads": {"threads": 3},
}
SHAPES: dict[str, dict[str, Any]] = {
    "folder": {},
    "archive": {"compress": True},
    "pickle": {"pickle_only": True},
    "packed pickle": {"pickle_only": True, "compress": True},
}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_way_gives_the_same(shape: dict[str, Any], how: dict[str, Any], model: Whole, tmp_path: Path) -> None:
    """However it is loaded, from whatever shape, it is the same; what cannot be mapped is read."""
    path = save(model, tmp_path / "run", **shape)
    assert same(load(path, **how).state_dict(), model.state_dict())
    assert same(dict(load_state_from_file(path, **how)), dict(load_state_from_file(path)))


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_threads_do_not_change_the_bytes(shape: dict[str, Any], threads: int, model: Whole, tmp_path: Path) -> None:
    """A save from many threads is, byte for byte, one from a single thread."""
    one = Path(save(model, tmp_path / "one" / "run", threads=1, **shape))
    other = Path(save(model, tmp_path / "other" / "run", threads=threads, **shape))
    files = [
        {
            str(file.relative_to(place.parent)): file.read_bytes()
            for file in [place, *place.rglob("*")]
            if file.is_file()
        }
        for place in (one, other)
    ]
    assert files[0] == files[1] != {}


@needs_proc
def test_mapped_parameters_are_the_file(path: Path) -> None:
    """Large parameters of a mapped load lie in the file's memory, and those of a default load do not."""
    assert is_mapped(load(path, mmap=True).one.linear.weight, path / "one")
    assert not is_mapped(load(path).one.linear.weight, path)


def test_training_a_mapped_model_never_changes_the_file(model: Whole, path: Path) -> None:
    """Steps of an optimizer change the loaded model, and neither the save nor another model that is mapped."""
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    trained, other = load(path, mmap=True), load(path, mmap=True)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    trained(torch.randn(4, 550)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(trained.one.linear.weight, model.one.linear.weight)
    assert same(other.state_dict(), model.state_dict())
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_what_becomes_of_the_save_does_not_matter_to_a_mapped_model(model: Whole, path: Path) -> None:
    """Overwritten or deleted, the save stays as it was for whoever has loaded it."""
    loaded = load(path, mmap=True)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        model.one.linear.weight.zero_()
    save(model, path, overwrite=True)
    assert same({**loaded.state_dict()}, expected)
    shutil.rmtree(path)
    assert same({**loaded.state_dict()}, expected)


@pytest.mark.parametrize("how", [{}, {"mmap": True}], ids=["read", "mapped"])
def test_a_changed_weight_is_found_unless_nobody_looks(how: dict[str, Any], model: Whole, path: Path) -> None:
    """The checksum of every file is compared by default; with verify=False a changed number is loaded as it is."""
    file = path / "two" / "state.pt"
    data = bytearray(file.read_bytes())
    data[data.index(model.two.linear.weight.detach().numpy().tobytes()[:40]) + 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptSaveError, match="not what was saved") as info:
        load(path, **how)
    assert (info.value.node, info.value.file) == ("two", "two/state.pt")
    loaded = load(path, verify=False, **how)
    assert int((loaded.two.linear.weight != model.two.linear.weight).sum()) == 1


def test_load_state_copies(model: Whole, path: Path) -> None:
    """Filling an object copies what is in the files, whose memory it never shares."""
    other = Whole(Part(), Part(), Part())
    pointers = [parameter.data_ptr() for parameter in other.parameters()]
    load_state(other, path)
    assert same(other.state_dict(), model.state_dict())
    assert [parameter.data_ptr() for parameter in other.parameters()] == pointers


@pytest.mark.parametrize("shape", [{}, {"compress": True}], ids=["folder", "archive"])
def test_a_part_reads_its_own_files_alone(
    shape: dict[str, Any], model: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """load(node=...) opens no file of another component, beside what the root has for all."""
    from flambe_save.storage import TarStore

    path = save(model, tmp_path / "run", **shape)
    opened: list[str] = []
    for store in (FolderStore, TarStore):
        reader = store.reader

        def noting(self: Any, name: str, reader: Any = reader) -> Any:
            opened.append(name)
            return reader(self, name)

        monkeypatch.setattr(store, "reader", noting)
    part = load(path, node="two")
    assert same(part.state_dict(), model.two.state_dict())
    assert {name.rpartition("/")[0] for name in opened} == {"", "two"}
    assert {name for name in opened if "/" not in name} <= {"manifest.json", "requirements.txt"}


def test_saves_and_loads_from_many_threads(model: Whole, tmp_path: Path) -> None:
    """Eight threads that save and load at once, each with threads of its own, do not get in each other's way."""

    def work(number: int) -> bool:
        path = save(model, tmp_path / str(number), threads=2)
        save({"number": number}, tmp_path / f"{number}.other", compress=number % 2 == 0)
        loaded = load(path, threads=2, mmap=number % 3 == 0)
        return same(loaded.state_dict(), model.state_dict()) and verify(path) == []

    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert in_threads(work, range(8), 8) == [True] * 8
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("threads", [0, -2, 1.0, True])
def test_threads_are_a_number(threads: Any, path: Path, tmp_path: Path) -> None:
    """What is no number of threads is refused by every function, before anything is written."""
    with pytest.raises(LoadError, match="threads"):
        load(path, threads=threads)
    with pytest.raises(LoadError, match="threads"):
        load_state_from_file(path, threads=threads)
    with pytest.raises(SaveError, match="threads"):
        save_state_to_file({"a": torch.ones(1)}, tmp_path / "other", threads=threads)
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, ONE, 8 * ONE, 8 * ONE + 1, 20 * ONE + 4097])
def test_direct_files_hold_what_was_written(size: int, tmp_path: Path) -> None:
    """Whatever its size, and however it came, a file that was written past the page cache is what was written."""
    data = os.urandom(size)
    opened = Descriptors()
    opened.append(os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT))
    if not direct_io.go_direct(opened[0]):
        opened.close()
        pytest.skip("this file system has no O_DIRECT")
    with direct_io.DirectFile(opened) as file:
        half = bytearray(data[: size // 2])
        assert file.write(half) == len(half)
        half[:] = bytes(len(half))  # what was handed over may change
        for start in range(size // 2, size, 3 * ONE + 1):
            file.write(memoryview(data)[start : min(start + 3 * ONE + 1, size)])
    assert (tmp_path / "file").read_bytes() == data


@pytest.mark.parametrize("is_there", [True, False])
def test_durable_saves_are_the_same(
    is_there: bool, model: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """durable=True writes the same files, past the page cache where the file system can do that."""
    direct_files = []
    write = direct_io.DirectFile.write
    monkeypatch.setattr(
        direct_io.DirectFile, "write", lambda self, data: direct_files.append(self) or write(self, data)
    )
    if not is_there:
        monkeypatch.delattr(os, "O_DIRECT")
    one, other = Path(save(model, tmp_path / "one")), Path(save(model, tmp_path / "two", durable=True))
    assert verify(other) == []
    assert (one / "two" / "state.pt").read_bytes() == (other / "two" / "state.pt").read_bytes()
    assert is_there or direct_files == []
    pickled = save(model, tmp_path / "three", pickle_only=True, durable=True)
    assert same(load(pickled).state_dict(), model.state_dict())


def test_a_full_disk_under_a_durable_save(model: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error past the page cache is told, and leaves nothing."""

    def fail(self: Any, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    threads = threading.active_count()
    monkeypatch.setattr(direct_io.DirectFile, "_flush", fail)
    descriptor = os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT)
    can = direct_io.go_direct(descriptor)
    os.close(descriptor)
    os.unlink(tmp_path / "probe")
    if not can:
        pytest.skip("this file system has no O_DIRECT")
    with pytest.raises(SaveError, match="No space left"):
        save(model, tmp_path / "run", durable=True)
    assert os.listdir(tmp_path) == []
    assert threading.active_count() == threads


@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_file_is_written_in_parts(threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads write one file, and its bytes are those of one thread, on systems without such calls too."""
    state = {f"t{index}": torch.randn(size) for index, size in enumerate((10, 5_000_001, 300_000, 7, 262_144))}
    parts: list[int] = []
    write_at = WholeFile.write_at

    def counted(self: WholeFile, data: memoryview, offset: int) -> None:
        parts.append(len(data))
        write_at(self, data, offset)

    monkeypatch.setattr(WholeFile, "write_at", counted)
    save_state_to_file(state, tmp_path / "parts", threads=threads, digest="sha256")
    assert sum(parts) == 4 * (5_000_001 + 300_000 + 262_144)
    assert len(parts) > 4
    monkeypatch.delattr(os, "pwrite")
    monkeypatch.setattr("flambe_save.storage.filesystem.c_function", lambda name: None)
    save_state_to_file(state, tmp_path / "in order", threads=threads, digest="sha256")
    for name in ("state.pt", "manifest.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "in order" / name).read_bytes()
    assert verify(tmp_path / "parts") == []
    assert all(torch.equal(value, state[key]) for key, value in torch.load(tmp_path / "parts" / "state.pt").items())


# ------------------------------------------------------------------------------------------------ small files


def test_each_small_file_is_one_open_and_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file more takes an open, a write and a close more; nothing is looked up in the new folder."""
    save({"first": nn.Linear(2, 2)}, tmp_path / "first")  # looks for sources
    counts: dict[str, int] = {}
    for name in ("open", "write", "close", "mkdir", "stat", "lstat", "unlink"):
        real = getattr(os, name)

        def counted(*args: Any, name: str = name, real: Any = real, **options: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return real(*args, **options)

        monkeypatch.setattr(os, name, counted)
    found = []
    for count in (4, 54):
        counts.clear()
        save({f"k{index}": nn.Linear(2, 2) for index in range(count)}, tmp_path / str(count))
        found.append(dict(counts))
    more = {name: found[1].get(name, 0) - found[0].get(name, 0) for name in found[1]}
    expected = {"open": 300, "write": 300, "close": 300, "mkdir": 50}
    assert {name: number for name, number in more.items() if number} == expected


def test_collection_is_paused_until_the_files_are_written(tmp_path: Path) -> None:
    """Garbage collection would go through all that a save of many parts made, while it writes them."""
    paused = []
    save(nn.Linear(300, 1000), tmp_path / "save", progress=lambda done, total: paused.append(not gc.isenabled()))
    assert paused
    assert all(paused)
    assert gc.isenabled()
