"""The verbs of the page: report writes it, view shows it in the browser."""

from __future__ import annotations

import argparse
import contextlib
import os
import webbrowser
from typing import Any

from flambe_save.cli.answers import SAME, TROUBLE, Answer
from flambe_save.cli.looking import merged, show_damage, split_path
from flambe_save.cli.terminal import Terminal, bar
from flambe_save.errors import SaveError
from flambe_save.inspection import changes, open_save
from flambe_save.inspection.documents import describe_diff, describe_node, describe_save, document
from flambe_save.page import PageServer, render
from flambe_save.storage import FileStore, local_path
from flambe_save.support.progress import progress_of


def make_report(path: str, other: str | None, *, statistics: bool) -> dict[str, Any]:
    """Return the documents of the page: those of a save, or of two and their difference."""
    paths = [path] if other is None else [path, other]
    with contextlib.ExitStack() as closing:
        saves = []
        for name in paths:
            where, node = split_path(name)
            saves.append(closing.enter_context(open_save(where, node=node)))
        sizes = [save.total.bytes for save in saves]
        progress = closing.enter_context(progress_of(closing.enter_context(bar("Reading")), "Reading"))
        progress.begin(sum(sizes) * statistics + sizes[0] * (len(saves) - 1))
        described = []
        for save in saves:
            details = {
                node.prefix: describe_node(node, statistics=statistics, advance=progress.advance)
                for node in save.walk()
            }
            tree = describe_save(save)
            met = [row for node in details.values() for row in node["damage"]]
            met += [row._asdict() for row in save.verify()] if statistics else []
            found = {"damage": merged(tree["damage"], met), "is_verified": statistics}
            described.append({**tree, **found, "details": details})
        difference = None
        if other is not None:
            difference = describe_diff(path, other, changes(*saves, advance=progress.advance))
    return {"saves": described, "difference": difference}


def report(arguments: argparse.Namespace) -> Answer:
    """Write the page to a file."""
    made = make_report(arguments.path, arguments.path2, statistics=not arguments.no_stats)
    out = local_path(arguments.out, SaveError)
    if os.path.isdir(out):
        raise SaveError(f"{out!r} is a folder, and the page is a file", file=out, fix="Name a file: -o page.html")
    page = render(made).encode()
    with FileStore(out, "w", overwrite=arguments.overwrite, size=len(page)) as store, store.writer("") as file:
        file.write(page)
    found = document("report", path=arguments.path, written=out)

    def to_terminal(terminal: Terminal) -> None:
        for save in made["saves"]:
            show_damage(save["damage"], terminal)
        terminal.line("written: ", out)

    return Answer(found, to_terminal, _code(made))


def view(arguments: argparse.Namespace) -> Answer:
    """Serve the page until an interrupt."""
    made = make_report(arguments.path, arguments.path2, statistics=not arguments.no_stats)
    server = PageServer(render(made), arguments.port)

    def serve() -> None:
        with server, contextlib.suppress(KeyboardInterrupt):
            if not arguments.no_browser:
                webbrowser.open(server.url)
            server.serve_forever()

    found = document("view", path=arguments.path, url=server.url)
    return Answer(found, lambda terminal: terminal.line(server.url, "  (Ctrl-C ends it)"), _code(made), serve)


def _code(made: dict[str, Any]) -> int:
    changed = made["difference"]["changes"] if made["difference"] is not None else ()
    is_damaged = any(save["damage"] for save in made["saves"]) or any(row["part"] == "damage" for row in changed)
    return TROUBLE if is_damaged else SAME
