"""PyTorch Geometric: layers inside a component come back in another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from other_process import run_python
from torch import nn

from flambe_save import Component, load, save, untrusted

pytest.importorskip("torch_geometric", reason="pip install torch-geometric")

from torch_geometric.nn import GATConv, GCNConv, GraphNorm, SAGEConv, global_mean_pool


class GraphClassifier(Component, nn.Module):
    """A graph network, whose layers its constructor makes."""

    def __init__(self, features: int, hidden: int, classes: int, heads: int = 2) -> None:
        super().__init__()
        self.first = GCNConv(features, hidden)
        self.norm = GraphNorm(hidden)
        self.second = GATConv(hidden, hidden, heads=heads)
        self.third = SAGEConv(hidden * heads, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: torch.Tensor, edges: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Return the classes' scores for each graph."""
        x = self.norm(self.first(x, edges), batch).relu()
        x = self.third(self.second(x, edges).relu(), edges)
        return self.head(global_mean_pool(x, batch))  # type: ignore[no-any-return]


def graphs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return two graphs: features of seven nodes, edges, and which graph each node is in."""
    x = torch.linspace(-1, 1, 7 * 5).reshape(7, 5)
    edges = torch.tensor([[0, 1, 1, 2, 3, 4, 5, 6], [1, 0, 2, 1, 4, 5, 6, 3]])
    return x, edges, torch.tensor([0, 0, 0, 1, 1, 1, 1])


def test_round_trip_in_another_process(tmp_path: Path) -> None:
    """A graph network gives the same outputs, to the bit, where another process loads it without trust."""
    model = GraphClassifier(5, 8, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(*graphs()), torch.tensor([0, 2])).backward()
        optimizer.step()
    path = save(model, tmp_path / "model")
    with torch.no_grad():
        torch.save(model.eval()(*graphs()), tmp_path / "outputs.pt")
    assert untrusted(path) == []
    told: Any = run_python(
        """
import json, sys, torch, flambe_save
from test_geometric import graphs
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


def test_a_state_alone(tmp_path: Path) -> None:
    """Weights go from one network to another that is there."""
    one, other = GraphClassifier(5, 8, 3), GraphClassifier(5, 8, 3)
    other.load_state(load(save(one, tmp_path / "model")).get_state(), strict=True)
    assert torch.equal(one.eval()(*graphs()), other.eval()(*graphs()))
