"""Objects as Schemas: the call that made one, its later changes, or its parts."""

from __future__ import annotations

import contextlib
import functools
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import dill
import torch
from torch import nn
from torch.nn.utils import parametrize

from flambe_save.classes.lookup import import_path
from flambe_save.classes.tags import TAGS
from flambe_save.config.scalars import PLAIN
from flambe_save.describing.changes import Changes
from flambe_save.describing.groups import optimizer_tables
from flambe_save.describing.known import KNOWN
from flambe_save.errors import UnsupportedObjectError
from flambe_save.objects.assembly import (
    COMPLETE,
    PARTS,
    attributes_of,
    can_be_assembled,
    computes_weights,
    fills_itself,
    hooks_in,
    is_set_by_torch,
    may_be_called,
)
from flambe_save.objects.optimizers import TRAINING, hooks_of
from flambe_save.objects.special import OF_COPIES, is_method, leaves_out, special_names
from flambe_save.objects.structural import POINTERS, is_made_of_parts, parts_of
from flambe_save.objects.values import BY_TYPE
from flambe_save.objects.walks import inside_itself, module_at
from flambe_save.registry import find_adapter
from flambe_save.schema.edited import Edited
from flambe_save.schema.link import Elsewhere
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema, defaults_of, schema_of
from flambe_save.schema.stored import StoredParameter
from flambe_save.support.notes import attributes_on
from flambe_save.support.static import is_special
from flambe_save.support.undoing import Setting

_described: ContextVar[dict[int, tuple[Any, Any]] | None] = ContextVar("described", default=None)
_saved: ContextVar[set[int] | None] = ContextVar("saved", default=None)
_LOST = "_lost"
# Modules of the standard library whose objects belong to the process: locks, files, contexts
_NO_DATA = frozenset(("_thread", "threading", "_io", "io", "socket", "_socket", "weakref", "contextvars", "_asyncio"))
_CONTAINERS = (list, tuple, dict, set, frozenset, OrderedDict, deque)


@contextlib.contextmanager
def describing() -> Iterator[None]:
    """Inside the ``with``, describe each object once; the objects must not change meanwhile."""
    with Setting(_described, {}), Setting(_saved, set()):
        yield


def saved_ids() -> set[int]:
    """Return the ids of the objects with a place in the save; the walk of the save adds to them."""
    found = _saved.get()
    return set() if found is None else found


def describe(obj: Any) -> Schema | None:
    """Return the Schema that builds an object, from its adapter or its record; None if unknown."""
    known = _described.get()
    if known is not None and id(obj) in known:
        found: Schema | None = known[id(obj)][1]
        return found
    adapter = find_adapter(obj)
    described = adapter.describe(obj) if adapter is not None else None
    found = described if isinstance(described, Schema) else schema_of(obj)
    if known is not None:
        known[id(obj)] = obj, found
    return found


def describe_as(obj: Any, schema: Schema | None) -> None:
    """Let an object be described by a Schema for as long as :func:`describing` lasts."""
    known = _described.get()
    if known is not None:
        known[id(obj)] = obj, schema


def described_now(obj: Any) -> Schema | None:
    """Return the Schema of an object inside :func:`describing`; None outside of it."""
    return None if _described.get() is None else describe(obj)


def described(kind: type) -> list[Any]:
    """Return the objects of a class that have been described inside :func:`describing`."""
    return [obj for obj, _ in (_described.get() or {}).values() if isinstance(obj, kind)]


def recorded_form(obj: Any) -> Schema | None:
    """Return the Schema of an object: its recorded call and later changes, or its parts."""
    schema = schema_of(obj)
    if schema is None:  # assembled by a load, or its call is not a mapping of names
        return assembled(obj)
    birth = schema.__dict__.get("_birth")
    call: Schema | None = birth.call(schema, _is_as_built) if birth is not None else None
    changes: Changes | None = birth.changes(obj, schema) if birth is not None else None
    if call is None or changes is None:
        parts = assembled(obj)
        return schema if parts is None else parts
    return edited(obj, call, changes)


