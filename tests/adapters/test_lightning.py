"""Modules of Lightning are saved without the trainer that runs them, and load without trust."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from flambe_save import load, load_state, save, untrusted

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, about the few workers and steps here


@pytest.fixture(scope="module")
def parts() -> Any:
    """The models and the trainer; only a process that runs these tests imports the library."""
    pytest.importorskip("lightning", reason="pip install lightning")
    return importlib.import_module("lightning_parts")


@pytest.mark.parametrize("name", ["Net", "Outer", "Known"])
def test_a_module_is_saved_without_its_trainer(name: str, parts: Any, tmp_path: Path) -> None:
    """It is data, it runs again, and a fresh one is filled from its state alone."""
    cls = getattr(parts, name)
    net = cls(4)
    trainer = parts.fit(net, parts.loader())
    assert net.trainer is trainer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = save(net, tmp_path / "net")
        state = save(net, tmp_path / "state", build=False)
    assert untrusted(path) == []
    again, filled = load(path), cls(4)
    load_state(filled, state)
    for other in (again, filled):
        assert other._trainer is None
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in net.state_dict().items())
    assert net.__dict__.keys() == again.__dict__.keys()
    parts.fit(again, parts.loader())
    assert net.trainer is trainer


def test_a_callback_saves_the_module_and_its_optimizers(parts: Any, tmp_path: Path) -> None:
    """The loaded optimizer moves the loaded module, and what runs at the moment of the save is not noted."""
    net = parts.Net(4)
    parts.fit(net, parts.Data(), parts.Saves(tmp_path / "run"))
    run = load(tmp_path / "run")
    assert run["optimizers"][0].param_groups[0]["params"][0] is run["net"].layer.weight
    assert torch.equal(run["net"].layer.weight, net.layer.weight)
    assert run["net"].hparams == {"size": 4}
    assert run["net"]._current_fx_name is None


def test_a_data_module_is_saved_without_its_trainer(parts: Any, tmp_path: Path) -> None:
    """What it is told of its trainer is no data of its own."""
    data = parts.Data()
    parts.fit(parts.Net(4), data)
    again = load(save(data, tmp_path / "data"))
    assert data.trainer is not None
    assert again.trainer is None
    assert again.size == 4


def test_a_fabric_is_left_out(parts: Any, tmp_path: Path) -> None:
    """So are the optimizers that a Fabric has set up."""
    net = parts.Net(4)
    fabric = parts.lightning.Fabric(accelerator="cpu", devices=1)
    fabric.setup(net, torch.optim.Adam(net.parameters()))
    assert net.fabric is fabric
    path = save(net, tmp_path / "net")
    assert untrusted(path) == []
    again = load(path)
    assert again.fabric is None
    assert again._fabric_optimizers == []
