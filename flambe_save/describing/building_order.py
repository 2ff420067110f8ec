"""Whether a config can be built at all: what refers to an object needs it first, and two may need each other."""

from __future__ import annotations

from typing import Any

import yaml as pyyaml

from flambe_save.config.dialect import children_of
from flambe_save.state import split_key

__all__ = ["LINKS", "can_be_built"]

LINKS = ("parameter", "module")  # tags of what has its target built before it


def can_be_built(root: pyyaml.Node) -> bool:
    """Whether nothing in a config has to be there before itself, in the order in which a load builds it.

    Parameters
    ----------
    root : yaml.Node
        May hold nodes that are inside themselves.
    """
    done: set[int] = set()
    under_way: set[int] = set()
    targets: dict[str, Any] = {}  # an optimizer links to its model once for each parameter
    stack: list[tuple[Any, list[Any]]] = [(None, [root])]
    while stack:
        node, waiting = stack[-1]
        if not waiting:
            stack.pop()
            under_way.discard(id(node))
            done.add(id(node))
            continue
        inner = waiting.pop()
        if inner.tag[1:] in LINKS:
            path = inner.value.partition(":")[0]
            if path not in targets:
                targets[path] = _target(root, split_key(path))
            inner = targets[path]
        if inner is None or id(inner) in done:
            continue
        if id(inner) in under_way:
            return False
        children = children_of(inner)
        if children:
            under_way.add(id(inner))
            stack.append((inner, children[::-1]))
    return True


def _target(root: Any, keys: list[str]) -> Any:
    """Return the node that keys lead to; None where that is no node, as in what a constructor makes."""
    node = root
    for key in keys:
        pairs: Any = ()
        if isinstance(node, pyyaml.MappingNode):
            pairs = node.value
        elif isinstance(node, pyyaml.SequenceNode):  # an ordered mapping is a list of pairs
            pairs = [item.value for item in node.value] if node.tag == "!odict" else enumerate(node.value)
        node = next((value for name, value in pairs if str(getattr(name, "value", name)) == key), None)
    return node
