"""Layers of torch that a config writes alike: one is built, the others are copies of it.

Copies get their tensors from the state. They are made only where no code sees a layer before the object has its state:
inside modules that are written as their parts. building.py asks for each Schema whether a copy will do.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from flambe_save.classes.well_known import KEEPERS
from flambe_save.config.scalars import PLAIN
from flambe_save.objects.assembly import PARTS, note_assembled
from flambe_save.objects.optimizers import TRAINING
from flambe_save.schema.link import Link
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema, calls_constructor, items_in
from flambe_save.schema.stored import TensorLink

_TABLES = (dict, OrderedDict, list, set)
_MOST = 64  # items of a tuple, or characters of a text, among the arguments


class _Layer(NamedTuple):
    """A layer as it was built: its ``__dict__``, and the kinds of its tensors.

    Attributes
    ----------
    own : dict of str to object
        A copy of the ``__dict__``, without tensors.
    parameters : dict of str to (torch.Size, tuple of int, bool)
        Shape, strides, and whether it is trained.
    buffers : dict of str to (torch.Size, torch.dtype)
    """

    own: dict[str, Any]
    parameters: dict[str, tuple[torch.Size, tuple[int, ...], bool]]
    buffers: dict[str, tuple[torch.Size, torch.dtype]]


class Layers:
    """The layers in the config of one load.

    A copy is made where the state has all the tensors of the layer, each in memory of its own and of the same shape as
    the first layer's. Anything else is built.

    Parameters
    ----------
    config : object
        A Schema, or containers with Schemas.
    items : list of object
        All items in it.
    state : mapping of str to object
        The save's state.
    taken : dict of int to torch.Tensor
        The tensors that were made of the state's, by the ids of these; those of copies are added to it.
    """

    def __init__(self, config: Any, items: list[Any], state: Mapping[str, Any], taken: dict[int, Any]) -> None:
        seen = _seen_by_code(items)
        layers = () if seen is None else _layers_in(config)
        self._places = {id(schema): (schema, prefix) for schema, prefix in layers if id(schema) not in (seen or ())}
        self._taken = taken
        self._built: dict[tuple[type, str], _Layer | None] = {}  # by class and arguments
        dense = {key: value for key, value in state.items() if _is_dense(value)} if self._places else {}
        named = {item.key for item in items if isinstance(item, TensorLink)}  # not a layer's alone
        users = Counter(value.untyped_storage()._cdata for value in dense.values())
        self._free = {
            key: value
            for key, value in dense.items()
            if key not in named and users[value.untyped_storage()._cdata] == 1
        }

    def copy_for(self, schema: Schema) -> Any:
        """Return a copy of a layer built with the same arguments, or None."""
        if id(schema) not in self._places:
            return None
        _, prefix = self._places[id(schema)]
        layer = self._built.get(_call_of(schema))
        if layer is None:
            return None
        found: dict[str, Any] = {name: self._free.get(prefix + name) for name in (*layer.parameters, *layer.buffers)}
        with torch._C.DisableTorchFunction():  # no mode has to see these tensors of the load's own
            if not _fits(layer, found):
                return None
            for name in found:
                del self._free[prefix + name]  # another layer under the same key gets tensors of its own
            return self._copy(layer, found, schema.component_subclass)

    def _copy(self, layer: _Layer, found: Mapping[str, torch.Tensor], cls: Any) -> Any:
        made: Any = object.__new__(cls)
        own = made.__dict__
        for name, value in layer.own.items():
            own[name] = value.copy() if type(value) in _TABLES else value
        for name, value in found.items():
            is_parameter = name in layer.parameters
            new = nn.Parameter(value, layer.parameters[name][2]) if is_parameter else value.detach()
            own["_parameters" if is_parameter else "_buffers"][name] = self._taken[id(value)] = new
        note_assembled(made)
        return made

    def note(self, schema: Schema, made: Any) -> None:
        """Note a layer that was built."""
        if id(schema) in self._places:
            self._built.setdefault(_call_of(schema), _layer_of(made))


def _seen_by_code(items: list[Any]) -> set[int] | None:
    """Return the ids of all among the arguments of constructors, which may look at it.

    None where links may lead to anything.
    """
    if any(isinstance(item, Link) for item in items):  # following one may compute an attribute
        return None
    given: list[Any] = []
    for item in items:
        if type(item) is Schema:
            given += _shown_to_code(item)
    found = list(items_in(given))
    if any(isinstance(item, Reference) and not isinstance(item, TensorLink) for item in found):
        return None
    return {id(item) for item in found}


def _shown_to_code(schema: Schema) -> list[Any]:
    """Return the arguments that code may read or write meanwhile, but plain values."""
    cls = schema.component_subclass
    is_of_torch = cls in KEEPERS or (issubclass(cls, TRAINING) and cls.__module__.startswith("torch."))
    if is_of_torch or not calls_constructor(cls, schema.factory_method):
        return []
    return [value for value in schema.keywords.values() if type(value) not in PLAIN]


def shows_to_code(items: list[Any]) -> bool:
    """Whether code may see objects of a config, given as its items, before all are built."""
    return any(isinstance(item, Link) or (type(item) is Schema and _shown_to_code(item)) for item in items)


def _layers_in(config: Any) -> Iterator[tuple[Schema, str]]:
    """Yield torch's layers in modules written as their parts, with their prefixes.

    Arguments of other constructors, which may look at them, are left out.
    """
    waiting: list[tuple[Any, str]] = [(config, "")]
    seen: set[int] = set()
    while waiting:
        item, prefix = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        inner: Any = item
        if type(item) is Schema:
            cls, arguments = item.component_subclass, item.keywords
            if item.factory_method == PARTS and issubclass(cls, nn.Module):
                inner = arguments.get("modules")
            elif item.factory_method is None and cls in KEEPERS and len(arguments) == 1:
                (inner,) = arguments.values()
                inner = inner[0] if type(inner) is list and len(inner) == 1 and type(inner[0]) in _MAPPINGS else inner
            else:
                inner = None
                is_layer = item.factory_method is None and cls.__module__.startswith("torch.nn.modules.")
                if is_layer and all(map(_is_small, arguments.values())):
                    yield item, prefix
        pairs = inner.items() if type(inner) in _MAPPINGS else enumerate(inner) if type(inner) is list else ()
        waiting += [(value, f"{prefix}{name}.") for name, value in pairs]


_MAPPINGS = (dict, OrderedDict)


def _is_small(value: Any) -> bool:
    """Whether an argument is quick to compare; aliases let a config repeat a large one."""
    if type(value) is tuple:
        return len(value) <= _MOST and all(type(item) in PLAIN and _is_small(item) for item in value)
    return type(value) in PLAIN and (type(value) not in (str, bytes) or len(value) <= _MOST)


def _call_of(schema: Schema) -> tuple[type, str]:
    """Return a key of layers that are written alike; a text, since 1, 1.0 and True are equal."""
    return schema.component_subclass, repr(schema.keywords)


def _is_dense(value: Any) -> bool:
    return (
        type(value) is torch.Tensor
        and value.layout == torch.strided
        and not (value.is_conj() or value.is_neg())
        and value.untyped_storage().nbytes() == value.numel() * value.element_size()
    )


def _fits(layer: _Layer, found: Mapping[str, Any]) -> bool:
    """Whether tensors can be those of a copy of a layer."""
    for name, value in found.items():
        if value is None:
            return False
        if name in layer.buffers:
            if (value.shape, value.dtype) != layer.buffers[name]:
                return False
        elif (value.shape, value.stride()) != layer.parameters[name][:2] or not value.is_floating_point():
            return False
    return True


def _layer_of(made: Any) -> _Layer | None:
    """Return a layer's parts; None where it holds more than plain values and own tensors."""
    own = made.__dict__
    tables = ("_parameters", "_buffers")
    if any(own["_modules"].values()) or own["_non_persistent_buffers_set"]:
        return None
    for name, value in own.items():
        if name in tables or type(value) in PLAIN:
            continue
        items = value if type(value) in (tuple, list) else ()
        is_empty = type(value) in _TABLES and not value
        if not (is_empty or (items and all(type(item) in PLAIN for item in items))) and value != ():
            return None
    parameters, buffers = ({key: value for key, value in own[name].items() if value is not None} for name in tables)
    if not all(type(value) is nn.Parameter and not value.__dict__ for value in parameters.values()):
        return None
    if not all(type(value) is torch.Tensor and not value.__dict__ for value in buffers.values()):
        return None
    kept = {name: dict.fromkeys(own[name]) for name in tables}
    return _Layer(
        {name: value.copy() if type(value) in _TABLES else value for name, value in {**own, **kept}.items()},
        {key: (value.shape, value.stride(), value.requires_grad) for key, value in parameters.items()},
        {key: (value.shape, value.dtype) for key, value in buffers.items()},
    )
