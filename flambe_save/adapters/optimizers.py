"""Optimizers: how they are built, and their state by the names of its parameters.

An optimizer is built on the parameters of the module that the same config builds, so it updates that model. Optimizers
are visited after everything else, when parameters have their final types and devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from flambe_save.adapters.moments import (
    GROUPS,
    STATE,
    WHOLE,
    Kept,
    SavedState,
    know_old_versions,
    with_names,
    with_parameters,
    would_be_rounded,
)
from flambe_save.adapters.protocol import Check, Child, Fit, Later, Mismatch, Place, attributes_as_children
from flambe_save.adapters.stateful import in_parts, noting_failure
from flambe_save.describing.describe import assembled, describe_as, described, with_lost
from flambe_save.errors import StateMismatchWarning, UnsupportedObjectError, quote_some, warn
from flambe_save.layout import DTYPES_KEY, ENTRIES_KEY, PARAMS_LAST_KEY, SHAPES_KEY, STEPPED_KEY
from flambe_save.objects.arguments import signature_of
from flambe_save.objects.assembly import attributes_of
from flambe_save.objects.optimizers import hooks_of, is_data, parameters_of
from flambe_save.schema.link import Link, ParameterLink
from flambe_save.schema.schema import Schema, schema_of
from flambe_save.state import State, join_key, keys_below, split_key

_SHARED = "shared_state"  # entries of an optimizer's state under other keys than its parameters
_CACHES = frozenset(("_numel_cache",))  # attributes that torch's own optimizers make again when they need them


class OptimizerAdapter:
    """Optimizers by parameter names: reordering groups or freezing layers shifts no moments."""

    comes_last = True
    stands_alone = False

    def describe(self, obj: Optimizer) -> Schema:
        """Return the call that makes just this optimizer, if it is torch's own; else its parts.

        Raises
        ------
        UnsupportedObjectError
            If its class defines how it is pickled, or it knows its parameters by their ids.
        """
        sharing = [item for item in described(Optimizer) if _have_groups_in_common(obj, item)]
        call = _call_of(obj) if _is_of_torch(obj) and not sharing else None
        if call is not None:
            return with_lost(call, hooks_of(obj) + (["step"] if "step" in attributes_of(obj) else []))
        _check_ids(obj)
        parts = in_parts(obj)
        inside = (item for item in attributes_of(obj).values() if isinstance(item, Optimizer))
        for other in (*sharing, *(item for item in inside if _have_groups_in_common(obj, item))):
            describe_as(other, assembled(other))  # no call would give it the groups of another
        return parts

    def children(self, obj: Optimizer) -> Iterable[Child]:
        """Return its attributes; the parameters are the model's."""
        return attributes_as_children(obj, _aliases(obj))

    def get_state(self, place: Place, state: State) -> Later:
        """Add the groups, with parameters by name, and each parameter's state under its name."""
        own, before, begin = place.obj.__dict__, set(state), place.key_prefix
        tensors = parameters_of(place.obj)
        names = _names_of(place, tensors)
        called = {id(tensor): name for tensor, name in zip(tensors, names, strict=True)}
        shared = {}

        def name_of(tensor: torch.Tensor) -> str | None:
            return called.get(id(tensor)) or place.name_of(tensor)

        for key, kept in (own.get(STATE) or {}).items():
            has_names = type(kept) is dict and kept and all(type(name) is str and name for name in kept)
            if not (has_names and all(type(value) is torch.Tensor for value in kept.values())):
                kept = with_names(kept, name_of)
            if not isinstance(key, torch.Tensor):
                shared[key] = kept
                continue
            for name, value in kept.items() if has_names else ((WHOLE, kept),):
                state[f"{begin}{STATE}.{called[id(key)]}.{join_key([name])}"] = value
        if own.get(GROUPS) is not None:
            state[begin + GROUPS] = [  # as torch's state_dict has them, the parameters last
                {
                    **{name: value for name, value in group.items() if name != "params" and is_data(value)},
                    "params": [called[id(tensor)] for tensor in group["params"]],
                }
                for group in own[GROUPS]
            ]
        if shared:
            state[begin + _SHARED] = shared
        local = state._metadata.setdefault(place.prefix, {})
        local[ENTRIES_KEY] = [key[len(begin) :] for key in state if key not in before]
        local[SHAPES_KEY] = {name: tuple(tensor.shape) for name, tensor in zip(names, tensors, strict=True)}
        rounded = [tensor for tensor in tensors if would_be_rounded(tensor, (own.get(STATE) or {}).get(tensor))]
        if rounded:
            local[DTYPES_KEY] = {called[id(item)]: str(item.dtype).removeprefix("torch.") for item in rounded}
        if any(next(iter(group)) != "params" for group in own.get(GROUPS) or ()):
            local[PARAMS_LAST_KEY] = True
        if own.get("_opt_called"):
            local[STEPPED_KEY] = True
        return None

    def checker(self, place: Place, state: State) -> Check:
        """Return a function that notes groups and parameters that do not match the saved ones."""

        def note(found: Mismatch) -> None:
            _match(place, state, found)
            found.consumed.update(keys_below(state, place.prefix))

        return note

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Give each parameter the state saved under its name, or else under its position."""
        matched = _match(place, state, mismatch)
        if matched is None:
            return None
        groups, tensors, here, saved, is_by_position = matched
        obj, begin = place.obj, place.key_prefix
        local = state._metadata.get(place.prefix, {})
        if is_by_position:
            if here != list(map(str, range(len(here)))):
                warn(
                    f"the optimizer's parameters are called {quote_some(here)} here and {quote_some(saved)} in the "
                    "save: they are matched by their positions",
                    StateMismatchWarning,
                )
            here = [*saved[: len(here)], *here[len(saved) :]]
        kept, named = _entries(place, state, saved), dict(zip(here, tensors, strict=True))
        _leave_out(place, kept, named, saved, local.get(SHAPES_KEY), mismatch)
        saved_state = SavedState(
            groups, kept, with_parameters(state.get(begin + _SHARED) or {}, named), named, PARAMS_LAST_KEY in local
        )
        entries = local.get(ENTRIES_KEY)
        names = map(str, entries if isinstance(entries, list) else ())
        others = [name for name in names if "." not in name and name not in (GROUPS, _SHARED)]  # of its state_dict
        mismatch.consumed.update(begin + name for name in others)
        is_put_together = fit is not None and fit.adoption is not None and id(obj) in fit.adoption.assembled
        is_torchs_new = fit is not None and _is_of_torch(obj)
        with noting_failure(place, mismatch):
            if is_put_together or is_torchs_new or (type(obj).state_dict is not Optimizer.state_dict and not others):
                saved_state.fill(obj)
                if is_torchs_new and not is_put_together:
                    know_old_versions(obj)
            else:
                more = {split_key(name)[0]: state[begin + name] for name in others}
                saved_state.give(obj, more, local.get(DTYPES_KEY))
        if fit is not None and local.get(STEPPED_KEY) is True:
            obj.__dict__["_opt_called"] = True
        return None


OPTIMIZER = OptimizerAdapter()


# ------------------------------------------------------------------------------------------------ as a call


def _is_of_torch(obj: Any) -> bool:
    cls: Any = type(obj)
    return getattr(torch.optim, cls.__name__, None) is cls


def _have_groups_in_common(obj: Any, inner: Any) -> bool:
    groups = {id(group) for group in obj.__dict__.get(GROUPS) or ()}
    return any(id(group) in groups for group in inner.__dict__.get(GROUPS) or ())


def _check_ids(obj: Any) -> None:
    """Refuse an optimizer that knows its parameters by ids, which differ in another process."""
    attributes = attributes_of(obj)
    optimizers = (obj, *(value for value in attributes.values() if isinstance(value, Optimizer)))
    ids = {id(tensor) for optimizer in optimizers for tensor in parameters_of(optimizer)}
    for name, value in attributes.items():
        if type(value) in (dict, set, list) and any(type(item) is int and item in ids for item in value):
            raise UnsupportedObjectError(
                f"the {name!r} of a {type(obj).__qualname__} holds the ids of parameters, which another process does "
                "not have",
                fix="Save the optimizer that it wraps, or register_adapter() for its class.",
            )


def _aliases(obj: Any) -> set[int]:
    """Return the ids of lists and mappings of an optimizer's own that attributes may be, too."""
    own = obj.__dict__
    groups = own.get(GROUPS) or ()
    return {id(own.get(name)) for name in (GROUPS, STATE, "defaults")} | {id(group["params"]) for group in groups}


