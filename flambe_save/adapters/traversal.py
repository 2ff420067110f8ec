"""From an object to its State: one walk over the tree of components, with the adapters doing the work.

object --get_state--> State; restoring.py is the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from flambe_save.adapters.arrays import ArrayAdapter, key_of
from flambe_save.adapters.protocol import (
    Adapter,
    Child,
    Later,
    Place,
    ValueAdapter,
    adapter_for,
    holds_state,
    is_component,
)
from flambe_save.adapters.source import source_of
from flambe_save.adapters.unchanged import Passed, cannot_save
from flambe_save.adapters.written import InsideComponent, WrittenParts, outside_component, shared_modules
from flambe_save.codecs.data import tie_key
from flambe_save.describing.describe import describe, describing, saved_ids
from flambe_save.describing.documents import NoOrderError, config_text
from flambe_save.describing.known import KNOWN, Known
from flambe_save.describing.stored_tensors import Held
from flambe_save.describing.writer import Written
from flambe_save.errors import (
    FlambeSaveError,
    LimitError,
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
    VERSION,
    VERSION_KEY,
)
from flambe_save.objects.arguments import keys_of
from flambe_save.objects.unwrap import unwrapped
from flambe_save.schema.schema import items_in, visit
from flambe_save.state import Stash, State
from flambe_save.support.undoing import Setting
from flambe_save.tree import join_prefix

_MANY, _TIMES = 50_000, 20  # places in a tree, and how many each object may have
_MOST_TRIES = 20  # to describe all objects, each with more that is known
_MOST_NESTED = 128 << 20  # characters in the keys of places that are inside each other

__all__ = ["Wants", "add_node", "get_state", "note_visit", "restore_ties", "walk_object"]


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
        Where to add it; a new one is made otherwise.
    prefix : str
        The object's own prefix in ``state``.
    keep_vars : bool
        Whether parameters themselves are wanted, and not tensors detached from them.
    passed : Passed, optional
        Gets all objects with their children, for a check once more when the state is pickled.

    Returns
    -------
    State
        Tensors are detached but share memory with the object: training on changes them. Metadata tells, for each
        component, its class, version, source, config and stash.

    Raises
    ------
    UnsupportedObjectError
        If two objects would get one prefix, or what the object is made of cannot be represented.
    SaveError
        If code of the object raises anything, or an object gets other children meanwhile.
    """
    state = State() if state is None else state
    passed = Passed() if passed is None else passed
    before = state.copy()

    def collect(known: Known) -> Known:
        """Collect the state; return what is known then, as which it has to be collected once more if that is more."""
        with Setting(KNOWN, known), describing():
            return _collect(obj, state, prefix, keep_vars, passed)

    known = Known()
    try:
        for _ in range(_MOST_TRIES):
            found = collect(known)
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
    raise UnsupportedObjectError(  # an adapter makes its parts anew each time, so that nothing stays known of them
        f"parts of this {type(obj).__qualname__} refer to what is around them, and are others each time",
        fix="Let its adapter return the same objects as children each time.",
    )


