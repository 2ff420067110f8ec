"""Filling what is there: plain values beside modules, one value read alone, and errors that change nothing."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import types
import warnings
from collections import OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flambe_save import (
    Component,
    LoadError,
    NeedsTrustWarning,
    RandomStates,
    SaveNotFoundError,
    StateMismatchError,
    StateMismatchWarning,
    UnsupportedObjectError,
    UntrustedError,
    VersionMismatchError,
    load,
    load_state,
    save,
    save_async,
    untrusted,
    verify,
)

Pair = namedtuple("Pair", "number layer")


@dataclasses.dataclass
class Settings:
    rate: float = 0.1
    names: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Frozen:
    number: int
    layer: Any = None


class Trainer:
    """A plain object that holds its model and counts."""

    def __init__(self, model: nn.Module, epoch: int) -> None:
        self.model, self.epoch, self.history = model, epoch, [epoch]


class Registered(Component):
    def __init__(self) -> None:
        self.count = 0
        self.register_attrs("count")


class Versioned(Component, nn.Module):
    _flambe_version = "1.0.0"

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


def run_of(number: int) -> dict[Any, Any]:
    """Return a run whose values all tell a number."""
    layer = nn.Linear(2, 2)
    losses = [torch.full((2,), float(number))] * number
    return {
        "model": layer,
        "epoch": number,
        "best": None if number == 1 else 0.5,
        "losses": losses,
        "same": losses,
        "pair": Pair(7, layer),
        "settings": Settings(number, ["a"] * number),
        "frozen": Frozen(number),
        "queue": deque([number, layer], maxlen=4),
        "lists": defaultdict(list, {"a": [number]}),
        "ordered": OrderedDict([(1, layer), (2, number)]),
        "trainer": Trainer(layer, number),
        "space": types.SimpleNamespace(x=number),
        "mean": torch.full((3,), float(number)),
        "mixed": [torch.full((2,), float(number)), number],
        "nested": (1, (2, number)),
        3: number,
        "set": {1, number},
        "many": list(range(10_001 + number)),
    }


def test_load_state_fills_plain_values(tmp_path: Path) -> None:
    """All that a dict holds is filled, in place where it can be changed; what is one object stays one."""
    saved, here = run_of(3), run_of(1)
    path, before = save(saved, tmp_path / "run"), dict(here)
    load_state(here, path)
    assert (here["epoch"], here["best"], here[3], here["set"], here["nested"]) == (3, 0.5, 3, {1, 3}, (1, (2, 3)))
    assert (here["settings"], here["frozen"], here["space"].x) == (Settings(3, ["a"] * 3), Frozen(3), 3)
    assert (here["queue"][0], here["lists"], here["ordered"][2], len(here["many"])) == (3, {"a": [3]}, 3, 10_004)
    assert (here["trainer"].epoch, here["trainer"].history) == (3, [3])
    assert here["trainer"].model is here["model"] is here["queue"][1] is here["ordered"][1]
    assert [loss.tolist() for loss in here["losses"]] == [[3, 3]] * 3
    assert here["losses"] is here["same"]
    assert (here["mean"].tolist(), here["mixed"][0].tolist(), here["mixed"][1]) == ([3, 3, 3], [3, 3], 3)
    assert torch.equal(here["model"].weight, saved["model"].weight)
    in_place = {*before} - {"epoch", "best", "frozen", "nested", 3}
    assert {name for name in before if here[name] is before[name]} >= in_place


def test_filled_tensors_are_not_the_files_memory(tmp_path: Path) -> None:
    """A tensor that is put in place has memory of its own: changing it changes no other tensor and no file."""
    path = save({"model": nn.Linear(1, 1), "losses": [torch.ones(2)]}, tmp_path / "run")
    one: dict[str, Any] = {"model": nn.Linear(1, 1), "losses": []}
    load_state(one, path)
    one["losses"][0].zero_()
    assert load(path, node="losses")[0].tolist() == [1, 1]


def test_values_that_a_dict_lacks_are_put_in_and_others_are_named(tmp_path: Path) -> None:
    """A plain value of the save that the dict has no key for is added; one that only the dict has is an error."""
    path = save({"model": nn.Linear(2, 2), "epoch": 7}, tmp_path / "run")
    here: dict[str, Any] = {"model": nn.Linear(2, 2)}
    load_state(here, path)
    assert here["epoch"] == 7
    here = {"model": nn.Linear(2, 2), "epoch": 0, "patience": 3}
    with pytest.raises(StateMismatchError, match="missing from the save: patience"):
        load_state(here, path)
    assert here["epoch"] == 0
    with pytest.warns(StateMismatchWarning, match="patience"):
        load_state(here, path, strict=False)
    assert here["epoch"] == 7


def test_what_cannot_be_changed_in_place_is_named(tmp_path: Path) -> None:
    """A value beside a module in a tuple or a frozen dataclass is an error where it differs, and none where not."""
    layer = nn.Linear(2, 2)
    path = save((layer, 7, Frozen(7, layer)), tmp_path / "run")
    load_state((nn.Linear(2, 2), 7, Frozen(7, nn.Linear(2, 2))), path)
    with pytest.raises(StateMismatchError, match=r"(?s)1 cannot be changed in place, and is '7' in the save.*2.number"):
        load_state((nn.Linear(2, 2), 0, Frozen(0, nn.Linear(2, 2))), path)
    with pytest.raises(StateMismatchError, match="it cannot be changed in place"):
        load_state(5, save(7, tmp_path / "number"))
    with pytest.raises(StateMismatchError, match="model is a plain value in the save, and a Linear here"):
        load_state({"model": layer}, save({"model": 5}, tmp_path / "value"))


class Other:
    """Another plain class than Trainer."""

    def __init__(self) -> None:
        self.epoch = 3


def test_an_object_of_another_class_is_not_replaced(tmp_path: Path) -> None:
    """It stays the object that it is, so it has to be of the class that was saved; a place for one may be empty."""
    path = save({"a": Other(), "n": 1}, tmp_path / "run")
    here: dict[str, Any] = {"a": Trainer(nn.Linear(2, 2), 1), "n": 0}
    with pytest.raises(StateMismatchError, match="a is a Other in the save, and a Trainer here"):
        load_state(here, path)
    assert here["n"] == 0
    kept = Other()
    kept.epoch = 9
    load_state({"a": kept, "n": 0}, path)
    assert kept.epoch == 3
    empty = {"a": None, "n": 0}
    load_state(empty, path)
    assert type(empty["a"]) is Other


def test_what_needs_trust_is_named_and_left(tmp_path: Path) -> None:
    """Values that only a trusting load reads stay as they were, and one warning names them; with trust they come."""
    with pytest.warns(NeedsTrustWarning):
        path = save({"model": nn.Linear(2, 2), "epoch": 7, "args": argparse.Namespace(size=3)}, tmp_path / "run")
    here: dict[str, Any] = {"model": nn.Linear(2, 2), "epoch": 0, "args": argparse.Namespace(size=1)}
    with pytest.warns(StateMismatchWarning, match=r"args: .*trusted=\['argparse.Namespace'\]"):
        load_state(here, path)
    assert (here["epoch"], here["args"].size) == (7, 1)
    load_state(here, path, trusted=["argparse.Namespace"])
    assert here["args"].size == 3
    less: dict[str, Any] = {"model": nn.Linear(2, 2), "epoch": 0}
    load_state(less, path)  # what is not asked for may need trust
    assert less.keys() == {"model", "epoch"}


def test_one_value_is_read_alone(tmp_path: Path) -> None:
    """`load(node=)` gives a value of a dict, list, dataclass or plain object; nothing else is built or trusted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save({**run_of(3), "args": argparse.Namespace(size=3)}, tmp_path / "run")
    expected = {"epoch": 3, "settings": Settings(3, ["a"] * 3), "settings.rate": 3, "nested": (1, (2, 3))}
    expected |= {"lists.a": [3], "trainer.epoch": 3, "trainer.history": [3], "3": 3, "pair.number": 7, "ordered.2": 3}
    assert {name: load(path, node=name) for name in expected} == expected
    assert load(path, node="best") == 0.5
    assert load(path, node="mixed")[0].tolist() == [3, 3]
    assert load(path, node="many")[-1] == 10_003
    for shape in ({"compress": True}, {"pickle_only": True}):
        assert load(save({"epoch": 7, "m": nn.Linear(1, 1)}, tmp_path / "one", **shape), node="epoch") == 7
    for name in ("nothing", "model.in_features", "trainer.model"):
        with pytest.raises(SaveNotFoundError, match=name):
            load(path, node=name)
    with pytest.raises(LoadError, match=r"(?s)holds components|components in it.*load\(path, node='pair.layer'\)"):
        load(path, node="pair")


