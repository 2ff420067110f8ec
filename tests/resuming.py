"""Training runs that are saved after three steps, loaded in another process, and compared after three more."""

from __future__ import annotations

import ast
import inspect
import json
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import torch
from other_process import run_python
from torch import nn
from torch.optim import lr_scheduler, swa_utils

from flambe_save import FlambeSaveError, NeedsTrustWarning, UntrustedError, load, save

STEPS = 3


class Words(nn.Module):
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


def net(name: str = "") -> nn.Module:
    """Return a small model, which an optimizer can move."""
    torch.manual_seed(0)
    if name == "SparseAdam":
        return Words()
    no_bias = name in ("Muon", "SpectralSphere")
    return nn.Sequential(nn.Linear(3, 4, bias=not no_bias), nn.Tanh(), nn.Linear(4, 2, bias=not no_bias))


def train(run: dict[str, Any], first: int, steps: int = STEPS) -> None:
    """Take steps: the data and the random numbers of each follow from its number."""
    model, optimizer, scheduler = run["model"], run["optimizer"], run.get("scheduler")
    for number in range(first, first + steps):
        torch.manual_seed(100 + number)
        data = torch.randn(5, 3)

        def closure(data: torch.Tensor = data) -> Any:
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = model(data).square().sum()
            loss.backward(create_graph=type(optimizer).__name__ in NEED_GRAPHS)
            return loss

        if type(optimizer).__name__ not in NEED_CLOSURES:
            closure()
        optimizer.step(*([closure] if type(optimizer).__name__ in NEED_CLOSURES | NEED_GRADIENTS_TOO else []))
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        elif scheduler is not None:
            scheduler.step()


NEED_CLOSURES = frozenset(
    ("LBFGS", "AliG", "AdamWScheduleFreeClosure", "RAdamScheduleFreeClosure", "SGDScheduleFreeClosure")
)
NEED_GRADIENTS_TOO = frozenset(("SAM", "WSAM", "LookSAM", "FriendlySAM", "BSAM"))
NEED_GRAPHS = frozenset(("AdaHessian", "SophiaH"))


def said(value: Any, names: dict[int, str]) -> Any:
    """Return what can be compared of a value as JSON: numbers to the last bit, parameters by their names."""
    if id(value) in names:
        return f"parameter {names[id(value)]}"
    kind = type(value)
    if isinstance(value, torch.Tensor):
        return [kind.__name__, str(value.dtype), value.tolist() if value.layout == torch.strided else str(value)]
    if isinstance(value, dict):
        return [kind.__name__, sorted(([said(key, names), said(item, names)] for key, item in value.items()), key=str)]
    if isinstance(value, (list, tuple, deque)):
        return [kind.__name__, [said(item, names) for item in value]]
    if isinstance(value, (set, frozenset)):
        return [kind.__name__, sorted(map(repr, value))]
    if isinstance(value, float):
        return value.hex()
    if value is None or isinstance(value, (str, int)):
        return value
    if inspect.isroutine(value) or isinstance(value, type):
        return [kind.__name__, getattr(value, "__qualname__", "")]
    if isinstance(value, nn.Module):
        return kind.__name__
    own = getattr(value, "__dict__", None)
    return [kind.__name__, said(told(value), names) if isinstance(own, dict) else repr(value)]


def told(obj: Any) -> dict[str, Any]:
    """Return the attributes of an object but for what torch makes anew."""
    apart = ("step", "optimizer") if isinstance(obj, lr_scheduler.LRScheduler) else ("step",)
    return {
        name: value
        for name, value in vars(obj).items()
        if name not in apart and not name.endswith("_hooks") and name not in ("_numel_cache", "_opt_called")
    }


def facts(run: dict[str, Any]) -> str:
    """Return all that a run is, to the last bit."""
    names = {id(value): name for name, value in run["model"].named_parameters()}
    weights = [value.tolist() for value in run["model"].state_dict().values()]
    whole = [weights, *(sorted_pairs(told(run[name]), names) for name in ("optimizer", "scheduler") if name in run)]
    return json.dumps(whole)


def sorted_pairs(attributes: dict[str, Any], names: dict[int, str]) -> list[Any]:
    """Return attributes by name."""
    return [[name, said(value, names)] for name, value in sorted(attributes.items())]


