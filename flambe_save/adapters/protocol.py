"""The Adapter protocol, and what adapters and the traversal tell each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch

from flambe_save.codecs.options import MapLocation
from flambe_save.config.schema import Schema
from flambe_save.registry import ADAPTERS, find_adapter
from flambe_save.state import State

__all__ = [
    "PLUMBING",
    "Adapter",
    "Child",
    "Fit",
    "Later",
    "Mismatch",
    "Place",
    "adapter_for",
    "is_component",
    "register_adapter",
]


Later: TypeAlias = "Callable[[], None] | None"


class Child(NamedTuple):
    """A part of an object that may hold state of its own.

    Attributes
    ----------
    name : str
        Its key inside the parent; escaped where it holds dots.
    obj : object
    covered : bool
        Whether the parent's own state holds the child's already, as a module's holds its submodules'.
    """

    name: str
    obj: Any
    covered: bool = False


class Place(NamedTuple):
    """An object at a place in the tree; the same object may have several.

    Attributes
    ----------
    prefix : str
    obj : object
    covered : bool
        As in :class:`Child`.
    keep_vars : bool
        Whether parameters themselves are wanted, and not tensors detached from them.
    """

    prefix: str
    obj: Any
    covered: bool
    keep_vars: bool = False

    @property
    def key_prefix(self) -> str:
        """What keys of this place begin with: the prefix and a dot, or nothing at the root."""
        return f"{self.prefix}." if self.prefix else ""


@dataclass(frozen=True)
class Fit:
    """That tensors shall take the types and devices that the state's have, and where those go that it does not hold.

    Attributes
    ----------
    map_location : str, torch.device, mapping, callable or None
        As in :func:`torch.load`. None: to where the state's are, if that is one device.
    """

    map_location: MapLocation = None


@dataclass
class Mismatch:
    """What did not fit while a state was loaded; all of it is reported at once.

    Attributes
    ----------
    missing : list of str
        Keys that the object wants and the state lacks.
    unexpected : list of str
        Keys that the state holds and nothing wants.
    errors : list of str
        Sentences: shapes that differ, hooks that failed.
    consumed : set of str
        Keys that some adapter has taken.
    owners : dict of str to bool
        Every prefix that was visited, and whether the object there takes keys that it alone knows.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    consumed: set[str] = field(default_factory=set)
    owners: dict[str, bool] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.errors)

    def __str__(self) -> str:
        lines = list(self.errors)
        if self.missing:
            lines.append(f"missing from the save: {', '.join(sorted(self.missing))}")
        if self.unexpected:
            lines.append(f"not wanted by the object: {', '.join(sorted(self.unexpected))}")
        return "\n  ".join(lines)


class Adapter(Protocol):
    """One kind of object.

    Saving and loading both visit an object before its children: ``get_state`` or ``load_state`` of the object, then
    all of the same for each of ``children``, then what the object's own call returned, where it returned something
    to do.
    """

    def describe(self, obj: Any) -> Schema | None:
        """Return the Schema that builds the object again, or None where that is not known."""

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the parts that may hold state or components."""

    def get_state(self, place: Place, state: State) -> Later:
        """Write the object's own values into ``state``, under the place's prefix; values are shared."""

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Take the object's own values from ``state`` and note the keys as consumed.

        With ``fit``, tensors first get the types and devices that the state's have; otherwise they keep their own.
        """


# Attributes that are this package's, or nn.Module's own tables, and hold no parts of an object
PLUMBING = frozenset(("_schema", "_registered_attributes", "_created_with_tag", *vars(torch.nn.Module())))


def adapter_for(obj: Any) -> Adapter | None:
    """Return the adapter of an object's type, or None where it is of no known kind."""
    found: Adapter | None = find_adapter(obj)
    return found


def is_component(obj: Any) -> bool:
    """Whether an object's class brings its own adapter, as every Component's does: then it has a folder of its own."""
    return hasattr(type(obj), "__flambe_adapter__")


def register_adapter(kind: type | str, adapter: Adapter | str, *, hint: str = "") -> None:
    """Register an adapter for a type, given itself or by its dotted path, and for its subclasses.

    Parameters
    ----------
    kind : type or str
        ``package.module.Class``, where importing the class only to register it would cost too much.
    adapter : Adapter or str
        The adapter, or ``"package.module:NAME"`` to import it from when it is first needed.
    hint : str
        The pip line to show when that import fails.
    """
    name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    ADAPTERS.add(name, adapter, hint=hint)
