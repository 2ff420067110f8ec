"""Configs of components inside many others: the same texts, in a time that grows with them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from flambe_save import Component
from flambe_save.adapters import get_state
from flambe_save.describing import documents
from flambe_save.layout import CONFIG_KEY

LEVELS = 80


class Level(Component):
    """Something, and another component inside."""

    def __init__(self, inner: Any = None, data: Any = None, more: Any = ((), [[]])) -> None:
        self.inner, self.data, self.more = inner, data, more
        self.value = torch.ones(1)
        self.register_attrs("value")


def levels(count: int, data: Callable[[int], Any] = lambda level: None) -> Level | None:
    """Return components inside each other."""
    outer = None
    for level in range(count):
        outer = Level(outer, data(level))
    return outer


def nested(count: int) -> Any:
    """Return lists and dicts inside each other."""
    value: Any = "x"
    for level in range(count):
        value = [value, level] if level % 2 else {"key": value}
    return value


def configs(obj: Any) -> dict[str, str]:
    """Return the configs of all components of an object, by their prefixes."""
    state = get_state(obj)
    return {prefix: state._metadata[prefix][CONFIG_KEY] for prefix in state.components}


SHARED = {"a": [1, 2]}
DATA: dict[str, Callable[[int], Any]] = {
    "nothing": lambda level: None,
    "nested": lambda level: nested(level % 40),
    "deep": lambda level: nested(100 if level % 30 == 0 else 1),
    "lines": lambda level: f"one\n  two {level}\n",
    "separators": lambda level: "one\u2028two \x85",
    "the word": lambda level: [documents._HOLE] if level == 1 else "ü: #",
    "shared": lambda level: SHARED,
    "keys": lambda level: {(level, (1, 2)): nested(3)},
}


@pytest.mark.parametrize("name", DATA)
def test_texts_do_not_depend_on_how_they_are_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config of each component is the text that the emitter makes of it as a whole."""
    obj = {"a": levels(LEVELS, DATA[name]), "b": [levels(40), levels(3)]}
    pieces = []
    inner = documents._in_pieces
    monkeypatch.setattr(documents, "_in_pieces", lambda *given: pieces.append(inner(*given)) or pieces[-1])
    found = configs(obj)
    monkeypatch.setattr(documents, "_in_pieces", lambda *given: None)
    assert found == configs(obj)
    assert len(found) == LEVELS + 40 + 3 + 1
    assert any(pieces) or name in ("shared", "keys")


def test_work_grows_with_the_levels() -> None:
    """Twice as many levels are twice the work: a node is looked at once, not once for each config around it."""

    def work(count: int) -> int:
        calls, obj = 0, levels(count)

        def note(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            get_state(obj)
        finally:
            sys.setprofile(None)
        return calls

    assert work(200) < 2.5 * work(100)
