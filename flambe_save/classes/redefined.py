"""Classes that were defined again, as by running a cell twice, while old objects are there."""

from __future__ import annotations

import functools
import types
from typing import Any

from flambe_save.classes.lookup import find_imported
from flambe_save.config.scalars import PLAIN
from flambe_save.errors import UnsupportedObjectError, quote_some

# Attributes in which Python keeps notes about a class
_NOTES = frozenset(
    (
        *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__slotnames__", "__annotations__"),
        *("__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl", "__match_args__"),
        *("__dataclass_fields__", "__dataclass_params__", "__annotations_cache__", "__annotate_func__"),
        "__signature__",
        *("__hash__", "__parameters__", "__orig_bases__", "_member_map_", "_value2member_map_", "__class_getitem__"),
    )
)
_OF_CODE = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_flags", "co_argcount")
_MOST = 64


def newer_class(cls: Any) -> type | None:
    """Return the class that now has a class's name, if that is another one."""
    found = find_imported(f"{cls.__module__}.{cls.__qualname__}")
    return found if isinstance(found, type) and found is not cls else None


def present_class(cls: type) -> type:
    """Return the class that now has a class's name, or the class itself if they differ."""
    found = newer_class(cls)
    return cls if found is None or differences(cls, found) else found


def check_definition(value: Any, name: str) -> None:
    """Refuse an object whose class was defined again and differs: a pickle holds the old code.

    Raises
    ------
    UnsupportedObjectError
    """
    cls: Any = type(value)
    newer = newer_class(cls)
    says_how = any("__reduce__" in vars(base) or "__reduce_ex__" in vars(base) for base in cls.__mro__[:-1])
    if newer is not None and not says_how:  # else the pickle need not name the class
        path = f"{newer.__module__}.{newer.__qualname__}"
        raise UnsupportedObjectError(
            f"{name} is of an older definition of {path}: the class was defined again since, and differs in "
            f"{quote_some(differences(cls, newer)) or 'its text'}",
            fix=f"Make the object anew, or say that it is one of the new class: obj.__class__ = {path}.",
        )


@functools.lru_cache(_MOST)
def differences(old: Any, new: Any) -> tuple[str, ...]:
    """Return the names that two definitions of a class define differently.

    Functions are compared by their code, because the text of a cell is gone when it is run again.
    """
    if type(old) is not type(new) or len(old.__bases__) != len(new.__bases__):
        return ("its bases",)
    for one, other in zip(old.__bases__, new.__bases__, strict=True):
        if not _is_same_class(one, other):
            return ("its bases",)
    mine, yours = ({name: value for name, value in vars(cls).items() if name not in _NOTES} for cls in (old, new))
    names = [*mine, *(name for name in yours if name not in mine)]
    return tuple(
        name for name in names if name not in mine or name not in yours or not _alike(mine[name], yours[name], old, new)
    )


def _is_same_class(one: Any, other: Any) -> bool:
    is_named_alike = (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
    return one is other or (is_named_alike and not differences(one, other))


def _alike(one: Any, other: Any, old: Any, new: Any) -> bool:
    """Whether two members say the same; those of the classes themselves stand for each other."""
    one, other = _unwrapped(one), _unwrapped(other)
    if one is other or (one is old and other is new):
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, types.FunctionType):
        parts = ((item.__defaults__, item.__kwdefaults__, _closure(item)) for item in (one, other))
        return _same_code(one.__code__, other.__code__) and _alike(next(parts), next(parts), old, new)
    if isinstance(one, property):
        return all(_alike(getattr(one, part), getattr(other, part), old, new) for part in ("fget", "fset", "fdel"))
    if isinstance(one, (classmethod, staticmethod)):
        return _alike(one.__func__, other.__func__, old, new)
    if isinstance(one, functools.cached_property):
        return _alike(one.func, other.func, old, new)
    if isinstance(one, types.MemberDescriptorType):
        return bool(one.__name__ == other.__name__)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(_alike(a, b, old, new) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key], old, new) for key in one)
    if isinstance(one, type):
        return _is_same_class(one, other)
    return (type(one) in PLAIN or isinstance(one, (set, frozenset))) and bool(one == other)


def _unwrapped(member: Any) -> Any:
    """Return a constructor without the wrapper that notes its calls (recording.py)."""
    while isinstance(member, types.FunctionType) and hasattr(member, "__wrapped__") and "_flambe_notes" in vars(member):
        member = member.__wrapped__
    return member


def _closure(function: types.FunctionType) -> tuple[Any, ...]:
    try:
        return tuple(cell.cell_contents for cell in function.__closure__ or ())
    except ValueError:  # a cell that is empty
        return (object(),)


def _same_code(one: types.CodeType, other: types.CodeType) -> bool:
    if any(getattr(one, name) != getattr(other, name) for name in _OF_CODE):
        return False
    if len(one.co_consts) != len(other.co_consts):
        return False
    return all(
        _same_code(mine, yours)
        if isinstance(mine, types.CodeType) and isinstance(yours, types.CodeType)
        else (type(mine), repr(mine)) == (type(yours), repr(yours))
        for mine, yours in zip(one.co_consts, other.co_consts, strict=True)
    )
