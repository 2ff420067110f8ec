"""Representer: values as PyYAML nodes; the same object gives the same node."""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
import yaml as pyyaml

from flambe_save.classes.lookup import import_path, is_harmless
from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.classes.well_known import KEEPERS
from flambe_save.config.dialect import CORE, MAX_DEPTH
from flambe_save.config.scalars import PLAIN, has_plain_offset
from flambe_save.describing.changes import AsBuilt
from flambe_save.describing.describe import describe, lost_of
from flambe_save.describing.linking import LinkWriter
from flambe_save.describing.stored_tensors import LOOSE
from flambe_save.describing.writer import NoReferenceError
from flambe_save.errors import ConfigError, FlambeSaveError, UnsupportedObjectError, quote_some
from flambe_save.objects.arguments import CONTAINERS, Trail, keys_of
from flambe_save.objects.assembly import PARTS
from flambe_save.objects.structural import POINTERS, is_made_of_parts
from flambe_save.objects.unwrap import unwrapped
from flambe_save.objects.values import BY_TYPE, fits, is_plain_key
from flambe_save.objects.walks import module_at
from flambe_save.schema.link import Elsewhere, Link, ParameterLink
from flambe_save.schema.schema import TRANSPARENT, Schema, defaults_of, schema_of
from flambe_save.schema.stored import PickledDataLink, StoredParameter, TensorLink, Unbuilt
from flambe_save.support.trampoline import Steps, run

_OF_PARAMETERS = (torch.nn.ParameterList, torch.nn.ParameterDict)
_BY_HASH = (set, frozenset, OrderedDict)


