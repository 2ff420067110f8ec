"""Answers: the result of a verb, as a document and for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flambe_save.cli.terminal import Terminal

# Exit codes, as diff(1) and grep(1) have them
SAME, DIFFERENT, TROUBLE = 0, 1, 2


@dataclass(frozen=True)
class Answer:
    """Result of a verb.

    Attributes
    ----------
    document : dict
        ``--json`` prints it.
    show : callable
        Writes the same to a terminal.
    code : int
        The exit code.
    then : callable
        Called when the answer is printed.
    """

    document: dict[str, Any]
    show: Callable[[Terminal], None]
    code: int = SAME
    then: Callable[[], None] = lambda: None
