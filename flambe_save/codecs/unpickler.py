"""DataUnpickler: an unpickler that finds only what is data (data.py), or what the caller trusts.

What torch's own pickles name is replaced by stand-ins that check sizes before they build anything; the list of names
started from the one of torch's ``weights_only``.
"""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch

from flambe_save.codecs.data import ATOMS
from flambe_save.errors import CorruptSaveError, FlambeSaveError
from flambe_save.state import State
from flambe_save.trust import Trust

__all__ = ["DataUnpickler", "Storage", "data_global", "globals_of"]


class Storage(NamedTuple):
    """A run of bytes and the type of its elements: what a tensor of a save is a view of."""

    untyped: torch.UntypedStorage
    dtype: torch.dtype


# Protocols 0 to 2 write the names that Python 2 had
_PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class DataUnpickler(pickle.Unpickler):
    """An unpickler that finds only what is listed in this module, or what the caller trusts.

    Parameters
    ----------
    data : bytes
        A buffer that begins with a pickle.
    trust : Trust
    storage_of : callable, optional
        Turns a persistent id into a :class:`Storage`.
    nested : callable, optional
        Reads the bytes of a torch file that a pickle holds inside itself.
    arguments : mapping, optional
        Further arguments of :class:`pickle.Unpickler`.
    node, file : str, optional
        For messages.
    """

    def __init__(
        self,
        stream: io.BytesIO,
        trust: Trust,
        *,
        storage_of: Callable[[Any], Storage] | None = None,
        nested: Callable[[bytes], Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
        node: str | None = None,
        file: str | None = None,
    ) -> None:
        super().__init__(stream, **{"encoding": "utf-8", **(arguments or {})})
        self._stream = stream
        self._start = stream.tell()
        self._trust = trust
        self._storage_of = storage_of
        self._nested = nested
        self._node = node
        self._file = file

    def read(self) -> Any:
        """Unpickle one object.

        Raises
        ------
        UntrustedError
            If the pickle names anything that is neither data nor trusted; all of it is listed.
        CorruptSaveError
            If it is no intact pickle.
        """
        try:
            return self.load()
        except FlambeSaveError:
            raise
        except MemoryError:
            raise
        except Exception as error:
            raise CorruptSaveError(
                f"the pickle cannot be read: {type(error).__name__}: {str(error)[:200]}",
                node=self._node,
                file=self._file,
            ) from error

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a listed global; import one that is trusted; refuse any other."""
        module = _PYTHON_2_MODULES.get(module, module)
        dotted = f"{module}.{name}"
        if dotted == "torch.storage._load_from_bytes" and self._nested is not None:
            return self._nested
        found = data_global(dotted)
        if found is not None:
            return found
        if not self._trust.allows(dotted):
            self._refuse(dotted)
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that a torch file keeps beside its pickle."""
        if self._storage_of is None:
            raise pickle.UnpicklingError("a persistent id where there is no storage")
        return self._storage_of(pid)

    def _refuse(self, dotted: str) -> None:
        data = self._stream.getvalue()[self._start :]
        names = [dotted, *(name for name in globals_of(data) if data_global(name) is None)]
        names = [name for name in names if name != "torch.storage._load_from_bytes"]
        self._trust.check_globals(names, node=self._node, file=self._file)


def globals_of(data: bytes) -> Iterator[str]:
    """Yield the dotted names that a pickle would import, from its opcodes alone; it is not executed."""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                yield f"{_PYTHON_2_MODULES.get(module, module)}.{name}"
            elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                yield ".".join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)
    except ValueError:
        return  # a broken pickle names no more


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise pickle.UnpicklingError(message)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(item) is int and item >= 0 for item in value)


