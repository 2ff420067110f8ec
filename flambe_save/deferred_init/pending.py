"""Deferred operations, which do not keep their memory alive, and the list of them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from flambe_save.deferred_init.generators import GeneratorTimeline


def _is_freed_with_its_memory() -> bool:
    """Test whether a storage is one Python object that lives as long as its memory is used."""
    tensor = torch.empty(2)
    known = weakref.ref(tensor.untyped_storage())
    view = tensor[1:]
    del tensor
    lives = known() is view.untyped_storage()
    del view
    return lives and known() is None


CAN_TELL = _is_freed_with_its_memory()  # whether this torch shows who uses memory; if not, nothing is deferred


class PendingStorage:
    """A storage whose values are deferred.

    Attributes
    ----------
    storage : weak reference
    size : int
        Bytes.
    is_lost : bool
        Whether it has been overwritten: deferred operations then no longer write to it.
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
        """The storage, or one in its place where it is gone or overwritten."""
        found = None if self.is_lost else self.storage()
        if found is not None:
            return found
        if self.stand_in is None:
            self.stand_in = torch.UntypedStorage(self.size)  # type: ignore[no-untyped-call]
        return self.stand_in


class PendingView(NamedTuple):
    """A tensor that does not keep its memory alive."""

    memory: PendingStorage
    dtype: torch.dtype
    offset: int
    size: torch.Size
    stride: tuple[int, ...]

    def get(self) -> torch.Tensor:
        empty = torch.empty(0, dtype=self.dtype, device="cpu")
        return empty.set_(self.memory.get(), self.offset, self.size, self.stride)


class PendingOp(NamedTuple):
    """A deferred operation.

    Attributes
    ----------
    func : callable
    into : PendingView
        What it writes to: its first argument, or where its result goes.
    args : tuple
        Numbers, and PendingView in place of tensors.
    is_result : bool
        Whether it returns a new tensor, which is copied to ``into``.
    draw : int or None
        The number of its draw.
    """

    func: Any
    into: PendingView
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_result: bool
    draw: int | None

    @property
    def memories(self) -> list[PendingStorage]:
        return [self.into.memory, *(item.memory for item in self.args if isinstance(item, PendingView))]

    def run(self) -> None:
        args = [item.get() if isinstance(item, PendingView) else item for item in self.args]
        target = self.into.get()
        if self.is_result:
            target.copy_(self.func(*args, **self.kwargs))
        else:
            self.func(target, *args, **self.kwargs)


class PendingOps:
    """The deferred operations, in order, and the storages that they write to or read."""

    def __init__(self) -> None:
        self._ops: list[PendingOp] = []
        self._storages: dict[int, PendingStorage] = {}  # by the id of the storage
        self._timeline = GeneratorTimeline()

    def __len__(self) -> int:
        return len(self._ops)

    def __contains__(self, tensor: Any) -> bool:
        """Whether the values of a tensor, or storage, are deferred."""
        return self.find(tensor) is not None

    def find(self, tensor: Any) -> PendingStorage | None:
        """The deferred storage of a tensor, or None."""
        storage = storage_of(tensor) if self._storages else None
        memory = self._storages.get(id(storage))
        return memory if memory is not None and memory.storage() is storage else None

    def lose(self, memory: PendingStorage) -> None:
        """Note that a storage is overwritten."""
        memory.is_lost = True
        del self._storages[id(memory.storage())]

    def add(
        self,
        func: Any,
        into: torch.Tensor,
        args: Any,
        kwargs: Any = None,
        *,
        is_random: bool = False,
        is_result: bool = False,
    ) -> None:
        """Defer an operation."""
        target = self._view(into)
        views = tuple(self._view(item) if isinstance(item, torch.Tensor) else item for item in args)
        draw = self._timeline.defer() if is_random else None
        self._ops.append(PendingOp(func, target, views, kwargs or {}, is_result, draw))

    def drop_unreachable(self) -> None:
        """Forget the operations that come after the last one whose result other code can reach."""
        reachable = [index for index, op in enumerate(self._ops) if op.into.memory.is_wanted]
        del self._ops[reachable[-1] + 1 if reachable else 0 :]
        if not self._ops:
            self._storages = {}

    def run(self) -> None:
        """Run all, in order, from the states that the generator would have had."""
        ops, self._ops, self._storages = self._ops, [], {}
        last = {id(memory): index for index, op in enumerate(ops) for memory in op.memories}
        before_draw = self._timeline.replay()
        for index, op in enumerate(ops):
            if op.draw is not None:
                before_draw(op.draw)
            op.run()
            for memory in op.memories:
                if last[id(memory)] == index:
                    memory.stand_in = None
        before_draw(None)

    def _view(self, tensor: torch.Tensor) -> PendingView:
        memory = self.find(tensor)
        if memory is None:
            storage = tensor.untyped_storage()
            memory = self._storages[id(storage)] = PendingStorage(storage)
        return PendingView(memory, tensor.dtype, int(tensor.storage_offset()), tensor.size(), tensor.stride())


def storage_of(tensor: Any) -> torch.UntypedStorage | None:
    """The storage of a tensor, or a storage itself; None for anything without storage."""
    if not isinstance(tensor, torch.Tensor):
        return tensor if isinstance(tensor, torch.UntypedStorage) else None
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):
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
