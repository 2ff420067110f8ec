"""julius: filters of sound."""

from __future__ import annotations

import julius
import torch
from torch import nn

from ecosystem.entries import entry


@entry(
    "`ResampleFrac` and `LowPassFilter` before a layer",
    edit="a layer added",
    use=lambda model: model(torch.ones(1, 1, 64).cumsum(-1)),
)
def filters():
    model = nn.Sequential(julius.ResampleFrac(4, 3), julius.LowPassFilter(0.2, zeros=4))
    model.append(nn.Conv1d(1, 2, 3))
    return model
