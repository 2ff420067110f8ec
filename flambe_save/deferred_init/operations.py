"""Kinds of torch's operations, for mode.py, budget.py and given.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

_aten = torch.ops.aten
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MOST = 1e4  # numbers up to this fit any of these types, so a fill with them cannot fail


def _are_bounds(low: Any = 0.0, high: Any = 1.0) -> bool:
    return _is_number(low) and _is_number(high) and -_MOST <= low <= high <= _MOST


def _are_mean_and_std(mean: Any = 0.0, std: Any = 1.0) -> bool:
    return _is_number(mean) and _is_number(std) and abs(mean) <= _MOST and 0 <= std <= _MOST


# Fills with random numbers, each with a test that its arguments cannot make it fail
FILLS: dict[Any, Callable[..., bool]] = {
    _aten.uniform_.default: _are_bounds,
    _aten.normal_.default: _are_mean_and_std,
    _aten.bernoulli_.float: lambda p=0.5: _is_number(p) and 0 <= p <= 1,
    _aten.exponential_.default: lambda rate=1.0: _is_number(rate) and 0 < rate <= _MOST,
}
# Operations that make new memory and fill it with random numbers: the fill, and the place after its own arguments
MAKES_RANDOM: dict[Any, tuple[Any, int]] = {
    _aten.rand.default: (_aten.uniform_.default, 0),
    _aten.randn.default: (_aten.normal_.default, 0),
    _aten.normal.float_float: (_aten.normal_.default, 2),
    _aten.rand_like.default: (_aten.uniform_.default, 0),
    _aten.randn_like.default: (_aten.normal_.default, 0),
}
# Operations that change memory in place, each value by itself, by numbers
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
# The same with new memory for the result
_COMPUTES = frozenset([_aten.mul.Tensor, _aten.div.Tensor, _aten.add.Tensor, _aten.sub.Tensor, _aten.neg.default])
_COPIES = frozenset([_aten.clone.default, _aten._to_copy.default])


@functools.cache
def kind_of(func: Any) -> str:
    """Classify an operation; before one of an unknown kind, all deferred operations run."""
    for kind, funcs in _KINDS.items():
        if func in funcs:
            return kind
    schema = func._schema
    is_drawing = func.namespace != "aten" or torch.Tag.nondeterministic_seeded in func.tags
    tensors = [argument.name for argument in schema.arguments if "Tensor" in str(argument.type)]
    if (
        not is_drawing and allocation_of(func) == "makes" and tensors in ([], ["self"])
    ):  # which gives a shape and a type
        return "makes"
    shares = [value.alias_info is not None and not value.alias_info.is_write for value in schema.returns]
    # An operation composed of others, such as Tensor.to(), may say that it shares memory, and copy
    is_composed = func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    if func.namespace == "aten" and shares and all(shares) and not schema.is_mutable and not is_composed:
        return "views"
    return "draws" if is_drawing else "other"


@functools.cache
def allocation_of(func: Any) -> str:
    """Classify how an operation allocates: ``"makes"``, ``"enlarges"``, ``"copies"``, ``""``."""
    schema = func._schema
    if schema.is_mutable or any(value.alias_info is not None for value in schema.returns):
        return ""
    if func.overloadpacket in (_aten.repeat, _aten.constant_pad_nd):
        return "enlarges"
    return "makes" if {"device", "pin_memory"} <= {argument.name for argument in schema.arguments} else "copies"


_KINDS: dict[str, Any] = {
    "fills": FILLS,
    "makes random": MAKES_RANDOM,
    "changes": _CHANGES,
    "copies into": (_aten.copy_.default,),
    "computes": _COMPUTES,
    "copies": _COPIES,
}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def are_numbers(args: Any, kwargs: Any) -> bool:
    """Whether the arguments after the first are numbers, so that nothing can fail."""
    numbers = [item for item in (*args, *kwargs.values()) if item is not None]
    return (bool(numbers) or not (args or kwargs)) and all(map(_is_number, numbers))


# Arguments that operations write to, though their schemas do not say so
_STATISTICS = ("running_mean", "running_var")


@functools.cache
def written_in(func: Any) -> tuple[list[int], list[str]]:
    """The arguments that an operation writes to, as places and as names."""
    found = [
        (place, argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if (argument.alias_info is not None and argument.alias_info.is_write) or argument.name in _STATISTICS
    ]
    return [place for place, _ in found], [name for _, name in found]


def moves(func: Any) -> bool:
    """Whether an operation gives a tensor other memory or another shape, in place."""
    return torch.Tag.inplace_view in func.tags
