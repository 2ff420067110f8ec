"""Dense states as Python's pickler writes them, recognised opcode by opcode; nothing is run.

A state with types that torch names by objects, as 8-bit floats, is pickled in this form, and so is all that
``torch.save`` writes.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from typing import Any

from flambe_save.pt.dense import TYPES, PlainTensor
from flambe_save.pt.opcodes import pickle_end
from flambe_save.pt.tensor_info import ITEM_SIZES


class _Name(str):
    """The dotted name of a global, as no text in a pickle can be."""

    __slots__ = ()


class _Mapping(list[Any]):
    """The keys and values of a dict, in turn; they are not hashed."""


class _Storage(tuple[Any, ...]):
    """A persistent id."""

    __slots__ = ()


def load_pickled(data: bytes) -> dict[str, PlainTensor] | None:
    """Find the tensors of a pickled state by their names; None if anything else is in it."""
    codes: set[int] = set()
    try:
        pickle_end(data, codes)
        state = _parsed(data) if codes <= _OPCODES else None
    except (pickle.UnpicklingError, ValueError, TypeError, LookupError, Warning):  # of escapes in names
        return None  # a damaged pickle too, which codecs/ reports
    if type(state) is not _Mapping or not all(type(item) is PlainTensor for item in state[1::2]):
        return None
    return dict(zip(state[::2], state[1::2], strict=True))


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_TUPLES = ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")  # by their lengths
_OPCODES = frozenset(
    ord(opcode.code)
    for opcode in pickletools.opcodes
    if opcode.name in (*_CONSTANTS, *_ARGUMENTS, *_TUPLES, "PROTO", "FRAME", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
    or opcode.name in ("BINGET", "LONG_BINGET", "MARK", "TUPLE", "DICT", "EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL")
    or opcode.name in ("STACK_GLOBAL", "BINPERSID", "REDUCE", "BUILD", "STOP")
)


def _parsed(data: bytes) -> Any:
    """Follow the known opcodes of a pickle, to texts, numbers, tuples, mappings and tensors.

    Raises
    ------
    ValueError, TypeError, LookupError
        If they make anything else.
    """
    outer: list[list[Any]] = []  # the stacks below each mark, as Python's own machine has them
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _ARGUMENTS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            outer.append(stack)
            stack = []
        elif name == "TUPLE":
            items, stack = stack, outer.pop()
            stack.append(tuple(items))
        elif name in ("DICT", "SETITEMS"):
            items, stack = stack, outer.pop()
            if name == "DICT":
                stack.append(_Mapping())
            _put(stack[-1], items)
        elif name in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES.index(name))]
            stack.append(tuple(reversed(items)))
        elif name == "EMPTY_DICT":
            stack.append(_Mapping())
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _put(stack[-1], [key, value])
        elif name == "GLOBAL":
            stack.append(_Name(str(argument).replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_Name(f"{module}.{attribute}"))
        elif name == "BINPERSID":
            stack.append(_Storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_called(stack.pop(), arguments))
        elif name == "BUILD":  # the attributes of an OrderedDict, which are torch's _metadata
            attributes = stack.pop()
            _check(type(attributes) is _Mapping and attributes[::2] == ["_metadata"] and type(stack[-1]) is _Mapping)
    return stack.pop()


def _check(condition: bool) -> None:
    if not condition:
        raise ValueError("not a dense state")


def _put(mapping: Any, items: list[Any]) -> None:
    _check(type(mapping) is _Mapping and len(items) % 2 == 0 and all(type(key) is str for key in items[::2]))
    mapping.extend(items)


def _called(function: Any, arguments: Any) -> Any:
    _check(type(function) is _Name and type(arguments) is tuple)
    if function == "collections.OrderedDict":
        _check(not arguments)
        return _Mapping()
    _check(function in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"))
    storage, offset, shape, stride, requires_grad, hooks, *dtype = arguments
    _check(type(storage) is _Storage and type(offset) is int and not offset and type(requires_grad) is bool)
    _check(type(hooks) is _Mapping and not hooks)
    _check(all(type(numbers) is tuple and all(map(_is_size, numbers)) for numbers in (shape, stride)))
    kind, storage_kind, key, location, count = storage
    _check(kind == "storage" and all(type(text) is str for text in (kind, key, location)) and _is_size(count))
    _check(all(type(name) is _Name for name in (storage_kind, *dtype)))
    _check(re.fullmatch("[0-9]{1,9}", key) is not None and re.fullmatch("[a-z0-9:]{1,50}", location) is not None)
    if function.endswith("_v2"):
        _check(not dtype)
        element = TYPES[storage_kind.removeprefix("torch.")]
    else:
        (name,) = dtype
        _check(storage_kind == "torch.storage.UntypedStorage")
        element = name.removeprefix("torch.")
        _check(count % ITEM_SIZES[element] == 0)
        count //= ITEM_SIZES[element]
    _check(len(shape) == len(stride) and math.prod(shape) == count)
    return PlainTensor(element, key, location, shape, stride)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0
