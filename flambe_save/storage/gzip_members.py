"""Gzip members: parts of a stream that threads pack and unpack; tar.py is built on it.

Every member is an ordinary gzip member. Its header has an extra field, which other programs skip, with the member's
packed and unpacked size: a reader goes from member to member and unpacks only those it needs.
"""

from __future__ import annotations

import bisect
import os
import struct
import threading
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

from flambe_save.support.checksum import crc32, isal_zlib
from flambe_save.support.in_order import InOrder
from flambe_save.support.parallel import in_threads
from flambe_save.support.progress import NO_PROGRESS, Progress

# Magic, deflate and "has an extra field"; no time; no flags; no system; bytes of extra; id of ours and bytes of it;
# whether the member is content alone; packed and unpacked size
_HEADER = struct.Struct("<4sIBBH2sHBII")
_TRAILER = struct.Struct("<II")  # CRC-32 and size of what is unpacked
_FIXED = (b"\x1f\x8b\x08\x04", 0, 0, 255, 13, b"FS", 9)
_CONTENT_SIZE = 4 << 20  # unpacked bytes of a member of a large file: the memory for each thread is about twice that
_MIXED_SIZE = 1 << 20  # ... of other members, one of which is unpacked for every small file that is read
_MAX_SIZE = 16 << 20  # what is larger was not written here
_KEPT = 32 << 20  # bytes of unpacked members that hold small files
_PIECE = 64 << 10  # bytes that are unpacked at a time; they stay in the processor's cache until they are copied
_SAMPLE = 64 << 10  # bytes
_ISAL_LEVELS = {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 2, 7: 3, 8: 3, 9: 3}


class DamagedMemberError(ValueError):
    """A member is not what its sizes and its checksum say."""


# ------------------------------------------------------------------------------------------------ packing


class MemberWriter:
    """Packs what is written into members, in threads, and writes them in order.

    The bytes depend on what is written, on ``level`` and on whether isal is there; not on the threads, nor on the
    pieces that content comes in.

    Parameters
    ----------
    file : BinaryIO
        Where members go; it stays open.
    level : int, optional
        0 stores, 1 is fast, 9 is small.
    threads : int
        How many pack at a time.
    """

    def __init__(self, file: BinaryIO, level: int | None, threads: int) -> None:
        self._level = level
        self._work = InOrder(threads, file.writelines)
        self._waiting = bytearray()
        self._is_content = False

    def write(self, data: bytes) -> None:
        """Write bytes into one member, which they share with their neighbours."""
        if self._is_content:
            self.cut()
            self._is_content = False
        self._waiting += data
        if len(self._waiting) >= _MIXED_SIZE:
            self.cut()

    def write_content(self, data: memoryview) -> None:
        """Write a part of a large file, whose members hold nothing else. The buffer may then change."""
        if not self._is_content:
            self.cut()
            self._is_content = True
        is_lent = False
        while data:
            missing = _CONTENT_SIZE - len(self._waiting)
            if missing == _CONTENT_SIZE <= len(data):  # not copied
                self._pack(data[:missing])
                is_lent = True
            else:
                self._waiting += data[:missing]
                if len(data) >= missing:
                    self.cut()
            data = data[missing:]
        if is_lent:
            self._work.wait()

    def cut(self) -> None:
        """End the member, if one has begun."""
        if self._waiting:
            waiting, self._waiting = self._waiting, bytearray()
            self._pack(memoryview(waiting))

    def finish(self) -> None:
        """Write the rest; errors of the threads are raised here, as by ``write``."""
        self.cut()
        self._work.wait()

    def close(self) -> None:
        """End the threads; the rest is not written."""
        self._work.close()

    def _pack(self, data: memoryview) -> None:
        is_content = self._is_content
        self._work.add(lambda: _packed(data, is_content, self._level))


