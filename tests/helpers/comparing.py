"""Whether two values are the same, as a user would say it."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
import torch


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal to the bit and of the same types, at any depth, in the same order.

    Tensors have the same type, shape, device and sign of gradients; signs of zeros count.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        facts = [(item.dtype, item.shape, item.device, item.requires_grad) for item in (one, other)]
        return facts[0] == facts[1] and _bytes_of(one).equal(_bytes_of(other))
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if isinstance(one, (list, tuple, collections.deque)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    if isinstance(one, float):
        return repr(one) == repr(other)
    return bool(one == other) or (isinstance(one, complex) and repr(one) == repr(other))


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)
