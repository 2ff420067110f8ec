"""Objects to text: values become PyYAML nodes, the same object the same node, and nodes become text."""

from __future__ import annotations

import enum
import types
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
import yaml as pyyaml

from flambe_save.classes.lookup import import_path, is_harmless
from flambe_save.classes.redefined import check_definition
from flambe_save.classes.tags import TAGS, dotted_path, written_path
from flambe_save.classes.well_known import KEEPERS
from flambe_save.config.dialect import CORE, MAX_DEPTH, Dumper, children_of
from flambe_save.config.link_text import create_link_str
from flambe_save.config.scalars import PLAIN, has_plain_offset
from flambe_save.describing.building_order import LINKS, link_without_order
from flambe_save.describing.changes import AsBuilt
from flambe_save.describing.describe import describe, lost_of
from flambe_save.describing.known import KNOWN
from flambe_save.describing.stored_tensors import LOOSE, Held, Inside, inside_of
from flambe_save.errors import ConfigError, FlambeSaveError, MalformedLinkError, UnsupportedObjectError, quote_some
from flambe_save.objects.arguments import CONTAINERS, Trail, keys_of
from flambe_save.objects.assembly import PARTS
from flambe_save.objects.structural import POINTERS, is_made_of_parts, is_sum_of_parts, parts_of
from flambe_save.objects.unwrap import unwrapped
from flambe_save.objects.values import BY_TYPE, fits, is_plain_key
from flambe_save.objects.walks import module_at
from flambe_save.objects.weightless import skeleton
from flambe_save.schema.link import BackLink, Elsewhere, FunctionCallLink, Link, ModuleLink, ParameterLink
from flambe_save.schema.pickled import Pickled, groups_of, references_in
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import TRANSPARENT, Schema, defaults_of, schema_of, visit
from flambe_save.schema.stored import PickledDataLink, StoredParameter, TensorLink, Unbuilt
from flambe_save.state import Referring, Stash, join_key
from flambe_save.support.trampoline import Steps, run

__all__ = ["NoOrderError", "Representer", "Written", "config_text", "serialize"]

_DEEP = 32  # levels that are indented
_MANY = 10_000  # plain values that a config holds in one container
_NO_PLACE = (tuple, frozenset, type, types.FunctionType, types.BuiltinFunctionType, Schema, Reference)
_TOO_DEEP = f"a config nested deeper than {MAX_DEPTH}"
_OF_PARAMETERS = (torch.nn.ParameterList, torch.nn.ParameterDict)
_BY_HASH = (set, frozenset, OrderedDict)
# What a Representer knows of the place that is being written
_OF_PLACE = ("_constructors", "_calls", "_owner", "_is_loose", "_is_in_list", "_is_reached")

Path: TypeAlias = Trail  # the keys and indices that lead to a value


class NoReferenceError(UnsupportedObjectError):
    """Something refers to an object that it is inside of, or that is nowhere else, and no link can say so."""


class NoOrderError(UnsupportedObjectError):
    """Objects refer to each other so that none can be built first."""


class Written:
    """What the configs of one save have in common: nodes of values that are written alike wherever they are.

    So the config of a component is represented once, and not for each component around it too. What is relative to the
    root of a config, or to its stash, is that config's alone.
    """

    def __init__(self) -> None:
        self.nodes: dict[int, pyyaml.Node] = {}
        self.unsaid: set[tuple[int, str]] = set()  # the ids of objects and the names of attributes no config can say
        self.referred: set[int] = set()  # the ids of tensors that are referred to
        self.keyed: set[int] = set()  # those that are referred to by their keys in the state
        self.alive: list[Any] = []  # ids are only unique while their objects live
        # By the ids of nodes, beside which the nodes are kept
        self.tags: dict[int, tuple[pyyaml.Node, Mapping[str, str]]] = {}  # tag -> dotted path of its class
        self.extensions: dict[int, tuple[pyyaml.Node, dict[str, str]]] = {}  # module -> what installs it
        self.defaults: dict[int, pyyaml.Node] = {}  # they are indented as if nothing were around them
        self._meanings: dict[tuple[str, type], dict[str, str]] = {}

    def note(self, node: pyyaml.Node, tag: str, cls: type) -> None:
        """Note what a node's tag means."""
        meaning = self._meanings.get((tag, cls))
        if meaning is None:
            meaning = self._meanings[tag, cls] = {tag: written_path(cls)}
        _, inner = self.tags.get(id(node), (node, None))  # of one that a to_yaml has passed on
        self.tags[id(node)] = node, meaning if inner is None else {**meaning, **inner}