def form_of(obj: Any) -> Schema | None:
    """Return the Schema of an object of no special kind.

    It is the call of its constructor if the class is registered, else its parts.
    """
    schema = schema_of(obj)
    if schema is not None and type(obj) in TAGS:
        return recorded_form(obj)
    parts = assembled(obj)
    return schema if parts is None else parts


def _is_as_built(obj: Any) -> bool:
    """Whether an object that recorded the call of its constructor is written by that alone."""
    return describe(obj) is schema_of(obj)


def edited(obj: Any, schema: Schema, changes: Changes) -> Schema:
    """Return the Schema of a call with later changes; the call itself if there are none."""
    lost = list(changes.lost)
    tables = {}
    for path, change in changes.tables.items():
        _check_names(module_at(obj, path), change)
        lost += _lost_marks({**change.get("parameters", {}), **change.get("buffers", {})}, f"{path}." if path else "")
        if "attributes" in change:
            begin = f"{path}." if path else ""
            owner = module_at(obj, path)
            kept, dropped = _split_attributes(change["attributes"], may_be_code=False, owner=owner)
            lost += [begin + name for name in dropped]
            change = {**change, "attributes": kept} if kept else {k: v for k, v in change.items() if k != "attributes"}
        if change:
            tables[path] = {
                name: _owned(values) if name in ("parameters", "buffers") else values for name, values in change.items()
            }
    # A config cannot name the classes that parametrize makes
    is_in_parts = KNOWN.get().is_in_parts and type(obj).__module__ != parametrize.__name__
    parts = assembled(obj) if tables and is_in_parts else None
    if parts is not None:
        return parts
    if tables:
        is_torch = schema.component_subclass.__module__.startswith("torch.")  # writing their defaults is only noise
        defaults = {} if is_torch else {k: v for k, v in defaults_of(schema).items() if type(v) in PLAIN}
        built = Schema(schema.component_subclass, schema.factory_method, **{**schema.keywords, **defaults})
        built.__dict__.update(_extensions=schema._extensions, _created_with_tag=schema._created_with_tag)
        schema = Schema(Edited, object=built, changes=tables)
        schema.__dict__.update(_kept=changes.kept, _of=obj)
    schema.__dict__[_LOST] = lost  # also an empty list: a recorded call is used more than once
    return schema


def stateful_form(obj: Any) -> Schema | None:
    """Return the Schema of an object with a ``state_dict``: its class and attributes of data.

    Other objects that it refers to are kept if they have a place of their own in the save, and are None otherwise. If
    none is, a load makes the object of its attributes, and runs none of its code.
    """
    recorded = schema_of(obj)
    if recorded is not None:
        return form_of(obj)
    found = assembled(obj, is_stateful=True)
    if found is not None:
        lost = lost_of(found)
        for name in lost:
            found.keywords.setdefault("attributes", {})[name] = None
        if not lost and fills_itself(type(obj)):
            found.keywords[COMPLETE] = True
    return found


def lost_of(schema: Schema) -> list[str]:
    """Return the names of hooks and attributes that the Schema of an object leaves out."""
    found: list[str] = schema.__dict__.get(_LOST, [])
    return found


def take_lost(schema: Schema) -> list[str]:
    """Remove and return the list of :func:`lost_of`, which a Schema around this one takes over."""
    found: list[str] = schema.__dict__.pop(_LOST, [])
    return found


def with_lost(schema: Schema, names: list[str]) -> Schema:
    """Note in a Schema the names that it leaves out."""
    if names:
        schema.__dict__[_LOST] = names
    return schema


