#!/bin/sh
# neuraloperator 2.0.0 with torch 2.13.0: a module that holds an FNO cannot load its own state_dict.
#
# FNO.state_dict() adds the key "_metadata", a dict of the model's constructor arguments. torch's nn.Module.state_dict()
# hands one dict to all modules inside, so the key lands, without a prefix, in the state_dict of whatever holds the FNO.
# FNO.load_state_dict() takes the key out again; that of the module around it does not, and refuses it.
#
# Seen: RuntimeError: Error(s) in loading state_dict for Sequential: Unexpected key(s) in state_dict: "_metadata".
# Expected: a module takes the state_dict that it has just given, as torch's own do.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 neuraloperator==2.0.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata

from neuralop.models import FNO
from torch import nn

assert importlib.metadata.version("neuraloperator") == "2.0.0"
inner = FNO(n_modes=(4,), in_channels=1, out_channels=1, hidden_channels=4, n_layers=1)
inner.load_state_dict(inner.state_dict())  # alone, it does
model = nn.Sequential(inner)
state = model.state_dict()
assert type(state["_metadata"]) is dict, sorted(state)
try:
    model.load_state_dict(state)
except RuntimeError as error:
    assert 'Unexpected key(s) in state_dict: "_metadata"' in str(error), error
    print("seen:", " ".join(str(error).split()))
else:
    raise SystemExit("changed: the module takes its own state_dict")
PYTHON
