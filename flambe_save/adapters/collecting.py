"""Collect an object's State in one walk over its components, with their adapters.

object --get_state--> State; restoring.py is the way back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from flambe_save.adapters.arrays import ArrayAdapter, key_of
from flambe_save.adapters.class_source import source_of
from flambe_save.adapters.protocol import Adapter, Later, Place, ValueAdapter, adapter_for, holds_state, is_component
from flambe_save.adapters.traversal import note_visit, walk_object
from flambe_save.adapters.unchanged import Passed, cannot_save
from flambe_save.adapters.written import InsideComponent, WrittenParts, outside_component, shared_modules
from flambe_save.codecs.data import tie_key
from flambe_save.describing.describe import describe, describing, saved_ids
from flambe_save.describing.documents import NoOrderError, config_text
from flambe_save.describing.known import KNOWN, Known
from flambe_save.describing.stored_tensors import StoredTensors
from flambe_save.describing.writer import Written
from flambe_save.errors import FlambeSaveError, StateMismatchWarning, UnsupportedObjectError, warn
from flambe_save.layout import (
    CLASS_KEY,
    CONFIG_KEY,
    DIRECTORIES_KEY,
    KEEP_VARS_KEY,
    NO_VERSION,
    SOURCE_KEY,
    STASH_KEY,
    TAGS_KEY,
    VERSION,
    VERSION_KEY,
)
from flambe_save.objects.arguments import keys_of
from flambe_save.schema.schema import items_in, visit
from flambe_save.state import Stash, State
from flambe_save.support.undoing import Setting

_MOST_TRIES = 20  # to describe all objects, each with more that is known


def get_state(
    obj: Any,
    state: State | None = None,
    prefix: str = "",
    *,
    keep_vars: bool = False,
    passed: Passed | None = None,
) -> State:
    """Collect the state of an object and all components inside it.

    Parameters
    ----------
    obj : object
        Of any kind; one that has no adapter holds no state, and only its config is collected.
    state : State, optional
        Receives the values; a new one is made otherwise.
    prefix : str
        The object's own prefix in ``state``.
    keep_vars : bool
        Whether parameters themselves are wanted, and not tensors detached from them.
    passed : Passed, optional
        Receives all objects with their children, so that they can be checked again when the state is pickled.

    Returns
    -------
    State
        Tensors are detached but share memory with the object: training on changes them. The metadata has each
        component's class, version, source, config and stash.

    Raises
    ------
    UnsupportedObjectError
        If two objects would get one prefix, or a part of the object cannot be represented.
    SaveError
        If code of the object raises anything, or an object gets other children meanwhile.
    """
    state = State() if state is None else state
    passed = Passed() if passed is None else passed
    before = state.copy()

    known = Known()
    try:
        for _ in range(_MOST_TRIES):
            with Setting(KNOWN, known), describing():
                found = _collect(obj, state, prefix, keep_vars, passed)
            if found == known:
                return state
            known = found
            state.clear()
            state.update(before)
            state._metadata = before.copy()._metadata
    except (FlambeSaveError, Warning):  # a warning that the caller makes an error stays one
        raise
    except Exception as error:
        passed.check()  # which says what has changed, where that made it fail
        raise cannot_save(Place(prefix, obj), error) from error
    raise UnsupportedObjectError(  # an adapter makes its parts anew each time, so each try finds other ids
        f"parts of this {type(obj).__qualname__} refer to what is around them, and are others each time",
        fix="Let its adapter return the same objects as children each time.",
    )


def _collect(obj: Any, found: State, prefix: str, keep_vars: bool, passed: Passed) -> Known:
    """Collect a state once; return all that is known afterwards.

    Where that is more than before, the state has to be collected again, and nothing has been warned of.
    """
    known = KNOWN.get()
    visited: dict[str, Any] = {}
    nodes: list[Place] = []
    written_parts = WrittenParts(found)
    arrays: dict[int, list[str]] = {}
    containers: dict[int, str] = {}
    places: dict[int, list[str]] = {}
    if adapter_for(obj) is None:  # the config or the stash holds it whole
        nodes.append(Place(prefix, obj))
        add_node(nodes[0], found)

    def enter(place: Place, adapter: Adapter) -> Later:
        note_visit(visited, place)
        is_value = isinstance(adapter, ValueAdapter)
        is_node = place.is_open and not is_value and not place.is_loose
        if place.prefix == prefix or is_component(place.obj) or is_node:
            nodes.append(place)
            add_node(place, found)
            written_parts.note(place.obj, place.prefix)
        if isinstance(adapter, ArrayAdapter):
            arrays.setdefault(id(place.obj), [key_of(place)])
        else:
            containers.setdefault(id(place.obj), place.prefix)
            places.setdefault(id(place.obj), []).append(place.prefix)
        later = adapter.get_state(place, found)
        if isinstance(place.obj, torch.nn.Module):
            written_parts.add_own(place)
        elif isinstance(place.obj, torch.nn.Parameter):
            written_parts.keep_apart(key_of(place), place.obj)
        return later

    passed.clear()
    walk_object(obj, prefix, enter, keep_vars, written_parts.wants, passed, written_parts.lost)
    if not known.shared:
        shared = shared_modules(visited)
        if shared:
            return known._replace(shared=shared)
    saved_ids().update(map(id, visited.values()))
    written_parts.note_others(nodes)
    written_parts.note_other_keys()
    holds, written = _holder(found), Written()
    names = {id(item): path for path, item in visited.items() if holds_state(item) and path}
    keys = {number: key for number, (key,) in arrays.items()}
    for place in nodes:
        is_root = place.prefix == prefix
        key_of_tensor = written_parts.keys_below(place.prefix)
        arrays_here = keys if is_root else InsideComponent(place.prefix, arrays)
        is_outside = StoredTensors().is_outside if is_root else outside_component(place.prefix, places)
        inside = containers if is_root else InsideComponent(place.prefix, places)
        held = StoredTensors(arrays_here, inside, holds, key_of_tensor, is_outside, not is_root)
        try:
            _add_config(place, found, held, written, names)
        except NoOrderError:  # calls and their changes need each other; parts and tensors of the state do not
            more = known._replace(is_in_parts=True, tied=known.tied | written_parts.of_modules(written.referred))
            if more == known:
                raise
            return more
    hidden = written_parts.hidden()  # before the check: what another thread adds later is not among it
    passed.check()
    tied = known.tied | written_parts.tied(written.referred, written.keyed)
    more = known._replace(tied=tied, unsaid=known.unsaid | written.unsaid)
    if more != known:
        return more
    if not prefix:
        _warn_of_left_out(obj, {id(item) for item in visited.values()})
        written_parts.warn_of_hidden(hidden)
        written_parts.warn_of_lost({id(item): path for path, item in reversed(visited.items())})
    return known


def _warn_of_left_out(obj: Any, visited: set[int]) -> None:
    """Warn of components that built the object but are not in it now: they are not saved."""
    if all(id(item) in visited for item in items_in(obj) if is_component(item)):
        return  # finding the place of each item takes longer
    for trail, item in visit(obj):
        if is_component(item) and id(item) not in visited and get_state(item):
            warn(
                f"{'.'.join(keys_of(trail))} ({type(item).__qualname__}), which this {type(obj).__qualname__} was "
                "built from, is not found in it: its state is not saved, and a load will build a fresh one",
                StateMismatchWarning,
            )


def _holder(state: State) -> Callable[[torch.Tensor], bool]:
    """Return a test for whether a state holds a tensor, or a view of just its memory."""

    @functools.cache
    def keys() -> set[Any]:
        return {tie_key(value) for value in state.values() if isinstance(value, torch.Tensor)} - {None}

    return lambda tensor: tie_key(tensor) in keys()


def add_node(place: Place, state: State) -> None:
    """Add an object that gets a folder to the metadata: its class, version and source.

    Raises
    ------
    UnsupportedObjectError
        If the key is taken, or the version is not one that a load would read.
    """
    obj, prefix = place.obj, place.prefix
    if prefix in (DIRECTORIES_KEY, KEEP_VARS_KEY):
        raise UnsupportedObjectError(f"a component cannot have the key {prefix!r}, which the format uses itself")
    if prefix in state._metadata[DIRECTORIES_KEY]:
        raise UnsupportedObjectError(
            f"the State that this is added to holds a component with the key {prefix!r} already", node=prefix
        )
    state._metadata[DIRECTORIES_KEY].add(prefix)
    local = state._metadata.setdefault(prefix, {})
    version = getattr(type(obj), "_flambe_version", NO_VERSION)
    if not isinstance(version, str) or VERSION.fullmatch(version) is None:
        raise UnsupportedObjectError(
            f"{type(obj).__qualname__}._flambe_version is not a version: {version!r}",
            node=prefix,
            fix="Write it as numbers in a text: '1.2.0'.",
        )
    local.update({VERSION_KEY: version, CLASS_KEY: type(obj).__name__, SOURCE_KEY: source_of(type(obj))})


def _add_config(place: Place, state: State, held: StoredTensors, written: Written, names: Mapping[int, str]) -> None:
    """Add the config of an object that gets a folder, and a stash of what YAML cannot hold."""
    if is_component(place.obj) and describe(place.obj) is None:
        return  # it was not built by calling its class; its state is saved nevertheless
    if place.prefix and not getattr(adapter_for(place.obj), "stands_alone", True):
        return  # it is built on objects outside of its folder
    local, prefix = state._metadata[place.prefix], place.prefix
    stash = Stash()
    stash.elsewhere = names
    try:
        local[CONFIG_KEY], local[TAGS_KEY] = config_text(place.obj, stash, held, written)
    except FlambeSaveError as error:
        error.locate(node=prefix)
        raise
    if stash:
        local[STASH_KEY] = stash
