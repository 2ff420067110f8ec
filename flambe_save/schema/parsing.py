"""Text to Schemas, in three steps with nothing hidden between them.

:func:`parse` turns text into a graph of nodes, without recursion and within limits; :attr:`Document.tags` lists what
the graph asks for; :meth:`Document.construct` builds Schemas, and no objects.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import yaml as pyyaml

from flambe_save.classes.lookup import find_imported, is_harmless
from flambe_save.classes.registrable import TAGS, dotted_path
from flambe_save.config.dialect import CORE, MAX_DEPTH, SCALARS, Loader, children_of
from flambe_save.errors import ConfigError, FlambeSaveError, quote, shown
from flambe_save.objects.assembly import COMPLETE, PARTS
from flambe_save.objects.builders import builder_of
from flambe_save.objects.structural import is_made_of_parts
from flambe_save.objects.values import BY_TAG
from flambe_save.schema.link import Link, parse_link_str
from flambe_save.schema.own_names import NAMING_TAGS, own_names
from flambe_save.schema.schema import Reference, Schema, items_in
from flambe_save.support.sizes import MAX_HASHED
from flambe_save.trust import NO_TRUST, Trust

__all__ = ["Constructor", "Document", "parse"]

_MAX_CHARS = 64 << 20
_MAX_NODES = 5_000_000
_MAX_UNFOLDED = 1_000_000
_MAX_ALIASES = 100_000
_MAX_SCALAR = 16 << 20

_TEXT = CORE + "str"
_NUMBERS = frozenset(CORE + kind for kind in ("null", "bool", "int", "float"))
_PATTERNS = {kind: re.compile(pattern) for kind, (pattern, _) in SCALARS.items()}

_COLLECTIONS: dict[type, tuple[Any, str]] = {
    pyyaml.MappingStartEvent: (pyyaml.MappingNode, CORE + "map"),
    pyyaml.SequenceStartEvent: (pyyaml.SequenceNode, CORE + "seq"),
}


def _says_complete(pair: tuple[pyyaml.Node, pyyaml.Node]) -> bool:
    key, value = pair
    return (key.tag, key.value, value.tag, value.value) == (_TEXT, COMPLETE, CORE + "bool", "true")


@dataclass
class Document:
    """One parsed YAML document: a graph of PyYAML nodes from which nothing has been built yet.

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

    def own_names(self, classes: Mapping[str, tuple[type, str | None]]) -> frozenset[int]:
        """The ids of those nodes that need no trust, as :func:`~flambe_save.schema.own_names.own_names` has them."""
        has_names = any(tag in self.tags for tag in NAMING_TAGS)
        return own_names(self.root, classes) if has_names else frozenset()

    def is_complete(self, tag: str) -> bool:
        """Whether all objects under a tag are written as all that they are, as ``assemble`` has it."""
        written = [node for node in self.nodes if node.tag == f"!{tag}"]
        return all(isinstance(node, pyyaml.MappingNode) and any(map(_says_complete, node.value)) for node in written)

    def pickles(self) -> list[str]:
        """The ids of values of the stash that refer to others, of ``!pickled {pickle: !$ id, ...}``.

        Raises
        ------
        ConfigError
            If one names none.
        """
        found = []
        for node in self.nodes if "pickled" in self.tags else ():
            if node.tag == "!pickled":
                pairs = node.value if isinstance(node, pyyaml.MappingNode) else ()
                values = [value for key, value in pairs if key.value == "pickle"]
                if len(values) != 1 or values[0].tag != "!$":
                    raise ConfigError(f"line {line_of(node)}: !pickled names no value of the stash")
                found.append(values[0].value)
        return [*dict.fromkeys(found)]

    def classes(
        self, recorded: Mapping[str, str] | None = None, trust: Trust = NO_TRUST
    ) -> dict[str, tuple[type, str | None]]:
        """Resolve the tags that name classes; the error for unknown ones lists all.

        Parameters
        ----------
        recorded : mapping, optional
            What a save recorded for its tags: tag -> dotted path.
        trust : Trust
            Whose classes may be used that are imported and not registered.
        """
        found: dict[str, tuple[type, str | None]] = {}
        problems: list[FlambeSaveError] = []
        for tag, line in self.tags.items():
            if tag in BY_TAG or tag in NAMING_TAGS:
                continue
            try:
                found[tag] = TAGS.resolve(tag, (recorded or {}).get(tag), trust.allows)
            except ConfigError as error:
                error.message = f"line {line}: {error.message}"
                problems.append(error)
        if problems:
            first = problems[0]
            if len(problems) > 1:
                first = type(first)(
                    "; ".join(problem.message for problem in problems),
                    fix="\n".join(dict.fromkeys(problem.fix or "" for problem in problems)),
                )
            raise first
        return found

    def construct(
        self,
        recorded: Mapping[str, str] | None = None,
        extensions: Mapping[str, str] | None = None,
        trust: Trust = NO_TRUST,
    ) -> Any:
        """Build plain values and Schemas from the nodes, and tell links and Schemas what they are part of.

        Raises
        ------
        RegistrationError
            If a tag is unknown or fits several classes.
        ConfigError
            If a value does not fit its tag.
        """
        result = Constructor(self, self.classes(recorded, trust), recorded, trust).values[id(self.root)]
        for item in items_in(result):
            if isinstance(item, Reference):
                item.within(result)
            elif isinstance(item, Schema) and extensions:
                item._note_extension(extensions)
        return result


