"""Placer: puts storages on the devices in ``map_location``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.serialization import default_restore_location

from flambe_save.errors import LoadError, quote
from flambe_save.pt.options import MapLocation


class Placer:
    """Puts storages on the devices in ``map_location``.

    Raises
    ------
    TypeError
        If torch.load would not take it.
    """

    def __init__(self, map_location: MapLocation) -> None:
        if not (
            map_location is None or isinstance(map_location, (str, torch.device, Mapping)) or callable(map_location)
        ):
            raise TypeError(f"map_location takes a device, a mapping or a callable, not {map_location!r}")
        self._map_location = map_location
        self._devices: dict[str, torch.device | None] = {}

    def __call__(self, storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        """Place a storage that was saved from a location: itself, or a copy on another device.

        Raises
        ------
        LoadError
            If this machine does not have the device, or ``map_location`` raises.
        """
        map_location = self._map_location
        if callable(map_location):
            try:
                result = map_location(storage, location)
            except Exception as error:
                raise LoadError(f"map_location raised {type(error).__name__}: {str(error)[:200]}") from error
            if result is not None:
                return cast(torch.UntypedStorage, getattr(result, "_untyped_storage", result))
        return _put(storage, self.target(location) or location)

    def target(self, location: str) -> str | None:
        """The device for storages saved from a location; None if it takes a call with the storage."""
        map_location = self._map_location
        if map_location is None:
            return location
        if isinstance(map_location, (str, torch.device)):
            return str(map_location)
        return str(map_location.get(location, location)) if isinstance(map_location, Mapping) else None

    def device(self, location: str) -> torch.device | None:
        """The device to read bytes to; None for the CPU's memory.

        Raises
        ------
        LoadError
            As a call.
        """
        if location not in self._devices:
            target = self.target(location) or "cpu"
            found = _put(torch.UntypedStorage(0), target).device  # type: ignore[no-untyped-call]
            self._devices[location] = None if found.type == "cpu" else found
        return self._devices[location]


def _put(storage: torch.UntypedStorage, target: str) -> torch.UntypedStorage:
    if target == "cpu" and storage.device.type == "cpu":
        return storage
    if target.partition(":")[0] == "meta":
        return torch.UntypedStorage(storage.nbytes(), device="meta")  # type: ignore[no-untyped-call]
    try:
        restored: Any = default_restore_location(storage, target)  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        raise LoadError(
            f"a tensor cannot be put on {quote(target)}, where it was saved or shall go: {quote(error)}",
            fix="Pass map_location='cpu', or another device of this machine.",
        ) from error
    return cast(torch.UntypedStorage, restored)
