"""The source code of a class, for people to read beside its weights. Looking for it never makes a save fail."""

from __future__ import annotations

import ast
import inspect
import linecache
import types
import weakref
from collections.abc import Callable

__all__ = ["source_of"]

_cache: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def source_of(cls: type) -> str:
    """Return a class's source: from its file, dill's memory of the session, or its notebook cell; else ``""``."""
    if cls not in _cache:
        _cache[cls] = ""
        for find in (inspect.getsource, _from_dill, _from_cell):
            try:
                source = find(cls)
            except Exception:  # whatever a finder trips over, the next one may not
                continue
            if source:
                _cache[cls] = source
                break
    return _cache[cls]


def _from_dill(cls: type) -> str:
    import dill.source

    return str(dill.source.getsource(cls))


def _from_cell(cls: type) -> str:
    """Find a class in the text that its methods were compiled from, as notebooks keep it in linecache."""
    files = {
        method.__code__.co_filename
        for method in map(_function, vars(cls).values())
        if isinstance(method, types.FunctionType)
    }
    for file in files:
        lines = linecache.getlines(file)
        for node in ast.walk(ast.parse("".join(lines))):
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                return "".join(lines[first - 1 : node.end_lineno])
    return ""


def _function(member: object) -> object | Callable[..., object]:
    return getattr(member, "__func__", member)
