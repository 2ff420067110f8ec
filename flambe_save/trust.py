"""Trust: the caller's decision, per call, what a load may do beyond reading data.

What finds that a save asks for more puts it to ``decide``, as questions (questions.py); no other module decides. An
audit asks the same questions, and ``decide`` writes them down in place of refusing them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from flambe_save.errors import Finding, LimitError, MissingExtensionError, quote
from flambe_save.questions import EVERYTHING, Question
from flambe_save.support.undoing import Setting

# A package's name and versions, and nothing that pip would take for a path, a URL or an option
_REQUIREMENT = re.compile(
    r"\s*[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*"
    r"(?:(?:===?|[<>~!]=|[<>])\s*[A-Za-z0-9.*+!_-]+\s*(?:,\s*(?:===?|[<>~!]=|[<>])\s*[A-Za-z0-9.*+!_-]+\s*)*)?",
    re.ASCII,
)

# Modules of Python's that stashes often hold; a message never suggests to trust the others
_HARMLESS = frozenset(
    ["argparse", "collections", "datetime", "decimal", "enum", "fractions", "ipaddress", "pathlib", "random", "uuid"]
)


def _runs_anything(name: str) -> bool:
    """Whether a global may serve attacks: Python's own modules, dill's and most of torch's."""
    module = name.partition(".")[0]
    if module in ("torch", "numpy", "dill"):
        return not f"{name}.".startswith(("torch.nn.", "torch.optim."))
    return module in sys.stdlib_module_names and module not in _HARMLESS


def _needs_everything(names: Sequence[str]) -> bool:
    """Whether a pickle uses functions of dill that a load with trusted names does not redo."""
    is_made_by_dill = (name.startswith("dill.") and not name.startswith("dill._dill._load_type(") for name in names)
    return any(is_made_by_dill) or any(name.endswith(".__dict__") for name in names)


_LONG = 600  # characters of a list that a message shows


def door_of(names: Iterable[str]) -> str:
    """Return the narrowest argument of a load that allows these names.

    A long list has libraries in place of their classes.
    """
    listed = sorted({*names})
    if not listed or _needs_everything(listed):
        return EVERYTHING
    for shown in (listed, _by_library(listed)):
        door = f"trusted={shown}"
        if len(door) <= _LONG:
            return door
    return EVERYTHING


def _by_library(names: Sequence[str]) -> list[str]:
    """Replace names by their libraries, but for Python's and those that can run anything."""
    own = (name.partition(".")[0] if "." in name else "" for name in names)
    wide = ("torch", "numpy", "dill", "__main__")
    known = {name for name in own if name not in sys.stdlib_module_names and name not in wide}
    return sorted({name.partition(".")[0] if name.partition(".")[0] in known else name for name in names})


def check_switches(**switches: Any) -> None:
    """Refuse switches that are not bools: a text such as "no" would count as True.

    Raises
    ------
    TypeError
    """
    for name, switch in switches.items():
        if not isinstance(switch, bool):
            raise TypeError(f"{name} must be True or False, not {switch!r}")


@dataclass(frozen=True)
class Limits:
    """Limits of what a load may take: more than any save of its size needs.

    Parameters
    ----------
    members : int
        Files and folders in an archive.
    unpacked_bytes : int
        Bytes that an archive unpacks to.
    ratio : float
        Bytes that an archive may unpack to for each of its own, beside 256 MiB. Weights reach 1.1, a model of zeros
        1000.
    built_bytes : int
        Bytes of tensors that constructors may make, beside 16 times those of the saved state.
    """

    members: int = 1_000_000
    unpacked_bytes: int = 64 << 30
    ratio: float = 100.0
    built_bytes: int = 512 << 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{name} takes a number above 0, not {value!r}")


