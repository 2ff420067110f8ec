"""What a save says of trust: a door that opens it, the same that a load names, once, in three lines; or no save."""

from __future__ import annotations

import ast
import collections
import functools
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flambe_save import (
    Component,
    NeedsTrustWarning,
    UnsupportedObjectError,
    UntrustedError,
    load,
    save,
    save_async,
    untrusted,
)
from flambe_save.trust import door_of


def scaled(x: torch.Tensor, by: float = 1.0) -> torch.Tensor:
    """Return a scaled tensor."""
    return x * by


class Copied(nn.Module):
    """A module whose class says itself how it is copied, so that it is pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol)


class Opaque:
    """Holds anything, and is pickled."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __reduce__(self) -> Any:
        return type(self), (self.held,)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and str(other.held) == str(self.held)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.held!r})"

    __hash__ = None  # type: ignore[assignment]


RAN: list[str] = []  # what the classes below have done


class Noting:
    """Notes whatever unpickling does with it."""

    def __new__(cls, *arguments: Any) -> Any:
        RAN.append("__new__")
        return super().__new__(cls)

    def __init__(self, held: Any = None) -> None:
        RAN.append("__init__")
        self.held = held

    def __reduce__(self) -> Any:
        return type(self), (self.held,), {"more": 1}, iter([self.held]), iter([(1, 2)])

    def __setstate__(self, state: Any) -> None:
        RAN.append("__setstate__")

    def append(self, item: Any) -> None:
        """Take an item."""
        RAN.append("append")

    def __setitem__(self, key: Any, value: Any) -> None:
        RAN.append("__setitem__")


class Loose(Opaque):
    """Made by a function, which gives no sign of what it makes, and then filled."""

    def __reduce__(self) -> Any:
        return make_loose, (), {"held": "filled"}


def make_loose() -> Loose:
    """Make one."""
    RAN.append("make_loose")
    return Loose("")


class Broken:
    """Pickles, and never unpickles."""

    def __reduce__(self) -> Any:
        return type(self), ("an argument that it does not take",)


class Shut:
    """Holds a lock, which nothing pickles by name or by value."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Held(nn.Module):
    """Holds a function of this module, with a text filled in."""

    def __init__(self) -> None:
        super().__init__()
        self.act = functools.partial(scaled, by="two")


def said_by(call: Callable[[], Any]) -> list[str]:
    """Return the messages of the warnings about trust."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught if warning.category is NeedsTrustWarning]


def door_in(text: str) -> dict[str, Any]:
    """Return the argument of a load that a message names."""
    found = re.search(r"trusted=(\[.*?\])|weights_only=False", text)
    assert found is not None, text
    return {"trusted": ast.literal_eval(found[1])} if found[1] else {"weights_only": False}


