"""Optimizers and schedulers of any class: kept as what they are, and put together without their constructors."""

from __future__ import annotations

import enum
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from flambe_save import (
    CompilationError,
    StateMismatchWarning,
    UnsupportedObjectError,
    UntrustedError,
    load,
    load_state,
    load_state_from_file,
    save,
    untrusted,
)
from flambe_save.adapters import Adoption, Fit
from flambe_save.adapters import load_state as fill_state
from flambe_save.deferred_init.mode import DeferredInit
from flambe_save.describing import yaml
from flambe_save.objects.assembly import assemble, noting
from flambe_save.state import State


def net() -> nn.Sequential:
    """Return a small model."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))


def train(run: dict[str, Any], steps: int = 3) -> None:
    """Take steps."""
    for number in range(steps):
        run["o"].zero_grad()
        run["m"](torch.full((2, 3), 1.0 + number)).square().sum().backward()
        run["o"].step()
        if "s" in run:
            run["s"].step()


def weights(run: dict[str, Any]) -> list[Any]:
    """Return a run's parameters as lists."""
    return [value.tolist() for value in run["m"].parameters()]


def goes_on_alike(run: dict[str, Any], folder: Path, **options: Any) -> dict[str, Any]:
    """Save a run, load it, take steps with both, compare them, and return the loaded one."""
    path = save(run, folder / "run", overwrite=True)
    if not options:
        assert untrusted(path) == []
    again = load(path, **options)
    assert (Path(save(again, folder / "twice", overwrite=True)) / "config.yaml").read_text() == config_of(path)
    for each in (run, again):
        train(each)
    assert weights(run) == weights(again)
    return again


def config_of(path: str) -> str:
    """Return the text of a save's config."""
    return (Path(path) / "config.yaml").read_text()


class Signs(Optimizer):
    """Keeps an argument outside of its groups, and cannot be built with its defaults alone."""

    def __init__(self, params: Any, lr: float = 0.1, twice: bool = False, *, secret: int) -> None:
        super().__init__(params, {"lr": lr})
        self.twice = twice

    @torch.no_grad()
    def step(self) -> None:
        """Move by signs."""
        for group in self.param_groups:
            for value in group["params"]:
                value.sub_(value.grad.sign(), alpha=group["lr"] * (2 if self.twice else 1))


class Kind(enum.Enum):
    """What a group is."""

    MATRIX = 2
    VECTOR = 1


class Two(Optimizer):
    """Has a constructor that requires a key in every group."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        params = list(params)
        if not all(isinstance(group, dict) and "kind" in group for group in params):
            raise ValueError("every group says its kind")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        """Move, matrices twice as far."""
        for group in self.param_groups:
            for value in group["params"]:
                value.sub_(value.grad, alpha=group["lr"] * group["kind"].value)


class Wrapped(Optimizer):
    """Shows what another optimizer has."""

    def __init__(self, optimizer: Any, every: int = 2) -> None:
        self.optimizer, self.every, self.calls = optimizer, every, 0

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)
    defaults = property(lambda self: self.optimizer.defaults)

    def state_dict(self) -> Any:
        """Return the other's."""
        return self.optimizer.state_dict()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none)

    def load_state_dict(self, state: Any) -> None:
        """Fill the other."""
        self.optimizer.load_state_dict(state)

    def step(self) -> None:
        """Step, once in a while."""
        self.calls += 1
        if self.calls % self.every == 0:
            self.optimizer.step()


