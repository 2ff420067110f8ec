"""Options for reading and writing values: pickle module, trust, devices, threads."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from flambe_save.errors import CorruptSaveError
from flambe_save.support.parallel import default_threads
from flambe_save.support.progress import NO_PROGRESS, Progress
from flambe_save.trust import NO_TRUST, Trust

if TYPE_CHECKING:
    import torch

PROTOCOL = 2  # of pickles, by default

# As torch.load: a device, a mapping of saved to wanted locations, or f(storage, location) -> storage or None.
MapLocation: TypeAlias = "str | torch.device | Mapping[str, str] | Callable[[Any, str], Any] | None"


class PickleModule(Protocol):
    """A module with pickle's ``dump`` and ``load``, and perhaps ``Pickler`` and ``Unpickler``."""

    def dump(self, obj: Any, file: Any, protocol: int | None = None) -> None: ...

    def load(self, file: Any) -> Any: ...


def default_pickle_module() -> Any:
    """Import dill, which takes longer than reading a save."""
    import dill

    return dill


@dataclass(frozen=True)
class DumpOptions:
    """Options for writing values.

    Parameters
    ----------
    pickle_module : module
        Used for values that are more than data; data is pickled by the standard library.
    pickle_protocol : int
        The pickle protocol of everything pickled.
    digest : {"sha256"}, optional
        A digest to note for each file, beside its checksum.
    requirements : str, optional
        Requirements at the time when the object was saved; None for the present ones.
    packages : mapping of str to str, optional
        Versions of packages, likewise.
    threads : int
        Number of threads that write.
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
        Only a load that trusts everything uses it.
    pickle_load_args : mapping
        Further arguments of its Unpickler, such as ``encoding`` for pickles of Python 2.
    is_mapped : bool
        Whether tensors share memory with the file, if the store can map it.
    is_verified : bool
        Whether checksums are compared.
    checksums_known : bool
        Whether the checksum of the whole file is compared elsewhere; those inside it then are not.
    threads : int
        Number of threads that read.
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

    def corrupt(self, what: str, fix: str | None = None) -> CorruptSaveError:
        """The error for damage in the file that is read."""
        return CorruptSaveError(what, node=self.node, file=self.file, fix=fix)

    def broken_pickle(self, error: Exception) -> CorruptSaveError:
        """The error for a pickle that Python's own machine cannot read."""
        return self.corrupt(f"the pickle cannot be read: {type(error).__name__}: {str(error)[:200]}")
