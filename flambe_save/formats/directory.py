"""Folder layout: six files per component, Flambe's protocol 1, and a manifest at the root."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flambe_save.errors import (
    CorruptSaveError,
    FlambeSaveError,
    LoadError,
    SaveNotFoundError,
    UncheckedSaveWarning,
    quote,
    warn,
)
from flambe_save.formats.folders import FolderContents
from flambe_save.formats.manifest import HAS_MANIFEST, Manifest, find_ties, packages, requirements, tensor_facts
from flambe_save.formats.nodes import NodeReader
from flambe_save.formats.plan import FileStats, Plan
from flambe_save.formats.reading import Damage, ReadOptions, Saved
from flambe_save.layout import (
    CARD_FILES,
    CONFIG_FILE,
    ESCAPED_PROTOCOL,
    KEY_KEY,
    MANIFEST_FILE,
    NODE_FILES,
    PROTOCOL,
    PROTOCOL_FILE,
    REQUIREMENTS_FILE,
    ROOT_FILES,
    SOURCE_FILE,
    STASH_FILE,
    STATE_FILE,
    TAGS_KEY,
    VERSION_FILE,
    decode_name,
    encode_name,
    same_on_some_disk,
)
from flambe_save.pt import Draft, DumpOptions, is_tensor
from flambe_save.registry import CODECS
from flambe_save.storage import Store
from flambe_save.tree import SaveTreeNode, join_prefix, place_key, prefix_within, prefixed, ties_within, walk

if TYPE_CHECKING:
    import torch


class DirectoryFormat:
    """A tree as nested folders."""

    file_names = (*NODE_FILES, *ROOT_FILES)

    def sniff(self, names: Sequence[str]) -> bool:
        """Whether the root of the names holds a node's files, or most of them."""
        return len(set(NODE_FILES) & set(names)) >= len(NODE_FILES) // 2

    # -------------------------------------------------------------------------------------------- writing

    def plan(self, root: SaveTreeNode, options: DumpOptions) -> Plan:
        """Plan every node's files, and the manifest."""
        folders = _folders_of(root)
        nodes = [(path, folders[path], node) for path, node in walk(root)]
        escaped = any(path and _last(folder) != path[-1] for path, folder, _ in nodes)
        manifest = Manifest(protocol=ESCAPED_PROTOCOL if escaped else PROTOCOL)
        plan = Plan(digest=options.digest, opaque=manifest.needs_trust)
        texts: dict[str, Draft] = {}  # classes and sources repeat
        facts: dict[Any, dict[str, Any]] = {}  # of tensors
        values: list[tuple[str, Any]] = []
        for path, folder, node in nodes:
            prefix = ".".join(path)
            try:
                self._plan_node(node, path, folder, manifest, plan, options, texts)
            except FlambeSaveError as error:
                error.locate(node=prefix)
                raise
            manifest.nodes[prefix] = {
                "folder": folder[:-1],
                "class": node.class_name,
                "version": node.version,
                "tensors": tensor_facts(node.state, facts),
            }
            manifest.tags |= node.state._metadata.get("", {}).get(TAGS_KEY, {})
            values += [(join_prefix(prefix, key), value) for key, value in node.state.items()]
        manifest.tags = dict(sorted(manifest.tags.items()))
        manifest.ties = find_ties(values)
        manifest.packages = dict(options.packages or packages(manifest.tags.values()))
        plan.files[REQUIREMENTS_FILE] = Draft((options.requirements or requirements()).encode())

        def seal(facts: Mapping[str, FileStats]) -> tuple[str, bytes]:
            manifest.add_files(facts)
            return MANIFEST_FILE, manifest.to_json()

        plan.seal = seal
        return plan

    def _plan_node(
        self,
        node: SaveTreeNode,
        path: tuple[str, ...],
        folder: str,
        manifest: Manifest,
        plan: Plan,
        options: DumpOptions,
        drafts: dict[str, Draft],
    ) -> None:
        from flambe_save.codecs import dump_referring  # which needs torch, as only who writes does

        values = OrderedDict(node.state)
        metadata = {key: dict(local) for key, local in node.state._metadata.items() if isinstance(local, Mapping)}
        metadata.get("", {}).pop(TAGS_KEY, None)  # the manifest's
        if path and _last(folder) != path[-1] and decode_name(_last(folder)) is None:
            metadata.setdefault("", {})[KEY_KEY] = path[-1]
        values._metadata = metadata  # type: ignore[attr-defined]
        for name, content in ((STATE_FILE, values), (STASH_FILE, node.object_stash)):
            try:
                opaque: list[str] = []
                if name == STASH_FILE:
                    content, opaque, pickles = dump_referring(content, options)
                    plan.referring += [(folder + name, data) for data in pickles]
                draft = plan.files[folder + name] = CODECS["pt"].dump(content, options)
            except FlambeSaveError as error:
                error.locate(file=folder + name)
                raise
            manifest.needs_trust += [f"{folder}{name}: {sentence}" for sentence in (*draft.opaque, *opaque)]
        texts = {
            VERSION_FILE: f"{node.class_name}:{node.version}",
            SOURCE_FILE: node.source_code,
            CONFIG_FILE: node.config,
            PROTOCOL_FILE: str(manifest.protocol),
        }
        for name, text in texts.items():
            if text not in drafts:
                drafts[text] = Draft(text.encode())
            plan.files[folder + name] = drafts[text]

    # -------------------------------------------------------------------------------------------- reading

    def read(self, store: Store, options: ReadOptions) -> Saved:
        """Read the nodes; the manifest's entries are checked for the nodes that are read."""
        names = _own_names(store)
        return self._read(store, names, _manifest_of(store, names), options)

    def read_folder(self, store: Store, folder: str, options: ReadOptions) -> Saved | None:
        """Read the component in a folder of a save, and all below it.

        None where the manifest knows no such folder.

        Raises
        ------
        CorruptSaveError
            If the manifest cannot be read.
        """
        manifest = _manifest_of(store, [MANIFEST_FILE])
        nodes = manifest.nodes.items() if manifest is not None else ()
        prefix = next((prefix for prefix, node in nodes if node["folder"] == folder), None)
        if prefix is None:
            return None
        node = prefix_within(prefix, options.node)
        return self._read(store, _own_names(store), manifest, replace(options, node=node))

    def _read(self, store: Store, names: Sequence[str], manifest: Manifest | None, options: ReadOptions) -> Saved:
        part = manifest.folders.get(options.node, "") if manifest is not None and options.node else ""
        if part:  # others may be missing: hubs and object stores give single folders
            names = [name for name in names if name.startswith(part)]
        if manifest is not None:
            manifest.check_names(names, part)
        elif _had_manifest(store, names):
            warn(
                f"{quote(options.where)} has lost its {MANIFEST_FILE}: its files are checked only by themselves, and "
                "tensors that were one are so no more, unless the constructors make them so",
                UncheckedSaveWarning,
            )
        reader = NodeReader(store, manifest, options.values)
        keys = reader.keys_of(names, around=_keys_around(part, options.node, manifest) if part else {})
        top = _find_folder(keys, options)
        built: dict[str, SaveTreeNode] = {}
        folders = sorted(folder for folder in keys if folder.startswith(top))
        if options.values.progress.is_on:
            options.values.progress.begin(reader.size_of(folder + name for folder in folders for name in NODE_FILES))
        for folder in folders:
            node = built[folder] = reader.node(folder, keys[folder])
            if folder != top:
                parent = _parent(folder, built)
                built[parent].children[_relative(keys[parent], keys[folder])] = node
        ties, tags, saved_with, digest = [], {}, {}, None
        if manifest is not None:
            tags, saved_with = manifest.tags, manifest.packages
            digest = manifest.digest
            built[top].state._metadata[""][TAGS_KEY] = tags
            ties = ties_within(manifest.ties, options.node)
        saved = Saved(built[top], ties, tags, manifest is not None, saved_with, digest)
        _restore_ties(saved)
        return saved

    def inspect(self, store: Store, options: ReadOptions) -> FolderContents:
        """Inspect the manifest, or, without one, the names of the files."""
        names = _own_names(store)
        manifest, damage = None, []
        try:
            manifest = _manifest_of(store, names)
        except LoadError as error:
            damage.append(Damage("", MANIFEST_FILE, f"{error.message}; other files are checked only by themselves"))
        if manifest is None and MANIFEST_FILE not in names and _had_manifest(store, names):
            damage.append(Damage("", MANIFEST_FILE, "it is missing; other files are checked only by themselves"))
        return FolderContents(store, names, manifest, damage, options)


