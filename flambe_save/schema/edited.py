"""Objects that were changed after their constructor returned; changes.py finds the changes."""

from __future__ import annotations

import enum
import sys
from typing import Any

import torch
from torch import nn

from flambe_save.classes.registrable import Registrable
from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.errors import CompilationError, quote
from flambe_save.objects.assembly import TABLES, put_attributes, put_hooks, put_in_table, set_not_persistent
from flambe_save.objects.special import runs_when_made
from flambe_save.objects.walks import inside_itself, module_at
from flambe_save.schema.schema import TRANSPARENT
from flambe_save.trust import trust_in_force


class Edited(Registrable, tag_override="edited"):
    """An object with changes made after it was built: ``!edited {object: ..., changes: ...}``.

    Parameters
    ----------
    object : object
        Changed in place and returned; no code of its class is run.
    changes : dict
        By the path of a module inside, or "" for the object itself: ``modules``, ``parameters``, ``buffers`` and
        ``attributes`` to set, names that are ``removed``, buffers that are ``not_persistent``, torch's ``hooks``, and
        the ``order`` of tables where it differs.
    """

    def __new__(cls, object: Any, changes: Any) -> Any:
        if type(changes) is not dict:
            raise CompilationError("the changes of an edited object are a mapping", fix="Correct the config.")
        kind: Any = type(object)
        is_torchs = isinstance(object, (nn.Module, torch.amp.GradScaler))
        if not (is_torchs or kind in TAGS) or isinstance(object, (type, enum.Enum, torch.Tensor)):
            raise CompilationError(f"a {kind.__qualname__} is not edited by a config", fix="Correct the config.")
        if runs_when_made(kind) and not trust_in_force().allows(dotted_path(kind)):
            raise CompilationError(
                f"a {kind.__qualname__} runs code when it is deleted or looked at, so a config may not change it",
                fix=f"If you know who wrote it: load(..., trusted=[{dotted_path(kind)!r}]).",
            )
        for path, change in changes.items():
            _apply(_inside(object, path), path, change)
        if any(change.get("modules") for change in changes.values()):
            check_nesting(object)
        return object


def check_nesting(*objects: Any) -> None:
    """Refuse modules that torch would walk without end, or past the end of Python's stack.

    Raises
    ------
    CompilationError
        If one is inside itself.
    LimitError
        If they are inside each other more deeply than calls may be.
    """

    def inside(item: Any) -> list[Any]:
        children = item if item is objects else item.__dict__.get("_modules", {}).values()
        return [child for child in children if child is not None]

    found = inside_itself(objects, inside, sys.getrecursionlimit())
    if found is not None:
        raise CompilationError(f"a {type(found).__qualname__} is inside itself", fix="Correct the config.")


def _inside(obj: Any, path: Any) -> Any:
    found = module_at(obj, path) if type(path) is str else None
    if found is None:
        raise CompilationError(
            f"there is no module {quote(str(path))} to change in a {type(obj).__qualname__}",
            fix="The class may have changed since the config was written; edit one or the other.",
        )
    return found


def _apply(obj: Any, path: str, change: Any) -> None:
    known = {"attributes", "removed"}
    if isinstance(obj, nn.Module):
        known |= {"modules", "parameters", "buffers", "not_persistent", "hooks", "order"}
    if type(change) is not dict or not change.keys() <= known:
        raise CompilationError(
            f"the changes at {quote(path)} are not a mapping of {', '.join(sorted(known))}", fix="Correct the config."
        )
    removed = change.get("removed", [])
    if type(removed) is not list or not all(type(name) is str for name in removed):
        raise CompilationError(f"the removed names at {quote(path)} are not a list of texts", fix="Correct the config.")
    _remove(obj, removed)
    for table in ("modules", "parameters", "buffers"):
        if table in change:
            put_in_table(obj, table, change[table])
    if "not_persistent" in change:
        set_not_persistent(obj, change["not_persistent"])
    if "hooks" in change:
        put_hooks(obj, change["hooks"])
    put_attributes(obj, change.get("attributes"))
    orders = change.get("order", {})
    for table, order in orders.items() if type(orders) is dict else (("", orders),):
        own = obj.__dict__.get(f"_{table}", {}) if table in ("modules", "parameters", "buffers") else {}
        is_listed = type(order) is list and all(type(name) is str for name in order)
        if not own or not is_listed or sorted(order) != sorted(own):
            raise CompilationError(
                f"the order of the {table} at {quote(path)} does not list each of them once", fix="Correct the config."
            )
        for name in order:
            own[name] = own.pop(name)
    if isinstance(obj, nn.RNNBase):
        nn.RNNBase._init_flat_weights(obj)


def _remove(obj: Any, names: list[str]) -> None:
    for name in names:
        if isinstance(obj, nn.Module):
            for table in ("modules", "parameters", "buffers"):
                obj.__dict__[f"_{table}"].pop(name, None)
            obj.__dict__["_non_persistent_buffers_set"] &= obj.__dict__["_buffers"].keys()
        if name not in TABLES and not name.startswith("__"):
            obj.__dict__.pop(name, None)


TRANSPARENT.add(Edited)
