"""Torch files inside a bare pickle, one for each storage, written without a copy in memory.

The pickle is made with stand-ins in the places of large ones. nested_reading.py reads them.
"""

from __future__ import annotations

import codecs
import io
import os
import pickle
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch

from flambe_save.errors import SaveError
from flambe_save.pt.opcodes import LARGE
from flambe_save.pt.sources import memory_of
from flambe_save.pt.zip_writer import Buffer, Draft
from flambe_save.support.checksum import crc32

_STEP = 1 << 18  # bytes that are encoded or decoded at a time
_COUNTED = 1 << 15  # bytes that are counted at a time: for more, torch would use threads
_TEXT_PROTOCOL = 2  # up to which bytes are pickled as a text of as many characters
_LONGEST_TEXT = 0xFFFFFFFF  # bytes of a text in protocol 2


class Portable:
    """Pickles as a tensor or storage, in a bare pickle of any pickle module.

    Storages become whole torch files in the zip format, because the old format would write a memory address.

    Parameters
    ----------
    item : torch.Tensor or storage
    made : dict of int to Portable
        The storages of one pickle, which tensors share.
    apart : callable, optional
        Gives what a large torch file is pickled as; by default it is in the pickle.
    """

    def __init__(self, item: Any, made: dict[int, Portable], apart: Callable[[Any], Any] | None = None) -> None:
        self._item = item
        self._made = made
        self._apart = apart

    @classmethod
    def wrapper(cls, apart: Callable[[Any], Any] | None = None) -> Callable[[Any], Portable]:
        """A function that wraps the tensors of one pickle, which share storages as before."""
        made: dict[int, Portable] = {}
        return lambda item: cls(item, made, apart)

    def __reduce__(self) -> Any:
        if isinstance(self._item, torch.Tensor):
            rebuild, arguments, *_ = self._item.__reduce_ex__(2)  # type: ignore[no-untyped-call]
            return rebuild, self._wrapped(arguments)
        if self._apart is not None and _untyped(self._item).nbytes() >= LARGE:
            return torch.storage._load_from_bytes, (self._apart(self._item),)
        return torch.storage._load_from_bytes, (_whole(self._item),)

    def _wrapped(self, value: Any) -> Any:
        """Wrap all tensors and storages among a reduction's arguments."""
        if isinstance(value, tuple):
            return type(value)(self._wrapped(item) for item in value) if type(value) is tuple else value
        if isinstance(value, torch.Tensor):
            return Portable(value, self._made, self._apart)
        if isinstance(value, (torch.UntypedStorage, torch.storage.TypedStorage)):
            return self._made.setdefault(_untyped(value)._cdata, Portable(value, self._made, self._apart))
        return value


class TorchFile:
    """The file that ``torch.save`` makes of a storage, as a value in a pickle.

    Parameters
    ----------
    item : torch.UntypedStorage or torch.TypedStorage
    is_text : bool
        Whether it is pickled as a text, of a character for each byte.
    size : int, optional
        Bytes of the value; by default they are counted.
    """

    def __init__(self, item: Any, is_text: bool, size: int | None = None) -> None:
        self.item, self.is_text = item, is_text
        self.size = self._count() if size is None else size

    @property
    def storage(self) -> torch.UntypedStorage:
        return _untyped(self.item)

    def with_storage(self, change: Callable[[torch.UntypedStorage], torch.UntypedStorage]) -> TorchFile | bytes:
        """Return the same file over another storage; its bytes where it names a device."""
        if self.storage.device.type != "cpu":
            return b"".join(self.chunks())
        return self._over(change(self.storage))

    def chunks(self) -> Iterator[Buffer]:
        """Yield what is in the pickle; a piece is valid until the next.

        Raises
        ------
        SaveError
            If the storage changes meanwhile, and its text with it.
        """
        held = self
        if self.storage.device.type == "cpu" and self.storage.is_shared():  # other processes may write to it
            held = self._over(self.storage.clone())  # type: ignore[no-untyped-call]
        left = held._count() if self.is_text else self.size
        yield _opcode(left, self.is_text)
        for piece in held._pieces():
            for part in steps(piece):
                data = str(part, "latin1").encode() if self.is_text else part
                left -= len(data)
                yield data
        if left:
            raise SaveError("a tensor was changed while it was written", fix="Save it when no thread changes it.")

    def _over(self, storage: torch.UntypedStorage) -> TorchFile:
        make: Any = torch.storage.TypedStorage
        is_typed = self.item is not self.storage
        item = make(wrap_storage=storage, dtype=self.item.dtype, _internal=True) if is_typed else storage
        return TorchFile(item, self.is_text, self.size)

    def _pieces(self) -> list[Buffer]:
        """The file's bytes; those of the storage are shared with it."""
        if self.storage.device.type != "cpu":
            return [bytearray(_whole(self.item))]
        content = memory_of(self.storage)
        parts: list[Buffer] = [bytearray()]

        class Sink:
            def write(self, data: memoryview) -> int:
                if len(data) == len(content):  # any other record is smaller
                    parts.extend([content, bytearray()])
                else:
                    parts[-1] += data  # type: ignore[operator]
                return len(data)

            def flush(self) -> None:
                return

        torch.save(self.item, cast(Any, Sink()))
        return parts if len(parts) == 3 else [bytearray(_whole(self.item))]

    def _count(self) -> int:
        """The bytes of the value; in a text, the characters of higher bytes take two.

        Raises
        ------
        OverflowError
            If a pickle cannot hold it.
        """
        pieces = self._pieces()
        total = sum(map(len, pieces))
        if self.is_text:
            total += sum(count_below(0, piece) for piece in pieces)
        if self.is_text and total > _LONGEST_TEXT:
            raise OverflowError("a tensor of more than 4 GiB requires pickle protocol 4 or higher")
        return total


