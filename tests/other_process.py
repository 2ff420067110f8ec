"""Run code in a Python of its own, as a program that loads what another has saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import flambe_save


def run_python(code: str, *arguments: object) -> Any:
    """Run code with ``sys.argv[1:]`` and return the JSON in the last line that it prints."""
    places = [str(Path(flambe_save.__file__).parents[1]), os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        # With as many threads as here: sums depend on how they are split
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(places),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def there_and_here(folder: Path, made: dict[str, Any], module: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Save models here, load them in another process, and return the folder and what both tell of them.

    ``module`` is a test module with ``MODELS``, name -> (function, inputs), and ``facts``, which returns what can be
    compared and all outputs in one tensor.
    """
    tests, here = sys.modules[module], {}
    for name, model in made.items():
        told, outputs = tests.facts(model, tests.MODELS[name][1])
        here[name] = {**told, "same outputs": True}
        flambe_save.save(model, folder / name)
        torch.save(outputs, folder / f"{name}.pt")
    return folder, here, run_python(_LOAD, module, folder)


_LOAD = """
import importlib, json, pathlib, sys, torch, flambe_save
tests, folder, told = importlib.import_module(sys.argv[1]), pathlib.Path(sys.argv[2]), {}
for name, (_, inputs) in tests.MODELS.items():
    model = flambe_save.load(folder / name)
    expected = torch.load(folder / f"{name}.pt")
    facts, outputs = tests.facts(model, inputs)
    told[name] = {**facts, "same outputs": torch.equal(outputs, expected)}
print(json.dumps(told))
"""
