"""Optimizers, schedulers, scalers and averages: on the loaded model's own parameters, their state by name."""

from __future__ import annotations

import copy
import functools
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils

from flambe_save import (
    Component,
    LoadError,
    NeedsTrustWarning,
    StateMismatchError,
    StateMismatchWarning,
    UntrustedError,
    load,
    load_state,
    load_state_from_file,
    save,
    untrusted,
)
from flambe_save.adapters import get_state
from flambe_save.testing import AdapterContract

OPTIMIZERS = sorted(
    name
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
)


def net(seed: int = 0) -> nn.Sequential:
    """Return a small model."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def train(model: nn.Module, optimizer: Any, scheduler: Any = None, steps: int = 3, seed: int = 1) -> None:
    """Take steps on made-up data."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        data = torch.randn(5, 3, generator=generator)

        def loss(data: torch.Tensor = data) -> Any:
            optimizer.zero_grad()
            value = model(data).square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        elif scheduler is not None:
            scheduler.step()


def weights(model: nn.Module) -> list[Any]:
    """Return a model's parameters as lists."""
    return [value.tolist() for value in model.parameters()]


def goes_on_alike(run: dict[str, Any], path: str) -> bool:
    """Whether a run and its loaded twin are equal after some more steps, bit for bit."""
    again = load(path)
    for each in (run, again):
        train(each["model"], each["optimizer"], each.get("scheduler"), seed=2)
    return weights(run["model"]) == weights(again["model"])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("flags", [{}, {"pickle_only": True}], ids=str)
def test_every_optimizer_goes_on(name: str, flags: dict[str, bool], tmp_path: Path) -> None:
    """Each of torch's goes on where it was, after some steps, without trust."""
    model = net()
    if name == "SparseAdam":
        model = nn.Sequential(Words())
    parameters = [value for value in model.parameters() if value.ndim == 2 or name != "Muon"]
    optimizer = getattr(torch.optim, name)(parameters)
    train(model, optimizer)
    run = {"model": model, "optimizer": optimizer}
    path = save(run, tmp_path / "run", **flags)
    assert untrusted(path) == []
    assert goes_on_alike(run, path)


class Words(Component, nn.Module):
    """Looks up rows, so that its gradient is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 2, sparse=True)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return the rows that data's signs tell."""
        return self.table((data > 0).long())


def half(epoch: int) -> float:
    """Return a factor for an epoch."""
    return 0.5**epoch


SCHEDULERS: dict[str, Any] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4, 4], 0.3),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.2, 0.9, 4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.7),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5, 0.01),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2, 0.01),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 6, 2.0),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, 2, "triangular2"),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 9, pct_start=0.4, anneal_strategy="linear", div_factor=7),
    "OneCycleLR of three": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 9, three_phase=True, cycle_momentum=False),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, "max", 0.5, 1, cooldown=1, min_lr=0.001),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: swa_utils.SWALR(o, 0.02, 4, "linear"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_goes_on(name: str, tmp_path: Path) -> None:
    """Each of torch's goes on where it was, with rates equal to the last digit, without trust."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer)
    train(model, optimizer, scheduler)
    path = save({"scheduler": scheduler, "optimizer": optimizer, "model": model}, tmp_path / "run")
    assert untrusted(path) == []
    again = load(path)
    assert again["scheduler"].optimizer is again["optimizer"]
    rates = []
    for each in (again, {"model": model, "optimizer": optimizer, "scheduler": scheduler}):
        rates.append([])
        for seed in range(4):
            train(each["model"], each["optimizer"], each["scheduler"], steps=1, seed=seed)
            rates[-1].append([each["optimizer"].param_groups[0][key] for key in ("lr", "momentum")])
    assert rates[0] == rates[1]
    assert weights(again["model"]) == weights(model)


def test_schedulers_of_functions(tmp_path: Path) -> None:
    """A function of a module is named in the config and needs trust by name; a lambda goes to the stash."""
    model = net()
    optimizer = torch.optim.SGD([{"params": [value]} for value in model.parameters()], 0.1)
    scheduler = lr_scheduler.LambdaLR(optimizer, [half, half, functools.partial(pow, 0.5), half])
    train(model, optimizer, scheduler)
    with pytest.warns(NeedsTrustWarning, match=r"half"):
        path = save({"model": model, "optimizer": optimizer, "scheduler": scheduler}, tmp_path / "run")
    with pytest.raises(UntrustedError, match=r"half"):
        load(path)
    again = load(path, trusted=[f"{__name__}.half", "builtins.pow"])
    assert again["scheduler"].get_last_lr() == scheduler.get_last_lr()
    assert again["scheduler"].lr_lambdas[0] is half


class Wanted(torch.optim.SGD):
    """Has an argument that it does not show."""

    def __init__(self, params: Any, secret: int, lr: float = 0.1) -> None:
        super().__init__(params, lr)


class Slow(lr_scheduler.LRScheduler):
    """Shows its argument under its name."""

    def __init__(self, optimizer: Any, pace: float, last_epoch: int = -1) -> None:
        self.pace = pace
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the rates."""
        return [base * self.pace**self.last_epoch for base in self.base_lrs]


def test_classes_of_ones_own(tmp_path: Path) -> None:
    """They come back without their constructors, whatever these took, and without trust."""
    model = net()
    optimizer = Wanted(model.parameters(), 3, lr=0.2)
    scheduler = Slow(optimizer, 0.5)
    train(model, optimizer, scheduler)
    run = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    path = save(run, tmp_path / "run")
    assert untrusted(path) == []
    again = load(path)
    assert type(again["optimizer"]) is Wanted
    assert again["optimizer"].defaults == optimizer.defaults
    assert again["scheduler"].optimizer is again["optimizer"]
    assert vars(again["scheduler"]).keys() == vars(scheduler).keys()
    assert goes_on_alike(run, path)


# ------------------------------------------------------------------------------------------------ names


def moments(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """Return what an optimizer keeps, by the names of parameters."""
    names = {id(value): name for name, value in model.named_parameters()}
    return {names[id(key)]: value["exp_avg"].tolist() for key, value in optimizer.state.items()}


def checkpoint(folder: Path) -> tuple[nn.Module, Any, str]:
    """Return a model, its optimizer of two groups and their save."""
    model = net()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "weight_decay": 0.5}]
    optimizer = torch.optim.Adam(groups, 0.01)
    train(model, optimizer)
    return model, optimizer, save({"model": model, "optimizer": optimizer}, folder / "run")


