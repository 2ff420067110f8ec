"""Structures: objects described as JSON and built again with zeros, saves by both names, and hostile structures."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import enum
import functools
import json
import math
import tempfile
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers.comparing import same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flambe_save import (
    Component,
    ConfigError,
    FlambeSaveError,
    LimitError,
    Limits,
    StateMismatchError,
    UnsupportedObjectError,
    UntrustedError,
    build_structure,
    deserialise,
    load_structure,
    registrable_factory,
    save,
    serialise,
    yaml,
)


class Colour(enum.Enum):
    """Members that are values."""

    RED = 1
    GREEN = "g"


class Point(NamedTuple):
    """A named tuple."""

    x: Any
    y: Any = 0


@dataclasses.dataclass
class Plain:
    """A dataclass with a static field, and one that no argument sets."""

    first: Any
    second: Any = dataclasses.field(default=None, metadata={"static": True})
    derived: Any = dataclasses.field(init=False, default="made")


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A dataclass that can be a key."""

    name: Any
    value: Any = 1


@dataclasses.dataclass(slots=True)
class Slotted:
    """A dataclass with slots."""

    a: Any
    b: Any = 2


class Net(Component, nn.Module):
    """A Component that is a module, with a Component and tensors among its arguments."""

    def __init__(self, size: int, part: Any = None, scale: Any = None) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.tied = nn.Linear(size, size, bias=False)
        self.part, self.scale = part, scale
        self.register_buffer("kept", torch.arange(3))

    @registrable_factory
    @classmethod
    def small(cls, part: Any = None) -> Net:
        """Return one of size 1."""
        return cls(1, part)


class Layer(Component):
    """A Component that is no module, and registers a tensor and a count."""

    def __init__(self, size: int = 2) -> None:
        self.weight, self.count = torch.ones(size), 0
        self.register_attrs("weight", "count")


def double(value: Any) -> Any:
    """A function that needs trust."""
    return 2 * value


def round_trip(obj: Any, **options: Any) -> Any:
    """Return what load_structure makes of an object's structure, having checked both round trips of that."""
    structure = build_structure(obj)
    assert json.loads(json.dumps(structure, allow_nan=False)) == structure
    made = load_structure(structure, **options)
    assert build_structure(made) == structure
    return made


# ------------------------------------------------------------------------------------------------ values

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
KEYS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(10**4000)]),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    TEXTS,
    st.binary(max_size=6),
    st.sampled_from([*Colour, Path("a/b"), torch.float16, torch.device("cuda:1"), torch.Size([2, 3]), int, nn.Linear]),
    st.datetimes(timezones=st.sampled_from([None, datetime.timezone.utc])).map(lambda time: time.replace(fold=0)),
    st.dates(),
)
LEAVES = st.one_of(
    KEYS,
    st.floats(),
    st.sampled_from([torch.nn.functional.relu, range(4), slice(1, None), 1e300, -0.0, datetime.timedelta(2, 3)]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.complex64]).flatmap(
        lambda dtype: st.lists(st.integers(0, 3), max_size=3).map(lambda shape: torch.zeros(shape, dtype=dtype))
    ),
    st.lists(st.integers(0, 3), max_size=2).map(lambda shape: nn.Parameter(torch.zeros(shape))),
    st.sampled_from(["<f8", "<i2", "<M8[3ns]", "S3", "<U2", "?", "c8"]).flatmap(
        lambda dtype: st.lists(st.integers(0, 3), max_size=2).map(lambda shape: np.zeros(shape, dtype))
    ),
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.one_of(KEYS, st.tuples(KEYS, KEYS), st.frozensets(KEYS, max_size=2), st.builds(Frozen, KEYS))
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(TEXTS, inner, max_size=4),
        st.dictionaries(st.one_of(TEXTS, keys), inner, max_size=3),
        st.dictionaries(st.one_of(TEXTS, keys), inner, max_size=3).map(OrderedDict),
        st.lists(inner, max_size=3).map(lambda items: collections.deque(items, 5)),
        st.sets(KEYS, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Plain, inner, inner),
        st.builds(Frozen, inner),
        st.builds(Slotted, inner, inner),
        inner.map(lambda value: [value, value]),
    )


def _names_clash(value: Any) -> bool:
    """Whether an error says that keys of a dict read alike, which no save keeps apart."""
    try:
        build_structure(value)
    except UnsupportedObjectError as error:
        return "two objects have the key" in error.message
    return False


