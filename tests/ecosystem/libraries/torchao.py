"""torchao: quantized weights."""

from __future__ import annotations

import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from ecosystem.entries import entry


@entry("layers with int8 weights", edit="a layer replaced", use=lambda model: model(torch.ones(2, 32)))
def quantized():
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    quantize_(model, Int8WeightOnlyConfig())
    model[2] = nn.Linear(32, 6)
    return model