def _packed(data: memoryview, is_content: bool, level: int | None) -> list[bytes]:
    packer = _packer(data, level)
    body = [packer.compress(data), packer.flush()]
    size = _HEADER.size + sum(map(len, body)) + _TRAILER.size
    header = _HEADER.pack(*_FIXED, is_content, size, len(data))
    return [header, *body, _TRAILER.pack(crc32(data), len(data))]


def _packer(data: memoryview, level: int | None) -> Any:
    if level == 0:  # isal's level 0 makes weights larger
        return zlib.compressobj(0, zlib.DEFLATED, -zlib.MAX_WBITS)
    if isal_zlib is not None and level is not None:
        return isal_zlib.compressobj(_ISAL_LEVELS[level], zlib.DEFLATED, -zlib.MAX_WBITS)
    if level is not None:
        return zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    # Weights repeat nothing: looking for it takes most of the time, and may even make them larger. A sample tells.
    middle = max(len(data) - _SAMPLE, 0) // 2
    sample = data[middle : middle + _SAMPLE]
    quick, thorough = (len(packer.compress(sample) + packer.flush()) for packer in map(_default_packer, (True, False)))
    return _default_packer(thorough > 0.98 * quick)


def _default_packer(is_quick: bool) -> Any:
    if isal_zlib is not None:
        return isal_zlib.compressobj(1 if is_quick else 3, zlib.DEFLATED, -zlib.MAX_WBITS)
    strategy = zlib.Z_RLE if is_quick else zlib.Z_DEFAULT_STRATEGY
    return zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)


# ------------------------------------------------------------------------------------------------ unpacking


class MemberReader:
    """Members of an archive that :class:`MemberWriter` wrote, each unpacked alone.

    Sizes are those in the members' headers; unpacking compares them.

    Attributes
    ----------
    size : int
        Unpacked bytes of all members.
    starts : array of int
        Where each member begins in what is unpacked; and ``size``.
    """

    def __init__(self, file: BinaryIO, threads: int, progress: Progress = NO_PROGRESS) -> None:
        self._file = file
        self._threads = threads
        self._progress = progress
        self._lock = threading.Lock()
        self._offsets = array("Q", [0])
        self.starts = array("Q", [0])
        self._kinds = bytearray()
        self._is_checked = bytearray()
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    @classmethod
    def find(cls, file: BinaryIO, threads: int, progress: Progress = NO_PROGRESS) -> MemberReader | None:
        """Read all headers; None where any is not as :class:`MemberWriter` writes it.

        Each member's packed bytes count as progress when it is first unpacked.
        """
        found = cls(file, threads, progress)
        end = os.fstat(file.fileno()).st_size
        here = told = 0
        block = memoryview(bytearray(4 + _HEADER.size))
        while True:
            # The end of one member and the header of the next
            begin, size = (here - 4, min(4 + _HEADER.size, end - here + 4)) if here else (0, min(_HEADER.size, end))
            found._read(begin, block[4 - (here - begin) :][:size])
            if here and int.from_bytes(block[:4], "little") != told:
                return None
            if here == end:
                break
            if end - here < _HEADER.size:
                return None
            *fixed, kind, packed, told = _HEADER.unpack(block[4:])
            if tuple(fixed) != _FIXED or kind > 1 or not 0 < told <= _MAX_SIZE:
                return None
            here += packed
            if not _HEADER.size + _TRAILER.size < packed <= 2 * _MAX_SIZE or here > end:
                return None
            found._offsets.append(here)
            found.starts.append(found.size + told)
            found._kinds.append(kind)
        found._is_checked = bytearray(len(found._kinds))
        return found if found._kinds else None

    @property
    def size(self) -> int:
        """Unpacked bytes of all members."""
        return self.starts[-1]

    def __len__(self) -> int:
        return len(self._kinds)

    def holding(self, position: int) -> int:
        """Return the member that holds a position of the unpacked stream."""
        return bisect.bisect_right(self.starts, position) - 1

    def is_content(self, index: int) -> bool:
        """Whether a member says that it holds nothing but content of one file."""
        return bool(self._kinds[index])

    def content(self, index: int) -> bytes:
        """Return the unpacked bytes of a member; recent ones are kept.

        Raises
        ------
        DamagedMemberError
            If its size or checksum is not that in its header.
        """
        kept = self._kept.get(index)
        if kept is None:
            buffer = bytearray(self.starts[index + 1] - self.starts[index])
            self.unpack(index, index + 1, memoryview(buffer))
            kept = bytes(buffer)
            while self._kept and sum(map(len, self._kept.values())) + len(kept) > _KEPT:
                self._kept.popitem(last=False)
            self._kept[index] = kept
        self._kept.move_to_end(index)
        return kept

    def unpack(self, first: int, last: int, out: memoryview) -> None:
        """Unpack members ``first`` to ``last - 1`` in threads, to a buffer of just their size.

        Raises
        ------
        DamagedMemberError
            As :meth:`content`.
        """
        in_threads(self._unpacker(first, out), range(first, last), self._threads)

    def check_rest(self) -> None:
        """Unpack and forget the members not unpacked before; errors as of :meth:`content`."""
        left = [index for index, is_checked in enumerate(self._is_checked) if not is_checked]
        in_threads(self._unpacker(None, None), left, self._threads)

    def _unpacker(self, first: int | None, out: memoryview | None) -> Callable[[int], None]:
        """Return a function that unpacks a member, in any thread."""
        buffers = _Buffers()

        def unpack(index: int) -> None:
            start, end = self.starts[index], self.starts[index + 1]
            size = self._offsets[index + 1] - self._offsets[index]
            base = self.starts[first or 0]
            target = buffers.of("unpacked", end - start) if out is None else out[start - base : end - base]
            source = buffers.of("packed", size)
            self._read(self._offsets[index], source)
            _unpack(source, target)
            if not self._is_checked[index]:
                self._is_checked[index] = True
                self._progress.advance(size)

        return unpack

    def _read(self, offset: int, out: memoryview) -> None:
        """Read from the file, from any thread."""
        if not hasattr(os, "preadv"):  # Windows
            with self._lock:
                self._file.seek(offset)
                done = self._file.readinto(out)  # type: ignore[attr-defined]
        else:
            done = 0
            while done < len(out):
                count = os.preadv(self._file.fileno(), [out[done:]], offset + done)
                if not count:
                    break
                done += count
        if done < len(out):
            raise DamagedMemberError("the file became shorter while it was read")


