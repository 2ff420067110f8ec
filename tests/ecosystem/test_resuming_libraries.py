"""Optimizers and schedulers of other libraries: three steps, a save, a load in a new process, three steps more."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import net, row_of, there_and_back

KINDS = Path(__file__).parents[2] / "docs" / "kinds.md"
VERSIONS = {"schedulefree": "1.4.1", "lion_pytorch": "0.2.5", "pytorch_optimizer": "4.1.0"}
COUNTS = {"schedulefree": 9, "lion_pytorch": 1, "pytorch_optimizer": 134}

# What is made with more than the parameters, of a model; those of other libraries follow from the parameters alone
SPECIAL: dict[str, Any] = {
    "AdaGO": lambda c, m: c(muon_groups(m)),
    "AdaMuon": lambda c, m: c(muon_groups(m)),
    "Muon": lambda c, m: c(muon_groups(m)),
    "MuonClip": lambda c, m: c(muon_groups(m)),
    "NorMuon": lambda c, m: c(muon_groups(m)),
    "BSAM": lambda c, m: c(m.parameters(), num_data=5),
    "Ranger21": lambda c, m: c(m.parameters(), num_iterations=9),
    "AdamMini": lambda c, m: c(m),
    "SAM": lambda c, m: c(m.parameters(), torch.optim.SGD, lr=0.1, momentum=0.5),
    "LookSAM": lambda c, m: c(m.parameters(), torch.optim.SGD, lr=0.1, momentum=0.5),
    "FriendlySAM": lambda c, m: c(m.parameters(), torch.optim.SGD, lr=0.1, momentum=0.5),
    "WSAM": lambda c, m: c(m, m.parameters(), torch.optim.SGD, lr=0.1, momentum=0.5),
    "Lookahead": lambda c, m: c(torch.optim.AdamW(m.parameters(), 0.01), k=2, alpha=0.7),
    "OrthoGrad": lambda c, m: c(torch.optim.AdamW(m.parameters(), 0.01)),
    "TRAC": lambda c, m: c(torch.optim.AdamW(m.parameters(), 0.01)),
    "ScheduleFreeWrapper": lambda c, m: c(torch.optim.SGD(m.parameters(), 0.1, momentum=0.5)),
}
# What needs more than a gradient: a step of another kind, several processes, or a library that is not here
APART = {
    "AdaLOMO": "steps in the backward pass",
    "LOMO": "steps in the backward pass",
    "DistributedMuon": "needs several processes",
    "DeMo": "needs several processes",
    "GSAM": "needs a scheduler of its own",
    "PCGrad": "needs several losses",
    "SafeFP16Optimizer": "has a backward pass of its own",
}


SCHEDULERS: dict[str, dict[str, Any]] = {
    "pytorch_optimizer": {
        "CosineAnnealingWarmupRestarts": lambda c, o: c(o, 4, max_lr=0.1, warmup_steps=2),
        "CosineScheduler": lambda c, o: c(o, t_max=7, max_lr=0.1, init_lr=0.02, warmup_steps=2),
        "LinearScheduler": lambda c, o: c(o, t_max=7, max_lr=0.1, init_lr=0.02, warmup_steps=2),
        "PolyScheduler": lambda c, o: c(o, t_max=7, max_lr=0.1, init_lr=0.02, warmup_steps=2),
        "ProportionScheduler": lambda c, o: c(torch.optim.lr_scheduler.ExponentialLR(o, 0.5), 0.1, 0.0, 2.0, 1.0),
        "REXScheduler": lambda c, o: c(o, 7, max_lr=0.1),
        "get_chebyshev_schedule": lambda c, o: c(o, num_epochs=8),
        "get_wsd_schedule": lambda c, o: c(o, 2, 2, 3),
    }
}


def muon_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Return groups that say which of them are matrices."""
    parameters = [*model.parameters()]
    return [
        {"params": [value for value in parameters if value.ndim == 2], "use_muon": True},
        {"params": [value for value in parameters if value.ndim != 2], "use_muon": False},
    ]


def runs_of(library: str) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return a run of each optimizer of a library, and those that there is none of, with the reason."""
    made: dict[str, dict[str, Any]] = {}
    left: dict[str, str] = {}
    module = importlib.import_module(library)
    for name, cls in sorted(vars(module).items()):
        is_its_own = isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and library in cls.__module__
        if not is_its_own or name.startswith("Base") or name != cls.__name__:
            continue
        if name in APART:
            left[name] = APART[name]
            continue
        model = net(name)
        optimizer = SPECIAL[name](cls, model) if name in SPECIAL else cls(model.parameters())
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()  # those without schedules keep weights for training apart
        made[name] = {"model": model, "optimizer": optimizer}
    for name, make in SCHEDULERS.get(library, {}).items():
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        made[name] = {"model": model, "optimizer": optimizer, "scheduler": make(getattr(module, name), optimizer)}
    return made, left


@pytest.mark.parametrize("library", VERSIONS)
def test_all_of_a_librarys_go_on_to_the_last_bit(library: str, tmp_path: Path) -> None:
    """Equal to six straight steps: by default, or with the names that the error lists; or refused at the save."""
    pytest.importorskip(library, reason=f"{library} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made, left = runs_of(library)
        found = there_and_back(tmp_path, made, library)
    assert len(found) == COUNTS[library]
    text = KINDS.read_text()
    assert row_of(f"{library} {VERSIONS[library]}", found) in text
    assert all(f"{name} {reason}" in text for name, reason in left.items())
