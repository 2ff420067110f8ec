"""A graph network of PyTorch Geometric, for test_geometric.py: importing the library takes seconds."""

from __future__ import annotations

import torch
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, GraphNorm, SAGEConv, global_mean_pool

from flambe_save import Component


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
