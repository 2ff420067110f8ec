"""Questions that a config asks of the caller's trust, found before anything is built.

Trust decides them. extensions.py yields those of modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Generator, Iterator, Mapping
from typing import Any

import yaml as pyyaml
from torch import nn

from flambe_save import questions
from flambe_save.classes.factories import needs_trust
from flambe_save.classes.lookup import find_imported, is_harmless
from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.classes.well_known import KEEPERS
from flambe_save.config.dialect import CORE
from flambe_save.config.nodes import Document
from flambe_save.config.scalars import PLAIN
from flambe_save.errors import ConfigError, RegistrationError
from flambe_save.objects.assembly import COMPLETE, PARTS, fills_itself
from flambe_save.objects.attributes import code_behind, held_attribute, is_function_of
from flambe_save.objects.builders import builder_of
from flambe_save.objects.derived import is_derived
from flambe_save.objects.special import is_used_by_python, is_used_by_torch
from flambe_save.objects.structural import is_made_of_parts, is_sum_of_parts
from flambe_save.objects.values import BY_TAG
from flambe_save.questions import Question
from flambe_save.schema.construct import construct, may_be_called
from flambe_save.schema.link import FunctionCallLink, Link, ModuleLink
from flambe_save.schema.own_names import NAMING_TAGS, own_names
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import TRANSPARENT, Schema, calls_constructor, items_in
from flambe_save.trust import Trust

_UNKNOWN = object()  # a value that a config does not show, because code will make it


def questions_of_tags(document: Document, recorded: Mapping[str, str], trust: Trust) -> Iterator[Question]:
    """Yield the questions of a config's tags.

    They are of calls, of factories that read or download what their arguments name, of functions, and of classes that
    are not registered or unknown.

    Parameters
    ----------
    document : Document
    recorded : mapping of str to str
        The dotted paths that the save recorded for its tags.
    trust : Trust
        Allows unregistered classes that tags may mean.
    """
    classes: dict[str, tuple[type, str | None]] = {}
    for tag in document.tags:
        if tag in BY_TAG or tag in NAMING_TAGS:
            continue
        try:
            cls, factory = classes[tag] = TAGS.resolve(tag, recorded.get(tag), trust.allows)
        except RegistrationError:
            path = recorded.get(tag, tag.removesuffix(f".{PARTS}"))
            is_imported = isinstance(find_imported(path), type)
            yield questions.unregistered_class(path) if is_imported else questions.unknown_class(tag, path)
            continue
        if issubclass(cls, FunctionCallLink):
            for asking in document.nodes:
                if asking.tag == f"!{tag}":
                    yield questions.call(f"{asking.tag} {asking.value}")
        elif factory is not None and needs_trust(cls, factory):
            yield questions.call(f"!{tag}")
        elif factory == PARTS and fills_itself(cls) and cls not in TAGS and not _are_complete(document, tag):
            path = recorded.get(tag, dotted_path(cls))
            yield questions.unregistered_class(path, "takes a state by its own code")
    own = own_names(document, classes)
    for path in dict.fromkeys(named.value for named in document.named("function") if id(named) not in own):
        if not is_harmless(find_imported(path)):
            yield questions.function(path)
    for path in dict.fromkeys(named.value for named in document.named("type") if id(named) not in own):
        found = find_imported(path)
        try:
            found = TAGS.resolve(path, recorded.get(path))[0]
            is_open = may_be_called(found)
        except RegistrationError:
            is_open = False
        if isinstance(found, type) and not (is_open or is_harmless(found)):
            yield questions.unregistered_class(dotted_path(found))


def _are_complete(document: Document, tag: str) -> bool:
    """Whether all objects under a tag are written with all their attributes."""
    written = [node for node in document.nodes if node.tag == f"!{tag}"]
    return all(isinstance(node, pyyaml.MappingNode) and any(map(_says_complete, node.value)) for node in written)


def _says_complete(pair: tuple[pyyaml.Node, pyyaml.Node]) -> bool:
    key, value = pair
    return (key.tag, key.value, value.tag, value.value) == (CORE + "str", COMPLETE, CORE + "bool", "true")


def questions_of_arguments(document: Document, recorded: Mapping[str, str], trust: Trust) -> Iterator[Question]:
    """Yield the questions of arguments that make a library's class do more than be built.

    Links ask when they are followed. An audit, which builds nothing, gets the properties that links read here, as far
    as the config shows the classes. Parameters are those of :func:`questions_of_tags`.
    """
    tags = (tag for tag in document.tags if tag not in (*BY_TAG, *NAMING_TAGS) and TAGS.knows(tag, recorded.get(tag)))
    resolved = [TAGS.resolve(tag, recorded.get(tag)) for tag in tags]
    classes = [cls for cls, _ in resolved]
    used = [cls for cls, factory in resolved if _is_used(cls, factory) and not trust.allows(dotted_path(cls))]
    has_links = trust.findings is not None and ("@" in document.tags or "link" in document.tags)
    if not (used or has_links or any(map(builder_of, classes))):
        return
    try:
        config = construct(document, recorded, trust=trust)
    except ConfigError:
        return  # a load raises it again
    known: dict[int, Any] = {}  # by the ids of links, what the config shows at their ends; links lead back alone
    for item in items_in(config):
        if isinstance(item, Schema) and item.factory_method is None:
            cls = item.component_subclass
            builder = builder_of(cls)
            for what in builder.asks(cls, item.keywords) if builder is not None else ():
                yield questions.argument(cls.__name__, what)
        elif has_links and type(item) is Link:
            known[id(item)] = yield from _questions_of(item, known)
    if used and _hands_over(config, used):
        for cls in used:
            yield questions.unregistered_class(dotted_path(cls), "goes to a constructor, which may copy it")


def _questions_of(link: Link, known: Mapping[int, Any]) -> Generator[Question, None, Any]:
    """Yield the questions of a link's attributes; return the value that the config shows."""
    trail = link.trail()
    found = trail[-1] if len(trail) > len(link.schematic_path) else _UNKNOWN
    for index, name in enumerate(link.attr_path):
        if found is _UNKNOWN:
            break
        code, found = _attribute_of(found, name, known)
        for path in code:
            yield questions.property_read(path, repr(link), link.attr_path[index + 1 :])
    return known.get(id(found), _UNKNOWN) if isinstance(found, Reference) else found


