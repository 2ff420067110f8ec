"""What a pickled value refers to, and what refers to each other: one object stays one, or the save says so."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from flambe_save import (
    Component,
    NeedsTrustWarning,
    StateMismatchWarning,
    UnsupportedObjectError,
    UntrustedError,
    load,
    load_state,
    save,
    untrusted,
)
from flambe_save.adapters import collecting, get_state
from flambe_save.config.nodes import parse
from flambe_save.describing.building_order import link_without_order
from flambe_save.describing.known import Known


class Ema:
    """An average of a model that says itself how it is pickled, and leaves out a cache."""

    def __init__(self, model: Any, **others: Any) -> None:
        self.model, self.cache = model, [1]
        self.shadow = [torch.full((2,), 0.5)]
        self.__dict__.update(others)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cache": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class Trainer:
    """Has slots, and refers to a model, parts of it, its optimizer and a list."""

    __slots__ = ("history", "layer", "model", "optimizer", "weight")

    def __init__(self, model: Any, optimizer: Any, history: list[int]) -> None:
        self.model, self.optimizer, self.history = model, optimizer, history
        self.layer, self.weight = model[1][0], model[0].weight


class Net(Component, nn.Module):
    """A component with a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Run(Component):
    """A component of what it is given."""

    def __init__(self, net: Any, ema: Any) -> None:
        self.net, self.ema = net, ema


class Head(nn.Module):
    """A module that says itself how it is pickled, on an encoder that others have too."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.out = encoder, nn.Linear(3, 1)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol)


def there_and_back(obj: Any, path: Path, **options: Any) -> tuple[Any, list[str]]:
    """Save and load with trust; return the result and what the save said, but for what needs trust."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        final = save(obj, path, **options)
    said = [str(item.message) for item in caught if not issubclass(item.category, NeedsTrustWarning)]
    return load(final, weights_only=False), said


def everything() -> dict[str, Any]:
    """Return a model and what refers to it, to parts of it, and to each other."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 3)))
    optimizer = torch.optim.Adam(model.parameters())
    history = [1, 2, 3]
    return {
        "model": model,
        "optimizer": optimizer,
        "history": history,
        "trainer": Trainer(model, optimizer, history),
        "ema": Ema(model),
        "function": lambda x: model(x) * 2,
    }


@pytest.mark.parametrize(
    "options", [{}, {"pickle_only": True}, {"compress": True}], ids=["folder", "pickle", "archive"]
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_pickled_values_share_what_the_save_has(tmp_path: Path, options: Any, is_reversed: bool) -> None:
    """A model, its layer, weight and optimizer, and a list stay the ones that the save has, whatever comes first."""
    obj = everything()
    obj = dict(reversed(obj.items())) if is_reversed else obj
    again, said = there_and_back(obj, tmp_path / "save", **options)
    model, trainer = again["model"], again["trainer"]
    assert said == []
    assert trainer.model is model
    assert trainer.layer is model[1][0]
    assert trainer.weight is model[0].weight
    assert trainer.optimizer is again["optimizer"]
    assert trainer.history is again["history"]
    assert again["ema"].model is model
    assert torch.equal(again["ema"].shadow[0], obj["ema"].shadow[0])
    assert torch.equal(again["function"](torch.ones(4)), obj["function"](torch.ones(4)))
    assert again["function"].__closure__[0].cell_contents is model


def test_no_weight_is_in_a_pickle(tmp_path: Path) -> None:
    """A pickled value that refers to a model takes no more room when the model is large."""
    sizes = []
    for size in (2, 200):
        model = nn.Linear(size, size)
        there_and_back({"model": model, "ema": Ema(model)}, tmp_path / str(size))
        sizes.append((tmp_path / str(size) / "stash.pkl").stat().st_size)
    assert sizes[0] == sizes[1]


def test_trusted_names_are_enough(tmp_path: Path) -> None:
    """The save prints the names, a default load refuses it by them, and a load with them shares."""
    net = Net()
    with pytest.warns(NeedsTrustWarning, match=r"trusted=\['test_references.Ema'\]"):
        save({"net": net, "ema": Ema(net)}, tmp_path / "save")
    assert [row.argument for row in untrusted(tmp_path / "save")] == ["trusted=['test_references.Ema']"]
    with pytest.raises(UntrustedError, match=r"test_references\.Ema"):
        load(tmp_path / "save")
    again = load(tmp_path / "save", trusted=["test_references.Ema"])
    assert again["ema"].model is again["net"]


@pytest.mark.filterwarnings("ignore::flambe_save.NeedsTrustWarning")
def test_in_components_and_parts(tmp_path: Path) -> None:
    """A component's pickled argument refers to another; a part is loaded alone."""
    net = Net()
    again, said = there_and_back(Run(net, Ema(net)), tmp_path / "save")
    assert again.ema.model is again.net
    assert said == []
    part = load(tmp_path / "save", node="net")
    assert torch.equal(part.layer.weight, net.layer.weight)


