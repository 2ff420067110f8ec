"""Files of tensors alone: safetensors (read and written) and .npy (written), both by hand.

A safetensors file is the length of a JSON text as 8 bytes, the text, and the tensors one after the other; the text has
for each name ``dtype``, ``shape`` and ``data_offsets``, and under ``__metadata__`` texts by names. Its specification is
that of https://github.com/huggingface/safetensors, that of .npy numpy's ``lib.format``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from flambe_save.codecs.storages import storage_of
from flambe_save.errors import CorruptSaveError, SaveError, UnsupportedObjectError, quote
from flambe_save.pt import Draft, Source
from flambe_save.pt.sources import memory_of
from flambe_save.support.checksum import crc32
from flambe_save.support.notes import marks_of

METADATA = "__metadata__"
FORMAT = {"format": "pt"}  # metadata that other libraries ask for
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# numpy's names: byte order, kind, bytes; it has no bfloat16 and no floats of 8 bits
_NPY = {
    dtype: f"{'<' if dtype.itemsize > 1 else '|'}{name[0].lower()}{dtype.itemsize}"
    for name, dtype in {**DTYPES, "C128": torch.complex128}.items()
    if not name.startswith(("BF", "F8"))
}
_LONGEST = 100_000_000  # bytes of the JSON text, as its library has it
_MOST_SIZES = 64  # dimensions; torch has no more
_LARGEST = 1 << 62
_STEP = 1 << 24  # bytes whose checksum is taken at once

Table = dict[str, dict[str, Any]]


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether values, type and shape are all of a tensor: it is dense, and of torch's own class."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_nested or tensor.is_meta or tensor.is_quantized or marks_of(tensor))
    )


def _laid_out(tensor: torch.Tensor) -> torch.Tensor:
    """Return a contiguous tensor in CPU memory: the tensor itself, if it is one."""
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()


def _contents(held: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor from :func:`_laid_out`, which has to outlive them."""
    size = held.numel() * held.element_size()
    start = held.storage_offset() * held.element_size()
    return memory_of(held.untyped_storage())[start : start + size] if size else memoryview(b"")


# ------------------------------------------------------------------------------------------------ writing


