#!/bin/sh
# lightning 2.6.6: importing it replaces torch.compile for the whole process, and from then on a compiled module has a
# new attribute on the module that was compiled, _compile_kwargs, also in programs that use no Trainer.
#
# The replacement notes the arguments on what torch.compile returns; an OptimizedModule hands attributes on to the module
# inside it, so the note lands there: in its __dict__, and in every pickle of it.
#
# Seen: before the import no attribute is added; after it, vars(module)["_compile_kwargs"] is {'backend': 'eager'}.
# Expected: an import changes no function of torch, and compiling leaves the module's own attributes as they are.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 lightning==2.6.6 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import pickle

import torch
from torch import nn

original = torch.compile
plain = nn.Linear(2, 2)
torch.compile(plain, backend="eager")
assert "_compile_kwargs" not in vars(plain)

import lightning  # noqa: E402

assert lightning.__version__ == "2.6.6"
noted = nn.Linear(2, 2)
torch.compile(noted, backend="eager")
print("seen: torch.compile replaced:", torch.compile is not original, "- on the module:", vars(noted).get("_compile_kwargs"))
assert torch.compile is not original, "changed: torch.compile is torch's own"
assert vars(noted)["_compile_kwargs"] == {"backend": "eager"}, "changed: the note lies elsewhere"
assert "_compile_kwargs" in vars(pickle.loads(pickle.dumps(noted))), "changed: it is not pickled"
PYTHON
