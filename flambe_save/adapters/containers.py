"""Lists, tuples and dicts: they hold no state of their own, but components may be inside them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flambe_save.adapters.protocol import Child, Fit, Mismatch, Place
from flambe_save.state import State, join_key

__all__ = ["MAPPING", "SEQUENCE"]


class _Container:
    def describe(self, obj: Any) -> None:
        """A container is written as YAML's own."""

    def get_state(self, place: Place, state: State) -> None:
        """A container has none."""

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> None:
        """A container has none."""


class _Sequence(_Container):
    """Items by their index."""

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the items."""
        return (Child(str(index), item) for index, item in enumerate(obj))


class _Mapping(_Container):
    """Items by their key as text."""

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the values."""
        return (Child(join_key([str(key)]), item) for key, item in obj.items())


SEQUENCE = _Sequence()
MAPPING = _Mapping()
