"""The rows: what is measured, beside which peers, and what the targets are, as data."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import ours, peers
from benchmarks.candidate import Candidate, loading, on_gpu, saving, until_forward, until_step
from benchmarks.flambe import FLAMBE

__all__ = ["IMPORTS", "ROWS", "Beside", "Row"]

MB = 1 << 20


@dataclass(frozen=True)
class Beside:
    """A peer of a row, and what ours divided by theirs shall be at most, where there is a target."""

    candidate: Candidate
    target: float | None = None


@dataclass(frozen=True)
class Row:
    """A row.

    Parameters
    ----------
    work : str
        The key of the work.
    name : str
    ours : Candidate
    beside : tuple of Beside
    measure : {"time", "first", "memory", "size"}
        Seconds, of many runs in one process; seconds of the first run in each of many processes; the peak of a fresh
        process above where it began, in bytes; how many bytes a run wrote.
    target : float, optional
        What ours itself shall be at most, in the unit of the measure.
    without_model : bool
        With "memory": whether the model's own bytes are taken off, because a load has to hold them.
    """

    work: str
    name: str
    ours: Candidate
    beside: tuple[Beside, ...] = ()
    measure: str = "time"
    target: float | None = None
    without_model: bool = False

    @property
    def key(self) -> str:
        """The name by which a fresh process finds the row."""
        return f"{self.work}: {self.name}"

    @property
    def candidates(self) -> list[Candidate]:
        """Ours, then the peers."""
        return [self.ours, *(beside.candidate for beside in self.beside)]


SAVE_PEERS = (
    Beside(saving(peers.MODULE)),
    Beside(saving(peers.DCP)),
    Beside(saving(peers.FABRIC, "Lightning Fabric")),
)
LOAD_PEERS = (
    Beside(loading(peers.STATE, "torch.load + construction")),
    Beside(loading(peers.DCP)),
    Beside(loading(peers.FABRIC)),
)
ON_GPU = (
    Beside(on_gpu(loading(peers.MODULE_GPU))),
    Beside(on_gpu(loading(peers.SAFETENSORS_GPU))),
)
ASSIGNED = loading(peers.SAFETENSORS_ASSIGN)
MAPPED = until_forward(loading(peers.MODULE_MAPPED))

BIG = (
    Row(
        "a",
        "save",
        ours.SAVE,
        (
            Beside(saving(peers.SAFETENSORS, "safetensors, one file"), 0.8),
            Beside(saving(peers.SAFETENSORS_PARTS), 0.8),
            Beside(saving(peers.STATE, "torch.save of the state"), 0.3),
            Beside(peers.RAW, 0.85),
            *SAVE_PEERS,
            Beside(saving(peers.HUB)),
            Beside(saving(FLAMBE)),
        ),
    ),
    Row("a", "save, threads=1", ours.SAVE_ONE_THREAD, (Beside(peers.RAW),)),
    Row(
        "a",
        "save, durable=True",
        ours.DURABLE,
        (Beside(peers.RAW, 2.5), Beside(peers.RAW_SYNCED), Beside(saving(peers.STATE_SYNCED))),
    ),
    Row(
        "a",
        "load",
        ours.LOAD,
        (
            Beside(loading(FLAMBE), 0.12),
            Beside(loading(peers.MODULE, "torch.load of the module"), 0.6),
            Beside(loading(peers.SAFETENSORS), 1.2),
            *LOAD_PEERS,
            Beside(loading(peers.HUB)),
        ),
    ),
    Row("a", "load, threads=1", ours.LOAD_ONE_THREAD, (Beside(loading(peers.SAFETENSORS)),)),
    Row(
        "a",
        "load(mmap=True) until the first forward",
        until_forward(ours.LOAD_MAPPED),
        (Beside(until_forward(ASSIGNED), 2.0), Beside(MAPPED)),
    ),
    Row(
        "a",
        "load(mmap=True, verify=False) until the first forward",
        until_forward(ours.LOAD_UNVERIFIED),
        (Beside(until_forward(ASSIGNED), 1.3), Beside(MAPPED)),
    ),
    Row(
        "a",
        "load until the first step in place",
        until_step(ours.LOAD),
        (Beside(until_step(ASSIGNED), 0.25), Beside(until_step(loading(peers.SAFETENSORS)))),
    ),
    Row("a", 'load(map_location="cuda")', ours.LOAD_GPU, ON_GPU),
    Row("a", 'peak host memory of load(map_location="cuda")', ours.LOAD_GPU, ON_GPU, measure="memory"),
    Row(
        "a",
        "load one component of eight",
        ours.NODE,
        (Beside(ours.LOAD, 1 / 6), Beside(peers.SAFETENSORS_NODE)),
    ),
    Row("a", "save again with base=, one of eight changed", ours.BASE, (Beside(ours.SAVE, 0.4),)),
    Row(
        "a",
        "bytes on disk of that save",
        ours.BASE,
        (Beside(peers.RAW_PART, 1.02), Beside(ours.SAVE)),
        measure="size",
    ),
    Row("a", "save_async, blocked, first call", ours.ASYNC, (Beside(peers.CLONE, 1.0),), measure="first"),
    Row(
        "a",
        "save_async, blocked, later calls",
        ours.ASYNC,
        (Beside(peers.DCP_ASYNC, 0.4), Beside(peers.DCP_ASYNC_KEPT), Beside(peers.CLONE)),
    ),
    Row(
        "a",
        "peak memory of save",
        ours.SAVE,
        (
            Beside(saving(peers.STATE, "torch.save of the state")),
            Beside(saving(peers.SAFETENSORS, "safetensors, one file")),
            Beside(saving(FLAMBE)),
        ),
        measure="memory",
        target=64 * MB,
    ),
    Row(
        "a",
        "peak memory of load above the model",
        ours.LOAD,
        (
            Beside(loading(peers.MODULE, "torch.load of the module")),
            Beside(loading(peers.SAFETENSORS)),
            Beside(loading(FLAMBE)),
        ),
        measure="memory",
        target=64 * MB,
        without_model=True,
    ),
    Row(
        "a",
        "peak memory of load(mmap=True)",
        ours.LOAD_MAPPED,
        (Beside(ASSIGNED),),
        measure="memory",
        target=64 * MB,
    ),
)

TRANSFORMER = (
    Row(
        "d",
        "save",
        ours.SAVE,
        (
            Beside(peers.RAW),
            Beside(saving(peers.TRANSFORMERS, "transformers.save_pretrained")),
            Beside(saving(peers.STATE, "torch.save of the state")),
            Beside(saving(peers.SAFETENSORS, "safetensors, one file")),
            *SAVE_PEERS,
        ),
    ),
    Row(
        "d",
        "load",
        ours.LOAD,
        (
            Beside(loading(peers.TRANSFORMERS, "transformers.from_pretrained")),
            Beside(loading(peers.MODULE, "torch.load of the module")),
            Beside(loading(peers.SAFETENSORS)),
            *LOAD_PEERS,
        ),
    ),
    Row(
        "d",
        "load(mmap=True) until the first forward",
        until_forward(ours.LOAD_MAPPED),
        (
            Beside(until_forward(loading(peers.TRANSFORMERS, "transformers.from_pretrained"))),
            Beside(until_forward(ASSIGNED)),
            Beside(MAPPED),
        ),
    ),
)


def _archive(key: str) -> tuple[Row, ...]:
    return (
        Row(key, "tar.gz, write", ours.ARCHIVE_SAVE, (Beside(peers.TAR, 1 / 15),)),
        Row(key, "tar.gz, read", ours.ARCHIVE_LOAD, (Beside(peers.TAR_READ, 1 / 1.6),)),
        Row(key, "tar.gz, bytes", ours.ARCHIVE_SAVE, (Beside(peers.TAR, 1.02),), measure="size"),
        Row(key, "tar.gz, one component", ours.ARCHIVE_NODE, (Beside(ours.ARCHIVE_LOAD, 0.5),)),
        Row(key, "tar.gz, peak memory of write", ours.ARCHIVE_SAVE, measure="memory", target=64 * MB),
    )


TENSORS = (
    Row(
        "c",
        "save",
        ours.SAVE,
        (
            Beside(saving(peers.STATE, "torch.save of the state"), 0.5),
            Beside(saving(peers.MODULE), 0.5),
            Beside(saving(peers.SAFETENSORS, "safetensors, one file")),
            Beside(peers.RAW),
            Beside(saving(peers.DCP)),
            Beside(saving(peers.FABRIC, "Lightning Fabric")),
            Beside(saving(peers.HUB)),
        ),
    ),
    Row(
        "c",
        "load",
        ours.LOAD,
        (
            Beside(loading(peers.STATE, "torch.load + construction"), 0.5),
            Beside(loading(peers.STATE_ASSIGN), 0.5),
            Beside(loading(peers.MODULE, "torch.load of the module"), 0.5),
            Beside(loading(peers.SAFETENSORS)),
            Beside(loading(peers.DCP)),
            Beside(loading(peers.FABRIC)),
            Beside(loading(peers.HUB)),
        ),
    ),
)

PLAIN = (
    Row(
        "e",
        "save",
        ours.SAVE,
        (
            Beside(saving(peers.MODULE)),
            Beside(saving(peers.STATE, "torch.save of the state")),
            Beside(saving(peers.SAFETENSORS, "safetensors, one file")),
        ),
    ),
    Row(
        "e",
        "load",
        ours.LOAD,
        (
            Beside(loading(peers.MODULE, "torch.load of the module")),
            Beside(loading(peers.STATE, "torch.load + construction")),
            Beside(loading(peers.SAFETENSORS)),
        ),
    ),
)

MANY = (
    Row("b", "construction", ours.CONSTRUCTION, (Beside(peers.CONSTRUCTION),)),
    Row("b", "get_state, with the configs", ours.STATE, (Beside(peers.STATE_DICT),)),
    Row(
        "b",
        "save",
        ours.SAVE,
        (
            Beside(peers.FILES, 1.6),
            Beside(saving(FLAMBE), 0.5),
            Beside(saving(peers.SAFETENSORS_PARTS)),
            Beside(saving(peers.STATE, "torch.save of the state")),
            *SAVE_PEERS,
            Beside(saving(peers.HUB)),
        ),
    ),
    Row(
        "b",
        "load",
        ours.LOAD,
        (
            Beside(loading(FLAMBE), 0.3),
            Beside(loading(peers.SAFETENSORS_PARTS)),
            Beside(loading(peers.MODULE, "torch.load of the module")),
            *LOAD_PEERS,
            Beside(loading(peers.HUB)),
        ),
    ),
)

# Works of many files come last: this file system gets slow for half a minute when many files are deleted
ROWS = (*BIG, *TRANSFORMER, *_archive("fp32"), *_archive("bf16"), *TENSORS, *PLAIN, *MANY)
# What importing flambe_save may cost in seconds beyond importing torch
IMPORTS = 0.1
