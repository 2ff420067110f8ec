"""Whether a config can be built at all: what refers to an object needs it first, and two may need each other."""

from __future__ import annotations

from typing import Any

import yaml as pyyaml

from flambe_save.config.dialect import CORE, children_of
from flambe_save.config.scalars import scalar_value
from flambe_save.objects.assembly import PARTS
from flambe_save.state import split_key

__all__ = ["LINKS", "link_without_order"]

LINKS = ("parameter", "module")  # tags of what has its target built before it
_NO_MODULES = (f"{CORE}null", "!back", "!tensor", "!param")  # what is none, or comes when all is built, has none inside


def link_without_order(root: pyyaml.Node, *, is_part: bool = False) -> str | None:
    """Return a link of a config that no load can follow: what it leads to needs the link itself first, or is nowhere.

    The config is gone through in the order in which a load builds it. None where every link can be followed.

    Parameters
    ----------
    root : yaml.Node
        May hold nodes that are inside themselves.
    is_part : bool
        Whether the config is of a part of a save, where links may lead to what only the whole has.
    """
    targets = _Targets(root)
    done: set[int] = set()
    under_way: set[int] = set()
    stack: list[tuple[Any, list[Any]]] = [(None, [root])]
    last = ""
    while stack:
        node, waiting = stack[-1]
        if not waiting:
            stack.pop()
            under_way.discard(id(node))
            done.add(id(node))
            continue
        inner = waiting.pop()
        if inner.tag[1:] in LINKS:
            last = str(inner.value)
            inner = targets.of(last)
            if inner is None:
                if not is_part:
                    return last
                continue
        if id(inner) in done:
            continue
        if id(inner) in under_way:
            return last
        children = children_of(inner)
        if children:
            under_way.add(id(inner))
            stack.append((inner, children[::-1]))
    return None


class _Targets:
    """The nodes that links lead to; an optimizer links to its model once for each parameter."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._at: dict[str, Any] = {}
        self._entries: dict[int, dict[str, Any]] = {}

    def of(self, text: str) -> Any:
        """Return the node that has to be there before a link can be followed; None where it cannot be at all."""
        path, _, name = text.partition(":")
        if path not in self._at:
            self._at[path] = None  # for a link that leads back to itself
            self._at[path] = self._followed(self._node_at(split_key(path)))
        node = self._at[path]
        return node if node is not None and self._may_have(node, name.split(".")[:-1]) else None

    def _node_at(self, keys: list[str]) -> Any:
        node = self._root
        for key in keys:
            node = self._entries_of(node).get(key)
        return node

    def _followed(self, node: Any) -> Any:
        """Return what a node is, or is built as, where it is a link itself."""
        if node is None or node.tag in _NO_MODULES:
            return None
        return self.of(str(node.value)) if node.tag[1:] in LINKS else node

    def _may_have(self, node: Any, names: list[str]) -> bool:
        """Whether there may be modules of these names in each other in what a node is; only its own parts can be told.

        Those that a link leads to, or that come when all is built, are not there yet.
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
        """Return what a mapping, or a list, of a config has by the texts of its keys."""
        if id(node) not in self._entries:
            pairs: Any = ()
            if isinstance(node, pyyaml.MappingNode):
                pairs = node.value
            elif isinstance(node, pyyaml.SequenceNode):  # an ordered mapping is a list of pairs
                pairs = [item.value for item in node.value] if node.tag == "!odict" else enumerate(node.value)
            self._entries[id(node)] = {_text(key): value for key, value in reversed([*pairs])}
        return self._entries[id(node)]


def _text(key: Any) -> str:
    """Return a key as keys of links have it."""
    is_plain = isinstance(key, pyyaml.ScalarNode) and key.tag.startswith(CORE)
    return str(scalar_value(key) if is_plain else getattr(key, "value", key))
