"""Contents of a save, each part read on demand. Only data is unpickled; nothing is built."""

from __future__ import annotations

import abc
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from flambe_save.formats.reading import Damage
from flambe_save.pt import TensorInfo

if TYPE_CHECKING:
    from flambe_save.codecs import LazyValues
    from flambe_save.pt.dense_file import DenseFile


class NodeContents(Protocol):
    """A component of a save. Each part raises a LoadError if it is damaged."""

    @property
    def class_name(self) -> str:
        """The bare name of its class."""

    @property
    def version(self) -> str:
        """The version of its class."""

    @property
    def config(self) -> str:
        """Its config, in YAML."""

    @property
    def source(self) -> str:
        """The source code of its class."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Facts of the tensors of its own state; no tensor is read."""

    @property
    def state(self) -> LazyValues:
        """Its own state."""

    @property
    def stash(self) -> LazyValues:
        """Its stash: values that YAML cannot hold, by their ids."""

    @property
    def needs_trust(self) -> list[str]:
        """Values that only a trusting load reads, a sentence each."""

    def dense(self, file: str) -> DenseFile | None:
        """Return ``state.pt`` or ``stash.pkl`` as dense tensors if nothing else is in it; else None.

        Found from its bytes alone, without torch.
        """

    def digest(self, file: str) -> str:
        """Return the SHA-256 of ``state.pt`` or ``stash.pkl``, or of the file around it."""

    def fingerprints(self) -> set[Hashable]:
        """Return marks of the state: nodes that share a mark have the same state, to the byte."""

    def verify(self) -> Iterator[Damage]:
        """Read its files and yield the damage."""


class Contents(abc.ABC):
    """Description of a save, and its components. The store stays open while they are read.

    Attributes
    ----------
    writer : str or None
        The package and version that wrote it; None for Flambe's own saves.
    protocol : int or None
        Of a folder.
    packages, tags : dict of str to str
        As in the manifest.
    ties : list of list of str
        Groups of state keys whose tensors are one.
    digest : str or None
        The digest that the save has beside checksums.
    is_vouched_for : bool
        Whether a manifest or trailer has checksums of the whole save.
    damage : list of Damage
        Damage that is known before files of components are read.
    size : int
        Bytes of all files.
    folders : dict of str to str
        Folder -> prefix of its component.
    """

    def __init__(self) -> None:
        self.writer: str | None = None
        self.protocol: int | None = None
        self.packages: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.ties: list[list[str]] = []
        self.digest: str | None = None
        self.is_vouched_for = False
        self.damage: list[Damage] = []
        self.size = 0
        self.folders: dict[str, str] = {}

    @property
    @abc.abstractmethod
    def nodes(self) -> Mapping[str, NodeContents]:
        """The components by their prefixes, parents first."""

    @abc.abstractmethod
    def verify(self) -> Iterator[Damage]:
        """Read everything and yield all damage, without unpickling."""
