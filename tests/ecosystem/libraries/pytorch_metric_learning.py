"""pytorch-metric-learning: a loss with weights, a miner."""

from __future__ import annotations

import torch
from pytorch_metric_learning import distances, losses, miners, reducers

from ecosystem.entries import entry

X, Y = torch.linspace(-1, 1, 24).view(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])


@entry("`ArcFaceLoss`", edit="its margin", use=lambda loss: loss(X, Y))
def arcface():
    loss = losses.ArcFaceLoss(num_classes=3, embedding_size=4, scale=30)
    loss.margin = 0.3
    return loss


@entry(
    "`TripletMarginLoss` with a distance and a reducer, and a miner",
    edit="its margin",
    use=lambda run: run["loss"](X, Y, run["miner"](X, Y)),
)
def triplet():
    loss = losses.TripletMarginLoss(distance=distances.CosineSimilarity(), reducer=reducers.ThresholdReducer(low=0.0))
    loss.margin = 0.4
    return {"loss": loss, "miner": miners.MultiSimilarityMiner(epsilon=0.2)}
