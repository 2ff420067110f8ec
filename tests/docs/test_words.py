"""Words at the right time: what is no save is told by what it is, and a switch is True or False."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import flambe_save
from flambe_save import (
    UnknownFormatError,
    load,
    load_state,
    load_state_from_file,
    migrate,
    save,
    save_async,
    save_state_to_file,
)


def text(path: Path, content: str = "{}") -> None:
    """Write a file, and the folder that it is in."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)


FOREIGN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights.pt": (
        lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
        r"load_state_dict\(torch\.load\('PATH'\)",
    ),
    "old.pt": (
        lambda path: torch.save(nn.Linear(2, 2).state_dict(), path, _use_new_zipfile_serialization=False),
        r"load_state_dict\(torch\.load\('PATH'\)",
    ),
    "a.npy": (lambda path: np.save(path, np.ones(2)), r"numpy\.load\('PATH'\)"),
    "a.npz": (lambda path: np.savez(path, a=np.ones(2)), r"numpy\.load\('PATH'\)"),
    "w.safetensors": (
        lambda path: path.write_bytes((20).to_bytes(8, "little") + json.dumps({"__metadata__": {}}).encode()),
        r"safetensors\.torch\.load_file\('PATH'\)",
    ),
    "bert": (lambda path: text(path / "config.json"), r"AutoModel\.from_pretrained\('PATH'\)"),
    "sharded": (lambda path: text(path / "model.safetensors.index.json"), r"AutoModel\.from_pretrained\('PATH'\)"),
    "lora": (lambda path: text(path / "adapter_config.json"), r"AutoPeftModel\.from_pretrained\('PATH'\)"),
    "pipe": (lambda path: text(path / "model_index.json"), r"DiffusionPipeline\.from_pretrained\('PATH'\)"),
    "dcp": (lambda path: text(path / "__0_0.distcp"), r"torch\.distributed\.checkpoint"),
    "runs": (lambda path: save([1], path / "last"), r"load\('PATH/last'\)"),
    "notes": (lambda path: text(path / "notes.txt"), r"A save is a folder"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_save_is_told_with_the_call_that_reads_it(tmp_path: Path, name: str) -> None:
    """Each way to load says it, with the path in the call."""
    path = tmp_path / name
    make, expected = FOREIGN[name]
    make(path)
    for read in (load, load_state_from_file, lambda where: load_state(nn.Linear(2, 2), where), flambe_save.open):
        with pytest.raises(UnknownFormatError, match=r"(?s)" + expected.replace("PATH", str(path))):
            read(path)


SWITCHES: list[tuple[Callable[..., Any], tuple[str, ...]]] = [
    (lambda path, **more: load(path, **more), ("strict", "mmap", "verify", "weights_only", "auto_install")),
    (lambda path, **more: load_state([1], path, **more), ("strict",)),
    (lambda path, **more: load_state_from_file(path, **more), ("mmap", "verify", "weights_only")),
    (lambda path, **more: save([1], path, **more), ("overwrite", "compress", "pickle_only", "durable")),
    (lambda path, **more: save_state_to_file({}, path, **more), ("overwrite", "compress", "pickle_only", "durable")),
    (lambda path, **more: save_async([1], path, **more), ("overwrite", "keep_memory")),
    (lambda path, **more: migrate(path, **more), ("dry_run",)),
]


@pytest.mark.parametrize("value", ["no", "False", 0, None, 1])
def test_a_switch_is_true_or_false(tmp_path: Path, value: Any) -> None:
    """A text such as "no" counted as True; here overwrite="no" would have replaced a save."""
    path = Path(save([1, 2], tmp_path / "save"))
    before = (path / "config.yaml").read_bytes()
    for call, names in SWITCHES:
        for name in names:
            with pytest.raises(TypeError, match=rf"{name} must be True or False, not {value!r}"):
                call(path, **{name: value})
    assert (path / "config.yaml").read_bytes() == before


def test_a_star_import_hides_nothing_of_pythons() -> None:
    """``open`` is reached as ``flambe_save.open`` alone."""
    names: dict[str, Any] = {}
    exec("from flambe_save import *", names)
    assert [name for name in names if not name.startswith("__") and hasattr(builtins, name)] == []
    assert callable(flambe_save.open)
    assert flambe_save.open is not open
