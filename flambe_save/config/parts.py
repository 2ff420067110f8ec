"""Objects that are the sum of their parts: taken apart, and put together again without running their classes' code.

Dataclasses, named tuples, members of enumerations, and the standard library's plain containers and numbers. A config
holds them as a class and its parts; a load needs no trust for them, only that their class is imported.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import re
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flambe_save.config.builders import builder_of
from flambe_save.errors import CompilationError
from flambe_save.sizes import MAX_HASHED, unfolded_size
from flambe_save.state import ordered

__all__ = ["from_parts", "is_made_of_parts", "maker_of", "parts_of"]

Parts = dict[str, Any]


class _Kind(NamedTuple):
    """How one class is taken apart, and put together again from parts whose names are checked."""

    take: Callable[[Any], Parts]
    make: Callable[..., Any]


def _hashable(items: Any) -> Any:
    """Refuse a key, or a set's item, that would take long to hash."""
    for item in items:
        if unfolded_size(item, MAX_HASHED) > MAX_HASHED:
            raise CompilationError(f"a key or a set's item of more than {MAX_HASHED} values")
    return items


def _mapping(items: Any) -> dict[Any, Any]:
    _hashable(key for key, _ in items)
    return {key: value for key, value in items}  # noqa: C416  (it also says no to pairs that are none)


def _items(value: Mapping[Any, Any]) -> list[list[Any]]:
    return [[key, item] for key, item in value.items()]


def _pattern(pattern: Any, flags: int) -> re.Pattern[Any]:
    return re.compile(pattern, flags)


_KINDS: dict[type, _Kind] = {
    dict: _Kind(lambda value: {"items": _items(value)}, lambda items: _mapping(items)),
    collections.OrderedDict: _Kind(
        lambda value: {"items": _items(value)}, lambda items: collections.OrderedDict(_mapping(items))
    ),
    collections.Counter: _Kind(
        lambda value: {"items": _items(value)}, lambda items: collections.Counter(_mapping(items))
    ),
    collections.defaultdict: _Kind(
        lambda value: {"default_factory": value.default_factory, "items": _items(value)},
        lambda default_factory, items: collections.defaultdict(default_factory, _mapping(items)),
    ),
    collections.deque: _Kind(
        lambda value: {"items": list(value), "maxlen": value.maxlen},
        lambda items, maxlen: collections.deque(items, maxlen),
    ),
    set: _Kind(lambda value: {"items": ordered(value)}, lambda items: set(_hashable(items))),
    frozenset: _Kind(lambda value: {"items": ordered(value)}, lambda items: frozenset(_hashable(items))),
    types.SimpleNamespace: _Kind(lambda value: dict(vars(value)), types.SimpleNamespace),
    types.MappingProxyType: _Kind(
        lambda value: {"items": _items(value)}, lambda items: types.MappingProxyType(_mapping(items))
    ),
    functools.partial: _Kind(
        lambda value: {"func": value.func, "args": list(value.args), "keywords": dict(value.keywords)},
        lambda func, args, keywords: functools.partial(func, *args, **keywords),
    ),
    datetime.timedelta: _Kind(
        lambda value: {"days": value.days, "seconds": value.seconds, "microseconds": value.microseconds},
        lambda days, seconds, microseconds: datetime.timedelta(days, seconds, microseconds),
    ),
    decimal.Decimal: _Kind(lambda value: {"value": str(value)}, lambda value: decimal.Decimal(str(value))),
    fractions.Fraction: _Kind(
        lambda value: {"numerator": value.numerator, "denominator": value.denominator},
        lambda numerator, denominator: fractions.Fraction(numerator, denominator),
    ),
    uuid.UUID: _Kind(lambda value: {"hex": value.hex}, lambda hex: uuid.UUID(hex=hex)),
    re.Pattern: _Kind(lambda value: {"pattern": value.pattern, "flags": value.flags}, _pattern),
}


