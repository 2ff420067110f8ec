"""The Adapter protocol, and the types that adapters and the walk exchange."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

import torch

from flambe_save.adapters.adopted import Adoption
from flambe_save.config.scalars import PLAIN
from flambe_save.objects.assembly import attributes_of
from flambe_save.objects.attributes import held_items, held_pairs
from flambe_save.objects.refilled import left_out
from flambe_save.objects.structural import POINTERS, parts_of
from flambe_save.pt.options import MapLocation
from flambe_save.registry import ADAPTERS, find_adapter
from flambe_save.schema.schema import Schema
from flambe_save.state import State, join_key
from flambe_save.support.static import has_static

Later: TypeAlias = "Callable[[], None] | None"
Check: TypeAlias = "Callable[[Mismatch], object]"


class Child(NamedTuple):
    """A part of an object that may hold state of its own.

    Attributes
    ----------
    name : str
        Its key inside the parent; escaped where it holds dots.
    obj : object
    covered : bool
        Whether the parent's own state holds the child's already, as a module's holds its submodules'.
    is_borrowed : bool
        Whether the child belongs to another object, as a scheduler's optimizer: it is visited only where nothing else
        in the tree leads to it.
    is_loose : bool
        Whether a plain attribute holds it, such as a tensor or module that torch does not know of. It is saved only
        where the config has the attribute, after all children that are not loose.
    """

    name: str
    obj: Any
    covered: bool = False
    is_borrowed: bool = False
    is_loose: bool = False


class Place(NamedTuple):
    """An object at a place in the tree; the same object may have several.

    Attributes
    ----------
    prefix : str
    obj : object
    covered : bool
        As in :class:`Child`.
    is_open : bool
        Whether only values are around it: the config of the root describes those.
    keep_vars : bool
        Whether parameters themselves are wanted, and not tensors detached from them.
    name_of : callable
        Returns the key of a parameter or buffer in the whole state, or None.
    is_loose : bool
        Whether this, or an object around it, is loose, as in :class:`Child`.
    """

    prefix: str
    obj: Any
    covered: bool = False
    is_open: bool = True
    keep_vars: bool = False
    name_of: Callable[[torch.Tensor], str | None] = lambda tensor: None
    is_loose: bool = False

    @property
    def key_prefix(self) -> str:
        """Start of this place's keys: the prefix and a dot, or nothing at the root."""
        return f"{self.prefix}." if self.prefix else ""


@dataclass(frozen=True)
class Fit:
    """Cast and move an object's tensors to match the saved ones before these are copied.

    Attributes
    ----------
    map_location : str, torch.device, mapping, callable or None
        Device of the tensors that the state does not hold, as in :func:`torch.load`. None: that of the state's tensors,
        if they are on one device.
    adoption : Adoption, optional
        Lets the object take the memory of the state's tensors.
    """

    map_location: MapLocation = None
    adoption: Adoption | None = None


@dataclass
class Mismatch:
    """Differences between a state and the object to load it into, reported at once.

    Attributes
    ----------
    missing : list of str
        Keys that the object wants and the state lacks.
    unexpected : list of str
        Keys of the state that no part of the object wants.
    errors : list of str
        Sentences: shapes that differ, hooks that failed.
    sizes : dict of str to str
        Keys whose tensors have other sizes here -> both sizes, in words. They are found before anything is filled.
    consumed : set of str
        Keys that an adapter has taken.
    owners : dict of str to bool
        Every prefix that was visited, and whether the object there takes keys that it alone knows.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    consumed: set[str] = field(default_factory=set)
    owners: dict[str, bool] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)

    def note_sizes(self, key: str, saved: Any, here: Any) -> None:
        """Note that sizes differ."""
        self.sizes[key] = f"{tuple(saved)} in the save, {tuple(here)} here"

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.errors or self.sizes)

    def __str__(self) -> str:
        lines = [*(f"size mismatch for {key}: {sizes}" for key, sizes in self.sizes.items()), *self.errors]
        if self.missing:
            lines.append(f"missing from the save: {', '.join(sorted(self.missing))}")
        if self.unexpected:
            lines.append(f"not wanted by the object: {', '.join(sorted(self.unexpected))}")
        return "\n  ".join(lines)


def prefixes_around(prefix: str) -> Iterator[str]:
    """Yield the prefixes around one, the nearest first; ``""`` is the last."""
    while prefix:
        prefix = prefix.rpartition(".")[0]
        yield prefix


class Adapter(Protocol):
    """One kind of object.

    Saving and loading both visit an object before its children. They call ``get_state`` or ``load_state`` of the
    object, then do the same for each of ``children``, and then call the function that the object's own call returned,
    if it returned one.

    An adapter may also have these attributes and methods:

    - ``comes_last = True``: its objects refer to others and are visited after all of these.
    - ``stands_alone = False``: its objects are built on others, so their own folder holds no config.
    - ``knows_others = True``: its objects are described when all places in the save are known.
    - ``has_own_children = True``: ``children`` returns objects that the parent holds, the same ones at each call. A
      save refuses a parent whose children change meanwhile.
    - ``build`` and ``asks``: builds its objects, and lists what their arguments need trust for (objects/builders.py).
    - ``checker(place, state)``: returns a function that notes mismatches before anything is filled; None where only
      running the object's own code would show them (checking.py).
    """

    def describe(self, obj: Any) -> Schema | None:
        """Return the Schema that builds the object again, or None where it is not known."""

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the parts that may hold state or components."""

    def get_state(self, place: Place, state: State) -> Later:
        """Write the object's own values into ``state``, under the place's prefix; values are shared."""

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Take the object's own values from ``state`` and note the keys as consumed.

        With ``fit``, tensors first get the types and devices that the state's have; otherwise they keep their own.
        """


class StatelessAdapter:
    """Base of adapters whose objects have no state: a config holds all of them."""

    def children(self, obj: Any) -> Iterable[Child]:
        """Return nothing."""
        return ()

    def get_state(self, place: Place, state: State) -> Later:
        """Add nothing."""
        return None

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Take nothing."""
        return None


