"""Load a save in a fresh process, and compare the object with it; fresh.py starts it."""

from __future__ import annotations

import ast
import contextlib
import importlib
import itertools
import json
import os
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from flambe_save.adapters import get_state
from flambe_save.api import load, load_state_from_file
from flambe_save.codecs.data import same_bits
from flambe_save.errors import FlambeSaveError, quote
from flambe_save.layout import CLASS_KEY, CONFIG_KEY, MODES_KEY, VERSION_KEY
from flambe_save.state import State

_MOST = 20  # differences that are listed


def main() -> None:
    """Read a question from standard input, and write the differences to standard output."""
    asked = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # modules that print do not spoil the answer
    sys.path[:] = asked["sys_path"]
    with warnings.catch_warnings(), answer:
        warnings.simplefilter("ignore")
        json.dump(_problems(asked), answer)


def _problems(asked: Mapping[str, Any]) -> list[str]:
    try:
        for name in asked["modules"]:
            importlib.import_module(name)
        if asked["script"] is not None:
            _define(asked["script"], asked["name"])
    except Exception as error:  # of any kind that a module raises
        return [f"its classes cannot be imported: {type(error).__name__}: {error}"]
    try:
        return differences(asked["path"], asked["arguments"])
    except FlambeSaveError as error:
        return [str(error)]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def _define(script: str, name: str) -> None:
    """Make a module of a script's definitions; its other lines, maybe hours of work, do not run."""
    with open(script, encoding="utf-8") as file:
        tree = ast.parse(file.read(), script)
    defining = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    kept = [item for item in tree.body if isinstance(item, defining) or _is_constant(item)]
    module = types.ModuleType(name)
    module.__file__ = script
    sys.modules[name] = module
    for item in kept:
        with contextlib.suppress(NameError):  # a definition that needs results of the script
            exec(compile(ast.Module([item], []), script, "exec"), vars(module))


def _is_constant(item: ast.stmt) -> bool:
    """Whether a statement assigns a value, and calls nothing but functions that make types."""
    if not isinstance(item, (ast.Assign, ast.AnnAssign)):
        return False
    calls = (node for node in ast.walk(item) if isinstance(node, ast.Call))
    names = (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "") for node in calls)
    return all(
        name in ("namedtuple", "NamedTuple", "TypeVar", "NewType", "Path", "frozenset", "range") for name in names
    )


def differences(path: str, arguments: Mapping[str, Any]) -> list[str]:
    """Load a save and compare the object with it: components, tensors to the bit, plain values.

    Parameters
    ----------
    path : str
    arguments : mapping
        Arguments of the load: the trust that it needs.
    """
    saved = load_state_from_file(path, "cpu", **arguments)
    now = get_state(load(path, "cpu", **arguments))
    found = list(itertools.islice(_differences(saved, now), _MOST + 1))
    return [*found[:_MOST], "and more"] if len(found) > _MOST else found


def _differences(saved: State, now: State) -> Iterator[str]:
    for prefix in sorted({*saved.components, *now.components}):
        one, other = (state._metadata.get(prefix) for state in (saved, now))
        if one is None or other is None:
            yield f"node {quote(prefix)} is {'missing from the loaded object' if other is None else 'new in it'}"
            continue
        for key in (CLASS_KEY, VERSION_KEY, MODES_KEY):
            if one.get(key) != other.get(key):
                yield f"node {quote(prefix)}: {quote(one.get(key))} was saved, and {quote(other.get(key))} loaded"
        configs = one.get(CONFIG_KEY, ""), other.get(CONFIG_KEY, "")
        if configs[0] != configs[1]:
            yield f"node {quote(prefix)} has another config: {_first(*configs)}"
    for key in dict.fromkeys([*saved, *now]):
        if key not in now or key not in saved:
            yield f"{quote(key)} is {'missing from the loaded object' if key not in now else 'new in it'}"
        elif not _is_same(saved[key], now[key]):
            yield f"{quote(key)} is {_shown(now[key])} in the loaded object, and {_shown(saved[key])} in the save"


def _first(one: str, other: str) -> str:
    """Return the first lines of two texts that differ."""
    lines = [*one.splitlines(), ""], [*other.splitlines(), ""]
    pair = next((pair for pair in zip(*lines, strict=False) if pair[0] != pair[1]), ("", ""))
    return f"{quote(pair[0].strip())} was saved, and {quote(pair[1].strip())} loaded"


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {value.dtype} tensor of {tuple(value.shape)}"
    return quote(repr(value))


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values of a state are equal: tensors and arrays to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return same_bits(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if hasattr(one, "tobytes") and hasattr(one, "dtype"):  # an array
        return (one.shape, one.dtype, one.tobytes()) == (other.shape, other.dtype, other.tobytes())
    if one is other or repr(one) == repr(other):
        return True
    try:
        return bool(one == other) or (bool(vars(one)) and _is_same(vars(one), vars(other)))
    except Exception:  # no attributes, or a comparison of its own that fails
        return False