class Representer(LinkWriter):
    """Turns values into PyYAML nodes; the ``to_yaml`` of a class is given this.

    Parameters
    ----------
    root : object
        The object that links start from.
    stash : dict, optional
        Receives the values that YAML cannot hold; without one they are an error.
    stored : StoredTensors
        The values that the state beside the config holds.
    written : Written, optional
        Nodes of other configs of the same save.
    has_references : bool
        Whether pickles may refer to objects that the config builds elsewhere, in place of holding copies.
    """

    def _data(self, value: Any, path: Trail) -> Steps:
        value = unwrapped(value)
        node = self._known(value)
        if node is not None:
            return node
        kind = type(value)
        if kind in PLAIN and has_plain_offset(value):  # :meth:`_known` could not write it
            raise UnsupportedObjectError(f"YAML cannot hold {self._say(path)}: a number of too many digits")
        if isinstance(value, Link):
            return self._represent_link(value, path)
        if id(value) in self._open:
            return self._represent_back(value, path)
        if len(self._open) > MAX_DEPTH:  # before the paths to so many levels fill memory
            raise ConfigError(f"a config nested deeper than {MAX_DEPTH} cannot be written", fix="Flatten the object.")
        self._open[id(value)] = value
        before = self._own
        try:
            node = yield self._object(value, path)
        except (FlambeSaveError, Warning):
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and "during iteration" in str(error):
                raise  # the save reports that the object was changed meanwhile
            raise UnsupportedObjectError(
                f"{self._say(path)}, a {kind.__qualname__}, cannot be written: {type(error).__name__}: "
                f"{str(error)[:200]}",
                fix="Correct it, or leave it out of what is saved.",
            ) from error
        finally:
            del self._open[id(value)]
        # Python makes equal constant tuples one object, so the identity of one means nothing
        is_constant = kind is tuple and all(isinstance(item, pyyaml.ScalarNode) for item in node.value)
        if not isinstance(node, pyyaml.ScalarNode) and not is_constant:
            self._written.alive.append(value)
            if self._own == before:
                self._written.share(value, node)
            else:
                self._nodes[id(value)] = node
        return node

    def represent_sequence(self, tag: str, values: Iterable[Any], path: Trail = None) -> pyyaml.Node:
        """Return a sequence node with a tag."""
        return cast(pyyaml.Node, run(self._sequence(tag, values, path)))

    def _sequence(self, tag: str, values: Iterable[Any], path: Trail) -> Steps:
        items = []
        for index, item in enumerate(values):
            node = self._known(item)
            items.append((yield self._data(item, (path, index))) if node is None else node)
        flow = all(isinstance(item, pyyaml.ScalarNode) for item in items)
        return pyyaml.SequenceNode(tag, items, flow_style=flow)

    def _attribute(self, value: Any, path: Trail) -> Steps:
        """Return the node of an attribute; None if it refers to an object that no link leads to."""
        around = self._context
        self._context = around._replace(in_attribute=True)
        try:
            return (yield self._data(value, path))
        except NoReferenceError:
            self._written.unsaid.add(_attribute_at(keys_of(path), around.owner))
            return None
        finally:
            self._context = around

    def _pair(self, key: Any, item: Any, path: Trail) -> Steps:
        """Return the node of a key and its value, at the path that leads to the value."""
        nodes = [(yield self._data(key, path)), (yield self._data(item, (path, str(key))))]
        return pyyaml.SequenceNode(CORE + "seq", nodes, flow_style=all(isinstance(n, pyyaml.ScalarNode) for n in nodes))

    def represent_mapping(self, tag: str, mapping: Mapping[Any, Any], path: Trail = None) -> pyyaml.MappingNode:
        """Return a mapping node with a tag, in the mapping's order."""
        return cast(pyyaml.MappingNode, run(self._mapping(tag, mapping, path)))

    def _mapping(self, tag: str, mapping: Mapping[Any, Any], path: Trail) -> Steps:
        pairs = []
        for key, item in mapping.items():
            name, node = self._known(key), self._known(item)
            if name is None:
                name = yield self._data(key, path)
            if node is None and self._context.is_loose and path is not None and path[1] == "attributes":
                node = yield self._attribute(item, (path, str(key)))
                if node is None:
                    continue
            pairs.append((name, (yield self._data(item, (path, str(key)))) if node is None else node))
        return pyyaml.MappingNode(tag, pairs, flow_style=not pairs)

    def _object(self, value: Any, path: Trail) -> Steps:
        kind, context = type(value), self._context
        is_own = context.is_in_list and isinstance(value, torch.nn.Parameter)
        if isinstance(value, torch.Tensor) and not is_own:
            self._written.referred.add(id(value))
        is_tied = id(value) in self._tied and not context.in_arguments
        if is_tied and self._stored.key_of(value) is not None:
            return self._represent_own(StoredParameter("", value), path)
        if id(value) in self._stored.tensors:
            return self._represent_tensor(value, path)
        if context.is_loose and self._stored.is_outside(value):
            return self._null()
        if is_own and self._stored.key_of(value) is not None:
            return self._represent_own(StoredParameter("", value), path)
        if context.is_loose and isinstance(value, (torch.Tensor, torch.nn.Module)):
            linked = self._represent_of_module(value, path)
            if linked is not None:
                return linked
        if kind in POINTERS or kind is Elsewhere:
            return (yield self._pointer(value, path))
        if kind in CONTAINERS and self.stash is not None and self._large.holds(value):
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

    def _schema(self, schema: Schema, defaults: Mapping[str, Any], path: Trail) -> Steps:
        tag = self._tag(schema.component_subclass, schema.factory_method, schema._created_with_tag)
        is_call = schema.factory_method != PARTS and schema.component_subclass not in TRANSPARENT
        is_value = is_made_of_parts(schema.component_subclass)  # it stands where its parts do
        runs = is_call and not is_value
        around = self._context
        inner = around._replace(
            in_arguments=is_call and (around.in_arguments or runs),
            is_in_list=schema.component_subclass in _OF_PARAMETERS,
            owner=schema.__dict__.get("_of", around.owner),
        )
        if runs and schema.component_subclass not in KEEPERS:
            inner = inner._replace(calls=(*around.calls, len(self._open)))
        pairs = []
        for name, value in schema.keywords.items():
            item = self._known(value)
            if item is None:
                is_loose = around.is_loose if is_value else not is_call and name in LOOSE
                self._context = inner._replace(is_loose=is_loose)
                item = yield self._data(value, (path, name))
            pairs.append((self.represent_data(name), item))
        self._context = around
        node = pyyaml.MappingNode(f"!{tag}", pairs, flow_style=not pairs)
        self._noted(node, tag, schema.component_subclass)
        if schema._extensions:
            self._written.extensions[id(node)] = node, schema._extensions
        for name, default in defaults.items():
            # A default that needs a stash is left to the class, which has the same one at the load
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

    def _as_built(self, obj: Any, path: Trail) -> Steps:
        """Write an object as its constructor made it, at each of its places in this config."""
        self._own += 1
        node = self._known(obj)
        if node is None:
            schema = schema_of(obj)
            assert schema is not None
            node = yield self._schema(schema, defaults_of(schema) if type(obj) in TAGS else {}, path)
            self._written.alive.append(obj)
            self._nodes[id(obj)] = node
        return node

    def _represent_type(self, cls: type, path: Trail) -> pyyaml.Node:
        if is_harmless(cls):
            return self.represent_scalar("!type", dotted_path(cls))
        try:
            tag = self._tag(cls, None, None)
            return self._noted(self.represent_scalar("!type", tag), tag, cls)
        except FlambeSaveError:
            return self._represent_stashed(cls, path)

    def _represent_function(self, function: Any, path: Trail) -> pyyaml.Node:
        name = import_path(function)
        if name is None or name.startswith("__main__."):  # a lambda, a closure, or from a script that may be gone
            return self._represent_stashed(function, path)
        return self.represent_scalar("!function", name)


def _attribute_at(keys: Sequence[Any], owner: Any) -> tuple[int, str]:
    """Return the id of an object and the name of its attribute at a path of keys.

    The object is the owner, a module in it, or a tensor of one of these.
    """
    *outer, _, name = map(str, keys)
    table, tensor = outer[-2:] if outer[-2:-1] in (["parameters"], ["buffers"]) else ("", "")
    outer = outer[:-2] if table else outer
    module = module_at(owner, outer[-1]) if outer[-2:-1] == ["changes"] else owner
    return id(module.__dict__[f"_{table}"][tensor] if table else module), name
