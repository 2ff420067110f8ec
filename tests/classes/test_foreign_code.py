"""Objects with code of their own that raises, and containers that another thread changes: an error of ours, by name."""

from __future__ import annotations

import collections
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import Component, FlambeSaveError, SaveError, load, recording, save
from flambe_save.adapters import collecting


class Raised(Exception):
    """What the classes below raise."""


def refuse(*args: Any, **kwargs: Any) -> Any:
    """Raise, whatever is asked."""
    raise Raised("not now")


class Irrep(tuple):  # type: ignore[type-arg]
    """A tuple that has no length, and cannot be gone through."""

    __len__ = __iter__ = refuse


class Degree(tuple):  # type: ignore[type-arg]
    """A tuple whose class is called with its items one by one, which pickle does not do."""

    def __new__(cls, degree: int, parity: int) -> Any:
        return super().__new__(cls, (degree, parity))


class Keyed:
    """Is made of an argument that pickle does not have."""

    __slots__ = ("name",)

    def __new__(cls, key: int) -> Any:
        return super().__new__(cls)


class Missing(collections.abc.Mapping):  # type: ignore[type-arg]
    """A mapping that raises where a value is missing, as a config with placeholders does."""

    def __init__(self, **values: Any) -> None:
        self.own = values

    def __getitem__(self, key: str) -> Any:
        return refuse() if self.own[key] == "???" else self.own[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)


class Fallback:
    """Raises another error than AttributeError for what it does not have."""

    __getattr__ = refuse


class Guarded(collections.UserDict):  # type: ignore[type-arg]
    """A mapping that keeps its items elsewhere, and gives none."""

    __getitem__ = refuse


KEPT: dict[str, Any] = {
    "tuple": Irrep((2, 1)),
    "constructed": Degree(2, 1),
    "mapping": Missing(size=3, path="???"),
    "fallback": Fallback(),
    "guarded": Guarded(a=1),
}
UNDER_PICKLE = {
    "list": type("Refusing", (list,), {"__iter__": refuse}),
    "dict": type("Refusing", (dict,), dict.fromkeys(("items", "keys", "values", "__iter__", "__len__"), refuse)),
    "ordered": type("Refusing", (collections.OrderedDict,), dict.fromkeys(("items", "keys", "__iter__"), refuse)),
    "set": type("Refusing", (set,), {"__iter__": refuse}),
    "deque": type("Refusing", (collections.deque,), {"__iter__": refuse, "__len__": refuse}),
}


class Holder(Component):
    """Is given anything."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Net(nn.Module):
    """Has anything as an attribute."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


PLACES: dict[str, Callable[[Any], Any]] = {
    "root": lambda value: value,
    "dict": lambda value: {"config": value, "epoch": 3},
    "list": lambda value: [[value], nn.Linear(1, 1)],
    "argument": Holder,
    "attribute": Net,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KEPT)
def test_objects_that_raise_where_they_are_looked_into_are_kept(tmp_path: Path, kind: str, place: str) -> None:
    """It is saved as it is: its class's methods are not asked what it holds, neither then nor by a load."""
    with recording():
        obj = PLACES[place](KEPT[kind])
    again = load(save(obj, tmp_path / "save"))
    again = {
        "root": lambda: again,
        "dict": lambda: again["config"],
        "list": lambda: again[0][0],
        "argument": lambda: again.value,
        "attribute": lambda: again.value,
    }[place]()
    assert type(again) is type(KEPT[kind])
    if kind == "tuple":
        assert (again[0], again[1]) == (2, 1)
    elif kind == "constructed":
        assert again == (2, 1)
    elif kind == "mapping":
        assert again.own == {"size": 3, "path": "???"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", UNDER_PICKLE)
def test_what_cannot_even_be_pickled_is_refused_by_name(tmp_path: Path, kind: str, place: str) -> None:
    """Where pickle itself runs the method that raises, the error is ours."""
    value = UNDER_PICKLE[kind]()
    kind_of = {dict: {"a": 1}, collections.OrderedDict: {"a": 1}}.get(type(value).__bases__[0], [1])
    type(value).__bases__[0].__init__(value, kind_of)
    with pytest.raises(FlambeSaveError, match=r"Refusing"):
        save(PLACES[place](value), tmp_path / "save")
    assert not (tmp_path / "save").exists()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [Keyed(3)])
def test_what_pickle_would_write_and_never_read_is_refused(tmp_path: Path, value: Any, place: str) -> None:
    """A class that takes other arguments than pickle has is named at the save, and not at a load months later."""
    with pytest.raises(
        FlambeSaveError, match=rf"{type(value).__name__}.*cannot be made again by pickle.*(\n.*)?__getnew"
    ):
        save(PLACES[place](value), tmp_path / "save")
    assert not (tmp_path / "save").exists()


