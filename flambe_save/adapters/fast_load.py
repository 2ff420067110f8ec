"""Fill modules as torch's ``load_state_dict`` does, in linear and not in quadratic time.

torch goes through all keys of a module once for each module inside it. The calls, their order and their arguments are
the same here, so hooks and modules with a ``_load_from_state_dict`` of their own see no difference.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from flambe_save.layout import OTHERS_KEY

_LOAD = nn.Module.load_state_dict


def fill(
    module: nn.Module, own: Mapping[str, Any], assembled: Mapping[int, Any] = MappingProxyType({})
) -> tuple[list[str], list[str]]:
    """Load a ``state_dict`` as ``module.load_state_dict(own, strict=False)`` does.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place. A ``load_state_dict`` of its own is called.
    own : mapping of str to object
        Copied; its ``_metadata``, if it has one, has each module's version.
    assembled : mapping of int to object
        By their ids, modules that are not changed, so that no code of their classes is run; the modules inside them are
        filled.

    Returns
    -------
    (list of str, list of str)
        The keys that are missing, and those that are unexpected.

    Raises
    ------
    RuntimeError
        If shapes differ, or a value cannot be copied; the message lists all of them.
    """
    if id(module) not in assembled and getattr(module.load_state_dict, "__func__", None) is not _LOAD:
        missing, unexpected = module.load_state_dict(own, strict=False)
        return missing, unexpected
    found = nn.modules.module._IncompatibleKeys([], [])
    errors: list[str] = []
    copied: OrderedDict[str, Any] = OrderedDict(own)
    metadata = copied._metadata = getattr(own, "_metadata", {})  # type: ignore[attr-defined]

    def load(inner: nn.Module, local: dict[str, Any], prefix: str) -> None:
        is_filled = id(inner) in assembled
        others = metadata.get(prefix[:-1], {}).get(OTHERS_KEY)
        if isinstance(others, list) and not is_filled:  # a module inside added them to what is around it
            local = {key: value for key, value in local.items() if key[len(prefix) :] not in others}
        if is_filled:
            names = {*inner._modules, "_extra_state", *(others if isinstance(others, list) else ())}
            found.unexpected_keys.extend(key for key in local if key[len(prefix) :].partition(".")[0] not in names)
        elif type(inner) in kinds:  # a copy of an assembled module
            nn.Module._load_from_state_dict(inner, local, prefix, metadata.get(prefix[:-1], {}), True, *found, errors)
        else:
            inner._load_from_state_dict(local, prefix, metadata.get(prefix[:-1], {}), True, *found, errors)
        children = _split(local, prefix, inner._modules)
        for name, child in inner._modules.items():
            if child is not None:
                load(child, children.get(name, {}), f"{prefix}{name}.")
        for hook in () if is_filled or type(inner) in kinds else inner._load_state_dict_post_hooks.values():
            if hook(inner, found) is not None:
                raise AssertionError("a hook of load_state_dict changes the keys in place, and returns nothing")

    kinds = kinds_of(assembled)
    load(module, copied, "")
    if errors:
        text = "\n\t".join(errors)
        raise RuntimeError(f"Error(s) in loading state_dict for {type(module).__name__}:\n\t{text}")
    return found.missing_keys, found.unexpected_keys


def kinds_of(assembled: Mapping[int, Any]) -> set[type]:
    """Return the classes of assembled objects whose own code is not run; torch's own may be."""
    return {kind for kind in map(type, assembled.values()) if kind.__module__.partition(".")[0] != "torch"}


def _split(local: Mapping[str, Any], prefix: str, children: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each child's part of a ``state_dict``, by the child's name, with unchanged keys."""
    parts: dict[str, dict[str, Any]] = {}
    if children:
        begin = len(prefix)
        for key, value in local.items():
            if "." in key[begin:] and key.startswith(prefix):
                parts.setdefault(key[begin : key.index(".", begin)], {})[key] = value
    for name in children:
        if "." in name:  # add_module refuses such a name, but the table can be set
            parts[name] = {key: value for key, value in local.items() if key.startswith(f"{prefix}{name}.")}
    return parts
