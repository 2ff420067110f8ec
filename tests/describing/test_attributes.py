"""Links read what objects hold: no code of a class runs, unless the caller of a load trusts it."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.saves import with_config
from torch import nn

from flambe_save import Component, LinkError, UntrustedError, load, save, untrusted, yaml
from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.errors import FlambeSaveError
from flambe_save.objects.assembly import PARTS, attributes_of
from flambe_save.objects.attributes import held_attribute, held_item
from flambe_save.schema.schema import schema_of
from flambe_save.trust import Trust

RAN: list[str] = []


class Sized(Component, tag_namespace="attr"):
    """Keeps one argument under its name, shows another by a property, and keeps a third under another name."""

    kind = "sized"
    shared: dict[str, int] = {}  # noqa: RUF012  (that is what is tested)

    def __init__(self, size: int = 1, width: int = 2, depth: int = 3) -> None:
        self.size, self._width, self._depth = size, width, depth

    @property
    def width(self) -> int:
        """Twice the argument."""
        RAN.append("width")
        return 2 * self._width


class Guessing(Component, tag_namespace="attr"):
    """Makes up what it does not hold."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        RAN.append(name)
        return 5


class Making(Component, tag_namespace="attr"):
    """Makes what it holds."""

    def __init__(self) -> None:
        self.made = Sized()


