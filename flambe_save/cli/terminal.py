"""Terminal: all output of the command goes through here, and saved text is escaped."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TextIO, TypeAlias
from unicodedata import category, east_asian_width

from flambe_save.errors import plain
from flambe_save.support.progress import ShowProgress, late_bar

Cell: TypeAlias = "str | tuple[str, str]"
Row: TypeAlias = "Sequence[Cell]"

BAR_DELAY = 0.5  # seconds; shorter work needs no bar
_GAP = "  "  # between columns
_FOLD = "      "  # before the columns that do not fit on a row's first line
# Lines and blocks for an encoding that has none
_PLAIN = dict(zip("├└│─▁▂▃▄▅▆▇█", "|`|-.:-=+*#@", strict=True))
_LONGEST_CELL = 300  # characters


def bar(description: str) -> AbstractContextManager[ShowProgress]:
    """Yield a ``progress=`` argument: a bar on a terminal, for long work."""
    return late_bar(description, BAR_DELAY)


class Terminal:
    """Writes text, in colour if that is wanted and rich is installed.

    A text with a style is a tuple ``(text, style)``, in rich's words: ``("damaged", "bold red")``.

    Parameters
    ----------
    out : file
        Where this is a terminal, tables are fitted to its width, and colour is used, unless the environment has
        ``NO_COLOR`` (no-color.org).
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._encoding = getattr(self._out, "encoding", None) or "utf-8"
        self._width = shutil.get_terminal_size().columns if self._out.isatty() else None
        self._render = _renderer() if self._has_colour() else None

    def _has_colour(self) -> bool:
        return self._out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def line(self, *cells: Cell) -> None:
        """Write a line of texts, one after the other."""
        self._write("".join(self._styled(*_pair(cell)) for cell in cells))

    def table(self, rows: Iterable[Row], *, right: Sequence[int] = (), indent: str = "") -> None:
        """Write rows in columns, two spaces between them.

        On a narrow terminal, the last columns stand below the others, indented.

        Parameters
        ----------
        rows : iterable of rows
            Of one length; texts may be empty. The last text of a row may be longer than its column.
        right : sequence of int
            The columns that are aligned to the right.
        indent : str
        """
        lines = [[_cut(*_pair(cell)) for cell in row] for row in rows]
        sizes = [[_columns(text) for text, _ in row] for row in lines]
        widths = [0] * max(map(len, lines), default=0)
        for taken in sizes:
            last = max((index for index, size in enumerate(taken) if size), default=0)
            for index, size in enumerate(taken):
                if size > widths[index] and (index < last or index in right):
                    widths[index] = size
        longest = [max(column) for column in zip(*sizes, strict=True)]
        folds = _folds(longest, len(indent), self._width)
        for row, taken in zip(lines, sizes, strict=True):
            for level, (begin, end) in enumerate(folds):
                cells = []
                for index in range(begin, end):
                    text, style = row[index]
                    space = " " * (widths[index] - taken[index])
                    shown = self._styled(text, style)
                    cells.append(space + shown if index in right else shown + space)
                if not level or any(text for text, _ in row[begin:end]):
                    self._write((indent + _FOLD * bool(level) + _GAP.join(cells)).rstrip())

    def drawing(self, text: str) -> str:
        """Return lines and blocks in characters that the terminal can write."""
        try:
            "├█".encode(self._encoding)
        except UnicodeEncodeError:
            return "".join(_PLAIN.get(char, char) for char in text)
        return text

    def code(self, text: str, language: str, *, indent: str = "  ") -> None:
        """Write a text of a language, highlighted where there is colour."""
        shown = plain(text).rstrip("\n")
        if self._render is not None:
            shown = _highlighted(shown, language, self._render)
        for line in shown.split("\n"):
            self._write(indent + line if line else "")

    def _styled(self, text: str, style: str) -> str:
        return self._render(text, style) if self._render is not None and style and text else text

    def _write(self, line: str) -> None:
        self._out.write(line.encode(self._encoding, "backslashreplace").decode(self._encoding) + "\n")


def _folds(widths: Sequence[int], indent: int, most: int | None) -> list[tuple[int, int]]:
    """Return the columns, from and to, that stand on each line of a row."""
    folds, begin, used = [], 0, indent
    for index, width in enumerate(widths):
        if most is not None and index > begin and used + width > most:
            folds.append((begin, index))
            begin, used = index, indent + len(_FOLD)
        used += width + len(_GAP)
    return [*folds, (begin, len(widths))]


def _pair(cell: Cell) -> tuple[str, str]:
    text, style = cell if isinstance(cell, tuple) else (cell, "")
    return plain(text).replace("\n", "\\n"), style


def _cut(text: str, style: str) -> tuple[str, str]:
    """Return a cell cut to the longest length: a table pads lines to its longest cell."""
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 3]}...", style


def _columns(text: str) -> int:
    """Return the number of a terminal's columns that a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        2 if east_asian_width(char) in "WF" else category(char) not in ("Mn", "Me", "Cf")  # these take no place
        for char in text
    )


def _renderer() -> Callable[[str, str], str] | None:
    """Return a function that styles a text; None without rich."""
    try:
        from rich.color import ColorSystem
        from rich.style import Style
    except ImportError:
        return None
    return lambda text, style: Style.parse(style).render(text, color_system=ColorSystem.STANDARD)


def _highlighted(text: str, language: str, render: Callable[[str, str], str]) -> str:
    from rich.console import Console
    from rich.syntax import Syntax

    syntax: Any = Syntax(text, language, theme="ansi_dark", background_color="default")
    console = Console(width=10_000, color_system="standard", force_terminal=True)
    with console.capture() as captured:
        shown = syntax.highlight(text)
        shown.rstrip()
        console.print(shown, soft_wrap=True, end="")
    return captured.get()
