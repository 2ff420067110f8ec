"""Values taken apart into fields and made of them again, without code of their class.

Dataclasses, named tuples, members of enumerations, the standard library's plain containers and numbers, bound
methods and weak references. A config holds a class and its parts; a load needs no trust for them, only their class
imported.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import functools
import inspect
import re
import types
import uuid
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flambe_save.errors import CompilationError, shown
from flambe_save.objects.attributes import held_items, held_slot, method_of, name_of_method, own_attributes
from flambe_save.objects.builders import builder_of
from flambe_save.objects.derived import hashable, is_derived, make_derived, mapping_of, set_attributes, take_derived
from flambe_save.objects.fields import NO_DEFAULT, Field, fields_of, is_named_tuple, is_record
from flambe_save.objects.special import is_used_by_python, leaves_out, own_bases, runs_when_made
from flambe_save.state import ordered
from flambe_save.support.notes import is_note
from flambe_save.support.static import has_static, static_of

Parts = dict[str, Any]

_MAX_PATTERN = 1000


class _Kind(NamedTuple):
    """The functions that take one class apart and make it again of parts with checked names."""

    take: Callable[[Any], Parts]
    make: Callable[..., Any]


def _items(value: Mapping[Any, Any]) -> list[list[Any]]:
    return [[key, item] for key, item in value.items()]


def _take_mapping(value: Any) -> Parts:
    """Return the items and attributes of a mapping: a ``state_dict`` has ``_metadata``."""
    own = {name: held for name, held in vars(value).items() if not is_note(name)}
    return {"items": _items(value), **({"attributes": own} if own else {})}


def _make_mapping(kind: Any, items: Any, attributes: Any = None) -> Any:
    made = kind(mapping_of(items))
    set_attributes(made, attributes or {})
    return made


def _exactly(value: Any, *kinds: type) -> Any:
    """Return a value of one of the types; refuse others, even derived ones, which may run code."""
    if type(value) not in kinds:
        raise ValueError(f"expected {kinds[0].__name__}, not {type(value).__qualname__}")
    return value


def _is_function(value: Any) -> bool:
    return isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, functools.partial))


def _function(value: Any) -> Any:
    """Return a function or class, named by ``!type`` or ``!function``; refuse other callables."""
    if not _is_function(value):
        raise ValueError(f"a {type(value).__qualname__} is neither a function nor a class")
    return value


def _namespace(cls: Any, parts: Parts) -> Any:
    special = [name for name in parts if name.startswith("__")]
    if special:  # copy and pickle look these up on the object
        raise ValueError(f"{special[0]!r} is not an attribute of a namespace")
    return cls(**parts)


def _method(object: Any, name: Any) -> types.MethodType:
    """Bind a method of an object's class without calling code or reading the object."""
    function = method_of(type(object), name) if type(name) is str and not isinstance(object, type) else None
    if function is None:
        raise ValueError(f"a {type(object).__qualname__} has no method {shown(name)[:80]} that a config may name")
    return types.MethodType(function, object)


class _Gone:
    """The deleted target of a weak reference."""


def _weak(object: Any) -> weakref.ref[Any]:
    return weakref.ref(_Gone() if object is None else object)


def _pattern(pattern: Any, flags: int) -> re.Pattern[Any]:
    if len(pattern) > _MAX_PATTERN:
        raise ValueError(f"a pattern of more than {_MAX_PATTERN} characters takes long to compile")
    return re.compile(pattern, flags)


