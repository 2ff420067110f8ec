"""TarStore: a save inside one .tar.gz, as Flambe packs it: the root first, regular files and folders only.

The archive's bytes depend on its content, file name and level (and on whether isal is there) alone: no times, no users,
no modes of this machine. gzip.py packs it in members that are found, and unpacked, each alone.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import mmap
import os
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, cast

from flambe_save.errors import CorruptSaveError, LimitError, SaveError, quote
from flambe_save.layout import ARCHIVE_SUFFIX, CARD_FILES, REQUIREMENTS_FILE
from flambe_save.storage.aside import Aside, finish
from flambe_save.storage.disk import open_file
from flambe_save.storage.gzip import DamagedMemberError, MemberReader, MemberWriter
from flambe_save.storage.memory import BufferReader, BufferWriter
from flambe_save.support.parallel import default_threads
from flambe_save.support.progress import NO_PROGRESS, Progress
from flambe_save.trust import Limits

__all__ = ["TarStore"]

_GZIP_MAGIC = b"\x1f\x8b"
_FREE = 256 << 20  # bytes that any archive may unpack to, whatever its own size
_BLOCK = tarfile.BLOCKSIZE
_LARGE = 256 << 10  # bytes from which a file has gzip members of its own
_HUGE_PAGE = 2 << 20
_PASSED_OVER = frozenset([REQUIREMENTS_FILE, *CARD_FILES])  # what a load of a whole save does not read


class TarStore:
    """The members of a .tar.gz; names are relative to the archive's root folder.

    Reading an archive that was written here unpacks the files that are asked for, each when it is, and keeps none.
    Of any other, all files are held in memory while the store is open. Nothing is ever extracted to a disk.

    Parameters
    ----------
    path : path
        The archive.
    mode : {"r", "w"}
    single : bool
        With ``"w"``: the root is one file, named ``""`` here, and not a folder.
    overwrite : bool
        With ``"w"``: whether a file that is there is replaced.
    durable : bool
        With ``"w"``: whether leaving the store waits until the save is on the disk.
    limits : Limits, optional
        With ``"r"``: what the archive may unpack to.
    level : int, optional
        With ``"w"``: 0 stores, 1 is fast, 9 is small; by default what suits weights. isal has three levels, which stand
        for 1 to 3, 4 to 6, and 7 to 9.
    threads : int, optional
        How many threads pack, or unpack; by default as many as there are cores, four at most.
    progress : Progress
        With ``"r"``: is told of the archive's own bytes, as they are unpacked.
    check : callable, optional
        With ``"w"``: called with the path of what was written, before it is committed; what it raises ends the save.
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
        self._check = check
        self.path = Path(path)
        self._mode = mode
        self._single = single
        self._overwrite = overwrite
        self._durable = durable
        self._limits = limits or Limits()
        self._level = level
        self._threads = threads or default_threads()
        self._progress = progress
        self._root = self.path.name.removesuffix(ARCHIVE_SUFFIX) or "save"
        self._closing = contextlib.ExitStack()
        # Writing
        self._aside: Aside | None = None
        self._packed: MemberWriter | None = None
        self._folders: set[str] = set()
        self._size = 0
        self._unfinished: str | None = None
        # Reading
        self._members: MemberReader | None = None
        self._places: dict[str, _Place] = {}
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
        self._aside = Aside(
            self.path, overwrite=self._overwrite, folder=False, durable=self._durable, check=self._check
        )
        try:
            file = self._closing.enter_context(open(self._aside.path, "wb"))
        except BaseException:
            self._aside.discard()
            raise
        self._packed = MemberWriter(file, self._level, self._threads)
        self._closing.callback(self._packed.close)  # before the file is
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        """Open a new member: with its size it goes into the archive as it is written, without it when it is whole.

        Raises
        ------
        SaveError
            If the archive cannot hold the name; from the writer, if it is given more, or fewer, bytes than ``size``.
        """
        if bool(name) == self._single:
            raise SaveError(f"this archive cannot hold {name!r}", file=str(self.path))
        if self._unfinished is not None:
            raise SaveError(f"{self._unfinished!r} is not written yet, and {name!r} shall be", file=str(self.path))
        member = f"{self._root}/{name}" if name else self._root
        if size is None or size < _LARGE:
            return BufferWriter(functools.partial(self._add, name, member, size))
        self._add_header(member, size)
        self._unfinished = name
        return cast("BinaryIO", _MemberFile(self, name, size))

    def _add(self, name: str, member: str, size: int | None, data: bytes) -> None:
        if size not in (None, len(data)):
            self._unfinished = name
            raise self._wrong_size(name, len(data), size)
        if len(data) >= _LARGE:
            self._add_header(member, len(data))
            self._write_content(memoryview(data))
            self._write_content(memoryview(_padding(len(data))))
        else:
            self._add_folders(member)
            self._write(_header(member, len(data)) + data + _padding(len(data)))

    def _add_header(self, member: str, size: int) -> None:
        self._add_folders(member)
        self._write(_header(member, size))

    def _add_folders(self, member: str) -> None:
        missing = []
        folder = member
        while (folder := folder.rpartition("/")[0]) and folder not in self._folders:
            missing.append(folder)
        for folder in reversed(missing):
            self._folders.add(folder)
            self._write(_header(folder, None))

    def _write(self, data: bytes) -> None:
        assert self._packed is not None, "a store is written inside its with block"
        self._packed.write(data)
        self._size += len(data)

    def _write_content(self, data: memoryview) -> None:
        assert self._packed is not None, "a store is written inside its with block"
        self._packed.write_content(data)
        self._size += len(data)

    def _end(self) -> None:
        """Write the archive's end; a failed member lets no archive come to be, even where its error was caught."""
        if self._unfinished is not None:
            raise SaveError(f"{self._unfinished!r} was not written to its end", file=str(self.path))
        assert self._packed is not None, "__enter__ made it"
        end = 2 * _BLOCK
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
        """Open a member; ``getbuffer()`` of what is returned is writable, and stays when that is closed.

        Raises
        ------
        CorruptSaveError
            If what holds it does not unpack to what it should be.
        """
        if self._members is None:
            return cast("BinaryIO", BufferReader(memoryview(self._files[name])))
        start, size = self._places[name]
        self._unread.discard(name)
        try:
            return cast("BinaryIO", BufferReader(_unpacked(self._members, start, size)))
        except DamagedMemberError as error:
            raise self._not_intact(error) from error

    def size(self, name: str) -> int:
        """Return how many bytes a member has; nothing is unpacked for it."""
        return len(self._files[name]) if self._members is None else self._places[name].size

    def chunks(self, name: str) -> Iterator[memoryview]:
        """Yield a member's bytes in order, a few megabytes at a time; they may change when the next are asked for.

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
        stop = members.holding(end + -size % _BLOCK - 1) + 1
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
                raise self._not_intact(error) from error
            yield view[: end - begin]

    def _open(self, file: BinaryIO) -> None:
        packed = os.fstat(file.fileno()).st_size
        self._progress.begin(packed)
        try:
            self._members = MemberReader.find(file, self._threads, self._progress)
            if self._members is not None:
                _check_unpacked(self._members.size, packed, self._limits, str(self.path))
                try:
                    self._places = self._listed(self._members)
                    self._unread = set(self._places)
                    return
                except _OtherwiseWrittenError:
                    self._members = None
            file.seek(0)
            self._read(file)
        except DamagedMemberError as error:
            raise self._not_intact(error) from error

    def _listed(self, members: MemberReader) -> dict[str, _Place]:
        """Return where each file's content is, by the headers in members that hold some.

        Invariant: only what :meth:`_write` and :meth:`_write_content` write comes through, to the bit, or it is read in
        the other way. Where all members are what they say, any other reader of archives then sees these very files.
        """
        places: dict[str, _Place] = {}
        names = _Names(self._limits, self.path)
        position, index = 0, 0
        while index < len(members) and not members.is_content(index):
            data, begin, end = members.content(index), members.starts[index], members.starts[index + 1]
            while position < end:
                found = _parsed(data, position - begin)
                if found is None:
                    if index + 1 == len(members) and end - position >= 2 * _BLOCK and not any(data[position - begin :]):
                        return places
                    raise _OtherwiseWrittenError
                name, size, position = found.name, found.size, position + found.length
                inner = names.add(name, is_folder=size is None)
                if size is None:
                    continue
                places[inner] = _Place(position, size)
                position += size + -size % _BLOCK
                if size >= _LARGE:
                    break
            if position == end:
                index += 1
                continue
            # Behind the last header here is the content of a large file, in members of its own
            last = members.holding(position) if position < members.size else len(members)
            is_whole = all(map(members.is_content, range(index + 1, last)))
            if last == index or members.starts[last] != position or places[inner].start != end or not is_whole:
                raise _OtherwiseWrittenError
            index = last
        raise _OtherwiseWrittenError

    def _check_rest(self) -> None:
        """Check what a load of the whole save passed over; of one node's load the rest is none of its business."""
        if self._members is not None and self._unread <= _PASSED_OVER:
            try:
                self._members.check_rest()
            except DamagedMemberError as error:
                raise self._not_intact(error) from error

    def _read(self, file: BinaryIO) -> None:
        """Read an archive of anybody else, all of it, from its begin to its end."""
        try:
            with gzip.open(file) as unpacked:
                stream: Any = _Metered(unpacked, file, self._limits, str(self.path), self._progress)
                with tarfile.open(fileobj=stream, mode="r|") as tar:
                    self._read_members(tar)
                while rest := stream.read(1 << 20):  # gzip checks its CRC at the very end, which tarfile does not read
                    if rest.strip(b"\0"):
                        raise _damaged("something comes after the archive's end", self.path)
        except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, OverflowError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the system's trouble, not the archive's
                raise
            raise self._not_intact(error) from error

    def _read_members(self, tar: tarfile.TarFile) -> None:
        names = _Names(self._limits, self.path)
        for info in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            if not (info.isfile() or info.isdir()) or info.issparse():
                raise _damaged(f"the member {quote(info.name)} is neither a plain file nor a folder", self.path)
            inner = names.add(info.name, is_folder=not info.isfile())
            if info.isfile():
                content = tar.extractfile(info)
                assert content is not None
                self._files[inner] = content.read()

    def _not_intact(self, error: Exception) -> CorruptSaveError:
        return _damaged(f"this is no intact .tar.gz: {error}", self.path)


