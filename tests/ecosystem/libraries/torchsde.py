"""torchsde: a neural stochastic equation."""

from __future__ import annotations

import torch
import torchsde
from torch import nn

from ecosystem.entries import entry


class Noise(nn.Module):
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, size):
        super().__init__()
        self.drift = nn.Linear(size, size)

    def f(self, t, y):
        return self.drift(y)

    def g(self, t, y):
        return 0.1 * torch.ones_like(y)


def _solved(run):
    return torchsde.sdeint(run["model"], torch.ones(2, 3), torch.linspace(0, 1, 3), dt=0.5, bm=run["path"])


@entry("a model and its `BrownianInterval`", edit="frozen", use=_solved)
def equation():
    model = Noise(3)
    model.drift.bias.requires_grad_(False)
    return {
        "model": model,
        "path": torchsde.BrownianInterval(
            0.0, 1.0, size=(2, 3), entropy=5, dtype=torch.float32, levy_area_approximation="space-time"
        ),
    }
