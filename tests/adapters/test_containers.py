"""Containers, values and arrays as they are: types, identity and cycles, in every shape of a save."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import os
import pathlib
import re
import textwrap
import types
import uuid
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from other_process import run_program
from torch import nn

from flambe_save import (
    Component,
    NeedsTrustWarning,
    StateMismatchError,
    UnsupportedObjectError,
    UntrustedError,
    load,
    load_state,
    load_state_from_file,
    save,
    untrusted,
    verify,
)
from flambe_save.testing.codec import same

SHAPES = [{}, {"compress": True}, {"pickle_only": True}, {"pickle_only": True, "compress": True}]


class Color(enum.Enum):
    """Two colours; the second's value is no number."""

    RED = 1
    BLUE = "b"


class Access(enum.Flag):
    """Flags that combine."""

    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Plain:
    """Counts its constructions, so that a load that runs one is seen."""

    x: Any
    y: Any = None
    made: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        Plain.constructed += 1


Plain.constructed = 0  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True, order=True)
class Frozen:
    """Can be a key."""

    x: int
    name: str = "a"


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    """Has no __dict__."""

    x: Any
    y: Any = dataclasses.field(default_factory=list)


class Point(NamedTuple):
    """A named tuple with a default."""

    x: Any
    y: Any = 0


def halve(value: float) -> float:
    """Return half of a number."""
    return value / 2


VALUES: dict[str, Any] = {
    "list": [1, [2.5, None], "three"],
    "tuple": (1, (2, [3]), ()),
    "named tuple": Point(1, Point(2)),
    "dict of any keys": {1: "a", (2, "b"): "c", Frozen(3): "d", Color.RED: "e", None: "f", 1.5: "g", b"h": "i"},
    "ordered dict": collections.OrderedDict([("b", 1), ("a", 2)]),
    "ordered dict of any keys": collections.OrderedDict([(Frozen(1), 1), (Frozen(0), 2)]),
    "default dict": collections.defaultdict(list, {"a": [1]}),
    "default dict without a factory": collections.defaultdict(None, {1: 2}),
    "counter": collections.Counter("abca"),
    "deque": collections.deque([1, 2, 3], maxlen=3),
    "set": {1, "a", (2, 3)},
    "set of enum members": {Color.RED, Color.BLUE},
    "frozen set of dataclasses": frozenset([Frozen(1), Frozen(2)]),
    "enum": [Color.RED, Color.BLUE, Access.READ, Access.READ | Access.WRITE, Access(0)],
    "dataclass": Plain(1, Plain("a")),
    "frozen dataclass": Frozen(1, "b"),
    "slotted dataclass": Slotted(Slotted(1), [2]),
    "namespace": types.SimpleNamespace(a=1, b=[2]),
    "path": [pathlib.Path("a/b"), pathlib.PurePosixPath("/c")],
    "times": [
        datetime.datetime(2020, 1, 2, 3, 4, 5, 6, datetime.timezone.utc),
        datetime.date(2020, 1, 2),
        datetime.timedelta(1, 2, 3),
        datetime.time(1, 2),
    ],
    "numbers": [decimal.Decimal("1.10"), fractions.Fraction(1, 3), 1 + 2j, 10**40, True, -0.0, 1e-300],
    "uuid": uuid.UUID(int=5),
    "pattern": re.compile(r"a+\n", re.IGNORECASE),
    "texts": ["", "a\nb", "null", "1", "%", b"\x00\xff", "é\u2028"],
    "torch values": [torch.float16, torch.device("cpu"), torch.Size([1, 2]), torch.Size([])],
    "ranges": [range(3), slice(1, None, 2)],
    "function of torch": [torch.nn.functional.relu, torch.nn.functional.gelu, torch.tanh],
    "partial": functools.partial(torch.nn.functional.gelu, approximate="tanh"),
    "class of torch": [nn.Linear, list, dict],
    "numpy scalars": [np.float32(1.5), np.int64(3), np.bool_(True), np.datetime64("2020-01-01")],
}


