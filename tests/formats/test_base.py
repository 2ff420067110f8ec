"""save(..., base=previous): what has not changed becomes hard links, and each save is complete by itself."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.saves import files_of, flip
from torch import nn

from flambe_save import Component, CorruptSaveError, LoadError, SaveError, SaveNotFoundError, load, save, verify
from flambe_save.testing.codec import same


class Part(Component, nn.Module):
    """Weights of 16 KB, or of 4 MB."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)


class Whole(Component, nn.Module):
    """Parts."""

    def __init__(self, parts: list[Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


@pytest.fixture
def model() -> Whole:
    """Return a model of four parts, one of them large."""
    return Whole([Part(), Part(), Part(), Part(1024)])


def inode(path: Path, index: int, name: str = "state.pt") -> int:
    """Return what tells a part's file from a copy of it."""
    return (path / f"parts.{index}" / name).stat().st_ino


def change(model: Whole, index: int) -> None:
    """Change one number of a part."""
    with torch.no_grad():
        model.parts[index].linear.weight[-1, -1] += 1


def test_what_is_the_same_is_linked(model: Whole, tmp_path: Path) -> None:
    """Only the part that changed takes space; the result is, byte for byte, what a save without a base writes."""
    save(model, tmp_path / "one")
    change(model, 1)
    save(model, tmp_path / "two", base=tmp_path / "one")
    save(model, tmp_path / "plain")
    linked = [inode(tmp_path / "one", index) == inode(tmp_path / "two", index) for index in range(4)]
    assert linked == [True, False, True, True]
    assert files_of(tmp_path / "two") == files_of(tmp_path / "plain")
    assert verify(tmp_path / "two") == []
    assert same(load(tmp_path / "two").state_dict(), model.state_dict())


def test_what_people_edit_is_not_linked(model: Whole, tmp_path: Path) -> None:
    """Texts are files of their own: whoever edits a config in place changes one save only."""
    save(model, tmp_path / "one")
    save(model, tmp_path / "two", base=tmp_path / "one")
    for name in ("config.yaml", "source.py", "version.txt"):
        assert inode(tmp_path / "one", 0, name) != inode(tmp_path / "two", 0, name)


def test_each_save_is_complete(model: Whole, tmp_path: Path) -> None:
    """Without its base, a save is whole; and the base without it."""
    save(model, tmp_path / "one")
    save(model, tmp_path / "two", base=tmp_path / "one")
    save(model, tmp_path / "three", base=tmp_path / "two")
    shutil.rmtree(tmp_path / "two")
    assert verify(tmp_path / "one") == verify(tmp_path / "three") == []
    shutil.rmtree(tmp_path / "one")
    assert same(load(tmp_path / "three").state_dict(), model.state_dict())


def test_a_save_may_replace_its_own_base(model: Whole, tmp_path: Path) -> None:
    """The latest checkpoint, saved again over itself, keeps what has not changed."""
    save(model, tmp_path / "latest")
    kept = inode(tmp_path / "latest", 3)
    change(model, 0)
    save(model, tmp_path / "latest", overwrite=True, base=tmp_path / "latest")
    assert inode(tmp_path / "latest", 3) == kept
    assert verify(tmp_path / "latest") == []
    assert same(load(tmp_path / "latest").state_dict(), model.state_dict())


@pytest.mark.parametrize("digest", [None, "sha256"])
def test_digests_are_those_of_the_files(digest: str | None, model: Whole, tmp_path: Path) -> None:
    """A base without digests is linked to only where none are asked for; verify compares them all."""
    save(model, tmp_path / "one", digest=digest)
    save(model, tmp_path / "two", digest="sha256", base=tmp_path / "one")
    assert (inode(tmp_path / "one", 3) == inode(tmp_path / "two", 3)) == (digest is not None)
    assert verify(tmp_path / "two") == []
    save(model, tmp_path / "plain", digest="sha256")
    assert files_of(tmp_path / "two") == files_of(tmp_path / "plain")


def test_other_parts_than_before(model: Whole, tmp_path: Path) -> None:
    """Parts that came, went, or have another size do not matter to those that stayed."""
    save(model, tmp_path / "one")
    other = Whole([model.parts[0], Part(65)])
    save(other, tmp_path / "two", base=tmp_path / "one")
    assert inode(tmp_path / "one", 0) == inode(tmp_path / "two", 0)
    assert same(load(tmp_path / "two").state_dict(), other.state_dict())


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_a_disk_without_links(code: int, model: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system cannot link, the files are written, and the save is the same."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code))

    save(model, tmp_path / "one")
    monkeypatch.setattr(os, "link", refuse)
    save(model, tmp_path / "two", base=tmp_path / "one")
    assert inode(tmp_path / "one", 3) != inode(tmp_path / "two", 3)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_file_that_takes_the_place_of_the_compared_one_is_not_linked(
    model: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever swaps a file of the base between the look and the link does not get it into the new save."""
    save(model, tmp_path / "one")
    link = os.link
    swapped = []

    def swap_and_link(*arguments: Any, **options: Any) -> None:
        if not swapped:
            swapped.append(True)
            for file in (tmp_path / "one").rglob("state.pt"):
                content = bytearray(file.read_bytes())
                content[-300] ^= 1
                file.unlink()
                file.write_bytes(content)
        link(*arguments, **options)

    monkeypatch.setattr(os, "link", swap_and_link)
    save(model, tmp_path / "two", base=tmp_path / "one")
    assert swapped
    assert verify(tmp_path / "two") == []


DAMAGE: dict[str, Callable[[Path], object]] = {
    "weights": lambda path: flip(path / "parts.3/state.pt"),
    "weights that changed": lambda path: flip(path / "parts.1/state.pt"),
    "text": lambda path: flip(path / "parts.1/source.py"),
    "manifest": lambda path: flip(path / "manifest.json"),
    "missing": lambda path: (path / "parts.0" / "state.pt").unlink(),
    "cut": lambda path: os.truncate(path / "parts.3" / "state.pt", 3 << 20),
    "foreign": lambda path: (path / "notes.txt").write_text("x"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_base_is_an_error_before_anything_is_written(
    damage: Callable[[Path], object], model: Whole, tmp_path: Path
) -> None:
    """Whatever is wrong with the base, in what is linked to or not, is told, and nothing is left behind."""
    save(model, tmp_path / "one")
    damage(tmp_path / "one")
    change(model, 1)
    with pytest.raises(CorruptSaveError):
        save(model, tmp_path / "two", base=tmp_path / "one")
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


def test_a_checksum_inside_a_file_is_not_believed(model: Whole, tmp_path: Path) -> None:
    """Comparing takes large records' checksums from the base's own headers: one that was changed there is found."""
    save(model, tmp_path / "one")
    file = tmp_path / "one" / "parts.3" / "state.pt"
    data = bytearray(file.read_bytes())
    where = data.index(b"archive/data/0") - 16
    data[where] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptSaveError, match="not what was saved"):
        save(model, tmp_path / "two", base=tmp_path / "one")
    assert not (tmp_path / "two").exists()


def test_what_is_no_base(model: Whole, tmp_path: Path) -> None:
    """No save, a single file, a part of a save and a folder of something else are each refused with the reason."""
    save(model, tmp_path / "one")
    pickle = save(model, tmp_path / "single", pickle_only=True)
    archive = save(model, tmp_path / "packed", compress=True)
    (tmp_path / "other").mkdir()
    before = sorted(entry.name for entry in tmp_path.iterdir())
    for base, error in (
        (tmp_path / "nothing", SaveNotFoundError),
        (tmp_path / "other", SaveError),
        (tmp_path / "one" / "parts.0", SaveError),
        (pickle, SaveError),
        (archive, SaveError),
    ):
        with pytest.raises(error) as info:
            save(model, tmp_path / "two", base=base)
        assert isinstance(info.value, (SaveError, LoadError))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


@pytest.mark.parametrize("shape", [{"compress": True}, {"pickle_only": True}])
def test_what_cannot_hold_links_is_written(shape: dict[str, Any], model: Whole, tmp_path: Path) -> None:
    """An archive or a pickle with a base is the one without."""
    save(model, tmp_path / "one")
    with_base = save(model, tmp_path / "with", base=tmp_path / "one", **shape)
    without = save(model, tmp_path / "other" / "with", **shape)
    assert Path(with_base).read_bytes() == Path(without).read_bytes()


def test_an_error_while_linking_leaves_the_base_alone(
    model: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that fails half-way takes its links away, and not what they lead to."""
    save(model, tmp_path / "one")
    before = files_of(tmp_path / "one")

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("flambe_save.formats.manifest.Manifest.to_json", fail)
    with pytest.raises(SaveError, match="no space"):
        save(model, tmp_path / "two", base=tmp_path / "one")
    assert files_of(tmp_path / "one") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]
    assert {file.stat().st_nlink for file in (tmp_path / "one").rglob("state.pt")} == {1}
