"""What the durability tests share: figures that can be quoted, and a disk that need not be synced to be killed upon."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from durability_tools import remove


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str, object], None]:
    """Return a function that notes a count: printed (seen with ``-rP``), and in the XML of ``--junitxml``."""

    def note(name: str, value: object) -> None:
        record_property(name, value)
        print(f"figure: {name}: {value}")

    return note


@pytest.fixture
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make fsync do nothing: what a killed process wrote is in the system's memory, which survives it."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def deep_path(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in which anything may be left, however deep."""
    folder = tmp_path / "deep"
    folder.mkdir()
    yield folder
    remove(folder)
