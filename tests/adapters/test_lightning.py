"""Modules of Lightning are saved without the trainer that runs them, and load without trust."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import Component, load, load_state, save, untrusted

lightning: Any = pytest.importorskip("lightning", reason="pip install lightning")

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, about the few workers and steps here

DATA = torch.arange(32.0).reshape(8, 4) / 32


class Net(lightning.LightningModule):
    """Logs a metric, of which Lightning notes the id."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(size, 2)

    def training_step(self, batch: Any) -> Any:
        """Compute a loss."""
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Make one."""
        return torch.optim.Adam(self.parameters(), 0.1)


class Outer(Net):
    """Has another inside, which gets the trainer too."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.inner = Net(size)


class Known(Component, Net):  # type: ignore[misc]
    """A component, whose constructor a load runs."""

    def __init__(self, size: int) -> None:
        lightning.LightningModule.__init__(self)
        self.layer = nn.Linear(size, 2)


class Data(lightning.LightningDataModule):
    """Gets the trainer too."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 4

    def train_dataloader(self) -> Any:
        """Load batches."""
        return torch.utils.data.DataLoader(DATA, batch_size=self.size)


class Saves(lightning.Callback):
    """Saves in the middle of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Any, net: Any) -> None:
        """Save the module and what trains it."""
        save({"net": net, "optimizers": trainer.optimizers}, self.path)


def fit(net: Any, data: Any, *callbacks: Any) -> Any:
    """Train for an epoch."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", enable_model_summary=False, callbacks=[*callbacks], **quiet
    )
    trainer.fit(net, data)
    return trainer


def loader() -> Any:
    """Return the batches of the data."""
    return torch.utils.data.DataLoader(DATA, batch_size=4)


@pytest.mark.parametrize("cls", [Net, Outer, Known])
def test_a_module_is_saved_without_its_trainer(cls: Any, tmp_path: Path) -> None:
    """It is data, it runs again, and a fresh one is filled from its state alone."""
    net = cls(4)
    trainer = fit(net, loader())
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
    fit(again, loader())
    assert net.trainer is trainer


def test_a_callback_saves_the_module_and_its_optimizers(tmp_path: Path) -> None:
    """The loaded optimizer moves the loaded module, and what runs at the moment of the save is not noted."""
    net = Net(4)
    fit(net, Data(), Saves(tmp_path / "run"))
    run = load(tmp_path / "run")
    assert run["optimizers"][0].param_groups[0]["params"][0] is run["net"].layer.weight
    assert torch.equal(run["net"].layer.weight, net.layer.weight)
    assert run["net"].hparams == {"size": 4}
    assert run["net"]._current_fx_name is None


def test_a_data_module_is_saved_without_its_trainer(tmp_path: Path) -> None:
    """What it is told of its trainer is no data of its own."""
    data = Data()
    fit(Net(4), data)
    again = load(save(data, tmp_path / "data"))
    assert data.trainer is not None
    assert again.trainer is None
    assert again.size == 4


def test_a_fabric_is_left_out(tmp_path: Path) -> None:
    """So are the optimizers that a Fabric has set up."""
    net = Net(4)
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    fabric.setup(net, torch.optim.Adam(net.parameters()))
    assert net.fabric is fabric
    path = save(net, tmp_path / "net")
    assert untrusted(path) == []
    again = load(path)
    assert again.fabric is None
    assert again._fabric_optimizers == []
