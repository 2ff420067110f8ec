"""Writer: the state of one config while it is written, and the nodes that need nothing else.

stashing.py adds pickled values to it, linking.py references, and represent.py all other values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import yaml as pyyaml

from flambe_save.classes.tags import TAGS, written_path
from flambe_save.config.scalars import PLAIN, has_plain_offset
from flambe_save.describing.known import KNOWN
from flambe_save.describing.stored_tensors import Inside, StoredTensors, inside_of
from flambe_save.errors import UnsupportedObjectError
from flambe_save.objects.arguments import Trail, keys_of
from flambe_save.objects.structural import POINTERS
from flambe_save.support.trampoline import Steps, run


class NoReferenceError(UnsupportedObjectError):
    """A reference that no link can express: to an object around it, or to one outside the save."""


class Written:
    """Nodes that the configs of one save share, so that each component is represented once.

    A node that depends on the root of its config, or on its stash, belongs to that config alone.
    """

    def __init__(self) -> None:
        self.nodes: dict[int, pyyaml.Node] = {}  # by the ids of values
        self.shared: dict[int, pyyaml.Node] = {}  # these by their own ids, and those of which there is a newer one
        self.unsaid: set[tuple[int, str]] = set()  # (id of object, attribute) that no config can hold
        self.referred: set[int] = set()  # the ids of tensors that are referred to
        self.keyed: set[int] = set()  # those that are referred to by their keys in the state
        self.alive: list[Any] = []  # ids are only unique while their objects live
        # By the ids of nodes, beside which the nodes are kept
        self.tags: dict[int, tuple[pyyaml.Node, Mapping[str, str]]] = {}  # tag -> dotted path of its class
        self.extensions: dict[int, tuple[pyyaml.Node, dict[str, str]]] = {}  # module -> its pip requirement
        self.defaults: dict[int, pyyaml.Node] = {}  # they are indented as if nothing were around them
        self._meanings: dict[tuple[str, type], dict[str, str]] = {}
        # And of the shared nodes, and all in them
        self.surveys: dict[int, Any] = {}
        self.parents: dict[int, int] = {}
        self.pieces: dict[int, str | None] = {}  # their texts in one line, where all is indented around them

    def share(self, value: Any, node: pyyaml.Node) -> None:
        """Keep the node of a value for other configs."""
        self.nodes[id(value)] = node
        self.shared[id(node)] = node

    def note(self, node: pyyaml.Node, tag: str, cls: type) -> None:
        """Note the class that a node's tag means."""
        meaning = self._meanings.get((tag, cls))
        if meaning is None:
            meaning = self._meanings[tag, cls] = {tag: written_path(cls)}
        _, inner = self.tags.get(id(node), (node, None))  # of one that a to_yaml has passed on
        self.tags[id(node)] = node, meaning if inner is None else {**meaning, **inner}
        if id(node) in self.surveys and not meaning.items() <= self.surveys[id(node)].tags.items():
            self.surveys.clear()
            self.parents.clear()


class Context(NamedTuple):
    """The surroundings of the value that is being written.

    Attributes
    ----------
    in_arguments : bool
        True in the arguments of a constructor.
    calls : tuple of int
        For each call around it that may look at its arguments, the number of values that were open when it began.
    owner : object
        The object whose attributes are being written.
    is_loose : bool
        True in attributes and changes: they may refer to objects that are elsewhere.
    is_in_list : bool
        True in one of torch's containers of parameters.
    is_reached : bool
        False in values that only a pickle refers to.
    in_attribute : bool
        True in an attribute of an object.
    """

    in_arguments: bool = False
    calls: tuple[int, ...] = ()
    owner: Any = None
    is_loose: bool = False
    is_in_list: bool = False
    is_reached: bool = True
    in_attribute: bool = False


class Writer:
    """Base of the Representer; its parameters are described there."""

    def __init__(
        self,
        root: Any,
        stash: dict[str, Any] | None = None,
        stored: StoredTensors | None = None,
        written: Written | None = None,
        *,
        has_references: bool = True,
    ) -> None:
        self.stash = stash
        self._has_references = has_references
        self._stored = stored or StoredTensors()
        self._tied = KNOWN.get().tied
        self._written = written or Written()
        self._root = root
        self._nodes: dict[int, pyyaml.Node] = {}  # of values that only this config writes so
        self._own = 0  # the number of times that something was written that only this config writes so
        self._inside: Inside | None = None
        self._open: dict[int, Any] = {}  # by their ids, the values that are being written, the outermost first
        self._context = Context()

    def represent_data(self, value: Any, path: Trail = None) -> pyyaml.Node:
        """Return the node of any value; the same object gives the same node, hence an anchor.

        Raises
        ------
        UnsupportedObjectError
            If YAML cannot hold it and there is no stash; the message names the path inside the object.
        """
        return cast(pyyaml.Node, run(self._data(value, path)))

    def represent_scalar(self, tag: str, text: str) -> pyyaml.Node:
        """Return a scalar node with a tag such as ``!ns.Class``."""
        return pyyaml.ScalarNode(tag, text)

    def _data(self, value: Any, path: Trail) -> Steps:
        """Make the steps of :meth:`represent_data`."""
        raise NotImplementedError

    def _known(self, value: Any) -> pyyaml.Node | None:
        """Return the node of a plain value, or of one that is written already; None for others."""
        kind = type(value)
        make = PLAIN.get(kind)
        if make is None:
            if kind in POINTERS:
                return None  # its node depends on the place
            node = self._written.nodes.get(id(value))
            if node is None and (node := self._nodes.get(id(value))) is not None:
                self._own += 1
            return node
        if has_plain_offset(value):
            try:
                return cast(pyyaml.Node, make(value))
            except ValueError:  # a number of too many digits
                return None
        return None

    def _null(self) -> pyyaml.Node:
        """Return null for a value that only this config leaves out."""
        self._own += 1
        return self.represent_data(None)

    def _contents(self) -> Inside:
        """Return the objects inside the root, which is walked once."""
        if self._inside is None:
            self._inside = inside_of(self._root)
        return self._inside

    def _say(self, path: Trail) -> str:
        """Return a path for a message: ``model.layers[3].hook``."""
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys_of(path))
        return text.removeprefix(".") or f"the {type(self._root).__qualname__} itself"

    def _tag(self, cls: type, factory: str | None, created_with: str | None) -> str:
        """Return the tag of a class; the one that it was read with, if that still means it."""
        return created_with if created_with and TAGS.means(created_with, cls, factory) else TAGS.tag_of(cls, factory)

    def _noted(self, node: pyyaml.Node, tag: str, cls: type) -> pyyaml.Node:
        """Return the node, and note the class that its tag means."""
        self._written.note(node, tag, cls)
        return node
