"""Headers of archives: write them, and read those that are to the byte as written here."""

from __future__ import annotations

import posixpath
import re
import tarfile
from typing import NamedTuple

BLOCK = tarfile.BLOCKSIZE
LARGE = 256 << 10  # bytes from which a file has gzip members of its own


class OtherwiseWrittenError(Exception):
    """The archive was written by another program; it may be a good one."""


class Header(NamedTuple):
    """Name and size of a file or folder, from its header."""

    name: str
    size: int | None  # None for a folder
    length: int  # of the header itself


def header_of(name: str, size: int | None) -> bytes:
    """Return the header of a file, or with no size of a folder; inverse: :func:`parsed_header`.

    The bytes are those of tarfile, made by hand where that is easy: there may be hundreds of thousands.
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
    """Return the bytes around a header's checksum, and their sum, without name and size."""
    block = _info("", size).tobuf(tarfile.PAX_FORMAT)
    middle, end = block[tarfile.LENGTH_NAME : 148], block[156:]
    return middle, end, sum(middle[:24]) + sum(middle[35:]) + sum(b" " * 8) + sum(end)


_FILE, _FOLDER = _template(0), _template(None)
_PAX_RECORD = re.compile(rb"\d+ (path|size)=([^\n]*)\n")


def parsed_header(data: bytes, at: int) -> Header | None:
    """Return the header at a position; None for a block of zeros, as behind the last file.

    Raises
    ------
    OtherwiseWrittenError
        If :func:`header_of` would not write it just so.
    """
    block = data[at : at + BLOCK]
    length = BLOCK
    if not any(block):
        return None
    try:
        records: dict[bytes, bytes] = {}
        if block[156:157] == tarfile.XHDTYPE:
            size = int(block[124:135], 8)
            records = dict(_PAX_RECORD.findall(data[at + BLOCK : at + BLOCK + size]))
            length = 2 * BLOCK + size + -size % BLOCK
            block = data[at + length - BLOCK : at + length]
        kind = block[156:157]
        name = records.get(b"path", block[: tarfile.LENGTH_NAME].rstrip(b"\0")).decode("utf-8", "surrogateescape")
        found = int(records.get(b"size", block[124:135]), 10 if b"size" in records else 8)
        if kind == tarfile.DIRTYPE:
            header = Header(name.removesuffix("/"), None, length)
        else:
            header = Header(name, found, length)
        is_ours = header_of(header.name, header.size) == data[at : at + length]
    except (ValueError, OverflowError) as error:
        raise OtherwiseWrittenError from error
    # Some programs end a name at a zero, or take a file whose name ends in a slash for a folder
    if not is_ours or "\0" in header.name or posixpath.normpath(header.name) != header.name:
        raise OtherwiseWrittenError
    return header


def padding_of(size: int) -> bytes:
    """Return the zeros that fill the last block of a file."""
    return bytes(-size % BLOCK)
