"""e3nn: equivariant layers."""

from __future__ import annotations

import torch
from e3nn import o3
from e3nn.nn import BatchNorm, Gate

from ecosystem.entries import entry


@entry("`o3.Linear`", edit="a weight", use=lambda layer: layer(torch.ones(2, 5)))
def linear():
    layer = o3.Linear("2x0e + 1x1o", "3x0e + 2x1o")
    with torch.no_grad():
        layer.weight[0] = 2.0
    return layer


@entry("`FullyConnectedTensorProduct`", edit="frozen", use=lambda layer: layer(torch.ones(2, 4), torch.ones(2, 3)))
def product():
    layer = o3.FullyConnectedTensorProduct("1x0e + 1x1o", "1x1o", "2x1o + 1x0e")
    layer.requires_grad_(False)
    return layer


@entry("`Gate` and `BatchNorm`", edit="a momentum", use=lambda run: run["norm"].eval()(torch.ones(2, 5)))
def gate():
    run = {
        "gate": Gate("2x0e", [torch.tanh], "1x0e", [torch.sigmoid], "1x1o"),
        "norm": BatchNorm("2x0e + 1x1o", momentum=0.2),
    }
    run["norm"].momentum = 0.3
    return run
