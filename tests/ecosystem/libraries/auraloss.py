"""auraloss: losses of sound."""

from __future__ import annotations

import auraloss
import torch

from ecosystem.entries import entry

X = torch.linspace(-1, 1, 512).view(1, 1, 512)


@entry("`MultiResolutionSTFTLoss`", edit="a weight", use=lambda loss: loss(X, X**2))
def stft():
    loss = auraloss.freq.MultiResolutionSTFTLoss(fft_sizes=[64, 128], hop_sizes=[16, 32], win_lengths=[64, 128])
    loss.stft_losses[0].w_sc = 0.5
    return loss
