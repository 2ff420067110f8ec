"""The globals that pickles of data may name: safe callables, and values.

unpickler.py finds only these. The callables check their arguments. The list of torch's names began with that of its
``weights_only``.
"""

from __future__ import annotations

import math
import pickle
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, cast

import torch

from flambe_save.codecs.data import ATOMS, EXTENSION_TYPES
from flambe_save.codecs.numpy_types import (
    ARRAY,
    DtypeProxy,
    ExtensionType,
    array_from_buffer,
    build_array,
    check,
    empty_array,
    holds_objects,
    is_shape,
    scalar_of,
)
from flambe_save.state import State
from flambe_save.support.sizes import MAX_HASHED, unfolded_size


class SafeCallable:
    """A function for pickles to call, without attributes that a BUILD could set.

    Parameters
    ----------
    make : callable
    real : type, optional
        The class that it stands for, which trusted code gets.
    """

    __slots__ = ("_make", "real")

    def __init__(self, make: Callable[..., Any], real: type | None = None) -> None:
        self._make = make
        self.real = real

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:  # BUILD looks for this first
        raise pickle.UnpicklingError("a pickle changes what it calls")


# ------------------------------------------------------------------------------------------------ torch


def _check_view(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any) -> None:
    """Refuse a view that exceeds its storage; torch would enlarge the storage."""
    is_storage = isinstance(storage, (torch.UntypedStorage, torch.storage.TypedStorage))
    check(is_storage and isinstance(dtype, torch.dtype), "a tensor without a storage")
    check(type(offset) is int and offset >= 0, "a tensor with a bad offset")
    check(is_shape(size) and is_shape(stride) and len(size) == len(stride), "a tensor with a bad shape")
    if 0 not in size:
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        check((last + 1) * dtype.itemsize <= _untyped(storage).nbytes(), "a tensor reaches past its storage")


def _untyped(storage: Any) -> torch.UntypedStorage:
    return cast(torch.UntypedStorage, getattr(storage, "_untyped_storage", storage))


def _rebuild_tensor(
    storage: Any,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    dtype = dtype if dtype is not None else getattr(storage, "dtype", None)
    _check_view(storage, offset, size, stride, dtype)
    check(not hooks, "a tensor with hooks")
    check(not metadata, "a tensor with metadata")
    tensor = torch.empty(0, dtype=dtype, device=_untyped(storage).device)
    tensor.set_(_untyped(storage), offset, size, stride)
    return tensor.requires_grad_() if requires_grad else tensor


def _rebuild_tensor_v3(*arguments: Any) -> torch.Tensor:
    return _rebuild_tensor(*arguments[:6], *arguments[7:], dtype=arguments[6])


def _rebuild_parameter(data: Any, requires_grad: bool, hooks: Any) -> torch.nn.Parameter:
    check(isinstance(data, torch.Tensor) and not hooks, "a parameter that is not a tensor")
    return torch.nn.Parameter(data, requires_grad=bool(requires_grad))


def _rebuild_qtensor(
    storage: Any,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    quantizer: Any,
    requires_grad: bool,
    hooks: Any,
) -> torch.Tensor:
    _check_view(storage, offset, size, stride, getattr(storage, "dtype", None))
    check(not hooks and isinstance(quantizer, tuple), "a quantized tensor with hooks")
    # torch allocates all elements, even if the tensor repeats a few
    held = _untyped(storage).nbytes()
    check(math.prod(size) * storage.dtype.itemsize <= held, "a quantized tensor larger than its storage")
    rebuild: Any = torch._utils._rebuild_qtensor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own use of typed storages
        return cast(torch.Tensor, rebuild(storage, offset, size, stride, quantizer, requires_grad, hooks))


def _rebuild_sparse_tensor(layout: Any, data: Any) -> torch.Tensor:
    check(isinstance(data, tuple), "a sparse tensor without parts")
    if layout == torch.sparse_coo:
        indices, values, size, *coalesced = data
        return torch.sparse_coo_tensor(
            indices, values, size, check_invariants=True, is_coalesced=coalesced[0] if coalesced else None
        )
    check(
        layout in (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc),
        "an unknown layout",
    )
    compressed, plain, values, size = data
    return torch.sparse_compressed_tensor(compressed, plain, values, size, layout=layout, check_invariants=True)


def _rebuild_meta_tensor(
    dtype: torch.dtype, size: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool
) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="meta", requires_grad=requires_grad)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    check(isinstance(text, str) and encoding == "latin1", "an encoding that is not latin1")
    return text.encode("latin1")


def _bytearray(data: Any = b"", encoding: str = "latin1") -> bytearray:
    # Not of a number: bytearray(n) would allocate n bytes
    return bytearray(data if isinstance(data, bytes) else _encode(data, encoding))


def _bytes(data: Any = b"", encoding: str = "latin1") -> bytes:
    return data if isinstance(data, bytes) else _encode(data, encoding)  # bytes(n) would allocate


def _layout(name: str) -> torch.layout:
    # vars, not getattr, with which torch imports some of its modules
    found = vars(torch).get(name.removeprefix("torch.")) if isinstance(name, str) else None
    check(isinstance(found, torch.layout), "an unknown layout")
    return found  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------ dill

_RECONSTRUCT = tuple(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))


