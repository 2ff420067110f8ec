"""The source of a class, from wherever it can be found; looking for it never fails."""

from __future__ import annotations

import linecache
from typing import Any

import pytest

from flambe_save import Component
from flambe_save.adapters.class_source import source_of

CELL = """\
import flambe_save

@flambe_save.alias("cell")
class FromCell(flambe_save.Component):
    def __init__(self, size=1):
        self.size = size
"""


class Here(Component):
    """Has a file."""


def run_cell(name: str, text: str, known: bool) -> dict[str, Any]:
    """Run text as a notebook does: under a made-up file name that linecache may know."""
    if known:
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    scope: dict[str, Any] = {"__name__": "notebook"}
    exec(compile(text, name, "exec"), scope)
    return scope


def test_from_its_file() -> None:
    """A class in a module has the text of its file."""
    assert source_of(Here) == 'class Here(Component):\n    """Has a file."""\n'


def test_from_a_notebook_cell() -> None:
    """A class of a cell has the text of the cell, decorators included."""
    cls = run_cell("<ipython-input-1>", CELL, known=True)["FromCell"]
    assert source_of(cls) == CELL[CELL.index("@") :]


@pytest.mark.parametrize("cls", [int, type("Made", (), {}), run_cell("<gone>", CELL, known=False)["FromCell"]])
def test_nowhere_to_be_found(cls: type) -> None:
    """A class without source gives an empty text."""
    assert source_of(cls) == ""


def test_saved_where_there_is_none() -> None:
    """A component without source still gives its state."""
    made = type("Made", (Component,), {})
    assert made().get_state()._metadata[""]["_flambe_source"] == ""