@pytest.mark.parametrize("is_reversed", [False, True])
def test_pickled_modules_share_modules(tmp_path: Path, is_reversed: bool) -> None:
    """A module that is pickled refers to an encoder that the save has beside it."""
    encoder = nn.Linear(4, 3)
    obj = {"encoder": encoder, "head": Head(encoder)}
    again, said = there_and_back(dict(reversed(obj.items())) if is_reversed else obj, tmp_path / "save")
    assert again["head"].encoder is again["encoder"]
    assert said == []
    assert torch.equal(again["encoder"].weight, encoder.weight)
    assert torch.equal(again["head"].out.weight, obj["head"].out.weight)


def test_pickled_values_share_with_each_other(tmp_path: Path) -> None:
    """Two pickled values that refer to a model and share what is nowhere else are pickled together."""
    net, log = Net(), ["x"]
    one, other, third = Ema(net, log=log), Ema(net, log=log), Ema(None, log=log)
    one.peer, other.peer = other, one  # type: ignore[attr-defined]
    again, said = there_and_back({"net": net, "one": one, "other": other, "third": third}, tmp_path / "save")
    assert said == []
    assert again["one"].model is again["other"].model is again["net"]
    assert again["one"].peer is again["other"]
    assert again["other"].peer is again["one"]
    assert again["one"].log is again["other"].log is again["third"].log


def test_values_that_refer_to_nothing_are_written_as_ever(tmp_path: Path) -> None:
    """Pickled values that only share with each other stay in one pickle."""
    log = ["x"]
    values = {name: Ema(None, log=log, shadow=[0.5]) for name in ("one", "other")}
    there_and_back(values, tmp_path / "save")
    assert (tmp_path / "save/config.yaml").read_text() == "one: !$ 0\nother: !$ 1\n"


@pytest.mark.parametrize("make", [Net, lambda: nn.Linear(2, 2)], ids=["component", "layer"])
def test_what_leads_back_is_named(tmp_path: Path, make: Callable[[], Any]) -> None:
    """A pickled attribute that refers to its owner holds a copy of it, and the save says so."""
    net = make()
    net.helper = Ema(net)
    again, said = there_and_back(net, tmp_path / "save")
    assert [f"'the {type(net).__name__} around it'" in text for text in said] == [True]
    assert torch.equal(next(again.parameters()), next(net.parameters()))


def test_what_needs_a_value_of_its_own_pickle_is_named(tmp_path: Path) -> None:
    """Where a pickle refers to what is built of a value in it, it holds copies, and the save says so."""
    first = Ema(nn.Linear(1, 1))
    run = Run(Net(), first)
    second = Ema(run, peer=first)
    again, said = there_and_back({"second": second, "run": run, "net": run.net}, tmp_path / "save")
    assert any("holds copies of what the save has elsewhere" in text for text in said)
    assert again["run"].net is again["net"]
    assert isinstance(again["second"].model, Run)


def test_components_that_have_layers_of_each_other(tmp_path: Path) -> None:
    """Neither call makes the other's layer: both are told in full."""
    one, other = Net(), Net()
    one.other, other.other = other.layer, one.layer
    again, said = there_and_back({"one": one, "other": other}, tmp_path / "save")
    assert said == []
    assert again["one"].other is again["other"].layer
    assert again["other"].other is again["one"].layer
    assert torch.equal(again["one"].other.weight, other.layer.weight)


class Bag(nn.Module):
    """A module of no special kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Given(Component, nn.Module):
    """A component of the module that it is given."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net


_PLACES: dict[str, Callable[[Any, Any], Any]] = {
    "list": lambda one, other: setattr(one, "back", [other]),
    "dict": lambda one, other: setattr(one, "back", {"x": other}),
    "attribute": lambda one, other: one.__dict__.update(back=other),
    "object": lambda one, other: setattr(one, "back", types.SimpleNamespace(x=[other])),
}


def _back_of(one: Any, where: str) -> Any:
    back = one.back
    return {"list": lambda: back[0], "dict": lambda: back["x"], "attribute": lambda: back, "object": lambda: back.x[0]}[
        where
    ]()


