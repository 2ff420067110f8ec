"""Fill existing dicts, lists, dataclasses and plain objects with a config's plain values.

The state has the tensors; the config has numbers, texts and the like. All changes are planned first and made later, so
that a save that does not fit changes nothing.
"""

from __future__ import annotations

import dataclasses
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch

from flambe_save.adapters.adopted import StateView
from flambe_save.adapters.arrays import ArrayAdapter
from flambe_save.adapters.protocol import ValueAdapter, adapter_for, holds_state, prefixes_around
from flambe_save.config.dialect import children_of
from flambe_save.config.nodes import Document
from flambe_save.errors import ConfigError, FlambeSaveError, quote
from flambe_save.layout import CONFIG_FILE
from flambe_save.objects.assembly import attributes_of, can_be_assembled
from flambe_save.objects.structural import is_made_of_parts, parts_of, set_part
from flambe_save.schema.building import build
from flambe_save.schema.construct import construct
from flambe_save.schema.questions import questions_of_tags
from flambe_save.schema.reference import Reference, Sources
from flambe_save.schema.schema import Schema, items_in
from flambe_save.schema.select import STORED, Entry, class_name, entries_of, find_part, is_value, part_of
from flambe_save.state import State, join_key, keys_below
from flambe_save.tree import join_prefix
from flambe_save.trust import Trust

_ABSENT = object()
# Tags of references to objects that exist already
_REFERENCES = ("!@", "!link", "!call", "!parameter", "!module", "!back", "!builtins.method", "!weakref.ReferenceType")

Put = Callable[[Any], Any]


