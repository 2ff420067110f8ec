"""Learning rate schedulers, on the optimizers that they drive, and gradient scalers."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from flambe_save.adapters.protocol import Child, Fit, Later, Mismatch, Place, attributes_as_children
from flambe_save.adapters.stateful import StatefulAdapter, add_entries, in_parts, take_entries
from flambe_save.classes.well_known import torch_class
from flambe_save.describing.changes import Changes
from flambe_save.describing.describe import edited, is_by_parts
from flambe_save.layout import ENTRIES_KEY
from flambe_save.objects.arguments import signature_of
from flambe_save.objects.optimizers import is_data
from flambe_save.objects.special import is_used_by_torch
from flambe_save.schema.schema import Schema, schema_of
from flambe_save.state import State


class SchedulerAdapter(StatefulAdapter):
    """Learning rate schedulers, on the optimizers that they drive."""

    comes_last = True
    knows_others = False
    stands_alone = False

    def describe(self, obj: Any) -> Schema:
        """Return the call that makes just this scheduler, if it is torch's own; else its parts.

        It is also written as its parts where the constructor would run code of its arguments.

        Raises
        ------
        UnsupportedObjectError
            If its class defines how it is pickled.
        """
        own = obj.__dict__
        given: list[Any] = [type(item) for item in (own.get("optimizer"), *(own.get("_schedulers") or ()))]
        is_call = torch_class(type(obj).__name__) is type(obj) and not any(map(is_used_by_torch, given))
        call = _call_of(obj) if is_call else None
        return in_parts(obj) if call is None else call

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the optimizer, which belongs to another object, and the other attributes."""
        optimizer = obj.__dict__.get("optimizer")
        if optimizer is not None:
            yield Child("optimizer", optimizer, is_borrowed=True)
        yield from attributes_as_children(obj, {id(optimizer)})

    def get_state(self, place: Place, state: State) -> Later:
        """Add entries of the ``state_dict``, without functions and attributes in the config."""
        own, is_parts = place.obj.__dict__, is_by_parts(place.obj)
        entries = {
            name: value
            for name, value in self.state_dict_of(place).items()
            if not (inspect.isroutine(value) or (is_parts and own.get(name) is value and not is_data(value)))
        }
        add_entries(place, entries, state)
        return None

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Give the scheduler its entries; a scheduler that this load put together has them already.

        Entries of other names are an error, because ``load_state_dict`` would set them as attributes.
        """
        if fit is not None and fit.adoption is not None and id(place.obj) in fit.adoption.assembled:
            take_entries(place, state, mismatch)
            return None
        known = place.obj.state_dict()
        names = state._metadata.get(place.prefix, {}).get(ENTRIES_KEY)
        strange = [name for name in names if name not in known] if isinstance(names, list) else []
        if strange:
            mismatch.errors.append(
                f"{place.prefix or 'the root'}: a {type(place.obj).__qualname__} has no {strange[0]!r}"
            )
            return None
        return super().load_state(place, state, mismatch, fit)


def _call_of(obj: Any) -> Schema | None:
    """Return the call that makes one of torch's own schedulers, without its state; else None."""
    try:
        arguments = _arguments_of(obj)
        made = _made_on(obj, _stand_in(obj.optimizer))
        own, other = vars(obj), vars(made)
        is_same = own.keys() == other.keys() and all(
            getattr(value, "__func__", value) is getattr(other[name], "__func__", other[name])
            for name, value in own.items()
            if inspect.isroutine(value)
        )
    except Exception:  # the constructor refuses what its scheduler has become
        return None
    return Schema(type(obj), optimizer=obj.optimizer, **arguments) if is_same else None


def _arguments_of(obj: Any) -> dict[str, Any]:
    """Return the arguments of one of torch's own schedulers, read off its attributes."""
    read = _FIXED.get(type(obj).__name__)
    if read is not None:
        return read(obj)
    cls: Any = type(obj)
    parameters = list(signature_of(cls).parameters)[1:]
    return {name: getattr(obj, name) for name in parameters if name not in ("last_epoch", "verbose")}


def _stand_in(optimizer: Any) -> Optimizer:
    """Return an optimizer with groups like another's, so that a scheduler can change its rates."""

    def alike(group: dict[str, Any]) -> dict[str, Any]:
        options = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in group.items()}
        return {**options, "params": [torch.zeros(1)]}

    return Optimizer([alike(group) for group in optimizer.param_groups], dict(optimizer.defaults))


def _made_on(obj: Any, optimizer: Optimizer) -> Any:
    """Make a scheduler, and those inside it, by its call, on another optimizer."""
    arguments = _arguments_of(obj)
    if "schedulers" in arguments:
        arguments["schedulers"] = [_made_on(inner, optimizer) for inner in arguments["schedulers"]]
    return type(obj)(optimizer=optimizer, **arguments)


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


class ScalerAdapter(StatefulAdapter):
    """Gradient scalers of mixed precision."""

    def describe(self, obj: Any) -> Schema | None:
        """Return a Schema with the scaler's settings, and with attributes that were set on it."""
        if type(obj) is not torch.amp.GradScaler:
            return schema_of(obj)
        names = ("init_scale", "growth_factor", "backoff_factor", "growth_interval") if obj.is_enabled() else ()
        known: dict[str, Any] = {name: getattr(obj, f"_{name}") for name in names} or {"enabled": False}
        call = Schema(type(obj), device=obj._device, **known)
        more = {name: value for name, value in obj.__dict__.items() if name not in _names_of_scalers()}
        return edited(obj, call, Changes({"": {"attributes": more}} if more else {}, [], {}))

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the attributes that were set on it."""
        return attributes_as_children(obj, {id(obj.__dict__.get(name)) for name in _names_of_scalers()})


@functools.cache
def _names_of_scalers() -> frozenset[str]:
    """Return the attributes that torch's own scalers have."""
    return frozenset(vars(torch.amp.GradScaler("cpu")))


SCHEDULER = SchedulerAdapter()
SCALER = ScalerAdapter()
