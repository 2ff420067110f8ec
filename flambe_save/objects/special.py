"""Special methods, which Python calls by itself: ``__del__``, ``__len__`` and others.

A load makes objects, fills them and puts them in their places. It calls none of their methods, so only those that run
in any case need trust (``runs_when_made``). A constructor may iterate, compare, copy or compute with an object that it
is given, and so run others (``is_used_by_python``).
"""

from __future__ import annotations

import abc
import enum
import functools
import sys
import types
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from flambe_save.objects.attributes import own_attributes
from flambe_save.objects.fields import is_known_base, is_known_type, is_named_tuple, is_written_for_it
from flambe_save.objects.refilled import left_out
from flambe_save.support.static import bases_of, is_descriptor, is_special, names_of, static_of

# A class with one of these makes its objects again by code of its own
OF_PICKLES = frozenset(("__reduce__", "__reduce_ex__"))
# And with one of these, it chooses the content of a copy, or fills it
OF_COPIES = frozenset(("__getstate__", "__setstate__"))

# Names that a class of plain values may define: Python calls none of them when such an object is used
PASSIVE = frozenset(
    [
        *("__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__"),
        *("__class_getitem__", "__constants__", "__jit_unused_properties__", "__slotnames__", "__type_params__"),
        *("__dataclass_fields__", "__dataclass_params__", "__delattr__", "__dict__", "__doc__", "__eq__"),
        *("__firstlineno__", "__ge__", "__getnewargs__", "__gt__", "__hash__", "__init__", "__init_subclass__"),
        *("__le__", "__lt__", "__match_args__", "__module__", "__ne__", "__new__", "__orig_bases__", "__parameters__"),
        *("__post_init__", "__qualname__", "__replace__", "__repr__", "__setattr__", "__slots__"),
        *("__static_attributes__", "__str__", "__weakref__", "__flambe_recorded__"),
    ]
)
# And those that the module enum adds to its classes
_OF_ENUMS = PASSIVE | {
    *("__and__", "__bool__", "__contains__", "__dir__", "__format__", "__invert__", "__iter__", "__len__", "__or__"),
    *("__rand__", "__reduce_ex__", "__ror__", "__rxor__", "__xor__"),
}
# Notes of attrs and pydantic in a class
_OF_LIBRARIES = ("__attrs_", "__pydantic_", "__class_vars__", "__private_attributes__", "__signature__")
# Methods that run in any case: when an object is looked at, or deleted
_ALWAYS = frozenset(("__del__", "__getattribute__", "__class__"))
# Methods that run when a module is compared, kept in a set, or gets an attribute
_OF_MODULES = frozenset(("__eq__", "__hash__", "__setattr__", "__delattr__"))

# copy and pickle call it to make the object that they fill; that of a named tuple only makes a tuple
_OF_COPYING = frozenset(("__new__",))

# Methods of models that no constructor calls on its arguments
_OF_MODELS = frozenset(("forward", "extra_repr", "train", "eval", "dump_patches"))

_METACLASSES: tuple[Any, ...] = (type, abc.ABCMeta, enum.EnumMeta, type(torch.Tensor), type(nn.Parameter))
# Methods that another metaclass may define: for making, calling, changing, iterating or showing a class
_OF_METACLASSES = frozenset(
    [
        *("__new__", "__init__", "__call__", "__prepare__", "__repr__", "__str__", "__dir__", "__setattr__"),
        *("__delattr__", "__or__", "__ror__", "__len__", "__iter__", "__contains__", "__getitem__", "__reversed__"),
        *("__doc__", "__module__", "__qualname__", "__slots__", "__static_attributes__", "__firstlineno__"),
        *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    ]
)
_PLAIN_METHODS = (types.FunctionType, staticmethod, classmethod)
_OURS = ("flambe_save.", "typing.", "builtins.", "enum.", "abc.", "torch._C.", "torch.nn.modules.", "torch.optim.")


def is_answered_by_type(cls: Any) -> bool:
    """Whether a class answers as ``type`` does, without code of a metaclass."""
    kind: Any = type(cls)
    is_known = any(kind is known for known in _METACLASSES) or is_known_type(cls)
    return is_known or (type(kind) is type and _answers_as_type(kind))


@functools.cache
def _answers_as_type(kind: Any) -> bool:
    """Whether a metaclass leaves the names, hashes and comparisons of its classes to ``type``."""
    others = [base for base in bases_of(kind) if base not in (*_METACLASSES, object)]
    return all(
        (name in _OF_METACLASSES or not (is_special(name) or name in names_of(type)))
        and (type(value) in _PLAIN_METHODS or not is_descriptor(value))
        for base in others
        for name, value in names_of(base).items()
    )