class Representer:
    """Turns values into PyYAML nodes; a class's ``to_yaml`` is handed this.

    Parameters
    ----------
    root : object
        What links are written relative to.
    stash : dict, optional
        Where values go that YAML cannot hold; without one they are an error.
    held : Held
        What the state beside the config holds.
    written : Written, optional
        What other configs of the same save have said already.
    has_references : bool
        Whether pickles may refer to what the config writes elsewhere, in place of holding copies.
    """

    def __init__(
        self,
        root: Any,
        stash: dict[str, Any] | None = None,
        held: Held | None = None,
        written: Written | None = None,
        *,
        has_references: bool = True,
    ) -> None:
        self.stash = stash
        self._has_references = has_references
        self._held = held or Held()
        self._tied = KNOWN.get().tied
        self._written = written or Written()
        self._root = root
        self._nodes: dict[int, pyyaml.Node] = {}  # of values that only this config writes so
        self._own = 0  # how often something was written that only this config writes so
        self._pointers: dict[int, pyyaml.Node] = {}  # of what can be filled in later
        self._stashed: dict[int, str] = {}
        self._paths: dict[int, Trail] | None = None
        self._inside: Inside | None = None
        self._open: dict[int, Any] = {}
        self._small: set[int] = set()  # containers of few plain values
        self._mixed: set[int] = set()  # those with anything else in them, however deep
        self._copies: dict[int, Any] = {}
        self._references: dict[int, tuple[int, list[Any]]] | None = None
        self._groups: dict[int, tuple[str, Referring, pyyaml.SequenceNode]] = {}  # by their numbers
        self._constructors = 0  # how many constructors' arguments are being written
        self._calls: list[int] = []  # how many values were open when those of each that may look at them were begun
        self._owner: Any = None  # the object whose attributes are being written
        self._is_loose = False  # whether a place is in no table of an object's own
        self._is_reached = True  # whether what is written is somewhere in what a load returns
        self._attributes = 0  # how many attributes are being written, in one another
        self._is_in_list = False  # whether they are those of one of torch's containers of parameters

    def represent_data(self, value: Any, path: Path = None) -> pyyaml.Node:
        """Return the node of any value; the same object gives the same node, hence an anchor.

        Raises
        ------
        UnsupportedObjectError
            If YAML cannot hold it and there is no stash; the message names the path inside the object.
        """
        return cast(pyyaml.Node, run(self._data(value, path)))

    def _known(self, value: Any) -> pyyaml.Node | None:
        """Return the node of a plain value, or of one that is written already; None where there is work to do."""
        kind = type(value)
        make = PLAIN.get(kind)
        if make is None:
            if kind in POINTERS:
                return None  # what it is written as depends on the place
            node = self._written.nodes.get(id(value))
            if node is None and (node := self._nodes.get(id(value))) is not None:
                self._own += 1
            return node
        if has_plain_offset(value):
            try:
                return cast(pyyaml.Node, make(value))
            except ValueError:  # a number of too many digits
                return None
        return None

    def _data(self, value: Any, path: Path) -> Steps:
        value = unwrapped(value)
        node = self._known(value)
        if node is not None:
            return node
        kind = type(value)
        if kind in PLAIN and has_plain_offset(value):
            try:
                return PLAIN[kind](value)
            except ValueError as error:
                raise UnsupportedObjectError(f"YAML cannot hold {self._say(path)}: {error}") from error
        if isinstance(value, Link):
            return self._represent_link(value, path)
        if id(value) in self._open:
            return self._represent_back(value, path)
        if len(self._open) > MAX_DEPTH:  # before the paths to so many levels fill the memory
            raise ConfigError(f"{_TOO_DEEP} cannot be written", fix="Flatten the object.")
        self._open[id(value)] = value
        before = self._own
        try:
            node = yield self._object(value, path)
        except (FlambeSaveError, Warning):
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and "during iteration" in str(error):
                raise  # whoever represents the whole knows what that means
            raise UnsupportedObjectError(
                f"{self._say(path)}, a {kind.__qualname__}, cannot be written: {type(error).__name__}: "
                f"{str(error)[:200]}",
                fix="Correct it, or leave it out of what is saved.",
            ) from error
        finally:
            del self._open[id(value)]
        # Python itself makes one of constant tuples, so one of plain values says nothing
        is_constant = kind is tuple and all(isinstance(item, pyyaml.ScalarNode) for item in node.value)
        if not isinstance(node, pyyaml.ScalarNode) and not is_constant:
            self._written.alive.append(value)
            (self._written.nodes if self._own == before else self._nodes)[id(value)] = node
        return node

    def represent_scalar(self, tag: str, text: str) -> pyyaml.Node:
        """Return a scalar node with a tag such as ``!ns.Class``."""
        return pyyaml.ScalarNode(tag, text)

    def represent_sequence(self, tag: str, values: Iterable[Any], path: Path = None) -> pyyaml.Node:
        """Return a sequence node with a tag."""
        return cast(pyyaml.Node, run(self._sequence(tag, values, path)))

    def _sequence(self, tag: str, values: Iterable[Any], path: Path) -> Steps:
        items = []
        for index, item in enumerate(values):
            node = self._known(item)
            items.append((yield self._data(item, (path, index))) if node is None else node)
        flow = all(isinstance(item, pyyaml.ScalarNode) for item in items)
        return pyyaml.SequenceNode(tag, items, flow_style=flow)

    def _attribute(self, value: Any, path: Path) -> Steps:
        """Return the node of an attribute; None where it refers to an object and no link can say so."""
        before = {name: self.__dict__[name] for name in _OF_PLACE}
        self._attributes += 1
        try:
            node = yield self._data(value, path)
            self._attributes -= 1
            return node
        except NoReferenceError:
            self._attributes -= 1
            self.__dict__.update(before)
            self._written.unsaid.add(_attribute_at(keys_of(path), self._owner))
            return None

    def _pair(self, key: Any, item: Any, path: Path) -> Steps:
        """Return the node of a key and its value, at the path that leads to the value."""
        nodes = [(yield self._data(key, path)), (yield self._data(item, (path, str(key))))]
        return pyyaml.SequenceNode(CORE + "seq", nodes, flow_style=all(isinstance(n, pyyaml.ScalarNode) for n in nodes))

    def represent_mapping(self, tag: str, mapping: Mapping[Any, Any], path: Path = None) -> pyyaml.MappingNode:
        """Return a mapping node with a tag, in the mapping's order."""
        return cast(pyyaml.MappingNode, run(self._mapping(tag, mapping, path)))

    def _mapping(self, tag: str, mapping: Mapping[Any, Any], path: Path) -> Steps:
        pairs = []
        for key, item in mapping.items():
            name, node = self._known(key), self._known(item)
            if name is None:
                name = yield self._data(key, path)
            if node is None and self._is_loose and path is not None and path[1] == "attributes":
                node = yield self._attribute(item, (path, str(key)))
                if node is None:
                    continue
            pairs.append((name, (yield self._data(item, (path, str(key)))) if node is None else node))
        return pyyaml.MappingNode(tag, pairs, flow_style=not pairs)

    def _object(self, value: Any, path: Path) -> Steps:
        kind = type(value)
        is_own = self._is_in_list and isinstance(value, torch.nn.Parameter)
        if isinstance(value, torch.Tensor) and not is_own:
            self._written.referred.add(id(value))
        is_tied = id(value) in self._tied and not self._constructors
        if is_tied and self._held.key_of(value) is not None:
            return self._represent_own(StoredParameter("", value), path)
        if id(value) in self._held.tensors:
            return self._represent_tensor(value, path)
        if self._is_loose and self._held.is_outside(value):
            self._own += 1
            return PLAIN[type(None)](None)
        if is_own and self._held.key_of(value) is not None:
            return self._represent_own(StoredParameter("", value), path)
        if self._is_loose and isinstance(value, (torch.Tensor, torch.nn.Module)):
            linked = self._represent_of_module(value, path)
            if linked is not None:
                return linked
        if kind in POINTERS or kind is Elsewhere:
            return (yield self._pointer(value, path))
        if kind in CONTAINERS and self.stash is not None and self._is_large_data(value):
            return self._represent_stashed(value, path)
        if kind is list:
            return (yield self._sequence(CORE + "seq", value.copy(), path))
        mapping = value.copy() if kind is dict else {}  # another thread may change it
        if kind is dict and all(type(key) in PLAIN for key in mapping):
            return (yield self._mapping(CORE + "map", mapping, path))
        if kind is OrderedDict and not vars(value):
            value = value.copy()
        if kind in BY_TYPE and fits(value) and (kind not in _BY_HASH or all(map(is_plain_key, value))):
            entry = BY_TYPE[kind]
            plain = entry.plain(value)
            if isinstance(plain, str):
                return self.represent_scalar(f"!{entry.tag}", plain)
            if kind is OrderedDict:
                pairs = []
                for key, item in value.items():
                    pairs.append((yield self._pair(key, item, path)))
                return pyyaml.SequenceNode(f"!{entry.tag}", pairs, flow_style=not pairs)
            return (yield self._sequence(f"!{entry.tag}", plain, path))
        if isinstance(value, PickledDataLink):
            self._own += 1
            return self.represent_scalar("!$", value.obj_id)
        if isinstance(value, AsBuilt):
            return (yield self._as_built(value.obj, path))
        if isinstance(value, StoredParameter):
            return self._represent_own(value, path)
        if isinstance(value, Unbuilt):
            return self._represent_reference(value, value.name)
        if isinstance(value, TensorLink):
            return self._represent_reference(value, value.key)
        if isinstance(value, ParameterLink):
            return self._represent_parameter(value, path)
        if isinstance(value, Schema):
            return (yield self._schema(value, {}, path))
        if isinstance(value, type):
            return self._represent_type(value, path)
        if isinstance(value, (types.FunctionType, types.BuiltinFunctionType)):
            return self._represent_function(value, path)
        if type(value) in TAGS and hasattr(value, "to_yaml"):
            self._own += 1  # it may look at anything
            tag = self._tag(type(value), None, getattr(value, "_created_with_tag", None))
            return self._noted(value.to_yaml(self, value, f"!{tag}"), tag, type(value))
        try:
            schema = describe(value)
        except UnsupportedObjectError as error:
            error.message = f"{self._say(path)}: {error.message}"
            raise
        if schema is not None and self.stash is None and lost_of(schema):
            raise UnsupportedObjectError(
                f"{self._say(path)}, a {kind.__qualname__}, holds what a config cannot say: "
                f"{quote_some(lost_of(schema))}",
                fix="Take it out of the object, or save the object, which names what is left out.",
            )
        if schema is not None and TAGS.has_name(schema.component_subclass):
            # Defaults of torch's own classes (device, dtype) would only be noise
            is_call = schema.component_subclass is type(value) and schema.factory_method != PARTS
            return (yield self._schema(schema, defaults_of(schema) if is_call and type(value) in TAGS else {}, path))
        return (yield self._pickle(value, path))

    def _schema(self, schema: Schema, defaults: Mapping[str, Any], path: Path) -> Steps:
        tag = self._tag(schema.component_subclass, schema.factory_method, schema._created_with_tag)
        is_call = schema.factory_method != PARTS and schema.component_subclass not in TRANSPARENT
        inside = 1 if is_call and not is_made_of_parts(schema.component_subclass) else 0
        was_in_list, self._is_in_list = self._is_in_list, schema.component_subclass in _OF_PARAMETERS
        around, self._constructors = self._constructors, self._constructors + inside if is_call else 0
        calls = self._calls
        if inside and schema.component_subclass not in KEEPERS:
            self._calls = [*calls, len(self._open)]
        was_loose, owner = self._is_loose, self._owner
        pairs = []
        for name, value in schema.keywords.items():
            # A place in no table of the object's own may refer to what is elsewhere
            is_value = is_made_of_parts(schema.component_subclass)  # which is where it stands
            self._is_loose = was_loose if is_value else not is_call and name in LOOSE
            self._owner = schema.__dict__.get("_of", owner)
            item = self._known(value)
            if item is None:
                item = yield self._data(value, (path, name))
            pairs.append((self.represent_data(name), item))
        node = pyyaml.MappingNode(f"!{tag}", pairs, flow_style=not pairs)
        self._constructors, self._is_loose, self._owner, self._calls = around, was_loose, owner, calls
        self._is_in_list = was_in_list
        self._noted(node, tag, schema.component_subclass)
        if schema._extensions:
            self._written.extensions[id(node)] = node, schema._extensions
        for name, default in defaults.items():
            # A default that needs a stash is left to the class: it will be the same default when it is built again.
            item = self._known(default) if type(default) in PLAIN else None
            if item is None:
                try:
                    item = Representer(self._root).represent_data(default)
                except FlambeSaveError:
                    continue
                self._written.defaults[id(item)] = item
            node.value.append((self.represent_data(name), item))
            node.flow_style = False
        return node

    def _as_built(self, obj: Any, path: Path) -> Steps:
        """Write an object as its constructor made it; it is that wherever it stands in this config."""
        self._own += 1
        node = self._known(obj)
        if node is None:
            schema = schema_of(obj)
            assert schema is not None
            node = yield self._schema(schema, defaults_of(schema) if type(obj) in TAGS else {}, path)
            self._written.alive.append(obj)
            self._nodes[id(obj)] = node
        return node

    def _represent_type(self, cls: type, path: Path) -> pyyaml.Node:
        if is_harmless(cls):
            return self.represent_scalar("!type", dotted_path(cls))
        try:
            tag = self._tag(cls, None, None)
            return self._noted(self.represent_scalar("!type", tag), tag, cls)
        except FlambeSaveError:
            return self._represent_stashed(cls, path)

    def _represent_function(self, function: Any, path: Path) -> pyyaml.Node:
        name = import_path(function)
        if name is None or name.startswith("__main__."):  # a lambda, a closure, or of a program that may be gone
            return self._represent_stashed(function, path)
        return self.represent_scalar("!function", name)

    def _represent_reference(self, reference: Reference, text: str) -> pyyaml.Node:
        self._own += 1
        tag = TAGS.tag_of(type(reference))
        return self._noted(self.represent_scalar(f"!{tag}", text), tag, type(reference))

    def _represent_tensor(self, value: Any, path: Path) -> pyyaml.Node:
        """Write a tensor that the state holds: as a parameter where it is one, else by its key."""
        found = self._found_inside(value, path) if not self._constructors else None
        if found is not None:  # not for a constructor: it may be that of the module that it leads to
            return self._represent_reference(ParameterLink(found), found)
        key = self._held.tensors[id(value)]
        return self._represent_reference(TensorLink(key), key)

    def _represent_parameter(self, link: ParameterLink, path: Path) -> pyyaml.Node:
        """Write a parameter as that of a module in the config, or its values where it is of none."""
        found = self._found_inside(link.tensor, path)
        if found is not None:
            return self._represent_reference(link, found)
        key = self._held.tensors.get(id(link.tensor))
        return (
            self._represent_stashed(link.tensor, path)
            if key is None
            else self._represent_reference(TensorLink(key), key)
        )

    def _found_inside(self, value: Any, path: Path) -> str | None:
        """Return the text of a link to a module, or a tensor of one, in a module of the config that is not around the
        place itself."""
        places = self._contents().places.get(id(value), ())
        if self._is_loose:  # what changes an object may need another that in turn needs this one, before it is changed
            places = sorted(places, key=lambda place: place[0][-1:] != ("object",))
        for outer, name in places:
            if tuple(map(str, keys_of(path)[: len(outer)])) != outer:
                return f"{join_key(outer)}:{name}"
        return None

    def _contents(self) -> Inside:
        if self._inside is None:
            self._inside = inside_of(self._root)
        return self._inside

    def _represent_own(self, link: StoredParameter, path: Path) -> pyyaml.Node:
        """Write a tensor of a module at its place in the module: by its key in the state."""
        tensor = link.tensor
        key = self._held.key_of(tensor) if tensor is not None else link.key
        if key is None:
            return self._represent_stashed(tensor, path)
        is_parameter = tensor is None or isinstance(tensor, torch.nn.Parameter)
        return self._represent_reference(StoredParameter(key) if is_parameter else TensorLink(key), key)

    def _represent_of_module(self, value: Any, path: Path) -> pyyaml.Node | None:
        """Write a module, or a tensor of one, that is inside a module of the config, as a link; None for others."""
        if isinstance(value, torch.nn.Module):
            if id(value) in self._contents().described:
                return None
            text = self._found_inside(value, path)
            return None if text is None else self._represent_reference(ModuleLink(text), text)
        text = self._found_inside(value, path)
        if text is not None:
            return self._represent_reference(ParameterLink(text), text)
        if self._held.key_of(value) is None:
            return None
        self._written.keyed.add(id(value))
        return self._represent_own(StoredParameter("", value), path)

    def _represent_back(self, value: Any, path: Path) -> pyyaml.Node:
        """Write a container that this is inside of, where the place can be filled once the container is there."""
        parent = next(reversed(self._open.values()))
        can_be_filled = isinstance(parent, (list, dict)) or (not isinstance(parent, tuple) and parts_of(parent))
        is_child = isinstance(value, torch.nn.Module) and keys_of(path)[-2:-1] == ("modules",)
        can_be_filled = can_be_filled and not (is_child and (self._is_given_since(value) or self._is_its_place(value)))
        if id(value) not in self._held.containers or not can_be_filled or self._constructors:
            raise NoReferenceError(
                f"{self._say(path)} is a {type(value).__qualname__} inside itself, which a config cannot say",
                fix="Cycles are kept through lists, dicts and dataclasses, and through attributes of components.",
            )
        return self._represent_reference(BackLink(""), self._held.containers[id(value)])

    def _is_its_place(self, value: Any) -> bool:
        """Return whether an open value is called by a place in something that is inside of it: that is filled last."""
        key, containers = self._held.containers.get(id(value), ""), self._held.containers
        *_, inside = (list(self._open)[number:] for number, item in enumerate(self._open.values()) if item is value)
        return any(number in containers and key.startswith(f"{containers[number]}.") for number in inside)

    def _is_given_since(self, value: Any) -> bool:
        """Whether what is being written is in what a constructor inside an open value is given, and may look at."""
        outer = next(number for number, item in enumerate(self._open.values()) if item is value)
        return any(number > outer for number in self._calls)

    def _pointer(self, value: Any, path: Path) -> Steps:
        """Return the node of a value that is no more than a reference to an object, such as a bound method."""
        parts = {"object": value.obj} if isinstance(value, Elsewhere) else parts_of(value)
        target = None if parts is None else parts["object"]
        if self._is_loose and self._held.is_outside(target):
            self._own += 1
            return PLAIN[type(None)](None)
        node = None
        if parts is not None and not self._constructors and self._can_be_filled(path):
            node = PLAIN[type(None)](None) if target is None else self._elsewhere(target)
        if parts is None or node is None:
            return (yield self._without_reference(value, path))
        if isinstance(value, Elsewhere):
            return node
        if id(value) not in self._pointers:
            tag = TAGS.tag_of(type(value))
            rest = {name: self.represent_data(part) for name, part in parts.items() if name != "object"}
            pairs = [(self.represent_data(name), part) for name, part in {"object": node, **rest}.items()]
            self._pointers[id(value)] = self._noted(pyyaml.MappingNode(f"!{tag}", pairs), tag, type(value))
        self._own += 1
        return self._pointers[id(value)]

    def _without_reference(self, value: Any, path: Path) -> Steps:
        """Return the node of a reference to an object that has no place of its own in this config: a pickle, but for
        attributes, which are named, or are nothing in the config of a part."""
        is_of_pickle = not self._is_reached and isinstance(value, types.MethodType)
        if not self._is_loose or not self._attributes or is_of_pickle:
            return (yield self._pickle(value, path))
        if self._held.is_part:
            self._own += 1
            return PLAIN[type(None)](None)
        raise NoReferenceError(
            f"what {self._say(path)} refers to is nowhere else in the save", fix="Save what it refers to with it."
        )

    def _elsewhere(self, target: Any) -> pyyaml.Node | None:
        """Return the node of a reference to an object that has a place of its own in the config; None where it has
        none."""
        key = self._held.containers.get(id(target))
        if key is None and isinstance(target, torch.Tensor):
            self._written.referred.add(id(target))
            key = self._held.tensors.get(id(target)) or self._held.key_of(target)
        return None if key is None else self._represent_reference(BackLink(""), key)

    def _can_be_filled(self, path: Path) -> bool:
        """Whether the place that is being written can be filled once all is built: none of a tuple, a set or a key."""
        if not self._is_reached or not (self._is_loose or self._owner is None):
            return False
        value, *around = reversed(self._open.values())
        if not around:
            return False
        holder, *outer = around
        kind: Any = type(holder)
        if kind is dict and keys_of(path)[-2:-1] == ("attributes",):
            return True
        if kind not in (dict, OrderedDict, list):
            return is_sum_of_parts(kind) and not issubclass(kind, (tuple, enum.Enum))
        is_key = kind is list and len(holder) == 2 and holder[0] is value
        if is_key and len(outer) > 1 and isinstance(outer[1], Mapping) and not _has_in_it(outer[1], outer[0]):
            return False
        return not outer or _has_in_it(outer[0], holder)

    def _represent_link(self, link: Link, path: Path) -> pyyaml.Node:
        """Write a link relative to the root, or what it stands for.

        It is that where the link leads out of the root, or through code that only a trusting load would run.
        """
        self._own += 1
        tag = "call" if isinstance(link, FunctionCallLink) else "@"
        if tag == "call" and link.is_resolved and type(link.resolved) in (*PLAIN, list, dict, tuple):
            return self.represent_data(link.resolved, path)  # a plain result spares the reader the call
        if self._paths is None:
            self._paths = {}
            for trail, item in visit(self._root):
                self._paths.setdefault(id(item), trail)
        if not link.is_resolved:
            text = create_link_str(self._unbuilt_path(link), link.attr_path)
            return self._noted(self.represent_scalar(f"!{tag}", text), tag, type(link))
        keys_to_target = keys_of(self._paths.get(id(link.target_leaf))) if link.target_leaf is not None else ()
        if not keys_to_target or type(link.target_leaf) in PLAIN or not (link.is_held or tag == "call"):
            return self.represent_data(link.resolved, path)
        try:
            text = create_link_str(keys_to_target, link.attr_path)
        except MalformedLinkError:
            return self.represent_data(link.resolved, path)
        return self._noted(self.represent_scalar(f"!{tag}", text), tag, type(link))

    def _unbuilt_path(self, link: Link) -> list[str]:
        """Return a link's keys from the root, where the root is a part of the config that the link is in."""
        for depth, item in reversed(list(enumerate(link.trail()))):
            paths = self._paths or {}
            is_inside = isinstance(item, (Schema, dict, list)) and id(item) in paths
            known = keys_of(paths[id(item)]) if is_inside else None
            if known is not None and [*known, *link.schematic_path[depth:]]:
                return [*known, *link.schematic_path[depth:]]
        return link.schematic_path

    def _represent_stashed(self, value: Any, path: Path) -> pyyaml.Node:
        return cast(pyyaml.Node, run(self._pickle(value, path)))

    def _pickle(self, value: Any, path: Path) -> Steps:
        """Return the node of a value that goes to the stash."""
        if self.stash is None:
            raise UnsupportedObjectError(
                f"YAML cannot hold {self._say(path)}, a {type(value).__qualname__}",
                fix="Save the object with save(), which keeps such values in the stash.",
            )
        self._own += 1
        check_definition(value, self._say(path))
        if id(value) in self._stashed:
            return self.represent_scalar("!$", self._stashed[id(value)])
        number, others = self._referring().get(id(value), (None, []))
        around = [item for item in others if id(item) in self._open]
        if not self._has_references:
            self._note_copies(others)
            number, others = None, []
        elif around:  # it cannot be there before this
            self._note_copies(around)
            others = references_in(value, lambda item: id(item) not in self._open and self._has_place(item))
        kept = value
        if isinstance(value, torch.nn.Module):
            self._copies.update((id(item), item) for item in others)
            kept = skeleton(value, self._held.holds, self._say(path), self._copies)
        self._written.alive.append(value)
        if number is None:
            self._stashed[id(value)] = name = self._put_in_stash(kept, path)
            return self.represent_scalar("!$", name)
        if number not in self._groups:
            group = Referring([], {})
            name = self._put_in_stash(group, path)
            self._groups[number] = name, group, pyyaml.SequenceNode(CORE + "seq", [])
        name, group, objects = self._groups[number]
        group.values.append(kept)
        item_node = self.represent_data(len(group.values) - 1)
        before, (self._is_loose, self._is_reached) = (self._is_loose, self._is_reached), (True, False)
        for item in others:
            self._is_reached = id(item) in self._held.containers  # by its own place, and not by the pickle
            node = yield self._data(item, (path, "objects"))
            if id(item) not in group.objects:
                group.objects[id(item)] = item
                objects.value.append(node)
        self._is_loose, self._is_reached = before
        tag = TAGS.tag_of(Pickled)
        nodes = {"pickle": self.represent_scalar("!$", name), "item": item_node, "objects": objects}
        pairs = [(self.represent_data(key), node) for key, node in nodes.items()]
        return self._noted(pyyaml.MappingNode(f"!{tag}", pairs, flow_style=False), tag, Pickled)

    def _put_in_stash(self, value: Any, path: Path) -> str:
        assert self.stash is not None
        name = str(len(self.stash))
        self.stash[name] = value
        if isinstance(self.stash, Stash):
            self.stash.paths[name] = self._say(path)
        return name

    def _referring(self) -> dict[int, tuple[int, list[Any]]]:
        """Return what pickled values refer to that the config writes elsewhere, as :func:`groups_of` does."""
        if self._references is None:
            self._references = {}
            self._references = groups_of(filter(self._may_be_pickled, self._contents().items.values()), self._has_place)
        return self._references

    def _has_place(self, item: Any) -> bool:
        """Whether the config writes an object somewhere, and not as a pickle."""
        number, contents = id(item), self._contents()
        if number in contents.linkable or number in self._held.tensors:
            return True
        if number not in contents.items or isinstance(item, _NO_PLACE):
            return False
        return type(item) in CONTAINERS or isinstance(item, torch.Tensor) or describe(item) is not None

    def _may_be_pickled(self, item: Any) -> bool:
        if isinstance(item, (types.FunctionType, types.BuiltinFunctionType)):
            return import_path(item) is None
        return type(item) not in BY_TYPE and not isinstance(item, _NO_PLACE) and not self._has_place(item)

    def _note_copies(self, items: Iterable[Any]) -> None:
        """Have it said that a pickle holds copies."""
        if isinstance(self.stash, Stash):
            names = {id(item): f"the {type(item).__qualname__} around it" for item in items}
            self.stash.elsewhere = {**names, **self.stash.elsewhere}

    def _is_large_data(self, value: Any) -> bool:
        """Whether a container holds more plain values than anybody reads: a pickle of them takes far less time."""
        if id(value) in self._small or id(value) in self._mixed:
            return False
        count, waiting = 0, [value]
        around: dict[int, list[int]] = {id(value): []}  # of each container, those that it is right inside of
        mixed: list[int] = []
        while waiting:
            container = waiting.pop()
            items = [*container, *container.values()] if isinstance(container, dict) else container
            is_mixed = False
            for item in items:
                count += 1
                if type(item) not in CONTAINERS:
                    is_mixed = is_mixed or type(item) not in PLAIN
                elif id(item) in self._mixed:
                    is_mixed = True
                else:
                    if id(item) not in around:
                        around[id(item)] = []
                        waiting.append(item)
                    around[id(item)].append(id(container))
            if is_mixed:
                mixed.append(id(container))
        while mixed:
            here = mixed.pop()
            if here not in self._mixed:
                self._mixed.add(here)
                mixed += around[here]
        if id(value) in self._mixed:
            return False
        if count <= _MANY:
            self._small.update(around)
        return count > _MANY

    def _say(self, path: Path) -> str:
        """Return a path for a message: ``model.layers[3].hook``."""
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys_of(path))
        return text.removeprefix(".") or f"the {type(self._root).__qualname__} itself"

    def _tag(self, cls: type, factory: str | None, created_with: str | None) -> str:
        return created_with if created_with and TAGS.means(created_with, cls, factory) else TAGS.tag_of(cls, factory)

    def _noted(self, node: pyyaml.Node, tag: str, cls: type) -> pyyaml.Node:
        """Note what a node's tag means, and return the node."""
        self._written.note(node, tag, cls)
        return node


