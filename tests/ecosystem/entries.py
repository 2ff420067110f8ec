"""The decorator by which a library's file tells of an object that programs hold, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """An object that programs hold.

    Parameters
    ----------
    make : callable
        Builds the object with other than default arguments and edits it.
    what : str
        What it is, for the table.
    edit : str
        What was changed after it was built, for the table.
    use : callable, optional
        Computes something with the object: what it returns is compared too.
    """

    make: Callable[[], Any]
    what: str
    edit: str
    use: Callable[[Any], Any] | None = None

    @property
    def library(self) -> str:
        """The name of the file that has it, which is the name of what is imported."""
        return self.make.__module__.rpartition(".")[2].removesuffix("_")

    @property
    def name(self) -> str:
        """A name of its own, for folders and tests."""
        return f"{self.library}-{self.make.__name__}"


def entry(what: str, *, edit: str, use: Callable[[Any], Any] | None = None) -> Callable[[Callable[[], Any]], Entry]:
    """Make an :class:`Entry` of the function that builds it."""
    return lambda make: Entry(make, what, edit, use)


def entries_of(module: Any) -> list[Entry]:
    """Return the entries of a library's file, in its order."""
    return [value for value in vars(module).values() if isinstance(value, Entry)]
