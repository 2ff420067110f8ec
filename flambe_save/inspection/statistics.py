"""Statistics of tensors and of their differences, in pieces: no tensor has to fit in memory.

It counts with numpy alone: pt/elements.py turns the bytes of any type into arrays that numpy knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy

from flambe_save.inspection.measures import Measures, Statistics
from flambe_save.pt.elements import Array

BINS = 24  # of a histogram
# Elements that are looked at at a time: what is made of them stays in the processor's cache, and numpy's library for
# products would use threads from 10,000 on, which take ten times as long where other programs run
PIECE = 1 << 13
_FIRST = 64  # bytes that are compared first

Pieces = Callable[[], Iterator[Array]]


@numpy.errstate(all="ignore")  # what is too large for a float is infinite, as it says
def measure(pieces: Pieces, advance: Callable[[int], None] = lambda count: None) -> Statistics:
    """Return the statistics of an array.

    Parameters
    ----------
    pieces : callable
        Returns an iterator of flat arrays, which are the elements; it is called twice, since a histogram needs to
        know its ends.
    advance : callable
        Called with the number of elements of each piece, in the first pass.
    """
    count = finite = nan = inf = zero = 0
    mean = std = norm = 0.0  # moments of parts are added up as Chan, Golub and LeVeque (1983) do
    low, high = math.inf, -math.inf
    for piece in pieces():
        advance(len(piece))
        count += len(piece)
        wide = _real(piece)
        values = _finite(wide)
        here = len(values)
        if here < len(wide):
            nan += int(numpy.count_nonzero(numpy.isnan(wide)))
            inf += int(numpy.count_nonzero(numpy.isinf(wide)))
        if not here:
            continue
        zero += here - int(numpy.count_nonzero(values))
        least, most = float(values.min()), float(values.max())
        low, high = min(low, least), max(high, most)
        scale = _scale(max(-least, most))
        scaled = _times(values, scale)
        average = float(scaled.mean())
        centred = scaled - average
        deviation = math.sqrt(float(centred.dot(centred)) / here) / scale
        norm = math.hypot(norm, math.sqrt(float(scaled.dot(scaled))) / scale)
        average /= scale
        total = finite + here
        shift = (average / 2 - mean / 2) * (2 * math.sqrt(finite * here) / total)
        std = math.hypot(std * math.sqrt(finite / total), deviation * math.sqrt(here / total), shift)
        mean, finite = _mean(mean, finite, average, here)
    if not finite:
        return Statistics(count, None, None, None, None, nan, inf, zero, None, ())
    return Statistics(
        count,
        low,
        high,
        min(high, max(low, mean)),
        std,
        nan,
        inf,
        zero,
        norm,
        _histogram(pieces, low, high),
    )


def _histogram(pieces: Pieces, low: float, high: float) -> tuple[int, ...]:
    counts = numpy.zeros(BINS + 1, dtype=numpy.int64)  # the last is the maximum's own, which belongs to the one before
    scale = _scale(max(-low, high))
    start, width = low * scale, high * scale - low * scale
    for piece in pieces():
        values = _times(_finite(_real(piece)), scale)
        places = (values - start) * (BINS / width) if width else values * 0
        counts += numpy.bincount(places.astype(numpy.int64), minlength=BINS + 1)
    counts[-2] += counts[-1]
    return tuple(int(item) for item in counts[:-1])


@numpy.errstate(all="ignore")
def compare(
    a: Pieces, b: Pieces, *, atol: float = 0.0, rtol: float = 0.0, advance: Callable[[int], None] = lambda count: None
) -> Measures:
    """Return how far two arrays of as many elements are apart.

    Parameters
    ----------
    a, b : callable
        Return iterators of flat arrays, in pieces of the same sizes; of any types.
    atol, rtol : float
        Within which elements count as close.
    advance : callable
        Called with the number of elements of each piece.
    """
    is_same = is_close = True
    largest = mean = product = 0.0
    of_difference = of_a = of_b = 0.0  # norms
    count = not_finite = 0
    for one, other in zip(a(), b(), strict=True):
        advance(len(one))
        if one.dtype == other.dtype and _same_bits(one, other):
            values = _finite(_real(one))
            norm = _norm(values)
            of_a, of_b, product = math.hypot(of_a, norm), math.hypot(of_b, norm), product + norm * norm
            mean, count = _mean(mean, count, 0.0, len(values))
            continue
        first, second = _wide(one), _wide(other)
        if _are_integers(one, other):
            difference = _distance(one, other)
        else:
            difference = second - first
            difference = numpy.abs(difference, out=None if difference.dtype.kind == "c" else difference)
        here = float(numpy.maximum.reduce(difference))  # the methods of arrays go through Python
        if not math.isfinite(here):
            is_finite = numpy.isfinite(first) & numpy.isfinite(second)
            not_finite += int(numpy.count_nonzero(~(_equal(first, second) | is_finite)))
            first, second, difference = first[is_finite], second[is_finite], difference[is_finite]
            if not len(first):
                continue
            here = float(numpy.maximum.reduce(difference))
        is_same = is_same and not here
        if is_close and here > atol:
            is_close = bool((difference <= atol + rtol * numpy.abs(first)).all())
        largest = max(largest, here)
        scale = _scale(here)
        average = float(numpy.add.reduce(_times(difference, scale))) / len(difference)
        mean, count = _mean(mean, count, average / scale, len(difference))
        of_difference = math.hypot(of_difference, _norm(difference))
        of_a, of_b = math.hypot(of_a, _norm(first)), math.hypot(of_b, _norm(second))
        product += float(numpy.vdot(first, second).real)
    norms = of_a * of_b
    has_ratio = 0 < of_a < math.inf and of_difference < math.inf
    has_angle = norms > 0 and math.isfinite(norms) and math.isfinite(product)
    return Measures(
        is_same and not not_finite,
        is_close and not not_finite,
        largest,
        min(mean, largest),
        of_difference / of_a if has_ratio else math.inf if of_difference else 0.0,
        not_finite,
        min(1.0, max(-1.0, product / norms)) if has_angle else None,
    )


def _mean(mean: float, count: int, other: float, more: int) -> tuple[float, int]:
    """Return the mean and count of these numbers with more; no sum on the way may overflow."""
    total = count + more
    return (mean * (count / total) + other * (more / total), total) if total else (mean, 0)


def _scale(most: float) -> float:
    """Return the power of two that scales numbers up to ``most`` so that squares are finite."""
    return 1.0 if not most or 1e-100 < most < 1e100 else 2.0 ** -max(-1000, min(1000, math.frexp(most)[1]))


def _times(values: Array, scale: float) -> Array:
    return values if scale == 1.0 else values * scale


def _norm(values: Array) -> float:
    """Return the Euclidean norm; infinite where an element is."""
    found = math.sqrt(abs(numpy.vdot(values, values)))
    if 1e-100 < found < 1e100 or not len(values):
        return found
    most = float(numpy.abs(values).max())
    scale = _scale(most)
    scaled = _times(values, scale)
    return math.sqrt(abs(numpy.vdot(scaled, scaled))) / scale if math.isfinite(most) else most


def _are_integers(one: Array, other: Array) -> bool:
    """Whether two arrays are of integers, whose differences are exact."""
    if any(item.dtype.kind not in "biu" for item in (one, other)):
        return False
    return (one.dtype == numpy.uint64) == (other.dtype == numpy.uint64)


def _distance(one: Array, other: Array) -> Array:
    """Return how far integers are apart; floats do not tell two of them past 2 ** 53."""
    wide = numpy.uint64 if one.dtype == numpy.uint64 else numpy.int64
    one, other = one.astype(wide), other.astype(wide)
    apart = numpy.where(one < other, other - one, one - other)
    return apart.view(numpy.uint64).astype(numpy.float64)  # more than a number with a sign can be is none without one


def _equal(one: Array, other: Array) -> Array:
    """Return a mask of equal elements; NaN equals NaN, in each part of complex ones."""
    if one.dtype.kind == "c" or other.dtype.kind == "c":
        return _equal(one.real, other.real) & _equal(one.imag, other.imag)
    equal: Array = (one == other) | (numpy.isnan(one) & numpy.isnan(other))
    return equal


def _wide(piece: Array) -> Array:
    return piece.astype(numpy.complex128 if piece.dtype.kind == "c" else numpy.float64)


def _real(piece: Array) -> Array:
    wide = _wide(piece)
    absolute: Array = numpy.abs(wide) if wide.dtype.kind == "c" else wide
    return absolute


def _finite(values: Array) -> Array:
    """Return the finite elements."""
    if not len(values) or (math.isfinite(values.max()) and math.isfinite(values.min())):
        return values
    return values[numpy.isfinite(values)]


def _same_bits(one: Array, other: Array) -> bool:
    """Whether two pieces are the same; those that differ mostly do so from the beginning."""
    bits, others = one.view(numpy.uint8), other.view(numpy.uint8)
    return bits[:_FIRST].tobytes() == others[:_FIRST].tobytes() and numpy.array_equal(bits, others)