def _call_of(obj: Optimizer) -> Schema | None:
    """Return the call that makes one of torch's own optimizers, without its state; else None."""
    own, recorded = obj.__dict__, schema_of(obj)
    groups = own[GROUPS]
    known = {} if recorded is None else recorded.keywords
    arguments: dict[str, Any] = {}
    cls: Any = type(obj)
    for name in [*signature_of(cls).parameters][1:]:
        link = known.get(name)
        if isinstance(link, Link) and link.is_resolved and _are_equal(link.resolved, obj.defaults.get(name)):
            arguments[name] = link
        elif name in obj.defaults or name in known:
            arguments[name] = obj.defaults.get(name, link)
    values = {name: item.resolved if isinstance(item, Link) else item for name, item in arguments.items()}
    try:
        made = type(obj)([_like(group) for group in groups], **values)
        if not _is_as_made(obj, made):
            return None
    except Exception:  # the constructor refuses what its optimizer has become
        return None
    return Schema(type(obj), params=_described_groups(obj), **arguments)


def _like(group: dict[str, Any]) -> dict[str, Any]:
    """Return a group with one small tensor, like another group: no constructor looks at more."""
    tensors = [torch.empty([1] * item.ndim, dtype=item.dtype, device=item.device) for item in group["params"][:1]]
    names = group.get("param_names")
    return {"params": [*zip(names[:1], tensors, strict=True)] if names else tensors}


