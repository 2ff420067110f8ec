"""Data loaders, samplers and the generators that they share with others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

from flambe_save import load, save

TRUSTED = ["torch.utils.data"]
DATA = TensorDataset(torch.arange(12.0))


class Trainer:
    """Keeps a loader, and the generator that drives it."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.generator = loader, loader.generator


class Noisy(nn.Module):
    """Keeps a generator of its own in an attribute."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator


def loader(generator: Any, **more: Any) -> DataLoader[Any]:
    """Return a loader that shuffles by a generator."""
    return DataLoader(DATA, batch_size=2, shuffle=True, generator=generator, **more)


def begun(generator: Any) -> DataLoader[Any]:
    """Return a loader whose workers wait for the next batch."""
    made = loader(generator, num_workers=1, persistent_workers=True)
    made._iterator = iter(DataLoader(DATA))  # type: ignore[assignment]  # as there is with workers, which take seconds
    return made


def with_sampler(generator: Any) -> list[Any]:
    """Return a sampler, and a loader that it drives."""
    sampler = RandomSampler(DATA, generator=generator)
    return [sampler, DataLoader(DATA, sampler=sampler)]


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "loader": loader,
    "two loaders": lambda generator: [loader(generator), loader(generator)],
    "begun": begun,
    "sampler": with_sampler,
    "weights": lambda generator: WeightedRandomSampler([1.0, 2.0], 4, generator=generator),
    "subset": lambda generator: SubsetRandomSampler([1, 2], generator=generator),
    "trainer": lambda generator: Trainer(loader(generator)),
    "module": lambda generator: [Noisy(generator), loader(generator)],
}


def generators(obj: Any) -> list[int]:
    """Return the ids of all generators in an object, each as often as something leads to it."""
    seen: set[int] = set()
    found, waiting = [], [obj]
    while waiting:
        item = waiting.pop()
        if isinstance(item, torch.Generator):
            found.append(id(item))
        elif id(item) not in seen:
            seen.add(id(item))
            waiting += item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else []
            waiting += vars(item).values() if hasattr(item, "__dict__") else []
    return found


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("kind", HOLDERS)
def test_a_generator_that_others_share_stays_one(tmp_path: Path, kind: str, is_first: bool) -> None:
    """Wherever it stands, and it goes on where it was."""
    generator = torch.Generator().manual_seed(3)
    torch.rand(2, generator=generator)
    kept = {"holder": HOLDERS[kind](generator), "generator": generator}
    kept = dict(reversed(kept.items())) if is_first else kept
    path = tmp_path / "save"
    if kind == "begun":
        with pytest.warns(UserWarning, match=r"holder\._iterator"):
            save(kept, path)
    else:
        save(kept, path)
    again = load(path)
    assert len(generators(again)) == len(generators(kept)) > 1
    assert set(generators(again)) == {id(again["generator"])}
    assert torch.equal(torch.rand(3, generator=again["generator"]), torch.rand(3, generator=generator))
