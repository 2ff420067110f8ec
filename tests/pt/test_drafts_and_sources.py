"""What is written and read by hand: checksums, threads, zips, plain pickles, and where bytes of a file go."""

from __future__ import annotations

import errno
import io
import itertools
import mmap
import os
import pickle
import threading
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import TORTURE
from hypothesis import given, settings
from hypothesis import strategies as st

from flambe_save.codecs import TorchCodec
from flambe_save.codecs.dense import dump_plain
from flambe_save.codecs.storages import storage_of
from flambe_save.errors import CorruptSaveError, LoadError
from flambe_save.pt import DumpOptions, LoadOptions, MemorySource, open_source, sources, zip_writer
from flambe_save.pt.dense import load_plain
from flambe_save.support import checksum
from flambe_save.support.parallel import check_threads, default_threads, in_threads, spans
from flambe_save.testing.codec import same

CODEC = TorchCodec()
ONE_MIB = 1 << 20
PIECES = st.binary(max_size=3000)


@pytest.mark.parametrize("combine", [checksum.combine, checksum._combine], ids=["fast", "own"])
@given(PIECES, PIECES)
def test_checksums_combine(combine: Callable[[int, int, int], int], one: bytes, other: bytes) -> None:
    """Two pieces' checksums give the whole's, by the library and by hand."""
    assert combine(zlib.crc32(one), zlib.crc32(other), len(other)) == zlib.crc32(one + other)


@given(PIECES)
def test_the_checksum_is_crc32(data: bytes) -> None:
    """Whatever computes it, it is zlib's."""
    assert checksum.crc32(data) == zlib.crc32(data)


# ------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order(threads: int) -> None:
    """Results are in the order of the items, however many threads there are."""
    assert in_threads(lambda item: item * item, range(100), threads) == [item * item for item in range(100)]


def test_calls_run_side_by_side() -> None:
    """Two calls that wait for each other both end."""
    meeting = threading.Barrier(2, timeout=30)
    assert sorted(in_threads(lambda item: meeting.wait(), range(2), 2)) == [0, 1]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_ends_the_work(threads: int) -> None:
    """The error of a call is raised, few calls follow it, and no thread is left."""
    calls = []

    def call(item: int) -> None:
        calls.append(item)
        if item == 3:
            raise OSError(errno.ENOSPC, "full")

    before = threading.active_count()
    with pytest.raises(OSError, match="full"):
        in_threads(call, range(10_000), threads)
    assert len(calls) < 10_000
    assert threading.active_count() == before