class ValueFilling:
    """The plain values of a config, for an object of the same structure.

    Parameters
    ----------
    document : Document
        The config.
    names : list of str
        Path of the object in it, from the root.
    recorded : mapping of str to str
        Tag -> dotted path of its class.
    sources : Sources
        The stash, and the state of the whole save.
    state : State
        The object's own.
    trust : Trust
        Decides what may be built to replace a value that cannot be changed in place.

    Attributes
    ----------
    problems : list of str
        Sentences: values that cannot be put where they belong.
    missing : list of str
        Names that the object holds and the save does not.
    refused : list of str
        Sentences: values that are not filled, because they need trust or refer to something outside of the object.
    taken : set of str
        Keys of the state whose values are put in place.
    """

    def __init__(
        self,
        document: Document,
        names: list[str],
        recorded: Mapping[str, str],
        sources: Sources,
        state: State,
        trust: Trust,
    ) -> None:
        self.problems: list[str] = []
        self.missing: list[str] = []
        self.refused: list[str] = []
        self.taken: set[str] = set()
        self._root = find_part(document, names)
        self._recorded = recorded
        self._sources = sources._replace(state=_copies(sources.state))
        self._state = state
        self._trust = trust
        self._components = {prefix for prefix in state.components if prefix}
        self._around: set[str] = set()  # prefixes of containers with a component in them
        for prefix in self._components:
            self._around.update(prefixes_around(prefix))
        self._nodes = self._component_nodes()
        self._sharing: set[int] = set()  # nodes with such a node in them
        self._referring: set[int] = set()  # nodes with a tensor of the state, or a reference to the object's own
        for node in part_of(self._root).nodes if self._root is not None else ():  # children first
            inside = children_of(node)
            if id(node) in self._nodes or any(id(child) in self._sharing for child in inside):
                self._sharing.add(id(node))
            if node.tag in (*STORED, *_REFERENCES) or any(id(child) in self._referring for child in inside):
                self._referring.add(id(node))
        self._seen: set[int] = set()
        self._wanted: list[tuple[Put, Any, Put]] = []  # a call for an error, a node, a call for its value
        self._actions: list[Callable[[], Any]] = []

    @property
    def is_empty(self) -> bool:
        """Whether the config has nothing under the names."""
        return self._root is None

    def plan(self, obj: Any) -> None:
        """Find all values to put into an object; nothing is changed yet."""
        if self._root is None or not isinstance(adapter_for(obj), ValueAdapter | None):
            return
        if isinstance(adapter_for(obj), ArrayAdapter):
            return
        self._visit(obj, self._root, "", None)
        for (refuse, _, take), value in zip(self._wanted, self._built(), strict=True):
            if isinstance(value, FlambeSaveError):
                refuse(value)
            else:
                take(value)

    def apply(self) -> None:
        """Put all planned values in place."""
        for action in self._actions:
            action()

    # -------------------------------------------------------------------------------------------- planning

    def _component_nodes(self) -> set[int]:
        """Return the ids of nodes that describe components: references to these are not values."""
        found: set[int] = set()
        stack = [("", self._root)] if self._root is not None else []
        while stack:
            path, node = stack.pop()
            if path in self._components:
                found.add(id(node))
            elif path in self._around:
                entries = (entries_of(node) or {}).items()
                stack += [(join_prefix(path, name), entry.node) for name, entry in entries]
        return found

    def _visit(self, here: Any, node: Any, path: str, put: Put | None) -> None:
        """Plan the values of an object at a place; ``put``, if there is one, replaces the object."""
        stack = [(here, node, path, put)]
        while stack:
            here, node, path, put = stack.pop()
            if id(node) in self._nodes or node.tag in _REFERENCES:
                if path in self._components and not keys_below(self._state, path) and not holds_state(here):
                    self.problems.append(f"{path} is a {class_name(node, self._recorded)} in the save, {_what(here)}")
                continue
            if node.tag in STORED and isinstance(adapter_for(here), ArrayAdapter):
                continue
            if node.tag == "!unbuilt":
                if here is not _ABSENT and not holds_state(here):  # else the state fills it
                    self.refused.append(f"{path or 'it'}: save(..., build=False) left it out")
                continue
            is_shared = path in self._around or id(node) in self._sharing
            slots = _slots_of(here)
            entries = entries_of(node) if slots is not None and self._is_alike(here, node) else None
            is_kept = is_shared or (slots is not None and self._is_kept(here, slots, entries or {}, node, path))
            if slots is not None and entries is not None and is_kept:
                if id(here) not in self._seen:
                    self._seen.add(id(here))
                    stack += reversed(self._inside(here, slots, entries, path))
            elif is_shared:
                if here is not _ABSENT and not any(name.startswith(f"{path}.") for name in self._state):
                    self.problems.append(f"{path or 'it'} holds components in the save, {_what(here)}")
            elif holds_state(here):
                self.problems.append(f"{path or 'it'} is a plain value in the save, {_what(here)}")
            elif self._is_of_another_class(here, node):
                self.problems.append(
                    f"{path or 'it'} is a {class_name(node, self._recorded)} in the save, {_what(here)}"
                )
            else:
                self._want(here, part_of(node), path, put)

    def _inside(
        self, here: Any, slots: Mapping[str, Any], entries: Mapping[str, Entry], path: str
    ) -> list[tuple[Any, Any, str, Put | None]]:
        """Pair the items of a container that stays with their nodes, paths and setters."""
        cls: Any = type(here)
        if not can_be_assembled(cls):  # a save of a plain object has warned of attributes that are not data
            for name in slots.keys() - entries.keys():
                if not holds_state(slots[name]) and not isinstance(adapter_for(slots[name]), ArrayAdapter):
                    self.missing.append(join_prefix(path, name))
        found = []
        for name, (key, node) in entries.items():
            place = join_prefix(path, name)
            found.append((slots.get(name, _ABSENT), node, place, _setter(here, key)))
        return found

    def _is_kept(self, here: Any, slots: Mapping[str, Any], entries: Mapping[str, Entry], node: Any, path: str) -> bool:
        """Whether a container's entries are filled one by one; else the saved value replaces it."""
        if isinstance(here, (tuple, list, deque)) or (isinstance(here, dict) and path):
            return slots.keys() == entries.keys() and id(node) in self._referring
        return not path or _setter(here, "") is not None

    def _is_alike(self, here: Any, node: Any) -> bool:
        """Whether a node describes an object of the same kind, so that its entries belong there."""
        name = class_name(node, self._recorded)
        if type(here) in (dict, list):
            return name == ""
        if type(here) is tuple:
            return bool(node.tag == "!tuple")
        return name in (type(here).__name__, "odict" if isinstance(here, dict) else None)

    def _is_of_another_class(self, here: Any, node: Any) -> bool:
        """Whether an object with attributes, which stays, is of another class in the save."""
        is_filled = not isinstance(here, (dict, list, tuple, deque)) and _slots_of(here) is not None
        name = class_name(node, self._recorded)
        return is_filled and name not in ("", type(here).__name__) and entries_of(node) is not None

    def _want(self, here: Any, part: Document, path: str, put: Put | None) -> None:
        """Plan to read a value, and to put it into the present one or in its place."""

        def refuse(error: FlambeSaveError) -> None:
            if here is not _ABSENT:  # else the object does not need it
                fix = f" (it needs {', '.join(row.argument for row in error.rows)})" if error.rows else ""
                self.refused.append(f"{path or 'it'}: {error.message}{fix}")

        def take(value: Any) -> None:
            self.taken.update([path, *keys_below(self._state, path)])
            replace = _replacing(here, value)
            if replace is not None:
                self._actions.append(replace)
            elif put is not None:
                self._actions.append(partial(put, value))
            elif here is _ABSENT or not _is_same(here, value):
                shown = f"{quote(repr(value))} in the save, {_what(here)}"
                self.problems.append(f"{path or 'it'} cannot be changed in place, and is {shown}")

        try:
            asked = questions_of_tags(part, self._recorded, self._trust)
            self._trust.decide(asked, node=path, file=CONFIG_FILE)
            self._wanted.append((refuse, part.root, take))
        except FlambeSaveError as error:
            refuse(error)

    # -------------------------------------------------------------------------------------------- values

    def _built(self) -> list[Any]:
        """Return the wanted values in order; an error in the place of one that cannot be read."""
        nodes = [node for _, node, _ in self._wanted]
        if not nodes:
            return []
        try:  # all at once, so that an object in several of them stays one
            return self._read(nodes)
        except FlambeSaveError:
            values = []
            for node in nodes:
                try:
                    values += self._read([node])
                except FlambeSaveError as error:
                    values.append(error)
            return values

    def _read(self, nodes: list[Any]) -> list[Any]:
        document = part_of(*nodes)
        config = construct(document, self._recorded, trust=self._trust)
        for item in items_in(config):
            if isinstance(item, Schema) and not is_value(item):
                raise ConfigError(f"it holds a {item.component_subclass.__qualname__}, which load_state does not build")
            if isinstance(item, Reference) and item.is_for_containers:
                raise ConfigError("it holds a container that it is in")
        with self._trust.in_force():
            made = build(config, self._sources)
        return list(made) if len(nodes) > 1 else [made]


