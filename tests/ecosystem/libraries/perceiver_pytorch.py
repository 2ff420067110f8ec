"""perceiver-pytorch."""

from __future__ import annotations

import torch
from perceiver_pytorch import Perceiver
from torch import nn

from ecosystem.entries import entry


@entry("`Perceiver`", edit="another head", use=lambda model: model.eval()(torch.ones(1, 4, 4, 3).cumsum(1)))
def perceiver():
    model = Perceiver(
        num_freq_bands=2,
        max_freq=4.0,
        depth=1,
        input_channels=3,
        num_latents=4,
        latent_dim=8,
        cross_dim_head=4,
        latent_dim_head=4,
        latent_heads=2,
        num_classes=3,
        self_per_cross_attn=1,
    )
    model.to_logits[-1] = nn.Linear(8, 5)
    return model
