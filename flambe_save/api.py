"""save and load, and the same for states alone: the one path, from an object to a store and back.

save   object --get_state--> State --tree_from_state--> SaveTreeNode --Format.write--> Store
load   Store --Format.read--> SaveTreeNode --Trust--> Schema --> object <--load_state-- State
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

import dill

from flambe_save.adapters import Fit, get_state, is_component, restore_ties
from flambe_save.adapters import load_state as load_state_into
from flambe_save.codecs import DumpOptions, LoadOptions, MapLocation, PickleModule
from flambe_save.config import yaml
from flambe_save.config.extensions import import_trusted, require
from flambe_save.config.link import FunctionCallLink
from flambe_save.config.parsing import parse
from flambe_save.config.registrable import needs_trust
from flambe_save.config.schema import Schema
from flambe_save.errors import (
    FlambeSaveError,
    LoadError,
    NeedsTrustWarning,
    SaveError,
    UnsupportedObjectError,
    warn,
)
from flambe_save.formats import Format, ReadOptions, Saved, format_of
from flambe_save.layout import ARCHIVE_SUFFIX, CONFIG_FILE, CONFIG_KEY, PICKLE_SUFFIX, TAGS_KEY
from flambe_save.registry import FORMATS
from flambe_save.state import State
from flambe_save.storage import check_outside, check_replaceable, create_store, open_store
from flambe_save.tree import state_from_tree, tree_from_state
from flambe_save.trust import Trust

__all__ = ["load", "load_state_from_file", "save", "save_state_to_file"]


def save(
    obj: Any,
    path: str | os.PathLike[str],
    compress: bool = False,
    pickle_only: bool = False,
    overwrite: bool = False,
    pickle_module: PickleModule = dill,
    pickle_protocol: int = 2,
) -> str:
    """Save an object as a folder that can be opened by hand; :func:`load` is the inverse.

    Parameters
    ----------
    obj : Component or torch.nn.Module
        A module that is no Component must be one of torch.nn's own, which tell their arguments.
    path : str or path
        Where. ``.pkl`` and ``.tar.gz`` are appended where they apply and the path does not end so.
    compress : bool
        A .tar.gz.
    pickle_only : bool
        One pickle, in place of folders.
    overwrite : bool
        Whether a save that is there is replaced. Until the new one is complete, the old one stays.
    pickle_module : module
        Pickles what is more than data; ``dump`` and ``Pickler``, as pickle and dill have them.
    pickle_protocol : int

    Returns
    -------
    str
        The path of the save.

    Raises
    ------
    TargetExistsError
        If something is there already.
    UnsupportedObjectError
        If the object, or a part of it, cannot be represented.
    SaveError
        If it cannot be written. Nothing is left behind.

    Warns
    -----
    NeedsTrustWarning
        If the save holds more than data, so that a default load will refuse that part.
    """
    state = get_state(obj)
    if not state._metadata[""].get(CONFIG_KEY):
        name = type(obj).__qualname__
        if is_component(obj):
            what = f"the arguments that this {name} was built with cannot be written as a mapping of names to values"
            fix = (
                "Give arguments by position or by keyword, not the same name both ways, and call no __new__ of its own."
            )
        else:
            what = f"it is not known how this {name} was built"
            fix = "Make its class a Component, or save its state_dict() alone with save_state_to_file."
        raise UnsupportedObjectError(what, fix=fix)
    return save_state_to_file(state, path, compress, pickle_only, overwrite, pickle_module, pickle_protocol)


def save_state_to_file(
    state: Mapping[str, Any],
    path: str | os.PathLike[str],
    compress: bool = False,
    pickle_only: bool = False,
    overwrite: bool = False,
    pickle_module: PickleModule = dill,
    pickle_protocol: int = 2,
) -> str:
    """Save a State, or a bare ``state_dict``; :func:`load_state_from_file` is the inverse.

    Parameters, returns, errors and warnings are those of :func:`save`.
    """
    final = _final_path(path, compress, pickle_only)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise UnsupportedObjectError(f"a state maps keys, which are texts, to values; this is a {type(state).__name__}")
    if not 2 <= pickle_protocol <= pickle.HIGHEST_PROTOCOL:
        raise SaveError(f"pickle protocol {pickle_protocol!r}; it must be 2 to {pickle.HIGHEST_PROTOCOL}")
    tree = tree_from_state(state)
    options = DumpOptions(pickle_module, pickle_protocol)
    chosen: Format = FORMATS["pickle" if pickle_only else "directory"]
    try:
        check_outside(final)
        if overwrite:
            check_replaceable(final)
        with create_store(final, archive=compress, single=pickle_only, overwrite=overwrite) as store:
            opaque = chosen.write(tree, store, options)
    except FlambeSaveError:
        raise
    except OSError as error:
        raise SaveError(
            f"the save cannot be written: {error.strerror or error}",
            file=str(error.filename or final),
            fix="Nothing was left behind; check space and permissions, and save again.",
        ) from error
    if "call" in tree.state._metadata[""].get(TAGS_KEY, {}):
        opaque = [*opaque, "config.yaml asks for a !call"]
    if opaque:
        shown = "; ".join(opaque[:5]) + ("; ..." if len(opaque) > 5 else "")
        warn(
            f"{final!r} holds more than data, so a load must trust it, with trusted=[...]: {shown}",
            NeedsTrustWarning,
        )
    return final


def load(
    path: str | os.PathLike[str],
    map_location: MapLocation = None,
    auto_install: bool = False,
    pickle_module: PickleModule = dill,
    *,
    node: str = "",
    weights_only: bool = True,
    trusted: Iterable[str] = (),
    strict: bool = True,
) -> Any:
    """Load an object: build it from its config, then give it its state. Inverse of :func:`save`.

    By default nothing of the save is run: data is read, and only classes that this program has imported are built.

    Parameters
    ----------
    path : str or path
        A save, or any folder inside one.
    map_location : str, torch.device, mapping or callable, optional
        Where the object shall be, as in :func:`torch.load`: all its parameters, buffers, registered and stashed
        tensors. By default, where they were when they were saved.
    auto_install : bool
        Whether extensions that the config names are installed with pip, and imported.
    pickle_module : module
        Unpickles, with ``weights_only=False``, what is more than data.
    node : str
        The dotted key of a component inside the save, to load that alone.
    weights_only : bool
        False trusts the save with everything, as in torch.
    trusted : list of str
        Modules or ``module.Class`` names that may be imported and unpickled.
    strict : bool
        Whether keys that are missing, or that the object does not want, are an error; otherwise they are a warning.

    Returns
    -------
    object
        In training mode, as constructors leave it.

    Raises
    ------
    LoadError
        SaveNotFoundError, UnknownFormatError, CorruptSaveError, ProtocolError, UntrustedError, MissingExtensionError,
        VersionMismatchError and StateMismatchError say which.
    ConfigError
        If the config cannot be understood, or no longer fits the classes.

    Warns
    -----
    SourceChangedWarning, VersionMismatchWarning
        If a class changed since the save.
    """
    trust = Trust.of(weights_only, trusted, auto_install)
    saved = _read(path, node, LoadOptions(trust, map_location, pickle_module))
    where = os.fspath(path)
    if not saved.tree.config.strip():
        raise LoadError(
            "the save tells no config, so the object cannot be built from it",
            node=node,
            file=where,
            fix="Build the object yourself, and give it the state of load_state_from_file(path).",
        )
    try:
        schema = _schema(saved, trust)
        obj = schema(saved.tree.object_stash)
        load_state_into(obj, state_from_tree(saved.tree), strict=strict, fit=Fit(map_location))
    except FlambeSaveError as error:
        error.locate(file=where)
        raise
    restore_ties(obj, saved.ties)
    return obj


def load_state_from_file(
    path: str | os.PathLike[str],
    map_location: MapLocation = None,
    pickle_module: PickleModule = dill,
    *,
    node: str = "",
    weights_only: bool = True,
    trusted: Iterable[str] = (),
    **pickle_load_args: Any,
) -> State:
    """Load a State, building no object; parameters and errors as :func:`load`.

    Parameters
    ----------
    **pickle_load_args
        Further arguments of the Unpickler, such as ``encoding``.

    Returns
    -------
    State
        Values by dotted keys. Its metadata holds each component's class, version, source, config and stash; a stash is
        opened, and asks for trust, when it is looked into.
    """
    trust = Trust.of(weights_only, trusted)
    options = LoadOptions(trust, map_location, pickle_module, pickle_load_args)
    return state_from_tree(_read(path, node, options).tree)


def _read(path: str | os.PathLike[str], node: str, options: LoadOptions) -> Saved:
    where = os.fspath(path)
    try:
        with open_store(path) as store:
            return format_of(store, where).read(store, ReadOptions(options, node, where))
    except OSError as error:
        if isinstance(error, FlambeSaveError):
            raise
        raise LoadError(f"the save cannot be read: {error.strerror or error}", file=where) from error


def _schema(saved: Saved, trust: Trust) -> Schema:
    """Parse the config, see what it asks for, and only then make a Schema of it."""
    extensions, document = yaml.split_documents(parse(saved.tree.config))
    require(extensions, trust, CONFIG_FILE)
    import_trusted(document.tags, saved.tags, trust)
    for tag, (cls, factory) in document.classes(saved.tags).items():
        if issubclass(cls, FunctionCallLink):
            trust.check_call(f"!{tag}", file=CONFIG_FILE)
        if factory is not None and needs_trust(cls, factory):
            trust.check_call(f"!{tag}", file=CONFIG_FILE)
    schema = document.construct(saved.tags, extensions)
    if not isinstance(schema, Schema):
        raise LoadError(
            f"the config describes a {type(schema).__name__}, not an object that a class builds",
            file=CONFIG_FILE,
        )
    return schema


def _final_path(path: str | os.PathLike[str], compress: bool, pickle_only: bool) -> str:
    final = os.fspath(path).rstrip("/" + os.sep) or os.fspath(path)
    if not final or "\0" in final:
        raise SaveError(f"{final!r} is no path", fix="Name the folder or file that the save shall be.")
    if pickle_only and not final.endswith((PICKLE_SUFFIX, PICKLE_SUFFIX + ARCHIVE_SUFFIX)):
        final = final.removesuffix(ARCHIVE_SUFFIX) + PICKLE_SUFFIX
    if compress and not final.endswith(ARCHIVE_SUFFIX):
        final += ARCHIVE_SUFFIX
    return final
