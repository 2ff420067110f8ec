"""Torch files inside a bare pickle: the same bytes as ever, and no large one in memory."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import dill
import pytest
import torch

import flambe_save
from flambe_save.codecs import PickleCodec, nested, nested_reading
from flambe_save.codecs import pickle as codec
from flambe_save.codecs.data import to_data
from flambe_save.errors import CorruptSaveError, SaveError, SaveReplacedError
from flambe_save.formats import ReadOptions
from flambe_save.formats.pickle import PICKLE
from flambe_save.pt import DumpOptions, LoadOptions, MemorySource
from flambe_save.pt.opcodes import pickle_end, walk
from flambe_save.storage import FileStore

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


def values() -> dict[str, Any]:
    """Return large and small tensors of many kinds, and large values that are no tensors."""
    torch.manual_seed(0)
    weight = torch.randn(150, 200)
    return {
        "weight": weight,
        "tied": weight,
        "turned": weight.T,
        "small": torch.randn(3),
        "half": torch.randn(50_000).half(),
        "bfloat16": torch.randn(50_000).bfloat16(),
        "float8": torch.randn(70_000).to(torch.float8_e4m3fn),
        "ints": torch.arange(10_000),
        "sparse": torch.eye(200).to_sparse(),
        "parameter": torch.nn.Parameter(torch.randn(40_000)),
        "text": "y" * 70_000,
        "bytes": bytes(70_000),
        "bytearray": bytearray(70_000),
    }


def check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            dense, found = (item.to_dense() if item.is_sparse else item.detach() for item in (value, other[key]))
            assert dense.dtype == found.dtype, key
            assert torch.equal(*(item.contiguous().view(torch.uint8) for item in (dense, found))), key
        else:
            assert type(value) is type(other[key]), key
            assert value == other[key], key


def plainly(items: Any, module: Any, protocol: int) -> bytes:
    """Pickle with the files of torch as bytes in memory."""
    prepared, _ = to_data(items, nested.Portable.wrapper())
    buffer = io.BytesIO()
    module.Pickler(buffer, protocol=protocol).dump(prepared)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("module", [pickle, dill], ids=["pickle", "dill"])
def test_bytes_are_those_of_a_plain_pickle(module: Any, protocol: int) -> None:
    """With any pickler and protocol, stand-ins and frames leave no trace."""
    items = values() | ({"function": lambda: 3} if module is dill else {})
    draft = PickleCodec().dump(items, DumpOptions(dill, protocol))
    assert isinstance(draft, nested.PickleDraft)
    assert len(draft.files) == 6
    data = bytes(draft)
    assert data == plainly(items, module, protocol)
    assert draft.size == len(data)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("trusts", [False, True])
def test_round_trip(tmp_path: Path, protocol: int, trusts: bool) -> None:
    """Ties come back, and large values that are no tensors, in a file and in memory."""
    items = values()
    path = flambe_save.save(items, tmp_path / "run", pickle_only=True, pickle_protocol=protocol, digest="sha256")
    assert flambe_save.verify(path) == []
    found = flambe_save.load(path, weights_only=not trusts)
    check_same(items, found)
    assert found["weight"].data_ptr() == found["tied"].data_ptr() == found["turned"].data_ptr()
    data = bytearray(plainly(items, pickle, protocol))
    check_same(items, PickleCodec().load(MemorySource(data), LoadOptions()))


def test_a_pickle_module_of_another_kind() -> None:
    """What does not write the stand-ins as Python's pickler does gets the files themselves."""

    class Packed:
        @staticmethod
        def dump(value: Any, file: Any, protocol: int | None = None) -> None:
            file.write(b"packed" + pickle.dumps(value, protocol)[::-1])

    items = {"weight": torch.randn(40_000), "function": print}
    draft = PickleCodec().dump(items, DumpOptions(Packed))  # type: ignore[arg-type]
    loaded = pickle.loads(bytes(draft).removeprefix(b"packed")[::-1])
    assert torch.equal(loaded["weight"], items["weight"])


