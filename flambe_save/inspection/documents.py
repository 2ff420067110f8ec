"""Saves as plain documents: the command prints them as JSON or text; the page shows them.

docs/cli.md describes them, docs/cli.schema.json is their schema, and SCHEMA is its number.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flambe_save._version import __version__
from flambe_save.errors import LoadError, UntrustedError
from flambe_save.inspection.humanize import all_of, value_of
from flambe_save.inspection.nodes import SavedNode
from flambe_save.inspection.opening import OpenSave
from flambe_save.inspection.totals import Tally
from flambe_save.support.parallel import CollectionPaused
from flambe_save.tree import join_prefix

if TYPE_CHECKING:
    from flambe_save.inspection.difference import Change

SCHEMA = 1  # of the documents; a field that goes, or means something else, makes it another one

# Parts of a node's document that ``tree`` does not have -> their fields
NODE_PARTS = {"config": "config", "tensors": "tensor_list", "values": "values", "stash": "stash", "source": "source"}
PARTS = ("state", "config", "source")  # what `only` of diff can choose

Advance = Callable[[int], None]


def document(verb: str, **fields: Any) -> dict[str, Any]:
    """Return the document of a verb; NaN and infinities are ``"nan"``, ``"inf"`` and ``"-inf"``."""
    return {"flambe_save": __version__, "schema": SCHEMA, "verb": verb, **fields}


def describe_save(save: OpenSave, *, modules: bool = False) -> dict[str, Any]:
    """Return the document of ``tree``: a save and its components; no tensor is read.

    With ``modules``, modules that are not components are described too, by the keys of their tensors.
    """
    problems: dict[str | None, str] = {}
    for row in save.damage:
        problems.setdefault(row.node, f"{row.file}: {row.problem}")
    with CollectionPaused():
        nodes = [_describe_briefly(node, problems.get(node.prefix)) for node in save.walk()]
    found = [
        {"node": node["node"], "file": None, "problem": node["problem"]}
        for node in nodes
        if node["problem"] and node["node"] not in problems
    ]
    return document(
        "tree",
        path=save.path,
        root=save.node,
        save={
            "kind": save.kind,
            "writer": save.writer,
            "protocol": save.protocol,
            "is_whole": save.is_vouched_for,
            "digest": save.digest,
            "packages": save.packages,
            "classes": sorted(set(save.tags.values())),
            "bytes": save.size,
        },
        nodes=nodes,
        modules=[row for node in save.walk() for row in _modules_in(node)] if modules else [],
        ties=save.ties,
        damage=[row._asdict() for row in save.damage] + found,
    )


def _describe_briefly(node: SavedNode, problem: str | None) -> dict[str, Any]:
    name, version, asks = "", "", list[str]()
    try:
        name, version = node.class_name, node.version
        node.tensors  # noqa: B018  # raises an error if they are damaged
        asks = node.needs_trust
    except LoadError as error:
        problem = problem or f"{error.file}: {error.message}"
    return {
        "node": node.prefix,
        "parent": node.parent.prefix if node.parent is not None else None,
        "class": name,
        "class_path": node.class_path if name else None,
        "version": version,
        **node.own._asdict(),
        "total": node.total._asdict(),
        "trust": asks,
        "problem": problem,
    }


def _modules_in(node: SavedNode) -> list[dict[str, Any]]:
    found: dict[str, Tally] = {}
    with contextlib.suppress(LoadError):
        for name, info in node.tensors.items():
            here = name.find(".")
            while here >= 0:
                found.setdefault(join_prefix(node.prefix, name[:here]), Tally()).add(info)
                here = name.find(".", here + 1)
    return [{"name": key, "node": node.prefix, **tally.totals()._asdict()} for key, tally in found.items()]


def describe_node(
    node: SavedNode, name: str | None = None, *, statistics: bool = False, advance: Advance = lambda count: None
) -> dict[str, Any]:
    """Return the document of a component: its row in ``tree``, its texts, its files' contents.

    ``name`` is that of a tensor, a value or a module in its state, to describe that alone. With ``statistics`` the
    tensors are read, and ``advance`` is called with counts of bytes.
    """
    damage: list[dict[str, Any]] = []

    def read(what: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return what()
        except LoadError as error:
            row = {"node": node.prefix, "file": error.file, "problem": error.message}
            damage.extend([row] if row not in damage else [])
            return otherwise

    def measure(name: str) -> dict[str, Any] | None:
        try:
            return _numbers(node.statistics(name, advance=advance))
        except (TypeError, UntrustedError):
            return None

    def shown(name: str) -> Any:
        try:
            return node.state[name]
        except UntrustedError:
            return None

    brief = _describe_briefly(node, None)
    tensors = []
    for key, info in read(lambda: node.tensors, {}).items():
        if is_part(key, name):
            found = read(functools.partial(measure, key), None) if statistics else None
            tensors.append({"name": key, **info._asdict(), "statistics": found})
    values = []
    for key, kind in read(node.state.types, {}).items():
        if kind != "torch.Tensor" and is_part(key, name):
            value = read(functools.partial(shown, key), None)
            shown_value = value_of(value) if name is None else all_of(value)
            values.append({"name": key, "type": kind, "value": shown_value})
    stash, texts = [], {"config": "", "source": ""}
    if name is None:
        stash = [{"name": key, "type": kind} for key, kind in read(node.stash.types, {}).items()]
        texts = {"config": read(lambda: node.config, ""), "source": read(lambda: node.source, "")}
    if damage and brief["problem"] is None:
        brief["problem"] = "; ".join(f"{row['file']}: {row['problem']}" for row in damage)
    return {
        **brief,
        "name": name,
        **texts,
        "stash": stash,
        "values": values,
        "tensor_list": tensors,
        "damage": damage,
    }


def is_part(key: str, name: str | None) -> bool:
    """Whether a key has this name, or is inside the module of this name; None is the whole."""
    return name is None or key == name or key.startswith(f"{name}.")


def describe_diff(a: str, b: str, changes: Iterable[Change]) -> dict[str, Any]:
    """Return the document of ``diff``."""
    rows = [{**vars(change), "measures": change.measures and _numbers(change.measures)} for change in changes]
    return document("diff", a=a, b=b, changes=rows)


def _numbers(item: Any) -> dict[str, Any]:
    """Return the fields of numbers; numbers that JSON lacks are texts."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in vars(item).items()
    }
