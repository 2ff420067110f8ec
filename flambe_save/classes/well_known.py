"""Classes that any config may name without registering them, torch's own above all."""

from __future__ import annotations

import functools
import importlib
import random
import sys
import types
from collections.abc import Iterable
from typing import Any

import torch

# torch's containers: their constructors only keep the modules that they are given in a list or mapping
KEEPERS = (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)


@functools.cache
def torch_class(name: str) -> type | None:
    """Find a public class of torch.nn, torch.optim and its schedulers, GradScaler or Generator."""
    if name == "Generator":
        return torch.Generator
    kinds: Iterable[tuple[str, type]] = (
        ("torch.nn", torch.nn.Module),
        ("torch.optim", torch.optim.Optimizer),
        ("torch.optim.lr_scheduler", torch.optim.lr_scheduler.LRScheduler),
        ("torch.optim.swa_utils", torch.optim.lr_scheduler.LRScheduler),
        ("torch.optim.swa_utils", torch.nn.Module),
        ("torch.amp", torch.amp.GradScaler),
    )
    for module, kind in kinds:
        found = getattr(importlib.import_module(module), name, None)
        if isinstance(found, type) and issubclass(found, kind) and not name.startswith("_"):
            return found
    return None


_NUMPY_RANDOM = frozenset(("Generator", "RandomState", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"))


def numpy_class(name: str) -> type | None:
    """Find a generator of numpy's, where numpy is imported."""
    module: Any = sys.modules.get("numpy.random")
    return getattr(module, name, None) if module is not None and name in _NUMPY_RANDOM else None


def random_class(name: str) -> type | None:
    """Find Python's generator."""
    return random.Random if name == "Random" else None


def method_class(name: str) -> type | None:
    """Find the class of bound methods, which no module has under its name."""
    return types.MethodType if name == "method" else None
