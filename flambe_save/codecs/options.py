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
from flambe_save.trust import NO_TRUST, Trust

__all__ = ["DumpOptions", "LoadOptions", "MapLocation", "PickleModule", "Place", "placer"]

# As torch.load: a device, a mapping of saved to wanted locations, or f(storage, location) -> storage or None.
MapLocation: TypeAlias = "str | torch.device | Mapping[str, str] | Callable[[Any, str], Any] | None"
Place: TypeAlias = Callable[[torch.UntypedStorage, str], torch.UntypedStorage]


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
    """

    pickle_module: PickleModule = dill
    pickle_protocol: int = 2
    digest: str | None = None
    requirements: str | None = None
    packages: Mapping[str, str] | None = None


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
    """

    trust: Trust = NO_TRUST
    map_location: MapLocation = None
    pickle_module: PickleModule = pickle
    pickle_load_args: Mapping[str, Any] = field(default_factory=dict)
    node: str | None = None
    file: str | None = None


def placer(map_location: MapLocation) -> Place:
    """Return the function that puts a storage saved at a location where ``map_location`` wants it.

    Raises
    ------
    LoadError
        When called, if that device is not to be had on this machine.
    """

    if not (map_location is None or isinstance(map_location, (str, torch.device, Mapping)) or callable(map_location)):
        raise TypeError(f"map_location takes a device, a mapping or a callable, not {map_location!r}")

    def place(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        target = location
        if isinstance(map_location, (str, torch.device)):
            target = str(map_location)
        elif isinstance(map_location, Mapping):
            target = str(map_location.get(location, location))
        elif map_location is not None:
            try:
                result = map_location(storage, location)
            except Exception as error:
                raise LoadError(f"map_location raised {type(error).__name__}: {str(error)[:200]}") from error
            if result is not None:
                return cast(torch.UntypedStorage, getattr(result, "_untyped_storage", result))
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

    return place