def _is_as_made(obj: Optimizer, made: Optimizer) -> bool:
    own, other = attributes_of(obj), attributes_of(made)
    groups, state = obj.__dict__[GROUPS], obj.__dict__[STATE]
    moved = [id(tensor) for group in groups for tensor in group["params"]]
    inside = {*moved}
    return (
        [name for name in own if name != "step"] == list(other)
        and all(
            name in _CACHES or _are_alike(value, obj, other[name], made) for name, value in own.items() if name in other
        )
        and len(inside) == len(moved)  # a group that was put in by hand, which the constructor refuses
        and all(group.keys() >= usual.keys() for group, usual in zip(groups, made.param_groups, strict=True))
        and type(state) is type(made.state)
        and all(id(tensor) in inside for tensor in parameters_of(obj))
        and all(name == "params" or is_data(value) for group in groups for name, value in group.items())
        and list(obj.defaults) == list(made.defaults)
        and _are_equal(obj.defaults, made.defaults)
    )


def _are_alike(value: Any, obj: Optimizer, other: Any, made: Optimizer) -> bool:
    """Whether an attribute is as the constructor makes it: the groups' list, or an equal value."""
    for one, two in zip(obj.param_groups, made.param_groups, strict=True):
        if other is two["params"]:
            return value is one["params"]
    return _are_equal(value, other)


def _are_equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_are_equal(value, other[name]) for name, value in one.items())
    return bool(one == other or (one != one and other != other))


def _described_groups(obj: Optimizer) -> list[Any]:
    groups = []
    for group in obj.param_groups:
        links = [ParameterLink("", tensor) for tensor in group["params"]]
        named = group.get("param_names")
        # Options are part of the state; given names decide how the constructor reads the list
        groups.append({"params": list(zip(named, links, strict=True)) if named else links})
    return groups if len(groups) != 1 else groups[0]["params"]


# ------------------------------------------------------------------------------------------------ by names


def _names_of(place: Place, tensors: list[torch.Tensor]) -> list[str]:
    """Return names of parameters: from the tree, else from the groups, else their positions."""
    given = {
        id(tensor): name
        for group in place.obj.__dict__.get(GROUPS) or ()
        for tensor, name in zip(group["params"], group.get("param_names") or (), strict=False)
    }
    return [place.name_of(item) or given.get(id(item)) or str(number) for number, item in enumerate(tensors)]


def _saved_names(groups: list[dict[str, Any]], local: Mapping[str, Any]) -> list[str]:
    names = [name for group in groups for name in group["params"]]
    shapes = local.get(SHAPES_KEY)
    return [*dict.fromkeys([*names, *(map(str, shapes) if isinstance(shapes, dict) else ())])]