DIRECTORY = DirectoryFormat()


def _own_names(store: Store) -> list[str]:
    return [name for name in store.names() if name not in CARD_FILES]


def _had_manifest(store: Store, names: Sequence[str]) -> bool:
    """Whether a save without a manifest was written with one, as Flambe's are not."""
    if REQUIREMENTS_FILE not in names:
        return False
    try:
        with store.reader(REQUIREMENTS_FILE) as file:
            return file.read(len(HAS_MANIFEST)) == HAS_MANIFEST.encode()
    except KeyError:
        return False


def _manifest_of(store: Store, names: Sequence[str]) -> Manifest | None:
    if MANIFEST_FILE not in names:
        return None
    try:
        with store.reader(MANIFEST_FILE) as file:
            return Manifest.from_json(file.read())
    except KeyError:
        return None


def _folders_of(root: SaveTreeNode) -> dict[tuple[str, ...], str]:
    """Return the folder of every node by its path, with a slash after it unless it is the root.

    Names beside each other that only their case tells apart are encoded, so that they differ on every disk.
    """
    folders: dict[tuple[str, ...], str] = {(): ""}
    for path, node in walk(root):
        taken: set[str] = set()
        for key in node.children:
            name = encode_name(key)
            if same_on_some_disk(name) in taken:
                name = encode_name(key, every=True)
            taken.add(same_on_some_disk(name))
            inner = (*path, key)
            folders[inner] = f"{folders[path]}{name}/"
    return folders


