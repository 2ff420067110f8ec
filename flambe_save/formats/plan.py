"""Plans: a save's files before any is written. A format plans; writing reads the tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from flambe_save.pt import Draft
from flambe_save.storage import Store, put
from flambe_save.storage.filesystem import WholeFile
from flambe_save.support.checksum import combine, crc32, sha256_of
from flambe_save.support.parallel import in_threads, spans
from flambe_save.support.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    import torch

_LARGE = 1 << 20  # bytes of a file that is worth a thread
_SPAN = 8 << 20  # bytes of a part of a file that is worth a thread
_STEP = 4 << 20  # bytes that stay in a processor's cache; fewer at once are written more slowly


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
                return self._write(name, store, progress, spare)
            progress.advance(linked.size)
            return linked

        # Threads do not speed up small files, which wait for Python's lock; large files come first, largest first
        large = [name for name, draft in self.files.items() if draft.size >= _LARGE] if store.is_concurrent else []
        large.sort(key=lambda name: -self.files[name].size)
        spare = max(1, threads // max(1, len(large)))
        facts = dict(zip(large, in_threads(place, large, threads), strict=True))
        facts = {name: facts[name] if name in facts else place(name) for name in self.files}
        if self.seal is not None:
            name, data = self.seal(facts)
            put(store, name, data)

    def _write(self, name: str, store: Store, progress: Progress, threads: int) -> FileStats:
        draft = self.files[name]
        if draft.size < _LARGE:
            data = bytes(draft)
            put(store, name, data)
            progress.advance(len(data))
            return FileStats(len(data), crc32(data), sha256_of([data]) if self.digest is not None else None)
        import hashlib  # which loads OpenSSL

        here = checksum = 0
        digest = hashlib.new(self.digest) if self.digest is not None else None
        with store.writer(name, draft.size) as file:
            whole: Any = file if hasattr(file, "write_at") and hasattr(os, "pwrite") else None
            done = _write_parts(draft, whole, progress, threads) if whole is not None else {}
            for chunk, piece in draft.chunks_knowing(done):
                if here in done:
                    whole.skip(len(chunk))
                else:
                    for part in progress.pieces(chunk):
                        file.write(part)
                checksum = combine(checksum, piece, len(chunk)) if checksum else piece
                if digest is not None:
                    digest.update(chunk)
                here += len(chunk)
        return FileStats(draft.size, checksum, digest.hexdigest() if digest is not None else None)


def _write_parts(draft: Draft, file: WholeFile, progress: Progress, threads: int) -> dict[int, int]:
    """Write a draft's large parts in threads; return their checksums by their offsets.

    The checksum of each step is taken just before it is written, while its memory is in the processor's cache.
    """

    def write(span: tuple[int, int, int]) -> int:
        offset, start, stop = span
        checksum = 0
        for here in range(start, stop, _STEP):
            piece = parts[offset][here : min(here + _STEP, stop)]
            checksum = crc32(piece, checksum)
            file.write_at(piece, offset + here)
            progress.advance(len(piece))
        return checksum

    parts = draft.large_parts()
    cuts = [(offset, *span) for offset, part in parts.items() for span in spans(0, len(part), threads, _SPAN)]
    found: dict[int, int] = {}
    for (offset, start, stop), checksum in zip(cuts, in_threads(write, cuts, threads), strict=True):
        found[offset] = combine(found[offset], checksum, stop - start) if start else checksum
    return found