def _attribute_of(target: Any, name: str, known: Mapping[int, Any]) -> tuple[list[str], Any]:
    """Return the code of an object's attribute, and the value that the config shows."""
    tables: list[Any] = []
    while True:
        if isinstance(target, Reference):
            target = known.get(id(target), _UNKNOWN)
        elif isinstance(target, Schema) and target.component_subclass in TRANSPARENT:
            changes = target.keywords.get("changes")
            change = changes.get("") if isinstance(changes, Mapping) else None
            tables += change.values() if isinstance(change, Mapping) else ()
            target = target.keywords.get("object", _UNKNOWN)
        else:
            break
    if not isinstance(target, Schema):
        cls = type(target)
        with contextlib.suppress(AttributeError):
            return [], held_attribute(target, name)
    elif target.factory_method in (None, PARTS):
        cls, keywords = target.component_subclass, target.keywords
        is_of_parts = target.factory_method == PARTS
        tables += [keywords] if is_made_of_parts(cls) else [*keywords.values()] if is_of_parts else []
    else:
        return [], _UNKNOWN
    for table in tables:
        if isinstance(table, Mapping) and name in table:
            return [], table[name]
    code = [] if target is _UNKNOWN or is_function_of(cls, name) else code_behind(cls, name)
    if not code and isinstance(target, Schema) and target.factory_method is None:
        return [], target.keywords.get(name, _UNKNOWN)  # a constructor keeps most arguments by their names
    return [f"{dotted_path(owner)}.{found}" for owner, found in code], _UNKNOWN


def _is_used(cls: Any, factory: str | None) -> bool:
    """Whether code of a class may run when its object is only handed to a constructor.

    An object derived from a list, a dict or a text is used as one.
    """
    is_value = is_sum_of_parts(cls) and builder_of(cls) is None
    is_put_together = factory == PARTS or is_value or issubclass(cls, nn.Module)
    is_asked = factory == PARTS and (is_used_by_torch(cls) or fills_itself(cls))  # copying it fills it
    return is_derived(cls) or is_asked or (is_put_together and is_used_by_python(cls))


_FREE, _KEPT, _HANDED = range(3)  # handed to nothing, to a class that only keeps modules, to any constructor


