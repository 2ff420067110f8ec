"""Facts about a save's objects from an earlier try to describe them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple


class Known(NamedTuple):
    """Facts that decide how objects are described, beside the objects themselves.

    Attributes
    ----------
    shared : frozenset of int
        The ids of modules that objects with calls of their own share: none of these calls makes them.
    tied : frozenset of int
        The ids of tensors that several modules have and others refer to: only the state has them once.
    unsaid : frozenset of (int, str)
        The ids of objects and the names of their attributes that no config can hold.
    is_in_parts : bool
        Whether objects that changed since their call are written as their parts, which need no order.
    """

    shared: frozenset[int] = frozenset()
    tied: frozenset[int] = frozenset()
    unsaid: frozenset[tuple[int, str]] = frozenset()
    is_in_parts: bool = False


KNOWN: ContextVar[Known] = ContextVar("known", default=Known())  # noqa: B039  (it is immutable)