def _last(folder: str) -> str:
    return folder[folder.rfind("/", 0, -1) + 1 : -1]


def _parent(folder: str, built: Container[str]) -> str:
    """Return the folder of the component around another."""
    while folder:
        folder = folder[: folder.rstrip("/").rfind("/") + 1]
        if folder in built:
            break
    return folder


def _keys_around(folder: str, prefix: str, manifest: Manifest | None) -> dict[str, str]:
    """Return the prefixes of the folders around a part, by the manifest and the folders' names.

    Raises
    ------
    CorruptSaveError
        If the manifest calls a folder by another key than its name does.
    """
    known = {folder: key for key, folder in manifest.folders.items()} if manifest is not None else {}
    found: dict[str, str] = {}
    while folder:
        outer = _parent(folder, known)
        name, key = folder[len(outer) : -1], _relative(known.get(outer, ""), prefix)
        if name not in (encode_name(key), encode_name(key, every=True)):
            raise CorruptSaveError(f"the manifest calls the folder {quote(folder)} by {quote(key)}", file=MANIFEST_FILE)
        folder, prefix = outer, known.get(outer, "")
        if folder:
            found[folder] = prefix
    return found


def _relative(parent: str, prefix: str) -> str:
    return prefix[len(parent) + 1 :] if parent else prefix


def _find_folder(keys: Mapping[str, str], options: ReadOptions) -> str:
    for folder, prefix in keys.items():
        if prefix == options.node:
            return folder
    known = ", ".join(sorted(repr(prefix) for prefix in keys.values() if prefix)[:10]) or "none but the root"
    raise SaveNotFoundError(
        f"the save has no node {options.node!r}",
        file=options.where,
        fix=f"Its nodes are: {known}. Modules in them and plain values in containers have keys too.",
    )


def _restore_ties(saved: Saved) -> None:
    """Make tensors that were one when they were saved one again."""
    from flambe_save.codecs.data import same_bits  # which needs torch, as tensors do

    nodes = prefixed(saved.tree)
    for group in saved.ties:
        first: torch.Tensor | None = None
        for key in group:
            prefix, rest = place_key(key, nodes)
            state = nodes[prefix].state
            value = state.get(rest)
            if not is_tensor(value):
                raise CorruptSaveError(
                    f"the manifest ties {quote(key)}, which is not a tensor of the save", file=MANIFEST_FILE
                )
            if first is None:
                first = value
            elif value is first or same_bits(value, first):
                state[rest] = first
            else:
                raise CorruptSaveError(f"the manifest ties {quote(key)} to a tensor that differs", file=MANIFEST_FILE)