def assembled(obj: Any, *, is_stateful: bool = False) -> Schema | None:
    """Return the Schema of an object's parts, shared with it; None if it is more than these.

    With ``is_stateful``, objects that are not data are parts only if the save has them anyway.
    """
    cls: Any = type(obj)
    is_module = isinstance(obj, nn.Module)
    # A module is written by its attributes, even those that its __getstate__ leaves out of copies
    if not can_be_assembled(cls) or (not is_module and not issubclass(cls, TRAINING) and leaves_out(obj)):
        return None
    tables: dict[str, Any] = {}
    lost: list[str] = []
    if is_module:
        own = obj.__dict__
        lost += _lost_marks({**own["_parameters"], **own["_buffers"]})
        tables["modules"] = dict(own["_modules"])
        tables.update((name, _owned(own[f"_{name}"])) for name in ("parameters", "buffers"))
        _check_names(obj, tables)
        tables["not_persistent"] = sorted(own["_non_persistent_buffers_set"])
        tables["hooks"] = [hook for hook in own["_forward_pre_hooks"].values() if computes_weights(hook)]
        lost += [name for name, hooks in hooks_in(obj) if not all(map(is_set_by_torch, hooks.values()))]
    attributes, others = attributes_of(obj), dict[str, Any]()
    if issubclass(cls, torch.optim.Optimizer):
        lost += hooks_of(obj)
        others = optimizer_tables(obj, attributes, _once)
    tables["attributes"], dropped = _split_attributes(
        attributes, may_be_code=not is_stateful, owner=obj, is_data=is_stateful
    )
    lost += dropped
    recorded = schema_of(obj)
    if recorded is not None:
        tables["arguments"] = {name: value for name, value in recorded.keywords.items() if _is_plain(value)}
    if lost and not issubclass(cls, TRAINING) and not special_names(cls).isdisjoint(OF_COPIES):
        return None  # its class knows what to leave out of a pickle, and how to make that again
    schema = Schema(cls, PARTS)
    schema.__dict__["_of"] = obj
    schema.keywords = {**others, **{name: value for name, value in tables.items() if value}}
    return with_lost(schema, lost)


def _once(item: Any, make: Callable[[], Any] | None = None) -> Any:
    """Return the replacement of a part that several objects may share, made once.

    Without a function, the item itself if it has none yet.
    """
    known, number = _described.get(), -id(item)  # negative: the item by itself may be described otherwise
    if known is not None and number in known:
        return known[number][1]
    if make is None:
        return item
    found = make()
    if known is not None:
        known[number] = item, found
    return found


def _check_names(module: Any, tables: Mapping[str, Any]) -> None:
    """Refuse names of a module's entries that no load accepts."""
    for table in ("modules", "parameters", "buffers"):
        for name in tables.get(table, ()):
            if not may_be_called(name, module, table):
                raise UnsupportedObjectError(
                    f"a {type(module).__qualname__} has {name!r} among its {table}, a name that no load accepts",
                    fix="Give it one without two underscores on both sides.",
                )