def test_reordering_groups_shifts_no_moments(tmp_path: Path) -> None:
    """Each parameter gets its own moments, and each group the options of the one that it is."""
    model, optimizer, path = checkpoint(tmp_path)
    here = net(5)
    other = torch.optim.Adam([{"params": list(here[2].parameters())[::-1]}, {"params": here[0].parameters()}], 0.7)
    load_state({"model": here, "optimizer": other}, path)
    assert moments(here, other) == moments(model, optimizer)
    assert [(group["lr"], group["weight_decay"]) for group in other.param_groups] == [(0.01, 0.5), (0.1, 0)]


def test_freezing_layers_shifts_no_moments(tmp_path: Path) -> None:
    """Moments of parameters that are gone are named in a warning; the others get their own."""
    model, optimizer, path = checkpoint(tmp_path)
    here = net(5)
    other = torch.optim.Adam(here[2].parameters(), 0.7)
    with pytest.warns(StateMismatchWarning, match=r"no parameter here is called .*model\.0\.bias"):
        load_state({"model": here, "optimizer": other}, path)
    expected = {name: value for name, value in moments(model, optimizer).items() if name.startswith("2.")}
    assert moments(here, other) == expected


def test_new_layers_begin_afresh(tmp_path: Path) -> None:
    """A parameter that the save does not know has no moments yet, and is named in a warning."""
    _, _, path = checkpoint(tmp_path)
    here = net(5)
    extra = nn.Linear(2, 2)
    other = torch.optim.Adam([*here.parameters(), *extra.parameters()], 0.7)
    with (
        pytest.warns(StateMismatchWarning, match=r"the save knows no parameter .*more\.bias"),
        pytest.warns(StateMismatchWarning, match=r"missing from the save: more\.bias, more\.weight"),
    ):
        load_state({"model": here, "optimizer": other, "more": extra}, path, strict=False)
    assert len(other.state) == 4


def test_an_optimizer_alone_is_matched_by_its_own_names_or_by_position(tmp_path: Path) -> None:
    """Without the model around it there are the names it was told, else positions; other counts are an error."""
    model, optimizer, path = checkpoint(tmp_path)
    here = net(5)
    other = torch.optim.Adam([{"params": here[0].parameters()}, {"params": here[2].parameters()}], 0.7)
    load_state(other, path, node="optimizer")
    assert moments(here, other) == moments(model, optimizer)
    named = torch.optim.Adam(((f"model.{name}", value) for name, value in [*here.named_parameters()][::-1]), 0.7)
    load_state(named, path, node="optimizer")
    assert moments(here, named) == moments(model, optimizer)
    foreign = torch.optim.Adam([(f"p{index}", value) for index, value in enumerate([*here.parameters()][::-1])], 0.7)
    with pytest.warns(StateMismatchWarning, match=r"'p0'.*matched by their positions"):
        load_state(foreign, save(named, tmp_path / "alone"))
    with pytest.raises(StateMismatchError, match=r"4 parameters in the save .* 1 others here"):
        load_state(torch.optim.Adam([here[0].weight]), path, node="optimizer")


