"""save and load, and the same for states alone: the one path, from an object to a store and back.

save   object --get_state--> State --tree_from_state--> SaveTreeNode --Format.write--> Store
load   Store --Format.read--> SaveTreeNode --Trust--> Schema --> object <--load_state-- State
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import dill
import torch

from flambe_save.adapters import Fit, get_state, is_component, restore_ties
from flambe_save.adapters import load_state as load_state_into
from flambe_save.codecs import DumpOptions, LoadOptions, MapLocation, PickleModule
from flambe_save.config import yaml
from flambe_save.config.audit import check_tags, contradiction
from flambe_save.config.budget import BuildBudget
from flambe_save.config.extensions import import_trusted, require
from flambe_save.config.parsing import Document, parse
from flambe_save.config.registrable import TAGS
from flambe_save.config.saved_source import define_classes
from flambe_save.config.schema import Schema
from flambe_save.errors import (
    CorruptSaveError,
    Finding,
    FlambeSaveError,
    LoadError,
    MissingExtensionError,
    NeedsTrustWarning,
    RegistrationError,
    SaveError,
    SaveReplacedError,
    StateMismatchWarning,
    UnsupportedObjectError,
    UntrustedError,
    quote,
    warn,
)
from flambe_save.formats import Damage, Format, ReadOptions, Saved, format_of
from flambe_save.formats.directory import DIRECTORY
from flambe_save.layout import ARCHIVE_SUFFIX, CONFIG_FILE, CONFIG_KEY, PICKLE_SUFFIX, TAGS_KEY
from flambe_save.registry import FORMATS
from flambe_save.state import State, split_key
from flambe_save.storage import check_outside, check_replaceable, create_store, open_store, whole_save
from flambe_save.tree import SaveTreeNode, join_prefix, prefixed, state_from_tree, tree_from_state, walk
from flambe_save.trust import Limits, Trust

__all__ = ["load", "load_state_from_file", "save", "save_state_to_file", "untrusted", "verify"]

R = TypeVar("R")

_ATTEMPTS = 100  # how often a load begins again because the save was replaced under it


def save(
    obj: Any,
    path: str | os.PathLike[str],
    compress: bool = False,
    pickle_only: bool = False,
    overwrite: bool = False,
    pickle_module: PickleModule = dill,
    pickle_protocol: int = 2,
    *,
    durable: bool = False,
    digest: str | None = None,
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
    durable : bool
        Whether to return only when the save is on the disk, so that it outlives a power cut. A save that replaces
        another always is, before the old one goes.
    digest : {"sha256"}, optional
        A digest to note for each file in the manifest, to sign it or to find it by content.

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
    return save_state_to_file(
        state,
        path,
        compress,
        pickle_only,
        overwrite,
        pickle_module,
        pickle_protocol,
        durable=durable,
        digest=digest,
    )


def save_state_to_file(
    state: Mapping[str, Any],
    path: str | os.PathLike[str],
    compress: bool = False,
    pickle_only: bool = False,
    overwrite: bool = False,
    pickle_module: PickleModule = dill,
    pickle_protocol: int = 2,
    *,
    durable: bool = False,
    digest: str | None = None,
) -> str:
    """Save a State, or a bare ``state_dict``; :func:`load_state_from_file` is the inverse.

    Parameters, returns, errors and warnings are those of :func:`save`.
    """
    final = _final_path(path, compress, pickle_only)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise UnsupportedObjectError(f"a state maps keys, which are texts, to values; this is a {type(state).__name__}")
    if not 2 <= pickle_protocol <= pickle.HIGHEST_PROTOCOL:
        raise SaveError(f"pickle protocol {pickle_protocol!r}; it must be 2 to {pickle.HIGHEST_PROTOCOL}")
    if digest not in (None, "sha256"):
        raise SaveError(f"no digest {digest!r} is known", fix="Pass digest='sha256', or none.")
    tree = tree_from_state(state)
    options = DumpOptions(pickle_module, pickle_protocol, digest)
    chosen: Format = FORMATS["pickle" if pickle_only else "directory"]
    try:
        check_outside(final)
        if overwrite:
            check_replaceable(final)
        with create_store(
            final,
            archive=compress,
            single=pickle_only,
            overwrite=overwrite,
            durable=durable,
            size=_bytes_of(state),
        ) as store:
            opaque = chosen.write(tree, store, options)
    except FlambeSaveError:
        raise
    except OSError as error:
        named = str(error.filename or "")  # relative to a descriptor, often, which says nothing
        raise SaveError(
            f"the save cannot be written: {error.strerror or error}",
            file=named if os.path.isabs(named) else final,
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
    use_saved_source: bool = False,
    limits: Limits | None = None,
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
        Modules or ``module.Class`` names that may be imported and unpickled; :func:`untrusted` tells which are asked
        for.
    use_saved_source : bool
        Whether a class that no imported module has is made from the source code in the save. This runs that code.
    limits : Limits, optional
        How much an archive may unpack to, and constructors may allocate.
    strict : bool
        Whether keys that are missing, or that the object does not want, are an error; otherwise they are a warning.

    Returns
    -------
    object
        In training mode, as constructors leave it.

    Raises
    ------
    LoadError
        SaveNotFoundError, UnknownFormatError, CorruptSaveError, ProtocolError, UntrustedError, LimitError,
        MissingExtensionError, VersionMismatchError and StateMismatchError say which. Where trust is what is missing,
        ``rows`` of the error are those of :func:`untrusted`.
    ConfigError
        If the config cannot be understood, or no longer fits the classes.

    Warns
    -----
    SourceChangedWarning, VersionMismatchWarning
        If a class changed since the save.
    """
    trust = Trust.of(weights_only, trusted, auto_install, use_saved_source, limits)
    where = os.fspath(path)
    try:
        saved = _read(path, node, LoadOptions(trust, map_location, pickle_module))
        obj = _build(saved, trust, node, where)
        state = state_from_tree(saved.tree)
        load_state_into(obj, state, strict=strict, fit=Fit(map_location))
    except (UntrustedError, MissingExtensionError, RegistrationError) as error:
        _tell_all(error, path, node, trust)
        error.locate(file=where)
        raise
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
    limits: Limits | None = None,
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
    trust = Trust.of(weights_only, trusted, limits=limits)
    options = LoadOptions(trust, map_location, pickle_module, pickle_load_args)
    try:
        return state_from_tree(_read(path, node, options).tree)
    except UntrustedError as error:
        _tell_all(error, path, node, trust)
        raise


