"""tensordict: tensors by names, a module that reads and writes them."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from ecosystem.entries import entry

ROW = {"seen": torch.ones(2, 3)}


@entry("`TensorDict`, nested", edit="an entry added", use=lambda made: made["a", "b"].sum())
def nested():
    made = TensorDict({"a": {"b": torch.arange(6.0).view(2, 3)}, "c": torch.ones(2)}, batch_size=[2])
    made["d"] = torch.zeros(2, 1)
    return made


@entry("`TensorDictSequential`", edit="a layer replaced", use=lambda made: made(TensorDict(ROW, [2]))["out"])
def sequential():
    made = TensorDictSequential(
        TensorDictModule(nn.Linear(3, 4), in_keys=["seen"], out_keys=["hidden"]),
        TensorDictModule(nn.Linear(4, 2), in_keys=["hidden"], out_keys=["out"]),
    )
    made[1].module = nn.Linear(4, 5)
    return made
