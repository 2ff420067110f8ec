"""Random component trees through all four shapes of a save: equal to the bit, facts and configs too."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.comparing import same
from helpers.places import TORTURE
from torch import nn

from flambe_save import Component, load, save

SHAPES = [(False, False), (False, True), (True, False), (True, True)]
CHUNKS, TREES = 4, 300 if TORTURE else 30  # each through two shapes in turn, and in the long form through all four
EACH = len(SHAPES) if TORTURE else 2

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.bool,
    torch.int8,
    torch.int64,
    torch.uint8,
]


class Leaf(Component):
    """Holds registered values of any kind."""

    def __init__(self, values: Any = None, note: str = "") -> None:
        self.values = values
        self.note = note
        self.seen = 0
        self.register_attrs("values", "seen")


class Branch(Component, nn.Module):
    """Holds tensors of its own and components in every kind of container."""

    def __init__(self, *items: Any, named: Any = None, extra: Any = None, sizes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3))
        self.register_buffer("mask", torch.zeros(sizes, dtype=torch.int32))
        self.items = nn.ModuleList([item for item in items if isinstance(item, nn.Module)])
        self.others = [item for item in items if not isinstance(item, nn.Module)]
        self.named = nn.ModuleDict(named or {})
        self.extra = extra
        self.norm = nn.BatchNorm1d(2)


class Group(Component):
    """No module itself: keeps modules and components in tuples and dicts."""

    def __init__(self, parts: Any, *, table: dict[str, Any]) -> None:
        self.parts = tuple(parts)
        self.table = dict(table)


def random_tensor(rng: random.Random) -> torch.Tensor:
    """Return a tensor of a random type, shape and layout."""
    dtype = rng.choice(DTYPES)
    shape = rng.choice([(), (0,), (3,), (2, 3), (1, 0, 2), (2, 2, 2)])
    raw = torch.randint(0, 100, shape)
    tensor = raw.to(dtype)
    return rng.choice([tensor, tensor.mT if tensor.dim() > 1 else tensor, torch.stack([tensor, tensor])[1]])


def random_value(rng: random.Random) -> Any:
    """Return data such as people register: numbers, texts, containers, tensors."""
    simple = [None, True, 7, -0.5, "text", "on", "1e5", b"\x00\xff", 2 + 3j, (1, (2,)), {"k": [1, "2"]}, {3, 1, 2}]
    return rng.choice([*simple, random_tensor(rng), [random_tensor(rng), {"t": random_tensor(rng)}]])


def random_tree(rng: random.Random, depth: int = 3) -> Component:
    """Return a random component with random components inside, some of them twice."""
    if depth == 0 or rng.random() < 0.25:
        leaf = Leaf(random_value(rng), rng.choice(["", "yes", "a: b", "ü\n"]))
        leaf.seen = rng.randrange(100)
        return leaf
    inner = [random_tree(rng, depth - 1) for _ in range(rng.randrange(3))]
    if inner and rng.random() < 0.3:
        inner.append(inner[0])
    if rng.random() < 0.5:
        modules = {f"m{index}": item for index, item in enumerate(inner) if isinstance(item, nn.Module)}
        branch = Branch(
            *inner,
            named=modules,
            extra=rng.choice([None, {"a.b": Leaf(3)}, [Leaf("x"), (Leaf(2.5),)]]),
            sizes=rng.choice([(), (2,), (0, 3)]),
        )
        return branch.to(rng.choice([torch.float32, torch.float64, torch.bfloat16]))
    return Group([*inner, nn.Linear(1, 2)], table={"k": Leaf([1]), "con": rng.choice([None, nn.ReLU()])})


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where the system has one: a hundred thousand small files are slow on a disk."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as path:
        yield Path(path)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_trees(chunk: int, folder: Path) -> None:
    """A random tree comes back from any shape with the same state, facts, sharing and configs."""
    checked = 0
    for seed in range(chunk * TREES, (chunk + 1) * TREES):
        rng = random.Random(seed)
        torch.manual_seed(seed)
        tree = random_tree(rng)
        before = tree.get_state()
        for compress, pickle_only in [SHAPES[(seed + turn) % len(SHAPES)] for turn in range(EACH)]:
            path = save(tree, folder / str(seed), compress, pickle_only)
            again = load(path)
            after = again.get_state()
            assert set(before) == set(after), (seed, path)
            assert all(same(before[key], after[key]) for key in before), (seed, path)
            assert before.components == after.components, (seed, path)
            for prefix in before.components:
                facts, facts_after = (
                    {key: value for key, value in state._metadata[prefix].items() if key != "_flambe_stash"}
                    for state in (before, after)
                )
                assert facts == facts_after, (seed, path, prefix)
            checked += 1
        shutil.rmtree(folder)
        folder.mkdir()
    assert checked == TREES * EACH
