"""What a script defines is pickled by the script's name: it loads in the script itself, and where that is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, warnings
import torch
from flambe_save import NeedsTrustWarning, load, save, untrusted

class Trainer:
    def __init__(self, model):
        self.model, self.cache = model, [0]

    def __getstate__(self):
        return {**self.__dict__, "cache": None}

def halve(x):
    return x / 2

if __name__ == "__main__":
    warnings.simplefilter("ignore", NeedsTrustWarning)
    model = torch.nn.Linear(2, 2)
    for name, options in (("folder", {}), ("single.pkl", {"pickle_only": True})):
        path = save({"model": model, "trainer": Trainer(model), "held": [Trainer(halve)]}, name, **options)
        asked = {row.argument for row in untrusted(path)}
        assert asked == {"trusted=['train.Trainer']", "trusted=['train.halve']"}, asked
        for trust in ({"trusted": ["train"]}, {"weights_only": False}):
            again = load(path, **trust)
            assert type(again["trainer"]) is Trainer and again["trainer"].model is again["model"]
            assert again["held"][0].model is halve
"""

USE = """
import train
from flambe_save import UntrustedError, load

for path in ("folder", "single.pkl"):
    again = load(path, trusted=["train"])
    assert type(again["trainer"]) is train.Trainer and again["trainer"].model is again["model"]
    assert again["held"][0].model(4) == 2
    try:
        load(path)
    except UntrustedError as error:
        assert "train.Trainer" in str(error)
    else:
        raise AssertionError("it was loaded")
"""


def test_classes_and_functions_of_a_script(tmp_path: Path) -> None:
    """Pickled objects of a script's classes, and its functions, have its name in folders and in single pickles."""
    for name, text in (("train.py", SCRIPT), ("use.py", USE)):
        (tmp_path / name).write_text(text)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", name],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
