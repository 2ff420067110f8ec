"""The script that runs, by the name by which other programs import it."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["name_of_script"]


def name_of_script() -> str | None:
    """Return the name by which other programs import the script that runs; None where it is none."""
    main: Any = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        name = spec.name.removesuffix(".__main__")
        return name if name != "__main__" else None
    name = os.path.splitext(os.path.basename(file))[0] if isinstance(file, str) else ""
    return name if name.isidentifier() and name not in ("__main__", *sys.modules) else None
