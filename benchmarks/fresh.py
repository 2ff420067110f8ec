"""Measurements in fresh processes: peak memory, first calls, and what an import costs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.candidate import Candidate, Place
from benchmarks.protocol import Folders, Sample
from benchmarks.rows import ROWS, Row
from benchmarks.workloads import Work, works

__all__ = ["first_calls", "import_times", "peak", "peak_memory"]

ROOT = Path(__file__).resolve().parent.parent


# ------------------------------------------------------------------------------------------------ here


def peak_memory(row: Row, work: Work, size: str, folders: Folders) -> list[Sample]:
    """Return by how many bytes the memory of a process grows at most while a candidate runs in it, of each."""
    return _in_processes(row, work, size, folders, repetitions=1)


def first_calls(row: Row, work: Work, size: str, folders: Folders, repetitions: int) -> list[Sample]:
    """Return the seconds that each candidate takes as the first of its kind in a process."""
    return _in_processes(row, work, size, folders, repetitions)


def import_times(repetitions: int) -> list[Sample]:
    """Return the seconds of ``import flambe_save`` in a new process, and of ``import torch``."""
    samples = [Sample("import flambe_save"), Sample("import torch")]
    order = random.Random(0)
    for repetition in range(1 + repetitions):
        for sample in order.sample(samples, len(samples)):
            code = f"import time; start = time.perf_counter(); {sample.name}; print(time.perf_counter() - start)"
            seconds = float(_python("-c", code))
            if repetition:
                sample.values.append(seconds)
    return samples


def _in_processes(row: Row, work: Work, size: str, folders: Folders, repetitions: int) -> list[Sample]:
    samples = [Sample(candidate.name, missing=candidate.missing()) for candidate in row.candidates]
    ready = [index for index, sample in enumerate(samples) if not sample.missing]
    order = random.Random(0)
    for _ in range(repetitions):
        for index in order.sample(ready, len(ready)):
            source = folders.source(work, row.candidates[index].source)
            fresh = folders.fresh()
            value = float(_python("-m", "benchmarks.fresh", row.key, str(index), size, str(source), str(fresh)))
            folders.done(fresh)
            samples[index].values.append(value - (work.bytes if row.without_model else 0))
    return samples


def _python(*arguments: str) -> str:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


# ------------------------------------------------------------------------------------------------ there


def _status(field: str) -> int:
    """Return a number of bytes that the system knows of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"this system does not tell {field}")


def peak(candidate: Candidate, work: Work, place: Place) -> float:
    """Return by how many bytes this process grows at most while a candidate runs."""
    # The peak is made to begin where memory is now; what building the model needed is none of the candidate's
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    result = candidate.run(work, place)
    if candidate.finish is not None:
        candidate.finish(result)
    return max(0, _status("VmHWM") - before)


def _first(candidate: Candidate, work: Work, place: Place) -> float:
    [tensor.clone() for tensor in work.stored.values()]  # wakes up as much memory as is about to be needed
    start = time.perf_counter()
    result = candidate.run(work, place)
    seconds = time.perf_counter() - start
    if candidate.finish is not None:
        candidate.finish(result)
    return seconds


def _warm(candidate: Candidate, key: str, place: Place) -> None:
    """Run the candidate on the smallest work, so that whatever it imports late is there."""
    import tempfile

    work = works("tiny")[key]
    with tempfile.TemporaryDirectory() as name:
        folders = Folders(Path(name))
        small = Place(folders.source(work, candidate.source), folders.fresh())
        result = candidate.run(work, small)
        if candidate.finish is not None:
            candidate.finish(result)


def main(arguments: Sequence[str]) -> None:
    """Run one candidate of one row, and print what was measured."""
    key, index, size, source, fresh = arguments
    row = next(row for row in ROWS if row.key == key)
    candidate = row.candidates[int(index)]
    work = works(size)[row.work]
    place = Place(Path(source), Path(fresh))
    if row.measure == "memory":
        _warm(candidate, row.work, place)
    if candidate.source is None:
        assert work.stored  # the model is there before anything is measured
    print((peak if row.measure == "memory" else _first)(candidate, work, place))


if __name__ == "__main__":
    main(sys.argv[1:])
