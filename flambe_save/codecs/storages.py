"""Make storages of a source's bytes: shared, copied, or on a device."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import torch

from flambe_save.pt.sources import Source, memory_of
from flambe_save.support.libc import c_function

_HUGE = 4 << 20  # bytes from which memory in huge pages is asked for
_STAGE = 16 << 20  # bytes of a buffer on the way to another device


def storage_of(source: Source, start: int, stop: int, device: torch.device | None = None) -> torch.UntypedStorage:
    """Make a storage of some bytes of a source, in the CPU's memory or on a device.

    If :attr:`Source.is_shared`, it shares the source's memory; otherwise it has its own.
    """
    kept = source.kept(start, stop)
    if kept is not None:
        return _storage_over(kept, device, is_shared=source.is_shared)
    if device is not None:
        return _storage_on(source, device, start, stop)
    storage = new_storage(stop - start)
    source.read_into(memory_of(storage), start)
    return storage


def new_storage(size: int) -> torch.UntypedStorage:
    """Make a storage that is not filled; a large one in huge pages, which are faster to touch.

    Raises
    ------
    MemoryError
        If there is not enough memory.
    """
    try:
        storage = torch.UntypedStorage(size)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise MemoryError(str(error)[:200]) from error
    if size >= _HUGE and _madvise is not None:
        page = mmap.PAGESIZE
        begin = -(-storage.data_ptr() // page) * page
        end = (storage.data_ptr() + size) // page * page
        _madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_HUGEPAGE)
    return storage


_madvise = c_function("madvise") if hasattr(mmap, "MADV_HUGEPAGE") else None


def _storage_on(source: Source, device: torch.device, start: int, stop: int) -> torch.UntypedStorage:
    """Read to a device through two buffers: one is filled while the other is copied."""
    storage = torch.UntypedStorage(stop - start, device=device)  # type: ignore[no-untyped-call]
    target = torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
    is_cuda = device.type == "cuda"
    stages = [torch.empty(min(_STAGE, stop - start), dtype=torch.uint8, pin_memory=is_cuda) for _ in range(2)]
    events: list[Any] = [None, None]
    for count, here in enumerate(range(start, stop, _STAGE)):
        size, turn = min(_STAGE, stop - here), count % 2
        if events[turn] is not None:
            events[turn].synchronize()
        stage = stages[turn][:size]
        source.read_into(memory_of(stage.untyped_storage())[:size], here)
        target[here - start : here - start + size].copy_(stage, non_blocking=is_cuda)
        if is_cuda:
            events[turn] = torch.cuda.Event()  # type: ignore[no-untyped-call]
            events[turn].record(torch.cuda.current_stream(device))
    for event in events:
        if event is not None:
            event.synchronize()
    return storage


def _storage_over(data: memoryview, device: torch.device | None, *, is_shared: bool = False) -> torch.UntypedStorage:
    """Make a storage of bytes in memory: over that memory if it is shared, else a copy."""
    if not len(data):
        return torch.UntypedStorage(0, device=device)  # type: ignore[no-untyped-call]
    bytes_there = torch.frombuffer(data, dtype=torch.uint8)
    if device is None:
        return (bytes_there if is_shared else bytes_there.clone()).untyped_storage()
    storage = bytes_there.untyped_storage()
    target = torch.UntypedStorage(storage.nbytes(), device=device)  # type: ignore[no-untyped-call]
    target.copy_(storage)
    return target