def test_a_value_alone_needs_only_its_own_trust(tmp_path: Path) -> None:
    """A value that is more than data is refused by name; the others of the same dict are read."""
    with pytest.warns(NeedsTrustWarning):
        path = save({"epoch": 7, "args": argparse.Namespace(size=3)}, tmp_path / "run")
    assert load(path, node="epoch") == 7
    with pytest.raises(UntrustedError, match="argparse"):
        load(path, node="args")
    assert load(path, node="args", trusted=["argparse.Namespace"]).size == 3


def parts() -> dict[str, Any]:
    return {
        "first": nn.Linear(2, 2),
        "second": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
        "count": Registered(),
        "tensor": torch.zeros(2),
        "epoch": 0,
    }


def test_an_error_leaves_the_object_as_it_was(tmp_path: Path) -> None:
    """Sizes and keys are compared before anything is filled, so a mismatch changes no part of the object."""
    saved = parts()
    saved["count"].count, saved["epoch"] = 5, 7
    path = save(saved, tmp_path / "run")
    for name, other in (
        ("second", nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(3))),  # sizes
        ("second", nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))),  # keys that are missing
        ("second", nn.Sequential(nn.Linear(2, 2))),  # keys that are not wanted
        ("tensor", torch.zeros(3)),
        ("more", nn.Linear(1, 1)),
    ):
        here = {**parts(), name: other}
        before = {key: value.clone() for key, value in here["first"].state_dict().items()}
        with pytest.raises(StateMismatchError):
            load_state(here, path)
        assert all(torch.equal(before[key], value) for key, value in here["first"].state_dict().items())
        assert (here["count"].count, here["epoch"]) == (0, 0)
    here = parts()
    load_state(here, path)
    assert (here["count"].count, here["epoch"]) == (5, 7)


