"""Progress of a save or load in bytes, for a caller's function or as a bar on a terminal.

Code that writes or reads many bytes reports them here, from any thread. The functions of api.py decide where
the reports go.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeAlias

__all__ = ["NO_PROGRESS", "Progress", "ShowProgress", "late_bar", "progress_of"]

# What callers give: True is a bar on a terminal; f(done, total) is called with bytes
ShowProgress: TypeAlias = "bool | Callable[[int, int], None]"
Buffer: TypeAlias = "bytes | bytearray | memoryview"

_LEAST = 1 << 20  # bytes between two calls of a caller's function
_PIECE = 32 << 20  # bytes of memory that are handled in one go; an archive is slower in smaller ones
_PAUSE = 0.1  # seconds between two drawings of a bar


class Progress:
    """Progress of a save or load; this one reports to no function and costs next to nothing.

    Used with ``with``, once: :meth:`begin`, and then :meth:`advance` until all is done. What is left when the ``with``
    ends without an error counts as done.

    Attributes
    ----------
    is_on : bool
        Whether reports go anywhere, so that it is worth finding out how much there is.
    """

    is_on = False

    def begin(self, total: int) -> None:
        """Set how many bytes there will be; a second call adds to the bytes already done."""

    def advance(self, count: int) -> None:
        """Count more bytes as done. Any thread may call it; before :meth:`begin` it has no effect.

        Raises
        ------
        BaseException
            What the caller's function raised, in whatever thread: the work is to end.
        """

    def pieces(self, data: Buffer) -> Iterable[Buffer]:
        """Yield memory in pieces that share it.

        Each piece counts as done when the next one is asked for.
        """
        return (data,)

    def share(self, size: int, passes: int = 1) -> Progress:
        """Return the progress of one file of this size.

        It counts no further than that, however often the file is read.

        Parameters
        ----------
        size : int
            In bytes.
        passes : int
            How often it will be read.
        """
        return self

    def finish(self) -> None:
        """Count the rest as done."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


NO_PROGRESS = Progress()


def progress_of(argument: ShowProgress, description: str) -> Progress:
    """Return the Progress that reports to a caller.

    Parameters
    ----------
    argument : bool or callable
        True shows a bar on the standard error output, where that is a terminal: by rich where it is installed, else a
        plain line. A callable is called with the bytes that are done, and all bytes: from one thread at a time, with
        the first number never less than before, and both equal at last where it went well.
    description : str
        What stands before the bar.

    Raises
    ------
    TypeError
        If the argument is neither.

    Examples
    --------
    >>> with progress_of(print, "Reading") as progress:
    ...     progress.begin(3_000_000)
    ...     progress.advance(2_000_000)
    ...     progress.advance(1_000_000)
    0 3000000
    2000000 3000000
    3000000 3000000
    """
    if callable(argument):
        return _Meter(argument)
    if not isinstance(argument, bool):
        raise TypeError(f"progress must be True, False or a callable of (done, total), not {argument!r}")
    if not argument or not _is_terminal():
        return NO_PROGRESS
    bar = _bar(description)
    return _Meter(bar, bar.close)


@contextlib.contextmanager
def late_bar(description: str, delay: float) -> Iterator[ShowProgress]:
    """Yield a ``progress=`` argument that shows a bar only if the work takes a while.

    The bar is that of :func:`progress_of`.

    Parameters
    ----------
    description : str
        What stands before the bar.
    delay : float
        Seconds from now in which nothing is shown.
    """
    if not _is_terminal():
        yield False
        return
    bar = _bar(description)
    bar.wait(delay)
    try:
        yield bar
    finally:
        bar.close()


class _Counting(Progress):
    """Counts the bytes that are done."""

    is_on = True

    def pieces(self, data: Buffer) -> Iterator[Buffer]:
        whole = memoryview(data)
        for start in range(0, len(whole), _PIECE):
            piece = whole[start : start + _PIECE]
            yield piece
            self.advance(len(piece))


