"""Surveys of nodes: what is in each, found once for all configs of a save that hold it."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml as pyyaml

from flambe_save.config.dialect import children_of
from flambe_save.describing.writer import Written


class Survey(NamedTuple):
    """The content of a node.

    Attributes
    ----------
    tags : mapping of str to str
        Tag -> dotted path of its class, in order.
    extensions : mapping of str to str
        Module -> its pip requirement.
    depth : int
        The number of lists and mappings in one another.
    is_tree : bool
        Whether each node in it is there once, and keys are texts: so its text is the same wherever it stands.
    """

    tags: Mapping[str, str]
    extensions: Mapping[str, str]
    depth: int = 0
    is_tree: bool = True


def survey(root: Any, written: Written) -> Mapping[int, Survey]:
    """Return the surveys of a config's nodes by their ids; keep those that other configs need."""
    found: dict[int, Any] = {}  # of this config alone; None for a node that is being looked at
    parents: dict[int, int] = {}
    stack: list[tuple[Any, bool, Iterator[Any]]] = []

    def push(node: Any, is_kept: bool) -> None:
        found[id(node)] = None
        stack.append((node, is_kept or id(node) in written.shared, iter(children_of(node))))

    if id(root) not in written.surveys:
        push(root, False)
    while stack:
        node, is_kept, rest = stack[-1]
        for child in rest:
            if not isinstance(child, pyyaml.ScalarNode) and id(child) not in written.surveys and id(child) not in found:
                push(child, is_kept)
                break
        else:
            stack.pop()
            is_tree = _is_tree(node, parents, written.parents, is_kept)
            surveyed = _surveyed(node, is_tree, written, found)
            if is_kept:
                del found[id(node)]
                written.surveys[id(node)] = surveyed
            else:
                found[id(node)] = surveyed
    return ChainMap(found, written.surveys)


def _is_tree(node: Any, own: dict[int, int], kept: dict[int, int], is_kept: bool) -> bool:
    """Note a node as the parent of its children; whether it is the only one, and keys are texts."""
    number, children = id(node), children_of(node)
    is_tree = len({*map(id, children)}) == len(children)
    for child in children:
        is_tree = is_tree and own.get(id(child), number) == number == kept.get(id(child), number)
        (kept if is_kept else own)[id(child)] = number
    is_mapping = isinstance(node, pyyaml.MappingNode)
    return is_tree and not (is_mapping and any(not isinstance(key, pyyaml.ScalarNode) for key, _ in node.value))


def _surveyed(node: Any, is_tree: bool, written: Written, found: Mapping[int, Any]) -> Survey:
    """Put the surveys of a node's children together."""
    tags = dict(written.tags[id(node)][1]) if id(node) in written.tags else {}
    extensions = dict(written.extensions[id(node)][1]) if id(node) in written.extensions else {}
    if isinstance(node, pyyaml.ScalarNode):
        return Survey(tags, extensions)
    depth = 0
    for child in children_of(node):
        if isinstance(child, pyyaml.ScalarNode):
            if id(child) in written.tags:
                tags.update(written.tags[id(child)][1])
            continue
        inner = written.surveys.get(id(child)) or found.get(id(child))
        if inner is None:  # it is around itself
            is_tree = False
            continue
        tags.update(inner.tags)
        extensions.update(inner.extensions)
        depth, is_tree = max(depth, inner.depth), is_tree and inner.is_tree
    return Survey(tags, extensions, depth + 1, is_tree)
