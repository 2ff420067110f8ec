"""Containers and plain objects, which have no state of their own."""

from __future__ import annotations

import enum
import functools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from flambe_save.adapters.protocol import Child, ValueAdapter, adapter_for, holds_state
from flambe_save.config.scalars import PLAIN
from flambe_save.describing.describe import form_of, lost_of
from flambe_save.errors import LinkError, UnsupportedObjectError
from flambe_save.objects.assembly import attributes_of, can_be_assembled, put_attributes, put_in_table
from flambe_save.objects.attributes import held_items, held_pairs, own_attributes
from flambe_save.objects.fields import is_record
from flambe_save.objects.special import special_names
from flambe_save.objects.structural import is_made_of_parts, set_part
from flambe_save.schema.edited import check_nesting
from flambe_save.schema.link import BackLink
from flambe_save.schema.schema import Schema
from flambe_save.state import join_key, split_key
from flambe_save.support.static import static_of


class _Sequence(ValueAdapter):
    """Lists, tuples, named tuples and deques: items in order; types are exact."""

    is_everywhere = True
    has_own_children = True

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the items by index, or by a named tuple's fields; plain values are left out."""
        fields, items = static_of(type(obj), "_fields"), held_items(obj) or []
        names = fields if type(fields) is tuple and len(fields) == len(items) else map(str, range(len(items)))
        return (Child(name, item) for name, item in zip(names, items, strict=True) if type(item) not in PLAIN)


class _Mapping(ValueAdapter):
    """Dicts of any keys, ordered, default and counting ones."""

    is_everywhere = True
    has_own_children = True

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the values by their key as text; plain ones are left out."""
        pairs = held_pairs(obj) or []
        _check_no_state((key for key, _ in pairs), "a dict's keys")
        return (Child(join_key([str(key)]), item) for key, item in pairs if type(item) not in PLAIN)


class _Set(ValueAdapter):
    """Sets and frozensets of values."""

    is_everywhere = True

    def children(self, obj: Any) -> Iterable[Child]:
        """Return nothing: items that hold a state would have no name to find it by."""
        _check_no_state(held_items(obj) or (), "a set's items")
        return ()


class _Parts(ValueAdapter):
    """Objects that are the sum of their parts: a load runs no code of their classes.

    A record whose class does more, as one that can be indexed, is a plain object of its attributes.
    """

    def describe(self, obj: Any) -> Schema | None:
        """Return a Schema of the parts, or of the attributes of a record that has nothing else."""
        if not _is_more_than_parts(type(obj)):
            return super().describe(obj)
        found = form_of(obj)
        return None if found is None or lost_of(found) else found  # a pickle may hold what a Schema cannot

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the parts, or the attributes."""
        return OBJECT.children(obj) if _is_more_than_parts(type(obj)) else super().children(obj)


def _is_more_than_parts(cls: Any) -> bool:
    return is_record(cls) and not is_made_of_parts(cls) and can_be_assembled(cls) and not issubclass(cls, enum.Enum)


