"""Overrides: a caller's values in place of a config's, found by the names that lead to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import torch

from flambe_save.errors import ConfigError, quote, quote_some
from flambe_save.objects.assembly import PARTS
from flambe_save.schema.edited import Edited
from flambe_save.schema.schema import Schema, defaults_of
from flambe_save.state import join_key, split_key

__all__ = ["override"]

_TABLES = ("modules", "attributes")  # of an object that is written as its parts, or with what changed since


def override(config: Any, overrides: Mapping[str, Any]) -> Any:
    """Put values in place of those of a config, which is changed; return it.

    Parameters
    ----------
    config : Schema or container
        Not built yet.
    overrides : mapping of str to object
        ``"head.out_features"``: the names of arguments, modules, attributes and keys, and the numbers of items, joined
        by dots -> a value. An argument that the config leaves to its default is one too.

    Raises
    ------
    ConfigError
        If the config has nothing of that name; the error lists names that are near.
    """
    if not isinstance(overrides, Mapping) or not all(isinstance(name, str) and name for name in overrides):
        raise ConfigError(
            f"overrides map names to values, and this is {quote(repr(overrides))}",
            fix="Write overrides={'head.out_features': 5}.",
        )
    for name, value in overrides.items():
        holder = config
        *outer, last = split_key(name)
        for count, part in enumerate(outer):
            table, key = _found(config, holder, part, name, outer[:count])
            holder = table[key]
        table, key = _found(config, holder, last, name, outer)
        table[key] = value
    return config


def _found(config: Any, holder: Any, part: str, name: str, outer: list[str]) -> tuple[Any, Any]:
    """Return what a name stands in, and its key there."""
    found: tuple[Any, Any] | None = None
    for table in _tables(holder):
        if isinstance(table, list):
            found = found or ((table, int(part)) if part.isdecimal() and int(part) < len(table) else None)
            continue
        key = next((key for key in table if str(key) == part), None)
        found = found or ((table, key) if key is not None else None)
    if found is None and isinstance(holder, Schema) and part in defaults_of(_called(holder)):
        found = _called(holder).keywords, part
    if found is not None:
        return found
    where = f"{quote(join_key(outer))} of the config" if outer else "the config"
    here = [join_key([*outer, inner]) for inner in _names(holder)]
    near = get_close_matches(name, here, n=5, cutoff=0.4) or get_close_matches(name, _every_name(config), 5, 0.5)
    known = near or here
    raise ConfigError(
        f"the override {quote(name)} names nothing: {where} has no {quote(part)}",
        fix=f"Near are: {quote_some(known)}." if known else "It holds no names; leave the override out.",
    )


def _called(schema: Schema) -> Schema:
    """Return the Schema of the call, of one that also says what changed since."""
    inner = schema.keywords.get("object") if schema.component_subclass is Edited else None
    return inner if isinstance(inner, Schema) else schema


def _tables(holder: Any) -> Iterator[Any]:
    """Yield what holds the names inside an item of a config; what comes first is what the object has in the end."""
    if isinstance(holder, (dict, list)):
        yield holder
    elif isinstance(holder, Schema):
        if holder.component_subclass is Edited:
            changed = holder.keywords.get("changes", {}).get("", {})
            yield from (changed[name] for name in _TABLES if isinstance(changed.get(name), dict))
        called = _called(holder)
        if called.factory_method == PARTS:
            yield from (table for name in _TABLES if isinstance(table := called.keywords.get(name), dict))
        else:
            if called.component_subclass.__module__ == torch.nn.Sequential.__module__:
                inside = called.keywords.get("args", called.keywords.get("modules"))
                is_named = isinstance(inside, list) and len(inside) == 1 and isinstance(inside[0], dict)
                if isinstance(inside, (list, dict)):
                    yield inside[0] if is_named else inside
            yield called.keywords


def _names(holder: Any) -> list[str]:
    """Return the names inside an item of a config, as an override has them."""
    found: dict[str, None] = {}
    for table in _tables(holder):
        found.update(dict.fromkeys(map(str, range(len(table)) if isinstance(table, list) else table)))
    if isinstance(holder, Schema):
        found.update(dict.fromkeys(defaults_of(_called(holder))))
    return [*found]


def _every_name(config: Any) -> list[str]:
    """Return names all over a config, as far as they are not too many to compare."""
    found: list[str] = []
    waiting: list[tuple[list[str], Any]] = [([], config)]
    while waiting and len(found) < 2000:
        outer, holder = waiting.pop(0)
        for table in _tables(holder):
            pairs = enumerate(table) if isinstance(table, list) else table.items()
            for key, item in pairs:
                found.append(join_key([*outer, str(key)]))
                waiting.append(([*outer, str(key)], item))
    return found
