"""Plans: a save's files before any is written. A format plans; writing reads the tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from flambe_save.pt import Draft
from flambe_save.storage import Store, put
from flambe_save.support.checksum import combine, crc32, sha256_of
from flambe_save.support.parallel import in_threads
from flambe_save.support.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    import torch

_LARGE = 1 << 20  # bytes of a file that is worth a thread


class FileStats(NamedTuple):
    """Facts of a file that was written.

    Attributes
    ----------
    size : int
        In bytes.
    checksum : int
        CRC-32.
    digest : str or None
        SHA-256 in hexadecimal, where it was asked for.
    """

    size: int
    checksum: int
    digest: str | None


Link: TypeAlias = Callable[[str, Store], "FileStats | None"]


@dataclass
class Plan:
    """The files of a save.

    Attributes
    ----------
    files : dict of str to Draft
        By name, in the order in which an archive holds them.
    seal : callable, optional
        Makes the name and the bytes of the file that comes last and makes the save valid, from facts of the others.
    digest : {"sha256"}, optional
        Whether digests are taken too.
    opaque : list of str
        Values that only a trusting load will read, a sentence each.
    referring : list of (str, bytes)
        The names of files, and pickles in them that refer to objects that a load builds.
    codec : str
        The name of the codec that wrote files with ``opaque`` values.
    """

    files: dict[str, Draft] = field(default_factory=dict)
    seal: Callable[[Mapping[str, FileStats]], tuple[str, bytes]] | None = None
    digest: str | None = None
    opaque: list[str] = field(default_factory=list)
    referring: list[tuple[str, bytes]] = field(default_factory=list)
    codec: str = "pt"

    @property
    def size(self) -> int:
        """Size of all files but the last, in bytes."""
        return sum(draft.size for draft in self.files.values())

    def with_storages(self, change: Callable[[torch.UntypedStorage], torch.UntypedStorage]) -> Plan:
        """Return a plan of the same files that reads other memory."""
        return replace(self, files={name: draft.with_storages(change) for name, draft in self.files.items()})

    def write(
        self,
        store: Store,
        threads: int = 1,
        link: Link | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        """Write all files to an open store, from several threads where it takes that.

        Parameters
        ----------
        store : Store
        threads : int
        link : callable, optional
            Links a file into the store and returns its facts; returns None for a file that has to be written.
        progress : Progress
            Has begun already, with :attr:`size` bytes.
        """

        def place(name: str) -> FileStats:
            linked = link(name, store) if link is not None else None
            if linked is None:
                return self._write(name, store, progress)
            progress.advance(linked.size)
            return linked

        # Threads do not speed up small files, which wait for Python's lock; large files come first, largest first
        large = [name for name, draft in self.files.items() if draft.size >= _LARGE] if store.is_concurrent else []
        large.sort(key=lambda name: -self.files[name].size)
        facts = dict(zip(large, in_threads(place, large, threads), strict=True))
        facts = {name: facts[name] if name in facts else place(name) for name in self.files}
        if self.seal is not None:
            name, data = self.seal(facts)
            put(store, name, data)

    def _write(self, name: str, store: Store, progress: Progress) -> FileStats:
        draft = self.files[name]
        if draft.size < _LARGE:
            data = bytes(draft)
            put(store, name, data)
            progress.advance(len(data))
            return FileStats(len(data), crc32(data), sha256_of([data]) if self.digest is not None else None)
        import hashlib  # which loads OpenSSL

        checksum, digest = 0, hashlib.new(self.digest) if self.digest is not None else None
        with store.writer(name, draft.size) as file:
            for chunk, piece in draft.chunks():
                for part in progress.pieces(chunk):
                    file.write(part)
                checksum = combine(checksum, piece, len(chunk)) if checksum else piece
                if digest is not None:
                    digest.update(chunk)
        return FileStats(draft.size, checksum, digest.hexdigest() if digest is not None else None)
