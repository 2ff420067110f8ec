"""Walks through the opcodes of a pickle."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest

from flambe_save.codecs.unpickler import DataUnpickler
from flambe_save.pt import LoadOptions
from flambe_save.pt.opcodes import NUMBERS, end_of_numbers, pickle_end

KINDS = [0, 255, 256, 65535, 65536, -1, -(2**31), 2**31, 2**32 - 1, 2**40, 2**63, -(2**63), 2**200]


def read(data: bytes) -> Any:
    return DataUnpickler(io.BytesIO(data), LoadOptions()).unpickle()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("count", [1, 3, 200])
def test_runs_of_numbers(protocol: int, count: int) -> None:
    """Numbers of all sizes, in a tuple, a list and a dict, few and many, are as the standard library reads them."""
    numbers = KINDS * count
    value = {"tuple": tuple(numbers), "list": numbers, "set": {*numbers}, "keys": dict.fromkeys(numbers, 1.5)}
    data = pickle.dumps(value, protocol)
    assert pickle_end(data) == len(data)
    assert read(data) == value


def test_a_run_of_numbers_is_skipped_at_once() -> None:
    """The walk counts a run as all kinds of integers, and ends where it does."""
    data = pickle.dumps(tuple(range(500)), 2)
    start = data.index(b"(") + 1
    assert data[end_of_numbers(data, start)] == ord("t")
    assert end_of_numbers(data, start - 1) == start - 1
    codes: set[int] = set()
    assert pickle_end(data, codes) == len(data)
    assert codes == {*NUMBERS, *b"\x80(tq."}


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 700])
def test_a_run_that_is_cut(cut: int) -> None:
    with pytest.raises(pickle.UnpicklingError):
        pickle_end(pickle.dumps(tuple(range(500)), 2)[:-cut])
