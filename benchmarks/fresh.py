"""Measurements in fresh processes: peak memory, first calls, and what an import costs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.candidate import Candidate, Place
from benchmarks.elsewhere import Elsewhere
from benchmarks.protocol import Folders, Sample
from benchmarks.rows import ROWS, Row
from benchmarks.workloads import Work, works

ROOT = Path(__file__).resolve().parent.parent


# ------------------------------------------------------------------------------------------------ here


def in_processes(
    row: Row, candidates: Sequence[Candidate], work: Work, size: str, folders: Folders, repetitions: int
) -> list[Sample]:
    """Run candidates in processes of their own.

    Parameters
    ----------
    row : Row
        It measures ``"memory"``, by how many bytes a process grows at most while a candidate runs, or ``"first"``, the
        seconds that a candidate takes as the first of its kind in a process.
    candidates : sequence of Candidate
        Those of the row, in their order; that of another build may come last.
    work : Work
    size : str
        Of the works.
    folders : Folders
    repetitions : int
        How many processes each candidate has.
    """
    samples = [Sample(candidate.name, missing=candidate.missing()) for candidate in candidates]
    ready = [index for index, sample in enumerate(samples) if not sample.missing]
    order = random.Random(0)
    with _packages(row.packages) as packages:
        for _ in range(repetitions):
            for index in order.sample(ready, len(ready)):
                candidate, number = candidates[index], index
                python, path = sys.executable, _own_path()
                if isinstance(candidate, Elsewhere):
                    python, path, number = str(candidate.build.python), candidate.build.environment["PYTHONPATH"], 0
                source, fresh = folders.source(work, candidate.source), folders.fresh()
                command = ["-m", "benchmarks.fresh", row.key, str(number), size, str(source), str(fresh)]
                value = float(_python(*command, python=python, path=os.pathsep.join([path, *packages])))
                folders.done(fresh)
                samples[index].values.append(value - (work.bytes if row.without_model else 0))
    return samples


@contextmanager
def _packages(count: int) -> Iterator[list[str]]:
    """Give a folder with the metadata of so many packages, as a process finds that has them installed."""
    if not count:
        yield []
        return
    with TemporaryDirectory() as name:
        for number in range(count):
            folder = Path(name, f"package_{number}-1.{number}.dist-info")
            folder.mkdir()
            description = "A line of what a package says of itself.\n" * 200
            (folder / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: package-{number}\nVersion: 1.{number}\n\n{description}"
            )
            (folder / "RECORD").write_text("")
        yield [name]


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


def _own_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _python(*arguments: str, python: str = sys.executable, path: str = "") -> str:
    environment = {**os.environ, "PYTHONPATH": path or _own_path()}
    done = subprocess.run(
        [python, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=None if python == sys.executable else path.partition(os.pathsep)[0],  # -m looks there first
    )
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
    if candidate.prepare is not None:
        candidate.prepare(work, place)
    start = time.perf_counter()
    result = candidate.run(work, place)
    seconds = time.perf_counter() - start
    if candidate.finish is not None:
        candidate.finish(result)
    return seconds


def _warm(candidate: Candidate, key: str, place: Place) -> None:
    """Run the candidate on the smallest work, so that whatever it imports late is there."""
    work = works("tiny")[key]
    with TemporaryDirectory() as name:
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