class _MemberFile(io.BufferedIOBase):
    """What is written goes into the archive at once; as much as was said must come."""

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
            self._store._write_content(memoryview(_padding(self._size)))
            self._store._unfinished = None
        super().__exit__(kind, *rest)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ headers


class _OtherwiseWrittenError(Exception):
    """It is no archive as it is written here; it may be a good one."""


class _Place(NamedTuple):
    start: int  # of a file's content, in what is unpacked
    size: int


class _Header(NamedTuple):
    name: str
    size: int | None  # None for a folder
    length: int  # of the header itself


def _header(name: str, size: int | None) -> bytes:
    """Return a file's header, or with None a folder's; :func:`_parsed` is the inverse.

    It is what tarfile makes, by hand where that is easy: there may be hundreds of thousands.
    """
    raw = name.encode("ascii", "replace") if size is not None else name.encode("ascii", "replace") + b"/"
    if len(raw) > tarfile.LENGTH_NAME or (size or 0) > 0o77777777777 or not name.isascii():
        return _info(name, size).tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    begin = raw.ljust(tarfile.LENGTH_NAME, b"\0")
    middle, end, base = _FOLDER if size is None else _FILE
    digits = b"%011o" % (size or 0)
    checksum = base + sum(raw) + sum(digits)
    return b"".join((begin, middle[:24], digits, middle[35:48], b"%06o\0 " % checksum, end))


