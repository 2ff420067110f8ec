"""Copies of modules without the weights that the state holds, for the stash of a save."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from flambe_save.errors import UnsupportedObjectError


def skeleton(
    module: torch.nn.Module, holds: Callable[[torch.Tensor], bool], path: str, memo: dict[int, Any]
) -> torch.nn.Module:
    """Return a copy of a module in which tensors that the state holds are an expanded zero.

    They keep their shapes and types, work in computations, and take no memory; a load gives them some.

    Parameters
    ----------
    module : torch.nn.Module
        Unchanged.
    holds : callable
        Whether the state holds a tensor.
    path : str
        Where in the object the module is, for messages.
    memo : dict
        As that of :func:`copy.deepcopy`: copies with the same memo share the objects that their modules share.

    Raises
    ------
    UnsupportedObjectError
        If something in the module cannot be copied.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in memo and holds(tensor):
            shape = () if tensor.numel() > 1 else tensor.shape
            zeros = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
            is_parameter = type(tensor) is torch.nn.Parameter
            memo[id(tensor)] = torch.nn.Parameter(zeros, tensor.requires_grad) if is_parameter else zeros
    for inner in module.modules():
        for value in vars(inner).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:  # a hook computed it, and will again
                memo.setdefault(id(value), value.detach().clone())
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # from any object in the module
        raise UnsupportedObjectError(
            f"{path}, a {type(module).__qualname__}, cannot be copied without its weights: "
            f"{type(error).__name__}: {str(error)[:200]}",
            fix="Build it inside `with flambe_save.recording():`, so that its arguments are known; register an adapter "
            "for its class; or leave it out.",
        ) from error