@pytest.mark.parametrize("kinds", [(Bag, Bag), (Net, Net), (Net, Bag), (Bag, Net)])
@pytest.mark.parametrize("where", _PLACES)
def test_what_is_inside_of_what_it_refers_to(tmp_path: Path, where: str, kinds: tuple[Any, Any]) -> None:
    """A module that has another as its child, to which an attribute of that leads: one and the same, both ways."""
    for number, wrap in enumerate(
        (
            lambda one, other: {"one": one, "other": other},
            lambda one, other: {"other": other, "one": one},
            lambda one, other: {"one": one},
            lambda one, other: {"one": nn.ModuleList([one, other])},
        )
    ):
        one, other = (kind() for kind in kinds)
        other.child = one
        _PLACES[where](one, other)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'back' holds modules|.*back' holds modules")
            again = load(save(wrap(one, other), tmp_path / str(number)))
        found = again["one"][0] if number == 3 else again["one"]
        assert _back_of(found, where).child is found
        assert torch.equal(_back_of(found, where).layer.weight, other.layer.weight)
        assert [type(found), type(_back_of(found, where))] == [*kinds]
        if number < 2:
            assert again["other"] is _back_of(found, where)


def test_what_a_constructor_would_see_unfinished_is_named(tmp_path: Path) -> None:
    """A module that a constructor is given has all its children by then; what cannot be so is named at the save."""
    one, other = Bag(), Bag()
    other.child = one
    one.back = inner = types.SimpleNamespace()
    for _ in range(5):  # so deep that nobody sees later what is set there
        inner.x = types.SimpleNamespace()
        inner = inner.x
    inner.x = Given(other)
    with pytest.warns(StateMismatchWarning, match=r"not saved, since they are not data: 'back'"):
        path = save(one, tmp_path / "save")
    again = load(path)
    assert not hasattr(again, "back")
    assert torch.equal(again.layer.weight, one.layer.weight)


class Two(Component, nn.Module):
    """Has two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Sequential(nn.Linear(2, 2))
        self.named = nn.ModuleDict()


def test_what_is_called_by_its_place_in_what_it_refers_to(tmp_path: Path) -> None:
    """The first way to a module may lead through the place that would be filled with it."""
    net = Two()
    net.own[0].child = net.named
    net.named.__dict__["back"] = {"x": [net.own[0]]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StateMismatchWarning)
        again = load(save(net, tmp_path / "save"))
    assert again.own[0].child is again.named
    assert torch.equal(again.own[0].weight, net.own[0].weight)


def _owner_as_attribute() -> tuple[Any, Callable[[Any], bool]]:
    net = Net()
    net.layer.__dict__["owner"] = Given(net)
    return net, lambda net: net.layer.owner.net is net


def _owner_in_list() -> tuple[Any, Callable[[Any], bool]]:
    net = Net()
    net.owners = [Given(net)]
    return net, lambda net: net.owners[0].net is net


def _changed_in_two() -> tuple[Any, Callable[[Any], bool]]:
    net, inner, other = Net(), Net(), Bag()
    net.inner, net.other = inner, other
    inner.layer = nn.Linear(2, 3)
    other.inner = inner
    return net, lambda net: net.other.inner is net.inner and net.inner.layer.out_features == 3


@pytest.mark.parametrize("make", [_owner_as_attribute, _owner_in_list, _changed_in_two])
def test_components_that_are_added_to_what_they_are_of(tmp_path: Path, make: Callable[[], Any]) -> None:
    """No link leads to what the config does not say."""
    net, is_right = make()
    assert is_right(net)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*holds modules that torch does not know of")
        again = load(save(net, tmp_path / "save"))
    assert is_right(again)
    assert torch.equal(again.layer.weight, net.layer.weight)


# ------------------------------------------------------------------------------------------------ bound methods


class Clock:
    """A plain object that others call back."""

    def __init__(self) -> None:
        self.ticks = 0
        self.call = self.tick
        self.listeners = [self.tick, {"again": self._Clock__hidden}]  # type: ignore[attr-defined]

    def tick(self) -> int:
        """Count."""
        self.ticks += 1
        return self.ticks

    def __hidden(self) -> int:
        return -self.ticks

    @classmethod
    def of_class(cls) -> type:
        """Return the class."""
        return cls


class Neuron(nn.Module):
    """A module that chooses one of its own methods, and calls back a helper and a layer."""

    def __init__(self, clock: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.clock = clock if clock is not None else Clock()
        self.state_function = self._subtract
        self.on_step = self.clock.tick
        self.score = self.layer.forward

    def _subtract(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use all of them."""
        self.on_step()
        return self.state_function(x) + self.score(x)


class NeuronComponent(Component, Neuron):
    """The same as a component."""


