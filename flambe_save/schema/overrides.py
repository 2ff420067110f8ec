"""Overrides: a caller's values in place of a config's, found by the names that lead to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import torch

from flambe_save.errors import ConfigError, StateMismatchWarning, quote, quote_some, warn
from flambe_save.objects.assembly import PARTS
from flambe_save.schema.edited import Edited
from flambe_save.schema.schema import Schema, defaults_of, parameters_of
from flambe_save.state import join_key, split_key

_TABLES = ("modules", "attributes")  # of an object that is written as its parts, or with what changed since


def override(config: Any, overrides: Mapping[str, Any]) -> Any:
    """Put values in place of a config's, which is changed in place and returned.

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
        If the config has no such name; the error lists near ones. If a text takes the place of a number, or a number
        that of a text.

    Warns
    -----
    StateMismatchWarning
        If the name is an argument of a constructor, and the save has parts that were changed after the call, which
        the argument does not change.
    """
    if not isinstance(overrides, Mapping) or not all(isinstance(name, str) and name for name in overrides):
        raise ConfigError(
            f"overrides map names to values, and this is {quote(repr(overrides))}",
            fix="Write overrides={'head.out_features': 5}.",
        )
    for name, value in overrides.items():
        place = _Place(config)
        *outer, last = split_key(name)
        for count, part in enumerate(outer):
            table, key = _found(config, place, part, name, outer[:count])
            place.enter(part, table[key])
        table, key = _found(config, place, last, name, outer)
        _check_type(name, place, table, key, value)
        table[key] = value
        _warn_of_changed(name, place, table)
    return config


class _Place:
    """The object in a config that a name has led to, and its changes, as in :class:`Edited`."""

    def __init__(self, holder: Any) -> None:
        self._around: list[tuple[dict[str, Any], tuple[str, ...]]] = []
        self.enter("", holder)

    def enter(self, part: str, holder: Any) -> None:
        """Go on to an item, under a name."""
        self._around = [(changes, (*path, part)) for changes, path in self._around]
        if isinstance(holder, Schema) and holder.component_subclass is Edited:
            changes = holder.keywords.get("changes")
            self._around.append((changes if isinstance(changes, dict) else {}, ()))
        self.holder = holder
        self.changes = [
            found for changes, path in self._around if isinstance(found := changes.get(join_key(path)), dict)
        ]


def _check_type(name: str, place: _Place, table: Any, key: Any, value: Any) -> None:
    """Refuse a text for a number, or the reverse, unless the argument's annotation has both."""
    if isinstance(table, list) or key in table:
        before = table[key]
    else:
        before = defaults_of(_called(place.holder)).get(key)
    kinds = [_kind_of(before), _kind_of(value)]
    if not all(kinds) or kinds[0] == kinds[1]:
        return
    if isinstance(place.holder, Schema) and table is _called(place.holder).keywords:
        parameter = parameters_of(_called(place.holder)).get(key)
        if parameter is not None and _may_be(str(parameter.annotation), value):
            return
    raise ConfigError(
        f"the override {quote(name)} is {kinds[0]} in the save, {before!r:.50}, and {value!r:.50} is {kinds[1]}",
        fix=f"Pass {kinds[0]}, or annotate the argument with both.",
    )


def _kind_of(value: Any) -> str:
    return "a text" if isinstance(value, str) else "a number" if isinstance(value, (int, float)) else ""


def _may_be(annotation: str, value: Any) -> bool:
    words = ("str", "Any", "object") if isinstance(value, str) else ("int", "float", "bool", "Any", "object")
    return any(re.search(rf"\b{word}\b", annotation) for word in words)


def _warn_of_changed(name: str, place: _Place, table: Any) -> None:
    """Warn of parts that an argument does not change, because they were replaced later."""
    if not isinstance(place.holder, Schema) or table is not _called(place.holder).keywords:
        return
    outer = name.rpartition(".")[0]
    kinds = ("modules", "parameters", "buffers")
    given = parameters_of(_called(place.holder))
    changed = [
        part for change in place.changes for kind in kinds for part in change.get(kind) or () if part not in given
    ]
    if changed and _called(place.holder).factory_method != PARTS:
        parts = [join_key([*split_key(outer), part]) if outer else part for part in changed]
        warn(
            f"the override {quote(name)} does not change {quote_some(parts)}: the save has what was put there "
            "later, in place of what the constructor makes",
            StateMismatchWarning,
        )


def _found(config: Any, place: _Place, part: str, name: str, outer: list[str]) -> tuple[Any, Any]:
    """Return the table or list that has a name, and its key there."""
    holder = place.holder
    for table in (*_changed_tables(place.changes), *_tables(holder)):
        for key in _keys(table):
            if str(key) == part:
                return table, key
    if isinstance(holder, Schema) and part in defaults_of(_called(holder)):
        return _called(holder).keywords, part
    where = f"{quote(join_key(outer))} of the config" if outer else "the config"
    here = [join_key([*outer, inner]) for inner in _names(holder)]
    near = get_close_matches(name, here, n=5, cutoff=0.4) or get_close_matches(name, _every_name(config), 5, 0.5)
    known = near or here
    raise ConfigError(
        f"the override {quote(name)} is not found: {where} has no {quote(part)}",
        fix=f"Near are: {quote_some(known)}." if known else "It holds no names; leave the override out.",
    )


def _called(schema: Schema) -> Schema:
    """Return the Schema of the call inside one that also says what changed since; else itself."""
    inner = schema.keywords.get("object") if schema.component_subclass is Edited else None
    return inner if isinstance(inner, Schema) else schema


def _tables(holder: Any) -> Iterator[Any]:
    """Yield the tables and lists of names in an item of a config, those that win first."""
    if isinstance(holder, (dict, list)):
        yield holder
    elif isinstance(holder, Schema):
        if holder.component_subclass is Edited:
            yield from _changed_tables([holder.keywords.get("changes", {}).get("", {})])
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


def _changed_tables(changes: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for change in changes:
        yield from (change[name] for name in _TABLES if isinstance(change.get(name), dict))


def _keys(table: Any) -> Iterable[Any]:
    return range(len(table)) if isinstance(table, list) else table


def _names(holder: Any) -> list[str]:
    """Return the names in an item of a config, as an override has them."""
    found = [str(key) for table in _tables(holder) for key in _keys(table)]
    return [*dict.fromkeys([*found, *(defaults_of(_called(holder)) if isinstance(holder, Schema) else ())])]


def _every_name(config: Any) -> list[str]:
    """Return the names all over a config, or as many as are quick to compare."""
    found: list[str] = []
    waiting: list[tuple[list[str], Any]] = [([], config)]
    while waiting and len(found) < 2000:
        outer, holder = waiting.pop(0)
        for table in _tables(holder):
            for key in _keys(table):
                found.append(join_key([*outer, str(key)]))
                waiting.append(([*outer, str(key)], table[key]))
    return found
