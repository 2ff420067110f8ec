"""Statistics of tensors and of their differences, in pieces: no tensor has to fit in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from flambe_save.inspection.measures import Measures, Statistics

__all__ = ["BINS", "PIECE", "compare", "measure"]

BINS = 24  # of a histogram
PIECE = 1 << 20  # elements that are looked at at a time; as many in float64 are 8 MiB

Pieces = Callable[[], Iterator[torch.Tensor]]


def measure(pieces: Pieces, advance: Callable[[int], None] = lambda count: None) -> Statistics:
    """Return the statistics of a tensor.

    Parameters
    ----------
    pieces : callable
        Returns an iterator of flat tensors, which are the elements; it is called twice, since a histogram needs to
        know its ends.
    advance : callable
        Called with counts of bytes that were read, those of one pass.
    """
    count = finite = nan = inf = zero = 0
    mean = std = norm = 0.0  # moments of parts are added up as Chan, Golub and LeVeque (1983) do
    low, high = math.inf, -math.inf
    for piece in pieces():
        advance(piece.numel() * piece.element_size())
        values, is_finite = _finite(piece)
        count += len(piece)
        if is_finite is not None:
            wide = _real(piece)
            nan += int(wide.isnan().sum())
            inf += int(wide.isinf().sum())
        here = len(values)
        if not here:
            continue
        zero += here - int(values.count_nonzero())
        least, most = (float(item) for item in values.aminmax())
        low, high = min(low, least), max(high, most)
        scale = _scale(max(-least, most))
        deviation, average = (float(item) / scale for item in torch.std_mean(_times(values, scale), correction=0))
        total = finite + here
        shift = (average / 2 - mean / 2) * (2 * math.sqrt(finite * here) / total)
        std = math.hypot(std * math.sqrt(finite / total), deviation * math.sqrt(here / total), shift)
        mean, finite = _mean(mean, finite, average, here)
        norm = math.hypot(norm, _norm(values))
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
    counts = torch.zeros(BINS, dtype=torch.float64)
    scale = _scale(max(-low, high))
    for piece in pieces():
        values, _ = _finite(piece)
        if low == high:  # where torch would choose ends itself
            counts[0] += len(values)
        else:
            counts += torch.histc(_times(values, scale), BINS, low * scale, high * scale)
    return tuple(int(item) for item in counts)


def compare(
    a: Pieces, b: Pieces, *, atol: float = 0.0, rtol: float = 0.0, advance: Callable[[int], None] = lambda count: None
) -> Measures:
    """Return how far two tensors of as many elements are apart.

    Parameters
    ----------
    a, b : callable
        Return iterators of flat tensors, in pieces of the same sizes; of any types.
    atol, rtol : float
        Within which elements count as close.
    advance : callable
        Called with counts of bytes of ``a`` that were read.
    """
    is_same = is_close = True
    largest = mean = product = 0.0
    of_difference = of_a = of_b = 0.0  # norms
    count = not_finite = 0
    for one, other in zip(a(), b(), strict=True):
        advance(one.numel() * one.element_size())
        if one.dtype == other.dtype and torch.equal(_bits(one), _bits(other)):
            values, _ = _finite(one)
            norm = _norm(values)
            of_a, of_b, product = math.hypot(of_a, norm), math.hypot(of_b, norm), product + norm * norm
            mean, count = _mean(mean, count, 0.0, len(values))
            continue
        first, second = _wide(one), _wide(other)
        difference = _distance(one, other) if _are_integers(one, other) else (second - first).abs()
        is_finite = first.isfinite() & second.isfinite()
        if not is_finite.all():
            not_finite += int((~(_equal(first, second) | is_finite)).sum())
            first, second, difference = first[is_finite], second[is_finite], difference[is_finite]
        if not len(first):
            continue
        here = float(difference.max())
        is_same = is_same and not here
        is_close = is_close and bool((difference <= atol + rtol * first.abs()).all())
        largest = max(largest, here)
        mean, count = _mean(mean, count, float((difference / len(difference)).sum()), len(difference))
        of_difference = math.hypot(of_difference, _norm(difference))
        of_a, of_b = math.hypot(of_a, _norm(first)), math.hypot(of_b, _norm(second))
        if first.is_complex() != second.is_complex():  # of the product, only what is real counts
            first, second = first.real, second.real
        product += float(torch.vdot(first, second).real)
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


def _times(values: torch.Tensor, scale: float) -> torch.Tensor:
    return values if scale == 1.0 else values * scale


def _norm(values: torch.Tensor) -> float:
    if not len(values):
        return 0.0
    most = float(torch.linalg.vector_norm(values, math.inf))
    if not math.isfinite(most):
        return most
    scale = _scale(most)
    return float(torch.linalg.vector_norm(_times(values, scale))) / scale


def _are_integers(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are of integers, whose differences are exact."""
    if any(item.is_floating_point() or item.is_complex() for item in (one, other)):
        return False
    return (one.dtype == torch.uint64) == (other.dtype == torch.uint64)


def _distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return how far integers are apart; floats do not tell two of them past 2 ** 53."""
    if one.dtype == torch.uint64:  # whose order the highest bit turns round
        one, other = (item.view(torch.int64) ^ -(2**63) for item in (one, other))
    one, other = one.to(torch.int64), other.to(torch.int64)
    apart = torch.where(one < other, other - one, one - other)
    wide = apart.to(torch.float64)
    return torch.where(apart < 0, wide + 2.0**64, wide)  # a number without a sign, that is


def _equal(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a mask of equal elements; NaN equals NaN, in each part of complex ones."""
    if one.is_complex():
        return _equal(torch.view_as_real(one), torch.view_as_real(other)).all(-1)
    return (one == other) | (one.isnan() & other.isnan())


def _wide(piece: torch.Tensor) -> torch.Tensor:
    if piece.is_complex():
        return piece.to(torch.complex128)
    return (piece if piece.dtype.itemsize > 1 else piece.to(torch.float32)).to(torch.float64)


def _real(piece: torch.Tensor) -> torch.Tensor:
    wide = _wide(piece)
    return wide.abs() if wide.is_complex() else wide


def _finite(piece: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the finite elements in float64, and which these are where they are not all."""
    wide = _real(piece)
    is_finite = wide.isfinite()
    return (wide, None) if is_finite.all() else (wide[is_finite], is_finite)


def _bits(piece: torch.Tensor) -> torch.Tensor:
    return piece.contiguous().view(torch.uint8)
