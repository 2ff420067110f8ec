"""flambe_save's own candidates. Those whose keyword is not there yet say so, and run when it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import flambe_save
from benchmarks.candidate import Candidate, Place, Way, loading, on_gpu, saving, tensors_of
from benchmarks.workloads import Work

NAME = "flambe_save"
CHANGED = "blocks.3."
# Their names are those of the design; they are called by name because some are not there yet
API: Any = flambe_save


def _way(name: str, save: Mapping[str, Any] | None = None, load: Mapping[str, Any] | None = None) -> Way:
    saving_with, loading_with = dict(save or {}), dict(load or {})
    file = "save.tar.gz" if saving_with.get("compress") else "save.pkl" if saving_with.get("pickle_only") else "save"
    return Way(
        name,
        save=lambda work, folder: API.save(work.model, folder / file, **saving_with),
        load=lambda work, folder: API.load(folder / file, **loading_with),
        uses=(*(f"save({key})" for key in saving_with), *(f"load({key})" for key in loading_with)),
    )


def _save_with_another_block(work: Work, folder: Path) -> None:
    """Save the model as it was before the last change, which is to one component."""
    with work.negated(CHANGED):
        API.save(work.model, folder / "save")


def _save_two(work: Work, folder: Path) -> None:
    """Save the model, and beside it as it was before all of it changed."""
    API.save(work.model, folder / "save")
    with work.negated():
        API.save(work.model, folder / "other")


def _again(work: Work, place: Place, result: Any) -> Mapping[str, torch.Tensor]:
    return tensors_of(API.load(place.fresh / "save"))


def _state(work: Work, place: Place) -> Any:
    model: Any = work.model
    return model.get_state()


FOLDER = _way(NAME)
PICKLE = _way(f"{NAME}, pickle", {"pickle_only": True})
ARCHIVE = _way(f"{NAME}, archive", {"compress": True})
TWO = Way(f"{NAME}, two saves", save=_save_two, load=FOLDER.load)
BEFORE = Way(f"{NAME}, before", save=_save_with_another_block, load=FOLDER.load)

SAVE = saving(FOLDER)
SAVE_ONE_THREAD = saving(_way(f"{NAME}, threads=1", {"threads": 1}))
DURABLE = saving(_way(f"{NAME}, durable=True", {"durable": True}))
ARCHIVE_SAVE = saving(ARCHIVE)
PICKLE_SAVE = saving(PICKLE)

LOAD = loading(FOLDER)
LOAD_ONE_THREAD = loading(_way(f"{NAME}, threads=1", load={"threads": 1}), source=FOLDER)
LOAD_MAPPED = loading(_way(f"{NAME}, mmap=True", load={"mmap": True}), source=FOLDER)
LOAD_UNVERIFIED = loading(_way(f"{NAME}, mmap=True, verify=False", load={"mmap": True, "verify": False}), source=FOLDER)
LOAD_GPU = on_gpu(loading(_way(f"{NAME}, map_location", load={"map_location": "cuda"}), source=FOLDER))
ARCHIVE_LOAD = loading(ARCHIVE)
PICKLE_LOAD = loading(PICKLE)
LEVELS_SAVE, LEVELS_LOAD = (dataclasses.replace(candidate, tensors=None) for candidate in (SAVE, LOAD))
VERIFY = Candidate(f"{NAME}.verify", run=lambda work, place: API.verify(place.source / "save"), source=FOLDER)
DIFF = Candidate(
    f"{NAME}.diff",
    run=lambda work, place: API.diff(place.source / "save", place.source / "other"),
    source=TWO,
)

NODE = Candidate(
    f"{NAME}, node=",
    run=lambda work, place: API.load(place.source / "save", node=CHANGED[:-1]),
    source=FOLDER,
    tensors=lambda work, place, result: tensors_of(result),
    part=CHANGED,
)
ARCHIVE_NODE = Candidate(
    f"{NAME}, node=",
    run=lambda work, place: API.load(place.source / "save.tar.gz", node=CHANGED[:-1]),
    source=ARCHIVE,
    tensors=lambda work, place, result: tensors_of(result),
    part=CHANGED,
)
BASE = Candidate(
    f"{NAME}, base=",
    run=lambda work, place: API.save(work.model, place.fresh / "save", base=place.source / "save"),
    source=BEFORE,
    tensors=_again,
    uses=("save(base)",),
)
CONSTRUCTION = Candidate(f"{NAME}, components", run=lambda work, place: work.make())
STATE = Candidate(f"{NAME}, get_state", run=_state)
ASYNC = Candidate(
    f"{NAME}.save_async",
    run=lambda work, place: API.save_async(work.model, place.fresh / "save"),
    finish=lambda future: future.result(),
    tensors=_again,
    uses=("save_async",),
)
