"""accelerate: what it prepares."""

from __future__ import annotations

import accelerate
import torch
from torch import nn

from ecosystem.entries import entry
from ecosystem.training import step


@entry("a model and an optimizer that `Accelerator` prepared", edit="three steps", use=step)
def prepared():
    model = nn.Linear(4, 3)
    model, optimizer = accelerate.Accelerator(cpu=True).prepare(model, torch.optim.Adam(model.parameters(), lr=0.01))
    run = {"model": model, "optimizer": optimizer}
    for _ in range(3):
        step(run)
    return run
