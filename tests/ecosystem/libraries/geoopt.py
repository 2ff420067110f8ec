"""geoopt: parameters on manifolds."""

from __future__ import annotations

import geoopt
import torch
from torch import nn

from ecosystem.entries import entry


class Ball(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.manifold = geoopt.PoincareBall(c=0.5)
        self.at = geoopt.ManifoldParameter(torch.full((2, size), 0.1), manifold=self.manifold)

    def forward(self, x):
        return self.manifold.dist(self.at, x)


@entry("a model with a `ManifoldParameter`", edit="a point", use=lambda model: model(torch.full((2, 3), 0.2)))
def ball():
    model = Ball(3)
    with torch.no_grad():
        model.at[0] = 0.3
    return model
