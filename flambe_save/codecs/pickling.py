"""Pickle values with numbers in place of storages, as ``torch.save`` does."""

from __future__ import annotations

import io
import pickle
import types
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import dill
import torch
from torch.serialization import location_tag

from flambe_save.codecs.data import SIMPLE, check_no_file, say_what
from flambe_save.codecs.dense import STORAGE_NAMES, is_plain
from flambe_save.codecs.naming import by_names
from flambe_save.errors import StateMismatchWarning, UnsupportedObjectError, quote_some, warn
from flambe_save.state import Referring, Stash

REFERENCE = "object"  # begins the persistent id of an object; a number follows, which a config explains


def elsewhere_of(values: Any) -> Mapping[int, str]:
    """The objects that the save also has outside of a stash, by their ids."""
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
    """Pickle values, and warn of objects in them that the save has elsewhere too.

    Returns
    -------
    (bytes, list of torch.UntypedStorage)
        The pickle, and the storages that it numbers.
    """
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
            # By default, dill pickles classes by value that it does not find by name, as those of torch.optim
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
    elsewhere: Mapping[int, str],
    copies: list[str],
    references: Mapping[int, int],
    **options: Any,
) -> tuple[bytes, list[torch.UntypedStorage]]:
    """Pickle values; add to ``copies`` the names of objects in them that are ``elsewhere``.

    Of objects in ``references``, by their ids, only the number is pickled.
    """
    numbers: dict[int, int] = {}
    storages: list[torch.UntypedStorage] = []
    types: dict[int, torch.dtype] = {}

    class Pickler(module.Pickler):  # type: ignore[misc]
        def persistent_id(self, obj: Any) -> Any:
            if type(obj) in SIMPLE:  # most objects, as the words of random states: no question below is about them
                return None
            if id(obj) in references:
                return REFERENCE, references[id(obj)]
            if type(obj) is _Elements:
                untyped, dtype = obj.untyped, obj.dtype
                kind, count = getattr(torch, STORAGE_NAMES[dtype]), untyped.nbytes() // dtype.itemsize
            elif isinstance(obj, torch.storage.TypedStorage):
                untyped = obj._untyped_storage
                kind, dtype, count = getattr(torch, obj._pickle_storage_type()), obj.dtype, obj._size()  # type: ignore[no-untyped-call]
            elif isinstance(obj, torch.UntypedStorage):
                untyped, kind, dtype, count = obj, torch.UntypedStorage, torch.uint8, obj.nbytes()
            else:
                check_no_file(obj)
                if id(obj) in elsewhere:
                    copies.append(elsewhere[id(obj)])
                return None
            number = numbers.setdefault(untyped._cdata, len(storages))
            if number == len(storages):
                storages.append(untyped)
            if types.setdefault(number, dtype) is not dtype:
                raise pickle.PicklingError("tensors of different types view one memory, which torch cannot load")
            return "storage", kind, str(number), location_tag(untyped), count

        if module is pickle:  # others may have one of their own

            def reducer_override(self, obj: Any) -> Any:
                return _reduced(obj) if type(obj) is torch.Tensor and is_plain(obj) else NotImplemented

    buffer = io.BytesIO()
    Pickler(buffer, protocol=protocol, **options).dump(values)
    return buffer.getvalue(), storages


class _Elements(NamedTuple):
    """The storage of a plain tensor, and the type of its elements."""

    untyped: torch.UntypedStorage
    dtype: torch.dtype


def _reduced(tensor: torch.Tensor) -> tuple[Any, ...]:
    """The reduction of a plain tensor as torch has it, in a tenth of the time."""
    storage = _Elements(tensor.untyped_storage(), tensor.dtype)
    layout = tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
    return torch._utils._rebuild_tensor_v2, (storage, *layout, False, OrderedDict())


def unpicklable(values: Any, opaque: list[tuple[str, Any]], error: Exception) -> UnsupportedObjectError:
    """The error for values that a pickle module refuses."""
    if not opaque and isinstance(values, dict):  # a tensor of a type that torch cannot save
        opaque = [(str(key), value) for key, value in values.items() if not _saves(value)]
    what = "; ".join(say_what(opaque[:5])) or "a value"
    return UnsupportedObjectError(
        f"this cannot be pickled ({str(error)[:200]}): {what}",
        fix="There are three ways out: register_adapter() for its type; leave it out of the save, and make it again "
        "after a load; or make it picklable, to be kept in the stash, for which a load needs trust.",
    )


def _saves(value: Any) -> bool:
    try:
        torch.save(value, io.BytesIO())
    except Exception:
        return False
    return True
