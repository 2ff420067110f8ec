"""Measure, print a table, and write it down: `python -m benchmarks [--only WORK] [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from benchmarks.candidate import Candidate, Place
from benchmarks.elsewhere import Build
from benchmarks.fresh import import_times, in_processes
from benchmarks.protocol import Folders, Sample, measure, settle, usage
from benchmarks.report import Line, as_json, lines_of, machine, table, write_readme
from benchmarks.rows import IMPORTS, ROWS, Row
from benchmarks.workloads import SIZES, Work, works

TITLES = {"import": "in a new process"}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", metavar="WORK", help="one of the works in README.md; may repeat")
    parser.add_argument("--row", metavar="TEXT", default="", help="only rows with this in their name")
    parser.add_argument("--quick", action="store_true", help="smaller works and fewer repetitions")
    parser.add_argument("--size", choices=SIZES, help="of the works; by default full, with --quick quick")
    parser.add_argument("--repetitions", type=int, help="turns of each candidate, of two timed runs each")
    parser.add_argument(
        "--before", type=Path, metavar="PYTHON", help="the interpreter of an environment with another build, as a peer"
    )
    parser.add_argument("--folder", type=Path, help="where to write; by default a new folder for temporary files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there")
    parser.add_argument("--write-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--note", default="", help="a sentence above the table in README.md")
    arguments = parser.parse_args()
    _hush()
    size = arguments.size or ("quick" if arguments.quick else "full")
    repetitions = arguments.repetitions or (2 if arguments.quick else 4)
    wanted = set(arguments.only or [*(row.work for row in ROWS), "import"])
    lines: list[Line] = []
    made = works(size)
    if unknown := wanted - made.keys() - {"import"}:
        parser.error(f"no work {', '.join(sorted(unknown))}; there are {', '.join(made)}, import")
    with ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="flambe-save-benchmarks-", dir=arguments.folder))
        build = stack.enter_context(closing(Build(arguments.before, size))) if arguments.before else None
        for key in [*made]:
            rows = [row for row in ROWS if row.work == key and key in wanted and arguments.row in row.name]
            folders = Folders(Path(root) / key)
            for row in rows:
                found = _measure(row, made[key], size, folders, repetitions, build)
                lines += found
                print(table(found, {key: made[key].title}, head=row is rows[0]), end="", flush=True)
            if build is not None:
                build.end()
            folders.delete()
            if key != [*made][-1]:
                settle(folders.files)
            del made[key]  # its memory is for the next work
    if "import" in wanted and arguments.row in "import":
        samples = import_times(repetitions * 2)
        more = samples[0].best - samples[1].best
        line = Line("import", "import flambe_save", "s", samples[0], samples[1], more, IMPORTS, "difference")
        lines.append(line)
        print(table([line], TITLES), flush=True)
    facts = machine()
    titles = {key: work.title for key, work in works(size).items()} | TITLES
    text = table(lines, titles)
    if arguments.json:
        settings = {"size": size, "repetitions": repetitions, "argv": sys.argv[1:]}
        arguments.json.write_text(json.dumps(as_json(lines, facts, settings), indent=1) + "\n")
    if arguments.write_readme:
        write_readme(text, facts, arguments.note)


def _hush() -> None:
    """Turn off what peers print: progress bars and greetings."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    import transformers

    logs: Any = transformers.utils.logging
    logs.disable_progress_bar()


def _measure(row: Row, work: Work, size: str, folders: Folders, repetitions: int, build: Build | None) -> list[Line]:
    """Measure one row in the way that it names."""
    repetitions = min(repetitions, row.turns or repetitions)
    candidates = [*row.candidates, *([build.candidate(row)] if build else ())]
    missing = row.ours.missing()
    if missing:  # what the peers need then is of no use
        samples = [Sample(candidate.name, missing=missing) for candidate in candidates]
    elif row.measure in ("memory", "first"):
        count = repetitions * 2 if row.measure == "first" else 1
        samples = in_processes(row, candidates, work, size, folders, count)
    elif row.measure == "size":
        samples = _sizes(row.candidates, work, folders)  # the build before is not asked
    else:
        samples = measure(candidates, work, folders, repetitions)
    unit = "MB" if row.measure in ("memory", "size") else "s"
    limits = [*((beside.target, beside.by) for beside in row.beside), (row.before, "ratio")][: len(samples) - 1]
    return lines_of(row.work, row.name, unit, samples, limits, row.target)


def _sizes(candidates: list[Candidate], work: Work, folders: Folders) -> list[Sample]:
    """Return how many bytes a run of each candidate adds to the disk."""
    samples = []
    for candidate in candidates:
        sample = Sample(candidate.name, missing=candidate.missing())
        if not sample.missing:
            place = Place(folders.source(work, candidate.source), folders.fresh())
            candidate.run(work, place)
            sample.values.append(usage(place.fresh)[0])
            folders.done(place.fresh)
        samples.append(sample)
    return samples


if __name__ == "__main__":
    main()
