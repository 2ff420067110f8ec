"""Statistics and measures: against numpy on whole tensors, of any type and size of pieces, at the edges of floats."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flambe_save
from flambe_save import State, save_state_to_file
from flambe_save.errors import CorruptSaveError
from flambe_save.inspection import statistics
from flambe_save.inspection.statistics import BINS, Measures, Statistics, compare, measure
from flambe_save.pt import DumpOptions, LoadOptions, MemorySource
from flambe_save.pt.dense import PlainTensor
from flambe_save.pt.dense_file import DenseFile
from flambe_save.pt.elements import Array, decode, elements_of
from flambe_save.pt.zip_reader import Records
from flambe_save.registry import CODECS

pytestmark = [  # torch warns of some of its types, once
    pytest.mark.filterwarnings(f"ignore:{text}:UserWarning")
    for text in ("ComplexHalf support is experimental", ".*quantized tensor creation", "Sparse .* beta state")
]

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
FLOATS = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]
COMPLEX = [torch.complex32, torch.complex64, torch.complex128]
LARGEST = torch.finfo(torch.float64).max


def pieces(tensor: torch.Tensor, size: int = 1 << 20) -> Callable[[], Iterator[Array]]:
    """Return what gives a tensor's elements in pieces."""
    flat = tensor.reshape(-1).contiguous()
    return lambda: elements_of(
        flat.view(torch.uint8).numpy(), str(flat.dtype).removeprefix("torch."), flat.shape, flat.stride(), size
    )


def of(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return a tensor of numbers."""
    return torch.tensor(values, dtype=dtype)


def random(dtype: torch.dtype, count: int = 500) -> torch.Tensor:
    """Return numbers of a type, with zeros among them."""
    if dtype is torch.bool:
        return torch.rand(count) < 0.5
    if dtype in INTEGERS:
        return torch.randint(0, 120, (count,)).to(dtype)
    if dtype in COMPLEX:
        return torch.randn(count, dtype=torch.complex64).to(dtype)
    tensor = torch.randn(count)
    tensor[::7] = 0
    return tensor.to(dtype)


def wide(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor's elements in float64, of complex ones the absolute values."""
    if tensor.is_complex():
        return np.abs(tensor.to(torch.complex128).numpy())
    return (tensor.to(torch.float32) if tensor.dtype.itemsize == 1 else tensor).to(torch.float64).numpy()


def check(found: Statistics, values: np.ndarray[Any, Any]) -> None:
    """Compare statistics with numpy's."""
    finite = values[np.isfinite(values)]
    assert found.count == values.size
    assert (found.nan, found.inf) == (np.isnan(values).sum(), np.isinf(values).sum())
    assert found.zero == (finite == 0).sum()
    assert found.minimum == pytest.approx(finite.min(), rel=1e-15)  # of a complex number, hypot may differ by a bit
    assert found.maximum == pytest.approx(finite.max(), rel=1e-15)
    assert found.mean == pytest.approx(finite.mean(), rel=1e-12, abs=1e-12)
    assert found.std == pytest.approx(finite.std(), rel=1e-9, abs=1e-12)
    assert found.norm == pytest.approx(np.linalg.norm(finite), rel=1e-12)
    assert len(found.histogram) == BINS
    assert sum(found.histogram) == finite.size


@pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS, *FLOATS, *COMPLEX], ids=str)
def test_all_types_agree_with_numpy(dtype: torch.dtype) -> None:
    """Whatever the type, the numbers are those that numpy has of the whole in float64."""
    tensor = random(dtype)
    check(measure(pieces(tensor, 64)), wide(tensor))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_nan_and_infinity_are_counted_and_left_out(dtype: torch.dtype) -> None:
    """What is not finite is counted, and nothing else is made of it."""
    tensor = random(dtype, 100)
    tensor[3], tensor[50], tensor[51], tensor[99] = math.nan, math.inf, -math.inf, math.nan
    check(measure(pieces(tensor, 16)), wide(tensor))


