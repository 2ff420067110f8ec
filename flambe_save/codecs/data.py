"""Values that count as data when they are written: reading them needs no trust.

unpickler.py is the other side, and finds the same types.
"""

from __future__ import annotations

import copyreg
import datetime
import inspect
import io
import pathlib
import pickle
import sys
import types
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from flambe_save.errors import UnsupportedObjectError, quote
from flambe_save.pt.tensor_info import fills_storage
from flambe_save.state import Stash, State, ordered
from flambe_save.support.notes import marks_of

ATOMS: tuple[type, ...] = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    torch.dtype,
    torch.layout,
    torch.device,
    torch.Size,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
)

# Of these, most values: they hold nothing else, and no other part of a save refers to them
SIMPLE: frozenset[type] = frozenset((type(None), bool, int, float, complex, str, bytes))

_Path: TypeAlias = "str | tuple[_Path, str, Any]"  # made to a text where an error or a sentence needs it

# The types that ml_dtypes adds to numpy's, by the classes of their scalars
EXTENSION_TYPES = frozenset(
    f"ml_dtypes.{name}"
    for name in (
        *("bfloat16", "complex32", "bcomplex32", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e3m4"),
        *("float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
        *("float8_e8m0fnu", "int1", "int2", "int4", "uint1", "uint2", "uint4"),
    )
)


class _OrderedSet:
    """Pickles as a set, with its items in a fixed order."""

    def __init__(self, items: set[Any] | frozenset[Any], prepared: list[Any]) -> None:
        self._kind = type(items)
        self._items = prepared

    def __reduce__(self) -> tuple[type, tuple[list[Any]]]:
        return self._kind, (self._items,)


def tie_key(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """The memory, type and layout that tied tensors share; None without plain memory."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta or tensor.numel() == 0:
        return None
    view = (
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )
    return (tensor.untyped_storage()._cdata, *view)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same type, layout, shape, device and bits, NaN too.

    Strides and ``requires_grad`` make no difference. Meta tensors have no bits.
    """
    facts, others = (
        (
            item.dtype,
            item.layout,
            item.device,
            item.is_nested,
            item.is_quantized,
            None if item.is_nested else item.shape,
        )
        for item in (one, other)
    )
    if facts != others or one.is_meta:
        return facts == others
    parts, theirs = _parts_of(one.detach()), _parts_of(other.detach())
    if parts:
        return len(parts) == len(theirs) and all(map(same_bits, parts, theirs))
    bits = (
        item.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8) for item in (one, other)
    )
    return torch.equal(*bits)


def _parts_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors inside a tensor of another layout; none in a plain one."""
    if tensor.is_nested:
        return [*tensor.unbind()]
    if tensor.is_quantized:
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            return [tensor.int_repr(), torch.tensor([tensor.q_scale(), tensor.q_zero_point()], dtype=torch.float64)]
        axis = torch.tensor(tensor.q_per_channel_axis())
        return [tensor.int_repr(), tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points(), axis]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values(), torch.tensor(tensor.is_coalesced())]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return []


def to_data(values: Any, wrap: Callable[[Any], Any] = lambda item: item) -> tuple[Any, list[tuple[str, Any]]]:
    """Copy values so that they pickle the same each time, and list those that are not data.

    Containers are copied and sets ordered. Tensors are shared, but those that view a part of their storage are cloned,
    so that only their own bytes are written. Equal references stay equal.

    Parameters
    ----------
    values : object
    wrap : callable
        Replaces each distinct tensor and storage.

    Returns
    -------
    (object, list of (str, object))
        The copy, and each value that is not data, with its path inside ``values``.
    """
    memo: dict[Any, Any] = {}
    opaque: list[tuple[str, Any]] = []

    def visit(value: Any, path: _Path) -> Any:
        kind: Any = type(value)
        if kind in SIMPLE or (kind in ATOMS and not _has_foreign_zone(value)):
            return value
        if id(value) in memo:
            return memo[id(value)]
        memo[id(value)] = value  # a tuple or set is inside itself only through a list or dict, which has a copy by then
        copy: Any
        if kind in (dict, OrderedDict, State, Stash):
            copy = memo[id(value)] = {} if kind in (dict, Stash) else OrderedDict()
            for key, item in [*value.items()]:  # another thread may change it
                name = key if type(key) in SIMPLE else visit(key, (path, "[{!r}]", key))
                if type(item) not in SIMPLE:
                    inside = value.paths.get(key) if kind is Stash else None
                    item = visit(item, inside or ((path, "[{!r}]", key) if path else str(key)))
                copy[name] = item
            if kind in (OrderedDict, State) and value.__dict__:
                copy.__dict__.update(visit(value.__dict__, path))
        elif kind is Counter:
            copy = memo[id(value)] = Counter()
            for key, item in [*value.items()]:
                inside = (path, "[{!r}]", key)
                copy[visit(key, inside)] = visit(item, inside)
        elif kind is list:
            items = [*value]
            copy = memo[id(value)] = []
            is_plain = SIMPLE.issuperset(map(type, items))
            copy.extend(items if is_plain else (visit(item, (path, "[{}]", at)) for at, item in enumerate(items)))
        elif kind is tuple:
            items = [*value]  # a copy also of plain items, as what is opaque pickles its own
            is_plain = SIMPLE.issuperset(map(type, items))
            copy = tuple(items if is_plain else (visit(item, (path, "[{}]", at)) for at, item in enumerate(items)))
            memo[id(value)] = copy
        elif kind in (set, frozenset):
            items = [visit(item, (path, "{{{!r}}}", item)) for item in ordered(value)]
            copy = memo[id(value)] = _OrderedSet(value, items)
        elif kind is torch.UntypedStorage:
            copy = memo[id(value)] = wrap(value)
        elif kind in (torch.Tensor, torch.nn.Parameter):
            copy = memo[id(value)] = tensor_of(value, path)
        else:
            if not _is_numpy_data(value):
                _check_can_be_made(value, path)
                opaque.append((_text_of(path), value))
            return value
        return copy

    def tensor_of(tensor: torch.Tensor, path: _Path) -> Any:
        if tensor.is_nested or marks_of(tensor):  # torch would pickle the tensor's attributes
            opaque.append((_text_of(path), tensor))
            return tensor
        if tensor.__dict__:
            tensor = _like(tensor, tensor.detach())  # without its attributes
        key = tie_key(tensor)
        if key is None:
            return wrap(compact(tensor))
        key = (*key, type(tensor), tensor.requires_grad)
        if key not in memo:
            memo[key] = wrap(compact(tensor))
        return memo[key]

    try:
        return visit(values, ""), opaque
    except RecursionError as error:
        raise UnsupportedObjectError(
            "the values are nested too deep for Python's recursion limit", fix="Keep them in flatter containers."
        ) from error


def say_what(opaque: list[tuple[str, Any]]) -> list[str]:
    """A sentence for each value that is more than data."""
    kinds = [(path, value if isinstance(value, type) else type(value)) for path, value in opaque]
    return [f"{path or 'the value'} is a {kind.__module__}.{kind.__qualname__}" for path, kind in kinds]


def compact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or a clone if it views a part of a larger storage."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return tensor
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size() or fills_storage(tensor):
        return tensor
    return _like(tensor, tensor.detach().clone())


def _like(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values.requires_grad_(tensor.requires_grad) if tensor.requires_grad else values


def _text_of(path: _Path) -> str:
    """The text of a path, as in ``model['layers'][3]``."""
    steps: list[str] = []
    while not isinstance(path, str):
        path, form, item = path
        steps.append(form.format(item))
    return path + "".join(reversed(steps))


def _check_can_be_made(value: Any, path: _Path) -> None:
    """Refuse an object that pickle can write but not read.

    Raises
    ------
    UnsupportedObjectError
        If its class takes other arguments than pickle gives it.
    """
    cls: Any = type(value)
    if not isinstance(cls.__new__, types.FunctionType) or cls.__reduce_ex__ is not object.__reduce_ex__:
        return
    if cls.__reduce__ is not object.__reduce__:
        return
    try:
        make, arguments, *_ = value.__reduce_ex__(2)
        accepted = inspect.signature(cls.__new__)
    except Exception:  # a class's own protocol may raise anything; pickling then raises it, or does without
        return
    if make is not copyreg.__newobj__ or not arguments or arguments[0] is not cls:  # type: ignore[attr-defined]
        return
    try:
        accepted.bind(*arguments)
    except TypeError as error:
        raise UnsupportedObjectError(
            f"{_text_of(path) or 'the value'}, a {cls.__module__}.{cls.__qualname__}, cannot be made again by pickle: "
            f"its __new__ is given {len(arguments) - 1} arguments, and {str(error)[:200]}",
            fix="Give the class a __getnewargs__ that returns the arguments of its __new__.",
        ) from error


_FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, io.FileIO)


def check_no_file(value: Any) -> None:
    """Refuse a file that is open for writing: a load of dill's pickle would empty it."""
    if isinstance(value, _FILES) and value not in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
        mode, name = (getattr(value, attribute, "") for attribute in ("mode", "name"))
        if isinstance(mode, str) and not {*mode}.isdisjoint("wx"):
            raise pickle.PicklingError(f"a load would open the file {quote(name)} with mode {mode!r} and empty it")


def _has_foreign_zone(value: Any) -> bool:
    """Whether a time has a zone of a class that is not data."""
    zone = getattr(value, "tzinfo", None) if type(value) in (datetime.datetime, datetime.time) else None
    return zone is not None and type(zone) is not datetime.timezone


def _is_numpy_data(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return False
    if isinstance(value, numpy.dtype):
        return _is_known_type(value)
    if type(value) is numpy.ndarray or isinstance(value, numpy.generic):
        return _is_known_type(value.dtype)
    return False


def _is_known_type(dtype: Any) -> bool:
    """Whether a numpy type is numpy's own, without objects, or one of ml_dtypes."""
    if dtype.hasobject:
        return False
    if dtype.subdtype is not None:
        return _is_known_type(dtype.base)
    if dtype.names is not None:
        return all(_is_known_type(dtype.fields[name][0]) for name in dtype.names)
    is_own = type(dtype).__module__ == "numpy.dtypes"
    return is_own or f"{dtype.type.__module__}.{dtype.type.__qualname__}" in EXTENSION_TYPES
