"""BuildBudget: counts what constructors allocate, before memory is spent."""

from __future__ import annotations

import math
from typing import Any

import torch

from flambe_save.deferred_init.operations import allocation_of
from flambe_save.trust import Trust

_FOR_EACH_VALUE = 1 << 20  # bytes that each value of the state justifies, of any size
_FOR_EACH_CALL = 64 << 10  # bytes that each new tensor counts as at least: a billion small ones are too much, too
_FOR_EACH_SCHEMA = 256 << 10  # bytes that each object of the config justifies: it may make others
_TIMES = 16  # bytes for each of the state: a constructor makes weights, and copies of them


class BuildBudget:
    """Counts the bytes that operations allocate, and refuses more than the state justifies.

    mode.py shows it every operation. One that makes a tensor from numbers alone is run on the meta device first, where
    it takes no memory.

    Parameters
    ----------
    trust : Trust
        Its limits say how much is free.
    values : int
        How many values the saved state has.
    state_bytes : int
        How many bytes its tensors have.
    schemas : int
        How many objects the config describes.
    """

    def __init__(self, trust: Trust, values: int, state_bytes: int, schemas: int = 0) -> None:
        self._trust = trust
        self._justified = _TIMES * state_bytes + _FOR_EACH_VALUE * values + _FOR_EACH_SCHEMA * schemas
        self._spent = 0

    def count(self, func: Any, args: Any, kwargs: Any) -> None:
        """Count an operation that is about to be run.

        Raises
        ------
        LimitError
            If it allocates too much.
        """
        kind = allocation_of(func)
        if kind == "makes":
            self._spend(func(*args, **{**kwargs, "device": "meta", "pin_memory": None}) if _is_big(args) else None)
        elif kind == "enlarges":
            like = torch.empty_strided(args[0].shape, args[0].stride(), dtype=args[0].dtype, device="meta")
            self._spend(func(like, *args[1:], **kwargs))
        elif kind == "copies":
            self._spend(max((item for item in args if isinstance(item, torch.Tensor)), key=_bytes_of, default=None))

    def count_small(self) -> None:
        """Count a module that is about to be made or copied, or a small tensor.

        Raises
        ------
        LimitError
            If there are too many.
        """
        self._spent += _FOR_EACH_CALL
        self._trust.check_size(self._spent, self._justified)

    def _spend(self, tensor: Any) -> None:
        self._spent += max(_bytes_of(tensor), _FOR_EACH_CALL)
        self._trust.check_size(self._spent, self._justified)


def _bytes_of(tensor: Any) -> int:
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        return 0
    return tensor.numel() * tensor.element_size()


def _is_big(args: Any) -> bool:
    """Whether numeric arguments could ask for more memory than a call may take uncounted."""
    numbers = [item for arg in args for item in (arg if isinstance(arg, (list, tuple)) else (arg,))]
    product = math.prod(max(1, abs(item)) for item in numbers if isinstance(item, (int, float)) and item == item)
    return product * 16 > _FOR_EACH_CALL or any(isinstance(item, torch.Tensor) for item in numbers)


def are_small(sizes: Any) -> bool:
    """Whether arguments are the sizes, or a list of them, of a small tensor."""
    count = 16
    for size in sizes[0] if len(sizes) == 1 and type(sizes[0]) in (tuple, list, torch.Size) else sizes:
        if type(size) is not int or size < 0:
            return False
        count *= max(size, 1)
    return count <= _FOR_EACH_CALL
