"""Single pickle: the whole State at once, which torch and ``pickle.load`` read too."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from flambe_save.errors import CorruptSaveError, SaveNotFoundError, SaveReplacedError, UnknownFormatError
from flambe_save.formats.contents import Contents, NodeContents
from flambe_save.formats.manifest import find_ties
from flambe_save.formats.plan import Plan
from flambe_save.formats.reading import Damage, ReadOptions, Saved
from flambe_save.layout import (
    CLASS_KEY,
    CONFIG_KEY,
    DIRECTORIES_KEY,
    SOURCE_KEY,
    STASH_KEY,
    TAGS_KEY,
    VERSION_KEY,
    what_it_is,
)
from flambe_save.pt import Draft, DumpOptions, Source, TensorInfo, open_source
from flambe_save.pt.opcodes import walk
from flambe_save.registry import CODECS
from flambe_save.state import State
from flambe_save.storage import Store
from flambe_save.storage.filesystem import identity
from flambe_save.support.checksum import combine, crc32, sha256_of
from flambe_save.tree import SaveTreeNode, prefixed, state_from_tree, tree_from_state

if TYPE_CHECKING:
    import torch

    from flambe_save.pt.zip_writer import Buffer

# Size and checksum of the pickle, behind it: unpicklers stop at its end
_TRAILER = re.compile(rb"(\nflambe_save (\d{1,20}) bytes(?: sha256 ([0-9a-f]{64}))?) crc32 ([0-9a-f]{8})\n")
_STEP = 1 << 20  # bytes that are read at once
_LONGEST_TRAILER = 200  # bytes, and more than it has
_FIX = "Take it from a copy of the save."
_FIRST_BYTES = b"\x80"  # every pickle since protocol 2 begins so


class PickleFormat:
    """A tree as one pickled State. A pickle keeps ties by itself, so none are listed."""

    file_names = ()

    def sniff(self, names: Sequence[str]) -> bool:
        """Whether the store is a single file."""
        return list(names) == [""]

    def plan(self, root: SaveTreeNode, options: DumpOptions) -> Plan:
        """Pickle the State as an OrderedDict, so that reading it needs no class of this package."""
        from flambe_save.codecs import dump_referring  # which needs torch, as only who writes does

        state = state_from_tree(root)
        plain: OrderedDict[str, Any] = OrderedDict(state)
        metadata = plain._metadata = OrderedDict(state._metadata)  # type: ignore[attr-defined]
        opaque: list[str] = []
        referring: list[tuple[str, bytes]] = []
        for key, local in metadata.items():
            if STASH_KEY in local:
                stash, found, pickles = dump_referring(local[STASH_KEY], options)
                referring += [("", data) for data in pickles]
                metadata[key] = {**local, STASH_KEY: stash}
                opaque += found
        metadata[DIRECTORIES_KEY] = sorted(state.components)
        draft = CODECS["pickle"].dump(plain, options)
        opaque = [*draft.opaque, *opaque]
        file = _SealedDraft(draft, options.digest, opaque)
        return Plan({"": file}, opaque=opaque, referring=referring, codec="pickle")

    def read(self, store: Store, options: ReadOptions) -> Saved:
        """Unpickle the State and cut it into its tree."""
        with store.reader("") as file:
            found = _checked(file, options)
            try:
                values = CODECS["pickle"].load(found.source, replace(options.values, file=options.where))
            except CorruptSaveError as error:
                found.check_again(error)
                raise
            found.check_again()
        options.values.progress.finish()
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise UnknownFormatError(
                f"the pickle holds a {type(values).__name__}, not a State",
                file=options.where,
                fix="Open it with pickle.",
            )
        state = State(values)
        metadata = getattr(values, "_metadata", None)
        if metadata is not None:
            if not _describes_components(metadata):
                raise CorruptSaveError("the pickle names components that it does not describe", file=options.where)
            state._metadata.update((key, local) for key, local in metadata.items() if isinstance(local, dict))
            state._metadata[DIRECTORIES_KEY] = set(metadata.get(DIRECTORIES_KEY, ()))
        tree = tree_from_state(state)
        node = tree.find(options.node)
        if node is None:
            raise SaveNotFoundError(
                f"the save has no node {options.node!r}",
                file=options.where,
                fix=f"Its nodes are: {', '.join(repr(prefix) for prefix in state.components if prefix)[:400]}.",
            )
        digest = "sha256" if found.trailer is not None and found.trailer[3] is not None else None
        tags: dict[str, str] = {}
        for local in state._metadata.values():
            if isinstance(local, dict) and isinstance(local.get(TAGS_KEY), dict):
                tags |= {tag: path for tag, path in local[TAGS_KEY].items() if isinstance(path, str)}
        return Saved(node, find_ties(state_from_tree(node).items()), tags, found.trailer is not None, digest=digest)

    def inspect(self, store: Store, options: ReadOptions) -> Contents:
        """Inspect the file; the pickle is read when a component is asked for."""
        return _PickleContents(self, store, options)


class _PickleContents(Contents):
    def __init__(self, pickled: PickleFormat, store: Store, options: ReadOptions) -> None:
        super().__init__()
        self._format, self._store, self._options = pickled, store, options
        with store.reader("") as file:
            self.size = file.seek(0, io.SEEK_END)

    @cached_property
    def nodes(self) -> Mapping[str, NodeContents]:
        file = self._file()
        locations: dict[int, str] = {}

        def note(storage: Any, location: str) -> Any:
            locations[storage._cdata] = location
            return storage

        values = self._options.values
        audit = values.trust.audit()
        saved = self._format.read(
            self._store, replace(self._options, values=replace(values, trust=audit, map_location=note))
        )
        asks = [finding.what for finding in audit.findings or ()]
        if asks and not (saved.tree.state or saved.tree.children or saved.tree.class_name):
            # The pickle is one object that needs trust: a caller who gives that trust sees what it holds
            saved = self._format.read(self._store, self._options)
        self.tags, self.ties, self.digest = saved.tags, saved.ties, saved.digest
        self.is_vouched_for = saved.is_vouched_for

        @functools.cache
        def again() -> dict[str, SaveTreeNode]:
            nodes = prefixed(self._format.read(self._store, self._options).tree)
            if self._file() != file:
                raise SaveReplacedError(
                    "the save was replaced while it was open", file=self._options.where, fix="Open it again."
                )
            return nodes

        def found_again(prefix: str) -> SaveTreeNode:
            return again()[prefix]

        @functools.cache
        def digest() -> str:
            with self._store.reader("") as opened:
                return sha256_of(_checked(opened, self._options).pieces())

        nodes = {
            prefix: _HeldNode(node, locations, asks, functools.partial(found_again, prefix), digest)
            for prefix, node in sorted(prefixed(saved.tree).items())
        }
        nodes[""].needs_trust = asks
        return nodes

    def _file(self) -> object:
        """Return the identity of the file, so that a replaced one is noticed; None in an archive."""
        with contextlib.suppress(OSError), self._store.reader("") as file:
            return identity(os.fstat(file.fileno()))
        return None

    def verify(self) -> Iterator[Damage]:
        try:
            with self._store.reader("") as file:
                _checked(file, self._options, digests=True)
        except CorruptSaveError as error:
            yield Damage(None, self._options.where, error.message)


class _HeldNode:
    """A component of a pickle, which is read with all others.

    Parameters
    ----------
    tree : SaveTreeNode
        Read under an audit.
    locations : mapping of int to str
        Where storages were when they were saved.
    asks : list of str
        Values of the whole save that only a trusting read makes, a sentence each.
    again : callable
        Reads the same node with the caller's trust.
    digest : callable
        Computes the SHA-256 of the save's file.
    """

    def __init__(
        self,
        tree: SaveTreeNode,
        locations: Mapping[int, str],
        asks: list[str],
        again: Callable[[], SaveTreeNode],
        digest: Callable[[], str],
    ) -> None:
        from flambe_save.codecs import LazyValues

        self.class_name, self.version = tree.class_name, tree.version
        self.config, self.source = tree.config, tree.source_code
        self.needs_trust: list[str] = []
        self.state = LazyValues(tree.state, locations, asks, lambda: again().state)
        self.stash = LazyValues(tree.object_stash, locations, asks, lambda: again().object_stash)
        self._digest = digest
        self.tensors: Mapping[str, TensorInfo] = self.state.tensors

    def dense(self, file: str) -> None:
        return None

    def digest(self, file: str) -> str:
        return self._digest()

    def fingerprints(self) -> set[Hashable]:
        return set()

    def verify(self) -> Iterator[Damage]:
        return iter(())


PICKLE = PickleFormat()


def _describes_components(metadata: Any) -> bool:
    """Whether metadata is complete: a list of prefixes, and a class and texts for each."""
    if not isinstance(metadata, dict) or not all(isinstance(key, str) for key in metadata):
        return False
    directories = metadata.get(DIRECTORIES_KEY, ())
    if not isinstance(directories, (list, tuple, set, frozenset)):
        return False
    for prefix in directories:
        local = metadata.get(prefix) if isinstance(prefix, str) else None
        if not (isinstance(local, dict) and CLASS_KEY in local):
            return False
        texts = (local.get(key, "") for key in (CLASS_KEY, VERSION_KEY, SOURCE_KEY, CONFIG_KEY))
        if not (all(isinstance(text, str) for text in texts) and isinstance(local.get(STASH_KEY, {}), Mapping)):
            return False
    return True


class _SealedDraft(Draft):
    """A pickle with its trailer, which is known when the pickle is written."""

    def __init__(self, draft: Draft, digest: str | None, opaque: Sequence[str]) -> None:
        self._draft, self._digest, self.opaque = draft, digest, opaque
        self.size = draft.size + len(_trailer(draft.size, 0, digest and hashlib.new(digest)))

    @property
    def storages(self) -> list[torch.UntypedStorage]:
        return self._draft.storages

    @property
    def pickled(self) -> bytes:
        return self._draft.pickled

    def with_storages(self, change: Callable[[torch.UntypedStorage], torch.UntypedStorage]) -> Draft:
        return _SealedDraft(self._draft.with_storages(change), self._digest, self.opaque)

    def chunks(self) -> Iterator[tuple[Buffer, int]]:
        size = checksum = 0
        digest = self._digest and hashlib.new(self._digest)
        for chunk, piece in self._draft.chunks():
            yield chunk, piece
            size, checksum = size + len(chunk), combine(checksum, piece, len(chunk))
            if digest:
                digest.update(chunk)
        end = _trailer(size, checksum, digest)
        yield end, crc32(end)


def _trailer(size: int, checksum: int, digest: Any) -> bytes:
    """Return the trailer of a pickle, whose checksum covers the pickle and its own beginning."""
    extra = f" {digest.name} {digest.hexdigest()}" if digest else ""
    begin = f"\nflambe_save {size} bytes{extra}".encode()
    return begin + b" crc32 %08x\n" % crc32(begin, checksum)


class _Checked(NamedTuple):
    """A pickle that matches its trailer, its end and its checksum.

    A pickle of Flambe has neither trailer nor checksum.
    """

    source: Source
    where: str
    end: int
    trailer: re.Match[bytes] | None = None
    checksum: int = 0

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes of the pickle."""
        return (self.source.piece(here, min(here + _STEP, self.end)) for here in range(0, self.end, _STEP))

    def check_again(self, error: CorruptSaveError | None = None) -> None:
        """Compare what was unpickled with what was checked before that.

        Raises
        ------
        SaveReplacedError
            If the file was changed in between.
        """
        if self.trailer is not None and not self.source.is_held and self.source.checksum(0, self.end) != self.checksum:
            raise SaveReplacedError(
                "the save was changed while it was read", file=self.where, fix="Load it again."
            ) from error


