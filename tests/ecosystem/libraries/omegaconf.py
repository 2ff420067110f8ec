"""omegaconf: a configuration."""

from __future__ import annotations

import torch
from omegaconf import OmegaConf
from torch import nn

from ecosystem.entries import entry


class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.layer = config, nn.Linear(config.size, config.size)

    def forward(self, x):
        return self.layer(x)


@entry(
    "a model that holds its `DictConfig`",
    edit="a value",
    use=lambda model: (model(torch.ones(1, 3)), OmegaConf.to_container(model.config, resolve=True)),
)
def model():
    made = Net(OmegaConf.create({"size": 3, "path": "${root}/x", "root": "data", "rates": [0.1, 0.2]}))
    made.config.rates.append(0.3)
    return made