class Slow(Optimizer):
    """Keeps slow weights beside another optimizer, and tells its state in a way of its own."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.defaults = optimizer, {**optimizer.defaults, "slow": True}
        self.state = defaultdict(dict)
        for group in self.param_groups:
            for value in group["params"]:
                self.state[value]["slow"] = value.detach().clone()
        self.state["all"] = {"steps": 0, "first": {group["params"][0]: 0.5 for group in self.param_groups}}

    param_groups = property(lambda self: self.optimizer.param_groups)

    def state_dict(self) -> Any:
        """Return what no torch knows."""
        return {"slow": [value["slow"] for value in self.state.values()], "base": self.optimizer.state_dict()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        """Step, and pull back; how far, the state says."""
        self.optimizer.step()
        self.state["all"]["steps"] += 1
        for group in self.param_groups:
            pull = self.state["all"]["first"][group["params"][0]] / self.state["all"]["steps"]
            for value in group["params"]:
                value.lerp_(self.state[value]["slow"], pull)


class Sharp(Optimizer):
    """Shares its groups, and the list of them, with another optimizer that it makes."""

    def __init__(self, params: Any, base: Any, **options: Any) -> None:
        super().__init__(params, {"rho": 0.05, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups
        self.defaults.update(self.base.defaults)

    def step(self) -> None:
        """Step the other."""
        self.base.step()


@pytest.mark.parametrize("form", ["loaded", "filled"])
@pytest.mark.parametrize("name", ["ASGD", "NAdam", "AdamW"])
def test_what_is_kept_has_its_own_type(name: str, form: str, tmp_path: Path) -> None:
    """Numbers of bfloat16 weights, and float32 moments of weights that were cast, are not rounded to the weights'."""

    def made(is_cast_first: bool) -> dict[str, Any]:
        model = net().bfloat16() if is_cast_first else net()
        options = {"ASGD": {"lr": 0.1, "t0": 1, "lambd": 0.05}}.get(name, {})
        return {"m": model, "o": getattr(torch.optim, name)(model.parameters(), **options)}

    def steps(run: dict[str, Any]) -> None:
        for number in range(10):
            run["o"].zero_grad()
            weight = run["m"][0].weight
            run["m"](torch.full((2, 3), 1.0 + number, dtype=weight.dtype)).square().sum().backward()
            run["o"].step()

    run = made(name != "AdamW")
    steps(run)
    run["m"].bfloat16()
    path = save(run, tmp_path / "run")
    again = load(path) if form == "loaded" else made(True)
    if form == "filled":
        load_state(again, path)
    kept, other = run["o"].state[run["m"][0].weight], again["o"].state[again["m"][0].weight]
    assert {key: value.dtype for key, value in kept.items()} == {key: value.dtype for key, value in other.items()}
    assert all(torch.equal(value, other[key]) for key, value in kept.items())
    assert torch.float32 in {value.dtype for key, value in other.items() if key != "step"}
    if name != "AdamW":  # torch's step takes no moments of another type
        steps(run)
        steps(again)
        assert weights(run) == weights(again)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.LBFGS, torch.optim.Adafactor, torch.optim.Adagrad])
def test_defaults_neither_lose_nor_gain_keys(make: Any, tmp_path: Path) -> None:
    """A load leaves the defaults as they were, in a loaded optimizer and in one that is filled."""
    run = {"m": net()}
    run["o"] = make(run["m"].parameters(), lr=0.03)
    path = save(run, tmp_path / "run")
    here = {"m": net()}
    here["o"] = make(here["m"].parameters(), lr=0.03)
    before = dict(here["o"].defaults)
    load_state(here, path)
    assert load(path)["o"].defaults == run["o"].defaults == here["o"].defaults == before
    twice = load(save(here, tmp_path / "twice"))["o"]
    for first, second in ((run["o"], load(path)["o"]), (here["o"], twice)):
        assert [*first.param_groups[0]] == [*second.param_groups[0]]
    assert f"!torch.{make.__name__}\n" in config_of(path)


def test_a_parameter_that_left_its_group(tmp_path: Path) -> None:
    """Its moments are kept, for the day it comes back."""
    run = {"m": net()}
    run["o"] = torch.optim.Adam(run["m"].parameters(), 0.01)
    train(run)
    gone = run["o"].param_groups[0]["params"][:2]
    run["m"][0].requires_grad_(False)
    run["o"].param_groups[0]["params"] = run["o"].param_groups[0]["params"][2:]
    again = goes_on_alike(run, tmp_path)
    assert not again["m"][0].weight.requires_grad
    kept, other = run["o"].state[gone[0]], again["o"].state[again["m"][0].weight]
    assert all(torch.equal(value, other[key]) for key, value in kept.items())
    assert len(kept) == 3


