"""TensorInfo: type, shape, size and device of a tensor, without torch."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

if TYPE_CHECKING:
    import torch

# Bytes of an element, for all types whose elements are whole bytes
ITEM_SIZES = {
    **dict.fromkeys(("int8", "uint8", "bool"), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32", "complex32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    "complex128": 16,
}


def is_tensor(value: Any) -> TypeGuard[torch.Tensor]:
    """Whether a value is a tensor; if the process has not imported torch, it is not."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def fills_storage(tensor: torch.Tensor) -> bool:
    """Whether a dense tensor has each element of its storage once, in any order."""
    is_all = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return is_all and not tensor.storage_offset() and is_without_overlap(tensor)


def is_without_overlap(tensor: torch.Tensor) -> bool:
    """Whether no two elements of a dense tensor share memory; False if that takes long to find."""
    if tensor.is_contiguous():
        return True
    end = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < end:
                return False
            end = stride * size
    return True


class TensorInfo(NamedTuple):
    """Type, shape, size and device of a tensor that was not read.

    Attributes
    ----------
    dtype : str
        Without ``torch.``: ``"float32"``.
    shape : tuple of int
    bytes : int or None
        Of its elements; None if these do not say, as of a sparse tensor.
    device : str or None
        Where it was when it was saved; None if the save does not say.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: int | None
    device: str | None

    @classmethod
    def of(cls, tensor: torch.Tensor, device: str | None) -> TensorInfo:
        """The description of a tensor."""
        is_dense = not tensor.is_nested and str(tensor.layout) == "torch.strided"
        return cls(
            str(tensor.dtype).removeprefix("torch."),
            () if tensor.is_nested else tuple(tensor.shape),
            tensor.numel() * tensor.element_size() if is_dense else None,
            device,
        )

    @property
    def is_countable(self) -> bool:
        """Whether its elements are numbers in a row, in memory that was saved."""
        return self.bytes is not None and self.device != "meta"

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)