@settings(max_examples=150, deadline=None)
@given(st.recursive(LEAVES, _containers, max_leaves=10))
def test_any_nested_value_comes_back(value: Any) -> None:
    """Values of all kinds, whose arrays are zeros, come back from their structures and from a save, exactly."""
    if _names_clash(value):
        return
    assert same(round_trip(value), value)
    with tempfile.TemporaryDirectory() as folder:
        assert same(deserialise(serialise(Path(folder, "s"), [value])), [value])


@pytest.mark.parametrize(
    ("value", "written"),
    [(math.nan, ".nan"), (-math.inf, "-.inf"), (-0.0, -0.0), (10**30, "1" + 30 * "0"), (b"\0", "AA=="), (True, True)],
)
def test_values_that_json_lacks_are_texts(value: Any, written: Any) -> None:
    """What JSON does not hold exactly is the text that a config has for it."""
    entry = build_structure(value)
    assert entry["type"] == f"builtins.{type(value).__name__}"
    assert same(entry["value"], written)


def test_a_structure_is_read_by_names() -> None:
    """Children stand under their names, in order, with dotted types; arrays tell shape and dtype, and no values."""
    value = {"optics": Plain(torch.ones(2, 3)), "order": OrderedDict(b=np.eye(2), a=Colour.RED), (1, 2): None}
    structure = build_structure(value)
    assert structure["form"] == "pairs"
    optics, order = structure["node"]["value 0"], structure["node"]["value 1"]
    assert (optics["node_type"], optics["type"]) == ("container", f"{__name__}.Plain")
    assert optics["node"]["first"] == {
        "node_type": "leaf",
        "type": "torch.Tensor",
        "shape": [2, 3],
        "dtype": "torch.float32",
        "device": "cpu",
        "requires_grad": False,
    }
    assert order["node"] == {
        "b": {"node_type": "leaf", "type": "numpy.ndarray", "shape": [2, 2], "dtype": "<f8"},
        "a": {
            "node_type": "container",
            "type": f"{__name__}.Colour",
            "node": {"name": {"node_type": "leaf", "type": "builtins.str", "value": "RED"}},
        },
    }


def test_classes_and_functions_are_dotted_paths() -> None:
    """A class or a function as a value is told by where it is, whatever its tag is."""
    values = [Layer, nn.Linear, int, Colour, torch.nn.functional.relu]
    told = [entry["value"] for entry in build_structure(values)["node"].values()]
    assert told[:3] == [f"{__name__}.Layer", "torch.nn.modules.linear.Linear", "builtins.int"]
    assert told[3:] == [f"{__name__}.Colour", "torch.nn.functional.relu"]
    assert round_trip([Layer, nn.Linear, int], trusted=[__name__]) == [Layer, nn.Linear, int]


def test_what_is_shared_stays_shared() -> None:
    """The second mention of a container or an array is a reference by path, and the same object again."""
    inner, tensor = [1], torch.ones(2)
    value = {"a.b": inner, "c": (inner, tensor), "d": tensor}
    assert build_structure(value)["node"]["c"]["node"]["0"] == {"node_type": "reference", "to": "a%2Eb"}
    made = round_trip(value)
    assert made["a.b"] is made["c"][0]
    assert made["d"] is made["c"][1]


def test_byte_orders_are_kept() -> None:
    """A numpy type tells its byte order; a save brings arrays in the machine's own."""
    assert round_trip([np.zeros(2, ">i2")])[0].dtype == np.dtype(">i2")


def test_cycles_come_back() -> None:
    """Containers and dataclasses inside themselves are so again."""
    loop: list[Any] = [1]
    loop += [{"up": loop}, Plain(None)]
    loop[2].first = loop[2]
    made = round_trip(loop)
    assert made[1]["up"] is made
    assert made[2].first is made[2]


# ------------------------------------------------------------------------------------------------ what holds a state


