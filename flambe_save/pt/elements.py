"""Elements of tensors: bytes of any type and order to flat numpy arrays, without torch.

numpy has no bfloat16, 8-bit floats and half complex numbers: they become the same numbers of a wider type.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy
from numpy.lib.stride_tricks import as_strided

from flambe_save.pt.tensor_info import ITEM_SIZES

Array: TypeAlias = "numpy.ndarray[Any, numpy.dtype[Any]]"

# Types whose bits numpy reads as a type of another name; of a bool, any byte but 0 is true
_WIDENED = ("bool", "bfloat16", "complex32")
# Exponent bits, mantissa bits and bias of 8-bit floats
_SMALL = {
    "float8_e4m3fn": (4, 3, 7),
    "float8_e4m3fnuz": (4, 3, 8),
    "float8_e5m2": (5, 2, 15),
    "float8_e5m2fnuz": (5, 2, 16),
    "float8_e8m0fnu": (8, 0, 127),
}


def elements_of(data: Any, dtype: str, shape: Sequence[int], stride: Sequence[int], most: int) -> Iterator[Array]:
    """Yield flat arrays of up to ``most`` elements, in order; they may share the data's memory.

    Parameters
    ----------
    data : buffer
        The bytes that the tensor is a view of. The caller has checked that it stays within them.
    dtype : str
        Without ``torch.``.
    shape, stride : sequence of int
        In elements.
    most : int

    Raises
    ------
    NotImplementedError
        If an element is not a number of a byte or more.
    """
    flat = numpy.frombuffer(data, _bits_of(dtype))
    if 0 in shape:
        return  # before its steps are used, which may be too large for numpy
    sizes = [(length, step * flat.itemsize) for length, step in zip(shape, stride, strict=True) if length != 1]
    whole = as_strided(flat, [length for length, _ in sizes], [step for _, step in sizes])
    # With .flat, numpy copies only the piece of what lies in another order
    row: Any = whole.reshape(-1) if whole.flags.c_contiguous else whole.flat
    pieces = (row[start : start + most] for start in range(0, whole.size, most))
    yield from map(functools.partial(decode, dtype=dtype), pieces) if _is_decoded(dtype) else pieces


def decode(raw: Array, dtype: str) -> Array:
    """Make a numpy array of numbers from the bytes or bits of elements.

    Raises
    ------
    NotImplementedError
        If an element is not a number of a byte or more.
    """
    bits = raw.view(_bits_of(dtype))
    if dtype == "bool":
        return bits.astype(numpy.bool_)
    if dtype == "bfloat16":  # the upper half of a float32
        return (bits.astype(numpy.uint32) << 16).view(numpy.float32)
    if dtype == "complex32":  # two halves
        return bits.view("<f2").astype(numpy.float32).view(numpy.complex64)
    return _table(dtype)[bits] if dtype in _SMALL else bits


def _is_decoded(dtype: str) -> bool:
    """Whether numpy's type for the bits is not that of the numbers."""
    return dtype in _WIDENED or dtype in _SMALL


def _bits_of(dtype: str) -> numpy.dtype[Any]:
    if dtype not in ITEM_SIZES:
        raise NotImplementedError(f"{dtype} has no numbers of a byte or more")
    found: Any = numpy.dtype(f"u{ITEM_SIZES[dtype]}" if _is_decoded(dtype) else dtype)
    in_files: numpy.dtype[Any] = found.newbyteorder("<")  # on any machine
    return in_files


@functools.cache
def _table(dtype: str) -> Array:
    """The 256 numbers of an 8-bit float, with the bits that torch gives each NaN."""
    found = numpy.array([_small(dtype, code) for code in range(256)], dtype=numpy.float32)
    codes: Any = numpy.flatnonzero(numpy.isnan(found)).astype(numpy.uint32)
    bits: Any = 0x7F800001
    if dtype in ("float8_e4m3fn", "float8_e5m2"):  # their NaNs keep sign and mantissa
        bits = (codes & 128) << 24 | 0x7FC00000 | codes << (23 - _SMALL[dtype][1]) & 0x7FFFFF
    found.view(numpy.uint32)[codes] = bits
    return found


def _small(dtype: str, code: int) -> float:
    exponents, mantissas, bias = _SMALL[dtype]
    if dtype == "float8_e8m0fnu":  # only powers of two, without a sign
        return math.nan if code == 255 else math.ldexp(1.0, code - bias)
    if dtype.endswith("fnuz") and code == 128:  # in place of minus zero
        return math.nan
    sign = -1 if code & 128 else 1
    exponent, mantissa = code >> mantissas & (1 << exponents) - 1, code & (1 << mantissas) - 1
    if dtype == "float8_e4m3fn" and code & 127 == 127:
        return math.nan
    if dtype == "float8_e5m2" and exponent == 31:
        return math.nan if mantissa else sign * math.inf
    # Where the exponent is 0, the first digit is 0 too
    return sign * math.ldexp(mantissa + (1 << mantissas if exponent else 0), max(exponent, 1) - bias - mantissas)
