"""How a row is timed: candidates in shuffled order, one untimed run of each right before its timed ones.

Why so, and why folders go before they fill the page cache, is in README.md.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.candidate import Candidate, Place, Way, sync
from benchmarks.workloads import Work
from flambe_save.storage.filesystem import Folder, Kind

KEPT = 2 << 30  # bytes of results that stay while others are timed
MANY = 100  # files; folders with as many stay until the work is done
SETTLE = 40  # seconds that the file system is slow after thousands of files were deleted


@dataclass
class Sample:
    """What was measured of one candidate, in the unit of the measure, or why nothing was."""

    name: str
    values: list[float] = field(default_factory=list)
    missing: str = ""

    @property
    def best(self) -> float:
        """The minimum."""
        return min(self.values)

    @property
    def median(self) -> float:
        """The middle one, or the lower of the two in the middle."""
        return sorted(self.values)[(len(self.values) - 1) // 2]


class Folders:
    """Fresh folders for the runs of one work, and what its candidates read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = 0  # that were deleted, or will be
        self._number = 0
        self._kept: list[tuple[Path, int]] = []
        self._sources: dict[Callable[..., Any], Path] = {}

    def fresh(self) -> Path:
        """Return an empty folder that nothing was in before; old ones of few, big files may be deleted."""
        while self._kept and sum(size for _, size in self._kept) > KEPT:
            shutil.rmtree(self._kept.pop(0)[0])
        self._number += 1
        folder = self.root / f"{self._number:04}"
        folder.mkdir(parents=True)
        return folder

    def done(self, folder: Path) -> None:
        """Take note of what a run has left in its folder."""
        size, count = usage(folder)
        self.files += count
        if count < MANY:
            self._kept.append((folder, size))

    def source(self, work: Work, way: Way | None) -> Path:
        """Return a folder that ``way`` saved the work into, once for all who read the same."""
        if way is None:
            return self.root
        if way.save not in self._sources:
            folder = self.root / f"source{len(self._sources)}"
            folder.mkdir(parents=True)
            way.save(work, folder)
            _sync(folder)
            self._sources[way.save] = folder
        return self._sources[way.save]

    def delete(self) -> None:
        """Delete all of it, if there is any."""
        if not self.root.exists():
            return
        with Folder(self.root) as folder:  # shutil's way recurses, and a save may have a thousand levels
            folder.remove_all()
        self.root.rmdir()


def _files(folder: Path) -> dict[str, os.stat_result]:
    """Return the facts of all files in a folder, at any depth."""
    with Folder(folder) as found:
        return {name: found.stat(name) for name, kind in found.walk() if kind is not Kind.FOLDER}


def _sync(folder: Path) -> None:
    """Write big files to the disk now, so that the system does not, or slows writers down, while others are timed."""
    names = _files(folder)
    for name in names if len(names) < MANY else ():
        sync(folder / name)


def usage(folder: Path) -> tuple[int, int]:
    """Return how many bytes a folder holds that no other folder has links to, and how many files."""
    files = _files(folder).values()
    return sum(facts.st_size for facts in files if facts.st_nlink == 1), len(files)


def settle(deleted: int) -> None:
    """Wait, where the file system would remember that many files were deleted."""
    if deleted > 1000:
        time.sleep(SETTLE)


def measure(
    candidates: Sequence[Candidate], work: Work, folders: Folders, repetitions: int, *, seed: int = 0, timed: int = 2
) -> list[Sample]:
    """Time candidates against each other.

    Parameters
    ----------
    candidates : sequence of Candidate
    work : Work
    folders : Folders
    repetitions : int
        How often each candidate's turn comes; a slow one has one turn.
    seed : int
        Of the order.
    timed : int
        How many timed runs a turn has.

    Returns
    -------
    list of Sample
        Seconds, in the order of the candidates.

    Raises
    ------
    RuntimeError
        If a candidate does not give the tensors of the work.
    """
    samples = [Sample(candidate.name, missing=candidate.missing()) for candidate in candidates]
    ready = [index for index, sample in enumerate(samples) if not sample.missing]
    sources = {index: folders.source(work, candidates[index].source) for index in ready}
    order = random.Random(seed)
    for repetition in range(repetitions):
        turns = [index for index in ready if not (candidates[index].is_slow and repetition)]
        order.shuffle(turns)
        for index in turns:
            candidate = candidates[index]
            for run in range(1 if candidate.is_slow else 1 + timed):
                is_first = not repetition and not run
                place = Place(sources[index], folders.fresh())
                seconds = candidate.timed(work, place, check=is_first)
                folders.done(place.fresh)
                if run or candidate.is_slow:
                    samples[index].values.append(seconds)
    return samples
