"""The folder layout: a folder per component with six files, Flambe's protocol 1, and a manifest at the root."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from flambe_save.codecs import DumpOptions, LoadOptions, TorchCodec
from flambe_save.errors import (
    CorruptSaveError,
    FlambeSaveError,
    ProtocolError,
    SaveNotFoundError,
    UntrustedError,
)
from flambe_save.formats.manifest import Manifest, find_ties, packages, requirements, tensor_facts
from flambe_save.formats.reading import ReadOptions, Saved
from flambe_save.layout import (
    CONFIG_FILE,
    DIRECTORIES_KEY,
    ESCAPED_PROTOCOL,
    HIGHEST_PROTOCOL,
    KEEP_VARS_KEY,
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
)
from flambe_save.state import State
from flambe_save.storage import Store
from flambe_save.tree import SaveTreeNode, place_key, prefixed, state_from_tree, walk

__all__ = ["DIRECTORY", "DirectoryFormat", "LazyStash"]

_CODEC = TorchCodec()


class DirectoryFormat:
    """A tree as nested folders."""

    def sniff(self, names: Sequence[str]) -> bool:
        """Whether the root of the names holds a node's files, or most of them."""
        return len(set(NODE_FILES) & set(names)) >= len(NODE_FILES) // 2

    # -------------------------------------------------------------------------------------------- writing

    def write(self, root: SaveTreeNode, store: Store, options: DumpOptions) -> list[str]:
        """Write every node's files, then the manifest."""
        nodes = [(path, _folder(path), node) for path, node in walk(root)]
        escaped = any(encode_name(key) != key for path, _, _ in nodes for key in path[-1:])
        manifest = Manifest(protocol=ESCAPED_PROTOCOL if escaped else PROTOCOL, packages=packages())

        def put(name: str, data: bytes) -> None:
            with store.writer(name) as file:
                file.write(data)
            manifest.add_file(name, data)

        for prefix, (path, folder, node) in zip(prefixed(root), nodes, strict=True):
            try:
                self._write_node(node, path, folder, manifest, put, options)
            except FlambeSaveError as error:
                error.locate(node=prefix)
                raise
            manifest.nodes[prefix] = {
                "folder": folder.rstrip("/"),
                "class": node.class_name,
                "version": node.version,
                "tensors": tensor_facts(node.state),
            }
            manifest.tags |= node.state._metadata.get("", {}).get(TAGS_KEY, {})
        manifest.tags = dict(sorted(manifest.tags.items()))
        manifest.ties = find_ties(state_from_tree(root))
        put(REQUIREMENTS_FILE, requirements().encode())
        with store.writer(MANIFEST_FILE) as file:
            file.write(manifest.to_json())
        return manifest.needs_trust

    def _write_node(
        self,
        node: SaveTreeNode,
        path: tuple[str, ...],
        folder: str,
        manifest: Manifest,
        put: Callable[[str, bytes], None],
        options: DumpOptions,
    ) -> None:
        values = OrderedDict(node.state)
        metadata = {key: dict(local) for key, local in node.state._metadata.items() if isinstance(local, Mapping)}
        metadata.get("", {}).pop(TAGS_KEY, None)  # the manifest's
        if path and decode_name(folder.rstrip("/").rpartition("/")[2]) is None:
            metadata.setdefault("", {})[KEY_KEY] = path[-1]
        values._metadata = metadata  # type: ignore[attr-defined]
        for name, content in ((STATE_FILE, values), (STASH_FILE, dict(node.object_stash))):
            buffer = io.BytesIO()
            try:
                opaque = _CODEC.dump(content, buffer, options)
            except FlambeSaveError as error:
                error.locate(file=folder + name)
                raise
            manifest.needs_trust += [f"{folder}{name}: {sentence}" for sentence in opaque]
            put(folder + name, buffer.getvalue())
        put(folder + VERSION_FILE, f"{node.class_name}:{node.version}".encode())
        put(folder + SOURCE_FILE, node.source_code.encode())
        put(folder + CONFIG_FILE, node.config.encode())
        put(folder + PROTOCOL_FILE, str(manifest.protocol).encode())

    # -------------------------------------------------------------------------------------------- reading

    def read(self, store: Store, options: ReadOptions) -> Saved:
        """Read the nodes; what the manifest says is checked as far as it is read."""
        names = store.names()
        manifest = None
        if MANIFEST_FILE in names:
            with store.reader(MANIFEST_FILE) as file:
                manifest = Manifest.from_json(file.read())
            manifest.check_names(names)
        reader = _Reader(store, manifest, options.values)
        keys = reader.keys_of(names)
        top = _find_folder(keys, options)
        built: dict[str, SaveTreeNode] = {}
        for folder in sorted(folder for folder in keys if folder.startswith(top)):
            node = built[folder] = reader.node(folder, keys[folder])
            if folder != top:
                parent = _parent(folder, built)
                built[parent].children[_relative(keys[parent], keys[folder])] = node
        ties, tags = [], {}
        if manifest is not None:
            tags = manifest.tags
            built[top].state._metadata[""][TAGS_KEY] = tags
            begin = f"{options.node}." if options.node else ""
            ties = [[key[len(begin) :] for key in group if key.startswith(begin)] for group in manifest.ties]
        saved = Saved(built[top], [group for group in ties if len(group) > 1], tags)
        _restore_ties(saved)
        return saved


