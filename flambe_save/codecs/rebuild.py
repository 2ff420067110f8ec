"""Rebuilding: the stand-ins for what pickles of data name. Each checks its arguments before it builds anything.

unpickler.py finds nothing but these. The list of torch's names started from the one of its ``weights_only``.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import torch

from flambe_save.codecs.data import ATOMS
from flambe_save.state import State

__all__ = ["DTYPES", "UNTYPED", "Inert", "check", "data_global", "rehearse"]


class Stand:
    """A callable that a pickle can call and do nothing else with: it has no attributes that a BUILD could set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:  # BUILD looks for this first
        raise pickle.UnpicklingError("a pickle changes what it calls")


def check(condition: bool, message: str) -> None:
    """Refuse a pickle's arguments."""
    if not condition:
        raise pickle.UnpicklingError(message)


# --------------------------------------------------------------------------------------------------- torch


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(item) is int and item >= 0 for item in value)


def _check_view(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any) -> None:
    """Refuse a view that reaches outside its storage; torch would make the storage larger."""
    is_storage = isinstance(storage, (torch.UntypedStorage, torch.storage.TypedStorage))
    check(is_storage and isinstance(dtype, torch.dtype), "a tensor without a storage")
    check(type(offset) is int and offset >= 0, "a tensor with a bad offset")
    check(_is_shape(size) and _is_shape(stride) and len(size) == len(stride), "a tensor with a bad shape")
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


def _rebuild_tensor_v3(
    storage: Any,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
    dtype: torch.dtype,
    metadata: Any = None,
) -> torch.Tensor:
    return _rebuild_tensor(storage, offset, size, stride, requires_grad, hooks, metadata, dtype=dtype)


def _rebuild_parameter(data: Any, requires_grad: bool, hooks: Any) -> torch.nn.Parameter:
    check(isinstance(data, torch.Tensor) and not hooks, "a parameter that is no tensor")
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
    rebuild: Any = torch._utils._rebuild_qtensor
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
    # bytearray(n) would allocate n bytes that the save does not hold
    return bytearray(data if isinstance(data, bytes) else _encode(data, encoding))


def _bytes(data: Any = b"", encoding: str = "latin1") -> bytes:
    return data if isinstance(data, bytes) else _encode(data, encoding)  # bytes(n) would allocate


def _layout(name: str) -> torch.layout:
    found = getattr(torch, str(name).removeprefix("torch."), None)
    check(isinstance(found, torch.layout), "an unknown layout")
    return found  # type: ignore[return-value]


# --------------------------------------------------------------------------------------------------- numpy

_ARRAY = object()  # stands for the class numpy.ndarray, which arrays name and which nothing here calls
_PLAIN_FLAGS = 0x98  # aligned, needs init, needs the Python API; never objects (numpy/ndarraytypes.h)


def _numpy_reconstruct(kind: Any, shape: Any, code: Any) -> Any:
    import numpy

    check(kind is _ARRAY and shape == (0,), "an array of an unknown kind")
    return numpy.ndarray((0,), "b")


def _numpy_dtype(code: Any, align: Any = False, copy: Any = False) -> Any:
    import numpy

    check(isinstance(code, str) and re.fullmatch(r"[biufcSUVmM?]\d*", code) is not None, "an array of an unknown type")
    return numpy.dtype(code, bool(align), bool(copy))


def _numpy_scalar(dtype: Any, data: bytes = b"") -> Any:
    import numpy

    check(isinstance(dtype, numpy.dtype) and not dtype.hasobject and isinstance(data, bytes), "a bad scalar")
    check(len(data) == dtype.itemsize, "a scalar of another size")
    return numpy.frombuffer(data, dtype)[0] if dtype.itemsize else dtype.type()