def _collect(obj: Any, found: State, prefix: str, keep_vars: bool, passed: Passed) -> Known:
    """Collect a state; return what is known then, where that is more than before without having warned."""
    known = KNOWN.get()
    visited: dict[str, Any] = {}
    nodes: list[Place] = []
    written_parts = WrittenParts(found)
    arrays: dict[int, list[str]] = {}
    containers: dict[int, str] = {}
    places: dict[int, list[str]] = {}
    if adapter_for(obj) is None:  # a value of which nothing is known but that the config, or the stash, holds it
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
    holds, written = _Holds(found), Written()
    names = {id(item): path for path, item in visited.items() if holds_state(item) and path}
    keys = {number: key for number, (key,) in arrays.items()}
    for place in nodes:
        is_root = place.prefix == prefix
        key_of_tensor = written_parts.keys_below(place.prefix)
        arrays_here = keys if is_root else InsideComponent(place.prefix, arrays)
        is_outside = Held().is_outside if is_root else outside_component(place.prefix, places)
        inside = containers if is_root else InsideComponent(place.prefix, places)
        held = Held(arrays_here, inside, holds, key_of_tensor, is_outside, not is_root)
        try:
            _add_config(place, found, held, written, names)
        except NoOrderError:  # calls and their changes need each other; parts do not, nor do tensors of the state
            more = known._replace(is_in_parts=True, tied=known.tied | written_parts.of_modules(written.referred))
            if more == known:
                raise
            return more
    passed.check()
    tied = known.tied | written_parts.tied(written.referred, written.keyed)
    more = known._replace(tied=tied, unsaid=known.unsaid | written.unsaid)
    if more != known:
        return more
    if not prefix:
        _warn_of_left_out(obj, {id(item) for item in visited.values()})
        written_parts.warn_of_hidden()
        written_parts.warn_of_lost({id(item): path for path, item in reversed(visited.items())})
    return known


def _warn_of_left_out(obj: Any, visited: set[int]) -> None:
    """Warn of components that the object was built from and that are nowhere in it now: their state is not saved."""
    if all(id(item) in visited for item in items_in(obj) if is_component(item)):
        return  # to know where each item is takes longer
    for trail, item in visit(obj):
        if is_component(item) and id(item) not in visited and get_state(item):
            warn(
                f"{'.'.join(keys_of(trail))} ({type(item).__qualname__}), which this {type(obj).__qualname__} was "
                "built from, is not found in it: its state is not saved, and a load will build a fresh one",
                StateMismatchWarning,
            )


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
    optimizers: list[torch.optim.Optimizer] = []
    replaced: dict[int, tuple[Any, Any]] = {}

    def enter(place: Place, adapter: Adapter) -> Later:
        if isinstance(place.obj, torch.nn.Module):
            for name in (*place.obj._parameters, *place.obj._buffers):
                where[place.key_prefix + name] = place.obj, name
        elif isinstance(place.obj, torch.optim.Optimizer):
            optimizers.append(place.obj)
        return None

    groups = [list(group) for group in groups]
    around = {""}
    for key in (key for group in groups for key in group):
        while key not in around:
            around.add(key)
            key = key.rpartition(".")[0]
    if groups:
        walk_object(obj, "", enter, wants=lambda parent, place, name: place.prefix in around)
    for group in groups:
        tied = [where[key] for key in group if key in where]
        if not tied:
            continue
        first = _table_of(*tied[0])[tied[0][1]]
        for module, name in tied[1:]:
            table = _table_of(module, name)
            other = table[name]
            if other is not first and type(other) is type(first) and other.shape == first.shape:
                table[name] = first
                if isinstance(module, nn.RNNBase):
                    nn.RNNBase._init_flat_weights(module)
                replaced[id(other)] = other, first
    for optimizer in optimizers if replaced else ():
        own = optimizer.__dict__  # no property of its class is run
        for group in own.get("param_groups") or ():
            group["params"][:] = [replaced[id(item)][1] if id(item) in replaced else item for item in group["params"]]
        state = own.get("state") or {}
        for other, first in replaced.values():
            if other in state:
                state[first] = state.pop(other)


def _table_of(module: torch.nn.Module, name: str) -> dict[str, Any]:
    """Return the table of a module that a tensor is in."""
    table: Any = module._parameters if name in module._parameters else module._buffers
    return cast("dict[str, Any]", table)


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
    """Call ``enter`` for each object that has an adapter, parents first, and what it returns when its children are
    done.

    Children are looked up after ``enter``, which may change them. An object inside itself is not gone into again. What
    refers to others, as optimizers do, comes last; what is borrowed only where nothing else has led to it. What is
    loose is gone into where it is wanted: ``wants`` is given the place around it, its own, and its name there. In a
    save, ``passed`` is given the objects with their children, and ``lost`` has, by the ids of objects, the names of
    their attributes that no config can say: these are not gone into.
    """
    stack: list[tuple[Place, Adapter, Iterator[Child], Later]] = []
    path: set[int] = set()
    seen: set[int] = set()
    waiting: list[tuple[Place, Adapter, bool]] = []
    name_of = _Names(obj, prefix)

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


