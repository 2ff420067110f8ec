"""open(): a save as a read-only mapping of its components, and its facts as a whole."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

from flambe_save.errors import LoadError, SaveNotFoundError, quote, quote_some
from flambe_save.formats import Contents, Damage, Format, ReadOptions, format_of
from flambe_save.inspection.nodes import SavedNode
from flambe_save.inspection.totals import Totals, add_up
from flambe_save.pt import LoadOptions, TensorInfo
from flambe_save.pt.options import default_pickle_module
from flambe_save.reading import reading
from flambe_save.registry import FORMATS
from flambe_save.storage import Store, TarStore, open_store, whole_save
from flambe_save.support.parallel import CollectionPaused
from flambe_save.support.undoing import Undoing
from flambe_save.tree import place_key, prefix_within, ties_within
from flambe_save.trust import Limits, Trust


class OpenSave(SavedNode):
    """A save open for inspection: the root component, and facts of the save as a whole.

    Used with ``with``; :func:`flambe_save.open` makes it.

    Attributes
    ----------
    path, node : str
        The arguments of :func:`flambe_save.open`.
    kind : {"folder", "archive", "pickle", "archived pickle"}
    writer : str or None
        The package and version that wrote it; None for Flambe's own saves.
    protocol : int or None
        Of a folder; None for a pickle.
    packages, tags : dict of str to str
        Versions of packages when it was saved; tag -> dotted path of its class.
    ties : list of list of str
        Groups of state keys whose tensors are one.
    digest : str or None
        ``"sha256"`` where digests were noted.
    is_vouched_for : bool
        Whether checksums cover it as a whole: in a manifest, or at the end of a pickle.
    damage : list of Damage
        The damage that is found without reading the files of components.
    size : int
        Bytes of all its files; of the whole save, also where this is a part of it.
    """

    def __init__(
        self,
        path: str,
        node: str,
        kind: str,
        contents: Contents,
        begin: str,
        closing: contextlib.ExitStack,
        options: dict[str, Any],
    ) -> None:
        super().__init__(self, "")
        self.path, self.node, self.kind = path, node, kind
        self._contents, self._begin = contents, begin
        self._closing, self._options = closing, options
        self._is_closed = False
        inner = begin + "." if begin else ""
        whole = contents.nodes
        self._prefixes = ["", *(key[len(inner) :] for key in whole if key.startswith(inner) and key != begin)]
        self._children: dict[str, list[str]] = {prefix: [] for prefix in self._prefixes}
        for prefix in self._prefixes[1:]:
            self._children[place_key(prefix, self._children)[0]].append(prefix)
        self.writer, self.protocol, self.digest = contents.writer, contents.protocol, contents.digest
        self.packages, self.tags, self.size = contents.packages, contents.tags, contents.size
        self.is_vouched_for = contents.is_vouched_for
        self.ties = ties_within(contents.ties, begin)
        self.damage = [row for row in contents.damage if not begin or f"{row.node}.".startswith(inner)]

    def __enter__(self) -> OpenSave:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the save; tensors that were read stay. A later read is a LoadError."""
        self._is_closed = True
        self._closing.close()

    def verify(self) -> list[Damage]:
        """Read every file of the save, or of this part of it, and return the damage."""
        if not self._begin:
            return list(self._whole.verify())
        return [row for node in self.walk() for row in node._part.verify()]

    def owner_of(self, key: str) -> tuple[str, str]:
        """Return the prefix of the component that a state key belongs to, and the rest of the key."""
        return place_key(key, self._children)

    @property
    def _whole(self) -> Contents:
        if self._is_closed:
            raise LoadError("the save was closed", file=self.path, fix="Open it again: flambe_save.open(path).")
        return self._contents

    def _full(self, prefix: str) -> str:
        return prefix_within(self._begin, prefix)

    @functools.cached_property
    def _class_paths(self) -> dict[str, set[str]]:
        """The dotted paths of classes by their bare names."""
        found: dict[str, set[str]] = {}
        for path in self.tags.values():
            found.setdefault(path.rpartition(".")[2], set()).add(path)
        return found

    @functools.cached_property
    def _totals(self) -> dict[str, tuple[Totals, Totals]]:
        """Totals of each component, alone and with all inside it."""
        facts: dict[str, Mapping[str, TensorInfo]] = {}
        for prefix in self._prefixes:
            try:
                facts[prefix] = self._whole.nodes[self._full(prefix)].tensors
            except LoadError:
                facts[prefix] = {}
        return add_up(facts, self.ties)


def open_save(
    path: str | os.PathLike[str],
    *,
    node: str = "",
    weights_only: bool = True,
    trusted: Iterable[str] = (),
    limits: Limits | None = None,
) -> OpenSave:
    """Open a save to inspect it: tree, texts and tensors, each read on demand.

    Nothing of it is imported, built or run, and nothing but data is unpickled. The readable parts of a damaged save can
    be inspected.

    Parameters
    ----------
    path : str or path
        A save, or any folder inside one.
    node : str
        The dotted key of a component in it, to open that alone.
    weights_only, trusted
        As :func:`load`, for values that are more than data.
    limits : Limits, optional

    Returns
    -------
    OpenSave
        A mapping of components, used with ``with``: ``save["encoder"].tensors``.

    Raises
    ------
    LoadError
        SaveNotFoundError, UnknownFormatError, ProtocolError; CorruptSaveError where nothing of it can be read.
    """
    where = os.fspath(path)
    options: dict[str, Any] = {"weights_only": weights_only, "trusted": tuple(trusted), "limits": limits}
    trust = Trust.of(weights_only, trusted, limits=limits)
    values = LoadOptions(trust, "cpu", pickle if trust.weights_only else default_pickle_module(), is_mapped=True)

    def attempt() -> OpenSave:
        root, folder = whole_save(path)
        for place in (root, path) if folder else (path,):
            with contextlib.ExitStack() as closing, CollectionPaused():
                store = closing.enter_context(open_store(place, limits))
                kind = format_of(store, where)
                contents = kind.inspect(store, ReadOptions(values, "", where))
                begin = contents.folders.get(folder) if place is not path else ""
                if begin is None:
                    continue
                begin = prefix_within(begin, node)
                if begin not in contents.nodes:
                    raise not_found(node, contents.nodes, where)
                return OpenSave(where, node, _kind(kind, store), contents, begin, closing.pop_all(), options)
        raise AssertionError("the last place is the path itself")

    with Undoing() as undoing, undoing:
        opened = reading(attempt, where)
        undoing.keep()
    return opened


def not_found(key: str, known: Iterable[str], where: str) -> SaveNotFoundError:
    """Return the error for a key that a save lacks; it names keys near it."""
    from difflib import get_close_matches

    names = [name for name in known if name]
    near = get_close_matches(key, names, n=5, cutoff=0.5)
    return SaveNotFoundError(
        f"the save has no {key!r}",
        file=where,
        fix=f"Near are: {', '.join(map(quote, near))}."
        if near
        else f"It has {quote_some(names) or 'nothing by name'}; plain values stand in the config.",
    )


def _kind(kind: Format, store: Store) -> str:
    is_archive = isinstance(store, TarStore)
    if kind is not FORMATS["directory"] and kind is FORMATS["pickle"]:  # a folder does not import the other
        return "archived pickle" if is_archive else "pickle"
    return "archive" if is_archive else "folder"
