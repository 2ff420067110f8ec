"""Optimizers and schedulers as their parts, assembled without torch's constructors.

An optimizer is its groups, its defaults, its state and its attributes; a scheduler is its attributes.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict, defaultdict
from typing import Any
from weakref import ref

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flambe_save.config.scalars import PLAIN
from flambe_save.errors import CompilationError
from flambe_save.objects.arguments import CONTAINERS
from flambe_save.objects.values import BY_TYPE
from flambe_save.support.static import static_of

TRAINING = (Optimizer, LRScheduler)
OPTIMIZER_TABLES = frozenset(("groups", "others", "defaults", "state", "hooked"))

_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)
# Attributes in the tables, those that torch makes anew, and its note of a step
OPTIMIZER_ATTRIBUTES = frozenset(
    ("param_groups", "state", "defaults", "_zero_grad_profile_name", "_opt_called", *_HOOKS)
)
_WARNED = "_warned_capturable_if_run_uncaptured"  # True from the start in optimizers with groups of their own
_STATES: dict[str, Any] = {"dict": dict, "defaultdict": lambda: defaultdict(dict)}


def is_data(value: Any) -> bool:
    """Whether an option or an entry of a state is data: plain values, arrays, containers."""
    kind: Any = type(value)
    if kind in CONTAINERS:
        return all(map(is_data, [*value, *value.values()] if isinstance(value, dict) else value))
    if kind.__module__ == "numpy":
        return getattr(getattr(value, "dtype", None), "hasobject", True) is False
    is_tensor = kind in (torch.Tensor, torch.nn.Parameter) and not value.__dict__
    return kind in PLAIN or is_tensor or (kind in BY_TYPE and kind not in CONTAINERS)


def is_own_of_training(obj: Any, name: str) -> bool:
    """Whether an attribute of an optimizer is torch's: in its tables, or made anew."""
    own = obj.__dict__
    if name == "step":
        return hasattr(own["step"], "_wrapped_by_lr_sched")
    return name in OPTIMIZER_ATTRIBUTES or (name == _WARNED and own[name] is True and "param_groups" in own)


def hooks_of(optimizer: Any) -> list[str]:
    """Return the names of the tables of hooks that have any."""
    return [name for name in _HOOKS if optimizer.__dict__.get(name)]


def parameters_of(optimizer: Any) -> list[torch.Tensor]:
    """Return the tensors of an optimizer: those in groups in order, then others in its state.

    No property of its class runs: an optimizer that refers to the groups of another has none itself.
    """
    own = optimizer.__dict__
    found = {id(tensor): tensor for group in own.get("param_groups") or () for tensor in group["params"]}
    state = own.get("state") or {}
    found.update((id(key), key) for key in state if isinstance(key, torch.Tensor) and id(key) not in found)
    waiting = [*state.values()]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind is torch.Tensor or kind in PLAIN:  # as most are
            continue
        if isinstance(item, torch.nn.Parameter):
            found.setdefault(id(item), item)
        elif kind in (list, tuple, dict):
            waiting.extend([*item, *item.values()] if isinstance(item, dict) else item)
    return [*found.values()]


def fill_optimizer(
    made: Any,
    groups: Any = None,
    others: Any = None,
    defaults: Any = None,
    state: Any = "defaultdict",
    hooked: Any = False,
) -> None:
    """Fill an optimizer that no constructor has made.

    Parameters
    ----------
    made : torch.optim.Optimizer
    groups : list of dict, optional
        As ``param_groups``; the lists and mappings become the optimizer's own. None where it has no groups of its own.
    others : list of torch.Tensor, optional
        Parameters in no group of which it keeps a state. None where it has no state of its own.
    defaults : dict, optional
    state : str
        The type of its state: ``dict`` or ``defaultdict``.
    hooked : bool
        Whether the class's ``step`` calls hooks, which it always does for optimizers with groups.

    Raises
    ------
    CompilationError
        If the tables are not those of an optimizer.
    """
    own = made.__dict__
    if groups is not None:
        if type(groups) is not list or not all(map(_is_group, groups)):
            raise fault(type(made), "takes groups, each a mapping with a list of tensors as its params")
        own["param_groups"] = groups
    if groups is not None or others is not None:
        if not _are_tensors([] if others is None else others) or type(state) is not str or state not in _STATES:
            raise fault(type(made), "takes other tensors as a list, and a state that is a dict or a defaultdict")
        own["state"] = _STATES[state]()
        own["state"].update((tensor, {}) for tensor in (() if others is None else others))
    if defaults is not None:
        if type(defaults) is not dict:
            raise fault(type(made), "takes a mapping as its defaults")
        own["defaults"] = defaults
    own.update((name, OrderedDict()) for name in _HOOKS)
    if groups is not None or hooked is True:
        _note_steps_of(type(made))
        own["_zero_grad_profile_name"] = f"Optimizer.zero_grad#{type(made).__name__}.zero_grad"
    if groups is not None:
        own[_WARNED] = True


def _note_steps_of(cls: Any) -> None:
    """Put torch's hook for profilers on the ``step`` of a class, as the first constructor does."""
    step = static_of(cls, "step")
    if type(step) is types.FunctionType and not getattr(step, "hooked", None):
        hooked: Any = Optimizer.profile_hook_step(step)
        hooked.hooked = True
        type.__setattr__(cls, "step", hooked)


def _is_group(group: Any) -> bool:
    return type(group) is dict and _are_tensors(group.get("params"))


def _are_tensors(items: Any) -> bool:
    return type(items) is list and all(isinstance(item, torch.Tensor) for item in items)


def fault(cls: type, what: str, fix: str = "Correct the config.") -> CompilationError:
    """Return an error that names a class and the fault in its parts."""
    return CompilationError(f"a {cls.__module__}.{cls.__qualname__} {what}", fix=fix)


def track_steps(optimizer: Any) -> None:
    """Track the steps of an optimizer, as a scheduler's constructor does; torch warns without.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Unchanged if a scheduler did so already, or if its ``step`` is not a method of its class.
    """
    step: Any = static_of(type(optimizer), "step")
    if "step" in optimizer.__dict__ or type(step) is not types.FunctionType:
        return
    known = ref(optimizer)

    @functools.wraps(step)
    def tracked(*args: Any, **kwargs: Any) -> Any:
        inner: Any = known()
        inner._opt_called = True
        return step(inner, *args, **kwargs)

    tracked._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.__dict__["step"] = tracked
