"""Classes whose objects a load assembles without trust: none of their code runs meanwhile."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from flambe_save.objects.assembly import TABLES, can_be_assembled, is_class_of_weight_hooks
from flambe_save.objects.optimizers import TRAINING
from flambe_save.objects.special import OF_COPIES, OF_PICKLES, PASSIVE, own_bases, runs_when_made, special_names
from flambe_save.support.static import has_static, is_descriptor, static_of

# Methods of a tensor, optimizer or scheduler that may run when it is filled
_WHEN_FILLED = frozenset(("__eq__", "__hash__", "__setattr__", "__delattr__"))
# Methods of tensors that copy and pickle alone call, and products and distances, which torch.nn does not call
_NOT_ASKED = OF_PICKLES | {"__deepcopy__", "inner", "dist"}


@functools.cache
def is_open_to_assembly(cls: Any) -> bool:
    """Whether a load may assemble objects of an unregistered class, running none of its code.

    It may have methods that run when an object is made by its class, copied, compared or iterated. A load does none of
    that: ``object.__new__`` makes the object. Where other code might,
    :func:`~flambe_save.objects.special.is_used_by_python` is true.
    """
    if is_class_of_weight_hooks(cls):
        return True  # when it is called it computes a weight
    if runs_when_made(cls) or has_static(cls, "__flambe_adapter__"):
        return False
    special = special_names(cls)
    if issubclass(cls, torch.Tensor):
        names = {name for base in own_bases(cls) for name in vars(base)} | special
        return not any(_replaces_method(cls, name) for name in names - PASSIVE - _NOT_ASKED)
    if not can_be_assembled(cls):
        return False
    if issubclass(cls, TRAINING):
        return special <= (PASSIVE | OF_COPIES) - _WHEN_FILLED
    if issubclass(cls, nn.Module):
        return not any(is_descriptor(static_of(cls, name)) for name in TABLES - {"training"})
    return True


def _replaces_method(cls: Any, name: str) -> bool:
    """Whether a class of tensors replaces a method by other code than torch's disabled one."""
    is_none = name == "__torch_function__" and static_of(cls, name) is torch._C._disabled_torch_function_impl
    return not is_none and (hasattr(torch.Tensor, name) or (name.startswith("__") and name.endswith("__")))
