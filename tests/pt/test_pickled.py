"""States that Python's pickler wrote: recognised if they are dense, never run."""

from __future__ import annotations

import io
import random
import zipfile
from collections import OrderedDict
from typing import Any

import pytest
import torch

from flambe_save.pt.pickled import load_pickled
from flambe_save.pt.tensor_info import ITEM_SIZES


def pickled(values: Any, protocol: int = 2) -> bytes:
    """Return the pickle in a file that torch writes."""
    buffer = io.BytesIO()
    torch.save(values, buffer, pickle_protocol=protocol)
    return zipfile.ZipFile(buffer).read("archive/data.pkl")


STATE: OrderedDict[str, Any] = OrderedDict(
    (name, torch.zeros(2, 3 * size, dtype=torch.uint8).view(getattr(torch, name)).t())
    for name, size in ITEM_SIZES.items()
)
STATE["tied"] = STATE["float32"]
STATE["scalar"] = torch.ones((), requires_grad=True)
STATE["empty"] = torch.empty(0, 3)
STATE._metadata = {"": {"version": 1, "names": ("a", None, True, 0.5)}}  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_dense_states_are_recognised(protocol: int) -> None:
    """All types of whole bytes, in any order of memory, tied, without elements, with torch's _metadata."""
    found = load_pickled(pickled(STATE, protocol))
    assert found is not None
    described = {name: (item.dtype, item.shape, item.stride, item.location) for name, item in found.items()}
    assert described == {
        name: (str(item.dtype).removeprefix("torch."), tuple(item.shape), item.stride(), "cpu")
        for name, item in STATE.items()
    }
    assert found["tied"] is found["float32"]


OTHERS: dict[str, Any] = {
    "a number beside it": {"w": torch.ones(2), "epoch": 3},
    "a number in place of a name": {0: torch.ones(2)},
    "a list": [torch.ones(2)],
    "a tensor": torch.ones(2),
    "a part of a storage": {"w": torch.ones(4)[2:]},
    "a storage with more": {"w": torch.ones(4)[:2]},
    "a repeated element": {"w": torch.ones(1).expand(3)},
    "a parameter": {"w": torch.nn.Parameter(torch.ones(2))},
    "a sparse tensor": {"w": torch.eye(2).to_sparse()},
    "a meta tensor": {"w": torch.ones(2, device="meta")},
    "two numbers in a byte": {"w": torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)},
    "a class": {"w": torch.ones(2), "c": print},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_all_else_is_left_to_the_reader(kind: str) -> None:
    """The pickle of anything but dense tensors under names is not recognised."""
    assert load_pickled(pickled(OTHERS[kind])) is None


def test_other_attributes_are_not_overlooked() -> None:
    """A state with attributes of its own beside _metadata is not recognised."""
    state = OrderedDict(w=torch.ones(2))
    state.extra = 1  # type: ignore[attr-defined]
    assert load_pickled(pickled(state)) is None


def test_damage_raises_nothing() -> None:
    """Bytes that were changed, cut or repeated give another state, or None."""
    numbers = random.Random(1)
    data = pickled({name: STATE[name] for name in ("float8_e5m2", "float32", "tied")})
    for _ in range(3000):
        broken = bytearray(data)
        for _ in range(numbers.randint(1, 3)):
            start = numbers.randrange(len(broken))
            change = numbers.choice([b"", bytes((numbers.randrange(256),)), bytes(broken[start : start + 9]) * 2])
            broken[start : start + numbers.randint(0, 2)] = change
        found = load_pickled(bytes(broken))
        assert found is None or all(item.dtype in ITEM_SIZES for item in found.values())
