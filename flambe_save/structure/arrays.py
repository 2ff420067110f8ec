"""The arrays of a structure: described by shapes and types, and made again with zeros."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from flambe_save.adapters import Fit, ValueAdapter, adapter_for, get_state, load_state, restore_ties
from flambe_save.classes.tags import dotted_path
from flambe_save.errors import ConfigError, StateMismatchError, UnsupportedObjectError, quote
from flambe_save.objects.arguments import Trail
from flambe_save.objects.values import BY_TAG
from flambe_save.state import State
from flambe_save.structure.entries import WAYS_OUT, Entry, wrong
from flambe_save.tree import place_key

_TENSOR, _PARAMETER, _ARRAY = "torch.Tensor", dotted_path(torch.nn.Parameter), "numpy.ndarray"
_NUMPY_TYPE = re.compile(r"[<>|][a-zA-Z][0-9]+(\[[0-9]*[a-zA-Z]+\])?")


class Zeros(NamedTuple):
    """An array as an entry describes it: its class, shape, type, and whether it has a gradient."""

    kind: str
    shape: list[int]
    dtype: Any
    requires_grad: bool

    @property
    def bytes(self) -> int:
        """The memory that it takes."""
        return math.prod(self.shape) * int(self.dtype.itemsize)

    def zeros(self) -> Any:
        """Make the array."""
        try:
            if self.kind == _ARRAY:
                return sys.modules["numpy"].zeros(self.shape, self.dtype)
            made = torch.zeros(self.shape, dtype=self.dtype, device="cpu")
            if self.kind == _PARAMETER:
                return torch.nn.Parameter(made, self.requires_grad)
            return made.requires_grad_(self.requires_grad)
        except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
            raise ConfigError(
                f"there can be no array of {self}: {str(error)[:200]}", fix="Correct the structure."
            ) from error


def describe_array(value: Any, where: str) -> Entry:
    """Describe an array."""
    kind = dotted_path(type(value))
    entry = {"node_type": "leaf", "type": kind, "shape": list(getattr(value, "shape", ()))}
    if kind in (_TENSOR, _PARAMETER) and value.layout is torch.strided and not value.is_quantized:
        facts = {"device": str(value.device), "requires_grad": value.requires_grad}
        return {**entry, "dtype": str(value.dtype), **facts}
    if kind == _ARRAY and _NUMPY_TYPE.fullmatch(value.dtype.str) and not (value.dtype.hasobject or value.dtype.names):
        return {**entry, "dtype": value.dtype.str}
    what = f"{kind} of type {value.dtype}" if hasattr(value, "dtype") else kind
    raise UnsupportedObjectError(f"{where} is a {what}, which a structure cannot describe", fix=WAYS_OUT)


def arrays_held(obj: Any, state: State) -> dict[str, Any]:
    """Return the arrays in objects of a tree by state key; those in containers are leaves."""
    numpy = sys.modules.get("numpy")
    kinds = (torch.Tensor,) if numpy is None else (torch.Tensor, numpy.ndarray)
    inside = {*state.components} - {""} if isinstance(adapter_for(obj), ValueAdapter) else None
    arrays = {key: value for key, value in state.items() if isinstance(value, kinds)}
    return {key: value for key, value in arrays.items() if inside is None or place_key(key, inside)[0]}


def fill_arrays(obj: Any, arrays: Mapping[str, Any], ties: Mapping[str, str]) -> None:
    """Give a new object arrays of zeros, of the described shapes and types."""
    state = get_state(obj)
    held = arrays_held(obj, state)
    for key in held.keys() - arrays.keys():
        del state[key]
    for key, zeros in arrays.items():
        # Else it keeps its own values, as those of a generator
        if key not in held or (held[key].shape, held[key].dtype) != (zeros.shape, zeros.dtype):
            state[key] = zeros.detach() if isinstance(zeros, torch.Tensor) else zeros
    load_state(obj, state, fit=Fit())
    restore_ties(obj, ([first, key] for key, first in ties.items()))
    made = get_state(obj, keep_vars=True) if arrays else {}
    for key, zeros in arrays.items():
        value: Any = made.get(key)
        if type(value) is not type(zeros) or (value.shape, value.dtype) != (zeros.shape, zeros.dtype):
            raise StateMismatchError(
                f"{quote(key)} is not a {type(zeros).__qualname__} of that shape and type", fix="Correct the structure."
            )
        try:
            with torch.no_grad():
                value[...] = zeros
            if isinstance(value, torch.nn.Parameter):
                value.requires_grad_(zeros.requires_grad)
        except (RuntimeError, ValueError) as error:  # views that repeat memory, arrays that are read-only
            raise StateMismatchError(f"{quote(key)} cannot be filled: {str(error)[:200]}", fix=WAYS_OUT) from error


def zeros_of(entry: Entry, path: Trail | str) -> Zeros:
    """Read an entry of an array without making the array, so that it can be counted."""
    kind, shape, name, requires_grad = entry["type"], entry["shape"], entry["dtype"], entry.get("requires_grad", False)
    are_sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not are_sizes or not isinstance(name, str) or type(requires_grad) is not bool:
        raise wrong(path, "an array has a list of sizes, a type, and a bool for requires_grad")
    if kind in (_TENSOR, _PARAMETER):
        return Zeros(kind, shape, BY_TAG["torch.dtype"].build(name.removeprefix("torch.")), requires_grad)
    if kind != _ARRAY or not _NUMPY_TYPE.fullmatch(name) or "numpy" not in sys.modules:
        raise wrong(path, f"a {quote(kind)} of {quote(name)} cannot be made; numpy's need numpy to be imported")
    try:
        dtype = sys.modules["numpy"].dtype(name)
    except (TypeError, ValueError) as error:
        raise wrong(path, f"{quote(name)} is not the type of an array: {error}") from error
    if dtype.hasobject:
        raise wrong(path, "an array of objects is not data")
    return Zeros(kind, shape, dtype, False)