def test_an_argument_outside_of_the_groups(tmp_path: Path) -> None:
    """It comes back, by default, whatever the constructor takes; the config reads as the optimizer."""
    run = {"m": net()}
    run["o"] = Signs(run["m"].parameters(), lr=0.25, twice=True, secret=1)
    again = goes_on_alike(run, tmp_path)
    assert again["o"].twice is True
    assert again["o"].defaults == {"lr": 0.25}
    assert config_of(str(tmp_path / "run")).endswith(
        f"""o: !{__name__}.Signs.parts
  groups:
  - params: [!parameter 'm:0.weight', !parameter 'm:0.bias', !parameter 'm:2.weight', !parameter 'm:2.bias']
    lr: 0.25
  defaults:
    lr: 0.25
  attributes:
    twice: true
"""
    )
    calls = []
    again["o"].register_step_post_hook(lambda *_: calls.append(1))  # torch's tables of hooks are there too
    train(again, 1)
    assert calls == [1]


def test_a_constructor_that_checks_groups(tmp_path: Path) -> None:
    """Options that are more than data stand in the config; the order of a group's entries is kept."""
    run = {"m": net()}
    groups: dict[Kind, list[Any]] = {Kind.MATRIX: [], Kind.VECTOR: []}
    for value in run["m"].parameters():
        groups[Kind(value.ndim)].append(value)
    run["o"] = Two([{"params": values, "kind": kind} for kind, values in groups.items()])
    again = goes_on_alike(run, tmp_path)
    assert [list(group) for group in again["o"].param_groups] == [["params", "kind", "lr"]] * 2
    assert [group["kind"] for group in again["o"].param_groups] == [Kind.MATRIX, Kind.VECTOR]
    load_state(again, tmp_path / "run")
    assert again["o"].param_groups[1]["kind"] is Kind.VECTOR


def test_an_optimizer_that_shows_anothers(tmp_path: Path) -> None:
    """It is put around the other again, also where that has a place of its own; one that is there is filled."""
    for is_shared in (False, True):
        run = {"m": net()}
        inner = torch.optim.SGD(run["m"].parameters(), 0.1, momentum=0.5)
        run["o"] = Wrapped(inner, every=2)
        if is_shared:
            run["inner"] = inner
        train(run)
        again = goes_on_alike(run, tmp_path)
        assert again["o"].calls == run["o"].calls
        assert not is_shared or again["o"].optimizer is again["inner"]
    here = {"m": net()}
    here["inner"] = torch.optim.SGD(here["m"].parameters(), 0.7, momentum=0.1)
    here["o"] = Wrapped(here["inner"])
    load_state(here, tmp_path / "run")
    assert here["inner"].param_groups[0]["lr"] == 0.1
    assert here["inner"].state.keys() == set(here["m"].parameters())


def test_an_optimizer_with_a_state_beside_anothers(tmp_path: Path) -> None:
    """Its state is kept by parameters, under other keys, and by parameters inside of that; alone too."""
    run = {"m": net()}
    run["o"] = Slow(torch.optim.SGD(run["m"].parameters(), 0.1, momentum=0.9))
    train(run)
    again = goes_on_alike(run, tmp_path)
    assert next(iter(again["o"].state["all"]["first"])) is again["m"][0].weight
    here = {"m": net()}
    here["o"] = Slow(torch.optim.SGD(here["m"].parameters(), 0.5, momentum=0.9))
    load_state(here, save(run, tmp_path / "more"))
    train(here)
    train(run)
    assert weights(here) == weights(run)
    alone = load(save(run["o"], tmp_path / "alone"))
    first = alone.param_groups[0]["params"][0]
    assert torch.equal(alone.state[first]["slow"], run["o"].state[run["m"][0].weight]["slow"])
    assert next(iter(alone.state["all"]["first"])) is first


