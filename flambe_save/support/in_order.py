"""Work in threads; the results come in the order of the work, as parts of a file."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from flambe_save.support.undoing import note_undo


class _Task:
    """Work for a thread, and its result."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work: Callable[[], Any] | None = work
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        assert self.work is not None
        try:
            self.result = self.work()
        except BaseException as error:  # raised where the result is waited for
            self.error = error
        self.work = None  # lets go of the data
        self.done.set()


class InOrder:
    """Runs work in threads, and passes the results to a function in the order of the work.

    The threads are plain ones: those of concurrent.futures take no work when the interpreter exits, and a save that
    runs in the background must be able to end then.
    """

    def __init__(self, threads: int, hand_on: Callable[[Any], object]) -> None:
        self._wanted = threads if threads > 1 else 0
        self._hand_on = hand_on
        self._threads: list[threading.Thread] = []
        self._queue: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._under_way: deque[_Task] = deque()
        self._is_closed = False
        self._forget: Callable[[], None] = lambda: None  # until the next call has returned
        self._forget = note_undo(self.close)  # an interrupt may come before the threads are asked to end

    def add(self, work: Callable[[], Any]) -> None:
        """Add work; wait while each thread has some, so that memory stays small."""
        while len(self._under_way) > self._wanted:
            self._hand_on_first()
        task = _Task(work)
        self._under_way.append(task)
        if len(self._threads) < self._wanted:
            self._start()
        if self._threads:
            self._queue.put(task)
        else:
            task.run()

    def wait(self) -> None:
        """Wait for all results."""
        while self._under_way:
            self._hand_on_first()

    def close(self) -> None:
        """End the threads, without the work that has not begun."""
        self._is_closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._threads = []
        self._under_way.clear()
        self._forget()

    def _hand_on_first(self) -> None:
        task = self._under_way.popleft()
        task.done.wait()
        if task.error is not None:
            raise task.error
        self._hand_on(task.result)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="flambe_save-pack")
        self._threads.append(thread)  # before it starts: an interrupt may come right after
        try:
            thread.start()
        except RuntimeError:  # the interpreter exits, or the system has no more: the others do the work
            self._threads.pop()
            self._wanted = len(self._threads)

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            if not self._is_closed:
                task.run()