def _hands_over(config: Any, classes: Container[type]) -> bool:
    """Whether unregistered constructors, which may copy them, are given objects of classes."""
    seen: set[tuple[int, int]] = set()
    waiting: list[tuple[Any, int]] = [(config, _FREE)]
    while waiting:
        item, where = waiting.pop()
        if type(item) in PLAIN or (id(item), where) in seen:
            continue
        seen.add((id(item), where))
        inner: Any = item if isinstance(item, (list, tuple, set, frozenset)) else ()
        if isinstance(item, Schema):
            cls = item.component_subclass
            if cls in classes and (where == _HANDED or (where == _KEPT and not issubclass(cls, nn.Module))):
                return True
            is_call = calls_constructor(cls, item.factory_method)
            inner = item.keywords.values()
            if is_call and cls in KEEPERS:
                for value in inner:
                    waiting.append((value, max(where, _KEPT if type(value) in (list, dict) else _HANDED)))
                continue
            where = _HANDED if where == _HANDED or (is_call and cls not in TAGS) else _FREE
        elif isinstance(item, Mapping):
            inner = item.values()
        elif (where == _HANDED and isinstance(item, ModuleLink)) or (where != _FREE and isinstance(item, Link)):
            return True  # it may lead to one
        waiting.extend((value, where) for value in inner)
    return False


def may_ask(config: str, recorded: Mapping[str, str]) -> bool:
    """Whether a new config may ask for anything; most do not, and need not be parsed."""
    return any(f"!{tag} " in config for tag in NAMING_TAGS) or any(
        tag == "call" or not TAGS.knows(tag, path) or _is_special(*TAGS.resolve(tag, path))
        for tag, path in recorded.items()
    )


def _is_special(cls: Any, factory: str | None) -> bool:
    """Whether a load may ask for a known class, for its construction or the use of its object."""
    is_trusting = factory is not None and needs_trust(cls, factory)
    return is_trusting or _is_used(cls, factory) or (factory == PARTS and fills_itself(cls))


# These are relative to the config that they are in
_REFERENCES = ("!@", "!link", "!call", "!$", "!tensor", "!param", "!parameter", "!module", "!back", "!pickled")


def contradiction(whole: Document, path: list[str], part: Document, known: dict[int, dict[str, Any]]) -> str | None:
    """Return the first place where a component's config differs from the one around it.

    Parameters
    ----------
    whole : Document
    path : list of str
        The keys that lead to the component; where they lead to no config, there is nothing to compare.
    part : Document
    known : dict
        The entries of nodes that earlier paths in the same config have led through; new ones are added.
    """
    outer: Any = whole.root
    for key in path:
        if id(outer) not in known:
            known[id(outer)] = dict(reversed([*_parts_in(outer)]))  # of two with one name, the first
        outer = known[id(outer)].get(key)
        if outer is None:
            return None
    seen: set[tuple[int, int]] = set()
    waiting: list[tuple[str, Any, Any]] = [("", outer, part.root)]
    while waiting:
        where, one, other = waiting.pop()
        if (id(one), id(other)) in seen or one.tag in _REFERENCES or other.tag in _REFERENCES:
            continue
        seen.add((id(one), id(other)))
        entries, others = list(_entries(one)), list(_entries(other))
        same_scalar = not isinstance(one, pyyaml.ScalarNode) or one.value == getattr(other, "value", None)
        if one.tag != other.tag or not same_scalar or [name for name, _ in entries] != [name for name, _ in others]:
            return where or one.tag
        waiting += [
            (f"{where}.{name}" if where else name, value, others[index][1])
            for index, (name, value) in enumerate(entries)
        ]
    return None


def _parts_in(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of an object's config by its own names.

    Those of parts and changes are one level below.
    """
    found = dict(_entries(node))
    if node.tag == "!edited" and "object" in found:
        yield from _parts_in(found["object"])
    elif node.tag.endswith(f".{PARTS}"):
        for table in ("modules", "attributes"):
            yield from _entries(found.get(table))
    else:
        yield from _entries(node)


def _entries(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, pyyaml.MappingNode):
        yield from ((str(key.value), value) for key, value in node.value)
    elif isinstance(node, pyyaml.SequenceNode):
        yield from ((str(index), item) for index, item in enumerate(node.value))
