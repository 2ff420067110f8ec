"""Pickled: in a config, pickled values that refer to what else the config builds, in place of holding copies.

``!pickled {pickle: !$ 0, item: 0, objects: [*model, !parameter model:weight]}``: where the pickle has the number of one
of the objects, it gets that.
"""

from __future__ import annotations

import contextlib
import enum
import types
import warnings
from collections.abc import Callable, Hashable, Iterable
from contextvars import ContextVar
from typing import Any, TypeAlias

import dill
import torch

from flambe_save.classes.registrable import Registrable
from flambe_save.errors import CompilationError, LinkError
from flambe_save.schema.schema import TRANSPARENT
from flambe_save.support.undoing import Setting

__all__ = ["Opener", "Pickled", "groups_of", "opened_by", "references_in"]

Opener: TypeAlias = "Callable[[bytes, list[Any]], list[Any]]"  # unpickles bytes that refer to objects

_STORAGES = (torch.UntypedStorage, torch.storage.TypedStorage)
# What is one object wherever it is pickled, by its name or by its value
_NEVER_SHARED = (type, enum.Enum, types.ModuleType, types.BuiltinFunctionType, types.CodeType)
_opener: ContextVar[Opener | None] = ContextVar("opener of pickles", default=None)


def opened_by(opener: Opener) -> Setting[Opener | None]:
    """Inside the ``with``, unpickle with a function, which puts what the bytes ask for to the caller's trust."""
    return Setting(_opener, opener)


class Pickled(Registrable, tag_override="pickled"):
    """In a config, one of several values that are pickled together, and what they refer to.

    Parameters
    ----------
    pickle : bytes
        From the stash.
    item : int
        Which of the values.
    objects : list of object
        Shared with the values.
    """

    def __new__(cls, pickle: Any, item: Any, objects: Any) -> Any:
        """Return the value."""
        open_pickle = _opener.get()
        if open_pickle is None:
            raise LinkError("a config with !pickled is built by a load alone", fix="Load the save that it is of.")
        if type(pickle) is not bytes or type(objects) is not list or type(item) is not int:
            raise CompilationError(
                "!pickled takes a pickle of the stash, a number and a list of objects", fix="Correct the config."
            )
        values = open_pickle(pickle, objects)
        if not (isinstance(values, list) and 0 <= item < len(values)):
            raise CompilationError(f"the pickle has no value {item}", fix="Correct the config.")
        return values[item]


TRANSPARENT.add(Pickled)


def groups_of(values: Iterable[Any], is_other: Callable[[Any], bool]) -> dict[int, tuple[int, list[Any]]]:
    """Return what values refer to that are about to be pickled, and which of them have to be pickled together.

    Parameters
    ----------
    values : iterable of object
        What may have to be pickled.
    is_other : callable
        Whether something has a place of its own, where no pickle is; what is inside it is not gone into.

    Returns
    -------
    dict of int to (int, list of object)
        By the ids of values, a number that those have in common which share anything, and what the value refers to.
        Values that share nothing with one that refers to anything are left out.
    """
    owner: dict[Hashable, int] = {}  # by the ids of objects, the value that came to it first
    leader: dict[int, int] = {}
    walks = {id(value): _Walk(value, is_other) for value in values}

    def first(number: int) -> int:
        while leader.setdefault(number, number) != number:
            number = leader[number]
        return number

    for number, walk in walks.items():
        for inner in (number, *walk.shared):
            leader[first(number)] = first(owner.setdefault(inner, number))
    referring = {first(number) for number, walk in walks.items() if walk.others}
    return {
        number: (first(number), list(walk.others.values()))
        for number, walk in walks.items()
        if first(number) in referring
    }


def references_in(value: Any, is_other: Callable[[Any], bool]) -> list[Any]:
    """Return what a value refers to that is about to be pickled; arguments are those of :func:`groups_of`."""
    return list(_Walk(value, is_other).others.values())


class _Walk:
    """What a pickle of a value comes to: others, in order, and what of its own it might share with another pickle."""

    def __init__(self, value: Any, is_other: Callable[[Any], bool]) -> None:
        self.others: dict[int, Any] = {}
        self.shared: set[Hashable] = set()
        others, shared = self.others, self.shared

        class Pickler(dill.Pickler):  # type: ignore[misc]
            def persistent_id(self, obj: Any) -> Any:
                if obj is not value and is_other(obj):
                    others.setdefault(id(obj), obj)
                    return "other"
                if isinstance(obj, _STORAGES):
                    shared.add(("storage", getattr(obj, "_untyped_storage", obj)._cdata))
                    return "storage"
                if not isinstance(obj, _NEVER_SHARED) and (hasattr(obj, "__dict__") or type(obj) in (list, dict, set)):
                    shared.add(id(obj))
                return None

        self.pickler: Any = None  # keeps what it has come to alive, and so the ids apart
        for options in ({}, {"byref": True}):  # as the codec does
            others.clear()
            shared.clear()
            with warnings.catch_warnings(), contextlib.suppress(Exception):  # the codec will say what cannot be pickled
                warnings.simplefilter("ignore", dill.PicklingWarning)
                self.pickler = Pickler(_Nowhere(), **options)
                self.pickler.dump(value)
                break


class _Nowhere:
    """A file that keeps nothing of what is written to it."""

    def write(self, data: Any) -> int:
        return len(data)
