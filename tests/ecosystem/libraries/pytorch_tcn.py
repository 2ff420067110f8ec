"""pytorch-tcn: a causal network of convolutions."""

from __future__ import annotations

import torch
from pytorch_tcn import TCN

from ecosystem.entries import entry


@entry("`TCN`", edit="a dropout", use=lambda model: model.eval()(torch.ones(1, 3, 9).cumsum(-1)))
def tcn():
    model = TCN(3, [4, 4], kernel_size=3, use_norm="layer_norm", use_skip_connections=True, causal=True)
    model.network[0].dropout1.p = 0.4
    return model
