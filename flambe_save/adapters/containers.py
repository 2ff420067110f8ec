"""Lists, tuples, dicts and what is like them: they hold no state of their own, but what is inside may."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from flambe_save.adapters.protocol import Child, ValueAdapter, adapter_for
from flambe_save.config.link import BackLink
from flambe_save.errors import LinkError, UnsupportedObjectError
from flambe_save.state import join_key

__all__ = ["MAPPING", "PARTS", "SEQUENCE", "SET", "close_cycles"]


class _Sequence(ValueAdapter):
    """Lists, tuples, named tuples and deques: items in order; types are exact."""

    is_everywhere = True

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the items by their index, or by the fields of a named tuple."""
        fields = getattr(type(obj), "_fields", None)
        names = fields if isinstance(fields, tuple) else map(str, range(len(obj)))
        return (Child(name, item) for name, item in zip(names, obj, strict=True))


class _Mapping(ValueAdapter):
    """Dicts of any keys, ordered, default and counting ones."""

    is_everywhere = True

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the values by their key as text."""
        _check_nameless(obj, "a dict's keys")
        return (Child(join_key([str(key)]), item) for key, item in obj.items())


class _Set(ValueAdapter):
    """Sets and frozensets of values."""

    is_everywhere = True

    def children(self, obj: Any) -> Iterable[Child]:
        """Return nothing: items that hold a state would have no name to find it by."""
        _check_nameless(obj, "a set's items")
        return ()


class _Parts(ValueAdapter):
    """Objects that are the sum of their parts: neither constructor nor ``__post_init__`` is run by a load."""


def _check_nameless(items: Iterable[Any], what: str) -> None:
    for item in items:
        adapter = adapter_for(item)
        if adapter is not None and not isinstance(adapter, ValueAdapter):
            raise UnsupportedObjectError(
                f"a {type(item).__qualname__} is among {what}, where its state would have no name",
                fix="Keep it in a list, or as a value of a dict.",
            )


SEQUENCE = _Sequence()
MAPPING = _Mapping()
SET = _Set()
PARTS = _Parts()


def close_cycles(root: Any) -> Any:
    """Put containers where links to them stand inside of them; return the root.

    Raises
    ------
    LinkError
        If a link leads to no container around it.
    """
    if isinstance(root, BackLink):
        raise LinkError(f"{root!r} stands in no container", fix="Correct the config.")
    seen: set[int] = set()
    waiting: list[tuple[Any, dict[str, Any]]] = [(root, {"": root})]
    while waiting:
        holder, around = waiting.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        if isinstance(holder, (set, frozenset, dict)) and any(isinstance(item, BackLink) for item in holder):
            raise LinkError("a link to a container is a key or an item of a set", fix="Correct the config.")
        here = next(key for key, value in reversed(around.items()) if value is holder)
        for child in _values(holder):
            if isinstance(child.obj, BackLink):
                if child.obj.key not in around:
                    raise LinkError(f"{child.obj!r} leads to no container around it", fix="Correct the config.")
                _put(holder, child.name, around[child.obj.key])
            elif isinstance(adapter_for(child.obj), ValueAdapter):
                key = f"{here}.{child.name}" if here else child.name
                waiting.append((child.obj, {**around, key: child.obj}))
    return root


def _values(holder: Any) -> Iterator[Child]:
    adapter = adapter_for(holder)
    if isinstance(adapter, ValueAdapter):
        yield from list(adapter.children(holder))


def _put(holder: Any, name: str, value: Any) -> None:
    """Fill the place of a link."""
    if isinstance(holder, (list, deque)):
        holder[int(name)] = value
    elif isinstance(holder, dict):
        holder[next(key for key in holder if join_key([str(key)]) == name)] = value
    elif dataclasses.is_dataclass(holder) or hasattr(holder, "__dict__"):
        object.__setattr__(holder, name, value)  # frozen or not
    else:
        raise LinkError(f"a {type(holder).__qualname__} cannot be filled", fix="Correct the config.")
