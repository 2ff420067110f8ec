"""Options for reading and writing values: pickle module, trust, device placement."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from flambe_save.support.parallel import default_threads
from flambe_save.support.progress import NO_PROGRESS, Progress
from flambe_save.trust import NO_TRUST, Trust

if TYPE_CHECKING:
    import torch

__all__ = ["DumpOptions", "PROTOCOL", "LoadOptions", "MapLocation", "PickleModule", "default_pickle_module"]

PROTOCOL = 2  # of pickles, where the caller says nothing

# As torch.load: a device, a mapping of saved to wanted locations, or f(storage, location) -> storage or None.
MapLocation: TypeAlias = "str | torch.device | Mapping[str, str] | Callable[[Any, str], Any] | None"


class PickleModule(Protocol):
    """A module with pickle's ``dump`` and ``load``, and perhaps ``Pickler`` and ``Unpickler``.

    The two classes are used where the module has them.
    """

    def dump(self, obj: Any, file: Any, protocol: int | None = None) -> None: ...

    def load(self, file: Any) -> Any: ...


def default_pickle_module() -> Any:
    """Return dill, which costs more to import than all that reads a save."""
    import dill

    return dill


@dataclass(frozen=True)
class DumpOptions:
    """Options for writing values that are more than data.

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
        Counts the bytes that are written.
    """

    pickle_module: PickleModule = field(default_factory=default_pickle_module)
    pickle_protocol: int = PROTOCOL
    digest: str | None = None
    requirements: str | None = None
    packages: Mapping[str, str] | None = None
    threads: int = 1
    progress: Progress = NO_PROGRESS


@dataclass(frozen=True)
class LoadOptions:
    """Options for reading values; ``node`` and ``file`` are for messages.

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
    checksums_known : bool
        Whether the checksum of the whole file is compared elsewhere, so that those inside it need not be.
    threads : int
        How many read at once.
    progress : Progress
        Counts the bytes that are read.
    """

    trust: Trust = NO_TRUST
    map_location: MapLocation = None
    pickle_module: PickleModule = pickle
    pickle_load_args: Mapping[str, Any] = field(default_factory=dict)
    is_mapped: bool = False
    is_verified: bool = True
    checksums_known: bool = False
    threads: int = field(default_factory=default_threads)
    node: str | None = None
    file: str | None = None
    progress: Progress = NO_PROGRESS
