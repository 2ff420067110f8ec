"""open(): a save as a read-only mapping of its components, each part read when it is asked for."""

from __future__ import annotations

import contextlib
import functools
import html
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import TracebackType
from typing import Any, NamedTuple

import torch

from flambe_save.api import load
from flambe_save.codecs import DumpOptions, HeldOutline, LoadOptions, MapLocation, TensorInfo, type_name
from flambe_save.errors import CorruptSaveError, LoadError, SaveNotFoundError, UntrustedError, quote, quote_some
from flambe_save.formats import Contents, Damage, Format, NodeContents, ReadOptions, format_of
from flambe_save.inspection.statistics import PIECE, Statistics, measure
from flambe_save.inspection.text import count_of, one_line, size_of
from flambe_save.layout import STATE_FILE
from flambe_save.loading import reading
from flambe_save.parallel import CollectionPaused
from flambe_save.registry import FORMATS
from flambe_save.storage import Store, TarStore, open_store, whole_save
from flambe_save.tree import MAX_PARTS, join_prefix, place_key
from flambe_save.trust import Limits, Trust

__all__ = ["OpenSave", "SavedNode", "SavedValues", "Totals", "not_found", "open_save"]

_MOST_SHOWN = 500  # components in a notebook


class Totals(NamedTuple):
    """What components hold together; tensors that are one count once.

    Attributes
    ----------
    tensors, parameters, bytes : int
        Tensors, their elements, and the bytes of these. Buffers, and what optimizers keep, count as parameters do: a
        save does not tell them apart.
    dtypes, devices : tuple of str
        Of the tensors, sorted.
    """

    tensors: int
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]
    devices: tuple[str, ...]


class SavedValues(Mapping[str, Any]):
    """Named values of a save, each read when it is asked for and not kept.

    Asking for one that is more than data raises an UntrustedError, unless the save was opened with that trust.
    """

    def __init__(self, outline: Callable[[], HeldOutline]) -> None:
        self._outline = outline

    def __getitem__(self, name: str) -> Any:
        outline = self._outline()
        if name not in outline.values and name not in outline.tensors:
            raise KeyError(name)
        try:
            return outline.read(name)
        except UntrustedError as error:
            error.fix = error.fix and error.fix.replace("load(...", "flambe_save.open(...")
            raise

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __iter__(self) -> Iterator[str]:
        outline = self._outline()
        return iter([*outline.tensors, *outline.values])

    def __len__(self) -> int:
        outline = self._outline()
        return len(outline.tensors) + len(outline.values)

    @property
    def digest(self) -> str | None:
        """The SHA-256 of the file that holds them, where they are a file."""
        return self._outline().digest

    def types(self) -> dict[str, str]:
        """Return the name of each value's type; nothing is read or trusted for it."""
        outline = self._outline()
        return dict.fromkeys(outline.tensors, "torch.Tensor") | {
            name: type_name(value) for name, value in outline.values.items()
        }

    def __repr__(self) -> str:
        names = quote_some([*self])
        return f"<{count_of(len(self), 'value')}{': ' if names else ''}{names}>"


