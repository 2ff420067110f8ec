"""Options and result of a read: the tree, and the save's description beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from flambe_save.pt import LoadOptions
from flambe_save.tree import SaveTreeNode


@dataclass(frozen=True)
class ReadOptions:
    """Options of a read.

    Parameters
    ----------
    values : LoadOptions
        How values are read: trust, devices, the pickle module.
    node : str
        The dotted prefix of the component to read, with all inside it; ``""`` is all.
    where : str
        The path of the save, for messages.
    """

    values: LoadOptions
    node: str = ""
    where: str = ""


@dataclass
class Saved:
    """Result of a read.

    Attributes
    ----------
    tree : SaveTreeNode
    ties : list of list of str
        Groups of state keys, relative to the tree, whose tensors are one.
    tags : dict of str to str
        The tags of configs when they were written: tag -> dotted path of the class.
    is_vouched_for : bool
        Whether a manifest or trailer has checksums of the whole save.
    packages : dict of str to str
        Versions of packages when it was saved; empty where that is not known.
    digest : str or None
        The digest that the save has beside checksums.
    """

    tree: SaveTreeNode
    ties: list[list[str]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    is_vouched_for: bool = False
    packages: dict[str, str] = field(default_factory=dict)
    digest: str | None = None


class Damage(NamedTuple):
    """Damage of a save: a part that is not as it was saved.

    Attributes
    ----------
    node : str or None
        Dotted prefix of the component; ``""`` is the root, None where the damage is not of one component.
    file : str or None
        The file inside the save.
    problem : str
        What is wrong with it.
    """

    node: str | None
    file: str | None
    problem: str
