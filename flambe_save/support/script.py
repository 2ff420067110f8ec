"""The script that runs: its file, and the name by which other programs import it."""

from __future__ import annotations

import os
import sys
from typing import Any


def file_of_script() -> str | None:
    """Return the absolute path of the running program; None if it is a module (``python -m``)."""
    main: Any = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    return os.path.abspath(file) if isinstance(file, str) and getattr(main, "__spec__", None) is None else None


def name_of_script() -> str | None:
    """Return the name by which other programs import the running script; None without one."""
    main: Any = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        name = spec.name.removesuffix(".__main__")
        return name if name != "__main__" else None
    name = os.path.splitext(os.path.basename(file))[0] if isinstance(file, str) else ""
    return name if name.isidentifier() and name not in ("__main__", *sys.modules) else None
