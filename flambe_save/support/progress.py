"""Progress of a save or load in bytes, for a caller's function or as a bar on a terminal.

Code that writes or reads many bytes reports them here, from any thread. The functions of api.py decide where
the reports go.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

# What callers give: True is a bar on a terminal; f(done, total) is called with bytes
ShowProgress: TypeAlias = "bool | Callable[[int, int], None]"
Buffer: TypeAlias = "bytes | bytearray | memoryview"

_LEAST = 1 << 20  # bytes between two calls of a caller's function
_PIECE = 32 << 20  # bytes of memory that are handled in one go; an archive is slower in smaller ones
_PAUSE = 0.1  # seconds between two drawings of a bar
_CELLS = 20  # characters of a bar


class Progress:
    """Progress of a save or load; this one reports to no function and costs next to nothing.

    Used with ``with``, once: :meth:`begin`, and then :meth:`advance` until all is done. The rest counts as done when
    the ``with`` ends without an error.

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

        An error of the caller's function is raised in every thread that goes on: the work is to end.
        """

    def pieces(self, data: Buffer) -> Iterable[Buffer]:
        """Yield memory in pieces that share it.

        Each piece counts as done when the next one is asked for.
        """
        return (data,)

    def share(self, size: int, passes: int = 1) -> Progress:
        """Return the progress of one file of ``size`` bytes, which counts no further than that.

        ``passes`` is how often the file will be read.
        """
        return self

    def finish(self) -> None:
        """Count the rest as done."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: object) -> None:
        return


NO_PROGRESS = Progress()


def progress_of(argument: ShowProgress, description: str) -> Progress:
    """Return the Progress that reports to a caller.

    Parameters
    ----------
    argument : bool or callable
        True shows a bar on the standard error output, where that is a terminal. A callable is called with the bytes
        that are done, and all bytes: from one thread at a time, with the first number never less than before, and both
        equal at last where it went well.
    description : str
        Text before the bar.

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
    bar = _Bar(description)
    return _Meter(bar, bar.close)


@contextlib.contextmanager
def late_bar(description: str, delay: float) -> Iterator[ShowProgress]:
    """Yield a ``progress=`` argument that shows a bar only if the work takes a while.

    The bar is that of :func:`progress_of`.

    Parameters
    ----------
    description : str
        Text before the bar.
    delay : float
        Seconds from now in which nothing is shown.
    """
    if not _is_terminal():
        yield False
        return
    bar = _Bar(description)
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
    """Reports to a function.

    Invariant: the function is called under the lock, so never twice at once, and never again after an error. The error
    is raised in every thread that goes on, and by the ``with``, even if other code made another error of it.
    """

    def __init__(self, show: Callable[[int, int], None], close: Callable[[], None] = lambda: None) -> None:
        self._show = show
        self._close = close
        self._lock = threading.Lock()
        self._done = self._reported = self._total = 0
        self._error: BaseException | None = None

    def begin(self, total: int) -> None:
        with self._lock:
            self._total = self._done + max(total, 0)  # the manifest of a stranger may list anything
            self._report()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done = min(self._done + count, self._total)
            is_end = self._reported < self._done == self._total
            if is_end or self._done - self._reported >= _LEAST or self._error is not None:
                self._report()

    def share(self, size: int, passes: int = 1) -> Progress:
        return _Share(self, size, passes)

    def finish(self) -> None:
        self.advance(self._total - self._done)

    def _report(self) -> None:
        if self._error is not None:
            raise self._error
        try:
            self._show(self._done, self._total)
        except BaseException as error:
            self._error = error
            raise
        self._reported = self._done

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._close()
            raised, self._error = self._error, None
            self._show, self._close = lambda *_: None, lambda: None  # a stash that is opened later keeps this object
        if raised is not None and raised is not error:  # other code made a CorruptSaveError of it, say
            context = raised.__context__
            try:
                raise raised
            except BaseException:
                raised.__context__ = context  # or its traceback would name the error that was made of it
                raise


class _Share(_Counting):
    """Progress of one file."""

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


# ------------------------------------------------------------------------------------------------ on a terminal


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


class _Bar:
    """Draws a bar on one line, a few times a second.

    A closed terminal does not end the save: drawing stops.
    """

    def __init__(self, description: str) -> None:
        self._description = description
        self._next = self._first = 0.0
        self._begin: float | None = None  # the time of the first drawing
        self._width = 0
        self._is_gone = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._first or (now < self._next and done != total):
            return
        self._next = now + _PAUSE
        self._begin = now if self._begin is None else self._begin
        rate = done / max(now - self._begin, 1e-3)
        part = done / max(total, 1)
        filled = round(_CELLS * part)
        bar = "\u2501" * filled + "\u2500" * (_CELLS - filled)
        if "utf" not in str(getattr(sys.stderr, "encoding", "")).lower():
            bar = "#" * filled + "." * (_CELLS - filled)
        line = f"{self._description} {bar} {int(100 * part):3} %, {done / 1e6:,.1f} of {total / 1e6:,.1f} MB"
        if done:
            left = int((total - done) / rate)
            line += f", {rate / 1e6:,.1f} MB/s, {left // 60}:{left % 60:02} left"
        line = line[: max(shutil.get_terminal_size().columns - 1, 20)]
        padding = " " * (self._width - len(line))
        self._width = len(line)
        self._write(f"\r{line}{padding}")

    def wait(self, delay: float) -> None:
        """Show nothing for some seconds."""
        self._first = time.monotonic() + delay

    def close(self) -> None:
        """Leave the terminal ready for the next output."""
        if self._begin is not None:
            self._write("\n")

    def _write(self, text: str) -> None:
        if self._is_gone:
            return
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except Exception:
            self._is_gone = True