def config_text(
    obj: Any, stash: dict[str, Any] | None, held: Held | None = None, written: Written | None = None
) -> tuple[str, dict[str, str]]:
    """Return an object's config, and the dotted path of the class that each tag in it means."""
    written = written or Written()
    is_part = held is not None and held.is_part
    nodes = [Representer(obj, stash, held, written).represent_data(obj)]
    found = _Survey(nodes, written)
    if "pickled" in found.tags and link_without_order(nodes[0], is_part=is_part) is not None:
        # A pickle refers to what holds a value of it
        assert stash is not None
        stash.clear()
        nodes = [Representer(obj, stash, held, written, has_references=False).represent_data(obj)]
        found = _Survey(nodes, written)
    link = None if found.tags.keys().isdisjoint(LINKS) else link_without_order(nodes[0], is_part=is_part)
    if link is not None:
        raise NoOrderError(
            f"parts of this {type(obj).__qualname__} refer to each other, so that none can be built first: {link}",
            fix="Let one of them refer to the other alone, or save them apart.",
        )
    if found.extensions:
        nodes.insert(0, Representer(None).represent_data(dict(sorted(found.extensions.items()))))
    return _serialized(nodes, found), found.tags


def serialize(nodes: list[pyyaml.Node]) -> str:
    """Return the text of documents."""
    return _serialized(nodes, _Survey(nodes, Written()))


