"""Every registered kind keeps to the contract of adapters."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
import torch
from test_containers import Plain, Point
from test_modules import Keeper
from torch import nn
from torch.optim import swa_utils

from flambe_save.adapters import get_state
from flambe_save.registry import ADAPTERS
from flambe_save.state import State
from flambe_save.testing import AdapterContract


def values(seed: int) -> torch.Tensor:
    """Return numbers that differ where seeds do."""
    return torch.arange(3.0) + seed


class _Described(AdapterContract):
    """A value's Schema holds the value's own parts, arrays among them, so two are not compared by ==."""

    def test_describe_builds_an_equal_object(self) -> None:
        """What describe returns, if anything, is of the object's own class."""
        obj = self.make_object(1)
        schema = self.adapter().describe(obj)
        assert schema is None or schema.component_subclass is type(obj)


class TestList(_Described):
    """A list of a tensor and a list."""

    def make_object(self, seed: int) -> Any:
        """Return a list."""
        return [values(seed), [1, values(seed + 1)]]


class TestTuple(_Described):
    """A named tuple inside a tuple."""

    def make_object(self, seed: int) -> Any:
        """Return a tuple."""
        return (1, Point(values(seed), "a"))


class TestDict(_Described):
    """A dict of a module and a tensor."""

    def make_object(self, seed: int) -> Any:
        """Return a dict."""
        torch.manual_seed(seed)
        return {"model": nn.Linear(2, 2), "values": values(seed)}


class TestDefaultDict(_Described):
    """A dict with a factory."""

    def make_object(self, seed: int) -> Any:
        """Return a defaultdict."""
        return collections.defaultdict(list, {"values": values(seed)})


class TestDataclass(_Described):
    """A dataclass with a tensor."""

    def make_object(self, seed: int) -> Any:
        """Return a dataclass."""
        return Plain(values(seed), {"a": values(seed)})


class _Alone(_Described):
    """An array's key is what it is called, and ``value`` where it is the root."""

    def test_state_is_under_its_prefix(self) -> None:
        """Inside another object, the key is the prefix itself."""
        state = get_state(self.make_object(1), State(other=1), "a.b")
        assert list(state) == ["other", "a.b"]
        assert list(get_state(self.make_object(1))) == ["value"]


class TestTensor(_Alone):
    """A tensor alone."""

    def make_object(self, seed: int) -> Any:
        """Return a tensor."""
        return values(seed)


class TestArray(_Alone):
    """A numpy array alone."""

    def make_object(self, seed: int) -> Any:
        """Return an array."""
        return np.arange(3) + seed


class TestScaler(_Described):
    """A gradient scaler."""

    def make_object(self, seed: int) -> Any:
        """Return a scaler."""
        scaler = torch.amp.GradScaler("cpu")
        scaler._lazy_init_scale_growth_tracker(torch.device("cpu"))
        scaler._scale.fill_(2.0**seed)
        return scaler


class TestAverage(_Described):
    """A running average of weights."""

    def make_object(self, seed: int) -> Any:
        """Return an averaged model."""
        torch.manual_seed(seed)
        return swa_utils.AveragedModel(nn.Linear(2, 2))


class TestRecorded(_Described):
    """An object of a decorated class that holds modules."""

    def make_object(self, seed: int) -> Any:
        """Return an object."""
        torch.manual_seed(seed)
        return Keeper(nn.Linear(2, 2))

    def test_state_is_under_its_prefix(self) -> None:
        """Inside another object, so are the names by which the optimizer calls its parameters."""
        state = get_state(self.make_object(1), State(), "a.b")
        assert state["a.b.optimizer.param_groups"][0]["params"] == ["a.b.model.weight", "a.b.model.bias"]


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_every_kind_says_what_is_kept(name: str) -> None:
    """Each entry of the registry has a note for the docs."""
    assert ADAPTERS.notes[name]
