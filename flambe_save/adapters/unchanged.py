"""Refuse objects that change while they are saved, by other threads or by their own code."""

from __future__ import annotations

from flambe_save.adapters.protocol import Adapter, Child, Place
from flambe_save.errors import SaveError, quote


class Passed:
    """The objects that a save has gone through, each with its children."""

    def __init__(self) -> None:
        self._parents: list[tuple[Place, Adapter, list[Child]]] = []

    def clear(self) -> None:
        """Begin again."""
        self._parents = []

    def note(self, place: Place, adapter: Adapter, children: list[Child]) -> None:
        """Remember an object's children, if its adapter returns the same ones each time."""
        if getattr(adapter, "has_own_children", False):
            self._parents.append((place, adapter, children))

    def check(self) -> None:
        """Refuse an object that has other children now: its config and state would not match.

        Raises
        ------
        SaveError
        """
        for place, adapter, before in self._parents:
            try:
                now = [*adapter.children(place.obj)]
            except Exception as error:
                raise cannot_save(place, error) from error
            if len(now) != len(before) or any(
                one.obj is not other.obj or one.name != other.name for one, other in zip(before, now, strict=True)
            ):
                name = f"{quote(place.prefix)}, a" if place.prefix else "this"
                raise _changed(f"{name} {type(place.obj).__qualname__}", place)


def _changed(what: str, place: Place) -> SaveError:
    return SaveError(
        f"{what} changed while it was being saved",
        node=place.prefix,
        fix="Another thread, or code of the object that the save runs, changes it: hold its lock, or save a copy. "
        "Nothing was written.",
    )


def cannot_save(place: Place, error: Exception) -> SaveError:
    """Make the error for an exception of an object's own code while it is saved."""
    if isinstance(error, RuntimeError) and "during iteration" in str(error):
        return _changed(f"something in this {type(place.obj).__qualname__}", place)
    return SaveError(
        f"this {type(place.obj).__qualname__} cannot be saved: {type(error).__name__}: {str(error)[:200]}",
        node=place.prefix,
        fix="Correct it, or leave it out of what is saved. Nothing was written.",
    )
