"""Structures: an object's config as JSON, with the shapes and types of its arrays.

build_structure and load_structure are inverses; serialise and deserialise are other names of save and load. The limits
of a structure and of its load are those of configs. entries.py defines entries, describing.py writes them, and
reading.py reads them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import yaml as pyyaml

from flambe_save.adapters import get_state
from flambe_save.api import load, save
from flambe_save.config.nodes import parse, split_documents
from flambe_save.describing.documents import serialize
from flambe_save.describing.represent import Representer
from flambe_save.errors import FlambeSaveError, UnsupportedObjectError
from flambe_save.formats import Saved
from flambe_save.layout import CONFIG_KEY, STASH_KEY, TAGS_KEY
from flambe_save.loading import build
from flambe_save.pt import LoadOptions
from flambe_save.state import State
from flambe_save.structure.arrays import arrays_held, describe_array, fill_arrays
from flambe_save.structure.describing import Describing, owner_of
from flambe_save.structure.entries import WAYS_OUT, Entry
from flambe_save.structure.reading import Reading
from flambe_save.support.trampoline import run
from flambe_save.tree import tree_from_state
from flambe_save.trust import Limits, Trust

__all__ = ["build_structure", "deserialise", "load_structure", "serialise"]


def build_structure(obj: Any) -> Entry:
    """Describe an object in JSON's types, without the values of its arrays.

    :func:`load_structure` is the inverse.

    Parameters
    ----------
    obj : object
        Anything that :func:`save` writes without a pickle.

    Returns
    -------
    dict
        An entry: ``node_type`` (container, leaf or reference), ``type`` (a dotted path), and the keys that
        docs/structure.md lists. It shares nothing with the object.

    Raises
    ------
    UnsupportedObjectError
        If a part is not an array, and its type and arguments do not describe it; the message has its place.
    ConfigError
        If a config cannot hold a value, such as a text with half a surrogate pair.

    Examples
    --------
    >>> build_structure({"sizes": (3, 4)})["node"]["sizes"]["node"]["0"]
    {'node_type': 'leaf', 'type': 'builtins.int', 'value': 3}
    """
    state = get_state(obj, keep_vars=True)
    facts = state._metadata[""]
    if not facts.get(CONFIG_KEY):
        raise UnsupportedObjectError(f"it is not known how this {type(obj).__qualname__} was built", fix=WAYS_OUT)
    extensions, document = split_documents(parse(facts[CONFIG_KEY]))
    describing = Describing(state, facts.get(TAGS_KEY, {}), facts.get(STASH_KEY, {}))
    root: Entry = run(describing.entry(document.root, None))
    known: dict[int, str] = {}
    for key, value in arrays_held(obj, state).items():
        owner, name = owner_of(key, root)
        is_tied = known.setdefault(id(value), key) != key and isinstance(value, torch.nn.Parameter)
        described = {"node_type": "reference", "to": known[id(value)]} if is_tied else describe_array(value, key)
        owner.setdefault("arrays", {})[name] = described
    return {**root, "extensions": extensions} if extensions else root


def load_structure(structure: Mapping[str, Any], *, trusted: Iterable[str] = (), limits: Limits | None = None) -> Any:
    """Build the object that a structure describes, with zeros in its arrays.

    Inverse of :func:`build_structure`.

    Parameters
    ----------
    structure : dict
        Not changed. It can run no more than a save that is loaded.
    trusted : list of str
        As for :func:`load`.
    limits : Limits, optional
        ``built_bytes`` is the most bytes that all arrays together may take; they are counted before they are made.

    Returns
    -------
    object
        Its arrays are on the CPU. The rest of its state is as constructors leave it.

    Raises
    ------
    ConfigError
        If it is not a structure, or does not fit the classes.
    UntrustedError, MissingExtensionError
        If it asks for more than classes that this program has imported and registered.
    LimitError
        If its arrays are larger than ``limits`` allows.
    StateMismatchError
        If the built object has other arrays.
    """
    trust = Trust.of(trusted=trusted, limits=limits)
    reading = Reading(trust)
    try:
        nodes: list[pyyaml.Node] = [run(reading.node(structure, None, reading.root))]
        if structure.get("extensions"):
            nodes.insert(0, Representer(None).represent_data(structure["extensions"]))
        trust.check_size(sum(item.bytes for table in (reading.leaves, reading.arrays) for item in table.values()), 0)
        leaves = {key: item.zeros() for key, item in reading.leaves.items()}
        arrays = {key: item.zeros() for key, item in reading.arrays.items()}
        described = State()
        described._metadata[""] = {CONFIG_KEY: serialize(nodes)}
        saved = Saved(tree_from_state(described), tags=reading.tags, is_vouched_for=True)
        obj = build(saved, State({**leaves, **arrays}), LoadOptions(trust), "", "")
        fill_arrays(obj, arrays, reading.ties)
    except FlambeSaveError as error:
        error.file = None  # no config.yaml was read, and so no line of it
        error.message = re.sub(r"^line [0-9]+: ", "", error.message)
        for said, meant in (("load(...", "load_structure(..."), ("in config.yaml", "in the structure")):
            error.fix = error.fix and error.fix.replace(said, meant)
        if "weights_only" in (error.fix or ""):
            error.fix = "A structure is never trusted with everything: build the object yourself, or save and load it."
        raise
    return obj


def serialise(path: Any, obj: Any, **options: Any) -> str:
    """Save an object: :func:`save` with the path first, or last.

    Parameters
    ----------
    path : str or path
    obj : object
    **options
        As for :func:`save`.

    Returns
    -------
    str
        The path of the save.

    Raises
    ------
    TypeError
        If both are texts or paths, or neither is.
    SaveError
        As :func:`save`.
    """
    are_paths = [isinstance(item, (str, os.PathLike)) for item in (path, obj)]
    if all(are_paths):
        raise TypeError("both arguments are texts or paths, so which is the path? Write save(obj, path).")
    if not any(are_paths):
        raise TypeError("neither argument is a path: serialise(path, obj)")
    return save(obj, path, **options) if are_paths[0] else save(path, obj, **options)


def deserialise(path: str | os.PathLike[str], **options: Any) -> Any:
    """Load an object, as :func:`load` with its options. Inverse of :func:`serialise`."""
    return load(path, **options)
