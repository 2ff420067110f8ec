"""vector-quantize-pytorch: code books."""

from __future__ import annotations

import torch
from vector_quantize_pytorch import FSQ, ResidualVQ, VectorQuantize

from ecosystem.entries import entry

X = torch.linspace(-1, 1, 48).view(1, 6, 8)


@entry("`VectorQuantize`", edit="a batch of training", use=lambda made: made.eval()(X))
def quantize():
    made = VectorQuantize(dim=8, codebook_size=6, decay=0.8, use_cosine_sim=True, kmeans_init=True)
    made(X)
    return made


@entry("`ResidualVQ`", edit="frozen code books", use=lambda made: made.eval()(X))
def residual():
    made = ResidualVQ(dim=8, num_quantizers=3, codebook_size=6, shared_codebook=True)
    made(X)
    made.requires_grad_(False)
    return made


@entry("`FSQ`", edit="cast to float64", use=lambda made: made.eval()(X.double()))
def finite():
    return FSQ([4, 3, 3], dim=8).double()
