"""Optimizers, schedulers and gradient scalers: their state by the names of the parameters that it belongs to.

An optimizer is built on the parameters of the module that the same config builds, so what it moves is the model. They
are visited after everything else, when the parameters are what they will be.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch

from flambe_save.adapters.protocol import Child, Fit, Later, Mismatch, Place
from flambe_save.adapters.stateful import StatefulAdapter, add_entries, give_state_dict
from flambe_save.config.link import ParameterLink
from flambe_save.config.schema import Schema, schema_of
from flambe_save.errors import StateMismatchWarning, UnsupportedObjectError, quote_some, warn
from flambe_save.layout import ENTRIES_KEY, SHAPES_KEY
from flambe_save.state import State, join_key, split_key

__all__ = ["OPTIMIZER", "SCALER", "SCHEDULER"]

_GROUPS = "param_groups"
_STATE = "state"


class OptimizerAdapter:
    """Optimizers, by parameter name: reordering groups or freezing layers does not shift moments."""

    comes_last = True
    stands_alone = False

    def describe(self, obj: torch.optim.Optimizer) -> Schema:
        """Return a Schema with the optimizer's defaults, on the parameters of the modules around it.

        Raises
        ------
        UnsupportedObjectError
            If its class has arguments that are neither defaults nor recorded.
        """
        recorded = schema_of(obj)
        known = {**obj.defaults, **({} if recorded is None else recorded.keywords)}
        arguments: dict[str, Any] = {"params": _described_groups(obj)}
        unknown = []
        for name, parameter in list(inspect.signature(type(obj)).parameters.items())[1:]:
            if name in known:
                arguments[name] = known[name]
            elif parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            ):
                unknown.append(name)
        if unknown:
            raise UnsupportedObjectError(
                f"it is not known what a {type(obj).__qualname__} was given as {', '.join(unknown)}",
                fix="Build it inside `with flambe_save.recording():`, or register_adapter() for its class.",
            )
        return Schema(type(obj), **arguments)

    def children(self, obj: torch.optim.Optimizer) -> Iterable[Child]:
        """Return nothing: the parameters are the model's."""
        return ()

    def get_state(self, place: Place, state: State) -> Later:
        """Add the groups, their parameters by name, and what is kept for each parameter under its name."""
        own, before = place.obj.state_dict(), set(state)
        names = _names_of(place)
        groups = [{**group, "params": [names[index] for index in group["params"]]} for group in own.pop(_GROUPS)]
        for index, entries in own.pop(_STATE).items():
            for name, value in entries.items():
                state[f"{place.key_prefix}{_STATE}.{names[index]}.{join_key([str(name)])}"] = value
        for name, value in {_GROUPS: groups, **own}.items():
            state[place.key_prefix + join_key([str(name)])] = value
        begin = len(place.key_prefix)
        local = state._metadata.setdefault(place.prefix, {})
        local[ENTRIES_KEY] = [key[begin:] for key in state if key not in before]
        local[SHAPES_KEY] = dict(zip(names, _shapes_of(place.obj), strict=True))
        return None

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Give each parameter what was kept for the one of its name; by position where names are not known."""
        own = place.obj.state_dict()
        extra = [str(name) for name in own if name != _STATE]
        keys = {name: place.key_prefix + join_key([name]) for name in extra}
        local, reshaped = state._metadata.get(place.prefix, {}), list[str]()
        entries = local.get(ENTRIES_KEY)
        expected = [place.key_prefix + str(entry) for entry in entries] if isinstance(entries, list) else keys.values()
        missing = [key for key in {**dict.fromkeys(keys.values()), **dict.fromkeys(expected)} if key not in state]
        mismatch.missing += missing
        mismatch.consumed.update(keys.values())
        if missing:
            return None
        groups = state[keys[_GROUPS]]
        if not _are_groups(groups):
            mismatch.errors.append(f"{keys[_GROUPS]} does not list the groups of an optimizer")
            return None
        saved = [name for group in groups for name in group["params"]]
        here = _names_of(place)
        here = _called_alike(here, saved)
        if not set(saved) & set(here):
            if [len(group["params"]) for group in groups] != [len(group["params"]) for group in own[_GROUPS]]:
                mismatch.errors.append(
                    f"{place.prefix or 'the optimizer'} has {len(saved)} parameters in the save ({quote_some(saved)}), "
                    f"and {len(here)} others here ({quote_some(here)}): fill it together with its model, in a "
                    "dict as the one that was saved"
                )
                return None
            if here != list(map(str, range(len(here)))):
                warn(
                    f"the optimizer's parameters are called {quote_some(here)} here and {quote_some(saved)} in the "
                    "save: they are matched by their positions",
                    StateMismatchWarning,
                )
            here = saved
        kept = _entries(place, state, saved)
        shapes = local.get(SHAPES_KEY)
        for name, shape in zip(here, _shapes_of(place.obj), strict=True):
            if isinstance(shapes, dict) and shapes.get(name, shape) != shape:
                reshaped.append(name)
                mismatch.consumed.update(key for key, _ in kept.pop(name, {}).values())
        mismatch.consumed.update(key for entries in kept.values() for key, _ in entries.values())
        lost, fresh = sorted(kept.keys() - set(here)), [name for name in here if kept and name not in saved]
        if lost or fresh or reshaped:
            what = [f"no parameter here is called {quote_some(lost)}"] if lost else []
            what += [f"the save knows no parameter {quote_some(fresh)}"] if fresh else []
            what += [f"the shape has changed of {quote_some(reshaped)}"] if reshaped else []
            warn(
                f"of the optimizer at {place.prefix or 'the root'}, {'; '.join(what)}: what was kept for the others is "
                "loaded by their names",
                StateMismatchWarning,
            )
        filled: dict[str, Any] = {name: state[key] for name, key in keys.items()}
        filled[_STATE] = {
            index: {name: value for name, (_, value) in kept[parameter].items()}
            for index, parameter in enumerate(here)
            if parameter in kept
        }
        filled[_GROUPS] = [_filled_group(index, group, here, groups) for index, group in enumerate(own[_GROUPS])]
        give_state_dict(place, filled, mismatch)
        return None


def _described_groups(obj: torch.optim.Optimizer) -> list[Any]:
    groups = []
    for group in obj.param_groups:
        links = [ParameterLink("", tensor) for tensor in group["params"]]
        named = group.get("param_names")
        # Options are part of the state; names that somebody gave decide how the constructor reads the list
        groups.append({"params": list(zip(named, links, strict=True)) if named else links})
    return groups if len(groups) != 1 else groups[0]["params"]


def _names_of(place: Place) -> list[str]:
    """Return what the parameters of an optimizer are called: in the tree, else as it was told, else by position."""
    names: list[str] = []
    for group in place.obj.param_groups:
        told = group.get("param_names") or [None] * len(group["params"])
        for tensor, name in zip(group["params"], told, strict=True):
            names.append(place.name_of(tensor) or name or str(len(names)))
    return names


def _shapes_of(optimizer: torch.optim.Optimizer) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for group in optimizer.param_groups for tensor in group["params"]]


def _called_alike(here: list[str], saved: list[str]) -> list[str]:
    """Return the saved names for parameters, where one is the end of the other: the model was in a dict, or is."""
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


def _entries(place: Place, state: State, names: list[str]) -> dict[str, dict[str, tuple[str, Any]]]:
    """Return what is kept for each parameter: name -> entry -> (key, value)."""
    begin = f"{place.key_prefix}{_STATE}."
    known = set(names)
    found: dict[str, dict[str, tuple[str, Any]]] = {}
    for key, value in state.items():
        parameter, _, entry = key[len(begin) :].rpartition(".") if key.startswith(begin) else ("", "", "")
        if parameter in known:
            found.setdefault(parameter, {})[split_key(entry)[0]] = (key, value)
    return found


def _filled_group(index: int, group: dict[str, Any], here: list[str], saved: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a group of the optimizer with the options of the saved group that has most of its parameters."""
    mine = {here[position] for position in group["params"]}
    shared = [len(mine & set(other["params"])) for other in saved]
    if not any(shared):
        return group
    best = index if index < len(saved) and shared[index] == max(shared) else shared.index(max(shared))
    own: dict[str, Any] = {name: group[name] for name in ("params", "param_names") if name in group}
    options = {name: value for name, value in saved[best].items() if name != "param_names" or name in own}
    return {**options, **own}


