"""How time grows with the size of a save: `python -m benchmarks.growth [--json FILE] [--plot FILE.svg]`."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import ours
from benchmarks.candidate import Candidate, Place
from benchmarks.peers import optional
from benchmarks.protocol import settle
from benchmarks.workloads import Work, stack
from flambe_save.cli import main as command

COUNTS = (10, 100, 1_000, 10_000)  # components of Linear(32, 32)
GIGABYTES = (0.1, 1.0, 4.0)  # in eight components
MOST = 1.1  # the exponent that is asked for


class Curve(NamedTuple):
    """The least seconds of an action, by the size of the save."""

    name: str
    sizes: tuple[float, ...]
    seconds: tuple[float, ...]


def _tree(work: Work, place: Place) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        command(["tree", str(place.source / "save")])


ACTIONS: Mapping[str, Candidate] = {
    "save": ours.SAVE,
    "load": ours.LOAD,
    "tree": Candidate("flambe_save tree", run=_tree, source=ours.FOLDER),
    "verify": ours.VERIFY,
    "diff": Candidate(
        "flambe_save.diff, one of them changed",
        run=lambda work, place: ours.API.diff(place.source / "save", place.source / "other"),
    ),
}


def curves(
    sizes: Sequence[float], make: Callable[[float], Work], root: Path, *, repetitions: int = 5, seed: int = 0
) -> list[Curve]:
    """Measure all actions at all sizes.

    Parameters
    ----------
    sizes : sequence of float
    make : callable
        Returns the work of a size.
    root : Path
        A folder to write to; it is empty afterwards.
    repetitions : int
        Runs of each action, after one that is not timed.
    seed : int
        Of the order of the actions.

    Returns
    -------
    list of Curve
        One for each action, of minima.
    """
    found: dict[str, list[float]] = {name: [] for name in ACTIONS}
    order = random.Random(seed)
    for size in sizes:
        work, source = make(size), root / "source"
        source.mkdir()
        ours.API.save(work.model, source / "save")
        with work.negated(ours.CHANGED):
            ours.API.save(work.model, source / "other")
        seconds: dict[str, list[float]] = {name: [] for name in ACTIONS}
        number = 0
        for repetition in range(1 + repetitions):
            for name in order.sample([*ACTIONS], len(ACTIONS)):
                number += 1
                place = Place(source, root / str(number))
                place.fresh.mkdir()
                taken = ACTIONS[name].timed(work, place, check=False)
                if repetition:
                    seconds[name].append(taken)
                if size >= 1 and name == "save" and len(work.parts) <= 8:
                    shutil.rmtree(place.fresh)  # big files; many small ones slow the file system when they are deleted
        for name, values in seconds.items():
            found[name].append(min(values))
        files = sum(1 for _ in root.rglob("*"))
        for folder in [*root.iterdir()]:
            shutil.rmtree(folder)
        settle(files)
    return [Curve(name, tuple(sizes), tuple(values)) for name, values in found.items()]


def exponent(curve: Curve) -> float:
    """Return the exponent of the power of the size that fits a curve best, of the last three sizes."""
    x = [math.log(size) for size in curve.sizes[-3:]]
    y = [math.log(seconds) for seconds in curve.seconds[-3:]]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    along = sum((one - middle_x) ** 2 for one in x)
    return sum((one - middle_x) * (other - middle_y) for one, other in zip(x, y, strict=True)) / along


def plot(found: Mapping[str, Sequence[Curve]], path: Path) -> None:
    """Draw curves on logarithmic axes, a panel for each unit of size, as SVG."""
    pyplot: Any = optional("matplotlib.pyplot")
    with pyplot.rc_context({"svg.hashsalt": "flambe_save", "svg.fonttype": "none"}):  # the same bytes each time
        figure, axes = pyplot.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False, layout="constrained")
        for panel, (unit, lines) in zip(axes[0], found.items(), strict=True):
            for curve in lines:
                panel.loglog(curve.sizes, curve.seconds, marker="o", label=f"{curve.name} ~ n^{exponent(curve):.2f}")
            panel.set(xlabel=unit, ylabel="seconds")
            panel.grid(visible=True, alpha=0.3)
            panel.legend()
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def table(found: Mapping[str, Sequence[Curve]]) -> str:
    """Return the curves as Markdown."""
    parts = []
    for unit, lines in found.items():
        sizes = lines[0].sizes
        parts += [
            "| " + " | ".join([unit, *(f"{size:,g}" for size in sizes), "exponent", ""]) + " |",
            "|---" * (len(sizes) + 3) + "|",
        ]
        for curve in lines:
            power = exponent(curve)
            cells = [curve.name, *(f"{seconds:.3g} s" for seconds in curve.seconds), f"{power:.2f}"]
            parts.append("| " + " | ".join([*cells, "met" if power <= MOST else "**missed**"]) + " |")
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    """Measure, print the table, and draw the plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there, as SVG")
    parser.add_argument("--repetitions", type=int, default=5, help="timed runs of each action")
    parser.add_argument("--folder", type=Path, help="where to write; by default a new folder for temporary files")
    arguments = parser.parse_args()
    found: dict[str, list[Curve]] = {}
    with tempfile.TemporaryDirectory(prefix="flambe-save-growth-", dir=arguments.folder) as root:
        for unit, sizes, make in (
            ("GB", GIGABYTES, lambda size: stack("a", 8, round(math.sqrt(size * 1e9 / 32)))),
            ("components", COUNTS, lambda size: stack("b", int(size), 32)),
        ):
            found[unit] = curves(sizes, make, Path(root), repetitions=arguments.repetitions)
    print(table(found))
    if arguments.json:
        values = {unit: [curve._asdict() for curve in lines] for unit, lines in found.items()}
        arguments.json.write_text(json.dumps(values, indent=1) + "\n")
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
