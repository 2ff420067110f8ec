"""Restore ties: make one tensor again of those that were one object when they were saved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn

from flambe_save.adapters.protocol import Adapter, Later, Place, prefixes_around
from flambe_save.adapters.traversal import walk_object


def restore_ties(obj: Any, groups: Iterable[Iterable[str]]) -> None:
    """Make one parameter or buffer of each group of keys, in modules and in optimizers.

    Parameters
    ----------
    obj : object
        Changed in place. Where its constructor ties them already, nothing changes.
    groups : iterable of iterables of str
        State keys; those of other values than modules' tensors are ignored.
    """
    where: dict[str, tuple[torch.nn.Module, str]] = {}
    optimizers: list[torch.optim.Optimizer] = []
    replaced: dict[int, tuple[Any, Any]] = {}

    def enter(place: Place, adapter: Adapter) -> Later:
        if isinstance(place.obj, torch.nn.Module):
            for name in (*place.obj._parameters, *place.obj._buffers):
                where[place.key_prefix + name] = place.obj, name
        elif isinstance(place.obj, torch.optim.Optimizer):
            optimizers.append(place.obj)
        return None

    groups = [list(group) for group in groups]
    around = {prefix for group in groups for key in group for prefix in (key, *prefixes_around(key))}
    if groups:
        walk_object(obj, "", enter, wants=lambda parent, place, name: place.prefix in around)
    for group in groups:
        tied = [where[key] for key in group if key in where]
        if not tied:
            continue
        first = _table_of(*tied[0])[tied[0][1]]
        for module, name in tied[1:]:
            table = _table_of(module, name)
            other = table[name]
            if other is not first and type(other) is type(first) and other.shape == first.shape:
                table[name] = first
                if isinstance(module, nn.RNNBase):
                    nn.RNNBase._init_flat_weights(module)
                replaced[id(other)] = other, first
    for optimizer in optimizers if replaced else ():
        own = optimizer.__dict__  # no property of its class is run
        for group in own.get("param_groups") or ():
            group["params"][:] = [replaced[id(item)][1] if id(item) in replaced else item for item in group["params"]]
        state = own.get("state") or {}
        for other, first in replaced.values():
            if other in state:
                state[first] = state.pop(other)


def _table_of(module: torch.nn.Module, name: str) -> dict[str, Any]:
    """Return a module's table of parameters or of buffers, whichever has the name."""
    table: Any = module._parameters if name in module._parameters else module._buffers
    return cast("dict[str, Any]", table)
