"""Read nodes: six files to a SaveTreeNode, each checked. directory.py joins the nodes."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from flambe_save.errors import CorruptSaveError, FlambeSaveError, LoadError, ProtocolError, quote, quote_some
from flambe_save.formats.manifest import Manifest
from flambe_save.formats.reading import Damage
from flambe_save.formats.stash import LazyStash
from flambe_save.layout import (
    CONFIG_FILE,
    DIRECTORIES_KEY,
    HIGHEST_PROTOCOL,
    KEEP_VARS_KEY,
    KEY_KEY,
    MAX_TEXT,
    NODE_FILES,
    PROTOCOL_FILE,
    ROOT_FILES,
    SOURCE_FILE,
    STASH_FILE,
    STATE_FILE,
    VERSION_FILE,
    VERSIONED,
    decode_name,
    encode_name,
    is_torch,
    same_on_some_disk,
    what_it_is,
)
from flambe_save.pt import LoadOptions, MemorySource, Source, open_source, pieces_of
from flambe_save.registry import CODECS
from flambe_save.state import State
from flambe_save.storage.filesystem import identity
from flambe_save.support.checksum import crc32, sha256_of
from flambe_save.tree import SaveTreeNode

if TYPE_CHECKING:
    from flambe_save.codecs import LazyFile
    from flambe_save.pt.dense_file import DenseFile


class Files(Protocol):
    """Part of a store that a NodeReader needs."""

    def reader(self, name: str) -> BinaryIO: ...


@dataclass
class _HeldFile:
    """An open file of values, and its parsed content; ``dense`` holds None if it is not dense."""

    name: str
    source: MemorySource
    outline: LazyFile | None = None
    dense: tuple[DenseFile | None] | None = None


class NodeReader:
    """Reads nodes from a store, and checks each file against the manifest, if there is one."""

    def __init__(self, store: Files, manifest: Manifest | None, options: LoadOptions) -> None:
        self._store = store
        self._manifest = manifest
        self._options = options
        self._last: _HeldFile | None = None

    def keys_of(
        self, names: Sequence[str], *, complete: bool = True, around: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, str]:
        """Return the prefix of every node by its folder, from the names of files.

        Parameters
        ----------
        names : sequence of str
        complete : bool
            Whether files that are missing are an error.
        around : mapping of str to str
            Prefixes of outer folders, whose files are not read.

        Raises
        ------
        CorruptSaveError
            If a folder lacks files (with ``complete``), or holds others; if two names differ in case alone, or two
            folders have one prefix.
        """
        inside: dict[str, list[str]] = {}
        for name in names:
            folder, _, last = name.rpartition("/")
            inside.setdefault(folder, []).append(last)
        _check_names_differ(names)
        keys: dict[str, str] = {}
        known = dict(around)
        owners: dict[str, str] = {}
        missing = []
        for folder in sorted(inside):
            begin = f"{folder}/" if folder else ""
            unknown = [last for last in inside[folder] if last not in (*NODE_FILES, *ROOT_FILES)]
            if unknown and self._manifest is None:
                raise CorruptSaveError(
                    f"the folder holds files that do not belong to a save: {quote_some(unknown)}",
                    file=begin + unknown[0],
                    fix="Move them elsewhere.",
                )
            missing += [begin + last for last in NODE_FILES if last not in inside[folder]]
            prefix = keys[begin] = known[begin] = self._prefix(folder, known)
            if owners.setdefault(prefix, folder) != folder:
                raise CorruptSaveError(
                    f"two folders have one component's key: {quote(owners[prefix])} and {quote(folder)}",
                    file=folder,
                )
        if missing and complete:
            raise CorruptSaveError(
                f"files are missing: {quote_some(missing)}",
                node=keys[missing[0][: missing[0].rfind("/") + 1]],
                file=missing[0],
                fix="Take them from a copy of the save; every folder of it holds " + ", ".join(NODE_FILES) + ".",
            )
        return keys

    def _prefix(self, folder: str, known: Mapping[str, str]) -> str:
        """Return the prefix of a folder; ``known`` has those of outer folders that hold files."""
        rest: list[str] = []
        while folder and (not rest or f"{folder}/" not in known):
            above, _, name = folder.rpartition("/")
            try:
                key = decode_name(name)
            except ValueError as error:
                raise CorruptSaveError(f"invalid folder name in a save: {error}", file=folder) from error
            rest.append(key if key is not None else self._long_key(folder))
            folder = above
        outer = known.get(f"{folder}/" if folder else "", "") if folder else ""
        return ".".join([*([outer] if folder else []), *reversed(rest)])

    def size_of(self, names: Iterable[str]) -> int:
        """Return the size of files in bytes, as listed or as found; a read finds wrong sizes."""
        if self._manifest is not None:
            return sum(self._manifest.files[name]["bytes"] for name in names)
        total = 0
        for name in names:
            with contextlib.suppress(KeyError, FlambeSaveError), self._store.reader(name) as file:
                total += file.seek(0, io.SEEK_END)
        return total

    def _long_key(self, folder: str) -> str:
        """Return the key that a node with a shortened folder name records."""
        values = self._load(f"{folder}/{STATE_FILE}", None)
        key = getattr(values, "_metadata", {}).get("", {}).get(KEY_KEY)
        name = folder.rpartition("/")[2]
        if not isinstance(key, str) or name not in (encode_name(key), encode_name(key, every=True)):
            raise CorruptSaveError("a shortened folder name, and its node records another key", file=folder)
        return key

    def protocol(self, folder: str, prefix: str) -> int:
        """Read the protocol number of a folder.

        Raises
        ------
        CorruptSaveError, ProtocolError
            If it is not a number, or is newer than this version.
        """
        protocol = self.text(folder + PROTOCOL_FILE, prefix).strip()
        if not (protocol.isascii() and protocol.isdecimal()) or len(protocol) > 9 or not int(protocol):
            raise CorruptSaveError(
                f"{quote(protocol)} is not a protocol number", node=prefix, file=folder + PROTOCOL_FILE
            )
        if int(protocol) > HIGHEST_PROTOCOL:
            raise ProtocolError(
                f"the save is of protocol {int(protocol)}, and this version reads up to {HIGHEST_PROTOCOL}",
                node=prefix,
                file=folder + PROTOCOL_FILE,
                fix="pip install --upgrade flambe_save",
            )
        return int(protocol)

    def class_and_version(self, folder: str, prefix: str) -> tuple[str, str]:
        """Read the class name and version of a node."""
        text = self.text(folder + VERSION_FILE, prefix).strip()
        class_name, _, version = text.partition(":")
        if VERSIONED.fullmatch(text) is None:
            raise _not_versioned(text, prefix, folder)
        return class_name, version

    def node(self, folder: str, prefix: str) -> SaveTreeNode:
        """Read one folder."""
        self.protocol(folder, prefix)
        class_name, version = self.class_and_version(folder, prefix)
        if self._manifest is not None:
            self._manifest.check_node(prefix, folder.rstrip("/"), class_name, version)
        config = self.text(folder + CONFIG_FILE, prefix)
        if config.strip() and not class_name:  # a bare state alone has no class
            raise _not_versioned(f":{version}", prefix, folder)
        stash_file = folder + STASH_FILE
        stash = self._bytes(stash_file, prefix)
        return SaveTreeNode(
            state=self._state(folder + STATE_FILE, prefix),
            version=version,
            class_name=class_name,
            source_code=self.text(folder + SOURCE_FILE, prefix),
            config=config,
            object_stash=LazyStash(stash, self._options, prefix, stash_file),
            children={},
        )

    def _state(self, name: str, prefix: str) -> State:
        values = self._load(name, prefix)
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise CorruptSaveError("the state is not a mapping of keys to values", node=prefix, file=name)
        state = State(values)
        metadata = getattr(values, "_metadata", None)
        if isinstance(metadata, dict):
            # Folders and their files say what is a component, and its class; Flambe repeats it here
            state._metadata.update(
                (key, {name: fact for name, fact in local.items() if not str(name).startswith("_flambe_")})
                for key, local in metadata.items()
                if isinstance(key, str) and key not in (DIRECTORIES_KEY, KEEP_VARS_KEY) and isinstance(local, dict)
            )
        state._metadata.setdefault("", {})
        return state

    def _load(self, name: str, prefix: str | None) -> Any:
        options = self._options
        is_listed = self._manifest is not None and options.is_verified
        with _Locating(name, prefix), self._store.reader(name) as file:
            self._check_size(name, None, file)
            source = open_source(
                file,
                mapped=options.is_mapped,
                threads=options.threads,
                is_checked=options.is_verified,
                progress=options.progress,
            )
            if is_listed and source.is_held:
                self._check_checksum(name, source)
            values = CODECS["pt"].load(source, replace(options, node=prefix, file=name, checksums_known=is_listed))
            if is_listed and not source.is_held:  # the checksum was computed while the values were read
                self._check_checksum(name, source)
            source.progress.finish()
        return values

    def text(self, name: str, prefix: str | None) -> str:
        """Read a file of text."""
        return _decoded(self._bytes(name, prefix, MAX_TEXT), name, prefix)

    def outline(self, name: str, prefix: str) -> LazyFile:
        """Read a file of values; its tensors are read when they are asked for."""
        from flambe_save.codecs import LazyFile  # which makes tensors, and needs torch

        held = self._held(name, prefix)
        if held.outline is None:
            with _Locating(name, prefix):
                held.outline = LazyFile(held.source, replace(self._options, node=prefix, file=name))
        return held.outline

    def dense(self, name: str, prefix: str) -> DenseFile | None:
        """Return a file of nothing but dense tensors, without torch; None for any other file."""
        from flambe_save.pt.dense_file import DenseFile  # a list of components needs no file of values

        held = self._held(name, prefix)
        if held.dense is None:
            with _Locating(name, prefix):
                held.dense = (DenseFile.of(held.source, replace(self._options, node=prefix, file=name)),)
        return held.dense[0]

    def _held(self, name: str, prefix: str) -> _HeldFile:
        """Return a mapped file, or its bytes where it cannot be mapped.

        Only the last one is kept: a walk through an archive holds the unpacked bytes of one file at a time.
        """
        held = self._last
        if held is None or held.name != name:
            with _Locating(name, prefix), self._store.reader(name) as file:
                self._check_size(name, None, file)
                source = open_source(file, mapped=True, threads=self._options.threads)
                data = source.piece(0, source.size)  # all of a file that cannot be mapped, before it is closed
            held = self._last = _HeldFile(name, MemorySource(data, self._options.threads, is_shared=True))
        return held

    def digest(self, name: str, prefix: str) -> str:
        """Return the SHA-256 of a file."""
        return sha256_of(pieces_of(self._held(name, prefix).source))

    def fingerprints(self, name: str) -> set[Hashable]:
        """Return marks of a file: files that share a mark are the same, to the byte.

        A missing file has none. A digest counts only if the size is the one that is listed with it.
        """
        noted = self._manifest.files.get(name, {}) if self._manifest is not None else {}
        found: set[Hashable] = set()
        try:
            with self._store.reader(name) as file:
                size = file.seek(0, io.SEEK_END)
                with contextlib.suppress(OSError):
                    found.add(identity(os.fstat(file.fileno())))
        except (KeyError, OSError, LoadError):
            return set()
        if "sha256" in noted and size == noted["bytes"]:
            found.add(noted["sha256"])
        return found

    def damage(self, name: str, prefix: str | None) -> Iterator[Damage]:
        """Check a file, and yield its damage."""
        try:
            self.check(name, prefix)
        except LoadError as error:
            yield Damage(prefix, name, error.message)

    def _bytes(self, name: str, prefix: str | None, most: int | None = None) -> bytes:
        with _Locating(name, prefix), self._store.reader(name) as file:
            self._check_size(name, most, file)
            data = file.read()
            if self._manifest is not None and self._options.is_verified:
                self._manifest.check_file(name, crc32(data))
        self._options.progress.advance(len(data))
        return data

    def _check_checksum(self, name: str, source: Source) -> None:
        assert self._manifest is not None, "without one there is nothing to compare with"
        self._manifest.check_file(name, source.checksum())

    def _check_size(self, name: str, most: int | None, file: BinaryIO) -> None:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if most is not None and size > most:
            raise CorruptSaveError(f"it has {size:,} bytes, too many for its kind")
        if self._manifest is None:
            return
        try:
            self._manifest.check_size(name, size)
        except CorruptSaveError as error:
            start = file.read(200)
            found = what_it_is(start) if most is None or size < 1000 else None
            if found is not None and not is_torch(start):
                error.message, error.fix = f"{error.message}: this is {found[0]}", found[1].replace("FILE", name)
            raise

    def check(self, name: str, prefix: str | None) -> None:
        """Read a file as far as that needs no trust, and drop it.

        Raises
        ------
        LoadError
            If it is damaged.
        """
        is_torch_file = name.rpartition("/")[2] in (STATE_FILE, STASH_FILE)
        options = replace(self._options, node=prefix, file=name)
        with _Locating(name, prefix), self._store.reader(name) as file:
            self._check_size(name, None if is_torch_file else MAX_TEXT, file)
            passes = is_torch_file + (self._manifest.passes(name) if self._manifest is not None else 0)
            source = open_source(file, threads=options.threads, progress=options.progress, passes=max(passes, 1))
            if self._manifest is not None:
                self._check_checksum(name, source)
                self._manifest.check_digest(name, pieces_of(source))
            if is_torch_file:
                from flambe_save.pt.zip_reader import check_file

                check_file(source, options)
            else:
                _decoded(bytes(source.piece(0, source.size)), name, prefix)
            source.progress.finish()


class _Locating:
    """Adds the node and the file to errors, and makes LoadErrors of others.

    A class, since a save of many components enters one for each small file.
    """

    __slots__ = ("_name", "_prefix")

    def __init__(self, name: str, prefix: str | None) -> None:
        self._name = name
        self._prefix = prefix

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, traceback: object) -> None:
        place = {"node": self._prefix, "file": self._name}
        if isinstance(error, FlambeSaveError):
            error.locate(**place)
        elif isinstance(error, KeyError):
            raise CorruptSaveError("it leads to no file", fix="Put the file itself there.", **place) from None
        elif isinstance(error, MemoryError):
            raise LoadError("not enough memory to read it", **place) from None
        elif isinstance(error, OSError):
            raise LoadError(f"it cannot be read: {error.strerror or error}", **place) from None


def _decoded(data: bytes, name: str, prefix: str | None) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CorruptSaveError(f"it is not UTF-8 text: {error}", node=prefix, file=name) from error


def _check_names_differ(names: Sequence[str]) -> None:
    """Refuse names that some file systems do not tell apart: one file would be read for both."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(same_on_some_disk(name), name)
        if other != name:
            raise CorruptSaveError(
                f"two names differ in case alone: {quote(other)} and {quote(name)}",
                file=name,
                fix="Rename one of them, and what refers to it.",
            )


def _not_versioned(text: str, prefix: str, folder: str) -> CorruptSaveError:
    return CorruptSaveError(
        f"it does not read Class:version, as in Net:1.2.0: {quote(text)}", node=prefix, file=folder + VERSION_FILE
    )