def test_histogram_is_numpys() -> None:
    """The bins are those of numpy."""
    tensor = torch.randn(3000, dtype=torch.float64)
    assert measure(pieces(tensor, 700)).histogram == tuple(np.histogram(tensor.numpy(), BINS)[0])


def test_nothing_finite_has_no_numbers() -> None:
    """Where no element is finite, or there is none, what cannot be told is None."""
    assert measure(pieces(of())) == Statistics(0, None, None, None, None, 0, 0, 0, None, ())
    assert measure(pieces(of(math.nan, math.inf))) == Statistics(2, None, None, None, None, 1, 1, 0, None, ())


def test_equal_elements_are_in_the_first_bin() -> None:
    """A tensor of one number has no width, and still a histogram."""
    found = measure(pieces(torch.full((5, 5), -2.5), 7))
    assert (found.minimum, found.maximum, found.mean, found.std) == (-2.5, -2.5, -2.5, 0.0)
    assert found.histogram == (25, *[0] * (BINS - 1))


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("scale", [LARGEST, 1e200, 1e155, 1e-155, 1e-200, 1e-300, 5e-324])
def test_numbers_at_the_edges_of_floats(scale: float, size: int) -> None:
    """Nothing overflows on the way to a number that is none, nor becomes zero: the widest range has a middle."""
    found = measure(pieces(of(-scale, scale, -scale, scale), size))
    assert (found.minimum, found.maximum) == (-scale, scale)
    assert found.mean == pytest.approx(0.0, abs=scale * 1e-15)
    assert found.std == pytest.approx(scale, rel=1e-12)
    assert found.norm == (pytest.approx(2 * scale) if scale < LARGEST else math.inf)
    assert found.histogram == (2, *[0] * (BINS - 2), 2)
    same = measure(pieces(of(scale, scale, scale), size))
    assert (same.mean, same.minimum, same.maximum) == (pytest.approx(scale, rel=1e-15), scale, scale)
    assert same.std == pytest.approx(0.0, abs=scale * 1e-12)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(width=64) | st.floats(-4, 4) | st.just(0.0), max_size=60),
    st.integers(1, 70),
    st.integers(1, 70),
)
def test_the_size_of_pieces_does_not_matter(values: list[float], one: int, other: int) -> None:
    """In pieces of any two sizes, counts are the same and numbers agree."""
    a, b = (measure(pieces(of(*values), size)) for size in (one, other))
    assert (a.count, a.minimum, a.maximum, a.nan, a.inf, a.zero, a.histogram) == (
        *(b.count, b.minimum, b.maximum, b.nan, b.inf, b.zero, b.histogram),
    )
    assert sum(a.histogram) == a.count - a.nan - a.inf
    if a.minimum is None or a.maximum is None or a.mean is None:
        assert b.mean is None
        return
    span = max(abs(a.minimum), abs(a.maximum))
    assert a.minimum <= a.mean <= a.maximum
    assert a.mean == pytest.approx(b.mean, abs=1e-12 * span)
    assert a.std == pytest.approx(b.std, abs=1e-7 * span)
    assert a.norm == pytest.approx(b.norm, rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(width=32), st.floats(width=32)) | st.just((1.0, 1.0)), max_size=40),
    st.integers(1, 50),
    st.integers(1, 50),
)
def test_measures_do_not_depend_on_pieces(pairs: list[tuple[float, float]], one: int, other: int) -> None:
    """How far two tensors are apart is told the same in pieces of any two sizes."""
    a, b = of(*[pair[0] for pair in pairs]), of(*[pair[1] for pair in pairs])
    x, y = (compare(pieces(a, size), pieces(b, size), atol=0.5) for size in (one, other))
    assert (x.is_same, x.is_close, x.max_abs, x.not_finite) == (y.is_same, y.is_close, y.max_abs, y.not_finite)
    assert x.mean_abs == pytest.approx(y.mean_abs, rel=1e-9)
    assert x.relative_norm == pytest.approx(y.relative_norm, rel=1e-9)
    assert (x.cosine is None) == (y.cosine is None)
    assert x.cosine is None or x.cosine == pytest.approx(y.cosine, abs=1e-9)
    assert x.is_same == bool(((a == b) | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS, *FLOATS, *COMPLEX], ids=str)