def test_groups_that_two_optimizers_share(tmp_path: Path) -> None:
    """They are one list of the same dicts: a scheduler of the one drives both."""
    run = {"m": net()}
    run["o"] = Sharp(run["m"].parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    run["s"] = lr_scheduler.StepLR(run["o"], 1, 0.5)
    train(run)
    assert run["o"].base.param_groups is run["o"].param_groups
    again = goes_on_alike(run, tmp_path)
    assert again["o"].base.param_groups is again["o"].param_groups
    assert again["o"].param_groups[0]["lr"] == 0.1 / 64


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_group_that_was_put_in_by_hand(order: str, tmp_path: Path) -> None:
    """Adam with SGD's group: torch's constructor refuses the two groups, so both are parts, and share the group."""
    model = net()
    one = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    two = torch.optim.Adam(model[2].parameters())
    two.param_groups.append(one.param_groups[0])
    run = {"m": model, **{name: {"a": one, "b": two}[name] for name in order}}
    path = save(run, tmp_path / "run")
    assert untrusted(path) == []
    again = load(path)
    assert again["b"].param_groups[1] is again["a"].param_groups[0]
    assert again["b"].param_groups[1].keys() == one.param_groups[0].keys()
    assert again["b"].param_groups[0]["params"][0] is again["m"][2].weight
    assert again["a"].param_groups[0]["params"][2] is again["m"][2].weight


def test_two_groups_with_one_parameter(tmp_path: Path) -> None:
    """Also where no other optimizer has the group."""
    model = net()
    optimizer = torch.optim.Adam(model[2].parameters())
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [model[2].weight], "lr": 3.0})
    again = load(save({"m": model, "o": optimizer}, tmp_path / "run"))
    first, second = again["o"].param_groups
    assert second["params"][0] is first["params"][0] is again["m"][2].weight
    assert (first["lr"], second["lr"]) == (0.001, 3.0)


def test_an_option_that_was_taken_out_of_a_group_stays_out(tmp_path: Path) -> None:
    """No constructor leaves it out, so it is written as its parts."""
    run = {"m": net()}
    run["o"] = torch.optim.AdamW(run["m"].parameters())
    del run["o"].param_groups[0]["maximize"]
    again = load(save(run, tmp_path / "run"))
    assert list(again["o"].param_groups[0]) == list(run["o"].param_groups[0])


def test_states_that_are_no_dicts_of_names(tmp_path: Path) -> None:
    """Numbers as keys, a tensor in place of a dict, an empty dict, a parameter in a value, a key that is a text."""
    run = {"m": net()}
    first, second, third, fourth = run["m"].parameters()
    run["o"] = Signs(run["m"].parameters(), secret=1)
    run["o"].state[first] = {0: torch.ones(2), "a.b": [1], "": 2}
    run["o"].state[second] = torch.arange(3)
    run["o"].state[third] = {}
    run["o"].state[fourth] = {"other": {"of": first}, "text": "abc"}
    run["o"].state["k"] = torch.tensor(4)
    again = load(save(run, tmp_path / "run"))
    one, two, three, four = again["m"].parameters()
    state = again["o"].state
    assert type(state) is defaultdict
    assert str(state[one]) == str(run["o"].state[first])
    assert state[two].tolist() == [0, 1, 2]
    assert three in state
    assert state[three] == {}
    assert state[four]["other"]["of"] is one
    assert (state[four]["text"], state["k"].item()) == ("abc", 4)
    assert len(state) == 5
    here = {"m": net()}
    here["o"] = Signs(here["m"].parameters(), secret=1)
    load_state(here, tmp_path / "run")
    *_, four = here["m"].parameters()
    assert here["o"].state[four]["text"] == "abc"
    assert here["o"].state[four]["other"]["of"] is next(here["m"].parameters())


def test_an_empty_group_keeps_its_options(tmp_path: Path) -> None:
    """Also options that the defaults do not have."""
    run = {"m": net()}
    run["o"] = torch.optim.SGD([{"params": run["m"].parameters()}, {"params": [], "lr": 0.7, "note": 1}], 0.1)
    again = goes_on_alike(run, tmp_path)
    assert (again["o"].param_groups[1]["lr"], again["o"].param_groups[1]["note"]) == (0.7, 1)