@pytest.mark.parametrize("make", [Neuron, NeuronComponent, lambda: nn.Sequential(Neuron())])
def test_bound_methods_are_bound_again(tmp_path: Path, make: Callable[[], Any]) -> None:
    """A method in an attribute is that of the loaded object, without trust, wherever the object is."""
    model = make()
    path = save({"model": model, "call": model.forward}, tmp_path / "save")
    again = load(path)
    net = again["model"][0] if isinstance(model, nn.Sequential) else again["model"]
    assert again["call"].__self__ is again["model"]
    assert net.state_function == net._subtract
    assert net.score.__self__ is net.layer
    assert net.clock.call.__self__ is net.clock
    assert torch.equal(again["model"](torch.ones(2)), model(torch.ones(2)))
    assert net.clock.ticks == 1
    assert net.clock.listeners[0]() == 2
    assert net.clock.listeners[1]["again"]() == -2
    load_state(model, path, node="model")  # which has its methods already


def test_a_method_that_was_set_later(tmp_path: Path) -> None:
    """What an object of a known call got since refers to the loaded objects; what a call sets is set by it."""
    model = NeuronComponent()
    model.on_step = model.layer.extra_repr
    model.other = model.layer.forward
    model.forward = model._subtract
    with pytest.warns(StateMismatchWarning, match=r"not data: 'forward'\."):
        path = save(model, tmp_path / "save")
    again = load(path)
    assert again.on_step == again.layer.extra_repr
    assert again.other == again.layer.forward
    assert "forward" not in vars(again)
    assert "state_function" not in (tmp_path / "save/config.yaml").read_text()


@pytest.mark.parametrize(
    "make",
    [
        lambda owner: Clock().tick,  # of what is nowhere else
        lambda owner: (owner.clock.tick,),  # a tuple is made of what is there
        lambda owner: {owner.clock.tick: 1},
        lambda owner: types.MethodType(functools.partial(print), owner),
        lambda owner: super(Neuron, owner).forward,
        lambda owner: owner.clock.of_class,
        lambda owner: owner.layer.__repr__,
    ],
)
def test_methods_that_no_config_can_say_are_named(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    """What would be another method, or needs what is not there yet, is named."""
    model = NeuronComponent()
    model.call = make(model)
    with pytest.warns(StateMismatchWarning, match=r"not data: 'call'"):
        path = save(model, tmp_path / "save")
    assert not hasattr(load(path), "call")


def test_one_method_in_several_places(tmp_path: Path) -> None:
    """The very same method is one in attributes, and written otherwise where it could not be put in later."""
    model = Neuron()
    model.first = model.last = model.clock.tick
    model.items = [model.first]
    model.pair = (model.first,)
    with pytest.warns(StateMismatchWarning, match=r"not data: 'pair'"):
        path = save(model, tmp_path / "save")
    again = load(path)
    assert again.first is again.last is again.items[0]
    assert again.first == again.clock.tick


def test_methods_of_a_part(tmp_path: Path) -> None:
    """A part whose attribute is a method of what is outside of it has None there."""
    clock = Clock()
    path = save({"clock": clock, "net": NeuronComponent(clock)}, tmp_path / "save")
    again = load(path)
    assert again["net"].on_step.__self__ is again["clock"]
    net = NeuronComponent()
    net.on_step = clock.tick
    path = save({"clock": clock, "net": net}, tmp_path / "other")
    assert load(path)["net"].on_step.__self__ is not net.clock
    assert load(path, node="net").on_step is None


@dataclasses.dataclass(eq=False)
class Listener:
    """A record of what it calls back, and of what it watches."""

    call: Any = None
    watched: Any = None

    def hear(self) -> Any:
        """Call back."""
        return self.call()


@pytest.mark.filterwarnings("ignore::flambe_save.NeedsTrustWarning")
@pytest.mark.parametrize("is_known", [False, True])
def test_references_of_what_a_pickle_refers_to(tmp_path: Path, is_known: bool) -> None:
    """They are put in place where the object has a place of its own; elsewhere methods are pickled."""
    clock = Clock()
    listener = Listener(clock.tick, weakref.ref(clock) if is_known else None)
    obj = {"queue": collections.deque([listener.hear]), "clock": clock}
    again, said = there_and_back({**obj, "listener": listener} if is_known else obj, tmp_path / "save")
    found = again["queue"][0].__self__
    assert said == []
    assert found.call.__self__ is again["clock"]
    if is_known:
        assert found is again["listener"]
        assert found.watched() is again["clock"]


@pytest.mark.filterwarnings("ignore::flambe_save.NeedsTrustWarning")
def test_methods_as_arguments_are_pickled(tmp_path: Path) -> None:
    """A constructor may call what it is given, so a method among its arguments takes trust."""
    net = Net()
    again, said = there_and_back(Run(net, net.extra_repr), tmp_path / "save")
    assert again.ema.__self__ is again.net
    assert said == []
    with pytest.raises(UntrustedError):
        load(tmp_path / "save")


# ------------------------------------------------------------------------------------------------ weak references


class Watcher:
    """Refers weakly to parameters, as averages of weights do, to a tensor of its own, and to whoever it is given."""

    def __init__(self, parameters: Any, owner: Any = None) -> None:
        self.seen = torch.zeros(2)
        self.weak = [weakref.ref(value) for value in (*parameters, self.seen)]
        self.by_name = {"owner": None if owner is None else weakref.ref(owner)}


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("make", [Neuron, NeuronComponent, lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))])
def test_weak_references_refer_to_the_loaded_objects(
    tmp_path: Path, make: Callable[[], Any], is_reversed: bool
) -> None:
    """Parameters, buffers, modules and other objects of the save: without trust, and whatever comes first."""
    model = make()
    model.watcher = Watcher([*model.parameters(), *model.buffers()], model)
    obj = {"model": model, "watcher": model.watcher, "weak": weakref.ref(model.watcher)}
    path = save(dict(reversed(obj.items())) if is_reversed else obj, tmp_path / "save")
    again = load(path)
    model, watcher = again["model"], again["watcher"]
    assert again["weak"]() is watcher is model.watcher
    assert watcher.by_name["owner"]() is model
    for weak, value in zip(watcher.weak, (*model.parameters(), *model.buffers(), watcher.seen), strict=True):
        assert weak() is value
    load_state(obj, path)