class _Buffers(threading.local):
    """Memory of each thread for packed and unpacked members, used again for the next."""

    packed = unpacked = bytearray()

    def of(self, name: str, size: int) -> memoryview:
        """Return some bytes of the memory of that name."""
        if len(getattr(self, name)) < size:
            setattr(self, name, bytearray(size))
        return memoryview(getattr(self, name))[:size]


def _unpack(packed: memoryview, out: memoryview) -> None:
    """Unpack one member to a buffer of its size."""
    checksum, size = _TRAILER.unpack(packed[-_TRAILER.size :])
    body = packed[_HEADER.size : -_TRAILER.size]
    library = zlib if isal_zlib is None else isal_zlib
    stream = library.decompressobj(-zlib.MAX_WBITS)
    done = found = 0
    for begin in range(0, len(body), _PIECE):
        room = len(out) - done
        try:
            # One byte more than there may be: a longer member shows, and no more of it is unpacked
            data = stream.decompress(body[begin : begin + _PIECE], room + 1)
        except library.error as error:
            raise DamagedMemberError(f"a gzip member cannot be unpacked: {error}") from error
        if len(data) > room or (stream.eof and (stream.unused_data or begin + _PIECE < len(body))):
            break
        out[done : done + len(data)] = data
        done += len(data)
        found = crc32(data, found)
    else:
        if stream.eof and done == len(out) == size:
            if found != checksum:
                raise DamagedMemberError("a gzip member does not match its checksum: CRC-32 differs")
            return
    raise DamagedMemberError("a gzip member is not as long as it says")
