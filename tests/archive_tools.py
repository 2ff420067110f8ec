"""Archives taken apart into gzip members and put together again, truthfully or not; for the tests of archives."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

HEADER = struct.Struct("<10sH2sHBII")


class Part(NamedTuple):
    """A gzip member as our archives have it, and what it shall say that is not so."""

    kind: int  # 1: nothing but content of one large file
    data: bytes
    told: int = 0  # how much larger its unpacked size is said to be, here and in the trailer
    packed: int = 0  # how much larger its packed size is said to be
    checksum: int = 0  # what its checksum is changed by
    plain: bool = False  # whether it has no extra field, as other programs write
    more: bytes = b""  # what lies behind it
    is_open: bool = False  # whether its stream goes on behind the data

    def bytes(self) -> bytes:
        """Return the member."""
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        body = packer.compress(self.data) + packer.flush(zlib.Z_SYNC_FLUSH if self.is_open else zlib.Z_FINISH)
        told = len(self.data) + self.told & 0xFFFFFFFF
        trailer = struct.pack("<II", zlib.crc32(self.data) ^ self.checksum, told)
        if self.plain:
            return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + body + trailer + self.more
        size = HEADER.size + len(body) + 8 + self.packed & 0xFFFFFFFF
        begin = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff"
        return HEADER.pack(begin, 13, b"FS", 9, self.kind, size, told) + body + trailer + self.more


def parts_of(path: Path) -> list[Part]:
    """Return the members of an archive of ours."""
    whole, found, here = path.read_bytes(), [], 0
    while here < len(whole):
        *_, kind, packed, told = HEADER.unpack_from(whole, here)
        data = zlib.decompress(whole[here + HEADER.size : here + packed - 8], -15)
        assert len(data) == told
        found.append(Part(kind, data))
        here += packed
    return found


def archive_of(path: Path, parts: list[Part]) -> Path:
    """Write an archive of members."""
    path.write_bytes(b"".join(part.bytes() for part in parts))
    return path