def exactly(value: Any) -> Any:
    """Return what a value is, types and order included, in a form that == compares."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return type(value), str(value.dtype), tuple(value.shape), value.tolist()
    if isinstance(value, functools.partial):
        return "partial", value.func, exactly(list(value.args)), exactly(value.keywords)
    if isinstance(value, dict):
        more = getattr(value, "default_factory", "none")
        return type(value), more, [(exactly(key), exactly(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, collections.deque)):
        return type(value), getattr(value, "maxlen", None), [exactly(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, map(exactly, value)))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value), [exactly(getattr(value, field.name)) for field in dataclasses.fields(value)]
    return type(value), repr(value), value


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_they_are(name: str, tmp_path: Path) -> None:
    """As the root, and inside lists and dicts, with the same types, and no trust and no constructor for them."""
    value = VALUES[name]
    before = Plain.constructed  # type: ignore[attr-defined]
    assert exactly(load(save(value, tmp_path / "alone"))) == exactly(value)
    path = save({"a": [value, 1], "b": (value,)}, tmp_path / "inside")
    again = load(path)
    assert exactly(again) == exactly({"a": [value, 1], "b": (value,)})
    assert untrusted(path) == []
    assert Plain.constructed == before  # type: ignore[attr-defined]


@pytest.mark.parametrize("flags", SHAPES, ids=str)
def test_all_of_it_at_once(flags: dict[str, bool], tmp_path: Path) -> None:
    """Every kind of value in one dict, in each shape of a save."""
    path = save(VALUES, tmp_path / "all", **flags)
    assert exactly(load(path)) == exactly(VALUES)
    assert verify(path) == []


def test_two_saves_of_one_object_are_equal_files(tmp_path: Path) -> None:
    """Sets, counters and stashes are written in an order of their own."""
    folders = [Path(save(VALUES, tmp_path / name)) for name in "ab"]
    files = [{str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.*")} for root in folders]
    assert files[0] == files[1]


_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from(Color),
    st.builds(Frozen, st.integers(0, 9), st.text(max_size=2)),
    st.lists(st.floats(-9, 9, width=32), max_size=3).map(torch.tensor),
    st.lists(st.integers(-9, 9), max_size=3).map(lambda items: np.array(items, dtype="i4")),
)
_keys = st.one_of(st.text(max_size=3), st.integers(-3, 3), st.sampled_from(Color), st.builds(Frozen, st.integers(0, 2)))
_nested = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.dictionaries(_keys, inner, max_size=3),
        st.builds(Plain, inner, inner),
        st.builds(Slotted, inner),
        st.builds(Point, inner, inner),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=_nested)
def test_any_nesting(value: Any, tmp_path: Path) -> None:
    """Random values in random containers come back, but for keys that read alike, which are refused."""
    try:
        path = save(value, tmp_path / "run", overwrite=True)
    except UnsupportedObjectError as error:
        path = ""
        reason = str(error)
    assert exactly(load(path)) == exactly(value) if path else "read alike" in reason


def test_another_process_needs_the_classes_imported(tmp_path: Path) -> None:
    """What is made of parts loads where its module is imported; elsewhere the error says what to import."""
    (tmp_path / "kinds_of_mine.py").write_text(
        textwrap.dedent(
            """
            import dataclasses, enum
            @dataclasses.dataclass
            class Options:
                size: int
                mode: object = None
                def __post_init__(self): raise SystemExit("it was run")
            class Mode(enum.Enum):
                FAST = "f"
            """
        )
    )
    code = "import sys; sys.path.insert(0, '.'); import flambe_save; {}"
    made = "import kinds_of_mine as k; o = object.__new__(k.Options); o.__dict__.update(size=3, mode=k.Mode.FAST); "
    steps = [
        made + "flambe_save.save([o], 'run')",
        "import kinds_of_mine; print(flambe_save.load('run'))",
        "print(flambe_save.load('run', trusted=['kinds_of_mine']))",
        "print(flambe_save.load('run'))",
    ]
    results = [run_program(code.format(step), folder=tmp_path) for step in steps]
    shown = "[Options(size=3, mode=<Mode.FAST: 'f'>)]\n"
    assert [result.stdout for result in results] == ["", shown, shown, ""], results
    assert "import kinds_of_mine" in results[3].stderr


def test_a_class_may_gain_and_lose_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new field has its default; one that is gone is an attribute still, and an error where there can be none."""

    def become(*fields: Any, **options: Any) -> Any:
        made = dataclasses.make_dataclass("Changing", fields, **options)
        made.__module__ = __name__
        monkeypatch.setitem(globals(), "Changing", made)
        return made

    path = save([become(("x", int), ("old", int, 1))(1, 2)], tmp_path / "run")
    become(("x", int), ("new", list, dataclasses.field(default_factory=list)))
    (again,) = load(path)
    assert (again.x, again.new, again.old) == (1, [], 2)
    become(("x", int), slots=True)
    with pytest.raises(Exception, match=r"(?s)no field 'old'.*may have changed"):
        load(path)


# ------------------------------------------------------------------------------------------------ arrays


