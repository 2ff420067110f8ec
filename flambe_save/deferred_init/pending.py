"""Deferred operations, which do not keep their memory alive; mode.py has the list."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

__all__ = [
    "CAN_TELL",
    "Memory",
    "Step",
    "View",
    "is_whole",
    "is_without_overlap",
    "storage_of",
    "tensors_in",
]


def _find_out() -> bool:
    """Test whether a storage is one object, which lives exactly as long as its memory is used."""
    tensor = torch.empty(2)
    known = weakref.ref(tensor.untyped_storage())
    view = tensor[1:]
    del tensor
    lives = known() is view.untyped_storage()
    del view
    return lives and known() is None


CAN_TELL = _find_out()  # whether this torch tells who uses memory; if not, nothing is put off


class Memory:
    """The memory of a storage whose values are put off.

    Attributes
    ----------
    storage : weak reference
    size : int
        Bytes.
    is_lost : bool
        Whether it has been overwritten, so that what was put off is of no more use to it.
    """

    __slots__ = ("is_lost", "size", "stand_in", "storage")

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = weakref.ref(storage)
        self.size = storage.nbytes()
        self.is_lost = False
        self.stand_in: torch.UntypedStorage | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether other code can still reach the storage."""
        return not self.is_lost and self.storage() is not None

    def get(self) -> torch.UntypedStorage:
        """Return the storage, or one that plays it."""
        found = None if self.is_lost else self.storage()
        if found is not None:
            return found
        if self.stand_in is None:
            self.stand_in = torch.UntypedStorage(self.size)  # type: ignore[no-untyped-call]
        return self.stand_in


class View(NamedTuple):
    """A tensor, without holding on to its memory."""

    memory: Memory
    dtype: torch.dtype
    offset: int
    size: torch.Size
    stride: tuple[int, ...]

    def get(self) -> torch.Tensor:
        empty = torch.empty(0, dtype=self.dtype, device="cpu")
        return empty.set_(self.memory.get(), self.offset, self.size, self.stride)


class Step(NamedTuple):
    """A deferred operation.

    Attributes
    ----------
    func : callable
    into : View
        What it writes to: its first argument, or where its result goes.
    args : tuple
        Numbers, and View in place of tensors.
    draw : int or None
        The number of its draw.
    """

    func: Any
    into: View
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_result: bool
    draw: int | None

    @property
    def memories(self) -> list[Memory]:
        return [self.into.memory, *(item.memory for item in self.args if isinstance(item, View))]

    def run(self) -> None:
        args = [item.get() if isinstance(item, View) else item for item in self.args]
        target = self.into.get()
        if self.is_result:
            target.copy_(self.func(*args, **self.kwargs))
        else:
            self.func(target, *args, **self.kwargs)


def is_whole(tensor: torch.Tensor, storage: torch.UntypedStorage) -> bool:
    """Whether a tensor is all of its memory, each byte once."""
    return storage.nbytes() == tensor.numel() * tensor.element_size() and is_without_overlap(tensor)


def is_without_overlap(tensor: torch.Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    end = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.size(), strict=True)):
        if size > 1:
            if stride < end:
                return False
            end = stride * size
    return True


def storage_of(tensor: Any) -> torch.UntypedStorage | None:
    if not isinstance(tensor, torch.Tensor):
        return tensor if isinstance(tensor, torch.UntypedStorage) else None
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):  # a layout that has none
        return None


def tensors_in(*values: Any) -> Iterator[Any]:
    """Yield the tensors, and storages, among arguments, however deep in lists."""
    waiting = [*values]
    while waiting:
        item = waiting.pop()
        if isinstance(item, (torch.Tensor, torch.UntypedStorage)):
            yield item
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
