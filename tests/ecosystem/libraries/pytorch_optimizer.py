"""pytorch_optimizer: an optimizer around another."""

from __future__ import annotations

import pytorch_optimizer
from torch import nn

from ecosystem.entries import entry
from ecosystem.training import step


@entry("`Lookahead` of `AdaBelief`, with its model", edit="three steps", use=step)
def lookahead():
    model = nn.Linear(4, 3)
    inner = pytorch_optimizer.AdaBelief(model.parameters(), lr=0.01, rectify=True)
    run = {"model": model, "optimizer": pytorch_optimizer.Lookahead(inner, k=2, alpha=0.3)}
    for _ in range(3):
        step(run)
    return run


@entry("`Lamb`, with its model", edit="three steps, another rate", use=step)
def lamb():
    model = nn.Linear(4, 3)
    run = {"model": model, "optimizer": pytorch_optimizer.Lamb(model.parameters(), lr=0.01, pre_norm=True)}
    for _ in range(3):
        step(run)
    run["optimizer"].param_groups[0]["lr"] = 0.002
    return run
