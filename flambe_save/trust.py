"""Trust: what a load may do beyond reading data, decided by the caller, per call. The one place that says no.

codecs/ ask it about pickled globals, config/ about imports, factories and calls; nobody else decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flambe_save.errors import MissingExtensionError, UntrustedError

__all__ = ["NO_TRUST", "Trust"]


# Modules whose functions run what they are given; a message never suggests trusting them
_RUN_ANYTHING = frozenset(
    [
        "builtins",
        "os",
        "posix",
        "nt",
        "subprocess",
        "sys",
        "shutil",
        "socket",
        "importlib",
        "runpy",
        "pty",
        "ctypes",
        "code",
        "pickle",
        "dill",
        "operator",
        "functools",
    ]
)


@dataclass(frozen=True)
class Trust:
    """A caller's policy. The default trusts nothing: data is read, and classes the program has imported are built.

    Parameters
    ----------
    weights_only : bool
        False opens every door, as in torch: arbitrary pickles run.
    trusted : tuple of str
        Modules or ``module.Class`` names that may be imported and unpickled; a module covers all inside it.
    auto_install : bool
        Extensions that a config names may be installed with pip, and imported.
    """

    weights_only: bool = True
    trusted: tuple[str, ...] = ()
    auto_install: bool = False

    @classmethod
    def of(cls, weights_only: bool = True, trusted: Iterable[str] = (), auto_install: bool = False) -> Trust:
        """Make a policy from a call's arguments.

        Raises
        ------
        TypeError
            If ``trusted`` is no list of names: a blanket yes is not offered.
        """
        if isinstance(trusted, (str, bytes, bool)) or not all(isinstance(name, str) for name in trusted):
            raise TypeError(f"trusted takes a list of module or class names, not {trusted!r}")
        return cls(weights_only, tuple(trusted), auto_install)

    def allows(self, name: str) -> bool:
        """Whether a module or class, by its dotted name, may be imported and used."""
        return not self.weights_only or any(name == entry or name.startswith(entry + ".") for entry in self.trusted)

    def check_globals(self, names: Iterable[str], *, node: str | None, file: str | None) -> None:
        """Refuse a pickle that names anything not allowed; the error lists all of it.

        Raises
        ------
        UntrustedError
        """
        refused = [name for name in dict.fromkeys(names) if not self.allows(name)]
        if refused:
            shown = ", ".join(_quote(name) for name in refused[:8]) + (", ..." if len(refused) > 8 else "")
            if any(name.partition(".")[0] in _RUN_ANYTHING for name in refused):
                fix = "These can run anything: do not load it unless you know who wrote it, and why it needs them."
            else:
                fix = f"If you know who wrote it: load(..., trusted={[*self.trusted, *refused]})."
            raise UntrustedError(
                f"a pickle here names objects that only a trusting load may unpickle: {shown}",
                node=node,
                file=file,
                fix=fix if len(fix) < 500 else "If you know who wrote it: load(..., weights_only=False).",
            )

    def check_call(self, what: str, *, node: str | None = None, file: str | None = None) -> None:
        """Refuse to run what a config asks to call: a ``!call`` link, or a factory that reads or downloads.

        Raises
        ------
        UntrustedError
        """
        if self.weights_only:
            raise UntrustedError(
                f"the config asks to call {_quote(what)}",
                node=node,
                file=file,
                fix="If you know who wrote it: load(..., weights_only=False).",
            )

    def check_import(self, module: str, requirement: str = "", *, file: str | None = None) -> None:
        """Refuse to import a module for a config.

        Raises
        ------
        MissingExtensionError
        """
        if not (self.allows(module) or self.auto_install):
            needs = f" (installed from {_quote(requirement)})" if requirement else ""
            raise MissingExtensionError(
                f"the config needs the extension {_quote(module)}{needs}, which this program has not imported",
                file=file,
                fix=f"import {module} first, or load(..., trusted=[{module!r}]).",
            )


NO_TRUST = Trust()


def _quote(text: str) -> str:
    """Quote text that came from a save, cut so that it cannot flood a message."""
    return repr(text if len(text) <= 200 else text[:200] + "...")
