"""Exceptions and warnings of the package, one tree: callers catch as widely as they like.

::

    FlambeSaveError
    |-- SaveError
    |   |-- TargetExistsError            (also FileExistsError, ValueError)
    |   `-- UnsupportedObjectError       (also TypeError)
    |-- LoadError
    |   |-- SaveNotFoundError            (also FileNotFoundError)
    |   |-- SaveReplacedError
    |   |-- UnknownFormatError
    |   |-- ProtocolError
    |   |-- CorruptSaveError
    |   |-- UntrustedError
    |   |-- LimitError
    |   |-- VersionMismatchError
    |   |-- StateMismatchError           (also RuntimeError)
    |   `-- MissingExtensionError        (also ImportError)
    |-- ConfigError
    |   |-- RegistrationError
    |   |-- CompilationError
    |   `-- LinkError
    |       |-- MalformedLinkError
    |       `-- UnpreparedLinkError
    `-- MissingDependencyError           (also ImportError)

    FlambeSaveWarning (UserWarning)
    |-- SourceChangedWarning             the class was edited since the save; shows a unified diff
    |-- VersionMismatchWarning           a minor version differs
    |-- StateMismatchWarning             what ``strict=False`` let pass
    |-- PackageVersionWarning            a package's major or minor version differs from when it was saved
    |-- UncheckedSaveWarning             the manifest is gone: fewer checks, and ties are not restored
    `-- NeedsTrustWarning                what was just saved needs trust to load again

An error says what is wrong and where (``.node``, ``.file``) on its first line and what to do on its second.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = [
    "CompilationError",
    "ConfigError",
    "CorruptSaveError",
    "FlambeSaveError",
    "FlambeSaveWarning",
    "LimitError",
    "LinkError",
    "LoadError",
    "MalformedLinkError",
    "MissingDependencyError",
    "MissingExtensionError",
    "NeedsTrustWarning",
    "PackageVersionWarning",
    "ProtocolError",
    "RegistrationError",
    "SaveError",
    "SaveNotFoundError",
    "SaveReplacedError",
    "SourceChangedWarning",
    "StateMismatchError",
    "StateMismatchWarning",
    "TargetExistsError",
    "UncheckedSaveWarning",
    "UnknownFormatError",
    "UnpreparedLinkError",
    "UnsupportedObjectError",
    "UntrustedError",
    "VersionMismatchError",
    "VersionMismatchWarning",
]


# Characters that a terminal or a reader does not show, or that turn what is around them: Unicode's control, format and
# surrogate characters, its line separators, and what else shows nothing (variation selectors, tags, fillers)
_HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_CONTROL = re.compile(f"[{_HIDDEN}]")
_LINES, _CHARACTERS = 100, 1000  # of a text, so that a save cannot flood a terminal


class Finding(NamedTuple):
    """Something that a save asks for beyond data and imported classes.

    Attributes
    ----------
    node : str or None
        Dotted prefix of the component; ``""`` is the root.
    file : str or None
        The file inside the save.
    what : str
        Description; names from the save are quoted.
    argument : str
        The argument of :func:`flambe_save.load` that would allow it.
    """

    node: str | None
    file: str | None
    what: str
    argument: str


class FlambeSaveError(Exception):
    """Base of every error that this package raises on purpose.

    Its text holds no control characters, whatever a save put into it.

    Parameters
    ----------
    message : str
        The problem: what was found and what was expected.
    node : str, optional
        Dotted prefix of the component concerned; ``""`` is the root.
    file : str, optional
        The file concerned.
    fix : str, optional
        The next step: what the reader can type or do.

    Attributes
    ----------
    rows : sequence of Finding
        All that the save asks for, if a load was refused for that; else empty.
    """

    rows: Sequence[Finding] = ()

    def __init__(
        self, message: str = "", *, node: str | None = None, file: str | None = None, fix: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.file = file
        self.fix = fix

    def __str__(self) -> str:
        places = []
        if self.node:  # the root goes without saying
            places.append(f"node {quote(self.node)}")
        if self.file is not None:
            places.append(f"file {quote(self.file)}")
        text = f"{_cut(self.message)} ({', '.join(places)})" if places else _cut(self.message)
        return plain(f"{text}\n{_cut(self.fix)}" if self.fix else text)

    def locate(self, *, node: str | None = None, file: str | None = None) -> None:
        """Add the node and the file if the error lacks them."""
        self.node = node if self.node is None else self.node
        self.file = file if self.file is None else self.file


def plain(text: str) -> str:
    """Escape control and hidden characters of a text: saved text never steers a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text.expandtabs(4))