class _Object(ValueAdapter):
    """Plain objects of any class, by their attributes; those with a state are borrowed."""

    has_own_children = True

    def describe(self, obj: Any) -> Schema | None:
        """Return a Schema of the attributes."""
        return form_of(obj)

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the attributes that are more than plain values.

        They are loose if the object's class defines ``__getstate__``: the object may be a pickle, with copies of
        objects from elsewhere, and a load then looks only for those that the state has.
        """
        cls: Any = type(obj)
        may_be_pickled = "__getstate__" in special_names(cls)
        return (
            Child(join_key([name]), value, is_borrowed=holds_state(value), is_loose=may_be_pickled)
            for name, value in attributes_of(obj).items()
            if type(value) not in PLAIN
        )


def _check_no_state(items: Iterable[Any], what: str) -> None:
    for item in items:
        adapter = adapter_for(item) if type(item) not in PLAIN else None
        if adapter is not None and not isinstance(adapter, ValueAdapter):
            raise UnsupportedObjectError(
                f"a {type(item).__qualname__} is among {what}, where its state would have no name",
                fix="Keep it in a list, or as a value of a dict.",
            )


SEQUENCE = _Sequence()
MAPPING = _Mapping()
SET = _Set()
PARTS = _Parts()
OBJECT = _Object()


def close_cycles(root: Any, known: Iterable[BackLink] = ()) -> Any:
    """Replace links to containers and other objects by these; return the root.

    Parameters
    ----------
    root : object
    known : iterable of BackLink
        All links that must be found.

    Raises
    ------
    LinkError
        If a link leads to no container, or stands where none can be put.
    CompilationError
        If its target cannot be put there, or a module would be inside itself.
    """
    if isinstance(root, BackLink):
        raise LinkError(f"{root!r} stands in no container", fix="Correct the config.")
    links: list[tuple[Any, str, BackLink]] = []
    seen: set[int] = set()
    waiting: list[Any] = [root]
    while waiting:
        holder = waiting.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        items: Iterable[Any] = ()
        if isinstance(holder, (set, frozenset)):
            items = held_items(holder) or ()
        elif isinstance(holder, dict):
            items = (key for key, _ in held_pairs(holder) or ())
        if isinstance(holder, functools.partial):
            items = (*holder.args, *holder.keywords.values())
        if any(isinstance(item, BackLink) for item in items):
            raise LinkError(
                f"a link to a container is where a {type(holder).__name__} keeps it", fix="Correct the config."
            )
        for child in _values(holder):
            if isinstance(child.obj, BackLink):
                links.append((holder, child.name, child.obj))
            elif adapter_for(child.obj) is not None:
                waiting.append(child.obj)
    reached = {id(link.origin) for _, _, link in links}
    lost = next((link for link in known if id(link) not in reached), None)
    if lost is not None:
        raise LinkError(f"{lost!r} stands where no container can be put", fix="Correct the config.")
    found = _containers_at(root, {link.key for _, _, link in links})
    around: list[torch.nn.Module] = []
    for holder, key, link in links:
        if link.key not in found:
            raise LinkError(f"{link!r} leads to no container", fix="Correct the config.")
        (name,), value = split_key(key), link.made_of(found[link.key])
        if isinstance(holder, torch.nn.Module) and isinstance(holder._modules.get(name), BackLink):
            put_in_table(holder, "modules", {name: value})
            around.append(holder)
        else:
            _put(holder, name, value)
    check_nesting(*around)
    return root


def _containers_at(root: Any, keys: set[str]) -> dict[str, Any]:
    """Return the containers at some keys; nothing off the way to them is looked at."""
    found: dict[str, Any] = {}
    wanted: dict[str, Any] = {}  # a tree of the parts of keys; under "", which is not a part, the key that ends there
    for key in keys:
        branch = wanted
        for part in key.split(".") if key else ():
            branch = branch.setdefault(part, {})
        branch[""] = key
    waiting: list[tuple[Any, dict[str, Any]]] = [(root, wanted)]
    seen: dict[tuple[int, int], Any] = {}  # it keeps the holders alive, which adapters may make anew
    while waiting:
        holder, branch = waiting.pop()
        if (id(holder), id(branch)) in seen:
            continue
        seen[id(holder), id(branch)] = holder
        adapter = adapter_for(holder)
        if "" in branch and adapter is not None:
            found[branch[""]] = holder
        names = branch.keys() - {""}
        inside = {child.name: child.obj for child in _values(holder) if child.name in names}
        if adapter is not None and names - inside.keys():  # a part that has another name in keys, as peft's have
            inside |= {child.name: child.obj for child in adapter.children(holder) if child.name in names}
        waiting.extend((item, branch[name]) for name, item in inside.items())
    return found


def _values(holder: Any) -> Iterator[Child]:
    adapter = adapter_for(holder)
    if isinstance(adapter, ValueAdapter) and not isinstance(holder, torch.Tensor):
        yield from list(adapter.children(holder))
    elif adapter is not None and not isinstance(holder, type) and hasattr(holder, "__dict__"):
        own = own_attributes(holder)
        tables = (own.get(f"_{name}", {}) for name in ("modules", "parameters", "buffers"))
        inside = {name: value for table in (*tables, attributes_of(holder)) for name, value in table.items()}
        yield from [Child(join_key([name]), value) for name, value in inside.items() if type(value) not in PLAIN]


def _put(holder: Any, name: str, value: Any) -> None:
    """Put a value in the place of a link; no method of a derived class is called."""
    if isinstance(holder, (list, deque)):
        kind: Any = list if isinstance(holder, list) else deque
        kind.__setitem__(holder, int(name), value)
    elif isinstance(holder, dict):
        keys = (key for key, _ in held_pairs(holder) or ())
        dict.__setitem__(holder, next(key for key in keys if str(key) == name), value)
    elif isinstance(holder, tuple) or is_made_of_parts(type(holder)):
        set_part(holder, name, value)
    else:
        put_attributes(holder, {name: value})