def test_weak_references_that_no_config_can_say_are_named(tmp_path: Path) -> None:
    """What it refers to is nowhere else, or something is to be called when it goes; one that is dead stays dead."""
    model, other = Net(), nn.Linear(2, 2)
    model.other, model.called = weakref.ref(other), weakref.ref(model.layer, print)
    model.tuple, model.method = (weakref.ref(model.layer),), weakref.WeakMethod(model.layer.forward)
    model.gone = weakref.ref(nn.Linear(2, 2))
    with pytest.warns(StateMismatchWarning, match=r"model.other', 'model.called', 'model.tuple', 'model.method'\."):
        path = save({"model": model}, tmp_path / "save")
    assert load(path)["model"].gone() is None


class Tied(Component, nn.Module):
    """Its constructor ties two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(2, 2), nn.Linear(2, 2)
        self.other.weight = self.one.weight


@pytest.mark.parametrize("is_component", [False, True])
def test_weak_references_to_tied_weights(tmp_path: Path, is_component: bool) -> None:
    """Whichever of its modules keeps the weight, the reference is to that."""
    model = Tied() if is_component else nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    if isinstance(model, nn.Sequential):
        model[1].weight = model[0].weight
    again = load(save({"watcher": Watcher(model.parameters()), "model": model}, tmp_path / "save"))
    weights = [*again["model"].parameters()]
    assert len(weights) == 3
    assert [weak() is value for weak, value in zip(again["watcher"].weak, weights, strict=False)] == [True] * 3


def test_weak_references_of_a_part(tmp_path: Path) -> None:
    """A part that refers weakly to what is outside of it has None there."""
    model, net = nn.Linear(2, 2), Net()
    net.watched = [weakref.ref(model.weight), weakref.ref(net.layer.weight)]
    path = save({"model": model, "net": net}, tmp_path / "save")
    again = load(path)
    assert [weak() for weak in again["net"].watched] == [again["model"].weight, again["net"].layer.weight]
    part = load(path, node="net")
    assert part.watched[0] is None
    assert part.watched[1]() is part.layer.weight


# ------------------------------------------------------------------------------------------------ attributes of tensors


class Curved(nn.Module):
    """Has a parameter and a buffer that refer to modules and to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.ones(2))
        self.register_buffer("mean", torch.zeros(2))
        self.manifold = nn.Linear(2, 2)
        self.at.manifold, self.at.owner = self.manifold, self  # type: ignore[attr-defined]
        self.mean.of = self.at


class CurvedComponent(Component, Curved):
    """The same as a component."""


