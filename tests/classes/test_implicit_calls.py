"""Modules whose classes define what Python calls implicitly: a load runs none of it, and hands none to what would."""

from __future__ import annotations

import collections.abc
import copy
import dataclasses
import enum
import functools
import itertools
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers.saves import with_config
from torch import nn

from flambe_save import (
    Component,
    FlambeSaveError,
    NeedsTrustWarning,
    StateMismatchWarning,
    UntrustedError,
    load,
    load_state,
    save,
    untrusted,
)
from flambe_save.classes.openness import is_open_to_assembly
from flambe_save.objects.special import is_used_by_python

RAN: list[str] = []


def _noting(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        RAN.append(name)
        if name == "__getattr__":
            raise AttributeError(args[0])
        return {"__eq__": True, "__hash__": 1}.get(name, NotImplemented if name.startswith("__i") else 0)

    return method


# What Python, torch and numpy look for in a class, but for what makes an object, or runs whatever is done with it
_OF_PYTHON = {name for kind in (object, dict, list, set, str, float, int, complex, memoryview) for name in dir(kind)}
_OF_OTHERS = (
    *("__call__", "__getattr__", "__setattr__", "__delattr__", "__getstate__", "__setstate__", "__missing__"),
    *("__copy__", "__deepcopy__", "__enter__", "__exit__", "__get__", "__set__", "__set_name__", "__fspath__"),
    *("__array__", "__array_interface__", "__torch_function__", "__await__", "__bool__", "__next__", "__of_nobody__"),
)
_NOT = (
    *("__new__", "__init__", "__class__", "__doc__", "__getattribute__", "__init_subclass__", "__subclasshook__"),
    *("__reduce__", "__reduce_ex__", "__getnewargs__", "__getnewargs_ex__", "__class_getitem__", "__dict__"),
)
NAMES = sorted({*(name for name in _OF_PYTHON if name.startswith("__")), *_OF_OTHERS} - {*_NOT})


def _class(name: str, base: type, without: tuple[str, ...] = ()) -> Any:
    """Return a class that notes each call of what it defines, which is all of the names."""
    of_base = (method for method in dir(base) if base is not Layered and not method.startswith("__"))
    noted = {name: _noting(name) for name in (*NAMES, *of_base) if name not in without}
    return type(name, (base,), {"__module__": __name__, **noted})


class Layered(nn.Module):
    """A layer and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["_modules"]["layer"] = nn.Linear(2, 2)
        self.__dict__["_buffers"]["seen"] = torch.zeros(2)
        self.__dict__["_non_persistent_buffers_set"].add("seen")


_FOR_SAVES = ("__getstate__",)  # which a save asks
Everything = _class("Everything", Layered)
Plain = _class("Plain", object, _FOR_SAVES)
Settings = _class("Settings", dict, _FOR_SAVES)
Items = _class("Items", list, _FOR_SAVES)
Pair = _class("Pair", tuple, _FOR_SAVES)
Text = _class("Text", str, _FOR_SAVES)
Number = _class("Number", int, _FOR_SAVES)


def _plain() -> Any:
    made = object.__new__(Plain)
    object.__getattribute__(made, "__dict__").update(size=3, items=[1, 2])
    return made


def _settings() -> Any:
    made = dict.__new__(Settings)
    dict.__setitem__(made, "a", [1])
    object.__getattribute__(made, "__dict__")["note"] = "x"
    return made


def _items() -> Any:
    made = list.__new__(Items)
    list.append(made, {"b": 2})
    return made


OBJECTS: dict[str, Callable[[], Any]] = {
    "module": lambda: Everything(),
    "object": _plain,
    "dict": _settings,
    "list": _items,
    "tuple": lambda: tuple.__new__(Pair, (1, [2])),
    "str": lambda: str.__new__(Text, "text"),
    "int": lambda: int.__new__(Number, 5),
}


class Blocks(nn.Module):
    """A list of layers, as people write it."""

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.items = nn.ModuleList(nn.Linear(2, 2) for _ in range(count))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def forward(self, x: Any) -> Any:
        for block in self:
            x = block(x)
        return x


class Wrapper(nn.Module):
    """Looks in what it wraps for what it lacks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def __call__(self, *args: Any) -> Any:
        return self.module(*args)


class Mood(enum.Enum):
    """A member."""

    relu = 1


class Keeps(nn.Module):
    """Holds anything as an attribute."""

    def __init__(self, item: Any) -> None:
        super().__init__()
        self.__dict__["item"] = item


class KeepsOne(Component, nn.Module):
    """A component of a module."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner


PLACES: dict[str, Callable[[Any], Any]] = {
    "root": lambda obj: obj,
    "dict": lambda obj: {"a": obj, "b": [obj]},
    "tuple": lambda obj: (obj, (obj,)),
    "component": lambda obj: KeepsOne(obj),
    "parts": lambda obj: Keeps(obj),
}
OF_MODULES: dict[str, Callable[[Any], Any]] = {
    "sequential": lambda module: nn.Sequential(nn.Linear(2, 2), module),
    "list": lambda module: nn.ModuleList([module]),
    "wrapper": lambda module: Wrapper(module),
    "with_optimizer": lambda module: {
        "m": module,
        "o": torch.optim.SGD(vars(module)["_modules"]["layer"].parameters(), 0.1),
    },
}


def test_what_is_defined_is_open() -> None:
    """Such classes load by default; those that define what is called when an object is made or goes do not."""
    assert [is_open_to_assembly(cls) for cls in (Everything, Blocks, Wrapper, Plain)] == [True] * 4
    classes = (Everything, Blocks, Wrapper, Plain, KeepsOne, nn.Linear, int)
    assert [is_used_by_python(cls) for cls in classes] == [True] * 4 + [False] * 3


@pytest.mark.parametrize(
    ("kind", "place"), [*itertools.product(OBJECTS, PLACES), *itertools.product(["module"], OF_MODULES)]
)
def test_a_load_runs_none(kind: str, place: str, tmp_path: Path) -> None:
    """Made, put into its place, filled and looked for in an audit, nothing of it runs."""
    path = save({**PLACES, **OF_MODULES}[place](OBJECTS[kind]()), tmp_path / "save")
    RAN.clear()
    again = load(path)
    assert untrusted(path) == []
    assert RAN == []
    del again


def test_they_are_what_they_were(tmp_path: Path) -> None:
    """What is derived from Python's own types comes back with its content, its attributes and its type."""
    again = load(save([OBJECTS[kind]() for kind in OBJECTS], tmp_path / "save"))
    assert [type(item) for item in again] == [Everything, Plain, Settings, Items, Pair, Text, Number]
    assert dict.__eq__(again[2], {"a": [1]}) is True
    assert object.__getattribute__(again[2], "__dict__") == {"note": "x"}
    assert list.__eq__(again[3], [{"b": 2}]) is True
    assert tuple.__eq__(again[4], (1, [2])) is True
    assert str.__eq__(again[5], "text") is True
    assert int.__eq__(again[6], 5) is True


def test_filling_runs_none(tmp_path: Path) -> None:
    """load_state fills an object that is there without it, too."""
    module = Everything()
    path = save({"m": module}, tmp_path / "save")
    RAN.clear()
    load_state({"m": module}, path)
    assert RAN == []


def test_as_people_write_them(tmp_path: Path) -> None:
    """Lists of layers and wrappers come back, and work."""
    model = Wrapper(nn.Sequential(Blocks(3), nn.Linear(2, 1)))
    again = load(save(model, tmp_path / "save"))
    x = torch.ones(1, 2)
    assert torch.equal(again(x), model(x))
    assert len(again.module[0]) == 3


@pytest.mark.parametrize("name", ["direct", "alias", "link", "nested", "deep", "measured"])
def test_constructors_get_none(name: str, tmp_path: Path) -> None:
    """A constructor that nobody registered, which may copy what it is given, gets it with trust alone."""
    tag = "!test_implicit_calls.Everything.parts {}"
    config = {
        "direct": f"!torch.TransformerEncoder {{encoder_layer: {tag}, num_layers: 2}}",
        "alias": f"a: &a {tag}\nb: !torch.TransformerEncoder {{encoder_layer: *a, num_layers: 2}}",
        "link": f"a: {{m: {tag}}}\nb: !torch.TransformerEncoder {{encoder_layer: !@ a.m, num_layers: 2}}",
        "nested": f"!torch.TransformerEncoder {{encoder_layer: !KeepsOne {{inner: [{tag}]}}, num_layers: 2}}",
        "measured": f"!torch.ModuleList {{modules: {tag}}}",
        "deep": f"!torch.CrossEntropyLoss {{weight: !torch.Sequential {{args: [{tag}]}}}}",
    }[name]
    path = with_config(tmp_path / "save", config + "\n")
    RAN.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UntrustedError, match=r"test_implicit_calls\.Everything"):
            load(path)
        rows = [row.argument for row in untrusted(path)]
    assert rows == ["trusted=['test_implicit_calls.Everything']"]
    assert RAN == []


