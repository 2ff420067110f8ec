"""sentence-transformers: the parts of a sentence encoder, and a loss."""

from __future__ import annotations

import torch
from sentence_transformers import SentenceTransformer, models
from sentence_transformers.models import Dense, Pooling
from sentence_transformers.models.tokenizer import WhitespaceTokenizer
from torch import nn

from ecosystem.entries import entry


def _words():
    return models.WordEmbeddings(
        WhitespaceTokenizer(vocab=["red", "green", "blue"], stop_words={"the"}), torch.arange(12.0).view(3, 4).numpy()
    )


@entry(
    "`SentenceTransformer` of word vectors, pooling and a dense layer",
    edit="another activation",
    use=lambda model: model.encode(["red blue", "green"]),
)
def encoder():
    model = SentenceTransformer(modules=[_words(), Pooling(4, pooling_mode="max"), Dense(4, 3)], device="cpu")
    model[2].activation_function = nn.GELU()
    return model
