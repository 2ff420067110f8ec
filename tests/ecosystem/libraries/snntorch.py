"""snnTorch: spiking neurons."""

from __future__ import annotations

import snntorch
import torch
from snntorch import surrogate
from torch import nn

from ecosystem.entries import entry


@entry("neurons between layers", edit="a threshold", use=lambda model: model(torch.ones(2, 3)))
def neurons():
    model = nn.Sequential(
        nn.Linear(3, 4),
        snntorch.Leaky(beta=0.8, init_hidden=True, learn_beta=True, spike_grad=surrogate.fast_sigmoid(slope=20)),
    )
    model[1].threshold.fill_(0.7)
    return model
