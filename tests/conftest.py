"""Shared fixtures: the component classes of the golden saves, a fresh seed, and torch kept to one thread per worker."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from flambe_save import opening

GOLDEN = Path(__file__).parent / "golden"
for _folder in ("flambe_0_4", "before_rooms"):  # so that the modules behind the golden saves import
    sys.path.insert(0, str(GOLDEN / _folder))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Make every test start from the same random numbers."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    opening._told.clear()  # each test is told of what needs trust
    opening._opened.clear()
