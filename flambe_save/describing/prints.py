"""Prints: an object as its constructor left it, cheap enough to take at each construction.

A print holds names, classes, shapes and plain values, and weak references to all else. It keeps no weights alive.
changes.py compares one with the object later.
"""

from __future__ import annotations

import contextlib
import math
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from flambe_save.config.scalars import PLAIN
from flambe_save.deferred_init.mode import when_drawn
from flambe_save.objects.assembly import attributes_of, can_be_assembled, hooks_in
from flambe_save.objects.structural import is_made_of_parts
from flambe_save.objects.values import BY_TYPE
from flambe_save.objects.walks import modules_in
from flambe_save.support.notes import marks_of
from flambe_save.support.static import has_static

_CONTAINERS = (list, tuple, dict, set, frozenset, OrderedDict, deque)
_SIMPLE = frozenset((*PLAIN, *(kind for kind in BY_TYPE if kind not in _CONTAINERS), type(NotImplemented), type(...)))
_NONE: frozenset[str] = frozenset()
_PLAIN_TENSORS = (nn.Parameter, torch.Tensor)
_MOST = 100_000  # values in one container that are looked at
_FEW = 64 << 10  # bytes of a tensor that are compared themselves
_Sums: TypeAlias = "tuple[torch.Tensor, torch.Tensor, torch.Tensor]"


class Print(NamedTuple):
    """One object as it was.

    Attributes
    ----------
    cls : type
    modules : dict of str to Print, int or None
        Those inside it, in order; a module that is in several places has one Print. For an argument of the
        constructor, its number.
    parameters, buffers : dict of str to TensorPrint, (type, torch.Size, str) or None
        For a usual tensor its class, shape and first name; for a lazy one no shape and no name.
    not_persistent : frozenset of str
    hooks : dict of str to tuple of int
        The ids of hooks, by the names of their tables, on it and on its tensors (``weight._backward_hooks``).
    attributes : dict of str to object
    """

    cls: type
    modules: dict[str, Any]
    parameters: dict[str, Any]
    buffers: dict[str, Any]
    not_persistent: frozenset[str]
    hooks: dict[str, tuple[int, ...]]
    attributes: dict[str, Any]


class TensorPrint:
    """One tensor as it was: class, shape and type, and identity and values where compared."""

    __slots__ = ("attributes", "cls", "dtype", "has_gradient", "name", "shape", "sums", "values", "version", "who")

    def __init__(self, tensor: torch.Tensor, name: str, *, is_compared: bool, is_short_lived: bool = False) -> None:
        self.cls, self.shape, self.dtype, self.name = type(tensor), tensor.shape, tensor.dtype, name
        self.has_gradient = _has_gradient(tensor)
        self.attributes = {key: _token(value, 0) for key, value in marks_of(tensor).items()}
        self.who: Any = None
        self.version: int | None = None
        self.values: Any = None
        self.sums: _Sums | None = None  # of a large tensor, in place of its values
        if is_compared:
            self.who, self.version = weakref.ref(tensor), _version_of(tensor)
            if is_short_lived:
                self.values = tensor.detach()
            elif _has_memory(tensor):
                when_drawn(tensor, self._read)

    def _read(self) -> None:
        """Note the tensor's values, or sums of them; its identity alone if torch cannot read it."""
        tensor = self.who()
        with contextlib.suppress(RuntimeError):
            if tensor is not None and tensor.nbytes <= _FEW:
                self.values = tensor.detach().clone()
            elif tensor is not None:
                self.sums = _sums_of(tensor)

    def is_like(self, tensor: Any, *, is_exact: bool = True) -> bool:
        """Whether a tensor is the same except for its values."""
        if type(tensor) is not self.cls or tensor.shape != self.shape or _has_gradient(tensor) is not self.has_gradient:
            return False
        return _are_as_printed(self.attributes, marks_of(tensor), is_exact)

    def is_same(self, tensor: Any, is_exact: bool = True) -> bool:
        """Whether a tensor is the same one, with the same values; if not exactly, in any dtype."""
        if not self.is_like(tensor, is_exact=is_exact) or (tensor.dtype != self.dtype and is_exact):
            return False
        if self.values is not None and not self.values.is_meta and _has_memory(tensor):
            return bool(torch.equal(self.values.to(tensor.dtype).cpu(), tensor.detach().cpu()))
        if not is_exact:
            return True
        if self.sums is not None and _has_memory(tensor):
            return _are_equal(self.sums, _sums_of(tensor))
        return self.who is not None and self.who() is tensor and _version_of(tensor) == self.version

    def is_read_alike(self, other: TensorPrint) -> bool:
        """Whether another print of the tensor has the same values."""
        if self.version != other.version or (self.values is None) is not (other.values is None):
            return False
        return _are_equal(self.sums, other.sums) and (self.values is None or torch.equal(self.values, other.values))