def untrusted(path: str | os.PathLike[str], *, node: str = "", limits: Limits | None = None) -> list[Finding]:
    """List what a save asks for beyond data and imported classes; nothing of it is run, imported or installed.

    Parameters
    ----------
    path, node, limits
        As :func:`load`.

    Returns
    -------
    list of Finding
        ``(node, file, what, argument)``: pickled globals, modules and extensions to import, classes that are not
        imported, calls; and the argument of :func:`load` that would allow each. Empty for a save that a default load
        opens.

    Raises
    ------
    LoadError, ConfigError
        If the save cannot be read.
    """
    return _audit(path, node, Trust.of(limits=limits))


def verify(path: str | os.PathLike[str], *, limits: Limits | None = None) -> list[Damage]:
    """Read a whole save and list all that is damaged; nothing is unpickled or built.

    Parameters
    ----------
    path, limits
        As :func:`load`. Of a folder inside a save, that folder is read.

    Returns
    -------
    list of Damage
        ``(node, file, problem)``; empty where the save is whole.

    Raises
    ------
    LoadError
        SaveNotFoundError or UnknownFormatError, where there is no save to be read.
    """
    where = os.fspath(path)

    def read() -> list[Damage]:
        try:
            with open_store(path, limits) as store:
                options = ReadOptions(LoadOptions(Trust.of(limits=limits)), "", where)
                return list(format_of(store, where).verify(store, options))
        except CorruptSaveError as error:  # an archive that cannot be taken apart
            return [Damage(error.node, error.file, error.message)]

    return _reading(read, where)


# ------------------------------------------------------------------------------------------------ reading


def _reading(read: Callable[[], R], where: str) -> R:
    """Read, again where the save was replaced meanwhile; what the system refuses is a LoadError."""
    for attempt in range(_ATTEMPTS):
        try:
            return read()
        except SaveReplacedError:
            if attempt == _ATTEMPTS - 1:
                raise
        except OSError as error:
            if isinstance(error, FlambeSaveError):
                raise
            raise LoadError(f"the save cannot be read: {error.strerror or error}", file=where) from error
    raise AssertionError("the last attempt returns or raises")


def _read(path: str | os.PathLike[str], node: str, options: LoadOptions) -> Saved:
    where = os.fspath(path)
    limits = options.trust.limits

    def read() -> Saved:
        root, folder = whole_save(path)
        if folder:
            with open_store(root, limits) as store:
                prefix = DIRECTORY.prefix_of(store, folder)
                if prefix is not None:
                    full = join_prefix(prefix, node) if node else prefix
                    return DIRECTORY.read(store, ReadOptions(options, full, where))
        with open_store(path, limits) as store:
            return format_of(store, where).read(store, ReadOptions(options, node, where))

    return _reading(read, where)


def _bytes_of(state: Mapping[str, Any]) -> int:
    return sum(
        value.numel() * value.element_size()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
    )


# ------------------------------------------------------------------------------------------------ building


