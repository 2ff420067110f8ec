"""Models of libraries beside what their arguments build: what somebody changed since is written down beside these."""

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

__all__ = ["built_again", "outline", "written_beside"]


def built_again(build: Callable[[], Any]) -> Any:
    """Return what a library's function builds, with no random number drawn: what is no weight has its true values."""
    with torch.random.fork_rng(devices=[]), DeferredInit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library has to say, it said when the model was made
        return build()


def outline(module: nn.Module) -> dict[str, tuple[int, ...] | None]:
    """Return the names and shapes of what a module's state holds; None for a shape that is not known yet."""
    return {
        name: None if nn.parameter.is_lazy(value) else tuple(value.shape)
        for name, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


def written_beside(schema: Schema, model: nn.Module, fresh: nn.Module, *, apart_from: frozenset[str]) -> Schema:
    """Return the Schema of a model as a call builds it, but for what differs from a fresh one.

    Parameters
    ----------
    schema : Schema
        The call.
    model, fresh : torch.nn.Module
    apart_from : frozenset of str
        Attributes that the call tells of, or that mean nothing.
    """
    made = print_of(fresh, is_short_lived=True)
    return edited(model, schema, changes_since(model, made, is_exact=False, apart_from=apart_from))
