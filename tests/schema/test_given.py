"""What constructors write to of the tensors and arrays that they are given is as it was saved, after a load."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flambe_save import Component, load, save
from flambe_save.deferred_init import given


class Weights(nn.Module):
    """Of no registered class, so written as its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("kept", torch.ones(3))
        self.register_buffer("cache", torch.ones(3), persistent=False)
        self.tensor = torch.ones(3)
        self.array = np.ones(3)
        self.rows = [torch.ones(3), torch.ones(3)]


class Norm(nn.BatchNorm1d):
    """Counts what it sees in buffers, as an operation of torch's that does not say so."""


class Holder:
    """No module."""

    def __init__(self) -> None:
        self.tensor, self.array, self.rows = torch.ones(3), np.ones(3), {"a": torch.ones(3)}


def _in_a_thread(weights: Any) -> None:
    thread = threading.Thread(target=lambda: weights.weight.data.zero_())
    thread.start()
    thread.join()


def _without_gradients(weights: Any) -> None:
    with torch.no_grad():
        weights.weight.zero_()


def _a_step(weights: Any) -> None:
    weights.weight.grad = torch.ones_like(weights.weight)
    torch.optim.SGD([weights.weight], lr=1.0).step()
    weights.weight.grad = None


def _in_larger_memory(weights: Any) -> None:
    storage = weights.weight.data.untyped_storage()
    if storage.resizable():  # a file's is not
        storage.resize_(64)
        storage.fill_(0)


WAYS: dict[str, Callable[[Any], Any]] = {
    "data": lambda weights: weights.weight.data.zero_(),
    "no grad": _without_gradients,
    "init": lambda weights: nn.init.normal_(weights.weight),
    "index": lambda weights: weights.weight.data.__setitem__(0, 7.0),
    "copy": lambda weights: weights.weight.data.copy_(torch.randn(3)),
    "several": lambda weights: torch._foreach_zero_([weights.weight.data]),
    "numpy": lambda weights: weights.weight.detach().numpy().fill(0),
    "storage": lambda weights: weights.weight.data.untyped_storage().fill_(0),
    "thread": _in_a_thread,
    "step": _a_step,
    "other memory": lambda weights: setattr(weights.weight, "data", torch.zeros(3)),
    "another": lambda weights: setattr(weights, "weight", nn.Parameter(torch.zeros(3))),
    "another type": lambda weights: weights.double(),
    "resized": _in_larger_memory,
    "buffers": lambda weights: (weights.kept.zero_(), weights.cache.zero_()),
    "shape of buffers": lambda weights: (weights.kept.unsqueeze_(0), weights.cache.t_()),
    "attributes": lambda weights: (weights.tensor.zero_(), weights.array.fill(0), weights.rows[1].zero_()),
}


class Writes(Component, nn.Module):
    """Writes to what it is given."""

    def __init__(self, weights: nn.Module, way: str) -> None:
        super().__init__()
        WAYS[way](weights)
        self.weights = weights


def _tensors(weights: Any) -> list[Any]:
    own = [weights.weight.data, weights.kept, weights.cache, weights.tensor, torch.as_tensor(weights.array)]
    return [*own, *weights.rows]


def _fives(weights: Any) -> None:
    """Make all values five, whatever the constructor has made of them."""
    weights.weight.data = torch.full((3,), 5.0, dtype=weights.weight.dtype)
    for tensor in _tensors(weights):
        tensor.fill_(5)


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_what_a_constructor_writes_to_is_as_it_was_saved(way: str, mmap: bool, is_half: bool, tmp_path: Path) -> None:
    """Parameters, buffers and attributes of a plain module keep values, types and shapes."""
    obj = Writes(Weights(), way)
    if is_half:
        obj.half()
    _fives(obj.weights)
    again = load(save(obj, tmp_path / "save"), mmap=mmap)
    for before, after in zip(_tensors(obj.weights), _tensors(again.weights), strict=True):
        assert after.dtype == before.dtype
        assert torch.equal(before, after)


class Takes(Component):
    """Writes to a tensor, an array, and what an object holds."""

    def __init__(self, tensor: Any, array: Any, holder: Any) -> None:
        for value in (tensor, holder.tensor, holder.rows["a"]):
            value.zero_()
        for value in (array, holder.array):
            value.fill(0)
        self.tensor, self.array, self.holder = tensor, array, holder


@pytest.mark.parametrize("mmap", [False, True])
def test_arguments_and_attributes_of_objects_are_as_they_were_saved(mmap: bool, tmp_path: Path) -> None:
    """No module fills these afterwards."""
    obj = Takes(torch.ones(3), np.ones(3), Holder())
    values = (obj.tensor, obj.holder.tensor, obj.holder.rows["a"], obj.array, obj.holder.array)
    for value in values:
        value[...] = 5
    again = load(save(obj, tmp_path / "save"), mmap=mmap)
    found = (again.tensor, again.holder.tensor, again.holder.rows["a"], again.array, again.holder.array)
    assert [value.tolist() for value in found] == [[5.0] * 3] * 5


class Runs(Component, nn.Module):
    """Runs what it is given once, as to find out sizes."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        body(torch.arange(12.0).reshape(4, 3))
        self.body = body


def test_statistics_that_a_run_changes_are_as_they_were_saved(tmp_path: Path) -> None:
    """The operation of batch norm writes to buffers, and does not say so."""
    obj = Runs(Norm(3))
    obj.body.running_mean.fill_(5)
    again = load(save(obj, tmp_path / "save"))
    assert torch.equal(again.body.running_mean, obj.body.running_mean)
    assert torch.equal(again.body.running_var, obj.body.running_var)
    assert again.body.num_batches_tracked == 1


class Holds(Component, nn.Module):
    """Looks at what it is given."""

    def __init__(self, weights: nn.Module) -> None:
        super().__init__()
        self.weights = weights
        self.size = float(weights.weight.data.sum())


@pytest.mark.parametrize("make", [Weights, lambda: Holds(Weights())])
def test_nothing_is_copied_that_nobody_writes_to(
    make: Callable[[], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that a component is given takes no more memory while it is loaded."""

    def never(storage: Any) -> Any:
        raise AssertionError("a copy is made")

    path = save(make(), tmp_path / "save")
    monkeypatch.setattr(given, "_bytes_of", never)
    assert isinstance(load(path), nn.Module)
    assert isinstance(load(path, mmap=True), nn.Module)
