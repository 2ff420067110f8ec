"""Command ``flambe-save`` (``python -m flambe_save``): inspects, compares, converts saves.

A verb returns an :class:`~flambe_save.cli.answers.Answer`; it is printed here, as errors are.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Sequence

from flambe_save.cli.answers import TROUBLE, Answer
from flambe_save.cli.arguments import make_parser, parse
from flambe_save.cli.terminal import Terminal
from flambe_save.errors import FlambeSaveError, FlambeSaveWarning, plain, quote
from flambe_save.inspection.documents import document
from flambe_save.support.parallel import CollectionPaused
from flambe_save.support.undoing import takes_back

__all__ = ["main"]

# Verb -> module and function; a module is imported when one of its verbs is asked for
_VERBS = {
    "tree": ("looking", "tree"),
    "show": ("looking", "show"),
    "verify": ("looking", "verify_verb"),
    "untrusted": ("looking", "untrusted_verb"),
    "diff": ("comparing", "diff"),
    "migrate": ("changing", "migrate_verb"),
    "reseal": ("changing", "reseal_verb"),
    "convert": ("changing", "convert_verb"),
    "extract": ("changing", "extract_verb"),
    "pack": ("changing", "pack_verb"),
    "unpack": ("changing", "unpack_verb"),
    "report": ("paging", "report"),
    "view": ("paging", "view"),
}
# As a shell has it for what a signal ended
_INTERRUPTED, _PIPE_CLOSED = 130, 141
# Words of the functions' errors -> what is typed here
_TYPED = {
    "overwrite=True": "--overwrite",
    "unpack(path, out)": "flambe-save unpack PATH OUT",
    "convert(...": "this command never unpickles it; in Python: flambe_save.conversion.convert(PATH, OUT",
    "extract(...": "this command never unpickles it; in Python: flambe_save.conversion.extract(PATH, NODE, OUT",
}


@takes_back
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the program.
    """
    if getattr(sys, "stdout", None) is None:  # the shell's `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    parser = make_parser()
    arguments = parse(parser, sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _complain(f"warning: {message}")
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", FlambeSaveWarning)
            if arguments.completion:
                return _complete(parser, arguments.completion)
            if arguments.verb is None:
                parser.print_help(sys.stderr)
                return TROUBLE
            module, function = _VERBS[arguments.verb]
            run = getattr(importlib.import_module(f"flambe_save.cli.{module}"), function)
            with CollectionPaused():
                answer: Answer = run(arguments)
                _print(answer, is_json=arguments.json)
            answer.then()
        return answer.code
    except BrokenPipeError:  # the reader of the output has seen enough
        _give_up_output()
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except FlambeSaveError as error:
        return _fail(arguments, error, _placed(error))
    except OSError as error:
        text = error.strerror or str(error)
        return _fail(arguments, error, f"{text}: {error.filename}" if error.filename else text)
    except ValueError as error:
        return _fail(arguments, error, str(error))
    except Exception as error:  # a mistake in this package; Python's own code for it would mean "different"
        import traceback

        return _fail(arguments, error, f"this is a bug in flambe_save\n{traceback.format_exc()}")


def _print(answer: Answer, *, is_json: bool) -> None:
    if is_json:
        print(json.dumps(answer.document, indent=2))
    else:
        answer.show(Terminal())
    sys.stdout.flush()


def _complete(parser: argparse.ArgumentParser, shell: str) -> int:
    try:
        import shtab
    except ImportError:
        _complain("--completion needs shtab: pip install 'flambe_save[cli]'")
        return TROUBLE
    waiting = [parser]
    for one in waiting:
        for argument in one._actions:
            if getattr(argument, "takes_files", False):
                argument.complete = shtab.FILE  # type: ignore[attr-defined]
            if isinstance(argument.choices, dict):  # the parsers of verbs
                waiting += argument.choices.values()
    print(shtab.complete(parser, shell))
    sys.stdout.flush()
    return 0


# ------------------------------------------------------------------------------------------------ errors


def _fail(arguments: argparse.Namespace, error: Exception, text: str) -> int:
    """Report an error: as text on the standard error output, and as a document if asked for."""
    fix, node, file = (getattr(error, name, None) for name in ("fix", "node", "file"))  # of errors of ours
    text, fix = _short(text), _typed(_short(fix)) if fix else None
    _complain(f"{text}\n  {fix}" if fix else text)
    if getattr(arguments, "json", False):
        what = {"type": type(error).__name__, "message": text, "fix": fix, "node": node, "file": file}
        try:
            print(json.dumps(document(arguments.verb, error=what), indent=2), flush=True)
        except OSError:
            _give_up_output()
    else:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            return TROUBLE
        _give_up_output()
    return TROUBLE


def _placed(error: FlambeSaveError) -> str:
    """Return an error's message, with the place of the error if the message lacks it."""
    places = {"component": error.node, "file": error.file}
    missing = [f"{what} {quote(name)}" for what, name in places.items() if name and quote(name) not in error.message]
    return f"{error.message} ({', '.join(missing)})" if missing else error.message


def _short(text: str) -> str:
    return str(FlambeSaveError(text))  # which cuts it, and writes control characters out


def _typed(fix: str) -> str:
    for ours, theirs in _TYPED.items():
        fix = fix.replace(ours, theirs)
    return fix.replace("\n", "\n  ")


def _give_up_output() -> None:
    """Discard the output still to be printed, so that Python does not fail on it at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"flambe-save: {plain(text)}", file=sys.stderr)