DIRECTORY = DirectoryFormat()


class LazyStash(Mapping[str, Any]):
    """A stash that is unpickled when it is first looked into: weights stay readable where a stash is not trusted."""

    def __init__(self, data: bytes, options: LoadOptions) -> None:
        self._data: bytes | None = data
        self._options = options
        self._values: dict[str, Any] = {}

    def _open(self) -> dict[str, Any]:
        if self._data is not None:
            values = _CODEC.load(io.BytesIO(self._data), self._options)
            if not isinstance(values, dict):
                raise CorruptSaveError("the stash is no dict", node=self._options.node, file=self._options.file)
            self._values, self._data = values, None
        return self._values

    def __getitem__(self, key: str) -> Any:
        return self._open()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._open())

    def __len__(self) -> int:
        return len(self._open())

    def __bool__(self) -> bool:
        try:
            return bool(self._open())
        except UntrustedError:
            return True  # only what is more than data is refused, so there is something in it

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return dict, (self._open(),)

    def __repr__(self) -> str:
        return f"LazyStash({'not opened' if self._data is not None else self._values})"


class _Reader:
    """Reads nodes from a store, each file checked against the manifest where there is one."""

    def __init__(self, store: Store, manifest: Manifest | None, options: LoadOptions) -> None:
        self._store = store
        self._manifest = manifest
        self._options = options

    def keys_of(self, names: Sequence[str]) -> dict[str, str]:
        """Return folder -> prefix for every node, from the folders that hold node files."""
        folders = sorted({name.rpartition("/")[0] for name in names})
        missing = []
        keys: dict[str, str] = {}
        there = set(names)
        for folder in folders:
            begin = f"{folder}/" if folder else ""
            missing += [begin + name for name in NODE_FILES if begin + name not in there]
            extra = [name for name in names if name.startswith(begin) and "/" not in name[len(begin) :]]
            unknown = [name for name in extra if name[len(begin) :] not in (*NODE_FILES, *ROOT_FILES)]
            if unknown and self._manifest is None:
                raise CorruptSaveError(
                    f"the folder holds files that no save has: {', '.join(unknown[:5])}", file=unknown[0]
                )
            keys[begin] = self._prefix(folder)
        if missing:
            raise CorruptSaveError(
                f"files are missing: {', '.join(missing[:20])}",
                node=keys[missing[0].rpartition("/")[0] + "/" if "/" in missing[0] else ""],
                file=missing[0],
                fix="Take them from a copy of the save; every folder of it holds " + ", ".join(NODE_FILES) + ".",
            )
        return keys

    def _prefix(self, folder: str) -> str:
        parts = []
        names = folder.split("/") if folder else []
        for depth, name in enumerate(names):
            try:
                key = decode_name(name)
            except ValueError as error:
                raise CorruptSaveError(f"a folder's name is none of a save's: {error}", file=folder) from error
            parts.append(key if key is not None else self._long_key("/".join(names[: depth + 1])))
        return ".".join(parts)

    def _long_key(self, folder: str) -> str:
        """Return the key that a node with a shortened folder name records."""
        values = self._load(f"{folder}/{STATE_FILE}", None)
        key = getattr(values, "_metadata", {}).get("", {}).get(KEY_KEY)
        if not isinstance(key, str) or encode_name(key) != folder.rpartition("/")[2]:
            raise CorruptSaveError("a shortened folder name, and its node records another key", file=folder)
        return key

    def node(self, folder: str, prefix: str) -> SaveTreeNode:
        """Read one folder."""
        protocol = self._text(folder + PROTOCOL_FILE, prefix).strip()
        if not protocol.isdecimal() or len(protocol) > 9:
            raise CorruptSaveError(f"{protocol[:80]!r} is no protocol number", node=prefix, file=folder + PROTOCOL_FILE)
        if int(protocol) > HIGHEST_PROTOCOL:
            raise ProtocolError(
                f"the save is of protocol {int(protocol)}, and this version reads up to {HIGHEST_PROTOCOL}",
                node=prefix,
                file=folder + PROTOCOL_FILE,
                fix="pip install --upgrade flambe_save",
            )
        class_name, colon, version = self._text(folder + VERSION_FILE, prefix).partition(":")
        if not colon:
            raise CorruptSaveError("it does not read Class:version", node=prefix, file=folder + VERSION_FILE)
        stash_file = folder + STASH_FILE
        stash = self._bytes(stash_file, prefix)
        return SaveTreeNode(
            state=self._state(folder + STATE_FILE, prefix),
            version=version.strip(),
            class_name=class_name,
            source_code=self._text(folder + SOURCE_FILE, prefix),
            config=self._text(folder + CONFIG_FILE, prefix),
            object_stash=LazyStash(stash, replace(self._options, node=prefix, file=stash_file)),
            children={},
        )

    def _state(self, name: str, prefix: str) -> State:
        values = self._load(name, prefix)
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise CorruptSaveError("the state is no mapping of keys to values", node=prefix, file=name)
        state = State(values)
        metadata = getattr(values, "_metadata", None)
        if isinstance(metadata, dict):
            # The folders and their files say what is a component, and of which class; Flambe also repeats it here.
            state._metadata.update(
                (key, _torch_facts(local))
                for key, local in metadata.items()
                if isinstance(key, str) and key not in (DIRECTORIES_KEY, KEEP_VARS_KEY) and isinstance(local, dict)
            )
        state._metadata.setdefault("", {})
        return state

    def _load(self, name: str, prefix: str | None) -> Any:
        return _CODEC.load(io.BytesIO(self._bytes(name, prefix)), replace(self._options, node=prefix, file=name))

    def _text(self, name: str, prefix: str) -> str:
        try:
            return self._bytes(name, prefix).decode()
        except UnicodeDecodeError as error:
            raise CorruptSaveError(f"it is no UTF-8 text: {error}", node=prefix, file=name) from error

    def _bytes(self, name: str, prefix: str | None) -> bytes:
        with self._store.reader(name) as file:
            data = file.read()
        if self._manifest is not None:
            try:
                self._manifest.check_file(name, data)
            except FlambeSaveError as error:
                error.locate(node=prefix)
                raise
        return data


