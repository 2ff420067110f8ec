#!/bin/sh
# ema-pytorch 0.8.3 with torch 2.13.0: torch.save takes an EMA, and torch.load of that file always fails.
#
# EMA.__new__ takes the model as an argument without a default (it makes an EMAPytree for what is not a module). pickle and
# copy make an object by cls.__new__(cls) and then give it its attributes, so both raise, and only when the save is read.
#
# Seen: TypeError: EMA.__new__() missing 1 required positional argument: 'model', of torch.load and of copy.deepcopy.
# Expected: what torch.save writes without a word is read again by the same program.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 ema-pytorch==0.8.3 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy
import importlib.metadata
import io

import torch
from ema_pytorch import EMA
from torch import nn

assert importlib.metadata.version("ema-pytorch") == "0.8.3"
average, file = EMA(nn.Linear(2, 2), beta=0.9), io.BytesIO()
torch.save(average, file)
file.seek(0)
for name, read in (("torch.load", lambda: torch.load(file, weights_only=False)), ("deepcopy", lambda: copy.deepcopy(average))):
    try:
        read()
    except TypeError as error:
        assert str(error) == "EMA.__new__() missing 1 required positional argument: 'model'", error
        print("seen:", name, "raises TypeError:", error)
    else:
        raise SystemExit(f"changed: {name} makes an EMA")
again = EMA(nn.Linear(2, 2), beta=0.9)
again.load_state_dict(average.state_dict())  # the way out: its state_dict
PYTHON
