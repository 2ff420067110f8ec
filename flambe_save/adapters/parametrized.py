"""Convert modules of ``torch.nn.utils.parametrize``, as of weight_norm, to plain and back.

A save holds the tensor that a parametrization computes beside its originals, so a plain module can take it. A plain
module's tensor can be given to a parametrized one, which turns it into its originals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from flambe_save.adapters.protocol import Mismatch
from flambe_save.objects.walks import module_at, modules_in

_ORIGINAL = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<name>[^.]+)\..+")


def _parametrized(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield the key of each computed tensor, its module, and its name there."""
    for path, inner in modules_in(module):
        if "parametrizations" in inner._modules and parametrize.is_parametrized(inner):
            for name in inner._modules["parametrizations"]:  # type: ignore[union-attr]
                made = vars(type(inner)).get(name)
                if not isinstance(made, property) or getattr(made.fget, "__module__", "") != parametrize.__name__:
                    continue
                yield (f"{path}.{name}" if path else name), inner, name


def effective(module: nn.Module) -> dict[str, torch.Tensor]:
    """Compute the tensors of a module's parametrizations, by their keys; nothing is changed."""
    found = {}
    for key, inner, name in _parametrized(module):
        parts = list(inner.parametrizations[name].modules())  # type: ignore[union-attr,index]
        modes = [part.training for part in parts]
        try:
            for part in parts:
                part.training = False  # in training, some take a step of an iteration at each access
            with torch.no_grad():
                found[key] = getattr(inner, name).detach()
        finally:
            for part, mode in zip(parts, modes, strict=True):
                part.training = mode
    return found


def split_effective(module: nn.Module, own: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the keys that a module does not need, and the tensors to give its parametrizations.

    Parameters
    ----------
    module : torch.nn.Module
    own : mapping of str to object
        Its saved values.
    """
    here = {key: (inner, name) for key, inner, name in _parametrized(module)}
    originals: dict[str, list[str]] = {}
    for key in own:
        match = _ORIGINAL.fullmatch(key) if "parametrizations." in key else None
        if match is not None and module_at(module, match["module"][:-1]) is not None:  # not of an attribute
            originals.setdefault(match["module"] + match["name"], []).append(key)
    unused = [key for key in here if key in own and key in originals]
    unused += [key for target, keys in originals.items() if target in own and target not in here for key in keys]
    return unused, {key: own[key] for key in here if key in own and key not in originals}


def give_effective(module: nn.Module, values: Mapping[str, Any], mismatch: Mismatch) -> set[str]:
    """Let parametrizations turn tensors into their originals; return the keys of these."""
    filled: set[str] = set()
    if not values:
        return filled
    now = effective(module)
    for key, inner, name in _parametrized(module):
        if key not in values:
            continue
        try:
            if values[key].shape != now[key].shape:  # some parametrizations would accept it
                raise ValueError(f"its shape is {tuple(values[key].shape)}, not {tuple(now[key].shape)}")
            with torch.no_grad():
                setattr(inner, name, values[key].to(now[key]))
        except Exception as error:  # a parametrization that has no inverse, a shape that differs, no tensor at all
            mismatch.errors.append(f"{key} cannot be given to its parametrization: {str(error)[:200]}")
        begin = key[: len(key) - len(name)] + f"parametrizations.{name}."
        filled.update(held for held in module.state_dict() if held.startswith(begin))
    return filled