def test_measures_agree_with_numpy(dtype: torch.dtype) -> None:
    """The distance of two tensors is that of numpy, in float64."""
    a, b = random(dtype), random(dtype)
    kind = torch.complex128 if dtype in COMPLEX else torch.float64
    x, y = ((t.to(torch.float32) if dtype.itemsize == 1 else t).to(kind).numpy() for t in (a, b))
    found = compare(pieces(a, 100), pieces(b, 100))
    assert not found.is_same
    assert found.max_abs == np.abs(y - x).max()
    assert found.mean_abs == pytest.approx(np.abs(y - x).mean())
    assert found.relative_norm == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x))
    assert found.cosine == pytest.approx(np.vdot(x, y).real / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-12)
    assert compare(pieces(a, 100), pieces(a.clone(), 100)).is_same


SAME = Measures(True, True, 0.0, 0.0, 0.0, 0, None)


@pytest.mark.parametrize(
    ("a", "b", "is_same"),
    [
        (of(math.nan, 1), of(math.nan, 1), True),
        (of(-0.0, 1), of(0.0, 1), True),
        (of(math.inf, 1), of(math.inf, 1), True),
        (of(math.inf, 1), of(-math.inf, 1), False),
        (of(math.nan, 1), of(1, 1), False),
        (torch.tensor([2**53]), torch.tensor([2**53 + 1]), False),
        (torch.tensor([2**63 - 1]), torch.tensor([2**63 - 2]), False),
        (torch.tensor([2**64 - 1], dtype=torch.uint64), torch.tensor([2**64 - 2], dtype=torch.uint64), False),
        (of(1, 2, dtype=torch.float16), of(1, 2), True),
        (torch.tensor([1, 2]), of(1, 2), True),
    ],
)
def test_what_counts_as_the_same(a: torch.Tensor, b: torch.Tensor, is_same: bool) -> None:
    """NaN is NaN, minus zero is zero, and integers are told apart where floats are not."""
    found = compare(pieces(a), pieces(b)), compare(pieces(b), pieces(a))
    assert [item.is_same for item in found] == [is_same] * 2
    assert [item.is_close for item in found] == [is_same] * 2


def test_not_finite_elements_that_differ_are_counted() -> None:
    """They are left out of all distances, and are close to nothing."""
    a, b = of(math.nan, 1, math.inf, 2, math.nan), of(math.nan, 1.5, 3, 2, 7)
    found = compare(pieces(a), pieces(b), atol=100)
    assert (found.not_finite, found.max_abs, found.mean_abs) == (2, 0.5, 0.25)
    assert not found.is_close


@pytest.mark.parametrize(
    ("atol", "rtol", "is_close"), [(0.0, 0.0, False), (0.5, 0, True), (0.4, 0, False), (0, 0.25, True), (0, 0.2, False)]
)
def test_tolerances(atol: float, rtol: float, is_close: bool) -> None:
    """An element is close within ``atol + rtol * |a|``, and one that is not is enough."""
    assert compare(pieces(of(2, 0)), pieces(of(2.5, 0)), atol=atol, rtol=rtol).is_close == is_close


