"""Compare a class with its save, by version number where it has one, else by source."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from difflib import unified_diff
from textwrap import dedent
from typing import Any

from flambe_save.adapters.class_source import source_of
from flambe_save.adapters.migrations import check_major, numbers
from flambe_save.classes.renames import old_names
from flambe_save.errors import SourceChangedWarning, StateMismatchWarning, VersionMismatchWarning, quote, warn
from flambe_save.layout import CLASS_KEY, NO_VERSION, SOURCE_KEY, VERSION_KEY

logger = logging.getLogger(__name__)

_MAX_SHOWN = 100_000  # characters of source code


def check_version(cls: Any, local: Mapping[str, Any], prefix: str, saved: str) -> None:
    """Warn where a class differs from its save: in version if it has one, else in source.

    Parameters
    ----------
    cls : type
        A Component.
    local : mapping
        The save's metadata of the node.
    prefix : str
    saved : str
        The version before migrations, which replaced it in ``local``.

    Raises
    ------
    VersionMismatchError
        If the major number differs.
    """
    saved_class = local.get(CLASS_KEY)
    before_names = old_names(cls)
    if saved_class and saved_class not in (cls.__name__, *before_names):
        warn(
            f"the save says that node {quote(prefix)} is a {quote(saved_class)}, and what the config around it builds "
            f"there is a {cls.__qualname__}: its values are loaded into that",
            StateMismatchWarning,
        )
    reached = local.get(VERSION_KEY, NO_VERSION)
    here, there = numbers(cls._flambe_version) or (0, 0, 0), numbers(reached) or (0, 0, 0)
    if there > (0, 0, 0):
        text = check_major(cls, saved, reached, prefix)
        if here[1] != there[1]:
            warn(text, VersionMismatchWarning)
        elif here != there:
            logger.debug(text)
        return
    if local.get(SOURCE_KEY) == source_of(cls):
        return
    before, now = dedent(local.get(SOURCE_KEY, "")), dedent(source_of(cls))
    if before and now and _without_moves(before, cls, before_names) != _without_moves(now, cls, before_names):
        diff = ["(too long to be shown)"]
        if max(len(before), len(now)) < _MAX_SHOWN:  # a diff takes quadratic time
            diff = [*unified_diff(before.splitlines(), now.splitlines(), "in the save", "here", lineterm="")]
        warn(
            f"the source of {cls.__qualname__} changed since it was saved (node {prefix!r}):\n" + "\n".join(diff),
            SourceChangedWarning,
        )


def _without_moves(source: str, cls: type, old: set[str]) -> str:
    """Return a source without a change of the class's name, which alone is not worth a warning."""
    source = re.sub(r"^@(\w+\.)*moved_from\(.*\)\n", "", source, flags=re.MULTILINE)
    names = "|".join(map(re.escape, old)) or "(?!)"
    return re.sub(rf"^class ({names})\b", f"class {cls.__name__}", source, count=1, flags=re.MULTILINE)
