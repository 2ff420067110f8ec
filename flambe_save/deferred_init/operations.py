"""Kinds of operations, as far as mode.py needs them to defer random numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["FILLS", "FLOATS", "MAKES_RANDOM", "are_numbers", "kind_of", "moves", "written_in"]

_aten = torch.ops.aten
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MOST = 1e4  # numbers up to this fit any of these types, so that a fill with them cannot fail


def _are_bounds(low: Any = 0.0, high: Any = 1.0) -> bool:
    return _is_number(low) and _is_number(high) and -_MOST <= low <= high <= _MOST


def _are_mean_and_std(mean: Any = 0.0, std: Any = 1.0) -> bool:
    return _is_number(mean) and _is_number(std) and abs(mean) <= _MOST and 0 <= std <= _MOST


# Fills with random numbers, and whether arguments are such that they cannot fail
FILLS: dict[Any, Callable[..., bool]] = {
    _aten.uniform_.default: _are_bounds,
    _aten.normal_.default: _are_mean_and_std,
    _aten.bernoulli_.float: lambda p=0.5: _is_number(p) and 0 <= p <= 1,
    _aten.exponential_.default: lambda rate=1.0: _is_number(rate) and 0 < rate <= _MOST,
}
# What makes new memory and fills it with random numbers: the fill, and where among the arguments its own are
MAKES_RANDOM: dict[Any, tuple[Any, int]] = {
    _aten.rand.default: (_aten.uniform_.default, 0),
    _aten.randn.default: (_aten.normal_.default, 0),
    _aten.normal.float_float: (_aten.normal_.default, 2),
    _aten.rand_like.default: (_aten.uniform_.default, 0),
    _aten.randn_like.default: (_aten.normal_.default, 0),
}
# What changes memory in place, each value by itself, by numbers
_CHANGES = frozenset(
    [
        _aten.zero_.default,
        _aten.fill_.Scalar,
        _aten.mul_.Tensor,
        _aten.mul_.Scalar,
        _aten.div_.Tensor,
        _aten.add_.Tensor,
        _aten.sub_.Tensor,
        _aten.neg_.default,
        _aten.erfinv_.default,
        _aten.clamp_.default,
        _aten.clamp_min_.default,
        _aten.clamp_max_.default,
    ]
)
# The same into new memory
_COMPUTES = frozenset([_aten.mul.Tensor, _aten.div.Tensor, _aten.add.Tensor, _aten.sub.Tensor, _aten.neg.default])
_COPIES = frozenset([_aten.clone.default, _aten._to_copy.default])
# What makes new memory, and reads none
_MAKES = frozenset(
    [
        _aten.empty.memory_format,
        _aten.empty_strided.default,
        _aten.zeros.default,
        _aten.ones.default,
        _aten.full.default,
        _aten.arange.default,
        _aten.arange.start,
        _aten.arange.start_step,
        _aten.eye.default,
        _aten.empty_like.default,
        _aten.zeros_like.default,
        _aten.ones_like.default,
        _aten.full_like.default,
        _aten.new_empty.default,
        _aten.new_empty_strided.default,
        _aten.new_zeros.default,
        _aten.new_ones.default,
        _aten.new_full.default,
    ]
)


def kind_of(func: Any) -> str:
    """Classify an operation; before one of an unknown kind, all deferred operations run."""
    for kind, funcs in _KINDS.items():
        if func in funcs:
            return kind
    schema = func._schema
    shares = [value.alias_info is not None and not value.alias_info.is_write for value in schema.returns]
    # What is composed of others, as Tensor.to() is, may say that it shares memory, and copy
    is_composed = func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    if func.namespace == "aten" and shares and all(shares) and not schema.is_mutable and not is_composed:
        return "views"
    return "draws" if func.namespace != "aten" or torch.Tag.nondeterministic_seeded in func.tags else "other"


_KINDS: dict[str, Any] = {
    "fills": FILLS,
    "makes random": MAKES_RANDOM,
    "changes": _CHANGES,
    "copies into": (_aten.copy_.default,),
    "computes": _COMPUTES,
    "copies": _COPIES,
    "makes": _MAKES,
}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def are_numbers(args: Any, kwargs: Any) -> bool:
    """Whether the arguments beside the first are numbers, and such that nothing can fail."""
    numbers = [item for item in (*args, *kwargs.values()) if item is not None]
    return (bool(numbers) or not (args or kwargs)) and all(map(_is_number, numbers))


# What some operations write to without saying so
_STATISTICS = ("running_mean", "running_var")


@functools.cache
def written_in(func: Any) -> tuple[list[int], list[str]]:
    """Return which arguments an operation writes to, as places and as names."""
    found = [
        (place, argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if (argument.alias_info is not None and argument.alias_info.is_write) or argument.name in _STATISTICS
    ]
    return [place for place, _ in found], [name for _, name in found]


def moves(func: Any) -> bool:
    """Whether an operation gives a tensor other memory, or another shape, in place."""
    return torch.Tag.inplace_view in func.tags
