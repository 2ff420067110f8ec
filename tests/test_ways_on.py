"""Errors that name the way on: endings, versions, migrations, modules to import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import (
    Component,
    CorruptSaveError,
    RegistrationError,
    SaveError,
    StateMismatchError,
    UnsupportedObjectError,
    load,
    load_state,
    save,
)
from flambe_save.adapters import restoring
from flambe_save.classes.tags import TAGS
from flambe_save.conversion import convert, extract


class Versioned(Component, nn.Module):
    _flambe_version = "1.2.0"

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


@pytest.mark.parametrize("name", ["x.onnx", "x.h5", "w.txt", "a.b.json", "model.Bin", "x.npz"])
def test_unknown_endings_are_refused(name: str, tmp_path: Path) -> None:
    """convert and extract write no folder by the name of some kind of file, and list the endings that they know."""
    path = save({"a": nn.Linear(2, 2)}, tmp_path / "run")
    known = r"(?s)\.tar\.gz, \.pkl, \.pkl\.tar\.gz and \.safetensors|files? (of|for) one|a \.tar\.gz or a folder"
    for write in (lambda out: convert(path, out), lambda out: extract(path, "a", out)):
        with pytest.raises(SaveError, match=known):
            write(tmp_path / name)
    with pytest.raises(SaveError, match=r"npy or \.safetensors"):
        extract(path, "a.weight", tmp_path / name)
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["plain", "run.1", "v1.0", "2026-01.02", "x.onnx/", "model.encoder"])
def test_other_names_and_a_slash_are_folders(name: str, tmp_path: Path) -> None:
    """Versions, dates and keys of nodes are no endings of files, and a slash makes any name a folder."""
    path = save(nn.Linear(2, 2), tmp_path / "save")
    out = convert(path, f"{tmp_path}/{name}")
    assert (out, Path(out).is_dir()) == (f"{tmp_path}/{name.rstrip('/')}", True)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("protocol_version.txt", "0"),
        ("protocol_version.txt", "00"),
        ("version.txt", "Versioned"),
        ("version.txt", "Versioned:one"),
        ("version.txt", "Versioned:1.2.0:3"),
        ("version.txt", "Versioned:1..2"),
        ("version.txt", "a b:1.2.0"),
        ("version.txt", ""),
    ],
)
def test_protocols_and_versions_that_are_none(file: str, text: str, tmp_path: Path) -> None:
    """A protocol of 0 and a version.txt that does not read Class:1.2.0 are refused by name."""
    path = Path(save(Versioned(), tmp_path / "run"))
    (path / "manifest.json").unlink()
    (path / "requirements.txt").unlink()
    (path / file).write_text(text)
    with pytest.raises(CorruptSaveError, match=r"protocol number|does not read Class:version") as caught:
        load(path)
    assert caught.value.file == file


def test_a_class_whose_version_no_load_would_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a load refuses is not written either."""
    for version in ("dev", "1.0-beta", 2):
        monkeypatch.setattr(Versioned, "_flambe_version", version)
        for options in ({}, {"build": False}):
            with pytest.raises(UnsupportedObjectError, match="_flambe_version is not a version"):
                save(Versioned(), tmp_path / "run", **options)
    monkeypatch.setattr(Versioned, "_flambe_version", "3")
    assert load(save(Versioned(), tmp_path / "run")).layer.in_features == 2


def test_a_changed_class_names_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the source of a class changed and keys differ, the error names @migration with the saved version."""
    path = save(Versioned(), tmp_path / "run")

    def init(self: Any) -> None:
        nn.Module.__init__(self)
        self.renamed = nn.Linear(2, 2)

    with pytest.raises(StateMismatchError) as unchanged:
        load_state(nn.Linear(2, 2), path)
    monkeypatch.setattr(Versioned, "__init__", init)
    monkeypatch.setattr(restoring, "source_of", lambda cls: "class Versioned: ...")
    message = r"(?s)renamed\.bias.*source of Versioned has changed.*@migration\('1\.2\.0', NEW_VERSION\)"
    with pytest.raises(StateMismatchError, match=message):
        load(path)
    with pytest.raises(StateMismatchError, match=message):
        load_state(Versioned(), path)
    assert "@migration" not in str(unchanged.value)


def test_a_generator_of_numpy_names_what_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy imports its generators when they are first used: the message names that module, recorded or not."""
    monkeypatch.delitem(sys.modules, "numpy.random", raising=False)
    for recorded in (None, "numpy.random._pcg64.PCG64"):
        with pytest.raises(RegistrationError, match=r"import numpy\.random first\."):
            TAGS.resolve("numpy.PCG64", recorded, lambda name: False)
    assert torch.Generator is TAGS.resolve("torch.Generator", None, lambda name: False)[0]
