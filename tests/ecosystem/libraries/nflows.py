"""nflows: a flow of autoregressive transforms."""

from __future__ import annotations

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import CompositeTransform, MaskedAffineAutoregressiveTransform, ReversePermutation

from ecosystem.entries import entry


@entry("`Flow`", edit="a transform frozen", use=lambda flow: flow.log_prob(torch.ones(2, 3)))
def flow():
    parts = [ReversePermutation(3), MaskedAffineAutoregressiveTransform(features=3, hidden_features=8)]
    made = Flow(CompositeTransform(parts), StandardNormal([3]))
    made._transform._transforms[1].requires_grad_(False)
    return made
