"""Fill an object that you built from a save; api.py has the functions that build one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from flambe_save.adapters import ValueAdapter, ValueFilling, adapter_for
from flambe_save.adapters import load_state as load_state_into
from flambe_save.asking import errors_with_findings
from flambe_save.config.nodes import parse, split_documents
from flambe_save.loading import check_values
from flambe_save.pt import LoadOptions, MapLocation
from flambe_save.reading import read, read_around
from flambe_save.schema.reference import Sources
from flambe_save.state import State
from flambe_save.support.progress import ShowProgress, progress_of
from flambe_save.support.undoing import takes_back
from flambe_save.tree import state_from_tree
from flambe_save.trust import Limits, Trust, check_switches


@takes_back
def load_state(
    obj: Any,
    path: str | os.PathLike[str],
    *,
    node: str = "",
    map_location: MapLocation = "cpu",
    trusted: Iterable[str] = (),
    limits: Limits | None = None,
    strict: bool = True,
    progress: ShowProgress = False,
) -> None:
    """Fill an object that you built from a save.

    No class of the save is built, so none needs trust.
    A dict of a run is filled as a whole: modules and optimizers from the state, numbers, texts and lists from the
    config. Lists, dicts, sets, dataclasses and plain objects stay the objects that they are; a plain value that a dict
    lacks is added to it. :func:`load` builds the object itself, or reads one value with ``node=``;
    :func:`load_state_from_file` gives the tensors by their keys.

    Parameters
    ----------
    obj : object
        Changed in place: a module, an optimizer, a container of these, whatever :func:`save` takes. Tensors keep their
        types and devices.
    path : str or path
    node : str
        The dotted key of the part of the save that ``obj`` is: a component, or anything inside one, as
        ``"model.encoder"``.
    map_location : str, torch.device, mapping or callable, optional
        Where tensors are read to before they are copied.
    trusted : list of str
        As :func:`load`: for plain values that are more than data.
    limits : Limits, optional
        As :func:`load`.
    strict : bool
        Whether anything that does not fit is an error. False fills what fits; one warning lists keys that are missing
        or not wanted, and tensors of other sizes, which stay as they were.
    progress : bool or callable
        As :func:`load`.

    Raises
    ------
    StateMismatchError
        If the save does not fit the object. Keys and sizes are compared first, so the object is as it was. Only what
        the object's own code refuses (a ``load_state_dict`` of its class, a hook) is found while other parts are
        filled.
    LoadError
        As :func:`load`.

    Warns
    -----
    StateMismatchWarning
        If plain values need trust: these stay as they were, and are named. What ``strict=False`` passes over.
    """
    check_switches(strict=strict)
    trust = Trust.of(trusted=trusted, limits=limits)
    meter = progress_of(progress, "Loading")
    options = LoadOptions(trust, map_location, is_mapped=True, progress=meter)  # each value is copied right away
    with errors_with_findings(path, node, trust):
        with meter:
            state, values = _read(obj, path, node, options)
        check_values(state, {}, map_location)
        load_state_into(obj, state, strict=strict, values=values, skips_sizes=True)


def _read(obj: Any, path: str | os.PathLike[str], node: str, options: LoadOptions) -> tuple[State, ValueFilling | None]:
    """Read the state of an object, and of a container or plain object its values in the config."""
    saved, inner = read_around(path, node, options)
    whole = state_from_tree(saved.tree)
    part = whole.under(inner)
    values = None
    if isinstance(adapter_for(obj), ValueAdapter | None) and saved.tree.config.strip():
        _, document = split_documents(parse(saved.tree.config))
        names = inner.split(".") if inner else []
        sources = Sources(saved.tree.object_stash, whole, {})
        values = ValueFilling(document, names, saved.tags, sources, part, options.trust)
    if inner and not part and (values is None or values.is_empty):
        read(path, node, options)  # says what there is
    return part, values
