"""The order in which a config is built: a link needs its target first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml as pyyaml

from flambe_save.config.dialect import CORE, children_of
from flambe_save.config.scalars import scalar_value
from flambe_save.objects.assembly import PARTS
from flambe_save.objects.walks import inside_itself
from flambe_save.state import split_key

LINKS = ("parameter", "module")  # tags of links whose target is built first
_NO_MODULES = (f"{CORE}null", "!back", "!tensor", "!param")  # null, or filled in when all is built


def link_without_order(root: pyyaml.Node, *, is_part: bool = False) -> str | None:
    """Return a link of a config that no load can follow; None if all can be.

    Its target needs the link itself first, or is missing. Nodes are walked in the order in which a load builds them.

    Parameters
    ----------
    root : yaml.Node
        May hold nodes that are inside themselves.
    is_part : bool
        Whether the config is of a part of a save: its links may lead to other parts.
    """
    targets, last, missing = _Targets(root), "", list[str]()

    def needed(node: pyyaml.Node | None) -> Iterator[pyyaml.Node]:
        """Yield the nodes that are built before a node, in order; the root before None."""
        nonlocal last
        for inner in [root] if node is None else children_of(node):
            target = inner
            if inner.tag[1:] in LINKS:
                last = str(inner.value)
                target = targets.of(last)
                if target is None:
                    missing.append(last)
            if target is not None and not isinstance(target, pyyaml.ScalarNode):
                yield target

    has_cycle = inside_itself(None, needed) is not None
    if missing and not is_part:
        return missing[0]
    return last if has_cycle else None


class _Targets:
    """The nodes that links lead to; an optimizer links to its model once for each parameter."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._at: dict[str, Any] = {}
        self._entries: dict[int, dict[str, Any]] = {}

    def of(self, text: str) -> Any:
        """Return the node that a link needs first; None if it cannot be followed."""
        path, _, name = text.partition(":")
        if path not in self._at:
            self._at[path] = None  # for a link that leads back to itself
            node = self._root
            for key in split_key(path):
                node = self._entries_of(node).get(key)
            self._at[path] = self._followed(node)
        node = self._at[path]
        return node if node is not None and self._may_have(node, name.split(".")[:-1]) else None

    def _followed(self, node: Any) -> Any:
        """Return a node, or the target if it is a link itself."""
        if node is None or node.tag in _NO_MODULES:
            return None
        return self.of(str(node.value)) if node.tag[1:] in LINKS else node

    def _may_have(self, node: Any, names: list[str]) -> bool:
        """Whether a node may have a module at a path of names.

        False only where the config shows it. A module that is a link, or is filled in when all is built, is not there
        yet.
        """
        for name in names:
            is_made = not node.tag.endswith(f".{PARTS}")  # by a call, perhaps with changes
            tables = self._entries_of(self._entries_of(node).get("changes")).get("") if is_made else node
            node = self._entries_of(self._entries_of(tables).get("modules")).get(name)
            if node is None:
                return is_made
            if node.tag in _NO_MODULES:
                return False
        return True

    def _entries_of(self, node: Any) -> dict[str, Any]:
        """Return the entries of a mapping or list, by the texts of their keys."""
        if id(node) not in self._entries:
            pairs: Any = ()
            if isinstance(node, pyyaml.MappingNode):
                pairs = node.value
            elif isinstance(node, pyyaml.SequenceNode):  # an ordered mapping is a list of pairs
                pairs = [item.value for item in node.value] if node.tag == "!odict" else enumerate(node.value)
            self._entries[id(node)] = {_text(key): value for key, value in reversed([*pairs])}
        return self._entries[id(node)]


def _text(key: Any) -> str:
    """Return the text of a key as links spell it."""
    is_plain = isinstance(key, pyyaml.ScalarNode) and key.tag.startswith(CORE)
    return str(scalar_value(key) if is_plain else getattr(key, "value", key))
