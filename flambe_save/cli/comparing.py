"""The verb that compares two saves: diff."""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from flambe_save.cli.answers import DIFFERENT, SAME, TROUBLE, Answer
from flambe_save.cli.looking import split_path
from flambe_save.cli.terminal import Row, Terminal, bar
from flambe_save.inspection import Change, changes, open_save
from flambe_save.inspection.documents import describe_diff
from flambe_save.inspection.humanize import one_line, short_number
from flambe_save.support.progress import progress_of

_STYLES = {"added": "green", "removed": "red", "changed": "yellow", "reshaped": "magenta", "retyped": "magenta"}
_SIGNS = {"added": "+", "removed": "-", "changed": "~", "reshaped": "~", "retyped": "~"}
_MANY = {
    "node": "components",
    "class": "classes",
    "version": "versions",
    "config": "arguments",
    "source": "sources",
    "tensor": "tensors",
    "value": "values",
    "stash": "stashed values",
    "tie": "ties",
    "package": "packages",
    "damage": "damaged, so not compared",
}
_LINES = {"+": "green", "-": "red", "@": "cyan"}


def diff(arguments: argparse.Namespace) -> Answer:
    """Compare two saves."""
    (a, node_a), (b, node_b) = split_path(arguments.a), split_path(arguments.b)
    is_quiet = arguments.exit_code_only
    with (
        open_save(a, node=node_a) as one,
        open_save(b, node=node_b) as other,
        bar("Comparing") as shown,
        progress_of(shown, "Comparing") as progress,
    ):
        progress.begin(one.total.bytes)
        known = [
            Change(row.node, "damage", row.file, "changed", text=row.problem) for row in [*one.damage, *other.damage]
        ]
        found = itertools.chain(
            known,
            changes(
                one, other, atol=arguments.atol, rtol=arguments.rtol, only=arguments.only, advance=progress.advance
            ),
        )
        rows = list(itertools.islice(found, 1) if is_quiet else _arranged(found))
    is_damaged = any(row.part == "damage" for row in rows)
    code = TROUBLE if is_damaged else DIFFERENT if rows else SAME
    described = describe_diff(arguments.a, arguments.b, rows)
    return Answer(described, lambda terminal: None if is_quiet else _show(described, rows, terminal), code)


def _arranged(rows: Iterable[Change]) -> list[Change]:
    """Return the rows by component, each damaged file once and before rows that follow from it."""
    files = set[str | None]()
    by_node: dict[str | None, list[Change]] = {}
    for row in rows:
        if row.part != "damage" or row.name not in files:
            by_node.setdefault(row.node, []).append(row)
        files |= {row.name} if row.part == "damage" else set()
    return [row for inside in by_node.values() for row in inside]


def _show(described: dict[str, str], rows: Sequence[Change], terminal: Terminal) -> None:
    if not rows:
        return
    counts: Counter[str] = Counter()
    terminal.line(("--- ", "red"), described["a"])
    terminal.line(("+++ ", "green"), described["b"])
    for node, of_node in itertools.groupby(rows, key=lambda row: row.node):
        terminal.line()
        terminal.line(("the save" if node is None else node or "the root", "bold"))
        for part, of_part in itertools.groupby(of_node, key=lambda row: row.part):
            table: list[Row] = []
            for row in of_part:
                counts[_MANY[part] if part == "damage" else f"{_MANY[part]} {row.kind}"] += 1
                table.append(_cells(row))
                if row.text is not None and part != "damage":
                    terminal.table(table, indent="  ")
                    table = []
                    for line in row.text.split("\n"):
                        terminal.line("      ", (line, _LINES.get(line[:1], "")))
            if table:
                terminal.table(table, indent="  ")
    terminal.line()
    terminal.line(", ".join(f"{what}: {count:,}" for what, count in counts.items()))


def _cells(row: Change) -> Row:
    if row.part == "damage":
        return [("!", "bold red"), ("damaged", "bold red"), one_line(row.name or "", 120), one_line(row.text or "")]
    style = _STYLES[row.kind]
    before, after = (None if text is None else one_line(text, 80) for text in (row.before, row.after))
    moved = (
        f"{before or '-'} -> {after or '-'}"
        if before is not None and after is not None and before != after
        else before or after or ""
    )
    what = "component" if row.part == "node" else row.part
    return [(_SIGNS[row.kind], style), (what, style), one_line(row.name or "", 120), moved, *_measured(row)]


def _measured(row: Change) -> list[str]:
    found = row.measures
    if found is None:
        return [""] * 4
    is_from_zero = math.isinf(found.relative_norm) and found.cosine is None
    numbers = [
        f"max {short_number(found.max_abs)}",
        f"mean {short_number(found.mean_abs)}",
        "from zero" if is_from_zero else f"moved {short_number(100 * found.relative_norm)}%",
        "" if found.cosine is None else f"cosine {short_number(found.cosine)}",
    ]
    if found.not_finite:
        numbers[-1] += f"  {found.not_finite:,} not finite"
    return numbers
