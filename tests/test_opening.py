"""What a save says of trust: a door that opens it, the same that a load names, once, in three lines; or no save."""

from __future__ import annotations

import ast
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

from flambe_save import NeedsTrustWarning, UnsupportedObjectError, UntrustedError, load, save, save_async, untrusted
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
        return isinstance(other, Opaque) and str(other.held) == str(self.held)

    __hash__ = None  # type: ignore[assignment]


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
    assert again == obj or not isinstance(obj, Opaque)


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
