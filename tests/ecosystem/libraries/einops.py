"""einops: layers that rearrange."""

from __future__ import annotations

import torch
from einops.layers.torch import EinMix, Rearrange, Reduce
from torch import nn

from ecosystem.entries import entry


@entry("layers of einops between those of torch", edit="a layer added", use=lambda model: model(torch.ones(2, 3, 4, 4)))
def layers():
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        Rearrange("b c (h a) (w b2) -> b (h w) (a b2 c)", a=2, b2=2),
        EinMix("b n c -> b n d", weight_shape="c d", bias_shape="d", c=20, d=6),
        Reduce("b n c -> b c", "mean"),
    )
    model.append(nn.Linear(6, 2))
    return model