class CurvedWithClock(Curved):
    """Its parameter refers to a plain object of the model, and to a method of that."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.at.clock, self.at.call = self.clock, self.clock.tick  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [CurvedWithClock, CurvedComponent, lambda: nn.Sequential(CurvedWithClock())])
def test_attributes_of_tensors_refer_to_loaded_objects(tmp_path: Path, make: Callable[[], Any]) -> None:
    """A parameter's attributes are the loaded model's own parts, also those that were set later."""
    model = make()
    curved = model if isinstance(model, Curved) else model[0]
    curved.manifold.weight.seen_by = curved.manifold.bias
    path = save({"model": model}, tmp_path / "save")
    again = load(path)["model"]
    curved = again if isinstance(again, Curved) else again[0]
    assert curved.at.manifold is curved.manifold
    assert curved.at.owner is curved
    if isinstance(curved, CurvedWithClock):
        assert curved.at.clock is curved.clock
        assert curved.at.call.__self__ is curved.clock
    assert curved.mean.of is curved.at
    assert curved.manifold.weight.seen_by is curved.manifold.bias


def test_attributes_of_tensors_that_are_nowhere_else_are_named(tmp_path: Path) -> None:
    """What only a parameter refers to is named at its place, in components too."""
    model, net = CurvedWithClock(), Net()
    model.at.manifold = nn.Linear(2, 2)  # type: ignore[attr-defined]
    model.mean.lock = threading.Lock()
    net.layer.weight.average = torch.ones(2, 2)  # type: ignore[attr-defined]
    with pytest.warns(StateMismatchWarning) as told:
        path = save({"model": model, "net": net}, tmp_path / "save")
    assert "'net.layer.weight.average', 'model.at.manifold', 'model.mean.lock'." in str(told[0].message)
    again = load(path)
    assert not hasattr(again["model"].at, "manifold")
    assert again["model"].at.clock is again["model"].clock


# ------------------------------------------------------------------------------------------------ modules


class Around(nn.Module):
    """A module around another, with tensors and a module of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.norm = inner, nn.LayerNorm(2)
        self.register_buffer("seen", torch.ones(2))


class Making(Component, nn.Module):
    """Makes modules in its constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.norm = nn.LayerNorm(2)


def tied_by_hand() -> tuple[Any, list[str]]:
    """Return two layers of one weight, to which the second refers."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model[1].link = [model[0].weight]
    return model, ["0.weight", "1.weight", "1.link.0"]


def tied_to_what_is_no_child() -> tuple[Any, list[str]]:
    """Return a layer whose weight is that of a layer to which the model only refers."""
    model = nn.Sequential(nn.Linear(2, 2))
    model.link = [nn.Sequential(nn.Linear(2, 2))]
    model.link[0][0].weight = model[0].weight
    return model, ["0.weight", "link.0.0.weight"]


def a_buffer_of_another_type() -> tuple[Any, list[str]]:
    """Return a layer that refers to a buffer of a type that no constructor makes."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()).double()
    model[1].link = [model[0].running_mean]
    return model, ["0.running_mean", "1.link.0"]


def of_a_parametrization() -> tuple[Any, list[str]]:
    """Return a layer that refers to what its weight is computed from."""
    layer = parametrizations.weight_norm(nn.Linear(2, 2))
    layer.link = [layer.parametrizations.weight.original0]
    return nn.Sequential(layer), ["0.link.0", "0.parametrizations.weight.original0"]


def of_what_is_around() -> tuple[Any, list[str]]:
    """Return a layer that refers to a buffer of a module around one of its places."""
    layer = nn.Linear(2, 2)
    model = nn.Sequential(Around(layer), Around(layer))
    model[1].inner = model[0]
    layer.link = [model[1].seen]
    return model, ["0.inner.link.0", "1.seen"]


def made_and_given() -> tuple[Any, list[str]]:
    """Return a module that made a layer, and has got another around the same layer since."""
    model = Making()
    model.more = Around(model.norm)
    return model, ["norm", "more.inner"]


def by_way_of_a_reference() -> tuple[Any, list[str]]:
    """Return a layer that refers to what another module made, before that itself refers to a part of it."""
    model = nn.Sequential(nn.Linear(2, 2), Making())
    model[0].link = [model[1].body]
    model[1].norm.link = [model[1].body[1]]
    return model, ["1.body.1", "1.norm.link.0", "0.link.0.1"]


@pytest.mark.parametrize(
    "make",
    [
        tied_by_hand,
        tied_to_what_is_no_child,
        a_buffer_of_another_type,
        of_a_parametrization,
        of_what_is_around,
        made_and_given,
        by_way_of_a_reference,
    ],
)
def test_what_a_module_refers_to_stays_one(tmp_path: Path, make: Callable[[], tuple[Any, list[str]]]) -> None:
    """A tensor or module that is in several places is one in all of them."""
    model, places = make()
    again, said = there_and_back(model, tmp_path / "save")
    assert said == []
    for obj in (model, again):
        assert len({id(at(obj, place)) for place in places}) == 1


def test_what_is_another_object_each_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save comes to an end where each try to describe the objects finds others."""
    numbers = itertools.count()
    monkeypatch.setattr(collecting, "_collect", lambda *args: Known(tied=frozenset([next(numbers)])))
    with pytest.raises(UnsupportedObjectError, match="are others each time"):
        get_state(nn.Linear(2, 2))
    assert next(numbers) < 100


