"""Read archives: find the files of one that was written here, or read all of any other.

tar.py tries the first, and the second where that raises OtherwiseWrittenError.
"""

from __future__ import annotations

import contextlib
import gzip
import mmap
import tarfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from flambe_save.errors import quote
from flambe_save.storage.gzip_members import MemberReader
from flambe_save.storage.tar_checks import MemberNames, Metered, damaged_archive, not_intact
from flambe_save.storage.tar_headers import BLOCK, LARGE, OtherwiseWrittenError, parsed_header
from flambe_save.support.progress import Progress
from flambe_save.trust import Limits

_HUGE_PAGE = 2 << 20


class Place(NamedTuple):
    """Position of a file's content in the unpacked stream."""

    start: int
    size: int


def find_places(members: MemberReader, limits: Limits, where: Path) -> dict[str, Place]:
    """Return the position of each file's content, by the headers in members that hold some.

    Invariant: only archives that a TarStore writes pass, to the bit; any other is read by :func:`read_all`. If all
    members are intact, any other reader of archives then sees these very files.

    Raises
    ------
    OtherwiseWrittenError
        If it was written by another program.
    """
    places: dict[str, Place] = {}
    names = MemberNames(limits, where)
    position, index = 0, 0
    while index < len(members) and not members.is_content(index):
        data, begin, end = members.content(index), members.starts[index], members.starts[index + 1]
        while position < end:
            found = parsed_header(data, position - begin)
            if found is None:
                if index + 1 == len(members) and end - position >= 2 * BLOCK and not any(data[position - begin :]):
                    return places
                raise OtherwiseWrittenError
            name, size, position = found.name, found.size, position + found.length
            inner = names.add(name, is_folder=size is None)
            if size is None:
                continue
            places[inner] = Place(position, size)
            position += size + -size % BLOCK
            if size >= LARGE:
                break
        if position == end:
            index += 1
            continue
        # Behind the last header here is the content of a large file, in members of its own
        last = members.holding(position) if position < members.size else len(members)
        is_whole = all(map(members.is_content, range(index + 1, last)))
        if last == index or members.starts[last] != position or places[inner].start != end or not is_whole:
            raise OtherwiseWrittenError
        index = last
    raise OtherwiseWrittenError


def read_all(file: BinaryIO, limits: Limits, where: Path, progress: Progress) -> dict[str, bytes]:
    """Return the files of an archive of another program, read from begin to end.

    Raises
    ------
    CorruptSaveError
        If it is damaged, or holds links, devices or other members that no save has.
    LimitError
        If it unpacks to more than the limits allow.
    """
    try:
        with gzip.open(file) as unpacked:
            stream: Any = Metered(unpacked, file, limits, str(where), progress)
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                files = _read_members(tar, limits, where)
            while rest := stream.read(1 << 20):  # gzip checks its CRC at the very end, which tarfile does not read
                if rest.strip(b"\0"):
                    raise damaged_archive("something comes after the archive's end", where)
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, OverflowError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # an error of the system, not of the archive
            raise
        raise not_intact(error, where) from error
    return files


def _read_members(tar: tarfile.TarFile, limits: Limits, where: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    names = MemberNames(limits, where)
    for info in tar:
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
        if not (info.isfile() or info.isdir()) or info.issparse():
            raise damaged_archive(f"the member {quote(info.name)} is neither a plain file nor a folder", where)
        inner = names.add(info.name, is_folder=not info.isfile())
        if info.isfile():
            content = tar.extractfile(info)
            assert content is not None
            files[inner] = content.read()
    return files


def unpacked_file(members: MemberReader, start: int, size: int) -> memoryview:
    """Return a file's content in a buffer of its own."""
    index = members.holding(start)
    if not size or not members.is_content(index):
        begin = start - members.starts[index]
        return memoryview(bytearray(members.content(index)[begin : begin + size]) if size else bytearray())
    end = start + size + -size % BLOCK
    buffer = _buffer(end - start)
    members.unpack(index, members.holding(end - 1) + 1, buffer)
    return buffer[:size]


def _buffer(size: int) -> memoryview:
    """Return memory that is allocated at its first use, in large pages where there are any."""
    if size < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return memoryview(bytearray(size))
    pages = mmap.mmap(-1, size)
    with contextlib.suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)
