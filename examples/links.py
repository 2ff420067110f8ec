"""Write a model as YAML whose parts refer to each other: links, an anchor, and a class method as a factory.

Run it with: python examples/links.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from flambe_save import Component, load, registrable_factory, save, yaml

CONFIG = """\
!NextWord
vocabulary: !Vocabulary.from_text       # a class method builds it
  text: the quick brown fox jumps over the lazy dog
embedding: &embedding !Embedding
  words: !@ vocabulary.size             # a link: an attribute of what is built before
  width: 16
encoder: !Encoder
  width: !@ embedding.width
  activation: !torch.Tanh               # torch's own classes are known
head: !Head
  embedding: *embedding                 # an anchor: not a copy, the very object
"""


class Vocabulary(Component):
    """Words, numbered by their place in the alphabet."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.size = len(words)  # links read what an object holds, and no property

    @registrable_factory
    @classmethod
    def from_text(cls, text: str) -> Vocabulary:
        return cls(sorted(set(text.split())))


class Embedding(Component, nn.Module):
    """A vector for each word."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(words, width)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.table(numbers)


class Encoder(Component, nn.Module):
    """Reads vectors from the first to the last."""

    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.rnn = nn.GRU(width, width)
        self.activation = activation

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.activation(self.rnn(vectors)[0])


class Head(Component, nn.Module):
    """Scores every word by the vector that it has in an embedding."""

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors @ self.embedding.table.weight.T


class NextWord(Component, nn.Module):
    """Scores every word as the next one, after each word of a text."""

    def __init__(self, vocabulary: Vocabulary, embedding: Embedding, encoder: Encoder, head: Head) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = embedding
        self.encoder = encoder
        self.head = head

    def forward(self, text: str) -> torch.Tensor:
        numbers = torch.tensor([self.vocabulary.words.index(word) for word in text.split()])
        return self.head(self.encoder(self.embedding(numbers)))


def show(text: str) -> None:
    print("   " + text.rstrip().replace("\n", "\n   ") + "\n")


def main() -> None:
    torch.manual_seed(0)
    print("A config:")
    show(CONFIG)

    schema = yaml.load(CONFIG)
    print("Read, it is a Schema, and nothing is built yet. Its embedding:")
    show(repr(schema.embedding))

    model = schema()
    print("Called, it builds the parts in order and follows the links. The embedding again:")
    show(str(model.embedding.table))
    assert model.embedding.table.num_embeddings == model.vocabulary.size == 8
    assert model.encoder.rnn.input_size == model.embedding.width == 16
    assert model.head.embedding is model.embedding

    with tempfile.TemporaryDirectory() as folder:
        path = Path(save(model, Path(folder) / "next_word"))
        print("Saved, config.yaml keeps the links:")
        whole = (path / "config.yaml").read_text(encoding="utf-8")
        show(whole)
        assert "words: !@ vocabulary.size" in whole
        assert "width: !@ embedding.width" in whole
        assert "embedding: *" in whole

        print("In embedding/config.yaml there is no vocabulary to link to, so it has the value:")
        part = (path / "embedding" / "config.yaml").read_text(encoding="utf-8")
        show(part)
        assert "words: 8" in part
        assert "!@" not in part

        again = load(path)
        embedding = load(path / "embedding")

    with torch.inference_mode():
        assert torch.equal(again("the lazy fox"), model("the lazy fox"))
    assert again.head.embedding is again.embedding
    assert torch.equal(embedding.table.weight, model.embedding.table.weight)
    print("Loaded, the whole gives the same scores and shares one embedding; the part has the same weights.")


if __name__ == "__main__":
    main()
