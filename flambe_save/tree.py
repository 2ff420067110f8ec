"""SaveTreeNode: a State cut into one node per component, and joined again.

formats/ write and read the tree.

Pure: no torch, no files. :func:`tree_from_state` and :func:`state_from_tree` are inverses, but for the order of keys: a
State made from a tree lists each component's own keys before those of its children.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flambe_save.errors import CorruptSaveError
from flambe_save.layout import (
    CLASS_KEY,
    CONFIG_KEY,
    DIRECTORIES_KEY,
    KEEP_VARS_KEY,
    NO_VERSION,
    SOURCE_KEY,
    STASH_KEY,
    VERSION_KEY,
)
from flambe_save.state import State

MAX_PARTS = 10_000  # the way up from a key takes the square of this
_NODE_KEYS = (VERSION_KEY, CLASS_KEY, SOURCE_KEY, CONFIG_KEY, STASH_KEY)


class SaveTreeNode(NamedTuple):
    """One component of a save: what one folder holds.

    Attributes
    ----------
    state : State
        Its own values, by keys relative to it. ``state._metadata`` has metadata of it, and of modules inside it that
        are not components, by prefixes relative to it.
    version : str
        The class's ``_flambe_version``.
    class_name : str
        Its bare name.
    source_code : str
        The source of its class, for people; empty if not found.
    config : str
        YAML that rebuilds it; empty for a bare state.
    object_stash : Mapping
        Values that YAML cannot hold, by the ids that ``!$`` tags in the config name.
    children : dict of str to SaveTreeNode
        The components inside it, by their keys relative to it; a key holds dots where plain objects lie between.
    """

    state: State
    version: str
    class_name: str
    source_code: str
    config: str
    object_stash: Mapping[str, Any]
    children: dict[str, SaveTreeNode]

    def find(self, prefix: str) -> SaveTreeNode | None:
        """Return the node at a dotted prefix relative to this one, or None."""
        return prefixed(self).get(prefix)


def join_prefix(parent: str, key: str) -> str:
    """Return the prefix of ``key`` inside the component at ``parent``; ``""`` is the root."""
    return f"{parent}.{key}" if parent else key


def prefix_within(outer: str, inner: str) -> str:
    """Return the full prefix of ``inner``, a prefix relative to ``outer``, or "" for ``outer``."""
    return join_prefix(outer, inner) if inner else outer


def ties_within(ties: Iterable[Sequence[str]], prefix: str) -> list[list[str]]:
    """Return the groups of tied keys inside a component, relative to it, of two keys or more."""
    begin = f"{prefix}." if prefix else ""
    inside = ([key[len(begin) :] for key in group if key.startswith(begin)] for group in ties)
    return [group for group in inside if len(group) > 1]


def walk(tree: SaveTreeNode) -> Iterator[tuple[tuple[str, ...], SaveTreeNode]]:
    """Yield ``(path, node)`` for all of a tree, parents first; paths consist of children's keys."""
    stack: list[tuple[tuple[str, ...], SaveTreeNode]] = [((), tree)]
    while stack:
        path, node = stack.pop()
        yield path, node
        stack.extend(((*path, key), child) for key, child in reversed(node.children.items()))


def prefixed(tree: SaveTreeNode) -> dict[str, SaveTreeNode]:
    """Return the nodes of a tree by their prefixes, in the order of :func:`walk`."""
    return {".".join(path): node for path, node in walk(tree)}


def tree_from_state(state: Mapping[str, Any]) -> SaveTreeNode:
    """Cut a State into its components. Inverse of :func:`state_from_tree`.

    Every key goes to the node with the *longest* component prefix that leads to it. Values are shared, not copied.

    Parameters
    ----------
    state : State or mapping
        A mapping without ``_metadata`` (a bare ``state_dict``) becomes a single node.
    """
    metadata: Mapping[str, Any] = getattr(state, "_metadata", None) or {}
    prefixes = {"", *metadata.get(DIRECTORIES_KEY, ())}
    nodes = {prefix: _new_node(metadata.get(prefix, {})) for prefix in sorted(prefixes)}
    owners: dict[str, str] = {}  # what is before a key's last dot -> the component that it is in

    def place(key: str) -> tuple[SaveTreeNode, str]:
        head = key.rpartition(".")[0]
        owner = owners.get(head)
        if owner is None:
            owner = owners[head] = place_key(key, prefixes)[0]
        return nodes[owner], key[len(owner) + 1 :] if owner else key

    for prefix, node in nodes.items():  # sorted, so parents come before their children and children in order
        if prefix:
            parent, rest = place(prefix)
            parent.children[rest] = node
    for key, value in state.items():
        parent, rest = place(key)
        parent.state[rest] = value
    for prefix, local in metadata.items():
        if prefix in prefixes or prefix in (DIRECTORIES_KEY, KEEP_VARS_KEY):
            continue
        parent, rest = place(prefix)
        parent.state._metadata[rest] = local
    return nodes[""]


def state_from_tree(tree: SaveTreeNode) -> State:
    """Join a tree's nodes into one State. Inverse of :func:`tree_from_state`. Values are shared."""
    state = State()
    for prefix, node in prefixed(tree).items():
        local = dict(node.state._metadata.get("", {}))
        local |= {VERSION_KEY: node.version, CLASS_KEY: node.class_name, SOURCE_KEY: node.source_code}
        if node.config:
            local[CONFIG_KEY] = node.config
        if node.object_stash:
            local[STASH_KEY] = node.object_stash
        state._metadata[prefix] = local
        state._metadata[DIRECTORIES_KEY].add(prefix)
        for key, inner in node.state._metadata.items():
            if key not in ("", DIRECTORIES_KEY, KEEP_VARS_KEY):
                state._metadata[join_prefix(prefix, key)] = inner
        for key, value in node.state.items():
            state[join_prefix(prefix, key)] = value
    return state


def _new_node(local: Mapping[str, Any]) -> SaveTreeNode:
    state = State()
    state._metadata[""] = {key: value for key, value in local.items() if key not in _NODE_KEYS}
    return SaveTreeNode(
        state=state,
        version=local.get(VERSION_KEY, NO_VERSION),
        class_name=local.get(CLASS_KEY, ""),
        source_code=local.get(SOURCE_KEY, ""),
        config=local.get(CONFIG_KEY, ""),
        object_stash=local.get(STASH_KEY, {}),
        children={},
    )


def place_key(key: str, prefixes: Container[str]) -> tuple[str, str]:
    """Return the longest proper component prefix of ``key``, and the rest of it.

    A key that is itself a component's prefix names a value beside that component, not inside it.
    """
    if key.count(".") > MAX_PARTS:
        raise CorruptSaveError(f"a key of more than {MAX_PARTS} parts: {key[:80]!r}...")
    end = len(key)
    while (end := key.rfind(".", 0, end)) > 0:
        if key[:end] in prefixes:
            return key[:end], key[end + 1 :]
    return "", key
