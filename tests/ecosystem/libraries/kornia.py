"""kornia: augmentations, and a filter."""

from __future__ import annotations

import kornia
import torch
from kornia.augmentation import AugmentationSequential, RandomAffine, RandomHorizontalFlip

from ecosystem.entries import entry


@entry("`AugmentationSequential`", edit="a probability", use=lambda made: made(torch.ones(2, 3, 8, 8).cumsum(-1)))
def augmentation():
    made = AugmentationSequential(RandomHorizontalFlip(p=0.7), RandomAffine(degrees=10.0), data_keys=["input"])
    made[0].p = 0.4
    return made


@entry(
    "`GaussianBlur2d` and `SSIMLoss`",
    edit="a kernel's size",
    use=lambda made: made["blur"](torch.ones(1, 1, 8, 8).cumsum(-1)),
)
def blur():
    made = {"blur": kornia.filters.GaussianBlur2d((3, 3), (1.5, 1.5)), "loss": kornia.losses.SSIMLoss(5)}
    made["blur"].kernel_size = (5, 5)
    return made
