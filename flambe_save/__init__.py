"""flambe_save: save PyTorch component trees as folders you can open, rebuild without a pickle, and trust."""

from flambe_save._version import __version__
from flambe_save.adapters import Adapter, register_adapter
from flambe_save.adapters.migrations import Migrated, migration
from flambe_save.adapters.random import RandomStates
from flambe_save.api import (
    load,
    load_state_from_file,
    migrate,
    save,
    save_async,
    save_state_to_file,
    untrusted,
    verify,
)
from flambe_save.classes.registrable import (
    Registrable,
    alias,
    all_subclasses,
    register,
    registrable_factory,
    registration_context,
)
from flambe_save.classes.renames import moved_from
from flambe_save.component import Component, dynamic_component, make_component
from flambe_save.conversion import reseal
from flambe_save.describing import yaml
from flambe_save.describing.mapped import MappedRegistrable
from flambe_save.describing.recording import recorded, recording
from flambe_save.errors import *  # noqa: F403
from flambe_save.errors import Finding
from flambe_save.errors import __all__ as _errors
from flambe_save.filling import load_state
from flambe_save.formats import Damage
from flambe_save.inspection import Change, Measures, OpenSave, SavedNode, SavedValues, Statistics, diff, open_save
from flambe_save.schema.link import FunctionCallLink, Link, PickledDataLink, create_link_str, parse_link_str
from flambe_save.schema.schema import Schema
from flambe_save.state import State, traverse
from flambe_save.structure import build_structure, deserialise, load_structure, serialise
from flambe_save.tree import SaveTreeNode, state_from_tree, tree_from_state
from flambe_save.trust import Limits

open = open_save  # flambe_save.open; not among the names of a star import, which would hide Python's

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
