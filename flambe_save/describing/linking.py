"""References in a config, to modules, tensors and other objects of the save."""

from __future__ import annotations

import enum
import types
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import yaml as pyyaml

from flambe_save.classes.tags import TAGS
from flambe_save.config.link_text import create_link_str
from flambe_save.config.scalars import PLAIN
from flambe_save.describing.stashing import StashWriter
from flambe_save.describing.writer import NoReferenceError
from flambe_save.errors import MalformedLinkError
from flambe_save.objects.arguments import Trail, keys_of
from flambe_save.objects.structural import is_sum_of_parts, parts_of
from flambe_save.schema.link import BackLink, Elsewhere, FunctionCallLink, Link, ModuleLink, ParameterLink
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema, visit
from flambe_save.schema.stored import StoredParameter, TensorLink
from flambe_save.state import join_key
from flambe_save.support.trampoline import Steps


class LinkWriter(StashWriter):
    """A Writer that writes references in place of values."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._pointers: dict[int, pyyaml.Node] = {}  # of references that can be filled in later
        self._paths: dict[int, Trail] | None = None

    def _represent_reference(self, reference: Reference, text: str) -> pyyaml.Node:
        self._own += 1
        tag = TAGS.tag_of(type(reference))
        return self._noted(self.represent_scalar(f"!{tag}", text), tag, type(reference))

    def _represent_tensor(self, value: Any, path: Trail) -> pyyaml.Node:
        """Write a tensor that the state holds: as a parameter where it is one, else by its key."""
        found = self._found_inside(value, path) if not self._context.in_arguments else None
        if found is not None:  # not for a constructor: it may be that of the module that it leads to
            return self._represent_reference(ParameterLink(found), found)
        key = self._stored.tensors[id(value)]
        return self._represent_reference(TensorLink(key), key)

    def _represent_parameter(self, link: ParameterLink, path: Trail) -> pyyaml.Node:
        """Write a parameter as that of a module in the config, or its values if no module has it."""
        found = self._found_inside(link.tensor, path)
        if found is not None:
            return self._represent_reference(link, found)
        key = self._stored.tensors.get(id(link.tensor))
        if key is None:
            return self._represent_stashed(link.tensor, path)
        return self._represent_reference(TensorLink(key), key)

    def _found_inside(self, value: Any, path: Trail) -> str | None:
        """Return a link to a module or tensor inside a module of the config; None without one.

        A module around the place itself does not count: it is not built yet.
        """
        places = self._contents().places.get(id(value), ())
        if self._context.is_loose:  # changes may need an object as it is before its own changes, which need this one
            places = sorted(places, key=lambda place: place[0][-1:] != ("object",))
        for outer, name in places:
            if tuple(map(str, keys_of(path)[: len(outer)])) != outer:
                return f"{join_key(outer)}:{name}"
        return None

    def _represent_own(self, link: StoredParameter, path: Trail) -> pyyaml.Node:
        """Write a tensor of a module at its place in the module: by its key in the state."""
        tensor = link.tensor
        key = self._stored.key_of(tensor) if tensor is not None else link.key
        if key is None:
            return self._represent_stashed(tensor, path)
        is_parameter = tensor is None or isinstance(tensor, torch.nn.Parameter)
        return self._represent_reference(StoredParameter(key) if is_parameter else TensorLink(key), key)

    def _represent_of_module(self, value: Any, path: Trail) -> pyyaml.Node | None:
        """Write a link to a module, or a tensor, that a module of the config holds; None for others."""
        is_module = isinstance(value, torch.nn.Module)
        if is_module and id(value) in self._contents().described:
            return None
        text = self._found_inside(value, path)
        if text is not None:
            return self._represent_reference(ModuleLink(text) if is_module else ParameterLink(text), text)
        if is_module or self._stored.key_of(value) is None:
            return None
        self._written.keyed.add(id(value))
        return self._represent_own(StoredParameter("", value), path)

    def _represent_back(self, value: Any, path: Trail) -> pyyaml.Node:
        """Write a reference to a value around this place, which is filled after it is built.

        Raises
        ------
        NoReferenceError
            If it cannot.
        """
        parent = next(reversed(self._open.values()))
        can_be_filled = isinstance(parent, (list, dict)) or (not isinstance(parent, tuple) and parts_of(parent))
        is_child = isinstance(value, torch.nn.Module) and keys_of(path)[-2:-1] == ("modules",)
        can_be_filled = can_be_filled and not (is_child and (self._is_given_since(value) or self._is_its_place(value)))
        if id(value) not in self._stored.containers or not can_be_filled or self._context.in_arguments:
            raise NoReferenceError(
                f"{self._say(path)} is a {type(value).__qualname__} inside itself, which a config cannot say",
                fix="Cycles are kept through lists, dicts and dataclasses, and through attributes of components.",
            )
        return self._represent_reference(BackLink(""), self._stored.containers[id(value)])

    def _is_its_place(self, value: Any) -> bool:
        """Whether the key of an open value leads through something inside it: that is filled last."""
        key, containers = self._stored.containers.get(id(value), ""), self._stored.containers
        inside = list(self._open)[list(self._open).index(id(value)) :]
        return any(number in containers and key.startswith(f"{containers[number]}.") for number in inside)

    def _is_given_since(self, value: Any) -> bool:
        """Whether a call inside an open value may look at this place, as an argument."""
        outer = list(self._open).index(id(value))
        return any(number > outer for number in self._context.calls)

    def _pointer(self, value: Any, path: Trail) -> Steps:
        """Return the node of a value that only refers to an object, such as a bound method."""
        parts = {"object": value.obj} if isinstance(value, Elsewhere) else parts_of(value)
        target = None if parts is None else parts["object"]
        if self._context.is_loose and self._stored.is_outside(target):
            return self._null()
        node = None
        if parts is not None and not self._context.in_arguments and self._can_be_filled(path):
            node = self.represent_data(None) if target is None else self._elsewhere(target)
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

    def _without_reference(self, value: Any, path: Trail) -> Steps:
        """Return the node of a reference to an object that this config does not write: a pickle.

        In attributes null in the config of a part, and else an error, so that the attribute is named as left out.
        """
        context = self._context
        is_of_pickle = not context.is_reached and isinstance(value, types.MethodType)
        if not context.is_loose or not context.in_attribute or is_of_pickle:
            return (yield self._pickle(value, path))
        if self._stored.is_part:
            return self._null()
        raise NoReferenceError(
            f"what {self._say(path)} refers to is nowhere else in the save", fix="Save what it refers to with it."
        )

    def _elsewhere(self, target: Any) -> pyyaml.Node | None:
        """Return the node of a reference to an object with a place of its own; None for others."""
        key = self._stored.containers.get(id(target))
        if key is None and isinstance(target, torch.Tensor):
            self._written.referred.add(id(target))
            key = self._stored.tensors.get(id(target)) or self._stored.key_of(target)
        return None if key is None else self._represent_reference(BackLink(""), key)

    def _can_be_filled(self, path: Trail) -> bool:
        """Whether this place can be filled once all is built: not one in a tuple, a set or a key."""
        if not self._context.is_reached or not (self._context.is_loose or self._context.owner is None):
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

    def _represent_link(self, link: Link, path: Trail) -> pyyaml.Node:
        """Write a link relative to the root, or the value that it leads to.

        The value stands where the link leads out of the root, or through code that only a trusting load would run.
        """
        self._own += 1
        tag = "call" if isinstance(link, FunctionCallLink) else "@"
        if tag == "call" and link.is_resolved and type(link.resolved) in (*PLAIN, list, dict, tuple):
            return self.represent_data(link.resolved, path)  # a plain result spares the reader the call
        if self._paths is None:
            self._paths = {}
            for trail, item in visit(self._root):
                self._paths.setdefault(id(item), trail)
        if link.is_resolved:
            keys = keys_of(self._paths.get(id(link.target_leaf))) if link.target_leaf is not None else ()
            if not keys or type(link.target_leaf) in PLAIN or not (link.is_held or tag == "call"):
                return self.represent_data(link.resolved, path)
        else:
            keys = tuple(self._unbuilt_path(link))
        try:
            text = create_link_str(keys, link.attr_path)
        except MalformedLinkError:
            if not link.is_resolved:
                raise
            return self.represent_data(link.resolved, path)
        return self._noted(self.represent_scalar(f"!{tag}", text), tag, type(link))

    def _unbuilt_path(self, link: Link) -> list[str]:
        """Return a link's keys from the root, which may be a part of the link's config."""
        paths = self._paths or {}
        for depth, item in reversed(list(enumerate(link.trail()))):
            if isinstance(item, (Schema, dict, list)) and id(item) in paths:
                keys = [*keys_of(paths[id(item)]), *link.schematic_path[depth:]]
                if keys:
                    return keys
        return link.schematic_path


def _has_in_it(holder: Any, value: Any) -> bool:
    """Whether a container or a record holds a value itself, and not a copy of it."""
    items = holder.values() if isinstance(holder, dict) else holder
    if not isinstance(holder, (dict, list, tuple)):
        items = (parts_of(holder) or {}).values()
    return any(item is value for item in items)
