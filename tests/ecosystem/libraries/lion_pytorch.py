"""lion-pytorch: an optimizer."""

from __future__ import annotations

import lion_pytorch
from torch import nn

from ecosystem.entries import entry
from ecosystem.training import step


@entry("`Lion`, with its model", edit="three steps", use=step)
def lion():
    model = nn.Linear(4, 3)
    optimizer = lion_pytorch.Lion(model.parameters(), lr=0.01, weight_decay=0.1, betas=(0.8, 0.9))
    run = {"model": model, "optimizer": optimizer}
    for _ in range(3):
        step(run)
    return run