def test_attributes_of_torchs_own(tmp_path: Path) -> None:
    """What somebody has set on one of torch's own is kept; without such the config is the short call."""
    run = {"m": net()}
    run["o"] = torch.optim.Adam(run["m"].parameters(), 0.01)
    run["s"] = lr_scheduler.StepLR(run["o"], 2)
    assert "o: &id001 !torch.Adam\n" in config_of(save(run, tmp_path / "short"))
    assert "s: !torch.StepLR\n" in config_of(str(tmp_path / "short"))
    run["o"].best, run["s"].note, run["o"].defaults["more"] = {"loss": 0.5}, [1], 2
    again = goes_on_alike(run, tmp_path)
    assert (again["o"].best, again["s"].note, again["o"].defaults["more"]) == ({"loss": 0.5}, [1], 2)
    assert "!torch.Adam.parts\n" in config_of(str(tmp_path / "run"))
    assert "!torch.StepLR.parts\n" in config_of(str(tmp_path / "run"))


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda p: Signs(p, secret=1)])
def test_hooks_are_named(make: Any, tmp_path: Path) -> None:
    """Hooks and a step that somebody has replaced are no data."""
    run = {"m": net()}
    run["o"] = make(run["m"].parameters())
    run["o"].register_step_pre_hook(print)
    run["o"].step = print
    with pytest.warns(StateMismatchWarning, match=r"'o._optimizer_step_pre_hooks'.*'o.step'"):
        save(run, tmp_path / "run")
    assert "step" not in vars(load(tmp_path / "run")["o"])


class Warmup(lr_scheduler.LRScheduler):
    """Hands over to another scheduler of the same optimizer."""

    def __init__(self, optimizer: Any, steps: int, after: Any, last_epoch: int = -1) -> None:
        self.steps, self.after = steps, after
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the rates."""
        if self.last_epoch >= self.steps:
            return self.after.get_last_lr()
        return [base * (self.last_epoch + 1) / (self.steps + 1) for base in self.base_lrs]

    def step(self, epoch: Any = None) -> None:
        """Step, and later on the other too."""
        if self.last_epoch >= self.steps:
            self.after.step()
        super().step()


@pytest.mark.parametrize("steps", [1, 5])
def test_a_scheduler_in_a_scheduler(steps: int, tmp_path: Path) -> None:
    """Both drive the loaded optimizer, with rates equal to the last digit; one that is there is filled."""

    def made() -> dict[str, Any]:
        run = {"m": net()}
        run["o"] = torch.optim.SGD(run["m"].parameters(), 0.1, momentum=0.9)
        run["s"] = Warmup(run["o"], 3, lr_scheduler.CosineAnnealingLR(run["o"], 10))
        return run

    run = made()
    train(run, steps)
    path, here = save(run, tmp_path / "first"), made()
    load_state(here, path)
    again = goes_on_alike(run, tmp_path)
    assert again["s"].after.optimizer is again["s"].optimizer is again["o"]
    assert again["s"].get_last_lr() == run["s"].get_last_lr()
    train(here)
    assert weights(here) == weights(run)
    assert "s.after" not in load_state_from_file(path)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("has_stepped", [False, True])
def test_torch_warns_of_a_missing_step_as_before(own: bool, has_stepped: bool, tmp_path: Path) -> None:
    """A scheduler that steps first is warned of after a load just where it would have been without one."""
    run = {"m": net()}
    run["o"] = torch.optim.SGD(run["m"].parameters(), 0.1)
    after = lr_scheduler.StepLR(run["o"], 3)
    run["s"] = Warmup(run["o"], 3, after) if own else after
    if has_stepped:
        run["m"](torch.ones(1, 3)).sum().backward()
        run["o"].step()
    again = load(save(run, tmp_path / "run"))
    told = []
    for each in (run, again):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            each["s"].step()
        told.append(["before `optimizer.step()`" in str(item.message) for item in caught])
    assert told == ([[], []] if has_stepped else [[True], [True]])
    again["o"].step()
    assert again["o"]._opt_called is True


class ByIds(Signs):
    """Knows its parameters by their ids."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, secret=1)
        self.apart = {id(self.param_groups[0]["params"][0])}


