"""CRC-32 by isal or zlib, the checksum of zips, gzips and manifests; SHA-256 of pieces."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterable
from typing import Any

_POLYNOMIAL = 0xEDB88320  # of CRC-32, bits reversed: x^0 is the highest bit
_ONE = 1 << 31


def sha256_of(pieces: Iterable[Any]) -> str:
    """Return the SHA-256 of some buffers, one after the other, in hexadecimal."""
    import hashlib  # which loads OpenSSL

    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _combine(first: int, second: int, length: int) -> int:
    """Return the checksum of two adjacent pieces, from theirs and the second's length in bytes.

    Appending ``length`` bytes multiplies a checksum by x to the power of ``8 * length``, modulo the polynomial (Mark
    Adler's crc32_combine in zlib).
    """
    power = _ONE
    bit = 3  # a byte is 2 ** 3 bits
    while length:
        if length & 1:
            power = _times(_squares[bit % 32], power)
        length >>= 1
        bit += 1
    return _times(power, first) ^ second


def _times(one: int, other: int) -> int:
    """Multiply two polynomials modulo that of CRC-32."""
    product = 0
    while one:
        if one & _ONE:
            product ^= other
        one = (one << 1) & 0xFFFFFFFF
        other = (other >> 1) ^ (_POLYNOMIAL if other & 1 else 0)
    return product


def _make_squares() -> list[int]:
    squares: list[Any] = [_ONE >> 1]  # x, and each following one is the square of the one before
    for _ in range(31):
        squares.append(_times(squares[-1], squares[-1]))
    return squares


_squares = _make_squares()

crc32: Callable[..., int] = zlib.crc32
combine: Callable[[int, int, int], int] = _combine
isal_zlib: Any = None
try:
    isal_zlib = importlib.import_module("isal.isal_zlib")  # an extra, which is optional
except ImportError:
    pass
if isal_zlib is not None:  # several times as fast; like zlib's, it lets other threads run meanwhile
    crc32, combine = isal_zlib.crc32, isal_zlib.crc32_combine