def _info(name: str, size: int | None) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    if size is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    info.size = size or 0
    return info


def _template(size: int | None) -> tuple[bytes, bytes, int]:
    """Return a header between name and checksum, and behind that, and the sum of its bytes without name and size."""
    block = _info("", size).tobuf(tarfile.PAX_FORMAT)
    middle, end = block[tarfile.LENGTH_NAME : 148], block[156:]
    return middle, end, sum(middle[:24]) + sum(middle[35:]) + sum(b" " * 8) + sum(end)


_FILE, _FOLDER = _template(0), _template(None)
_PAX_RECORD = re.compile(rb"\d+ (path|size)=([^\n]*)\n")


def _parsed(data: bytes, at: int) -> _Header | None:
    """Return the header at a position; None where there is a block of zeros, as behind the last file.

    Raises
    ------
    _OtherwiseWrittenError
        If :func:`_header` would not write it just so.
    """
    block = data[at : at + _BLOCK]
    length = _BLOCK
    if not any(block):
        return None
    try:
        records: dict[bytes, bytes] = {}
        if block[156:157] == tarfile.XHDTYPE:
            size = int(block[124:135], 8)
            records = dict(_PAX_RECORD.findall(data[at + _BLOCK : at + _BLOCK + size]))
            length = 2 * _BLOCK + size + -size % _BLOCK
            block = data[at + length - _BLOCK : at + length]
        kind = block[156:157]
        name = records.get(b"path", block[: tarfile.LENGTH_NAME].rstrip(b"\0")).decode("utf-8", "surrogateescape")
        found = int(records.get(b"size", block[124:135]), 10 if b"size" in records else 8)
        if kind == tarfile.DIRTYPE:
            header = _Header(name.removesuffix("/"), None, length)
        else:
            header = _Header(name, found, length)
        is_ours = _header(header.name, header.size) == data[at : at + length]
    except (ValueError, OverflowError) as error:
        raise _OtherwiseWrittenError from error
    # Some programs end a name at a zero, or take a file whose name ends in a slash for a folder
    if not is_ours or "\0" in header.name or posixpath.normpath(header.name) != header.name:
        raise _OtherwiseWrittenError
    return header


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


