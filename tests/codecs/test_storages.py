"""Memory that is read into."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from flambe_save.codecs import storages

needs_huge_pages = pytest.mark.skipif(storages._madvise is None, reason="this system has no huge pages")


def asked_for(monkeypatch: pytest.MonkeyPatch, seconds: Iterator[float]) -> int:
    """Make a storage where to touch each span takes so long; return how many bytes were to be huge pages."""
    asked = []
    clock = itertools.accumulate(time for pause in seconds for time in (0.0, pause))
    monkeypatch.setattr(storages, "_madvise", lambda place, count, advice: asked.append(count.value))
    monkeypatch.setattr(storages.time, "thread_time", lambda: next(clock))
    storage: Any = storages.new_storage(6 * storages._SPAN)
    assert storage.nbytes() == 6 * storages._SPAN
    return sum(asked)


@needs_huge_pages
def test_huge_pages_are_taken_while_they_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one is slow to touch, the rest of the storage has pages of the usual size."""
    quick = asked_for(monkeypatch, itertools.repeat(storages._COLD / 10))
    assert quick > 5 * storages._SPAN
    slow_later = asked_for(monkeypatch, itertools.chain([0.0, 0.0], itertools.repeat(2 * storages._COLD)))
    assert slow_later == 2 * storages._SPAN + 3 * storages._PAGE
    assert asked_for(monkeypatch, itertools.repeat(2 * storages._COLD)) == storages._PAGE
