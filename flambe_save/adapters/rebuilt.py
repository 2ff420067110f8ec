"""Compare libraries' models with fresh ones of the same arguments, to describe changes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from flambe_save.deferred_init.mode import DeferredInit
from flambe_save.describing.changes import changes_since
from flambe_save.describing.describe import edited
from flambe_save.describing.prints import print_of
from flambe_save.schema.schema import Schema


def built_again(build: Callable[[], Any]) -> Any:
    """Build an object by a library's function with no random numbers: weights have no values."""
    with torch.random.fork_rng(devices=[]), DeferredInit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library warned when the model was made
        return build()


def outline(module: nn.Module) -> dict[str, tuple[int, ...] | None]:
    """Map names of a module's saved tensors to shapes; None for a shape not known yet."""
    return {
        name: None if nn.parameter.is_lazy(value) else tuple(value.shape)
        for name, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


def written_beside(schema: Schema, model: nn.Module, fresh: nn.Module, *, apart_from: frozenset[str]) -> Schema:
    """Return the Schema of a model as a call builds it, with the changes from a fresh one.

    Parameters
    ----------
    schema : Schema
        The call.
    model, fresh : torch.nn.Module
    apart_from : frozenset of str
        Attributes that are not compared, since the call determines them or they mean nothing.
    """
    made = print_of(fresh, is_short_lived=True)
    return edited(model, schema, changes_since(model, made, is_exact=False, apart_from=apart_from))