@pytest.mark.parametrize("scale", [LARGEST, 1e200, 1.0, 1e-200, 1e-320])
def test_distances_at_the_edges_of_floats(scale: float) -> None:
    """A distance of very large or small numbers is neither an error nor no number."""
    a, b = of(scale, scale), of(scale, scale) / 2
    found = compare(pieces(a, 1), pieces(b, 1))
    assert (found.max_abs, found.mean_abs) == (pytest.approx(scale / 2), pytest.approx(scale / 2))
    assert found.relative_norm == (pytest.approx(0.5) if scale < LARGEST else math.inf)
    assert not any(math.isnan(number) for number in (found.max_abs, found.mean_abs, found.relative_norm))
    apart = compare(pieces(of(scale)), pieces(of(-scale)))
    assert apart.max_abs == 2 * scale
    assert apart.relative_norm == (2.0 if scale < LARGEST else math.inf)


def test_against_zeros() -> None:
    """What is relative to nothing is infinite, or nothing, and has no angle."""
    found = compare(pieces(of(0, 0)), pieces(of(0, 1)))
    assert (found.relative_norm, found.cosine) == (math.inf, None)
    assert compare(pieces(of(0, 0)), pieces(of(0, 0))) == SAME
    assert compare(pieces(of()), pieces(of())) == SAME


# ------------------------------------------------------------------------------------------------ of saves


def opened(tmp_path: Path, value: Any, **options: Any) -> flambe_save.OpenSave:
    """Save a tensor, with one beside it, and open the save."""
    save_state_to_file(State({"other": torch.ones(3), "value": value}), tmp_path / "s", **options)
    suffix = (".pkl" if options.get("pickle_only") else "") + (".tar.gz" if options.get("compress") else "")
    return flambe_save.open(tmp_path / f"s{suffix}")


@pytest.mark.parametrize("options", [{}, {"compress": True}, {"pickle_only": True}], ids=str)
@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(2.5),
        torch.empty(0, 4),
        torch.arange(12.0).reshape(3, 4).t(),
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.ones(1).expand(5),
        torch.arange(10.0)[2:7],
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.randn(8, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=["scalar", "empty", "transposed", "permuted", "expanded", "view", "conjugate", "channels-last", "parameter"],
)
def test_of_any_layout(tensor: torch.Tensor, options: dict[str, Any], tmp_path: Path) -> None:
    """How a tensor lies in memory makes no difference to its numbers, nor to the order of its elements."""
    with opened(tmp_path, tensor, **options) as save:
        found = save.statistics("value")
        rows = [*save.pieces("value", 5)]
    flat = tensor.detach().resolve_conj().reshape(-1)
    assert all(len(row) <= 5 for row in rows)
    assert torch.equal(torch.cat(rows) if rows else flat[:0], flat)
    expected = measure(pieces(flat))
    assert found == expected


@pytest.mark.parametrize("options", [{}, {"compress": True}, {"pickle_only": True}], ids=str)
def test_of_quantized_tensors(options: dict[str, Any], tmp_path: Path) -> None:
    """A quantized tensor is looked at as the numbers that it stands for, and hides no tensor beside it."""
    tensor = torch.quantize_per_tensor(torch.randn(30), 0.1, 2, torch.qint8)
    with opened(tmp_path, tensor, **options) as save:
        assert save.statistics("value") == measure(pieces(tensor.dequantize()))
        assert torch.equal(save.state["value"].int_repr(), tensor.int_repr())
        assert torch.equal(save.state["other"], torch.ones(3))
        assert save.tensors["value"][:2] == ("qint8", (30,))


@pytest.mark.parametrize("options", [{}, {"compress": True}, {"pickle_only": True}], ids=str)
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_sparse_csc"])
def test_sparse_tensors_have_none(layout: str, options: dict[str, Any], tmp_path: Path) -> None:
    """A sparse tensor's elements are not in a row; it is read, and so is what is beside it."""
    tensor = getattr(torch.eye(3), layout)()
    with opened(tmp_path, tensor, **options) as save:
        for asked in (save.statistics, lambda name: save.pieces(name, 3)):
            with pytest.raises(TypeError, match="value"):
                asked("value")
        assert torch.equal(save.state["value"].to_dense(), torch.eye(3))
        assert save.tensors["value"][:3] == ("float32", (3, 3), None)
        assert save.statistics("other").mean == 1.0


