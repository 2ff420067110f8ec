"""Tensors and numpy arrays that stand in containers, or alone: the state holds them, the config says where."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch

from flambe_save.adapters.protocol import Child, Fit, Later, Mismatch, Place, ValueAdapter
from flambe_save.errors import UnsupportedObjectError
from flambe_save.state import State

__all__ = ["ARRAY", "ArrayAdapter"]

_ALONE = "value"  # the key of an array that is the root itself


class ArrayAdapter(ValueAdapter):
    """Tensors and numpy arrays of any type, shape and layout; of a view, its own bytes only."""

    def children(self, obj: Any) -> Iterable[Child]:
        """Return nothing."""
        return ()

    def get_state(self, place: Place, state: State) -> Later:
        """Put the array itself under the place's name; it is shared."""
        if isinstance(place.obj, torch.Tensor) and torch.nn.parameter.is_lazy(place.obj):
            raise UnsupportedObjectError(
                "a parameter that has no shape yet", node=place.prefix, fix="Run the model once, and save it then."
            )
        state[key_of(place)] = place.obj
        return None

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Copy the saved values into the array, where it is not the saved one itself."""
        key = key_of(place)
        if key not in state:
            mismatch.missing.append(key)
            return None
        mismatch.consumed.add(key)
        saved, here = state[key], place.obj
        if saved is here:
            return None
        if type(saved) not in (type(here), torch.Tensor, torch.nn.Parameter) or saved.shape != here.shape:
            mismatch.errors.append(f"{key} is {_what(saved)} in the save and {_what(here)} here")
        elif isinstance(here, torch.Tensor):
            try:
                with torch.no_grad():
                    here.copy_(saved)
            except (RuntimeError, NotImplementedError) as error:  # a layout that cannot be written to
                mismatch.errors.append(f"{key} cannot be filled: {str(error)[:200]}")
        elif isinstance(saved, sys.modules["numpy"].ndarray):
            here[...] = saved
        else:
            mismatch.errors.append(f"{key} is {_what(saved)} in the save and {_what(here)} here")
        return None


def key_of(place: Place) -> str:
    """Return the state's key for an array at a place."""
    return place.prefix or _ALONE


def _what(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__qualname__}" + (f" of shape {tuple(shape)}" if shape is not None else "")


ARRAY = ArrayAdapter()
