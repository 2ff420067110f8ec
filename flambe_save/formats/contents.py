"""Contents: what a save holds, each part read when it is asked for. Only data is unpickled, and nothing is built."""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Protocol

from flambe_save.codecs import HeldOutline, TensorInfo
from flambe_save.formats.reading import Damage
from flambe_save.tree import SaveTreeNode

__all__ = ["Contents", "HeldNode", "NodeContents"]


class NodeContents(Protocol):
    """One component of a save. Reading any of it raises a LoadError where that is damaged."""

    @property
    def class_name(self) -> str:
        """The bare name of its class."""

    @property
    def version(self) -> str:
        """The version of its class."""

    @property
    def config(self) -> str:
        """YAML."""

    @property
    def source(self) -> str:
        """The source code of its class."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors of its own state, none of which is read."""

    @property
    def state(self) -> HeldOutline:
        """Its own state."""

    @property
    def stash(self) -> HeldOutline:
        """What YAML cannot hold, by its ids."""

    @property
    def needs_trust(self) -> list[str]:
        """What in it only a trusting load will read, a sentence each."""

    def fingerprints(self) -> set[Hashable]:
        """Return marks of its state: where two nodes have one in common, their states are the same to the byte."""

    def verify(self) -> Iterator[Damage]:
        """Read its files and yield what is damaged."""


class Contents(abc.ABC):
    """What a save says of itself, and its components. The store stays open as long as they are looked at.

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
        The digest that was noted beside checksums.
    is_vouched_for : bool
        Whether checksums over the whole save say that its parts belong together.
    damage : list of Damage
        What is known to be damaged without reading the files of components.
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
        """Read everything and yield all that is damaged, unpickling nothing."""


class HeldNode:
    """A component that was read together with all of its save, as those of a pickle are.

    Parameters
    ----------
    tree : SaveTreeNode
        Read under an audit.
    locations : mapping of int to str
        Where storages were when they were saved.
    asks : list of str
        What in the whole save only a trusting read makes.
    again : callable
        Returns the same node as the caller trusts it.
    digest : callable
        Returns the SHA-256 of the save's file.
    """

    def __init__(
        self,
        tree: SaveTreeNode,
        locations: Mapping[int, str],
        asks: list[str],
        again: Callable[[], SaveTreeNode],
        digest: Callable[[], str],
    ) -> None:
        self.class_name, self.version = tree.class_name, tree.version
        self.config, self.source = tree.config, tree.source_code
        self.needs_trust: list[str] = []
        self.state = HeldOutline(tree.state, locations, asks, lambda: again().state, digest)
        self.stash = HeldOutline(tree.object_stash, locations, asks, lambda: again().object_stash, digest)
        self.tensors: Mapping[str, TensorInfo] = self.state.tensors

    def fingerprints(self) -> set[Hashable]:
        return set()

    def verify(self) -> Iterator[Damage]:
        return iter(())
