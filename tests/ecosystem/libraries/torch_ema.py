"""torch-ema: an average of parameters."""

from __future__ import annotations

import torch
from torch import nn
from torch_ema import ExponentialMovingAverage

from ecosystem.entries import entry


def _again(run):
    run["ema"].update()
    run["ema"].copy_to()
    return run["model"].state_dict()


@entry("`ExponentialMovingAverage`, with its model", edit="two updates", use=_again)
def ema():
    model = nn.Linear(3, 2)
    average = ExponentialMovingAverage(model.parameters(), decay=0.9)
    for _ in range(2):
        with torch.no_grad():
            model.weight.add_(1)
        average.update()
    return {"model": model, "ema": average}
