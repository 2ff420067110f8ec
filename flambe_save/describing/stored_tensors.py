"""Values that a config refers to: those in the state, and inside its modules."""

from __future__ import annotations

import types
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch

from flambe_save.config.scalars import PLAIN
from flambe_save.describing.describe import describe
from flambe_save.describing.known import KNOWN
from flambe_save.objects.assembly import PARTS, can_be_assembled
from flambe_save.objects.structural import POINTERS, parts_of
from flambe_save.objects.unwrap import plain_keys, unwrapped
from flambe_save.objects.values import fits, is_plain_key
from flambe_save.objects.walks import modules_in, named_once
from flambe_save.schema.edited import Edited
from flambe_save.schema.schema import WITHOUT_PARTS, Schema, schema_of

LOOSE = ("attributes", "changes")  # the parts of an object that may refer to objects elsewhere


class StoredTensors(NamedTuple):
    """Values that the state of a save holds, so that its config refers to them.

    Attributes
    ----------
    tensors : dict of int to str
        The ids of tensors and arrays in containers -> their keys in the state.
    containers : dict of int to str
        The ids of containers, modules and other objects with a place of their own -> their keys.
    holds : callable
        Whether the state holds a tensor's values.
    is_outside : callable
        Whether an object is in the save, but outside the part that the config is of.
    key_of : callable
        The key in the state of a parameter or buffer of a module; None for other tensors.
    is_part : bool
        Whether the config is of a part of the save.
    """

    tensors: Mapping[int, str] = types.MappingProxyType({})
    containers: Mapping[int, str] = types.MappingProxyType({})
    holds: Callable[[torch.Tensor], bool] = lambda tensor: False
    key_of: Callable[[torch.Tensor], str | None] = lambda tensor: None
    is_outside: Callable[[Any], bool] = lambda value: False
    is_part: bool = False


class Inside(NamedTuple):
    """Objects inside the modules that a config builds, which links can refer to.

    Attributes
    ----------
    places : dict of int to list of (tuple of str, str)
        By the ids of modules, parameters and buffers: the keys of a module in the config, and the name inside it.
    described : set of int
        The ids of objects that the config itself builds: each is one object wherever it stands.
    linkable : set of int
        The ids of objects inside modules that are not pickled.
    items : dict of int to object
        By their ids, all objects of the config.
    """

    places: dict[int, list[tuple[tuple[str, ...], str]]]
    described: set[int]
    linkable: set[int]
    items: dict[int, Any]


def inside_of(root: Any) -> Inside:
    """Return the objects inside the modules of a config, outer modules first."""
    found: dict[int, list[tuple[tuple[str, ...], str]]] = {}
    seen: dict[int, Any] = {}  # keeps them alive: parts are made anew, and ids are only unique while objects live
    made: set[int] = set()  # made by constructors: changes only refer to them
    described: set[int] = set()
    linkable: set[int] = set()
    shared = KNOWN.get().shared  # not made by one call alone, so written in full
    stack: list[tuple[tuple[str, ...], Any]] = [((), root)]
    loose: deque[tuple[tuple[str, ...], Any]] = deque()  # references, if the object is elsewhere too
    while stack or loose:
        is_loose = not stack
        keys, item = loose.popleft() if is_loose else stack.pop()
        is_elsewhere = any(keys[: len(outer)] != outer for outer, _ in found.get(id(item), ())) if is_loose else False
        if is_elsewhere and id(item) not in described:
            continue
        if type(item) in WITHOUT_PARTS or type(item) in PLAIN or (id(item) in made and "changes" in keys):
            continue
        item = unwrapped(item)
        if not is_loose or id(item) in shared:
            described.add(id(item))
        if id(item) in seen:
            continue
        seen[id(item)] = item
        schema = _schema_of(item)
        if keys and isinstance(item, torch.nn.Module):
            within = modules_in(item)
            modules = dict(within[1:])
            tensors = dict([*named_once(within, "_parameters"), *named_once(within, "_buffers")])
            # Changes refer to these as they were made, before their own changes
            as_made = tuple(f"{name}." for name, inner in modules.items() if "changes" in keys and id(inner) in made)
            for name, plain in plain_keys(item, tensors).items():
                if not plain.startswith(as_made):
                    found.setdefault(id(tensors[name]), []).append((keys, plain))
            for name, inner in modules.items():
                if not name.startswith(as_made):
                    found.setdefault(id(inner), []).append((keys, name))
            if schema is not None:
                linkable.update(map(id, tensors.values()), map(id, modules.values()))
        if schema is not None and schema.component_subclass is Edited:
            made |= schema.__dict__["_kept"].keys()
            for number, names in schema.__dict__["_kept"].items():
                inner_name = ".".join(filter(None, names))
                if inner_name:
                    found.setdefault(number, []).append(((*keys, "object"), inner_name))
                    linkable.add(number)
        is_call = schema is not None and schema.factory_method != PARTS and schema.component_subclass is not Edited
        firm: list[tuple[tuple[str, ...], Any]] = []
        for key, value in _inner(item, schema):
            is_inner_loose = is_loose if schema is None else not is_call and key in LOOSE
            (loose if is_inner_loose else firm).append(((*keys, key), value))
        stack += reversed(firm)
    return Inside(found, described, linkable, seen)


def _schema_of(item: Any) -> Schema | None:
    cls: Any = type(item)
    if cls is Schema:
        return cast(Schema, item)
    if isinstance(item, torch.nn.Module) or can_be_assembled(cls):
        return describe(item)
    return schema_of(item)


def _inner(item: Any, schema: Schema | None) -> list[tuple[str, Any]]:
    """Return the items in a value, by their keys in its config."""
    kind = type(item)
    if schema is not None:
        return list(schema.keywords.items())
    if kind in POINTERS:
        return []  # their objects are elsewhere
    if kind in (list, tuple):
        return [(str(index), value) for index, value in enumerate(item)]
    is_mapping = kind is OrderedDict and fits(item) and all(map(is_plain_key, item))
    if is_mapping or (kind is dict and all(type(key) in PLAIN for key in item)):
        return [(str(key), value) for key, value in item.items()]
    return list((parts_of(item) or {}).items())
