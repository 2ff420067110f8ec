"""Plain states: an OrderedDict of names to dense tensors, recognised without unpickling.

Nearly every ``state.pt`` holds one. codecs/dense.py writes an ordinary pickle, which torch and any other reader of
pickles understands. :func:`load_plain` recognises its exact form and nothing else: so it needs no trust, and can
describe only tensors. codecs/unpickler.py reads all other pickles.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any, NamedTuple


class PlainTensor(NamedTuple):
    """A tensor of a plain state, as its pickle describes it.

    Attributes
    ----------
    dtype : str
        Without ``torch.``: ``"float32"``.
    storage : str
        The name of the record that holds its bytes and no others.
    location : str
        The device that it was saved from.
    shape, stride : tuple of int
    """

    dtype: str
    storage: str
    location: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def fits(self) -> bool:
        """Whether it stays within a storage of as many elements."""
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

# The parts that every tensor's pickle repeats: written once, then called by their numbers in the pickle's memo
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


SMALL = 4096  # bytes of a pickle that many components of one class may have alike, so that it is read once


def load_plain(data: bytes) -> PlainState | None:
    """Describe the state in a pickle of ``dump_plain``; None for any other pickle.

    The result may be shared: callers do not change it.
    """
    return _load_small(data) if len(data) <= SMALL else _load(data)


def _load(data: bytes) -> PlainState | None:
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


_load_small = functools.lru_cache(maxsize=32)(_load)


def _number(raw: bytes) -> int:
    # Only a number of eight bytes or more could be negative, and no tensor is as large
    return int.from_bytes(raw[2:] if raw[:1] == b"\x8a" else raw[1:], "little")


def _numbers(raw: bytes) -> tuple[int, ...]:
    if raw == b")":
        return ()
    return tuple(_number(item) for item in _NUMBER.findall(raw, 1 if raw[:1] == b"(" else 0, len(raw) - 1))