def _owned(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return a module's table of tensors, with links to the state in place of the tensors."""
    return {
        name: None if value is None else _once(value, functools.partial(_of_tensor, value))
        for name, value in tensors.items()
    }


def _of_tensor(value: Any) -> Any:
    """Return a link to a module's tensor, in a Schema if its class or attributes are special."""
    link = StoredParameter("", value)
    cls, marks = type(value), {name: _mark(mark) for name, mark in _marks(value).items() if _is_kept(value, name)}
    is_parameter = isinstance(value, nn.Parameter)
    is_subclass = cls not in (torch.Tensor, nn.Parameter) and not is_wrapper(value)
    needs_gradient = value.requires_grad and value.is_leaf and not is_parameter
    if not (is_subclass or marks or needs_gradient):
        return link
    details: dict[str, Any] = {"requires_grad": True} if needs_gradient else {}
    details |= {"attributes": marks} if marks else {}
    usual = nn.Parameter if is_parameter else torch.Tensor
    return Schema(cls if is_subclass else usual, PARTS, data=link, **details)


def _lost_marks(tensors: Mapping[str, Any], begin: str = "") -> list[str]:
    """Return the names of attributes of tensors that no config can hold."""
    return [
        f"{begin}{name}.{mark}"
        for name, tensor in tensors.items()
        if tensor is not None and tensor.__dict__
        for mark in _marks(tensor)
        if not _is_kept(tensor, mark)
    ]


def _marks(tensor: Any) -> dict[str, Any]:
    """Return the attributes set on a tensor; none for a wrapper, whose content they are."""
    return {} if is_wrapper(tensor) else attributes_on(tensor)


def _is_kept(tensor: Any, name: str) -> bool:
    """Whether an attribute of a tensor is data, or an object that a save may have."""
    if (id(tensor), name) in KNOWN.get().unsaid:
        return False
    value = tensor.__dict__[name]
    return _is_data(value) or find_adapter(value) is not None or (type(value) in POINTERS and bool(parts_of(value)))


def _mark(value: Any) -> Any:
    """Return an attribute of a tensor; a reference to an object, which is built later."""
    return value if _is_data(value) or type(value) in POINTERS else Elsewhere(value)


def _is_data(value: Any) -> bool:
    return type(value) in PLAIN or _is_plain(value) or type(value) in BY_TYPE


def is_wrapper(tensor: torch.Tensor) -> bool:
    """Whether the class of a tensor keeps other tensors inside, and has no memory of its own."""
    return hasattr(type(tensor), "__tensor_flatten__") or tensor.layout != torch.strided or tensor.is_nested


def _split_attributes(
    attributes: Mapping[str, Any], *, may_be_code: bool, owner: Any, is_data: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Return the attributes that a save can keep, and the names of the others."""
    kept, dropped = {}, []
    unsaid = KNOWN.get().unsaid
    for name, value in attributes.items():
        is_method_replaced = callable(value) and is_method(type(owner), name)
        is_dropped = is_special(name) or is_method_replaced or (id(owner), name) in unsaid  # no load sets special ones
        if not is_dropped and (type(value) in PLAIN or _can_be_kept(value, may_be_code, is_data, owner)):
            kept[name] = value
        else:
            dropped.append(name)
    return kept, dropped


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(type(key) in PLAIN and _is_plain(item) for key, item in value.items())
    return type(value) in PLAIN


def _can_be_kept(value: Any, may_be_code: bool, is_data: bool, owner: Any) -> bool:
    """Whether a save can hold a value; with ``is_data``, without its parts or a pickle."""
    if type(value) in _CONTAINERS and (inside_itself(value, _containers_in) is not None or _is_in_tuple(value, owner)):
        return False
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        item = waiting.pop()
        kind: Any = type(item)
        if kind in PLAIN or (kind in BY_TYPE and kind not in _CONTAINERS) or id(item) in seen:
            continue
        seen[id(item)] = item
        if kind in _CONTAINERS:
            waiting.extend([*item, *item.values()] if isinstance(item, dict) else item)
        elif kind in POINTERS:  # written later; only then is it known whether the save has its object
            target = (parts_of(item) or {"object": item})["object"]
            is_known = target is None or isinstance(target, torch.Tensor) or id(target) in saved_ids()
            if target is item or (is_data and not is_known):
                return False
        elif isinstance(item, (types.FunctionType, types.BuiltinFunctionType)):
            if import_path(item) is None and not (may_be_code and _can_be_pickled(item)):
                return False
        elif isinstance(item, (torch.Tensor, nn.Module, Reference, type, *TRAINING)) or is_made_of_parts(kind):
            continue
        elif isinstance(item, weakref.ReferenceType) or kind.__module__ in _NO_DATA:
            return False
        elif id(item) in saved_ids():
            continue
        elif is_data and not (fills_itself(kind) and can_be_assembled(kind) and not leaves_out(item)):
            return False
        elif can_be_assembled(kind):
            waiting.extend(attributes_of(item).values())
        elif find_adapter(item) is None and schema_of(item) is None and not _can_be_pickled(item):
            return False
    return True


def _is_in_tuple(value: Any, owner: Any) -> bool:
    """Whether a tuple holds the object that it is an attribute of: it is built after its items."""
    return type(value) is tuple and any(item is owner or _is_in_tuple(item, owner) for item in value)


def _containers_in(container: Any) -> list[Any]:
    values = container.values() if isinstance(container, dict) else container
    return [value for value in values if type(value) in _CONTAINERS]


def _can_be_pickled(value: Any) -> bool:
    try:
        dill.dumps(value, byref=True)
    except Exception:  # from its class's own protocol
        return False
    return True


def is_by_parts(obj: Any) -> bool:
    """Whether an object is written as its parts."""
    schema = describe(obj)
    return schema is not None and schema.factory_method == PARTS
