"""PyTorch Geometric: a graph network, and the graph."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.nn.models import GAT

from ecosystem.entries import entry

EDGES = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])


@entry("`GAT`", edit="a dropout", use=lambda model: model.eval()(torch.ones(4, 5), EDGES))
def gat():
    model = GAT(5, 8, num_layers=2, out_channels=3, heads=2, v2=True, act="elu")
    model.dropout.p = 0.3
    return model


@entry("`Data`", edit="an attribute", use=lambda data: data.num_nodes)
def data():
    made = Data(x=torch.arange(20.0).view(4, 5), edge_index=EDGES, y=torch.tensor([1]))
    made.name = "ring"
    return made