def test_parameters_of_one_memory_stay_two(tmp_path: Path) -> None:
    """What a weight was before its parametrization is kept as a parameter of its own."""
    model = nn.Sequential(nn.Linear(2, 2))
    model.link = [model[0].weight]
    parametrizations.weight_norm(model[0])
    again, said = there_and_back(model, tmp_path / "save")
    assert said == []
    assert isinstance(again.link[0], nn.Parameter)
    assert again.link[0] is not again[0].parametrizations.weight.original1
    assert torch.equal(again.link[0], model.link[0])


def at(obj: Any, place: str) -> Any:
    """Return what is at a place."""
    for name in place.split("."):
        obj = obj[int(name)] if name.isdigit() else getattr(obj, name)
    return obj


def inside_its_own_module() -> tuple[Any, str]:
    """Return a layer that refers to what it is in, and to a tensor that is nowhere else."""
    model = nn.Sequential(nn.ModuleList([nn.Linear(2, 2)]))
    model[0][0].link = (model[0], torch.ones(2))
    return model, "0.0.link"


def inside_a_tuple_of_its_own() -> tuple[Any, str]:
    """Return a component that is in a tuple of its own, with a tensor that is nowhere else."""
    model = Making()
    model.link = (model, torch.ones(2))
    return model, "link"


def inside_a_constructor_of_its_own() -> tuple[Any, str]:
    """Return a layer that refers to a container that is given the layer."""
    model = nn.Sequential(nn.ReLU())
    model[0].link = [nn.Sequential(model[0])]
    return model, "0.link"


def parametrized_inside_a_tuple() -> tuple[Any, str]:
    """Return a layer of a class that torch made, in a tuple of its own."""
    layer = parametrizations.weight_norm(nn.Linear(2, 2))
    layer.link = (layer, layer.bias)
    return nn.Sequential(layer), "0.link"


@pytest.mark.parametrize(
    "make",
    [
        inside_its_own_module,
        inside_a_tuple_of_its_own,
        inside_a_constructor_of_its_own,
        parametrized_inside_a_tuple,
    ],
)
def test_what_refers_to_what_is_around_it_is_named(tmp_path: Path, make: Callable[[], tuple[Any, str]]) -> None:
    """An attribute that no config can say is named and left out, with all that is in it alone; the rest is loaded."""
    model, name = make()
    again, said = there_and_back(model, tmp_path / "save")
    assert [repr(name) in text for text in said] == [True]
    assert again.state_dict().keys() == model.state_dict().keys()
    outer, _, own = name.rpartition(".")
    assert not hasattr(at(again, outer) if outer else again, own)