def test_an_interrupt_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever interrupts the caller, also while it waits, the other threads have ended when it goes on."""
    join, interrupts = threading.Thread.join, iter(range(2))

    def interrupted(self: threading.Thread, timeout: float | None = None) -> None:
        if next(interrupts, None) is not None:
            raise KeyboardInterrupt
        join(self, timeout)

    ended = []

    def call(item: int) -> None:
        if item:
            time.sleep(0.3)
            ended.append(item)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_threads(call, range(2), 2)
    assert ended == [1]


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 9), st.integers(1, 300))
def test_spans_cover_a_range(start: int, size: int, threads: int, least: int) -> None:
    """Spans are in order, without gaps, no more than threads, and none is needlessly small."""
    found = spans(start, start + size, threads, least)
    assert [found[0][0], found[-1][1]] == [start, start + size]
    assert all(one[1] == other[0] for one, other in itertools.pairwise(found))
    assert len(found) <= threads
    assert len(found) == 1 or size // len(found) + 1 >= least


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_are_a_number(threads: Any) -> None:
    """What is no count of threads is refused."""
    with pytest.raises(LoadError, match="whole number above 0"):
        check_threads(threads, LoadError)
    assert check_threads(None, LoadError) == default_threads() >= 1


# ------------------------------------------------------------------------------------------------------- plain states

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128]


@st.composite
def plain_states(draw: st.DrawFn) -> OrderedDict[str, torch.Tensor]:
    """Draw a state of tensors: of all types, shapes, views of parts and of wholes, some twice, with metadata."""
    made: list[torch.Tensor] = []
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name in draw(st.lists(st.text(max_size=20), unique=True, max_size=8)):
        if made and draw(st.booleans()):
            tensor = draw(st.sampled_from(made))
        else:
            shape = draw(st.lists(st.integers(0, 4), max_size=6))
            tensor = torch.randint(0, 2, shape).to(draw(st.sampled_from(DTYPES)))
        how = draw(st.sampled_from(["whole", "transposed", "part", "part"]))
        if how == "transposed" and tensor.dim() > 1:
            tensor = tensor.transpose(0, 1)
        elif how == "part" and tensor.dim() and tensor.shape[0]:
            tensor = tensor[draw(st.integers(0, tensor.shape[0] - 1)) :]
        made.append(tensor)
        state[name] = tensor
    if draw(st.booleans()):
        state._metadata = OrderedDict({"": {"version": 1}, "a": {}})  # type: ignore[attr-defined]
    return state


@settings(max_examples=150)
@given(plain_states())
def test_plain_states_round_trip(state: OrderedDict[str, torch.Tensor]) -> None:
    """What is plain is read by us, by torch, and by plain pickle's rules, and is the same; the file is a valid zip."""
    data = bytes(CODEC.dump(state, DumpOptions()))
    ours = CODEC.load(MemorySource(bytearray(data)), LoadOptions())
    theirs = torch.load(io.BytesIO(data), weights_only=True)
    for loaded in (ours, theirs):
        assert same(loaded, state)
        assert getattr(loaded, "_metadata", None) == getattr(state, "_metadata", None)
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


@settings(max_examples=100)
@given(plain_states(), st.integers(2, 5))
def test_what_is_plain_is_read_as_such(state: OrderedDict[str, torch.Tensor], protocol: int) -> None:
    """The reader of plain states knows every pickle of their writer, with all that it says."""
    written = dump_plain(state, protocol)
    if written is None:  # one memory seen as two types
        return
    found = load_plain(written[0])
    assert found is not None
    assert list(found.tensors) == list(state)
    for name, described in found.tensors.items():
        assert described.dtype == str(state[name].dtype).removeprefix("torch.")
        assert described.shape == tuple(state[name].shape)
    assert (found.metadata is None) == (not hasattr(state, "_metadata"))


NOT_PLAIN: dict[str, Any] = {
    "dict": {"a": torch.ones(2)},
    "number": OrderedDict(a=1),
    "key": OrderedDict({1: torch.ones(2)}),
    "parameter": OrderedDict(a=torch.nn.Parameter(torch.ones(2))),
    "gradient": OrderedDict(a=torch.ones(2, requires_grad=True)),
    "sparse": OrderedDict(a=torch.eye(2).to_sparse()),
    "meta": OrderedDict(a=torch.empty(2, device="meta")),
    "conjugate": OrderedDict(a=torch.ones(2, dtype=torch.complex64).conj()),
    "repeated": OrderedDict(a=torch.ones(1).expand(3)),
    "float8": OrderedDict(a=torch.ones(2).to(torch.float8_e4m3fn)),
    "two types": OrderedDict(a=(whole := torch.ones(4)), b=whole.view(torch.int32)),
}


