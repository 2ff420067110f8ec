"""Changes of an object since its constructor returned: it is compared with its print.

A config writes them as ``!edited {object: !Net {size: 3}, changes: {fc: ...}}``: as built, except for the changes.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from flambe_save.config.scalars import PLAIN
from flambe_save.describing.known import KNOWN
from flambe_save.describing.prints import (
    Argument,
    Print,
    are_same,
    first_name,
    is_as_printed,
    is_tensor_as_printed,
    name_outside,
    print_of,
)
from flambe_save.describing.stale import add_stale
from flambe_save.objects.arguments import replace_items
from flambe_save.objects.assembly import (
    attributes_of,
    computes_weights,
    hooks_in,
    is_set_by_torch,
)
from flambe_save.objects.attributes import held_values
from flambe_save.schema.building import NOTE_BIRTH
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class Changes(NamedTuple):
    """Differences between an object and what its constructor made.

    Attributes
    ----------
    tables : dict of str to dict
        For each module inside that differs, by path, the entries of its tables that do, as :class:`Edited` takes them.
    lost : list of str
        The places of hooks, which no config can hold.
    kept : dict of int to (str, str)
        For each unchanged module or tensor, by id, the path of its module, and its name in there if it is a tensor.
    """

    tables: dict[str, dict[str, Any]]
    lost: list[str]
    kept: dict[int, tuple[str, str]]


class Birth:
    """Prints of an object as its constructor left it, and of its arguments.

    Parameters
    ----------
    schema : Schema
        The call of the constructor.
    """

    # Of most constructors, which are given plain values alone
    _print: Print | None = None
    _given: Sequence[Print | None] = ()
    _touched: Mapping[int, Print | None] = types.MappingProxyType({})

    def __init__(self, schema: Schema) -> None:
        objects = _objects_given(schema)
        self._numbers = _numbers(objects)
        if objects:
            # A module that recorded its own call has its own print; the constructor may change others
            self._given = [
                None if isinstance(item, nn.Module) and _birth_of(item) is not None else _print_alone(item)
                for item in _printed(objects)
            ]

    def finish(self, obj: Any, schema: Schema) -> None:
        """Print the object, and the given components that its constructor changed."""
        if any(self._given):
            touched: dict[int, Print | None] = {}
            for number, (item, known) in enumerate(zip(_printed(_objects_given(schema)), self._given, strict=True)):
                if known is not None and not isinstance(item, nn.Module) and _differs(item, known):
                    touched[number] = _print_alone(item) if _is_as_born(item, known) else None
            self._touched = touched  # components that the constructor changed, as it left them
        self._print = print_of(obj, self._numbers)

    def call(self, schema: Schema, is_as_built: Callable[[Any], bool]) -> Schema | None:
        """Return the constructor's call with the first arguments; None if one changed since.

        Parameters
        ----------
        schema : Schema
            The call as it was recorded. A component that the constructor changed is written as it was before.
        is_as_built : callable
            Whether a module that recorded its own call is unchanged since.
        """
        given = _printed(_objects_given(schema))
        if len(given) != len(self._given):
            return None
        untouched: dict[int, AsBuilt] = {}
        for number, (item, known) in enumerate(zip(given, self._given, strict=True)):
            left = self._touched.get(number, known)
            if left is None:
                if known is not None or not is_as_built(item):
                    return None
            elif _differs(item, left):
                return None
            elif number in self._touched:
                untouched[id(item)] = AsBuilt(item)
        if not untouched:
            return schema
        found = schema.__copy__()
        memo: dict[int, Any] = {}
        for name, value in schema.keywords.items():
            found.keywords[name] = replace_items(value, lambda item, _: untouched.get(id(item), item), None, memo)
        return found

    def changes(self, obj: Any, schema: Schema) -> Changes | None:
        """Return how the object differs from what was made; None without a print of its class."""
        if self._print is None or type(obj) is not self._print.cls:
            return None
        return changes_since(obj, self._print, _numbered(schema))

    def __reduce__(self) -> Any:
        return frozenset, ()  # an unpickled object has no print; Schema drops this

    def __deepcopy__(self, memo: Any) -> Birth:
        return self


def _no_birth() -> None:
    """Stand for a Birth in old pickles."""


class AsBuilt(Reference, should_register=False):
    """An argument to be written as its own constructor made it, without later changes."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj


def _birth_of(item: Any) -> Birth | None:
    """Return the Birth of an object that recorded the call of its constructor; None for others."""
    schema = item.__dict__.get("_schema")
    birth: Birth | None = schema.__dict__.get("_birth") if isinstance(schema, Schema) else None
    return birth


def _print_alone(item: Any) -> Print:
    return print_of(item, _boundary_of(item))


def _differs(item: Any, known: Print) -> bool:
    return bool(changes_since(item, known, _boundary_of(item)).tables)


