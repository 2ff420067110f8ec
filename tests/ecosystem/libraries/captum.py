"""captum: what explains a model holds it."""

from __future__ import annotations

import torch
from captum.attr import IntegratedGradients
from torch import nn

from ecosystem.entries import entry


@entry(
    "`IntegratedGradients` beside its model",
    edit="an attribute",
    use=lambda run: run["why"].attribute(torch.ones(1, 3), target=0),
)
def gradients():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    why = IntegratedGradients(model, multiply_by_inputs=False)
    why.note = "first"
    return {"model": model, "why": why}
