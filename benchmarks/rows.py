"""The rows: what is measured, beside which peers, and what the targets are, as data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from benchmarks import ours, peers, training
from benchmarks.candidate import Candidate, Place, loading, on_gpu, saving, until_forward, until_step
from benchmarks.flambe import FLAMBE
from benchmarks.workloads import Work

MB = 1 << 20
TENTH = 24 * MB  # of the archives' works


@dataclass(frozen=True)
class Beside:
    """A peer of a row, and what ours divided by theirs, or less theirs, shall be at most, where there is a target."""

    candidate: Candidate
    target: float | None = None
    by: str = "ratio"  # or "difference"


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
    packages : int
        With "first": how many packages are installed for the processes, beside those that are.
    turns : int, optional
        How many turns each candidate has at most, where one takes long.
    before : float, optional
        What ours shall be at most beside the build before, where that is measured too.
    """

    work: str
    name: str
    ours: Candidate
    beside: tuple[Beside, ...] = ()
    measure: str = "time"
    target: float | None = None
    without_model: bool = False
    packages: int = 0
    turns: int | None = None
    before: float | None = None

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
MODULE_ON_GPU, SAFETENSORS_ON_GPU = map(on_gpu, (loading(peers.MODULE_GPU), loading(peers.SAFETENSORS_GPU)))
ASSIGNED = loading(peers.SAFETENSORS_ASSIGN)
MAPPED = until_forward(loading(peers.MODULE_MAPPED))


def after_others(candidate: Candidate) -> Candidate:
    """Return a candidate that runs after other ways of loading, whose memory was freed."""

    def prepare(work: Work, place: Place) -> None:
        for number, way in enumerate((peers.SAFETENSORS, peers.MODULE)):
            folder = place.source.parent / f"other{number}"
            if not folder.exists():
                folder.mkdir()
                way.save(work, folder)
            way.load(work, folder)

    return dataclasses.replace(candidate, prepare=prepare)


AFTER_OTHERS = after_others(ours.LOAD)

