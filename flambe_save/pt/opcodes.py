"""Walk the opcodes of a pickle without running one: its end, and its names."""

from __future__ import annotations

import _compat_pickle
import pickle
import pickletools
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


def present_name(module: str, name: str, protocol: int) -> tuple[str, str]:
    """The Python 3 name of a global; protocols 0 to 2 write those of Python 2."""
    if protocol > 2 and module not in ("__builtin__", "copy_reg"):
        return module, name
    renamed = _compat_pickle.NAME_MAPPING.get((module, name))
    return renamed if renamed is not None else (_compat_pickle.IMPORT_MAPPING.get(module, module), name)


# Bytes that follow each opcode; negative numbers are pickletools' own for arguments of variable length
_ARGUMENT_BYTES = {ord(op.code): op.arg.n if op.arg is not None else 0 for op in pickletools.opcodes}
_COUNT_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_LINES = {ord("c"): 2, ord("i"): 2}
_STOP, _PUT, _LONG_BINPUT, _FRAME, _MARK = (ord(code) for code in (".", "p", "r", "\x95", "("))
_TEXTS, _BYTES = b"X\x8d", b"B\x8e"  # opcodes of a text or bytes, whose size has four or eight bytes
_LONGEST = 16  # bytes of an opcode and its size, at least
_WINDOW = 1 << 16  # bytes of a pickle that are looked at at a time
LARGE = 1 << 16  # bytes of an argument; a pickler leaves it out of its frames, and writes it to the file at once

# Bytes to the next opcode, where there is nothing to look at
_STEPS = {code: 1 + size for code, size in _ARGUMENT_BYTES.items() if size >= 0}
for _code in (_STOP, _LONG_BINPUT, _FRAME, _MARK):
    del _STEPS[_code]
NUMBERS = frozenset(code[0] for code in (pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1))
_LONG = b"|".join(rb"\x%02x.{%d}" % (size, size) for size in range(10))
_MANY_NUMBERS = re.compile(rb"(?:K.|M..|J.{4}|\x8a(?:%s)){8,1000}" % _LONG, re.DOTALL)


class LargeArgument(NamedTuple):
    """A large text or bytes in no frame: where its opcode and its content begin, and its end."""

    opcode: int
    start: int
    stop: int
    is_text: bool


def end_of_numbers(data: bytes | memoryview, start: int) -> int:
    """Find the end of a run of many integers, as random states have; else return ``start``."""
    found = _MANY_NUMBERS.match(data, start)
    return start if found is None else found.end()


def pickle_end(data: bytes | bytearray | memoryview, codes: set[int] | None = None) -> int:
    """Find the end of a pickle, and add its opcodes to ``codes``; nothing is run.

    One integer may count as all kinds of integers, :data:`NUMBERS`.

    Raises
    ------
    pickle.UnpicklingError
        If it is damaged, or a count or memo index is larger than the pickle: that would take as much memory.
    """
    raw = bytes(data)
    return walk(lambda start, stop: raw[start:stop], len(raw), codes, window=len(raw))