# ------------------------------------------------------------------------------------------------ checks


def _damaged(message: str, where: Path) -> CorruptSaveError:
    return CorruptSaveError(message, file=str(where), fix="Get the archive again from where it came.")


class _Names:
    """The names of an archive, checked one by one, in either way of reading."""

    def __init__(self, limits: Limits, where: Path) -> None:
        self._limits = limits
        self._where = where
        self._count = 0
        self._root: str | None = None
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, given: str, *, is_folder: bool) -> str:
        """Return a member's name inside the archive's root, which is the first member.

        Raises
        ------
        LimitError
            If there are too many.
        CorruptSaveError
            If it leads out of the archive, or comes twice.
        """
        self._count += 1
        if self._count > self._limits.members:
            raise LimitError(
                f"the archive has more than {self._limits.members:,} members",
                file=str(self._where),
                fix=f"If they are meant, allow them: load(..., limits=Limits(members={10 * self._count})).",
            )
        name = posixpath.normpath(given)
        if name.startswith(("/", "..")) or name == ".":
            raise _damaged(f"the member {quote(given)} points outside the archive", self._where)
        if self._root is None:
            self._root = name
        inner = "" if name == self._root else name.removeprefix(f"{self._root}/")
        outside = name != self._root and inner == name
        above, inside_a_file = inner, False
        while above and not inside_a_file and above not in self._folders:
            above = above.rpartition("/")[0]
            inside_a_file = above in self._files
        if outside or inside_a_file or inner in self._files:
            raise _damaged(f"the member {quote(name)} lies outside the archive's root or comes twice", self._where)
        (self._folders if is_folder else self._files).add(inner)
        return inner


def _unpacked(members: MemberReader, start: int, size: int) -> memoryview:
    """Return a file's content in a buffer of its own."""
    index = members.holding(start)
    if not size or not members.is_content(index):
        begin = start - members.starts[index]
        return memoryview(bytearray(members.content(index)[begin : begin + size]) if size else bytearray())
    end = start + size + -size % _BLOCK
    buffer = _buffer(end - start)
    members.unpack(index, members.holding(end - 1) + 1, buffer)
    return buffer[:size]


def _buffer(size: int) -> memoryview:
    """Return memory that is there when it is first touched, in large pages where the system has them."""
    if size < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return memoryview(bytearray(size))
    pages = mmap.mmap(-1, size)
    with contextlib.suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


def _check_unpacked(count: int, packed: int, limits: Limits, where: str) -> None:
    """Refuse to unpack so many bytes from as many as were packed.

    Raises
    ------
    LimitError
    """
    if count > min(limits.unpacked_bytes, _FREE + limits.ratio * packed):
        raise LimitError(
            f"the archive unpacks to more than {count:,} bytes, from {packed:,}",
            file=where,
            fix="If it is meant to, a model of zeros say, allow it: load(..., limits=Limits("
            + (
                f"unpacked_bytes={10 * count}))."
                if count > limits.unpacked_bytes
                else f"ratio={max(10_000, 10 * limits.ratio):g}))."
            ),
        )


class _Metered:
    """What an archive unpacks to, read no further than the limits allow."""

    def __init__(
        self, unpacked: gzip.GzipFile, packed: BinaryIO, limits: Limits, where: str, progress: Progress
    ) -> None:
        self._progress = progress
        self._unpacked = unpacked
        self._packed = packed
        self._limits = limits
        self._where = where
        self._count = 0
        self._position = 0

    def read(self, size: int) -> bytes:
        data = self._unpacked.read(size)
        self._count += len(data)
        before, self._position = self._position, self._packed.tell()
        _check_unpacked(self._count, self._position, self._limits, self._where)
        self._progress.advance(self._position - before)
        return data
