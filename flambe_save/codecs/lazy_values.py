"""LazyValues and LazyFile: the named values of a file, with tensors that are read on access."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from flambe_save.codecs.careful import Placeholder
from flambe_save.codecs.data import ATOMS
from flambe_save.codecs.numpy_types import check
from flambe_save.codecs.storages import storage_of
from flambe_save.codecs.torch import CODEC
from flambe_save.codecs.torch_reading import read_zip
from flambe_save.pt.options import LoadOptions
from flambe_save.pt.sources import MemorySource
from flambe_save.pt.tensor_info import TensorInfo
from flambe_save.pt.zip_reader import Records, is_zip

if TYPE_CHECKING:
    from flambe_save.pt.elements import Array

_CONTAINERS = (list, tuple, set, frozenset, dict, OrderedDict)
_DEEPEST = 100  # containers in containers


def type_name(value: Any) -> str:
    """The dotted name of a value's type; of a placeholder, the name that it stands for."""
    if isinstance(value, Placeholder):
        return value.stands_for or "unknown"
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class LazyValues:
    """Named values of a save, read without trust: placeholders replace those that are not data.

    Parameters
    ----------
    values : mapping
        Tensors may share memory with a file.
    locations : mapping of int to str
        The devices that storages were saved from, by :func:`_memory`.
    needs_trust : sequence of str
        The things in them that only a trusting read makes.
    again : callable
        Returns the values, read with the caller's trust.

    Attributes
    ----------
    tensors : dict of str to TensorInfo
    values : dict of str to object
        All others.
    needs_trust : sequence of str
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        locations: Mapping[int, str],
        needs_trust: Sequence[str],
        again: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._all = values
        self._again = functools.cache(again)
        self.needs_trust = needs_trust
        self.tensors: dict[str, TensorInfo] = {}
        self.values: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                self.tensors[name] = TensorInfo.of(value, locations.get(_memory(value), _device_of(value)))
            else:
                self.values[name] = value

    def read(self, name: str) -> Any:
        """A copy of a value, with memory of its own.

        Raises
        ------
        UntrustedError
            If only a trusting read makes it.
        CorruptSaveError
            If it is damaged.
        """
        value = self._all[name]
        if isinstance(value, torch.Tensor):
            self._check(value)
            return _copy(value)
        return copy.deepcopy(value) if _is_plain(value) else self._again()[name]

    def pieces(self, name: str, most: int) -> Iterator[torch.Tensor]:
        """Yield a tensor's elements, in flat tensors of ``most``, which may share its memory.

        Raises
        ------
        CorruptSaveError
            If it is damaged.
        """
        tensor = self._all[name]
        if not isinstance(tensor, torch.Tensor):  # of a class that only a trusting read makes
            tensor = self.read(name)
        tensor = tensor.detach()
        self._check(tensor)
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        return _cut(tensor.resolve_conj().resolve_neg(), most)

    def elements(self, name: str, most: int) -> Iterator[Array]:
        """Yield a tensor's pieces as numpy arrays.

        Raises
        ------
        CorruptSaveError
            If it is damaged.
        NotImplementedError
            If numpy has no type for the numbers.
        """
        from flambe_save.pt.elements import decode  # needs numpy

        for piece in self.pieces(name, most):
            # For torch, one element is contiguous with any step, but a view as bytes needs the step 1
            bits = piece.contiguous().as_strided(piece.shape, (1,)).view(torch.uint8).numpy()
            yield decode(bits, str(piece.dtype).removeprefix("torch."))

    def _check(self, tensor: torch.Tensor) -> None:
        """Compare a tensor's memory with its checksum."""


