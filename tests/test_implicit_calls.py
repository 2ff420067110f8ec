"""Modules whose classes define what Python calls implicitly: a load runs none of it, and hands none to what would."""

from __future__ import annotations

import copy
import enum
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import Component, FlambeSaveError, NeedsTrustWarning, UntrustedError, load, load_state, save, untrusted
from flambe_save.config.openness import is_open_to_assembly
from flambe_save.config.special import is_used_by_python

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
    path = Path(save({"x": 1}, tmp_path / "save"))
    (path / "manifest.json").unlink()
    (path / "config.yaml").write_text(config + "\n")
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
