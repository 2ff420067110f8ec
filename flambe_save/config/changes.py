"""Alias for old pickles, made before describing/changes.py: all its names."""

from typing import Any

from flambe_save.describing import changes


def __getattr__(name: str) -> Any:
    return getattr(changes, name)
