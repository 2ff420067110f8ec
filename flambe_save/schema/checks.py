"""Checks of built arguments: refuses what a class would call, or work on for too long.

Their values are counted, so that a few aliases cannot stand for billions.
"""

from __future__ import annotations

import functools
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from flambe_save.classes.lookup import is_harmless
from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.errors import CompilationError, LimitError, shown
from flambe_save.objects.arguments import CONTAINERS
from flambe_save.objects.optimizers import TRAINING
from flambe_save.objects.structural import POINTERS
from flambe_save.objects.walks import modules_in
from flambe_save.schema.schema import WITHOUT_PARTS
from flambe_save.trust import trust_in_force

_MOST_SEEDS = 10_000  # numbers in a seed
_MOST_REPEATED = 1_000_000  # values that arguments may hold beyond those of the config


def check_callables(cls: type, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that an optimizer or scheduler would call, or call methods of.

    These are methods, modules other than torch's own, which only compute, and objects of other libraries, also where a
    partial fills them in.
    """
    for item in _items_in(arguments, (list, tuple)) if issubclass(cls, TRAINING) else ():
        if not _may_be_called(item):
            raise CompilationError(f"a {cls.__name__} takes no {type(item).__qualname__}", fix="Correct the config.")


def check_functions(arguments: Mapping[str, Any]) -> None:
    """Refuse methods, weak references and functions among a constructor's arguments.

    Functions that only compute, or that are trusted, are allowed.
    """
    for item in _items_in(arguments, CONTAINERS):
        cls: Any = type(item)
        path = f"{item.__module__}.{item.__qualname__}" if cls is types.FunctionType else ""
        if cls in POINTERS or (path and not (is_harmless(item) or trust_in_force().allows(path))):
            raise CompilationError(
                f"a {path or cls.__qualname__} is an argument of a constructor", fix="Correct the config."
            )


def _items_in(arguments: Mapping[str, Any], containers: tuple[type, ...]) -> Iterator[Any]:
    """Yield arguments and items of containers and partials in them, but plain values."""
    waiting, seen = [*arguments.values()], set()
    while waiting:
        item = waiting.pop()
        if type(item) in WITHOUT_PARTS or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if type(item) is functools.partial:
            waiting.extend((item.func, *item.args, *item.keywords.values()))
        elif type(item) in containers:
            waiting.extend([*item, *item.values()] if isinstance(item, dict) else item)


def _may_be_called(item: Any) -> bool:
    cls: Any = type(item)
    if isinstance(item, torch.nn.Module):
        return all(type(inner).__module__.startswith("torch.nn.modules.") for _, inner in modules_in(item))
    if isinstance(item, (torch.Tensor, *TRAINING)) or cls in TAGS:
        return True
    is_known = cls.__module__.partition(".")[0] in ("torch", "numpy", *sys.stdlib_module_names)
    return cls is not types.MethodType and (is_known or trust_in_force().allows(dotted_path(cls)))


def _check_seeds(cls: type, arguments: Mapping[str, Any]) -> None:
    """Refuse seeds that take a generator long to read: ranges in lists, very long lists."""
    if not cls.__module__.startswith(("numpy.random", "random")):
        return
    waiting, count = [*arguments.values()], 0
    while waiting:
        item = waiting.pop()
        count += 1
        if type(item) in (list, tuple):
            count += len(item)
            waiting.extend(item if count <= _MOST_SEEDS else ())
        elif type(item) is range:
            count += len(item)
    if count > _MOST_SEEDS:
        raise CompilationError(f"a seed of more than {_MOST_SEEDS} numbers", fix="Correct the config.")


def check_names(cls: type, arguments: dict[str, Any]) -> None:
    """Refuse names of parameters that would replace a module's own attributes and methods."""
    names = arguments.get("parameters") if issubclass(cls, torch.nn.ParameterDict) else None
    if names is None:
        return
    taken = {*dir(torch.nn.ParameterDict), *vars(torch.nn.ParameterDict())}
    pairs = names if isinstance(names, Mapping) else [pair[0] for pair in names if isinstance(pair, (list, tuple))]
    for name in pairs:
        if type(name) is not str or name in taken or name.startswith("__"):
            raise CompilationError(f"{shown(name)} is not a name of a parameter", fix="Correct the config.")
    if type(names) is dict:
        arguments["parameters"] = OrderedDict(names)  # torch sorts a plain dict


class Counts:
    """Counts of values in the arguments of one load; a fully trusted load counts none."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._is_on = trust_in_force().weights_only
        self._counted = 0
        self._sizes: dict[int, int] = {}  # of built containers
        self._unfolded: dict[int, int] = {}  # the same, with what is in the objects in them
        self._objects: dict[int, int] = {}  # how many values each built object stands for
        self._made: dict[int, Any] = {}  # containers that Schemas have built

    def add(self, cls: type, arguments: Mapping[str, Any]) -> int:
        """Count a class's arguments; return the number of values in them and in their objects.

        Raises
        ------
        LimitError
            If they are far more than the config itself has, because links, aliases and ranges repeat them. A class
            that the program has registered may be given ranges of any number.
        """
        if not self._is_on:
            return 1
        parts = [value for value in arguments.values() if type(value) not in WITHOUT_PARTS]
        whole = 1 + len(arguments) - len(parts)
        self._counted += whole
        for value in parts:
            own = len(value) if type(value) is range and cls not in TAGS else 0
            self._counted += own + self._size_of(value, self._sizes, {})
            whole += self._size_of(value, self._unfolded, self._objects)
        most = max(self._counted, whole)
        if most > max(_MOST_REPEATED, 4 * self._size):
            raise LimitError(
                f"the config gives {most:,} values to what it builds, and has {self._size:,}",
                fix="Look at its links, aliases and ranges. If you know who wrote it: load(..., weights_only=False).",
            )
        if parts:
            _check_seeds(cls, arguments)
        return whole

    def note(self, instance: Any, whole: int) -> None:
        """Note a built object, and how many values it stands for."""
        if type(instance) in CONTAINERS:
            self._made[id(instance)] = instance
        self._objects[id(instance)] = whole

    def _size_of(self, value: Any, sizes: dict[int, int], objects: dict[int, int]) -> int:
        """Return the number of values in a container, those in several places counted in each.

        A built object counts as ``objects`` says, or as one. ``sizes`` keeps the sizes of containers.
        """

        def is_open(item: Any) -> bool:
            return type(item) in CONTAINERS and id(item) not in self._made

        def of_object(item: Any) -> int:
            return 1 if type(item) in WITHOUT_PARTS else objects.get(id(item), 1)

        waiting = [value] if is_open(value) else []
        while waiting:
            container = waiting[-1]
            items = [*container, *container.values()] if isinstance(container, dict) else [*container]
            unknown = [item for item in items if is_open(item) and id(item) not in sizes]
            if unknown and id(container) not in sizes:
                waiting.extend(unknown)
                continue
            sizes[id(container)] = 1 + sum(sizes[id(item)] if is_open(item) else of_object(item) for item in items)
            waiting.pop()
        return sizes[id(value)] if is_open(value) else of_object(value)