class Layer(nn.Module):
    """Has attributes in all of torch's tables."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.ones(3))
        self.inner = nn.Linear(2, 4)


@dataclasses.dataclass
class Point:
    """Has a field and a property."""

    x: Any = 1

    @property
    def y(self) -> int:
        """Runs."""
        RAN.append("y")
        return 7


@dataclasses.dataclass
class Slotted:
    """Keeps its field in a slot."""

    __slots__ = ("x",)
    x: Any


@dataclasses.dataclass
class Shadowed:
    """Has a property in place of a field, by a name that data may have too."""

    x: Any

    @property
    def x(self) -> Any:  # type: ignore[no-redef]
        """Runs."""
        RAN.append("x")
        return 7


@dataclasses.dataclass(frozen=True)
class Hashed:
    """Counts how often it is hashed."""

    x: Any = 1

    def __hash__(self) -> int:
        RAN.append("hash")
        return 1


HERE = __name__


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


@pytest.mark.parametrize(
    ("config", "value"),
    [
        ("a: !attr.Sized {size: 4}\nb: !@ a.size\n", 4),
        ("a: !attr.Sized {depth: 4}\nb: !@ a.depth\n", 4),
        ("a: !attr.Sized {}\nb: !@ a.kind\n", "sized"),
        ("a: !attr.Sized {width: 9}\nb: !@ 'a[width]'\n", 9),
        (f"a: !{HERE}.Point {{x: 4}}\nb: !@ a.x\n", 4),
        (f"a: !{HERE}.Slotted {{x: 4}}\nb: !@ a.x\n", 4),
        ("a: !torch.Linear {in_features: 1, out_features: 1, bias: false}\nb: !@ a.in_features\n", 1),
        ("a: !collections.OrderedDict {items: [[k, 3]]}\nc: !@ a\nb: !@ 'c[k]'\n", 3),
        (
            "a: !collections.defaultdict {default_factory: !type builtins.list, items: [[1, 3]]}\nc: !@ a\n"
            "b: !@ 'c[1]'\n",
            3,
        ),
        (
            "a: !torch.Sequential {args: [!torch.Linear {in_features: 1, out_features: 2}]}\n"
            "b: !@ 'a[args][0].out_features'\n",
            2,
        ),
    ],
)
def test_links_read_what_objects_hold(config: str, value: Any, tmp_path: Path) -> None:
    """Instance attributes, slots, fields, items, arguments of components, plain constants of classes."""
    path = with_config(tmp_path / "s", config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the layers have no weights
        assert load(path, strict=False)["b"] == value
    assert (untrusted(path), RAN) == ([], [])


def test_links_read_the_tables_of_modules() -> None:
    """Parameters, buffers and submodules are held, through any number of modules."""
    layer = Layer()
    found = [held_attribute(layer, name) for name in ("weight", "scale", "inner")]
    assert [id(item) for item in found] == [id(layer.weight), id(layer.scale), id(layer.inner)]
    assert held_attribute(held_attribute(layer, "inner"), "out_features") == 4
    assert held_item(nn.ModuleDict({"a": layer}), "a") is held_item(nn.ModuleList([layer]), "0") is layer


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        ("a: !attr.Sized {}\nb: !@ a.width\n", f"{HERE}.Sized.width", 4),
        ("a: !attr.Guessing {}\nb: !@ a.unheard\n", f"{HERE}.Guessing.__getattr__", 5),
        ("a: !attr.Sized {}\nb: !@ a.shared\n", f"{HERE}.Sized.shared", {}),
        (f"a: !{HERE}.Point {{}}\nb: !@ a.y\n", f"{HERE}.Point.y", 7),
    ],
)
def test_what_a_class_computes_needs_trust(config: str, name: str, value: Any, tmp_path: Path) -> None:
    """A property is refused by name, listed by an audit, and read with that trust and no more."""
    path = with_config(tmp_path / "s", config)
    with pytest.raises(UntrustedError, match="not what an object holds") as caught:
        load(path)
    rows = untrusted(path)
    assert [row.argument for row in rows] == [f"trusted=['{name}']"]
    assert list(caught.value.rows) == rows
    assert RAN == []
    assert load(path, trusted=[name])["b"] == value


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ("a: !attr.Sized {size: !attr.Sized {}}\nb: !@ a.size.width\n", ["Sized.width"]),
        ("a: !attr.Sized {size: !attr.Sized {}}\nb: !@ a[size].width\n", ["Sized.width"]),
        (
            f"a: !{HERE}.Point {{x: !{HERE}.Point {{x: !attr.Guessing {{}}}}}}\nb: !@ a.x.x.odd\n",
            ["Guessing.__getattr__"],
        ),
        (f"a: [!{HERE}.Point {{x: !attr.Sized {{}}}}]\nb: !@ a[0].x\nc: !@ b.width\nd: !@ c\n", ["Sized.width"]),
        (
            f"a: !attr.Sized {{}}\nb: !{HERE}.Point {{x: !@ a}}\nc: !@ b.x.width\nd: !@ b.y\n",
            ["Sized.width", "Point.y"],
        ),
        (
            "a: !edited {object: !attr.Sized {}, changes: {'': {attributes: {depth: !attr.Sized {}}}}}\n"
            "b: !@ a.depth.width\n",
            ["Sized.width"],
        ),
        (
            "a: !edited {object: !attr.Sized {}, changes: {'': {attributes: {depth: 1}}}}\nb: !@ a.width\n",
            ["Sized.width"],
        ),
    ],
)
def test_all_that_links_read_is_listed_before(config: str, names: list[str], tmp_path: Path) -> None:
    """Through fields, arguments, changes, containers and other links; with all of it trusted the save loads."""
    path = with_config(tmp_path / "s", config)
    rows = untrusted(path)
    assert [row.argument for row in rows] == [f"trusted=['{HERE}.{name}']" for name in names]
    assert not any("what it gives" in row.what for row in rows)
    with pytest.raises(UntrustedError) as caught:
        load(path)
    assert list(caught.value.rows) == rows
    assert RAN == []
    load(path, trusted=[f"{HERE}.{name}" for name in names])


def test_a_row_says_what_comes_after_it(tmp_path: Path) -> None:
    """What a property gives is known once it has run; so are the rows for what is read of that."""
    path = with_config(tmp_path / "s", "a: !attr.Sized {}\nb: !@ a.width.real\n")
    (row,) = untrusted(path)
    assert row.argument == f"trusted=['{HERE}.Sized.width']"
    assert "what it gives tells whether 'real' of it needs trust too" in row.what
    with pytest.raises(UntrustedError) as caught:
        load(path)
    assert (list(caught.value.rows), RAN) == ([row], [])
    with pytest.raises(UntrustedError) as caught:
        load(path, trusted=[f"{HERE}.Sized.width"])
    assert [row.argument for row in caught.value.rows] == ["trusted=['builtins.int.real']"]
    assert load(path, trusted=[f"{HERE}.Sized.width", "builtins.int.real"])["b"] == 4


def test_an_audit_keeps_what_only_the_load_could_see(tmp_path: Path) -> None:
    """Where the config does not tell the class, the error still has the row."""
    path = with_config(tmp_path / "s", "a: !attr.Making {}\nb: !@ a.made.width\n")
    assert untrusted(path) == []
    with pytest.raises(UntrustedError) as caught:
        load(path)
    assert [row.argument for row in caught.value.rows] == [f"trusted=['{HERE}.Sized.width']"]
    assert RAN == []


def test_methods_are_functions_whoever_defines_them(tmp_path: Path) -> None:
    """No trust in names makes a link give a method."""
    path = with_config(tmp_path / "s", "a: !attr.Sized {}\nb: !@ a.get_state\n")
    for trusted in ([], ["flambe_save", HERE]):
        with pytest.raises(LinkError, match="leads to the function 'get_state'"):
            load(path, trusted=trusted)


def test_a_program_reads_what_it_likes_and_saves_it_as_a_value(tmp_path: Path) -> None:
    """Outside of a load a link reads a property; a save writes what it gave, which needs no trust."""
    built = yaml.load("!attr.Sized {size: !attr.Sized {width: 4}, width: !@ size.width, depth: !@ size.size}")()
    assert (built._width, built._depth) == (8, 1)
    path = Path(save(built, tmp_path / "s"))
    text = (path / "config.yaml").read_text()
    assert "width: 8\n" in text
    assert "depth: !@ size.size\n" in text
    assert load(path)._width == 8


def test_nothing_is_hashed_or_compared_to_find_what_describes_it(tmp_path: Path) -> None:
    """A load keeps what it knows of objects by identity."""
    path = with_config(tmp_path / "s", f"a: !{HERE}.Hashed {{}}\nb: !@ a.x\nc: [!@ a]\n")
    assert load(path)["b"] == 1
    assert RAN == []


def test_a_property_in_place_of_a_field_is_not_run(tmp_path: Path) -> None:
    """A dataclass whose field is shadowed by a property is refused, or filled, without it."""
    path = with_config(tmp_path / "s", f"a: !{HERE}.Shadowed {{x: 4}}\nb: !@ a.x\n")
    assert load(path)["b"] == 4
    assert RAN == []


# ------------------------------------------------------------------------------------------------ every class


def _reachable() -> Iterator[type]:
    """Yield each class of this process that a default load may make objects of."""
    seen: set[int] = set()  # by their ids: a metaclass may hash its classes itself
    waiting: list[type] = [object]
    while waiting:
        for cls in type.__subclasses__(waiting.pop()):
            if id(cls) in seen:
                continue
            seen.add(id(cls))
            waiting.append(cls)
            path = dotted_path(cls)
            for tag in (path, f"{path}.{PARTS}"):
                try:
                    if TAGS.resolve(tag, None, Trust().allows)[0] is cls:
                        yield cls
                        break
                except (FlambeSaveError, ImportError):
                    continue
    yield from (random.Random, torch.Generator)


def _bare(cls: Any) -> Any:
    """Return an object of a class whose constructor has not run; None where there is no such thing."""
    try:
        if issubclass(cls, tuple):
            return tuple.__new__(cls, [1] * len(getattr(cls, "_fields", ())))
        if issubclass(cls, BaseException):
            return None
        if issubclass(cls, torch.Tensor):
            return torch.Tensor._make_subclass(cls, torch.ones(2))
        return object.__new__(cls)
    except TypeError:
        pass
    try:
        return cls()
    except Exception:
        return None


def test_no_attribute_of_any_class_runs_code() -> None:
    """Of each class that a default load can build, each name is looked up; nothing but this package's code runs."""
    for name in (
        "transformers",
        "transformers.trainer",
        "accelerate",
        "peft",
        "timm",
        "numpy.random",
        "torch_geometric",
    ):
        with warnings.catch_warnings(), contextlib.suppress(ImportError):
            warnings.simplefilter("ignore")  # of libraries about each other
            importlib.import_module(name)
    classes = [*dict.fromkeys(_reachable())]
    ours = str(Path(sys.modules["flambe_save"].__file__ or "").parent)
    ran: list[str] = []

    def hook(frame: Any, event: str, _: Any) -> None:
        if event == "call" and not frame.f_code.co_filename.startswith((ours, __file__)):
            ran.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")

    counts = {"made": 0, "not made": 0, "held": 0}
    for cls in classes:
        obj = _bare(cls)
        if obj is None:
            counts["not made"] += 1
            continue
        names = {name for base in cls.__mro__ for name in vars(base)} | {"never_heard_of"}
        before = set(sys.modules)
        gc.disable()  # others' callbacks would count
        sys.setprofile(hook)
        try:
            schema_of(obj)
            for name in names:
                try:
                    held_attribute(obj, name)
                except AttributeError:
                    continue
                counts["held"] += 1
        finally:
            sys.setprofile(None)
            gc.enable()
        assert ran == [], cls
        assert set(sys.modules) == before, cls
        counts["made"] += 1
    assert counts["made"] > 500, counts
    assert counts["held"] > 5000, counts
    assert counts["not made"] < counts["made"] / 10, counts


def test_attributes_of_objects_of_one_class() -> None:
    """Each has its own, whatever the last object of its class had; what is registered later is none."""

    class Some(nn.Module):
        pass

    first, second, third = Some(), Some(), Some()
    first.one, second.one, third.two = 1, 2, 3
    assert [attributes_of(item) for item in (first, second, third)] == [{"one": 1}, {"one": 2}, {"two": 3}]
    second.one = 4
    second.two = 5
    assert [attributes_of(item) for item in (first, second, third)] == [{"one": 1}, {"one": 4, "two": 5}, {"two": 3}]
    second._registered_attributes = {"one"}
    assert "one" not in attributes_of(second)
    second._registered_attributes = {"two"}
    assert "two" not in attributes_of(second)
    assert attributes_of(second)["one"] == 4
    second._dynamo_note = 6
    assert "_dynamo_note" not in attributes_of(second)
    lstm = nn.LSTM(2, 2)
    assert "_flat_weights" not in {**attributes_of(lstm), **attributes_of(nn.LSTM(2, 2))}