def _copies(state: Mapping[str, Any]) -> StateView:
    """Return a view of a state that copies tensors, so that they outlive the file they are in."""
    copies: dict[int, Any] = {}

    def copied(value: Any) -> Any:
        if id(value) not in copies:
            copy = value.clone() if isinstance(value, torch.Tensor) else getattr(value, "copy", lambda: value)()
            copies[id(value)] = copy
        return copies[id(value)]

    return StateView(state, copied)


# ------------------------------------------------------------------------------------------------ the object


def _slots_of(here: Any) -> dict[str, Any] | None:
    """Return an object's items by their names in keys of the state; None if not a container."""
    cls: Any = type(here)
    if isinstance(here, dict):
        return {join_key([str(key)]): value for key, value in here.items()}
    if isinstance(here, (list, deque)) or type(here) is tuple:
        return {str(index): value for index, value in enumerate(here)}
    if _has_fields(here) or (isinstance(here, tuple) and is_made_of_parts(cls)):
        return {join_key([name]): value for name, value in (parts_of(here) or {}).items()}
    if here is not _ABSENT and can_be_assembled(cls) and not isinstance(here, torch.nn.Module):
        return {join_key([name]): value for name, value in attributes_of(here).items()}
    return None


def _has_fields(here: Any) -> bool:
    """Whether an object is made of fields that can be set."""
    is_dataclass = dataclasses.is_dataclass(here) and not isinstance(here, type) and is_made_of_parts(type(here))
    return is_dataclass or isinstance(here, types.SimpleNamespace)


def _setter(here: Any, key: Any) -> Put | None:
    """Return a function that sets an entry of a container; None where it cannot be set."""
    cls: Any = type(here)
    if isinstance(here, dict) or (isinstance(here, (list, deque)) and key < len(here)):
        return partial(here.__setitem__, key)
    if _has_fields(here):
        is_frozen = dataclasses.is_dataclass(here) and cls.__dataclass_params__.frozen
        return None if is_frozen else partial(set_part, here, key)
    if can_be_assembled(cls) and not isinstance(here, (torch.nn.Module, tuple, list, deque)):
        return partial(here.__dict__.__setitem__, key)
    return None


def _replacing(here: Any, value: Any) -> Callable[[], Any] | None:
    """Return a function that gives a container another's content; None if it cannot have that."""
    if type(here) is not type(value) or here is value:
        return None
    if type(here) is list:
        return partial(here.__setitem__, slice(None), value)
    if isinstance(here, deque) and here.maxlen == value.maxlen:
        return partial(_refill, here, here.extend, value)
    if isinstance(here, (dict, set)) and getattr(here, "default_factory", None) is getattr(
        value, "default_factory", None
    ):
        return partial(_refill, here, here.update, value)
    return None


def _refill(here: Any, add: Callable[[Any], Any], value: Iterable[Any]) -> None:
    here.clear()
    add(value)


def _is_same(here: Any, value: Any) -> bool:
    """Whether two values are equal; False where comparing them raises, as arrays do."""
    try:
        return type(here) is type(value) and bool(here == value)
    except Exception:
        return False


def _what(here: Any) -> str:
    return "and not here" if here is _ABSENT else f"and a {type(here).__qualname__} here"
