"""Pyro: a Bayesian layer."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import nn

from ecosystem.entries import entry


class Regression(PyroModule):
    def __init__(self, size):
        super().__init__()
        self.linear = PyroModule[nn.Linear](size, 1)
        self.scale = pyro.nn.PyroParam(torch.tensor(2.0), constraint=dist.constraints.positive)

    def forward(self, x):
        return self.linear(x) * self.scale


@entry("a `PyroModule` with a constrained parameter", edit="its scale set", use=lambda model: model(torch.ones(2, 3)))
def module():
    model = Regression(3)
    model.scale = torch.tensor(0.5)
    return model


@entry("a `PyroModule` with a prior", edit="a bias frozen")
def prior():
    model = Regression(3)
    model.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))
    model.linear.bias.requires_grad_(False)
    return model
