"""Values of Python and torch that a config holds by tags of their own: ``!tuple [3, 3]``.

Each row converts a type to plain YAML and back. scalars.py has YAML's own types (null, bool, int, float, str, binary);
values of other types go to the stash.
"""

from __future__ import annotations

import pathlib
import reprlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from flambe_save.config.scalars import PLAIN
from flambe_save.errors import ConfigError
from flambe_save.state import ordered

MAX_RANGE = 1 << 20


class Value(NamedTuple):
    """One type: ``plain`` converts a value to a str or a list, and ``build`` back."""

    tag: str
    type: type
    plain: Callable[[Any], Any]
    build: Callable[[Any], Any]


def _dtype(name: str) -> torch.dtype:
    found = vars(torch).get(name)  # torch imports some of its modules when getattr asks for them
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"{name[:80]!r} is not a torch dtype")
    return found


def _range(plain: Any) -> range:
    made = range(*_list(plain))
    if not fits(made):
        raise ConfigError(f"a range of more than {MAX_RANGE} numbers")
    return made


def fits(value: Any) -> bool:
    """Whether a value of one of these types is written by its tag.

    A long range is not: a class may iterate over it. Nor is a mapping with attributes, such as a ``state_dict``.
    """
    if isinstance(value, OrderedDict):
        return not vars(value)
    return not isinstance(value, range) or len(value[: MAX_RANGE + 1]) <= MAX_RANGE


def _list(plain: Any) -> list[Any]:
    if not isinstance(plain, list):
        raise ConfigError(f"a list is needed here, not {reprlib.repr(plain)}")
    return plain


def _limits(value: range | slice) -> list[Any]:
    return [value.start, value.stop, value.step]


_VALUES = (
    Value("tuple", tuple, list, lambda plain: tuple(_list(plain))),
    Value("set", set, ordered, lambda plain: set(_list(plain))),
    Value("frozenset", frozenset, ordered, lambda plain: frozenset(_list(plain))),
    Value("range", range, _limits, _range),
    Value("slice", slice, _limits, lambda plain: slice(*_list(plain))),
    Value("complex", complex, str, complex),
    Value("odict", OrderedDict, lambda value: [list(item) for item in value.items()], OrderedDict),
    Value("path", type(pathlib.Path()), str, pathlib.Path),
    Value("torch.dtype", torch.dtype, lambda value: str(value).removeprefix("torch."), _dtype),
    Value("torch.device", torch.device, str, torch.device),
    Value("torch.Size", torch.Size, list, lambda plain: torch.Size(_list(plain))),
)

BY_TYPE = {value.type: value for value in _VALUES}
BY_TAG = {value.tag: value for value in _VALUES}


def is_plain_key(key: Any) -> bool:
    """Whether a key, or a set's item, can be read from a config before anything is built."""
    if type(key) in (tuple, frozenset):
        return all(map(is_plain_key, key))
    return type(key) in PLAIN or (type(key) in BY_TYPE and type(key) is not range)
