"""torchdiffeq: a module whose forward solves an equation."""

from __future__ import annotations

import torch
from torch import nn
from torchdiffeq import odeint

from ecosystem.entries import entry


class Flow(nn.Module):
    def __init__(self, size, method="rk4"):
        super().__init__()
        self.field, self.method = nn.Sequential(nn.Linear(size, size), nn.Tanh()), method
        self.solve = odeint

    def forward(self, x):
        return self.solve(lambda t, y: self.field(y), x, torch.linspace(0, 1, 4), method=self.method)


@entry("a module that holds `odeint`", edit="another method", use=lambda model: model(torch.ones(2, 3)))
def flow():
    model = Flow(3)
    model.method = "midpoint"
    return model
