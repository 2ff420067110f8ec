"""Text to a graph of nodes, of which nothing is built; :attr:`Document.tags` lists tags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import yaml as pyyaml

from flambe_save.config.dialect import CORE, MAX_DEPTH, Loader
from flambe_save.config.scalars import scalar_value
from flambe_save.errors import ConfigError

_MAX_CHARS = 64 << 20
_MAX_NODES = 5_000_000
_MAX_ALIASES = 100_000
_MAX_SCALAR = 16 << 20

_COLLECTIONS: dict[type, tuple[Any, str]] = {
    pyyaml.MappingStartEvent: (pyyaml.MappingNode, CORE + "map"),
    pyyaml.SequenceStartEvent: (pyyaml.SequenceNode, CORE + "seq"),
}


@dataclass
class Document:
    """One parsed YAML document: a graph of PyYAML nodes.

    Attributes
    ----------
    root : yaml.Node
    nodes : list of yaml.Node
        Every node, children before their parents.
    """

    root: pyyaml.Node
    nodes: list[pyyaml.Node] = field(default_factory=list)

    @cached_property
    def tags(self) -> dict[str, int]:
        """The document's own tags without ``!``, each with the line (from 1) where it first stands."""
        found: dict[str, int] = {}
        for node in self.nodes:
            if node.tag.startswith("!") and node.tag[1:] not in found:
                found[node.tag[1:]] = line_of(node)
        return found

    def named(self, tag: str) -> list[pyyaml.ScalarNode]:
        """The nodes under a tag, ``!type`` or ``!function``, in order."""
        nodes = self.nodes if tag in self.tags else ()
        return [node for node in nodes if node.tag == f"!{tag}" and isinstance(node, pyyaml.ScalarNode)]

    def pickles(self) -> list[str]:
        """The stash ids in ``!pickled {pickle: !$ id, ...}``; ConfigError where one has none."""
        found = []
        for node in self.nodes if "pickled" in self.tags else ():
            if node.tag == "!pickled":
                pairs = node.value if isinstance(node, pyyaml.MappingNode) else ()
                values = [value for key, value in pairs if key.value == "pickle"]
                if len(values) != 1 or values[0].tag != "!$":
                    raise ConfigError(f"line {line_of(node)}: !pickled names no value of the stash")
                found.append(values[0].value)
        return [*dict.fromkeys(found)]


def parse(text: str) -> list[Document]:
    """Parse YAML text into documents, without recursion and within limits.

    Raises
    ------
    ConfigError
        If it is not YAML, too large, or uses what this dialect leaves out: duplicate keys, recursive anchors.
    """
    if len(text) > _MAX_CHARS:
        raise ConfigError(f"a config of {len(text)} characters; the limit is {_MAX_CHARS}")
    documents: list[Document] = []
    try:
        loader = Loader(text)
    except (pyyaml.YAMLError, UnicodeEncodeError) as error:
        raise ConfigError(f"this is not YAML: {error}") from error
    try:
        events = iter(loader.get_event, None)
        for event in events:
            if isinstance(event, pyyaml.DocumentStartEvent):
                documents.append(_compose(loader, events))
            elif isinstance(event, pyyaml.StreamEndEvent):
                break
    except pyyaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise ConfigError(f"{where}this is not YAML: {getattr(error, 'problem', None) or error}") from error
    finally:
        loader.dispose()
    return documents


