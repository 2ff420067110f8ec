"""What codecs are told: how to pickle, whom to trust, where tensors shall be."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, cast

import dill
import torch
from torch.serialization import default_restore_location

from flambe_save.errors import LoadError, quote
from flambe_save.support.parallel import default_threads
from flambe_save.support.progress import NO_PROGRESS, Progress
from flambe_save.trust import NO_TRUST, Trust

__all__ = ["DumpOptions", "LoadOptions", "MapLocation", "PickleModule", "Placer"]

# As torch.load: a device, a mapping of saved to wanted locations, or f(storage, location) -> storage or None.
MapLocation: TypeAlias = "str | torch.device | Mapping[str, str] | Callable[[Any, str], Any] | None"


class PickleModule(Protocol):
    """A module with pickle's ``dump`` and ``load``; ``Pickler`` and ``Unpickler`` are used where it has them."""

    def dump(self, obj: Any, file: Any, protocol: int | None = None) -> None: ...

    def load(self, file: Any) -> Any: ...


@dataclass(frozen=True)
class DumpOptions:
    """How to pickle what is more than data.

    Parameters
    ----------
    pickle_module : module
        Used for values that are more than data; data is pickled by the standard library.
    pickle_protocol : int
        The pickle protocol of everything pickled.
    digest : {"sha256"}, optional
        A digest to note for each file, beside its checksum.
    requirements : str, optional
        What was installed when the object was saved, where that was not now.
    packages : mapping of str to str, optional
        Versions of packages, likewise.
    threads : int
        How many write at once.
    progress : Progress
        Is told of what is written.
    """

    pickle_module: PickleModule = dill
    pickle_protocol: int = 2
    digest: str | None = None
    requirements: str | None = None
    packages: Mapping[str, str] | None = None
    threads: int = 1
    progress: Progress = NO_PROGRESS


@dataclass(frozen=True)
class LoadOptions:
    """Under which policy, and to where, values are read; ``node`` and ``file`` are for messages.

    Parameters
    ----------
    trust : Trust
    map_location : str, torch.device, mapping, callable or None
        As in :func:`torch.load`.
    pickle_module : module
        Used only by a load that trusts everything.
    pickle_load_args : mapping
        Further arguments of its Unpickler: ``encoding`` for what Python 2 wrote, say.
    is_mapped : bool
        Whether tensors share memory with the file, where the store's files can be mapped.
    is_verified : bool
        Whether checksums are compared.
    is_vouched_for : bool
        Whether somebody else compares the checksum of the whole file, so that those inside it need not be.
    threads : int
        How many read at once.
    progress : Progress
        Is told of what is read.
    """

    trust: Trust = NO_TRUST
    map_location: MapLocation = None
    pickle_module: PickleModule = pickle
    pickle_load_args: Mapping[str, Any] = field(default_factory=dict)
    is_mapped: bool = False
    is_verified: bool = True
    is_vouched_for: bool = False
    threads: int = field(default_factory=default_threads)
    node: str | None = None
    file: str | None = None
    progress: Progress = NO_PROGRESS


class Placer:
    """Puts storages where ``map_location`` wants them.

    Raises
    ------
    TypeError
        If that is nothing that torch.load takes.
    """

    def __init__(self, map_location: MapLocation) -> None:
        if not (
            map_location is None or isinstance(map_location, (str, torch.device, Mapping)) or callable(map_location)
        ):
            raise TypeError(f"map_location takes a device, a mapping or a callable, not {map_location!r}")
        self._map_location = map_location
        self._devices: dict[str, torch.device | None] = {}

    def __call__(self, storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        """Return the storage, saved at a location, where it is wanted: itself, or a copy on another device.

        Raises
        ------
        LoadError
            If that device is not to be had on this machine.
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
        """Return the device for what was saved at a location; None where only a call with the storage tells."""
        map_location = self._map_location
        if map_location is None:
            return location
        if isinstance(map_location, (str, torch.device)):
            return str(map_location)
        return str(map_location.get(location, location)) if isinstance(map_location, Mapping) else None

    def device(self, location: str) -> torch.device | None:
        """Return the other device that bytes should be read to right away; None for this machine's memory.

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
