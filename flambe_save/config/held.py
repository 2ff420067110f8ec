"""What a config need not hold: what the state beside it does, and the parameters of modules that it builds."""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from flambe_save.config.parts import parts_of
from flambe_save.config.scalars import PLAIN, is_plain_key
from flambe_save.config.schema import WITHOUT_PARTS, schema_of
from flambe_save.config.wrappers import plain_keys, unwrapped

__all__ = ["Held", "parameters_in"]


class Held(NamedTuple):
    """What a save's state holds of the values that a config is about, so that the config need not.

    Attributes
    ----------
    tensors : dict of int to str
        The ids of tensors and arrays that stand in containers -> their keys in the state.
    containers : dict of int to str
        The ids of containers that nothing but containers is around -> what they are called.
    holds : callable
        Whether the state holds a tensor's values.
    """

    tensors: Mapping[int, str] = types.MappingProxyType({})
    containers: Mapping[int, str] = types.MappingProxyType({})
    holds: Callable[[torch.Tensor], bool] = lambda tensor: False


def parameters_in(root: Any) -> dict[int, list[tuple[tuple[str, ...], str]]]:
    """Return where in a config the parameters and buffers of modules are: id -> (keys of the module, name inside)."""
    found: dict[int, list[tuple[tuple[str, ...], str]]] = {}
    seen: dict[int, Any] = {}  # with the items, for parts are made anew, and ids are only unique while they live
    stack: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while stack:
        keys, item = stack.pop()
        if id(item) in seen or type(item) in WITHOUT_PARTS:
            continue
        seen[id(item)] = item
        item = unwrapped(item)
        if keys and isinstance(item, torch.nn.Module):
            tensors = {**dict(item.named_parameters()), **dict(item.named_buffers())}
            for name, plain in plain_keys(item, tensors).items():
                found.setdefault(id(tensors[name]), []).append((keys, plain))
        stack.extend(((*keys, key), value) for key, value in reversed(_inner(item)))
    return found


def _inner(item: Any) -> list[tuple[str, Any]]:
    """Return what is in a value, by the keys that lead there in its config."""
    kind, schema = type(item), schema_of(item)
    if schema is not None:
        return list(schema.keywords.items())
    if kind in (list, tuple):
        return [(str(index), value) for index, value in enumerate(item)]
    is_mapping = kind is OrderedDict and all(map(is_plain_key, item))
    if is_mapping or (kind is dict and all(type(key) in PLAIN for key in item)):
        return [(str(key), value) for key, value in item.items()]
    return list((parts_of(item) or {}).items())
