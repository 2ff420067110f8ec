"""Formats: a tree to a store and back, as folders (directory.py) or one pickle (pickle.py).

A format works with any store: a folder, a file, an archive, memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flambe_save.errors import UnknownFormatError, quote
from flambe_save.formats.contents import Contents, NodeContents
from flambe_save.formats.plan import Plan
from flambe_save.formats.reading import Damage, ReadOptions, Saved
from flambe_save.layout import what_folder_it_is
from flambe_save.pt import DumpOptions
from flambe_save.registry import FORMATS
from flambe_save.storage import Store
from flambe_save.tree import SaveTreeNode

__all__ = ["Contents", "Damage", "Format", "NodeContents", "Plan", "ReadOptions", "Saved", "format_of"]


class Format(Protocol):
    """Layout of a tree in a store that is open; its opener commits it.

    Attributes
    ----------
    file_names : sequence of str
        The names, without folders, of the files that its saves hold. A folder with others is never replaced by a save.
    """

    file_names: Sequence[str]

    def plan(self, root: SaveTreeNode, options: DumpOptions) -> Plan:
        """Plan the files of a tree; its tensors are read when the plan is written."""

    def read(self, store: Store, options: ReadOptions) -> Saved:
        """Read a tree, or the part of it that the options name."""

    def inspect(self, store: Store, options: ReadOptions) -> Contents:
        """Inspect a store; each part is read when it is asked for, and may be damaged."""

    def sniff(self, names: Sequence[str]) -> bool:
        """Whether a store with these names holds this format."""


def format_of(store: Store, where: str) -> Format:
    """Return the format of a store, from its names alone.

    Raises
    ------
    UnknownFormatError
        If no format is found.
    """
    names = store.names()
    for name in FORMATS:
        found: Format = FORMATS[name]
        if found.sniff(names):
            return found
    holds = ", ".join(map(quote, names[:5])) or "nothing"
    what, fix = what_folder_it_is(names) or (
        "",
        "A save is a folder with config.yaml and state.pt, a .pkl, or a .tar.gz.",
    )
    holds += ", ..." if len(names) > 5 else ""
    raise UnknownFormatError(
        f"{where!r} is {what + ', and ' if what else ''}not a save: it holds {holds}",
        file=where,
        fix=fix.replace("FILE", where),
    )