def _dill_array(make: Any, arguments: Any, state: Any, attributes: Any = None) -> Any:
    """Stand in for ``dill._dill._create_array``, which makes arrays that are parts of objects."""
    check(isinstance(make, SafeCallable) and make in map(data_global, _RECONSTRUCT), "an array of an unknown kind")
    check(isinstance(arguments, tuple) and len(arguments) == 3 and not attributes, "an array of an unknown kind")
    array = empty_array(*arguments)
    check(not holds_objects(state), "an array of an unknown type")
    build_array(array, state)
    return array


# ------------------------------------------------------------------------------------------------ hashing


def check_key(key: Any) -> None:
    """Refuse a key that would take long to hash."""
    if type(key) in (tuple, frozenset):
        check(unfolded_size(key, MAX_HASHED) <= MAX_HASHED, "a key or a set's item that is too large to be hashed")


def _set_of(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        check(isinstance(items, (list, tuple, set, frozenset)), "a set of nothing")
        for item in items:
            check_key(item)
        return kind(items)

    return make


def _mapping_of(kind: type) -> Callable[..., Any]:
    def make(pairs: Any = ()) -> Any:
        if type(pairs) is not dict:
            check(isinstance(pairs, (list, tuple)), "a mapping of nothing")
            for pair in pairs:
                check(isinstance(pair, (list, tuple)) and len(pair) == 2, "a mapping of no pairs")
                check_key(pair[0])
        return kind(pairs)

    return make


def _counter(counts: Any = ()) -> Any:
    check(type(counts) is dict, "a counter of nothing")
    return Counter(counts)


def _size(items: Any = ()) -> torch.Size:
    check(is_shape(tuple(items)) if isinstance(items, (list, tuple)) else False, "a size of no numbers")
    return torch.Size(items)


# ------------------------------------------------------------------------------------------------ the list

UNTYPED = object()  # stands for the class of untyped storages, which would allocate when called

DTYPES: dict[str, torch.dtype] = {
    # The class of a storage stands for the type of its elements
    f"torch.{name}": getattr(torch, name)._dtype
    for name in dir(torch)
    if name.endswith("Storage") and isinstance(getattr(getattr(torch, name), "_dtype", None), torch.dtype)
}

_VALUES: dict[str, Any] = {
    **DTYPES,
    "torch.storage.UntypedStorage": UNTYPED,
    "torch.UntypedStorage": UNTYPED,
    "numpy.ndarray": ARRAY,
    **{name: ExtensionType(name.rpartition(".")[2]) for name in sorted(EXTENSION_TYPES)},
    **{
        f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, (torch.dtype, torch.qscheme))
    },
}

_CALLABLES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping_of(OrderedDict),
    "collections.Counter": _counter,
    "builtins.set": _set_of(set),
    "builtins.frozenset": _set_of(frozenset),
    "builtins.complex": complex,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "_codecs.encode": _encode,
    "flambe_save.state.State": _mapping_of(State),
    "flambe.compile.serialization.State": _mapping_of(State),
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_qtensor": _rebuild_qtensor,
    "torch._utils._rebuild_sparse_tensor": _rebuild_sparse_tensor,
    "torch._utils._rebuild_meta_tensor_no_storage": _rebuild_meta_tensor,
    "torch.serialization._get_layout": _layout,
    "torch.Size": _size,
    "torch.device": torch.device,
    **{f"datetime.{kind.__name__}": kind for kind in ATOMS if kind.__module__ == "datetime"},
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("pathlib", "pathlib._local")
        for kind in ATOMS
        if kind.__module__.startswith("pathlib")
    },
    "numpy.dtype": DtypeProxy,
    **dict.fromkeys(_RECONSTRUCT, empty_array),
    "dill._dill._create_array": _dill_array,
    **{f"numpy.{core}.multiarray.scalar": scalar_of for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": array_from_buffer for core in ("core", "_core")},
}

_CLASSES: dict[str, type] = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (OrderedDict, Counter, set, frozenset, complex, bytes, bytearray, torch.Size, *ATOMS)
}

_GLOBALS: dict[str, Any] = {
    **_VALUES,
    **{name: SafeCallable(make, _CLASSES.get(name)) for name, make in _CALLABLES.items()},
}


def data_global(dotted: str) -> Any:
    """The stand-in for a global that counts as data, by its dotted name, or None."""
    return _GLOBALS.get(dotted)


def real_classes(value: Any) -> Any:
    """Replace stand-ins by classes for trusted code, in a dict or tuples too."""
    if value is ARRAY:
        import numpy

        return numpy.ndarray
    if isinstance(value, ExtensionType):
        return value.real()
    if isinstance(value, SafeCallable):
        return value if value.real is None else value.real
    if type(value) is tuple:
        return tuple(map(real_classes, value))
    for key in value if type(value) is dict else ():
        if value[key] is ARRAY or isinstance(value[key], (ExtensionType, SafeCallable)):
            value[key] = real_classes(value[key])
    return value


def holds_stand_in(value: Any, most: int = MAX_HASHED) -> bool:
    """Whether a value contains a stand-in among the first ``most`` values inside."""
    waiting = [value]
    while waiting and most:
        most -= 1
        item = waiting.pop()
        if item is ARRAY or isinstance(item, (ExtensionType, SafeCallable)):
            return True
        if type(item) in (list, tuple, set, frozenset):
            waiting.extend(item)
        elif type(item) in (dict, OrderedDict):
            waiting.extend(item)
            waiting.extend(item.values())
    return False