class SavedNode(Mapping[str, "SavedNode"]):
    """A component of an open save; a mapping of the components inside it.

    ``node[key]`` takes the key of any component inside, however deep, relative to this one: ``"encoder.rnn"``.
    Iterating gives the keys of those right inside. A node is true even where none is inside it.

    Attributes
    ----------
    prefix : str
        Its dotted key in the save; ``""`` is the root.
    """

    def __init__(self, save: OpenSave, prefix: str) -> None:
        self._save = save
        self.prefix = prefix

    @property
    def _part(self) -> NodeContents:
        return self._save._whole.nodes[self._save._full(self.prefix)]

    # -------------------------------------------------------------------------------------------- the tree

    def __getitem__(self, key: str) -> SavedNode:
        prefix = f"{self.prefix}.{key}" if self.prefix else key
        if prefix not in self._save._children or prefix == self.prefix:
            raise KeyError(key)
        return SavedNode(self._save, prefix)

    def _ipython_key_completions_(self) -> list[str]:
        return [node.prefix[len(self.prefix) :].lstrip(".") for node in self.walk() if node.prefix != self.prefix]

    def __iter__(self) -> Iterator[str]:
        begin = len(self.prefix) + 1 if self.prefix else 0
        return (prefix[begin:] for prefix in self._save._children[self.prefix])

    def __len__(self) -> int:
        return len(self._save._children[self.prefix])

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SavedNode) and self._save is other._save and self.prefix == other.prefix

    def __hash__(self) -> int:
        return hash((id(self._save), self.prefix))

    @property
    def parent(self) -> SavedNode | None:
        """The component that it is right inside; None for the root."""
        return SavedNode(self._save, place_key(self.prefix, self._save._children)[0]) if self.prefix else None

    def walk(self) -> Iterator[SavedNode]:
        """Yield this component and all inside it, parents first."""
        stack = [self.prefix]
        while stack:
            prefix = stack.pop()
            yield SavedNode(self._save, prefix)
            stack.extend(reversed(self._save._children[prefix]))

    # -------------------------------------------------------------------------------------------- what it is

    @property
    def class_name(self) -> str:
        """The bare name of its class; empty for a bare state."""
        return self._part.class_name

    @property
    def class_path(self) -> str | None:
        """The dotted path of its class, where the save tells."""
        paths = self._save._class_paths.get(self.class_name, set())
        return next(iter(paths)) if len(paths) == 1 else None

    @property
    def version(self) -> str:
        """The version of its class when it was saved."""
        return self._part.version

    @property
    def config(self) -> str:
        """The YAML that rebuilds it; empty where only its state is known."""
        return self._part.config

    @property
    def source(self) -> str:
        """The source code of its class when it was saved, for people; empty where none was found."""
        return self._part.source

    @property
    def needs_trust(self) -> list[str]:
        """What in it only a trusting load reads, a sentence each, as far as the save says that."""
        return self._part.needs_trust

    # -------------------------------------------------------------------------------------------- what it holds

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The dtype, shape, bytes and device of each tensor of its own state; none is read."""
        return self._part.tensors

    @property
    def state(self) -> SavedValues:
        """The values of its own state; a tensor is read when it is asked for.

        Tensors of a folder share memory with its files, privately: what is changed in them changes no file.
        """
        return SavedValues(lambda: self._part.state)

    @property
    def stash(self) -> SavedValues:
        """What YAML cannot hold, by its ids; a value that is more than data needs trust."""
        return SavedValues(lambda: self._part.stash)

    @property
    def own(self) -> Totals:
        """What it holds itself."""
        return self._save._totals[self.prefix][0]

    @property
    def total(self) -> Totals:
        """What it holds with all inside it."""
        return self._save._totals[self.prefix][1]

    def statistics(self, name: str, *, advance: Callable[[int], None] = lambda count: None) -> Statistics:
        """Read a tensor, a piece at a time, and return its statistics.

        Parameters
        ----------
        name : str
            A key of :attr:`tensors`.
        advance : callable
            Told of the bytes that were read.

        Raises
        ------
        KeyError
            If there is no such tensor.
        LoadError
            If it is damaged.
        TypeError
            If its elements are not numbers in a row: a sparse tensor, or one of packed types.
        """
        outline = self._outline_of(name)
        try:
            return measure(lambda: outline.pieces(name, PIECE), advance)
        except NotImplementedError as error:
            raise TypeError(f"torch does not count in {outline.tensors[name].dtype}: {error}") from error

    def pieces(self, name: str, most: int) -> Iterator[torch.Tensor]:
        """Yield a tensor's elements in their order, as flat tensors of ``most`` of them, so that it need not fit.

        Parameters
        ----------
        name : str
            A key of :attr:`tensors`.
        most : int

        Raises
        ------
        KeyError
            If there is no such tensor.
        LoadError
            If it is damaged.
        TypeError
            If its elements are not in a row: a sparse tensor.
        """
        return self._outline_of(name).pieces(name, most)

    def _outline_of(self, name: str) -> HeldOutline:
        """Return the outline that has a dense tensor, which is the one that the save lists."""
        part = self._part
        listed, outline = part.tensors, part.state
        found = outline.tensors.get(name)
        if found is None and name not in listed:
            raise KeyError(name)
        if found is None and name in outline.values:  # a tensor of a class that needs trust
            value = outline.read(name)
            found = TensorInfo.of(value, None) if isinstance(value, torch.Tensor) else None
        if found is None or name not in listed or found[:3] != listed[name][:3]:
            raise CorruptSaveError(
                f"the manifest does not say of {quote(name)} what is in {STATE_FILE}", node=self.prefix, file=STATE_FILE
            )
        if not found.is_countable:
            raise TypeError(f"{quote(name)} is sparse, or a meta tensor, and has no elements in a row")
        return outline

    def load(self, map_location: MapLocation = None, **options: Any) -> Any:
        """Load this component as :func:`flambe_save.load` does, with the trust that the save was opened with.

        Parameters
        ----------
        map_location, **options
            Those of :func:`flambe_save.load`.
        """
        save = self._save
        node = ".".join(key for key in (save.node, self.prefix) if key)
        return load(save.path, map_location, node=node, **{**save._options, **options})

    def verify(self) -> list[Damage]:
        """Read this component's own files and return what is damaged."""
        return list(self._part.verify())

    # -------------------------------------------------------------------------------------------- for people

    def __repr__(self) -> str:
        key = ".".join(part for part in (self._save.node, self.prefix) if part)
        where = f"{quote(key)} of {quote(self._save.path)}" if key else quote(self._save.path)
        return f"<{type(self).__name__} {where}: {self._describe()}>"

    def _describe(self) -> str:
        if self._save._is_closed:
            return "closed"
        try:
            name, total = one_line(f"{self.class_name or 'a state'} {self.version}"), self.total
        except LoadError as error:
            return f"damaged: {one_line(error.message)}"
        inside = f", {count_of(len(self), 'component')} inside" if len(self) else ""
        return f"{name}{inside}, {count_of(total.parameters, 'parameter')}, {size_of(total.bytes)}"

    def _repr_html_(self) -> str:
        """Return a collapsible tree, for notebooks."""
        left = _MOST_SHOWN
        parts = ["<ul>"]
        stack: list[SavedNode | None] = [self]  # None ends what was begun; a recursion could go too deep
        while stack:
            node = stack.pop()
            if node is None:
                parts.append("</ul></details></li>")
            elif left:
                left -= 1
                parts.append(node._begin_html(is_open=node.prefix == self.prefix))
                stack += [None, *reversed([node[child] for child in node])]
        more = sum(1 for _ in self.walk()) - _MOST_SHOWN
        return "".join(parts) + "</ul>" + (f"<p>... and {count_of(more, 'more component')}</p>" if more > 0 else "")

    def _begin_html(self, *, is_open: bool) -> str:
        key = self.prefix.rpartition(".")[2] or os.path.basename(self._save.path)
        head = f"<b>{_escaped(key)}</b> {_escaped(self._describe())}"
        try:
            tensors = [*self.tensors.items()][:_MOST_SHOWN]
        except LoadError:
            tensors = []
        rows = "".join(
            f"<li><code>{_escaped(name)}</code> {_escaped(info.dtype)} {list(info.shape)}</li>"
            for name, info in tensors
        )
        return f"<li><details{' open' if is_open else ''}><summary>{head}</summary><ul>{rows}"


