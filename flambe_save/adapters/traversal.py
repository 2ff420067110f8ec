"""Walk an object and all that it holds, parents first, at each place in the tree.

collecting.py, restoring.py, ties.py and unbuilt.py do their work in this walk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator
from typing import Any, TypeAlias

import torch

from flambe_save.adapters.arrays import ArrayAdapter, key_of
from flambe_save.adapters.protocol import Adapter, Child, Later, Place, ValueAdapter, adapter_for
from flambe_save.adapters.unchanged import Passed, cannot_save
from flambe_save.errors import FlambeSaveError, LimitError, UnsupportedObjectError
from flambe_save.objects.unwrap import unwrapped
from flambe_save.tree import join_prefix

_MANY, _TIMES = 50_000, 20  # places in a tree, and how many each object may have
_MOST_NESTED = 128 << 20  # characters in the keys of places that are inside each other

Wants: TypeAlias = "Callable[[Place, Place, str], bool]"


def walk_object(
    obj: Any,
    prefix: str,
    enter: Callable[[Place, Adapter], Later],
    keep_vars: bool = False,
    wants: Wants = lambda parent, place, name: False,
    passed: Passed | None = None,
    lost: Container[tuple[int, str]] = (),
) -> None:
    """Call ``enter`` for each object that has an adapter, parents first.

    Children are looked up after ``enter``, which may change them. An object inside itself is visited once. Objects that
    refer to others, as optimizers do, come last. A borrowed child is visited only where nothing else has led to it.

    Parameters
    ----------
    obj : object
    prefix : str
        The object's own.
    enter : callable
        Returns a function to call when the object's children are done, or None.
    keep_vars : bool
        As in :class:`Place`.
    wants : callable
        Decides which loose children are visited, from the place around one, its own place, and its name.
    passed : Passed, optional
        Gets all objects with their children, in a save.
    lost : container of (int, str)
        Children that are left out: the id of the object, and the name in it.
    """
    stack: list[tuple[Place, Adapter, Iterator[Child], Later]] = []
    path: set[int] = set()
    seen: set[int] = set()
    waiting: list[tuple[Place, Adapter, bool]] = []
    name_of = _key_finder(obj, prefix)
    count = nested = 0

    def push(place: Place, adapter: Adapter) -> None:
        nonlocal count, nested
        if id(place.obj) in path:
            return
        count += 1
        if count > _MANY and count > _TIMES * len(seen):  # shared parts of shared parts: a place for each way there
            raise LimitError(
                f"{len(seen)} objects have more than {count} places in the whole", node=place.prefix, fix="Flatten it."
            )
        if isinstance(adapter, ValueAdapter) and not (place.is_open or adapter.is_everywhere):
            return
        seen.add(id(place.obj))
        try:
            later = enter(place, adapter)
            children = list(adapter.children(place.obj))
        except (FlambeSaveError, Warning):
            raise
        except Exception as error:
            if passed is None:
                raise
            raise cannot_save(place, error) from error
        if passed is not None:
            passed.note(place, adapter, children)
        if children or later is not None:
            nested += len(place.prefix)
            if nested > _MOST_NESTED:
                raise LimitError(f"values are inside each other {len(stack):,} levels deep", fix="Flatten them.")
            path.add(id(place.obj))
            stack.append((place, adapter, iter(children), later))

    obj = unwrapped(obj)
    adapter = adapter_for(obj)
    if adapter is not None:
        push(Place(prefix, obj, keep_vars=keep_vars, name_of=name_of), adapter)
    while stack or waiting:
        if not stack:
            place, adapter, is_borrowed = waiting.pop(0)
            if not (is_borrowed and id(place.obj) in seen):
                push(place, adapter)
            continue
        parent, outer, children, later = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            nested -= len(parent.prefix)
            path.discard(id(parent.obj))
            if later is not None:
                later()
            continue
        name, obj, covered, is_borrowed, is_loose = child
        if (id(parent.obj), name) in lost:
            continue
        obj = unwrapped(obj)
        adapter = adapter_for(obj)
        if adapter is None:
            continue
        is_loose = is_loose or (parent.is_loose and not covered)
        is_open = is_loose or (parent.is_open and isinstance(outer, ValueAdapter))
        place = Place(join_prefix(parent.prefix, name), obj, covered, is_open, keep_vars, name_of, is_loose)
        if is_loose and not is_borrowed and id(obj) in seen and not isinstance(adapter, ValueAdapter):
            continue
        if is_loose and not wants(parent, place, name):
            continue
        if is_borrowed or getattr(adapter, "comes_last", False):
            waiting.append((place, adapter, is_borrowed))
        else:
            push(place, adapter)


def _key_finder(root: Any, prefix: str) -> Callable[[torch.Tensor], str | None]:
    """Return a function for a tensor's key in the state, or None; its first call walks the tree."""

    @functools.cache
    def keys() -> dict[int, str]:
        found: dict[int, str] = {}

        def enter(place: Place, adapter: Adapter) -> Later:
            if isinstance(place.obj, torch.nn.Module):
                for name, value in (*place.obj._parameters.items(), *place.obj._buffers.items()):
                    found.setdefault(id(value), place.key_prefix + name)
            elif isinstance(adapter, ArrayAdapter):
                found.setdefault(id(place.obj), key_of(place))
            return None

        walk_object(root, prefix, enter)
        return found

    return lambda tensor: keys().get(id(tensor))


def note_visit(visited: dict[str, Any], place: Place) -> None:
    """Note an object by its prefix.

    Raises
    ------
    UnsupportedObjectError
        If another object has the same prefix.
    """
    if visited.setdefault(place.prefix, place.obj) is not place.obj:
        raise UnsupportedObjectError(
            f"two objects have the key {place.prefix!r}: keys of a dict that read alike, such as 1 and '1'",
            node=place.prefix,
        )
