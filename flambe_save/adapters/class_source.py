"""Find a class's source code, to read beside its weights; a save never fails for it."""

from __future__ import annotations

import ast
import inspect
import linecache
import types
import weakref

_cache: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def source_of(cls: type) -> str:
    """Return a class's source: from its file, dill or its notebook cell; else ``""``."""
    if cls not in _cache:
        _cache[cls] = ""
        for find in (inspect.getsource, _from_dill, _from_cell):
            try:
                source = find(cls)
            except Exception:  # where one finder fails, the next one may not
                continue
            if source:
                _cache[cls] = source
                break
    return _cache[cls]


def _from_dill(cls: type) -> str:
    import dill.source

    return str(dill.source.getsource(cls))


def _from_cell(cls: type) -> str:
    """Find a class in the text of its methods' files, which notebooks keep in linecache."""
    methods = (getattr(member, "__func__", member) for member in vars(cls).values())
    files = {method.__code__.co_filename for method in methods if isinstance(method, types.FunctionType)}
    for file in files:
        lines = linecache.getlines(file)
        for node in ast.walk(ast.parse("".join(lines))):
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                return "".join(lines[first - 1 : node.end_lineno])
    return ""
