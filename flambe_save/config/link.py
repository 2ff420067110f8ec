"""What pickles name that were made before schema/link.py: all that is found there."""

from typing import Any

from flambe_save.schema import link


def __getattr__(name: str) -> Any:
    return getattr(link, name)
