"""Loading: the steps of a load, each once: read the save, put what it asks for to the caller's trust, build.

api.py has the public functions that take them; an audit takes all of them but the last.
"""

from __future__ import annotations

import ast
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import Any

import torch

from flambe_save.adapters import Adoption, close_cycles
from flambe_save.classes.extensions import import_extensions, import_trusted, questions_of_extensions
from flambe_save.classes.saved_source import define_classes
from flambe_save.classes.tags import TAGS
from flambe_save.codecs import check_referring, load_referring
from flambe_save.config.nodes import Document, parse, split_documents
from flambe_save.deferred_init.budget import BuildBudget
from flambe_save.deferred_init.mode import DeferredInit
from flambe_save.errors import (
    CompilationError,
    Finding,
    FlambeSaveError,
    LoadError,
    MissingExtensionError,
    RegistrationError,
    SaveNotFoundError,
    StateMismatchWarning,
    UntrustedError,
    quote,
    quote_some,
    warn,
)
from flambe_save.formats import Contents, ReadOptions, Saved, format_of
from flambe_save.layout import CONFIG_FILE, STASH_FILE
from flambe_save.objects.assembly import PARTS, noting
from flambe_save.objects.attributes import values_in
from flambe_save.pt import LoadOptions, MapLocation
from flambe_save.questions import EVERYTHING
from flambe_save.reading import errors_of, read, reading
from flambe_save.schema.audit import contradiction, questions_of_arguments, questions_of_tags
from flambe_save.schema.building import build as build_config
from flambe_save.schema.construct import construct
from flambe_save.schema.layers import Layers, shows_to_code
from flambe_save.schema.link import BackLink
from flambe_save.schema.overrides import override
from flambe_save.schema.own_names import NAMING_TAGS
from flambe_save.schema.pickled import opened_by
from flambe_save.schema.reference import Sources
from flambe_save.schema.schema import Schema, items_in
from flambe_save.schema.select import find_part, is_value, part_of, tensor_keys
from flambe_save.state import split_key
from flambe_save.storage import open_store, whole_save
from flambe_save.tree import SaveTreeNode, prefix_within, prefixed, state_from_tree, walk
from flambe_save.trust import Trust, door_of

__all__ = [
    "ask_of_config",
    "audit",
    "build",
    "bytes_of",
    "check_values",
    "door_to",
    "module_inside",
    "names_in",
    "read_value",
    "telling",
]


def module_inside(obj: Any, name: str, node: str, where: str) -> torch.nn.Module:
    """Return a module inside a loaded object.

    Raises
    ------
    SaveNotFoundError
        If there is none of that name.
    """
    found = obj
    for part in split_key(name):
        found = found._modules.get(part) if isinstance(found, torch.nn.Module) else None
    if not isinstance(found, torch.nn.Module):
        raise SaveNotFoundError(
            f"the save has no node {quote(node)}",
            file=where,
            fix="Nodes are components, and modules inside them; flambe-save tree --modules lists them.",
        )
    return found


def read_value(path: str | os.PathLike[str], node: str, options: LoadOptions) -> tuple[Any] | None:
    """Read one value out of a config alone: only its own tensors are read, and only its own classes need trust.

    Returns
    -------
    tuple of object, or None
        None where the key names no value: a module, or nothing.

    Raises
    ------
    LoadError
        If the value holds components, or refers to what is outside of it.
    """
    where = os.fspath(path)

    def attempt() -> tuple[Any] | None:
        root, folder = whole_save(path)
        with open_store(root, options.trust.limits, threads=options.threads) as store:
            contents = format_of(store, where).inspect(store, ReadOptions(options, "", where))
            begin = contents.folders.get(folder) if folder else ""
            return None if begin is None else _value_in(contents, prefix_within(begin, node), path, node, options)

    return reading(attempt, where)


