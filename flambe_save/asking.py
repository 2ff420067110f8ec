"""Put to the caller's trust all that a save asks for, or list it in an audit.

loading.py builds afterwards.
"""

from __future__ import annotations

import ast
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any

from flambe_save.classes.extensions import import_extensions, import_trusted, questions_of_extensions
from flambe_save.classes.saved_source import define_classes
from flambe_save.classes.tags import TAGS
from flambe_save.codecs import check_referring
from flambe_save.config.nodes import Document, parse, split_documents
from flambe_save.errors import (
    Finding,
    FlambeSaveError,
    LoadError,
    MissingExtensionError,
    RegistrationError,
    UntrustedError,
    quote,
)
from flambe_save.layout import CONFIG_FILE, STASH_FILE
from flambe_save.pt import LoadOptions
from flambe_save.questions import EVERYTHING
from flambe_save.reading import errors_of, read
from flambe_save.schema.own_names import NAMING_TAGS
from flambe_save.schema.questions import questions_of_arguments, questions_of_tags
from flambe_save.tree import SaveTreeNode, prefix_within, prefixed
from flambe_save.trust import Trust, door_of


def ask_of_config(
    config: str, tags: Mapping[str, str], trust: Trust, node: str, sources: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[str, str], Document]:
    """Parse a config and ask for all that it needs, as :func:`ask`.

    Raises
    ------
    LoadError
        If the save was written with ``build=False``.
    """
    extensions, document = split_documents(parse(config))
    if "unbuilt" in document.tags and trust.findings is None:
        raise unbuilt(node)
    ask(extensions, document, tags, trust, node, sources)
    return extensions, document


def ask(
    extensions: Mapping[str, str],
    document: Document,
    tags: Mapping[str, str],
    trust: Trust,
    node: str,
    sources: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Ask the caller's trust for all that a config needs, and import the modules that it allows.

    Nothing is imported before all is allowed. An import may define classes that other tags mean, so tags are asked
    about again after it.

    Parameters
    ----------
    extensions, tags : mapping of str to str
        Module -> requirement; tag -> dotted path that the save recorded.
    sources : mapping of str to str
        Source code by the names of classes, for classes that no imported module has.

    Raises
    ------
    UntrustedError, MissingExtensionError
        If the trust does not allow something, or an import fails.
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
    """Make classes that no imported module has from their source; return whether there were any."""
    missing: dict[str, str] = {}
    for tag in document.tags if sources else ():
        path = tags.get(tag, tag)
        name = path.rpartition(".")[2]
        if name in sources and not TAGS.knows(tag, tags.get(tag)):
            missing[path if "." in path else f"__main__.{path}"] = sources[name]
    if missing:
        package: Any = sys.modules[__package__]  # saved classes are most likely to use its public names
        define_classes(missing, {name: getattr(package, name) for name in package.__all__})
    return bool(missing)


def unbuilt(node: str) -> LoadError:
    """Return the error of a load that finds a state alone."""
    what = f"node {quote(node)}" if node else "this object"
    fill = f"load_state(obj, path, node={quote(node)})" if node else "load_state(obj, path)"
    return LoadError(
        f"the save holds what fills {what}, and not how it is built: it was written by save(..., build=False)",
        fix=f"Build the object yourself, and fill it: {fill}.",
    )


def opened_stash(tree: SaveTreeNode, document: Document, options: LoadOptions) -> tuple[dict[str, Any], list[bytes]]:
    """Open the stash of a node where its config refers to it.

    Returns
    -------
    stash : dict of str to object
        Empty where the config refers to nothing in it.
    pickles : list of bytes
        Its values that are pickles with references to other objects. Only their names are read, and asked for.
    """
    stash = dict(tree.object_stash) if "$" in document.tags else {}
    pickles = [stash.get(name, b"") for name in document.pickles()]
    for data in pickles:
        check_referring(data, options)
    return stash, pickles


def audit(path: str | os.PathLike[str], node: str, trust: Trust) -> list[Finding]:
    """List what a save asks for and ``trust`` does not allow; it is read, and nothing is built."""
    audit = trust.audit()
    assert audit.findings is not None
    saved = read(path, node, LoadOptions(audit, "cpu", is_mapped=True))  # torch makes no sparse tensor on "meta"
    for prefix, inner in prefixed(saved.tree).items():
        full = prefix_within(node, prefix)
        document = ask_of_config(inner.config, saved.tags, audit, full)[1] if inner.config.strip() else None
        dict(inner.object_stash)  # opens it
        if document is not None:
            opened_stash(inner, document, LoadOptions(audit, node=full, file=STASH_FILE))
    return [*dict.fromkeys(audit.findings)]


def door_to(rows: Sequence[Finding]) -> str:
    """Return the narrowest argument of a load that allows all findings."""
    if any(row.argument == EVERYTHING for row in rows):
        return EVERYTHING
    return door_of(_names_in(rows))


def _names_in(rows: Sequence[Finding]) -> list[str]:
    """Return the names that ``trusted=[...]`` needs for findings."""
    arguments = (row.argument.removeprefix("trusted=") for row in rows if row.argument.startswith("trusted="))
    names = (name for argument in arguments for name in ast.literal_eval(argument))
    # A pickled module names a class for each kind of layer
    return [*dict.fromkeys("torch.nn" if name.startswith("torch.nn.") else name for name in names)]


@contextlib.contextmanager
def errors_with_findings(
    path: str | os.PathLike[str], node: str = "", trust: Trust | None = None, *, name: str = "load"
) -> Iterator[None]:
    """Add to errors the path of the save, all that it asks for, and the argument that allows it.

    Parameters
    ----------
    path : str or path
    node : str
        The part of the save that is read.
    trust : Trust, optional
        With which it is read. Without, errors get no findings.
    name : str
        The function whose argument it is.
    """
    with errors_of(path, name):
        try:
            yield
        except (UntrustedError, MissingExtensionError, RegistrationError) as error:
            if trust is not None:
                _attach_findings(error, path, node, trust)
            raise


def _attach_findings(error: FlambeSaveError, path: str | os.PathLike[str], node: str, trust: Trust) -> None:
    """Add to an error all that the save asks for, so that one call shows everything to allow."""
    first = len(error.rows)
    try:
        rows = audit(path, node, trust)
        known = {row.what for row in rows}
        error.rows = [*rows, *(row for row in error.rows if row.what not in known)]  # building finds more than an audit
    except (FlambeSaveError, OSError):
        return  # the error keeps what it has
    names = _names_in(error.rows)
    if isinstance(error, UntrustedError) and names:
        error.fix = trust.advice(names, is_enough=door_to(error.rows) != EVERYTHING)
    if len(error.rows) > max(first, 1) and error.fix:
        error.fix += f" untrusted({os.fspath(path)!r}) lists all {len(error.rows)} things that it asks for."
