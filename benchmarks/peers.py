"""The peers: other ways to write and read the same tensors, each in its best reasonable configuration."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import tarfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import flambe_save
from benchmarks import ours
from benchmarks.candidate import Candidate, Place, Way, quietly, saving, sync, tensors_of
from benchmarks.workloads import PlainBag, PlainStack, Work, no_init, on_meta, tie


def optional(name: str) -> Any:
    """Import a module that may be missing, untyped; candidates with it are left out then."""
    return importlib.import_module(name)


# ------------------------------------------------------------------------------------------------ raw bytes


def _bytes(tensor: torch.Tensor) -> memoryview:
    array: Any = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return memoryview(array)


def write(path: Path, buffers: Iterable[memoryview], *, is_synced: bool = False) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        for buffer in buffers:
            while buffer:
                buffer = buffer[os.write(descriptor, buffer) :]
        if is_synced:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raw_save(work: Work, folder: Path, *, is_synced: bool = False) -> None:
    for number, part in enumerate(work.parts):
        write(folder / f"{number}.bin", map(_bytes, part.values()), is_synced=is_synced)
    if is_synced:
        sync(folder)


def _raw_load(work: Work, folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for number, part in enumerate(work.parts):
        data = bytearray((folder / f"{number}.bin").read_bytes())
        start = 0
        for key, like in part.items():
            tensors[key] = torch.frombuffer(data, dtype=like.dtype, count=like.numel(), offset=start).view(like.shape)
            start += like.numel() * like.element_size()
    return tensors


def _numbers_of_two(work: Work, place: Place) -> list[tuple[float, float]]:
    """Map the tensors of two saves with numpy, and compute how far each has moved."""
    found = []
    for part in work.parts:
        for key in part:
            before, after = (
                np.memmap(place.source / f"{name}.{key}", dtype=np.float32, mode="r") for name in ("save", "other")
            )
            moved = np.abs(after - before)
            found.append((float(moved.max()), float(moved.mean())))
    return found


def _two_raw(work: Work, folder: Path) -> None:
    for name, changed in (("save", False), ("other", True)):
        with work.negated() if changed else contextlib.nullcontext():
            for key, tensor in work.stored.items():
                write(folder / f"{name}.{key}", [_bytes(tensor)])


NUMPY_DIFF = Candidate(
    "numpy over two maps: largest and mean difference",
    run=_numbers_of_two,
    source=Way("two files of each tensor", _two_raw, _raw_load),
)
RAW_WAY = Way("raw write, one thread", _raw_save, _raw_load)
RAW = saving(RAW_WAY)
RAW_SYNCED = saving(
    Way("raw write, fsync of each file", lambda work, folder: _raw_save(work, folder, is_synced=True), _raw_load)
)
RAW_PART = Candidate(
    "raw write of that component",
    run=lambda work, place: write(place.fresh / "part", map(_bytes, work.parts[3].values())),
)


def _create_files(work: Work, place: Place) -> None:
    """Create the files of a save with os.open, write and close, and nothing else."""
    content = work.once("files", lambda: _files_of(place.source / "save"))
    for name, data in content:
        path = place.fresh / name
        if data is None:
            os.mkdir(path)
        else:
            write(path, [memoryview(data)])


def _files_of(root: Path) -> list[tuple[str, bytes | None]]:
    """Return the files of a folder with their bytes, and its folders without, each after the folder that it is in."""
    found: list[tuple[str, bytes | None]] = [("save", None)]
    for folder, folders, files in os.walk(root):
        here = Path("save", os.path.relpath(folder, root))
        found += [(str(here / name), (Path(folder) / name).read_bytes()) for name in files]
        found += [(str(here / name), None) for name in folders]
    return found


FILES = Candidate(
    "the same files from Python",
    run=_create_files,
    source=ours.FOLDER,
    tensors=lambda work, place, result: tensors_of(flambe_save.load(place.fresh / "save")),
)
CLONE = Candidate(
    "clone of the tensors",
    run=lambda work, place: {key: tensor.clone() for key, tensor in work.stored.items()},
    tensors=lambda work, place, result: result,
)


# ------------------------------------------------------------------------------------------------ torch


def _filled(work: Work, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a plain module that holds these very tensors."""
    module = on_meta(work.plain)
    module.load_state_dict(state, strict=False, assign=True)
    tie(module)
    return module


def _state_save(work: Work, folder: Path) -> None:
    torch.save(work.state, folder / "state.pt")


def _constructed(work: Work, folder: Path) -> nn.Module:
    module = work.plain()
    module.load_state_dict(torch.load(folder / "state.pt"))
    return module