def _build(saved: Saved, trust: Trust, node: str, where: str) -> Any:
    """Parse the config, see what it asks for, open what it refers to, and only then build the object."""
    if not saved.tree.config.strip():
        raise LoadError(
            "the save tells no config, so the object cannot be built from it",
            node=node,
            file=where,
            fix="Build the object yourself, and give it the state of load_state_from_file(path).",
        )
    extensions, document = _document(saved.tree.config, saved, trust, node)
    if trust.use_saved_source:
        _define_missing(document, saved)
        check_tags(document, saved.tags, trust, node=node, file=CONFIG_FILE)
    schema = document.construct(saved.tags, extensions)
    if not isinstance(schema, Schema):
        raise LoadError(
            f"the config describes a {type(schema).__name__}, not an object that a class builds",
            node=node,
            file=CONFIG_FILE,
        )
    if not saved.is_vouched_for:
        _compare_configs(document, saved.tree)
    stash = dict(saved.tree.object_stash) if "$" in document.tags else {}
    if not trust.weights_only:
        return schema(stash)
    with BuildBudget(trust, len(state_from_tree(saved.tree)), _bytes_of(state_from_tree(saved.tree))):
        return schema(stash)


def _document(config: str, saved: Saved, trust: Trust, node: str) -> tuple[dict[str, str], Document]:
    """Parse a config and put what it asks for to the caller's trust, which may import modules."""
    extensions, document = yaml.split_documents(parse(config))
    check_tags(document, saved.tags, trust, node=node, file=CONFIG_FILE)
    require(extensions, trust, CONFIG_FILE, node=node)
    if import_trusted(document.tags, saved.tags, trust):
        check_tags(document, saved.tags, trust, node=node, file=CONFIG_FILE)
    return extensions, document


def _define_missing(document: Document, saved: Saved) -> None:
    """Make classes that tags name and no imported module has, from the source code of the nodes of that class."""
    sources = {inner.class_name: inner.source_code for _, inner in walk(saved.tree) if inner.source_code}
    missing: dict[str, str] = {}
    for tag in document.tags:
        path = saved.tags.get(tag, tag)
        name = path.rpartition(".")[2]
        if name in sources and not TAGS.knows(tag, saved.tags.get(tag)):
            missing[path if "." in path else f"__main__.{path}"] = sources[name]
    package: Any = sys.modules[__package__]  # its public names are what the classes of a save most likely use
    define_classes(missing, {name: getattr(package, name) for name in package.__all__}, file=CONFIG_FILE)


def _compare_configs(document: Document, tree: SaveTreeNode) -> None:
    """Warn where a component's own config is not what the config around it says: only a part's load would use it."""
    for prefix, inner in prefixed(tree).items():
        if prefix and inner.config.strip():
            _, part = yaml.split_documents(parse(inner.config))
            difference = contradiction(document, split_key(prefix), part)
            if difference is not None:
                warn(
                    f"the config of node {quote(prefix)} contradicts the one around it, at {quote(difference)}: "
                    "the object is built from the one around it",
                    StateMismatchWarning,
                )


# ------------------------------------------------------------------------------------------------ auditing


def _audit(path: str | os.PathLike[str], node: str, trust: Trust) -> list[Finding]:
    """Read a save, and go through its stashes and configs, with a trust that writes down what it would refuse."""
    audit = trust.audit()
    assert audit.findings is not None
    saved = _read(path, node, LoadOptions(audit, "meta"))
    for prefix, inner in prefixed(saved.tree).items():
        full = join_prefix(node, prefix) if node and prefix else node or prefix
        dict(inner.object_stash)  # opens it
        if inner.config.strip():
            _document(inner.config, saved, audit, full)
    return [*dict.fromkeys(audit.findings)]


def _tell_all(error: FlambeSaveError, path: str | os.PathLike[str], node: str, trust: Trust) -> None:
    """Give an error the rows of all that the save asks for, so that nobody has to find them one by one."""
    first = len(error.rows)
    try:
        error.rows = _audit(path, node, trust)
    except (FlambeSaveError, OSError):
        return  # what was found first is what there is to say
    if len(error.rows) > max(first, 1) and error.fix:
        error.fix += f" untrusted({os.fspath(path)!r}) lists all {len(error.rows)} things that it asks for."


def _final_path(path: str | os.PathLike[str], compress: bool, pickle_only: bool) -> str:
    final = os.fspath(path).rstrip("/" + os.sep) or os.fspath(path)
    if not final or "\0" in final:
        raise SaveError(f"{final!r} is no path", fix="Name the folder or file that the save shall be.")
    if pickle_only and not final.endswith((PICKLE_SUFFIX, PICKLE_SUFFIX + ARCHIVE_SUFFIX)):
        final = final.removesuffix(ARCHIVE_SUFFIX) + PICKLE_SUFFIX
    if compress and not final.endswith(ARCHIVE_SUFFIX):
        final += ARCHIVE_SUFFIX
    return final