class OpenSave(SavedNode):
    """A save that is open for looking into: the root component, and what the save says as a whole.

    Used with ``with``; :func:`flambe_save.open` makes it.

    Attributes
    ----------
    path, node : str
        As they were given.
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
        What is known to be damaged without reading the files of components.
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
        ties = ([key[len(inner) :] for key in group if key.startswith(inner)] for group in contents.ties)
        self.ties = [group for group in ties if len(group) > 1]
        self.damage = [row for row in contents.damage if not begin or f"{row.node}.".startswith(inner)]

    def __enter__(self) -> OpenSave:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the save; tensors that were read stay, and what is asked for afterwards is a LoadError."""
        self._is_closed = True
        self._closing.close()

    def verify(self) -> list[Damage]:
        """Read every file of the save, or of this part of it, and return what is damaged."""
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
        return join_prefix(self._begin, prefix) if prefix else self._begin

    @functools.cached_property
    def _class_paths(self) -> dict[str, set[str]]:
        """The dotted paths of classes by their bare names."""
        found: dict[str, set[str]] = {}
        for path in self.tags.values():
            found.setdefault(path.rpartition(".")[2], set()).add(path)
        return found

    @functools.cached_property
    def _totals(self) -> dict[str, tuple[Totals, Totals]]:
        """What each component holds by itself, and with all inside it."""
        own = {prefix: _Tally() for prefix in self._prefixes}
        facts: dict[str, Mapping[str, TensorInfo]] = {}
        for prefix, tally in own.items():
            try:
                facts[prefix] = self._whole.nodes[self._full(prefix)].tensors
            except LoadError:
                facts[prefix] = {}
            for info in facts[prefix].values():
                tally.add(info)
        total = {prefix: _Tally() for prefix in self._prefixes}
        for prefix, tally in own.items():
            total[prefix].join(tally)
        above = {prefix: place_key(prefix, self._children)[0] for prefix in self._prefixes[1:]}
        for prefix in sorted(above, key=lambda prefix: -prefix.count(".")):
            total[above[prefix]].join(total[prefix])
        counted: set[tuple[str, str]] = set()
        for group in self.ties:
            places = dict.fromkeys(place_key(key, self._children) for key in group if key.count(".") <= MAX_PARTS)
            found = [(prefix, facts[prefix][key]) for prefix, key in places if key in facts[prefix]]
            tied = found[0][1] if found else None
            if tied is None or not counted.isdisjoint(places) or any(info != tied for _, info in found):
                continue  # what a manifest says that contradicts itself
            counted.update(places)
            members: dict[str, int] = {}
            for prefix, count in Counter(prefix for prefix, _ in found).items():
                own[prefix].add(tied, 1 - count)
                while True:
                    members[prefix] = members.get(prefix, 0) + count
                    if not prefix:
                        break
                    prefix = above[prefix]
            for prefix, count in members.items():
                total[prefix].add(tied, 1 - count)
        return {prefix: (own[prefix].totals(), total[prefix].totals()) for prefix in self._prefixes}


