"""zuko: a normalizing flow."""

from __future__ import annotations

import torch
import zuko

from ecosystem.entries import entry


@entry("`NSF`", edit="a transform less", use=lambda flow: flow(torch.ones(4)).log_prob(torch.zeros(3)))
def spline():
    flow = zuko.flows.NSF(features=3, context=4, transforms=3, hidden_features=(8, 8), bins=4)
    del flow.transform.transforms[2]
    return flow