class Referring(Component, nn.Module):
    """Its constructor makes much that refers to a layer: containers, a helper, a method, weak references, tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(2, 2), nn.Linear(2, 2)
        self.__dict__["again"] = self.layer
        self.items = [{"layer": self.layer, "weight": self.layer.weight}]
        self.helper = Watcher([self.layer.bias], self.layer)
        self.score, self.weak = self.layer.forward, weakref.ref(self.layer)
        self.other.weight.of = self.layer  # type: ignore[attr-defined]
        self.other.bias.of = self.other.weight  # type: ignore[attr-defined]
        self.of_other, self.names = [self.other], ["layer"]


def refers(net: Any, layer: Any) -> list[bool]:
    """Return whether each of what refers to a layer refers to that."""
    referred = [net.again, net.items[0]["layer"], net.score.__self__, net.weak(), net.helper.by_name["owner"]()]
    tensors = [net.items[0]["weight"] is layer.weight, net.helper.weak[0]() is layer.bias]
    more = [net.other.weight.of is layer, net.other.bias.of is net.other.weight, net.of_other[0] is net.other]
    return [*(item is layer for item in referred), *tensors, *more]


@pytest.mark.parametrize("is_given", [False, True])
def test_what_a_call_makes_refers_to_what_changed_since(tmp_path: Path, is_given: bool) -> None:
    """Where a part that a call made is told anew, what the call made to refer to it refers to the new one."""
    net = Referring()
    net.layer.weight.no_decay = True  # type: ignore[attr-defined]
    path = save(Run(net, net.layer) if is_given else net, tmp_path / "save")
    loaded = load(path)
    again = loaded.net if is_given else loaded
    assert refers(again, again.layer) == refers(net, net.layer) == [True] * 10
    assert "names" not in (tmp_path / "save/config.yaml").read_text()
    assert again.layer.weight.no_decay


def test_what_changed_since_is_not_looked_for_in_what_is_as_it_was_made(tmp_path: Path) -> None:
    """A changed part is told in full where a module outside refers to what it is in, as that was made."""
    net = Making()
    net.body[1] = nn.Linear(2, 2, bias=False)
    net.body[1].note = "new"
    net.body[0].weight = nn.Parameter(torch.ones(3, 2))
    net.norm.link = [net.body[0].weight]  # type: ignore[assignment]
    outer: Any = Making()
    outer.child = net.body
    net.body.__dict__["back"] = outer
    again, said = there_and_back(net, tmp_path / "save")
    assert said == []
    assert again.body[1].note == "new"
    assert again.body[1].bias is None
    assert again.body.back.child is again.body
    assert again.norm.link[0] is again.body[0].weight
    assert torch.equal(again.body[0].weight, net.body[0].weight)


def test_what_a_call_makes_may_refer_to_what_was_there_before(tmp_path: Path) -> None:
    """A layer that was replaced stays what the others refer to, and nothing of that is told."""
    net = Referring()
    before, net.layer = net.layer, nn.Linear(2, 3)
    assert refers(net, before) == [True] * 10
    with pytest.warns(StateMismatchWarning, match="'items' holds modules that torch does not know of"):
        again = load(save(net, tmp_path / "save"))
    assert again.again is not again.layer
    assert refers(again, again.again) == [True] * 10
    assert "helper" not in (tmp_path / "save/config.yaml").read_text()


# ------------------------------------------------------------------------------------------------ orders


@pytest.mark.parametrize(
    ("config", "can_be"),
    [
        ("a: !x {l: !module 'b:y'}\nb: !x {}\n", True),
        ("a: !x {l: !module 'b:y'}\nb: !x {l: !parameter 'a:y'}\n", False),
        ("a: !x {l: !module 'a:y'}\n", False),
        ("a: !x {l: !module 'a.b:y', b: !x {}}\n", True),
        ("!odict\n- [a, !x {l: !module 'b:y'}]\n- [b, !x {l: !module 'a:y'}]\n", False),
        ("- !x {l: !module '1:y'}\n- !x {l: !module '0:y'}\n", False),
        ("- &a !x {}\n- *a\n- !x {l: !module '7:y'}\n", False),
        ("a: !x {l: !module 'b:y'}\nb: !module 'c:y'\nc: !x {}\n", True),
        ("a: !x {l: !module 'b:y'}\nb: !module 'c:y'\nc: !x {l: !parameter 'a:y'}\n", False),
        ("a: !module 'b:y'\nb: !module 'a:y'\n", False),
        ("a: !x {l: !module 'b.l:y'}\nb: !module 'c:y'\nc: !x {}\n", False),
        ("a: !x {l: !module 'b:y'}\nb: !back a\n", False),
        ("a: !x {l: !module 'b:m.y'}\nb: !x.parts {modules: {m: !x.parts {modules: {}}}}\n", True),
        ("a: !x {l: !module 'b:m.y'}\nb: !x.parts {modules: {m: !back a}}\n", False),
        ("a: !x {l: !module 'b:m.y'}\nb: !x.parts {modules: {y: !x.parts {}}}\n", False),
        ("a: !x {l: !module 'b:m.y'}\nb: !edited {object: !x {}, changes: {'': {modules: {m: !back a}}}}\n", False),
        ("a: !x {l: !module 'b:m.y'}\nb: !edited {object: !x {}, changes: {m: {modules: {}}}}\n", True),
        ("1: !x {l: !module 'True:y'}\ntrue: !x {}\n", True),
    ],
)
def test_the_order_of_building(config: str, can_be: bool) -> None:
    """A config whose objects need each other, or what is not there, cannot be built; a part may need the whole."""
    assert link_without_order(parse("a: !x {l: !module 'b:y'}\n")[0].root, is_part=True) is None
    assert (link_without_order(parse(config)[0].root) is None) is can_be


class Bare:
    """Holds what it is given later."""


class Stated:
    """Has a state."""

    def __init__(self) -> None:
        self.value = torch.ones(2)

    def state_dict(self) -> dict[str, Any]:
        """Return the value."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the value."""
        self.value = state["value"]


HELD: dict[str, Callable[[], Any]] = {
    "an object with a state": Stated,
    "a module": lambda: nn.Linear(2, 2),
    "a component": Net,
    "a tensor": lambda: torch.ones(3),
}
OWNERS: dict[str, Callable[[], Any]] = {
    "a plain object": Bare,
    "a component": Net,
    "a layer": lambda: nn.Linear(2, 2),
    "a module": lambda: nn.Sequential(nn.ReLU()),
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("owner", OWNERS)
def test_what_is_left_out_takes_its_state_along(tmp_path: Path, owner: str, held: str) -> None:
    """An attribute that is no data, for it holds a lock, is named, and the save has no state of what is in it."""
    obj = OWNERS[owner]()
    obj.__dict__["kept"] = [HELD[held](), threading.Lock()]
    again, said = there_and_back({"owner": obj, "other": nn.Linear(1, 1)}, tmp_path / "save")
    assert any("not saved, since they are not data: 'owner.kept'" in text for text in said)
    assert "kept" not in vars(again["owner"])