def walk(
    read: Callable[[int, int], bytes],
    end: int,
    codes: set[int] | None = None,
    large: list[LargeArgument] | None = None,
    window: int = _WINDOW,
) -> int:
    """Find the end of a pickle as :func:`pickle_end` does, but read no large argument.

    Parameters
    ----------
    read : callable
        Returns the bytes from one place to another.
    end : int
        How many there are.
    codes : set of int, optional
        Takes the opcodes.
    large : list of LargeArgument, optional
        Takes the large texts and bytes.
    window : int
        How many bytes are read at once.
    """
    codes = set() if codes is None else codes
    base, raw = 0, read(0, min(window, end))  # what is read, and where it begins
    here = unframed = 0  # in what is read; and the end of the last frame
    limit = _limit(raw, base, end)
    while base + here < end:
        if here > limit:
            base, here = base + here, 0
            raw = read(base, min(base + window, end))
            limit = _limit(raw, base, end)
        code = raw[here]
        codes.add(code)
        if code in _STEPS:  # as most are
            here += _STEPS[code]
            continue
        size = _ARGUMENT_BYTES.get(code)
        if size is None:
            raise pickle.UnpicklingError(f"{code:#x} is not an opcode")
        here += 1
        if code == _STOP:
            return base + here
        if code == _MARK:
            start, here = here, end_of_numbers(raw, here)
            if here > start:
                codes |= NUMBERS
        elif code in (_LONG_BINPUT, _FRAME):
            number = int.from_bytes(raw[here : here + size], "little")
            if number > end:
                raise pickle.UnpicklingError("an index or a size larger than the pickle")
            here += size
            unframed = base + here + number if code == _FRAME else unframed
        elif size == pickletools.UP_TO_NEWLINE:
            start = here
            for _ in range(_LINES.get(code, 1)):
                while (found := raw.find(b"\n", here)) < 0 and base + len(raw) < end:
                    raw = read(base, min(base + 2 * len(raw), end))
                here = found + 1 or len(raw)
            limit = _limit(raw, base, end)
            if code == _PUT and len(raw[start:here].strip()) > len(str(end)):
                raise pickle.UnpicklingError("an index larger than the pickle")
        else:
            width = _COUNT_BYTES[size]
            opcode, count = base + here - 1, int.from_bytes(raw[here : here + width], "little")
            here += width + count
            if base + here > end:
                raise pickle.UnpicklingError("a count larger than the pickle")
            if count >= LARGE and large is not None and code in _TEXTS + _BYTES and opcode >= unframed:
                large.append(LargeArgument(opcode, base + here - count, base + here, code in _TEXTS))
    raise pickle.UnpicklingError("it ends too early")


def _limit(raw: bytes, base: int, end: int) -> int:
    """The place from which more has to be read, before the next opcode is looked at."""
    return len(raw) - _LONGEST if base + len(raw) < end else len(raw)


def globals_of(data: bytes) -> Iterator[str]:
    """Yield the dotted names that a pickle would import; nothing is run."""
    strings: list[str] = []  # in the order of pushing, with those from the memo: STACK_GLOBAL takes the last two
    memo: dict[int, str | None] = {}
    last: str | None = None
    protocol = 0
    try:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "PROTO":
                protocol = int(str(argument))
            if name == "MEMOIZE":
                memo[len(memo)] = last
                continue
            if name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[int(str(argument))] = last
                continue
            if name == "GLOBAL":
                module, _, attribute = str(argument).partition(" ")
                yield ".".join(present_name(module, attribute, protocol))
            elif name == "STACK_GLOBAL" and len(strings) >= 2:
                yield ".".join(present_name(strings[-2], strings[-1], protocol))
            last = memo.get(int(str(argument))) if name in ("GET", "BINGET", "LONG_BINGET") else None
            if isinstance(argument, str) and name != "GLOBAL" and last is None and "GET" not in name:
                last = argument
            if last is not None:
                strings.append(last)
    except ValueError:
        return  # the pickle is damaged here


_LOAD = ("global", "torch.storage._load_from_bytes")
_ENCODE = ("global", "_codecs.encode")


def torch_files_in(data: bytes) -> Iterator[str | bytes]:
    """Yield texts and bytes that a pickle gives to torch as the file of a storage; runs nothing."""
    recent: deque[Any] = deque([None] * 8, maxlen=8)  # what was pushed, and opcodes that push nothing known
    memo: dict[int, Any] = {}
    protocol = 0
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name == "PROTO":
            protocol = int(str(argument))
        elif name == "MEMOIZE" or name.endswith("PUT"):
            memo[len(memo) if argument is None else int(str(argument))] = recent[-1]
        elif name.endswith("GET"):
            recent.append(memo.get(int(str(argument))))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, _, path = (f"{recent[-2]} {recent[-1]}" if argument is None else str(argument)).partition(" ")
            recent.append(("global", ".".join(present_name(module, path, protocol))))
        elif name != "FRAME":
            recent.append(argument if isinstance(argument, (str, bytes)) else name)
        if name == "REDUCE":
            before, encode, text, codec, *calls = recent
            if before == _LOAD and encode == _ENCODE and codec == "latin1" and calls == _CALLS:
                yield text
            elif calls[0] == _LOAD and isinstance(calls[1], bytes) and calls[2:] == _CALLS[2:]:
                yield calls[1]


_CALLS = ["TUPLE2", "REDUCE", "TUPLE1", "REDUCE"]