def _torch_facts(local: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in local.items() if not str(key).startswith("_flambe_")}


def _folder(path: tuple[str, ...]) -> str:
    """Return the folder of a node, with a slash after it unless it is the root."""
    return "".join(f"{encode_name(key)}/" for key in path)


def _parent(folder: str, built: Mapping[str, Any]) -> str:
    parts = folder.rstrip("/").split("/")
    return next(
        found
        for count in range(len(parts) - 1, -1, -1)
        if (found := "".join(f"{part}/" for part in parts[:count])) in built
    )


def _relative(parent: str, prefix: str) -> str:
    return prefix[len(parent) + 1 :] if parent else prefix


def _find_folder(keys: Mapping[str, str], options: ReadOptions) -> str:
    for folder, prefix in keys.items():
        if prefix == options.node:
            return folder
    known = ", ".join(sorted(repr(prefix) for prefix in keys.values() if prefix)[:10]) or "none but the root"
    raise SaveNotFoundError(
        f"the save has no node {options.node!r}", file=options.where, fix=f"Its nodes are: {known}."
    )


def _restore_ties(saved: Saved) -> None:
    """Make tensors that were one when they were saved one again."""
    nodes = prefixed(saved.tree)
    for group in saved.ties:
        first: torch.Tensor | None = None
        for key in group:
            prefix, rest = place_key(key, nodes)
            state = nodes[prefix].state
            value = state.get(rest)
            if not isinstance(value, torch.Tensor):
                raise CorruptSaveError(f"the manifest ties {key!r}, which is no tensor of the save", file=MANIFEST_FILE)
            if first is None:
                first = value
            elif _equal(value, first):
                state[rest] = first
            else:
                raise CorruptSaveError(f"the manifest ties {key!r} to a tensor that differs", file=MANIFEST_FILE)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal to the bit, NaN and all."""
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device) or one.is_meta:
        return one.is_meta and one.shape == other.shape
    bits = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(*bits)
