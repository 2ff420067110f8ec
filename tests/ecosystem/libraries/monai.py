"""MONAI: a network, a loss and a chain of transforms."""

from __future__ import annotations

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, NormalizeIntensity, RandFlip

from ecosystem.entries import entry


@entry("`UNet`", edit="frozen but for the last layer", use=lambda model: model.eval()(torch.ones(1, 1, 16, 16)))
def unet():
    model = UNet(2, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1, norm="batch", dropout=0.1)
    model.requires_grad_(False)
    model.model[2].requires_grad_(True)
    return model


@entry("`DiceCELoss`", edit="a weight", use=lambda loss: loss(torch.ones(1, 2, 4, 4), torch.ones(1, 1, 4, 4)))
def loss():
    made = DiceCELoss(to_onehot_y=True, softmax=True, lambda_dice=0.7)
    made.lambda_ce = 0.2
    return made


@entry(
    "a `Compose` of transforms", edit="a seed set", use=lambda made: made(torch.ones(1, 4, 4).cumsum(-1)).as_tensor()
)
def transforms():
    return Compose([NormalizeIntensity(nonzero=True), RandFlip(prob=0.5, spatial_axis=0)]).set_random_state(seed=3)
