"""The verbs that look into one save: tree, show, verify, untrusted."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flambe_save.cli.answers import DIFFERENT, SAME, TROUBLE, Answer
from flambe_save.cli.terminal import Row, Terminal, bar
from flambe_save.inspection import OpenSave, SavedNode, open_save
from flambe_save.inspection.documents import NODE_PARTS, describe_node, describe_save, document, is_part
from flambe_save.inspection.humanize import count_of, shape_of, short_number, size_of, sparkline
from flambe_save.inspection.opening import not_found
from flambe_save.layout import MANIFEST_FILE
from flambe_save.reading import verify
from flambe_save.support.progress import progress_of
from flambe_save.tree import join_prefix, place_key

_HEAD = "bold"
_BAD = "bold red"
_NOTE = "yellow"
_NAME = "cyan"
_FAINT = "dim"


def split_path(path: str) -> tuple[str, str]:
    """Return the path and the node of ``PATH#node``; an existing path has no node."""
    if "#" not in path or os.path.lexists(path):
        return path, ""
    for index in (index for index, char in enumerate(path) if char == "#"):
        if os.path.lexists(path[:index]):  # names of nodes and of tensors may hold a # too
            return path[:index], path[index + 1 :]
    where, _, node = path.partition("#")
    return where, node


def find_node(save: OpenSave, key: str) -> tuple[SavedNode, str]:
    """Return the component of a key, and the rest of the key inside it.

    The component holds the tensor, value or module of that key.

    Raises
    ------
    SaveNotFoundError
        If there is neither; the message names what is near.
    """
    if not key:
        return save, ""
    if key in save:
        return save[key], ""
    prefix, name = save.owner_of(key)
    node = save[prefix] if prefix else save
    names = [*node.tensors]
    if name not in names:
        names = [*dict.fromkeys([*names, *node.state])]
    if name in names or any(key.startswith(f"{name}.") for key in names):
        return node, name
    known = (join_prefix(prefix, last) for last in names)
    raise not_found(key, [*(item.prefix for item in save.walk()), *known], save.path)


# ------------------------------------------------------------------------------------------------ tree


def tree(arguments: argparse.Namespace) -> Answer:
    """List the components of a save."""
    path, key = split_path(arguments.path)
    with open_save(path, node=key) as save:
        described = describe_save(save, modules=arguments.modules)
    lines = _arranged(_with_modules(described), arguments.sort, arguments.depth)
    described["nodes"] = [row for _, row in lines if "module" not in row]
    described["modules"] = [row["module"] for _, row in lines if "module" in row]

    def to_terminal(terminal: Terminal) -> None:
        _show_save(described, terminal)
        terminal.line()
        _show_tree(lines, described, terminal)
        _show_notes(described, terminal)

    return Answer(described, to_terminal, TROUBLE if described["damage"] else SAME)


