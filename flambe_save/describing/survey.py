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
    kept = written.surveys
    stack: list[tuple[Any, bool, list[Any], Iterator[Any]]] = []

    def push(node: Any, is_kept: bool) -> None:
        found[id(node)] = None
        children = children_of(node)
        inner = [child for child in children if not isinstance(child, pyyaml.ScalarNode)]
        stack.append((node, is_kept or id(node) in written.shared, children, iter(inner)))

    if id(root) not in kept:
        push(root, False)
    while stack:
        node, is_kept, children, inner = stack[-1]
        child = next((child for child in inner if id(child) not in kept and id(child) not in found), None)
        if child is not None:
            push(child, is_kept)
            continue
        stack.pop()
        number, is_tree = id(node), _has_each_once(node, children)
        owners = written.parents if is_kept else parents
        for child in children:
            is_tree = is_tree and parents.get(id(child), number) == number == written.parents.get(id(child), number)
            owners[id(child)] = number
        surveyed = _surveyed(node, children, is_tree, written, found)
        if is_kept:
            del found[number]
        (kept if is_kept else found)[number] = surveyed
    return ChainMap(found, kept)


def _has_each_once(node: Any, children: list[Any]) -> bool:
    """Whether a node has each child once, and no keys that are lists or mappings."""
    is_mapping = isinstance(node, pyyaml.MappingNode)
    has_keys = is_mapping and any(not isinstance(key, pyyaml.ScalarNode) for key, _ in node.value)
    return not has_keys and len({*map(id, children)}) == len(children)


def _surveyed(node: Any, children: list[Any], is_tree: bool, written: Written, found: Mapping[int, Any]) -> Survey:
    """Put the surveys of a node's children together."""
    tags = dict(written.tags[id(node)][1]) if id(node) in written.tags else {}
    extensions = dict(written.extensions[id(node)][1]) if id(node) in written.extensions else {}
    if isinstance(node, pyyaml.ScalarNode):
        return Survey(tags, extensions)
    depth = 0
    for child in children:
        if isinstance(child, pyyaml.ScalarNode):
            if id(child) in written.tags:
                tags.update(written.tags[id(child)][1])
            continue
        inner = written.surveys.get(id(child)) or found.get(id(child))
        if inner is None:  # it is around itself
            is_tree = False
            continue
        tags.update(inner.tags)
        if inner.extensions:
            extensions.update(inner.extensions)
        depth, is_tree = max(depth, inner.depth), is_tree and inner.is_tree
    return Survey(tags, extensions, depth + 1, is_tree)
