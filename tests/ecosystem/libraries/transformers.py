"""transformers: models, also with another head, a configuration of generation, arguments of a training."""

from __future__ import annotations

import torch
import transformers
from torch import nn

from ecosystem.entries import entry

IDS = torch.tensor([[1, 2, 3, 4]])


@entry(
    "`BertForSequenceClassification`",
    edit="another head, an encoder frozen",
    use=lambda model: model.eval()(input_ids=IDS).logits,
)
def bert():
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config)
    model.classifier = nn.Linear(16, 5)
    model.bert.encoder.requires_grad_(False)
    return model


@entry("`GPT2LMHeadModel`", edit="tokens added", use=lambda model: model.eval()(input_ids=IDS).logits)
def gpt2():
    config = transformers.GPT2Config(vocab_size=30, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    model.resize_token_embeddings(33)
    return model


@entry("`GenerationConfig`", edit="a temperature")
def generation():
    made = transformers.GenerationConfig(max_new_tokens=20, do_sample=True)
    made.temperature = 0.7
    return made
