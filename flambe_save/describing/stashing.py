"""Values that a config cannot hold: pickled into the stash, numbered in the config."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any, cast

import torch
import yaml as pyyaml

from flambe_save.classes.lookup import import_path
from flambe_save.classes.redefined import check_definition
from flambe_save.classes.tags import TAGS
from flambe_save.config.dialect import CORE
from flambe_save.config.scalars import PLAIN
from flambe_save.describing.describe import describe
from flambe_save.describing.writer import Writer
from flambe_save.errors import UnsupportedObjectError
from flambe_save.objects.arguments import CONTAINERS, Trail
from flambe_save.objects.values import BY_TYPE
from flambe_save.objects.weightless import skeleton
from flambe_save.schema.pickled import Pickled, groups_of, references_in
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema
from flambe_save.state import Referring, Stash
from flambe_save.support.trampoline import Steps, run

_MANY = 10_000  # plain values that a config holds in one container
_NO_PLACE = (tuple, frozenset, type, types.FunctionType, types.BuiltinFunctionType, Schema, Reference)


class StashWriter(Writer):
    """A Writer that puts values into the stash.

    A pickle refers to the objects that the config builds elsewhere, in place of holding copies of them. Values that
    share anything are pickled together.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._stashed: dict[int, str] = {}
        self._large = _LargeData()
        self._copies: dict[int, Any] = {}  # the memo that all copies without weights share
        self._references: dict[int, tuple[int, list[Any]]] | None = None
        self._groups: dict[int, tuple[str, Referring, pyyaml.SequenceNode]] = {}  # by their numbers

    def _represent_stashed(self, value: Any, path: Trail) -> pyyaml.Node:
        return cast(pyyaml.Node, run(self._pickle(value, path)))

    def _pickle(self, value: Any, path: Trail) -> Steps:
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
        elif around:  # none of them is built before this
            self._note_copies(around)
            others = references_in(value, lambda item: id(item) not in self._open and self._has_place(item))
        kept = value
        if isinstance(value, torch.nn.Module):
            self._copies.update((id(item), item) for item in others)
            kept = skeleton(value, self._stored.holds, self._say(path), self._copies)
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
        outer = self._context
        for item in others:
            is_reached = id(item) in self._stored.containers  # by its own place too, and not by the pickle alone
            self._context = outer._replace(is_loose=True, is_reached=is_reached)
            node = yield self._data(item, (path, "objects"))
            if id(item) not in group.objects:
                group.objects[id(item)] = item
                objects.value.append(node)
        self._context = outer
        tag = TAGS.tag_of(Pickled)
        nodes = {"pickle": self.represent_scalar("!$", name), "item": item_node, "objects": objects}
        pairs = [(self.represent_data(key), node) for key, node in nodes.items()]
        return self._noted(pyyaml.MappingNode(f"!{tag}", pairs, flow_style=False), tag, Pickled)

    def _put_in_stash(self, value: Any, path: Trail) -> str:
        assert self.stash is not None
        name = str(len(self.stash))
        self.stash[name] = value
        if isinstance(self.stash, Stash):
            self.stash.paths[name] = self._say(path)
        return name

    def _referring(self) -> dict[int, tuple[int, list[Any]]]:
        """Return the references of pickled values to the config, by :func:`groups_of`."""
        if self._references is None:
            self._references = {}
            self._references = groups_of(filter(self._may_be_pickled, self._contents().items.values()), self._has_place)
        return self._references

    def _has_place(self, item: Any) -> bool:
        """Whether the config writes an object somewhere, and not as a pickle."""
        number, contents = id(item), self._contents()
        if number in contents.linkable or number in self._stored.tensors:
            return True
        if number not in contents.items or isinstance(item, _NO_PLACE):
            return False
        return type(item) in CONTAINERS or isinstance(item, torch.Tensor) or describe(item) is not None

    def _may_be_pickled(self, item: Any) -> bool:
        if isinstance(item, (types.FunctionType, types.BuiltinFunctionType)):
            return import_path(item) is None
        return type(item) not in BY_TYPE and not isinstance(item, _NO_PLACE) and not self._has_place(item)

    def _note_copies(self, items: Iterable[Any]) -> None:
        """Have the save warn that a pickle holds copies."""
        if isinstance(self.stash, Stash):
            names = {id(item): f"the {type(item).__qualname__} around it" for item in items}
            self.stash.elsewhere = {**names, **self.stash.elsewhere}


class _LargeData:
    """A search for large containers of plain values, which are pickled: that is far faster."""

    def __init__(self) -> None:
        self._small: set[int] = set()  # containers of few plain values
        self._mixed: set[int] = set()  # those with anything else in them, however deep

    def holds(self, value: Any) -> bool:
        """Whether a container is large and holds plain values and containers alone."""
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