def _checked(file: BinaryIO, options: ReadOptions, *, digests: bool = False) -> _Checked:
    """Compare a pickle with the checksum in its trailer; pickles of Flambe have none.

    No large file is in memory as a whole.

    Raises
    ------
    UnknownFormatError
        If it is not a pickle.
    CorruptSaveError
        If it is damaged.
    """
    where, values = options.where, options.values
    values.progress.begin(file.seek(0, io.SEEK_END))
    file.seek(0)
    source = open_source(file, threads=values.threads, progress=values.progress, passes=2)
    start = bytes(source.piece(0, 200))
    if start[:1] != _FIRST_BYTES or what_it_is(start) is not None:
        what, fix = what_it_is(start) or ("not a pickle", "A save is a folder, a .pkl or a .tar.gz.")
        raise UnknownFormatError(f"{where!r} is {what}, and not a save", file=where, fix=fix.replace("FILE", where))
    try:
        end = walk(lambda start, stop: bytes(source.piece(start, stop)), source.size)
    except pickle.UnpicklingError as error:
        raise CorruptSaveError(f"the pickle cannot be read: {error}", file=where, fix=_FIX) from error
    if source.size == end:
        return _Checked(source, where, end)
    trailer = _TRAILER.fullmatch(source.piece(end, min(end + _LONGEST_TRAILER, source.size)))
    if trailer is not None and int(trailer[2]) == end:
        found = _Checked(source, where, end, trailer, source.checksum(0, end))
        if int(trailer[4], 16) == crc32(trailer[1], found.checksum) and not (
            digests and trailer[3] is not None and sha256_of(found.pieces()).encode() != trailer[3]
        ):
            return found
    raise CorruptSaveError("the file is damaged: it does not match its checksum", file=where, fix=_FIX)
