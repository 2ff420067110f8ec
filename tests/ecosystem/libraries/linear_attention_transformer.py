"""linear-attention-transformer."""

from __future__ import annotations

import torch
from linear_attention_transformer import LinearAttentionTransformerLM
from torch import nn

from ecosystem.entries import entry


@entry(
    "`LinearAttentionTransformerLM`", edit="another head", use=lambda model: model.eval()(torch.tensor([[1, 2, 3, 4]]))
)
def model():
    made = LinearAttentionTransformerLM(20, dim=8, depth=1, max_seq_len=16, heads=2, causal=False)
    made.out = nn.Linear(8, 5)
    return made
