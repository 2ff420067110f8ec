"""Collect the state of objects that the program builds itself."""

from __future__ import annotations

import types
from typing import Any

from flambe_save.adapters.arrays import ArrayAdapter, key_of
from flambe_save.adapters.collecting import add_node
from flambe_save.adapters.protocol import Adapter, Later, Place, ValueAdapter, adapter_for, holds_state, is_component
from flambe_save.adapters.traversal import note_visit, walk_object
from flambe_save.adapters.unchanged import Passed
from flambe_save.classes.lookup import is_harmless
from flambe_save.config.scalars import PLAIN
from flambe_save.describing.documents import config_text
from flambe_save.describing.stored_tensors import StoredTensors
from flambe_save.errors import FlambeSaveError
from flambe_save.layout import CONFIG_KEY, STASH_KEY, TAGS_KEY
from flambe_save.objects.assembly import PARTS, attributes_of, can_be_assembled
from flambe_save.objects.structural import is_made_of_parts, parts_of
from flambe_save.objects.unwrap import unwrapped
from flambe_save.pt import DumpOptions
from flambe_save.registry import CODECS
from flambe_save.schema.schema import Schema
from flambe_save.schema.stored import Unbuilt
from flambe_save.state import Stash, State


def get_unbuilt_state(obj: Any, passed: Passed | None = None) -> State:
    """Collect an object's state, and a config of its plain values that only names other objects.

    Parameters
    ----------
    obj : object
    passed : Passed, optional
        Receives all objects with their children.

    Returns
    -------
    State
        Values are shared with the object.

    Raises
    ------
    UnsupportedObjectError
        If two objects would get one key.
    """
    state = State()
    arrays: dict[int, str] = {}
    visited: dict[str, Any] = {}

    def enter(place: Place, adapter: Adapter) -> Later:
        note_visit(visited, place)
        is_node = place.is_open and not place.is_loose and not isinstance(adapter, ValueAdapter)
        if is_component(place.obj) or is_node or not place.prefix:
            _note(place, state)
        if isinstance(adapter, ArrayAdapter):
            arrays.setdefault(id(place.obj), key_of(place))
        return adapter.get_state(place, state)

    walk_object(obj, "", enter, wants=_is_in_object, passed=passed)
    if "" not in visited:  # it has no adapter
        _note(Place("", obj), state)
    values, stash, local = _Values(arrays).of(unwrapped(obj)), Stash(), state._metadata[""]
    local[CONFIG_KEY], local[TAGS_KEY] = config_text(values, stash, StoredTensors(arrays))
    if stash:
        local[STASH_KEY] = stash
    return state


def _is_in_object(parent: Place, place: Place, name: str) -> bool:
    """Whether a loose child is an attribute of a plain object, whose attributes are values."""
    cls: Any = type(parent.obj)
    return can_be_assembled(cls)


def _note(place: Place, state: State) -> None:
    add_node(place, state)
    state._metadata[place.prefix][CONFIG_KEY] = f"!unbuilt {type(place.obj).__name__}\n"


class _Values:
    """Copies containers and plain objects, with class names in place of other objects."""

    def __init__(self, arrays: dict[int, str]) -> None:
        self._arrays = arrays
        self._made: dict[int, Any] = {}
        self._alive: list[Any] = []

    def of(self, value: Any) -> Any:
        """Return a value, its copy, or the name of its class."""
        cls: Any = type(value)
        if cls in PLAIN or id(value) in self._arrays:
            return value
        if id(value) not in self._made:
            self._alive.append(value)
            self._made[id(value)] = Unbuilt(cls.__name__)  # in case it is inside itself
            self._made[id(value)] = self._copy(value)
        return self._made[id(value)]

    def _copy(self, value: Any) -> Any:
        cls: Any = type(value)
        if callable(value) and is_harmless(value):
            return value
        if holds_state(value) or isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            return Unbuilt(getattr(value, "__name__", cls.__name__) if isinstance(value, type) else cls.__name__)
        if cls in (list, tuple):
            return cls(map(self.of, value))
        if cls is dict and all(type(key) in PLAIN for key in value):
            return {key: self.of(item) for key, item in value.items()}
        made: Any = value
        if can_be_assembled(cls):
            made = Schema(cls, PARTS, attributes={name: self.of(item) for name, item in attributes_of(value).items()})
        elif is_made_of_parts(cls) and adapter_for(value) is not None:
            made = Schema(cls, **{name: self.of(part) for name, part in (parts_of(value) or {}).items()})
        return made if made is not value or self._is_data(value) else Unbuilt(cls.__name__)

    def _is_data(self, value: Any) -> bool:
        """Whether a config, or a stash that needs no trust, can hold a value."""
        try:
            config_text(value, None, StoredTensors(self._arrays))
        except FlambeSaveError:
            try:
                return not CODECS["pt"].dump({"": value}, DumpOptions()).opaque
            except FlambeSaveError:
                return False
        return True
