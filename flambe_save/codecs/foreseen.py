"""Foresee, without running anything, whether trust in the names of a pickle is enough.

unpickler.py asks this in an audit, where placeholders stand for the named objects. A save does not try its pickles:
making an object again may open a file, and so empty it.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from typing import Any

from flambe_save.support.static import find_static, path_of, static_of

_OF_MODULES: Any = vars(types.ModuleType)["__dict__"].__get__
_TAKES_MORE = 0x04  # a code's flag for *arguments

# Functions that make an object of the class that they are given, or of their own library
_MAKERS = ("copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__", "builtins.iter")
_MAKERS_IN = ("numpy.random._pickle.",)


def find_named(module: str, name: str) -> Any:
    """Find a name in an imported module; None if it is not there.

    Nothing is imported, and no code of a module, metaclass or descriptor runs.
    """
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        if isinstance(found, types.ModuleType):
            found = _OF_MODULES(found).get(part)
        elif isinstance(found, type):
            found = static_of(found, part)
        else:
            return None
    return found


def home_of(found: Any) -> str | None:
    """The dotted name of a class or function where it is defined; None for other values."""
    if isinstance(found, type):
        module, name = path_of(found)
    elif isinstance(found, (types.FunctionType, types.BuiltinFunctionType)):
        module, name = found.__module__, found.__qualname__
    else:
        return None
    return f"{module}.{name}" if isinstance(module, str) else None


def is_class_name(dotted: str, found: Any) -> bool:
    """Whether a name is that of a class; if it was not found, by its capital letter."""
    if found is not None:
        return isinstance(found, type)
    return dotted.rpartition(".")[2].lstrip("_")[:1].isupper()


def makes_its_own(function: str, classes: Sequence[str]) -> bool:
    """Whether a function is known to make objects of its own library, which pickles may fill.

    Parameters
    ----------
    function : str
        Its dotted name.
    classes : sequence of str
        Dotted names of the classes among its arguments.
    """
    if function in _MAKERS or function.startswith(_MAKERS_IN):
        return True
    package = function.partition(".")[0]
    return any(name.partition(".")[0] == package for name in classes)


def cannot_take(found: Any, arguments: Sequence[Any]) -> str | None:
    """The reason why a class does not take so many arguments; None if it may take them."""
    if not isinstance(found, type) or type(found) is not type:
        return None
    for name in ("__new__", "__init__"):
        _, function = find_static(found, name)
        if isinstance(function, staticmethod):
            function = function.__func__
        if isinstance(function, types.FunctionType) and not _takes(function, 1 + len(arguments)):
            return f"{found.__qualname__}.{name} does not take {len(arguments)} arguments"
    defined = [find_static(found, name)[0] is not object for name in ("__new__", "__init__")]
    if arguments and not any(defined):
        return f"{found.__qualname__}() takes no arguments"
    return None


def _takes(function: types.FunctionType, count: int) -> bool:
    code = function.__code__
    most = sys.maxsize if code.co_flags & _TAKES_MORE else code.co_argcount
    least = code.co_argcount - len(function.__defaults__ or ())
    return least <= count <= most and len(function.__kwdefaults__ or ()) >= code.co_kwonlyargcount
