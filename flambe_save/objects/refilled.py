"""Attributes that a base class makes again: wrapped methods of a metric, a config's cache.

The base class leaves them out of copies in ``__getstate__`` and makes them again in ``__setstate__``. A save leaves
them out too, and a load has the base make them: its code is known, and no subclass overrides it. Other attributes refer
back to the object's user, as a Lightning module to its trainer: a load sets them as they are before a run.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from flambe_save.errors import CompilationError
from flambe_save.support.static import static_of


class _Base(NamedTuple):
    """A library's base class.

    Attributes
    ----------
    module, name : str
        Its module and name.
    left_out : frozenset of str
        All attributes that it makes.
    methods : tuple of str
        The methods that it wraps in attributes of the same names.
    code : tuple of str
        The names of its own code that runs then.
    before : mapping of str to callable
        Functions that make the values of attributes before a run, where the base needs no code for it.
    """

    module: str
    name: str
    left_out: frozenset[str]
    methods: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    before: Mapping[str, Callable[[], Any]] = MappingProxyType({})


# One of them has the ids of a module's metrics, which differ in another process
_OF_TRAINERS: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(("_trainer", "_fabric", "_metric_attributes", "_current_fx_name"), lambda: None),
    "_fabric_optimizers": list,
}
_BASES = (
    _Base(
        "torchmetrics.metric",
        "Metric",
        frozenset(("update", "compute", "_update_signature")),
        ("update", "compute"),
        ("__getstate__", "__setstate__", "__setattr__", "_wrap_update", "_wrap_compute"),
    ),
    _Base("omegaconf.base", "Node", frozenset(("_flags_cache",))),
    *(
        _Base(f"{package}.core.{module}", name, frozenset(before), before=before)
        for package in ("lightning.pytorch", "pytorch_lightning")
        for module, name, before in (
            ("module", "LightningModule", _OF_TRAINERS),
            ("datamodule", "LightningDataModule", {"trainer": lambda: None}),
        )
    ),
)


@functools.cache
def _base_of(cls: Any) -> tuple[_Base, Any] | None:
    """Return the known base of a class, and that base itself; None for nearly all classes."""
    for known in _BASES:
        base = vars(sys.modules[known.module]).get(known.name) if known.module in sys.modules else None
        if base is None or base not in cls.__mro__:
            continue
        is_its_own = all(static_of(cls, name) is static_of(base, name) for name in known.code)
        if is_its_own and all(type(static_of(cls, name)) is types.FunctionType for name in known.methods):
            return known, base
    return None


def left_out(cls: Any) -> frozenset[str]:
    """Return the attributes of a class's objects that a load makes again; no save holds them."""
    found = _base_of(cls)
    return frozenset() if found is None else found[0].left_out


def refill(obj: Any) -> None:
    """Make the attributes of an object that its class's base makes.

    Raises
    ------
    CompilationError
        If the object has one of them already.
    """
    cls: Any = type(obj)
    found = _base_of(cls)
    if found is None:
        return
    if found[0].before:
        for name, make in found[0].before.items():
            obj.__dict__.setdefault(name, make())
        return
    taken = found[0].left_out & obj.__dict__.keys()
    if taken:
        raise CompilationError(
            f"a {cls.__module__}.{cls.__qualname__} makes {min(taken)!r} itself", fix="Take it out of the config."
        )
    found[1].__setstate__(obj, {})
