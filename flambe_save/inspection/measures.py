"""Measures of a tensor, and of the difference of two. statistics.py computes them."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from flambe_save.errors import MissingDependencyError


@dataclass(frozen=True)
class Statistics:
    """Measures of a tensor's elements; of complex ones, those of their absolute values.

    Attributes
    ----------
    count : int
        Elements.
    minimum, maximum, mean, std : float or None
        Of the finite elements, computed in float64; ``std`` is that of the population. None where none is finite.
    nan, inf, zero : int
        How many elements are that.
    norm : float or None
        The Euclidean norm of the finite elements; infinite where it is more than a float can be.
    histogram : tuple of int
        Finite elements in equal bins from the minimum to the maximum; empty where there are none.
    """

    count: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    nan: int
    inf: int
    zero: int
    norm: float | None
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class Measures:
    """Distances between two tensors of one shape, computed in float64.

    Only elements that are finite in both are measured.

    Attributes
    ----------
    is_same : bool
        Whether all elements are equal, NaN in the same places.
    is_close : bool
        Whether all are within the tolerances: ``|b - a| <= atol + rtol * |a|``.
    max_abs, mean_abs : float
        Of the differences.
    relative_norm : float
        The norm of the difference by that of ``a``; infinite where ``a`` is zero and ``b`` is not, or one is too long.
    not_finite : int
        Elements that differ and are infinite or NaN in one of the two.
    cosine : float or None
        Of the angle between the two; None where one of them is zero, or too long or short.
    """

    is_same: bool
    is_close: bool
    max_abs: float
    mean_abs: float
    relative_norm: float
    not_finite: int
    cosine: float | None


def statistics_module() -> ModuleType:
    """Import the module that takes them, and numpy with it.

    Raises
    ------
    MissingDependencyError
        If numpy is not installed.
    """
    try:
        from flambe_save.inspection import statistics
    except ImportError as error:
        raise MissingDependencyError("the numbers of tensors need numpy", fix="pip install numpy") from error
    return statistics