# ------------------------------------------------------------------------------------------------- schedulers


class SchedulerAdapter(StatefulAdapter):
    """Learning rate schedulers, built on the optimizer that they drive."""

    comes_last = True
    stands_alone = False

    def describe(self, obj: Any) -> Schema:
        """Return a Schema of the scheduler's arguments, as its attributes show them, or as it was built.

        Raises
        ------
        UnsupportedObjectError
            If neither is known.
        """
        recorded = schema_of(obj)
        read = _FIXED.get(type(obj).__name__) if type(obj).__module__.startswith("torch.optim.") else None
        try:
            arguments = _same_names(obj) if read is None else read(obj)
        except (AttributeError, LookupError, TypeError) as error:
            if recorded is not None:
                return recorded
            raise UnsupportedObjectError(
                f"it is not known what a {type(obj).__qualname__} was built with: {error}",
                fix="Build it inside `with flambe_save.recording():`, or register_adapter() for its class.",
            ) from error
        return Schema(type(obj), optimizer=obj.optimizer, **arguments)

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the optimizer, which is gone into here only where nothing else leads to it."""
        optimizer = getattr(obj, "optimizer", None)
        return [Child("optimizer", optimizer, is_borrowed=True)] if optimizer is not None else []

    def get_state(self, place: Place, state: State) -> Later:
        """Add the entries of the ``state_dict`` but functions, which the constructor makes."""
        own = {name: value for name, value in place.obj.state_dict().items() if not inspect.isroutine(value)}
        add_entries(place, own, state)
        return None

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Give the scheduler its entries, and none by other names: its ``load_state_dict`` sets them as attributes."""
        known = place.obj.state_dict()
        names = state._metadata.get(place.prefix, {}).get(ENTRIES_KEY)
        strange = [name for name in names if name not in known] if isinstance(names, list) else []
        if strange:
            mismatch.errors.append(
                f"{place.prefix or 'the root'}: a {type(place.obj).__qualname__} has no {strange[0]!r}"
            )
            return None
        return super().load_state(place, state, mismatch, fit)


