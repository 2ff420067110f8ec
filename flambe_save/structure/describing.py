"""A config's nodes to the entries of a structure. Inverse of reading.py."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml as pyyaml

from flambe_save.classes.tags import TAGS
from flambe_save.config.dialect import CORE
from flambe_save.objects.arguments import Trail
from flambe_save.schema.reference import Reference
from flambe_save.schema.stored import TensorLink
from flambe_save.state import State, split_key
from flambe_save.structure.arrays import describe_array
from flambe_save.structure.entries import OF_ITEMS, TYPE_TAGS, TYPES, Entry, form_of, key_of
from flambe_save.support.trampoline import Steps


def owner_of(key: str, root: Entry) -> tuple[Entry, str]:
    """Return the innermost container that a key leads through, and what is left of the key."""
    entry, parts = root, key.split(".")
    for index, part in enumerate(parts[:-1]):
        inner = entry.get("node", {}).get(split_key(part)[0])
        if inner is None or inner["node_type"] != "container":
            return entry, ".".join(parts[index:])
        entry = inner
    return entry, parts[-1]


class Describing:
    """Turns the nodes of a config into entries."""

    def __init__(self, state: State, tags: Mapping[str, str], stash: Mapping[str, Any]) -> None:
        self._state = state
        self._tags = tags
        self._stash = stash
        self._paths: dict[int, Trail] = {}

    def entry(self, node: pyyaml.Node, path: Trail) -> Steps:
        """Return the entry of a node."""
        if isinstance(node, pyyaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._paths:
            return {"node_type": "reference", "to": key_of(self._paths[id(node)])}
        self._paths[id(node)] = path
        entry: Entry = {"node_type": "container", **self._type(node.tag)[1]}
        form, children = _children(node)
        if form != form_of(node.tag):
            entry["form"] = form
        entry["node"] = {}
        for name, child in children:
            entry["node"][name] = yield self.entry(child, (path, name))
        return entry

    def _type(self, tag: str) -> tuple[type | None, Entry]:
        """Return the class that a tag names, and the keys of an entry for it."""
        if tag in TYPES:
            return None, {"type": TYPES[tag]}
        name = tag[1:]
        path = self._tags.get(name, name)
        cls, _ = TAGS.resolve(name, path, lambda _: True)
        is_implied = name in (path, TAGS.tag_of(cls)) and path not in TYPE_TAGS
        return cls, {"type": path} if is_implied else {"type": path, "tag": name}

    def _scalar(self, node: pyyaml.ScalarNode, path: Trail) -> Entry:
        tag, text = node.tag, node.value
        if tag == CORE + "timestamp":
            return {"node_type": "leaf", "type": f"datetime.date{'time' * (len(text) > 10)}", "value": text}
        if tag == "!$":
            return self._shared(self._stash[text], getattr(self._stash, "paths", {}).get(text), path)
        cls, entry = self._type(tag)
        if cls is TensorLink:
            return self._shared(self._state[text], None, path)
        if tag == "!type":
            text = self._tags.get(text, text)
        is_link = cls is not None and issubclass(cls, Reference)
        return {"node_type": "reference" if is_link else "leaf", **entry, "value": _value(tag, text)}

    def _shared(self, value: Any, where: str | None, path: Trail) -> Entry:
        """Return the entry of an array, or that of its second mention."""
        first = self._paths.setdefault(id(value), path)
        if first is not path:
            return {"node_type": "reference", "to": key_of(first)}
        return describe_array(value, (key_of(path) if where is None else where) or "it")


def _value(tag: str, text: str) -> Any:
    """Return the text of a scalar, or the value where JSON holds that as exactly."""
    if tag == CORE + "null":
        return None
    if tag == CORE + "bool":
        return text.lower() == "true"
    if tag == CORE + "int" and re.fullmatch("-?[0-9]{1,15}", text):  # longer ones some readers round
        return int(text)
    return float(text) if tag == CORE + "float" and text[-1].isdigit() else text


def _children(node: Any) -> tuple[str, list[tuple[str, Any]]]:
    """Return the form of a collection's names, and its parts by name."""
    if isinstance(node, pyyaml.SequenceNode) and node.tag != "!odict":
        return "list", [(str(index), item) for index, item in enumerate(node.value)]
    pairs = node.value
    if node.tag in OF_ITEMS and len(pairs) > 1:  # with attributes
        return "parts", [(key.value, value) for key, value in pairs]
    if node.tag in OF_ITEMS:
        pairs = pairs[0][1].value
    if node.tag in (*OF_ITEMS, "!odict"):
        pairs = [pair.value for pair in pairs]
    if all(key.tag == CORE + "str" for key, _ in pairs):
        return "names", [(key.value, value) for key, value in pairs]
    numbered = ((f"key {index}", f"value {index}") for index in range(len(pairs)))
    return "pairs", [
        item for names, pair in zip(numbered, pairs, strict=True) for item in zip(names, pair, strict=True)
    ]
