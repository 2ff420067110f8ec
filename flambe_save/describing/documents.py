"""Configs as text: nodes to YAML documents, with the order and depth of their parts checked."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

import yaml as pyyaml

from flambe_save.config.dialect import CORE, MAX_DEPTH, Dumper, children_of
from flambe_save.describing.building_order import LINKS, link_without_order
from flambe_save.describing.represent import Representer
from flambe_save.describing.stored_tensors import StoredTensors
from flambe_save.describing.survey import Survey, survey
from flambe_save.describing.writer import Written
from flambe_save.errors import ConfigError, UnsupportedObjectError

_DEEP = 32  # levels that are indented
_WIDTH = 1 << 20  # characters; the emitter breaks lines that are longer
_HOLE = "a-node-that-is-written-apart"  # stands for a deep node while what is around it is written


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
        surveys = survey(root, written)
        found = surveys[id(root)]
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
    if not found.extensions:
        return _serialized([root], surveys, written), dict(found.tags)
    first = Representer(None).represent_data(dict(sorted(found.extensions.items())))
    return serialize([first, root], written), dict(found.tags)


def serialize(nodes: list[pyyaml.Node], written: Written | None = None) -> str:
    """Return the text of documents."""
    written = written or Written()
    return _serialized(nodes, ChainMap(*[dict(survey(node, written)) for node in nodes]), written)


def _serialized(nodes: list[pyyaml.Node], surveys: Mapping[int, Survey], written: Written) -> str:
    depth = max((surveys[id(node)].depth for node in nodes), default=0)
    if depth <= _DEEP:
        return _text(nodes)
    is_tree = all(surveys[id(node)].is_tree for node in nodes)
    text = _in_pieces(nodes, surveys, written) if is_tree and depth <= MAX_DEPTH else None
    if text is not None:
        return text
    depth, deep = _deep_nodes(nodes, written)
    if depth > MAX_DEPTH:  # no load reads it, and the emitter would overflow the stack without an error
        raise ConfigError(f"a config nested deeper than {MAX_DEPTH} cannot be written", fix="Flatten the object.")
    try:
        for node in deep:
            node.flow_style = True
        return _text(nodes)
    finally:
        for node in deep:  # in the config of a component inside they are not deep
            node.flow_style = False


def _text(nodes: list[Any]) -> str:
    options: dict[str, Any] = {"allow_unicode": True, "width": _WIDTH, "explicit_start": len(nodes) > 1}
    try:
        text = str(pyyaml.serialize_all(nodes, Dumper=Dumper, **options))
    except UnicodeEncodeError as error:
        raise ConfigError(f"a text that no file can hold: {error}") from error
    except RecursionError as error:
        raise ConfigError("the object is nested too deep to be written") from error
    return text[:-4] if text.endswith("\n...\n") else text  # the end mark of a lone scalar


def _deep_nodes(nodes: list[pyyaml.Node], written: Written) -> tuple[int, list[Any]]:
    """Return the depth of documents, and the nodes that are to be written in one line.

    Each node is visited where it stands first. Each level of others is indented; a default, as if nothing were around
    it.
    """
    most, deep = 0, list[Any]()
    seen: set[int] = set()
    waiting: list[tuple[Any, int, int]] = [(node, 1, 1) for node in reversed(nodes)]
    while waiting:
        node, depth, level = waiting.pop()
        if isinstance(node, pyyaml.ScalarNode) or id(node) in seen:
            continue
        seen.add(id(node))
        if id(node) in written.defaults:
            level = 1
        most = max(most, depth)
        if level > _DEEP and not node.flow_style:
            deep.append(node)
        waiting += [(item, depth + 1, level + 1) for item in reversed(children_of(node))]
    return most, deep


# ------------------------------------------------------------------------------------------------ pieces


def _in_pieces(nodes: list[Any], surveys: Mapping[int, Survey], written: Written) -> str | None:
    """Return the text of documents, with the texts of deep nodes put in.

    None where such a text would be another in its place.

    A component inside many others is in the config of each. Of its text in one line, only the part near its top is
    written again for each.
    """
    holes: list[Any] = []

    def cut(node: Any, level: int) -> Any:
        level = 1 if id(node) in written.defaults else level
        if isinstance(node, pyyaml.ScalarNode) or surveys[id(node)].depth + level <= _DEEP + 1:
            return node
        return _hole(node, holes) if level > _DEEP else _with_children(node, lambda child: cut(child, level + 1))

    text = _filled(_text([cut(node, 1) for node in nodes]), holes, _pieces_of(holes, surveys, written))
    is_as_long = text is None or max(map(len, text.split("\n"))) <= _WIDTH
    return text if is_as_long else None


def _pieces_of(holes: list[Any], surveys: Mapping[int, Survey], written: Written) -> Mapping[int, str | None]:
    """Return the texts of nodes in one line, by their ids."""
    own: dict[int, str | None] = {}
    drafts: dict[int, tuple[str, list[Any]]] = {}
    pieces, waiting, outer = ChainMap(own, written.pieces), [*holes], {*map(id, holes)}
    while waiting:
        node = waiting[-1]
        if id(node) not in drafts and id(node) not in pieces:
            drafts[id(node)] = _in_one_line(node, surveys)
            waiting += drafts[id(node)][1]
            continue
        waiting.pop()
        if id(node) not in pieces:
            text = _filled(*drafts.pop(id(node)), pieces)
            is_kept = id(node) in written.surveys and id(node) not in outer
            (written.pieces if is_kept else own)[id(node)] = text
    return pieces


def _in_one_line(node: Any, surveys: Mapping[int, Survey]) -> tuple[str, list[Any]]:
    """Return the text of a node, with holes for nodes inside it, and these nodes."""
    holes: list[Any] = []

    def cut(inner: Any, around: int) -> Any:
        depth = 0 if isinstance(inner, pyyaml.ScalarNode) else surveys[id(inner)].depth
        if depth < _DEEP:
            return inner
        return _hole(inner, holes) if depth // _DEEP < around // _DEEP else _with_children(inner, cut_in(depth))

    def cut_in(depth: int) -> Callable[[Any], Any]:
        return lambda inner: cut(inner, depth)

    top = _with_children(node, cut_in(surveys[id(node)].depth))
    top.flow_style = True
    return _text([top])[:-1], holes


def _hole(node: Any, holes: list[Any]) -> pyyaml.ScalarNode:
    holes.append(node)
    return pyyaml.ScalarNode(f"{CORE}str", _HOLE)


def _with_children(node: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a list or mapping with other values."""
    is_mapping = isinstance(node, pyyaml.MappingNode)
    values = [(key, change(item)) for key, item in node.value] if is_mapping else [*map(change, node.value)]
    return type(node)(node.tag, values, flow_style=node.flow_style)


def _filled(text: str, holes: list[Any], pieces: Mapping[int, str | None]) -> str | None:
    """Return a text with the pieces in its holes; None where one cannot be put in."""
    parts, inner = text.split(_HOLE), [pieces[id(node)] for node in holes]
    if len(parts) != len(inner) + 1 or any(piece is None or len(piece.splitlines()) > 1 for piece in inner):
        return None  # a value is that word, or lines are indented as what is around them
    return "".join(part for pair in zip(parts, [*inner, ""], strict=True) for part in pair if part)
