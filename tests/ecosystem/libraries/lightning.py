"""lightning: modules, data and callbacks."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ecosystem.entries import entry


class Classifier(L.LightningModule):
    def __init__(self, size=4, rate=1e-3, classes=("a", "b")):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Sequential(nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, len(classes)))
        self.register_buffer("weights", torch.ones(len(classes)), persistent=False)

    def forward(self, x):
        return self.layer(x)


class Numbers(L.LightningDataModule):
    def __init__(self, size=4, batch=2):
        super().__init__()
        self.save_hyperparameters()
        self.rows = TensorDataset(torch.arange(size * 3.0).view(3, size))

    def train_dataloader(self):
        return DataLoader(self.rows, self.hparams.batch)


@entry(
    "a model derived from `LightningModule` with `save_hyperparameters`",
    edit="its head replaced",
    use=lambda model: (model(torch.ones(2, 6)), dict(model.hparams)),
)
def module():
    model = Classifier(size=6, rate=0.01, classes=("x", "y", "z"))
    model.layer[2] = nn.Linear(8, 5)
    return model


@entry("a `LightningDataModule`", edit="a batch size", use=lambda data: list(data.train_dataloader()))
def data():
    made = Numbers(size=5)
    made.hparams.batch = 3
    return made


@entry("callbacks: `EarlyStopping` and `ModelCheckpoint`", edit="a count and a best score")
def callbacks():
    stopping = EarlyStopping("loss", patience=7, mode="min")
    stopping.wait_count = 2
    kept = ModelCheckpoint(dirpath="checkpoints", monitor="loss", save_top_k=2)
    kept.best_model_score = torch.tensor(0.25)
    return {"stopping": stopping, "kept": kept}
