"""Values pickled with numbers where their storages are, as ``torch.save`` does; torch_reading.py has the way back."""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Mapping
from typing import Any

import dill
import torch
from torch.serialization import location_tag

from flambe_save.codecs.data import check_no_file, say_what
from flambe_save.codecs.naming import by_names
from flambe_save.errors import StateMismatchWarning, UnsupportedObjectError, quote_some, warn
from flambe_save.state import Referring, Stash

__all__ = ["REFERENCE", "elsewhere_of", "pickled_once", "unpicklable"]

REFERENCE = "object"  # begins the persistent id of what is no storage: a number follows, which a config explains


def elsewhere_of(values: Any) -> Mapping[int, str]:
    """Return what the save has in other places than the stash that is written."""
    if not isinstance(values, Stash):
        return {}
    own = {
        id(item) for value in values.values() for item in (value.values if isinstance(value, Referring) else (value,))
    }
    return {number: name for number, name in values.elsewhere.items() if number not in own}


def pickled_once(
    values: Any,
    module: Any,
    protocol: int,
    elsewhere: Mapping[int, str],
    references: Mapping[int, int] = types.MappingProxyType({}),
) -> tuple[bytes, list[torch.UntypedStorage]]:
    """Pickle values, and warn of what in them is a copy of something that the save has elsewhere too."""
    copies: list[str] = []

    def pickled(module: Any, **options: Any) -> tuple[bytes, list[torch.UntypedStorage]]:
        copies.clear()
        return _pickled(values, module, protocol, elsewhere, copies, references, **options)

    found = by_names(pickled, lambda found: found[0]) if module is dill else None
    if found is None:
        try:
            found = pickled(module)
        except Exception:
            if module is not dill:
                raise
            # By value, dill pickles classes that it does not find under their names, as those of torch.optim
            found = pickled(module, byref=True)
    if copies:
        warn(
            f"a pickle holds copies of what the save has elsewhere: {quote_some([*dict.fromkeys(copies)])}; a load "
            "makes two objects of each",
            StateMismatchWarning,
        )
    return found


def _pickled(
    values: Any,
    module: Any,
    protocol: int,
    elsewhere: Mapping[int, str] = types.MappingProxyType({}),
    copies: list[str] | None = None,
    references: Mapping[int, int] = types.MappingProxyType({}),
    **options: Any,
) -> tuple[bytes, list[torch.UntypedStorage]]:
    """Pickle values, as torch.save does, with numbers where storages are; return these in order.

    ``copies`` gets the names of what is ``elsewhere``, by its id. What is among ``references``, by its id, is not
    pickled: its number stands for it.
    """
    numbers: dict[int, int] = {}
    storages: list[torch.UntypedStorage] = []
    types: dict[int, torch.dtype] = {}

    class Pickler(module.Pickler):  # type: ignore[misc]
        def persistent_id(self, obj: Any) -> Any:
            if id(obj) in references:
                return REFERENCE, references[id(obj)]
            if isinstance(obj, torch.storage.TypedStorage):
                untyped: Any = obj._untyped_storage
                kind, dtype, count = getattr(torch, obj._pickle_storage_type()), obj.dtype, obj._size()  # type: ignore[no-untyped-call]
            elif isinstance(obj, torch.UntypedStorage):
                untyped, kind, dtype, count = obj, torch.UntypedStorage, torch.uint8, obj.nbytes()
            else:
                check_no_file(obj)
                if copies is not None and id(obj) in elsewhere:
                    copies.append(elsewhere[id(obj)])
                return None
            number = numbers.setdefault(untyped._cdata, len(storages))
            if number == len(storages):
                storages.append(untyped)
            if types.setdefault(number, dtype) is not dtype:
                raise pickle.PicklingError("tensors of different types view one memory, which torch cannot load")
            return "storage", kind, str(number), location_tag(untyped), count

    buffer = io.BytesIO()
    Pickler(buffer, protocol=protocol, **options).dump(values)
    return buffer.getvalue(), storages


def unpicklable(values: Any, opaque: list[tuple[str, Any]], error: Exception) -> UnsupportedObjectError:
    """Make the error for values that a pickle module refused."""
    if not opaque and isinstance(values, dict):  # then it is a tensor of a type that torch cannot save
        opaque = [(str(key), value) for key, value in values.items() if not _saves(value)]
    what = "; ".join(say_what(opaque[:5])) or "a value"
    return UnsupportedObjectError(
        f"this cannot be pickled ({str(error)[:200]}): {what}",
        fix="There are three ways out: register_adapter() for its type; leave it out of what is saved, to be made "
        "again by whoever holds it; or make it picklable, to be kept in the stash, for which a load needs trust.",
    )


def _saves(value: Any) -> bool:
    try:
        torch.save(value, io.BytesIO())
    except Exception:
        return False
    return True
