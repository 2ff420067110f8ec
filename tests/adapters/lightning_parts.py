"""Models and a trainer of Lightning, for test_lightning.py: importing the library takes seconds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import nn

from flambe_save import Component, save

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
