"""TarStore: a save inside one .tar.gz, as Flambe packs it: the root first.

The archive's bytes depend on its content, file name and level (and on whether isal is there) alone: no times, no users,
no modes of this machine. gzip_members.py packs it in members that are unpacked each alone; tar_headers.py has the
headers of files; tar_reading.py finds the files, and tar_checks.py refuses those that no save holds.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from flambe_save.errors import SaveError
from flambe_save.layout import ARCHIVE_SUFFIX, CARD_FILES, REQUIREMENTS_FILE
from flambe_save.storage.atomic import AtomicWrite, finish
from flambe_save.storage.filesystem import open_file
from flambe_save.storage.gzip_members import DamagedMemberError, MemberReader, MemberWriter
from flambe_save.storage.memory import BufferReader, BufferWriter
from flambe_save.storage.tar_checks import check_unpacked, not_intact
from flambe_save.storage.tar_headers import BLOCK, LARGE, OtherwiseWrittenError, header_of, padding_of
from flambe_save.storage.tar_reading import Place, find_places, read_all, unpacked_file
from flambe_save.support.parallel import default_threads
from flambe_save.support.progress import NO_PROGRESS, Progress
from flambe_save.trust import Limits

_GZIP_MAGIC = b"\x1f\x8b"
_PASSED_OVER = frozenset([REQUIREMENTS_FILE, *CARD_FILES])  # what a load of a whole save does not read


class TarStore:
    """The members of a .tar.gz; names are relative to the archive's root folder.

    Reading an archive that was written here unpacks each file when it is asked for, and keeps none. All files of any
    other archive are in memory while the store is open. Nothing is ever extracted to a disk.

    Parameters
    ----------
    path : path
        The archive.
    mode : {"r", "w"}
    single : bool
        With ``"w"``: whether the root is one file, named ``""`` here, and not a folder.
    overwrite, durable, check
        As for :class:`~flambe_save.storage.FolderStore`.
    limits : Limits, optional
        With ``"r"``: limits on what the archive unpacks to.
    level : int, optional
        With ``"w"``: 0 stores, 1 is fast, 9 is small; by default what suits weights. isal has three levels, which stand
        for 1 to 3, 4 to 6, and 7 to 9.
    threads : int, optional
        How many threads pack, or unpack; by default as many as there are cores, four at most.
    progress : Progress
        With ``"r"``: counts the archive's own bytes as they are unpacked.
    """

    is_concurrent = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: str = "r",
        *,
        single: bool = False,
        overwrite: bool = False,
        durable: bool = False,
        limits: Limits | None = None,
        level: int | None = None,
        threads: int | None = None,
        progress: Progress = NO_PROGRESS,
        check: Callable[[Path], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self._mode = mode
        self._single = single
        self._limits = limits or Limits()
        self._level = level
        self._threads = threads or default_threads()
        self._progress = progress
        self._root = self.path.name.removesuffix(ARCHIVE_SUFFIX) or "save"
        self._closing = contextlib.ExitStack()
        # Writing
        self._make_aside = functools.partial(
            AtomicWrite, self.path, overwrite=overwrite, folder=False, durable=durable, check=check
        )
        self._aside: AtomicWrite | None = None
        self._packed: MemberWriter | None = None
        self._folders: set[str] = set()
        self._size = 0
        self._unfinished: str | None = None
        # Reading
        self._members: MemberReader | None = None
        self._places: dict[str, Place] = {}
        self._files: dict[str, bytes] = {}
        self._unread: set[str] = set()

    def __repr__(self) -> str:
        return f"TarStore({str(self.path)!r})"

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether a file begins as a gzip stream does."""
        with open(path, "rb") as file:
            return file.read(2) == _GZIP_MAGIC

    def __enter__(self) -> TarStore:
        if self._mode == "r":
            with contextlib.ExitStack() as closing:
                self._open(closing.enter_context(open_file(self.path)))
                self._closing = closing.pop_all()
            return self
        self._aside = self._make_aside()
        try:
            file = self._closing.enter_context(open(self._aside.path, "wb"))
        except BaseException:
            self._aside.discard()
            raise
        self._packed = MemberWriter(file, self._level, self._threads)
        self._closing.callback(self._packed.close)  # before the file is
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            with self._closing:
                if kind is None and self._mode == "r":
                    self._check_rest()
                elif kind is None:
                    self._end()
        except BaseException:
            finish(self._aside, failed=True)
            raise
        finally:
            self._files, self._places, self._members = {}, {}, None
        finish(self._aside, failed=kind is not None)

    # -------------------------------------------------------------------------------------------- writing

    def writer(self, name: str, size: int | None = None) -> BinaryIO:
        """Open a new member: with a size it is written at once, else when it is closed.

        Raises
        ------
        SaveError
            If the archive cannot hold the name; from the writer, if it gets more, or fewer, bytes than ``size``.
        """
        if bool(name) == self._single:
            raise SaveError(f"this archive cannot hold {name!r}", file=str(self.path))
        if self._unfinished is not None:
            raise SaveError(f"{self._unfinished!r} is not written yet, and {name!r} shall be", file=str(self.path))
        member = f"{self._root}/{name}" if name else self._root
        if size is None or size < LARGE:
            return BufferWriter(functools.partial(self._add, name, member, size))
        self._add_header(member, size)
        self._unfinished = name
        return cast("BinaryIO", _MemberFile(self, name, size))

    def _add(self, name: str, member: str, size: int | None, data: bytes) -> None:
        if size not in (None, len(data)):
            self._unfinished = name
            raise self._wrong_size(name, len(data), size)
        if len(data) >= LARGE:
            self._add_header(member, len(data))
            self._write_content(memoryview(data))
            self._write_content(memoryview(padding_of(len(data))))
        else:
            self._add_folders(member)
            self._write(header_of(member, len(data)) + data + padding_of(len(data)))

    def _add_header(self, member: str, size: int) -> None:
        self._add_folders(member)
        self._write(header_of(member, size))

    def _add_folders(self, member: str) -> None:
        missing = []
        folder = member
        while (folder := folder.rpartition("/")[0]) and folder not in self._folders:
            missing.append(folder)
        for folder in reversed(missing):
            self._folders.add(folder)
            self._write(header_of(folder, None))

    def _write(self, data: bytes) -> None:
        assert self._packed is not None, "a store is written inside its with block"
        self._packed.write(data)
        self._size += len(data)

    def _write_content(self, data: memoryview) -> None:
        assert self._packed is not None, "a store is written inside its with block"
        self._packed.write_content(data)
        self._size += len(data)

    def _end(self) -> None:
        """Write the archive's end; refuse to if a member failed, even where its error was caught."""
        if self._unfinished is not None:
            raise SaveError(f"{self._unfinished!r} was not written to its end", file=str(self.path))
        assert self._packed is not None, "__enter__ made it"
        end = 2 * BLOCK
        self._write(bytes(end + -(self._size + end) % tarfile.RECORDSIZE))
        self._packed.finish()

    def _wrong_size(self, name: str, written: int, size: int | None) -> SaveError:
        return SaveError(
            f"{written:,} bytes were written to {name!r}, which was to have {size:,}",
            file=str(self.path),
            fix="Give writer() the size that will be written, or none.",
        )

    # -------------------------------------------------------------------------------------------- reading

    def names(self) -> list[str]:
        """Return the files of the archive, sorted; ``[""]`` where its root is a file."""
        return sorted(self._files if self._members is None else self._places)

    def reader(self, name: str) -> BinaryIO:
        """Open a member; its ``getbuffer()`` is writable, and stays when the file is closed.

        Raises
        ------
        CorruptSaveError
            If its bytes cannot be unpacked, or do not match their checksum.
        """
        if self._members is None:
            return cast("BinaryIO", BufferReader(memoryview(self._files[name])))
        start, size = self._places[name]
        self._unread.discard(name)
        try:
            return cast("BinaryIO", BufferReader(unpacked_file(self._members, start, size)))
        except DamagedMemberError as error:
            raise not_intact(error, self.path) from error

    def size(self, name: str) -> int:
        """Return the number of a member's bytes; nothing is unpacked."""
        return len(self._files[name]) if self._members is None else self._places[name].size

    def chunks(self, name: str) -> Iterator[memoryview]:
        """Yield a member's bytes in order, some megabytes at a time; one buffer is used again.

        Raises
        ------
        CorruptSaveError
            As :meth:`reader`.
        """
        members = self._members
        start, size = self._places[name] if members is not None else (0, 0)
        first = members.holding(start) if members is not None and size else 0
        if members is None or not size or not members.is_content(first):
            with self.reader(name) as file:
                yield memoryview(file.read())
            return
        self._unread.discard(name)
        end = start + size
        stop = members.holding(end + -size % BLOCK - 1) + 1
        buffer = bytearray()
        for index in range(first, stop, self._threads):
            until = min(index + self._threads, stop)
            begin, count = members.starts[index], members.starts[until] - members.starts[index]
            if count > len(buffer):
                buffer = bytearray(count)
            view = memoryview(buffer)[:count]
            try:
                members.unpack(index, until, view)
            except DamagedMemberError as error:
                raise not_intact(error, self.path) from error
            yield view[: end - begin]

    def _open(self, file: BinaryIO) -> None:
        packed = os.fstat(file.fileno()).st_size
        self._progress.begin(packed)
        try:
            self._members = MemberReader.find(file, self._threads, self._progress)
            if self._members is not None:
                check_unpacked(self._members.size, packed, self._limits, str(self.path))
                try:
                    self._places = find_places(self._members, self._limits, self.path)
                    self._unread = set(self._places)
                    return
                except OtherwiseWrittenError:
                    self._members = None
            file.seek(0)
            self._files = read_all(file, self._limits, self.path, self._progress)
        except DamagedMemberError as error:
            raise not_intact(error, self.path) from error

    def _check_rest(self) -> None:
        """Check the files that a load of the whole save skips; a load of one node leaves the rest."""
        if self._members is not None and self._unread <= _PASSED_OVER:
            try:
                self._members.check_rest()
            except DamagedMemberError as error:
                raise not_intact(error, self.path) from error


class _MemberFile(io.BufferedIOBase):
    """A member of a known size, whose bytes go into the archive as they are written."""

    def __init__(self, store: TarStore, name: str, size: int) -> None:
        super().__init__()
        self._store = store
        self._name = name
        self._size = size
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        view = memoryview(data)
        count = view.nbytes
        self._written += count
        if self._written > self._size:
            raise self._store._wrong_size(self._name, self._written, self._size)
        if count:  # an empty view cannot be cast
            self._store._write_content(view.cast("B"))
        return count

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            if self._written != self._size:
                raise self._store._wrong_size(self._name, self._written, self._size)
            self._store._write_content(memoryview(padding_of(self._size)))
            self._store._unfinished = None
        super().__exit__(kind, *rest)  # type: ignore[arg-type]