def _cut(text: str) -> str:
    lines = text.split("\n", _LINES)
    lines[_LINES:] = ["..."] if len(lines) > _LINES else []
    return "\n".join(line if len(line) <= _CHARACTERS else line[:_CHARACTERS] + "..." for line in lines)


def quote(text: object) -> str:
    """Quote a value from a save, shortened to 200 characters."""
    shown = str(text)
    return repr(shown if len(shown) <= 200 else f"{shown[:190]}...")


def shown(value: object) -> str:
    """Describe a value for a message: a plain one by its repr, others by their class.

    No code of the value's class runs.
    """
    items: Iterable[object] = (value,)
    if isinstance(value, (list, tuple, set, dict)) and type(value).__module__ == "builtins":
        items = (*value, *value.values()) if isinstance(value, dict) else value
    is_plain = all(type(item) in _PLAIN for item in items)
    return repr(value) if is_plain else f"a {type(value).__qualname__}"


_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def quote_some(names: Sequence[str], most: int = 5) -> str:
    """Quote the first of some names from a save, and count the rest."""
    rest = f", and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(quote, names[:most])) + rest


def warn(text: str, category: type[Warning]) -> None:
    """Warn at the caller's line that called into this package."""
    level, frame = 1, sys._getframe()
    package = os.path.dirname(os.path.abspath(__file__))
    while frame.f_back is not None and os.path.abspath(frame.f_code.co_filename).startswith(package):
        level, frame = level + 1, frame.f_back
    warnings.warn(plain(_cut(text)), category, stacklevel=level)


class SaveError(FlambeSaveError):
    """A save could not be written; an earlier save at the target is still there."""


class TargetExistsError(SaveError, FileExistsError, ValueError):
    """The target exists and ``overwrite`` is False."""


class UnsupportedObjectError(SaveError, TypeError):
    """An object cannot be represented, in whole or part; the message names the path inside it."""


class LoadError(FlambeSaveError):
    """A save could not be read or the object could not be rebuilt."""


class SaveNotFoundError(LoadError, FileNotFoundError):
    """The path does not exist, or the save has no such node."""


class SaveReplacedError(LoadError):
    """The save was replaced again and again while it was read."""


class UnknownFormatError(LoadError):
    """The path holds no save in a known format."""


class ProtocolError(LoadError):
    """The save was written by a newer protocol than this version reads."""


class CorruptSaveError(LoadError):
    """A file of the save is missing, truncated or damaged, or contradicts another."""


class UntrustedError(LoadError):
    """The save asks for more than the caller has allowed; ``rows`` lists all of it."""


class LimitError(LoadError):
    """The save would take more memory than its size justifies; ``limits=`` may allow it."""


class VersionMismatchError(LoadError):
    """A class's major version differs from the one in the save."""


class StateMismatchError(LoadError, RuntimeError):
    """Keys of the saved state and of the object differ; the message lists all of them."""


class MissingExtensionError(LoadError, ImportError):
    """A config names a package that is not imported or not installed."""


class ConfigError(FlambeSaveError):
    """A config cannot be parsed, understood or written."""


class RegistrationError(ConfigError):
    """A class has no tag, or a tag belongs to no class or to several."""


class CompilationError(ConfigError):
    """A Schema could not be turned into an object."""


class LinkError(ConfigError):
    """A link cannot be followed."""


class MalformedLinkError(LinkError):
    """The text of a link does not follow its grammar, or names nothing in the config."""


class UnpreparedLinkError(LinkError):
    """A link was followed before the object that it points to was built."""


class MissingDependencyError(FlambeSaveError, ImportError):
    """An optional package is needed; the message holds the pip line."""


class FlambeSaveWarning(UserWarning):
    """Base of every warning of this package."""


class SourceChangedWarning(FlambeSaveWarning):
    """The source of a class differs from the one in the save."""


class VersionMismatchWarning(FlambeSaveWarning):
    """The minor version of a class differs from the one in the save."""


class PackageVersionWarning(FlambeSaveWarning):
    """Packages of a save have another major or minor version here, or are not installed."""


class StateMismatchWarning(FlambeSaveWarning):
    """Keys of the saved state and of the object differ, and ``strict=False`` allows it."""


class UncheckedSaveWarning(FlambeSaveWarning):
    """The save has lost its manifest: files are checked one by one, and ties are not restored."""


class NeedsTrustWarning(FlambeSaveWarning):
    """The save just written holds objects that only a trusting load will open."""
