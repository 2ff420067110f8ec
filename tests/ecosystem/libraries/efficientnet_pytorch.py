"""efficientnet-pytorch: a network of images."""

from __future__ import annotations

import torch
from efficientnet_pytorch import EfficientNet
from torch import nn

from ecosystem.entries import entry


@entry("`EfficientNet`", edit="another head", use=lambda model: model.eval()(torch.ones(1, 3, 32, 32)))
def b0():
    model = EfficientNet.from_name("efficientnet-b0", num_classes=3, image_size=32, depth_coefficient=0.2)
    model._fc = nn.Linear(model._fc.in_features, 2)
    return model
