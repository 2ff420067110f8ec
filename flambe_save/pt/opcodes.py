"""Walk the opcodes of a pickle without running one: its end, and its names."""

from __future__ import annotations

import _compat_pickle
import pickle
import pickletools
from collections.abc import Iterator


def present_name(module: str, name: str, protocol: int) -> tuple[str, str]:
    """The Python 3 name of a global; protocols 0 to 2 write those of Python 2."""
    if protocol > 2 and module not in ("__builtin__", "copy_reg"):
        return module, name
    renamed = _compat_pickle.NAME_MAPPING.get((module, name))
    return renamed if renamed is not None else (_compat_pickle.IMPORT_MAPPING.get(module, module), name)


# How many bytes follow each opcode; negative numbers are pickletools' own for arguments of variable length
_ARGUMENT_BYTES = {ord(op.code): op.arg.n if op.arg is not None else 0 for op in pickletools.opcodes}
_COUNT_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_LINES = {ord("c"): 2, ord("i"): 2}
_STOP, _PUT, _LONG_BINPUT, _FRAME = (ord(code) for code in (".", "p", "r", "\x95"))


def pickle_end(data: bytes | bytearray | memoryview, codes: set[int] | None = None) -> int:
    """Find the end of a pickle, and add its opcodes to ``codes``; nothing is run.

    Raises
    ------
    pickle.UnpicklingError
        If it is damaged, or a count or memo index is larger than the pickle: that would take as much memory.
    """
    raw, here, end = bytes(data), 0, len(data)
    while here < end:
        code = raw[here]
        size = _ARGUMENT_BYTES.get(code)
        if size is None:
            raise pickle.UnpicklingError(f"{code:#x} is not an opcode")
        here += 1
        if codes is not None:
            codes.add(code)
        if code == _STOP:
            return here
        if code in (_LONG_BINPUT, _FRAME):
            if int.from_bytes(raw[here : here + size], "little") > end:
                raise pickle.UnpicklingError("an index or a size larger than the pickle")
            here += size
        elif size >= 0:
            here += size
        elif size == pickletools.UP_TO_NEWLINE:
            start = here
            for _ in range(_LINES.get(code, 1)):
                here = raw.find(b"\n", here) + 1 or end
            if code == _PUT and len(raw[start:here].strip()) > len(str(end)):
                raise pickle.UnpicklingError("an index larger than the pickle")
        else:
            width = _COUNT_BYTES[size]
            here += width + int.from_bytes(raw[here : here + width], "little")
            if here > end:
                raise pickle.UnpicklingError("a count larger than the pickle")
    raise pickle.UnpicklingError("it ends too early")


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
