"""Static look-up in classes: no metaclass, descriptor or other object in them is called."""

from __future__ import annotations

from typing import Any

# As inspect.getattr_static reads them: a metaclass may have attributes of these names
bases_of: Any = vars(type)["__mro__"].__get__
names_of: Any = vars(type)["__dict__"].__get__
_NOTHING = object()
_module_of: Any = vars(type)["__module__"].__get__
_name_of: Any = vars(type)["__qualname__"].__get__


def find_static(cls: Any, name: str) -> tuple[Any, Any]:
    """Return the class that defines a name and its unbound value; else None and a placeholder."""
    for base in bases_of(cls):
        names = names_of(base)
        if name in names:
            return base, names[name]
    return None, _NOTHING


def static_of(cls: Any, name: str) -> Any:
    """Return the value that a class, or a base of it, has under a name; None without one."""
    owner, value = find_static(cls, name)
    return None if owner is None else value


def has_static(cls: Any, name: str) -> bool:
    """Whether a class, or a base of it, has a name."""
    return any(name in names_of(base) for base in bases_of(cls))


def is_descriptor(value: Any) -> bool:
    """Whether code of a value runs when the value is looked up on its class or on an object."""
    cls: Any = type(value)
    return has_static(cls, "__get__") or has_static(cls, "__set__")


def is_special(name: str) -> bool:
    """Whether Python looks up a name by itself: ``__len__``."""
    return name.startswith("__") and name.endswith("__")


def path_of(cls: Any) -> tuple[Any, str]:
    """Return the module that a class names as its own, most often a text, and its name there."""
    return _module_of(cls), _name_of(cls)
