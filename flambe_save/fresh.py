"""Load a save in a fresh process before its commit, for ``save(..., check=True)``.

proof.py runs in that process.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flambe_save.errors import SaveError, UnsupportedObjectError, quote, quote_some
from flambe_save.support.script import file_of_script

_CODE = "from flambe_save.proof import main; main()"


def arguments_of(door: str) -> dict[str, object]:
    """Parse an argument of a load, such as ``trusted=['a.B']``, into a dict of keywords."""
    name, equals, value = door.partition("=")
    return {name: ast.literal_eval(value)} if equals else {}


@dataclass(frozen=True)
class FreshLoad:
    """A load in a process that has imported nothing yet.

    Parameters
    ----------
    door : str
        The argument with which the save loads; empty where none is needed.
    classes : iterable of str
        The dotted paths of the classes in the save, whose modules the other process imports first.
    """

    door: str
    classes: Iterable[str]

    def check(self, path: Path) -> None:
        """Load a save in the new process, and compare the object with the save.

        Raises
        ------
        SaveError
            If it does not load, or differs; the message says what.
        """
        script = file_of_script()
        name = os.path.splitext(os.path.basename(script))[0] if script is not None else ""
        modules = {module for item in self.classes if (module := _module_of(item)) is not None}
        asked = {
            "path": os.fspath(path),
            "arguments": arguments_of(self.door),
            "modules": sorted(modules - {"__main__", name}),
            "script": script if modules & {"__main__", name} else None,
            "name": name,
            "sys_path": sys.path,
        }
        if "__main__" in modules and script is None:
            raise UnsupportedObjectError(
                "a class of an interactive program cannot be found by any other, so check=True cannot load it",
                fix="Move the class to a module, or save without check=True.",
            )
        done = subprocess.run(
            [sys.executable, "-c", _CODE], input=json.dumps(asked), capture_output=True, text=True, check=False
        )
        try:
            problems = json.loads(done.stdout)
        except ValueError:
            problems = [f"the process ended with {done.returncode}: {done.stderr.strip()[-500:]}"]
        if problems:
            shown = quote_some(problems) if len(problems) > 1 else quote(problems[0])
            raise SaveError(
                f"a fresh process does not get back what was saved: {shown}",
                fix="Nothing was written, and what was at the path is still there. Correct the object or its class, "
                "or save without check=True.",
            )


def _module_of(path: str) -> str | None:
    """Return the imported module of a dotted path; None for this package's and for no module."""
    parts = path.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    found = next((name for name in names if name in sys.modules), None)
    if found is None:
        return parts[0] if len(parts) > 1 else "__main__"
    return None if found.partition(".")[0] in ("flambe_save", "builtins") else found
