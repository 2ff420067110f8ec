"""Wrappers of modules, optimizers and schedulers, for compiling or for several devices.

A save holds the objects inside them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

import torch

from flambe_save.objects.walks import modules_in

# By name, because importing torch's compiler takes seconds
_INNER = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "accelerate.optimizer.AcceleratedOptimizer": "optimizer",
    "accelerate.scheduler.AcceleratedScheduler": "scheduler",
    "lightning_fabric.wrappers._FabricModule": "_original_module",
    "lightning_fabric.wrappers._FabricOptimizer": "_optimizer",
    "lightning.fabric.wrappers._FabricModule": "_original_module",
    "lightning.fabric.wrappers._FabricOptimizer": "_optimizer",
}
_COMPILED = re.compile(r"(^|\.)_orig_mod\.")


@functools.cache
def _name_for(cls: Any) -> str | None:
    names = (_INNER.get(f"{base.__module__}.{base.__qualname__}") for base in cls.__mro__)
    return next((name for name in names if name is not None), None)


def _inner_name(obj: Any) -> str | None:
    """Return the attribute in which a wrapper keeps its object; None for others."""
    cls: Any = type(obj)
    return _name_for(cls)


def unwrapped(obj: Any) -> Any:
    """Return the object inside any number of wrappers; an object without one itself."""
    seen: set[int] = set()
    while (name := _inner_name(obj)) is not None and id(obj) not in seen:
        own = obj.__dict__
        inner = own.get("_modules", own).get(name)
        if inner is None:
            break
        seen.add(id(obj))
        obj = inner
    return obj


def plain_keys(module: torch.nn.Module, keys: Iterable[str]) -> dict[str, str]:
    """Map keys and prefixes of a module's ``state_dict`` to the same without wrappers in them."""
    plain = {key: key for key in keys}
    modules = modules_in(module) if plain else []
    wrappers = [(path, name) for path, inner in modules if (name := _inner_name(inner))]
    for path, name in sorted(wrappers, key=lambda item: -len(item[0])):
        begin, inside = (f"{path}." if path else ""), (f"{path}.{name}." if path else f"{name}.")
        for key, now in plain.items():
            if now.startswith(inside):
                plain[key] = begin + now[len(inside) :]
            elif now == inside[:-1]:
                plain[key] = path
    return plain


def wrapped_keys(module: torch.nn.Module, keys: Iterable[str]) -> dict[str, str]:
    """Map saved keys, plain or of a compiled module, to the keys that a module has for them.

    Inverse of :func:`plain_keys`, for keys that the module has.
    """
    is_wrapping = any(_inner_name(inner) for _, inner in modules_in(module))
    names = [
        f"{path}.{name}" if path else name
        for path, inner in (modules_in(module) if is_wrapping else ())
        for name in (*inner._parameters, *inner._buffers, "_extra_state")
    ]
    here = {plain: key for key, plain in plain_keys(module, names).items()}
    stripped = {key: _COMPILED.sub(r"\1", key) if "_orig_mod." in key else key for key in keys}
    return {key: here.get(plain, plain) for key, plain in stripped.items()}
