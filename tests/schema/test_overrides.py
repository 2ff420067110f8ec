"""Overrides: a load with other arguments than the config has, checked against it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import Component, ConfigError, StateMismatchError, StateMismatchWarning, load, save


class Tagger(Component, nn.Module):
    def __init__(self, size: int, head: nn.Module, rate: float = 0.1, names: Any = ()) -> None:
        super().__init__()
        self.body, self.head, self.rate, self.names = nn.Linear(size, size), head, rate, names


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.rate = nn.Linear(2, 2), 0.1
        self.blocks = nn.ModuleList([nn.Dropout(0.1), nn.Dropout(0.2)])


def test_arguments_modules_attributes_keys_and_items(tmp_path: Path) -> None:
    """Whatever a config holds is found by the names that it has in the object."""
    path = save(Tagger(2, nn.Linear(2, 2), names=[1, 2]), tmp_path / "a")
    again = load(path, overrides={"rate": 0.7, "names.1": 5, "head": nn.Linear(2, 2)})
    assert (again.rate, again.names) == (0.7, [1, 5])
    assert load(save(again, tmp_path / "b")).rate == 0.7  # it is what the object was built with
    plain = load(save(Plain(), tmp_path / "c"), overrides={"rate": 0.7, "blocks.1.p": 0.5})
    assert (plain.rate, plain.blocks[0].p, plain.blocks[1].p) == (0.7, 0.1, 0.5)
    run = {"model": nn.Sequential(OrderedDict(drop=nn.Dropout(0.1))), "epoch": 3, "scores": {"a.b": 1}}
    path = save(run, tmp_path / "run")
    again = load(path, overrides={"model.drop.p": 0.5, "epoch": 4, "scores.a%2Eb": 2})
    assert (again["model"].drop.p, again["epoch"], again["scores"]) == (0.5, 4, {"a.b": 2})
    assert load(path, node="model", overrides={"drop.p": 0.5}).drop.p == 0.5


def test_an_edited_object_is_overridden_as_it_is(tmp_path: Path) -> None:
    """What was changed since an object was built is overridden where it stands now, arguments in the call."""
    model = Tagger(2, nn.Linear(2, 2))
    model.head = nn.Dropout(0.1)  # type: ignore[assignment]
    path = save(model, tmp_path / "run")
    again = load(path, overrides={"head.p": 0.5, "rate": 0.7})
    assert (again.head.p, again.rate) == (0.5, 0.7)


def test_sizes_that_no_longer_fit(tmp_path: Path) -> None:
    """A new size is an error that names both ways on; without strict the layer stays as it was built."""
    model = Tagger(2, nn.Linear(2, 2))
    path = save(model, tmp_path / "run")
    overrides = {"head.out_features": 5}
    with pytest.raises(StateMismatchError, match=r"(?s)size mismatch for head.weight.*overrides=, strict=False leaves"):
        load(path, overrides=overrides)
    with pytest.warns(StateMismatchWarning, match=r"size mismatch for head\.weight: \(2, 2\) in the save, \(5, 2\)"):
        again = load(path, overrides=overrides, strict=False)
    assert again.head.weight.shape == (5, 2)
    assert again.head.weight.isfinite().all()
    assert torch.equal(again.body.weight, model.body.weight)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("head.out_featurs", r"(?s)'head' of the config has no 'out_featurs'.*'head.out_features'"),
        ("out_features", r"(?s)the config has no 'out_features'.*'head.out_features'"),
        ("head.weight.x", "no 'weight'"),
        ("rte", r"(?s)no 'rte'.*'rate'"),
        ("names.7", "no '7'"),
        ("size.x", "no 'x'"),
        ("", "overrides map names"),
    ],
)
def test_unknown_names_are_refused(tmp_path: Path, name: str, match: str) -> None:
    """A name that the config does not have is an error with names that are near, before anything is built."""
    path = save(Tagger(2, nn.Linear(2, 2), names=[1]), tmp_path / "run")
    with pytest.raises(ConfigError, match=match):
        load(path, overrides={name: 1})


class Head(Component, nn.Module):
    """Makes its layer of an argument."""

    def __init__(self, out_features: int = 2, padding: str | int = 0) -> None:
        super().__init__()
        self.layer, self.padding = nn.Linear(4, out_features), padding


@pytest.mark.parametrize("outer", ["", "head."])
def test_a_part_that_was_changed_later_stays_and_is_named(outer: str, tmp_path: Path) -> None:
    """The argument of its constructor does not change it; its own arguments do."""
    head = Head(2)
    head.layer = nn.Linear(4, 9)
    path = save(Tagger(2, head) if outer else head, tmp_path / "run")
    with pytest.warns(
        StateMismatchWarning, match=f"'{outer}out_features' does not change '{outer}layer': the save has"
    ):
        again = load(path, overrides={f"{outer}out_features": 3})
    assert again.get_submodule(f"{outer}layer").out_features == 9
    with pytest.warns(StateMismatchWarning, match="size mismatch"):
        again = load(path, overrides={f"{outer}layer.out_features": 5}, strict=False)
    assert again.get_submodule(f"{outer}layer").out_features == 5


def test_a_text_for_a_number(tmp_path: Path) -> None:
    """It is an error, as is a number for a text, where the annotation does not have both; None is no such thing."""
    path = save({"head": Head(), "plain": Plain(), "name": "a"}, tmp_path / "run")
    for name, value in {"head.out_features": "5", "plain.rate": "x", "name": 3}.items():
        with pytest.raises(
            ConfigError, match=f"override '{name}' is a (number|text) in the save, .* is a (text|number)"
        ):
            load(path, overrides={name: value})
    again = load(path, overrides={"head.padding": "same", "plain.rate": None, "name": None})
    assert (again["head"].padding, again["plain"].rate, again["name"]) == ("same", None, None)
    assert load(path, overrides={"plain.rate": 1})["plain"].rate == 1
