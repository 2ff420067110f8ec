"""Stale references: attributes that a call sets to parts which changes then replace.

A load runs the call and then puts changed parts in their places. Attributes set by the call would still refer to the
parts before, so a config has to list them as changes too.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from flambe_save.config.scalars import PLAIN
from flambe_save.describing.prints import Print
from flambe_save.objects.assembly import attributes_of, can_be_assembled
from flambe_save.objects.attributes import held_values
from flambe_save.objects.structural import parts_of
from flambe_save.objects.walks import modules_in, named_tensors
from flambe_save.support.notes import marks_of

_TENSORS = ("parameters", "buffers")
_MOST = 100_000  # values behind an attribute that are visited


def add_stale(
    tables: dict[str, dict[str, Any]],
    objects: Mapping[str, tuple[Any, Print]],
    kept: dict[int, tuple[str, str]],
    apart_from: Container[str] = (),
) -> None:
    """Add attributes, and tensors with attributes, that refer to changed parts to the changes.

    Parameters
    ----------
    tables : dict of str to dict
        As :class:`Changes` has them; changed in place.
    objects : mapping of str to (object, Print)
        By their paths, the objects that a call makes, and their prints.
    kept : dict of int to (str, str)
        As :class:`Changes` has it; changed in place.
    apart_from : container of str
        The names of attributes that are not compared.
    """
    changed = _changed(tables, kept)
    if not changed:
        return
    marked = [(path, *each) for path, (obj, before) in objects.items() for each in _marked(obj, before)]
    is_done = not marked
    while not is_done:  # each tensor added is one more that others may refer to
        is_done, search = True, _Search(changed, kept)
        for path, table, name, tensor in marked:
            if id(tensor) in kept and search.finds([*marks_of(tensor).values()]):
                tables.setdefault(path, {}).setdefault(table, {})[name] = tensor
                changed.add(id(tensor))
                del kept[id(tensor)]
                is_done = False
    search = _Search(changed, kept)
    for path, (obj, before) in objects.items():
        for name, value in attributes_of(obj).items():
            is_made = hasattr(before.attributes.get(name), "is_same")  # neither a plain value nor an argument
            is_listed = name in tables.get(path, {}).get("attributes", ()) or name in apart_from
            if is_made and not is_listed and search.finds([value]):
                tables.setdefault(path, {}).setdefault("attributes", {})[name] = value


def _changed(tables: Mapping[str, Mapping[str, Any]], kept: Container[int]) -> set[int]:
    """Return the ids of modules and tensors that replace others."""
    found: set[int] = set()
    for change in tables.values():
        for module in change.get("modules", {}).values():
            if module is not None:
                found.update(id(inner) for _, inner in modules_in(module))
                found.update(id(tensor) for _, tensor in named_tensors(module))
        for table in _TENSORS:
            found.update(map(id, change.get(table, {}).values()))
    return {number for number in found - {id(None)} if number not in kept}


def _marked(obj: Any, before: Print) -> Iterator[tuple[str, str, Any]]:
    """Yield (table, name, tensor) for tensors with attributes that a module was made with."""
    if not isinstance(obj, nn.Module):
        return
    for table in _TENSORS:
        for name, tensor in obj.__dict__[f"_{table}"].items():
            if tensor is not None and tensor.__dict__ and name in getattr(before, table):
                yield table, name, tensor


class _Search:
    """A search for changed objects behind values; it skips kept ones, and visits each once."""

    def __init__(self, changed: Container[int], kept: Container[int]) -> None:
        self._changed, self._kept = changed, kept
        self._others: dict[int, Any] = {}  # by their ids, objects without changed ones behind them

    def finds(self, values: list[Any]) -> bool:
        """Whether values are, hold or refer to changed objects."""
        waiting, seen = [*values], dict[int, Any]()
        while waiting and len(seen) < _MOST:
            item = waiting.pop()
            if type(item) in PLAIN or id(item) in seen or id(item) in self._others:
                continue
            if id(item) in self._changed:
                return True
            seen[id(item)] = item
            if id(item) not in self._kept:
                waiting.extend(_behind(item))
        self._others.update(seen)
        return False


def _behind(item: Any) -> list[Any]:
    values = held_values(item)
    if values is not None:
        return values
    if isinstance(item, torch.Tensor):
        return [*marks_of(item).values()]
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, nn.Module):
        own = item.__dict__
        return [*own["_modules"].values(), *own["_parameters"].values(), *attributes_of(item).values()]
    cls: Any = type(item)
    return [*(attributes_of(item) if can_be_assembled(cls) else parts_of(item) or {}).values()]
