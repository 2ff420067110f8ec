"""Objects of other libraries come back exactly, or the save says what they need: the table in docs/libraries.md.

All of them by ``make ecosystem``, which writes the table; otherwise those of the libraries that are installed, which
have to do what the table says.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import flambe_save

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "libraries.md"
BEGIN, END = "<!-- ecosystem: written by `make ecosystem` -->\n", "<!-- end of ecosystem -->\n"
IS_ALL = os.environ.get("FLAMBE_SAVE_ECOSYSTEM") == "1"
LIBRARIES = sorted(path.stem for path in (HERE / "libraries").glob("[a-z]*.py"))
INSTALLED = [name for name in LIBRARIES if IS_ALL or importlib.util.find_spec(name) is not None]

DEFAULT, NEEDS_ALL, LOST = "by default", "`weights_only=False`", "but for what the save names"
RANKS = (DEFAULT, "`trusted=", NEEDS_ALL, LOST, "refused by the save", "fault")  # from the best


class Row(NamedTuple):
    """An object of the table."""

    library: str
    what: str
    edit: str


def both_processes(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Save all objects in one process, load them in another, and return what the two saw."""
    places = [str(Path(flambe_save.__file__).parents[1]), str(HERE.parent)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(places),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "random",
    }
    for what in ("save", "load"):
        command = [sys.executable, "-m", "ecosystem.process", what, str(folder), *INSTALLED]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((folder / "save.json").read_text()), json.loads((folder / "load.json").read_text())


def verdict(saved: dict[str, Any], loaded: dict[str, Any] | None) -> str:
    """Return in a few words how an object came back."""
    if saved["changed by the save"]:
        return f"fault: the save changed it: {saved['changed by the save'][0][:100]}"
    if loaded is None:
        is_ours = saved["refused"].startswith(("UnsupportedObjectError", "SaveError"))
        return "refused by the save" if is_ours else f"fault: the save raised {saved['refused'].partition(':')[0]}"
    different = [*loaded.get("different", ()), *loaded.get("different use", ())]
    named = any("are not saved, since they are not data" in text for text in saved["said"])
    if loaded["error"] or different:
        if named:
            return LOST
        what = loaded["error"].partition(":")[0] or f"differs in `{different[0][2:].partition(':')[0][:60]}`"
        return f"fault: {what}"
    if "trusted" in loaded["needs"]:
        count = len(loaded["needs"]["trusted"])
        return f"`trusted=[...]`, {count} name{'s' if count > 1 else ''}"
    return NEEDS_ALL if loaded["needs"] else DEFAULT


def rank(how: str) -> int:
    """Return how far a verdict is from the best one."""
    return next(number for number, begin in enumerate(RANKS) if how.startswith(begin))


def version_of(library: str) -> str:
    """Return a library's name and version, as its distribution has them."""
    distribution = importlib.metadata.packages_distributions()[library][0]
    return f"{distribution} {importlib.metadata.version(distribution)}"


def rows_of(table: str) -> dict[tuple[str, str], str]:
    """Return the rows of the table in the docs: (object, edit) -> how it came back."""
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    return {(what.strip(), edit.strip()): how.strip() for _, what, edit, how in rows[1:]}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[Row, str]:
    """How each object came back."""
    saved, loaded = both_processes(tmp_path_factory.mktemp("ecosystem"))
    return {
        Row(told["library"], told["what"], told["edit"]): verdict(told, loaded.get(name))
        for name, told in saved.items()
    }


@pytest.mark.skipif(not IS_ALL, reason="make ecosystem installs all libraries and writes the table")
def test_write_the_table(verdicts: dict[Row, str]) -> None:
    """The table in the docs is what this run saw."""
    lines = ["| library | object | changed after it was built | comes back exactly |", "|---|---|---|---|"]
    for entry, how in verdicts.items():
        lines.append(f"| {version_of(entry.library)} | {entry.what} | {entry.edit} | {how} |")
    counts = Counter("with trust" if how.startswith("`") else how.partition(":")[0] for how in verdicts.values())
    libraries = len({entry.library for entry in verdicts})
    total = ", ".join(f"{count} {how}" for how, count in counts.most_common())
    lines += ["", f"{len(verdicts)} objects of {libraries} libraries: {total}.", ""]
    before, rest = DOCS.read_text().split(BEGIN)
    DOCS.write_text(f"{before}{BEGIN}{os.linesep.join(lines)}{END}{rest.partition(END)[2]}")
    assert len(verdicts) >= 60
    assert libraries >= 40


def test_they_come_back_as_the_table_says(verdicts: dict[Row, str]) -> None:
    """What is installed here comes back no worse than the docs say."""
    table = rows_of(DOCS.read_text().split(BEGIN)[1].partition(END)[0])
    worse = {row: how for row, how in verdicts.items() if rank(how) > rank(table[row.what, row.edit])}
    assert worse == {}
    assert verdicts
