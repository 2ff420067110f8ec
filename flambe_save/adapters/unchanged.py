"""Whether what is saved stays as it is while it is looked at: other threads go on, and objects have code of theirs."""

from __future__ import annotations

from flambe_save.adapters.protocol import Adapter, Child, Place
from flambe_save.errors import SaveError, quote

__all__ = ["Passed", "cannot_save"]


class Passed:
    """The containers that a save has gone through, with what was in them."""

    def __init__(self) -> None:
        self._containers: list[tuple[Place, Adapter, list[Child]]] = []

    def clear(self) -> None:
        """Begin again."""
        self._containers = []

    def note(self, place: Place, adapter: Adapter, children: list[Child]) -> None:
        """Remember the children of a container."""
        self._containers.append((place, adapter, children))

    def check(self) -> None:
        """Refuse a container that holds other objects now than when these were collected: no load would take that.

        Raises
        ------
        SaveError
        """
        for place, adapter, before in self._containers:
            now = [*adapter.children(place.obj)]
            if len(now) != len(before) or any(
                one.obj is not other.obj or one.name != other.name for one, other in zip(before, now, strict=True)
            ):
                name = f"{quote(place.prefix)}, a" if place.prefix else "this"
                raise _changed(f"{name} {type(place.obj).__qualname__}", place)


def _changed(what: str, place: Place) -> SaveError:
    return SaveError(
        f"{what} changed while it was being saved",
        node=place.prefix,
        fix="Another thread changes it: hold its lock, or save a copy. Nothing was written.",
    )


def cannot_save(place: Place, error: Exception) -> SaveError:
    """Make the error for what code of an object raises while the object is looked at."""
    if isinstance(error, RuntimeError) and "during iteration" in str(error):
        return _changed(f"something in this {type(place.obj).__qualname__}", place)
    return SaveError(
        f"this {type(place.obj).__qualname__} cannot be saved: {type(error).__name__}: {str(error)[:200]}",
        node=place.prefix,
        fix="Correct it, or leave it out of what is saved. Nothing was written.",
    )