_KINDS: dict[type, _Kind] = {
    dict: _Kind(lambda value: {"items": _items(value)}, lambda items: mapping_of(items)),
    collections.OrderedDict: _Kind(_take_mapping, functools.partial(_make_mapping, collections.OrderedDict)),
    collections.Counter: _Kind(_take_mapping, functools.partial(_make_mapping, collections.Counter)),
    collections.defaultdict: _Kind(
        lambda value: {"default_factory": value.default_factory, "items": _items(value)},
        lambda default_factory, items: collections.defaultdict(
            default_factory if default_factory is None else _function(default_factory), mapping_of(items)
        ),
    ),
    collections.deque: _Kind(
        lambda value: {"items": list(value), "maxlen": value.maxlen},
        lambda items, maxlen: collections.deque(_exactly(items, list), _exactly(maxlen, int, type(None))),
    ),
    set: _Kind(lambda value: {"items": ordered(value)}, lambda items: set(hashable(_exactly(items, list)))),
    frozenset: _Kind(lambda value: {"items": ordered(value)}, lambda items: frozenset(hashable(_exactly(items, list)))),
    types.SimpleNamespace: _Kind(
        lambda value: dict(vars(value)), lambda **parts: _namespace(types.SimpleNamespace, parts)
    ),
    argparse.Namespace: _Kind(lambda value: dict(vars(value)), lambda **parts: _namespace(argparse.Namespace, parts)),
    types.MappingProxyType: _Kind(
        lambda value: {"items": _items(value)}, lambda items: types.MappingProxyType(mapping_of(items))
    ),
    functools.partial: _Kind(
        lambda value: {"func": value.func, "args": list(value.args), "keywords": dict(value.keywords)},
        lambda func, args, keywords: functools.partial(
            _function(func), *_exactly(args, list), **_exactly(keywords, dict)
        ),
    ),
    datetime.timedelta: _Kind(
        lambda value: {"days": value.days, "seconds": value.seconds, "microseconds": value.microseconds},
        lambda days, seconds, microseconds: datetime.timedelta(days, seconds, microseconds),
    ),
    decimal.Decimal: _Kind(lambda value: {"value": str(value)}, lambda value: decimal.Decimal(str(value))),
    fractions.Fraction: _Kind(
        lambda value: {"numerator": value.numerator, "denominator": value.denominator},
        lambda numerator, denominator: fractions.Fraction(_exactly(numerator, int), _exactly(denominator, int)),
    ),
    uuid.UUID: _Kind(lambda value: {"hex": value.hex}, lambda hex: uuid.UUID(hex=hex)),
    re.Pattern: _Kind(lambda value: {"pattern": value.pattern, "flags": value.flags}, _pattern),
    types.MethodType: _Kind(lambda value: {"object": value.__self__, "name": name_of_method(value)}, _method),
    weakref.ref: _Kind(lambda value: {"object": value()}, _weak),
}
_OF_SCALARS = frozenset((datetime.timedelta, decimal.Decimal, fractions.Fraction, uuid.UUID, re.Pattern))
# Those that only refer to an object, their part "object", which is elsewhere
POINTERS = frozenset((types.MethodType, weakref.ref))


def is_made_of_parts(cls: Any) -> bool:
    """Whether objects of a class can be taken apart and put together without running its code.

    Not cached: an adapter may be registered for the class at any time.
    """
    if cls in _KINDS:
        return True
    return is_sum_of_parts(cls) and builder_of(cls) is None  # a Builder checks arguments, and calls constructors


@functools.cache
def is_sum_of_parts(cls: Any) -> bool:
    """Whether objects of a class are fields, items or members alone; Builders do not count."""
    if runs_when_made(cls) or has_static(cls, "__flambe_adapter__"):
        return False
    if issubclass(cls, enum.Enum):  # a metaclass may look up a combination of flags by its own code
        is_usual = type(cls) is enum.EnumMeta or not issubclass(cls, enum.Flag)
        return is_usual and not any("_missing_" in vars(base) for base in own_bases(cls))
    if is_named_tuple(cls) or is_derived(cls):
        return True
    # A config of transformers has a __getattribute__ of its own: its adapter builds it, or sets its attributes
    is_plain = static_of(cls, "__getattribute__") is object.__getattribute__
    return is_plain and is_record(cls) and not is_used_by_python(cls)


