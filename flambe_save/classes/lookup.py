"""Definitions of imported modules by dotted path; finding one runs no code.

tags.py looks here for classes without a tag. :func:`is_harmless` says which of them a load may use without trust.
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

from flambe_save.support.script import name_of_script
from flambe_save.support.static import names_of, path_of

# A module's names without a call of its __getattribute__, in which a lazy module imports itself
names_in: Any = vars(types.ModuleType)["__dict__"].__get__
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

    What a module imports from elsewhere is not found: trust in a module is trust in what it defines.
    """
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        module = sys.modules.get(name)
        if module is None and name == name_of_script():
            module = sys.modules["__main__"]
        if not issubclass(type(module), types.ModuleType):
            continue
        # No getattr: on a module it may import, and on a class it may run code
        found: Any = None
        names = names_in(module)
        for part in parts[count:]:
            found = names.get(part)
            names = names_of(found) if issubclass(type(found), type) else {}
        found = found.__func__ if type(found) in (staticmethod, classmethod) else found
        is_one = issubclass(type(found), (type, types.FunctionType, types.BuiltinFunctionType))
        return found if is_one and path in (_own_path(found), _torch_path(found), _written_path(found)) else None
    return None


def import_path(value: type | types.FunctionType | types.BuiltinFunctionType) -> str | None:
    """Return the dotted path by which :func:`find_imported` finds a class or function, or None."""
    for path in (_torch_path(value), _own_path(value)):
        if path is not None and find_imported(path) is value:
            return path
    return None


def _own_path(value: Any) -> str | None:
    path = _written_path(value)
    script = name_of_script() if path is not None and path.startswith("__main__.") else None
    return path if path is None or script is None else script + path.removeprefix("__main__")


def _written_path(value: Any) -> str | None:
    """Return the dotted path that a class or a function itself gives."""
    module, name = path_of(value) if issubclass(type(value), type) else (value.__module__, value.__qualname__)
    return f"{module}.{name}" if type(module) is str and type(name) is str else None


def _torch_path(value: Any) -> str | None:
    """Return the path of one of torch's own functions, which do not say where they are."""
    return _torch_functions().get(value) if type(value) is types.BuiltinFunctionType else None


@functools.cache
def _torch_functions() -> dict[Any, str]:
    found = {vars(torch)[name]: f"torch.{name}" for name in _MATH}
    inside = {value: name for name, value in vars(torch._C._nn).items() if not name.startswith("_")}
    for name, value in vars(functional).items():
        if isinstance(value, types.BuiltinFunctionType) and value in inside:
            found[value] = f"torch.nn.functional.{name}"
    return found


def is_harmless(value: Any) -> bool:
    """Whether calling a class or function does nothing but compute a value."""
    if value is typing.Any:
        return True
    if issubclass(type(value), type):
        return type(value) is type and (value in _PLAIN_TYPES or _is_number_of_numpy(value))
    if type(value) is types.FunctionType:
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