class _TensorDraft(Draft):
    """A beginning and the elements of tensors, which are read when they are written."""

    def __init__(self, begin: bytes, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__(begin)
        self._tensors = tensors
        self.size += sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def chunks(self) -> Iterator[tuple[bytes | bytearray | memoryview, int]]:
        yield from super().chunks()
        for tensor in self._tensors:
            held = _laid_out(tensor)  # lives as long as its memory is read
            data = _contents(held)
            for start in range(0, len(data), _STEP):
                piece = data[start : start + _STEP]
                yield piece, crc32(piece)


def table_of(tensors: Mapping[str, torch.Tensor]) -> Table:
    """Return a file's entries for its tensors, in the order of the data: widest elements first.

    Raises
    ------
    UnsupportedObjectError
        If there is a type that safetensors has not.
    """
    table: Table = {}
    end = 0
    for name in sorted(tensors, key=lambda name: -tensors[name].element_size()):
        tensor = tensors[name]
        if tensor.dtype not in _NAMES or not is_plain(tensor):
            raise UnsupportedObjectError(
                f"{quote(name)} is a tensor of {tensor.dtype} and {tensor.layout}, which safetensors has not",
                fix="Keep it in a save: a folder, a .tar.gz or a .pkl.",
            )
        start, end = end, end + tensor.numel() * tensor.element_size()
        table[name] = {"dtype": _NAMES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [start, end]}
    return table


def safetensors_draft(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Draft:
    """Draft a safetensors file.

    Raises
    ------
    UnsupportedObjectError
        As :func:`table_of`.
    SaveError
        If there are more names and metadata than such a file holds.
    """
    table = table_of(tensors)
    header = json.dumps({METADATA: dict(metadata), **table}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the elements lie at multiples of their size
    if len(header) > _LONGEST:
        raise SaveError(
            f"the names and all but the tensors take {len(header):,} bytes, and safetensors has {_LONGEST:,} for it",
            fix="Convert it to a folder, a .tar.gz or a .pkl.",
        )
    return _TensorDraft(len(header).to_bytes(8, "little") + header, [tensors[name] for name in table])


def npy_draft(tensor: torch.Tensor) -> Draft:
    """Draft a .npy file of one tensor.

    Raises
    ------
    UnsupportedObjectError
        If numpy has no such type.
    """
    if tensor.dtype not in _NPY or not is_plain(tensor):
        raise UnsupportedObjectError(
            f"numpy has no arrays of {tensor.dtype} and {tensor.layout}",
            fix="Name an output that ends in .safetensors."
            if tensor.dtype in _NAMES and is_plain(tensor)
            else "Load it, and convert it by hand.",
        )
    facts = {"descr": _NPY[tensor.dtype], "fortran_order": False, "shape": tuple(tensor.shape)}
    text = repr(facts).encode()
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return _TensorDraft(b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text, [tensor])


# ------------------------------------------------------------------------------------------------ reading


def is_tensor_file(start: bytes, size: int, path: str) -> bool:
    """Whether a file is safetensors, by its first 9 bytes, its size and its name."""
    return path.endswith(".safetensors") or (
        start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= min(size - 8, _LONGEST)
    )


class TensorFile:
    """A safetensors file; its header is checked before anything is read.

    Parameters
    ----------
    source : Source
    where : str
        The path, for messages.

    Attributes
    ----------
    table : dict
        Name -> ``dtype``, ``shape`` and ``data_offsets``.
    metadata : dict of str to str

    Raises
    ------
    CorruptSaveError
        If the header is damaged, or does not describe the file from its begin to its end.
    """

    def __init__(self, source: Source, where: str) -> None:
        self._source = source
        self._where = where
        length = int.from_bytes(source.piece(0, min(8, source.size)), "little")
        if source.size < 8 or length > min(source.size - 8, _LONGEST):
            raise self.damaged(f"its header is to have {length:,} bytes, and it has {source.size:,} in all")
        self._begin = 8 + length
        try:
            header = json.loads(bytes(source.piece(8, self._begin)).decode(), object_pairs_hook=_without_doubles)
            if not isinstance(header, dict):
                raise ValueError("it is not a mapping")
            self.metadata: dict[str, str] = header.pop(METADATA, {})
            texts = self.metadata.items() if isinstance(self.metadata, dict) else [(0, 0)]
            if not all(isinstance(text, str) for item in texts for text in item):
                raise ValueError(f"{METADATA} does not map texts to texts")
            self.table: Table = header
            self._check_table()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self.damaged(f"its header cannot be read: {str(error)[:200]}") from error

    def _check_table(self) -> None:
        here = 0
        for name, entry in sorted(self.table.items(), key=lambda item: item[1]["data_offsets"]):
            shape, offsets = entry["shape"], entry["data_offsets"]
            numbers = [*shape, *offsets]
            is_list = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
            are_numbers = all(type(number) is int and 0 <= number < _LARGEST for number in numbers)
            if not (is_list and are_numbers) or len(shape) > _MOST_SIZES:
                raise ValueError(f"{quote(name)} has no shape and place")
            if entry["dtype"] not in DTYPES:
                raise ValueError(f"{quote(name)} is of the type {quote(entry['dtype'])}, which is not known here")
            if math.prod(max(length, 1) for length in shape) > _LARGEST:  # torch counts strides of empty ones too
                raise ValueError(f"{quote(name)} has a shape that is too large")
            size = math.prod(shape) * DTYPES[entry["dtype"]].itemsize
            if offsets[0] != here or offsets[1] - here != size:
                raise ValueError(f"{quote(name)} does not lie where its size and those before it say")
            here = offsets[1]
        if here != self._source.size - self._begin:
            raise ValueError(f"the tensors have {here:,} bytes, and the file {self._source.size - self._begin:,}")

    def damaged(self, what: str) -> CorruptSaveError:
        """Return the error for this file."""
        return CorruptSaveError(
            f"this safetensors file is damaged: {what}", file=self._where, fix="Get it again from where it came."
        )

    def checksum(self) -> int:
        """Return the CRC-32 of all elements."""
        return self._source.checksum(self._begin, self._source.size)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors, in the order of the header; they may share memory with the file."""
        found = {}
        for name, entry in self.table.items():
            dtype = DTYPES[entry["dtype"]]
            start, stop = (self._begin + offset for offset in entry["data_offsets"])
            storage = storage_of(self._source, start, stop)
            if storage.data_ptr() % dtype.itemsize:
                storage = storage.clone()  # type: ignore[no-untyped-call]
            found[name] = torch.empty(0, dtype=dtype).set_(storage, 0, entry["shape"], strides(entry["shape"]))
        return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name comes twice")
    return made


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= max(size, 1)
    return tuple(reversed(steps))


def checksum_of(tensors: Mapping[str, torch.Tensor], table: Table) -> int:
    """Return the CRC-32 of all elements as a file stores them, as :meth:`TensorFile.checksum`."""
    total = 0
    for name in table:
        held = _laid_out(tensors[name])
        total = crc32(_contents(held), total)
    return total
