"""Compare configs by their meaning, not by their layout as text. Nothing is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

import yaml as pyyaml

from flambe_save.config.dialect import CORE
from flambe_save.config.nodes import parse, split_documents

_MOST = 10_000  # changes, past which the rest is not listed


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
    """Return the places where two configs differ.

    Parameters
    ----------
    before, after : str
        YAML, either of them perhaps empty.
    covered : container of str
        Paths that are not entered: those of components which are compared by themselves.

    Raises
    ------
    ConfigError
        If either is not a config.
    """
    if before == after or not (before.strip() or after.strip()):
        return []
    return [*_changes(_root(before), _root(after), covered)]


def _root(text: str) -> pyyaml.Node | None:
    return split_documents(parse(text))[1].root if text.strip() else None


def _changes(before: pyyaml.Node | None, after: pyyaml.Node | None, covered: Container[str]) -> Iterator[ConfigChange]:
    left = _MOST
    firsts: tuple[dict[int, str], dict[int, str]] = {}, {}  # where what anchors share was met first, in either
    stack: list[tuple[str, pyyaml.Node | None, pyyaml.Node | None]] = [("", before, after)]
    while stack and left:
        path, one, other = stack.pop()
        if one is None or other is None or _kind(one) != _kind(other):
            left -= 1
            yield ConfigChange(path, *_told_apart(one, other))
            continue
        if isinstance(one, pyyaml.ScalarNode):
            if _value(one) != _value(other):
                left -= 1
                yield ConfigChange(path, _shown(one), _shown(other))
            continue
        known = [first.get(id(node)) for first, node in zip(firsts, (one, other), strict=True)]
        if known[0] != known[1]:  # one object in two places, and two that look alike, are not the same
            left -= 1
            before_and_after = zip(known, (one, other), strict=True)
            yield ConfigChange(
                path, *(_shown(node) if first is None else f"*{first}" for first, node in before_and_after)
            )
        for first, node in zip(firsts, (one, other), strict=True):
            first.setdefault(id(node), path)
        if known == [None, None] and path not in covered:  # what anchors share is compared once
            ours, theirs = _items(path, one), _items(path, other)
            keys = reversed({**ours, **theirs})
            absent = None, None
            stack += [
                ((ours.get(key) or theirs[key])[0], ours.get(key, absent)[1], theirs.get(key, absent)[1])
                for key in keys
            ]
    if stack:
        yield ConfigChange("", None, f"more than {_MOST:,} differences; the rest is not listed")


def _kind(node: pyyaml.Node) -> tuple[type, str]:
    return type(node), node.tag


def _value(scalar: Any) -> str:
    """Return the value of a scalar, however it is written: ``16`` of ``0x10``."""
    kind, text = scalar.tag.removeprefix(CORE), str(scalar.value)
    try:
        if kind == "int":
            return str(int(text, 0 if text[:2] in ("0o", "0x") else 10))
        if kind == "float":
            return repr(float(text.lower().replace(".inf", "inf").replace(".nan", "nan")))
    except ValueError:
        return text
    return "null" if kind == "null" else text.lower() if kind == "bool" else text


def _told_apart(one: pyyaml.Node | None, other: pyyaml.Node | None) -> list[str | None]:
    """Return two nodes in short, with their types where they would look the same."""
    shown = [_shown(one), _shown(other)]
    if shown[0] != shown[1] or one is None or other is None:
        return shown
    return [f"{text} ({node.tag.removeprefix(CORE)})" for text, node in zip(shown, (one, other), strict=True)]


def _items(path: str, node: Any) -> Mapping[Any, tuple[str, pyyaml.Node]]:
    """Return the items of a collection and their paths, by keys that tell their places apart."""
    if isinstance(node, pyyaml.SequenceNode):
        return {index: (f"{path}[{index}]", item) for index, item in enumerate(node.value)}
    begin = f"{path}." if path else ""
    found: dict[Any, tuple[str, pyyaml.Node]] = {}
    counts: Counter[Any] = Counter()
    for key, value in node.value:
        shown = key.tag, _shown(key)
        found[shown, counts[shown]] = f"{begin}{shown[1]}", value
        counts[shown] += 1  # keys that are not scalars look alike
    return found


def _shown(node: pyyaml.Node | None) -> str | None:
    """Return a node in short: a scalar as written; of others, the tag and the number of items."""
    if node is None:
        return None
    tag = node.tag if node.tag.startswith("!") else ""
    if isinstance(node, pyyaml.ScalarNode):
        return f"{tag} {node.value}".strip() if tag else str(node.value)
    if not node.value:
        return f"{tag} {'{}' if isinstance(node, pyyaml.MappingNode) else '[]'}".strip()
    inside = "{...}" if isinstance(node, pyyaml.MappingNode) else f"[{len(node.value)} items]"
    return f"{tag} {inside}".strip()
