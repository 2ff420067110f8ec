"""Old names of classes that moved or were renamed, for tags and for pickled globals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.errors import RegistrationError, quote
from flambe_save.registry import MOVED

C = TypeVar("C", bound=type)


def moved_from(path: str) -> Callable[[C], C]:
    """Decorate a registered class that moved or was renamed, so that old saves still load.

    The old dotted path and its tags mean the class from now on: in configs, in the records of saves, and in pickles,
    where trust in either name is enough. New saves have the present name.

    Parameters
    ----------
    path : str
        ``old.module.Class``. Several decorators may be stacked, one for each place.

    Raises
    ------
    RegistrationError
        If the class is not registered, ``path`` is not a dotted path, or another class is there or has moved from it.

    Examples
    --------
    >>> from flambe_save import Component, yaml
    >>> @moved_from("nets.old.Conv")
    ... class Convolution(Component):
    ...     pass
    >>> yaml.load("!nets.old.Conv")
    Schema(Convolution)
    """

    def decorate(cls: C) -> C:
        here = dotted_path(cls)
        if cls not in TAGS:
            raise RegistrationError(
                f"{here} is not registered, so no tag names it",
                fix="Make it a subclass of Component, or put @alias('tag') below @moved_from.",
            )
        if "." not in path or not all(part.isidentifier() for part in path.split(".")):
            raise RegistrationError(f"{quote(path)} is not a dotted path", fix="Write 'old.module.Class'.")
        if TAGS.at(path) not in (None, cls):
            raise RegistrationError(
                f"{here} is said to have moved from {path}, where there is another class",
                fix="Remove that class, or the @moved_from.",
            )
        if path in MOVED and dotted_path(MOVED[path]) != here:
            raise RegistrationError(
                f"both {dotted_path(MOVED[path])} and {here} are said to have moved from {path}",
                fix="Only one class can have been there; correct the other @moved_from.",
            )
        if path != here:
            MOVED[path] = cls
        return cls

    return decorate


def old_names(cls: type) -> set[str]:
    """Return the bare names that a class had where it has moved from."""
    return {path.rpartition(".")[2] for path, moved in MOVED.items() if moved is cls}


def is_moved(tag: str, recorded: str | None = None) -> bool:
    """Whether a tag means a class by an old name; ``recorded`` is a save's dotted path for it."""
    if recorded is not None:
        return recorded in MOVED
    try:
        return not TAGS.means(tag, *TAGS.resolve(tag))
    except RegistrationError:
        return False


def present_name(tag: str, recorded: str | None = None) -> tuple[str, str | None]:
    """Return the present tag and dotted path of a save's; the same ones unless the class moved."""
    if not is_moved(tag, recorded):
        return tag, recorded
    cls, factory = TAGS.resolve(tag, recorded)
    return tag if TAGS.means(tag, cls, factory) else TAGS.tag_of(cls, factory), dotted_path(cls)
