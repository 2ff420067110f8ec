"""What imported modules define, by dotted path: found without importing or running anything.

registrable.py looks here for classes that no tag knows; which of them a load may use without trust is said here too.
"""

from __future__ import annotations

import functools
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional, init

from flambe_save.script import name_of_script

__all__ = ["find_imported", "import_path", "is_harmless", "is_harmless_path"]

_PLAIN_TYPES = (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)
_MATH = (
    *("abs", "acos", "asin", "atan", "ceil", "clamp", "cos", "cosh", "erf", "exp", "floor", "log", "log10", "log1p"),
    *("log2", "log_softmax", "max", "mean", "min", "neg", "pow", "prelu", "relu", "round", "rsqrt", "selu", "sigmoid"),
    *("sign", "sin", "sinh", "softmax", "sqrt", "square", "sum", "tan", "tanh"),
)
# Modules of torch whose functions only compute, and which of these
_HARMLESS: dict[str, Callable[[str], bool]] = {
    functional.__name__: lambda name: True,
    init.__name__: lambda name: name.endswith("_"),
    "torch.utils.data._utils.collate": lambda name: name in ("default_collate", "default_convert"),
}


def find_imported(path: str) -> Any:
    """Return the class or function that an imported module defines under a dotted path, or None.

    What a module only imports from elsewhere is not found: whoever trusts a module trusts what it defines.
    """
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        module = sys.modules.get(name)
        if module is None and name == name_of_script():
            module = sys.modules["__main__"]
        if not isinstance(module, types.ModuleType):
            continue
        found: Any = module
        for part in parts[count:]:
            inside = found is module or isinstance(found, type)
            found = vars(found).get(part) if inside else None  # not getattr, which may import, or run a property
        found = getattr(found, "__func__", found) if isinstance(found, (staticmethod, classmethod)) else found
        is_its_own = isinstance(found, (type, types.FunctionType, types.BuiltinFunctionType)) and path in (
            _own_path(found),
            _torch_path(found),
            f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', None)}",
        )
        return found if is_its_own else None
    return None


def import_path(value: type | types.FunctionType | types.BuiltinFunctionType) -> str | None:
    """Return the dotted path by which :func:`find_imported` finds a class or a function; None where it does not."""
    for path in (_torch_path(value), _own_path(value)):
        if path is not None and find_imported(path) is value:
            return path
    return None


def _own_path(value: Any) -> str | None:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module == "__main__":
        module = name_of_script() or module
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else None


def _torch_path(value: Any) -> str | None:
    """Return the path of one of torch's own functions, which do not say where they are."""
    if isinstance(value, types.BuiltinFunctionType):
        return _torch_functions().get(value)
    return None


@functools.cache
def _torch_functions() -> dict[Any, str]:
    found = {vars(torch)[name]: f"torch.{name}" for name in _MATH}
    inside = {value: name for name, value in vars(torch._C._nn).items() if not name.startswith("_")}
    for name, value in vars(functional).items():
        if isinstance(value, types.BuiltinFunctionType) and value in inside:
            found[value] = f"torch.nn.functional.{name}"
    return found


def is_harmless(value: Any) -> bool:
    """Whether whoever is handed this class or function can do nothing but compute with it."""
    if isinstance(value, type):
        return value in _PLAIN_TYPES or value is typing.Any or _is_number_of_numpy(value)
    if isinstance(value, types.FunctionType):
        module, name = value.__module__, value.__name__
        is_harmless_there = _HARMLESS.get(module)
        is_public = is_harmless_there is not None and is_harmless_there(name) and not name.startswith("_")
        return is_public and vars(sys.modules[module]).get(name) is value
    return isinstance(value, types.BuiltinFunctionType) and value in _torch_functions()


def _is_number_of_numpy(cls: type) -> bool:
    """Whether a class is one of numpy's own kinds of numbers."""
    numpy: Any = sys.modules.get("numpy")
    kinds = () if numpy is None else (numpy.number, numpy.bool_)
    return cls.__module__ == "numpy" and issubclass(cls, kinds) and vars(numpy).get(cls.__name__) is cls


def is_harmless_path(path: str) -> bool:
    """Whether a dotted path names a class or function that :func:`is_harmless`."""
    return is_harmless(find_imported(path))