def _is_as_born(item: Any, known: Print) -> bool:
    """Whether an object was unchanged since its own constructor when another received it."""
    birth = _birth_of(item)
    return birth is not None and birth._print is not None and are_same(birth._print, known)


def _printed(objects: list[Any]) -> list[Any]:
    """Return the modules among the arguments, and the objects that recorded their own calls."""
    return [
        item
        for item in objects
        if isinstance(item, nn.Module) or isinstance(getattr(item, "__dict__", {}).get("_schema"), Schema)
    ]


def _objects_given(schema: Schema) -> list[Any]:
    """Return the arguments that are not plain values, those in containers too, each once."""
    found: dict[int, Any] = {}
    waiting: list[Any] = [item for item in reversed(schema.keywords.values()) if type(item) not in PLAIN]
    if not waiting:
        return []
    seen: set[int] = set()
    while waiting:
        item = waiting.pop()
        item = getattr(item, "resolved", item) if isinstance(item, Reference) else item
        if type(item) in PLAIN:
            continue
        if not isinstance(item, (list, tuple, dict)):
            found.setdefault(id(item), item)
        elif id(item) not in seen:
            seen.add(id(item))
            waiting.extend(reversed(held_values(item) or ()))
    return list(found.values())


def _numbered(schema: Schema) -> dict[int, int]:
    """Number the objects among the arguments, by id: a copy has the same numbers."""
    return _numbers(_objects_given(schema))


def _numbers(objects: list[Any]) -> dict[int, int]:
    return {id(item): number for number, item in enumerate(objects)}


def _boundary_of(obj: Any) -> dict[int, int]:
    own = obj.__dict__.get("_schema")
    return _numbered(own) if isinstance(own, Schema) else {}


def changes_since(
    obj: Any,
    before: Print,
    boundary: Mapping[int, int] | None = None,
    *,
    is_exact: bool = True,
    apart_from: frozenset[str] = frozenset(),
) -> Changes:
    """Compare an object with a print of it.

    Parameters
    ----------
    obj : object
    before : Print
    boundary : mapping of int to int, optional
        As :func:`print_of` was given it.
    is_exact : bool
        False where the print is of another object that the same arguments made: then values are compared, and not
        identities.
    apart_from : frozenset of str
        The names of attributes that are not compared.
    """
    comparison = _Comparison(boundary or {}, is_exact, apart_from)
    comparison.go(obj, before, "")
    tables = comparison.tables
    if tables:
        made = ((comparison.kept.get(id(item), ("",))[0], item) for item in comparison._then.values())
        add_stale(tables, {path: (item, comparison._now[id(item)]) for path, item in made}, comparison.kept, apart_from)
    if "" in tables:
        tables = {"": tables.pop(""), **tables}
    return Changes(tables, comparison.lost, comparison.kept)


