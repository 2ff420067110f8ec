"""PyTorch Geometric: layers inside a component come back in another process."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from other_process import run_python
from torch import nn

from flambe_save import load, save, untrusted


@pytest.fixture(scope="module")
def net() -> Any:
    """The module with the network; only a process that runs these tests imports the library."""
    pytest.importorskip("torch_geometric", reason="pip install torch-geometric")
    return importlib.import_module("geometric_net")


def test_round_trip_in_another_process(net: Any, tmp_path: Path) -> None:
    """A graph network gives the same outputs, to the bit, where another process loads it without trust."""
    model = net.GraphClassifier(5, 8, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(*net.graphs()), torch.tensor([0, 2])).backward()
        optimizer.step()
    path = save(model, tmp_path / "model")
    with torch.no_grad():
        torch.save(model.eval()(*net.graphs()), tmp_path / "outputs.pt")
    assert untrusted(path) == []
    told: Any = run_python(
        """
import json, sys, torch, flambe_save
from geometric_net import graphs
model, expected = flambe_save.load(sys.argv[1]).eval(), torch.load(sys.argv[2])
with torch.no_grad():
    outputs = model(*graphs())
print(json.dumps([type(model).__name__, torch.equal(outputs, expected), open(sys.argv[1] + "/config.yaml").read()]))
""",
        path,
        tmp_path / "outputs.pt",
    )
    assert told[:2] == ["GraphClassifier", True]
    assert "GraphClassifier\nfeatures: 5\nhidden: 8\nclasses: 3\n" in told[2]


def test_a_state_alone(net: Any, tmp_path: Path) -> None:
    """Weights go from one network to another that is there."""
    one, other = net.GraphClassifier(5, 8, 3), net.GraphClassifier(5, 8, 3)
    other.load_state(load(save(one, tmp_path / "model")).get_state(), strict=True)
    assert torch.equal(one.eval()(*net.graphs()), other.eval()(*net.graphs()))
