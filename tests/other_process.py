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
