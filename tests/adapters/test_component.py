"""Components: what they hold, where components inside them are found, and the hooks that subclasses override."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import (
    Component,
    State,
    StateMismatchError,
    StateMismatchWarning,
    UnsupportedObjectError,
    load,
    save,
    state_from_tree,
    tree_from_state,
)
from flambe_save.describing import represent
from flambe_save.layout import CONFIG_KEY


class Counter(Component):
    """A registered attribute; forgets super().__init__()."""

    def __init__(self, start: int = 0) -> None:
        self.count = start
        self.register_attrs("count")


class Module(Component, nn.Module):
    """A module component."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)


class Reversed(nn.Module, Component):
    """The bases in the other order."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.counter = Counter(size)


class Forgetful(Component, nn.Module):
    """A module that forgets super().__init__()."""

    def __init__(self) -> None:
        self.linear = nn.Linear(1, 1)
        self.plain = 3


class Everywhere(Component):
    """Keeps components in every place where they are found."""

    def __init__(self) -> None:
        self.attribute = Counter(1)
        self.in_list = [Counter(2), 7, [Counter(3)]]
        self.in_tuple = (Counter(4),)
        self.in_dict = {"a.b": Counter(5), 6: {"deep": Counter(6)}}
        self.plain_module = nn.Sequential(nn.Linear(1, 1), nn.ModuleDict({"m": Module(1)}))
        self.module_list = nn.ModuleList([Module(1)])
        self.none = None


class Plain(nn.Module):
    """A module that is no component, with components inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Module(1)
        self.counters = [Counter(1)]
        self.hidden = [nn.Linear(1, 1)]


class Hooked(Component, nn.Module):
    """Adds to its state, drops a buffer from it, and puts both back."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(3))
        self.step = 0

    def _state(self, state_dict: State, prefix: str, local_metadata: dict[str, Any]) -> State:
        del state_dict[prefix + "cache"]
        state_dict[prefix + "step"] = self.step
        local_metadata["note"] = "hello"
        return state_dict

    def _load_state(self, state_dict: State, prefix: str, local_metadata: dict[str, Any], *_: Any) -> None:
        assert local_metadata["note"] == "hello"
        self.step = state_dict[prefix + "step"]
        state_dict[prefix + "cache"] = torch.ones(3)


class Holder(Component, nn.Module):
    """Wraps another component."""

    def __init__(self, inner: Component) -> None:
        super().__init__()
        self.inner = inner


class Growing(Component, nn.Module):
    """Has as many rows as the saved state, as a module that grows with its data does."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1, 2)

    def _load_state(self, state_dict: State, prefix: str, *_: Any) -> None:
        self.embedding = nn.Embedding(*state_dict[prefix + "embedding.weight"].shape)


class Parent(Component):
    """Refers to a child that refers back."""

    def __init__(self, child: Component) -> None:
        self.child = child
        child.parent = self  # type: ignore[attr-defined]


def test_components_are_found_everywhere(tmp_path: Path) -> None:
    """Attributes, nested containers, plain modules: each component has a prefix, a folder and its state."""
    thing = Everywhere()
    thing.in_list[2][0].count = 33  # type: ignore[index]
    state = thing.get_state()
    assert state.components == [
        "",
        "attribute",
        "in_dict.6.deep",
        "in_dict.a%2Eb",
        "in_list.0",
        "in_list.2.0",
        "in_tuple.0",
        "module_list.0",
        "plain_module.1.m",
    ]
    assert state["in_list.2.0.count"] == 33
    again = load(save(thing, tmp_path / "run"))
    assert again.in_list[2][0].count == 33
    assert set(again.get_state()) == set(state)


def test_components_inside_plain_modules(tmp_path: Path) -> None:
    """A module that is no component is gone into, what it hides in a list too: it is written as its parts."""
    state = Holder(Plain()).get_state()
    assert state.components == ["", "inner.counters.0", "inner.inner"]
    assert set(state) == {
        *("inner.inner.linear.weight", "inner.inner.linear.bias", "inner.counters.0.count"),
        *("inner.hidden.0.weight", "inner.hidden.0.bias"),
    }


@pytest.mark.parametrize("cls", [Module, Reversed, Forgetful])
def test_either_order_and_no_super(cls: Any, tmp_path: Path) -> None:
    """Mixed with nn.Module in either order, or without super().__init__(), a component saves and loads."""
    thing = cls()
    again = load(save(thing, tmp_path / "run"))
    assert type(again) is cls
    assert torch.equal(again.linear.weight, thing.linear.weight)


def test_compile_is_ours_on_classes_and_torchs_on_modules() -> None:
    """`Class.compile(...)` builds; `module.compile()` is torch's, in either order of the bases."""
    for cls in (Module, Reversed):
        built = cls.compile(size=3)
        assert built.linear.in_features == 3
        assert built.compile.func is nn.Module.compile  # type: ignore[attr-defined]


def test_register_attrs_needs_the_attribute() -> None:
    """Registering what is not there is an AttributeError that names it."""
    with pytest.raises(AttributeError, match="'missing'"):
        Counter().register_attrs("count", "missing")


def test_defaults_of_run_and_metric() -> None:
    """By default there is nothing to do and nothing to compare."""
    assert Counter().run() is False
    assert Counter().metric() is None


def test_state_is_shared_and_detached() -> None:
    """State shares memory with the object; keep_vars gives the parameters themselves."""
    module = Module()
    state = module.get_state()
    assert state["linear.weight"].data_ptr() == module.linear.weight.data_ptr()
    assert not state["linear.weight"].requires_grad
    assert module.get_state(keep_vars=True)["linear.weight"] is module.linear.weight