@pytest.mark.parametrize("value", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_is_left_to_pickle(value: Any) -> None:
    """Anything but dense tensors of one type for each memory goes the long way."""
    assert dump_plain(value, 2) is None


@settings(max_examples=300)
@given(st.data())
def test_a_changed_plain_pickle_is_not_taken_for_one(data: st.DataObject) -> None:
    """With any byte changed, the reader says no, or describes tensors as harmless: never an error of its own."""
    state = OrderedDict(weight=torch.ones(2, 3), bias=torch.ones(700), scale=torch.tensor(1.0, dtype=torch.float16))
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    written = dump_plain(state, 2)
    assert written is not None
    changed = bytearray(written[0])
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    found = load_plain(bytes(changed))
    assert found is None or len(found.tensors) <= 3


def test_a_tensor_that_reaches_past_its_storage_is_corrupt() -> None:
    """A stride that leads out of the memory is refused, before a tensor is made."""
    draft = CODEC.dump(OrderedDict(a=torch.ones(4, 4)), DumpOptions())
    data = bytearray(bytes(draft))
    where = data.index(b"K\x04K\x01\x86\x89")  # the strides, 4 and 1
    data[where + 1] = 200
    with pytest.raises(CorruptSaveError, match="reaches past its storage"):
        CODEC.load(MemorySource(data), LoadOptions(is_verified=False))


@pytest.mark.parametrize("count", [1 << 10, 3 << 20])
@pytest.mark.parametrize("is_plain", [True, False])
def test_tensors_that_share_a_record_are_all_as_large_as_it(is_plain: bool, count: int, tmp_path: Path) -> None:
    """A second tensor that claims more of a record than there is would make torch enlarge the memory; it is refused."""
    state: Any = OrderedDict(a=torch.zeros(count), b=torch.zeros(2 * count))
    data = bytes(CODEC.dump(state if is_plain else {**state}, DumpOptions()))
    begin, name = data.index(b"_rebuild_tensor_v2"), b"X\1\0\0\0"
    data = data[:begin] + data[begin:].replace(name + b"1", name + b"0", 1)
    (tmp_path / "state.pt").write_bytes(data)
    with open(tmp_path / "state.pt", "rb", buffering=0) as file, pytest.raises(CorruptSaveError, match="holds"):
        CODEC.load(open_source(file), LoadOptions(is_verified=False))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- zips


@pytest.mark.parametrize("limit", [1, 100, 5000])
def test_zip64(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit 32 bits is written as 64, as others read it; a lower limit shows that on small files."""
    monkeypatch.setattr(zip_writer, "_LIMIT", limit)
    state = OrderedDict(a=torch.arange(1000.0), b=torch.arange(7), c=torch.arange(2000.0))
    data = bytes(CODEC.dump(state, DumpOptions()))
    assert b"PK\6\6" in data
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    assert same(torch.load(io.BytesIO(data), weights_only=True), state)
    assert same(CODEC.load(MemorySource(bytearray(data)), LoadOptions()), state)


def test_zips_of_very_many_records() -> None:
    """More records than 16 bits can count are written and read."""
    state = OrderedDict((str(index), torch.tensor(float(index))) for index in range(70_000))
    data = bytes(CODEC.dump(state, DumpOptions()))
    assert len(zipfile.ZipFile(io.BytesIO(data)).infolist()) == 70_003
    assert same(CODEC.load(MemorySource(bytearray(data)), LoadOptions()), state)


def test_small_records_are_gathered_in_pieces() -> None:
    """What lies between large records is gathered up to a megabyte, however much it is."""
    state = OrderedDict((str(index), torch.full((1000,), float(index))) for index in range(1000))
    state["large"] = torch.zeros(1 << 19)
    chunks = [(bytes(chunk), crc) for chunk, crc in CODEC.dump(state, DumpOptions()).chunks()]
    assert [len(chunk) for chunk, _ in chunks if len(chunk) > (1 << 20) + 5000] == [2 << 20]
    assert len(chunks) > 5
    assert all(zlib.crc32(chunk) == crc for chunk, crc in chunks)


@pytest.mark.skipif(not TORTURE, reason="writes 9 GB: make torture")
def test_files_past_4_gib(tmp_path: Path) -> None:
    """A tensor past 4 GiB, and one behind it, are written and read, by torch too."""
    state = OrderedDict(large=torch.zeros((4 << 30) + 12, dtype=torch.uint8), behind=torch.arange(10))
    state["large"][-3:] = 7
    with open(tmp_path / "state.pt", "wb") as file:
        for chunk, _ in CODEC.dump(state, DumpOptions()).chunks():
            file.write(chunk)
    with open(tmp_path / "state.pt", "rb") as file:
        loaded = CODEC.load(open_source(file, threads=2), LoadOptions())
    assert loaded["large"].numel() == (4 << 30) + 12
    assert loaded["large"][-4:].tolist() == [0, 7, 7, 7]
    theirs = torch.load(tmp_path / "state.pt", mmap=True)
    assert theirs["behind"].tolist() == loaded["behind"].tolist() == list(range(10))
    assert theirs["large"][-4:].tolist() == [0, 7, 7, 7]


def test_torch_maps_what_is_written(tmp_path: Path) -> None:
    """torch.load(mmap=True) takes our files, whose records are aligned as it needs them."""
    state = OrderedDict(a=torch.arange(1000.0), b=torch.tensor(True), c=torch.arange(5, dtype=torch.float64))
    (tmp_path / "state.pt").write_bytes(bytes(CODEC.dump(state, DumpOptions())))
    loaded = torch.load(tmp_path / "state.pt", mmap=True)
    assert same(loaded, state)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in loaded.values() if tensor.data_ptr() % mmap.PAGESIZE)


# ------------------------------------------------------------------------------------------------------- sources


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, OrderedDict[str, torch.Tensor]]:
    """Return a file with records of many sizes, some read to memory of their own, and what is in it."""
    sizes = {"a": 3 << 20, "b": 10, "c": 5 << 20, "d": 1, "e": 0, "f": 1 << 20, "g": 17 << 20}
    state = OrderedDict((name, torch.randint(0, 256, (size,), dtype=torch.uint8)) for name, size in sizes.items())
    path = tmp_path / "state.pt"
    path.write_bytes(bytes(CODEC.dump(state, DumpOptions())))
    return path, state


WAYS: dict[str, dict[str, Any]] = {
    "read": {},
    "threads": {"threads": 3},
    "mapped": {"mapped": True},
    "mapped, threads": {"mapped": True, "threads": 2},
    "unchecked": {"is_checked": False},
}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_every_source_gives_the_same(how: dict[str, Any], large: tuple[Path, OrderedDict[str, torch.Tensor]]) -> None:
    """Read, read by threads, or mapped: the values are the same, and so is the checksum."""
    path, state = large
    with open(path, "rb", buffering=0) as file:
        source = open_source(file, **how)  # type: ignore[arg-type]
        loaded = CODEC.load(source, LoadOptions(is_verified=how.get("is_checked", True)))
        assert same(loaded, state)
        assert source.checksum() == zlib.crc32(path.read_bytes())
        assert source.checksum(5, 4 << 20) == zlib.crc32(path.read_bytes()[5 : 4 << 20])


@pytest.mark.parametrize("how", [WAYS["threads"], WAYS["mapped"]], ids=["threads", "mapped"])
@pytest.mark.parametrize("name", ["a", "b", "g"])
def test_a_changed_byte_is_found_by_every_source(
    how: dict[str, Any], name: str, large: tuple[Path, OrderedDict[str, torch.Tensor]]
) -> None:
    """A byte that was changed in a record, large or small, is found by the record's own checksum."""
    path, state = large
    data = bytearray(path.read_bytes())
    data[data.index(bytes(state[name].tolist()[:10])) + 3] ^= 4
    path.write_bytes(data)
    with open(path, "rb", buffering=0) as file, pytest.raises(CorruptSaveError, match="checksum"):
        CODEC.load(open_source(file, **how), LoadOptions())  # type: ignore[arg-type]


def test_mapped_memory_never_reaches_the_file(large: tuple[Path, OrderedDict[str, torch.Tensor]]) -> None:
    """What is written to a mapped tensor stays in it; what becomes of the file's name does not matter to it."""
    path, state = large
    before = path.read_bytes()
    with open(path, "rb", buffering=0) as file:
        loaded = CODEC.load(open_source(file, mapped=True), LoadOptions())  # type: ignore[arg-type]
    loaded["a"].zero_()
    assert path.read_bytes() == before
    path.unlink()
    assert same(loaded["g"], state["g"])
    assert loaded["a"].sum() == 0


def test_a_file_that_cannot_be_mapped_is_read(
    large: tuple[Path, OrderedDict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file system cannot map, the values are the same."""
    path, state = large

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENODEV, "no")

    monkeypatch.setattr(sources.mmap, "mmap", refuse)
    with open(path, "rb", buffering=0) as file:
        assert same(CODEC.load(open_source(file, mapped=True), LoadOptions()), state)  # type: ignore[arg-type]


def test_a_file_that_becomes_shorter_is_corrupt(large: tuple[Path, OrderedDict[str, torch.Tensor]]) -> None:
    """Bytes that are gone when a tensor is read are told as damage."""
    path, _ = large
    with open(path, "rb", buffering=0) as file:
        source = open_source(file)  # type: ignore[arg-type]
        os.truncate(path, 1 << 20)
        with pytest.raises(CorruptSaveError, match="ends too early"):
            storage_of(source, 2 << 20, 4 << 20)


def test_large_tensors_own_their_memory(large: tuple[Path, OrderedDict[str, torch.Tensor]]) -> None:
    """One large tensor that is kept does not keep the others in memory."""
    path, _ = large
    with open(path, "rb", buffering=0) as file:
        loaded = CODEC.load(open_source(file), LoadOptions())  # type: ignore[arg-type]
    sizes = {name: loaded[name].untyped_storage().nbytes() for name in ("a", "c", "f", "g")}
    assert sizes == {name: loaded[name].numel() for name in sizes}
    for tensor in loaded.values():
        tensor.resize_(10 << 20)  # as an ordinary tensor's can
    assert {tensor.numel() for tensor in loaded.values()} == {10 << 20}


def test_tensors_are_aligned(tmp_path: Path) -> None:
    """What lies behind a record of an odd size begins where its type wants it to."""
    state = OrderedDict(a=torch.zeros(ONE_MIB + 1, dtype=torch.uint8), b=torch.arange(9, dtype=torch.float64))
    (tmp_path / "state.pt").write_bytes(bytes(CODEC.dump(state, DumpOptions())))
    with open(tmp_path / "state.pt", "rb", buffering=0) as file:
        loaded = CODEC.load(open_source(file), LoadOptions())  # type: ignore[arg-type]
    assert same(loaded, state)
    assert loaded["b"].data_ptr() % 8 == 0


def test_another_device_is_read_to_by_parts(large: tuple[Path, OrderedDict[str, torch.Tensor]]) -> None:
    """What goes to a device goes by way of two buffers, whatever its size; tried with the processor as the device."""
    path, state = large
    with open(path, "rb", buffering=0) as file:
        source = sources.FileSource(file.fileno(), path.stat().st_size, 2)
        start = path.read_bytes().index(bytes(state["g"][:50].tolist()))
        moved = storage_of(source, start, start + (17 << 20), torch.device("cpu"))
    assert bytes(sources.memory_of(moved)) == bytes(state["g"].numpy())


def test_drafts_of_tensors_elsewhere() -> None:
    """A pickle of anything else goes through the same zips: the bytes are what torch's own reader makes values of."""
    values = {"number": 3, "nested": [torch.ones(3), {"b": torch.zeros(2, 2, dtype=torch.int8)}]}
    data = bytes(CODEC.dump(values, DumpOptions()))
    assert same(torch.load(io.BytesIO(data), weights_only=True), values)
    assert pickle.PROTO in zipfile.ZipFile(io.BytesIO(data)).read("archive/data.pkl")
