"""Alias for old pickles, which name links here: those of schema/link.py and stored.py."""

from typing import Any

from flambe_save.schema import link, stored


def __getattr__(name: str) -> Any:
    return getattr(stored if hasattr(stored, name) else link, name)