class _Meter(_Counting):
    """Tells a function.

    Invariant: the function is called under the lock, so never twice at once, and never again after it raised. What it
    raised is raised in every thread that goes on, and leaves the ``with`` as it is, whatever was made of it meanwhile.
    """

    def __init__(self, show: Callable[[int, int], None], close: Callable[[], None] = lambda: None) -> None:
        self._show = show
        self._close = close
        self._lock = threading.Lock()
        self._done = self._told = self._total = 0
        self._error: BaseException | None = None

    def begin(self, total: int) -> None:
        with self._lock:
            self._total = self._done + max(total, 0)  # the manifest of a stranger may list anything
            self._tell()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done = min(self._done + count, self._total)
            is_end = self._told < self._done == self._total
            if is_end or self._done - self._told >= _LEAST or self._error is not None:
                self._tell()

    def share(self, size: int, passes: int = 1) -> Progress:
        return _Share(self, size, passes)

    def finish(self) -> None:
        self.advance(self._total - self._done)

    def _tell(self) -> None:
        if self._error is not None:
            raise self._error
        try:
            self._show(self._done, self._total)
        except BaseException as error:
            self._error = error
            raise
        self._told = self._done

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._close()
            raised, self._error = self._error, None
            self._show, self._close = _nobody, lambda: None  # a stash that is opened later keeps this object
        if raised is not None and raised is not error:  # it was taken for a damaged file, say
            context = raised.__context__
            try:
                raise raised
            except BaseException:
                raised.__context__ = context  # or it would say that it came of what came of it
                raise


class _Share(_Counting):
    """The part of one file."""

    def __init__(self, whole: _Meter, size: int, passes: int) -> None:
        self._whole = whole
        self._left = size
        self._passes = passes
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        self._count(count // self._passes)

    def finish(self) -> None:
        self._count(self._left)

    def _count(self, count: int) -> None:
        with self._lock:
            count = min(count, self._left)
            self._left -= count
        if count:
            self._whole.advance(count)


def _nobody(done: int, total: int) -> None:
    return


# ------------------------------------------------------------------------------------------------ on a terminal


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _bar(description: str) -> _Bar:
    try:
        return _RichBar(description, importlib.import_module("rich.progress"), importlib.import_module("rich.console"))
    except ImportError:  # an extra, which is optional
        return _Line(description)


class _Bar:
    """Draws a bar a few times a second.

    A closed terminal does not end the save: drawing stops.
    """

    def __init__(self, description: str) -> None:
        self._description = description
        self._next = self._first = 0.0
        self._is_open = False
        self._is_gone = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._first and (done == total or now >= self._next):
            self._next = now + _PAUSE
            self._try(lambda: self._draw(done, total))

    def wait(self, delay: float) -> None:
        """Show nothing for some seconds."""
        self._first = time.monotonic() + delay

    def close(self) -> None:
        """Leave the terminal ready for the next output."""
        if self._is_open:
            self._try(self._end)

    def _try(self, draw: Callable[[], None]) -> None:
        if self._is_gone:
            return
        try:
            draw()
        except Exception:
            self._is_gone = True

    def _draw(self, done: int, total: int) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError


class _RichBar(_Bar):
    """Bar drawn with rich, without a thread of its own; it leaves what others print alone."""

    def __init__(self, description: str, rich: Any, console: Any) -> None:
        super().__init__(description)
        self._bar = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.DownloadColumn(),
            rich.TransferSpeedColumn(),
            rich.TimeRemainingColumn(),
            console=console.Console(stderr=True),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(description, total=None)

    def _draw(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total, refresh=self._is_open)
        if not self._is_open:
            self._is_open = True
            self._bar.start()

    def _end(self) -> None:
        self._bar.stop()


class _Line(_Bar):
    """A line that is drawn again and again."""

    def __init__(self, description: str) -> None:
        super().__init__(description)
        self._begin = time.monotonic()
        self._width = 0

    def _draw(self, done: int, total: int) -> None:
        if not self._is_open:
            self._is_open = True
            self._begin = time.monotonic()
        rate = done / max(time.monotonic() - self._begin, 1e-3)
        line = f"{self._description} {100 * done // max(total, 1):3} %, {done / 1e6:,.1f} of {total / 1e6:,.1f} MB"
        if done:
            left = int((total - done) / rate)
            line += f", {rate / 1e6:,.1f} MB/s, {left // 60}:{left % 60:02} left"
        line = line[: max(shutil.get_terminal_size().columns - 1, 20)]
        self._width, padding = len(line), " " * (self._width - len(line))
        sys.stderr.write(f"\r{line}{padding}")
        sys.stderr.flush()

    def _end(self) -> None:
        sys.stderr.write("\n")
        sys.stderr.flush()