def test_ids_are_refused(tmp_path: Path) -> None:
    """Another process has other ids, so nothing is saved, and the error names the attribute."""
    run = {"m": net()}
    run["o"] = ByIds(run["m"].parameters())
    with pytest.raises(UnsupportedObjectError, match=r"o: the 'apart' of a ByIds holds the ids of parameters"):
        save(run, tmp_path / "run")
    assert [*tmp_path.iterdir()] == []


class Quiet(Signs):
    """Would tell of anything of its own that a load runs."""

    ran: ClassVar[list[str]] = []

    def __setstate__(self, state: Any) -> None:
        self.ran.append("__setstate__")

    def load_state_dict(self, state: Any) -> None:
        """Tell."""
        self.ran.append("load_state_dict")

    def state_dict(self) -> Any:
        """Tell."""
        self.ran.append("state_dict")
        return super().state_dict()

    def add_param_group(self, group: Any) -> None:
        """Tell."""
        self.ran.append("add_param_group")
        super().add_param_group(group)


class Loud(Signs):
    """Does something when an attribute is set."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)


def test_a_load_runs_no_code_of_the_class(tmp_path: Path) -> None:
    """Neither constructor nor methods; a class that hears of attributes needs trust by name."""
    run = {"m": net()}
    run["o"] = Quiet(run["m"].parameters(), secret=1)
    train(run)
    run["o"].state[run["m"][0].weight] = {"moment": torch.ones(3, 3)}
    path = save(run, tmp_path / "run")
    Quiet.ran.clear()
    again = load(path)
    assert Quiet.ran == []
    assert again["o"].state[again["m"][0].weight]["moment"].sum() == 9
    run["o"] = Loud(run["m"].parameters(), secret=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = save(run, tmp_path / "loud")
    with pytest.raises(UntrustedError, match="Loud"):
        load(path)
    assert type(load(path, trusted=[f"{__name__}.Loud"])["o"]) is Loud


class Reduced(Signs):
    """Says itself how it is pickled."""

    def __reduce__(self) -> Any:
        return int, ()


def test_what_is_more_than_its_attributes_is_refused(tmp_path: Path) -> None:
    """By name, at the save."""
    run = {"m": net()}
    run["o"] = Reduced(run["m"].parameters(), secret=1)
    with pytest.raises(UnsupportedObjectError, match=r"o: a Reduced is more than its attributes"):
        save(run, tmp_path / "run")


@pytest.mark.parametrize(
    "tables",
    [
        {"groups": 1},
        {"groups": [1]},
        {"groups": [{"lr": 1}]},
        {"groups": [{"params": [1]}]},
        {"others": [1]},
        {"others": [], "state": "list"},
        {"defaults": [1]},
        {"attributes": {"param_groups": []}},
        {"attributes": {"_optimizer_step_pre_hooks": {}}},
        {"attributes": {"__class__": 1}},
        {"attributes": {"step": print}},
        {"modules": {}},
    ],
    ids=str,
)
def test_tables_that_are_none_of_an_optimizers(tables: dict[str, Any]) -> None:
    """They are an error of ours."""
    with pytest.raises(CompilationError):
        assemble(Signs, **tables)


def test_a_scheduler_drives_optimizers_alone() -> None:
    """Anything else in a config is refused before torch would patch it."""
    with pytest.raises(CompilationError, match="drives no Linear"):
        assemble(Warmup, attributes={"optimizer": nn.Linear(1, 1), "base_lrs": []})


@pytest.mark.parametrize(
    ("attributes", "entries"),
    [
        ("!torch.LambdaLR.parts {attributes: {lr_lambdas: 5}}", {"lr_lambdas": 5}),
        ("!torch.SequentialLR.parts {attributes: {_schedulers: 5}}", {"_schedulers": [1]}),
        ("!torch.LambdaLR.parts {attributes: {lr_lambdas: [!torch.ReLU {}]}}", {"lr_lambdas": [{"training": 2}]}),
    ],
    ids=str,
)
def test_no_state_fills_what_is_put_together(attributes: str, entries: dict[str, Any]) -> None:
    """A scheduler of a config has the attributes that it says: none of its methods is called with what a state says."""
    state = State({f"s.{name}": value for name, value in entries.items()})
    state._metadata["s"] = {"entries": [*entries]}
    again = build_in(f"s: {attributes}\n", state)
    assert vars(again["s"]).keys() == entries.keys()
    (kept,) = vars(again["s"]).values()
    assert kept == 5 or kept[0].training is True


def build_in(config: str, state: State) -> Any:
    """Load a config with a state."""
    assembled: dict[int, Any] = {}
    with noting(assembled, set()):
        obj = yaml.load(config)
        obj["s"] = obj["s"]()
    adoption = Adoption(DeferredInit(is_on=False))
    adoption.assembled = assembled
    fill_state(obj, state, fit=Fit(None, adoption))
    return obj


def test_calls_of_older_saves_load(tmp_path: Path) -> None:
    """A config that says how the constructor is called needs trust in its class, as ever."""
    run = {"m": net()}
    run["o"] = torch.optim.SGD(run["m"].parameters(), 0.1, momentum=0.9)
    train(run)
    path = Path(save(run, tmp_path / "run"))
    (path / "manifest.json").unlink()
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("!torch.SGD", f"!{__name__}.Old"))
    (path / "requirements.txt").write_text("")
    with pytest.raises(UntrustedError, match="Old"):
        load(path)
    again = load(path, trusted=[f"{__name__}.Old"])
    assert (type(again["o"]), again["o"].made) == (Old, True)
    for each in (run, again):
        train(each)
    assert weights(run) == weights(again)


class Old(torch.optim.SGD):
    """Was saved by the call of its constructor."""

    def __init__(self, params: Any, lr: float, **options: Any) -> None:
        super().__init__(params, lr, **options)
        self.made = True


def _wrapper(module: str, name: str, attribute: str, base: type = object) -> Any:
    """Return a class that stands in for a library's, which is looked through by its name."""

    def init(self: Any, inner: Any) -> None:
        setattr(self, attribute, inner)
        self.lock = nn  # what no save could hold

    return type(name, (base,), {"__init__": init, "__module__": module})