def test_state_into_a_destination_under_a_prefix() -> None:
    """get_state adds to what is there, under a prefix."""
    destination = State({"other": 1})
    state = Counter(4).get_state(destination, prefix="here.")
    assert state is destination
    assert dict(state) == {"other": 1, "here.count": 4}
    assert state.components == ["here"]


def test_hooks_see_and_change_the_state(tmp_path: Path) -> None:
    """_state may add and drop, _load_state takes back, alone and inside another module."""
    for thing in (Hooked(), Holder(Hooked()), Holder(Holder(Hooked()))):
        inner = thing
        while isinstance(inner, Holder):
            inner = inner.inner
        inner.step = 7
        path = save(thing, tmp_path / "run", overwrite=True)
        assert not any("cache" in key for key in thing.get_state())
        again = load(path)
        while isinstance(again, Holder):
            again = again.inner
        assert (again.step, again.cache.tolist()) == (7, [1.0, 1.0, 1.0])


def test_hook_may_rebuild_before_tensors_are_loaded(tmp_path: Path) -> None:
    """_load_state comes before the tensors, so it may make room for them."""
    grown = Growing()
    grown.embedding = nn.Embedding(5, 2)
    again = load(save(Holder(grown), tmp_path / "run"))
    assert torch.equal(again.inner.embedding.weight, grown.embedding.weight)


def test_hook_that_misses_its_key_is_a_mismatch() -> None:
    """A KeyError in _load_state names the key and the class."""
    state = State()
    state._metadata[""] = {"note": "hello"}
    with pytest.raises(StateMismatchError, match=r"Hooked\._load_state.*step"):
        Hooked().load_state(state)


def test_back_reference_is_no_endless_walk(tmp_path: Path) -> None:
    """An object inside itself is not gone into again."""
    parent = Parent(Counter(5))
    assert parent.get_state().components == ["", "child"]
    assert load(save(parent, tmp_path / "run")).child.count == 5


def test_keys_that_read_alike_are_refused() -> None:
    """Two components that would get one key are an error that names it."""
    thing = Everywhere()
    thing.in_dict = {1: Counter(), "1": Counter()}  # type: ignore[dict-item]
    with pytest.raises(UnsupportedObjectError, match=r"in_dict\.1"):
        thing.get_state()


def test_load_state_strict_or_not() -> None:
    """Without strict a mismatch warns, with it it raises; shapes always raise."""
    state = Module(2).get_state()
    del state["linear.bias"]
    with pytest.warns(StateMismatchWarning, match=r"linear\.bias"):
        Module(2).load_state(state)
    with pytest.raises(StateMismatchError, match=r"linear\.bias"):
        Module(2).load_state(state, strict=True)
    with pytest.raises(StateMismatchError, match="size mismatch"):
        Module(3).load_state(state)


def test_load_state_copies_into_the_object() -> None:
    """Loaded tensors are copies: changing them leaves the source alone, and the given State is as it was."""
    source, target = Module(), Module()
    state = source.get_state()
    target.load_state(state)
    with torch.no_grad():
        target.linear.weight.add_(1)
    assert not torch.equal(source.linear.weight, target.linear.weight)
    assert list(state) == ["linear.weight", "linear.bias"]


def test_batch_norm_version_survives() -> None:
    """torch's own metadata goes through the tree, so that old buffers are recognised."""
    holder = Holder(Module())
    holder.norm = nn.BatchNorm1d(2)
    state = state_from_tree(tree_from_state(holder.get_state()))
    assert state._metadata["norm"]["version"] == 2


def test_save_and_load_from_path(tmp_path: Path) -> None:
    """The methods are the functions; without the saved config the caller's arguments build the object."""
    module = Module(3)
    path = module.save(tmp_path / "run", compress=True)
    assert path.endswith("run.tar.gz")
    assert torch.equal(Module.load_from_path(path).linear.weight, module.linear.weight)
    other = Module.load_from_path(path, use_saved_config_defaults=False, size=3)
    assert torch.equal(other.linear.weight, module.linear.weight)


class Level(Component):
    """One of many, each inside another."""

    def __init__(self, inner: Any = None, options: Any = None) -> None:
        self.inner = inner
        self.options = options


def test_each_component_is_represented_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A component inside others is described for the config of the root, and not again for each that it is inside."""
    described: list[Any] = []
    real = represent.describe
    monkeypatch.setattr(represent, "describe", lambda obj: described.append(obj) or real(obj))
    shared = [{"a": [1, [2]]}]
    top = Level(options=shared)
    for _ in range(20):
        top = Level(top, shared)
    state = top.get_state()
    assert len(described) == 21
    for prefix in state.components:
        part = top
        for _ in filter(None, prefix.split(".")):
            part = part.inner
        assert state._metadata[prefix][CONFIG_KEY] == Level.get_state(part)._metadata[""][CONFIG_KEY]


def test_the_config_of_a_deep_component_is_indented_as_its_own() -> None:
    """What is in one line in the config of the root, so deep is it, is not in that of the component itself."""
    top = Level(options=[[1]])
    for _ in range(40):
        top = Level(top)
    state = top.get_state()
    deepest = max(state.components, key=len)
    assert state._metadata[deepest][CONFIG_KEY].partition("\n")[2] == "options:\n- [1]\ninner: null\n"
    assert "{options: [[1]], inner: null}" in state._metadata[""][CONFIG_KEY]
