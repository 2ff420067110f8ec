"""x-transformers: a transformer of many options."""

from __future__ import annotations

import torch
from torch import nn
from x_transformers import Decoder, TransformerWrapper

from ecosystem.entries import entry


@entry(
    "`TransformerWrapper` with rotary positions and memory tokens",
    edit="another head",
    use=lambda model: model.eval()(torch.tensor([[1, 2, 3]])),
)
def wrapper():
    model = TransformerWrapper(
        num_tokens=20,
        max_seq_len=16,
        num_memory_tokens=2,
        attn_layers=Decoder(dim=16, depth=2, heads=2, rotary_pos_emb=True, ff_glu=True, use_rmsnorm=True),
    )
    model.to_logits = nn.Linear(16, 5)
    return model