@functools.cache
def special_names(cls: Any) -> frozenset[str]:
    """Return the special names that a class and its own bases define, which Python may look up."""
    return frozenset(
        name
        for base in own_bases(cls)
        for name, value in names_of(base).items()
        if is_special(name)
        and not is_written_for_it(value)
        and not (name == "__dict__" and _is_usual_dict(value, base))
        and getattr(value, "__module__", None) != "flambe_save.describing.recording"
    )


def _is_usual_dict(value: Any, base: type) -> bool:
    """Whether a class's descriptor of ``__dict__`` is type's own, made for the class."""
    return type(value) is types.GetSetDescriptorType and value.__objclass__ is base


def own_bases(cls: Any) -> list[Any]:
    """Return a class and its bases, without those whose behaviour is known."""
    return [base for base in bases_of(cls)[:-1] if not _is_known(base)]


def _is_known(base: Any) -> bool:
    library: Any = sys.modules.get("transformers.configuration_utils")
    if library is not None and base in library.PreTrainedConfig.__mro__[:-1]:
        return True
    is_hub = base.__module__ == "huggingface_hub.hub_mixin"  # its __new__ notes the constructor's arguments
    is_torch = base in (torch.Tensor, nn.Parameter)
    return is_hub or is_torch or is_known_base(base) or f"{base.__module__}.".startswith(_OURS)


def runs_when_made(cls: Any) -> bool:
    """Whether code of a class or its metaclass runs even if its objects are only made."""
    return not is_answered_by_type(cls) or _runs_always(cls)


def says_its_class(cls: Any) -> bool:
    """Whether reading the ``__class__`` of an object runs its code, as lazy objects do."""
    return not is_answered_by_type(cls) or not special_names(cls).isdisjoint(("__class__", "__getattribute__"))


@functools.cache
def _runs_always(cls: Any) -> bool:
    names = special_names(cls)
    return not names.isdisjoint(_ALWAYS) or "__dict__" in names


@functools.cache
def is_used_by_python(cls: Any) -> bool:
    """Whether code of a class may run when a function copies, compares or iterates its object."""
    names = {name for name in special_names(cls) if not name.startswith(_OF_LIBRARIES)}
    if issubclass(cls, nn.Module):
        return not names <= (PASSIVE - _OF_MODULES - _OF_COPYING) | {"__call__"}
    if issubclass(cls, enum.Enum):
        return not names <= _OF_ENUMS
    return not names <= (PASSIVE if is_named_tuple(cls) else PASSIVE - _OF_COPYING)


@functools.cache
def is_used_by_torch(cls: Any) -> bool:
    """Whether code of a class may run when a constructor of torch's gets its object.

    A property may replace an attribute, or the class may iterate over its modules in its own way. A constructor that
    takes a scheduler has it take its first step.
    """
    own = [(name, value) for base in own_bases(cls) for name, value in names_of(base).items() if not is_special(name)]
    if issubclass(cls, LRScheduler):
        return bool(own_bases(cls))
    methods = vars(nn.Module).keys() - _OF_MODELS if issubclass(cls, nn.Module) else ()
    return any(
        name in methods or (is_descriptor(value) and type(value) not in (*_PLAIN_METHODS, types.MemberDescriptorType))
        for name, value in own
    )


def is_method(cls: Any, name: str) -> bool:
    """Whether a class has a method of a name, which an object's attribute would replace."""
    return callable(static_of(cls, name))


def leaves_out(obj: Any) -> bool:
    """Whether the ``__getstate__`` of an object leaves out some of its attributes."""
    cls: Any = type(obj)
    if "__getstate__" not in special_names(cls):
        return False
    own = {name: value for name, value in own_attributes(obj).items() if name not in left_out(cls)}
    try:
        state = obj.__getstate__()
        return type(state) is not dict or any(_is_missing(value, name, state) for name, value in own.items())
    except Exception:  # from its own code
        return True


def _is_missing(value: Any, name: str, state: Mapping[str, Any]) -> bool:
    """Whether a copy lacks an attribute, or has a value that is not equal; None may be missing.

    In place of a weak reference, which no pickle takes, it may hold the object.
    """
    other = state.get(name)
    value = value() if type(value) is weakref.ref and other is not value else value
    return value is not other and not (type(value) is type(other) and bool(value == other))