def _check_view(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any) -> None:
    """Refuse a view that reaches outside its storage; torch would make the storage larger."""
    _check(isinstance(storage, Storage) and isinstance(dtype, torch.dtype), "a tensor without a storage")
    _check(type(offset) is int and offset >= 0, "a tensor with a bad offset")
    _check(_is_shape(size) and _is_shape(stride) and len(size) == len(stride), "a tensor with a bad shape")
    if 0 not in size:
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        _check((last + 1) * dtype.itemsize <= storage.untyped.nbytes(), "a tensor reaches past its storage")


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
    _check(not hooks, "a tensor with hooks")
    _check(not metadata, "a tensor with metadata")
    tensor = torch.empty(0, dtype=dtype, device=storage.untyped.device)
    tensor.set_(storage.untyped, offset, size, stride)
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
    _check(isinstance(data, torch.Tensor) and not hooks, "a parameter that is no tensor")
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
    _check(not hooks and isinstance(quantizer, tuple), "a quantized tensor with hooks")
    torch_storage: Any = torch.storage.TypedStorage
    rebuild: Any = torch._utils._rebuild_qtensor
    typed = torch_storage(wrap_storage=storage.untyped, dtype=storage.dtype, _internal=True)
    return cast(torch.Tensor, rebuild(typed, offset, size, stride, quantizer, requires_grad, hooks))


def _rebuild_sparse_tensor(layout: Any, data: Any) -> torch.Tensor:
    _check(isinstance(data, tuple), "a sparse tensor without parts")
    if layout == torch.sparse_coo:
        indices, values, size, *coalesced = data
        return torch.sparse_coo_tensor(
            indices, values, size, check_invariants=True, is_coalesced=coalesced[0] if coalesced else None
        )
    _check(
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
    _check(isinstance(text, str) and encoding == "latin1", "an encoding that is not latin1")
    return text.encode("latin1")


def _bytearray(data: Any = b"", encoding: str = "latin1") -> bytearray:
    # bytearray(n) would allocate n bytes that the save does not hold
    return bytearray(data if isinstance(data, bytes) else _encode(data, encoding))


def _load_type(name: str) -> type:
    """Stand in for ``dill._dill._load_type``, by which dill wrote the set in Flambe's own saves."""
    _check(name == "set", f"dill names the type {str(name)[:80]!r}")
    return set


def _layout(name: str) -> torch.layout:
    found = getattr(torch, str(name).removeprefix("torch."), None)
    _check(isinstance(found, torch.layout), "an unknown layout")
    return found  # type: ignore[return-value]


def _numpy_reconstruct(kind: Any, shape: Any, code: Any) -> Any:
    import numpy

    _check(kind is numpy.ndarray and shape == (0,), "an array of an unknown kind")
    return numpy.ndarray((0,), "b")


def _numpy_dtype(*arguments: Any) -> Any:
    import numpy

    made = numpy.dtype(*arguments)
    _check(not made.hasobject, "an array of objects")
    return made


_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": collections.Counter,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "builtins.bytearray": _bytearray,
    "_codecs.encode": _encode,
    "dill._dill._load_type": _load_type,
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
    "torch.storage.UntypedStorage": torch.uint8,
    "torch.UntypedStorage": torch.uint8,
    **{f"datetime.{kind.__name__}": kind for kind in ATOMS if kind.__module__ == "datetime"},
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("pathlib", "pathlib._local")
        for kind in ATOMS
        if kind.__module__.startswith("pathlib")
    },
    **{
        f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, (torch.dtype, torch.qscheme))
    },
    # A storage's class only tells the type of its elements
    **{
        f"torch.{name}": getattr(torch, name)._dtype
        for name in dir(torch)
        if name.endswith("Storage") and isinstance(getattr(getattr(torch, name), "_dtype", None), torch.dtype)
    },
}
_NUMPY: dict[str, str | Callable[..., Any]] = {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray._reconstruct": _numpy_reconstruct,
    "numpy._core.multiarray._reconstruct": _numpy_reconstruct,
    "numpy.core.multiarray.scalar": "scalar",
    "numpy._core.multiarray.scalar": "scalar",
}


def data_global(dotted: str) -> Any:
    """Return the stand-in for a global that counts as data, by its dotted name, or None."""
    found = _GLOBALS.get(dotted)
    if found is None and dotted in _NUMPY:
        entry = _NUMPY[dotted]
        if not isinstance(entry, str):
            return entry
        import numpy

        return numpy.ndarray if entry == "ndarray" else numpy.float32(0).__reduce__()[0]  # multiarray.scalar
    return found