class ValueAdapter(StatelessAdapter):
    """Base of adapters of values, which have no folder: the config around one describes it.

    Attributes
    ----------
    is_everywhere : bool
        Whether such a value is searched for components wherever it is; else only where just values are around it.
    """

    is_everywhere = False

    def describe(self, obj: Any) -> Schema | None:
        """Return a Schema of the object's parts; None where it is more than their sum."""
        parts = parts_of(obj)
        return None if parts is None else Schema(type(obj), **parts)

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the parts."""
        return (Child(join_key([name]), part) for name, part in (parts_of(obj) or {}).items())


_PLUMBING = frozenset(("_schema", "_registered_attributes", "_created_with_tag", *vars(torch.nn.Module())))


def plumbing_of(cls: type) -> frozenset[str]:
    """Return the names of a class's attributes that hold no parts of its objects.

    They are this package's, nn.Module's own tables, and those that a base class makes again.
    """
    others = left_out(cls)
    return _PLUMBING | others if others else _PLUMBING


def adapter_for(obj: Any) -> Adapter | None:
    """Return the adapter of an object's type, or None where none is known."""
    found: Adapter | None = find_adapter(obj)
    return found


def holds(value: Any, wanted: Callable[[Any], bool], *, in_parts: bool = False) -> bool:
    """Whether a value is wanted, or is a sequence or mapping with a wanted one inside.

    With ``in_parts``, objects that are the sum of their parts, such as dataclasses, are searched too.
    """
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) in PLAIN or id(item) in seen:
            continue
        seen[id(item)] = item
        if type(item) not in _CONTAINERS and wanted(item):
            return True
        waiting.extend(_items_of(item, in_parts))
    return False


_CONTAINERS = (list, tuple, dict)


def _items_of(value: Any, in_parts: bool) -> Iterable[Any]:
    """Return a container's items.

    A set has none here, since its items have no names, nor has a pointer such as a weakref.
    """
    kind: Any = type(value)
    if kind in (list, tuple):
        return cast(Iterable[Any], value)
    if kind is dict:
        return cast(Iterable[Any], value.values())
    if isinstance(value, (set, frozenset)) or kind in POINTERS:
        return ()
    pairs = held_pairs(value)
    if pairs is not None:
        return [item for _, item in pairs]
    items = held_items(value)
    if items is not None or not in_parts:
        return items or ()
    return (parts_of(value) or {}).values()


def holds_state(value: Any) -> bool:
    """Whether an object is of a kind that holds a state of its own, unlike values."""
    adapter = adapter_for(value)
    return adapter is not None and not isinstance(adapter, ValueAdapter)


def attribute_children(obj: Any) -> Iterator[Child]:
    """Yield attributes that hold a state, or are containers of objects that do."""
    plumbing = plumbing_of(type(obj))
    for name, value in list(getattr(obj, "__dict__", {}).items()):
        if name in plumbing or type(value) in PLAIN:
            continue
        if holds(value, holds_state):
            yield Child(name, value)
        elif holds(value, holds_state, in_parts=True):
            yield Child(name, value, is_borrowed=True, is_loose=True)


def attributes_as_children(obj: Any, apart: Container[int] = ()) -> Iterator[Child]:
    """Yield the attributes of an object written as its parts; those with a state are borrowed.

    Values with an id in ``apart`` are left out.
    """
    for name, value in attributes_of(obj).items():
        if type(value) not in PLAIN and id(value) not in apart:
            yield Child(join_key([name]), value, is_borrowed=True, is_loose=not holds_state(value))


def is_component(obj: Any) -> bool:
    """Whether an object's class has its own adapter, so that the object gets a folder."""
    return has_static(type(obj), "__flambe_adapter__")


def register_adapter(kind: type | str, adapter: Adapter | str, *, hint: str = "", note: str = "") -> None:
    """Register an adapter, or its dotted path, for a type and its subclasses.

    Parameters
    ----------
    kind : type or str
        ``package.module.Class``, where importing the class only to register it would cost too much.
    adapter : Adapter or str
        The adapter, or ``"package.module:NAME"`` to import it from when it is first needed.
    hint : str
        The pip line to show when that import fails.
    note : str
        Kept of this kind, for a table of kinds.
    """
    name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    ADAPTERS.add(name, adapter, hint=hint, note=note)
