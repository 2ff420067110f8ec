"""Torch files inside a bare pickle, read piece by piece to the storages' own memory.

The pickle is unpickled with short names in their places, which stand for the files.
"""

from __future__ import annotations

import bisect
import os
import pickle
import struct
from collections.abc import Mapping, Sequence

from flambe_save.codecs.nested import count_below
from flambe_save.pt.opcodes import LARGE, LargeArgument, torch_files_in, walk
from flambe_save.pt.sources import Source
from flambe_save.pt.zip_writer import Buffer
from flambe_save.support.checksum import crc32
from flambe_save.support.progress import NO_PROGRESS

_STEP = 1 << 18  # bytes that are decoded at a time


def set_apart(source: Source) -> tuple[bytes | memoryview, dict[bytes, NestedFile]]:
    """Read a pickle but for its large torch files.

    Returns
    -------
    (buffer, dict of bytes to NestedFile)
        The pickle with random bytes in place of the files, and the files by these.

    Raises
    ------
    pickle.UnpicklingError
        If it is damaged.
    """
    large: list[LargeArgument] = []
    if source.size > LARGE:
        walk(lambda start, stop: bytes(source.piece(start, stop)), source.size, large=large)
    if not large:
        return source.piece(0, source.size), {}
    mark = os.urandom(16).hex()
    names = {argument: f"{mark}{number:08x}".encode() for number, argument in enumerate(large)}
    found = {item.encode() if isinstance(item, str) else item for item in torch_files_in(_named(source, names))}
    names = {argument: name for argument, name in names.items() if name in found}  # other values stay
    source.set_apart([(argument.start, argument.stop) for argument in names])
    return _named(source, names), {name: NestedFile(source, argument) for argument, name in names.items()}


def _named(source: Source, names: Mapping[LargeArgument, bytes]) -> bytes:
    """The pickle with these arguments in place of large ones."""
    parts: list[Buffer] = []
    here = 0
    for argument, name in names.items():
        size = struct.pack("<I", len(name)) if argument.is_text else bytes([len(name)])
        opcode = pickle.BINUNICODE if argument.is_text else pickle.SHORT_BINBYTES
        parts += [source.piece(here, argument.opcode), opcode + size + name]
        here = argument.stop
    return b"".join([*parts, source.piece(here, source.size)])


class NestedFile:
    """The source of a torch file in a pickle.

    Parameters
    ----------
    outer : Source
        The pickle.
    argument : LargeArgument
        Where the file is in it.
    """

    is_held = is_shared = False
    progress = NO_PROGRESS

    def __init__(self, outer: Source, argument: LargeArgument) -> None:
        self._outer, self._is_text = outer, argument.is_text
        self._cuts = [argument.start]  # between the steps in which it is read, in the pickle and in the file
        self._starts = [0]
        self._last: tuple[int, bytes | bytearray] = 0, b""  # a step and its bytes
        self._known: dict[tuple[int, int], int] = {}  # checksums of what was read, by its ends
        while self._cuts[-1] < argument.stop:
            start = self._cuts[-1]
            stop = min(start + _STEP, argument.stop)
            size = stop - start
            if self._is_text:
                data = self._raw(start, stop)
                if stop < argument.stop and data[-1] >= 0xC0:  # the first of a character's two bytes
                    data, stop = data[:-1], stop - 1
                size = len(data) - count_below(-64, data)  # those from 0x80 to 0xbf begin no character
            self._cuts.append(stop)
            self._starts.append(self._starts[-1] + size)
        self.size = self._starts[-1]

    def piece(self, start: int, stop: int) -> memoryview:
        data = memoryview(bytearray(max(0, min(stop, self.size) - start)))
        self.read_into(data, start)
        return data

    def kept(self, start: int, stop: int) -> None:
        return None

    def read_into(self, data: memoryview, start: int) -> None:
        checksum = here = 0
        while here < len(data):
            index = bisect.bisect_right(self._starts, start + here) - 1
            begin = start + here - self._starts[index]
            part = self._step(index)[begin : begin + len(data) - here]
            data[here : here + len(part)] = part
            here, checksum = here + len(part), crc32(part, checksum)
        self._known[start, start + here] = checksum

    def checksum(self, start: int = 0, stop: int | None = None) -> int:
        stop = self.size if stop is None else stop
        if (start, stop) not in self._known:
            self.piece(start, stop)
        return self._known[start, stop]

    def set_apart(self, ranges: Sequence[tuple[int, int]]) -> None:
        return

    def _step(self, index: int) -> bytes | bytearray:
        """The bytes of a step.

        Raises
        ------
        UnicodeError
            If it is a text of other characters.
        """
        known, data = self._last
        if known != index or not data:
            raw = self._raw(self._cuts[index], self._cuts[index + 1])
            data = str(raw, "utf-8").encode("latin1") if self._is_text else raw
            if len(data) != self._starts[index + 1] - self._starts[index]:
                raise pickle.UnpicklingError("a text that is damaged, or was changed while it was read")
            self._last = index, data
        return data

    def _raw(self, start: int, stop: int) -> bytearray:
        data = bytearray(stop - start)
        self._outer.read_into(memoryview(data), start)
        return data
