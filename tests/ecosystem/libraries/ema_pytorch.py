"""ema-pytorch: an average of a model's weights."""

from __future__ import annotations

import torch
from ema_pytorch import EMA
from torch import nn

from ecosystem.entries import entry


def _again(run):
    run["ema"].update()
    return run["ema"].eval()(torch.ones(1, 4))


@entry("`EMA`, with its model", edit="two updates", use=_again)
def ema():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))
    average = EMA(model, beta=0.9, update_after_step=0, update_every=1)
    for _ in range(2):
        with torch.no_grad():
            model[0].weight.add_(1)
        average.update()
    return {"model": model, "ema": average}
