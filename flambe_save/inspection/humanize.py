"""Numbers and names for people, the same in every place that shows a save."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

from flambe_save.errors import plain

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = _REPR.maxset = _REPR.maxfrozenset = 20

_LONGEST = 20_000  # characters
_LEVELS = "▁▂▃▄▅▆▇█"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def count_of(count: int, what: str) -> str:
    """Return a number of things: ``1 tensor``, ``1,024 tensors``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def size_of(count: int | None) -> str:
    """Return a number of bytes in decimal units, as disks are measured: ``20.5 kB``."""
    if count is None:
        return "?"
    size, unit = float(count), 0
    while size >= 999.95 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{count} B"


def shape_of(shape: Sequence[int]) -> str:
    """Return a shape: ``2 x 3``; that of a single number is ``()``."""
    return " x ".join(map(str, shape)) or "()"


def short_number(number: float | None) -> str:
    """Return a number with four digits; a dash for None."""
    return "-" if number is None else f"{number:.4g}"


def one_line(text: str, most: int = 200) -> str:
    """Return a text from a save on one line, with nothing in it that steers a terminal, and cut."""
    shown = plain(text[: 2 * most]).replace("\n", "\\n")
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def value_of(value: object) -> str:
    """Return a value in short, however large or deep it is, or how odd."""
    try:
        return one_line(_REPR.repr(value))
    except Exception as error:  # of a number too long to be written, or of an object that the caller trusts
        return f"<{type(value).__name__}, not shown: {type(error).__name__}>"


def all_of(value: object) -> str:
    """Return a value in full, a long one over several lines; past 20,000 characters it is cut."""
    import pprint

    try:
        text = pprint.pformat(value, width=100, compact=True, sort_dicts=False)
    except Exception:
        return value_of(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def sparkline(counts: Sequence[int]) -> str:
    """Return a histogram as a line of blocks; a filled bin never looks like an empty one."""
    most = max(counts, default=0)
    return "".join(" " if not count else _LEVELS[min(7, count * 8 // most)] for count in counts) if most else ""
