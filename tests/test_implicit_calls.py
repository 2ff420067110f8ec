"""Modules whose classes define what Python calls implicitly: a load runs none of it, and hands none to what would."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import Component, NeedsTrustWarning, UntrustedError, load, load_state, save, untrusted
from flambe_save.config.assembly import _WHEN_USED, is_open_to_assembly, is_used_by_python

RAN: list[str] = []


def _noting(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        RAN.append(name)
        if name == "__getattr__":
            raise AttributeError(args[0])
        return NotImplemented if name.startswith("__i") or name in ("__add__", "__mul__") else 0

    return method


class Everything(nn.Module):
    """Defines all of it, but for what torch itself needs to print a module; each call is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(2), persistent=False)


for _name in sorted(_WHEN_USED):
    setattr(Everything, _name, _noting(_name))


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


class KeepsOne(Component, nn.Module):
    """A component of a module."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner


PLACES: dict[str, Callable[[Any], Any]] = {
    "root": lambda module: module,
    "dict": lambda module: {"a": module, "b": [module]},
    "sequential": lambda module: nn.Sequential(nn.Linear(2, 2), module),
    "list": lambda module: nn.ModuleList([module]),
    "component": lambda module: KeepsOne(module),
    "parts": lambda module: Wrapper(module),
    "with_optimizer": lambda module: {"m": module, "o": torch.optim.SGD(module._modules["layer"].parameters(), 0.1)},
}


def test_what_is_defined_is_open() -> None:
    """Such classes load by default; those that define what is called when an object is made or goes do not."""
    assert [is_open_to_assembly(cls) for cls in (Everything, Blocks, Wrapper)] == [True] * 3
    assert [is_used_by_python(cls) for cls in (Everything, Blocks, Wrapper, KeepsOne, nn.Linear, int)] == [
        *[True] * 3,
        *[False] * 3,
    ]


@pytest.mark.parametrize("place", PLACES)
def test_a_load_runs_none(place: str, tmp_path: Path) -> None:
    """Made, put into its place, filled and looked for in an audit, nothing of it runs."""
    path = save(PLACES[place](Everything()), tmp_path / "save")
    RAN.clear()
    again = load(path)
    assert untrusted(path) == []
    assert RAN == []
    del again


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
