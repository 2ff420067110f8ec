"""What the command takes: its verbs and their options."""

from __future__ import annotations

import argparse

from flambe_save._version import __version__
from flambe_save.inspection.difference import PARTS

__all__ = ["make_parser"]

_EPILOG = """\
Nothing of a save is imported, built or run, and nothing but data is unpickled.
PATH is a folder, a .tar.gz, a .pkl, or any folder inside a save; PATH#encoder.rnn is a component in it.

Exit status: 0 the same, or nothing found; 1 differences, or something found; 2 trouble: no save, or a damaged one.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; a parsed command has ``verb`` and the options of that verb."""
    parser = argparse.ArgumentParser(
        prog="flambe-save",
        description="Look into saves of flambe_save, compare and convert them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flambe_save {__version__}")
    parser.add_argument(
        "--completion", choices=["bash", "zsh", "tcsh"], help="print what completes commands in that shell, and end"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")

    def verb(name: str, summary: str, *paths: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        for path in paths:
            _complete(
                added.add_argument(path.strip("?").lower(), metavar=path.strip("?"), nargs="?" if "?" in path else None)
            )
        added.add_argument("--json", action="store_true", help="print a document, as docs/cli.md describes it")
        return added

    tree = verb("tree", "list the components of a save, with what they hold", "PATH")
    tree.add_argument("--depth", type=int, metavar="N", help="no deeper than N components inside each other")
    tree.add_argument("--sort", choices=["name", "size"], default="name", help="order of components beside each other")

    show = verb("show", "show a component, or one tensor: config, tensors, values, stash, source", "PATH")
    show.add_argument("--stats", action="store_true", help="read the tensors, and tell what is in them")

    diff = verb("diff", "compare two saves", "A", "B")
    diff.add_argument("--exit-code-only", action="store_true", help="print nothing, and end at the first difference")
    diff.add_argument("--atol", type=float, default=0.0, metavar="X", help="absolute difference that does not count")
    diff.add_argument("--rtol", type=float, default=0.0, metavar="X", help="relative difference that does not count")
    diff.add_argument("--only", choices=PARTS, action="append", default=[], help="compare that alone; may be repeated")

    verb("verify", "read a whole save, and list what is damaged", "PATH")
    verb("untrusted", "list what a save asks for beyond data and imported classes", "PATH")

    migrate = verb("migrate", "tell what migrations of its classes would change, and do it with --write", "PATH")
    migrate.add_argument("--write", action="store_true", help="replace the save")
    _complete(migrate.add_argument("-o", "--out", metavar="OUT", help="write the result there instead"))
    migrate.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module that has the classes and their migrations: the only code of anybody else's that is run",
    )
    migrate.add_argument("--trusted", action="append", default=[], metavar="NAME", help="as the argument of migrate()")

    convert = verb(
        "convert", "write a save as a folder, .tar.gz, .pkl or .safetensors; reads torch.save files too", "PATH", "OUT"
    )
    extract = verb(
        "extract", "write a component, PATH#NODE, as its own save, or a tensor as .npy or .safetensors", "PATH", "OUT"
    )
    pack = verb("pack", "put a folder into a .tar.gz", "PATH", "OUT?")
    unpack = verb("unpack", "put a .tar.gz into a folder", "PATH", "OUT?")
    for writing in (convert, extract, pack, unpack):
        writing.add_argument("--overwrite", action="store_true", help="replace what is there")
    for packing in (convert, pack):
        packing.add_argument("--level", type=int, choices=range(10), metavar="0-9", help="of the compression")

    report = verb("report", "write one HTML page about a save, or about two and their difference", "PATH", "PATH2?")
    _complete(report.add_argument("-o", "--out", required=True, metavar="PAGE.html"))
    report.add_argument("--overwrite", action="store_true", help="replace what is there")
    view = verb("view", "serve that page to this machine, and open the browser", "PATH", "PATH2?")
    view.add_argument("--port", type=int, default=0, help="by default any that is free")
    view.add_argument("--no-browser", action="store_true", help="only print the address")
    for paging in (report, view):
        paging.add_argument("--no-stats", action="store_true", help="read no tensors")
    return parser


def _complete(argument: argparse.Action) -> argparse.Action:
    """Say that a shell completes an argument with the names of files."""
    try:
        import shtab
    except ImportError:
        return argument
    argument.complete = shtab.FILE  # type: ignore[attr-defined]
    return argument
