"""Plain states: an OrderedDict of names to dense tensors, pickled and unpickled without the pickle machine.

That is what nearly every ``state.pt`` holds. :func:`dump_plain` writes an ordinary pickle, which torch and any other
reader of pickles understands; :func:`load_plain` recognises its exact form, and nothing else, so it needs no trust and
can build nothing but tensors. What is not plain goes through unpickler.py.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.serialization import location_tag

from flambe_save.codecs.data import compact, fills_storage, tie_key, to_data
from flambe_save.support.notes import marks_of

__all__ = ["PlainState", "PlainTensor", "dump_plain", "load_plain"]


class PlainTensor(NamedTuple):
    """A tensor of a plain state, as its pickle describes it.

    Attributes
    ----------
    dtype : torch.dtype
    storage : str
        The name of the record that holds its bytes, which are all its own.
    location : str
        The device that it was on.
    shape, stride : tuple of int
    """

    dtype: torch.dtype
    storage: str
    location: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]


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


_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}

# What every tensor's pickle repeats is written once and called by its number in the pickle's memo then
_REBUILD, _STORAGE, _ORDERED = 0, 1, 2
_FIRST = {
    _REBUILD: b"ctorch._utils\n_rebuild_tensor_v2\nq\0",
    _STORAGE: b"X\7\0\0\0storageq\1",
    _ORDERED: b"ccollections\nOrderedDict\nq\2",
}
_NEXT_FREE = 3
_BEGIN = re.compile(rb"\x80[\x02-\x05]ccollections\nOrderedDict\nq\x02\)R(\(?)")
_END_OF_STATE = b"."
_METADATA = b"}X\x09\0\0\0_metadata"
_END_OF_METADATA = b"sb."

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


# ------------------------------------------------------------------------------------------------ writing


def dump_plain(values: Mapping[str, Any], protocol: int) -> tuple[bytes, list[torch.UntypedStorage]] | None:
    """Return the pickle of a plain state and the storages that it numbers, or None where it is not plain."""
    attributes = getattr(values, "__dict__", {})
    if type(values) is not OrderedDict or attributes.keys() > {"_metadata"}:
        return None
    pieces = [b"\x80", bytes((protocol,)), _FIRST[_ORDERED], b")R", b"(" if values else b""]
    storages: list[torch.UntypedStorage] = []
    parts: dict[Any, torch.Tensor] = {}  # of larger storages: a tensor of just those bytes, for each of them
    numbers: dict[int, int] = {}  # of storages
    types: list[torch.dtype] = []  # of the elements of each storage
    layouts: dict[Any, tuple[bytes, bytes]] = {}  # shapes and strides, pickled
    memo: dict[Any, bytes] = {}

    def recall(what: Any, first: bytes) -> bytes:
        known = memo.get(what)
        if known is None:
            number = bytes((_NEXT_FREE + len(memo),))
            known, memo[what] = first + b"q" + number, b"h" + number
        return known

    begin = _FIRST[_REBUILD] + b"((" + _FIRST[_STORAGE]
    for key, value in values.items():
        if type(value) is not torch.Tensor or type(key) is not str or not _is_plain(value):
            return None
        dtype, count = value.dtype, value.numel()
        whole = value.untyped_storage()
        if not fills_storage(value):
            view = tie_key(value) or len(parts)
            if view not in parts:
                parts[view] = compact(value)
            value = parts[view]
            whole = value.untyped_storage()
            if whole.nbytes() != count * value.element_size():
                return None  # it repeats what it holds
        number = numbers.setdefault(whole._cdata, len(storages))
        if number == len(storages):
            storages.append(whole)
            types.append(dtype)
        elif types[number] is not dtype:
            return None  # torch has an error for it
        name, place = _NAMES[dtype], location_tag(whole)
        layout = value.shape, value.stride()
        if layout not in layouts:
            layouts[layout] = _ints(layout[0]), _ints(layout[1])
        shape, stride = layouts[layout]
        pieces += (
            _text(key.encode("utf-8", "surrogatepass")),
            begin,
            recall(dtype, b"ctorch\n%s\n" % name.encode()),
            _text(b"%d" % number),
            recall(place, _text(place.encode())),
            _int(count),
            b"tQK\0",
            shape,
            stride,
            b"\x89h\2)RtR",
        )
        begin = b"h\0((h\1"
    if values:
        pieces.append(b"u")
    if "_metadata" in attributes:
        metadata, opaque = to_data(attributes["_metadata"])
        if opaque:
            return None
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, 2)
        pickler.fast = True  # without a memo, so that a reader sees that nothing in it is shared
        try:
            pickler.dump(metadata)
        except (ValueError, RecursionError):  # a mapping that holds itself
            return None
        # An object's pickle between its first two bytes, the protocol, and its last, the end, is a part of any other
        pieces += (_METADATA, buffer.getvalue()[2:-1], _END_OF_METADATA)
    else:
        pieces.append(_END_OF_STATE)
    return b"".join(pieces), storages


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        tensor.dtype in _NAMES
        and tensor.layout is torch.strided
        and not (tensor.is_meta or tensor.is_nested or tensor.requires_grad or tensor.is_conj() or tensor.is_neg())
        and not marks_of(tensor)
    )


def _text(raw: bytes) -> bytes:
    return b"X" + len(raw).to_bytes(4, "little") + raw


def _int(number: int) -> bytes:
    if number < 1 << 8:
        return b"K" + number.to_bytes(1, "little")
    if number < 1 << 16:
        return b"M" + number.to_bytes(2, "little")
    if number < 1 << 31:
        return b"J" + number.to_bytes(4, "little")
    size = number.bit_length() // 8 + 1
    return b"\x8a" + bytes((size,)) + number.to_bytes(size, "little")


_ENDS = {1: b"\x85", 2: b"\x86", 3: b"\x87"}


def _ints(numbers: tuple[int, ...]) -> bytes:
    if not numbers:
        return b")"
    body = b"".join(map(_int, numbers))
    return body + _ENDS[len(numbers)] if len(numbers) < 4 else b"(" + body + b"t"


# ------------------------------------------------------------------------------------------------ reading


def load_plain(data: bytes) -> PlainState | None:
    """Return what a pickle of :func:`dump_plain` describes, or None for any other. Its inverse, but for the bytes."""
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
                memo[new] = _TYPES.get(name.decode())
            if place is not None:
                memo[new_place] = place.decode()
            dtype, location = memo.get(new or old), memo.get(new_place or old_place)
            is_whole = len(storage) == length[0] and (place is None or len(place) == place_length[0])
            if not (is_whole and isinstance(dtype, torch.dtype) and isinstance(location, str)):
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
    if data[here:] == _END_OF_STATE:
        return PlainState(tensors, None)
    if not (data.startswith(_METADATA, here) and data.endswith(_END_OF_METADATA)):
        return None
    return PlainState(tensors, b"\x80\2" + data[here + len(_METADATA) : -len(_END_OF_METADATA)] + b".")


def _number(raw: bytes) -> int:
    # Only the number that needs eight bytes and more could be negative, and no tensor is as large
    return int.from_bytes(raw[2:] if raw[:1] == b"\x8a" else raw[1:], "little")


def _numbers(raw: bytes) -> tuple[int, ...]:
    if raw == b")":
        return ()
    return tuple(_number(item) for item in _NUMBER.findall(raw, 1 if raw[:1] == b"(" else 0, len(raw) - 1))
