"""Calls as mappings of names to values: bound from a call, and called again."""

from __future__ import annotations

import functools
import inspect
import reprlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from flambe_save.config.scalars import PLAIN
from flambe_save.errors import CompilationError, FlambeSaveError
from flambe_save.objects.derived import hashable
from flambe_save.support.sizes import MAX_HASHED, unfolded_size
from flambe_save.support.trampoline import Call, Steps, run

# The path to a place: the trail of the container around it, and the key in there. A tuple of all keys for each place
# would take memory in the square of the depth.
Trail: TypeAlias = "tuple[Trail, str | int] | None"

_UNFINISHED = object()


@functools.lru_cache(maxsize=4096)
def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return a callable's signature; cached, because each construction needs it."""
    return inspect.signature(function)


@functools.lru_cache(maxsize=4096)
def _shape_of(function: Callable[..., Any]) -> tuple[dict[str, None], frozenset[str], int]:
    """Return the names of parameters, the required ones, and the number of positional ones.

    For a callable with ``*args``, ``**kwargs`` or positional-only parameters, values that no call fits.
    """
    parameters = signature_of(function).parameters.values()
    if any(item.kind not in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY) for item in parameters):
        return {}, frozenset(("",)), -1
    required = frozenset(item.name for item in parameters if item.default is item.empty)
    by_position = sum(item.kind is item.POSITIONAL_OR_KEYWORD for item in parameters)
    return dict.fromkeys(item.name for item in parameters), required, by_position


def bind_arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's arguments as keywords for a Schema, in the order of the signature.

    Raises
    ------
    CompilationError
        If ``**kwargs`` holds the name of a positional parameter, so that a mapping cannot hold both.
    """
    names, required, most = _shape_of(function)
    if len(args) <= most and kwargs.keys() <= names.keys():
        found = {**dict(zip(names, args, strict=False)), **kwargs}
        if len(found) == len(args) + len(kwargs) and required <= found.keys():
            return {name: found[name] for name in names if name in found} if kwargs else found
    bound = signature_of(function).bind(*args, **kwargs)  # raises if they do not fit; handles *args and **kwargs
    found = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found[name] = list(value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            unnamed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
            parameters = bound.signature.parameters.values()
            twice = value.keys() & {item.name for item in parameters if item.kind in unnamed}
            if twice:
                raise CompilationError(f"the keyword {min(twice)!r} has the name of a positional parameter")
            found.update(value)
        else:
            found[name] = value
    return found


def call_with(function: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> Any:
    """Call a function with arguments by name; those that it takes by position, by position.

    Raises
    ------
    CompilationError
        If the arguments do not fit the signature, or the call raises; the message has ``name``.
    """
    args, rest = _placed(function, arguments, name)
    try:
        return function(*args, **rest)
    except FlambeSaveError:
        raise
    except Exception as error:
        raise CompilationError(f"{name} raised {type(error).__name__}: {str(error)[:400]}") from error


def _placed(function: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> tuple[list[Any], dict[str, Any]]:
    """Split arguments by name into those passed by position and those passed by name.

    Raises
    ------
    CompilationError
        If the arguments do not fit the signature.
    """
    rest = dict(arguments)
    args: list[Any] = []
    try:
        names, required, _ = _shape_of(function)
        parameters = list(signature_of(function).parameters.values())
    except (TypeError, ValueError):
        return args, rest
    if required <= rest.keys() <= names.keys():  # as nearly all do
        return args, rest
    star = next((item.name for item in parameters if item.kind is inspect.Parameter.VAR_POSITIONAL), None)
    by_position = bool(star and rest.get(star))
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            several = rest.pop(parameter.name, ())
            if not isinstance(several, (list, tuple)):
                raise CompilationError(
                    f"{name}: the arguments *{parameter.name} must be a list, not {reprlib.repr(several)}"
                )
            args.extend(several)
        elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY or (
            by_position and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        ):
            if parameter.name in rest:
                args.append(rest.pop(parameter.name))
            elif by_position and parameter.default is not inspect.Parameter.empty:
                args.append(parameter.default)
    if parameters:
        try:
            signature_of(function).bind(*args, **rest)
        except TypeError as error:
            raise CompilationError(
                f"the arguments {sorted(arguments)} do not fit {name}{signature_of(function)}: {error}",
                fix="Where the class has changed since the config was written, let its constructor take the old names "
                "too, or edit the config. A @migration renames the keys of states alone (docs/versions.md).",
            ) from error
    return args, rest


def keys_of(trail: Trail) -> tuple[Any, ...]:
    """Return the keys that lead to a place, the outermost first."""
    keys = []
    while trail is not None:
        trail, key = trail
        keys.append(key)
    return tuple(reversed(keys))


def replace_items(
    value: Any,
    change: Callable[[Any, Trail], Any],
    path: Trail = None,
    memo: dict[int, Any] | None = None,
) -> Any:
    """Copy nested containers, with each item changed except plain values.

    Schemas count as items. ``change`` gets an item and the trail of keys that lead to it, and returns its replacement,
    or a Call of steps that do. A container in several places is copied once for all that share ``memo``, which must not
    outlive its containers.
    """
    if type(value) in PLAIN:  # as most arguments are
        return value
    if type(value) not in CONTAINERS:
        changed = change(value, path)
        return run(changed.steps) if isinstance(changed, Call) else changed
    return run(replacing(value, change, path, {} if memo is None else memo))


CONTAINERS = (list, tuple, set, frozenset, dict, OrderedDict)


def replacing(value: Any, change: Callable[[Any, Trail], Any], path: Trail, memo: dict[int, Any]) -> Steps:
    """Make the steps of :func:`replace_items`."""
    kind = type(value)
    if kind not in CONTAINERS:
        changed = change(value, path)
        return (yield changed.steps) if isinstance(changed, Call) else changed
    if id(value) in memo:
        if memo[id(value)] is _UNFINISHED:
            raise CompilationError("an argument is a container inside itself")
        return memo[id(value)]
    memo[id(value)] = _UNFINISHED
    items: list[Any] = []
    is_set = kind in (set, frozenset)
    if kind is dict or kind is OrderedDict:
        for key, item in value.items():
            new_key = key if type(key) in PLAIN else _hashed(key, (yield replacing(key, change, path, memo)))
            is_plain = type(item) in PLAIN
            items.append((new_key, item if is_plain else (yield replacing(item, change, (path, str(key)), memo))))
    else:
        for index, item in enumerate(value):
            if type(item) in PLAIN:
                items.append(item)
                continue
            new = yield replacing(item, change, (path, str(index)), memo)
            items.append(_hashed(item, new) if is_set else new)
    made = memo[id(value)] = kind(items)
    if kind is OrderedDict:
        vars(made).update(vars(value))  # of a state_dict, its _metadata
    return made


def _hashed(item: Any, new: Any) -> Any:
    """Return a new key or item of a set, if it can be hashed; an unchanged one could before."""
    if new is not item:
        hashable([new])
        try:
            hash(new)
        except TypeError as error:
            raise CompilationError(f"a key or a set's item: {error}", fix="Correct the config.") from error
        return new
    if unfolded_size(item, MAX_HASHED) > MAX_HASHED:  # it may come from a stash
        raise CompilationError(f"a key or a set's item of more than {MAX_HASHED} values")
    return item
