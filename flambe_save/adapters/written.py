"""Find the parts of objects that configs will refer to, so that the state must hold them.

collecting.py notes each object here while it walks the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flambe_save.adapters.arrays import check_has_shape
from flambe_save.adapters.protocol import Place, holds, is_component, plumbing_of, prefixes_around
from flambe_save.classes.well_known import KEEPERS
from flambe_save.codecs.data import tie_key
from flambe_save.config.scalars import PLAIN
from flambe_save.describing.describe import describe, is_by_parts, is_wrapper, lost_of
from flambe_save.errors import StateMismatchWarning, UnsupportedObjectError, quote_some, warn
from flambe_save.layout import OTHERS_KEY
from flambe_save.objects.assembly import PARTS, attributes_of, can_be_assembled
from flambe_save.objects.attributes import held_items
from flambe_save.objects.optimizers import TRAINING
from flambe_save.objects.unwrap import unwrapped
from flambe_save.objects.walks import module_at
from flambe_save.pt import DumpOptions
from flambe_save.registry import CODECS, find_adapter
from flambe_save.schema.edited import Edited
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema, items_in
from flambe_save.state import State
from flambe_save.tree import join_prefix


class WrittenParts:
    """Parts of modules that configs will refer to; their tensors are added to the state.

    Attributes
    ----------
    lost : set of (int, str)
        Ids of objects, and names of their attributes that no config can hold.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._noted: dict[int, Any] = {}
        self._assembled: set[int] = set()
        self._attributes: dict[int, set[str]] = {}  # by the ids of modules, those that are written
        self._buffers: dict[int, set[str]] = {}
        self._keys: dict[int, list[str]] = {}  # by the ids of modules' tensors
        self._of_calls: set[int] = set()  # the ids of those that a module's call makes
        self._unheld: set[int] = set()  # of these, those of buffers that the state does not hold for it
        self._from_state: set[int] = set()  # the ids of those that a module gets from the state
        self._owners: dict[int, set[tuple[int, str]]] = {}  # by the ids of tensors, modules' ids and names in them
        self._to_name: list[tuple[int, str, str]] = []  # an object's id, its place, and a lost attribute
        self.lost: set[tuple[int, str]] = set()
        self._modules: set[int] = set()
        self._places: dict[str, Any] = {}  # modules written as their parts, by their prefixes
        self._memory: dict[int, torch.Tensor] = {}
        self._attributes_to_see: list[tuple[str, Any]] = []  # keys and values of modules' attributes
        self._waiting_for_others = True
        self._is_waited_for = False  # whether note_others has anything to do

    def note_others(self, nodes: Iterable[Place]) -> None:
        """Note the objects that could not be described before all places in the save were known."""
        self._waiting_for_others = False
        if not self._is_waited_for:
            return
        self._noted = {}
        for place in nodes:
            self.note(place.obj, place.prefix)

    def note(self, obj: Any, prefix: str) -> None:
        """Note all objects in the config of one that gets a folder, however deep."""
        waiting: list[tuple[Any, str]] = [(obj, prefix)]
        while waiting:
            item, path = waiting.pop()
            item = unwrapped(item)
            if type(item) in PLAIN or id(item) in self._noted:
                continue
            self._noted[id(item)] = item
            if type(item) in (list, tuple, dict):
                # A list, since another thread may change the container
                pairs = [*item.items()] if isinstance(item, dict) else [*enumerate(item)]
                waiting.extend((value, join_prefix(path, str(key))) for key, value in pairs)
                continue
            if isinstance(item, (torch.Tensor, Reference)):
                continue
            if self._waiting_for_others and getattr(find_adapter(item), "knows_others", False):
                self._is_waited_for = True
                continue
            try:
                schema = item if isinstance(item, Schema) else describe(item)
            except UnsupportedObjectError as error:
                error.message = f"{path or f'the {type(item).__qualname__} itself'}: {error.message}"
                raise
            if schema is None:
                continue
            self._note_lost(schema.__dict__.get("_of", item), path, lost_of(schema))
            if schema.factory_method == PARTS:
                self._note_assembled(schema.__dict__.get("_of"), schema)
            elif schema.component_subclass is Edited:
                self._note_changes(schema.__dict__["_of"], schema)
            waiting.extend((value, path) for value in schema.keywords.values())

    def _note_lost(self, item: Any, path: str, names: Iterable[str]) -> None:
        for name in names:
            inner, _, own = name.rpartition(".")
            self._to_name.append((id(item), path, name))
            self.lost.add((id(module_at(item, inner)), own))

    def _note_assembled(self, item: Any, schema: Schema) -> None:
        if isinstance(item, torch.nn.Module):
            self._assembled.add(id(item))
            self._attributes[id(item)] = {*schema.keywords.get("attributes", ())}

    def _note_changes(self, item: Any, schema: Schema) -> None:
        for path, change in schema.keywords["changes"].items():
            inner = module_at(item, path)
            self._attributes.setdefault(id(inner), set()).update(change.get("attributes", ()))
            if isinstance(inner, torch.nn.Module):
                names = {*change.get("buffers", ()), *change.get("parameters", ())}
                self._buffers.setdefault(id(inner), set()).update(names)

    def add_own(self, place: Place) -> None:
        """Add tensors of a module that configs refer to and its ``state_dict`` does not hold."""
        module, own, number = place.obj, place.obj.__dict__, id(place.obj)
        self._modules.add(number)
        begin, plumbing = place.key_prefix, plumbing_of(type(module))
        for name, value in own.items():
            if type(value) not in PLAIN and name not in plumbing:
                self._attributes_to_see.append((begin + name, value))
        is_assembled, names = number in self._assembled, self._buffers.get(number, ())
        if is_assembled or type(module).__module__.startswith("torch.nn."):
            self._places[place.prefix] = module
        for table in (own["_parameters"], own["_buffers"]):
            for name, value in table.items():
                if value is None:
                    continue
                key = begin + name
                self._keys.setdefault(id(value), []).append(key)
                self._owners.setdefault(id(value), set()).add((id(module), name))
                if is_assembled or name in names:
                    self._from_state.add(id(value))
                    self._add(key, value, place)
                else:
                    self._of_calls.add(id(value))
                    if name in own["_non_persistent_buffers_set"]:
                        self._unheld.add(id(value))
                self.keep_apart(key, value)

    def keep_apart(self, key: str, value: torch.Tensor) -> None:
        """Copy a parameter's value if another shares its memory: a load would make them one."""
        if value.layout != torch.strided or nn.parameter.is_lazy(value):
            return
        address = value.data_ptr()  # none on meta, and of a tensor without elements
        if not address or self._memory.setdefault(address, value) is value:
            return
        held = self._state.get(key)
        if tie_key(self._memory[address]) != tie_key(value):
            return
        if type(held) is torch.Tensor:
            self._state[key] = held.clone()
        elif type(held) is nn.Parameter:
            self._state[key] = nn.Parameter(held.detach().clone(), held.requires_grad)

    def _add(self, key: str, value: torch.Tensor, place: Place) -> None:
        check_has_shape(value, key, place.prefix)
        held = self._state.get(key)
        if type(held) is torch.Tensor and not held.__dict__ and tie_key(held) == tie_key(value) is not None:
            return
        if place.keep_vars:
            self._state[key] = value
            return
        plain = value.detach()
        if type(plain) is not torch.Tensor and not is_wrapper(plain):
            with torch._C.DisableTorchFunctionSubclass():
                plain = plain.as_subclass(torch.Tensor)
        self._state[key] = plain

    def wants(self, parent: Place, place: Place, name: str) -> bool:
        """Whether the value of a plain attribute is saved."""
        if isinstance(parent.obj, torch.nn.Module):
            return name in self._attributes.get(id(parent.obj), ()) or holds(place.obj, is_component, in_parts=True)
        if isinstance(parent.obj, TRAINING) and not is_by_parts(parent.obj):
            return False  # its constructor makes its parts
        cls: Any = type(parent.obj)
        if can_be_assembled(cls) and describe(parent.obj) is None:
            return False  # a pickle holds all of it, or it is not saved
        return not (isinstance(place.obj, torch.Tensor) and id(place.obj) in self._keys)

    def keys_below(self, prefix: str) -> Callable[[torch.Tensor], str | None]:
        """Return a function for the key of a module's tensor inside a component, or None."""
        begin = f"{prefix}." if prefix else ""

        def key_of_tensor(tensor: torch.Tensor) -> str | None:
            keys = [key for key in self._keys.get(id(tensor), ()) if key.startswith(begin)]
            held = next((key for key in keys if key in self._state), keys[0] if keys else None)
            return None if held is None else held[len(begin) :]

        return key_of_tensor

    def note_other_keys(self) -> None:
        """Note keys of a module's ``state_dict`` that are not its tensors: a load ignores them."""
        for key in [*self._state] if self._places else ():
            outer, _, name = key.rpartition(".")
            module = self._places.get(outer)
            if module is None or name in module._parameters or name in module._buffers:
                continue
            is_assembled = id(module) in self._assembled
            if not is_assembled and (isinstance(self._state[key], torch.Tensor) or name == "_extra_state"):
                continue  # torch's own modules take these, such as the tensor that a parametrization computes
            if is_assembled and self._is_in_config(module, self._state[key]):
                del self._state[key]  # the state would pickle it
            elif name not in self._attributes.get(id(module), ()):
                self._state._metadata.setdefault(outer, {}).setdefault(OTHERS_KEY, []).append(name)

    def _is_in_config(self, module: Any, value: Any) -> bool:
        """Whether a value is an attribute of a module in its config, and is not data."""
        own = module.__dict__
        lost = {name for number, name in self.lost if number == id(module)}
        is_own = type(value) not in PLAIN and any(value is own[name] for name in attributes_of(module).keys() - lost)
        return is_own and bool(CODECS["pt"].dump({"": value}, DumpOptions()).opaque)

    def hidden(self) -> list[str]:
        """Return attributes with modules in plain lists, dicts and the like: they are not saved."""
        return [name for name, value in self._attributes_to_see if holds(value, self._is_hidden, in_parts=True)]

    def warn_of_hidden(self, hidden: list[str]) -> None:
        """Warn of what :meth:`hidden` returned."""
        if hidden:
            warn(
                f"{quote_some(hidden)} holds modules that torch does not know of, so their weights are not saved: keep "
                "them in an nn.ModuleList or nn.ModuleDict",
                StateMismatchWarning,
            )

    def _is_hidden(self, value: Any) -> bool:
        if isinstance(value, (set, frozenset)):
            return any(map(self._is_hidden, held_items(value) or ()))
        hides = isinstance(value, nn.Module) and id(value) not in self._modules and not is_component(value)
        return hides and next(value.parameters(), None) is not None

    def of_modules(self, tensors: Set[int]) -> Set[int]:
        """Return the tensors that are a module's parameters or buffers, all by their ids."""
        return tensors & self._owners.keys()

    def tied(self, referred: Container[int], keyed: Set[int]) -> Set[int]:
        """Return the ids of tensors that modules have to take from the state, because others do.

        - Tensors that configs refer to by key.
        - Tensors of several modules that configs refer to: only one module keeps the tensor that it is built with.
        - Tensors that one module's call makes, that another module takes from the state, and that the state does not
          hold for the first one: these cannot be tied after the build.
        """
        several = {number for number, owners in self._owners.items() if len(owners) > 1 and number in referred}
        return (several | keyed | (self._unheld & self._from_state)) & self._of_calls

    def warn_of_lost(self, places: Mapping[int, str]) -> None:
        """Warn of attributes that no config can hold, by the places of objects."""
        lost = [*dict.fromkeys(join_prefix(places.get(number, path), name) for number, path, name in self._to_name)]
        if lost:
            warn(
                f"these are not saved, since they are not data: {quote_some(lost, 20)}. Set hooks and replaced methods "
                "again after a load",
                StateMismatchWarning,
            )


