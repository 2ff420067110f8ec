"""A training run of a small model, with its optimizer, scheduler and random states: what most checkpoints are."""

from __future__ import annotations

import dataclasses
import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.candidate import Candidate, Place, Way, loading, saving, sync
from benchmarks.ours import API
from benchmarks.peers import write
from benchmarks.workloads import Work


def _around(model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 10)


def _run(work: Work) -> dict[str, Any]:
    """Return the parts of a run that has made three steps."""

    def make() -> dict[str, Any]:
        model = work.plain_model
        optimizer, scheduler = _around(model)
        before = {key: tensor.clone() for key, tensor in work.state.items()}
        for _ in range(3):
            model(torch.ones(1, work.shape[1])).sum().backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(before[key])  # what is loaded is compared with these
        return {"model": model, "optimizer": optimizer, "scheduler": scheduler}

    return work.once("run", make)


def _save(work: Work, folder: Path, **options: Any) -> None:
    API.save({**_run(work), "random": API.RandomStates()}, folder / "save", **options)


# ------------------------------------------------------------------------------------------------ torch


def _state(work: Work) -> dict[str, Any]:
    parts = {name: part.state_dict() for name, part in _run(work).items()}
    states: Any = np.random.get_state()
    return {**parts, "random": (random.getstate(), states, torch.get_rng_state())}


def _dict_load(work: Work, folder: Path) -> nn.Module:
    state = torch.load(folder / "run.pt", weights_only=False)
    model = work.plain()
    optimizer, scheduler = _around(model)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    python, of_numpy, of_torch = state["random"]
    random.setstate(python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    return model


def _replace(work: Work, place: Place) -> None:
    """Write a file beside the old one, sync it, and put it in its place."""
    data = io.BytesIO()
    torch.save(_state(work), data)
    write(place.fresh / "new.pt", [data.getbuffer()], is_synced=True)
    os.replace(place.fresh / "new.pt", place.fresh / "run.pt")
    sync(place.fresh)


WAY = Way("flambe_save", _save, lambda work, folder: API.load(folder / "save")["model"])
DICT = Way(
    "torch.save of the state_dicts, torch.load + construction",
    lambda work, folder: torch.save(_state(work), folder / "run.pt"),
    _dict_load,
)
# The run is made before: torch imports its compiler when it makes the first optimizer of a process
SAVE_RUN = dataclasses.replace(saving(WAY), prepare=lambda work, place: _run(work))
LOAD_RUN = loading(WAY)
OVERWRITE = Candidate(
    "flambe_save, overwrite=True, durable=True",
    prepare=lambda work, place: _save(work, place.fresh),
    run=lambda work, place: _save(work, place.fresh, overwrite=True, durable=True),
    tensors=SAVE_RUN.tensors,
)
REPLACE = Candidate(
    "torch.save, fsync and rename of one file",
    prepare=lambda work, place: DICT.save(work, place.fresh),
    run=_replace,
)
SAVE_SECOND = Candidate(
    "a second save",
    prepare=lambda work, place: _save(work, place.fresh / "first"),
    run=SAVE_RUN.run,
)
