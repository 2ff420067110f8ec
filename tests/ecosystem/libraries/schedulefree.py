"""schedulefree: an optimizer without a schedule."""

from __future__ import annotations

import schedulefree
from torch import nn

from ecosystem.entries import entry
from ecosystem.training import step


@entry(
    "`AdamWScheduleFree`, with its model",
    edit="three steps, then `eval()`",
    use=lambda run: [run["optimizer"].train(), step(run)],
)
def adamw():
    model = nn.Linear(4, 3)
    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=0.01, warmup_steps=2)
    optimizer.train()
    run = {"model": model, "optimizer": optimizer}
    for _ in range(3):
        step(run)
    optimizer.eval()
    return run