@dataclass(frozen=True)
class Trust:
    """A caller's policy. The default reads data, and builds only classes that are imported.

    Parameters
    ----------
    weights_only : bool
        False opens every door, as in torch: arbitrary pickles run.
    trusted : tuple of str
        Modules or ``module.Class`` names that may be imported and unpickled; a module covers all inside it.
    auto_install : bool
        Extensions that a config names may be installed with pip, and imported: by a name and versions alone.
    installable : tuple of str
        Requirements that pip may install, word for word: paths, URLs and options too.
    use_saved_source : bool
        Classes that cannot be imported may be made from the source code in the save, which runs it.
    limits : Limits
    findings : list of Finding, optional
        Makes this an audit, which adds here what it would refuse. It refuses and imports nothing.
    """

    weights_only: bool = True
    trusted: tuple[str, ...] = ()
    auto_install: bool = False
    installable: tuple[str, ...] = ()
    use_saved_source: bool = False
    limits: Limits = field(default_factory=Limits)
    findings: list[Finding] | None = None

    @classmethod
    def of(
        cls,
        weights_only: bool = True,
        trusted: Iterable[str] = (),
        auto_install: bool | Iterable[str] = False,
        use_saved_source: bool = False,
        limits: Limits | None = None,
    ) -> Trust:
        """Make a policy from a call's arguments.

        Raises
        ------
        TypeError
            If ``trusted`` is not a list of names: a blanket yes is not offered. If a switch is not a bool, or
            ``auto_install`` neither a bool nor a list of requirements.
        """
        if isinstance(trusted, (str, bytes, bool)) or not isinstance(trusted, Iterable):
            raise TypeError(f"trusted takes a list of module or class names, not {trusted!r}")
        names = tuple(trusted)
        if not all(isinstance(name, str) and name.strip(".") for name in names):
            raise TypeError(f"trusted takes a list of module or class names, not {names!r}")
        installable: tuple[str, ...] = ()
        if not isinstance(auto_install, (bool, str)) and isinstance(auto_install, Iterable):
            installable, auto_install = tuple(auto_install), False
        if not isinstance(auto_install, bool) or not all(isinstance(item, str) and item for item in installable):
            if installable:
                raise TypeError(f"auto_install takes a list of requirements in texts, not {list(installable)!r}")
            raise TypeError(f"auto_install must be True or False, not {auto_install!r}; or a list of requirements")
        check_switches(weights_only=weights_only, use_saved_source=use_saved_source)
        if limits is not None and not isinstance(limits, Limits):
            raise TypeError(f"limits takes Limits(...), not {limits!r}")
        return cls(weights_only, names, auto_install, installable, use_saved_source, limits or Limits())

    def audit(self) -> Trust:
        """Return this policy as an audit, with an empty list of findings."""
        return replace(self, weights_only=True, findings=[])

    def allows(self, name: str) -> bool:
        """Whether a module or class, by its dotted name, may be imported and used."""
        return not self.weights_only or any(name == entry or name.startswith(entry + ".") for entry in self.trusted)

    def decide(self, questions: Iterable[Question], *, node: str | None = None, file: str | None = None) -> None:
        """Refuse questions that this policy does not allow; an audit notes them instead.

        Parameters
        ----------
        questions : iterable of Question
        node, file : str, optional
            Where the save asks for it.

        Raises
        ------
        UntrustedError, MissingExtensionError
            For the first that is refused, with all that are refused for the same reason.
        """
        refused = [question for question in questions if not self._allows(question)]
        if self.findings is not None:
            self.findings.extend(Finding(node, file, question.row, question.argument) for question in refused)
            return
        first = next((question for question in refused if question.refusal), None)
        if first is None:
            return
        alike = [question for question in refused if question.refusal == first.refusal]
        shown = ", ".join(question.shown for question in alike[:8]) + (", ..." if len(alike) > 8 else "")
        fix = first.fix
        if first.requirement is None:
            names = [question.name for question in alike]
            fix += self.advice([] if first.door else names, is_enough=not first.door)
        elif self.installable:
            fix += f" pip installs what is listed: auto_install=[{quote(first.requirement)}]."
        error = first.error(f"{first.refusal}: {shown}", node=node, file=file, fix=fix)
        error.rows = [Finding(node, file, question.row, question.argument) for question in alike]
        raise error

    def _allows(self, question: Question) -> bool:
        if question.door == EVERYTHING:
            return not self.weights_only
        is_installable = self.auto_install or question.requirement in self.installable
        return self.allows(question.name) or (question.requirement is not None and is_installable)

    def advice(self, names: Iterable[str], *, is_enough: bool = True) -> str:
        """Return advice on names that were refused; other things may have been refused too."""
        refused = [*dict.fromkeys(names)]
        door = door_of([*self.trusted, *refused]) if is_enough else EVERYTHING
        if _needs_everything(refused):
            why = "This holds code, or what names alone do not make again: do not load it unless you know who wrote it"
        elif any(map(_runs_anything, refused)):
            why = "These can run anything: do not load it unless you know who wrote it, and why it needs them"
        else:
            return f"If you know who wrote it: load(..., {door})."
        return f"{why}; then load(..., {door})."

    def in_force(self) -> Setting[Trust | None]:
        """Make this the policy of :func:`trust_in_force` inside the ``with``."""
        return Setting(_in_force, self)

    def check_install(self, module: str, requirement: str, *, file: str | None = None) -> None:
        """Refuse to install a requirement that is more than a name and versions, unless listed.

        The caller lists what may be installed.

        Raises
        ------
        MissingExtensionError
        """
        if requirement in self.installable or (self.auto_install and _REQUIREMENT.fullmatch(requirement)):
            return
        what = "is not listed in auto_install" if self.installable else "is more than a package's name and versions"
        raise MissingExtensionError(
            f"the extension {quote(module)} is not installed, and what the save names, {quote(requirement)}, {what}",
            file=file,
            fix="A path, a URL or an option of pip can run anything. If you know what it is: "
            f"load(..., auto_install=[{quote(requirement)}]), or pip install it yourself.",
        )

    def check_size(self, wanted: int, justified: int) -> None:
        """Refuse a config that builds more than the state justifies.

        Raises
        ------
        LimitError
        """
        if wanted > justified + self.limits.built_bytes:
            raise LimitError(
                f"the config builds over {wanted:,} bytes of tensors and modules, and the save justifies {justified:,}",
                fix="Look at the sizes in config.yaml. If they are meant, allow them: "
                f"load(..., limits=Limits(built_bytes={2 * wanted})).",
            )


NO_TRUST = Trust()
_in_force: ContextVar[Trust | None] = ContextVar("trust in force", default=None)


def trust_in_force() -> Trust:
    """Return the policy of the load that is building now; outside a load, one that allows all."""
    return _in_force.get() or Trust(weights_only=False)