def _synced_state_save(work: Work, folder: Path) -> None:
    with open(folder / "state.pt", "wb") as file:
        torch.save(work.state, file)
        file.flush()
        os.fsync(file.fileno())


CONSTRUCTION = Candidate("plain modules", run=lambda work, place: work.plain())
STATE_DICT = Candidate("state_dict of plain modules", run=lambda work, place: work.plain_model.state_dict())
STATE = Way("torch.save, torch.load + construction", _state_save, _constructed)
STATE_ASSIGN = Way(
    "torch.load + meta module + assign",
    _state_save,
    lambda work, folder: _filled(work, torch.load(folder / "state.pt")),
)
STATE_SYNCED = Way("torch.save, fsync", _synced_state_save, _constructed)
MODULE = Way(
    "torch.save of the module",
    lambda work, folder: torch.save(work.plain_model, folder / "module.pt"),
    lambda work, folder: torch.load(folder / "module.pt", weights_only=False),
)
MODULE_MAPPED = Way(
    "torch.load of the module, mmap=True",
    MODULE.save,
    lambda work, folder: torch.load(folder / "module.pt", weights_only=False, mmap=True),
)
MODULE_GPU = Way(
    "torch.load of the module, map_location",
    MODULE.save,
    lambda work, folder: torch.load(folder / "module.pt", weights_only=False, map_location="cuda"),
)


# ------------------------------------------------------------------------------------------------ safetensors


def _safetensors_save(work: Work, folder: Path) -> None:
    optional("safetensors.torch").save_file(work.stored, folder / "model.safetensors")


