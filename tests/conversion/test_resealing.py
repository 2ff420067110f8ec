"""Resealing: a folder that was edited by hand gets a new manifest, once all of it is seen to be readable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import (
    Component,
    ConfigError,
    CorruptSaveError,
    SaveError,
    StateMismatchWarning,
    load,
    reseal,
    save,
    verify,
)
from flambe_save.cli import main
from flambe_save.formats.manifest import Manifest


class Part(Component, nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.layer, self.tied = nn.Linear(2, 2), nn.Linear(2, 2)
        self.tied.weight = self.layer.weight


class Whole(Component, nn.Module):
    def __init__(self, part: Part, rate: float = 0.1) -> None:
        super().__init__()
        self.part, self.rate = part, rate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(save(Whole(Part(0.5)), tmp_path / "run", digest="sha256"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_an_edited_config_loads_after_it_is_resealed(path: Path) -> None:
    """The error of an edited file names reseal; after it the save loads with the edit, whole and with its ties."""
    before = Manifest.from_json((path / "manifest.json").read_bytes())
    edit(path / "config.yaml", "rate: 0.1", "rate: 0.7")
    with pytest.raises(CorruptSaveError, match=r"reseal\(path\), or flambe-save reseal PATH"):
        load(path)
    expected = [("", "config.yaml", "changed")]
    assert reseal(path, dry_run=True) == expected
    assert Manifest.from_json((path / "manifest.json").read_bytes()) == before
    assert reseal(path) == expected
    again = load(path)
    assert (again.rate, again.part.rate) == (0.7, 0.5)
    assert again.part.tied.weight is again.part.layer.weight
    after = Manifest.from_json((path / "manifest.json").read_bytes())
    assert after.files.pop("config.yaml") != before.files.pop("config.yaml")
    assert vars(after) == vars(before)
    assert (verify(path), reseal(path)) == ([], [])
    assert [item.name for item in path.iterdir() if item.name.startswith(".")] == []


def test_new_tags_are_recorded_and_unknown_ones_left(path: Path) -> None:
    """A class that the edit brings in is recorded like the others."""
    edit(path / "config.yaml", "rate: 0.1", "rate: !torch.Identity {}")
    reseal(path)
    manifest = Manifest.from_json((path / "manifest.json").read_bytes())
    assert manifest.tags["torch.Identity"] == "torch.nn.modules.linear.Identity"
    assert isinstance(load(path).rate, nn.Identity)


def test_a_state_that_was_replaced_and_removed_nodes_are_resealed(path: Path) -> None:
    """Other tensors, and a manifest that is gone or damaged, are told and written anew."""
    values = torch.load(path / "state.pt")
    torch.save({key: value + 1 for key, value in values.items()}, path / "state.pt")
    assert ("", "state.pt", "changed") in reseal(path)
    assert verify(path) == []
    for change in (Path.unlink, lambda file: file.write_text("{}")):
        change(path / "manifest.json")
        assert reseal(path)[-1] == (None, "manifest.json", "added")
        assert verify(path) == []
        part = load(path).part
        assert part.tied.weight is part.layer.weight


@pytest.mark.parametrize(
    ("file", "old", "new", "match"),
    [
        ("config.yaml", "rate: 0.1", "rate: [0.1", "config.yaml"),
        ("part/config.yaml", "rate: 0.5", "rate: 0.5\nrate: 0.6", "comes twice"),
        ("version.txt", ":", "", "version.txt"),
        ("protocol_version.txt", "1", "one", "protocol_version.txt"),
    ],
)
def test_what_does_not_parse_is_named_and_nothing_written(
    path: Path, file: str, old: str, new: str, match: str
) -> None:
    """An edit with a mistake in it leaves the manifest as it was."""
    before = (path / "manifest.json").read_bytes()
    edit(path / file, old, new)
    with pytest.raises((ConfigError, CorruptSaveError), match=match):
        reseal(path)
    (path / file).unlink()
    with pytest.raises(CorruptSaveError, match="missing"):
        reseal(path)
    assert (path / "manifest.json").read_bytes() == before


def test_damaged_states_foreign_files_and_files_are_refused(path: Path, tmp_path: Path) -> None:
    """Reseal vouches for nothing that a load would not read."""
    with pytest.raises(SaveError, match="is a save itself"):
        reseal(path / "part")
    with pytest.raises(SaveError, match="only a folder"):
        reseal(save(nn.Linear(1, 1), tmp_path / "one", compress=True))
    (path / "notes.txt").write_text("mine")
    with pytest.raises(CorruptSaveError, match=r"notes\.txt"):
        reseal(path)
    (path / "notes.txt").unlink()
    data = (path / "state.pt").read_bytes()
    (path / "state.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptSaveError):
        reseal(path)


def test_a_contradiction_is_told(path: Path) -> None:
    """An edit in the config of the whole alone leaves that of the part as it was: the warning says where."""
    edit(path / "config.yaml", "rate: 0.5", "rate: 0.6")
    with pytest.warns(StateMismatchWarning, match="'part' contradicts.*'rate'"):
        reseal(path)
    assert (load(path).part.rate, load(path / "part").rate) == (0.6, 0.5)


def test_the_verb(path: Path, tmp_path: Path, capsys: Any) -> None:
    """The command lists what was edited; --dry-run writes nothing and says so by its exit status."""
    shutil.copytree(path, tmp_path / "other")
    edit(path / "config.yaml", "rate: 0.1", "rate: 0.7")
    assert main(["reseal", str(path), "--dry-run"]) == 1
    assert main(["reseal", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out.partition("nothing was written\n")[2])
    assert document["changes"] == [{"node": "", "file": "config.yaml", "change": "changed"}]
    assert main(["reseal", str(path)]) == 0
    assert capsys.readouterr().out == "nothing has changed, and nothing was written\n"
