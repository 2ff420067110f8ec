"""Layers of torch that a config writes alike: one is built, the others are copies, and nobody can tell."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import Component, State, load, save
from flambe_save.testing.codec import same


class Block(nn.Module):
    """Layers with parameters, buffers, a list and a text among their attributes, and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding="same")
        self.norm, self.act, self.drop = nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.25)
        self.rest = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4, bias=False))


class Plain(nn.Module):
    """Some blocks."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))
        self.named = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """Note the classes of the layers that are built."""
    found: list[type] = []
    for cls in (nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm, nn.Linear, nn.ReLU, nn.Dropout):
        init: Callable[..., None] = cls.__init__

        @functools.wraps(init)
        def note(self: Any, *args: Any, init: Callable[..., None] = init, **kwargs: Any) -> None:
            found.append(type(self))
            init(self, *args, **kwargs)

        monkeypatch.setattr(cls, "__init__", note)
    return found


def filled(model: nn.Module) -> nn.Module:
    """Return a module whose buffers are none that a constructor makes, with a frozen parameter, in two modes."""
    for index, buffer in enumerate(model.buffers()):
        buffer.fill_(index + 2)
    first = next(model.parameters())
    first.requires_grad_(False)
    for inner in [*model.modules()][::3]:
        inner.training = False
    return model


def test_each_kind_of_layer_is_built_once(made: list[type], tmp_path: Path) -> None:
    """The copies have the values, modes and attributes of their own, and train; a save of them has the same bytes."""
    model = filled(Plain())
    path = Path(save(model, tmp_path / "one"))
    made.clear()
    again = load(path)
    assert sorted(cls.__name__ for cls in made) == sorted(
        ["Conv2d", "BatchNorm2d", "ReLU", "Dropout", "LayerNorm", "Linear", "Linear"]
    )
    assert same(model.state_dict(), again.state_dict())
    for (name, one), (other_name, other) in zip(model.named_modules(), again.named_modules(), strict=True):
        assert name == other_name
        assert type(one) is type(other)
        tables = ("_parameters", "_buffers", "_modules")
        assert list(vars(one)) == list(vars(other))
        assert all(vars(one)[key] == vars(other)[key] for key in vars(one) if key not in tables)
        assert [type(value) for value in other._parameters.values()] == [
            type(value) for value in one._parameters.values()
        ]
    frozen = [value.requires_grad for value in model.parameters()]
    assert [value.requires_grad for value in again.parameters()] == frozen
    memory = [value.data_ptr() for value in (*again.parameters(), *again.buffers())]
    assert len({*memory}) == len(memory)
    second = Path(save(again, tmp_path / "two"))
    for file in path.rglob("*"):
        assert (
            not file.is_file()
            or file.name == "manifest.json"
            or file.read_bytes() == (second / file.relative_to(path)).read_bytes()
        )
    again.train()
    again.blocks[2].conv(torch.randn(1, 2, 5, 5)).sum().backward()
    assert again.blocks[2].conv.weight.grad is not None
    assert again.blocks[1].conv.weight.grad is None


def test_copies_share_nothing(tmp_path: Path) -> None:
    """What is changed in place in one layer is as it was in the others, and in the next load."""
    path = save(Plain(), tmp_path / "save")
    again = load(path)
    first, second, third = (block.conv for block in again.blocks)
    second._reversed_padding_repeated_twice[0] = 7
    second.register_forward_hook(lambda *_: None)
    second.register_buffer("more", torch.ones(1), persistent=False)
    with torch.no_grad():
        second.weight.zero_()
    for other in (first, third, load(path).blocks[1].conv):
        assert other._reversed_padding_repeated_twice[0] == 1
        assert not other._forward_hooks
        assert not other._non_persistent_buffers_set
        assert "more" not in other._buffers
        assert other.weight.abs().sum() > 0


def test_layers_with_other_arguments_are_built(tmp_path: Path) -> None:
    """Also where these are equal to each other, and of other types."""
    model = nn.Module()
    for name, given in {"one": 1, "other": 1.0, "third": 0.0, "same": 1}.items():
        setattr(model, name, nn.Dropout(given))
    again = load(save(Around(list(model.children())), tmp_path / "save"))
    assert [repr(layer.p) for layer in again.layers] == ["1", "1.0", "0.0", "1"]


class Around(nn.Module):
    """A module of others."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Initialises(Component, nn.Module):
    """Makes the weights that it is given anew."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers
        with torch.no_grad():
            for layer in layers:
                layer.weight.fill_(float(layer.weight.sum() == 0))


class Holder(nn.Module):
    """Has a component, and layers that this is given too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.component = Initialises(self.layers)