def _safetensors_load(work: Work, folder: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    file = folder / "model.safetensors"
    return optional("safetensors.torch").load_file(file, device=device)  # type: ignore[no-any-return]


def _safetensors_copy(work: Work, folder: Path) -> nn.Module:
    with no_init():
        module = work.plain()
    module.load_state_dict(_safetensors_load(work, folder), strict=False)
    return module


def _parts_save(work: Work, folder: Path) -> None:
    for number, part in enumerate(work.parts):
        optional("safetensors.torch").save_file(part, folder / f"{number}.safetensors")


def _parts_load(work: Work, folder: Path) -> nn.Module:
    state: dict[str, torch.Tensor] = {}
    for number in range(len(work.parts)):
        state |= optional("safetensors.torch").load_file(folder / f"{number}.safetensors")
    return _filled(work, state)


def _safetensors_node(work: Work, place: Place) -> dict[str, torch.Tensor]:
    with optional("safetensors").safe_open(place.source / "model.safetensors", "pt") as file:
        keys = [key for key in file.keys() if key.startswith(ours.CHANGED)]  # noqa: SIM118 (it has no __iter__)
        return {key.removeprefix(ours.CHANGED): file.get_tensor(key) for key in keys}


SAFETENSORS = Way("safetensors + no-op init + copy", _safetensors_save, _safetensors_copy, ("safetensors",))
SAFETENSORS_ASSIGN = Way(
    "safetensors + meta module + assign",
    _safetensors_save,
    lambda work, folder: _filled(work, _safetensors_load(work, folder)),
    ("safetensors",),
)
SAFETENSORS_GPU = Way(
    "safetensors to the GPU + meta module + assign",
    _safetensors_save,
    lambda work, folder: _filled(work, _safetensors_load(work, folder, "cuda")),
    ("safetensors",),
)
SAFETENSORS_PARTS = Way("safetensors, a file each", _parts_save, _parts_load, ("safetensors",))
SAFETENSORS_NODE = Candidate(
    "safetensors.safe_open, unchecked",
    run=_safetensors_node,
    source=SAFETENSORS,
    tensors=lambda work, place, result: result,
    part=ours.CHANGED,
)


# ------------------------------------------------------------------------------------------------ torch.distributed


def _writer(folder: Path) -> Any:
    # Not synced, as none of the others is, and from two threads; the default syncs, from one
    return optional("torch.distributed.checkpoint").FileSystemWriter(folder, sync_files=False, thread_count=2)


def _dcp_save(work: Work, folder: Path) -> None:
    with quietly():
        optional("torch.distributed.checkpoint").save(dict(work.state), storage_writer=_writer(folder), no_dist=True)


def _dcp_load(work: Work, folder: Path) -> nn.Module:
    with no_init():
        module = work.plain()
    with quietly():
        optional("torch.distributed.checkpoint").load(module.state_dict(), checkpoint_id=folder, no_dist=True)
    return module


def _dcp_async(work: Work, place: Place, stager: Any = None) -> Any:
    warnings.filterwarnings("ignore", "torch.distributed is disabled")  # its thread says so later than this returns
    return optional("torch.distributed.checkpoint").async_save(
        dict(work.state), storage_writer=_writer(place.fresh), no_dist=True, async_stager=stager
    )


def _stager() -> Any:
    # It keeps a copy for each storage; the rest needs an accelerator
    staging = optional("torch.distributed.checkpoint.staging")
    options = {"pinned_memory": False, "shared_memory": False, "async_staging": False, "non_blocking_copy": False}
    return staging.DefaultStager(staging.StagingOptions(**{f"use_{name}": value for name, value in options.items()}))


DCP = Way("torch.distributed.checkpoint", _dcp_save, _dcp_load)
DCP_ASYNC = Candidate(
    "torch.distributed.checkpoint.async_save",
    run=_dcp_async,
    finish=lambda future: future.result(),
    tensors=lambda work, place, result: tensors_of(_dcp_load(work, place.fresh)),
)
DCP_ASYNC_KEPT = Candidate(
    "the same, into kept buffers",
    run=lambda work, place: _dcp_async(work, place, work.once("stager", _stager)),
    finish=lambda future: future.result(),
    tensors=DCP_ASYNC.tensors,
)


# ------------------------------------------------------------------------------------------------ Hugging Face etc.


def _hub_class(work: Work) -> Any:
    plain = PlainStack if work.key != "c" else PlainBag
    mixin = optional("huggingface_hub").PyTorchModelHubMixin

    def make() -> type:
        return type(f"Hub{plain.__name__}", (plain, mixin), {"__init__": plain.__init__})

    return work.once("hub class", make)


def _hub_save(work: Work, folder: Path) -> None:
    count, size = work.shape
    module: Any = work.once("hub", lambda: work.shared(lambda: _hub_class(work)(count, size)))
    module.save_pretrained(folder)


def _hub_load(work: Work, folder: Path) -> nn.Module:
    with contextlib.redirect_stdout(io.StringIO()):  # it tells where it reads from
        module: nn.Module = _hub_class(work).from_pretrained(folder)
    return module


HUB = Way(
    "PyTorchModelHubMixin",
    _hub_save,
    _hub_load,
    ("huggingface_hub", "safetensors", "jinja2"),
)


def _transformers_load(work: Work, folder: Path) -> Any:
    return optional("transformers").GPT2LMHeadModel.from_pretrained(folder, local_files_only=True)


TRANSFORMERS = Way(
    "transformers.save_pretrained, from_pretrained",
    lambda work, folder: work.plain_model.save_pretrained(folder),  # type: ignore[operator]
    _transformers_load,
    ("transformers",),
)


def _fabric(work: Work) -> Any:
    make = optional("lightning_fabric").Fabric
    return work.once("fabric", lambda: make(accelerator="cpu", devices=1))


def _fabric_load(work: Work, folder: Path) -> nn.Module:
    with no_init():
        module = work.plain()
    _fabric(work).load(folder / "checkpoint.ckpt", {"model": module})
    return module


FABRIC = Way(
    "Lightning Fabric + no-op init",
    lambda work, folder: _fabric(work).save(folder / "checkpoint.ckpt", {"model": work.plain_model}),
    _fabric_load,
    ("lightning_fabric",),
)


# ------------------------------------------------------------------------------------------------ tar.gz


def _tar(source: Path, target: Path) -> None:
    with tarfile.open(target, "w:gz") as tar:
        tar.add(source, arcname="save")


def _tar_save(work: Work, folder: Path) -> None:
    ours.FOLDER.save(work, folder)
    _tar(folder / "save", folder / "save.tar.gz")


def _extract(work: Work, place: Place) -> None:
    with tarfile.open(place.source / "save.tar.gz") as tar:
        tar.extractall(place.fresh, filter="data")


TAR_WAY = Way("tarfile w:gz", _tar_save, ours.ARCHIVE.load)
TAR = Candidate(
    "tarfile w:gz of the folder",
    run=lambda work, place: _tar(place.source / "save", place.fresh / "save.tar.gz"),
    source=ours.FOLDER,
    tensors=lambda work, place, result: tensors_of(ours.ARCHIVE.load(work, place.fresh)),
    is_slow=True,
)
TAR_READ = Candidate(
    "tarfile extractall of its own archive",
    run=_extract,
    source=TAR_WAY,
    tensors=lambda work, place, result: tensors_of(ours.FOLDER.load(work, place.fresh)),
)