class LazyFile(LazyValues):
    """The values of a ``.pt`` file, with tensors that share its memory.

    Parameters
    ----------
    source : MemorySource
        Shares its bytes with storages.
    options : LoadOptions
        For a trusting read, and whether checksums are compared.

    Raises
    ------
    CorruptSaveError
        If the file is damaged, or does not hold a mapping with texts as keys.
    """

    def __init__(self, source: MemorySource, options: LoadOptions) -> None:
        audit = replace(options, trust=options.trust.audit(), map_location="cpu", is_verified=False)
        self._source = source
        self._is_verified = options.is_verified
        self._records: Records | None = None
        self._kept: dict[str, torch.UntypedStorage] = {}
        self._names: dict[int, str] = {}
        self._checked: set[str] = set()
        locations: dict[int, str] = {}
        if is_zip(source):
            records = self._records = Records(source, options)

            def storage(key: str, location: str, size: int) -> torch.UntypedStorage:
                name = f"data/{key}"
                if name not in self._kept:
                    start, length = records.place(name)
                    check(length == size, f"storage {key} holds {length} bytes, not {size}")
                    self._kept[name] = storage_of(source, start, start + size)
                made = self._kept[name]
                self._names[made._cdata], locations[made._cdata] = name, location
                return made

            values = read_zip(records, audit, storage)
        else:
            values = CODEC.load(source, audit)
        if isinstance(values, Placeholder):  # only a trusting read shows what it holds
            values = CODEC.load(source, options)
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise options.corrupt("the state is not a mapping of keys to values")
        asks = [finding.what for finding in audit.trust.findings or ()]
        super().__init__(values, locations, asks, lambda: CODEC.load(source, options))

    def _check(self, tensor: torch.Tensor) -> None:
        if self._records is None or not self._is_verified:
            return
        name = self._names.get(_memory(tensor))
        for wanted in self._kept if name is None else (name,):  # any may be those of a sparse tensor
            if wanted not in self._checked:
                self._records.check(wanted)
                self._checked.add(wanted)


def _cut(tensor: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
    """Yield a tensor's elements in flat pieces of one length, copied if they are not contiguous."""
    if tensor.is_contiguous():
        flat = tensor.reshape(-1)
        for start in range(0, len(flat), most):
            yield flat[start : start + most]
        return
    rest: list[torch.Tensor] = []
    for slab in _slabs(tensor, most):
        rest.append(slab)
        while sum(map(len, rest)) >= most:
            joined = torch.cat(rest)
            yield joined[:most]
            rest = [joined[most:]]
    if sum(map(len, rest)):
        yield torch.cat(rest)


def _slabs(tensor: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
    """Yield a tensor's elements in flat parts of up to ``most``."""
    if tensor.numel() <= most:
        yield tensor.reshape(-1)
        return
    rows = max(1, most // tensor[0].numel())
    for start in range(0, len(tensor), rows):
        part = tensor[start : start + rows]
        yield from _slabs(part[0] if len(part) == 1 else part, most)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor or parameter, with memory of its own."""
    copied = tensor.detach().clone()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(copied, requires_grad=tensor.requires_grad)
    return copied.requires_grad_(tensor.requires_grad)


def _is_plain(value: Any) -> bool:
    """Whether a value has only texts, numbers and plain containers, not too deep to be copied."""
    seen: set[int] = set()
    level = [value]
    for _ in range(_DEEPEST):
        inside: list[Any] = []
        for item in level:
            if type(item) in ATOMS or id(item) in seen:
                continue
            if type(item) not in _CONTAINERS or getattr(item, "__dict__", None):
                return False
            seen.add(id(item))
            inside += [*item, *item.values()] if isinstance(item, dict) else item
        if not inside:
            return True
        level = inside
    return False


def _memory(tensor: torch.Tensor) -> int:
    """A number that identifies a tensor's storage; 0 for a layout without one."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return 0
    return int(tensor.untyped_storage()._cdata)


def _device_of(tensor: torch.Tensor) -> str | None:
    """The device of a tensor that was saved without memory; None for all others."""
    return str(tensor.device) if tensor.device.type == "meta" else None
