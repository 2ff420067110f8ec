"""Extensions: the packages that a config's first document names. Importing one needs trust."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flambe_save import questions
from flambe_save.classes.renames import is_moved
from flambe_save.errors import MissingExtensionError, quote
from flambe_save.questions import Question
from flambe_save.trust import Trust

_ALWAYS_THERE = ("__main__", "torch", "flambe_save")


def questions_of_extensions(extensions: Mapping[str, str], file: str | None = None) -> Iterator[Question]:
    """Yield a question for each extension that is not imported.

    ``extensions`` maps modules to local paths or requirements that pip understands.

    Raises
    ------
    MissingExtensionError
        If one is not the name of a module.
    """
    for module, requirement in _absent(extensions).items():
        if not all(part.isidentifier() for part in module.split(".")):
            raise _missing(module, requirement, "that is not the name of a module", file)
        yield questions.extension(module, requirement)


def _absent(extensions: Mapping[str, str]) -> dict[str, str]:
    return {module: requirement for module, requirement in extensions.items() if module not in sys.modules}


def import_extensions(extensions: Mapping[str, str], trust: Trust, file: str | None = None) -> bool:
    """Import allowed extensions that are not imported yet; return whether there were any.

    With ``trust.auto_install``, a missing module is installed first, by a name and versions or as the caller has
    listed. An audit imports nothing.

    Raises
    ------
    MissingExtensionError
        If a module cannot be imported, or cannot be installed.
    """
    absent = _absent(extensions) if trust.findings is None else {}
    for module, requirement in absent.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # the module's own code may raise anything
            is_absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
            if not (is_absent and (trust.auto_install or trust.installable)):
                raise _missing(module, requirement, f"{type(error).__name__}: {error}", file) from error
            trust.check_install(module, requirement, file=file)
            _install(module, requirement, file, is_listed=requirement in trust.installable)
            importlib.invalidate_caches()
            try:
                importlib.import_module(module)
            except Exception as again:
                raise _missing(module, requirement, f"installed, but {again}", file) from again
    return bool(absent)


def import_trusted(tags: Iterable[str], recorded: Mapping[str, str], trust: Trust) -> bool:
    """Import the modules of tags' classes where they are trusted; return whether any were.

    ``recorded`` has the dotted paths of tags. Without a record, a tag's namespace is its module.
    """
    found = False
    for tag in tags if trust.findings is None else ():
        path = recorded.get(tag, tag)
        parts = path.split(".")[:-1]
        has_moved = is_moved(tag, recorded.get(tag))  # to a class that is imported
        if parts and trust.allows(path) and parts[0] not in _ALWAYS_THERE and not has_moved:
            _import_outer(parts)
            found = True
    return found


def _import_outer(parts: list[str]) -> None:
    """Import the module of a class, which may be nested in other classes or in a function.

    Raises
    ------
    MissingExtensionError
        If it is not found, or it raises.
    """
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            is_inner = count > 1 and error.name is not None and f"{module}.".startswith(f"{error.name}.")
            if not is_inner:
                raise _cannot_import(module, error) from error
        except Exception as error:  # the module's own code may raise anything
            raise _cannot_import(module, error) from error
        else:
            return


def _cannot_import(module: str, error: Exception) -> MissingExtensionError:
    return MissingExtensionError(
        f"the trusted module {quote(module)} cannot be imported: {type(error).__name__}: {str(error)[:200]}",
        fix="Repair it. If it is gone: load(..., use_saved_source=True) runs the classes' source in the save instead.",
    )


def _install(module: str, requirement: str, file: str | None, *, is_listed: bool) -> None:
    target = [requirement]
    if is_listed and requirement.startswith("-"):
        target = shlex.split(requirement)
    elif is_listed and (local := Path(requirement).expanduser()).exists():
        target = [str(local.resolve())]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *target]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise _missing(module, requirement, f"pip failed: {result.stderr.strip()[-400:]}", file)


def _missing(module: str, requirement: str, why: str, file: str | None) -> MissingExtensionError:
    return MissingExtensionError(
        f"the extension {module!r} cannot be used: {why}", file=file, fix=f"pip install {requirement!r}"
    )
