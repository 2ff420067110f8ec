"""`save(..., check=True)`: a fresh process loads what was written, before it takes its place, and compares it."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import Component, RandomStates, SaveError, UnsupportedObjectError, load, save, save_async
from flambe_save.fresh import FreshLoad, arguments_of
from flambe_save.proof import _define, differences


@dataclasses.dataclass
class Settings:
    rate: float


class Forgetful(Component, nn.Module):
    """Does not take back what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.count = 0
        self.register_attrs("count")

    def _load_state(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict[f"{prefix}layer.bias"] = torch.zeros(2)
        state_dict[f"{prefix}count"] = 0


class Refusing(Component):
    """Cannot be built by another process."""

    def __init__(self) -> None:
        if os.environ["BUILT_BY"] != str(os.getpid()):
            raise RuntimeError("not here")


def test_what_loads_is_saved(tmp_path: Path) -> None:
    """A run of several kinds of objects passes the check, as a folder, and as one file in an archive."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    run = {"model": model, "optimizer": optimizer, "settings": Settings(float("nan")), "random": RandomStates()}
    path = save(run, tmp_path / "run", check=True)
    assert torch.equal(load(path)["model"][0].weight, model[0].weight)
    future = save_async(run, tmp_path / "run", compress=True, pickle_only=True, check=True)
    assert torch.equal(load(future.result())["model"][0].weight, model[0].weight)


def test_what_differs_is_told_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that does not take back its state is named with what differs; an old save at the path stays."""
    model = Forgetful()
    model.count = 7
    with pytest.raises(SaveError, match=r"(?s)does not get back.*'count' is '0'.*and '7' in the save"):
        save(model, tmp_path / "new", check=True)
    assert list(tmp_path.iterdir()) == []
    path = save(nn.Linear(3, 3), tmp_path / "old")
    monkeypatch.setenv("BUILT_BY", str(os.getpid()))
    with pytest.raises(SaveError, match="not here"):
        save(Refusing(), path, overwrite=True, check=True)
    assert load(path).in_features == 3
    assert [item.name for item in tmp_path.iterdir()] == ["old"]


def test_arguments_that_exclude_each_other(tmp_path: Path) -> None:
    """What no load opens is not checked by one; a class of an interactive program is found by nobody."""
    with pytest.raises(SaveError, match="build=False"):
        save(nn.Linear(1, 1), tmp_path / "run", check=True, build=False)
    fresh = FreshLoad("", ["__main__.Net"])
    main = sys.modules["__main__"]
    file, spec = getattr(main, "__file__", None), main.__spec__
    try:
        main.__file__, main.__spec__ = None, None  # type: ignore[assignment]
        with pytest.raises(UnsupportedObjectError, match="interactive"):
            fresh.check(tmp_path)
    finally:
        main.__file__, main.__spec__ = file, spec  # type: ignore[assignment]
    assert arguments_of("trusted=['a.B']") == {"trusted": ["a.B"]}
    assert arguments_of("weights_only=False") == {"weights_only": False}
    assert arguments_of("") == {}


def test_differences_are_found_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors, values and arguments that come back otherwise are listed."""
    model = Forgetful()
    model.count = 7
    found = differences(save(model, tmp_path / "run"), {})
    assert len(found) == 2
    assert found[0].startswith("'layer.bias' is a torch.float32 tensor of (2,) in the loaded object")
    monkeypatch.setattr(Forgetful, "_load_state", Component._load_state)
    assert differences(str(tmp_path / "run"), {}) == []


def test_a_script_is_not_run(tmp_path: Path) -> None:
    """Of a script the classes, functions, imports and constants are made; what it does, it does not do again."""
    script = tmp_path / "train_once.py"
    script.write_text(
        "import collections\nSIZE = 3\nPair = collections.namedtuple('Pair', 'a b')\n"
        "class Net:\n    size = SIZE\nmade = Net()\nraise RuntimeError('trained again')\n"
    )
    try:
        _define(str(script), "train_once")
        module = sys.modules["train_once"]
        assert (module.Net.size, module.Pair(1, 2).b, hasattr(module, "made")) == (3, 2, False)
    finally:
        sys.modules.pop("train_once", None)
