"""Outlines: what a file of named values holds, told without reading its tensors; each is read when it is asked for."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from flambe_save.codecs.data import ATOMS
from flambe_save.codecs.options import LoadOptions
from flambe_save.codecs.records import Records
from flambe_save.codecs.sources import Source
from flambe_save.codecs.torch import TorchCodec, is_zip, read_zip
from flambe_save.codecs.unpickler import Inert
from flambe_save.errors import CorruptSaveError

__all__ = ["HeldOutline", "Outline", "TensorInfo", "type_name"]

_CODEC = TorchCodec()
_STEP = 1 << 20  # bytes


class TensorInfo(NamedTuple):
    """What is known of a tensor that was not read.

    Attributes
    ----------
    dtype : str
        Without ``torch.``: ``"float32"``.
    shape : tuple of int
    bytes : int or None
        Of its elements; None where they do not say, as of a sparse tensor.
    device : str or None
        Where it was when it was saved; None where the save does not tell.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: int | None
    device: str | None

    @classmethod
    def of(cls, tensor: torch.Tensor, device: str | None) -> TensorInfo:
        """Return the facts of a tensor."""
        is_dense = not tensor.is_nested and tensor.layout == torch.strided
        return cls(
            str(tensor.dtype).removeprefix("torch."),
            () if tensor.is_nested else tuple(tensor.shape),
            tensor.numel() * tensor.element_size() if is_dense else None,
            device,
        )

    @property
    def elements(self) -> int:
        """How many elements it has."""
        count = 1
        for length in self.shape:
            count *= length
        return count


def type_name(value: Any) -> str:
    """Return the dotted name of a value's type, or, of a stand-in, of what it stands for."""
    if isinstance(value, Inert):
        return value.stands_for or "unknown"
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class HeldOutline:
    """The outline of values that are in memory.

    Parameters
    ----------
    values : mapping
        Read under an audit; stand-ins are where only a trusting read makes something.
    locations : mapping
        Where storages were when they were saved, by their addresses.
    again : callable
        Returns the values as the caller trusts them.

    Attributes
    ----------
    tensors : dict of str to TensorInfo
    values : dict of str to object
        What is no tensor.
    needs_trust : list of str
        What in it only a trusting read makes.
    digest : str or None
        SHA-256 of the file that holds all of it, where there is such a file.
    """

    needs_trust: Sequence[str] = ()

    def __init__(
        self, values: Mapping[str, Any], locations: Mapping[int, str], again: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._all = values
        self._again = functools.cache(again)
        self.tensors: dict[str, TensorInfo] = {}
        self.values: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                self.tensors[name] = TensorInfo.of(value, locations.get(_memory(value)))
            else:
                self.values[name] = value

    @property
    def digest(self) -> str | None:
        return None

    def read(self, name: str) -> Any:
        """Return a value.

        Raises
        ------
        UntrustedError
            If only a trusting read makes it.
        """
        value = self._all[name]
        return value if isinstance(value, torch.Tensor) or type(value) in ATOMS else self._again()[name]

    def pieces(self, name: str, most: int) -> Iterator[torch.Tensor]:
        """Yield a tensor's elements in their order, as flat tensors of ``most`` of them."""
        return _split(self.read(name), most)


class Outline(HeldOutline):
    """The outline of a ``.pt`` file, of whose tensors none is in memory.

    Parameters
    ----------
    source : Source
        Stays open as long as values are read.
    options : LoadOptions
        The trust and the device of :meth:`read`; whether a tensor's checksum is compared.

    Raises
    ------
    CorruptSaveError
        If the file is damaged, or holds no mapping of names.
    """

    def __init__(self, source: Source, options: LoadOptions) -> None:
        audit = replace(options, trust=options.trust.audit(), map_location=None)
        self._source = source
        self._options = options
        self._records: Records | None = None
        self._places: dict[int, tuple[str, torch.UntypedStorage]] = {}  # memory -> its record and itself, kept alive
        locations: dict[int, str] = {}
        if is_zip(source):
            self._records = Records(source, audit)

            def storage(key: str, location: str, size: int) -> torch.UntypedStorage:
                made = torch.UntypedStorage(size, device="meta")  # type: ignore[no-untyped-call]
                self._places[made._cdata] = key, made
                locations[made._cdata] = location
                return made

            values = read_zip(self._records, audit, storage)
        else:
            values = _CODEC.load(source, replace(audit, map_location="meta"))
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise CorruptSaveError("the state is no mapping of keys to values", node=options.node, file=options.file)
        self.needs_trust = [finding.what for finding in audit.trust.findings or ()]
        super().__init__(values, locations, lambda: _CODEC.load(source, options))

    @property
    def digest(self) -> str | None:
        digest = hashlib.sha256()
        for start in range(0, self._source.size, _STEP):
            digest.update(self._source.piece(start, min(start + _STEP, self._source.size)))
        return digest.hexdigest()

    def read(self, name: str) -> Any:
        place = self._place(name)
        if place is None:
            value = self._all[name]
            return value if type(value) in ATOMS else self._again()[name]
        start, stop = place
        tensor: torch.Tensor = self._all[name]
        memory = self._source.storage(start, stop)
        return torch.empty(0, dtype=tensor.dtype).set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())

    def pieces(self, name: str, most: int) -> Iterator[torch.Tensor]:
        place = self._place(name)
        tensor = self._all[name]
        if place is None or not tensor.is_contiguous():
            yield from _split(self.read(name), most)
            return
        width = tensor.element_size()
        start = place[0] + tensor.storage_offset() * width
        stop = start + tensor.numel() * width
        for here in range(start, stop, most * width):
            piece = self._source.piece(here, min(here + most * width, stop))
            raw = torch.frombuffer(piece, dtype=torch.uint8)
            yield (raw if raw.data_ptr() % width == 0 else raw.clone()).view(tensor.dtype)

    def _place(self, name: str) -> tuple[int, int] | None:
        """Return where in the file a tensor's memory is; None where only reading all of the file tells."""
        tensor = self._all[name]
        is_plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
        if not is_plain or tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg():
            return None
        found = self._places.get(_memory(tensor))
        if found is None or self._records is None:
            return None
        start, size = self._records.place(f"data/{found[0]}")
        if size != found[1].nbytes():
            raise self._records.damaged(f"storage {found[0]} holds {size} bytes, not {found[1].nbytes()}")
        if self._options.is_verified:
            self._records.check(f"data/{found[0]}")
        return start, start + size


def _memory(tensor: torch.Tensor) -> int:
    """Return what tells a tensor's memory from any other's; 0 where it has no such memory."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return 0
    return int(tensor.untyped_storage()._cdata)


def _split(tensor: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    flat = tensor.reshape(-1)
    for start in range(0, len(flat), most):
        yield flat[start : start + most]
