"""Attributes and items of an object, read without running code of its class, for links.

An object holds its instance attributes, slots and items, a module also its parameters, buffers and submodules.
Properties and other descriptors are code, and so are ``__getattr__`` and ``__getitem__``.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import torch

from flambe_save.config.scalars import PLAIN
from flambe_save.support.static import bases_of, find_static, has_static, is_special, names_of, path_of

_OF_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_TABLES = ("_parameters", "_buffers", "_modules")
_HOOKS = ("__getattribute__", "__getattr__")
_ROUTINES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_SEQUENCES: tuple[Any, ...] = (list, tuple, set, frozenset, deque)


def held_attribute(obj: Any, name: str) -> Any:
    """Return an attribute that an object holds, shared with it.

    Raises
    ------
    AttributeError
        If it holds none of that name.
    """
    cls = type(obj)
    own = own_attributes(obj)
    if name in own:
        return own[name]
    if issubclass(cls, torch.nn.Module):
        for table in _TABLES:
            entries = own.get(table)
            if isinstance(entries, dict) and dict.__contains__(entries, name):
                return dict.__getitem__(entries, name)
    return held_slot(obj, name)


def held_slot(obj: Any, name: str) -> Any:
    """Return the value in a slot of an object, or a plain value of its class.

    Raises
    ------
    AttributeError
        If there is neither.
    """
    _, static = find_static(type(obj), name)
    if type(static) is types.MemberDescriptorType:
        return static.__get__(obj)
    if type(static) in PLAIN:
        return static
    raise AttributeError(f"this {type(obj).__qualname__} holds no {name!r}")


def code_behind(cls: Any, name: str) -> list[tuple[Any, str]]:
    """List the code that computes an attribute which objects do not hold, as (class, name).

    That is a property or another descriptor, and the class's own ``__getattr__`` and ``__getattribute__``. The list is
    empty where the class has neither, so that there is no such attribute.
    """
    found = []
    owner, static = find_static(cls, name)
    if owner is not None and type(static) not in (*PLAIN, types.MemberDescriptorType):
        found.append((owner, name))
    for hook in _HOOKS if owner is None else _HOOKS[:1]:
        owner, _ = find_static(cls, hook)
        if owner not in (None, object, torch.nn.Module) and owner.__module__ != "builtins":
            found.append((owner, hook))
    return found


def is_function_of(cls: Any, name: str) -> bool:
    """Whether an attribute is one of a class's own functions or classes."""
    _, static = find_static(cls, name)
    return isinstance(static, (staticmethod, classmethod, type)) or inspect.isroutine(static)


def method_of(cls: Any, name: str) -> types.FunctionType | None:
    """Return the function of a method of a class; None for special methods and others."""
    _, static = find_static(cls, name)
    return static if type(static) is types.FunctionType and not is_special(name) else None


def name_of_method(method: types.MethodType) -> str | None:
    """Return the name by which :func:`method_of` finds a bound method; None without one."""
    function, cls = method.__func__, type(method.__self__)
    names = [getattr(function, "__name__", ""), *(name for base in bases_of(cls) for name in names_of(base))]
    return next((name for name in names if method_of(cls, name) is function), None)


def held_item(container: Any, key: str) -> Any:
    """Return an item of a list, tuple, dict or module by the text of its key.

    Raises
    ------
    LookupError, ValueError
        If it holds no such item.
    """
    cls = type(container)
    if issubclass(cls, (list, tuple)):
        kind = list if issubclass(cls, list) else tuple
        return kind.__getitem__(container, int(key))
    if issubclass(cls, dict):
        if not dict.__contains__(container, key):
            keys: Iterator[Any] = iter(dict.keys(container))
            key = next((other for other in keys if type(other) in PLAIN and str(other) == key), key)
        if dict.__contains__(container, key):  # a defaultdict would make a missing one
            return dict.__getitem__(container, key)
    elif issubclass(cls, torch.nn.Module):
        return held_attribute(container, key)
    raise KeyError(key)


def held_items(container: Any) -> list[Any] | None:
    """Return the items of a list, tuple, set or deque, read by its base; None for others."""
    kind = next((kind for kind in _SEQUENCES if isinstance(container, kind)), None)
    return None if kind is None else list(kind.__iter__(container))


def held_pairs(container: Any) -> list[tuple[Any, Any]] | None:
    """Return the pairs of a dict or a mapping proxy; None for others, which may compute theirs."""
    if isinstance(container, dict):
        return list((OrderedDict if isinstance(container, OrderedDict) else dict).items(container))
    return list(container.items()) if type(container) is types.MappingProxyType else None


def held_values(container: Any) -> list[Any] | None:
    """Return the items of a sequence or set, or the values of a mapping; None for others."""
    pairs = held_pairs(container)
    return held_items(container) if pairs is None else [value for _, value in pairs]


def values_in(value: Any) -> Iterator[Any]:
    """Yield a value and the items of containers in it, at any depth; plain ones are left out."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if id(item) not in seen:
            seen.add(id(item))
            yield item
            waiting.extend([inner for inner in held_values(item) or () if type(inner) not in PLAIN])


def is_callable_value(value: Any) -> bool:
    """Whether a value is a function, a class, a module, a ``partial``, or a tuple with one.

    numpy's bit generators have a tuple of C functions as an attribute, which take any number as an address.
    """
    items = held_items(value) if issubclass(type(value), tuple) else None
    return _is_callable(value) if items is None else any(map(_is_callable, items or ()))


def _is_callable(value: Any) -> bool:
    cls: Any = type(value)  # isinstance would run a __class__ of the value
    if cls.__name__ == "PyCapsule" or any(path_of(base)[0] in ("_ctypes", "_cffi_backend") for base in bases_of(cls)):
        return True
    is_routine = issubclass(cls, _ROUTINES) or (has_static(cls, "__get__") and not has_static(cls, "__set__"))
    return is_routine or issubclass(cls, (type, types.ModuleType, functools.partial))


def own_attributes(obj: Any) -> dict[str, Any]:
    """Return an object's own ``__dict__``, shared; an empty one if it has none or computes it."""
    cls: Any = type(obj)
    getter = _getter_of(cls)
    own = None if getter is None else getter(obj)
    return own if type(own) is dict else {}


@functools.cache
def _getter_of(cls: Any) -> Any:
    """Return the C function that reads the ``__dict__`` of a class's objects; None without one."""
    _, static = find_static(cls, "__dict__")
    return static.__get__ if type(static) in _OF_SLOTS else None