@functools.cache
def is_made_of_parts(cls: Any) -> bool:
    """Whether objects of a class can be taken apart and put together without running its code."""
    if cls in _KINDS or issubclass(cls, enum.Enum) or _is_named_tuple(cls):
        return True
    if builder_of(cls) is not None:
        return False  # its adapter looks at the arguments, and calls the constructor
    return dataclasses.is_dataclass(cls) and cls.__new__ is object.__new__ and not hasattr(cls, "__del__")


def _is_named_tuple(cls: type) -> bool:
    """Whether a class was made by NamedTuple or namedtuple, which write its ``__new__``; subclasses have their own."""
    return cls.__bases__ == (tuple,) and isinstance(getattr(cls, "_fields", None), tuple) and "_make" in vars(cls)


def parts_of(obj: Any) -> Parts | None:
    """Return the parts of an object, shared with it, or None where it is more than their sum."""
    cls: Any = type(obj)
    if not is_made_of_parts(cls):
        return None
    if cls in _KINDS:
        if cls is functools.partial and vars(obj):
            return None  # attributes of its own
        return _KINDS[cls].take(obj)
    if isinstance(obj, enum.Enum):
        is_member = cls._member_map_.get(obj._name_ or "") is obj
        return {"name": obj._name_} if is_member else {"value": obj._value_}
    if isinstance(obj, tuple):
        return dict(zip(cls._fields, obj, strict=True))
    parts = {}
    for field in dataclasses.fields(obj):
        try:
            parts[field.name] = object.__getattribute__(obj, field.name)
        except AttributeError:
            continue  # a field that nobody has set
    # What it was given beyond its fields is part of it too
    return {**parts, **{name: value for name, value in getattr(obj, "__dict__", {}).items() if name not in parts}}


def from_parts(cls: type, parts: Mapping[str, Any]) -> Any:
    """Put an object together. Inverse of :func:`parts_of`; neither ``__init__`` nor ``__post_init__`` is run.

    A field that is new since has its default.

    Raises
    ------
    CompilationError
        If the parts are not those of the class.
    """
    try:
        if cls in _KINDS:
            return _KINDS[cls].make(**parts)
        if issubclass(cls, enum.Enum):
            return _member(cls, **parts)
        return _named_tuple(cls, parts) if issubclass(cls, tuple) else _dataclass(cls, parts)
    except CompilationError:
        raise
    except Exception as error:  # whatever parts of the wrong kinds make these raise
        raise CompilationError(
            f"{cls.__module__}.{cls.__qualname__} cannot be made of its parts {sorted(parts)}: {str(error)[:200]}",
            fix="The class may have changed since the config was written; edit one or the other.",
        ) from error


@functools.cache
def maker_of(cls: type) -> Callable[..., Any]:
    """Return :func:`from_parts` of one class, which takes the parts as keywords."""

    def make(**parts: Any) -> Any:
        return from_parts(cls, parts)

    return make


def _member(cls: type[enum.Enum], *, name: Any = None, value: Any = None) -> Any:
    if name is not None:
        return cls._member_map_[name]
    if not issubclass(cls, enum.Flag) or type(value) is not int:
        raise ValueError(f"{value!r} is no member")
    return cls(value)


def _named_tuple(cls: Any, parts: Mapping[str, Any]) -> Any:
    filled = {**cls._field_defaults, **parts}
    unknown = [name for name in filled if name not in cls._fields]
    if unknown:
        raise ValueError(f"it has no field {unknown[0]!r}")
    return tuple.__new__(cls, [filled[name] for name in cls._fields])


def _dataclass(cls: Any, parts: Mapping[str, Any]) -> Any:
    made = object.__new__(cls)
    values = dict(parts)
    for field in dataclasses.fields(cls):
        if field.name not in values and field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.name not in values and field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    for name, value in values.items():
        slot = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
        if isinstance(slot, types.MemberDescriptorType):
            slot.__set__(made, value)
        elif name.startswith("__") or not hasattr(made, "__dict__"):
            raise ValueError(f"it has no field {name!r}")
        else:
            made.__dict__[name] = value  # frozen or not, and no setter is run
    return made
