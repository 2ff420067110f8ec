"""What was measured, as a Markdown table, as JSON, and between the markers of README.md."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.protocol import Sample

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
PACKAGES = (
    "torch", "flambe_save", "isal", "safetensors", "transformers", "huggingface_hub", "lightning-fabric", "flambe",
    "dill", "PyYAML", "numpy",
)  # fmt: skip


@dataclass
class Line:
    """One line of the table: ours beside one peer, or beside nothing but a limit."""

    work: str
    name: str
    unit: str
    ours: Sample
    peer: Sample | None = None
    compared: float | None = None
    target: float | None = None
    by: str = "ratio"

    @property
    def verdict(self) -> str:
        """Whether the target is met; empty where there is none."""
        if self.ours.missing:
            return self.ours.missing
        if self.peer is not None and self.peer.missing:
            return self.peer.missing
        if self.target is None or self.compared is None:
            return ""
        return "met" if self.compared <= self.target else "**missed**"


def lines_of(
    work: str,
    name: str,
    unit: str,
    samples: list[Sample],
    limits: Iterable[tuple[float | None, str]],
    own_target: float | None = None,
) -> list[Line]:
    """Return the lines of a row: ours with each peer, by ratio or difference, or alone against its own limit."""
    first, *others = samples
    found = []
    if own_target is not None or not others:
        value = None if first.missing else first.best
        found.append(Line(work, name, unit, first, None, value, own_target, "value"))
    for sample, (target, by) in zip(others, limits, strict=True):
        compares = own_target is None or target is not None  # else the peer is there to be looked at
        value = None
        if compares and not (first.missing or sample.missing) and sample.best > 0:
            value = first.best - sample.best if by == "difference" else first.best / sample.best
        found.append(Line(work, name, unit, first, sample, value, target, by))
    return found


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: the machine and the versions."""
    facts: dict[str, Any] = {
        "cpu": _first_match("/proc/cpuinfo", r"model name\s*: (.*)") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _first_match("/proc/meminfo", r"MemTotal:\s*(.*)"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
    for name in PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = None
    return facts


def _first_match(path: str, pattern: str) -> str:
    try:
        found = re.search(pattern, Path(path).read_text())
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _number(value: float, unit: str) -> str:
    if unit == "MB":
        return f"{round(value / (1 << 20), 1) + 0.0:.1f} MB"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


def _cell(sample: Sample, unit: str) -> str:
    if sample.missing:
        return ""
    shown = _number(sample.best, unit)
    return shown if len(sample.values) == 1 else f"{shown} ({_number(sample.median, unit)})"


def table(lines: Iterable[Line], titles: Mapping[str, str], *, head: bool = True) -> str:
    """Return the lines as Markdown: one table for each work, minima with medians behind them in brackets.

    ``head`` False leaves out what stands above the lines.
    """
    parts: list[str] = []
    work = None
    for line in lines:
        if line.work != work and head:
            work = line.work
            parts += [
                "",
                f"**({work}) {titles.get(work, '')}**",
                "",
                "| work | ours | peer | theirs | ours / theirs | target | |",
                "|---|---|---|---|---|---|---|",
            ]
        target = compared = ""
        if line.by == "ratio":
            target = "" if line.target is None else f"<= {line.target:.3g}"
            compared = "" if line.compared is None else f"{line.compared:.3g}"
        elif line.target is not None:
            target = f"<= {_number(line.target, line.unit)}"
            compared = "" if line.by == "value" or line.compared is None else f"+ {_number(line.compared, line.unit)}"
        peer = line.peer.name if line.peer else ""
        theirs = _cell(line.peer, line.unit) if line.peer else ""
        cells = [line.name, _cell(line.ours, line.unit), peer, theirs, compared, target, line.verdict]
        parts.append("| " + " | ".join(cells) + " |")
    return "\n".join(parts).strip() + "\n"


def as_json(lines: Iterable[Line], facts: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of it, each run's value included, as what json.dump takes."""
    rows = [{**asdict(line), "verdict": line.verdict.strip("*")} for line in lines]
    return {"machine": dict(facts), "settings": dict(settings), "rows": rows}


def write_readme(text: str, facts: Mapping[str, Any], note: str) -> None:
    """Put the table between the markers of README.md, below a line on the machine.

    Raises
    ------
    RuntimeError
        If the markers are not there.
    """
    before, begin, rest = README.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RuntimeError(f"{README} has no {BEGIN} ... {END}")
    shown = ", ".join(f"{name} {value}" for name, value in facts.items() if value)
    README.write_text(f"{before}{BEGIN}\n\n{note}\n\nThe machine: {shown}.\n\n{text}\n{END}{after}")
