"""What accelerate and Fabric put around a model, an optimizer and a scheduler is looked through."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import load, load_state, save, untrusted


def parts() -> dict[str, Any]:
    """Return a run that has not begun."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    return {"model": model, "optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)}


def train(run: dict[str, Any], backward: Any = torch.Tensor.backward) -> None:
    """Take steps."""
    for number in range(3):
        run["optimizer"].zero_grad()
        backward(run["model"](torch.full((2, 3), 1.0 + number)).float().square().sum())
        run["optimizer"].step()
        run["scheduler"].step()


def weights(run: dict[str, Any]) -> list[Any]:
    """Return a run's parameters as lists."""
    return [value.tolist() for value in run["model"].parameters()]


def check(run: dict[str, Any], other: dict[str, Any], backward: Any, folder: Path) -> None:
    """Save a wrapped run, load it as a plain one, and fill another wrapped one."""
    train(run, backward)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = save(run, folder / "run")
        plain = save({**parts()}, folder / "plain")
    assert (Path(path) / "config.yaml").read_text() == (Path(plain) / "config.yaml").read_text()
    assert untrusted(path) == []
    again = load(path)
    assert [type(again[name]).__name__ for name in run] == ["Sequential", "AdamW", "StepLR"]
    assert vars(again["model"]).keys() == vars(nn.Sequential()).keys()
    assert again["optimizer"].param_groups[0]["params"][0] is again["model"][0].weight
    assert again["scheduler"].optimizer is again["optimizer"]
    load_state(other, path)
    for each in (run, other):
        train(each, backward)
    assert weights(run) == weights(other)
    assert type(load(save(run["optimizer"], folder / "alone"))) is torch.optim.AdamW
    assert type(load(save(run["model"], folder / "model"))) is nn.Sequential


@pytest.fixture
def accelerators() -> Iterator[Any]:
    """Give a function that makes accelerators, each with a state of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    from accelerate.state import AcceleratorState

    yield lambda precision: accelerate.Accelerator(cpu=True, mixed_precision=precision)
    AcceleratorState._reset_state(True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(precision: str, accelerators: Any, tmp_path: Path) -> None:
    """Prepared models, optimizers and schedulers, also where their ``forward`` runs in another precision."""
    accelerator = accelerators(precision)
    prepared = [dict(zip(made, accelerator.prepare(*made.values()), strict=True)) for made in (parts(), parts())]
    assert type(prepared[0]["optimizer"]).__name__ == "AcceleratedOptimizer"
    assert ("forward" in vars(prepared[0]["model"])) is (precision == "bf16")
    check(*prepared, accelerator.backward, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["lightning.fabric", "lightning_fabric"])
def test_fabric(name: str, tmp_path: Path) -> None:
    """Modules and optimizers that Fabric has set up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = pytest.importorskip(name, reason=f"{name} is not installed")
    setup = fabric.Fabric(accelerator="cpu", devices=1)
    runs = []
    for made in (parts(), parts()):
        model, optimizer = setup.setup(made["model"], made["optimizer"])
        runs.append({**made, "model": model, "optimizer": optimizer})
    assert type(runs[0]["model"]).__name__ == "_FabricModule"
    check(*runs, setup.backward, tmp_path)
