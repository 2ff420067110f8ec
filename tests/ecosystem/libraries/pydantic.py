"""pydantic: settings."""

from __future__ import annotations

from typing import Literal

import pydantic
import torch
from torch import nn

from ecosystem.entries import entry


class Rates(pydantic.BaseModel):
    first: float = 0.1
    steps: list[int] = [1, 2]


class Settings(pydantic.BaseModel):
    name: str
    size: int = pydantic.Field(4, gt=0)
    mode: Literal["a", "b"] = "a"
    rates: Rates = Rates()


class Net(nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.settings, self.layer = settings, nn.Linear(settings.size, 2)

    def forward(self, x):
        return self.layer(x)


@entry(
    "a model that holds a `BaseModel`",
    edit="a field",
    use=lambda model: (model(torch.ones(1, 3)), model.settings.model_dump()),
)
def settings():
    made = Net(Settings(name="x", size=3))
    made.settings.rates.steps.append(5)
    return made