class _Matched(NamedTuple):
    """The parameters of an optimizer and of its save."""

    groups: list[dict[str, Any]]
    tensors: list[torch.Tensor]
    here: list[str]
    saved: list[str]
    is_by_position: bool


def _match(place: Place, state: State, mismatch: Mismatch) -> _Matched | None:
    """Match an optimizer with its save; None where they do not fit. Nothing is changed."""
    begin = place.key_prefix
    groups_here = place.obj.__dict__.get(GROUPS)
    local = state._metadata.get(place.prefix, {})
    entries = local.get(ENTRIES_KEY)
    expected = [begin + str(entry) for entry in entries] if isinstance(entries, list) else [begin + GROUPS]
    if groups_here is not None and begin + GROUPS not in expected:
        expected.append(begin + GROUPS)
    missing = [key for key in dict.fromkeys(expected) if key not in state]
    mismatch.missing += missing
    mismatch.consumed.update((begin + GROUPS, begin + _SHARED))
    if missing:
        return None
    groups = state[begin + GROUPS] if groups_here is not None else []
    if not _are_groups(groups):
        mismatch.errors.append(f"{begin}{GROUPS} does not list the groups of an optimizer")
        return None
    tensors = parameters_of(place.obj)
    here, saved = _names_of(place, tensors), _saved_names(groups, local)
    here = _called_alike(here, saved)
    listed = [name for group in groups for name in group["params"]] or saved
    is_by_position = not set(listed) & set(here) and bool(listed or here)
    sizes = ([len(group["params"]) for group in side] for side in (groups, groups_here or ()))
    if is_by_position and next(sizes) != next(sizes):
        mismatch.errors.append(
            f"{place.prefix or 'the optimizer'} has {len(saved)} parameters in the save ({quote_some(saved)}), "
            f"and {len(here)} others here ({quote_some(here)}): fill it together with its model, in a dict like the "
            "one that was saved"
        )
        return None
    return _Matched(groups, tensors, here, saved, is_by_position)


def _called_alike(here: list[str], saved: list[str]) -> list[str]:
    """Return saved names where one name ends with the other: the model was in a dict, or is."""
    if set(here) & set(saved):
        return here
    found = []
    for name in here:
        ends = [other for other in saved if f".{other}".endswith(f".{name}") or f".{name}".endswith(f".{other}")]
        found.append(ends[0] if len(ends) == 1 else name)
    return found if len(set(found)) == len(found) else here


def _are_groups(groups: Any) -> bool:
    return isinstance(groups, list) and all(
        isinstance(group, dict)
        and isinstance(group.get("params"), list)
        and all(isinstance(name, str) for name in group["params"])
        for group in groups
    )


def _entries(place: Place, state: State, names: list[str]) -> Kept:
    """Return the saved state of each parameter."""
    begin = f"{place.key_prefix}{STATE}."
    known = set(names)
    found: Kept = {}
    for key, value in state.items():
        parameter, _, entry = key[len(begin) :].rpartition(".") if key.startswith(begin) else ("", "", "")
        if parameter in known:
            found.setdefault(parameter, {})[split_key(entry)[0]] = (key, value)
    return found


def _leave_out(
    place: Place,
    kept: Kept,
    named: Mapping[str, torch.Tensor],
    saved: list[str],
    shapes: Any,
    mismatch: Mismatch,
) -> None:
    """Drop saved states of parameters that are missing or have another shape, and warn."""
    mismatch.consumed.update(key for entries in kept.values() for key, _ in entries.values())
    reshaped = []
    for name, tensor in named.items():
        if isinstance(shapes, dict) and shapes.get(name, tuple(tensor.shape)) != tuple(tensor.shape):
            reshaped.append(name)
            kept.pop(name, None)
    lost, fresh = sorted(kept.keys() - set(named)), [name for name in named if kept and name not in saved]
    if lost or fresh or reshaped:
        what = [f"no parameter here is called {quote_some(lost)}"] if lost else []
        what += [f"the save knows no parameter {quote_some(fresh)}"] if fresh else []
        what += [f"the shape has changed of {quote_some(reshaped)}"] if reshaped else []
        warn(
            f"of the optimizer at {place.prefix or 'the root'}, {'; '.join(what)}: what was kept for the others is "
            "loaded by their names",
            StateMismatchWarning,
        )
