"""diffusers: a network, an autoencoder, the scheduler of noise, an average of weights."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import nn

from ecosystem.entries import entry


@entry(
    "`UNet2DModel`",
    edit="a convolution of the output",
    use=lambda model: model.eval()(torch.ones(1, 1, 8, 8), 3).sample,
)
def unet():
    model = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    model.conv_out = nn.Conv2d(8, 2, 3, padding=1)
    return model


@entry("`AutoencoderKL`", edit="a scaling factor", use=lambda model: model.eval()(torch.ones(1, 3, 8, 8)).sample)
def autoencoder():
    model = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2)
    model.register_to_config(scaling_factor=0.3)
    return model


@entry(
    "`DDIMScheduler`",
    edit="its time steps set",
    use=lambda noise: noise.step(torch.ones(1, 2), int(noise.timesteps[0]), torch.ones(1, 2)).prev_sample,
)
def scheduler():
    made = DDIMScheduler(num_train_timesteps=50, beta_schedule="squaredcos_cap_v2", clip_sample=False)
    made.set_timesteps(10)
    return made


@entry("`EMAModel`, with its model", edit="two steps", use=lambda run: run["ema"].step(run["model"].parameters()))
def ema():
    model = nn.Linear(3, 2)
    average = EMAModel(model.parameters(), decay=0.9, use_ema_warmup=True)
    for _ in range(2):
        with torch.no_grad():
            model.weight.add_(1)
        average.step(model.parameters())
    return {"model": model, "ema": average}
