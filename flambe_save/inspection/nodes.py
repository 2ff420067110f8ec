"""SavedNode, a component of an open save, and SavedValues, its contents, read on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flambe_save.errors import CorruptSaveError, LoadError, UntrustedError, quote, quote_some
from flambe_save.formats import Damage, NodeContents
from flambe_save.inspection.humanize import count_of, one_line, size_of
from flambe_save.inspection.totals import Totals
from flambe_save.layout import STASH_FILE, STATE_FILE
from flambe_save.pt import MapLocation, TensorInfo, is_tensor
from flambe_save.registry import late
from flambe_save.tree import place_key, prefix_within

if TYPE_CHECKING:
    import torch

    from flambe_save.codecs import LazyValues
    from flambe_save.inspection.measures import Statistics
    from flambe_save.inspection.opening import OpenSave
    from flambe_save.pt.elements import Array

_load = late("flambe_save.api:load")
_MOST_SHOWN = 500  # components in a notebook


class SavedValues(Mapping[str, Any]):
    """Named values of a save, each read when it is asked for and not kept.

    A value that is more than data raises an UntrustedError, unless the save was opened with that trust.
    """

    def __init__(self, node: SavedNode, file: str) -> None:
        self._node, self._file = node, file

    @property
    def _part(self) -> NodeContents:
        return self._node._part  # raises an error once the save is closed

    def _outline(self) -> LazyValues:
        return self._part.state if self._file == STATE_FILE else self._part.stash

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
        return iter(self.types())

    def __len__(self) -> int:
        return len(self.types())

    @property
    def digest(self) -> str:
        """The SHA-256 of the file that holds them."""
        return self._part.digest(self._file)

    def types(self) -> dict[str, str]:
        """Return the name of each value's type; nothing is read or trusted for it."""
        dense = self._part.dense(self._file)
        if dense is not None:
            return dict.fromkeys(dense.tensors, "torch.Tensor")
        from flambe_save.codecs import type_name  # which knows torch's classes

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
        """Values that only a trusting load reads, a sentence each, as far as the save lists them."""
        return self._part.needs_trust

    # -------------------------------------------------------------------------------------------- what it holds

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The dtype, shape, bytes and device of each tensor of its own state; none is read."""
        return self._part.tensors

    @property
    def state(self) -> SavedValues:
        """The values of its own state; each is read when it is asked for, and has memory of its own."""
        return SavedValues(self, STATE_FILE)

    @property
    def stash(self) -> SavedValues:
        """Values that YAML cannot hold, by their ids; a value that is more than data needs trust."""
        return SavedValues(self, STASH_FILE)

    @property
    def own(self) -> Totals:
        """Totals of the component itself."""
        return self._save._totals[self.prefix][0]

    @property
    def total(self) -> Totals:
        """Totals of the component with all inside it."""
        return self._save._totals[self.prefix][1]

    def statistics(self, name: str, *, advance: Callable[[int], None] = lambda count: None) -> Statistics:
        """Read a tensor, a piece at a time, and return its statistics.

        Parameters
        ----------
        name : str
            A key of :attr:`tensors`.
        advance : callable
            Called with counts of bytes that were read.

        Raises
        ------
        KeyError
            If there is no such tensor.
        LoadError
            If it is damaged.
        TypeError
            If its elements are not numbers in a row: a sparse tensor, or one of packed types.
        MissingDependencyError
            If numpy is not installed.
        """
        from flambe_save.inspection.measures import statistics_module

        counting = statistics_module()
        info = self._countable(name)
        size = (info.bytes or 0) // (info.elements or 1)
        try:
            found: Statistics = counting.measure(
                lambda: self._elements(name, counting.PIECE), lambda count: advance(count * size)
            )
        except NotImplementedError as error:
            raise TypeError(f"{quote(name)} has no statistics: {error}") from error
        return found

    def pieces(self, name: str, most: int) -> Iterator[torch.Tensor]:
        """Yield a tensor's elements in order, in flat tensors of at most ``most`` elements.

        They may share the save's memory, and must not be written to. Errors are those of :meth:`statistics`.
        """
        self._countable(name)
        return self._part.state.pieces(name, most)

    def _elements(self, name: str, most: int) -> Iterator[Array]:
        """Yield the pieces of a tensor as numpy arrays, without torch if the file is dense."""
        self._countable(name)
        part = self._part
        return (part.dense(STATE_FILE) or part.state).elements(name, most)

    def _countable(self, name: str) -> TensorInfo:
        """Return the facts of a tensor: its elements are in a row, and the manifest agrees."""
        part = self._part
        listed, held = part.tensors, part.dense(STATE_FILE) or part.state
        found = held.tensors.get(name)
        if found is None and name not in listed:
            raise KeyError(name)
        if found is None and name in self.state.types():  # a tensor of a class that needs trust
            value = part.state.read(name)
            found = TensorInfo.of(value, None) if is_tensor(value) else None
        if found is None or name not in listed or found[:3] != listed[name][:3]:
            raise CorruptSaveError(
                f"the manifest does not say of {quote(name)} what is in {STATE_FILE}", node=self.prefix, file=STATE_FILE
            )
        if not found.is_countable:
            raise TypeError(f"{quote(name)} is sparse, or a meta tensor, and has no elements in a row")
        return found

    def load(self, map_location: MapLocation = None, **options: Any) -> Any:
        """Load this component as :func:`flambe_save.load` does, with the trust of the open save.

        Parameters
        ----------
        map_location, **options
            Those of :func:`flambe_save.load`.
        """
        save = self._save
        return _load(
            save.path, map_location, node=prefix_within(save.node, self.prefix), **{**save._options, **options}
        )

    def verify(self) -> list[Damage]:
        """Read this component's own files and return the damage."""
        return list(self._part.verify())

    # -------------------------------------------------------------------------------------------- for people

    def __repr__(self) -> str:
        key = prefix_within(self._save.node, self.prefix)
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


def _escaped(text: str) -> str:
    import html

    return html.escape(one_line(text))