def parts_of(obj: Any) -> Parts | None:
    """Return the parts of an object, shared with it; None if it is more than these."""
    cls: Any = type(obj)
    if not is_made_of_parts(cls):
        return None
    if cls in _KINDS:
        if cls is functools.partial and (vars(obj) or not _is_function(obj.func)):
            return None  # attributes of its own, or an object that is called
        if cls is re.Pattern and len(obj.pattern) > _MAX_PATTERN:
            return None
        if cls is types.MethodType and name_of_method(obj) is None:
            return None
        if cls is weakref.ref and obj.__callback__ is not None:
            return None
        return _KINDS[cls].take(obj)
    if isinstance(obj, enum.Enum):
        is_member = cls._member_map_.get(obj._name_ or "") is obj
        return {"name": obj._name_} if is_member else {"value": obj._value_}
    if is_derived(cls):
        return take_derived(obj)
    if isinstance(obj, tuple):
        return dict(zip(cls._fields, held_items(obj) or (), strict=True))
    if leaves_out(obj):
        return None
    parts, own = {}, own_attributes(obj)
    for field in fields_of(cls):
        if field.name not in own and _is_in_class(cls, field):
            continue
        try:
            parts[field.name] = own[field.name] if field.name in own else held_slot(obj, field.name)
        except AttributeError:
            continue  # a field that is not set, or that a property computes
    # Attributes beyond its fields are parts too
    others = {name: value for name, value in own.items() if name not in parts}
    return {**parts, **{name: value for name, value in others.items() if not is_note(name)}}


def _is_in_class(cls: Any, field: Field) -> bool:
    """Whether an object without a field of its own has the default from the class."""
    return inspect.getattr_static(cls, field.name, NO_DEFAULT) is field.default is not NO_DEFAULT


def from_parts(cls: type, /, **parts: Any) -> Any:
    """Make an object of its parts without ``__init__``. Inverse of :func:`parts_of`.

    A field that is missing in the parts has its default.

    Raises
    ------
    CompilationError
        If the parts are not those of the class.
    """
    try:
        if cls in _OF_SCALARS and not all(type(part) in (int, float, str, bytes) for part in parts.values()):
            raise ValueError("its parts are texts and numbers")  # others convert themselves by their own code
        if cls in _KINDS:
            return _KINDS[cls].make(**parts)
        if issubclass(cls, enum.Enum):
            return _member(cls, **parts)
        if is_derived(cls):
            return make_derived(cls, parts)
        return _named_tuple(cls, parts) if issubclass(cls, tuple) else _dataclass(cls, parts)
    except CompilationError:
        raise
    except Exception as error:  # parts of wrong kinds may raise anything
        raise CompilationError(
            f"{cls.__module__}.{cls.__qualname__} cannot be made of its parts {sorted(parts)}: {str(error)[:200]}",
            fix="The class may have changed since the config was written; edit one or the other.",
        ) from error


@functools.cache
def maker_of(cls: type) -> Callable[..., Any]:
    """Return :func:`from_parts` of one class."""
    return functools.partial(from_parts, cls)


def _member(cls: type[enum.Enum], *, name: Any = None, value: Any = None) -> Any:
    if type(name) is str:
        return cls._member_map_[name]
    # Members of another type are made by code of the class
    is_plain = static_of(cls, "_member_type_") in (object, int)
    if not issubclass(cls, enum.Flag) or type(value) is not int or not is_plain:
        raise ValueError(f"{shown(value)[:80]} is not a member")
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
    for field in fields_of(cls):
        if field.name not in values and (type(field.default) is property or _is_in_class(cls, field)):
            continue  # the class has it in place of the field
        if field.name not in values and field.default is not NO_DEFAULT:
            values[field.name] = field.default
        elif field.name not in values and any(field.factory is kind for kind in (list, dict, set, tuple)):
            values[field.name] = field.factory()
        elif field.name not in values and field.factory is not None:
            raise ValueError(f"its field {field.name!r} is new, and only code of the class makes its default")
    for name, value in values.items():
        set_part(made, name, value)
    return made


def set_part(obj: Any, name: str, value: Any) -> None:
    """Set an attribute of an object made of parts, frozen or not, without a setter of its class.

    Raises
    ------
    CompilationError
        If it can have none of that name.
    """
    slot = next((vars(base)[name] for base in type(obj).__mro__ if name in vars(base)), None)
    if isinstance(slot, types.MemberDescriptorType):
        slot.__set__(obj, value)
    elif name.startswith("__") or not hasattr(obj, "__dict__"):
        raise CompilationError(
            f"a {type(obj).__qualname__} has no field {name!r}",
            fix="The class may have changed since the config was written; edit one or the other.",
        )
    else:
        obj.__dict__[name] = value
