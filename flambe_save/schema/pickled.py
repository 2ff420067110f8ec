"""Pickled values that refer to other objects of the config, in place of holding copies.

``!pickled {pickle: !$ 0, item: 0, objects: [*model, !parameter model:weight]}``: the pickle has the numbers of objects
in the list, which take their places.
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

Opener: TypeAlias = "Callable[[bytes, list[Any]], list[Any]]"  # unpickles bytes that refer to objects

_STORAGES = (torch.UntypedStorage, torch.storage.TypedStorage)
# Pickled by name, or by value: one object wherever they are loaded
_NEVER_SHARED = (type, enum.Enum, types.ModuleType, types.BuiltinFunctionType, types.CodeType)
_opener: ContextVar[Opener | None] = ContextVar("opener of pickles", default=None)


def opened_by(opener: Opener) -> Setting[Opener | None]:
    """Inside the ``with``, unpickle with a function, which asks the caller's trust."""
    return Setting(_opener, opener)


class Pickled(Registrable, tag_override="pickled"):
    """One of several values that are pickled together, with the objects that they refer to.

    Parameters
    ----------
    pickle : bytes
        From the stash.
    item : int
        Its index among the values.
    objects : list of object
        Not copied: the values refer to these very objects.
    """

    def __new__(cls, pickle: Any, item: Any, objects: Any) -> Any:
        open_pickle = _opener.get()
        if open_pickle is None:
            raise LinkError("only a load builds a config with !pickled", fix="Load the save that it is of.")
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
    """Group values that have to be pickled together, and find the objects that they refer to.

    Parameters
    ----------
    values : iterable of object
        Values that may have to be pickled.
    is_other : callable
        True for an object that has a place of its own outside of pickles. It is not entered.

    Returns
    -------
    dict of int to (int, list of object)
        By the ids of values: a number, the same for values that share anything, and the objects that the value refers
        to. Groups that refer to nothing are left out.
    """
    owner: dict[Hashable, int] = {}  # by the ids of objects, the value that reached it first
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
    """Return the objects that a value refers to; parameters as in :func:`groups_of`."""
    return list(_Walk(value, is_other).others.values())


class _Walk:
    """The objects in a pickle of a value: others, in order, and own ones that it may share."""

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

        self.pickler: Any = None  # keeps all that it reached alive, so that no id is used twice
        for options in ({}, {"byref": True}):  # as the codec does
            others.clear()
            shared.clear()
            with (
                warnings.catch_warnings(),
                contextlib.suppress(Exception),
            ):  # the codec raises again, and says what cannot be pickled
                warnings.simplefilter("ignore", dill.PicklingWarning)
                self.pickler = Pickler(_Nowhere(), **options)
                self.pickler.dump(value)
                break


class _Nowhere:
    """A file that drops all that is written to it."""

    def write(self, data: Any) -> int:
        return len(data)
