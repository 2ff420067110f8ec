"""Plain states: an OrderedDict of names to dense tensors, recognised without unpickling.

That is what nearly every ``state.pt`` holds. codecs/dense.py writes an ordinary pickle, which torch and any other
reader of pickles understands; :func:`load_plain` recognises its exact form, and nothing else, so it needs no trust and
can describe nothing but tensors. What is not plain goes through codecs/unpickler.py. :class:`DenseFile` looks into such
a file without torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from flambe_save.errors import quote
from flambe_save.pt.opcodes import is_empty_dict
from flambe_save.pt.options import LoadOptions
from flambe_save.pt.sources import HeldSource
from flambe_save.pt.tensor_info import TensorInfo
from flambe_save.pt.zip_reader import Records, is_zip

if TYPE_CHECKING:
    from flambe_save.pt.elements import Array

__all__ = ["DenseFile", "PlainState", "PlainTensor", "load_plain"]


class PlainTensor(NamedTuple):
    """A tensor of a plain state, as its pickle describes it.

    Attributes
    ----------
    dtype : str
        Without ``torch.``: ``"float32"``.
    storage : str
        The name of the record that holds its bytes, which are all its own.
    location : str
        The device that it was on.
    shape, stride : tuple of int
    """

    dtype: str
    storage: str
    location: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def fits(self) -> bool:
        """Whether it stays within a storage that has as many elements as it."""
        count = math.prod(self.shape)
        return not count or sum([(size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)]) < count


class PlainState(NamedTuple):
    """A plain state without its tensors' bytes.

    Attributes
    ----------
    tensors : dict of str to PlainTensor
    metadata : bytes or None
        The pickle of its ``_metadata``.
    """

    tensors: dict[str, PlainTensor]
    metadata: bytes | None


# The classes of storages by which torch names the types of their elements
TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
ITEM_SIZES = {
    **dict.fromkeys(("int8", "uint8", "bool"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    **dict.fromkeys(("float32", "int32"), 4),
    **dict.fromkeys(("float64", "int64", "complex64"), 8),
    "complex128": 16,
}

# What every tensor's pickle repeats is written once and called by its number in the pickle's memo then
REBUILD, STORAGE, ORDERED = 0, 1, 2
FIRST = {
    REBUILD: b"ctorch._utils\n_rebuild_tensor_v2\nq\0",
    STORAGE: b"X\7\0\0\0storageq\1",
    ORDERED: b"ccollections\nOrderedDict\nq\2",
}
NEXT_FREE = 3
_BEGIN = re.compile(rb"\x80[\x02-\x05]ccollections\nOrderedDict\nq\x02\)R(\(?)")
END_OF_STATE = b"."
METADATA = b"}X\x09\0\0\0_metadata"
END_OF_METADATA = b"sb."

_INT = rb"(?:K.|M..|J....|\x8a(?:\x05.{5}|\x06.{6}|\x07.{7}|\x08.{8}))"
_TUPLE_OF_INTS = rb"(?:\)|%(i)s\x85|%(i)s{2}\x86|%(i)s{3}\x87|\(%(i)s{4,64}t)" % {b"i": _INT}
_TENSOR = re.compile(
    rb"(?:ctorch\._utils\n_rebuild_tensor_v2\nq\x00|h\x00)\(\("
    rb"(?:X\x07\0\0\0storageq\x01|h\x01)"
    rb"(?:ctorch\n([A-Za-z0-9]{1,30}Storage)\nq(.)|h(.))"
    rb"X(.)\0\0\0([0-9]{1,9})"
    rb"(?:X(.)\0\0\0([a-z0-9:]{1,50})q(.)|h(.))"
    rb"(%(i)s)tQK\x00(%(t)s)(%(t)s)\x89h\x02\)RtR" % {b"i": _INT, b"t": _TUPLE_OF_INTS},
    re.DOTALL,
)
_NUMBER = re.compile(_INT, re.DOTALL)


def load_plain(data: bytes) -> PlainState | None:
    """Return the state that a pickle of ``dump_plain`` describes, or None for any other pickle.

    Its inverse, but for the bytes.
    """
    found = _BEGIN.match(data)
    if found is None:
        return None
    here, tensors = found.end(), {}
    memo: dict[bytes, Any] = {}
    shapes: dict[bytes, tuple[int, ...]] = {}
    if found[1]:
        while data[here : here + 1] == b"X":
            start = here + 5
            here = start + int.from_bytes(data[here + 1 : start], "little")
            found = _TENSOR.match(data, here)
            if found is None:
                return None
            name, new, old, length, storage, place_length, place, new_place, old_place, count, shape, stride = (
                found.groups()
            )
            if name is not None:
                memo[new] = TYPES.get(name.decode())
            if place is not None:
                memo[new_place] = place.decode()
            dtype, location = memo.get(new or old), memo.get(new_place or old_place)
            is_whole = len(storage) == length[0] and (place is None or len(place) == place_length[0])
            if not (is_whole and isinstance(dtype, str) and isinstance(location, str)):
                return None
            sizes, steps = (shapes.get(raw) or shapes.setdefault(raw, _numbers(raw)) for raw in (shape, stride))
            if len(sizes) != len(steps) or math.prod(sizes) != _number(count):
                return None
            try:
                key = data[start : found.start()].decode("utf-8", "surrogatepass")
            except UnicodeDecodeError:
                return None
            tensors[key] = PlainTensor(dtype, storage.decode(), location, sizes, steps)
            here = found.end()
        if data[here : here + 1] != b"u":
            return None
        here += 1
    if data[here:] == END_OF_STATE:
        return PlainState(tensors, None)
    if not (data.startswith(METADATA, here) and data.endswith(END_OF_METADATA)):
        return None
    return PlainState(tensors, b"\x80\2" + data[here + len(METADATA) : -len(END_OF_METADATA)] + b".")


class DenseFile:
    """A ``.pt`` file that holds dense tensors and nothing else.

    Parameters
    ----------
    source : HeldSource
    records : Records
        Those of the source.
    tensors : dict of str to PlainTensor
    is_verified : bool
        Whether checksums are compared before elements are shown.

    Attributes
    ----------
    tensors : dict of str to TensorInfo
    """

    def __init__(
        self, source: HeldSource, records: Records, tensors: dict[str, PlainTensor], *, is_verified: bool
    ) -> None:
        self._source, self._records, self._plain = source, records, tensors
        self._unchecked = {item.storage for item in tensors.values()} if is_verified else set()
        self.tensors = {
            key: TensorInfo(item.dtype, item.shape, math.prod(item.shape) * ITEM_SIZES[item.dtype], item.location)
            for key, item in tensors.items()
        }

    @classmethod
    def of(cls, source: HeldSource, options: LoadOptions) -> DenseFile | None:
        """Return a file of dense tensors, or None if the source holds anything else.

        Raises
        ------
        CorruptSaveError
            If it is damaged.
        """
        records = Records(source, options) if is_zip(source) else None
        if records is None or "data.pkl" not in records:
            return None
        data = records.read("data.pkl")
        plain = load_plain(data)
        if plain is None and not is_empty_dict(data):
            return None
        if "byteorder" in records and records.read("byteorder") != b"little":
            return None  # codecs/ says what is wrong with it
        tensors = plain.tensors if plain is not None else {}
        return cls(source, records, tensors, is_verified=options.is_verified)

    def elements(self, name: str, most: int) -> Iterator[Array]:
        """Yield flat arrays of up to ``most`` elements, in order; they may share the file's memory.

        Raises
        ------
        CorruptSaveError
            If they are damaged.
        """
        from flambe_save.pt.elements import elements_of  # which needs numpy

        tensor, size = self._plain[name], self.tensors[name].bytes
        record = f"data/{tensor.storage}"
        start, length = self._records.place(record)
        if length != size or not tensor.fits:
            raise self._records.damaged(f"{quote(name)} reaches past its storage")
        if tensor.storage in self._unchecked:
            self._records.check(record)
            self._unchecked.discard(tensor.storage)
        return elements_of(self._source.piece(start, start + length), tensor.dtype, tensor.shape, tensor.stride, most)


def _number(raw: bytes) -> int:
    # Only the number that needs eight bytes and more could be negative, and no tensor is as large
    return int.from_bytes(raw[2:] if raw[:1] == b"\x8a" else raw[1:], "little")


def _numbers(raw: bytes) -> tuple[int, ...]:
    if raw == b")":
        return ()
    return tuple(_number(item) for item in _NUMBER.findall(raw, 1 if raw[:1] == b"(" else 0, len(raw) - 1))
