"""Arguments of the command: its verbs and their options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from flambe_save._version import __version__
from flambe_save.inspection.documents import NODE_PARTS, PARTS

_VERBS = "VERB"  # the name of the group; argparse prints it
_EPILOG = """\
PATH is a save: a folder, a .tar.gz or a .pkl; or a folder inside one.
PATH#encoder.rnn is the component encoder.rnn of the save at PATH.

Nothing of a save is imported, built or run; nothing but data is unpickled.

Exit status: 0  the same; nothing found; done
             1  different; something found
             2  trouble: no save, a damaged one, or a wrong option

flambe-save VERB --help tells more.
"""
_PART = "a save, or PATH#NODE for a component in it"
_HELP = {"PATH": _PART, "A": _PART, "B": "the one that it is compared with", "PATH2": "one to compare it with"}


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; a parsed command has ``verb`` and the options of that verb."""
    parser = argparse.ArgumentParser(
        prog="flambe-save",
        description="Look into saves of flambe_save; compare and convert them.",
        epilog=_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"flambe_save {__version__}")
    parser.add_argument(
        "--completion", choices=["bash", "zsh", "tcsh"], help="print the completion of commands for a shell"
    )
    verbs = parser.add_subparsers(dest="verb", metavar=_VERBS, title="verbs")

    def verb(
        name: str, summary: str, more: str, *paths: str, helps: dict[str, str] | None = None, is_quiet: bool = False
    ) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n{more}".strip(),
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        for path in paths:
            bare = path.strip("?")
            told = {**_HELP, **(helps or {})}.get(bare)
            _takes_files(added.add_argument(bare.lower(), metavar=bare, nargs="?" if "?" in path else None, help=told))
        output = added.add_mutually_exclusive_group()
        output.add_argument("--json", action="store_true", help="print a document; docs/cli.md describes it")
        if is_quiet:
            output.add_argument(
                "-q", "--exit-code-only", action="store_true", help="print nothing; stop at the first difference"
            )
        return added

    tree = verb("tree", "list the components of a save", "No tensors are read.", "PATH")
    tree.add_argument("--depth", type=_count, metavar="N", help="no deeper than N components in each other")
    tree.add_argument("--modules", action="store_true", help="list modules that are not components too")
    tree.add_argument("--sort", choices=["name", "size"], default="name", help="order of those beside each other")

    show = verb(
        "show",
        "show a component, or one tensor",
        "That is its config, tensors, values, stash and source.",
        "PATH",
        helps={"PATH": "a save, or PATH#NODE; NODE is a component or a tensor"},
    )
    show.add_argument(
        "--only", choices=[*NODE_PARTS], action="append", default=[], help="show that part alone; may be repeated"
    )
    show.add_argument("--stats", action="store_true", help="read the tensors, and tell what is in them")

    diff = verb("diff", "compare two saves", "Nothing is printed where they are the same.", "A", "B", is_quiet=True)
    diff.add_argument("--atol", type=_tolerance, default=0.0, metavar="X", help="absolute difference to ignore")
    diff.add_argument("--rtol", type=_tolerance, default=0.0, metavar="X", help="relative difference to ignore")
    diff.add_argument("--only", choices=PARTS, action="append", default=[], help="compare that alone; may be repeated")

    verb("verify", "read a whole save, and list what is damaged", "Checksums and digests are compared.", "PATH")
    verb("untrusted", "list what a save asks for beyond data", "Each with the argument of load() for it.", "PATH")

    migrate = verb(
        "migrate",
        "tell what migrations would change, and do it",
        "Classes and migrations are those of the modules that --import names.",
        "PATH",
        helps={"PATH": "a whole save"},
    )
    migrate.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE", help="import it")
    migrate.add_argument("--write", action="store_true", help="replace the save")
    _takes_files(migrate.add_argument("-o", "--out", metavar="OUT", help="write the result there instead"))
    migrate.add_argument(
        "--trusted", action="append", default=[], metavar="NAME", help="what else may be unpickled, as in load()"
    )

    reseal = verb(
        "reseal",
        "write a new manifest for a save that was edited by hand",
        "All of it is read first, and what has changed is listed.",
        "PATH",
        helps={"PATH": "a whole save, in a folder"},
    )
    reseal.add_argument(
        "--dry-run", action="store_true", help="write nothing; the exit status says whether there are changes"
    )

    convert = verb(
        "convert",
        "write a save as another kind of file",
        "OUT ends in .tar.gz, .pkl, .pkl.tar.gz or .safetensors, or is a folder;\na slash at its end says so.",
        "PATH",
        "OUT",
        helps={"PATH": "a whole save, a .safetensors file, or one of torch.save"},
    )
    extract = verb(
        "extract",
        "write a component or a tensor as a file of its own",
        "OUT is named as for convert; for a tensor it ends in .npy or .safetensors.",
        "PATH",
        "OUT",
        helps={"PATH": "PATH#NODE; NODE is a component or a tensor"},
    )
    pack = verb(
        "pack",
        "put a folder into a .tar.gz, byte for byte",
        "OUT is by default PATH.tar.gz.",
        "PATH",
        "OUT?",
        helps={"PATH": "a whole save"},
    )
    unpack = verb(
        "unpack",
        "put a .tar.gz into a folder, byte for byte",
        "OUT is by default PATH without .tar.gz.",
        "PATH",
        "OUT?",
        helps={"PATH": "an archive"},
    )
    for writing in (convert, extract, pack, unpack):
        writing.add_argument("--overwrite", action="store_true", help="replace what is there")
    for packing in (convert, pack):
        packing.add_argument("--level", type=int, choices=range(10), metavar="0-9", help="of the compression")

    report = verb("report", "write a page (HTML) about a save, or two", "", "PATH", "PATH2?")
    _takes_files(report.add_argument("-o", "--out", required=True, metavar="PAGE.html", help="the file to write"))
    report.add_argument("--overwrite", action="store_true", help="replace what is there")
    view = verb("view", "show that page in the browser", "It is served to this machine alone.", "PATH", "PATH2?")
    view.add_argument("--port", type=int, default=0, help="by default any that is free")
    view.add_argument("--no-browser", action="store_true", help="only print the address")
    for paging in (report, view):
        paging.add_argument("--no-stats", action="store_true", help="read no tensors")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse arguments; for an unknown verb, end with the verbs that are near."""
    verbs = next(action.choices for action in parser._actions if action.metavar == _VERBS)
    assert isinstance(verbs, dict), "the parsers of the verbs by their names"
    first = argv[0] if argv else ""
    if first and not first.startswith("-") and first not in verbs:
        from difflib import get_close_matches

        near = get_close_matches(first, verbs, n=3) or list(verbs)
        parser.error(f"there is no verb {first!r}; near are: {', '.join(near)}")
    return parser.parse_args(argv)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not 0, or a number above")
    return int(text)


def _tolerance(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not 0, or a number above")
    return number


def _takes_files(argument: argparse.Action) -> None:
    """Note that a shell completes an argument with the names of files."""
    argument.takes_files = True  # type: ignore[attr-defined]
