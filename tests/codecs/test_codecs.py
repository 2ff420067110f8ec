"""Codecs: every value that is data comes back to the bit, damage is noticed, and nothing is run that is not trusted."""

from __future__ import annotations

import collections
import datetime
import io
import math
import os
import pathlib
import pickle
import pickletools
import shutil
import struct
import subprocess
import sys
import types
import warnings
import zipfile
import zlib
import zoneinfo
from collections import OrderedDict
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar

import cloudpickle
import dill
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flambe_save.codecs import Codec, PickleCodec, TorchCodec
from flambe_save.codecs.data import same_bits
from flambe_save.codecs.safe_globals import data_global
from flambe_save.errors import CorruptSaveError, FlambeSaveError, LoadError, UnsupportedObjectError, UntrustedError
from flambe_save.pt import DumpOptions, LoadOptions, MemorySource
from flambe_save.state import State
from flambe_save.testing import CodecContract, same
from flambe_save.testing.codec import limited_memory
from flambe_save.trust import Trust

BARE = types.SimpleNamespace(dump=pickle.dump, load=pickle.load)
PICKLE_MODULES = {"pickle": pickle, "dill": dill, "cloudpickle": cloudpickle, "bare": BARE}
EVERYTHING = LoadOptions(Trust.of(weights_only=False), pickle_module=dill)


class TestTorchCodecContract(CodecContract):
    """TorchCodec keeps the contract, and notices any damage."""

    def make_codec(self) -> Codec[Any]:
        """Return it."""
        return TorchCodec()


class TestPickleCodecContract(CodecContract):
    """PickleCodec keeps the contract; a bare pickle holds no checksum."""

    detects_any_damage = False

    def make_codec(self) -> Codec[Any]:
        """Return it."""
        return PickleCodec()


@pytest.fixture(params=[TorchCodec(), PickleCodec()], ids=["pt", "pkl"])
def codec(request: pytest.FixtureRequest) -> Codec[Any]:
    """Return each of the codecs."""
    return request.param


def dump(codec: Codec[Any], values: Any, options: DumpOptions | None = None, *, data: bool = True) -> bytes:
    """Return values as bytes, after a check that they count as data, or do not."""
    draft = codec.dump(values, options or DumpOptions())
    assert bool(draft.opaque) != data, draft.opaque
    return bytes(draft)


def load(codec: Codec[Any], data: bytes, options: LoadOptions | None = None) -> Any:
    """Return the values in bytes."""
    return codec.load(MemorySource(bytearray(data)), options or LoadOptions())


def round_trip(codec: Codec[Any], value: Any) -> Any:
    """Return a value written and read, under a key and inside a list, where it must be one object."""
    loaded = load(codec, dump(codec, OrderedDict(value=value, again=[value])))
    assert same(loaded["again"], [loaded["value"]])
    return loaded["value"]


# ------------------------------------------------------------------------------------------------------- tensors


def tensor_of(dtype: torch.dtype, shape: tuple[int, ...] = (2, 3)) -> torch.Tensor:
    """Return a tensor of any type, made of arbitrary bytes."""
    count = int(np.prod(shape))
    limit = 2 if dtype == torch.bool else 256
    raw = torch.randint(0, limit, (count * dtype.itemsize,), dtype=torch.uint8)
    stride = torch.empty(shape, device="meta").stride()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of complex32
        return torch.empty(0, dtype=dtype).set_(raw.untyped_storage(), 0, shape, stride)


def can_save(dtype: torch.dtype) -> bool:
    """Whether torch itself can save a tensor of a type."""
    try:
        torch.save(tensor_of(dtype), io.BytesIO())
    except KeyError:
        return False
    return True


ALL_DTYPES = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
SAVED_DTYPES = sorted((dtype for dtype in ALL_DTYPES if ".q" not in str(dtype) and can_save(dtype)), key=str)


