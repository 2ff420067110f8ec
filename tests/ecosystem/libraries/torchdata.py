"""torchdata: a loader that goes on where it was."""

from __future__ import annotations

import torch
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from ecosystem.entries import entry


@entry("`StatefulDataLoader`", edit="two batches taken", use=list)
def loader():
    made = StatefulDataLoader(TensorDataset(torch.arange(12.0)), batch_size=2, drop_last=True)
    rows = iter(made)
    next(rows), next(rows)
    return made
