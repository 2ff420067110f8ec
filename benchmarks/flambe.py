"""Flambe 0.4.18 itself, as a peer: the modules of its wheel that save and load, with stand-ins for what they import.

Flambe is code of 2019, for torch 1.x, and its package imports ray, boto3, gitpython and more, none of which has a part
in saving to a folder. So the package is not imported as such: ``flambe.compile`` is, below an empty ``flambe``. What
is switched off makes it faster, never slower: it lists the installed packages for each save (pip freeze), and
registers all classes of torch.nn, torch.optim and ray for each load.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.candidate import Way, quietly
from benchmarks.workloads import Work, no_init


@functools.cache
def _compile() -> Any:
    """Return ``flambe.compile``, which has Component, save and load."""
    found = importlib.util.find_spec("flambe")
    assert found is not None
    stand_ins: dict[str, dict[str, Any]] = {
        "ray": {},  # hyperparameter search
        "boto3": {},  # saves on S3
        "botocore": {},
        "git": {"Repo": None, "NoSuchPathError": OSError},  # extensions from git
        "flambe.logging": {"coloredlogs": None},
    }
    modules = {name: types.ModuleType(name) for name in stand_ins}
    for name, content in stand_ins.items():
        vars(modules[name]).update(content)
    with mock.patch.dict(sys.modules, modules):
        sys.modules["flambe"] = importlib.util.module_from_spec(found)  # which is not run
        compiled = importlib.import_module("flambe.compile")
        loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "flambe"}
    sys.modules.update(loaded)
    component: Any = importlib.import_module("flambe.compile.component")
    component.warn = lambda *args, **kwargs: None  # about state_dict, which is asked for to compare tensors
    serialization: Any = importlib.import_module("flambe.compile.serialization")
    serialization.write_deps = lambda filename, deps=None: Path(filename).write_text("")
    serialization.setup_default_modules = lambda: None
    return compiled


@functools.cache
def _classes() -> tuple[Any, Any]:
    """Return a Block and a Stack that are Flambe's Components."""
    component = _compile().Component

    class FlambeBlock(component, nn.Module):  # type: ignore[misc, valid-type]
        def __init__(self, size: int) -> None:
            super().__init__()
            self.linear = nn.Linear(size, size)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)  # type: ignore[no-any-return]

    class FlambeStack(component, nn.Module):  # type: ignore[misc, valid-type]
        def __init__(self, blocks: list[Any]) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(blocks)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    return FlambeBlock, FlambeStack


def _make(work: Work) -> Any:
    block, stack = _classes()
    count, size = work.shape
    with no_init():
        made = stack.compile(blocks=[block.compile(size=size) for _ in range(count)])
    for key, parameter in made.named_parameters():
        parameter.data = work.state[key]
    return made


def _save(work: Work, folder: Path) -> None:
    with quietly():
        _compile().save(work.once("flambe", lambda: _make(work)), str(folder / "save"))


def _load(work: Work, folder: Path) -> Any:
    _classes()
    with quietly():
        return _compile().load(str(folder / "save"))


FLAMBE = Way("Flambe 0.4.18", _save, _load, ("flambe", "ruamel.yaml"))