def _value_in(
    contents: Contents, full: str, path: str | os.PathLike[str], node: str, options: LoadOptions
) -> tuple[Any] | None:
    names: list[str] = []
    outer = full
    while outer not in contents.nodes:
        outer, _, name = outer.rpartition(".")
        names.insert(0, name)
    if not names or len(names) > node.count(".") + 1 or not contents.nodes[outer].config.strip():
        return None
    trust, tags = options.trust, contents.tags

    def is_open(tag: str) -> bool:
        try:
            cls, factory = TAGS.resolve(tag, tags.get(tag), trust.allows)
        except RegistrationError:
            return False
        return is_value(Schema(cls, factory)) or factory == PARTS

    extensions, document = split_documents(parse(contents.nodes[outer].config))
    found = find_part(document, names, is_open)
    if found is None:
        return None
    inside = [prefix for prefix in contents.nodes if prefix.startswith(f"{full}.")]
    if inside:
        raise LoadError(
            f"node {quote(node)} is a container with components in it: {quote_some(inside)}",
            fix=f"Load each of them alone, as load(path, node={inside[0]!r}), or load the whole save.",
        )
    part = part_of(found)
    if "unbuilt" in part.tags:
        raise _unbuilt(node)
    _ask(extensions, part, tags, trust, node)
    config = construct(part, tags, extensions, trust)
    for item in items_in(config):
        if isinstance(item, Schema) and not is_value(item):
            return None
        if isinstance(item, BackLink):
            raise LoadError(f"node {quote(node)} holds what it is inside of", fix="Load the whole save.")
    keys = tensor_keys(part)
    state = (
        state_from_tree(read(path, node[: len(node) - len(".".join(names))].rstrip("."), options).tree) if keys else {}
    )
    ids = {item.value for item in part.nodes if item.tag == "!$"}
    stash = {name: contents.nodes[outer].stash.read(name) for name in ids}
    check_values({key: state[key] for key in keys if key in state}, stash, options.map_location)
    with trust.in_force():
        return (build_config(config, Sources(stash, state, {})),)


def bytes_of(state: Mapping[str, Any]) -> int:
    """Return how many bytes the tensors of a state have."""
    return sum(
        value.numel() * value.element_size()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
    )


def check_values(state: Mapping[str, Any], stash: Mapping[str, Any], map_location: MapLocation) -> None:
    """Refuse tensors that had no values when they were saved, also in lists and the like, by their names.

    Raises
    ------
    LoadError
        Unless ``map_location`` asks for such tensors, or may do so.
    """
    if isinstance(map_location, (str, torch.device)):
        if torch.device(map_location).type == "meta":
            return
    elif map_location is not None:
        return
    empty = [key for key, value in state.items() if _has_empty(value)]
    empty += [f"!$ {name}" for name, value in stash.items() if _has_empty(value)]
    if empty:
        raise LoadError(
            f"the save holds no values of {quote_some(empty)}: they were on the meta device when it was made",
            fix="Load it as it was: load(path, map_location='meta'). build_structure(obj) describes a model without "
            "values.",
        )


def _has_empty(value: Any) -> bool:
    if isinstance(value, torch.Tensor):  # as nearly all are
        return value.is_meta
    return any(isinstance(item, torch.Tensor) and item.is_meta for item in values_in(value))


# ------------------------------------------------------------------------------------------------ building