def test_wrappers_of_libraries_are_looked_through(tmp_path: Path) -> None:
    """What is saved is the optimizer and the scheduler inside, and a save fills those inside."""
    optimizer_class = _wrapper("accelerate.optimizer", "AcceleratedOptimizer", "optimizer")
    scheduler_class = _wrapper("accelerate.scheduler", "AcceleratedScheduler", "scheduler")
    fabric_class = _wrapper("lightning.fabric.wrappers", "_FabricOptimizer", "_optimizer")

    def made() -> dict[str, Any]:
        run = {"m": net()}
        run["o"] = torch.optim.SGD(run["m"].parameters(), 0.1, momentum=0.9)
        run["s"] = lr_scheduler.StepLR(run["o"], 1, 0.5)
        return run

    def wrapped(run: dict[str, Any]) -> dict[str, Any]:
        return {**run, "o": fabric_class(optimizer_class(run["o"])), "s": scheduler_class(run["s"])}

    run, here = made(), made()
    train(run)
    path = save(wrapped(run), tmp_path / "run")
    assert config_of(path) == config_of(save(run, tmp_path / "plain"))
    again = load(path)
    load_state(wrapped(here), path)
    for each in (run, again, here):
        train(each)
    assert weights(run) == weights(again) == weights(here)
    assert type(again["o"]) is torch.optim.SGD
    run["m"]._is_accelerate_prepared = True
    run["m"]._original_forward, run["m"].forward = run["m"].forward, print
    assert config_of(save(run, tmp_path / "prepared")) == config_of(path)
