"""Inspect a save of folders: the manifest alone, and each file by itself.

directory.py reads a whole save, and refuses a damaged one. Here each part is shown that can be read, whatever else is
damaged.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

from flambe_save.errors import LoadError
from flambe_save.formats.contents import Contents, NodeContents
from flambe_save.formats.manifest import Manifest, tensors_of
from flambe_save.formats.nodes import NodeReader
from flambe_save.formats.reading import Damage, ReadOptions
from flambe_save.layout import (
    CONFIG_FILE,
    MANIFEST_FILE,
    NODE_FILES,
    SOURCE_FILE,
    STASH_FILE,
    STATE_FILE,
)
from flambe_save.pt import TensorInfo
from flambe_save.storage import Store

if TYPE_CHECKING:
    from flambe_save.codecs import LazyValues
    from flambe_save.pt.dense_file import DenseFile


class FolderContents(Contents):
    """Contents of a save of folders, from file names and the manifest."""

    def __init__(
        self,
        store: Store,
        names: Sequence[str],
        manifest: Manifest | None,
        damage: Sequence[Damage],
        options: ReadOptions,
    ) -> None:
        super().__init__()
        self._names, self._manifest = names, manifest
        self._reader = NodeReader(_Listed(store, names), manifest, options.values)
        self._progress = options.values.progress
        self.damage = [*damage]
        if manifest is not None:
            self._compare_names(manifest)
            self.writer, self.protocol, self.is_vouched_for = manifest.writer, manifest.protocol, True
            self.packages, self.tags, self.ties = manifest.packages, manifest.tags, manifest.ties
            self.digest = manifest.digest
            self.size = min(sum(entry["bytes"] for entry in manifest.files.values()), sys.maxsize)
            self.folders = {node["folder"]: prefix for prefix, node in manifest.nodes.items()}
            folders = manifest.folders
        else:
            folders = self._folders_by_names()
            self.size = self._reader.size_of(names)
            try:
                self.protocol = self._reader.protocol("", "")
            except LoadError as error:
                self.damage.append(Damage(error.node, error.file, error.message))
        folders.setdefault("", "")
        asking: dict[str, list[str]] = {}
        for sentence in manifest.needs_trust if manifest is not None else ():
            folder, slash, _ = sentence.partition(": ")[0].rpartition("/")
            asking.setdefault(folder + slash, []).append(sentence[len(folder + slash) :])
        known: dict[Any, TensorInfo] = {}
        self._nodes = {
            prefix: _FolderNode(self._reader, folder, prefix, manifest, known, asking.get(folder, []))
            for prefix, folder in sorted(folders.items())
        }

    @property
    def nodes(self) -> Mapping[str, NodeContents]:
        return self._nodes

    def verify(self) -> Iterator[Damage]:
        yield from self.damage
        names, keys = self._names, {node.folder: prefix for prefix, node in self._nodes.items()}
        if self._manifest is not None:
            names = sorted(set(names) & self._manifest.files.keys())
            try:
                keys |= self._reader.keys_of(names, complete=False)
            except LoadError as error:
                yield Damage(error.node, error.file, error.message)
        if self._progress.is_on:
            self._progress.begin(self._reader.size_of(name for name in names if name != MANIFEST_FILE))
        for name in names:
            if name != MANIFEST_FILE:
                yield from self._reader.damage(name, keys.get(name[: name.rfind("/") + 1]))

    def _compare_names(self, manifest: Manifest) -> None:
        there, listed = set(self._names) - {MANIFEST_FILE}, manifest.files.keys()
        nodes = {node["folder"]: prefix for prefix, node in manifest.nodes.items()}
        for name in sorted(listed - there):
            self.damage.append(Damage(nodes.get(name.rpartition("/")[0]), name, "it is missing"))
        self.damage += (Damage(None, name, "it is not of this save") for name in sorted(there - listed))

    def _folders_by_names(self) -> dict[str, str]:
        """Return the folder of each component, of a save without a manifest."""
        try:
            keys = self._reader.keys_of(self._names, complete=False)
        except LoadError as error:
            self.damage.append(Damage(error.node, error.file, error.message))
            return {"": ""}
        for folder, prefix in keys.items():
            missing = (folder + last for last in NODE_FILES if folder + last not in self._names)
            self.damage += (Damage(prefix, name, "it is missing") for name in missing)
        return {prefix: folder for folder, prefix in keys.items()}


class _Listed:
    """A store that reads only listed files: a manifest may name any path."""

    def __init__(self, store: Store, names: Sequence[str]) -> None:
        self._store, self._listed = store, frozenset(names)

    def reader(self, name: str) -> BinaryIO:
        if name not in self._listed:
            raise KeyError(name)
        return self._store.reader(name)


class _FolderNode:
    """A component in a folder, whose name ends in a slash unless it is the root.

    ``known`` has facts of tensors by their entries in the manifest, for all nodes.
    """

    def __init__(
        self,
        reader: NodeReader,
        folder: str,
        prefix: str,
        manifest: Manifest | None,
        known: dict[Any, TensorInfo],
        needs_trust: list[str],
    ) -> None:
        self._reader = reader
        self._manifest = manifest
        self._entry: Mapping[str, Any] = manifest.nodes.get(prefix, {}) if manifest is not None else {}
        self._prefix = prefix
        self._known = known
        self._needs_trust = needs_trust
        self.folder = folder

    @property
    def class_name(self) -> str:
        return self._class_and_version[0]

    @property
    def version(self) -> str:
        return self._class_and_version[1]

    @cached_property
    def _class_and_version(self) -> tuple[str, str]:
        name, version = self._entry.get("class"), self._entry.get("version")
        if isinstance(name, str) and isinstance(version, str):
            return name, version
        return self._reader.class_and_version(self.folder, self._prefix)

    @property
    def config(self) -> str:
        return self._reader.text(self.folder + CONFIG_FILE, self._prefix)

    @property
    def source(self) -> str:
        return self._reader.text(self.folder + SOURCE_FILE, self._prefix)

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        listed = self._entry.get("tensors")
        if listed is not None:
            return tensors_of(listed, self._known)
        dense = self.dense(STATE_FILE)
        return self.state.tensors if dense is None else dense.tensors

    @property
    def state(self) -> LazyValues:
        return self._reader.outline(self.folder + STATE_FILE, self._prefix)

    @property
    def stash(self) -> LazyValues:
        return self._reader.outline(self.folder + STASH_FILE, self._prefix)

    @property
    def needs_trust(self) -> list[str]:
        if self._manifest is not None:
            return self._needs_trust
        files = ((STATE_FILE, self.state), (STASH_FILE, self.stash))
        return [f"{name}: {what}" for name, outline in files for what in outline.needs_trust]

    def dense(self, file: str) -> DenseFile | None:
        return self._reader.dense(self.folder + file, self._prefix)

    def digest(self, file: str) -> str:
        return self._reader.digest(self.folder + file, self._prefix)

    def fingerprints(self) -> set[Hashable]:
        return self._reader.fingerprints(self.folder + STATE_FILE)

    def verify(self) -> Iterator[Damage]:
        for name in NODE_FILES:
            yield from self._reader.damage(self.folder + name, self._prefix)
