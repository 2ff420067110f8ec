"""Pickle states of dense tensors without Python's pickler; pt/dense.py reads them."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch.serialization import location_tag

from flambe_save.codecs.data import compact, tie_key, to_data
from flambe_save.pt.dense import (
    END_OF_METADATA,
    END_OF_STATE,
    FIRST,
    METADATA,
    NEXT_FREE,
    ORDERED,
    REBUILD,
    STORAGE,
    TYPES,
)
from flambe_save.pt.tensor_info import fills_storage
from flambe_save.support.notes import marks_of

STORAGE_NAMES: dict[torch.dtype, str] = {getattr(torch, dtype): storage for storage, dtype in TYPES.items()}


def dump_plain(values: Mapping[str, Any], protocol: int) -> tuple[bytes, list[torch.UntypedStorage]] | None:
    """The pickle of a plain state and the storages that it numbers; None for any other value."""
    attributes = getattr(values, "__dict__", {})
    if type(values) is not OrderedDict or attributes.keys() > {"_metadata"}:
        return None
    pieces = [b"\x80", bytes((protocol,)), FIRST[ORDERED], b")R", b"(" if values else b""]
    storages: list[torch.UntypedStorage] = []
    parts: dict[Any, torch.Tensor] = {}  # of larger storages, each as a tensor of its own bytes
    numbers: dict[int, int] = {}  # of storages
    types: list[torch.dtype] = []  # of the elements of each storage
    layouts: dict[Any, bytes] = {}  # number of elements, shapes and strides, pickled
    memo: dict[Any, bytes] = {}
    places: dict[torch.device, str] = {}

    def note(what: Any, first: bytes) -> bytes:
        number = bytes((NEXT_FREE + len(memo),))
        memo[what] = b"h" + number
        return first + b"q" + number

    begin = FIRST[REBUILD] + b"((" + FIRST[STORAGE]
    for key, value in values.items():
        if type(value) is not torch.Tensor or type(key) is not str or not is_plain(value):
            return None
        dtype, whole = value.dtype, value.untyped_storage()
        if not fills_storage(value):
            view = tie_key(value) or len(parts)
            if view not in parts:
                parts[view] = compact(value)
            value = parts[view]
            whole = value.untyped_storage()
            if whole.nbytes() != value.numel() * value.element_size():
                return None  # it repeats elements
        number = numbers.setdefault(whole._cdata, len(storages))
        if number == len(storages):
            storages.append(whole)
            types.append(dtype)
        elif types[number] is not dtype:
            return None  # the pickler raises an error for it
        place = places.get(whole.device)
        if place is None:
            place = places[whole.device] = location_tag(whole)
        layout = value.shape, value.stride()
        if layout not in layouts:
            shape, stride = map(_ints, layout)
            layouts[layout] = _int(value.numel()) + b"tQK\0" + shape + stride + b"\x89h\2)RtR"
        pieces += (
            _text(key.encode("utf-8", "surrogatepass")),
            begin,
            memo.get(dtype) or note(dtype, b"ctorch\n%s\n" % STORAGE_NAMES[dtype].encode()),
            _text(b"%d" % number),
            memo.get(place) or note(place, _text(place.encode())),
            layouts[layout],
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
        # Without its first two bytes, the protocol, and its last, the end, a pickle can be a part of another
        pieces += (METADATA, buffer.getvalue()[2:-1], END_OF_METADATA)
    else:
        pieces.append(END_OF_STATE)
    return b"".join(pieces), storages


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is nothing but strided elements of a usual type in memory."""
    return (
        tensor.dtype in STORAGE_NAMES
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
