"""Alias for old pickles, made before schema/link.py: all its names."""

from typing import Any

from flambe_save.schema import link


def __getattr__(name: str) -> Any:
    return getattr(link, name)