def _serialized(nodes: list[pyyaml.Node], found: _Survey) -> str:
    if found.depth > MAX_DEPTH:  # nothing would read it, and the emitter runs out of the stack, which no error tells
        raise ConfigError(f"{_TOO_DEEP} cannot be written", fix="Flatten the object.")
    options: dict[str, Any] = {"allow_unicode": True, "width": 1 << 20, "explicit_start": len(nodes) > 1}
    try:
        for node in found.deep:
            node.flow_style = True
        text = str(pyyaml.serialize_all(nodes, Dumper=Dumper, **options))
    except UnicodeEncodeError as error:
        raise ConfigError(f"a text that no file can hold: {error}") from error
    except RecursionError as error:
        raise ConfigError("the object is nested too deep to be written") from error
    finally:
        for node in found.deep:  # in the config of a component inside, it is not deep
            node.flow_style = False
    return text[:-4] if text.endswith("\n...\n") else text  # a lone scalar ends in a mark that nothing needs


def _attribute_at(keys: Sequence[Any], owner: Any) -> tuple[int, str]:
    """Return the id of an object and the name of its attribute to which keys lead in the config.

    It is the object that is being written, or a module in that, or a tensor of one of these.
    """
    *outer, _, name = map(str, keys)
    table, tensor = outer[-2:] if outer[-2:-1] in (["parameters"], ["buffers"]) else ("", "")
    outer = outer[:-2] if table else outer
    module = module_at(owner, outer[-1]) if outer[-2:-1] == ["changes"] else owner
    return id(module.__dict__[f"_{table}"][tensor] if table else module), name