def _compose(loader: Any, events: Iterator[Any]) -> Document:
    """Make the nodes of one document; an alias gives the very node of its anchor."""
    nodes: list[pyyaml.Node] = []
    anchors: dict[str, pyyaml.Node] = {}
    open_nodes: list[Any] = []
    pending: list[list[Any]] = [[]]  # the children met so far, per open node; the first is the document's
    done: set[int] = set()  # those of anchors
    resolved: dict[tuple[str, Any], str] = {}  # tags of plain texts: most configs have few, again and again
    aliases = 0
    node: Any
    for event in events:
        kind = type(event)
        if kind is pyyaml.ScalarEvent:
            if len(event.value) > _MAX_SCALAR:
                raise ConfigError(f"line {event.start_mark.line + 1}: a text of more than {_MAX_SCALAR} characters")
            tag = event.tag
            if tag is None or tag == "!":
                known = event.value, event.implicit
                tag = resolved.get(known)
                if tag is None:
                    tag = resolved[known] = loader.resolve(pyyaml.ScalarNode, event.value, event.implicit)
            node = pyyaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark, event.style)
            nodes.append(node)
            if event.anchor is not None:
                anchors[event.anchor] = node
                done.add(id(node))
        elif kind is pyyaml.DocumentEndEvent:
            break
        elif kind is pyyaml.AliasEvent:
            if id(anchors.get(event.anchor)) not in done:
                raise ConfigError(
                    f"line {event.start_mark.line + 1}: *{event.anchor[:80]} has no finished anchor before it"
                )
            node = anchors[event.anchor]
            aliases += 1
            if aliases > _MAX_ALIASES:
                raise ConfigError(f"a config of more than {_MAX_ALIASES} aliases")
        elif kind in _COLLECTIONS:
            make, default = _COLLECTIONS[kind]
            opened = make(event.tag if event.tag not in (None, "!") else default, [], event.start_mark)
            if event.anchor is not None:
                anchors[event.anchor] = opened
            open_nodes.append(opened)
            pending.append([])
            if len(open_nodes) > MAX_DEPTH:
                raise ConfigError(f"a config nested deeper than {MAX_DEPTH}")
            continue
        else:  # the end of a collection
            node = open_nodes.pop()
            children = pending.pop()
            if isinstance(node, pyyaml.MappingNode):
                node.value = list(zip(children[::2], children[1::2], strict=True))
                _check_keys(node)
            else:
                node.value = children
            nodes.append(node)
            done.add(id(node))
        pending[-1].append(node)
        if len(nodes) > _MAX_NODES:
            raise ConfigError(f"a config of more than {_MAX_NODES} values")
    return Document(pending[0][0], nodes)


def _check_keys(node: Any) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, pyyaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise ConfigError(f"line {line_of(key)}: the key {key.value[:80]!r} comes twice")
            seen.add((key.tag, key.value))
            if key.value == "<<" and not key.style:
                raise ConfigError(f"line {line_of(key)}: merge keys (<<) are not part of this dialect")


def split_documents(documents: list[Document]) -> tuple[dict[str, str], Document]:
    """Return the extensions section, empty where there is none, and the one config.

    Raises
    ------
    ConfigError
        If there are more documents than that, or none.
    """
    extensions: dict[str, str] = {}
    if len(documents) == 2 and not documents[0].tags:
        section = extensions_in(documents[0])
        if section is None:
            raise ConfigError("the first of two documents must map extensions to what installs them")
        extensions, documents = section, documents[1:]
    if len(documents) != 1:
        raise ConfigError(f"one config is needed, and here are {len(documents)}", fix="Use yaml.load_all.")
    return extensions, documents[0]


def extensions_in(document: Document) -> dict[str, str] | None:
    """Return an extensions section, module names to packages; None for any other document."""
    if isinstance(document.root, pyyaml.ScalarNode) and scalar_value(document.root) is None:
        return {}
    pairs = document.root.value if isinstance(document.root, pyyaml.MappingNode) else None
    if pairs is None or not all(isinstance(node, pyyaml.ScalarNode) for pair in pairs for node in pair):
        return None
    section = {scalar_value(key): scalar_value(value) for key, value in pairs}
    return section if all(isinstance(item, str) for pair in section.items() for item in pair) else None


def line_of(node: Any) -> int:
    """Return the line, from 1, where a node begins."""
    return int(node.start_mark.line) + 1
