"""What classes define that Python itself looks for: ``__del__``, ``__len__``, ``__reduce__`` and their like.

A load makes objects, fills them and puts them in their places. It calls nothing of them, so only what runs whatever is
done with an object needs trust (``runs_when_made``). What is called when an object is gone through, compared, copied
or computed with would run where a constructor does that: ``is_used_by_python`` tells of it.
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
from flambe_save.support.static import bases_of, is_descriptor, names_of, static_of

__all__ = [
    "OF_COPIES",
    "OF_PICKLES",
    "PASSIVE",
    "is_answered_by_type",
    "is_method",
    "is_used_by_python",
    "is_used_by_torch",
    "leaves_out",
    "own_bases",
    "runs_when_made",
    "says_its_class",
    "special_names",
]

# A class with one of these says itself how its objects are made again
OF_PICKLES = frozenset(("__reduce__", "__reduce_ex__"))
# And with these, what of an object is in a copy of it, and how that is filled
OF_COPIES = frozenset(("__getstate__", "__setstate__"))

# What a class may define whose objects only hold values: none of it is called when such an object is used
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
# And what the module enum gives to the classes of its members
_OF_ENUMS = PASSIVE | {
    *("__and__", "__bool__", "__contains__", "__dir__", "__format__", "__invert__", "__iter__", "__len__", "__or__"),
    *("__rand__", "__reduce_ex__", "__ror__", "__rxor__", "__xor__"),
}
# What attrs and pydantic note in a class
_OF_LIBRARIES = ("__attrs_", "__pydantic_", "__class_vars__", "__private_attributes__", "__signature__")
# What runs whatever is done with an object: when it is looked at, or goes
_ALWAYS = frozenset(("__del__", "__getattribute__", "__class__"))
# What is called of a module that somebody compares, keeps in a set or sets an attribute of
_OF_MODULES = frozenset(("__eq__", "__hash__", "__setattr__", "__delattr__"))

# What copy and pickle call, to make the object that they fill: that of a named tuple only makes a tuple
_OF_COPYING = frozenset(("__new__",))

# Methods that classes of models have, and that no constructor calls of what it is given
_OF_MODELS = frozenset(("forward", "extra_repr", "train", "eval", "dump_patches"))

_METACLASSES: tuple[Any, ...] = (type, abc.ABCMeta, enum.EnumMeta, type(torch.Tensor), type(nn.Parameter))
# What another metaclass may define: what is called when a class is made, called, changed, gone through or shown
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
    """Whether what is asked of a class is answered as ``type`` does it, and by no code of a metaclass."""
    kind: Any = type(cls)
    is_known = any(kind is known for known in _METACLASSES) or is_known_type(cls)
    return is_known or (type(kind) is type and _answers_as_type(kind))


@functools.cache
def _answers_as_type(kind: Any) -> bool:
    """Whether a metaclass leaves to ``type`` what is asked of its classes: their names, what they hash and equal."""
    others = [base for base in bases_of(kind) if base not in (*_METACLASSES, object)]
    return all(
        (name in _OF_METACLASSES or not (_is_special(name) or name in names_of(type)))
        and (type(value) in _PLAIN_METHODS or not is_descriptor(value))
        for base in others
        for name, value in names_of(base).items()
    )


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


@functools.cache
def special_names(cls: Any) -> frozenset[str]:
    """Return the names of what a class and its own bases define that Python itself may look for."""
    return frozenset(
        name
        for base in own_bases(cls)
        for name, value in names_of(base).items()
        if _is_special(name)
        and not is_written_for_it(value)
        and not (name == "__dict__" and _is_usual_dict(value, base))
        and getattr(value, "__module__", None) != "flambe_save.describing.recording"
    )


def _is_usual_dict(value: Any, base: type) -> bool:
    """Whether what gives the ``__dict__`` of objects is type's own; a copy of a class's names has that of the class."""
    return type(value) is types.GetSetDescriptorType and value.__objclass__ is base


def own_bases(cls: Any) -> list[Any]:
    """Return a class and its bases, without those of which it is known what they do when they are used."""
    return [base for base in bases_of(cls)[:-1] if not _is_known(base)]


def _is_known(base: Any) -> bool:
    library: Any = sys.modules.get("transformers.configuration_utils")
    if library is not None and base in library.PreTrainedConfig.__mro__[:-1]:
        return True
    is_hub = base.__module__ == "huggingface_hub.hub_mixin"  # its __new__ notes the constructor's arguments
    is_torch = base in (torch.Tensor, nn.Parameter)
    return is_hub or is_torch or is_known_base(base) or f"{base.__module__}.".startswith(_OURS)


def runs_when_made(cls: Any) -> bool:
    """Whether code of a class, or of its metaclass, may run whatever is done with its objects."""
    return not is_answered_by_type(cls) or _runs_always(cls)


def says_its_class(cls: Any) -> bool:
    """Whether code of a class runs when one of its objects is asked for its class, as lazy objects make theirs then."""
    return not is_answered_by_type(cls) or not special_names(cls).isdisjoint(("__class__", "__getattribute__"))


@functools.cache
def _runs_always(cls: Any) -> bool:
    names = special_names(cls)
    return not names.isdisjoint(_ALWAYS) or "__dict__" in names


@functools.cache
def is_used_by_python(cls: Any) -> bool:
    """Whether code of a class runs when its object is only handed to something, as to be copied or gone through."""
    names = {name for name in special_names(cls) if not name.startswith(_OF_LIBRARIES)}
    if issubclass(cls, nn.Module):
        return not names <= (PASSIVE - _OF_MODULES - _OF_COPYING) | {"__call__"}
    if issubclass(cls, enum.Enum):
        return not names <= _OF_ENUMS
    return not names <= (PASSIVE if is_named_tuple(cls) else PASSIVE - _OF_COPYING)


@functools.cache
def is_used_by_torch(cls: Any) -> bool:
    """Whether code of a class runs when a constructor of torch's is given its object, and asks that what it is.

    A property may stand where an attribute is, or the class goes through its modules in its own way. A constructor
    that is given a scheduler has it take its first step.
    """
    own = [(name, value) for base in own_bases(cls) for name, value in names_of(base).items() if not _is_special(name)]
    if issubclass(cls, LRScheduler):
        return bool(own_bases(cls))
    methods = vars(nn.Module).keys() - _OF_MODELS if issubclass(cls, nn.Module) else ()
    return any(
        name in methods or (is_descriptor(value) and type(value) not in (*_PLAIN_METHODS, types.MemberDescriptorType))
        for name, value in own
    )


def is_method(cls: Any, name: str) -> bool:
    """Whether a class has a method of a name, which an attribute of an object would replace."""
    return callable(static_of(cls, name))


def leaves_out(obj: Any) -> bool:
    """Whether the class of an object says itself what a copy holds, and that is not all that the object does."""
    cls: Any = type(obj)
    if "__getstate__" not in special_names(cls):
        return False
    own = {name: value for name, value in own_attributes(obj).items() if name not in left_out(cls)}
    try:
        state = obj.__getstate__()
        return type(state) is not dict or any(_is_missing(value, name, state) for name, value in own.items())
    except Exception:  # whatever its code raises
        return True


def _is_missing(value: Any, name: str, state: Mapping[str, Any]) -> bool:
    """Whether a copy does not hold an attribute as it is, or one that is equal; None is nothing to miss.

    Of a weak reference, which no pickle takes, it may hold the object.
    """
    other = state.get(name)
    value = value() if type(value) is weakref.ref and other is not value else value
    return value is not other and not (type(value) is type(other) and bool(value == other))
