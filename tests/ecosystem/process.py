"""The two processes: ``python -m ecosystem.process save FOLDER LIBRARY...`` saves all objects of the libraries, and
``... load FOLDER LIBRARY...`` loads them; each writes what it saw to a JSON file in the folder.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

import flambe_save
from ecosystem.entries import Entry, entries_of
from ecosystem.facts import facts
from flambe_save import opening

_DOOR = re.compile(r"trusted=(\[.*?\])|weights_only=False")


def _seeded(call: Any, *arguments: Any) -> Any:
    """Call a function at the same place of all random numbers in both processes."""
    import random

    import numpy

    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)
    return call(*arguments)


def _used(entry: Entry, obj: Any) -> list[str]:
    return [] if entry.use is None else facts(_seeded(entry.use, obj))


def _save(entry: Entry, folder: Path) -> dict[str, Any]:
    """Save an object; return what it is, what it computes, and what the save said."""
    obj = _seeded(entry.make)
    opening._warned.clear()  # each entry is told of what needs trust
    before = facts(obj)
    row = {"library": entry.library, "what": entry.what, "edit": entry.edit}
    told: dict[str, Any] = {**row, "facts": before, "door": {}, "refused": "", "said": []}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            flambe_save.save(obj, folder / entry.name, overwrite=True)
        except Exception as error:  # one of the package's own is a refusal, any other a fault
            told["refused"] = f"{type(error).__name__}: {error}"
    ours = [warning for warning in caught if issubclass(warning.category, flambe_save.FlambeSaveWarning)]
    told["said"] = [f"{warning.category.__name__}: {warning.message}" for warning in ours]
    for warning in ours:
        if warning.category is flambe_save.NeedsTrustWarning:
            door = _DOOR.search(str(warning.message))
            assert door is not None
            told["door"] = {"trusted": ast.literal_eval(door[1])} if door[1] else {"weights_only": False}
    told["changed by the save"] = _differences(before, facts(obj))
    told["use"] = _used(entry, obj)
    return told


def _load(entry: Entry, folder: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """Load an object by default, and where that is refused with the trust that the save named; compare it."""
    told: dict[str, Any] = {"needs": {}, "error": ""}
    try:
        try:
            obj = flambe_save.load(folder / entry.name)
        except (flambe_save.UntrustedError, flambe_save.MissingExtensionError) as error:
            told["needs"], told["refusal"] = saved["door"], str(error)
            obj = flambe_save.load(folder / entry.name, **saved["door"])
        told["different"] = _differences(saved["facts"], facts(obj))
        told["different use"] = _differences(saved["use"], _used(entry, obj))
    except Exception as error:
        told["error"] = f"{type(error).__name__}: {error}"[:1500]
    return told


def _differences(first: list[str], second: list[str]) -> list[str]:
    if first == second:
        return []
    gone, new = dict.fromkeys(first), dict.fromkeys(second)
    found = [f"- {line}" for line in first if line not in new] + [f"+ {line}" for line in second if line not in gone]
    return found or ["the order"]


def main(what: str, where: str, *libraries: str) -> None:
    """Save or load the objects of libraries."""
    folder = Path(where)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = [f"ecosystem.libraries.{library}" for library in libraries]
        entries = [entry for name in names for entry in entries_of(importlib.import_module(name))]
        told: dict[str, Any] = {}
        saved = {} if what == "save" else json.loads((folder / "save.json").read_text())
        for entry in entries:
            print(what, entry.name, flush=True)
            if what == "save":
                told[entry.name] = _save(entry, folder)
            elif not saved[entry.name]["refused"]:
                told[entry.name] = _load(entry, folder, saved[entry.name])
        (folder / f"{what}.json").write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