def test_the_save_says_it(tmp_path: Path) -> None:
    """Where a save hands such an object to a constructor of torch's, it names the class, and that is enough."""

    layer = nn.TransformerEncoderLayer(4, 2, 8)
    layer.blocks = Blocks()
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = save(model, tmp_path / "save")
    names = [row.argument for row in untrusted(path)]
    said = [str(item.message) for item in caught if issubclass(item.category, NeedsTrustWarning)]
    assert bool(said) == bool(names)
    again = load(path, trusted=["test_implicit_calls"])
    x = torch.ones(1, 3, 4)
    assert torch.equal(again.eval()(x), model.eval()(x))
    assert len(copy.deepcopy(again).layers[0].blocks) == 2


# ------------------------------------------------------------------------------------------------- what takes a state


class Average:
    """An average of a model's weights, which takes a state by its own code."""

    def __init__(self, model: Any, **others: Any) -> None:
        self.model, self.steps, self.shadow = model, 0, [parameter.detach().clone() for parameter in model.parameters()]
        self.__dict__.update(others)

    def state_dict(self) -> dict[str, Any]:
        RAN.append("state_dict")
        return {"steps": self.steps, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        RAN.append("load_state_dict")
        self.steps, self.shadow = state["steps"], state["shadow"]


def _averaged(**others: Any) -> dict[str, Any]:
    model = nn.Linear(2, 2)
    run = {"model": model, "average": Average(model, **others)}
    run["average"].steps = 3
    return run


@pytest.mark.parametrize("options", [{}, {"pickle_only": True}])
def test_what_is_all_attributes_takes_no_state(options: Any, tmp_path: Path) -> None:
    """Where the attributes of such an object are all of it, it is made of these, with trust or without."""
    run = _averaged()
    path = save(run, tmp_path / "save", **options)
    assert untrusted(path) == []
    for trusted in ([], ["test_implicit_calls"]):
        RAN.clear()
        again = load(path, trusted=trusted)
        assert RAN == []
        assert again["average"].model is again["model"]
        assert again["average"].steps == 3
        assert all(map(torch.equal, again["average"].shadow, run["average"].shadow))
    here = _averaged()
    here["average"].steps = 0
    load_state(here, path)  # an object that is there takes it as ever
    assert RAN[-1] == "load_state_dict"
    assert here["average"].steps == 3


class Entries(collections.abc.MutableMapping):  # type: ignore[type-arg]
    """Tensors by names, some of them in others, as a TensorDict is: a mapping that takes a state."""

    def __init__(self, **entries: Any) -> None:
        self.entries = entries

    def state_dict(self) -> dict[str, Any]:
        return {name: value.state_dict() if type(value) is Entries else value for name, value in self.entries.items()}

    __getitem__ = __iter__ = __len__ = __contains__ = _noting("__getitem__")  # type: ignore[assignment]
    __setitem__ = __delitem__ = keys = values = items = get = __eq__ = __bool__ = _noting("items")  # type: ignore
    load_state_dict = _noting("load_state_dict")


@pytest.mark.parametrize("place", PLACES)
def test_one_in_another_takes_none_either(place: str, tmp_path: Path) -> None:
    """They are made together, and no load goes through a mapping by its own code."""
    path = save(PLACES[place](Entries(a=Entries(b=torch.ones(2)), c=torch.zeros(1))), tmp_path / "save")
    RAN.clear()
    assert untrusted(path) == []
    again = load(path)
    assert RAN == []
    if place == "root":
        assert type(again.entries["a"]) is Entries
        assert torch.equal(again.entries["a"].entries["b"], torch.ones(2))
        assert torch.equal(again.entries["c"], torch.zeros(1))


def test_one_that_is_more_in_another(tmp_path: Path) -> None:
    """What holds one that is not all attributes is not complete either, and both are named."""
    with pytest.warns(NeedsTrustWarning), pytest.warns(StateMismatchWarning, match="entries"):
        path = save(Entries(a=Entries(lock=threading.Lock())), tmp_path / "save")
    RAN.clear()
    with pytest.raises(UntrustedError):
        load(path)
    assert RAN == []
    assert "trusted=['test_implicit_calls.Entries']" in [row.argument for row in untrusted(path)]


def test_what_is_more_than_its_attributes_takes_one_with_trust(tmp_path: Path) -> None:
    """Something that is no data is None, and only its own code may make up for it."""
    with (
        pytest.warns(NeedsTrustWarning, match="takes a state by its own code"),
        pytest.warns(StateMismatchWarning, match=r"average\.lock"),
    ):
        path = save(_averaged(lock=threading.Lock()), tmp_path / "save")
    assert {row.argument for row in untrusted(path)} == {"trusted=['test_implicit_calls.Average']"}
    RAN.clear()
    with pytest.raises(UntrustedError, match=r"test_implicit_calls\.Average"):
        load(path)
    assert RAN == []
    again = load(path, trusted=["test_implicit_calls.Average"])
    assert RAN == ["load_state_dict"]
    assert again["average"].steps == 3
    assert again["average"].lock is None


_COMPLETE = "!test_implicit_calls.Average.parts {complete: true}"
_HOLDING = f"!test_implicit_calls.Keeps.parts {{attributes: {{item: {_COMPLETE}}}}}"


@pytest.mark.parametrize(
    "config",
    [
        "!test_implicit_calls.Average.parts {}",
        "!test_implicit_calls.Average.parts {complete: false}",
        "!test_implicit_calls.Average.parts {complete: 'true'}",
        "!test_implicit_calls.Average.parts {complete: 1}",
        "!test_implicit_calls.Average.parts {? !type complete : true}",
        "!test_implicit_calls.Average.parts {attributes: {complete: true}}",
        f"[{_COMPLETE}, !test_implicit_calls.Average.parts {{}}]",
        f"!torch.TransformerEncoder {{encoder_layer: {_HOLDING}, num_layers: 2}}",
        f"!torch.AveragedModel {{model: {_HOLDING}}}",
    ],
)
def test_no_other_takes_one_without_trust(config: str, tmp_path: Path) -> None:
    """One that does not say it, and one that might be copied: the copy would be filled."""
    assert isinstance(attempt_of(config, tmp_path / "save"), FlambeSaveError)


class KeepsCopies(Component):
    """Keeps a copy of what it is given."""

    def __init__(self, inner: Any) -> None:
        self.inner = copy.deepcopy(inner)


def test_a_copy_of_one_takes_none_without_trust(tmp_path: Path) -> None:
    """A constructor of one's own may copy what a config made: the copy says nothing of how it came to be."""
    path = Path(save(KeepsCopies(Average(nn.Linear(2, 2))), tmp_path / "save"))
    RAN.clear()
    with pytest.raises(UntrustedError, match=r"test_implicit_calls\.Average"):
        load(path)
    assert RAN == []
    assert load(path, trusted=["test_implicit_calls.Average"]).inner.steps == 0
    assert RAN == ["load_state_dict"]


def test_a_module_is_not_complete(tmp_path: Path) -> None:
    """Others have no such table."""
    for config in (
        "!test_implicit_calls.Keeps.parts {complete: true}",
        "!test_implicit_calls.Plain.parts {complete: true}",
    ):
        assert isinstance(attempt_of(config, tmp_path / "save"), FlambeSaveError)


# ------------------------------------------------------------------------------------------------- what makes objects


class Births(type):
    """Notes when an object of its classes is made."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        RAN.append("the metaclass")
        return super().__call__(*args, **kwargs)


class Born(Layered, metaclass=Births):
    """Notes each step of being made."""

    def __new__(cls, *args: Any) -> Any:
        RAN.append("__new__")
        return super().__new__(cls)

    def __init__(self, size: int = 2) -> None:
        RAN.append("__init__")
        super().__init__()
        self.size = size


class BornPlain(metaclass=Births):
    """Notes each step of being made."""

    def __new__(cls, *args: Any) -> Any:
        RAN.append("__new__")
        return super().__new__(cls)

    def __init__(self, size: int = 2) -> None:
        RAN.append("__init__")
        self.size = size


class BornOptimizer(torch.optim.SGD):
    """Notes when it is made."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        RAN.append("__new__")
        return super().__new__(cls)


@pytest.mark.parametrize("kind", [Born, BornPlain])
@pytest.mark.parametrize("place", PLACES)
def test_what_makes_an_object_is_not_run(kind: Any, place: str, tmp_path: Path) -> None:
    """Neither the class's ``__new__`` and ``__init__`` nor its metaclass; the object is what it was."""
    made = kind(3)
    assert RAN[-3:] == ["the metaclass", "__new__", "__init__"]
    path = save(PLACES[place](made), tmp_path / "save")
    RAN.clear()
    assert untrusted(path) == []
    again = load(path)
    assert RAN == []
    if place == "root":
        assert type(again) is kind
        assert vars(again).keys() == vars(made).keys()
        assert again.size == 3


def test_nor_is_what_makes_an_optimizer(tmp_path: Path) -> None:
    """An optimizer is put together by torch's own tables."""
    model = nn.Linear(2, 2)
    path = save({"m": model, "o": BornOptimizer(model.parameters(), 0.1)}, tmp_path / "save")
    RAN.clear()
    assert untrusted(path) == []
    again = load(path)
    assert RAN == []
    assert type(again["o"]) is BornOptimizer
    assert again["o"].param_groups[0]["params"][0] is again["m"].weight


@pytest.mark.parametrize("kind", ["Born", "BornPlain"])
def test_a_copy_would_run_it(kind: str, tmp_path: Path) -> None:
    """So no constructor that may copy what it is given gets one: copies are made by ``__new__``."""
    tag = f"!test_implicit_calls.{kind}.parts {{}}"
    held = tag if kind == "Born" else f"!test_implicit_calls.Keeps.parts {{attributes: {{item: {tag}}}}}"
    copy.deepcopy(Born() if kind == "Born" else BornPlain())
    assert RAN[-1] == "__new__"
    for config in (
        f"!torch.TransformerEncoder {{encoder_layer: {held}, num_layers: 2}}",
        f"a: &a {held}\nb: !torch.TransformerEncoder {{encoder_layer: *a, num_layers: 2}}",
    ):
        found = attempt_of(config, tmp_path / "save")
        assert isinstance(found, UntrustedError)
        assert f"test_implicit_calls.{kind}" in str(found)


class Curved(nn.Parameter):
    """A parameter on a manifold: what makes, copies, pickles and measures it is its own."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner = _noting("inner")
    dist = _noting("dist")

    def __new__(cls, data: Any, requires_grad: bool = True) -> Any:
        RAN.append("__new__")
        return torch.Tensor._make_subclass(cls, data, requires_grad)

    def __deepcopy__(self, memo: Any) -> Any:
        RAN.append("__deepcopy__")
        return type(self)(self.data.clone())

    def __reduce_ex__(self, protocol: Any) -> Any:
        RAN.append("__reduce_ex__")
        return super().__reduce_ex__(protocol)


class Bent(Curved):
    """One whose operations are its own code."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        RAN.append("__torch_function__")
        return super().__torch_function__(func, types, args, kwargs or {})


class Moved(Curved):
    """One that is moved and detached by its own code."""

    def detach(self) -> Any:
        RAN.append("detach")
        return super().detach()


def test_what_copies_a_parameter_is_not_run(tmp_path: Path) -> None:
    """Nor what pickles it, and what nothing asks for."""
    model = Keeps([1])
    model.at = Curved(torch.ones(2))
    model.at.manifold = "ball"
    path = save({"m": nn.Sequential(model)}, tmp_path / "save")
    RAN.clear()
    assert untrusted(path) == []
    for options in ({}, {"map_location": "cpu"}, {"map_location": "meta"}):
        again = load(path, **options)
        assert RAN == []
        assert type(again["m"][0].at) is Curved
        assert again["m"][0].at.manifold == "ball"


@pytest.mark.parametrize("name", ["Bent", "Moved"])
def test_a_parameter_with_code_in_the_way_of_a_load_needs_trust(name: str, tmp_path: Path) -> None:
    """Its operations and methods are what a load would use."""
    config = (
        f"!test_implicit_calls.Keeps.parts {{parameters: {{w: !test_implicit_calls.{name}.parts {{data: [1.0]}}}}}}"
    )
    found = attempt_of(config, tmp_path / "save")
    assert isinstance(found, UntrustedError)
    assert f"test_implicit_calls.{name}" in str(found)


def test_a_parameter_that_would_be_copied_needs_trust(tmp_path: Path) -> None:
    """A constructor that copies a module copies its parameters by their own code."""
    path = Path(save({"m": nn.Linear(2, 2)}, tmp_path / "save"))
    (path / "manifest.json").unlink()
    held = (
        "!test_implicit_calls.Keeps.parts {parameters: {w: !test_implicit_calls.Curved.parts {data: !tensor m.bias}}}"
    )
    for config in (
        f"m: !torch.AveragedModel {{model: {held}}}",
        f"m: !torch.TransformerEncoder {{encoder_layer: {held}, num_layers: 1}}",
    ):
        found = attempt_of(config, path)
        assert isinstance(found, UntrustedError)
        assert "test_implicit_calls.Curved" in str(found)


# ------------------------------------------------------------------------- what is taken for a dict, a list, a text

LIVELY = {
    "settings": "!test_implicit_calls.Settings {items: [[a, 1]]}",
    "items": "!test_implicit_calls.Items {values: [1]}",
    "text": "!test_implicit_calls.Text {value: relu}",
    "number": "!test_implicit_calls.Number {value: 2}",
    "plain": "!test_implicit_calls.Plain.parts {}",
}
# In short: a layer, a group of an optimizer's, a module of parts
SHORT = {
    "LAYER": "!torch.Linear {in_features: 1, out_features: 1}",
    "GROUP": "{params: [!parameter 'l:weight'], lr: 0.1}",
    "KEEPS": "!test_implicit_calls.Keeps.parts",
}
TABLES = {
    "attributes": "KEEPS {attributes: %s}",
    "modules": "KEEPS {modules: %s}",
    "parameters": "KEEPS {parameters: %s}",
    "buffers": "KEEPS {buffers: %s}",
    "arguments": "KEEPS {arguments: %s}",
    "hooks": "KEEPS {hooks: %s}",
    "not_persistent": "KEEPS {not_persistent: %s}",
    "a_name_that_is_not_persistent": "KEEPS {buffers: {relu: null}, not_persistent: [%s]}",
    "registered": "KEEPS {attributes: {_registered_attributes: %s}}",
    "a_name_that_is_registered": "KEEPS {attributes: {_registered_attributes: !builtins.set {items: [%s]}}}",
    "changes": "!edited {object: LAYER, changes: %s}",
    "a_change": "!edited {object: LAYER, changes: {'': %s}}",
    "changed_attributes": "!edited {object: LAYER, changes: {'': {attributes: %s}}}",
    "removed": "!edited {object: LAYER, changes: {'': {removed: %s}}}",
    "a_name_that_is_removed": "!edited {object: LAYER, changes: {'': {removed: [%s]}}}",
    "orders": "!edited {object: LAYER, changes: {'': {order: %s}}}",
    "an_order": "!edited {object: LAYER, changes: {'': {order: {parameters: %s}}}}",
    "groups": "{l: LAYER, o: !torch.SGD.parts {groups: %s}}",
    "a_group": "{l: LAYER, o: !torch.SGD.parts {groups: [%s]}}",
    "parameters_of_a_group": "{l: LAYER, o: !torch.SGD.parts {groups: [{params: %s}]}}",
    "defaults": "{l: LAYER, o: !torch.SGD.parts {groups: [GROUP], defaults: %s}}",
    "others": "{l: LAYER, o: !torch.SGD.parts {groups: [GROUP], others: %s}}",
    "kind_of_state": "{l: LAYER, o: !torch.SGD.parts {groups: [GROUP], state: %s}}",
    "items": "!builtins.dict {items: %s}",
    "a_pair": "!builtins.dict {items: [%s]}",
    "a_key": "!builtins.dict {items: [[%s, 1]]}",
    "an_item": "!builtins.set {items: [%s]}",
    "an_item_of_a_value": "!set [%s]",
    "a_key_of_a_value": "!odict [[%s, 1]]",
    "a_key_of_a_mapping": "{? %s : 1}",
    "deque": "!collections.deque {items: %s, maxlen: 3}",
    "length_of_a_deque": "!collections.deque {items: [], maxlen: %s}",
    "arguments_of_a_partial": "!functools.partial {func: !type builtins.int, args: %s, keywords: {}}",
    "names_of_a_partial": "!functools.partial {func: !type builtins.int, args: [], keywords: %s}",
    "decimal": "!decimal.Decimal {value: %s}",
    "fraction": "!fractions.Fraction {numerator: %s, denominator: 2}",
    "days": "!datetime.timedelta {days: %s, seconds: 0, microseconds: 0}",
    "uuid": "!uuid.UUID {hex: %s}",
    "pattern": "!re.Pattern {pattern: %s, flags: 0}",
    "flags": "!re.Pattern {pattern: x, flags: %s}",
    "a_member": "!test_implicit_calls.Mood {name: %s}",
    "content": "!test_implicit_calls.Settings {items: %s}",
    "attributes_of_it": "!test_implicit_calls.Settings {items: [], attributes: %s}",
    "values": "!test_implicit_calls.Items {values: %s}",
    "a_size": "!torch.Linear {in_features: %s, out_features: 1}",
    "a_list_of_modules": "!torch.ModuleList {modules: %s}",
    "a_dict_of_modules": "!torch.ModuleDict {modules: %s}",
    "a_sequence": "!torch.Sequential {args: [%s]}",
    "a_list_of_parameters": "!torch.ParameterList {values: %s}",
    "an_activation": "!torch.TransformerEncoderLayer {d_model: 2, nhead: 1, activation: %s}",
    "a_seed": "!random.Random {x: %s}",
    "a_value_of_a_member": "!test_implicit_calls.Mood {value: %s}",
    "a_name_of_a_parameter": "!torch.ParameterDict {parameters: [[%s, 1]]}",
    "a_method": "!builtins.method {object: KEEPS {}, name: %s}",
}


@pytest.mark.parametrize("table", TABLES)
def test_no_table_is_asked(table: str, tmp_path: Path) -> None:
    """Where a config wants a dict, a list, a text or a number, it takes none that its class may answer for."""
    path = Path(save({"x": 1}, tmp_path / "save"))
    (path / "manifest.json").unlink()
    text = TABLES[table]
    for name, meaning in SHORT.items():
        text = text.replace(name, meaning)
    RAN.clear()
    for content in LIVELY.values():
        direct = text % content
        linked = f"x: {{y: {content}}}\nz: {text % '!@ x.y'}"
        for config in (direct, linked):
            (path / "config.yaml").write_text(config + "\n")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with pytest.raises(FlambeSaveError):
                    load(path)
                untrusted(path)
            assert RAN == [], config


# ------------------------------------------------------------------- what metaclasses, modules and classes answer


def _of_metaclass(name: str, value: Any) -> type:
    """Return a class that this module has, of a metaclass that notes what is asked of its classes by one name."""
    made = type(f"Of{name.strip('_').title()}", (type,), {"__module__": __name__, name: value})
    found = made(made.__name__, (), {"__module__": __name__})
    RAN.clear()
    return found


_ASKED = (
    *("__hash__", "__eq__", "__dir__", "__setattr__", "__getattribute__", "__getattr__", "__instancecheck__", "mro"),
    *("__len__", "__bool__", "__repr__", "__call__", "__subclasscheck__", "__iter__", "load_state_dict"),
)
_READ = ("__dict__", "__class__", "__module__", "__name__", "__mro__", "load_state_dict", "_fields", "__doc__")


def _answering(name: str) -> Callable[..., Any]:
    def method(cls: Any, *args: Any) -> Any:
        RAN.append(name)
        if name == "__eq__":
            return cls is args[0]
        return {"__hash__": 1, "__dir__": [], "__len__": 1, "__repr__": "x"}.get(name) or getattr(type, name)(
            cls, *args
        )

    return method


OF_METACLASSES = [_of_metaclass(name, _answering(name)) for name in _ASKED]
for _name in _READ:
    _found = type(f"Reads{_name.strip('_').title()}", (type,), {_name: property(_answering(_name))})
    OF_METACLASSES.append(_found(_found.__name__, (), {}))
for _cls in OF_METACLASSES:
    globals()[type.__dict__["__qualname__"].__get__(_cls)] = _cls


def attempt_of(config: str, path: Path, trusted: Any = ()) -> Any:
    """Load and audit a save of a config; return what comes of it, and let no code of this module run."""
    if not path.exists():
        with_config(path, config)
    (path / "config.yaml").write_text(config + "\n")
    RAN.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            untrusted(path)
            found: Any = load(path, trusted=trusted)
        except FlambeSaveError as error:
            found = error
    assert RAN == [], (config, RAN)
    return found


@pytest.mark.parametrize("cls", OF_METACLASSES, ids=lambda cls: type.__dict__["__qualname__"].__get__(cls))
def test_no_metaclass_is_asked(cls: Any, tmp_path: Path) -> None:
    """What its classes are called, hold, hash, equal or have, not even to find out what it answers."""
    name = f"test_implicit_calls.{type.__dict__['__qualname__'].__get__(cls)}"
    for config in (
        f"!{name}.parts {{}}",
        f"!{name} {{items: []}}",
        f"[!type {name}]",
        f"!test_implicit_calls.Keeps.parts {{attributes: {{item: !type {name}}}}}",
    ):
        attempt_of(config, tmp_path / "save")
        assert RAN == []


class Proxy:
    """Says that it is something else, which it has to make first, as lazy objects do."""

    @property
    def __class__(self) -> Any:
        RAN.append("__class__")
        return type

    def __getattr__(self, name: str) -> Any:
        RAN.append(name)
        return "lazy"


lazy = Proxy()


class LazyModule(types.ModuleType):
    """Imports itself when it is asked for anything."""

    def __getattribute__(self, name: str) -> Any:
        RAN.append(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("config", ["!%s {}", "!%s.parts {}", "!%s.inner.parts {}", "[!type %s]", "[!function %s]"])
@pytest.mark.parametrize("name", ["test_implicit_calls.lazy", "lazy_of_tests.Net", "lazy_of_tests"])
def test_what_modules_hold_is_not_asked(name: str, config: str, tmp_path: Path, monkeypatch: Any) -> None:
    """A tag may lead to any object of any module, and to a module that imports itself when it is looked into."""
    monkeypatch.setitem(sys.modules, "lazy_of_tests", LazyModule("lazy_of_tests"))
    assert isinstance(attempt_of(config % name, tmp_path / "save"), FlambeSaveError)


class Descriptor:
    """Notes when it is looked up, on an object or on its class."""

    def __get__(self, obj: Any, owner: Any = None) -> Any:
        RAN.append("__get__")
        return 0


_ASKED_OF_CLASSES = (
    "load_state_dict",
    "state_dict",
    "_fields",
    "__flambe_recorded__",
    "__flambe_adapter__",
    "_version",
)
Described = type("Described", (), {name: Descriptor() for name in _ASKED_OF_CLASSES[1:4]})
Filling = type("Filling", (), {"load_state_dict": Descriptor()})
DescribedModule = type("DescribedModule", (Layered,), {name: Descriptor() for name in _ASKED_OF_CLASSES})
DescribedTuple = type("DescribedTuple", (tuple,), {"_fields": Descriptor(), "_make": None})
Tabled = type("Tabled", (Layered,), {"_modules": property(_noting("_modules"))})
Training = type("Training", (Layered,), {"training": property(_noting("training"), _noting("training"))})


@pytest.mark.parametrize("name", ["Described", "Filling", "DescribedModule", "Training", "Tabled"])
def test_no_descriptor_of_a_class_is_run(name: str, tmp_path: Path) -> None:
    """Nor one that stands where a load looks whether a class has a method."""
    for config in (
        f"!test_implicit_calls.{name}.parts {{}}",
        "!test_implicit_calls.DescribedTuple {values: [[1]]}",
    ):
        attempt_of(config, tmp_path / "save")
        assert RAN == []


class Stepping(torch.optim.SGD):
    """Sets what torch notes in its own way, and looks its step up."""

    _zero_grad_profile_name = property(_noting("get"), _noting("set"))  # type: ignore[assignment]
    step = Descriptor()  # type: ignore[assignment]
    profile_hook_step = staticmethod(_noting("profile_hook_step"))  # type: ignore[assignment]


class Hooked(Stepping):
    """Has a step."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return None


@pytest.mark.parametrize("name", ["Stepping", "Hooked"])
def test_an_optimizer_that_is_put_together_is_not_asked(name: str, tmp_path: Path) -> None:
    """Neither for its step, nor for where torch notes things."""
    model = nn.Linear(1, 1)
    path = Path(save({"l": model, "o": torch.optim.SGD(model.parameters(), 0.1)}, tmp_path / "save"))
    (path / "manifest.json").unlink()
    config = (path / "config.yaml").read_text()
    tables = f"!test_implicit_calls.{name}.parts {{groups: [{{params: [!parameter 'l:weight', !parameter 'l:bias']}}]}}"
    text = config[: config.index("o: ")] + f"o: {tables}"
    again = attempt_of(text, path)
    assert type(again["o"]).__name__ == name
    assert len(again["o"].__dict__["param_groups"][0]["params"]) == 2


# --------------------------------------------------------------------------------------------- keys of tables


class Hashed:
    """Hashes itself."""

    def __hash__(self) -> int:
        RAN.append("__hash__")
        return 1

    def __eq__(self, other: object) -> bool:
        RAN.append("__eq__")
        return True


class HashedOnce:
    """Hashes itself, by no plain function."""

    __hash__ = functools.partialmethod(_noting("__hash__"))  # type: ignore[assignment]


class Shown:
    """Says itself how it is shown, which names what is under it."""

    def __str__(self) -> str:
        RAN.append("__str__")
        return "shown"


@dataclasses.dataclass(frozen=True)
class Record:
    """Hashes what it holds."""

    item: Any


class Fields(NamedTuple):
    """Hashes what it holds."""

    item: Any


class Values(tuple):
    """Hashes what it holds."""


KEYS = {
    "itself": "%s",
    "in a tuple": "!tuple [!tuple [%s]]",
    "in a record": "!test_implicit_calls.Record {item: %s}",
    "in a named tuple": "!test_implicit_calls.Fields {item: %s}",
    "in what is derived from a tuple": "!test_implicit_calls.Values {values: [%s]}",
    "behind a weak reference": "!weakref.ReferenceType {object: %s}",
}
OF_KEYS = {
    "dict": "!builtins.dict {items: [[%s, [1]]]}",
    "counter": "!collections.Counter {items: [[%s, 1]]}",
    "set": "!builtins.set {items: [%s]}",
    "frozenset": "!builtins.frozenset {items: [%s]}",
    "plain set": "!set [%s]",
}


@pytest.mark.parametrize("cls", ["Hashed", "HashedOnce", "Shown"])
@pytest.mark.parametrize("key", KEYS)
def test_what_is_in_a_key_hashes_nothing_itself(key: str, cls: str, tmp_path: Path) -> None:
    """A key is hashed, compared and named with all that is in it."""
    for table in OF_KEYS.values():
        for item in (f"!test_implicit_calls.{cls}.parts {{}}", "!@ k"):
            config = f"{{k: !test_implicit_calls.{cls}.parts {{}}, d: {table % (KEYS[key] % item)}}}"
            assert isinstance(attempt_of(config, tmp_path / "save"), FlambeSaveError), config


# --------------------------------------------------------------------- what torch asks of what it is given

_OPTIMIZER = "l: !torch.Linear {in_features: 1, out_features: 1}, o: !torch.SGD {params: [!parameter 'l:weight']}"


class Grouped(torch.optim.SGD):
    """Computes its groups."""

    param_groups = property(_noting("param_groups"))  # type: ignore[assignment]


class Warmup(torch.optim.lr_scheduler.LRScheduler):
    """Notes each step."""

    def get_lr(self) -> Any:
        RAN.append("get_lr")
        return [0.1 for _ in self.base_lrs]

    def state_dict(self) -> Any:
        RAN.append("state_dict")
        return super().state_dict()


class Encoding(nn.TransformerEncoderLayer):
    """Computes what torch asks for."""

    norm_first = property(_noting("norm_first"), _noting("norm_first"))  # type: ignore[assignment]


class Moving(nn.Linear):
    """Notes where it is moved."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        RAN.append("to")
        return self


class Alike:
    """Has the methods of a tensor that functions of torch call."""

    def softmax(self, *args: Any) -> float:
        RAN.append("softmax")
        return 1.0


class Called(nn.Module):
    """Notes each call."""

    def forward(self, *args: Any) -> float:
        RAN.append("forward")
        return 1.0


GIVEN = {
    "an optimizer with a property": "{l: !torch.Linear {in_features: 1, out_features: 1}, o: !test_implicit_calls."
    "Grouped.parts {groups: [{params: [!parameter 'l:weight'], lr: 0.1}], defaults: {lr: 0.1}}, "
    "s: !torch.StepLR {optimizer: !@ o, step_size: 1}}",
    "a scheduler": f"{{{_OPTIMIZER}, s: !test_implicit_calls.Warmup.parts {{attributes: {{optimizer: !@ o, "
    "base_lrs: [0.1]}}, q: !torch.ChainedScheduler {optimizer: !@ o, schedulers: [!@ s]}}",
    "a layer with a property": "!torch.TransformerEncoder {encoder_layer: !test_implicit_calls.Encoding.parts {}, "
    "num_layers: 1}",
    "a model that moves": "!torch.AveragedModel {model: !test_implicit_calls.Moving.parts {}, device: cpu}",
    "what is filled in": f"{{{_OPTIMIZER}, s: !torch.LambdaLR {{optimizer: !@ o, lr_lambda: !functools.partial "
    "{func: !function torch.nn.functional.softmax, args: [!test_implicit_calls.Alike.parts {}], keywords: {}}}}",
    "a model in a model": f"{{{_OPTIMIZER}, s: !torch.LambdaLR {{optimizer: !@ o, lr_lambda: !torch.Sequential "
    "{args: [!test_implicit_calls.Called.parts {}]}}}",
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_constructor_of_torch_gets_nothing_that_answers(name: str, tmp_path: Path) -> None:
    """Such a constructor reads attributes, moves models, takes steps and calls functions."""
    assert isinstance(attempt_of(GIVEN[name], tmp_path / "save"), FlambeSaveError)


def test_schedulers_of_other_schedulers_need_no_trust(tmp_path: Path) -> None:
    """One of torch's own that holds others is written as its parts, so that none takes a step in a load."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    whole = {
        "m": model,
        "o": optimizer,
        "s": torch.optim.lr_scheduler.ChainedScheduler([Warmup(optimizer)], optimizer),
    }
    path = save(whole, tmp_path / "save")
    RAN.clear()
    assert untrusted(path) == []
    again = load(path)
    assert RAN == []
    assert type(again["s"]._schedulers[0]) is Warmup
    assert again["s"]._schedulers[0].optimizer is again["o"]
    again["o"].step()
    again["s"].step()
    assert "get_lr" in RAN


# --------------------------------------------------------------------------- what objects hold, and members


class Making(int):
    """Notes when it is made, as members of flags are."""

    def __new__(cls, value: int) -> Any:
        RAN.append("__new__")
        return int.__new__(cls, value)


class Flags(Making, enum.Flag):
    """Made of another class."""

    a = 1
    b = 2


@dataclasses.dataclass
class Lazy:
    """Has a default that says itself what it is."""

    item: Any = None


Lazy.__dataclass_fields__["item"].default = lazy


@pytest.mark.parametrize(
    "config",
    [
        "a: !test_implicit_calls.Flags {value: 3}",
        "a: !test_implicit_calls.Lazy {}\nb: !@ a.item",
        "a: !test_implicit_calls.Lazy {}\nb: !builtins.set {items: [!@ a.item]}",
    ],
)
def test_what_is_held_is_not_asked(config: str, tmp_path: Path) -> None:
    """A combination of flags is not made by another class's code; a link leads to no object that says its class."""
    assert isinstance(attempt_of(config, tmp_path / "save"), FlambeSaveError)


def test_a_link_goes_through_no_tuple_itself(tmp_path: Path) -> None:
    """One that is derived from a tuple is looked into for functions, and not by its own code."""
    config = "a: !test_implicit_calls.Keeps.parts {attributes: {item: !test_implicit_calls.Pair {values: [1]}}}"
    found = attempt_of(config + "\nb: !@ a.item", tmp_path / "save")
    assert found["b"] is found["a"].__dict__["item"]
