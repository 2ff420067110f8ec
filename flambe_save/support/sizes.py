"""Sizes of values for code that walks, hashes or prints them; shared parts count each time.

A few bytes can stand for a list of lists of lists ... of 2 ** 40 parts, so codecs/ and config/ measure before a walk.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, cast

from flambe_save.support.static import has_static

MAX_HASHED = 10_000  # values in a key or in an item of a set
MAX_UNFOLDED = 10_000_000  # values in what a pickle, or a constructor's arguments, stand for


def unfolded_size(value: Any, most: int) -> int:
    """Return the number of values inside nested containers, up to ``most + 1``.

    Containers are lists, tuples, sets, dicts, dataclasses and the targets of weak references. A value in several places
    counts in each; a container inside itself counts once. Each container is walked once.

    Examples
    --------
    >>> pair = (1, 2)
    >>> unfolded_size([pair, pair], most=100)
    7
    """
    if not _is_container(value):
        return 1
    sizes: dict[int, int] = {}  # of containers that are walked, or being walked
    stack: list[tuple[Any, list[Any]]] = []

    def enter(container: Any) -> None:
        items = [*_items(container)]
        inner = [item for item in items if type(item) not in _ATOMS]
        sizes[id(container)] = 1 + len(items) - len(inner)
        stack.append((container, inner))

    enter(value)
    while stack:
        container, waiting = stack[-1]
        if waiting:
            item = waiting.pop()
            if not _is_container(item):
                sizes[id(container)] += 1
            elif id(item) in sizes:
                sizes[id(container)] += sizes[id(item)]
            else:
                enter(item)
                continue
        else:
            stack.pop()
            if stack:
                sizes[id(stack[-1][0])] += sizes[id(container)]
        if sizes[id(container)] > most:
            return most + 1
    return sizes[id(value)]


def parts_in(value: Any) -> Iterator[Any]:
    """Yield a value and all inside it, each container once, as :func:`unfolded_size` walks it."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        yield item
        if _is_container(item) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(_items(item))


_CONTAINERS = (list, tuple, set, frozenset, dict)
_KINDS = (*_CONTAINERS, weakref.ref)
_ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes))  # as most values are


def _is_container(value: Any) -> bool:
    return isinstance(value, _KINDS) or has_static(type(value), "__dataclass_fields__")


def _items(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return (item for pair in dict.items(container) for item in pair)
    if isinstance(container, weakref.ref):
        return (container(),)
    kind: Any = next((kind for kind in _CONTAINERS if isinstance(container, kind)), None)
    if kind is None:
        return (_field(container, name) for name in type(container).__dataclass_fields__)
    return cast("Iterable[Any]", kind.__iter__(container))  # a subclass may define another __iter__


def _field(obj: Any, name: str) -> Any:
    """Return a field from an object's ``__dict__`` or a slot; no property is run."""
    own = getattr(obj, "__dict__", {})
    slot = next((vars(base)[name] for base in type(obj).__mro__ if name in vars(base)), None)
    is_slot = name not in own and isinstance(slot, types.MemberDescriptorType)
    return getattr(obj, name, None) if is_slot else own.get(name)
