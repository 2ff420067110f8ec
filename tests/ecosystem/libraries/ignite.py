"""PyTorch-Ignite: metrics and handlers."""

from __future__ import annotations

import torch
from ignite.handlers import EMAHandler
from ignite.metrics import Accuracy
from torch import nn

from ecosystem.entries import entry

SCORES, TARGETS = torch.eye(3), torch.tensor([0, 1, 1])


def _computed(metric):
    metric.update((SCORES, TARGETS))
    return metric.compute()


@entry("`Accuracy`", edit="a batch", use=_computed)
def accuracy():
    made = Accuracy(is_multilabel=False)
    made.update((SCORES, TARGETS))
    return made


@entry("`EMAHandler`, with its model", edit="a weight", use=lambda run: run["ema"].ema_model(torch.ones(1, 3)))
def ema():
    model = nn.Linear(3, 2)
    made = EMAHandler(model, momentum=0.1)
    with torch.no_grad():
        model.weight.add_(1)
    return {"model": model, "ema": made}
