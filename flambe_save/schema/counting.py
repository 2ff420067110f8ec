"""Counts of the values that a config gives to classes, so that few aliases give no billions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flambe_save.classes.tags import TAGS
from flambe_save.errors import LimitError
from flambe_save.objects.arguments import CONTAINERS
from flambe_save.schema.checks import check_seeds
from flambe_save.schema.schema import WITHOUT_PARTS
from flambe_save.trust import trust_in_force

__all__ = ["MAX_REPEATED", "Counts"]

MAX_REPEATED = 1_000_000  # values that arguments may hold beyond those of the config


class Counts:
    """Values in the arguments of all that one config builds; a fully trusted load counts none.

    Parameters
    ----------
    size : int
        How many items the config has.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._is_on = trust_in_force().weights_only
        self._counted = 0
        self._sizes: dict[int, int] = {}  # of built containers
        self._unfolded: dict[int, int] = {}  # the same, with what is in the objects in them
        self._objects: dict[int, int] = {}  # how many values each built object stands for
        self._made: dict[int, Any] = {}  # containers that Schemas have built

    def add(self, cls: type, arguments: Mapping[str, Any]) -> int:
        """Count a class's arguments; return the number of values in them and in their objects.

        Raises
        ------
        LimitError
            If they are far more than the config itself has, because links, aliases and ranges repeat them. A class
            that the program has registered may be given ranges of any number.
        """
        if not self._is_on:
            return 1
        parts = [value for value in arguments.values() if type(value) not in WITHOUT_PARTS]
        whole = 1 + len(arguments) - len(parts)
        self._counted += whole
        for value in parts:
            own = len(value) if type(value) is range and cls not in TAGS else 0
            self._counted += own + self._size_of(value, self._sizes, {})
            whole += self._size_of(value, self._unfolded, self._objects)
        most = max(self._counted, whole)
        if most > max(MAX_REPEATED, 4 * self._size):
            raise LimitError(
                f"the config gives {most:,} values to what it builds, and has {self._size:,}",
                fix="Look at its links, aliases and ranges. If you know who wrote it: load(..., weights_only=False).",
            )
        if parts:
            check_seeds(cls, arguments)
        return whole

    def note(self, instance: Any, whole: int) -> None:
        """Note a built object, and how many values it stands for."""
        if type(instance) in CONTAINERS:
            self._made[id(instance)] = instance
        self._objects[id(instance)] = whole

    def _size_of(self, value: Any, sizes: dict[int, int], objects: dict[int, int]) -> int:
        """Return the number of values in a container, those in several places counted in each.

        A built object counts as ``objects`` says, or as one. ``sizes`` keeps the sizes of containers.
        """

        def is_open(item: Any) -> bool:
            return type(item) in CONTAINERS and id(item) not in self._made

        def of_object(item: Any) -> int:
            return 1 if type(item) in WITHOUT_PARTS else objects.get(id(item), 1)

        waiting = [value] if is_open(value) else []
        while waiting:
            container = waiting[-1]
            items = [*container, *container.values()] if isinstance(container, dict) else [*container]
            unknown = [item for item in items if is_open(item) and id(item) not in sizes]
            if unknown and id(container) not in sizes:
                waiting.extend(unknown)
                continue
            sizes[id(container)] = 1 + sum(sizes[id(item)] if is_open(item) else of_object(item) for item in items)
            waiting.pop()
        return sizes[id(value)] if is_open(value) else of_object(value)
