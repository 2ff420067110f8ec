"""entmax: sparse activations."""

from __future__ import annotations

import torch
from entmax import Entmax15, EntmaxBisect, SparsemaxLoss
from torch import nn

from ecosystem.entries import entry


@entry("activations and a loss", edit="an exponent", use=lambda run: run["model"](torch.ones(2, 3).cumsum(0)))
def activations():
    model = nn.Sequential(nn.Linear(3, 4), Entmax15(dim=-1), EntmaxBisect(alpha=1.3))
    model[2].alpha = 1.7
    return {"model": model, "loss": SparsemaxLoss(k=3)}