def parse(text: str) -> list[Document]:
    """Parse YAML text into documents, without recursion and within limits.

    Raises
    ------
    ConfigError
        If it is no YAML, too large, or uses what this dialect leaves out: duplicate keys, recursive anchors.
    """
    if len(text) > _MAX_CHARS:
        raise ConfigError(f"a config of {len(text)} characters; the limit is {_MAX_CHARS}")
    documents: list[Document] = []
    try:
        loader = Loader(text)
    except (pyyaml.YAMLError, UnicodeEncodeError) as error:
        raise ConfigError(f"this is no YAML: {error}") from error
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
        raise ConfigError(f"{where}this is no YAML: {getattr(error, 'problem', None) or error}") from error
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


def line_of(node: Any) -> int:
    """Return the line, from 1, where a node begins."""
    return int(node.start_mark.line) + 1


def may_be_called(cls: Any) -> bool:
    """Whether a config may hand a class to an object: calling it is no more than a config may do itself by its tag.

    Objects made of their parts, and those of builders, are not made by calling their classes; references are no objects
    of anybody's.
    """
    return not (issubclass(cls, Reference) or is_made_of_parts(cls) or builder_of(cls) is not None)


class Constructor:
    """Builds the values of a document, children first; a class's ``from_yaml`` is handed this and its node."""

    def __init__(
        self,
        document: Document,
        classes: Mapping[str, tuple[type, str | None]],
        recorded: Mapping[str, str] | None = None,
        trust: Trust = NO_TRUST,
    ) -> None:
        self.values: dict[int, Any] = {}
        self._trust = trust
        self._classes = classes
        self._recorded = recorded or {}
        self._own_names = document.own_names(classes)
        self._sizes: dict[int, int] = {}  # how many values each node stands for, anchors unfolded
        scalars: dict[tuple[str, str], Any] = {}
        sizes, most = self._sizes, max(_MAX_UNFOLDED, 4 * len(document.nodes))
        for node in document.nodes:
            is_scalar = isinstance(node, pyyaml.ScalarNode)
            if is_scalar and node.tag == _TEXT:  # as most are
                sizes[id(node)], self.values[id(node)] = 1, node.value
                continue
            call = (node.tag, node.value) if is_scalar and node.tag in _NUMBERS else None
            if call in scalars:
                sizes[id(node)], self.values[id(node)] = 1, scalars[call]
                continue
            size = sizes[id(node)] = 1 + sum([sizes[id(child)] for child in children_of(node)])
            if size > most:
                raise ConfigError(f"line {line_of(node)}: with its anchors unfolded, this stands for too many values")
            try:
                value = self.values[id(node)] = self._build(node)
                if call is not None:
                    scalars[call] = value
            except FlambeSaveError as error:
                if not error.message.startswith("line "):
                    error.message = f"line {line_of(node)}: {error.message}"
                raise

    def construct_object(self, node: pyyaml.Node) -> Any:
        """Return the value of a node inside the current one."""
        return self.values[id(node)]

    def construct_scalar(self, node: pyyaml.Node) -> str:
        """Return a scalar's text."""
        if not isinstance(node, pyyaml.ScalarNode):
            raise ConfigError(f"the tag {quote(node.tag)} takes a scalar")
        return str(node.value)

    def construct_sequence(self, node: pyyaml.Node) -> list[Any]:
        """Return a sequence's values."""
        if not isinstance(node, pyyaml.SequenceNode):
            raise ConfigError(f"the tag {quote(node.tag)} takes a list")
        return [self.values[id(item)] for item in node.value]

    def construct_mapping(self, node: pyyaml.Node) -> dict[Any, Any]:
        """Return a mapping's keys and values; an empty scalar counts as an empty mapping."""
        if isinstance(node, pyyaml.ScalarNode) and node.value in ("", "~", "null"):
            return {}
        if not isinstance(node, pyyaml.MappingNode):
            raise ConfigError(f"the tag {quote(node.tag)} takes a mapping of arguments")
        built: dict[Any, Any] = {}
        for key, value in node.value:
            name = self.values[id(key)]
            self._check_hashable(key)
            try:
                hash(name)
            except TypeError as error:
                raise ConfigError(f"line {line_of(key)}: a {type(name).__name__} cannot be a key") from error
            if name in built:
                raise ConfigError(f"line {line_of(key)}: the key {shown(name)[:80]} comes twice")
            built[name] = self.values[id(value)]
        return built

    def _check_hashable(self, node: pyyaml.Node) -> None:
        """Refuse what would take long to hash: anchors let a few lines stand for a huge nested tuple."""
        if self._sizes[id(node)] > MAX_HASHED:
            raise ConfigError(f"line {line_of(node)}: a key or a set's item of more than {MAX_HASHED} values")

    def construct_yaml_map(self, node: pyyaml.Node) -> Iterator[dict[Any, Any]]:
        """Yield a mapping's keys and values, for a ``from_yaml`` that was written for Flambe."""
        yield self.construct_mapping(node)

    def construct_arguments(self, node: pyyaml.Node) -> dict[str, Any]:
        """Return a mapping's keys and values, where all keys are names."""
        arguments = self.construct_mapping(node)
        if not all(isinstance(key, str) for key in arguments):
            raise ConfigError(f"the arguments of {node.tag} must have names")
        return arguments

    def _build(self, node: pyyaml.Node) -> Any:
        if node.tag.startswith(CORE):
            return self._core(node, node.tag[len(CORE) :])
        tag = node.tag.removeprefix("!")
        if tag in BY_TAG:
            plain = node.value if isinstance(node, pyyaml.ScalarNode) else self.construct_sequence(node)
            if tag in ("set", "frozenset"):
                self._check_hashable(node)
            try:
                return BY_TAG[tag].build(plain)
            except (TypeError, ValueError, RuntimeError) as error:
                raise ConfigError(f"!{tag} cannot hold {shown(plain)[:80]}: {error}") from error
        if tag in NAMING_TAGS:
            return self._named(tag, self.construct_scalar(node), id(node) in self._own_names)
        if tag not in self._classes:
            raise ConfigError(f"the tag {quote(node.tag)} is none of this dialect")
        cls, factory = self._classes[tag]
        if issubclass(cls, Link):
            return cls(*parse_link_str(self.construct_scalar(node)))
        if issubclass(cls, Reference):
            return cls(self.construct_scalar(node))  # type: ignore[call-arg]  # each is made of one text
        if cls in TAGS and factory != PARTS and hasattr(cls, "from_yaml"):
            value = cls.from_yaml(self, node, factory)
            if hasattr(value, "__dict__"):
                value.__dict__["_created_with_tag"] = tag  # to be written with it again
            return value
        schema = Schema(cls, factory)
        schema.keywords.update(self.construct_arguments(node))
        schema._created_with_tag = tag
        return schema

    def _named(self, tag: str, path: str, is_own: bool) -> Any:
        """Return the class or the function that a config hands to an object."""
        found = find_imported(path)
        is_known = found is not None and (is_own or is_harmless(found) or self._trust.allows(path))
        if tag == "function":
            if not is_known or isinstance(found, type):
                raise ConfigError(
                    f"{quote(path)} is no function that is imported and allowed",
                    fix=f"Import its module first, and load(..., trusted=[{quote(path)}]) if you know who wrote it.",
                )
            return found
        if is_known and isinstance(found, type):
            return found
        cls, factory_name = TAGS.resolve(path, self._recorded.get(path), self._trust.allows)
        if factory_name is not None:
            raise ConfigError(f"{quote(path)} is a factory, and !type takes a class")
        if not (may_be_called(cls) or self._trust.allows(dotted_path(cls))):
            raise ConfigError(f"{quote(path)} is a class that a config may not hand to an object, which could call it")
        return cls

    def _core(self, node: pyyaml.Node, kind: str) -> Any:
        if kind == "map":
            return self.construct_mapping(node)
        if kind == "seq":
            return self.construct_sequence(node)
        if kind not in (*SCALARS, "str", "binary"):
            raise ConfigError(f"the tag {quote('!!' + kind)} is none of this dialect")
        text = self.construct_scalar(node)
        try:
            if kind in _PATTERNS and _PATTERNS[kind].fullmatch(text) is None:
                raise ValueError("it is not written as one")
            if kind == "str":
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return text.lower() == "true"
            if kind == "int":
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            if kind == "float":
                return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
            if kind == "binary":
                return base64.b64decode(text, validate=False)
            if kind == "timestamp":
                return pyyaml.constructor.SafeConstructor().construct_yaml_timestamp(cast(pyyaml.ScalarNode, node))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{text[:80]!r} is no {kind}: {error}") from error
        raise ConfigError(f"the tag '!!{kind[:80]}' is none of this dialect")
