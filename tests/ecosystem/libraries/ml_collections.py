"""ml_collections: a configuration."""

from __future__ import annotations

import ml_collections
from torch import nn

from ecosystem.entries import entry


@entry("a model beside its `ConfigDict`", edit="a value", use=lambda run: run["config"].to_dict())
def config():
    made = ml_collections.ConfigDict({"size": 3, "rates": {"first": 0.1}})
    made.rates.second = 0.2
    return {"config": made, "model": nn.Linear(3, 2)}