def shared_modules(visited: Mapping[str, Any]) -> frozenset[int]:
    """Return the ids of modules in several places that different objects' calls make."""
    places: dict[int, list[str]] = {}
    for path, item in visited.items():
        if isinstance(item, nn.Module):
            places.setdefault(id(item), []).append(path)
    makers = _Makers(visited)
    several = {number: paths for number, paths in places.items() if len(paths) > 1}
    return frozenset(number for number, paths in several.items() if len({makers.of(path) for path in paths}) > 1)


class _Makers:
    """Finds the object whose call makes the object at a place."""

    def __init__(self, visited: Mapping[str, Any]) -> None:
        self._visited = visited
        self._given: dict[int, set[int]] = {}  # by the ids of objects, those of all that their calls are given

    def of(self, path: str) -> int | None:
        """Return the id of the object whose call makes the one at a path; None if its config does."""
        chain = [self._visited[item] for item in (path, *prefixes_around(path)) if item in self._visited][::-1]
        maker = None
        for outer, inner in pairwise(chain):
            maker = outer if maker is None else maker
            maker = maker if self._makes(maker, inner) else None
        return None if maker is None else id(maker)

    def _makes(self, obj: Any, inner: Any) -> bool:
        """Whether the call that makes an object also makes one inside it."""
        schema = None if isinstance(obj, (*KEEPERS, dict)) else describe(obj)
        if schema is None or schema.factory_method == PARTS:
            return False
        if schema.component_subclass is Edited:
            return id(inner) in schema.__dict__["_kept"]
        if id(obj) not in self._given:
            is_copied = schema.component_subclass is AveragedModel  # its argument is not a part of it
            self._given[id(obj)] = set() if is_copied else {*map(id, items_in(schema))}
        return id(inner) not in self._given[id(obj)]


class InsideComponent(Mapping[int, str]):
    """Lazy mapping from objects' ids to their paths inside a component.

    Parameters
    ----------
    prefix : str
        The component's.
    places : mapping of int to list of str
        Paths of all objects in the whole, by their ids.
    """

    def __init__(self, prefix: str, places: Mapping[int, Sequence[str]]) -> None:
        self._prefix, self._begin = prefix, f"{prefix}."
        self._places = places

    def __getitem__(self, number: int) -> str:
        for path in self._places[number]:
            if path == self._prefix or path.startswith(self._begin):
                return path[len(self._begin) :]
        raise KeyError(number)

    def __iter__(self) -> Iterator[int]:
        return (number for number in self._places if number in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def outside_component(prefix: str, places: Mapping[int, list[str]]) -> Callable[[Any], bool]:
    """Return a test for whether an object has places in the save, but none in a component."""

    def is_outside(value: Any) -> bool:
        known = places.get(id(value))
        return known is not None and not any(item == prefix or item.startswith(f"{prefix}.") for item in known)

    return is_outside
