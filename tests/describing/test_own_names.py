"""Functions and classes that an object holds: its own need no trust, all others do, and none runs in a load."""

from __future__ import annotations

import functools
import os.path
import shutil
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.saves import with_config
from test_edits import attempt
from torch import nn

from flambe_save import CompilationError, Component, UntrustedError, load, save, untrusted

RAN: list[str] = []


def swish(x: Any) -> Any:
    """One of this module's own functions."""
    RAN.append("swish")
    return x * torch.sigmoid(x)


class Kind:
    """One of its classes."""


class Layer(nn.Module):
    """Holds what it is given."""

    def __init__(self, act: Any, others: Any = None) -> None:
        super().__init__()
        self.act, self.others = act, others
        self.linear = nn.Linear(2, 2)

    @staticmethod
    def half(x: Any) -> Any:
        """Return a half."""
        return x / 2

    def forward(self, x: Any) -> Any:
        return self.act(self.linear(x))


@pytest.mark.parametrize(
    "around", [nn.Sequential, lambda layer: nn.ModuleList([layer]), lambda x: nn.ModuleDict({"x": x})]
)
def test_own_ones_are_kept_inside_torch_containers(around: Any, tmp_path: Path) -> None:
    """These only keep the layer that they are given."""
    path = save(around(Layer(swish, Kind)), tmp_path / "save")
    assert untrusted(path) == []
    (again,) = load(path).children()
    assert again.act is swish
    assert again.others is Kind


class Built(Component):
    """Calls what it is given."""

    def __init__(self, act: Any) -> None:
        self.value = act(torch.ones(1))


@pytest.mark.parametrize(
    ("act", "others"),
    [
        (swish, {"kinds": [Kind, swish]}),
        (Layer.half, None),
        (functools.partial(swish), [functools.partial(swish, 1, y=None, z=[0.5, True])]),
        (torch.relu, (nn.init.zeros_, nn.functional.gelu)),
        (torch.tanh, [np.float32, np.int8, np.bool_, int, Any]),
    ],
)
def test_own_and_harmless_ones_need_no_trust(act: Any, others: Any, tmp_path: Path) -> None:
    """They come back as the very same, and none is called."""
    model = Layer(act, others)
    path = save(model, tmp_path / "save")
    RAN.clear()
    assert untrusted(path) == []
    again = load(path)
    assert RAN == []
    assert again.act is act or again.act.func is act.func
    assert repr(again.others) == repr(others)
    x = torch.ones(1, 2)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    "act",
    [shutil.which, os.path.join, torch.is_tensor, torch.hub.get_dir, attempt, np.ones, functools.partial(swish, x="a")],
    ids=lambda act: getattr(act, "__qualname__", "partial"),
)
def test_others_need_trust(act: Any, tmp_path: Path) -> None:
    """Functions of other libraries, of Python, torch and numpy, and one with arguments of the config's choice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save(Layer(act), tmp_path / "save")
    with pytest.raises(UntrustedError):
        load(path)
    names = [row.argument.removeprefix("trusted=['").removesuffix("']") for row in untrusted(path)]
    again = load(path, trusted=names)
    assert again.act is act or again.act.func is act.func


CONFIGS = {
    "to a constructor": "!test_own_names.Built {act: !function test_own_names.swish}",
    "in an object that a constructor gets": "!test_own_names.Built {act: !test_own_names.Layer.parts "
    "{attributes: {act: !function test_own_names.swish}}}",
    "in a container of a constructor": "!test_own_names.Built {act: [!function test_own_names.swish]}",
    "of no object": "[!function test_own_names.swish]",
    "in an object of another library": "!test_edits.Picture.parts {attributes: {act: !function test_own_names.swish}}",
    "under an alias": "a: !test_own_names.Layer.parts {attributes: {act: &a [!function test_own_names.swish]}}\n"
    "b: !test_own_names.Built {act: *a}",
    "in a list, behind a link": "a: !test_own_names.Layer.parts "
    "{attributes: {others: [!function test_own_names.swish]}}\nb: !test_own_names.Built {act: !@ a.others}",
    "in a partial in a list, behind a link": "a: !test_own_names.Layer.parts {attributes: {others: [!functools.partial "
    "{func: !function test_own_names.swish, args: [], keywords: {}}]}}\nb: !test_own_names.Built {act: !@ a.others}",
    "in a sequence": "!torch.Sequential {args: [!function test_own_names.swish]}",
    "in an edited object": "!edited {object: !torch.Linear {in_features: 1, out_features: 1}, "
    "changes: {'': {attributes: {act: !function test_own_names.swish}}}}",
    "imported there": "!test_own_names.Layer.parts {attributes: {act: !function shutil.which}}",
    "of an imported module": "!test_own_names.Layer.parts {attributes: {act: !function os.path.join}}",
    "a method": "!test_own_names.Layer.parts {attributes: {act: !function test_own_names.Built.__init__}}",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_where_it_stands_counts(name: str, tmp_path: Path) -> None:
    """A function is an object's own in its attributes alone."""
    path = with_config(tmp_path / "save", CONFIGS[name] + "\n")
    RAN.clear()
    with pytest.raises(CompilationError if "link" in name else UntrustedError):
        load(path)
    assert bool(untrusted(path)) is ("link" not in name)
    assert RAN == []


@pytest.mark.parametrize("given", ["!@ a", "*x", "[*x]", "!@ b.act"])
def test_no_method_gets_to_a_constructor(given: str, tmp_path: Path) -> None:
    """Nor one in a list that stands, or is held, elsewhere."""
    method = "!builtins.method {object: !test_own_names.Layer.parts {}, name: forward}"
    config = f"a: &x [{method}]\nb: !test_own_names.Layer.parts {{attributes: {{act: *x}}}}\n"
    path = with_config(tmp_path / "save", f"{config}c: !test_own_names.Built {{act: {given}}}\n")
    with pytest.raises(CompilationError, match="is an argument of a constructor"):
        load(path)


# ------------------------------------------------------------------------------ names that say they are another's


class Agreeing:
    """Equals anything, and has whatever it is asked for."""

    def __eq__(self, other: object) -> bool:
        RAN.append("__eq__")
        return True

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        RAN.append(name)
        return attempt if name == "__func__" else None


agreeing = Agreeing()
Layer.agreed = Agreeing()  # type: ignore[attr-defined]
OTHERS = types.ModuleType("test_own_names.others")


def _of_others(name: str) -> Any:
    def function(x: Any) -> Any:
        RAN.append(name)
        return x

    function.__name__ = name
    function.__qualname__ = name
    function.__module__ = OTHERS.__name__
    setattr(OTHERS, name, function)
    return function


@pytest.mark.parametrize("name", ["agreeing", "agreed", "swish", "half"])
def test_only_the_very_same_is_its_own(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """A function of another module with the name of what the class, or its module, has is not; none is asked."""
    monkeypatch.setitem(sys.modules, OTHERS.__name__, OTHERS)
    _of_others(name)
    text = f"!test_own_names.Layer.parts {{attributes: {{act: !function {OTHERS.__name__}.{name}}}}}\n"
    path = with_config(tmp_path / "save", text)
    RAN.clear()
    with pytest.raises(UntrustedError):
        load(path)
    assert [row.argument for row in untrusted(path)] == [f"trusted=['{OTHERS.__name__}.{name}']"]
    assert RAN == []
