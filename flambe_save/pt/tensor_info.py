"""TensorInfo: the facts of a tensor that was not read."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

if TYPE_CHECKING:
    import torch

__all__ = ["TensorInfo", "is_tensor"]


def is_tensor(value: Any) -> TypeGuard[torch.Tensor]:
    """Whether a value is a tensor; torch is not imported for it, as without torch there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


class TensorInfo(NamedTuple):
    """Facts of a tensor that was not read.

    Attributes
    ----------
    dtype : str
        Without ``torch.``: ``"float32"``.
    shape : tuple of int
    bytes : int or None
        Of its elements; None where they do not say, as of a sparse tensor.
    device : str or None
        Where it was when it was saved; None where the save does not tell.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: int | None
    device: str | None

    @classmethod
    def of(cls, tensor: torch.Tensor, device: str | None) -> TensorInfo:
        """Return the facts of a tensor."""
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