def there_and_back(folder: Path, made: dict[str, dict[str, Any]], module: str) -> dict[str, str]:
    """Return for each run what became of it: ``equal``, what it needs, how it was refused, or what differs.

    Parameters
    ----------
    folder : Path
    made : dict of str to dict
        Runs that have not begun: ``model``, ``optimizer`` and perhaps ``scheduler``.
    module : str
        What the other process imports first.
    """
    became: dict[str, str] = {}
    expected: dict[str, list[str]] = {}
    for name, run in made.items():
        train(run, 0)
        at_save = facts(run)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", NeedsTrustWarning)
            try:
                save(run, folder / name)
            except (FlambeSaveError, Warning) as error:
                became[name] = f"refused: {getattr(error, 'message', error)}"
                continue
        assert facts(run) == at_save, f"the save of {name} has changed it"
        train(run, STEPS)
        assert facts(run) != at_save
        expected[name] = [at_save, facts(run)]
    (folder / "expected.json").write_text(json.dumps(expected))
    found = run_python(_THERE, module, folder, json.dumps(list(expected)))
    assert found.keys() == expected.keys()
    return {name: became[name] if name in became else found[name] for name in made}


def come_back(folder: str, names: list[str]) -> dict[str, str]:
    """Load runs, in the process that saved none of them, and take the other steps."""
    expected = json.loads((Path(folder) / "expected.json").read_text())
    found = {}
    for name in names:
        path, what = Path(folder) / name, "equal"
        try:
            try:
                run = load(path)
            except UntrustedError as error:
                arguments = [row.argument for row in error.rows if row.argument.startswith("trusted=")]
                trusted = [name for text in arguments for name in ast.literal_eval(text.removeprefix("trusted="))]
                what = f"trusted={[*dict.fromkeys(trusted)]}"
                try:
                    run = load(path, trusted=trusted)
                except FlambeSaveError:  # there is a function in a pickle
                    what = "weights_only=False"
                    run = load(path, weights_only=False)
            if facts(run) != expected[name][0]:
                what = f"comes back as another: {difference(facts(run), expected[name][0])}"
            train(run, STEPS)
            if facts(run) != expected[name][1]:
                what = f"goes on otherwise: {difference(facts(run), expected[name][1])}"
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
        found[name] = what
    return found


def difference(one: str, other: str) -> str:
    """Return where two texts of facts part."""
    place = next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), 0)
    return f"{one[max(0, place - 60) : place + 60]} and not {other[max(0, place - 60) : place + 60]}"


def row_of(name: str, results: dict[str, str]) -> str:
    """Return the row of a library in the table of docs/kinds.md, from what became of its runs."""
    equal = [run for run, what in results.items() if what == "equal"]
    trusted = [
        f"{run} (`{what}`)" for run, what in results.items() if what.startswith(("trusted=", "weights_only=False"))
    ]
    refused = [f"{run}, {what.partition(': ')[2]}" for run, what in results.items() if what.startswith("refused: ")]
    others = results.keys() - {*equal} - {item.partition(" (`")[0] for item in trusted}
    assert len(others) == len(refused), {run: results[run] for run in others}
    return (
        f"| {name} | {', '.join(equal) or 'none'} | {', '.join(trusted) or 'none'} | {'; '.join(refused) or 'none'} |"
    )


_THERE = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
importlib.import_module(sys.argv[1])
import resuming
print(json.dumps(resuming.come_back(sys.argv[2], json.loads(sys.argv[3]))))
"""


# ------------------------------------------------------------------------------------------------ torch's own

ARGUMENTS: dict[str, dict[str, Any]] = {
    "ASGD": {"t0": 1.0, "lambd": 0.05},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "LBFGS": {"max_iter": 3},
}


def of_torch() -> dict[str, dict[str, Any]]:
    """Return a run of each of torch's own optimizers, in floats of both widths, and one of each scheduler."""
    made: dict[str, dict[str, Any]] = {}
    for name, cls in sorted(vars(torch.optim).items()):
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)) or cls is torch.optim.Optimizer:
            continue
        for dtype in (torch.float32, torch.bfloat16):
            if name == "LBFGS" and dtype is torch.bfloat16:
                continue  # its own line search compares numbers of two types
            model = net(name)
            if dtype is torch.bfloat16:
                model = nn.Sequential(Cast(), model).to(dtype)
            optimizer = cls(model.parameters(), **ARGUMENTS.get(name, {}))
            made[f"{name} {str(dtype).removeprefix('torch.')}"] = {"model": model, "optimizer": optimizer}
    for name, make in SCHEDULERS.items():
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        made[name] = {"model": model, "optimizer": optimizer, "scheduler": make(optimizer)}
    return made


class Cast(nn.Module):
    """Gives data the type of the weights."""

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return the data as bfloat16."""
        return data.bfloat16()


def tenth(epoch: int) -> float:
    """Return a factor that takes a tenth."""
    return 0.9


SCHEDULERS: dict[str, Any] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, half),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, tenth),
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
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, "max", 0.5, 1, cooldown=1, min_lr=0.001),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: swa_utils.SWALR(o, 0.02, 4, "linear"),
}
