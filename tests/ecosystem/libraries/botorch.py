"""botorch: the model of a Bayesian optimization."""

from __future__ import annotations

import torch
from botorch.models import SingleTaskGP
from botorch.models.transforms import Normalize, Standardize

from ecosystem.entries import entry

X = torch.linspace(0, 1, 24, dtype=torch.float64).view(12, 2)
Y = torch.sin(6 * X.sum(-1, keepdim=True))


def _posterior(model):
    model.eval()
    with torch.no_grad():
        found = model.posterior(X[:5] + 0.01)
    return found.mean, found.variance


@entry("`SingleTaskGP` with transforms", edit="its noise set", use=_posterior)
def single():
    model = SingleTaskGP(X, Y, input_transform=Normalize(d=2), outcome_transform=Standardize(m=1))
    model.likelihood.noise = 0.02
    return model
