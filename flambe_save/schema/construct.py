"""A document's nodes to plain values and Schemas; no objects are built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml as pyyaml

from flambe_save.classes.lookup import find_imported, is_harmless
from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.config.dialect import CORE, SCALARS, children_of
from flambe_save.config.link_text import parse_link_str
from flambe_save.config.nodes import Document, line_of
from flambe_save.config.scalars import scalar_value
from flambe_save.errors import ConfigError, FlambeSaveError, quote, shown
from flambe_save.objects.assembly import PARTS
from flambe_save.objects.builders import builder_of
from flambe_save.objects.structural import is_made_of_parts
from flambe_save.objects.values import BY_TAG
from flambe_save.schema.link import Link
from flambe_save.schema.own_names import NAMING_TAGS, own_names
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema, items_in
from flambe_save.support.sizes import MAX_HASHED
from flambe_save.trust import NO_TRUST, Trust

_MAX_UNFOLDED = 1_000_000
_TEXT = CORE + "str"
_NUMBERS = frozenset(CORE + kind for kind in ("null", "bool", "int", "float"))


def _classes_of(document: Document, recorded: Mapping[str, str], trust: Trust) -> dict[str, tuple[type, str | None]]:
    """Resolve a document's tags to classes and factories; the error for unknown tags lists all."""
    found: dict[str, tuple[type, str | None]] = {}
    problems: list[FlambeSaveError] = []
    for tag, line in document.tags.items():
        if tag in BY_TAG or tag in NAMING_TAGS:
            continue
        try:
            found[tag] = TAGS.resolve(tag, recorded.get(tag), trust.allows)
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
    document: Document,
    recorded: Mapping[str, str] | None = None,
    extensions: Mapping[str, str] | None = None,
    trust: Trust = NO_TRUST,
) -> Any:
    """Make plain values and Schemas of a document, and attach links to it.

    Parameters
    ----------
    document : Document
    recorded : mapping of str to str, optional
        The dotted paths that a save recorded for its tags.
    extensions : mapping of str to str, optional
        Noted on the Schemas of their classes: module -> requirement.
    trust : Trust
        Allows classes that are imported and not registered.

    Raises
    ------
    RegistrationError
        If a tag is unknown or fits several classes.
    ConfigError
        If a value does not fit its tag.
    """
    result = Constructor(document, recorded or {}, trust).values[id(document.root)]
    for item in items_in(result):
        if isinstance(item, Reference):
            item.within(result)
        elif isinstance(item, Schema) and extensions:
            item._note_extension(extensions)
    return result


def may_be_called(cls: Any) -> bool:
    """Whether a config may hand a class to an object, since its tag would call it too.

    No tag calls classes whose objects are made of their parts or by builders, nor references.
    """
    return not (issubclass(cls, Reference) or is_made_of_parts(cls) or builder_of(cls) is not None)


class Constructor:
    """Makes the values of a document, children first; ``from_yaml`` methods are handed it."""

    def __init__(self, document: Document, recorded: Mapping[str, str], trust: Trust) -> None:
        self.values: dict[int, Any] = {}
        self._trust = trust
        self._classes = _classes_of(document, recorded, trust)
        self._recorded = recorded
        self._own_names = own_names(document, self._classes)
        self._sizes: dict[int, int] = {}  # how many values each node stands for, anchors unfolded
        scalars: dict[tuple[str, str], Any] = {}
        sizes, most = self._sizes, max(_MAX_UNFOLDED, 4 * len(document.nodes))
        for node in document.nodes:
            is_scalar = isinstance(node, pyyaml.ScalarNode)
            if is_scalar and node.tag == _TEXT:  # as most are
                sizes[id(node)], self.values[id(node)] = 1, node.value
                continue
            number = (node.tag, node.value) if is_scalar and node.tag in _NUMBERS else None
            if number in scalars:
                sizes[id(node)], self.values[id(node)] = 1, scalars[number]
                continue
            size = sizes[id(node)] = 1 + sum([sizes[id(child)] for child in children_of(node)])
            if size > most:
                raise ConfigError(f"line {line_of(node)}: with its anchors unfolded, this stands for too many values")
            try:
                value = self.values[id(node)] = self._build(node)
                if number is not None:
                    scalars[number] = value
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
        """Refuse keys that take long to hash: with anchors, few lines give huge tuples."""
        if self._sizes[id(node)] > MAX_HASHED:
            raise ConfigError(f"line {line_of(node)}: a key or a set's item of more than {MAX_HASHED} values")

    def construct_yaml_map(self, node: pyyaml.Node) -> Iterator[dict[Any, Any]]:
        """Yield a mapping's keys and values, as a ``from_yaml`` written for Flambe expects."""
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
            raise ConfigError(f"the tag {quote(node.tag)} is not part of this dialect")
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
        """Return the class or function that a config hands to an object by its name."""
        found = find_imported(path)
        is_known = found is not None and (is_own or is_harmless(found) or self._trust.allows(path))
        if tag == "function":
            if not is_known or isinstance(found, type):
                raise ConfigError(
                    f"{quote(path)} is not an imported function, or not allowed",
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
            raise ConfigError(f"the tag {quote('!!' + kind)} is not part of this dialect")
        if not isinstance(node, pyyaml.ScalarNode):
            raise ConfigError(f"the tag {quote(node.tag)} takes a scalar")
        return scalar_value(node)