MEASURE = """
import sys, torch, flambe_save

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10

path, protocol = sys.argv[1], int(sys.argv[2])
flambe_save.save({"a": torch.ones(50_000)}, path + "0", pickle_only=True, pickle_protocol=protocol)
flambe_save.load(path + "0.pkl")
items = {str(number): torch.randn(4 << 20) for number in range(4)}
size = 4 * (16 << 20)
open("/proc/self/clear_refs", "w").write("5")
before = peak()
flambe_save.save(items, path, pickle_only=True, pickle_protocol=protocol)
written = peak() - before
del items
open("/proc/self/clear_refs", "w").write("5")
before = peak()
loaded = flambe_save.load(path + ".pkl")
print(written, peak() - before - size)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("protocol", PROTOCOLS[::3])
def test_memory(tmp_path: Path, protocol: int) -> None:
    """Saving tensors of 64 MB takes less than one of them, and loading takes their own memory."""
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "run"), str(protocol)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "clear_refs" in result.stderr:
        pytest.skip("this system does not tell")
    writing, reading = map(int, result.stdout.split())
    assert writing < 12 << 20
    assert reading < 12 << 20


def large_save(folder: Path) -> str:
    return flambe_save.save({"weight": torch.randn(1 << 19)}, folder / "run", pickle_only=True)


def test_a_file_that_changes_after_its_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed, and the load begins again, with the check."""
    path = Path(large_save(tmp_path))
    whole, calls = path.read_bytes(), []
    real = codec.set_apart

    def changing(source: Any) -> Any:
        data = bytearray(whole)
        data[len(data) // 2] ^= 1
        if not calls:
            with open(path, "r+b") as file:  # in place
                file.write(data)
        calls.append(source)
        return real(source)

    monkeypatch.setattr(codec, "set_apart", changing)
    with FileStore(path) as store, pytest.raises(SaveReplacedError):
        PICKLE.read(store, ReadOptions(LoadOptions(), "", str(path)))
    assert len(calls) == 1
    calls.clear()
    path.write_bytes(whole)
    with pytest.raises(CorruptSaveError, match="does not match its checksum"):
        flambe_save.load(path)
    assert len(calls) == 1  # it was damaged, and checked, before anything was unpickled again


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_is_read_once(protocol: int) -> None:
    """A pickle that hands one file to torch again and again does not get a storage for each."""
    draft = PickleCodec().dump([torch.ones(50_000).untyped_storage()], DumpOptions(pickle_protocol=protocol))
    file = draft.files[0]  # type: ignore[attr-defined]
    data = b"".join(map(bytes, file.chunks()))
    load = b"ctorch.storage\n_load_from_bytes\nq\0"
    made = b"q\1\x85R" if protocol > 2 else b"X\6\0\0\0latin1\x86Rq\1\x85R"
    once = load + (b"" if protocol > 2 else b"c_codecs\nencode\n") + data + made
    twice = b"]" + once + b"ah\0h\1\x85Ra."
    with pytest.raises(CorruptSaveError):
        PickleCodec().load(MemorySource(bytearray(b"\x80\4" + twice)), LoadOptions())
    [found] = PickleCodec().load(MemorySource(bytearray(b"\x80\4]" + once + b"a.")), LoadOptions())
    assert found.nbytes() == 200_000


def test_a_tensor_that_changes_while_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text has no other length than it says."""
    tensor = torch.zeros(100_000)
    draft = PickleCodec().dump([tensor], DumpOptions())
    real = nested.steps

    def changing(data: Any, step: int = nested._STEP) -> Any:
        if step == nested._STEP:
            tensor.fill_(-1)
        return real(data, step)

    monkeypatch.setattr(nested, "steps", changing)
    with pytest.raises(SaveError, match="changed while it was written"):
        bytes(draft)


def test_a_text_cut_between_two_bytes_of_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of any length give the same bytes."""
    items = {"weight": torch.randn(20_000)}
    data = bytearray(bytes(PickleCodec().dump(items, DumpOptions())))
    for step in (1001, 4096, 4097):
        monkeypatch.setattr(nested_reading, "_STEP", step)
        check_same(items, PickleCodec().load(MemorySource(data), LoadOptions()))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_walk_through_a_window(protocol: int) -> None:
    """A pickle has the same end and opcodes, however little of it is looked at; damage gives the same error."""
    value = [
        {"a" * size: size, "b": ("ä" * size, b"c" * size, 2 ** min(size, 3000), complex(size))}
        for size in (0, 3, 300, 70_000)
    ]
    data = pickle.dumps(value, protocol) + b"rest"
    for damaged in (data, data[:-9], data[:70], data.replace(b"a" * 300, b"\xff" * 300)):
        found = []
        for window in (20, 100, 5000, len(data)):
            codes: set[int] = set()
            try:
                end: Any = walk(lambda start, stop, data=damaged: data[start:stop], len(damaged), codes, window=window)
            except pickle.UnpicklingError as error:
                end = str(error)
            found.append((end, codes))
        assert found[1:] == found[:-1]
    assert pickle_end(data) == len(data) - 4
