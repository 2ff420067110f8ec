"""What pickles name that were made before schema/schema.py: all that is found there."""

from typing import Any

from flambe_save.schema import schema


def __getattr__(name: str) -> Any:
    return getattr(schema, name)
