"""The entries of a structure to a config's nodes. Inverse of describing.py."""

from __future__ import annotations

from typing import Any

import yaml as pyyaml

from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.config.dialect import CORE
from flambe_save.describing.represent import Representer
from flambe_save.errors import RegistrationError, UnsupportedObjectError, quote
from flambe_save.objects.arguments import Trail
from flambe_save.schema.stored import TensorLink
from flambe_save.state import split_key
from flambe_save.structure.arrays import Zeros, zeros_of
from flambe_save.structure.entries import (
    OF_ITEMS,
    TYPE_TAGS,
    Entry,
    check_entry,
    form_of,
    key_of,
    names_of_parts,
    wrong,
)
from flambe_save.support.trampoline import Steps
from flambe_save.tree import join_prefix
from flambe_save.trust import Trust


class _Made:
    """The node that was made of an entry, and those of its parts by name."""

    __slots__ = ("node", "parts")

    def __init__(self) -> None:
        self.node: pyyaml.Node | None = None
        self.parts: dict[str, _Made] = {}


class Reading:
    """Turns entries into the nodes of a config.

    Attributes
    ----------
    root : _Made
    tags : dict of str to str
        Tag -> dotted path of its class.
    leaves, arrays : dict of str to Zeros
        By state key: arrays that the config names, and those that objects hold.
    ties : dict of str to str
        Key of an array -> key of the same array, read before.
    """

    def __init__(self, trust: Trust) -> None:
        self.tags: dict[str, str] = {}
        self.leaves: dict[str, Zeros] = {}
        self.arrays: dict[str, Zeros] = {}
        self.ties: dict[str, str] = {}
        self.root = _Made()
        self._trust = trust

    def node(self, entry: Any, path: Trail, place: _Made) -> Steps:
        """Return the node of an entry, and note it in its place."""
        shape = check_entry(entry, path)
        made: Any
        if shape == "reference":
            made = self._before(entry["to"])
            if made is None:
                raise wrong(path, f"{quote(entry['to'])} leads to nothing before it")
            return made
        if shape == "array":
            key = f"array {len(self.leaves)}"
            self.leaves[key] = zeros_of(entry, path)
            made = place.node = pyyaml.ScalarNode(self._tag({"type": dotted_path(TensorLink)}), key)
            return made
        tag = self._tag(entry)
        if shape != "container":
            made = place.node = pyyaml.ScalarNode(tag, self._text(entry, tag, path))
        else:
            form, parts = entry.get("form", form_of(tag)), entry["node"]
            if not isinstance(parts, dict) or [*parts] != names_of_parts(form, parts):
                raise wrong(path, f"its parts are not named as those of the form {quote(form)} are")
            made = (pyyaml.SequenceNode if form == "list" else pyyaml.MappingNode)(tag, [], flow_style=True)
            place.node = made
            built = []
            for name, part in parts.items():
                inner = place.parts[name] = _Made()
                built.append((yield self.node(part, (path, name), inner)))
            if form in ("names", "parts"):
                built = [item for name, part in zip(parts, built, strict=True) for item in (_text_node(name), part)]
            made.value = built if form == "list" else [*zip(built[::2], built[1::2], strict=True)]
            if tag in (*OF_ITEMS, "!odict") and form not in ("list", "parts"):
                made = place.node = _as_items(made)
        self._read_arrays(entry.get("arrays", {}), path)
        return made

    def _before(self, key: str) -> pyyaml.Node | None:
        """Return the node that was made at a place before, or None."""
        place: _Made | None = self.root
        for part in split_key(key) if key else ():
            place = place.parts.get(part) if place is not None else None
        return None if place is None else place.node

    def _tag(self, entry: Entry) -> str:
        """Return the tag that an entry's type is written with, and note what it means."""
        path = entry["type"]
        tag = entry.get("tag")
        if tag is None and path in TYPE_TAGS:
            return TYPE_TAGS[path]
        if tag is None:
            try:
                tag = TAGS.tag_of(TAGS.resolve(path, path, self._trust.allows)[0])
            except RegistrationError:  # the check of the config says what to do
                tag = path
        self.tags[tag] = path
        return f"!{tag}"

    def _text(self, entry: Entry, tag: str, path: Trail) -> str:
        """Return a leaf's value as text; reading the config shows whether it fits its type."""
        value = entry["value"]
        if isinstance(value, str):
            if tag == "!type" and value not in TYPE_TAGS:
                self.tags[value] = value
            return value
        if type(value) not in (type(None), bool, int, float) or tag == CORE + "str" or not tag.startswith(CORE):
            raise wrong(path, f"a {type(value).__name__} is not a value of a {quote(entry['type'])}")
        try:
            return str(Representer(None).represent_data(value).value)
        except UnsupportedObjectError as error:  # an int of too many digits
            raise wrong(path, error.message) from error

    def _read_arrays(self, arrays: Any, path: Trail) -> None:
        if not isinstance(arrays, dict) or not all(isinstance(name, str) for name in arrays):
            raise wrong(path, "its arrays are not a dict with names as keys")
        begin = key_of(path) if arrays else ""
        for name, entry in arrays.items():
            key = join_prefix(begin, name)
            shape = check_entry(entry, key)
            if shape == "reference":
                self.ties[key] = entry["to"]
                if entry["to"] not in self.arrays:
                    raise wrong(key, f"{quote(entry['to'])} is not an array before it")
            elif shape != "array" or key in self.arrays:
                raise wrong(key, "it is not an array, or there twice")
            self.arrays[key] = self.arrays[entry["to"]] if shape == "reference" else zeros_of(entry, key)


def _text_node(text: str) -> pyyaml.Node:
    return pyyaml.ScalarNode(CORE + "str", text)


def _as_items(node: pyyaml.MappingNode) -> pyyaml.Node:
    """Return a mapping as the config's list of pairs. describing.py has the inverse."""
    pairs: list[Any] = [pyyaml.SequenceNode(CORE + "seq", [*pair], flow_style=True) for pair in node.value]
    if node.tag not in OF_ITEMS:
        return pyyaml.SequenceNode(node.tag, pairs, flow_style=True)
    items = pyyaml.SequenceNode(CORE + "seq", pairs, flow_style=True)
    return pyyaml.MappingNode(node.tag, [(_text_node("items"), items)], flow_style=True)
