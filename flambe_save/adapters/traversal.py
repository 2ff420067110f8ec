"""From an object to its State and back: one walk over the tree of components, with the adapters doing the work.

object --get_state--> State        State --load_state--> object
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from flambe_save.adapters.protocol import (
    Adapter,
    Child,
    Fit,
    Later,
    Mismatch,
    Place,
    adapter_for,
    is_component,
)
from flambe_save.adapters.source import source_of
from flambe_save.config.represent import config_text, describe
from flambe_save.config.schema import visit
from flambe_save.errors import (
    FlambeSaveError,
    StateMismatchError,
    StateMismatchWarning,
    UnsupportedObjectError,
    warn,
)
from flambe_save.layout import (
    CLASS_KEY,
    CONFIG_KEY,
    DIRECTORIES_KEY,
    KEEP_VARS_KEY,
    NO_VERSION,
    SOURCE_KEY,
    STASH_KEY,
    TAGS_KEY,
    VERSION_KEY,
)
from flambe_save.state import State
from flambe_save.tree import join_prefix, place_key

__all__ = ["get_state", "load_state", "restore_ties"]


def get_state(obj: Any, state: State | None = None, prefix: str = "", *, keep_vars: bool = False) -> State:
    """Collect the state of an object and all components inside it.

    Parameters
    ----------
    obj : object
        Of a kind that has an adapter.
    state : State, optional
        Where to add it; a new one is made otherwise.
    prefix : str
        The object's own prefix in ``state``.
    keep_vars : bool
        Whether parameters themselves are wanted, and not tensors detached from them.

    Returns
    -------
    State
        Tensors are detached but share memory with the object: training on changes them. Metadata tells, for each
        component, its class, version, source, config and stash.

    Raises
    ------
    UnsupportedObjectError
        If the object is of no known kind, or two components would get one prefix.
    """
    state = State() if state is None else state
    if adapter_for(obj) is None:
        raise UnsupportedObjectError(
            f"a {type(obj).__qualname__} holds no state that is known here",
            node=prefix,
            fix="Save a Component or an nn.Module, or register_adapter() for its type.",
        )
    found = state
    visited: dict[str, Any] = {}

    def enter(place: Place, adapter: Adapter) -> Later:
        if visited.setdefault(place.prefix, place.obj) is not place.obj:
            raise UnsupportedObjectError(
                f"two objects have the key {place.prefix!r}: keys of a dict that read alike, such as 1 and '1'",
                node=place.prefix,
            )
        if place.prefix == prefix or is_component(place.obj):
            _add_component(place, found)
        return adapter.get_state(place._replace(keep_vars=keep_vars), found)

    _walk(obj, prefix, enter)
    if not prefix:
        _warn_of_left_out(obj, {id(item) for item in visited.values()})
    return state


def _warn_of_left_out(obj: Any, visited: set[int]) -> None:
    """Warn of components that the object was built from and that are nowhere in it now: their state is not saved."""
    for keys, item in visit(obj):
        if is_component(item) and id(item) not in visited and get_state(item):
            warn(
                f"{'.'.join(keys)} ({type(item).__qualname__}), which this {type(obj).__qualname__} was built from, is "
                "not found in it: its state is not saved, and a load will build a fresh one",
                StateMismatchWarning,
            )


def load_state(obj: Any, state: State, *, strict: bool = True, fit: Fit | None = None) -> None:
    """Load a State into an object and all components inside it. Inverse of :func:`get_state`.

    Parameters
    ----------
    obj : object
        Changed in place; tensors are copied into the memory that the object has.
    state : State
        Left as it is.
    strict : bool
        Whether keys that are missing or not wanted are an error; otherwise they are a warning.
    fit : Fit, optional
        That the object's tensors first take the types and devices of the state's.

    Raises
    ------
    StateMismatchError
        If keys or shapes differ; the message lists all of them.
    VersionMismatchError
        If the major version of a class differs.
    """
    state = state.copy()  # hooks may change it
    mismatch = Mismatch()

    def enter(place: Place, adapter: Adapter) -> Later:
        mismatch.owners[place.prefix] = False
        return adapter.load_state(place, state, mismatch, fit)

    _walk(obj, "", enter)
    mismatch.unexpected += [
        key for key in state if key not in mismatch.consumed and not mismatch.owners[place_key(key, mismatch.owners)[0]]
    ]
    if mismatch:
        text = f"the saved state does not fit this {type(obj).__qualname__}:\n  {mismatch}"
        if strict or mismatch.errors:
            fix = "Build the object as it was when it was saved"
            raise StateMismatchError(text, fix=f"{fix}." if mismatch.errors else f"{fix}, or load with strict=False.")
        warn(text, StateMismatchWarning)


def restore_ties(obj: Any, groups: Iterable[Iterable[str]]) -> None:
    """Make one parameter, or buffer, of those that were one when they were saved.

    Parameters
    ----------
    obj : object
        Changed in place. Where its constructor ties them already, nothing changes.
    groups : iterable of iterables of str
        State keys; those that are no tensors of modules are left alone.
    """
    where: dict[str, tuple[torch.nn.Module, str]] = {}

    def enter(place: Place, adapter: Adapter) -> Later:
        if isinstance(place.obj, torch.nn.Module):
            for name in (*place.obj._parameters, *place.obj._buffers):
                where[place.key_prefix + name] = place.obj, name
        return None

    groups = [list(group) for group in groups]
    if groups:
        _walk(obj, "", enter)
    for group in groups:
        tied = [where[key] for key in group if key in where]
        if not tied:
            continue
        first = getattr(*tied[0])
        for module, name in tied[1:]:
            other = getattr(module, name)
            if other is not first and type(other) is type(first) and other.shape == first.shape:
                setattr(module, name, first)


def _walk(obj: Any, prefix: str, enter: Callable[[Place, Adapter], Later]) -> None:
    """Call ``enter`` for each object that has an adapter, parents first, and what it returns when its children are
    done.

    Children are looked up after ``enter``, which may change them. An object inside itself is not gone into again.
    """
    stack: list[tuple[Place, Iterator[Child], Later]] = []
    path: set[int] = set()

    def push(place: Place, adapter: Adapter) -> None:
        later = enter(place, adapter)
        path.add(id(place.obj))
        stack.append((place, iter(list(adapter.children(place.obj))), later))

    root = adapter_for(obj)
    if root is not None:
        push(Place(prefix, obj, covered=False), root)
    while stack:
        parent, children, later = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            path.discard(id(parent.obj))
            if later is not None:
                later()
            continue
        found = adapter_for(child.obj)
        if found is not None and id(child.obj) not in path:
            push(Place(join_prefix(parent.prefix, child.name), child.obj, child.covered), found)


def _add_component(place: Place, state: State) -> None:
    """Write down what is known of a component: class, version, source, config, stash."""
    obj, prefix = place.obj, place.prefix
    if prefix in (DIRECTORIES_KEY, KEEP_VARS_KEY):
        raise UnsupportedObjectError(f"a component cannot have the key {prefix!r}, which the format uses itself")
    if prefix in state._metadata[DIRECTORIES_KEY]:
        raise UnsupportedObjectError(
            f"the State that this is added to holds a component with the key {prefix!r} already", node=prefix
        )
    state._metadata[DIRECTORIES_KEY].add(prefix)
    local = state._metadata.setdefault(prefix, {})
    local[VERSION_KEY] = getattr(type(obj), "_flambe_version", NO_VERSION)
    local[CLASS_KEY] = type(obj).__name__
    local[SOURCE_KEY] = source_of(type(obj))
    if describe(obj) is None:
        return  # it was not built by calling its class; its state is saved all the same
    stash: dict[str, Any] = {}
    try:
        local[CONFIG_KEY], local[TAGS_KEY] = config_text(obj, stash)
    except FlambeSaveError as error:
        error.locate(node=prefix)
        raise
    if stash:
        local[STASH_KEY] = stash
