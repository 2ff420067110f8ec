"""Tables of an optimizer written as parts: groups and defaults, with links to parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from flambe_save.errors import UnsupportedObjectError
from flambe_save.objects.optimizers import parameters_of
from flambe_save.schema.link import ParameterLink


def optimizer_tables(obj: Any, attributes: dict[str, Any], once: Callable[..., Any]) -> dict[str, Any]:
    """Return the tables of an optimizer.

    They replace attributes that are the same lists and mappings.

    Parameters
    ----------
    obj : torch.optim.Optimizer
    attributes : dict
        Its attributes, without those that the tables hold; changed in place.
    once : callable
        Given a list or mapping and a function that makes its replacement, returns the one that was made first: several
        optimizers may have one group, or one list of groups. Without a function, the item itself if it has none.

    Raises
    ------
    UnsupportedObjectError
        If its groups or its state do not have torch's form.
    """
    own, found = obj.__dict__, dict[str, Any]()
    groups, state, defaults = own.get("param_groups"), own.get("state"), own.get("defaults")
    is_known = isinstance(groups, (list, type(None))) and type(state) in (dict, defaultdict, type(None))
    if not is_known or not all(type(group) is dict and type(group.get("params")) is list for group in groups or ()):
        raise UnsupportedObjectError(
            f"the groups or the state of a {type(obj).__qualname__} are not as torch's optimizers have them",
            fix="Keep lists of dicts in param_groups, and a dict in state; or register_adapter() for its class.",
        )
    if groups is not None:
        found["groups"] = once(groups, lambda: [once(group, partial(_group, group, once)) for group in groups])
    if state is not None:
        inside = {id(tensor) for group in groups or () for tensor in group["params"]}
        others = [ParameterLink("", key) for key in parameters_of(obj) if id(key) not in inside]
        if others or groups is None:
            found["others"] = others
        if type(state) is dict:
            found["state"] = "dict"
    if defaults is not None:
        found["defaults"] = defaults
    if groups is None and "_zero_grad_profile_name" in own:
        found["hooked"] = True
    for name, value in attributes.items():
        if type(value) in (list, dict):
            attributes[name] = once(value)
    return found


def _group(group: dict[str, Any], once: Callable[..., Any]) -> dict[str, Any]:
    """Return a group with links to its parameters; the state holds its plain options too."""
    tensors = group["params"]
    params = once(tensors, lambda: [ParameterLink("", tensor) for tensor in tensors])
    return {name: params if name == "params" else value for name, value in group.items()}