def _has_gradient(tensor: torch.Tensor) -> bool:
    """Whether a tensor requires a gradient; False for parameters: the state has theirs."""
    return tensor.requires_grad and not isinstance(tensor, nn.Parameter)


def _has_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor's values can be read as bytes."""
    return not tensor.is_meta and tensor.layout == torch.strided


def _sums_of(tensor: torch.Tensor) -> _Sums | None:
    """Return sums over the columns and rows of a tensor's 64-bit words, and the last bytes.

    They change with any write or move of values, also through ``.data`` or numpy, which torch's version misses. They
    stay on the tensor's device, so the CPU does not wait for it. None for tensors that keep others inside.
    """
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return None
    with torch._C.DisableTorchFunctionSubclass():
        plain = tensor.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    plain = plain.int_repr() if plain.is_quantized else plain
    for dim, (size, stride) in enumerate(zip(plain.shape, plain.stride(), strict=True)):
        if size > 1 and stride == 0:  # as expand() repeats it
            plain = plain.narrow(dim, 0, 1)
    data = plain.reshape(-1).view(torch.uint8)
    data = data.clone() if data.storage_offset() % 8 else data
    width = 8 * (math.isqrt(len(data) // 8) + 2)  # so that rows here are never those of a square tensor
    whole = len(data) - len(data) % width
    words = data[:whole].view(torch.int64).view(-1, width // 8)
    return words.sum(0), words.sum(1), data[whole:].clone()


def _are_equal(sums: _Sums | None, others: _Sums | None) -> bool:
    if sums is None or others is None:
        return sums is others
    return all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(sums, others, strict=True))


def _version_of(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


class _Same:
    """Stands for an object that is compared by identity."""

    __slots__ = ("kind", "parts", "who")

    def __init__(self, value: Any, parts: dict[str, Any] | None) -> None:
        self.kind = type(value)
        self.parts = parts  # tokens of its attributes, if these are compared
        try:
            self.who: Any = weakref.ref(value)
        except TypeError:
            self.who = lambda: value

    def is_same(self, value: Any, is_exact: bool) -> bool:
        if type(value) is not self.kind:
            return False
        found = self.who()
        is_named = isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType))
        is_method = isinstance(found, types.MethodType) and found == value  # Python makes a new one at each access
        if found is not value and (is_exact or is_named) and not is_method:
            return False
        return self.parts is None or _are_as_printed(self.parts, value.__dict__, is_exact)


class Argument(NamedTuple):
    """Stands for an attribute that is an argument of the constructor, by its number."""

    number: int


class _Items:
    """Stands for a container, by its items."""

    __slots__ = ("items", "keys", "kind", "size")

    def __init__(self, value: Any, depth: int) -> None:
        self.kind, self.size = type(value), len(value)
        self.keys: Any = None
        self.items: Any = None
        if isinstance(value, dict):
            self.keys = list(value)
            value = value.values()
        if self.size > _MOST or depth > 20:
            return  # then only its size is compared
        if isinstance(value, (set, frozenset)):
            self.items = set(value)
        else:
            self.items = [item if type(item) in _SIMPLE else _token(item, depth + 1) for item in value]

    def is_same(self, value: Any, is_exact: bool) -> bool:
        if type(value) is not self.kind or len(value) != self.size:
            return False
        if isinstance(value, dict):
            if any(one is not other and one != other for one, other in zip(self.keys, value, strict=True)):
                return False
            value = value.values()
        if self.items is None:
            return self.size == 0 or self.keys is None
        if isinstance(value, (set, frozenset)):
            return bool(self.items == value)
        return all(is_as_printed(one, other, is_exact) for one, other in zip(self.items, value, strict=True))


def _token(value: Any, depth: int) -> Any:
    """Return the token of a value: a simple value itself, or an object that is compared with it."""
    kind: Any = type(value)
    if kind in _SIMPLE:
        return value
    if kind in _CONTAINERS:
        return _Items(value, depth)
    if isinstance(value, torch.Tensor):
        return TensorPrint(value, "", is_compared=True)
    is_told = depth < 4 and (is_made_of_parts(kind) or (can_be_assembled(kind) and not _has_state(kind)))
    own = getattr(value, "__dict__", None) if is_told else None
    parts = {name: _token(item, depth + 1) for name, item in own.items()} if isinstance(own, dict) else None
    return _Same(value, parts)


def _has_state(kind: type) -> bool:
    """Whether objects of a class are compared by identity alone: a save keeps their state apart."""
    names = ("state_dict", "__flambe_adapter__", "__flambe_recorded__")
    return kind is RemovableHandle or any(has_static(kind, name) for name in names)


def is_as_printed(token: Any, value: Any, is_exact: bool = True) -> bool:
    """Whether a value is the one that a token stands for; if not exactly, one that is equal."""
    kind = type(token)
    if kind in _SIMPLE:
        return type(value) is kind and (token == value or token != token)
    return bool(token.is_same(value, is_exact))


def _are_as_printed(tokens: Mapping[str, Any], values: Mapping[str, Any], is_exact: bool) -> bool:
    return tokens.keys() == values.keys() and all(
        is_as_printed(tokens[name], value, is_exact) for name, value in values.items()
    )


def print_of(obj: Any, boundary: Mapping[int, int] | None = None, *, is_short_lived: bool = False) -> Print:
    """Return the print of an object and of the modules inside it.

    Parameters
    ----------
    obj : object
    boundary : mapping of int to int, optional
        The ids of modules that are not walked, because they have prints of their own -> their numbers.
    is_short_lived : bool
        Whether the print may keep tensors alive, to compare their values.
    """
    return _Printing(boundary or {}, is_short_lived).of(obj, "")


class _Printing:
    """One printing: each module once, and each parameter by the first of its names."""

    def __init__(self, boundary: Mapping[int, int], is_short_lived: bool) -> None:
        self._boundary = boundary
        self._is_short_lived = is_short_lived
        self._known: dict[int, Print] = {}
        self._names: dict[int, str] = {}
        self._outside: list[tuple[str, nn.Module]] = []  # modules not walked, whose tensors have no names yet

    def of(self, obj: Any, path: str) -> Print:
        if self._outside:
            self._outside = name_outside(self._outside, self._names)
        own, names = obj.__dict__, self._names
        attributes = attributes_of(obj)
        for name, value in attributes.items():
            if type(value) not in _SIMPLE:
                attributes[name] = token = self._token(value)
                if type(token) is TensorPrint:  # a buffer that is this tensor too has its name
                    names.setdefault(id(value), path + name)
        if not isinstance(obj, nn.Module):
            return Print(type(obj), {}, {}, {}, _NONE, {}, attributes)
        parameters: dict[str, Any] = {}
        for name, value in own["_parameters"].items():
            if type(value) is nn.Parameter and not value.__dict__:  # nearly always, so it saves a call
                parameters[name] = nn.Parameter, value.shape, names.setdefault(id(value), path + name)
            else:
                parameters[name] = self._tensor(value, path + name)
        modules: dict[str, Any] = {}
        buffers: dict[str, Any] = {}
        not_persistent = own["_non_persistent_buffers_set"]
        for name, value in own["_buffers"].items():
            buffers[name] = self._tensor(value, path + name, is_compared=name in not_persistent)
        hooks = {name: tuple(found) for name, found in hooks_in(obj)}
        kept_apart = frozenset(not_persistent) if not_persistent else _NONE
        found = Print(type(obj), modules, parameters, buffers, kept_apart, hooks, attributes)
        self._known[id(obj)] = found
        for name, child in own["_modules"].items():
            number = self._boundary.get(id(child)) if self._boundary else None
            if child is None or number is not None:
                modules[name] = number
                if child is not None:
                    self._outside.append((f"{path}{name}.", child))
            else:
                modules[name] = self._known.get(id(child)) or self.of(child, f"{path}{name}.")
        return found

    def _token(self, value: Any) -> Any:
        number = self._boundary.get(id(value))
        return _token(value, 0) if number is None else Argument(number)

    def _tensor(self, value: Any, name: str, *, is_compared: bool = False) -> Any:
        if value is None:
            return None
        kind = type(value)
        first = self._names.setdefault(id(value), name)
        if not is_compared and kind in _PLAIN_TENSORS and not value.__dict__ and not _has_gradient(value):
            return kind, value.shape, first
        if nn.parameter.is_lazy(value):
            return kind, None, ""
        return TensorPrint(value, first, is_compared=is_compared, is_short_lived=self._is_short_lived)


def name_outside(modules: list[tuple[str, nn.Module]], names: dict[int, str]) -> list[tuple[str, nn.Module]]:
    """Name the tensors of modules that are not walked, and return an empty list."""
    for begin, module in modules:
        for path, inner in modules_in(module):
            for table in (inner._parameters, inner._buffers):
                for name, tensor in table.items():
                    if id(tensor) not in names and tensor is not None:  # the names matter for ties only
                        names[id(tensor)] = f"{begin}{path}.{name}" if path else begin + name
    return []


def first_name(known: Any) -> str:
    """Return the first name of a printed tensor of a module."""
    name: str = known[2] if type(known) is tuple else known.name
    return name


def is_tensor_as_printed(known: Any, value: Any, is_exact: bool, *, is_whole: bool) -> bool:
    """Whether a tensor is like the printed one; with ``is_whole``, in its values too."""
    if type(known) is tuple and known[1] is None:
        return type(value) is known[0]
    if is_whole and (type(known) is tuple or known.who is None):  # it was persistent, so its values are unknown
        return False
    if type(known) is not tuple:
        is_same = known.is_same if is_whole else known.is_like
        return bool(is_same(value, is_exact=is_exact))
    is_usual = type(value) is known[0] and value.shape == known[1] and not (value.__dict__ and marks_of(value))
    return is_usual and not _has_gradient(value) and not _repeats(value)


def _repeats(tensor: torch.Tensor) -> bool:
    """Whether some of a tensor's elements share memory, as after ``expand``."""
    return tensor.layout == torch.strided and tensor.numel() > 1 and 0 in tensor.stride()


def are_same(one: Any, other: Any) -> bool:
    """Whether two prints show one object, unchanged in between."""
    names: tuple[str, ...]
    if isinstance(one, (Print, _Items)):
        names = one._fields if isinstance(one, Print) else ("kind", "size", "keys", "items")
        return type(one) is type(other) and all(are_same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, TensorPrint):
        names = ("cls", "shape", "name", "has_gradient")
        is_like = type(one) is type(other) and all(getattr(one, name) == getattr(other, name) for name in names)
        return is_like and one.is_read_alike(other)
    if isinstance(one, _Same):
        return type(other) is _Same and one.who() is other.who() is not None and are_same(one.parts, other.parts)
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and list(one) == list(other) and all(are_same(one[key], other[key]) for key in one)
        )
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(are_same, one, other))
    return type(one) is type(other) and bool(one == other or one != one)