_FIXED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "LambdaLR": lambda obj: {"lr_lambda": list(obj.lr_lambdas)},
    "MultiplicativeLR": lambda obj: {"lr_lambda": list(obj.lr_lambdas)},
    "MultiStepLR": lambda obj: {"milestones": sorted(Counter(obj.milestones).elements()), "gamma": obj.gamma},
    "SequentialLR": lambda obj: {"schedulers": list(obj._schedulers), "milestones": list(obj._milestones)},
    "ChainedScheduler": lambda obj: {"schedulers": list(obj._schedulers)},
    "CyclicLR": lambda obj: {
        "base_lr": list(obj.base_lrs),
        "max_lr": list(obj.max_lrs),
        "step_size_up": obj.total_size * obj.step_ratio,
        "step_size_down": obj.total_size * (1 - obj.step_ratio),
        "mode": obj.mode,
        "gamma": obj.gamma,
        "scale_fn": obj._scale_fn_custom,
        "scale_mode": obj.scale_mode,
        "cycle_momentum": obj.cycle_momentum,
    },
    "OneCycleLR": lambda obj: {
        "max_lr": [group["max_lr"] for group in obj.optimizer.param_groups],
        "total_steps": obj.total_steps,
        "three_phase": len(obj._schedule_phases) == 3,
        "cycle_momentum": obj.cycle_momentum,
    },
    "ReduceLROnPlateau": lambda obj: {
        **{
            name: getattr(obj, name)
            for name in ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown")
        },
        "min_lr": list(obj.min_lrs),
        "eps": obj.eps,
    },
    "SWALR": lambda obj: {
        "swa_lr": [group["swa_lr"] for group in obj.optimizer.param_groups],
        "anneal_epochs": obj.anneal_epochs,
        "anneal_strategy": "linear" if "linear" in obj.anneal_func.__name__ else "cos",
    },
}


def _same_names(obj: Any) -> dict[str, Any]:
    """Read arguments off the attributes of the same names; what they set is in the scheduler's state as well."""
    parameters = list(inspect.signature(type(obj)).parameters)[1:]
    return {name: getattr(obj, name) for name in parameters if name not in ("last_epoch", "verbose")}


class ScalerAdapter(StatefulAdapter):
    """Gradient scalers of mixed precision."""

    def describe(self, obj: Any) -> Schema | None:
        """Return a Schema with the scaler's settings."""
        names = ("growth_factor", "backoff_factor", "growth_interval")
        if type(obj) is not torch.amp.GradScaler:
            return schema_of(obj)
        if not obj.is_enabled():
            return Schema(type(obj), device=obj._device, enabled=False)
        known = {name: getattr(obj, f"_{name}") for name in names}
        return Schema(type(obj), device=obj._device, init_scale=obj._init_scale, **known)


OPTIMIZER = OptimizerAdapter()
SCHEDULER = SchedulerAdapter()
SCALER = ScalerAdapter()
