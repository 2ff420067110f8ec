"""Entries of a structure: their five shapes, and the names of types and parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from flambe_save.classes.tags import dotted_path
from flambe_save.config.dialect import CORE
from flambe_save.errors import ConfigError, quote
from flambe_save.objects.arguments import Trail, keys_of
from flambe_save.objects.values import BY_TAG
from flambe_save.state import join_key

Entry: TypeAlias = "dict[str, Any]"

# Tags of a config that are not the dotted paths of their types
TYPES = {
    **{CORE + tag: f"builtins.{name}" for tag, name in (("null", "NoneType"), ("binary", "bytes"))},
    **{CORE + tag: f"builtins.{tag}" for tag in ("bool", "int", "float", "str")},
    **{CORE + tag: f"builtins.{name}" for tag, name in (("map", "dict"), ("seq", "list"))},
    **{f"!{tag}": f"builtins.{tag}" for tag in ("type", "function")},
    **{f"!{tag}": dotted_path(value.type) for tag, value in BY_TAG.items()},
    "!path": "pathlib.Path",  # its class depends on the system
}
TYPE_TAGS = {path: tag for tag, path in TYPES.items()} | dict.fromkeys(
    ("datetime.date", "datetime.datetime"), CORE + "timestamp"
)
_LISTS = (CORE + "seq", "!tuple", "!set", "!frozenset", "!range", "!slice", "!torch.Size")
OF_ITEMS = ("!builtins.dict", "!collections.OrderedDict", "!collections.Counter")  # {items: [[key, value], ...]}
_KEYS = {  # of each shape, keys that it must have and keys that it may have
    "container": ({"type", "node"}, {"tag", "form", "arrays", "extensions"}),
    "leaf": ({"type", "value"}, {"tag", "arrays", "extensions"}),
    "array": ({"type", "shape", "dtype"}, {"requires_grad", "device"}),
    "link": ({"type", "value"}, {"tag"}),
    "reference": ({"to"}, set()),
}
WAYS_OUT = (
    "Build it inside `with flambe_save.recording():`, so that its arguments are known; register an adapter for its "
    "class; or leave it out."
)


def key_of(path: Trail) -> str:
    """Return a path as a key of a state; only to be written, since it is as long as the path."""
    return join_key(keys_of(path))


def form_of(tag: str) -> str:
    """Return the form of parts' names that a tag implies: by index, or by text."""
    return "list" if tag in _LISTS else "names"


def wrong(where: Trail | str, what: str) -> ConfigError:
    """Return the error for a fault in an entry."""
    path = where if isinstance(where, str) else key_of(where)
    return ConfigError(f"at {quote(path)}: {what}" if path else what, fix="Make the structure with build_structure.")


def check_entry(entry: Any, path: Trail | str) -> str:
    """Return the shape of an entry, one of five; raise for anything else."""
    if not isinstance(entry, dict):
        raise wrong(path, "an entry is a dict")
    kind = entry.get("node_type")
    shape = (
        "array" if kind == "leaf" and "shape" in entry else "link" if kind == "reference" and "type" in entry else kind
    )
    needed, more = _KEYS[shape] if isinstance(shape, str) and shape in _KEYS else ({"node_type"}, set())
    keys = entry.keys() - {"node_type"}
    if not needed <= keys <= needed | more:
        raise wrong(path, f"a {quote(kind)} with the keys {quote(sorted(map(str, keys)))} is not an entry")
    if not all(isinstance(entry.get(name, ""), str) for name in ("type", "tag", "to")):
        raise wrong(path, "a type, a tag or a path is not a text")
    return str(shape)


def names_of_parts(form: Any, parts: Mapping[str, Any]) -> list[str] | None:
    """Return the names that parts must have in a form, in order; None for an unknown form."""
    if form in ("names", "parts"):
        return [name for name in parts if isinstance(name, str)]
    if form == "list":
        return [str(index) for index in range(len(parts))]
    return (
        [f"{what} {index}" for index in range(len(parts) // 2) for what in ("key", "value")]
        if form == "pairs"
        else None
    )
