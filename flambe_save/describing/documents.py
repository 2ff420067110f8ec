"""Configs as text: nodes to YAML documents, with the order and depth of their parts checked."""

from __future__ import annotations

from typing import Any

import yaml as pyyaml

from flambe_save.config.dialect import MAX_DEPTH, Dumper, children_of
from flambe_save.describing.building_order import LINKS, link_without_order
from flambe_save.describing.represent import Representer
from flambe_save.describing.stored_tensors import StoredTensors
from flambe_save.describing.writer import Written
from flambe_save.errors import ConfigError, UnsupportedObjectError

_DEEP = 32  # levels that are indented


class NoOrderError(UnsupportedObjectError):
    """Objects that refer to each other so that none can be built first."""


def config_text(
    obj: Any, stash: dict[str, Any] | None, stored: StoredTensors | None = None, written: Written | None = None
) -> tuple[str, dict[str, str]]:
    """Return an object's config, and the dotted path of the class that each tag in it means."""
    written = written or Written()
    is_part = stored is not None and stored.is_part
    for has_references in (True, False):  # a pickle may refer to an object that holds a value of it
        root = Representer(obj, stash, stored, written, has_references=has_references).represent_data(obj)
        found = _Survey([root], written)
        refers = not found.tags.keys().isdisjoint((*LINKS, "pickled"))
        link = link_without_order(root, is_part=is_part) if refers else None
        if link is None or "pickled" not in found.tags:
            break
        assert stash is not None
        stash.clear()
    if link is not None:
        raise NoOrderError(
            f"parts of this {type(obj).__qualname__} refer to each other, so that none can be built first: {link}",
            fix="Let one of them refer to the other alone, or save them apart.",
        )
    nodes = [root]
    if found.extensions:
        nodes.insert(0, Representer(None).represent_data(dict(sorted(found.extensions.items()))))
    return serialize(nodes, found), found.tags


def serialize(nodes: list[pyyaml.Node], found: _Survey | None = None) -> str:
    """Return the text of documents."""
    found = found or _Survey(nodes, Written())
    if found.depth > MAX_DEPTH:  # no load reads it, and the emitter would overflow the stack without an error
        raise ConfigError(f"a config nested deeper than {MAX_DEPTH} cannot be written", fix="Flatten the object.")
    options: dict[str, Any] = {"allow_unicode": True, "width": 1 << 20, "explicit_start": len(nodes) > 1}
    try:
        for node in found.deep:
            node.flow_style = True
        text = str(pyyaml.serialize_all(nodes, Dumper=Dumper, **options))
    except UnicodeEncodeError as error:
        raise ConfigError(f"a text that no file can hold: {error}") from error
    except RecursionError as error:
        raise ConfigError("the object is nested too deep to be written") from error
    finally:
        for node in found.deep:  # in the config of a component inside they are not deep
            node.flow_style = False
    return text[:-4] if text.endswith("\n...\n") else text  # the end mark of a lone scalar


class _Survey:
    """The tags, extensions and depth of documents; each node is visited where it stands first.

    Attributes
    ----------
    tags : dict of str to str
        Tag -> dotted path of its class, in order.
    extensions : dict of str to str
        Module -> its pip requirement.
    depth : int
        How deep the documents are nested.
    deep : list of yaml.Node
        Nodes so deep that they are written in one line: each level of others is indented.
    """

    def __init__(self, nodes: list[pyyaml.Node], written: Written) -> None:
        self.tags: dict[str, str] = {}
        self.extensions: dict[str, str] = {}
        self.depth = 0
        self.deep: list[Any] = []
        seen: set[int] = set()
        waiting: list[tuple[Any, int, int]] = [(node, 1, 1) for node in reversed(nodes)]
        while waiting:
            node, depth, level = waiting.pop()
            if id(node) in written.tags:
                self.tags.update(written.tags[id(node)][1])
            if isinstance(node, pyyaml.ScalarNode) or id(node) in seen:
                continue
            seen.add(id(node))
            if id(node) in written.extensions:
                self.extensions.update(written.extensions[id(node)][1])
            if id(node) in written.defaults:
                level = 1
            self.depth = max(self.depth, depth)
            if level > _DEEP and not node.flow_style:
                self.deep.append(node)
            waiting += [
                (item, depth + 1, level + 1)
                for item in reversed(children_of(node))
                if item.tag.startswith("!") or not isinstance(item, pyyaml.ScalarNode)
            ]
