"""Elements of tensors: bytes of any type and order to flat numpy arrays, without torch.

numpy has no bfloat16, no 8-bit floats and no half complex: these are widened, and stay the numbers that they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy
from numpy.lib.stride_tricks import as_strided

__all__ = ["Array", "decode", "elements_of"]

Array: TypeAlias = "numpy.ndarray[Any, numpy.dtype[Any]]"

# The types that numpy knows by the same name; "bool" apart, of which a byte may be any number
_KNOWN = frozenset(
    (
        *("float16", "float32", "float64", "complex64", "complex128"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
)
# The bytes of those that it does not
_SIZES = {"bool": 1, "bfloat16": 2, "complex32": 4}
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
        The bytes that the tensor is a view of. The caller has checked that it does not reach past them.
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
        return  # whatever its steps are, which may be no numbers of numpy's
    sizes = [(length, step * flat.itemsize) for length, step in zip(shape, stride, strict=True) if length != 1]
    whole = as_strided(flat, [length for length, _ in sizes], [step for _, step in sizes])
    # numpy goes through what lies in another order with .flat, and copies the piece alone
    row: Any = whole.reshape(-1) if whole.flags.c_contiguous else whole.flat
    for start in range(0, whole.size, most):
        yield decode(row[start : start + most], dtype)


def decode(raw: Array, dtype: str) -> Array:
    """Return elements as a numpy array of numbers, given their bytes or bits.

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


def _bits_of(dtype: str) -> numpy.dtype[Any]:
    if dtype in _KNOWN:
        known: numpy.dtype[Any] = numpy.dtype(dtype).newbyteorder("<")  # as files have it, whatever this machine has
        return known
    size = 1 if dtype in _SMALL else _SIZES.get(dtype)
    if size is None:
        raise NotImplementedError(f"{dtype} has no numbers of a byte or more")
    return numpy.dtype(f"<u{size}")


@functools.cache
def _table(dtype: str) -> Array:
    """Return the 256 numbers of an 8-bit float."""
    return numpy.array([_small(dtype, code) for code in range(256)], dtype=numpy.float32)


def _small(dtype: str, code: int) -> float:
    exponents, mantissas, bias = _SMALL[dtype]
    if dtype == "float8_e8m0fnu":  # powers of two alone, without a sign
        return math.nan if code == 255 else math.ldexp(1.0, code - bias)
    if dtype.endswith("fnuz") and code == 128:  # what would be minus zero
        return math.nan
    sign = -1 if code & 128 else 1
    exponent, mantissa = code >> mantissas & (1 << exponents) - 1, code & (1 << mantissas) - 1
    if dtype == "float8_e4m3fn" and code & 127 == 127:
        return math.nan
    if dtype == "float8_e5m2" and exponent == 31:
        return math.nan if mantissa else sign * math.inf
    # Where the exponent is 0, the first digit is 0 too
    return sign * math.ldexp(mantissa + (1 << mantissas if exponent else 0), max(exponent, 1) - bias - mantissas)
