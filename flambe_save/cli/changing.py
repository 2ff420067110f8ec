"""The verbs that write saves: migrate, reseal, convert, extract, pack, unpack."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from flambe_save import conversion
from flambe_save.cli.answers import DIFFERENT, SAME, Answer
from flambe_save.cli.looking import split_path
from flambe_save.cli.terminal import Terminal, bar
from flambe_save.errors import FlambeSaveError, SaveError
from flambe_save.inspection.documents import document


def migrate_verb(arguments: argparse.Namespace) -> Answer:
    """Report the changes of migrations, and make them if asked."""
    from flambe_save.migrating import migrate  # which needs torch

    is_dry = not (arguments.write or arguments.out)
    if arguments.imports:
        sys.path.insert(0, os.getcwd())  # as `python -m` has it
    for name in arguments.imports:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module raises
            raise FlambeSaveError(f"--import {name}: {type(error).__name__}: {error}") from error
    rows = migrate(arguments.path, arguments.out, dry_run=is_dry, trusted=arguments.trusted)
    found = [row._asdict() for row in rows]
    written = None if is_dry or not rows else arguments.out or arguments.path
    described = document("migrate", path=arguments.path, changes=found, written=written)
    return Answer(
        described,
        lambda terminal: _show(described, terminal, has_classes=bool(arguments.imports)),
        DIFFERENT if rows and is_dry else SAME,
    )


def _show(described: dict[str, Any], terminal: Terminal, *, has_classes: bool) -> None:
    rows = described["changes"]
    if not rows:
        which = "all components whose classes are imported are up to date" if has_classes else "no class is known here"
        terminal.line(f"nothing to migrate, and nothing was written: {which}")
        if not has_classes:
            terminal.line("name the modules of its classes with --import")
        return
    head = [(name, "dim") for name in ("component", "class", "version")]
    terminal.table([head, *([row["node"] or "-", row["class_name"], _step(row)] for row in rows)])
    written = described["written"]
    terminal.line()
    terminal.line(f"written to {written}" if written else "nothing was written; --write replaces the save")


def _step(row: dict[str, str]) -> str:
    return f"{row['before']} -> {row['after']}" if row["before"] != row["after"] else f"{row['after']}, names alone"


def _refuse_component(path: str) -> None:
    """Refuse the path of a component, where only whole saves are taken."""
    where, node = split_path(path)
    if node:
        raise SaveError(
            f"{path!r} is a component, and this verb takes whole saves",
            file=where,
            fix=f"A component is written by: flambe-save extract {path} OUT",
        )


def reseal_verb(arguments: argparse.Namespace) -> Answer:
    """Report the edits, and write a new manifest."""
    _refuse_component(arguments.path)
    rows = [row._asdict() for row in conversion.reseal(arguments.path, dry_run=arguments.dry_run)]
    written = arguments.path if rows and not arguments.dry_run else None
    found = document("reseal", path=arguments.path, changes=rows, written=written)

    def show(terminal: Terminal) -> None:
        if not rows:
            terminal.line("nothing has changed, and nothing was written")
            return
        head = [(name, "dim") for name in ("component", "file", "change")]
        terminal.table([head, *([row["node"] or "-", row["file"], row["change"]] for row in rows)])
        terminal.line()
        terminal.line("the manifest is new" if written else "nothing was written")

    return Answer(found, show, DIFFERENT if rows and arguments.dry_run else SAME)


def convert_verb(arguments: argparse.Namespace) -> Answer:
    """Write a save as another container."""
    _refuse_component(arguments.path)
    return _written(arguments, conversion.convert, arguments.path, level=arguments.level)


def extract_verb(arguments: argparse.Namespace) -> Answer:
    """Write a component as a save of its own, or a tensor as a file."""
    return _written(arguments, conversion.extract, *split_path(arguments.path))


def pack_verb(arguments: argparse.Namespace) -> Answer:
    """Put a folder into an archive."""
    _refuse_component(arguments.path)
    return _written(arguments, conversion.pack, arguments.path, level=arguments.level)


def unpack_verb(arguments: argparse.Namespace) -> Answer:
    """Take a save out of an archive."""
    _refuse_component(arguments.path)
    return _written(arguments, conversion.unpack, arguments.path)


def _written(arguments: argparse.Namespace, write: Callable[..., str], *source: str, **options: Any) -> Answer:
    """Write a save under a bar, and report its path."""
    verb: str = arguments.verb
    with bar(f"{verb.capitalize()}ing") as shown:
        out = write(*source, arguments.out, overwrite=arguments.overwrite, progress=shown, **options)
    return Answer(document(verb, path=arguments.path, written=out), lambda terminal: terminal.line("written: ", out))
