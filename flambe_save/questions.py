"""Kinds of things that a save may ask for beyond data and imported classes.

The code that finds one asks :meth:`flambe_save.trust.Trust.decide`, which refuses it, or notes it for an audit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from flambe_save.errors import LoadError, MissingExtensionError, UntrustedError, quote

EVERYTHING = "weights_only=False"  # the widest door


class Question(NamedTuple):
    """Something that a save asks for, which only the caller may allow.

    Attributes
    ----------
    name : str
        The dotted path that the caller may trust; where only full trust is enough, what is asked for.
    row : str
        Its line in the list that :func:`flambe_save.untrusted` returns.
    refusal : str
        Start of an error's message, which goes on with the names that were refused. Without one a load goes on, for it
        will find out itself; an audit has the row.
    fix : str
        Start of the error's advice, before the argument that allows it; of an extension, all of it.
    door : str
        The argument of a load that allows it, where that is not trust in the name.
    requirement : str, optional
        Of an extension: what pip would install. The caller may allow that in place of trusting the name.
    """

    name: str
    row: str
    refusal: str = ""
    fix: str = ""
    door: str = ""
    requirement: str | None = None

    @property
    def argument(self) -> str:
        """The argument of a load that allows it."""
        return self.door or f"trusted=[{quote(self.name)}]"

    @property
    def shown(self) -> str:
        """Its name in a message."""
        return _with_requirement(self.name, self.requirement)

    @property
    def error(self) -> type[LoadError]:
        """The class of the error that refuses it."""
        return UntrustedError if self.requirement is None else MissingExtensionError


def pickled(names: Iterable[str]) -> list[Question]:
    """Ask for the globals that a pickle names."""
    listed = list(dict.fromkeys(names))
    holds = ""
    if any(name.startswith("torch.nn.modules.") for name in listed):
        holds = " holds a whole module, or parts of one, and"
    refusal = f"a pickle here{holds} names objects that only a trusting load may unpickle"
    return [Question(name, f"pickled global {quote(name)}", refusal) for name in listed]


def unregistered_class(path: str, why: str = "is not registered") -> Question:
    """Ask for a class that is imported, and that a config builds or hands on."""
    return Question(
        path,
        f"class {quote(path)}, which {why}",
        f"the config asks for a class that {why}",
        f"register({path.rpartition('.')[2][:100]}, 'a.tag') says that its constructor may be run for any config. ",
    )


def unknown_class(tag: str, path: str) -> Question:
    """Ask for a class that no imported module has; a load fails when it builds that."""
    module = path.rpartition(".")[0] or path
    row = f"class {quote(path)} for the tag {quote('!' + tag)}"
    return Question(path, row, door=f"trusted=[{quote(module)}]")


def function(path: str) -> Question:
    """Ask for a function that a config hands to an object, which will call it."""
    return Question(path, f"function {quote(path)}", "the config hands a function to an object")


def call(what: str) -> Question:
    """Ask for a call by a config: a ``!call`` link, or a factory that reads or downloads."""
    return Question(what, f"a call of {quote(what)}", "the config asks for a call", door=EVERYTHING)


def argument(cls: str, what: str) -> Question:
    """Ask for an argument that makes a library's class read, download or run something."""
    row = f"{cls} with {what[:200]}"
    refusal = "the config builds an object that reads, downloads or runs more than data"
    return Question(row, row, refusal, "Take it out of config.yaml. ", door=EVERYTHING)


def property_read(path: str, link: str, rest: Iterable[str]) -> Question:
    """Ask for a property, or ``__getattr__``, that a link reads.

    Parameters
    ----------
    path : str
        Of the property or function.
    link : str
        For the message.
    rest : iterable of str
        The attributes that the link reads of what this gives.
    """
    later = ".".join(rest)
    return Question(
        path,
        f"property {quote(path)}, which a link reads"
        + (f"; what it gives tells whether {quote(later)} of it needs trust too" if later else ""),
        f"{link} reads what code of a class gives, not what an object holds",
        "Name an attribute that the object holds, or write the value itself. ",
    )


def extension(module: str, requirement: str = "") -> Question:
    """Ask for a module to be imported, and where it is missing, installed."""
    return Question(
        module,
        f"import of {_with_requirement(module, requirement)}",
        "the save needs extensions that this program has not imported",
        f"import {module[:200]} first, or load(..., trusted=[{quote(module)}]).",
        requirement=requirement,
    )


def _with_requirement(module: str, requirement: str | None) -> str:
    return quote(module) + (f" (installed from {quote(requirement)})" if requirement else "")


def doubt(what: str) -> Question:
    """Note why trust in the names of a pickle may not be enough."""
    return Question(what, what, door=EVERYTHING)
