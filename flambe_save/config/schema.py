"""Alias for old pickles, made before schema/schema.py: all its names."""

from typing import Any

from flambe_save.schema import schema


def __getattr__(name: str) -> Any:
    return getattr(schema, name)
