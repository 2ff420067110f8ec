"""Saves in the background: tensors are copied while the caller waits, and written later."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import torch

from flambe_save import running
from flambe_save.codecs.storages import new_storage
from flambe_save.errors import SaveError
from flambe_save.saving import Saving
from flambe_save.support.parallel import in_threads, spans

_MOST = 2  # saves that are in the background at a time
_LEAST = 8 << 20  # bytes worth a thread

logger = logging.getLogger(__name__)


def start(saving: Saving, *, keep_memory: bool) -> Future[str]:
    """Copy the tensors of a save and write it in a thread of its own.

    Raises
    ------
    SaveError
        If there is not enough memory for the copy.
    """
    target = saving.target
    # The program may change its working directory meanwhile
    here = os.path.abspath(target.path) if target.is_local else target.path
    saving.target = replace(target, path=here, base=target.base and os.path.abspath(target.base))
    place = os.path.realpath(here)
    base = running.save_to(saving.target.base)  # one that started before: two saves never wait for each other
    result: Future[str] = Future()
    while True:  # wait for an earlier save to the same path, and where too many copies would be in memory
        with running.LOCK:
            others = running.RUNNING
            earlier = others.get(place) or (next(iter(others.values())) if len(others) >= _MOST else None)
            if earlier is None:
                running.RUNNING[place] = result
                break
        earlier.exception()
    try:
        snapshot = _Snapshot(saving.options.threads)
        saving.plan = saving.plan.with_storages(snapshot.take)
        snapshot.copy()
    except BaseException as error:
        with running.LOCK:
            del running.RUNNING[place]
        result.set_exception(error)  # other callers that wait for the path
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise SaveError(
                "there is not enough memory for a copy of the tensors",
                file=saving.target.path,
                fix="Nothing was written. Use save(), which needs no copy.",
            ) from error
        raise

    def run() -> None:
        try:
            snapshot.wait()
            if base is not None:
                base.exception()
            path = saving.write()
        except BaseException as error:
            outcome: Any = error
        else:
            outcome = path
        _spare.keep(snapshot.copies if keep_memory else [])
        with running.LOCK:
            del running.RUNNING[place]
        if isinstance(outcome, BaseException):
            # The caller may never ask for the result
            logger.error("the save to %s in the background failed: %s", here, outcome)
            result.set_exception(outcome)
        else:
            result.set_result(outcome)

    result.set_running_or_notify_cancel()
    if running.is_over:
        run()
        return result
    # No daemon: the interpreter waits for it before it exits
    try:
        threading.Thread(target=run, name=f"flambe_save to {here}").start()
    except RuntimeError:  # the system has no thread left, or Python is about to end
        run()
    return result


class _Spare:
    """Memory of a written copy, kept for the next: memory in use is faster to copy into."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._storages: dict[tuple[int, bool], list[torch.UntypedStorage]] = {}

    def take(self, size: int, *, pinned: bool) -> torch.UntypedStorage:
        """Return memory of just this size, to be overwritten."""
        with self._lock:
            kept = self._storages.get((size, pinned))
            if kept:
                return kept.pop()
        if pinned:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True).untyped_storage()
        return new_storage(size)

    def keep(self, storages: list[torch.UntypedStorage]) -> None:
        """Keep the memory of this copy alone."""
        kept: dict[tuple[int, bool], list[torch.UntypedStorage]] = {}
        for storage in storages:
            is_pinned = torch.cuda.is_available() and bool(storage.is_pinned())
            kept.setdefault((storage.nbytes(), is_pinned), []).append(storage)
        with self._lock:
            self._storages = kept


_spare = _Spare()


class _Snapshot:
    """A copy of storages, each once, however many tensors share it; ``copies`` is its memory."""

    def __init__(self, threads: int) -> None:
        self.copies: list[torch.UntypedStorage] = []
        self._threads = threads
        self._pairs: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}  # original and copy
        self._events: list[Any] = []
        self._read: list[torch.UntypedStorage] = []

    def take(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        """Return where a storage will be copied to."""
        if storage._cdata not in self._pairs:
            copy = _spare.take(storage.nbytes(), pinned=storage.device.type == "cuda")
            self._pairs[storage._cdata] = storage, copy
        return self._pairs[storage._cdata][1]

    def copy(self) -> None:
        """Copy all storages.

        Copies from a GPU are still under way when this returns, so a reader calls :meth:`wait` first. The GPU changes
        no storage before its copy is made.
        """
        pairs = list(self._pairs.values())
        here = [pair for pair in pairs if pair[0].device.type == "cpu"]
        there = [pair for pair in pairs if pair[0].device.type != "cpu"]
        for device in {original.device for original, _ in there if original.device.type == "cuda"}:
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for original, copy in there:
                    if original.device == device:
                        copy.copy_(original, non_blocking=True)
            event = stream.record_event()
            torch.cuda.current_stream(device).wait_event(event)  # later operations may change the originals
            self._events.append(event)
        for original, copy in there:
            if original.device.type != "cuda":
                copy.copy_(original)
        work = [
            (copy.data_ptr() + begin, original.data_ptr() + begin, end - begin)
            for original, copy in here
            for begin, end in spans(0, original.nbytes(), self._threads, _LEAST)
        ]
        in_threads(lambda place: ctypes.memmove(*place), work, self._threads)
        self.copies = [copy for _, copy in self._pairs.values()]
        self._pairs = {}  # keep no original alive that a GPU does not read
        self._read = [original for original, _ in there]

    def wait(self) -> None:
        """Wait until the copy is complete."""
        for event in self._events:
            event.synchronize()
        self._read = []


def _forget() -> None:
    """Forget, in a forked process, memory that saves of its parent are written from."""
    global _spare
    _spare = _Spare()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
