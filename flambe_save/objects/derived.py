"""Objects of classes derived from Python's own types: ``class Settings(dict)``.

Such an object is its items or value, as the base reads them, and the attributes set on it. Taking it apart and making
it again calls methods of the base alone, even where the class overrides them.
"""

from __future__ import annotations

import enum
import functools
import sys
import types
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from flambe_save.errors import CompilationError, shown
from flambe_save.objects.attributes import held_items, held_pairs, own_attributes
from flambe_save.objects.fields import is_named_tuple, is_record
from flambe_save.objects.special import OF_PICKLES, is_method, leaves_out, own_bases, runs_when_made
from flambe_save.state import ordered
from flambe_save.support.notes import is_note
from flambe_save.support.sizes import MAX_HASHED, parts_in, unfolded_size
from flambe_save.trust import trust_in_force

_MAPPINGS = (OrderedDict, dict)
_SEQUENCES = (list, tuple, set, frozenset)
_SCALARS = (str, bytes, int, float)
_BASES: tuple[Any, ...] = (*_MAPPINGS, *_SEQUENCES, *_SCALARS)
# Methods that Python calls of a key, and that names of values under it need
_OF_KEYS = ("__hash__", "__eq__", "__str__", "__repr__")


@functools.cache
def _simplest(base: Any) -> type:
    """Return an empty class derived from a base: objects of others that are larger keep more."""
    return type("Simplest", (base,), {})


def _layout(cls: Any) -> tuple[int, ...]:
    return cls.__basicsize__, cls.__itemsize__, cls.__dictoffset__, cls.__weakrefoffset__


@functools.cache
def base_of_derived(cls: Any) -> Any:
    """Return the type of Python that a class derives from and only adds attributes to.

    None for any other class.
    """
    base = next((base for base in _BASES if base in cls.__mro__), None)
    if (
        base is None
        or cls in _BASES
        or is_named_tuple(cls)
        or cls.__module__.partition(".")[0] in sys.stdlib_module_names
    ):
        return None
    if _layout(cls) not in (_layout(base), _layout(_simplest(base))) or runs_when_made(cls):
        return None
    says = any(name in vars(own) for own in own_bases(cls) if own not in _BASES for name in OF_PICKLES)
    return None if says else base


def is_derived(cls: Any) -> bool:
    """Whether a class has a base by :func:`base_of_derived`."""
    return base_of_derived(cls) is not None


def hashable(items: Any) -> list[Any]:
    """Return keys, or a set's items, if no slow or untrusted code hashes or shows them.

    Items of tuples, fields of records and targets of weak references are hashed too.

    Raises
    ------
    CompilationError
        If one is too large, or its class hashes or shows it by code that is not trusted.
    """
    listed = [*items]
    for item in listed:
        if unfolded_size(item, MAX_HASHED) > MAX_HASHED:
            raise CompilationError(f"a key or a set's item of more than {MAX_HASHED} values")
        for kind in {type(part) for part in parts_in(item)}:
            cls: Any = kind
            path = f"{cls.__module__}.{cls.__qualname__}"
            if _hashes_itself(cls) and not trust_in_force().allows(path):
                raise CompilationError(
                    f"a {path} is a key, or a set's item, which its class hashes, compares or shows itself",
                    fix=f"If you know who wrote it: load(..., trusted=[{path!r}]).",
                )
    return listed


@functools.cache
def _hashes_itself(cls: Any) -> bool:
    """Whether code of a class runs for a key; that of records and enumerations may."""
    if is_record(cls) or issubclass(cls, enum.Enum):
        return False
    known = ("torch", *sys.stdlib_module_names)
    own = [vars(base) for base in own_bases(cls) if base.__module__.partition(".")[0] not in known]
    found = (names.get(name) for names in own for name in _OF_KEYS)
    return any(type(value) not in (types.WrapperDescriptorType, types.NoneType) for value in found)


def mapping_of(items: Any) -> dict[Any, Any]:
    """Return a dict of a list of pairs.

    Raises
    ------
    CompilationError
        As :func:`hashable`.
    TypeError, ValueError
        If these are not pairs, or a key comes twice.
    """
    if type(items) is not list or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in items):
        raise ValueError("its items are not a list of pairs")
    hashable(key for key, _ in items)
    found = {key: value for key, value in items}  # noqa: C416  (it names the two)
    if len(found) != len(items):
        raise ValueError("a key comes twice")
    return found


def set_attributes(obj: Any, values: Any) -> None:
    """Set attributes of a container, a text or a number, without setters of its class.

    Raises
    ------
    ValueError
        If one has the name of a method of the class, or one that Python looks up.
    """
    if type(values) is not dict:
        raise ValueError("its attributes are not a mapping")
    for name, value in values.items():
        if type(name) is not str or name.startswith("__") or is_method(type(obj), name):
            raise ValueError(f"the attribute {shown(name)} cannot be set on it")
        own_attributes(obj)[name] = value


def take_derived(obj: Any) -> dict[str, Any] | None:
    """Return the parts of an object, shared with it; None if its copies leave some out."""
    if leaves_out(obj):
        return None
    cls: Any = type(obj)
    base = base_of_derived(cls)
    parts: dict[str, Any]
    if base in _MAPPINGS:
        parts = {"items": [[key, value] for key, value in held_pairs(obj) or ()]}
    elif base in _SEQUENCES:
        items = held_items(obj) or []
        parts = {"values": ordered(items) if base in (set, frozenset) else items}
    elif base in (str, bytes):
        parts = {"value": base.__getitem__(obj, slice(None))}
    else:
        parts = {"value": base.__int__(obj) if base is int else base.__float__(obj)}
    own = {name: value for name, value in own_attributes(obj).items() if not is_note(name)}
    if any(name.startswith("__") or is_method(cls, name) for name in own):
        return None
    return {**parts, **({"attributes": own} if own else {})}


def make_derived(cls: Any, parts: Mapping[str, Any]) -> Any:
    """Make an object of its parts. Inverse of :func:`take_derived`.

    Raises
    ------
    ValueError
        If they are not those of the class.
    """
    base: Any = base_of_derived(cls)
    name = "items" if base in _MAPPINGS else "values" if base in _SEQUENCES else "value"
    if parts.keys() - {"attributes"} != {name} or type(parts[name]) is not (base if name == "value" else list):
        raise ValueError(f"it is made of {name}, and attributes")
    content = parts[name]
    if base in (tuple, frozenset, *_SCALARS):
        made = base.__new__(cls, hashable(content) if base is frozenset else content)
    else:
        made = base.__new__(cls)
    if base in _MAPPINGS:
        for key, value in mapping_of(content).items():
            base.__setitem__(made, key, value)
    elif base is list:
        list.extend(made, content)
    elif base is set:
        set.update(made, hashable(content))
    set_attributes(made, parts.get("attributes", {}))
    return made
