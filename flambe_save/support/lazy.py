"""Names of a package that are imported when they are first asked for (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package, which imports its names at their first use.

    Parameters
    ----------
    package : str
        ``__name__`` of the package.
    places : mapping of str to str
        The names of each module, with spaces between them; a name may be a module inside it.
    """
    modules = {name: module for module, names in places.items() for name in names.split()}

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])
        module = importlib.import_module(modules[name])
        found = getattr(module, name, None) or importlib.import_module(f"{module.__name__}.{name}")
        vars(sys.modules[package])[name] = found
        return found

    return find