def test_named_parameters(tmp_path: Path) -> None:
    """An optimizer that was told names is built on names again, in one group or more."""
    model = net()
    one = torch.optim.Adam(model.named_parameters())
    two = torch.optim.SGD([{"params": list(layer.named_parameters())} for layer in (model[0], model[2])], 0.1)
    for optimizer in (one, two):
        train(model, optimizer)
        again = load(save({"model": model, "optimizer": optimizer}, tmp_path / "run", overwrite=True))
        assert str(again["optimizer"].state_dict()) == str(optimizer.state_dict())
        assert "param_names" in again["optimizer"].param_groups[0]


def test_what_was_kept_is_called_by_names(tmp_path: Path) -> None:
    """The keys of the state say whose moments they are."""
    _, _, path = checkpoint(tmp_path)
    assert "optimizer.state.model.0.weight.exp_avg" in load_state_from_file(path)


def test_an_optimizer_saved_alone_has_parameters_of_its_own(tmp_path: Path) -> None:
    """It is built again on copies of what it moved."""
    model, optimizer, _ = checkpoint(tmp_path)
    again = load(save(optimizer, tmp_path / "alone"))
    assert [value.tolist() for group in again.param_groups for value in group["params"]] == weights(model)
    assert str(again.state_dict()) == str(optimizer.state_dict())


@pytest.mark.parametrize("damage", ["no list", "no dict", "no names", "another tensor"])
def test_bad_states_are_refused(damage: str, tmp_path: Path) -> None:
    """A state that is no optimizer's is an error of ours, and the optimizer is as it was."""
    from flambe_save.adapters import load_state as fill

    model, optimizer, _ = checkpoint(tmp_path)
    state = get_state({"model": model, "optimizer": optimizer})
    if damage == "another tensor":
        state["optimizer.param_groups"] = [{"params": ["x"] * 4}]
    else:
        state["optimizer.param_groups"] = {"no list": 1, "no dict": [1], "no names": [{"params": [1]}]}[damage]
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(StateMismatchError, match="optimizer"):
        fill({"model": model, "optimizer": optimizer}, state)
    assert str(optimizer.state_dict()) == str(before)


class Trainer(Component):
    """Makes its optimizer, or is given it."""

    def __init__(self, model: nn.Module, optimizer: Any = None) -> None:
        self.net = model
        self.optimizer = torch.optim.Adam(model.parameters()) if optimizer is None else optimizer
        self.scheduler = lr_scheduler.StepLR(self.optimizer, 2)


@pytest.mark.parametrize("is_given", [False, True])
def test_inside_a_component(is_given: bool, tmp_path: Path) -> None:
    """An optimizer in an attribute is part of the state; given as an argument, it is built on the other argument."""
    model = net()
    trainer = Trainer(model, torch.optim.Adam(model.parameters(), 0.1) if is_given else None)
    train(model, trainer.optimizer, trainer.scheduler)
    again = load(save(trainer, tmp_path / "run"))
    assert again.scheduler.optimizer is again.optimizer
    assert again.optimizer.param_groups[0]["params"][0] is again.net[0].weight
    for each in (trainer, again):
        train(each.net, each.optimizer, each.scheduler, seed=2)
    assert weights(again.net) == weights(model)


