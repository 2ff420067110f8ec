"""Parts of a config by their names: items of its dicts, lists and objects, without the rest.

A part is a document of its own: only its own tags need trust, and its links lead nowhere outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
import yaml as pyyaml

from flambe_save.config.dialect import CORE, children_of
from flambe_save.config.nodes import Document
from flambe_save.objects.assembly import PARTS
from flambe_save.objects.structural import is_made_of_parts
from flambe_save.schema.construct import construct
from flambe_save.schema.schema import Schema
from flambe_save.state import join_key

_LISTS = (f"{CORE}seq", "!tuple")
STORED = ("!tensor", "!param")  # tags whose texts are keys of the state


class Entry(NamedTuple):
    """An entry of a container in a config: its key, index or attribute, and its node."""

    key: Any
    node: Any


def part_of(*roots: Any) -> Document:
    """Return a document of a node and all below it; of several nodes, as a list.

    Aliases that the nodes share stay one.
    """
    root = roots[0]
    if len(roots) > 1:
        root = pyyaml.SequenceNode(_LISTS[0], [*roots], roots[0].start_mark)
    found: list[Any] = []
    seen: set[int] = set()
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, is_done = stack.pop()
        if is_done:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack += [(node, True), *((child, False) for child in reversed(children_of(node)))]
    return Document(root, found)


def tensor_keys(document: Document) -> list[str]:
    """Return the keys of the state that a document names."""
    return [node.value for node in document.nodes if node.tag in STORED and isinstance(node.value, str)]


def is_value(schema: Schema) -> bool:
    """Whether a Schema makes an object of its fields or attributes, without a constructor."""
    cls = schema.component_subclass
    return is_made_of_parts(cls) or (schema.factory_method == PARTS and not issubclass(cls, torch.nn.Module))


def class_name(node: Any, recorded: Mapping[str, str]) -> str:
    """Return the bare name of the class that a node's tag names; empty for YAML's own kinds."""
    if not node.tag.startswith("!"):
        return ""
    tag = str(node.tag[1:])
    return recorded.get(tag, tag.removesuffix(f".{PARTS}")).removesuffix(f".{PARTS}").rpartition(".")[2]


def entries_of(node: Any) -> dict[str, Entry] | None:
    """Return the entries of a container in a config by their state keys; else None.

    Containers are dicts, lists, tuples, and objects that are written as their fields or attributes.
    """
    if isinstance(node, pyyaml.SequenceNode):
        if node.tag == "!odict":
            return _named(pair.value for pair in node.value)
        return _numbered(node) if node.tag in _LISTS else None
    if not isinstance(node, pyyaml.MappingNode):
        return None
    if node.tag == f"{CORE}map":
        return _named(node.value)
    table = {key.value: value for key, value in node.value}
    if node.tag.endswith(f".{PARTS}"):
        attributes = table.get("attributes")
        return entries_of(attributes) if attributes is not None else {}
    items = table.get("items")
    if isinstance(items, pyyaml.SequenceNode) and table.keys() <= {"items", "default_factory", "attributes"}:
        return _named(pair.value for pair in items.value)
    values = items if table.keys() == {"items", "maxlen"} else table.get("values")
    if isinstance(values, pyyaml.SequenceNode) and table.keys() <= {"items", "maxlen", "values", "attributes"}:
        return _numbered(values)
    return _named(node.value)


def _numbered(node: Any) -> dict[str, Entry]:
    return {str(index): Entry(index, item) for index, item in enumerate(node.value)}


def _named(pairs: Iterable[Any]) -> dict[str, Entry]:
    found = {}
    for key_node, node in pairs:
        is_text = isinstance(key_node, pyyaml.ScalarNode) and key_node.tag == f"{CORE}str"
        key = key_node.value if is_text else construct(part_of(key_node))
        found[join_key([str(key)])] = Entry(key, node)
    return found


def find_part(document: Document, names: Iterable[str], is_open: Callable[[str], bool] = lambda tag: True) -> Any:
    """Return the node that names lead to, through containers alone; else None.

    Parameters
    ----------
    document : Document
    names : iterable of str
        As in keys of the state, each with its escapes.
    is_open : callable
        Whether a tag of the save's own, without its ``!``, is a container's. Others are not entered.
    """
    node: Any = document.root
    for name in names:
        is_named = node.tag.startswith("!") and node.tag not in (*_LISTS, "!odict")
        if is_named and not is_open(node.tag[1:]):
            return None
        entry = (entries_of(node) or {}).get(name)
        if entry is None:
            return None
        node = entry.node
    return node
