"""rotary-embedding-torch: positions."""

from __future__ import annotations

import torch
from rotary_embedding_torch import RotaryEmbedding

from ecosystem.entries import entry


@entry(
    "`RotaryEmbedding`", edit="its cache filled", use=lambda made: made.rotate_queries_or_keys(torch.ones(1, 2, 5, 8))
)
def rotary():
    made = RotaryEmbedding(dim=8, use_xpos=False, learned_freq=True)
    made.rotate_queries_or_keys(torch.ones(1, 2, 7, 8))
    return made