class _Names:
    """What the parameters and buffers in a tree are called; looked up when first asked for.

    Parameters
    ----------
    root : object
    prefix : str
        The root's own.
    """

    def __init__(self, root: Any, prefix: str) -> None:
        self._root = root
        self._prefix = prefix
        self._names: dict[int, str] | None = None

    def __call__(self, tensor: torch.Tensor) -> str | None:
        """Return a tensor's key in the state, or None."""
        if self._names is None:
            names = self._names = {}

            def enter(place: Place, adapter: Adapter) -> Later:
                if isinstance(place.obj, torch.nn.Module):
                    for name, value in (*place.obj._parameters.items(), *place.obj._buffers.items()):
                        names.setdefault(id(value), place.key_prefix + name)
                elif isinstance(adapter, ArrayAdapter):
                    names.setdefault(id(place.obj), key_of(place))
                return None

            walk_object(self._root, self._prefix, enter)
        return self._names.get(id(tensor))


class _Holds:
    """Whether a state holds a tensor's values; its tensors are looked at when first asked for."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._keys: set[Any] | None = None

    def __call__(self, tensor: torch.Tensor) -> bool:
        """Return whether the state holds the tensor, or a view of just its memory."""
        if self._keys is None:
            self._keys = {tie_key(value) for value in self._state.values() if isinstance(value, torch.Tensor)}
        key = tie_key(tensor)
        return key is not None and key in self._keys


def note_visit(visited: dict[str, Any], place: Place) -> None:
    """Note an object by its prefix.

    Raises
    ------
    UnsupportedObjectError
        If another one has that.
    """
    if visited.setdefault(place.prefix, place.obj) is not place.obj:
        raise UnsupportedObjectError(
            f"two objects have the key {place.prefix!r}: keys of a dict that read alike, such as 1 and '1'",
            node=place.prefix,
        )


def add_node(place: Place, state: State) -> None:
    """Write down what is known of an object that gets a folder: class, version, source."""
    obj, prefix = place.obj, place.prefix
    if prefix in (DIRECTORIES_KEY, KEEP_VARS_KEY):
        raise UnsupportedObjectError(f"a component cannot have the key {prefix!r}, which the format uses itself")
    if prefix in state._metadata[DIRECTORIES_KEY]:
        raise UnsupportedObjectError(
            f"the State that this is added to holds a component with the key {prefix!r} already", node=prefix
        )
    state._metadata[DIRECTORIES_KEY].add(prefix)
    local = state._metadata.setdefault(prefix, {})
    local[VERSION_KEY] = _version_of(type(obj), prefix)
    local[CLASS_KEY] = type(obj).__name__
    local[SOURCE_KEY] = source_of(type(obj))


def _version_of(cls: type, node: str) -> str:
    """Return the version of a class, which a save notes.

    Raises
    ------
    UnsupportedObjectError
        If it is none that a load would read.
    """
    version = getattr(cls, "_flambe_version", NO_VERSION)
    if not isinstance(version, str) or VERSION.fullmatch(version) is None:
        raise UnsupportedObjectError(
            f"{cls.__qualname__}._flambe_version is not a version: {version!r}",
            node=node,
            fix="Write it as numbers in a text: '1.2.0'.",
        )
    return version


def _add_config(place: Place, state: State, held: Held, written: Written, names: Mapping[int, str]) -> None:
    """Write down how an object is built again, and what of that YAML cannot hold."""
    if is_component(place.obj) and describe(place.obj) is None:
        return  # it was not built by calling its class; its state is saved all the same
    if place.prefix and not getattr(adapter_for(place.obj), "stands_alone", True):
        return  # it is built on others, which are outside of its folder
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