def _has_in_it(holder: Any, value: Any) -> bool:
    """Whether a container or a record holds a value itself, and no copy of it stands for what it holds."""
    items = holder.values() if isinstance(holder, dict) else holder
    if not isinstance(holder, (dict, list, tuple)):
        items = (parts_of(holder) or {}).values()
    return any(item is value for item in items)


class _Survey:
    """What there is in documents. What has an anchor is gone into where it stands first, as when it is written.

    Attributes
    ----------
    tags : dict of str to str
        Tag -> dotted path of its class, in order.
    extensions : dict of str to str
        Module -> what installs it.
    depth : int
        How deep the documents are nested.
    deep : list of yaml.Node
        What has so much around it that it is better written in one line: each level of others is indented.
    """

    def __init__(self, nodes: list[pyyaml.Node], written: Written) -> None:
        self.tags: dict[str, str] = {}
        self.extensions: dict[str, str] = {}
        self.depth = 0
        self.deep: list[Any] = []
        seen: set[int] = set()
        waiting: list[tuple[Any, int, int]] = [(node, 1, 1) for node in reversed(nodes)]
        while waiting:
            node, depth, level = waiting.pop()
            if id(node) in written.tags:
                self.tags.update(written.tags[id(node)][1])
            if isinstance(node, pyyaml.ScalarNode) or id(node) in seen:
                continue
            seen.add(id(node))
            if id(node) in written.extensions:
                self.extensions.update(written.extensions[id(node)][1])
            if id(node) in written.defaults:
                level = 1
            self.depth = max(self.depth, depth)
            if level > _DEEP and not node.flow_style:
                self.deep.append(node)
            waiting += [
                (item, depth + 1, level + 1)
                for item in reversed(children_of(node))
                if item.tag.startswith("!") or not isinstance(item, pyyaml.ScalarNode)
            ]
