"""What pickles name that were made before describing/changes.py: all that is found there."""

from typing import Any

from flambe_save.describing import changes


def __getattr__(name: str) -> Any:
    return getattr(changes, name)
