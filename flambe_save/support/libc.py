"""The system's C library: functions that Python's own modules do not offer, where they are to be had."""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["c_function"]


def c_function(name: str) -> Any:
    """Return a function, which sets ctypes' errno and lets other threads run; None where the system has none."""
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError, TypeError):
        return None