def test_what_a_constructor_may_see_is_built(made: list[type], tmp_path: Path) -> None:
    """A constructor that is given layers sees what they are when they are made, and its writes are overwritten."""
    model = Holder()
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.fill_(3)
    path = save(model, tmp_path / "save")
    made.clear()
    again = load(path)
    assert made == [nn.Linear] * 3
    assert same(model.state_dict(), again.state_dict())


def test_ties_are_ties_and_nothing_else(tmp_path: Path) -> None:
    """Layers that share a parameter share it again; what is elsewhere too has its place in both."""
    model = Around([nn.Linear(2, 2) for _ in range(4)])
    model.layers[3].weight = model.layers[1].weight
    model.seen = model.layers[2].weight.detach()
    again = load(save(model, tmp_path / "save"))
    layers = again.layers
    assert layers[3].weight is layers[1].weight
    assert len({id(layer.weight) for layer in layers}) == 3
    assert same(model.state_dict(), again.state_dict())
    assert torch.equal(again.seen, model.seen)


def test_one_layer_in_two_places(tmp_path: Path) -> None:
    """It stays one, beside others that are written alike."""
    shared = nn.Linear(2, 2)
    model = Around([nn.Linear(2, 2), shared, nn.Linear(2, 2), shared])
    again = load(save(model, tmp_path / "save"))
    assert again.layers[1] is again.layers[3]
    assert len({id(layer) for layer in again.layers}) == 3
    assert same(model.state_dict(), again.state_dict())


KEPT: list[Any] = []


class Keeps(Component, nn.Module):
    """Keeps what it is shown, and changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(2, 2)

    def _load_state(self, state_dict: State, prefix: str, *args: Any) -> None:
        KEPT[:] = [dict(state_dict)]
        key = next(key for key in state_dict if key.endswith("layers.2.weight"))
        state_dict[key].add_(1)


class Shown(nn.Module):
    """Layers, and a component with a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.keeps = Keeps()


def test_what_a_hook_is_shown_is_not_the_layers_memory(tmp_path: Path) -> None:
    """It may keep the state, and what it changes in it gets into the layers."""
    model = Shown()
    again = load(save(model, tmp_path / "save"))
    assert torch.equal(again.layers[2].weight, model.layers[2].weight + 1)
    assert torch.equal(again.layers[1].weight, model.layers[1].weight)
    with torch.no_grad():
        again.layers[1].weight.zero_()
    assert torch.equal(KEPT[0]["layers.1.weight"], model.layers[1].weight)


@pytest.mark.parametrize(
    "flags", [{"mmap": True}, {"strict": False}, {"map_location": "cpu"}, {"map_location": "meta"}]
)
def test_every_way_to_load_gives_the_same(flags: dict[str, Any], tmp_path: Path) -> None:
    """Also where layers are not copied."""
    model = filled(Plain())
    again = load(save(model, tmp_path / "save"), **flags)
    if flags.get("map_location") == "meta":
        assert all(value.is_meta for value in again.parameters())
    else:
        assert same(model.state_dict(), again.state_dict())
    assert [value.requires_grad for value in again.parameters()] == [
        value.requires_grad for value in model.parameters()
    ]
    assert [inner.training for inner in again.modules()] == [inner.training for inner in model.modules()]
    assert [value.dtype for value in again.parameters()] == [value.dtype for value in model.parameters()]


def test_layers_of_other_types_and_strides(tmp_path: Path) -> None:
    """Of layers that are written alike, one may be in half precision, and one in another order of memory."""
    model = Around([nn.Conv2d(2, 2, 3) for _ in range(4)])
    model.layers[1].half()
    model.layers[2].to(memory_format=torch.channels_last)
    model.layers[3].double()
    again = load(save(model, tmp_path / "save"))
    assert same(model.state_dict(), again.state_dict())
    for one, other in zip(model.layers, again.layers, strict=True):
        assert one.weight.dtype == other.weight.dtype
        assert one.weight.stride() == other.weight.stride()