def _with_modules(described: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of components and of other modules, each with its parent."""
    if not described["modules"]:
        return list(described["nodes"])
    rows = list(described["nodes"])
    for module in described["modules"]:
        total = {key: module[key] for key in ("tensors", "parameters", "bytes", "dtypes", "devices")}
        plain: dict[str, Any] = {"class": "", "version": "", "trust": [], "problem": None}
        rows.append({**module, **plain, "node": module["name"], "total": total, "module": module})
    keys = {row["node"] for row in rows}
    return [{**row, "parent": place_key(row["node"], keys)[0] if row["node"] else None} for row in rows]


def _arranged(nodes: Sequence[Mapping[str, Any]], order: str, depth: int | None) -> list[tuple[str, Any]]:
    """Return each node with the lines of the tree before its name."""
    children: dict[str, list[Any]] = {}
    for node in nodes[1:]:
        children.setdefault(node["parent"], []).append(node)
    if order == "size":
        for beside in children.values():
            beside.sort(key=lambda node: -node["total"]["bytes"])
    found = []
    stack: list[tuple[str, str, Any, int]] = [("", "", node, 0) for node in nodes[:1]]
    while stack:
        before, below, node, level = stack.pop()
        found.append((before, node))
        inside = children.get(node["node"], []) if depth is None or level < depth else []
        for index, child in enumerate(reversed(inside)):
            corner, rest = ("└─ ", "   ") if not index else ("├─ ", "│  ")
            stack.append((below + corner, below + rest, child, level + 1))
    return found


def _show_save(described: Mapping[str, Any], terminal: Terminal) -> None:
    save = described["save"]
    packages = save["packages"]
    facts = [
        save["kind"],
        *([save["writer"]] if save["writer"] else []),
        *(f"{name} {packages[name]}" for name in ("torch",) if name in packages),
        size_of(save["bytes"]),
        {"sha256": "SHA-256"}.get(save["digest"], "checksums") if save["is_whole"] else "no checksums",
    ]
    node = f"#{described['root']}" if described["root"] else ""
    terminal.line((described["path"] + node, _HEAD), ": ", ", ".join(facts))


def _show_tree(lines: Iterable[tuple[str, Any]], described: Mapping[str, Any], terminal: Terminal) -> None:
    rows: list[Row] = [
        [(name, _FAINT) for name in ("component", "class", "version", "parameters", "bytes", "dtype", "device", "")]
    ]
    for before, node in lines:
        name = node["node"].removeprefix(f"{node['parent']}." if node["parent"] else "")
        asked = dict.fromkeys(text.partition(":")[0] for text in node["trust"])
        notes = [f"needs trust: {', '.join(asked)}"] if asked else []
        notes += ["damaged"] if node["problem"] else []
        rows.append(
            [
                terminal.drawing(before) + (name or _root_name(described["path"], described["root"])),
                (node["class"] or "-", _NAME),
                node["version"] or "-",
                f"{node['total']['parameters']:,}",
                size_of(node["total"]["bytes"]),
                " ".join(node["total"]["dtypes"]) or "-",
                " ".join(node["total"]["devices"]) or "-",
                ("; ".join(notes), _BAD if node["problem"] else _NOTE),
            ]
        )
    terminal.table(rows, right=(3, 4))


def _root_name(path: str, node: str) -> str:
    return node or os.path.basename(os.path.abspath(path))


def _show_notes(described: Mapping[str, Any], terminal: Terminal) -> None:
    if described["ties"]:
        terminal.line()
        for group in described["ties"]:
            terminal.line("one tensor: ", " = ".join(group))
    if described["damage"]:
        terminal.line()
        show_damage(described["damage"], terminal)


def merged(known: Iterable[dict[str, Any]], met: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the damage known before with the damage found, a row for each file and component."""
    rows: dict[Any, dict[str, Any]] = {}
    for row in [*known, *met]:
        rows.setdefault((row["node"], row["file"]), row)
    return [*rows.values()]


def show_damage(rows: Iterable[Mapping[str, Any]], terminal: Terminal) -> None:
    """Write the damage, a line for each file."""
    for row in rows:
        terminal.line(("damaged: ", _BAD), f"{row['file']}: " if row["file"] else "", row["problem"])


# ------------------------------------------------------------------------------------------------ show


def show(arguments: argparse.Namespace) -> Answer:
    """Show one component of a save, or one of its tensors."""
    path, key = split_path(arguments.path)
    with open_save(path) as save, bar("Reading") as shown, progress_of(shown, "Reading") as progress:
        node, name = find_node(save, key)
        if arguments.stats:
            chosen = (info.bytes or 0 for key, info in node.tensors.items() if is_part(key, name or None))
            progress.begin(sum(chosen))
        described = describe_node(node, name or None, statistics=arguments.stats, advance=progress.advance)
        known = [row._asdict() for row in save.damage if row.file == MANIFEST_FILE or row.node == node.prefix]
        known += [row._asdict() for row in save.damage if row.node is None and node is save]
        described["damage"] = merged(known, described["damage"])
    for part, field in NODE_PARTS.items() if arguments.only else ():
        if part not in arguments.only:
            described[field] = type(described[field])()
    found = document("show", path=save.path, **described)
    return Answer(found, lambda terminal: _show_node(found, terminal), TROUBLE if found["damage"] else SAME)


def _show_node(node: Mapping[str, Any], terminal: Terminal) -> None:
    held = node["name"] is not None
    name = (join_prefix(node["node"], node["name"]) if held else node["node"]) or _root_name(node["path"], "")
    terminal.line(
        (name, _HEAD),
        ": in " if held else ": ",
        (node["class"] or "a state", _NAME),
        f" {node['version']}".rstrip(),
        f" ({node['class_path']})" if node["class_path"] else "",
    )
    if not held:
        total = node["total"]
        own = "" if total["tensors"] == node["tensors"] else f", {node['parameters']:,} of them its own"
        terminal.line(f"{count_of(total['parameters'], 'parameter')}{own}, {size_of(total['bytes'])}")
        for text in node["trust"]:
            terminal.line(("needs trust: ", _NOTE), text)
    _show_text("config", node["config"], "yaml", terminal)
    _show_tensors(node["tensor_list"], terminal)
    for item in node["values"] if held else ():
        terminal.line((item["type"], _FAINT))
        terminal.code(item["value"], "python")
    for title, rows in (
        ("values", [[item["name"], item["type"], item["value"]] for item in node["values"] if not held]),
        ("stash", [[item["name"], item["type"]] for item in node["stash"]]),
    ):
        if rows:
            terminal.line()
            terminal.line((title, _HEAD))
            terminal.table(rows, indent="  ")
    _show_text("source", node["source"], "python", terminal)
    if node["damage"]:
        terminal.line()
        show_damage(node["damage"], terminal)


def _show_text(title: str, text: str, language: str, terminal: Terminal) -> None:
    if text.strip():
        terminal.line()
        terminal.line((title, _HEAD))
        terminal.code(text, language)


def _show_tensors(tensors: Sequence[Mapping[str, Any]], terminal: Terminal) -> None:
    if not tensors:
        return
    terminal.line()
    terminal.line(("tensors", _HEAD))
    has_statistics = any(item["statistics"] for item in tensors)
    counted = ("min", "max", "mean", "std", "NaN", "Inf", "zero", "norm", "histogram") if has_statistics else ()
    rows: list[Row] = [[(name, _FAINT) for name in ("name", "dtype", "shape", "bytes", "device", *counted)]]
    for item in tensors:
        row: list[Any] = [
            item["name"],
            item["dtype"],
            shape_of(item["shape"]),
            size_of(item["bytes"]),
            item["device"] or "-",
        ]
        if has_statistics:
            found = item["statistics"]
            numbers = (
                [found[key] for key in ("minimum", "maximum", "mean", "std", "nan", "inf", "zero", "norm")]
                if found
                else [None] * 8
            )
            row += [
                (_number(number), _BAD if name in ("NaN", "Inf") and number else "")
                for name, number in zip(counted, numbers, strict=False)
            ]
            row.append((terminal.drawing(sparkline(found["histogram"])) if found else "", _NAME))
        rows.append(row)
    terminal.table(rows, right=(3, 5, 6, 7, 8, 9, 10, 11, 12), indent="  ")


def _number(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else number if isinstance(number, str) else short_number(number)


# ------------------------------------------------------------------------------------------------ verify, untrusted


def verify_verb(arguments: argparse.Namespace) -> Answer:
    """Read a whole save and list what is damaged."""
    path, node = split_path(arguments.path)
    facts = ""
    if node:
        with open_save(path, node=node) as save:
            damage = save.verify()
    else:
        with bar("Verifying") as shown:
            damage = verify(path, progress=shown)
    if not damage:
        with open_save(path) as save:
            how = "every checksum matches" if save.is_vouched_for else "each file can be read; no checksums tell more"
            facts = f", {size_of(save.size)}, {how}" if not node else f", {how}"
    rows = [row._asdict() for row in damage]

    def to_terminal(terminal: Terminal) -> None:
        if rows:
            show_damage(rows, terminal)
        else:
            terminal.line(("whole: ", "bold green"), arguments.path, facts)

    return Answer(document("verify", path=path, node=node, damage=rows), to_terminal, TROUBLE if rows else SAME)


def untrusted_verb(arguments: argparse.Namespace) -> Answer:
    """List what a save asks for beyond data and imported classes."""
    from flambe_save.api import untrusted  # which needs torch

    path, node = split_path(arguments.path)
    rows = [row._asdict() for row in untrusted(path, node=node)]

    def to_terminal(terminal: Terminal) -> None:
        if not rows:
            terminal.line("nothing: a default load opens it, once its classes are imported")
        else:
            head = [(name, _FAINT) for name in ("component", "file", "asks for", "argument of load()")]
            terminal.table(
                [head, *([row["node"] or "-", row["file"] or "-", row["what"], row["argument"]] for row in rows)]
            )

    return Answer(document("untrusted", path=path, node=node, findings=rows), to_terminal, DIFFERENT if rows else SAME)
