"""pytorch-crf: a layer of tags."""

from __future__ import annotations

import torch
from torchcrf import CRF

from ecosystem.entries import entry


@entry("`CRF`", edit="transitions forbidden", use=lambda layer: layer.decode(torch.ones(2, 3, 4).cumsum(0)))
def crf():
    layer = CRF(4, batch_first=True)
    with torch.no_grad():
        layer.transitions[0, 1] = -100
    return layer
