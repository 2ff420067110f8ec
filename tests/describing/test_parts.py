"""Parts of a save without the rest, and files of others beside a save: what hubs and object stores make of folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers.saves import flip

from flambe_save import CorruptSaveError, SaveError, SaveNotFoundError, TargetExistsError, load, save, verify
from flambe_save.layout import NODE_FILES

LONG = "k" * 300


def saved(folder: Path) -> Path:
    run = {"one": {"deep": torch.nn.Linear(3, 2)}, "two": torch.nn.Linear(2, 2), LONG: torch.nn.ModuleList()}
    return Path(save({**run, "holder": Holder()}, folder / "save"))


class Holder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)


def fetched(path: Path, into: Path, *parts: str, root: tuple[str, ...] = ("manifest.json",)) -> Path:
    """Copy some folders of a save, and files of its root."""
    into.mkdir()
    for name in root:
        shutil.copy(path / name, into)
    for part in parts:
        shutil.copytree(path / part, into / part)
    return into


@pytest.mark.parametrize("root", [("manifest.json",), ("manifest.json", "requirements.txt", *NODE_FILES)])
def test_a_part_loads_without_its_siblings(tmp_path: Path, root: tuple[str, ...]) -> None:
    """A folder that was fetched with the root's manifest loads, and every damage of its own files is found."""
    path = saved(tmp_path)
    part = fetched(path, tmp_path / "part", "one.deep", root=root) / "one.deep"
    assert load(part).in_features == 3
    flip(part / "state.pt", 200)
    with pytest.raises(CorruptSaveError, match=r"state\.pt"):
        load(part)
    for change, match in (
        (lambda file: file.unlink(), "missing: 'one.deep/config.yaml'"),
        (lambda file: file.with_name("more.txt").write_text(""), "not of this save: 'one.deep/more.txt'"),
        (lambda file: file.write_text(file.read_text().replace("3", "4")), "config.yaml"),
    ):
        shutil.rmtree(tmp_path / "part")
        fetched(path, tmp_path / "part", "one.deep", root=root)
        change(part / "config.yaml")
        with pytest.raises(CorruptSaveError, match=match):
            load(part)


def test_a_node_loads_without_others_and_the_whole_does_not(tmp_path: Path) -> None:
    """`node=` reads what is there; what is missing is found by a load that wants it, and by verify."""
    path = saved(tmp_path)
    names = {file.name for file in path.iterdir() if file.is_dir()}
    long = next(name for name in names if name.startswith("kkk"))
    here = fetched(path, tmp_path / "part", "one.deep", long, root=("manifest.json", *NODE_FILES))
    assert load(here, node="one.deep").in_features == 3
    assert len(load(here, node=LONG)) == len(load(here / long)) == 0
    with pytest.raises(CorruptSaveError, match="missing: 'holder"):
        load(here)
    with pytest.raises(CorruptSaveError, match="missing: 'two"):
        load(here, node="two")
    with pytest.raises(SaveNotFoundError):
        load(here / "two")
    assert {row.problem for row in verify(here)} == {"it is missing"}


def test_a_manifest_of_something_else_is_no_root(tmp_path: Path) -> None:
    """A save below a folder that has some manifest.json, or that of another save, is a save of its own."""
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    path = saved(tmp_path)
    assert load(path, node="two").in_features == 2
    shutil.copy(path / "manifest.json", tmp_path)
    assert load(path, node="one.deep").in_features == 3
    assert load(path)["two"].in_features == 2


def test_a_folder_that_the_manifest_calls_by_another_key_is_refused(tmp_path: Path) -> None:
    """A part is checked as what the manifest says it is: a renamed folder is found."""
    path = saved(tmp_path)
    here = fetched(path, tmp_path / "part", "one.deep", "two", root=("manifest.json", *NODE_FILES))
    (here / "two").rename(here / "kept")
    (here / "one.deep").rename(here / "two")
    with pytest.raises(CorruptSaveError, match=r"damaged|manifest lists"):
        load(here, node="two")


CARDS = {"config.json": '{"size": 4}', "README.md": "# a model", "LICENSE": "MIT"}


def test_files_of_hubs_beside_a_save_stay(tmp_path: Path) -> None:
    """A mixin's config.json and a README are passed over, kept by a save that replaces it, and none of a base's."""
    path = Path(save(torch.nn.Linear(2, 2), tmp_path / "run"))
    for name, text in CARDS.items():
        (path / name).write_text(text)
    assert load(path).in_features == 2
    assert verify(path) == []
    save(torch.nn.Linear(3, 2), path, overwrite=True, base=path)
    assert load(path).in_features == 3
    assert {name: (path / name).read_text() for name in CARDS} == CARDS
    (path / "notes.txt").write_text("mine")
    with pytest.raises(TargetExistsError, match=r"notes\.txt"):
        save(torch.nn.Linear(3, 2), path, overwrite=True)
    (path / "notes.txt").unlink()
    file = path.rename(tmp_path / "run.pkl")
    with pytest.raises(SaveError, match="not part of a save"):  # a file has no place for them
        save(torch.nn.Linear(3, 2), file, pickle_only=True, overwrite=True)
    assert (tmp_path / "run.pkl" / "README.md").read_text() == CARDS["README.md"]


def test_a_mixin_of_a_hub_saves_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ModelHubMixin writes config.json beside what `_save_pretrained` wrote, twice into one folder, and loads it."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    class Hosted(torch.nn.Module, hub.ModelHubMixin):  # type: ignore[misc, name-defined]
        def __init__(self, size: int = 3) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(size, size)

        def _save_pretrained(self, save_directory: Path) -> None:
            save(self.layer, save_directory, overwrite=True)

        @classmethod
        def _from_pretrained(cls, *, model_id: str, size: int, **_: object) -> Hosted:
            made = cls(size)
            made.layer = load(model_id)
            return made

    made = Hosted(4)
    for _ in range(2):
        made.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "config.json").exists()
    again = Hosted.from_pretrained(str(tmp_path / "saved"))
    assert torch.equal(again.layer.weight, made.layer.weight)
