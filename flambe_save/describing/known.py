"""What is known of a save's objects before they are described: one try to describe them may find it for the next."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

__all__ = ["KNOWN", "Known"]


class Known(NamedTuple):
    """What decides how the objects of a save are described, beside what they are.

    Attributes
    ----------
    shared : frozenset of int
        The ids of modules that objects share which were made by calls of their own: no call makes them.
    tied : frozenset of int
        The ids of tensors that are in several modules and that something else refers to: only the state has them once.
    unsaid : frozenset of (int, str)
        The ids of objects and the names of their attributes that no config can say.
    is_in_parts : bool
        Whether what was changed since its call is written as its parts, which need no order.
    """

    shared: frozenset[int] = frozenset()
    tied: frozenset[int] = frozenset()
    unsaid: frozenset[tuple[int, str]] = frozenset()
    is_in_parts: bool = False


_NOTHING = Known()
KNOWN: ContextVar[Known] = ContextVar("known", default=_NOTHING)
