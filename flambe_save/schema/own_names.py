"""Functions and classes that a config hands to an object, and that its own class could name.

A layer of a library often keeps one of the library's own functions, such as its activation. Its class's code could hand
itself the same, so a load hands it over without trust. Any other has to be trusted: to choose what an object calls is
to choose what it does.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Mapping
from typing import Any

import yaml as pyyaml

from flambe_save.classes.lookup import find_imported, names_in
from flambe_save.classes.well_known import KEEPERS
from flambe_save.config.dialect import CORE, children_of
from flambe_save.config.nodes import Document
from flambe_save.objects.assembly import PARTS
from flambe_save.objects.special import is_answered_by_type
from flambe_save.objects.structural import is_made_of_parts, is_sum_of_parts
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import TRANSPARENT

NAMING_TAGS = ("type", "function")  # hand a class or a function to an object by its name

# Packages with functions that may do anything
_WIDE = frozenset(("torch", "numpy", "dill", "flambe_save", *sys.stdlib_module_names)) - {"__main__"}


def own_names(document: Document, classes: Mapping[str, tuple[type, str | None]]) -> frozenset[int]:
    """Return the ids of nodes that name what the class of the object around them could name.

    ``classes`` has the classes and factories of the document's tags.
    """
    if not any(tag in document.tags for tag in NAMING_TAGS):
        return frozenset()
    found: dict[int, bool] = {}
    seen: set[tuple[int, Any, bool]] = set()
    waiting: list[tuple[Any, Any, bool]] = [(document.root, None, False)]
    while waiting:
        node, owner, is_handed = waiting.pop()
        if (id(node), owner, is_handed) in seen:
            continue
        seen.add((id(node), owner, is_handed))
        tag = node.tag.removeprefix("!")
        if tag in NAMING_TAGS:
            is_own = owner is not None and not is_handed and names_itself(owner, str(node.value))
            found[id(node)] = is_own and found.get(id(node), True)
            continue
        if tag in classes:
            cls, factory = classes[tag]
            if factory == PARTS or is_sum_of_parts(cls):
                owner = cls
            elif cls in KEEPERS or cls in TRANSPARENT or issubclass(cls, Reference):
                owner = None
            elif not is_made_of_parts(cls) or (cls is functools.partial and not _has_plain_arguments(node)):
                is_handed = True  # a constructor might call it, and a partial with arguments of the config's choice
        waiting += [(child, owner, is_handed) for child in children_of(node)]
    return frozenset(number for number, is_own in found.items() if is_own)


def _has_plain_arguments(node: Any) -> bool:
    """Whether a ``functools.partial`` fills in numbers and switches, no names of any kind."""
    pairs = node.value if isinstance(node, pyyaml.MappingNode) else ()
    waiting = [value for key, value in pairs if key.value != "func"]
    while waiting:
        value = waiting.pop()
        if value.tag.removeprefix(CORE) not in ("null", "bool", "int", "float", "seq", "map"):
            return False
        waiting += [item for _, item in value.value] if isinstance(value, pyyaml.MappingNode) else children_of(value)
    return True


@functools.lru_cache(maxsize=10_000)
def names_itself(owner: Any, path: str) -> bool:
    """Whether a class, or its module, has a function or class of its package by name."""
    value = find_imported(path)
    if not (is_answered_by_type(value) if isinstance(value, type) else isinstance(value, types.FunctionType)):
        return False
    name, package = value.__name__, str(value.__module__).partition(".")[0]
    for base in owner.__mro__:
        if base.__module__.partition(".")[0] != package or package in _WIDE:
            continue
        module = sys.modules.get(base.__module__)
        held = vars(base).get(name)
        held = held.__func__ if type(held) in (staticmethod, classmethod) else held
        if value is held or (module is not None and value is names_in(module).get(name)):
            return True
    return False
