"""torchmetrics: what a training loop counts with."""

from __future__ import annotations

import torch
import torchmetrics
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score

from ecosystem.entries import entry

SCORES, TARGETS = torch.eye(4) * 0.7 + 0.1, torch.tensor([0, 1, 2, 2])


def _computed(metric):
    metric.update(SCORES, TARGETS)
    return metric.compute()


@entry("`MetricCollection` of three metrics", edit="a batch", use=_computed)
def collection():
    made = torchmetrics.MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_classes=4, average="micro"),
            "f1": MulticlassF1Score(num_classes=4),
            "auroc": MulticlassAUROC(num_classes=4, thresholds=5),
        },
        prefix="valid/",
    )
    made.update(SCORES, TARGETS)
    return made


@entry("`MeanMetric` in a model", edit="three values", use=lambda held: held["loss"].compute())
def mean():
    made = torchmetrics.MeanMetric(nan_strategy=0.0)
    for value in (1.0, 2.0, 4.0):
        made.update(value)
    return {"loss": made, "best": 0.5}