def _escaped(text: str) -> str:
    return html.escape(one_line(text))


class _Tally:
    """Adds tensors up."""

    def __init__(self) -> None:
        self.tensors = self.parameters = self.bytes = 0
        self.dtypes: set[str] = set()
        self.devices: set[str] = set()

    def add(self, info: TensorInfo, times: int = 1) -> None:
        self.tensors += times
        self.parameters += times * info.elements
        self.bytes += times * (info.bytes or 0)
        self.dtypes.add(info.dtype)
        if info.device is not None:
            self.devices.add(info.device)

    def join(self, other: _Tally) -> None:
        self.tensors += other.tensors
        self.parameters += other.parameters
        self.bytes += other.bytes
        self.dtypes |= other.dtypes
        self.devices |= other.devices

    def totals(self) -> Totals:
        return Totals(
            self.tensors, self.parameters, self.bytes, tuple(sorted(self.dtypes)), tuple(sorted(self.devices))
        )


def open_save(
    path: str | os.PathLike[str],
    *,
    node: str = "",
    weights_only: bool = True,
    trusted: Iterable[str] = (),
    limits: Limits | None = None,
) -> OpenSave:
    """Open a save for looking into it: its tree, texts and tensors, each read when it is asked for.

    Nothing of it is imported, built or run, and nothing but data is unpickled. What is readable of a damaged save can
    be looked at.

    Parameters
    ----------
    path : str or path
        A save, or any folder inside one.
    node : str
        The dotted key of a component in it, to open that alone.
    weights_only, trusted
        As :func:`load`: what may be unpickled where a value is asked for that is more than data.
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
    values = LoadOptions(trust, "cpu", DumpOptions.pickle_module, is_mapped=True)

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
                begin = join_prefix(begin, node) if node else begin
                if begin not in contents.nodes:
                    raise not_found(node, contents.nodes, where)
                return OpenSave(where, node, _kind(kind, store), contents, begin, closing.pop_all(), options)
        raise AssertionError("the last place is the path itself")

    return reading(attempt, where)


def not_found(key: str, known: Iterable[str], where: str) -> SaveNotFoundError:
    """Make the error for a key that a save has not; it names what is near."""
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
    if kind is FORMATS["pickle"]:
        return "archived pickle" if is_archive else "pickle"
    return "archive" if is_archive else "folder"