def quantized() -> torch.Tensor:
    """Return a quantized tensor; torch says that these are to go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.randn(3), 0.1, 2, torch.qint8)


TENSORS: dict[str, Any] = {
    "scalar": torch.tensor(1.5),
    "empty": torch.empty(0, 3),
    "integers": torch.arange(6).reshape(2, 3),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "bool": torch.tensor([True, False]),
    "complex": torch.randn(2, dtype=torch.complex64),
    "float8": torch.ones(2).to(torch.float8_e4m3fn),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "parameter": nn.Parameter(torch.ones(2)),
    "frozen parameter": nn.Parameter(torch.ones(2), requires_grad=False),
    "needs gradients": torch.ones(2, requires_grad=True),
    "conjugate view": torch.randn(2, dtype=torch.complex64).conj(),
    "negative view": torch.randn(2, dtype=torch.complex64).conj().imag,
    "sparse": torch.eye(3).to_sparse(),
    "sparse blocks": torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (2,), check_invariants=True),
    "quantized": quantized(),
    "meta": torch.empty(2, 3, device="meta"),
}
ARRAYS: dict[str, Any] = {
    "array": np.arange(6).reshape(2, 3),
    "0-d": np.array(1.5),
    "structured": np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "text": np.array(["a", "bc"]),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "times": np.array(["2020-01-01"], dtype="M8[D]"),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("flags", [{}, {"pickle_only": True}], ids=str)
def test_tensors(name: str, flags: dict[str, bool], tmp_path: Path) -> None:
    """A tensor of any type and layout, alone and in containers, is the same without trust."""
    tensor = TENSORS[name]
    path = save({"a": [tensor], "b": tensor}, tmp_path / "run", **flags)
    device = "meta" if tensor.is_meta else None
    again = load(path, device)["a"][0]
    assert type(again) is type(tensor)
    assert (again.dtype, again.shape, again.layout, again.requires_grad, again.device) == (
        *(tensor.dtype, tensor.shape, tensor.layout, tensor.requires_grad, tensor.device),
    )
    if not tensor.is_meta:
        dense = [value.dequantize() if value.is_quantized else value.to_dense() for value in (again, tensor)]
        assert torch.equal(*(value.detach().resolve_conj().resolve_neg().to(torch.complex128) for value in dense))
    assert load(path, device)["b"] is not again
    alone = load(save(tensor, tmp_path / "alone", **flags), device)
    assert (alone.dtype, alone.shape) == (tensor.dtype, tensor.shape)


def test_nested_tensors_need_trust(tmp_path: Path) -> None:
    """What torch pickles by functions of its own is kept, and refused by name where it is not trusted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nested tensors are a prototype
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.warns(NeedsTrustWarning, match="nested"):
        path = save({"a": nested}, tmp_path / "run")
    with pytest.raises(UntrustedError, match="nested"):
        load(path)
    assert [item.tolist() for item in load(path, weights_only=False)["a"].unbind()] == [[1, 1], [1, 1, 1]]


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name: str, tmp_path: Path) -> None:
    """A numpy array of any type is the same, in memory order too, and lies in the state."""
    array = ARRAYS[name]
    path = save({"a": array}, tmp_path / "run")
    again = load(path)["a"]
    assert (again.dtype, again.shape, again.flags.f_contiguous) == (array.dtype, array.shape, array.flags.f_contiguous)
    assert np.array_equal(again, array)
    assert list(load_state_from_file(path)) == ["a"]


def test_a_view_is_small_on_disk(tmp_path: Path) -> None:
    """Of a view, its own bytes are written; the state lists it under its name."""
    path = Path(save({"row": torch.zeros(1000, 1000)[3]}, tmp_path / "run"))
    assert (path / "state.pt").stat().st_size < 10_000
    assert list(load_state_from_file(path)) == ["row"]


def test_a_state_fills_containers(tmp_path: Path) -> None:
    """Tensors and arrays that are there are filled in place; one of another shape is an error that names it."""
    path = save({"a": torch.ones(2), "b": [np.ones(3)], "c": 1}, tmp_path / "run")
    here = {"a": torch.zeros(2), "b": [np.zeros(3)], "c": 0}
    tensor, array = here["a"], here["b"][0]  # type: ignore[index]
    load_state(here, path)
    assert (tensor.tolist(), array.tolist(), here["c"]) == ([1, 1], [1, 1, 1], 1)  # type: ignore[attr-defined]
    with pytest.raises(StateMismatchError, match=r"size mismatch for a: \(2,\) in the save, \(3,\) here"):
        load_state({"a": torch.zeros(3), "b": [np.zeros(3)]}, path)
    with pytest.raises(StateMismatchError, match="missing"):
        load_state({"a": torch.zeros(2), "b": [np.zeros(3)], "d": torch.zeros(1)}, path)