class _Comparison:
    """One comparison. It runs at each construction, so the usual case, no difference, is fast."""

    def __init__(self, boundary: Mapping[int, int], is_exact: bool, apart_from: frozenset[str]) -> None:
        self._boundary = boundary
        self._shared, self._tied = KNOWN.get()[:2]
        self._apart_from = apart_from
        self._is_exact = is_exact
        self._now: dict[int, Any] = {}  # modules by id -> the prints that they are compared with
        self._then: dict[int, Any] = {}  # prints by id -> modules
        self._names: dict[int, str] = {}
        self._outside: list[tuple[str, nn.Module]] = []  # modules not walked, whose tensors have no names yet
        self.tables: dict[str, dict[str, Any]] = {}
        self.lost: list[str] = []
        self.kept: dict[int, tuple[str, str]] = {}

    def go(self, obj: Any, before: Print, path: str) -> None:
        """Compare one object, and what is inside it."""
        if self._outside:
            self._outside = name_outside(self._outside, self._names)
        self._now[id(obj)] = before
        self._then[id(before)] = obj
        own = obj.__dict__
        change: dict[str, Any] = {}
        attributes = attributes_of(obj)
        known = before.attributes
        changed = {
            name: value
            for name, value in attributes.items()
            if not self._is_as_printed(known.get(name, _MISSING), value) and name not in self._apart_from
        }
        removed = []
        if len(attributes) - len(changed) < len(known):
            removed = [name for name in known if name not in own and name not in self._apart_from]
        if isinstance(obj, nn.Module):
            self.kept.setdefault(id(obj), (path, ""))
            for name, value in attributes.items():
                if isinstance(value, torch.Tensor):
                    self._names.setdefault(id(value), f"{path}.{name}" if path else name)
            begin = f"{path}." if path else ""
            not_persistent = own["_non_persistent_buffers_set"]
            parameters, buffers, modules = own["_parameters"], own["_buffers"], own["_modules"]
            if parameters or before.parameters:
                self._compare_tensors("parameters", parameters, before.parameters, (), path, change, removed)
            if buffers or before.buffers:
                self._compare_tensors("buffers", buffers, before.buffers, not_persistent, path, change, removed)
            if not_persistent != before.not_persistent:
                change["not_persistent"] = sorted(not_persistent)
            hooks = dict(hooks_in(obj))
            for name in {**hooks, **before.hooks}:
                self._compare_hooks(name, hooks.get(name, {}), before.hooks.get(name, ()), path, change)
            if modules or before.modules:
                inside = before.modules
                found = {
                    name: child
                    for name, child in modules.items()
                    if not self._is_kept(child, inside.get(name, _MISSING), begin + name)
                }
                if found:
                    change["modules"] = found
                self._compare_order("modules", modules, inside, change, removed)
        if changed:
            change["attributes"] = changed
        if removed:
            change["removed"] = removed
        if change:
            self.tables[path] = change

    def _is_as_printed(self, token: Any, value: Any) -> bool:
        if type(token) is Argument:
            return bool(self._boundary.get(id(value)) == token.number)
        if token is GIVEN or token is _MISSING:
            return token is GIVEN
        return is_as_printed(token, value, self._is_exact)

    def _compare_tensors(
        self,
        table: str,
        own: Mapping[str, Any],
        before: Mapping[str, Any],
        not_persistent: Container[str],
        path: str,
        change: dict[str, Any],
        removed: list[str],
    ) -> None:
        begin = f"{path}." if path else ""
        found = {}
        for name, value in own.items():
            known = before.get(name, _MISSING)
            if known is GIVEN or value is known:  # both None
                continue
            found[name] = value
            if value is None or known is None or known is _MISSING or id(value) in self._tied:
                continue
            here = begin + name
            is_tied_alike = self._names.setdefault(id(value), here) == (first_name(known) or here)
            if is_tied_alike and is_tensor_as_printed(known, value, self._is_exact, is_whole=name in not_persistent):
                self.kept.setdefault(id(value), (path, name))
                del found[name]
        if found:
            change[table] = found
        self._compare_order(table, own, before, change, removed)

    def _compare_order(
        self, table: str, own: Mapping[str, Any], before: Mapping[str, Any], change: dict[str, Any], removed: list[str]
    ) -> None:
        """Note removed entries, and the order if adding the new ones at the end does not give it."""
        now, then = list(own), list(before)
        if now == then:
            return
        removed += [name for name in then if name not in own]
        usual = [*(name for name in then if name in own), *(name for name in now if name not in before)]
        if usual != now:
            change.setdefault("order", {})[table] = now

    def _compare_hooks(
        self, name: str, hooks: Mapping[int, Any], before: tuple[int, ...], path: str, change: dict[str, Any]
    ) -> None:
        if tuple(hooks) == before or (not self._is_exact and len(hooks) == len(before)):
            return
        of_torch = [hook for hook in hooks.values() if computes_weights(hook)]
        if name == "_forward_pre_hooks" and (of_torch or before):
            change["hooks"] = of_torch
        if any(number not in before and not is_set_by_torch(hook) for number, hook in hooks.items()):
            self.lost.append(f"{path}.{name}" if path else name)

    def _is_kept(self, child: Any, known: Any, path: str) -> bool:
        """Whether a module inside is the one that was made there; differences inside it are noted."""
        if known is GIVEN:
            return True
        if child is None or known is None or known is _MISSING:
            return bool(child is known)
        number = self._boundary.get(id(child)) if self._boundary else None
        if number is not None or type(known) is int:
            self._outside.append((f"{path}.", child))
            return bool(number == known)
        if id(child) in self._shared:
            return False  # another object has it too, which this one's constructor would not know
        if id(child) in self._now or id(known) in self._then:
            return bool(self._now.get(id(child)) is known)
        if type(child) is not known.cls:
            return False
        noted: tuple[dict[Any, Any], ...] = self.tables, self._now, self._then, self.kept
        sizes, lost = [*map(len, noted)], len(self.lost)
        self.go(child, known, path)
        cls: Any = known.cls
        if len(self.tables) == sizes[0] or not _is_unit(cls):
            return True
        for table, size in zip(noted, sizes, strict=True):  # it is written in full, and nothing of it is kept
            while len(table) > size:
                table.popitem()
        del self.lost[lost:]
        return False


_MISSING = object()
GIVEN: Any = object()  # in a print made by hand: an entry that comes from an argument


@functools.cache
def _is_unit(cls: type) -> bool:
    """Whether a changed module of a class is written in full: torch's own layers are short."""
    return cls.__module__.startswith("torch.nn.modules.") and not issubclass(cls, _CONTAINERS)


def _note_birth(obj: Any, schema: Schema) -> Birth | None:
    """Return the Birth of an object that was just made; None if it cannot be printed."""
    try:
        birth = Birth(schema)
        birth.finish(obj, schema)
    except Exception:  # from the object's own class, or because it is nested too deep
        return None
    return birth


NOTE_BIRTH.append(_note_birth)