class RefusesState(nn.Module):
    """A module whose state_dict raises."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Raise."""
        refuse()


def test_a_state_dict_that_raises_is_named(tmp_path: Path) -> None:
    """The error says which part it is."""
    with pytest.raises(SaveError, match=r"RefusesState.*not now.*node 'a\.b'"):
        save({"a": {"b": RefusesState()}}, tmp_path / "save")


CHANGES: dict[str, Callable[[dict[Any, Any], int], Any]] = {
    "numbers": lambda own, step: own.__setitem__(f"key {step % 50}", step),
    "tensors": lambda own, step: own.__setitem__(f"key {step % 50}", torch.ones(step % 5)),
    "modules": lambda own, step: own.__setitem__(f"key {step % 20}", nn.Linear(1, 1)),
    "nested": lambda own, step: own.__setitem__(f"key {step % 50}", {"a": [step, torch.ones(1)]}),
}


class Plain:
    """An object of attributes."""


class Registered(Component):
    """Saves a dict by itself."""

    def __init__(self) -> None:
        self.own: Any = {}
        self.register_attrs("own")


def holding(own: Any, where: str) -> Any:
    """Return an object that holds a dict."""
    if where == "registered":
        made = Registered()
        made.own = own
        return made
    if where == "attribute":
        return Net(own)
    return {"own": own, "model": nn.Linear(2, 2)} if where == "dict" else {"a": [own]}


@pytest.mark.filterwarnings("ignore::flambe_save.NeedsTrustWarning")
@pytest.mark.parametrize("where", ["dict", "list", "registered", "attribute", "ordered", "large"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_dict_that_another_thread_changes_is_saved_whole_or_refused(
    tmp_path: Path, change: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bare error of Python, and never a save that no load takes."""
    own: Any = collections.OrderedDict() if where == "ordered" else {}
    own.update((str(number), number) for number in range(12_000 if where == "large" else 0))
    stop = threading.Event()

    def work() -> None:
        step = 0
        while not stop.is_set():
            CHANGES[change](own, step)
            own.pop(f"key {step * 7 % 50}", None)
            step += 1

    obj = holding(own, {"ordered": "dict", "large": "dict"}.get(where, where))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=work)
    thread.start()
    saved, refused = [], []
    try:
        for number in range(3):
            try:
                saved.append(save(obj, tmp_path / str(number)))
            except SaveError as error:
                refused.append(str(error))
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
    assert all("changed while it was being saved" in text for text in refused)
    assert len(saved) + len(refused) == 3
    for path in saved:
        assert type(load(path, weights_only=False)) is type(obj)


def test_what_changed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here something is added just when the config is about to be written."""
    run = {"model": nn.Linear(1, 1), "history": {"losses": [torch.zeros(1)]}}
    write = collecting.config_text

    def adding(obj: Any, *rest: Any) -> Any:
        run["history"]["losses"].append(torch.ones(1))  # type: ignore[index]
        return write(obj, *rest)

    monkeypatch.setattr(collecting, "config_text", adding)
    with pytest.raises(SaveError, match=r"(?s)'history\.losses', a list changed.*Another thread"):
        save(run, tmp_path / "save")
    assert [*tmp_path.iterdir()] == []


def registered() -> tuple[Any, Callable[[], None]]:
    """Return a component with an empty registered dict, and what puts a module into it."""
    made = Registered()
    return made, lambda: made.own.update(late=nn.Linear(1, 1))


def module() -> tuple[Any, Callable[[], None]]:
    """Return a module, and what gives it a child."""
    made = Net({})
    return made, lambda: made.add_module("late", nn.Linear(1, 1))


def attribute() -> tuple[Any, Callable[[], None]]:
    """Return a plain object, and what gives it a tensor."""
    made = Plain()
    return made, lambda: setattr(made, "late", torch.ones(1))


@pytest.mark.parametrize("make", [registered, module, attribute])
def test_an_object_that_gets_a_child_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], tuple[Any, Callable[[], None]]]
) -> None:
    """An empty container has no children to look at: its owner has one child more afterwards."""
    obj, change = make()
    write = collecting.config_text

    def changing(*args: Any) -> Any:
        change()
        return write(*args)

    monkeypatch.setattr(collecting, "config_text", changing)
    with pytest.raises(SaveError, match=rf"this {type(obj).__name__} changed while it was being saved"):
        save(obj, tmp_path / "save")
    assert [*tmp_path.iterdir()] == []
