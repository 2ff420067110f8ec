"""attrs: settings, with slots and frozen."""

from __future__ import annotations

import attrs
import torch
from torch import nn

from ecosystem.entries import entry


@attrs.define
class Settings:
    size: int = 3
    names: list[str] = attrs.field(factory=list)


@attrs.frozen
class Span:
    begin: int
    end: int


class Net(nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.settings, self.span, self.layer = settings, Span(1, 2), nn.Linear(settings.size, 2)

    def forward(self, x):
        return self.layer(x)


@entry(
    "a model that holds classes of `define` and `frozen`",
    edit="a list",
    use=lambda model: (model(torch.ones(1, 3)), attrs.asdict(model.settings)),
)
def settings():
    made = Net(Settings())
    made.settings.names.append("x")
    return made
