#!/bin/sh
# torch 2.13.0: Optimizer.load_state_dict makes a text in an optimizer's state into the text of a generator object.
#
# The state of a parameter may hold whatever an optimizer keeps. load_state_dict goes through it and rebuilds everything that
# can be iterated over as type(value)(generator). For a list or a tuple that is a copy; str(generator) is its repr, and
# range(generator) raises. Nothing is said, and the optimizer goes on with the wrong text.
#
# Seen: {'mode': 'fast'} becomes {'mode': '<generator object Optimizer.load_state_dict.<locals>._cast.<locals>.<genexpr> at
# 0x...>'}; a range raises TypeError: 'generator' object cannot be interpreted as an integer.
# Expected: texts and ranges come back as they were, as numbers and None do.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch

assert torch.__version__.split("+")[0] == "2.13.0"


def through(state):
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    old, new = torch.optim.SGD([first], 0.1), torch.optim.SGD([second], 0.1)
    old.state[first] = state
    new.load_state_dict(old.state_dict())
    return new.state[second]


assert through({"step": 3, "note": None}) == {"step": 3, "note": None}
text = through({"mode": "fast"})["mode"]
if not text.startswith("<generator object Optimizer.load_state_dict"):
    raise SystemExit(f"changed: the text is {text!r}")
print("seen: 'fast' became", text)
try:
    found = through({"rows": range(3)})
except TypeError as error:
    assert str(error) == "'generator' object cannot be interpreted as an integer", error
    print("seen: a range raises TypeError:", error)
else:
    raise SystemExit(f"changed: a range became {found}")
PYTHON
