"""neuraloperator: a Fourier neural operator."""

from __future__ import annotations

import torch
from neuralop.models import FNO

from ecosystem.entries import entry


@entry("`FNO`", edit="a part frozen", use=lambda model: model.eval()(torch.ones(1, 1, 8, 8).cumsum(-1)))
def fno():
    model = FNO(n_modes=(4, 4), in_channels=1, out_channels=2, hidden_channels=6, n_layers=2)
    model.lifting.requires_grad_(False)
    return model
