"""The classes of the saves in this folder, and the objects that were saved, before config/ became several rooms."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

import flambe_save


class Encoder(flambe_save.Component, nn.Module):
    """A component with an argument that another's link reads."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.layer = nn.Linear(size, size)


class Net(flambe_save.Component, nn.Module):
    """A component that is built with a link."""

    def __init__(self, encoder: Encoder, size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(size, 2)

    def forward(self, x: Any) -> Any:
        """Return the head's values."""
        return self.head(self.encoder.layer(x))


class Reduced:
    """An object that only pickle makes again, and that refers to a module which the save has elsewhere."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __reduce__(self) -> Any:
        return Reduced, (self.module,)


def net() -> Any:
    """Return a Net built from a config with a link, of fixed weights."""
    torch.manual_seed(0)
    return flambe_save.yaml.load("!roomnet.Net\nencoder: !roomnet.Encoder {size: 4}\nsize: !@ encoder.size\n")()


def run() -> dict[str, Any]:
    """Return a run that has most of our own tags in its config."""
    random.seed(0)
    numpy.random.seed(0)
    model = net()
    model.encoder.extra = 5
    model.encoder.drop = nn.Dropout(0.3)
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "states": flambe_save.RandomStates(),
        "average": torch.optim.swa_utils.AveragedModel(model),
        "tied": nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
        "helper": Reduced(model.head),
    }


def write(folder: Path) -> None:
    """Write the saves of this folder."""
    flambe_save.save(net(), folder / "net")
    flambe_save.save(net(), folder / "net.pkl", pickle_only=True)
    flambe_save.save(run(), folder / "run")
    (folder / "component.pickle").write_bytes(pickle.dumps(net(), 4))
