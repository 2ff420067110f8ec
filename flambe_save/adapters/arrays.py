"""Tensors and numpy arrays in containers, or alone: the config has keys of the state."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch

from flambe_save.adapters.protocol import Check, Child, Fit, Later, Mismatch, Place, ValueAdapter
from flambe_save.errors import UnsupportedObjectError
from flambe_save.state import State

_ALONE = "value"  # the key of an array that is the root itself


class ArrayAdapter(ValueAdapter):
    """Tensors and numpy arrays of any type, shape and layout; of a view, only its own bytes."""

    def children(self, obj: Any) -> Iterable[Child]:
        """Return nothing."""
        return ()

    def get_state(self, place: Place, state: State) -> Later:
        """Put the array itself under the place's name; it is shared."""
        check_has_shape(place.obj, key_of(place), place.prefix)
        state[key_of(place)] = place.obj
        return None

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Copy the saved values into the array, unless it is the saved one itself."""
        key = key_of(place)
        if key not in state:
            mismatch.missing.append(key)
            return None
        mismatch.consumed.add(key)
        saved, here = state[key], place.obj
        if saved is here:
            return None
        is_alike = type(saved) in (type(here), torch.Tensor, torch.nn.Parameter) and saved.shape == here.shape
        if is_alike and isinstance(here, torch.Tensor):
            try:
                with torch.no_grad():
                    here.copy_(saved)
            except (RuntimeError, NotImplementedError) as error:  # a layout that cannot be written to
                mismatch.errors.append(f"{key} cannot be filled: {str(error)[:200]}")
        elif is_alike and isinstance(saved, sys.modules["numpy"].ndarray):
            here[...] = saved
        else:
            mismatch.errors.append(f"{key} is {_what(saved)} in the save and {_what(here)} here")
        return None

    def checker(self, place: Place, state: State) -> Check:
        """Return a function that notes a missing array, or another shape."""

        def note(found: Mismatch) -> None:
            key, here = key_of(place), place.obj
            found.consumed.add(key)
            shape = getattr(state.get(key), "shape", None)
            if key not in state:
                found.missing.append(key)
            elif shape is not None and shape != here.shape:
                found.note_sizes(key, shape, here.shape)

        return note


def key_of(place: Place) -> str:
    """Return the state's key for an array at a place."""
    return place.prefix or _ALONE


def check_has_shape(value: Any, key: str, node: str) -> None:
    """Refuse a parameter of a lazy module that has not run yet.

    Raises
    ------
    UnsupportedObjectError
    """
    if isinstance(value, torch.Tensor) and torch.nn.parameter.is_lazy(value):
        raise UnsupportedObjectError(
            f"{key!r} is a parameter of a lazy module that has no shape yet",
            node=node,
            fix="Run the model once, so that its lazy modules know their sizes, and save it then.",
        )


def _what(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__qualname__}" + (f" of shape {tuple(shape)}" if shape is not None else "")


ARRAY = ArrayAdapter()