def _numpy_frombuffer(buffer: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> Any:
    import numpy

    check(isinstance(dtype, numpy.dtype) and not dtype.hasobject and _is_shape(shape), "a bad array")
    check(isinstance(buffer, (bytes, bytearray)) and order in ("C", "F", "K"), "an array without its bytes")
    check(len(buffer) == math.prod(shape) * dtype.itemsize, "an array of another size than its bytes")
    flat = numpy.frombuffer(buffer, dtype) if len(buffer) else numpy.empty(0, dtype)
    if order == "K" and axes is not None:
        check(isinstance(axes, tuple) and sorted(axes) == list(range(len(shape))), "an array with bad axes")
        return flat.reshape(shape, order="C").transpose(axes)
    return flat.reshape(shape, order="F" if order == "F" else "C")


class Inert(dict):  # type: ignore[type-arg]
    """Takes any construction and any state, and does nothing with it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> Inert:
        return self

    def __hash__(self) -> int:  # type: ignore[override]
        return 0

    def append(self, item: Any) -> None:
        """Take a list's item."""

    def extend(self, items: Any) -> None:
        """Take a list's items."""

    def add(self, item: Any) -> None:
        """Take a set's item."""


class _DtypeProbe(Inert):
    """Stands for a numpy type in a rehearsal: numpy itself takes any state for it, and crashes on some."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()
        self.code: str = arguments[0] if arguments else ""
        self.size: int = _numpy_dtype(*arguments).itemsize
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state
        self.verify()

    def verify(self) -> None:
        """Refuse a state that is no possible one."""
        state = self.state
        if state is None:
            return
        check(isinstance(state, tuple) and len(state) in (8, 9) and state[0] in (3, 4), "a type of an unknown version")
        _, order, inner, names, fields, size, align, flags = state[:8]
        check(order in ("<", "=", "|") and type(flags) is int and not flags & ~_PLAIN_FLAGS, "a type of objects")
        check(type(size) is int and type(align) is int and -1 <= align <= 64, "a type without a size")
        if self.code[:1] in ("S", "U", "V"):
            check(0 <= size < 1 << 31, "a type of no size")
            self.size = size
        else:
            check(size == -1 and inner is None and fields is None, "a simple type with parts")
        if inner is not None:
            check(isinstance(inner, tuple) and len(inner) == 2 and isinstance(inner[0], _DtypeProbe), "a bad sub-array")
            shape = inner[1] if isinstance(inner[1], tuple) else (inner[1],)
            check(_is_shape(shape) and math.prod(shape) * inner[0].size == self.size, "a sub-array of another size")
        if fields is not None or names is not None:
            check(isinstance(fields, dict) and isinstance(names, tuple) and set(names) == set(fields), "bad fields")
            for entry in fields.values():
                check(isinstance(entry, tuple) and len(entry) in (2, 3), "a bad field")
                probe, offset = entry[:2]
                check(isinstance(probe, _DtypeProbe) and type(offset) is int, "a bad field")
                check(0 <= offset <= self.size - probe.size, "a field outside its type")


class _Rehearsal(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.probes: list[_DtypeProbe] = []

    def find_class(self, module: str, name: str) -> Any:
        return Stand(self._probe) if (module, name) == ("numpy", "dtype") else Inert

    def _probe(self, *arguments: Any) -> _DtypeProbe:
        self.probes.append(_DtypeProbe(*arguments))
        return self.probes[-1]

    def persistent_load(self, pid: Any) -> Any:
        return Inert()


def rehearse(data: bytes) -> None:
    """Walk a pickle, building nothing, to see that the numpy types in it are possible ones."""
    rehearsal = _Rehearsal(io.BytesIO(data))
    rehearsal.load()
    for probe in rehearsal.probes:  # once more: a pickle may change the parts of a type after it has set them
        probe.verify()


# --------------------------------------------------------------------------------------------------- the list

UNTYPED = object()  # stands for the class of storages that know no type; calling it would allocate

DTYPES: dict[str, torch.dtype] = {
    # A storage's class only tells the type of its elements
    f"torch.{name}": getattr(torch, name)._dtype
    for name in dir(torch)
    if name.endswith("Storage") and isinstance(getattr(getattr(torch, name), "_dtype", None), torch.dtype)
}

_VALUES: dict[str, Any] = {
    **DTYPES,
    "torch.storage.UntypedStorage": UNTYPED,
    "torch.UntypedStorage": UNTYPED,
    "numpy.ndarray": _ARRAY,
    **{
        f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, (torch.dtype, torch.qscheme))
    },
}

_CALLABLES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "_codecs.encode": _encode,
    "flambe_save.state.State": State,
    "flambe.compile.serialization.State": State,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_qtensor": _rebuild_qtensor,
    "torch._utils._rebuild_sparse_tensor": _rebuild_sparse_tensor,
    "torch._utils._rebuild_meta_tensor_no_storage": _rebuild_meta_tensor,
    "torch.serialization._get_layout": _layout,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    **{f"datetime.{kind.__name__}": kind for kind in ATOMS if kind.__module__ == "datetime"},
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("pathlib", "pathlib._local")
        for kind in ATOMS
        if kind.__module__.startswith("pathlib")
    },
    "numpy.dtype": _numpy_dtype,
    **{f"numpy.{core}.multiarray._reconstruct": _numpy_reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _numpy_scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _numpy_frombuffer for core in ("core", "_core")},
}

_GLOBALS: dict[str, Any] = {**_VALUES, **{name: Stand(make) for name, make in _CALLABLES.items()}}


def data_global(dotted: str) -> Any:
    """Return the stand-in for a global that counts as data, by its dotted name, or None."""
    return _GLOBALS.get(dotted)
