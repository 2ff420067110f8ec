"""Another build of flambe_save as a peer: what its interpreter runs, in a process of its own.

Both builds run the code of this folder. That process imports it by a link, and flambe_save from its own environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.candidate import Candidate, Place, Way
from benchmarks.rows import ROWS, Row
from benchmarks.workloads import Work, works

NAME = "flambe_save, the build before"


# ------------------------------------------------------------------------------------------------ here


class Build:
    """Another build, and the process that runs its candidates.

    Parameters
    ----------
    python : Path
        The interpreter of an environment with that build.
    size : str
        Of the works.
    """

    def __init__(self, python: Path, size: str) -> None:
        self.python = python
        self._size = size
        self._open = ExitStack()
        code = self._open.enter_context(TemporaryDirectory(prefix="flambe-save-build-"))
        os.symlink(Path(__file__).resolve().parent, Path(code, "benchmarks"))
        self.environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": code}
        self._process: subprocess.Popen[str] | None = None

    def candidate(self, row: Row) -> Elsewhere:
        """Return the row's first candidate, of the other build."""
        ours = row.ours

        def save(work: Work, folder: Path) -> None:
            self.ask(row.key, {"source": str(folder)})

        def run(work: Work, place: Place) -> Any:
            raise RuntimeError("it runs elsewhere")

        # A save of each row its own: this build may not read what the other has written
        source = None if ours.source is None else Way(NAME, save, lambda work, folder: None)
        return Elsewhere(NAME, run, source=source, is_slow=ours.is_slow, needs_gpu=ours.needs_gpu, build=self, row=row)

    def ask(self, key: str, question: Mapping[str, Any]) -> Any:
        """Send a question about a row to the process, which is started for the first one; return its answer."""
        if self._process is None:
            command = [str(self.python), "-m", "benchmarks.elsewhere", self._size]
            self._process = subprocess.Popen(
                command, env=self.environment, cwd=self.environment["PYTHONPATH"], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([key, question]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"the process of {self.python} has ended; it says why above")

    def end(self) -> None:
        """End the process: its memory is for the next work."""
        if self._process is not None:
            self._process.communicate()  # it ends when there are no more questions
            self._process = None

    def close(self) -> None:
        """End the process and delete the link."""
        self.end()
        self._open.close()


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Candidate):
    """A row's first candidate, run by another build."""

    build: Build
    row: Row

    def timed(self, work: Work, place: Place, *, check: bool) -> float:
        """Return the seconds that the other process measures."""
        question = {"place": [str(place.source), str(place.fresh)], "check": check}
        return float(self.build.ask(self.row.key, question))


# ------------------------------------------------------------------------------------------------ there


def main(size: str) -> None:
    """Answer the questions of a :class:`Build`, one a line."""
    made = works(size)
    rows = {row.key: row for row in ROWS}
    for line in sys.stdin:
        key, question = json.loads(line)
        row = rows[key]
        work, ours = made[row.work], row.ours
        answer: float | None = None
        if "source" in question:
            assert ours.source is not None
            ours.source.save(work, Path(question["source"]))
        else:
            source, fresh = map(Path, question["place"])
            answer = ours.timed(work, Place(source, fresh), check=question["check"])
        print(f"answer {json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