@pytest.mark.parametrize("dtype", SAVED_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 3)], ids=str)
def test_tensors_of_every_type(codec: Codec[Any], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """What torch can save comes back to the bit, whatever its type and however few its elements."""
    tensor = tensor_of(dtype, shape)
    loaded = round_trip(codec, tensor)
    assert (loaded.dtype, loaded.shape, loaded.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
    assert bytes(loaded.untyped_storage()) == bytes(tensor.untyped_storage())


def test_the_types_that_matter_are_tested() -> None:
    """The list above holds the types that models are made of."""
    wanted = """bfloat16 float16 float32 float64 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz
    float8_e8m0fnu complex32 complex64 complex128 bool int8 int16 int32 int64 uint8 uint16 uint32 uint64"""
    assert {getattr(torch, name) for name in wanted.split()} <= set(SAVED_DTYPES)


def test_a_type_that_torch_cannot_save_is_an_error(codec: Codec[Any]) -> None:
    """Of the types that torch has and cannot save, the error says where such a tensor is."""
    unsaved = [dtype for dtype in ALL_DTYPES - set(SAVED_DTYPES) if ".q" not in str(dtype)]
    for dtype in unsaved:
        with pytest.raises(UnsupportedObjectError, match="the-key"):
            dump(codec, {"the-key": tensor_of(dtype)})
    assert torch.int4 in unsaved


def quantized(kind: str) -> torch.Tensor:
    """Return a quantized tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "per_channel":
            scales, zeros = torch.tensor([0.1, 0.2]), torch.tensor([0, 1])
            return torch.quantize_per_channel(torch.randn(2, 3), scales, zeros, 0, torch.qint8)
        return torch.quantize_per_tensor(torch.randn(2, 3), 0.1, 2, getattr(torch, kind))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["qint8", "quint8", "qint32", "per_channel"])
def test_quantized_tensors(codec: Codec[Any], kind: str) -> None:
    """Quantized tensors keep their integers, scales and zero points."""
    tensor = quantized(kind)
    assert same(round_trip(codec, tensor), tensor)


SHAPES = {
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).t(),
    "strided": lambda: torch.arange(10)[::3],
    "channels_last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "expanded": lambda: torch.randn(1, 4).expand(3, 4),
    "column": lambda: torch.arange(12).reshape(3, 4)[:, 1],
    "offset": lambda: torch.arange(12)[7:],
    "one_of_many": lambda: torch.randn(5, 5)[2, 3],
    "empty_view": lambda: torch.randn(5)[2:2],
    "conjugate": lambda: torch.randn(3, dtype=torch.complex64).conj(),
    "negative": lambda: torch.randn(3, dtype=torch.complex64).conj().imag,
    "reinterpreted": lambda: torch.randn(4).view(torch.int32),
    "nan_payload": lambda: torch.tensor([0x7FC12345, -1], dtype=torch.int32).view(torch.float32),
    "parameter": lambda: torch.nn.Parameter(torch.randn(3)),
    "frozen_parameter": lambda: torch.nn.Parameter(torch.randn(3), requires_grad=False),
    "parameter_view": lambda: torch.nn.Parameter(torch.randn(100)[:3]),
    "requires_grad": lambda: torch.randn(3, requires_grad=True),
    "not_a_leaf": lambda: torch.randn(3, requires_grad=True) * 2,
    "coo": lambda: torch.eye(3).to_sparse(),
    "coo_uncoalesced": lambda: torch.sparse_coo_tensor([[0, 0, 1]], [1.0, 2.0, 3.0], (4,), check_invariants=True),
    "coo_hybrid": lambda: torch.sparse_coo_tensor([[0, 2]], torch.randn(2, 3), (4, 3), check_invariants=True),
    "coo_empty": lambda: torch.sparse_coo_tensor(size=(2, 2)),
    "coo_parameter": lambda: torch.nn.Parameter(torch.eye(3).to_sparse()),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "csc": lambda: torch.eye(3).to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr(2),
    "bsc": lambda: torch.eye(4).to_sparse_bsc(2),
    "meta": lambda: torch.empty(2, 3, device="meta", dtype=torch.bfloat16),
    "meta_parameter": lambda: torch.nn.Parameter(torch.empty(2, 3, device="meta")),
}


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_tensors_of_every_shape(codec: Codec[Any], make: Any) -> None:
    """Values, types, layouts and whether a gradient is wanted come back; writing twice gives the same bytes."""
    torch.manual_seed(0)
    tensor = make()
    torch.manual_seed(0)
    again = make()  # at other addresses, which must not show
    assert same(round_trip(codec, tensor), tensor)
    assert dump(codec, {"x": tensor}) == dump(codec, {"x": again})


@pytest.mark.parametrize("make", [lambda big: big[5], lambda big: big[:, :2], lambda big: big[3:4].t()])
def test_a_view_is_saved_alone(codec: Codec[Any], make: Any) -> None:
    """A small view of a large storage is small on disk, and the tensor itself stays a view."""
    big = torch.randn(10, 100_000)
    view = make(big)
    data = dump(codec, {"view": view})
    assert len(data) < view.numel() * 4 * 2 + 5000  # twice: protocol 2 of pickle writes bytes as text
    assert same(load(codec, data)["view"], view)
    assert view.untyped_storage().nbytes() == big.untyped_storage().nbytes()


def test_a_parameter_that_is_a_view_is_saved_alone(codec: Codec[Any]) -> None:
    """A parameter made of a slice is small on disk, and a parameter when read."""
    parameter = torch.nn.Parameter(torch.randn(1000, 100)[3], requires_grad=False)
    data = dump(codec, {"p": parameter})
    assert len(data) < 5000
    assert same(load(codec, data)["p"], parameter)


def test_tied_tensors_stay_tied(codec: Codec[Any]) -> None:
    """Tensors on one storage are on one storage when read, and its bytes are written once."""
    weight = torch.nn.Parameter(torch.randn(300, 100))
    values = {"one": weight, "same": weight, "detached": weight.detach(), "transposed": weight.detach().t()}
    data = dump(codec, values)
    loaded = load(codec, data)
    with torch.no_grad():
        loaded["one"][0, 1] = 77.0
    assert [loaded[name][0, 1].item() for name in ("same", "detached")] == [77.0, 77.0]
    assert loaded["transposed"][1, 0].item() == 77.0
    assert loaded["one"] is loaded["same"]
    assert len(data) < weight.numel() * 4 * 2


def test_plain_numbers_are_pickled_by_few_calls(codec: Codec[Any]) -> None:
    """A random state is a tuple of 625 numbers: nothing but the pickler looks at each."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        codec.dump({"words": (3, tuple(range(5000))), "weight": torch.ones(1)}, DumpOptions())
    finally:
        sys.setprofile(None)
    assert calls < 2 * 5000


def test_tensors_that_are_not_tied_stay_apart(codec: Codec[Any]) -> None:
    """Equal tensors of two storages do not become one."""
    loaded = load(codec, dump(codec, {"one": torch.zeros(3), "other": torch.zeros(3)}))
    loaded["one"] += 1
    assert loaded["other"].tolist() == [0, 0, 0]


def test_loaded_tensors_can_be_written_to(codec: Codec[Any]) -> None:
    """A tensor that was read can be changed in place, and the next read does not see that."""
    data = dump(codec, {"x": torch.arange(3.0)})
    load(codec, data)["x"].add_(1)
    assert load(codec, data)["x"].tolist() == [0, 1, 2]


# ------------------------------------------------------------------------------------------------------ plain data

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.binary()
    | st.builds(bytearray, st.binary())
    | st.datetimes(timezones=st.none() | st.sampled_from([datetime.timezone.utc]))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.sampled_from([torch.float8_e5m2, torch.Size([2, 3]), torch.device("cuda:1"), datetime.timezone.utc])
    | st.sampled_from([pathlib.PosixPath("/a/b"), pathlib.PurePosixPath("c"), pathlib.PureWindowsPath("C:\\d")])
)
keys = st.text(max_size=5) | st.integers() | st.booleans() | st.tuples(st.text(max_size=2), st.integers())
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(OrderedDict)
        | st.sets(keys, max_size=3)
        | st.frozensets(keys, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=80, deadline=None)
@given(plain, st.integers(2, 5))
def test_plain_data_comes_back(value: Any, protocol: int) -> None:
    """Any nesting of plain data is the same when read, of the same types, by either codec, in any pickle protocol."""
    options = DumpOptions(pickle_protocol=protocol)
    for codec in (TorchCodec(), PickleCodec()):
        assert same(load(codec, dump(codec, [value], options)), [value])


STRUCTURED = np.dtype([("a", "<i4"), ("b", "<f8", (2,))])
NUMPY = {
    "array": np.arange(6).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(10, dtype=np.int8)[::2],
    "zero_dimensional": np.array(3.5),
    "empty": np.empty((0, 3)),
    "structured": np.array([(1, [2, 3]), (4, [5, 6])], dtype=STRUCTURED),
    "void": np.array([(1, [2, 3])], dtype=STRUCTURED)[0],
    "text": np.array(["a", "βγ"]),
    "bytes": np.array([b"a", b""]),
    "dates": np.array(["2020-01-02", "NaT"], dtype="datetime64[D]"),
    "half": np.float16(2),
    "float64": np.float64(0.1),
    "bool": np.bool_(True),
    "complex": np.complex64(1 - 2j),
    "longdouble": np.longdouble(1) / 3,
    "datetime": np.datetime64("2020-01-02T03:04"),
    "timedelta": np.timedelta64(5, "h"),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", NUMPY.values(), ids=NUMPY)
def test_numpy_is_data(codec: Codec[Any], value: Any, protocol: int) -> None:
    """Arrays and scalars without objects in them are data, and come back to the bit."""
    data = dump(codec, {"x": value}, DumpOptions(pickle_protocol=protocol))
    assert same(load(codec, data)["x"], value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", [b"", bytearray(), (), frozenset(), "", np.empty(0)], ids=repr)
def test_empty_things_are_data(codec: Codec[Any], value: Any, protocol: int) -> None:
    """What is empty is written in ways of its own by pickle, and read all the same."""
    data = dump(codec, {"x": value}, DumpOptions(pickle_protocol=protocol))
    assert same(load(codec, data)["x"], value)


ODD = {
    "zone": datetime.datetime(2020, 1, 2, tzinfo=zoneinfo.ZoneInfo("UTC")),
    "counter": collections.Counter("aab"),
    "defaultdict": collections.defaultdict(list),
    "deque": collections.deque([1]),
    "range": range(3),
    "slice": slice(1, 2),
    "ellipsis": ...,
    "class": int,
    "function": len,
    "layout": torch.sparse_coo,
    "memory_format": torch.channels_last,
    "objects": np.array([{}], dtype=object),
    "recarray": np.rec.array([(1,)], dtype=[("a", "i4")]),
    "masked": np.ma.array([1], mask=[True]),
    "untyped_storage": torch.ones(2).untyped_storage(),
    "buffer": torch.nn.Buffer(torch.ones(2)),
    "lazy": torch.nn.UninitializedParameter(),
    "int_subclass": pytest.ExitCode.OK,
}


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_dump_says_what_load_will_refuse(codec: Codec[Any], value: Any) -> None:
    """What dump calls data loads without trust; what it does not is refused, and never read as something else."""
    draft = codec.dump({"a": {"key": value}}, DumpOptions())
    if draft.opaque:
        assert len(draft.opaque) == 1
        assert draft.opaque[0].startswith("a['key']")
        with pytest.raises(UntrustedError, match="trusting load"):
            load(codec, bytes(draft))
    else:
        assert type(load(codec, bytes(draft))["a"]["key"]) is type(value)


def test_what_is_one_object_stays_one(codec: Codec[Any]) -> None:
    """Lists, dicts, sets and arrays that are shared are shared when read, and may hold themselves."""
    shared: list[Any] = [{"a": 1}, {1, 2}, np.arange(2), bytearray(b"x")]
    shared.append(shared)
    loaded = load(codec, dump(codec, {"one": shared, "other": shared, "inner": shared[1]}))
    assert loaded["one"] is loaded["other"]
    assert loaded["one"][4] is loaded["one"]
    assert loaded["inner"] is loaded["one"][1]


def test_metadata_comes_along(codec: Codec[Any]) -> None:
    """Attributes of an OrderedDict, as torch's ``_metadata``, are kept, and a State is written as an OrderedDict."""
    values = State(weight=torch.ones(2))
    values._metadata[""] = {"version": 2}
    loaded = load(codec, dump(codec, values))
    assert type(loaded) is OrderedDict
    assert loaded._metadata == values._metadata  # type: ignore[attr-defined]


def test_nesting_has_no_limit_or_a_clear_one(codec: Codec[Any]) -> None:
    """Data nested deeper than Python's recursion limit is written, or refused with an error of the package's."""
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    try:
        loaded: Any = load(codec, dump(codec, deep))
    except FlambeSaveError as error:
        assert "deep" in str(error) or "recursion" in str(error)  # noqa: PT017
    else:
        depth = 0
        while loaded:
            loaded, depth = loaded[0], depth + 1
        assert depth == 5000


HASH_SCRIPT = """
import hashlib
from flambe_save.codecs import PickleCodec, TorchCodec
from flambe_save.pt import DumpOptions
words = [f"word{index}" for index in range(50)]
values = {"set": set(words), "nested": {frozenset(words[index::7]) for index in range(7)},
          "pairs": {(word, frozenset([word, "x", "y"])) for word in words}, "mixed": {1, "1", None, 1.5, b"1"}}
for codec in (TorchCodec(), PickleCodec()):
    draft = codec.dump(values, DumpOptions())
    assert list(draft.opaque) == []
    print(hashlib.sha256(bytes(draft)).hexdigest())
"""


def test_sets_do_not_depend_on_the_hash_seed() -> None:
    """Processes with different hash seeds write the same bytes."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", HASH_SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2", "3")
    ]
    results = [process.communicate()[0].split() for process in running]
    assert len(results[0]) == 2
    assert results[0] == results[1] == results[2]


def test_what_cannot_be_pickled_is_named(codec: Codec[Any]) -> None:
    """The error for a value that no pickle takes says where it is and of what kind."""
    with pytest.raises(UnsupportedObjectError, match=r"a\['worker'\]\[1\].*generator"):
        codec.dump({"a": {"worker": [1, (item for item in "ab")]}}, DumpOptions())


# ------------------------------------------------------------------------------------------ readers that are not ours

STATE = OrderedDict(
    weight=torch.nn.Parameter(torch.randn(3, 4)),
    view=torch.arange(100)[::3],
    half=torch.ones(2, dtype=torch.bfloat16),
    empty=torch.empty(0),
    sparse=torch.sparse_coo_tensor([[0, 1]], [1.0, 2.0], (4,), check_invariants=True).coalesce(),
    plain={"list": [1, (2.5, None)], "text": "β", "bytes": b"\xff", "set": {1, 2}, "size": torch.Size([1])},
)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
def test_torch_reads_what_is_data() -> None:
    """``torch.load(weights_only=True)`` reads a .pt of tensors and plain data."""
    data = dump(TorchCodec(), STATE)
    assert same(torch.load(io.BytesIO(data), weights_only=True), STATE)
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


def test_a_pickle_reads_with_the_standard_library() -> None:
    """``pickle.load`` reads a .pkl, in a process that has torch but not this package."""
    data = dump(PickleCodec(), {**STATE, "array": np.arange(3), "path": pathlib.PurePosixPath("a")})
    assert same(pickle.loads(data)["plain"], STATE["plain"])
    assert same(pickle.loads(data)["weight"], STATE["weight"])
    assert not [name for _, name, _ in pickletools.genops(data) if "flambe_save" in str(name)]


@pytest.mark.parametrize("module", ["pickle", "dill"])
def test_legacy_torch_files(module: str) -> None:
    """Files of torch before 1.6, which are no zips, read as data, views and ties and all."""
    base = torch.randn(4, 5)
    values = OrderedDict(
        whole=base,
        transposed=base.t(),
        row=base[1],
        tail=base.reshape(-1)[7:],
        parameter=torch.nn.Parameter(torch.ones(2)),
        half=torch.ones(3, dtype=torch.float16),
        bits=torch.tensor([True, False]),
        number=torch.tensor(5),
        none=torch.empty(0),
        plain={"a": [1, 2.5, {3}], "b": (None, "β")},
    )
    values._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    file = io.BytesIO()
    torch.save(values, file, pickle_module=PICKLE_MODULES[module], _use_new_zipfile_serialization=False)
    loaded = load(TorchCodec(), file.getvalue())
    assert same(loaded, values)
    assert loaded._metadata == values._metadata  # type: ignore[attr-defined]
    loaded["whole"][1, 0] = 99
    assert (loaded["row"][0], loaded["transposed"][0, 1]) == (99, 99)
    assert same(load(TorchCodec(), file.getvalue(), EVERYTHING), values)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_legacy_file_is_corrupt(cut: float) -> None:
    """A file of the old kind that was cut is a CorruptSaveError."""
    file = io.BytesIO()
    torch.save({"a": torch.randn(10), "b": torch.randn(10)}, file, _use_new_zipfile_serialization=False)
    data = file.getvalue()
    with pytest.raises(CorruptSaveError, match=r"cannot be read|cut|storages"):
        load(TorchCodec(), data[: int(len(data) * cut)])


def test_a_bare_pickle_reads_as_a_torch_file() -> None:
    """Flambe before 0.4 wrote the stash as a bare pickle; TorchCodec reads that too."""
    assert load(TorchCodec(), pickle.dumps({"1": {2, 3}}, protocol=2)) == {"1": {2, 3}}


def test_what_torch_saved_reads() -> None:
    """A file that ``torch.save`` wrote, large storages and unknown classes of dicts aside, reads as data."""
    file = io.BytesIO()
    torch.save(STATE, file)
    assert same(load(TorchCodec(), file.getvalue()), STATE)


# ----------------------------------------------------------------------------------------------------- pickle modules


class Vocabulary:
    """More than data."""

    def __init__(self, words: list[str]) -> None:
        self.words = words


@pytest.mark.parametrize("module", PICKLE_MODULES.values(), ids=PICKLE_MODULES)
def test_pickle_modules_write_what_is_more_than_data(codec: Codec[Any], module: Any) -> None:
    """Any module with ``dump`` and ``load`` writes objects, and a load that trusts everything reads them with it."""
    values = {"tensor": torch.arange(3.0), "vocabulary": Vocabulary(["a"])}
    data = dump(codec, values, DumpOptions(pickle_module=module), data=False)
    loaded = load(codec, data, LoadOptions(Trust.of(weights_only=False), pickle_module=module))
    assert loaded["vocabulary"].words == ["a"]
    assert same(loaded["tensor"], values["tensor"])


@pytest.mark.parametrize("module", PICKLE_MODULES.values(), ids=PICKLE_MODULES)
def test_pickle_modules_write_data(codec: Codec[Any], module: Any) -> None:
    """Data is data whichever module writes it, and reads without trust, and with all of it."""
    data = dump(codec, STATE, DumpOptions(pickle_module=module))
    assert same(load(codec, data), STATE)
    assert same(load(codec, data, LoadOptions(Trust.of(weights_only=False), pickle_module=module)), STATE)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(codec: Codec[Any], protocol: int) -> None:
    """Every binary pickle protocol reads, without trust and with all of it."""
    data = dump(codec, STATE, DumpOptions(pickle_protocol=protocol))
    assert same(load(codec, data), STATE)
    assert same(load(codec, data, EVERYTHING), STATE)


def test_a_function_without_a_name_needs_dill(codec: Codec[Any]) -> None:
    """The default module, dill, takes what pickle cannot, and pickle's refusal names it."""
    values = {"f": lambda x: x + 1}
    data = dump(codec, values, data=False)
    assert load(codec, data, EVERYTHING)["f"](1) == 2
    with pytest.raises(UnsupportedObjectError, match=r"\bf\b.*function"):
        dump(codec, values, DumpOptions(pickle_module=pickle))


# ------------------------------------------------------------------------------------------------------------- trust


class Evil:
    """Calls anything when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def hostile_files(value: Any, protocol: int = 2) -> dict[str, tuple[Codec[Any], bytes]]:
    """Return a value as pickled by someone who does not use our codecs, in each kind of file that we read."""
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save(value, zipped, pickle_protocol=protocol)
    torch.save(value, legacy, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    bare = pickle.dumps(value, protocol)
    return {
        "zip": (TorchCodec(), zipped.getvalue()),
        "legacy": (TorchCodec(), legacy.getvalue()),
        "bare_in_pt": (TorchCodec(), bare),
        "pkl": (PickleCodec(), bare),
    }


KINDS = ["zip", "legacy", "bare_in_pt", "pkl"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_refused_and_not_run(tmp_path: pathlib.Path, kind: str, protocol: int) -> None:
    """A pickle that calls ``os.system`` is refused by name, before anything ran; only full trust runs it."""
    marker = tmp_path / "ran"
    codec, data = hostile_files({"a": 1, "b": [Evil(os.system, f"touch {marker}")]}, protocol)[kind]
    options = LoadOptions(node="encoder", file="the-file")
    with pytest.raises(UntrustedError, match=rf"'{os.name}\.system'.*the-file") as info:
        load(codec, data, options)
    assert (info.value.node, info.value.file) == ("encoder", "the-file")
    assert not marker.exists()
    load(codec, data, EVERYTHING)
    assert marker.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_all_names_are_listed(kind: str, protocol: int) -> None:
    """The error lists every global that is refused, not only the first, and the argument that would allow them."""
    values = [Evil(shutil.which, "a"), Evil(shutil.get_terminal_size), Evil(zlib.adler32, b"abc"), {1, 2}]
    codec, data = hostile_files(values, protocol)[kind]
    with pytest.raises(UntrustedError, match="trusting load") as info:
        load(codec, data)
    text = str(info.value)
    assert all(f"'{name}'" in text for name in ("shutil.which", "shutil.get_terminal_size", "zlib.adler32"))
    assert "These can run anything" in text  # shutil can: nobody is told to trust it
    assert "set'" not in text
    harmless, data = hostile_files([Evil(Decimal, "1"), Evil(Fraction, 1)], protocol)[kind]
    with pytest.raises(UntrustedError, match=r"trusted=\['decimal\.Decimal', 'fractions\.Fraction'\]"):
        load(harmless, data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_trusted_opens_what_it_names(kind: str, protocol: int) -> None:
    """``trusted`` opens a class or a module, and nothing else."""
    values = [Evil(zlib.crc32, b"abc"), Evil(zlib.adler32, b"abc")]
    codec, data = hostile_files(values, protocol)[kind]
    for trusted in (["zlib"], ["zlib.crc32", "zlib.adler32"]):
        loaded = load(codec, data, LoadOptions(Trust.of(trusted=trusted)))
        assert loaded == [zlib.crc32(b"abc"), zlib.adler32(b"abc")]
    for trusted in (["zlib.crc32"], ["zli"], ["zlib.crc32.x"], []):
        with pytest.raises(UntrustedError, match=r"zlib\.adler32"):
            load(codec, data, LoadOptions(Trust.of(trusted=trusted)))


IMPORTED = {
    "dotted": b"\x80\x04\x8c\x04pkg1\x8c\x0azlib.crc32\x93",
    "dotted_global": b"\x80\x04cpkg1\nzlib.crc32\n",
    "imported": b"\x80\x04cpkg1\ncrc32\n",
}


@pytest.mark.parametrize("opcodes", IMPORTED.values(), ids=IMPORTED)
def test_trusting_a_module_is_not_trusting_what_it_imports(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, opcodes: bytes
) -> None:
    """A module that is trusted, and imports zlib or a function of it, does not open that."""
    (tmp_path / "pkg1.py").write_text("import zlib\nfrom zlib import crc32\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LoadError, match="crc32"):
        load(PickleCodec(), opcodes + b"C\x03abc\x85R.", LoadOptions(Trust.of(trusted=["pkg1"])))


def test_an_inner_class_of_a_trusted_module_opens() -> None:
    """A class inside a class of a trusted module is of that module."""
    data = pickle.dumps(Outer.Inner(), protocol=4)
    assert type(load(PickleCodec(), data, LoadOptions(Trust.of(trusted=[__name__])))) is Outer.Inner


class Outer:
    """Holds a class."""

    class Inner:
        """Is held."""


BUILDS = {
    "path": (b"cpathlib\nPurePosixPath\n", pathlib.PurePosixPath),
    "state": (b"cflambe_save.state\nState\n", State),
    "counter": (b"ccollections\nCounter\n", collections.Counter),
    "function": (b"ctorch._utils\n_rebuild_tensor_v2\n", None),
}


@pytest.mark.parametrize(("opcodes", "cls"), BUILDS.values(), ids=BUILDS)
def test_a_pickle_cannot_change_a_class(opcodes: bytes, cls: Any) -> None:
    """The BUILD opcode sets attributes on what was just built; on a class or function itself it is refused."""
    spoil = b"(N}X\x07\x00\x00\x00spoiledK\x01stb."
    try:
        with pytest.raises(LoadError, match=r"cannot be read|trusting"):
            load(PickleCodec(), b"\x80\x02" + opcodes + spoil)
        assert not hasattr(cls, "spoiled")
    finally:
        if hasattr(cls, "spoiled"):
            del cls.spoiled


@pytest.mark.parametrize("dotted", ["torch._utils._rebuild_tensor_v2", "torch.UntypedStorage", "pathlib.PurePosixPath"])
def test_a_pickle_cannot_change_how_others_are_read(dotted: str) -> None:
    """What stands for a listed global has no attribute that a pickle can set, its slots included."""
    stand = data_global(dotted)
    module, _, name = dotted.rpartition(".")
    attributes = ["spoiled", *getattr(type(stand), "__slots__", ())]
    before = {attribute: getattr(stand, attribute, None) for attribute in attributes}
    opcodes = f"c{module}\n{name}\n".encode()
    try:
        for attribute in attributes:
            key = b"X" + struct.pack("<I", len(attribute)) + attribute.encode()
            with pytest.raises(LoadError, match=r"cannot be read|trusting"):
                load(PickleCodec(), b"\x80\x02" + opcodes + b"(N}" + key + b"K\x01stb.")
        assert {attribute: getattr(stand, attribute, None) for attribute in attributes} == before
    finally:
        for attribute, value in before.items():
            if getattr(stand, attribute, None) is not value:
                setattr(stand, attribute, value) if value is not None else delattr(stand, attribute)


GREEDY = {
    "memo_index": (b"\x80\x02K\x01r\x00\x27\x00\x00.", "an index or a size larger"),
    "numpy_shape": (b"\x80\x02cnumpy\nndarray\nK\x08\x85R.", "not callable"),
    "bytes_of_a_number": (b"\x80\x02c__builtin__\nbytes\nK\x08\x85R.", "latin1"),
    "bytearray_of_a_number": (b"\x80\x02c__builtin__\nbytearray\nK\x08\x85R.", "latin1"),
    "counted_bytes": (b"\x80\x04\x8e\x00\x10\x00\x00\x00\x00\x00\x00abc.", "a count larger"),
    "counted_bytearray": (b"\x80\x05\x96\x00\x10\x00\x00\x00\x00\x00\x00abc.", "a count larger"),
    "counted_text": (b"\x80\x04\x8d\x00\x10\x00\x00\x00\x00\x00\x00abc.", "a count larger"),
    "frame": (b"\x80\x04\x95\x00\x10\x00\x00\x00\x00\x00\x00N.", "an index or a size larger"),
}


@pytest.mark.parametrize("name", GREEDY)
def test_what_a_few_bytes_ask_for_is_compared_with_them(name: str) -> None:
    """Pickle makes room for what a count or a memo index says; one that a pickle of 20 bytes cannot mean is refused."""
    data, reason = GREEDY[name]
    with pytest.raises(LoadError, match=reason):
        load(PickleCodec(), data)


def test_a_storage_is_as_large_as_its_file_says() -> None:
    """No pickle makes a storage of any size it likes, nor makes one larger through a tensor's own state."""
    with pytest.raises(LoadError, match=r"cannot be read|trusting"):
        load(PickleCodec(), b"\x80\x02ctorch.storage\nUntypedStorage\nK\x08\x85R.")
    data = dump(PickleCodec(), [torch.empty(0)])
    assert data.endswith(b"a.")
    grow = b"(ctorch.storage\nUntypedStorage\nK\x00\x85RK\x00K\x08\x85K\x01\x85tb"
    with pytest.raises(LoadError, match=r"cannot be read|trusting"):
        load(PickleCodec(), data[:-2] + grow + b"a.")


class OddType:
    """Pickles as a structured type of numpy, with any state."""

    def __init__(self, *state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return np.dtype, ("V8", False, True), self.state


class OddArray:
    """Pickles as an array of one item."""

    def __init__(self, kind: OddType, data: Any) -> None:
        self.state = (1, (1,), kind, False, data)

    def __reduce__(self) -> Any:
        made: Any = np.empty(0).__reduce__()
        return (*made[:2], self.state)


class FieldChange:
    """Pickles as a change of a dict that was pickled before: numpy keeps the very dict that it was given."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields


class Changing(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Pickles changes."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_change(self, change: FieldChange) -> None:
        """Write the change of a field."""
        self.write(self.get(self.memo[id(change.fields)][0]))
        self.save("a")
        self.save((np.dtype("i8"), 1))
        self.write(pickle.SETITEM)

    dispatch[FieldChange] = save_change


def changing(value: Any) -> bytes:
    """Return a pickle with changes in it."""
    file = io.BytesIO()
    Changing(file, 2).dump(value)
    return file.getvalue()


def fields(offset: int) -> tuple[Any, ...]:
    """Return the state of a type of eight bytes with one field of eight bytes."""
    return 3, "|", None, ("a",), {"a": (np.dtype("i8"), offset)}, 8, 1, 0


KEPT = fields(0)
IMPOSSIBLE = {
    "field outside": OddArray(OddType(*fields(1)), b"12345678"),
    "field before": OddArray(OddType(*fields(-1)), b"12345678"),
    "larger inside": OddArray(OddType(3, "|", (np.dtype("i8"), (2,)), None, None, 8, 1, 0), b"12345678"),
    "hidden objects": OddArray(OddType(3, "|", None, None, None, 8, 1, 0x3F), [None]),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_array_cannot_have_an_impossible_type(name: str) -> None:
    """A structured type whose fields lie outside its items, or that claims to hold objects, is refused."""
    with pytest.raises(LoadError):
        load(PickleCodec(), changing(IMPOSSIBLE[name]))


def test_a_type_is_not_changed_later() -> None:
    """A pickle that changes the fields of a type which it has made is refused, or has those that were checked."""
    kind = OddType(*KEPT)
    try:
        found = load(PickleCodec(), changing([kind, FieldChange(KEPT[4]), OddArray(kind, b"12345678")]))
    except LoadError:
        return
    assert found[-1].dtype.fields["a"][1] == 0


def test_a_type_of_fields_is_read() -> None:
    """The same pickle without anything odd is an array."""
    assert load(PickleCodec(), changing(OddArray(OddType(*fields(0)), b"12345678"))).dtype.fields["a"][1] == 0


# --------------------------------------------------------------------------------------------------------- damage


def repack(data: bytes, change: Any) -> bytes:
    """Return a torch zip with its records, a list of names and bytes, changed, and all checksums right."""
    source = zipfile.ZipFile(io.BytesIO(data))
    records = [(name, source.read(name)) for name in source.namelist()]
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as file:
            for name, content in change(records):
                file.writestr(name, content)
    return target.getvalue()


def changed(old: bytes, new: bytes) -> Any:
    """Return a change of data.pkl for :func:`repack`."""

    def change(records: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        assert any(old in content for name, content in records if name.endswith("data.pkl"))
        return [
            (name, content.replace(old, new) if name.endswith("data.pkl") else content) for name, content in records
        ]

    return change


def resized(by: int) -> Any:
    """Return a change of the first storage's length for :func:`repack`."""
    return lambda records: [
        (name, content[:by] if name.endswith("data/0") and by < 0 else content + b"\0" * by * name.endswith("data/0"))
        for name, content in records
    ]


WRONG = {
    "shape_past_storage": changed(b"K\x02K\x03\x86", b"K\x02K\x7f\x86"),
    "stride_past_storage": changed(b"K\x03K\x01\x86", b"K\x7fK\x01\x86"),
    "offset_past_storage": changed(b"QK\x00K\x02", b"QK\x05K\x02"),
    "negative_offset": changed(b"QK\x00K\x02", b"QJ\xff\xff\xff\xffK\x02"),
    "more_elements": changed(b"K\x06tq", b"K\x7ftq"),
    "wider_type": changed(b"FloatStorage", b"DoubleStorage"),
    "no_such_storage": changed(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),
    "storage_cut": resized(-1),
    "storage_longer": resized(4),
    "no_pickle": lambda records: [item for item in records if not item[0].endswith("data.pkl")],
    "no_storage": lambda records: [item for item in records if not item[0].endswith("data/0")],
    "two_pickles": lambda records: [*records, next(item for item in records if item[0].endswith("data.pkl"))],
    "two_roots": lambda records: [*records, ("other/data.pkl", b"\x80\x02N.")],
    "names_but_for_case": lambda records: [*records, ("archive/DATA.PKL", b"\x80\x02N.")],
    "big_endian": lambda records: [
        (name, b"big" if name.endswith("byteorder") else content) for name, content in records
    ],
    "no_record": lambda records: [],
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_zip_that_contradicts_itself_is_corrupt(change: Any) -> None:
    """A well-formed zip whose records do not fit together is a CorruptSaveError, and no memory is read or taken."""
    data = dump(TorchCodec(), {"x": torch.arange(6.0).reshape(2, 3)})
    assert same(load(TorchCodec(), repack(data, lambda records: records)), load(TorchCodec(), data))
    with pytest.raises(CorruptSaveError, match="cannot be read"):
        load(TorchCodec(), repack(data, change))


def test_a_compressed_record_is_corrupt() -> None:
    """Records must be stored: a compressed one could unpack to any size."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * 10_000 + b"N.")
    with pytest.raises(CorruptSaveError, match="compressed"):
        load(TorchCodec(), target.getvalue())


def test_records_on_the_same_bytes_are_corrupt() -> None:
    """Two records of the listing that lie on the same bytes are refused: one of them is not what was saved."""
    data = bytearray(dump(TorchCodec(), {"x": torch.zeros(64), "y": torch.zeros(64)}))
    entries = [index for index in range(len(data)) if data[index : index + 4] == b"PK\x01\x02"]
    offsets = {}
    for index in entries:
        (length,) = struct.unpack_from("<H", data, index + 28)
        offsets[bytes(data[index + 46 : index + 46 + length])] = index + 42
    one, other = [offset for name, offset in sorted(offsets.items()) if b"/data/" in name]
    data[other : other + 4] = data[one : one + 4]
    with pytest.raises(CorruptSaveError, match="cannot be read"):
        load(TorchCodec(), bytes(data))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_zip_never_gives_a_wrong_value(data: st.DataObject) -> None:
    """Bytes changed, cut, doubled or put in: an error that says so, or the values that were saved."""
    values = OrderedDict(x=torch.arange(20.0), y=[1, {2}], z=torch.ones(3, dtype=torch.bfloat16))
    whole = bytearray(dump(TorchCodec(), values))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(whole)))
        length = data.draw(st.integers(0, 40))
        whole[start : start + length] = data.draw(st.binary(max_size=40))
    with limited_memory():
        try:
            loaded = load(TorchCodec(), bytes(whole))
        except (CorruptSaveError, UntrustedError):  # without its head, it is a bare pickle that names anything
            return
    assert same(loaded, values)


@pytest.mark.parametrize("name", ["data/0", "data.pkl"])
def test_a_load_that_trusts_everything_notices_damage_too(name: str) -> None:
    """Trusting who wrote a file is not trusting the disk: its checksums are compared all the same."""
    whole = dump(TorchCodec(), {"x": torch.arange(1000.0), "text": "some text that can be changed"})
    info = next(item for item in zipfile.ZipFile(io.BytesIO(whole)).infolist() if item.filename.endswith(name))
    data = bytearray(whole)
    find = b"that can" if name == "data.pkl" else torch.tensor(500.0).numpy().tobytes()
    data[data.index(find, info.header_offset)] ^= 1
    with pytest.raises(CorruptSaveError, match="checksum"):
        load(TorchCodec(), bytes(data), EVERYTHING)


def test_a_nested_file_inside_a_pickle_is_checked() -> None:
    """A .pkl holds tensors as torch zips; damage inside one of those is noticed by its checksum."""
    data = dump(PickleCodec(), {"x": torch.full((100,), 0.0)})
    middle = data.index(b"\0" * 300) + 150
    with pytest.raises(CorruptSaveError, match="checksum"):
        load(PickleCodec(), data[:middle] + b"\1" + data[middle + 1 :])


# --------------------------------------------------------------------------------------------------- map_location


def moved(storage: Any, location: str) -> Any:
    """Move what was saved on the CPU to meta."""
    return torch.UntypedStorage(storage.nbytes(), device="meta") if location == "cpu" else None


LOCATIONS = {
    "none": (None, "cpu"),
    "text": ("cpu", "cpu"),
    "device": (torch.device("cpu"), "cpu"),
    "mapping": ({"cpu": "meta"}, "meta"),
    "other_mapping": ({"cuda:0": "meta"}, "cpu"),
    "callable": (moved, "meta"),
    "callable_none": (lambda storage, location: None, "cpu"),
    "callable_same": (lambda storage, location: storage, "cpu"),
    "meta": ("meta", "meta"),
    "meta_device": (torch.device("meta"), "meta"),
}


@pytest.mark.parametrize("trusting", [False, True], ids=["data", "trusting"])
@pytest.mark.parametrize(("location", "expected"), LOCATIONS.values(), ids=LOCATIONS)
def test_map_location(codec: Codec[Any], location: Any, expected: str, trusting: bool) -> None:
    """Tensors go where ``map_location`` says, in each of the ways that torch knows, whoever unpickles."""
    values = {"x": torch.arange(3.0), "p": torch.nn.Parameter(torch.ones(2)), "n": 1}
    options = LoadOptions(Trust.of(weights_only=not trusting), location, dill)
    loaded = load(codec, dump(codec, values), options)
    assert (loaded["x"].device.type, loaded["p"].device.type) == (expected, expected)
    assert loaded["x"].shape == (3,)
    assert expected == "meta" or same(loaded, values)


@pytest.mark.parametrize(
    "location", [None, "cpu", {"mps": "cpu"}, lambda storage, location: storage], ids=["none", "text", "dict", "call"]
)
def test_a_device_that_is_not_here(location: Any) -> None:
    """Tensors saved on a device that this machine lacks go elsewhere if told so; else the error says what to pass."""
    if torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    data = repack(dump(TorchCodec(), {"x": torch.arange(6.0)}), changed(b"\x03\x00\x00\x00cpu", b"\x03\x00\x00\x00mps"))
    if location is None:
        with pytest.raises(LoadError, match="map_location='cpu'"):
            load(TorchCodec(), data)
    else:
        assert load(TorchCodec(), data, LoadOptions(map_location=location))["x"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_of_a_gpu(codec: Codec[Any]) -> None:
    """A GPU's tensors come back to it, stay tied, and go to the CPU if told so."""
    weight = torch.randn(3, 4, device="cuda")
    data = dump(codec, {"x": weight, "t": weight.t(), "v": weight[1]})
    loaded = load(codec, data)
    assert same(loaded["x"], weight)
    assert loaded["x"].untyped_storage().data_ptr() == loaded["t"].untyped_storage().data_ptr()
    assert same(load(codec, data, LoadOptions(map_location="cpu"))["v"], weight[1].cpu())


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning", "ignore:Sparse .* beta:UserWarning")
def test_bits_are_compared_whatever_the_layout() -> None:
    """NaN is NaN, and a zero is not minus zero; what a tensor of another layout consists of is compared alike."""
    nan, ones = torch.tensor([1.0, math.nan]), torch.ones(3)

    def quantized(scale: float) -> torch.Tensor:
        return torch.quantize_per_tensor(torch.zeros(3), scale, 0, torch.qint8)

    alike = [
        (nan, nan.clone()),
        (nan.to_sparse(), nan.to_sparse()),
        (torch.diag(nan).to_sparse_csr(), torch.diag(nan).to_sparse_csr()),
        (quantized(0.5), quantized(0.5)),
        (torch.arange(6).reshape(2, 3).t(), torch.arange(6).reshape(2, 3).t().contiguous()),
        (torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])),
        (torch.empty(2, device="meta"), torch.zeros(2, device="meta")),
    ]
    assert [same_bits(one, other) for one, other in alike] == [True] * len(alike)
    different = [
        (torch.tensor(0.0), torch.tensor(-0.0)),
        (ones, 2 * ones),
        (ones, ones.double()),
        (ones, ones.to_sparse()),
        (ones.to_sparse(), 2 * ones.to_sparse()),
        (quantized(0.5), quantized(0.25)),
        (torch.empty(2, device="meta"), torch.zeros(2)),
    ]
    assert [same_bits(one, other) for one, other in different] == [False] * len(different)
