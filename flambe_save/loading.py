"""The steps of a load: read the save, build its object, and give it its state.

asking.py puts what the save asks for to the caller's trust before anything is built. api.py has the public functions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from flambe_save.adapters import Adoption, Fit, close_cycles, restore_ties
from flambe_save.adapters import load_state as load_state_into
from flambe_save.asking import ask, ask_of_config, opened_stash, unbuilt
from flambe_save.classes.tags import TAGS
from flambe_save.codecs import load_referring
from flambe_save.config.nodes import Document, parse, split_documents
from flambe_save.deferred_init.budget import BuildBudget
from flambe_save.deferred_init.generators import ForkRng
from flambe_save.deferred_init.mode import DeferredInit
from flambe_save.errors import (
    CompilationError,
    FlambeSaveError,
    LoadError,
    PackageVersionWarning,
    RegistrationError,
    SaveNotFoundError,
    StateMismatchWarning,
    quote,
    quote_some,
    warn,
)
from flambe_save.formats import Contents, ReadOptions, Saved, format_of
from flambe_save.formats.manifest import changed_packages, find_ties
from flambe_save.layout import CONFIG_FILE, STASH_FILE
from flambe_save.objects.assembly import PARTS, noting
from flambe_save.objects.attributes import values_in
from flambe_save.pt import LoadOptions, MapLocation
from flambe_save.reading import read, read_around, reading
from flambe_save.schema.building import build as build_config
from flambe_save.schema.construct import construct
from flambe_save.schema.layers import Layers, shows_to_code
from flambe_save.schema.link import BackLink
from flambe_save.schema.overrides import override
from flambe_save.schema.pickled import opened_by
from flambe_save.schema.questions import contradiction
from flambe_save.schema.reference import Sources
from flambe_save.schema.schema import Schema, items_in
from flambe_save.schema.select import find_part, is_value, part_of, tensor_keys
from flambe_save.state import split_key
from flambe_save.storage import open_store, whole_save
from flambe_save.support.parallel import CollectionPaused
from flambe_save.support.undoing import note_undo
from flambe_save.tree import SaveTreeNode, prefix_within, prefixed, state_from_tree, walk


def load_object(
    path: str | os.PathLike[str], node: str, options: LoadOptions, *, strict: bool, overrides: Mapping[str, Any]
) -> Any:
    """Load an object; parameters, returns and errors are those of :func:`flambe_save.load`."""
    where = os.fspath(path)
    with CollectionPaused(), ForkRng():
        with options.progress:
            try:
                saved, inner = read(path, node, options), ""
            except SaveNotFoundError:
                if not node:
                    raise
                value = _read_value(path, node, options) if not overrides else None
                if value is not None:
                    return value[0]
                saved, inner = read_around(path, node, options, is_inside=True)
        changed = changed_packages(saved.packages)
        if changed:
            warn(f"packages have changed since {where!r} was saved: {'; '.join(changed)}", PackageVersionWarning)
        state = state_from_tree(saved.tree)
        if inner and inner not in state._metadata:
            read(path, node, options)  # says what there is
        deferral = DeferredInit(is_on=strict)  # what the state lacks keeps the values that it was built with
        note_undo(deferral.finish)
        adoption = Adoption(deferral, options.trust)
        try:
            obj = build(saved, state, options, node, where, adoption, overrides)
            restore_ties(obj, saved.ties)  # optimizers, which are filled last, shall find the one parameter
            with deferral:
                loaded = load_state_into(
                    obj,
                    state,
                    strict=strict,
                    fit=Fit(options.map_location, adoption),
                    skips_sizes=bool(overrides) and not strict,
                    has_overrides=bool(overrides),
                )
        finally:
            deferral.finish()  # after an error too: a constructor may have handed tensors to other code
    is_as_saved = loaded.keys() == state.keys() and all(loaded[key] is value for key, value in state.items())
    ties = saved.ties if is_as_saved else find_ties(loaded.items())  # a migration may have renamed what is tied
    restore_ties(obj, ties)
    return obj if not inner else _module_inside(obj, inner, node, where)


def _module_inside(obj: Any, name: str, node: str, where: str) -> torch.nn.Module:
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


def _read_value(path: str | os.PathLike[str], node: str, options: LoadOptions) -> tuple[Any] | None:
    """Read one value out of a config alone.

    Only its own tensors are read, and only its own classes need trust.

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
        raise unbuilt(node)
    ask(extensions, part, tags, trust, node)
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


def _bytes_of(state: Mapping[str, Any]) -> int:
    """Return how many bytes the tensors of a state have."""
    return sum(
        value.numel() * value.element_size()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
    )


def check_values(state: Mapping[str, Any], stash: Mapping[str, Any], map_location: MapLocation) -> None:
    """Refuse tensors that were on the meta device when they were saved, also inside containers.

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
    """Build the object of a save from its config, once all that it asks for is allowed.

    With ``adoption``, random numbers that are still wanted are drawn when its deferral is finished.
    """
    if not saved.tree.config.strip():
        raise LoadError(
            f"the save does not say how {f'node {quote(node)}' if node else 'this object'} is built"
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
    stash, pickles = opened_stash(saved.tree, document, options)
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
    budget = BuildBudget(trust, len(state), _bytes_of(state), len(schemas)) if trust.weights_only else None
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


def is_plainly_built(cls: type) -> bool:
    """Whether ``_flambe_init = True`` says that nothing of a class's construction is deferred."""
    return getattr(cls, "_flambe_init", False) is True


def _compare_configs(document: Document, tree: SaveTreeNode) -> None:
    """Warn where a component's own config contradicts the outer one, which is used."""
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
