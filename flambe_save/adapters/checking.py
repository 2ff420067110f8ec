"""Compare a state with an object before anything is filled, so that errors change nothing.

Where code of a class decides what is loaded (hooks, a ``load_state_dict`` of its own), nothing is compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from flambe_save.adapters.adopted import runs_torch_only
from flambe_save.adapters.parametrized import split_effective
from flambe_save.adapters.protocol import Adapter, Check, Mismatch, Place, ValueAdapter, prefixes_around
from flambe_save.objects.unwrap import plain_keys, wrapped_keys
from flambe_save.objects.walks import everywhere
from flambe_save.state import State, keys_below
from flambe_save.tree import place_key


def check(places: Iterable[tuple[Place, Adapter]], state: State) -> Mismatch:
    """Compare a state with an object, as far as possible without running code of classes.

    Parameters
    ----------
    places : iterable of (Place, Adapter)
        Everything in the object, parents first.
    state : State
        Not changed.
    """
    found = Mismatch(owners={"": False})
    checks: list[tuple[Place, Adapter, Check | None]] = []
    for place, adapter in places:
        checker = getattr(adapter, "checker", None)
        checks.append((place, adapter, checker(place, state) if checker is not None else None))
    around: set[str] = set()  # objects that cannot be compared, and all around them
    for place, adapter, do in checks:
        if do is None and not isinstance(adapter, ValueAdapter):
            around.update((place.prefix, *prefixes_around(place.prefix)))
    unknown = around & {place.prefix for place, adapter, _ in checks if not isinstance(adapter, ValueAdapter)}
    for place, adapter, do in checks:
        inside = (place.prefix, *prefixes_around(place.prefix))
        is_known = isinstance(adapter, ValueAdapter) or unknown.isdisjoint(inside)
        found.owners[place.prefix] = not is_known
        if is_known and do is not None:
            do(found)
    found.unexpected += [
        key for key in state if key not in found.consumed and not found.owners[place_key(key, found.owners)[0]]
    ]
    return found


def checker_of_module(place: Place, state: State) -> Check | None:
    """Return a function that compares a module; None if its own code or a hook decides."""
    if place.covered or not isinstance(place.obj, nn.Module):
        return lambda found: None
    return partial(_check_module, place, state) if runs_torch_only(place.obj) else None


def _check_module(place: Place, state: State, found: Mismatch) -> None:
    """Note a module's missing and unwanted keys and other sizes, as torch's own code would."""
    module, begin = place.obj, place.key_prefix
    saved = {key[len(begin) :]: state[key] for key in keys_below(state, place.prefix) if key not in found.consumed}
    here = wrapped_keys(module, saved)
    own = {here[key]: value for key, value in saved.items()}
    called = {name: begin + key for key, name in here.items()}
    unused, computed = split_effective(module, own)
    given = tuple(
        ".".join([*path, "parametrizations", name, ""]) for *path, name in (key.split(".") for key in computed)
    )
    missing, known = [], {*unused, *computed}
    for path, inner in everywhere(module):
        before = f"{path}." if path else ""
        if type(inner).get_extra_state is not nn.Module.get_extra_state:
            known.add(f"{before}_extra_state")
            missing += [f"{before}_extra_state"] if f"{before}_extra_state" not in own else []
        for table, others in ((inner._parameters, ()), (inner._buffers, inner._non_persistent_buffers_set)):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                key = before + name
                known.add(key)
                if key in own:
                    _check_size(called[key], own[key], tensor, found)
                elif name not in others and name != "num_batches_tracked" and not key.startswith(given or "\0"):
                    missing.append(key)
    found.missing += [begin + plain for plain in plain_keys(module, missing).values()]
    found.consumed.update(called[key] for key in own.keys() & known)


def _check_size(key: str, value: Any, tensor: torch.Tensor, found: Mismatch) -> None:
    if not isinstance(value, torch.Tensor) or nn.parameter.is_lazy(tensor):
        return
    is_old = tensor.dim() == 0 and value.dim() == 1 and len(value) == 1  # torch before 0.4 had no scalars
    if value.shape != tensor.shape and not is_old:
        found.note_sizes(key, value.shape, tensor.shape)