def test_half_precision_moments(tmp_path: Path) -> None:
    """An optimizer that stands before its model in the dict is filled when the model has its types."""
    model = net().to(torch.bfloat16)
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.zero_grad()
    model(torch.ones(1, 3, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    again = load(save({"a": optimizer, "b": model}, tmp_path / "run"))
    assert again["b"][0].weight.dtype is torch.bfloat16
    assert again["a"].state[again["b"][0].weight]["exp_avg"].dtype is torch.bfloat16


# ------------------------------------------------------------------------------------------------ others


def test_what_is_set_on_a_scaler_is_kept(tmp_path: Path) -> None:
    """Values, tensors, and what the save has elsewhere; one that is switched off too."""
    on, off = torch.amp.GradScaler("cpu", init_scale=8.0), torch.amp.GradScaler("cpu", enabled=False)
    model = nn.Linear(2, 2)
    on.note, on.seen, on.model, off.note = [1, "a"], torch.ones(2), model, 2
    path = save({"scaler": on, "off": off, "model": model}, tmp_path / "run")
    assert untrusted(path) == []
    again = load(path)
    assert (again["scaler"].note, again["off"].note) == ([1, "a"], 2)
    assert again["scaler"].seen.tolist() == [1.0, 1.0]
    assert again["scaler"].model is again["model"]
    assert again["scaler"].state_dict() == on.state_dict()
    assert vars(again["scaler"]).keys() == vars(on).keys()


def test_gradient_scalers(tmp_path: Path) -> None:
    """Scale, growth and settings."""
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0, growth_interval=7)
    scaler._lazy_init_scale_growth_tracker(torch.device("cpu"))
    scaler._scale.fill_(64.0)
    again = load(save({"scaler": scaler, "off": torch.amp.GradScaler("cpu", enabled=False)}, tmp_path / "run"))
    assert again["scaler"].state_dict() == scaler.state_dict()
    assert (again["scaler"].get_scale(), again["off"].is_enabled()) == (64.0, False)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9), "use_buffers": True},
        {"avg_fn": swa_utils.get_ema_avg_fn(0.8)},
        {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()},
    ],
    ids=lambda value: "-".join(value) or "plain",
)
def test_averaged_models(arguments: dict[str, Any], tmp_path: Path) -> None:
    """A running average of weights goes on with the same rule."""
    model = net()
    average = swa_utils.AveragedModel(model, **arguments)
    for seed in range(3):
        train(model, torch.optim.SGD(model.parameters(), 0.1), seed=seed)
        average.update_parameters(model)
    path = save({"model": model, "average": average}, tmp_path / "run")
    assert untrusted(path) == []
    again = load(path)
    for each in ({"model": model, "average": average}, again):
        train(each["model"], torch.optim.SGD(each["model"].parameters(), 0.1), seed=9)
        each["average"].update_parameters(each["model"])
    assert weights(again["average"]) == weights(average)
    assert again["average"].n_averaged == 4


class Sampler:
    """Follows torchdata's protocol: it tells and takes a position."""

    def __init__(self, size: int) -> None:
        self.size, self.position = size, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and more of it as it goes."""
        return {"position": self.position, **({"last": torch.tensor(self.position)} if self.position else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a position."""
        self.position = state["position"]


class Loader(Component):
    """Holds a sampler."""

    def __init__(self, size: int) -> None:
        self.sampler = Sampler(size)


def test_whatever_has_a_state_dict(tmp_path: Path) -> None:
    """Inside a component, and in a dict that is there; entries may be others each time."""
    loader = Loader(9)
    loader.sampler.position = 4
    again = load(save(loader, tmp_path / "run"))
    assert again.sampler.position == 4
    path = save({"sampler": loader.sampler}, tmp_path / "dict")
    here = {"sampler": Sampler(9)}
    load_state(here, path)
    assert here["sampler"].position == 4
    state = load_state_from_file(path)
    assert sorted(state) == ["sampler.last", "sampler.position"]


class TestOptimizer(AdapterContract):
    """An optimizer keeps to the contract of adapters."""

    def make_object(self, seed: int) -> Any:
        """Return an optimizer that has taken steps."""
        model = net(3)
        optimizer = torch.optim.Adam(model.parameters())
        train(model, optimizer, seed=seed)
        model.load_state_dict(net(3).state_dict())
        return optimizer

    def test_describe_builds_an_equal_object(self) -> None:
        """What describe returns is written with links to parameters, so it is a save that builds it."""
        schema = self.adapter().describe(self.make_object(1))
        assert schema is not None
        assert next(iter(schema)) == "params"