def test_without_strict_the_rest_is_filled_and_the_warning_lists_what_is_not(tmp_path: Path) -> None:
    """`strict=False` fills what fits, leaves a tensor of another size as it was, and names all of it."""
    path = save(parts(), tmp_path / "run")
    here = {**parts(), "second": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(3)), "tensor": torch.ones(3)}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load_state(here, path, strict=False)
    text = "\n".join(str(item.message) for item in told)
    assert "size mismatch for second.1.weight: (2,) in the save, (3,) here" in text
    assert "size mismatch for tensor: (2,) in the save, (3,) here" in text
    assert torch.equal(here["second"][0].weight, load(path, node="second")[0].weight)
    assert here["tensor"].tolist() == [1, 1, 1]


def test_a_version_that_differs_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another major version is found before the parts in front of it are filled."""
    path = save({"first": nn.Linear(2, 2), "second": Versioned()}, tmp_path / "run")
    here = {"first": nn.Linear(2, 2), "second": Versioned()}
    before = here["first"].weight.clone()
    monkeypatch.setattr(Versioned, "_flambe_version", "2.0.0")
    with pytest.raises(VersionMismatchError):
        load_state(here, path)
    assert torch.equal(here["first"].weight, before)


def test_errors_name_the_call_that_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load whose class has changed names load_state, which fills an object that the program builds."""
    path = save(Versioned(), tmp_path / "run")

    def init(self: Any) -> None:
        nn.Module.__init__(self)
        self.layer = nn.Linear(2, 3)

    monkeypatch.setattr(Versioned, "__init__", init)
    with pytest.raises(StateMismatchError, match=r"load_state\(your_model, path, strict=False\)"):
        load(path)