@pytest.mark.parametrize("options", [{}, {"pickle_only": True}], ids=str)
def test_types_that_torch_does_not_count_in(options: dict[str, Any], tmp_path: Path) -> None:
    """A tensor without elements, or of a type without arithmetic, is a TypeError."""
    with opened(tmp_path, torch.empty(3, device="meta"), **options) as save, pytest.raises(TypeError, match="meta"):
        save.statistics("value")
    packed = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with opened(tmp_path, packed, overwrite=True, **options) as save, pytest.raises(TypeError, match="float4"):
        save.statistics("value")


def test_unknown_names(tmp_path: Path) -> None:
    """A name that is no tensor's is a KeyError at once."""
    with opened(tmp_path, [1, 2]) as save:
        for name in ("value", "none", ""):
            for asked in (save.statistics, lambda name: save.pieces(name, 3)):
                with pytest.raises(KeyError):
                    asked(name)
        assert list(save.tensors) == ["other"]


def test_a_large_tensor_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics look at pieces, also where a tensor is the whole file, and tell of every byte once."""
    monkeypatch.setattr("flambe_save.inspection.statistics.PIECE", 1 << 14)
    told: list[int] = []
    sizes: list[int] = []
    whole = statistics._real

    def noting(piece: Array) -> Array:
        sizes.append(len(piece))
        return whole(piece)

    monkeypatch.setattr(statistics, "_real", noting)
    with opened(tmp_path, torch.arange(1 << 20, dtype=torch.float32)) as save:
        tracemalloc.start()
        try:
            found = save.statistics("value", advance=told.append)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert found.mean == pytest.approx(((1 << 20) - 1) / 2)
    assert sum(told) == 4 << 20
    assert max(sizes) == 1 << 14
    assert peak < 1 << 20


def test_a_piece_that_is_equal_counts_finite_elements_alone() -> None:
    """NaN where both have it is no element that is zero apart, in whatever piece it is."""
    a, b = of(math.nan, math.nan, 1, 2), of(math.nan, math.nan, 1, 3)
    assert [compare(pieces(a, size), pieces(b, size)).mean_abs for size in (1, 2, 4)] == [0.5] * 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, *[item for item in FLOATS if item.itemsize == 1]], ids=str)
def test_every_number_of_a_small_type_is_torchs(dtype: torch.dtype) -> None:
    """What numpy does not know is widened to just the number that torch makes of it."""
    kind = torch.uint8 if dtype.itemsize == 1 else torch.int16
    every = torch.arange(1 << 8 * dtype.itemsize).to(kind).view(dtype)
    found = decode(every.view(torch.uint8).numpy(), str(dtype).removeprefix("torch."))
    assert np.array_equal(found.view(np.uint32), every.to(torch.float32).numpy().view(np.uint32))


@pytest.mark.parametrize(
    ("shape", "stride", "is_damaged"),
    [((2, 2), (2, 2), True), ((4,), (2,), True), ((1, 4), (2**60, 1), False), ((0, 4), (2**62, 2**62), False)],
)
def test_a_dense_tensor_stays_within_its_storage(
    shape: tuple[int, ...], stride: tuple[int, ...], is_damaged: bool
) -> None:
    """Steps that would lead to other memory are damage; those of an axis that has no second element lead nowhere."""
    draft = CODECS["pt"].dump(State(w=torch.ones(shape)), DumpOptions())
    source = MemorySource(bytearray(bytes(draft)))
    records = Records(source, LoadOptions())
    tensor = PlainTensor("float32", "0", "cpu", shape, stride)
    dense = DenseFile(source, records, {"w": tensor}, is_verified=True)
    if is_damaged:
        with pytest.raises(CorruptSaveError, match="reaches past its storage"):
            dense.elements("w", 10)
    else:
        assert sum(map(len, dense.elements("w", 10))) == math.prod(shape)
