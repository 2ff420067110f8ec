"""Comparing configs by what they say, not by how their text is laid out. Nothing of them is built."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

import yaml as pyyaml

from flambe_save.config.parsing import parse
from flambe_save.config.yaml import split_documents

__all__ = ["ConfigChange", "compare_configs"]

_MOST = 10_000  # changes, past which the rest is not told


class ConfigChange(NamedTuple):
    """A place where two configs differ.

    Attributes
    ----------
    path : str
        ``encoder.layers[2].size``; empty for the whole.
    before, after : str or None
        What is there, in short; None where nothing is.
    """

    path: str
    before: str | None
    after: str | None


def compare_configs(before: str, after: str, covered: Container[str] = ()) -> list[ConfigChange]:
    """Return where two configs differ.

    Parameters
    ----------
    before, after : str
        YAML, either of them perhaps empty.
    covered : container of str
        Paths that are not gone into: those of components which are compared by themselves.

    Raises
    ------
    ConfigError
        If either is no config.
    """
    if before == after:
        return []
    return [*_changes(_root(before), _root(after), covered)]


def _root(text: str) -> pyyaml.Node | None:
    return split_documents(parse(text))[1].root if text.strip() else None


def _changes(before: pyyaml.Node | None, after: pyyaml.Node | None, covered: Container[str]) -> Iterator[ConfigChange]:
    left = _MOST
    seen: set[tuple[int, int]] = set()  # what anchors share is compared once
    stack: list[tuple[str, pyyaml.Node | None, pyyaml.Node | None]] = [("", before, after)]
    while stack and left:
        path, one, other = stack.pop()
        if one is None or other is None or _kind(one) != _kind(other):
            left -= 1
            yield ConfigChange(path, _shown(one), _shown(other))
            continue
        if (id(one), id(other)) in seen or path in covered:
            continue
        seen.add((id(one), id(other)))
        if isinstance(one, pyyaml.ScalarNode):
            if one.value != other.value:
                left -= 1
                yield ConfigChange(path, _shown(one), _shown(other))
            continue
        first, second = _items(path, one), _items(path, other)
        stack += [(key, first.get(key), second.get(key)) for key in reversed({**first, **second})]


def _kind(node: pyyaml.Node) -> tuple[type, str]:
    return type(node), node.tag


def _items(path: str, node: Any) -> Mapping[str, pyyaml.Node]:
    if isinstance(node, pyyaml.SequenceNode):
        return {f"{path}[{index}]": item for index, item in enumerate(node.value)}
    begin = f"{path}." if path else ""
    return {f"{begin}{_shown(key)}": value for key, value in node.value}


def _shown(node: pyyaml.Node | None) -> str | None:
    """Return a node in short: a scalar as it is written, of anything else the tag and how much is in it."""
    if node is None:
        return None
    tag = node.tag if node.tag.startswith("!") else ""
    if isinstance(node, pyyaml.ScalarNode):
        return f"{tag} {node.value}".strip() if tag else str(node.value)
    if not node.value:
        return f"{tag} {'{}' if isinstance(node, pyyaml.MappingNode) else '[]'}".strip()
    inside = "{...}" if isinstance(node, pyyaml.MappingNode) else f"[{len(node.value)} items]"
    return f"{tag} {inside}".strip()