class Reduced(nn.Module):
    """A module that says itself how it is pickled, so a full save of it is a pickle."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def __reduce__(self) -> tuple[Any, ...]:
        return Reduced, ()


class Odd:
    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return {"state": self.state}

    def load_state_dict(self, state: Any) -> None:
        self.state = state["state"]


def resumable(number: int) -> dict[Any, Any]:
    model = Reduced()
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5)
    made = {**run_of(number), "odd": model, "optimizer": optimizer, "scheduler": scheduler, "random": RandomStates()}
    for _ in range(number):
        model.layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        scheduler.step()
    return {**made, "args": argparse.Namespace(size=number), "call": print, "numpy": np.float64(number)}


@pytest.mark.parametrize("shape", [{}, {"compress": True}, {"pickle_only": True}])
def test_a_save_without_building_resumes(tmp_path: Path, shape: dict[str, Any]) -> None:
    """`build=False` writes states and plain values: no pickle, no warning, whatever the classes are."""
    saved, here = resumable(3), resumable(1)
    path = save(saved, tmp_path / "run", build=False, **shape)
    assert (untrusted(path), verify(path)) == ([], [])
    with pytest.warns(StateMismatchWarning, match=r"(?s)args: save\(..., build=False\) left it out.*call: "):
        load_state(here, path)
    assert (here["epoch"], here["numpy"], here["trainer"].epoch, here["settings"].rate) == (3, 3.0, 3, 3)
    assert torch.equal(here["odd"].layer.weight, saved["odd"].layer.weight)
    assert here["optimizer"].state[here["odd"].layer.weight]["step"] == 3
    assert (here["scheduler"].last_epoch, here["args"].size, len(here["losses"])) == (3, 1, 3)
    assert load(path, node="epoch") == 3
    for node in ("", "odd", "args"):
        with pytest.raises(LoadError, match=r"(?s)save\(\.\.\., build=False\).*load_state\(obj, path"):
            load(path, node=node)


def test_a_save_without_building_is_data(tmp_path: Path) -> None:
    """A state that is more than data is refused by name, and nothing is left; a lone module is filled as well."""
    with pytest.raises(UnsupportedObjectError, match=r"more than data.*state\.pt"):
        save({"odd": Odd(argparse.Namespace())}, tmp_path / "run", build=False)
    assert list(tmp_path.iterdir()) == []
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    load_state(other, save_async(one, tmp_path / "one", build=False).result())
    assert torch.equal(one.weight, other.weight)


def test_an_optimizer_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    """Groups and parameters are compared before the model is filled."""
    model = nn.Linear(2, 2)
    path = save({"model": model, "optimizer": torch.optim.Adam(model.parameters())}, tmp_path / "run")
    for parameters in (nn.Linear(3, 3).parameters(), [nn.Parameter(torch.ones(1))]):
        here = {"model": nn.Linear(2, 2), "optimizer": torch.optim.Adam([{"params": [p]} for p in parameters])}
        before = here["model"].weight.clone()
        with pytest.raises(StateMismatchError, match="fill it together with its model"):
            load_state(here, path)
        assert torch.equal(here["model"].weight, before)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not list what is open")
def test_no_file_stays_open_until_garbage_is_collected(tmp_path: Path) -> None:
    """What a fill or a list of what needs trust has read is let go of at its end."""
    model = nn.Linear(200, 200)
    path = save(model, tmp_path / "run")
    for call in (lambda: load_state(model, path), lambda: untrusted(path)):
        call()
        gc.collect()
        before = os.listdir("/proc/self/fd")
        gc.disable()
        try:
            call()
            assert os.listdir("/proc/self/fd") == before
        finally:
            gc.enable()