class TestScheduler(AdapterContract):
    """A scheduler keeps to the contract of adapters, the optimizer that it drives included."""

    def make_object(self, seed: int) -> Any:
        """Return a scheduler that has taken steps."""
        model = net(3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        scheduler = lr_scheduler.StepLR(optimizer, 1)
        train(model, optimizer, scheduler, steps=seed)
        model.load_state_dict(net(3).state_dict())
        return scheduler

    def test_describe_builds_an_equal_object(self) -> None:
        """What describe returns holds the optimizer itself."""
        obj = self.make_object(1)
        schema = self.adapter().describe(obj)
        assert schema is not None
        assert schema["optimizer"] is obj.optimizer

    def test_children_have_names_of_one_part(self) -> None:
        """The optimizer is borrowed, and what else it holds is saved only where the config has it."""
        child, *others = self.adapter().children(self.make_object(1))
        assert (child.name, child.is_borrowed) == ("optimizer", True)
        assert all(other.is_loose for other in others)


def test_every_scheduler_is_tried() -> None:
    """The table above has all of torch's schedulers but those of functions."""
    known = {
        name for name, value in vars(lr_scheduler).items() if inspect.isclass(value) and name in lr_scheduler.__all__
    }
    tried = {name.partition(" ")[0] for name in SCHEDULERS} | {"LambdaLR", "MultiplicativeLR", "LRScheduler"}
    assert known - tried == set()


def test_a_layer_of_another_size_begins_afresh(tmp_path: Path) -> None:
    """Moments of another shape are not installed; the parameter is named in the warning and training goes on."""
    _, _, path = checkpoint(tmp_path)
    here = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5))
    groups = [{"params": here[0].parameters()}, {"params": here[2].parameters()}]
    for optimizer in (torch.optim.Adam(here.named_parameters()), torch.optim.Adam(groups)):
        with pytest.warns(StateMismatchWarning, match=r"the shape has changed of .*2\.weight"):
            load_state(optimizer, path, node="optimizer")
        assert len(optimizer.state) == 2
        train(here, optimizer)


def test_names_inside_a_dict_are_those_without_it(tmp_path: Path) -> None:
    """A parameter is called by the key of its model too; an optimizer that was told the model's names finds it."""
    model, optimizer, path = checkpoint(tmp_path)
    here = net(5)
    other = torch.optim.Adam([*here.named_parameters()][::-1])
    load_state(other, path, node="optimizer")
    assert moments(here, other) == moments(model, optimizer)


def test_an_optimizer_of_a_run_is_not_loaded_alone(tmp_path: Path) -> None:
    """Its folder holds its state and none of the model; the error says to load the whole."""
    _, _, path = checkpoint(tmp_path)
    assert (Path(path) / "optimizer" / "config.yaml").read_text() == ""
    with pytest.raises(LoadError, match=r"(?s)without what is around it.*Load the whole.*node='optimizer'"):
        load(path, node="optimizer")


@pytest.mark.parametrize("flags", [{}, {"pickle_only": True}], ids=str)
def test_an_optimizer_moves_what_is_in_the_save(flags: dict[str, bool], tmp_path: Path) -> None:
    """Parameters tied across modules, in any order; tensors of no module; modules under keys that are no texts."""
    one, other, loose = nn.Linear(2, 2), nn.Linear(2, 2), torch.ones(3, requires_grad=True)
    other.weight = one.weight
    optimizer = torch.optim.Adam([*one.parameters(), other.bias, loose])
    (one(torch.ones(1, 2)) + other(torch.ones(1, 2))).sum().add(loose.sum()).backward()
    optimizer.step()
    again = load(
        save(
            {"b": other, "o": optimizer, (0, 1): [one], "list": nn.ParameterList([one.weight]), "w": loose},
            tmp_path / "run",
            **flags,
        )
    )
    moved = again["o"].param_groups[0]["params"]
    expected = [again[0, 1][0].weight, again[0, 1][0].bias, again["b"].bias, again["w"]]
    assert [value is item for value, item in zip(moved, expected, strict=True)] == [True] * 4
    assert again["b"].weight is again[0, 1][0].weight is again["list"][0]
    assert [again["o"].state[value]["step"].item() for value in expected] == [1.0] * 4


def test_a_parameter_that_is_nowhere_else(tmp_path: Path) -> None:
    """It comes with its optimizer, and costs the others nothing."""
    one, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([one, other])
    (one.sum() + other.sum()).backward()
    optimizer.step()
    again = load(save({"o": optimizer, "one": one}, tmp_path / "run"))
    assert again["o"].param_groups[0]["params"][0] is again["one"]
    assert str(again["o"].state_dict()) == str(optimizer.state_dict())


def test_a_scheduler_takes_no_foreign_entries(tmp_path: Path) -> None:
    """Entries become attributes, so names that are none of the scheduler's are refused."""
    from flambe_save.adapters import load_state as fill

    optimizer = torch.optim.SGD(net().parameters(), 0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 2)
    state = get_state({"s": scheduler})
    state["s.step"] = 1
    state._metadata["s"]["entries"].append("step")
    with pytest.raises(StateMismatchError, match="has no 'step'"):
        fill({"s": scheduler}, state)
    assert callable(scheduler.step)