def build(
    saved: Saved,
    state: Mapping[str, Any],
    options: LoadOptions,
    node: str,
    where: str,
    adoption: Adoption | None = None,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Parse the config, see what it asks for, open what it refers to, and only then build the object.

    With ``adoption``, random numbers are drawn when its deferral is finished, as far as they are wanted then.
    """
    if not saved.tree.config.strip():
        raise LoadError(
            f"the save does not tell how {f'node {quote(node)}' if node else 'this object'} is built"
            + (" without what is around it" if node or saved.tree.class_name else ""),
            node=node,
            file=where,
            fix="Load the whole of it, or build the object yourself, and fill it: load_state(obj, path"
            + (f", node={quote(node)})." if node else ")."),
        )
    trust = options.trust
    nodes = [inner for _, inner in walk(saved.tree)] if trust.use_saved_source else []
    sources = {inner.class_name: inner.source_code for inner in nodes if inner.source_code}
    extensions, document = ask_of_config(saved.tree.config, saved.tags, trust, node, sources)
    config = override(construct(document, saved.tags, extensions, trust), overrides)
    if not saved.is_vouched_for:
        _compare_configs(document, saved.tree)
    options = replace(options, node=node, file=STASH_FILE)
    stash, pickles = _opened_stash(saved.tree, document, options)
    check_values(state, stash, options.map_location)
    if adoption is None:
        adoption = Adoption(DeferredInit(is_on=False), trust)
    deferral = adoption.deferral
    items = list(items_in(config))
    schemas = [item for item in items if isinstance(item, Schema)]
    if any(is_plainly_built(schema.component_subclass) for schema in schemas):
        deferral.is_on = False
    is_placed = options.map_location is None or isinstance(options.map_location, (str, torch.device))
    layers = Layers(config, items, state, adoption.parameters) if deferral.is_on and is_placed else None
    budget = BuildBudget(trust, len(state), bytes_of(state), len(schemas)) if trust.weights_only else None
    if shows_to_code(items):
        adoption.watch_given(stash)
    opened: dict[tuple[int, int], tuple[Any, list[Any]]] = {}

    def open_pickle(data: bytes, objects: list[Any]) -> Any:
        if not any(data is known for known in pickles):
            raise CompilationError("!pickled names no value of the stash", fix="Correct the config.")
        key = id(data), id(objects)
        if key not in opened:  # several values are in one pickle
            opened[key] = objects, load_referring(data, objects, options)
        return opened[key][1]

    with (
        trust.in_force(),
        opened_by(open_pickle),
        noting(adoption.assembled, adoption.complete),
        deferral.counted_by(budget),
    ):
        obj = build_config(config, Sources(stash, adoption.given_from(state), adoption.parameters), copies=layers)
    adoption.given.put_back()
    back = [item for item in items if isinstance(item, BackLink)]
    return close_cycles(obj, back) if back else obj


def _opened_stash(tree: SaveTreeNode, document: Document, options: LoadOptions) -> tuple[dict[str, Any], list[bytes]]:
    """Return what a node's config refers to in its stash, and which of it are pickles that refer to others; these are
    only put to the trust."""
    stash = dict(tree.object_stash) if "$" in document.tags else {}
    pickles = [stash.get(name, b"") for name in document.pickles()]
    for data in pickles:
        check_referring(data, options)
    return stash, pickles


def _unbuilt(node: str) -> LoadError:
    what = f"node {quote(node)}" if node else "this object"
    fill = f"load_state(obj, path, node={quote(node)})" if node else "load_state(obj, path)"
    return LoadError(
        f"the save holds what fills {what}, and not how it is built: it was written by save(..., build=False)",
        fix=f"Build the object yourself, and fill it: {fill}.",
    )


def is_plainly_built(cls: type) -> bool:
    """Whether a class asks, by ``_flambe_init = True``, that nothing of its construction is put off."""
    return getattr(cls, "_flambe_init", False) is True


def ask_of_config(
    config: str, tags: Mapping[str, str], trust: Trust, node: str, sources: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[str, str], Document]:
    """Parse a config and put what it asks for to the caller's trust; see :func:`_ask`."""
    extensions, document = split_documents(parse(config))
    if "unbuilt" in document.tags and trust.findings is None:
        raise _unbuilt(node)
    _ask(extensions, document, tags, trust, node, sources)
    return extensions, document


def _ask(
    extensions: Mapping[str, str],
    document: Document,
    tags: Mapping[str, str],
    trust: Trust,
    node: str,
    sources: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Put what a config asks for to the caller's trust, and bring in the classes that it allows.

    Nothing is imported before all is allowed. What is imported then may define classes that other tags mean, so tags
    are asked about again.

    Parameters
    ----------
    sources : mapping of str to str
        Names of classes that may be made where no imported module has them, and their source code.
    """
    place = {"node": node, "file": CONFIG_FILE}
    asked = questions_of_tags(document, tags, trust), questions_of_extensions(extensions, CONFIG_FILE)
    trust.decide(chain(*asked), **place)
    named = [*document.tags, *(node.value for tag in NAMING_TAGS for node in document.named(tag))]
    is_new = import_extensions(extensions, trust, CONFIG_FILE)
    is_new |= import_trusted(named, tags, trust)
    is_new |= _define_missing(document, tags, sources)
    if is_new:
        trust.decide(questions_of_tags(document, tags, trust), **place)
    trust.decide(questions_of_arguments(document, tags, trust), **place)


def _define_missing(document: Document, tags: Mapping[str, str], sources: Mapping[str, str]) -> bool:
    """Make classes that tags name and no imported module has; return whether there were any.

    Parameters
    ----------
    document : Document
    tags : mapping of str to str
        What the save recorded for its tags: tag -> dotted path.
    sources : mapping of str to str
        Source code by the names of classes.
    """
    missing: dict[str, str] = {}
    for tag in document.tags if sources else ():
        path = tags.get(tag, tag)
        name = path.rpartition(".")[2]
        if name in sources and not TAGS.knows(tag, tags.get(tag)):
            missing[path if "." in path else f"__main__.{path}"] = sources[name]
    if missing:
        package: Any = sys.modules[__package__]  # its public names are what the classes of a save most likely use
        define_classes(missing, {name: getattr(package, name) for name in package.__all__}, file=CONFIG_FILE)
    return bool(missing)


def _compare_configs(document: Document, tree: SaveTreeNode) -> None:
    """Warn where a component's own config is not what the config around it says: only a part's load would use it."""
    known: dict[int, dict[str, Any]] = {}
    for prefix, inner in prefixed(tree).items():
        if prefix and inner.config.strip():
            try:
                _, part = split_documents(parse(inner.config))
            except FlambeSaveError as error:
                error.locate(node=prefix, file=CONFIG_FILE)
                raise
            difference = contradiction(document, split_key(prefix), part, known)
            if difference is not None:
                warn(
                    f"the config of node {quote(prefix)} contradicts the one around it, at {quote(difference)}: "
                    "the object is built from the one around it",
                    StateMismatchWarning,
                )


# ------------------------------------------------------------------------------------------------ auditing


def audit(path: str | os.PathLike[str], node: str, trust: Trust) -> list[Finding]:
    """Read a save, and go through its stashes and configs, with a trust that writes down what it would refuse."""
    audit = trust.audit()
    assert audit.findings is not None
    saved = read(path, node, LoadOptions(audit, "cpu", is_mapped=True))  # torch makes no sparse tensor on "meta"
    for prefix, inner in prefixed(saved.tree).items():
        full = prefix_within(node, prefix)
        document = ask_of_config(inner.config, saved.tags, audit, full)[1] if inner.config.strip() else None
        dict(inner.object_stash)  # opens it
        if document is not None:
            _opened_stash(inner, document, LoadOptions(audit, node=full, file=STASH_FILE))
    return [*dict.fromkeys(audit.findings)]


def door_to(rows: Sequence[Finding]) -> str:
    """Return the narrowest argument with which a save loads that asks for rows."""
    if any(row.argument == EVERYTHING for row in rows):
        return EVERYTHING
    return door_of(names_in(rows))


def names_in(rows: Sequence[Finding]) -> list[str]:
    """Return the names that ``trusted=[...]`` would have to hold for rows."""
    arguments = (row.argument.removeprefix("trusted=") for row in rows if row.argument.startswith("trusted="))
    names = (name for argument in arguments for name in ast.literal_eval(argument))
    # A pickled module names a class for each kind of layer
    return [*dict.fromkeys("torch.nn" if name.startswith("torch.nn.") else name for name in names)]


@contextlib.contextmanager
def telling(
    path: str | os.PathLike[str], node: str = "", trust: Trust | None = None, *, name: str = "load"
) -> Iterator[None]:
    """Let errors say which save they are of, all that it asks for, and how a function would allow what was refused.

    Parameters
    ----------
    path : str or path
    node : str
        The part of the save that is read.
    trust : Trust, optional
        With which it is read. Without, nothing is asked for.
    name : str
        The function.
    """
    with errors_of(path, name):
        try:
            yield
        except (UntrustedError, MissingExtensionError, RegistrationError) as error:
            if trust is not None:
                _tell_all(error, path, node, trust)
            raise


def _tell_all(error: FlambeSaveError, path: str | os.PathLike[str], node: str, trust: Trust) -> None:
    """Give an error the rows of all that the save asks for, so that nobody has to find them one by one."""
    first = len(error.rows)
    try:
        rows = audit(path, node, trust)
        known = {row.what for row in rows}
        error.rows = [*rows, *(row for row in error.rows if row.what not in known)]  # an audit builds nothing
    except (FlambeSaveError, OSError):
        return  # what was found first is what there is to say
    names = names_in(error.rows)
    if isinstance(error, UntrustedError) and names:
        error.fix = trust.advice(names, is_enough=door_to(error.rows) != EVERYTHING)
    if len(error.rows) > max(first, 1) and error.fix:
        error.fix += f" untrusted({os.fspath(path)!r}) lists all {len(error.rows)} things that it asks for."