def _opcode(size: int, is_text: bool) -> bytes:
    """The opcode and the size before a value in a pickle."""
    if is_text:
        return pickle.BINUNICODE + struct.pack("<I", size)
    return pickle.BINBYTES + struct.pack("<I", size) if size < 1 << 32 else pickle.BINBYTES8 + struct.pack("<Q", size)


def steps(data: Buffer, step: int = _STEP) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[start : start + step] for start in range(0, len(view), step))


def count_below(limit: int, data: Buffer) -> int:
    """Count the bytes that are less than a number, as signed ones."""
    total = 0
    for part in steps(data, _COUNTED):
        is_below = torch.frombuffer(part, dtype=torch.int8) < limit
        total += int(is_below.view(torch.uint8).sum(dtype=torch.int32))
    return total


def _untyped(item: Any) -> torch.UntypedStorage:
    found: torch.UntypedStorage = getattr(item, "_untyped_storage", item)
    return found


def _whole(item: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(item, buffer)
    return buffer.getvalue()


class PickleDraft(Draft):
    """A bare pickle with torch files that are made while it is written.

    Parameters
    ----------
    pieces : sequence of bytes or TorchFile
    opaque : sequence of str
        As for :class:`Draft`.
    """

    def __init__(self, pieces: Sequence[bytes | TorchFile], opaque: Sequence[str]) -> None:
        self._parts, self.opaque = pieces, opaque
        opcodes = (_opcode(part.size, part.is_text) for part in self.files)
        self.size = sum(map(len, opcodes)) + sum(len(part) if isinstance(part, bytes) else part.size for part in pieces)

    @property
    def files(self) -> list[TorchFile]:
        """The torch files, in their order."""
        return [part for part in self._parts if isinstance(part, TorchFile)]

    @property
    def storages(self) -> list[torch.UntypedStorage]:
        return [file.storage for file in self.files]

    @property
    def pickled(self) -> bytes:
        """The pickle with empty torch files: its names are those of the whole."""
        return b"".join(part if isinstance(part, bytes) else _opcode(0, part.is_text) for part in self._parts)

    def with_storages(self, change: Callable[[torch.UntypedStorage], torch.UntypedStorage]) -> Draft:
        parts = (part if isinstance(part, bytes) else part.with_storage(change) for part in self._parts)
        return PickleDraft(list(parts), self.opaque)

    def chunks(self) -> Iterator[tuple[Buffer, int]]:
        for part in self._parts:
            for piece in (part,) if isinstance(part, bytes) else part.chunks():
                yield piece, crc32(piece)


class Apart:
    """Stand-ins for the large torch files of a pickle, and the file that the pickler writes to.

    Up to protocol 2 bytes are pickled as a text, which may stand in any place: the stand-in is another text. Later
    protocols frame what is small, so there the stand-in has the size of the file. Its memory is never touched.
    """

    def __init__(self, protocol: int) -> None:
        self._is_text = protocol <= _TEXT_PROTOCOL
        self._mark = os.urandom(16).hex()
        self._sizes: dict[int, int] = {}  # of the files, by their storages
        self.begin()

    def begin(self) -> None:
        """Forget what was written: another pickler begins."""
        self._files: list[TorchFile] = []
        self._stand_ins: dict[int, tuple[TorchFile, Any]] = {}  # by their ids
        self._parts: list[bytes | TorchFile] = []
        self._small = bytearray()

    def __call__(self, item: Any) -> Any:
        """Make the stand-in for a storage's file."""
        key = _untyped(item)._cdata
        self._files.append(file := TorchFile(item, self._is_text, self._sizes.get(key)))
        self._sizes[key] = file.size
        if self._is_text:
            return _Text(f"{self._mark}{len(self._files) - 1:08x}")
        made = bytes(file.size)
        self._stand_ins[id(made)] = file, made
        return made

    def write(self, data: Any) -> int:
        """Take bytes from the pickler."""
        file, _ = self._stand_ins.get(id(data), (None, None))
        opcode = b"" if file is None else _opcode(file.size, file.is_text)
        if file is not None and self._small.endswith(opcode):
            self._parts += [bytes(self._small[: -len(opcode)]), file]
            self._small = bytearray()
        else:
            self._small += data
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing waits."""

    def draft(self, opaque: Sequence[str]) -> PickleDraft | None:
        """Draft the pickle; None if the pickler did not write each stand-in, once."""
        parts: list[bytes | TorchFile] = [*self._parts, (rest := bytes(self._small))]
        if self._is_text:
            mark = _opcode(len(self._mark) + 8, is_text=True) + self._mark.encode()
            pieces = re.split(re.escape(mark) + b"([0-9a-f]{8})", rest)
            parts = [self._files[int(piece, 16)] if turn % 2 else piece for turn, piece in enumerate(pieces)]
        draft = PickleDraft(parts, opaque)
        return draft if draft.files == self._files else None


class _Text:
    """Pickles as bytes do in protocol 2: a text, and how it becomes bytes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __reduce__(self) -> Any:
        return codecs.encode, (self._text, "latin1")