# ------------------------------------------------------------------------------------------------ identity


def test_one_object_stays_one(tmp_path: Path) -> None:
    """A tensor, list, dataclass or module in two places is one object in two places."""
    tensor, items, record, layer = torch.ones(2), [1], Plain(1), nn.Linear(2, 2)
    value = {"a": [tensor, items, record, layer], "b": (layer, record, items, tensor), "weight": layer.weight}
    again = load(save(value, tmp_path / "run"))
    assert all(one is other for one, other in zip(again["a"], reversed(again["b"]), strict=True))
    assert again["weight"] is again["a"][3].weight
    again["a"][3].weight.data.fill_(7)
    assert again["b"][0].weight.unique().tolist() == [7]


def test_ties_across_modules(tmp_path: Path) -> None:
    """A parameter that two modules share is one parameter, and trains as one."""
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = one.weight
    again = load(save({"one": one, "other": [other]}, tmp_path / "run"))
    assert again["one"].weight is again["other"][0].weight


def test_cycles(tmp_path: Path) -> None:
    """Containers inside themselves, through lists, dicts and frozen dataclasses."""
    value: dict[str, Any] = {"list": [1], "record": Slotted(None), "tensor": torch.ones(1)}
    value["self"] = value
    value["list"].append(value["list"])
    object.__setattr__(value["record"], "x", {"up": value["record"], "top": [value]})
    for flags in SHAPES:
        again = load(save(value, tmp_path / "run", overwrite=True, **flags))
        assert again["self"] is again
        assert again["list"][1] is again["list"]
        assert again["record"].x["up"] is again["record"]
        assert again["record"].x["top"][0] is again


@dataclasses.dataclass
class Card:
    """A record of a model, which can be indexed: that is more than its fields."""

    name: str = "card"
    model: Any = None
    notes: list[Any] = dataclasses.field(default_factory=list)

    def __getitem__(self, key: str) -> Any:
        raise AssertionError("it was looked into")

    def __len__(self) -> int:
        raise AssertionError("it was measured")


@dataclasses.dataclass
class Acting(Card):
    """Has a function where its class has one too."""

    act: Any = torch.tanh


@pytest.mark.filterwarnings("ignore::flambe_save.NeedsTrustWarning")
@pytest.mark.parametrize("flags", SHAPES, ids=str)
def test_a_record_that_does_more_is_kept_as_its_attributes(tmp_path: Path, flags: dict[str, bool]) -> None:
    """It is no pickle: it refers to what the save has, to the model around it too; nothing of it runs."""
    model = nn.Linear(2, 2)
    model.card = Card(model=model, notes=[torch.ones(2)])
    model.card.more = 1  # type: ignore[attr-defined]
    path = save({"model": model, "card": model.card}, tmp_path / "run", **flags)
    assert untrusted(path) == []
    again = load(path)
    assert again["card"] is again["model"].card
    assert again["card"].model is again["model"]
    assert torch.equal(again["card"].notes[0], torch.ones(2))
    assert vars(again["card"]).keys() == vars(model.card).keys()
    other = {"model": nn.Linear(2, 2), "card": Card("other", notes=[torch.zeros(2)])}
    load_state(other, path)
    assert other["card"].name == "card"
    assert torch.equal(other["card"].notes[0], torch.ones(2))


@pytest.mark.filterwarnings("ignore::flambe_save.NeedsTrustWarning")
def test_a_record_that_does_more_and_holds_what_is_no_data_is_pickled(tmp_path: Path) -> None:
    """A function in the place of one of its class's is no attribute that a load sets."""
    again = load(save({"card": Acting(act=torch.relu)}, tmp_path / "run"), weights_only=False)
    assert again["card"].act is torch.relu


