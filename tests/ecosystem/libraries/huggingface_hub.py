"""huggingface_hub: a model with its mixin."""

from __future__ import annotations

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from ecosystem.entries import entry


class Net(nn.Module, PyTorchModelHubMixin):
    def __init__(self, size=4, names=("a",)):
        super().__init__()
        self.layer, self.names = nn.Linear(size, len(names)), names

    def forward(self, x):
        return self.layer(x)


@entry(
    "a model with `PyTorchModelHubMixin`",
    edit="another head",
    use=lambda model: (model(torch.ones(1, 3)), model._hub_mixin_config),
)
def mixin():
    model = Net(size=3, names=("x", "y"))
    model.layer = nn.Linear(3, 5)
    return model
