"""Classes made by running the source code in a save, for ``use_saved_source=True`` alone."""

from __future__ import annotations

import collections
import copy
import functools
import itertools
import linecache
import math
import sys
import typing
from collections.abc import Mapping
from typing import Any

import torch

from flambe_save.errors import LoadError, quote
from flambe_save.layout import CONFIG_FILE


def define_classes(sources: Mapping[str, str], known: Mapping[str, Any]) -> None:
    """Run class definitions, which register the classes for the rest of the process.

    A source is that of a class alone, without the imports of its module. It finds torch, ``nn``, ``F``, ``np`` where
    numpy is imported, the names of typing, collections, copy, functools, itertools, math, ``known``, and the other
    classes of the same module.

    Parameters
    ----------
    sources : mapping of str to str
        Dotted path -> source code.
    known : mapping of str to object
        More names that the sources may use.

    Raises
    ------
    LoadError
        If a definition raises; the message names what is missing.
    """
    common: dict[str, Any] = {name: getattr(typing, name) for name in typing.__all__}
    common.update((module.__name__, module) for module in (collections, copy, functools, itertools, math))
    common.update(known, torch=torch, nn=torch.nn, F=torch.nn.functional)
    if "numpy" in sys.modules:
        common.update(np=sys.modules["numpy"], numpy=sys.modules["numpy"])
    namespaces: dict[str, dict[str, Any]] = {}
    waiting = dict(sources)
    while waiting:  # a class may need another as its base, so one that fails is tried again after the rest
        errors: dict[str, Exception] = {}
        for path, source in waiting.items():
            module = path.rpartition(".")[0]
            namespace = namespaces.setdefault(module, {**common, "__name__": module})
            name = f"<saved source of {path}>"
            linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
            try:
                exec(compile(source, name, "exec"), namespace)
            except Exception as error:  # the code may raise anything
                errors[path] = error
        if len(errors) == len(waiting):
            path, first = next(iter(errors.items()))
            raise LoadError(
                f"the saved source of {quote(path)} cannot be run: {type(first).__name__}: {str(first)[:200]}",
                file=CONFIG_FILE,
                fix="Copy it into a module with the imports that it needs, and import that module first.",
            ) from first
        waiting = {path: waiting[path] for path in errors}
