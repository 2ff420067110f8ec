"""The classes of quickstart.py: a program that saves or loads such a model imports this file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from flambe_save import Component

__all__ = ["Backbone", "DigitClassifier", "Head", "Labels"]


class Backbone(Component, nn.Module):
    """Turns images of 8 x 8 pixels, shape (n, 1, 8, 8), into feature vectors, shape (n, features)."""

    def __init__(self, channels: int = 32, features: int = 64) -> None:
        super().__init__()
        self.features = features
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(channels * 4 * 4, features),
            nn.ReLU(),
            nn.Dropout(0.25),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class Head(Component, nn.Module):
    """Turns feature vectors into a score for each class."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features)


class Labels(Component):
    """The words that stand for the classes, learned from the data; no module, and still part of the save."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.register_attrs("words")  # what is learned is state, and state is saved by name

    def learn(self, words: Sequence[str]) -> None:
        self.words = sorted(set(words))

    def encode(self, words: Sequence[str]) -> torch.Tensor:
        index = {word: number for number, word in enumerate(self.words)}
        return torch.tensor([index[word] for word in words])

    def decode(self, scores: torch.Tensor) -> list[str]:
        return [self.words[number] for number in scores.argmax(dim=1).tolist()]


class DigitClassifier(Component, nn.Module):
    """Three Components in one; each gets a folder of its own in the save."""

    def __init__(self, backbone: Backbone, head: Head, labels: Labels) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.labels = labels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images))