@pytest.mark.filterwarnings("ignore:'part' holds modules that torch does not know of")
def test_modules_come_back_with_zeros() -> None:
    """Parameters and buffers have the described shapes, types and gradients' flags, ties too; all of them are zeros."""
    net = Net(2, [nn.Linear(1, 3), torch.ones(2)], torch.ones(1)).bfloat16()
    net.tied.weight = net.linear.weight
    net.linear.bias.requires_grad_(False)
    structure = build_structure(net)
    assert structure["arrays"]["tied.weight"] == {"node_type": "reference", "to": "linear.weight"}
    assert structure["arrays"]["linear.bias"]["requires_grad"] is False
    made = round_trip(net)
    assert made.tied.weight is made.linear.weight
    for name, tensor in net.state_dict(keep_vars=True).items():
        zeros = torch.zeros_like(tensor)
        zeros = nn.Parameter(zeros, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else zeros
        assert same(made.state_dict(keep_vars=True)[name], zeros)
    assert (made.part[1].tolist(), made.scale.tolist()) == ([0, 0], [0])
    assert (made.part[0].in_features, made.part[0].out_features) == (1, 3)


@pytest.mark.parametrize(
    "obj",
    [
        nn.Linear(2, 3, bias=False).double(),
        nn.Sequential(nn.LSTM(3, 4, 2, bidirectional=True), nn.BatchNorm1d(4), nn.GELU()),
        nn.TransformerEncoderLayer(4, 2),
        {1: nn.Linear(1, 1), "a.b": [Net(1), Layer()], (1, 2): collections.deque([Layer(3)])},
        [torch.Generator(), np.random.default_rng(0)],
        {"held": Layer(), "net": Net.small(Layer(3))},
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_objects_with_a_state_come_back(obj: Any) -> None:
    """Modules, components and generators, alone and in containers of any keys, give the same structure again."""
    assert type(round_trip(obj)).__qualname__ == type(obj).__qualname__  # torch makes a class for each parametrization


def test_links_and_factories_of_a_config_are_kept() -> None:
    """A link stays a link, a factory is called again, and an extensions section is kept."""
    text = f"!{__name__}.Net\nsize: 2\npart: !{__name__}.Net.small {{part: !{__name__}.Layer {{size: 3}}}}\n"
    net = yaml.load(text + "scale: !@ part[part]\n")()
    structure = build_structure(net)
    assert structure["node"]["scale"]["value"] == "part[part]"
    assert structure["node"]["part"]["tag"].endswith("Net.small")
    made = round_trip(net)
    assert made.scale is made.part.part
    assert (made.part.linear.in_features, made.scale.weight.tolist()) == (1, [0, 0, 0])
    extended = yaml.load(f"numpy: numpy>=1\n---\n{text}")()
    extended._schema._extensions = {"numpy": "numpy>=1"}
    assert build_structure(extended)["extensions"] == {"numpy": "numpy>=1"}
    assert type(load_structure(build_structure(extended))) is Net


def test_arrays_stand_where_the_state_has_them() -> None:
    """An entry's arrays are those of the state under its path."""
    structure = build_structure({"nets": [Net(1)], "odd": {2: nn.Linear(1, 1)}})
    assert "linear.weight" in structure["node"]["nets"]["node"]["0"]["arrays"]
    assert list(structure["node"]["odd"]["arrays"]) == ["2.weight", "2.bias"]
    assert "arrays" not in structure


def test_an_optimizer_is_built_on_its_model() -> None:
    """An optimizer beside its model holds that model's parameters again, and moments of the same shapes."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    made = round_trip({"model": model, "optimizer": optimizer})
    group = made["optimizer"].param_groups[0]
    assert group["params"][0] is made["model"].weight
    assert group["lr"] == 0.5
    assert made["optimizer"].state[made["model"].weight]["exp_avg"].tolist() == [[0, 0], [0, 0]]


# ------------------------------------------------------------------------------------------------ serialise


@pytest.mark.parametrize("shape", [{}, {"compress": True}, {"pickle_only": True}])
def test_serialise_is_save_in_either_order(shape: dict[str, bool], tmp_path: Path) -> None:
    """The argument that is a text or a path is the path; options are those of save and load."""
    obj = {"a": torch.arange(3), "b": [np.arange(2.0), (1, "x")], "c": Frozen(nn.Parameter(torch.ones(2)))}
    first, second = serialise(str(tmp_path / "one"), obj, **shape), serialise(obj, tmp_path / "two", **shape)
    assert same(deserialise(first), obj)
    assert same(deserialise(Path(second), map_location="cpu"), obj)


def test_serialise_refuses_what_it_cannot_tell_apart(tmp_path: Path) -> None:
    """Two paths, or none, are a TypeError that says so."""
    with pytest.raises(TypeError, match="both arguments"):
        serialise(tmp_path, "text")
    with pytest.raises(TypeError, match="neither"):
        serialise([1], {})
    with pytest.raises(TypeError):
        serialise(tmp_path / "s", [1], no_such_option=True)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------- refused when described


class Unknown(nn.Module):
    """A module that says itself what it is made of."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: {"model": {"hook": [0, lambda: 1]}}, r"model\.hook\[1\] is a builtins.function"),
        (lambda: {"a": [Unknown(1)]}, r"a\[0\] is a .*Unknown"),
        (lambda: Net(1, object()), "part is a builtins.object"),
        (lambda: [np.float32(1)], r"\[0\] is a numpy.float32"),
        (lambda: {"s": torch.eye(2).to_sparse()}, "s is a torch.Tensor"),
        (lambda: [np.zeros(2, [("a", "i4")])], "numpy.ndarray"),
    ],
    ids=["function", "module", "argument", "scalar", "sparse", "fields"],
)
def test_what_a_structure_cannot_describe(make: Any, says: str) -> None:
    """What would need a pickle is refused; the message tells where, what, and the ways out."""
    obj = make()
    if isinstance(obj, Net) and "linear" not in vars(obj).get("_modules", {}):
        nn.Module.__init__(obj)
    with pytest.raises(UnsupportedObjectError, match=says) as caught:
        build_structure(obj)
    assert "recording" in (caught.value.fix or "")


# ------------------------------------------------------------------------------------------------ hostile structures


def leaf(kind: str, value: Any, **more: Any) -> dict[str, Any]:
    """Return the entry of a leaf."""
    return {"node_type": "leaf", "type": kind, "value": value, **more}


def box(kind: str, *items: Any, **more: Any) -> dict[str, Any]:
    """Return the entry of a container with numbered parts."""
    return {"node_type": "container", "type": kind, "node": {str(i): item for i, item in enumerate(items)}, **more}


def tensor(shape: Any, dtype: Any = "torch.float32", **more: Any) -> dict[str, Any]:
    """Return the entry of a tensor."""
    return {"node_type": "leaf", "type": "torch.Tensor", "shape": shape, "dtype": dtype, **more}


def array(dtype: Any, shape: Any = (1,)) -> dict[str, Any]:
    """Return the entry of a numpy array."""
    return {"node_type": "leaf", "type": "numpy.ndarray", "shape": [*shape], "dtype": dtype}


def to(path: Any) -> dict[str, Any]:
    """Return a reference."""
    return {"node_type": "reference", "to": path}


def _doubled(depth: int) -> dict[str, Any]:
    items = [box("builtins.tuple", ONE, ONE)]
    items += [box("builtins.tuple", to(f"0.{index}"), to(f"0.{index}")) for index in range(depth)]
    return box("builtins.list", box("builtins.list", *items), box("builtins.set", to(f"0.{depth}")))


ONE = leaf("builtins.int", 1)
LINEAR = build_structure(nn.Linear(1, 1))
HOSTILE: dict[str, Any] = {
    "no entry": None,
    "a list": [],
    "empty": {},
    "no such kind": {"node_type": "tree", "type": "builtins.int", "value": 1},
    "a kind that is a list": {"node_type": [], "type": "builtins.int", "value": 1},
    "no type": {"node_type": "leaf", "value": 1},
    "no value": {"node_type": "leaf", "type": "builtins.int"},
    "an unknown key": {**ONE, "call": "os.getcwd"},
    "a type that is a list": leaf([], 1),  # type: ignore[arg-type]
    "a tag that is a list": leaf("x.Y", "1", tag=[]),
    "bool as int": leaf("builtins.int", True),
    "no number": leaf("builtins.int", "12z"),
    "too many digits": leaf("builtins.int", 10**5000),
    "float as int": leaf("builtins.int", 1.5),
    "a list as text": leaf("builtins.str", []),
    "a number as text": leaf("builtins.str", 1),
    "half a surrogate": leaf("builtins.str", "\ud800"),
    "no complex": leaf("builtins.complex", "one"),
    "no date": leaf("datetime.date", "yesterday"),
    "no dtype": leaf("torch.dtype", "load"),
    "no device": leaf("torch.device", "nowhere"),
    "no member": {"node_type": "container", "type": f"{__name__}.Colour", "node": {"name": leaf("builtins.str", "B")}},
    "a leaf of a container": leaf("builtins.list", ""),
    "a container of a leaf": box("builtins.int"),
    "not imported": box("some_package.Model"),
    "a module": box("os.path"),
    "a function for a class": box("os.getcwd"),
    "a stash": leaf("flambe_save.config.link.PickledDataLink", "0"),
    "a class that runs": box("logging.Logger"),
    "a class as value that runs": leaf("builtins.type", "logging.Logger"),
    "a function": leaf("builtins.function", "os.getcwd"),
    "a call": {"node_type": "reference", "type": "flambe_save.config.link.FunctionCallLink", "value": "a.b"},
    "a tag that is a class": box(f"{__name__}.Layer", tag="logging.Logger"),
    "other arguments": {**LINEAR, "node": {"x": ONE}},
    "no such field": {"node_type": "container", "type": f"{__name__}.Slotted", "node": {"z": ONE}},
    "out of order": {**box("builtins.list"), "node": {"1": ONE, "0": ONE}},
    "no parts": {**box("builtins.list"), "node": [ONE]},
    "half a pair": {**box("builtins.dict", form="pairs"), "node": {"key 0": ONE}},
    "another form": box("builtins.dict", form="triples"),
    "a form that is a list": box("builtins.dict", form=[]),
    "a list with names": {**box("builtins.list", form="names"), "node": {"a": ONE}},
    "names that are numbers": {**box("builtins.dict"), "node": {1: ONE}},
    "a list for a mapping": box("builtins.dict", ONE, form="list"),
    "a list for arguments": box(f"{__name__}.Layer", ONE, form="list"),
    "unhashable": box("builtins.set", box("builtins.list")),
    "a reference to nowhere": to("a"),
    "a reference forward": box("builtins.list", to("1"), ONE),
    "a reference by a list": to([]),
    "a list in itself": box("builtins.list", to("")),
    "a dict in itself": {**box("collections.OrderedDict"), "node": {"a": to("")}},
    "a link back to nowhere": {"node_type": "reference", "type": "flambe_save.config.link.BackLink", "value": "x"},
    "keys that stand for too much": _doubled(14),
    "deep": functools.reduce(lambda inner, _: box("builtins.list", inner), range(10_001), ONE),
    "deep arguments": functools.reduce(lambda inner, _: box("builtins.tuple", inner), range(9_000), to("nowhere")),
    "a size below zero": tensor([-1]),
    "a size that is true": tensor([True]),
    "sizes that are a text": tensor("12"),
    "too large": tensor([150_000_000]),
    "too many": box("builtins.list", *[tensor([1 << 20])] * 200),
    "too many sizes": array("<f8", (1,) * 99),
    "no such type": tensor([1], "torch.is_tensor"),
    "integers with gradients": tensor([1], "torch.int64", requires_grad=True),
    "a gradient that is a text": tensor([1], requires_grad="yes"),
    "a parameter of integers": {
        **tensor([1], "torch.int64", requires_grad=True),
        "type": "torch.nn.parameter.Parameter",
    },
    "an array of objects": array("O"),
    "an array of pointers": array("|O8"),
    "a large type": array("<U2000000000"),
    "a type in parts": array("<f8,<f8"),
    "a subclass": {**tensor([1]), "type": "torch.nn.parameter.UninitializedParameter"},
    "arrays that are a list": {**LINEAR, "arrays": []},
    "an array that is a leaf": {**LINEAR, "arrays": {"weight": ONE}},
    "an array with a number for a name": {**LINEAR, "arrays": {1: tensor([1])}},
    "a tie to nowhere": {**LINEAR, "arrays": {"weight": to("x")}},
    "a tie to itself": {**LINEAR, "arrays": {"weight": to("weight")}},
    "an array too few": {**LINEAR, "arrays": {"weight": LINEAR["arrays"]["weight"]}},
    "an array too many": {**LINEAR, "arrays": {**LINEAR["arrays"], "x": tensor([1])}},
    "an array twice": {
        **box("builtins.dict"),
        "node": {"a": {**LINEAR}},
        "arrays": {"a.weight": LINEAR["arrays"]["weight"]},
    },
    "another shape": {**LINEAR, "arrays": {**LINEAR["arrays"], "weight": tensor([5])}},
    "another kind": {**LINEAR, "arrays": {**LINEAR["arrays"], "weight": array("<f4", (1, 1))}},
    "no parameter": {**LINEAR, "arrays": {**LINEAR["arrays"], "weight": tensor([1, 1])}},
    "arrays of a number": {**ONE, "arrays": {"x": tensor([1])}},
    "huge arguments": {**LINEAR, "node": {**LINEAR["node"], "in_features": leaf("builtins.int", 150_000_000)}},
    "extensions that are a list": {**ONE, "extensions": [1]},
    "an extension": {**ONE, "extensions": {"some_package": "git+https://example.org/x"}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_structures_are_refused(name: str) -> None:
    """What build_structure never writes is an error of ours, before anything runs and before memory is spent."""
    with pytest.raises(FlambeSaveError) as caught:
        load_structure(HOSTILE[name])
    assert str(caught.value)
    assert "config.yaml'" not in str(caught.value)


def test_memory_grows_with_the_size_of_a_structure() -> None:
    """Paths are not joined for each level, which would take 200 MB here."""
    structure = functools.reduce(lambda inner, _: box("builtins.list", inner), range(20_000), ONE)
    tracemalloc.start()
    try:
        with pytest.raises(FlambeSaveError, match="nested deeper"):
            load_structure(structure)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_references_and_ties_in_deep_structures() -> None:
    """What is shared far below is found by its path, keys with dots among them."""
    shared, layer = torch.arange(3.0), nn.Linear(2, 2)
    deep: Any = {"a.b": [shared, layer], "%": [shared, {"": layer}]}
    for _ in range(50):
        deep = [deep]
    structure = json.loads(json.dumps(build_structure(deep)))
    again = load_structure(structure)
    assert build_structure(again) == structure
    for _ in range(50):
        (again,) = again
    assert again["a.b"][0] is again["%"][0]
    assert again["a.b"][1] is again["%"][1][""]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_structure_is_refused_or_read(data: st.DataObject) -> None:
    """Whatever is put in some place of a structure, loading ends in an object or in an error of ours."""
    structure: Any = copy.deepcopy(SAMPLE)
    place = structure
    while data.draw(st.booleans()) or place is structure:
        inner = [key for key, value in place.items() if isinstance(value, dict) and value]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(inner))]
    key = data.draw(st.sampled_from([*place]))
    place[key] = data.draw(
        st.one_of(st.none(), st.integers(), TEXTS, st.just([]), st.just({}), st.just("builtins.list"), st.just(ONE))
    )
    try:
        made = load_structure(structure)
    except FlambeSaveError:
        return
    assert build_structure(made)["node_type"]


SAMPLE = json.loads(json.dumps(build_structure([Net(1, Layer()), Point(1), {(1, 2): np.ones(2)}, {1}, LINEAR["type"]])))


def test_memory_has_a_limit_that_can_be_raised() -> None:
    """Zeros past the limit are refused before they are made, and allowed by name."""
    with pytest.raises(LimitError, match="load_structure") as caught:
        load_structure(tensor([1000]), limits=Limits(built_bytes=100))
    assert "built_bytes=" in (caught.value.fix or "")
    assert load_structure(tensor([1000]), limits=Limits(built_bytes=5000)).shape == (1000,)


def test_functions_need_trust(tmp_path: Path) -> None:
    """A function that might be called is refused, unless it is trusted, as by load."""
    structure = build_structure([double, torch.nn.functional.relu])
    with pytest.raises(UntrustedError, match=r"load_structure\(") as caught:
        load_structure(structure)
    assert [row.argument for row in caught.value.rows] == [f"trusted=['{__name__}.double']"]
    assert round_trip([double], trusted=[__name__]) == [double]


def test_a_call_is_never_allowed() -> None:
    """Where load would ask for weights_only=False, the fix does not speak of an argument that is not there."""
    with pytest.raises(UntrustedError) as caught:
        load_structure(HOSTILE["a call"])
    assert "weights_only" not in str(caught.value)


def test_a_changed_class_is_told() -> None:
    """Where the built object has other arrays than described, the message lists them."""
    with pytest.raises(StateMismatchError, match="bias"):
        load_structure({**LINEAR, "node": {**LINEAR["node"], "bias": leaf("builtins.bool", False)}})
    with pytest.raises(ConfigError, match=r"at 'a\.b': "):
        load_structure({**box("builtins.dict"), "node": {"a": {**box("builtins.dict"), "node": {"b": to("x")}}}})


def test_building_leaves_the_object_alone(tmp_path: Path) -> None:
    """Neither values nor flags of an object change when it is described, and its save is the same."""
    net = Net(2)
    before = copy.deepcopy(net.state_dict())
    build_structure(net)
    assert same(dict(net.state_dict()), dict(before))
    assert type(deserialise(save(net, tmp_path / "s"))) is Net