BIG = (
    Row(
        "a",
        "save",
        ours.SAVE,
        (
            Beside(saving(peers.SAFETENSORS, "safetensors, one file"), 0.6),
            Beside(saving(peers.SAFETENSORS_PARTS), 0.6),
            Beside(saving(peers.STATE, "torch.save of the state"), 0.3),
            Beside(peers.RAW, 0.8),
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
    Row(
        "a",
        "load, after others have loaded and freed as much",
        AFTER_OTHERS,
        (Beside(after_others(loading(peers.SAFETENSORS)), 0.8),),
    ),
    Row("a", "diff with the numbers of each tensor", ours.DIFF, (Beside(peers.NUMPY_DIFF, 2.0),)),
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
    Row("a", 'load(map_location="cuda")', ours.LOAD_GPU, (Beside(MODULE_ON_GPU), Beside(SAFETENSORS_ON_GPU, 0.8))),
    Row(
        "a",
        'peak host memory of load(map_location="cuda")',
        ours.LOAD_GPU,
        (Beside(MODULE_ON_GPU), Beside(SAFETENSORS_ON_GPU)),
        measure="memory",
        target=128 * MB,
    ),
    Row(
        "a",
        "load one component of eight",
        ours.NODE,
        (Beside(ours.LOAD, 1 / 6), Beside(peers.SAFETENSORS_NODE)),
    ),
    Row("a", "save again with base=, one of eight changed", ours.BASE, (Beside(ours.SAVE, 0.3),)),
    Row(
        "a",
        "bytes on disk of that save",
        ours.BASE,
        (Beside(peers.RAW_PART, 1.02), Beside(ours.SAVE)),
        measure="size",
    ),
    Row("a", "save_async, blocked, first call", ours.ASYNC, (Beside(peers.CLONE, 0.5),), measure="first"),
    Row(
        "a",
        "save_async, blocked, later calls",
        ours.ASYNC,
        (Beside(peers.DCP_ASYNC, 0.25), Beside(peers.DCP_ASYNC_KEPT), Beside(peers.CLONE)),
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
            Beside(saving(peers.SAFETENSORS, "safetensors, one file"), 0.95),
            *SAVE_PEERS,
        ),
    ),
    Row(
        "d",
        "load",
        ours.LOAD,
        (
            Beside(loading(peers.TRANSFORMERS, "transformers.from_pretrained")),
            Beside(loading(peers.MODULE, "torch.load of the module"), 0.9),
            Beside(loading(peers.SAFETENSORS), 1.0),
            *LOAD_PEERS,
        ),
    ),
    Row(
        "d",
        "load(mmap=True) until the first forward",
        until_forward(ours.LOAD_MAPPED),
        (
            Beside(until_forward(loading(peers.TRANSFORMERS, "transformers.from_pretrained"))),
            Beside(until_forward(ASSIGNED), 0.8),
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
        Row(
            key,
            "tar.gz, peak memory of read above the model",
            ours.ARCHIVE_LOAD,
            measure="memory",
            target=TENTH,
            without_model=True,
        ),
        Row(
            key,
            ".pkl, peak memory of write",
            ours.PICKLE_SAVE,
            (Beside(saving(peers.MODULE)),),
            measure="memory",
            target=64 * MB,
        ),
        Row(
            key,
            ".pkl, peak memory of read above the model",
            ours.PICKLE_LOAD,
            (Beside(loading(peers.MODULE, "torch.load of the module")),),
            measure="memory",
            target=TENTH,
            without_model=True,
        ),
    )


TENSORS = (
    Row(
        "c",
        "save",
        ours.SAVE,
        (
            Beside(saving(peers.STATE, "torch.save of the state"), 0.45),
            Beside(saving(peers.MODULE), 0.45),
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
            Beside(loading(peers.STATE, "torch.load + construction"), 0.45),
            Beside(loading(peers.STATE_ASSIGN), 0.45),
            Beside(loading(peers.MODULE, "torch.load of the module"), 1.0),
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
            Beside(peers.FILES, 1.4),
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
            Beside(loading(FLAMBE), 0.2),
            Beside(loading(peers.SAFETENSORS_PARTS)),
            Beside(loading(peers.MODULE, "torch.load of the module")),
            Beside(loading(peers.STATE, "torch.load + construction"), 1.0),
            *LOAD_PEERS[1:],
            Beside(loading(peers.HUB)),
        ),
    ),
)

RUN = (
    Row(
        "t",
        "first save of a process, 300 packages installed",
        training.SAVE_RUN,
        (Beside(training.SAVE_SECOND, 0.03, by="difference"),),
        measure="first",
        packages=300,
    ),
    Row("t", "save", training.SAVE_RUN, (Beside(saving(training.DICT), 2.0),)),
    Row("t", "save, overwrite=True, durable=True", training.OVERWRITE, (Beside(training.REPLACE, 1.5),)),
    Row("t", "load", training.LOAD_RUN, (Beside(loading(training.DICT), 1.5),)),
)

DEEP = (
    Row("l", "save", ours.LEVELS_SAVE, target=1.5, turns=2),
    Row("l", "load", ours.LEVELS_LOAD, target=1.0, turns=2),
)

CROWD = (
    Row("m", "save", ours.SAVE, (Beside(peers.FILES, 4.0),), turns=1, before=0.5),
    Row("m", "load", ours.LOAD, turns=1, before=0.5),
    Row("m", "verify", ours.VERIFY, turns=1, before=0.5),
    Row("m", "diff", ours.DIFF, turns=1, before=0.5),
)

# Works of many files come last: this file system gets slow for half a minute when many files are deleted
ROWS = (*BIG, *TRANSFORMER, *_archive("fp32"), *_archive("bf16"), *TENSORS, *PLAIN, *RUN, *DEEP, *MANY, *CROWD)
# What importing flambe_save may cost in seconds beyond importing torch
IMPORTS = 0.1
