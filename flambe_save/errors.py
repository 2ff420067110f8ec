"""Every exception and warning of the package, one tree, so that callers can catch as widely as they like.

::

    FlambeSaveError
    |-- SaveError
    |   |-- TargetExistsError            (also FileExistsError, ValueError)
    |   `-- UnsupportedObjectError       (also TypeError)
    |-- LoadError
    |   |-- SaveNotFoundError            (also FileNotFoundError)
    |   |-- UnknownFormatError
    |   |-- ProtocolError
    |   |-- CorruptSaveError
    |   |-- UntrustedError
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
    `-- NeedsTrustWarning                what was just saved needs trust to load again

An error says what is wrong and where (``.node``, ``.file``) on its first line and what to do on its second.
"""

from __future__ import annotations

import os
import sys
import warnings

__all__ = [
    "CompilationError",
    "ConfigError",
    "CorruptSaveError",
    "FlambeSaveError",
    "FlambeSaveWarning",
    "LinkError",
    "LoadError",
    "MalformedLinkError",
    "MissingDependencyError",
    "MissingExtensionError",
    "NeedsTrustWarning",
    "ProtocolError",
    "RegistrationError",
    "SaveError",
    "SaveNotFoundError",
    "SourceChangedWarning",
    "StateMismatchError",
    "StateMismatchWarning",
    "TargetExistsError",
    "UnknownFormatError",
    "UnpreparedLinkError",
    "UnsupportedObjectError",
    "UntrustedError",
    "VersionMismatchError",
    "VersionMismatchWarning",
]


class FlambeSaveError(Exception):
    """Base of every error that this package raises on purpose.

    Parameters
    ----------
    message : str
        What was found and what was expected.
    node : str, optional
        Dotted prefix of the component concerned; ``""`` is the root.
    file : str, optional
        The file concerned.
    fix : str, optional
        What the reader can type or do next.
    """

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
            places.append(f"node {self.node!r}")
        if self.file is not None:
            places.append(f"file {self.file!r}")
        text = f"{self.message} ({', '.join(places)})" if places else self.message
        return f"{text}\n{self.fix}" if self.fix else text

    def locate(self, *, node: str | None = None, file: str | None = None) -> None:
        """Fill in where it happened, as far as whoever raised it did not know."""
        self.node = node if self.node is None else self.node
        self.file = file if self.file is None else self.file


def warn(text: str, category: type[Warning]) -> None:
    """Warn, pointing at the line of the caller's that called into this package."""
    level, frame = 1, sys._getframe()
    package = os.path.dirname(os.path.abspath(__file__))
    while frame.f_back is not None and os.path.abspath(frame.f_code.co_filename).startswith(package):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


class SaveError(FlambeSaveError):
    """A save could not be written; whatever was at the target before is still there."""


class TargetExistsError(SaveError, FileExistsError, ValueError):
    """There is already something at the target and ``overwrite`` was not asked for."""


class UnsupportedObjectError(SaveError, TypeError):
    """An object, or a part of it, cannot be represented; the message names the path inside the object."""


class LoadError(FlambeSaveError):
    """A save could not be read or the object could not be rebuilt."""


class SaveNotFoundError(LoadError, FileNotFoundError):
    """There is nothing at the path, or no such node in the save."""


class UnknownFormatError(LoadError):
    """What is at the path is no save of any format known here."""


class ProtocolError(LoadError):
    """The save was written by a newer protocol than this version reads."""


class CorruptSaveError(LoadError):
    """A file of the save is missing, truncated or damaged, or contradicts another."""


class UntrustedError(LoadError):
    """The save asks for more than reading data, and the caller has not allowed it."""


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


class StateMismatchWarning(FlambeSaveWarning):
    """Keys of the saved state and of the object differ, and ``strict=False`` let it pass."""


class NeedsTrustWarning(FlambeSaveWarning):
    """The save just written holds objects that only a trusting load will open."""