class Measureless(tuple[int, ...]):
    """A tuple that cannot be asked for its length, nor gone through."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Any:
        raise NotImplementedError


@pytest.mark.filterwarnings("ignore::flambe_save.NeedsTrustWarning")
def test_containers_of_other_classes_are_not_asked(tmp_path: Path) -> None:
    """A load looks for tensors in them without their code."""
    made = Measureless((1, 2))
    assert tuple.__len__(load(save({"x": made}, tmp_path / "run"), weights_only=False)["x"]) == 2


def test_a_cycle_through_a_tuple_is_refused(tmp_path: Path) -> None:
    """A tuple cannot be filled once it is there; the error names the place and nothing is left."""
    items: list[Any] = [1]
    items.append({"a": (2, items)})
    with pytest.raises(UnsupportedObjectError, match=r"\[1\]\.a\[1\] is a list inside itself"):
        save(items, tmp_path / "run")
    assert os.listdir(tmp_path) == []


class Holder(Component):
    """Keeps what it is given."""

    def __init__(self, value: Any = None) -> None:
        self.value = value


def test_components_inside_containers(tmp_path: Path) -> None:
    """They have folders of their own, and load alone; values are arguments as before."""
    value = {"a": Holder({Color.RED: Plain(Frozen(1))}), "b": [nn.Linear(2, 2), Holder(halve)]}
    with pytest.warns(NeedsTrustWarning, match=r"halve"):
        path = save(value, tmp_path / "run")
    assert exactly(load(path, node="a").value) == exactly({Color.RED: Plain(Frozen(1))})
    assert same(load(Path(path) / "b.0").state_dict(), value["b"][0].state_dict())
    with pytest.raises(UntrustedError, match=r"halve"):
        load(path)
    assert load(path, trusted=[__name__])["b"][1].value is halve


def test_what_has_no_name(tmp_path: Path) -> None:
    """A module among a set's items or a dict's keys is refused: its state would be nowhere."""
    for value in ({nn.Linear(1, 1)}, {nn.Linear(1, 1): 1}):
        with pytest.raises(UnsupportedObjectError, match=r"Linear is among a (set|dict)"):
            save([value], tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_lambdas_go_to_the_stash_with_a_warning(tmp_path: Path) -> None:
    """A function without a name is pickled; the warning says where it is."""
    with pytest.warns(NeedsTrustWarning, match=r"stash\.pkl: a\.b\[1\] is a builtins\.function"):
        path = save({"a": {"b": [1, lambda value: value + 1]}}, tmp_path / "run")
    with pytest.raises(UntrustedError):
        load(path)
    assert load(path, weights_only=False)["a"]["b"][1](1) == 2


def ring() -> list[Any]:
    """Return dataclasses that lead to each other."""
    nodes = [Plain(index) for index in range(3)]
    for one, other in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
        one.y = other
    return nodes


def two_places() -> dict[str, Any]:
    """Return a cycle that is entered at two places."""
    one: dict[str, Any] = {}
    other: dict[str, Any] = {"one": one}
    one["other"] = other
    return {"a": [one], "b": [other]}


@pytest.mark.parametrize("flags", SHAPES, ids=str)
def test_cycles_that_are_entered_twice(flags: dict[str, bool], tmp_path: Path) -> None:
    """A ring of objects in a list, and a cycle of dicts in two lists."""
    again = load(save({"ring": ring(), **two_places()}, tmp_path / "run", **flags))
    assert [node.y for node in again["ring"]] == [*again["ring"][1:], again["ring"][0]]
    assert again["ring"][0].y.y.y is again["ring"][0]
    assert again["a"][0]["other"] is again["b"][0]
    assert again["b"][0]["one"] is again["a"][0]


@pytest.mark.parametrize(
    "hold",
    [
        Plain,
        Point,
        lambda item: functools.partial(torch.nn.functional.gelu, item),
        lambda item: types.SimpleNamespace(x=item),
        lambda item: collections.deque([item]),
        lambda item: collections.defaultdict(list, {"a": item}),
        lambda item: {(0, 1): item},
        lambda item: (1, item),
    ],
    ids=["dataclass", "named tuple", "partial", "namespace", "deque", "defaultdict", "tuple key", "tuple"],
)
def test_what_two_kinds_hold_is_one(hold: Any, tmp_path: Path) -> None:
    """A list inside an object and beside it is one list; and so is the object that is in two places."""
    items = [1]
    held = hold(items)
    again = load(save([held, held, items], tmp_path / "run"))
    assert again[0] is again[1]
    again[2].append(2)
    (inside,) = [value for value in _parts(again[0]) if isinstance(value, list)]
    assert inside == [1, 2]


def _parts(value: Any) -> list[Any]:
    if isinstance(value, functools.partial):
        return list(value.args)
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (tuple, collections.deque)) else list(vars(value).values())


def test_long_data_is_pickled_without_trust(tmp_path: Path) -> None:
    """What nobody reads stands in the stash as data."""
    value = {"losses": [0.5] * 20_000, "words": {f"w{index}": index for index in range(20_000)}, "few": [1]}
    path = Path(save(value, tmp_path / "run"))
    assert (path / "config.yaml").stat().st_size < 200
    assert untrusted(path) == []
    assert load(path) == value
