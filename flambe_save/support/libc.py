"""Functions of the system's C library that Python's own modules lack."""

from __future__ import annotations

import ctypes
from typing import Any


def c_function(name: str) -> Any:
    """Return a function of the C library; None if the system lacks it.

    It sets ctypes' errno and lets other threads run.
    """
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError, TypeError):
        return None
