"""Given: values of a save's state that constructors get, restored once all is built.

A load has each tensor once, and passes it on without a copy. A constructor may write to it, for example to initialise
a model's weights again. So a tensor's memory is copied before an operation writes to it, and only then; mode.py, which
sees all operations, says when.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch

from flambe_save.deferred_init.operations import moves, written_in
from flambe_save.deferred_init.pending import storage_of, tensors_in


class Given:
    """Tensors and arrays of one load's state that other code gets.

    Parameters
    ----------
    made : mapping of int to torch.Tensor
        Tensors that share the memory of the state's, by the ids of these. It may still grow.

    Attributes
    ----------
    is_watched : bool
        Whether code may write to them.
    """

    def __init__(self, made: Mapping[int, torch.Tensor]) -> None:
        self.is_watched = False
        self._made = made
        self._tensors: dict[int, torch.Tensor] = {}
        self._made_ids: set[int] = set()
        self._arrays: dict[int, tuple[Any, Any]] = {}  # each with a copy of its values
        self._storages: dict[int, torch.UntypedStorage] = {}  # of the tensors, by address
        self._count = 0  # of the tensors whose storages are in it
        self._copies: dict[int, tuple[torch.UntypedStorage, torch.Tensor]] = {}
        self._moved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # each with its place before

    def __contains__(self, value: object) -> bool:
        return id(value) in self._tensors

    def add(self, value: Any) -> None:
        """Note a value that code gets. An array is copied now, since a write to it cannot be seen."""
        if isinstance(value, torch.Tensor):
            self._tensors[id(value)] = value
        elif self.is_watched and _is_array(value) and id(value) not in self._arrays:
            self._arrays[id(value)] = value, value.copy()

    def before(self, func: Any, args: Any, kwargs: Any) -> None:
        """Keep the memory that an operation of torch is about to write to."""
        if not self._tensors:
            return
        places, names = written_in(func)
        for tensor in tensors_in(*[args[place] for place in places if place < len(args)]):
            self.keep(tensor)
            if moves(func):
                self.keep_place(tensor)
        for tensor in tensors_in(*[kwargs.get(name) for name in names]):
            self.keep(tensor)

    def keep(self, tensor: Any) -> None:
        """Copy the memory of a tensor of the state, before code may write to it."""
        storage = storage_of(tensor)
        if storage is None:  # a tensor that is made of others, which are not known
            self.keep_all()
        elif storage._cdata in self._known() and storage._cdata not in self._copies:
            self._copies[storage._cdata] = storage, _bytes_of(storage).clone()

    def keep_all(self) -> None:
        """Copy the memory of all tensors, because later operations are not seen."""
        for storage in [*self._known().values()]:
            self.keep(storage)

    def keep_place(self, tensor: Any) -> None:
        """Note the present memory and shape of a tensor that is about to get others."""
        if len(self._made_ids) < len(self._made):
            self._made_ids = {id(item) for item in self._made.values()}
        if id(tensor) not in self._moved and (id(tensor) in self._tensors or id(tensor) in self._made_ids):
            self._moved[id(tensor)] = tensor, tensor.detach()

    def put_back(self) -> None:
        """Restore the values and places of all tensors and arrays."""
        with torch.no_grad():
            for storage, copy in self._copies.values():
                if storage.nbytes() != copy.numel():
                    storage.resize_(copy.numel())
                _bytes_of(storage).copy_(copy)
            for tensor, before in self._moved.values():
                tensor.data = before
        for array, values in self._arrays.values():
            if array.flags.writeable:
                array[...] = values
        self._arrays, self._copies, self._moved = {}, {}, {}

    def _known(self) -> dict[int, torch.UntypedStorage]:
        if self._count < len(self._tensors):
            for tensor in [*self._tensors.values()][self._count :]:
                storage = storage_of(tensor)
                if storage is not None:
                    self._storages[storage._cdata] = storage
            self._count = len(self._tensors)
        return self._storages


def _is_array(value: Any) -> bool:
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
