"""Save PyTorch component trees as folders that you can open, rebuild and trust."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flambe_save import running  # noqa: F401  # now, so that what exit handlers begin is waited for
from flambe_save._version import __version__
from flambe_save.errors import *  # noqa: F403
from flambe_save.errors import Finding
from flambe_save.errors import __all__ as _errors
from flambe_save.support.lazy import lazy_names

# Names are imported when they are first asked for: looking into a save costs no import of torch
if TYPE_CHECKING:
    from flambe_save.adapters import Adapter, RandomStates, register_adapter
    from flambe_save.adapters.migrations import Migrated, migration
    from flambe_save.api import (
        load,
        load_state_from_file,
        save,
        save_async,
        save_state_to_file,
        untrusted,
    )
    from flambe_save.classes.factories import registrable_factory
    from flambe_save.classes.registrable import Registrable, alias, all_subclasses, register, registration_context
    from flambe_save.classes.renames import moved_from
    from flambe_save.component import Component
    from flambe_save.config.link_text import create_link_str, parse_link_str
    from flambe_save.conversion import reseal
    from flambe_save.describing import yaml
    from flambe_save.describing.mapped import MappedRegistrable
    from flambe_save.describing.recording import recorded, recording
    from flambe_save.dynamic import dynamic_component, make_component
    from flambe_save.filling import load_state
    from flambe_save.formats import Damage
    from flambe_save.inspection import (
        Change,
        Measures,
        OpenSave,
        SavedNode,
        SavedValues,
        Statistics,
        diff,
        open_save,
    )
    from flambe_save.migrating import migrate
    from flambe_save.reading import verify
    from flambe_save.schema.link import FunctionCallLink, Link
    from flambe_save.schema.schema import Schema
    from flambe_save.schema.stored import PickledDataLink
    from flambe_save.state import State, traverse
    from flambe_save.structure import build_structure, deserialise, load_structure, serialise
    from flambe_save.tree import SaveTreeNode, state_from_tree, tree_from_state
    from flambe_save.trust import Limits

    open = open_save

# Of the reading core, which needs no torch
_READING = {
    "flambe_save.config.link_text": "create_link_str parse_link_str",
    "flambe_save.reading": "verify",
    "flambe_save.inspection": "Change diff Measures open_save OpenSave SavedNode SavedValues Statistics",
    "flambe_save.formats": "Damage",
    "flambe_save.state": "State traverse",
    "flambe_save.tree": "SaveTreeNode state_from_tree tree_from_state",
    "flambe_save.trust": "Limits",
}
_OTHERS = {
    "flambe_save.adapters": "Adapter RandomStates register_adapter",
    "flambe_save.adapters.migrations": "Migrated migration",
    "flambe_save.api": "load load_state_from_file save save_async save_state_to_file untrusted",
    "flambe_save.classes.factories": "registrable_factory",
    "flambe_save.classes.registrable": "alias all_subclasses register Registrable registration_context",
    "flambe_save.classes.renames": "moved_from",
    "flambe_save.component": "Component",
    "flambe_save.conversion": "reseal",
    "flambe_save.describing": "yaml",
    "flambe_save.describing.mapped": "MappedRegistrable",
    "flambe_save.describing.recording": "recorded recording",
    "flambe_save.dynamic": "dynamic_component make_component",
    "flambe_save.filling": "load_state",
    "flambe_save.migrating": "migrate",
    "flambe_save.schema.link": "FunctionCallLink Link",
    "flambe_save.schema.schema": "Schema",
    "flambe_save.schema.stored": "PickledDataLink",
    "flambe_save.structure": "build_structure deserialise load_structure serialise",
}
_find = lazy_names(__name__, {**_READING, **_OTHERS})


def __getattr__(name: str) -> Any:
    if name == "open":  # not among the names of a star import, which would hide Python's
        return _find("open_save")
    if any(name in names.split() for names in _OTHERS.values()):
        importlib.import_module("flambe_save.adapters")  # whose kinds and tags all the others count on
    return _find(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "open"})


__all__ = [
    "Adapter",
    "Change",
    "Component",
    "Damage",
    "Finding",
    "FunctionCallLink",
    "Limits",
    "Link",
    "MappedRegistrable",
    "Measures",
    "Migrated",
    "OpenSave",
    "PickledDataLink",
    "RandomStates",
    "Registrable",
    "SaveTreeNode",
    "SavedNode",
    "SavedValues",
    "Schema",
    "State",
    "Statistics",
    "__version__",
    "alias",
    "all_subclasses",
    "build_structure",
    "create_link_str",
    "deserialise",
    "diff",
    "dynamic_component",
    "load",
    "load_state",
    "load_state_from_file",
    "load_structure",
    "make_component",
    "migrate",
    "migration",
    "moved_from",
    "parse_link_str",
    "recorded",
    "recording",
    "register",
    "register_adapter",
    "registrable_factory",
    "registration_context",
    "reseal",
    "save",
    "save_async",
    "save_state_to_file",
    "serialise",
    "state_from_tree",
    "traverse",
    "tree_from_state",
    "untrusted",
    "verify",
    "yaml",
    *_errors,
]