OBJECTS: dict[str, Callable[[], Any]] = {
    "a pickled module": Copied,
    "a function in a module": Held,
    "numpy's generator in an object": lambda: Opaque(np.random.RandomState(3)),
    "an array of objects": lambda: Opaque(np.array(["a", 1], dtype=object)),
    "a type in an object": lambda: Opaque((int, dict, range(3))),
    "an iterator": lambda: {"rows": iter([1, 2])},
    "a lambda": lambda: {"act": lambda x: x},
    "a UserDict": lambda: {"a": collections.UserDict(a=1), "model": nn.Linear(2, 2)},
    "more than one name of Python 2": lambda: {
        "a": [collections.UserDict(a=1), collections.ChainMap({1: 2}), collections.UserList([1])],
        "model": nn.Linear(2, 2),
    },
    "a masked array": lambda: Opaque(np.ma.array([1, 2], mask=[0, 1])),
    "a masked array and one of objects": lambda: {
        "o": np.array([1, None], dtype=object),
        "m": np.ma.array([1, 2], mask=[0, 1]),
    },
    "generators": lambda: {"rows": iter([np.random.default_rng(1), np.random.PCG64(1)])},
    "what a function makes": lambda: Opaque([Loose("filled")]),
    "a class that is data": lambda: Opaque((collections.OrderedDict, {"a": set})),
    "a class that is data, in a list": lambda: Opaque([[{"a": (collections.OrderedDict,)}]]),
    "in a dict": lambda: {"one": Opaque(slice(1, 2)), "model": nn.Linear(2, 2)},
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("how", [{}, {"pickle_only": True}], ids=["folder", "pickle"])
def test_the_door_that_is_named_opens_it(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    """The save and the load name the same argument, in three lines at most, and with it the save loads."""
    obj = OBJECTS[name]()
    (said,) = said_by(lambda: save(obj, tmp_path / "s", **how))
    path = tmp_path / ("s.pkl" if how else "s")
    assert said.count("\n") <= 2
    with pytest.raises(UntrustedError) as caught:
        load(path)
    assert door_in(str(caught.value).partition("load(...")[2]) == door_in(said)
    again = load(path, **door_in(said))
    assert type(again) is type(obj)
    assert not isinstance(obj, Opaque) or again == obj


def test_each_cause_is_told_once(tmp_path: Path) -> None:
    """Whatever the path is, and whoever saves; another class is another cause."""
    assert len(said_by(lambda: save(Opaque(1), tmp_path / "a"))) == 1
    assert said_by(lambda: save(Opaque(2), tmp_path / "b")) == []
    assert said_by(lambda: save_async({"again": Opaque(3)}, tmp_path / "c").result()) == []
    assert len(said_by(lambda: save(Copied(), tmp_path / "d"))) == 1
    assert load(tmp_path / "c", trusted=[__name__])["again"] == Opaque(3)


def test_plain_layers_are_not_called_dangerous(tmp_path: Path) -> None:
    """A module of one nn.Linear cannot run anything; what names getattr can."""
    said_by(lambda: save(Copied(), tmp_path / "plain"))
    with pytest.raises(UntrustedError) as caught:
        load(tmp_path / "plain")
    assert "can run anything" not in str(caught.value)
    assert {row.argument for row in untrusted(tmp_path / "plain")} >= {"trusted=['test_opening.Copied']"}
    said_by(lambda: save(Opaque(Opaque(1).__eq__), tmp_path / "bound"))
    with pytest.raises(UntrustedError, match="can run anything"):
        load(tmp_path / "bound")


def test_what_no_load_opens_is_not_saved(tmp_path: Path) -> None:
    """A pickle that cannot be unpickled with any trust is refused by its place, and nothing is left."""
    with pytest.raises(UnsupportedObjectError, match=r"no load can read .*: a\[0\] is a test_opening\.Broken"):
        save({"a": [Broken()]}, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []
    shut = said_by(lambda: save(Shut(), tmp_path / "shut"))
    assert isinstance(load(tmp_path / "shut", **door_in(shut[0])), Shut)


@pytest.mark.parametrize("how", [{}, {"pickle_only": True}, {"compress": True}], ids=["folder", "pickle", "archive"])
def test_a_save_runs_nothing_that_it_pickles(how: dict[str, Any], tmp_path: Path) -> None:
    """No constructor, function or method that unpickling calls: it might do anything."""
    objects = {"noting": Noting(), "in": Opaque([Noting(), Loose(1)]), "model": nn.Linear(1, 1), "refers": None}
    objects["refers"] = Opaque([Noting(), objects["model"]])
    RAN.clear()
    said = said_by(lambda: save(objects, tmp_path / "s", **how))
    assert RAN == []
    path = next(tmp_path.iterdir())
    assert untrusted(path)
    with pytest.raises(UntrustedError):
        load(path)
    assert RAN == []
    load(path, **door_in(said[0]))
    assert {*RAN} >= {"__new__", "__init__", "__setstate__", "make_loose"}


@pytest.mark.parametrize("mode", ["w", "w+", "wb", "x"])
@pytest.mark.parametrize("where", ["alone", "in a list", "in an object", "in a function"])
@pytest.mark.parametrize("how", [{}, {"pickle_only": True}], ids=["folder", "pickle"])
def test_an_open_file_is_not_saved_and_keeps_its_content(
    mode: str, where: str, how: dict[str, Any], tmp_path: Path
) -> None:
    """A pickle of one would open it again and so empty it: at the save, or at a load. The save says so, by its name."""
    with open(tmp_path / "log", mode) as log:
        log.write(b"a month" if "b" in mode else "a month")
        log.flush()
        held = {"alone": log, "in a list": [log], "in an object": Opaque(log), "in a function": lambda: log}[where]
        with pytest.raises(UnsupportedObjectError, match=r"would open the file .*log' with mode"):
            save({"held": held, "model": nn.Linear(1, 1)}, tmp_path / "s", **how)
        assert (tmp_path / "log").read_text() == "a month"
        log.write(b" more" if "b" in mode else " more")
    assert (tmp_path / "log").read_text() == "a month more"
    assert [item.name for item in tmp_path.iterdir()] == ["log"]


class Part(Component, nn.Module):
    """Knows what it was built with."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size)


@pytest.mark.parametrize("how", [{}, {"pickle_only": True}], ids=["folder", "pickle"])
def test_a_component_that_is_only_in_a_pickle(how: dict[str, Any], tmp_path: Path) -> None:
    """The list has the caller's classes and none of ours; weights inside the pickle are counted."""
    obj = {"only": Opaque(Part(600))}
    (said,) = said_by(lambda: save(obj, tmp_path / "s", **how))
    assert door_in(said) == {"trusted": ["test_opening.Opaque", "test_opening.Part", "torch.nn"]}
    assert how or "1.4 MB of it are inside pickles" in said
    path = next(tmp_path.iterdir())
    again = load(path, **door_in(said))["only"].held
    assert torch.equal(again.layer.weight, obj["only"].held.layer.weight)
    assert load(save(again, tmp_path / "twice")).layer.in_features == 600
    with pytest.raises(UntrustedError):
        load(path, trusted=["test_opening.Opaque"])


def test_the_names_of_python_2_are_not_asked_for(tmp_path: Path) -> None:
    """Protocol 2 writes UserDict.IterableUserDict for collections.UserDict; nobody has to know."""
    said_by(lambda: save({"a": collections.UserDict(a=1)}, tmp_path / "s"))
    assert [row.argument for row in untrusted(tmp_path / "s")] == ["trusted=['collections.UserDict']"]
    assert load(tmp_path / "s", trusted=["collections.UserDict"])["a"] == {"a": 1}


def test_a_large_pickle_is_listed_and_not_tried(tmp_path: Path) -> None:
    """Of more than 16 MiB the names are read, not the values."""
    (said,) = said_by(lambda: save(Opaque(np.zeros(3 << 20)), tmp_path / "s"))
    assert door_in(said) == {"trusted": ["test_opening.Opaque"]}
    assert load(tmp_path / "s", **door_in(said)).held.shape == (3 << 20,)


def test_random_numbers_are_left_alone(tmp_path: Path) -> None:
    """Trying what was pickled draws no number of the caller's."""
    before = torch.get_rng_state()
    said_by(lambda: save(Opaque(torch.Generator().manual_seed(1).get_state()), tmp_path / "s"))
    assert torch.equal(torch.get_rng_state(), before)


def test_long_lists_name_libraries() -> None:
    """A library stands for its many classes; never Python's modules, numpy or torch, and never next to dill's code."""
    names = [f"somelib.part_{number}.Class{number}" for number in range(40)]
    assert door_of([*names, "torch.nn", "builtins.getattr"]) == "trusted=['builtins.getattr', 'somelib', 'torch.nn']"
    assert door_of(names[:2]) == f"trusted={sorted(names[:2])}"
    assert door_of([*names, "dill._dill._create_code"]) == door_of([]) == "weights_only=False"
