"""Adapters: how each kind of object tells how it was built, and gives and takes its state. traversal.py calls them.

A new kind is one class with the four methods of :class:`Adapter`, registered under the dotted path of the type it is
for, or named by that type's own ``__flambe_adapter__``. Entry points of the group ``flambe_save.adapters`` are found
too.
"""

from __future__ import annotations

from flambe_save.adapters.protocol import (
    Adapter,
    Child,
    Fit,
    Mismatch,
    Place,
    adapter_for,
    is_component,
    register_adapter,
)
from flambe_save.adapters.traversal import get_state, load_state, restore_ties
from flambe_save.registry import ADAPTERS

__all__ = [
    "Adapter",
    "Child",
    "Fit",
    "Mismatch",
    "Place",
    "adapter_for",
    "get_state",
    "is_component",
    "load_state",
    "register_adapter",
    "restore_ties",
]

ADAPTERS.add("builtins.list", "flambe_save.adapters.containers:SEQUENCE")
ADAPTERS.add("builtins.tuple", "flambe_save.adapters.containers:SEQUENCE")
ADAPTERS.add("builtins.dict", "flambe_save.adapters.containers:MAPPING")
ADAPTERS.add("torch.nn.modules.module.Module", "flambe_save.adapters.torch:MODULE")
