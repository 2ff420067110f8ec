"""peft: adapters on a model of transformers, and on modules of torch."""

from __future__ import annotations

import peft
import torch
import transformers
from torch import nn

from ecosystem.entries import entry


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


@entry(
    "LoRA on `GPT2LMHeadModel`",
    edit="a second adapter made active",
    use=lambda model: model.eval()(input_ids=torch.tensor([[1, 2, 3]])).logits,
)
def lora():
    config = transformers.GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    model = peft.get_peft_model(
        transformers.GPT2LMHeadModel(config), peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    )
    model.add_adapter("other", peft.LoraConfig(r=3, target_modules=["c_proj"], fan_in_fan_out=True))
    model.set_adapter("other")
    return model


@entry("LoRA on modules of a program", edit="a weight", use=lambda model: model.eval()(torch.ones(2, 6)))
def plain():
    model = peft.get_peft_model(Mixer(), peft.LoraConfig(r=2, target_modules=["first"], modules_to_save=["second"]))
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "lora_B" in name).fill_(0.5)
    return model
