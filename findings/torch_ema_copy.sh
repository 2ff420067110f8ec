#!/bin/sh
# torch-ema 0.3 with torch 2.13.0: the copy of an average follows the parameters of the original's model.
#
# ExponentialMovingAverage refers to its parameters by weak references, and copy.deepcopy passes a weak reference on as it
# is. So copy.deepcopy((model, ema)) gives a new model, and an average with its own values that watches the old model.
#
# Seen: the copied model's weight is 100, the original's 1; after copied.update() the copied average is still 1.
# Expected: the two that were copied together belong together: the average moves to 50.5.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 torch-ema==0.3 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy
import importlib.metadata

import torch
from torch import nn
from torch_ema import ExponentialMovingAverage

assert importlib.metadata.version("torch-ema") == "0.3"
model = nn.Linear(1, 1, bias=False)
nn.init.ones_(model.weight)
ema = ExponentialMovingAverage(model.parameters(), decay=0.5, use_num_updates=False)
other, copied = copy.deepcopy((model, ema))
nn.init.constant_(other.weight, 100)
copied.update()
seen = copied.shadow_params[0].item()
print("seen:", seen, "with the copied model at", other.weight.item(), "and the original at", model.weight.item())
assert seen == 1.0, "changed: the copied average follows the copied model"
copied.update(other.parameters())  # the way out: name the parameters
assert torch.equal(copied.shadow_params[0], torch.tensor([[50.5]]))
PYTHON
