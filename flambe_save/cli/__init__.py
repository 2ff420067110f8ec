"""The command ``flambe-save``, also ``python -m flambe_save``: it looks into saves, compares and converts them.

A verb gives an :class:`~flambe_save.cli.answers.Answer`; this is where it is printed, and where errors end.
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
from flambe_save.cli.arguments import make_parser
from flambe_save.cli.terminal import Terminal
from flambe_save.errors import FlambeSaveError, plain

__all__ = ["main"]

# Verb -> module and function; a module is imported when one of its verbs is asked for
_VERBS = {
    "tree": ("looking", "tree"),
    "show": ("looking", "show"),
    "verify": ("looking", "verify_verb"),
    "untrusted": ("looking", "untrusted_verb"),
    "diff": ("comparing", "diff"),
    "migrate": ("changing", "migrate_verb"),
    "convert": ("changing", "convert_verb"),
    "extract": ("changing", "extract_verb"),
    "pack": ("changing", "pack_verb"),
    "unpack": ("changing", "unpack_verb"),
    "report": ("paging", "report"),
    "view": ("paging", "view"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the program.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _complain(f"warning: {message}")
            warnings.simplefilter("always")
            if arguments.completion:
                return _complete(parser, arguments.completion)
            if arguments.verb is None:
                parser.print_help(sys.stderr)
                return TROUBLE
            module, function = _VERBS[arguments.verb]
            answer: Answer = getattr(importlib.import_module(f"flambe_save.cli.{module}"), function)(arguments)
            _print(answer, is_json=arguments.json)
            answer.then()
        return answer.code
    except FlambeSaveError as error:
        _complain(str(error))
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return TROUBLE
        _complain(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        return 130
    return TROUBLE


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
    print(shtab.complete(parser, shell))
    return 0


def _complain(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"flambe-save: {plain(text)}", file=sys.stderr)
