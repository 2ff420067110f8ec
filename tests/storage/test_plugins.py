"""Plug-ins of other packages: found by their entry points, without being imported, and used through save and load."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import TESTS

import flambe_save
from flambe_save import SaveError, SaveNotFoundError, TargetExistsError
from flambe_save.registry import ADAPTERS, FORMATS, STORES
from flambe_save.testing import AdapterContract, FormatContract, StoreContract

PLUGINS = TESTS / "plugins"
sys.path.insert(0, str(PLUGINS))

import grid_array  # noqa: E402
import ram_store  # noqa: E402
import texts_format  # noqa: E402


@pytest.fixture(autouse=True)
def plugins() -> Iterator[None]:
    """Register the plug-ins, and forget all that the store keeps."""
    STORES.add("ram", ram_store.STORES)
    FORMATS.add("texts", texts_format.FORMAT)
    ADAPTERS.add("grid_array.Grid", grid_array.ADAPTER)
    yield
    ADAPTERS._entries.pop("grid_array.Grid")
    ADAPTERS._by_type.clear()
    STORES._entries.pop("ram")
    FORMATS._entries.pop("texts")
    ram_store.KEPT.clear()


class TestRamStoreContract(StoreContract):
    """The plug-in's store keeps the contract."""

    def make_writer(self, path: Any) -> Any:
        """Return a store that replaces."""
        return ram_store.STORES.create(str(path), overwrite=True, size=0)

    def make_reader(self, path: Any) -> Any:
        """Return a store that reads."""
        return ram_store.STORES.open(str(path), None)


class TestTextsFormatContract(FormatContract):
    """The plug-in's format keeps the contract."""

    def make_format(self) -> Any:
        """Return it."""
        return texts_format.FORMAT


class TestGridAdapterContract(AdapterContract):
    """The plug-in's arrays keep the contract."""

    def make_object(self, seed: int) -> Any:
        """Return an array of numbers."""
        grid = grid_array.Grid(2, 3)
        grid.numbers[:] = array("d", [seed + index for index in range(6)])
        return grid


def installed(folder: Path, module: str, group: str, entry: str) -> dict[str, str]:
    """Lay a plug-in out as pip does, and return the environment of programs that have it installed."""
    shutil.copy(PLUGINS / f"{module}.py", folder)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_a_store_is_found_by_its_scheme(tmp_path: Path) -> None:
    """A program that imports only flambe_save saves to the URL, loads from it, looks into it and replaces it."""
    code = """
import sys, torch, flambe_save
assert "ram_store" not in sys.modules
model = {"layer": torch.nn.Linear(2, 3), "epoch": 1}
assert flambe_save.save(model, "ram://runs/one") == "ram://runs/one"
loaded = flambe_save.load("ram://runs/one")
assert torch.equal(loaded["layer"].weight, model["layer"].weight) and loaded["epoch"] == 1
with flambe_save.open("ram://runs/one") as save:
    assert save["layer"].class_name == "Linear" and save.total.parameters == 9
assert flambe_save.verify("ram://runs/one") == []
flambe_save.save_async({"epoch": 2}, "ram://runs/one", overwrite=True).result()
assert flambe_save.load("ram://runs/one") == {"epoch": 2}
"""
    environment = installed(tmp_path, "ram_store", "flambe_save.stores", "ram = ram_store:STORES")
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path, timeout=120)
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"ram_store-1.0.dist-info", "ram_store.py"}


def test_single_files_and_parts(tmp_path: Path) -> None:
    """A pickle at a URL, and one component of a save there."""
    saved = {"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)}
    assert flambe_save.save(saved, "ram://one", pickle_only=True) == "ram://one.pkl"
    assert flambe_save.load("ram://one.pkl", node="b").in_features == 2
    flambe_save.save(saved, "ram://two")
    assert torch.equal(flambe_save.load("ram://two", node="b").weight, saved["b"].weight)
    fresh = {"a": torch.nn.Linear(2, 2)}
    flambe_save.load_state(fresh["a"], "ram://two", node="a")
    assert torch.equal(fresh["a"].weight, saved["a"].weight)


def test_what_is_wrong_at_a_url(tmp_path: Path) -> None:
    """The store's own errors come out; what only local saves have is refused by name, and nothing is written."""
    flambe_save.save({"a": 1}, "ram://one")
    local = flambe_save.save({"a": 1}, tmp_path / "local")
    with pytest.raises(TargetExistsError, match="there is a save at ram://one"):
        flambe_save.save({"a": 2}, "ram://one")
    with pytest.raises(SaveNotFoundError, match="nothing is kept at ram://two"):
        flambe_save.load("ram://two")
    for options, what in (
        ({"compress": True}, "an archive is local"),
        ({"base": local}, "links files of this machine"),
        ({"check": True}, "loaded before it is committed is local"),
    ):
        with pytest.raises(SaveError, match=what):
            flambe_save.save({"a": 1}, "ram://three", **options)  # type: ignore[arg-type]
    with pytest.raises(SaveError, match="a local path is needed here"):
        flambe_save.reseal("ram://one")
    assert sorted(ram_store.KEPT) == ["ram://one"]
    with pytest.raises(SaveError, match="there is no store for rum://"):
        flambe_save.save({"a": 1}, "rum://one")


def test_a_format_is_found_by_its_name(tmp_path: Path) -> None:
    """A program that imports only flambe_save writes the format, and reads it without being told which it is."""
    code = """
import sys, torch, flambe_save
model = {"layer": torch.nn.Linear(2, 3), "epoch": 1}
path = flambe_save.save(model, "run", format="texts")
assert flambe_save.load(path)["epoch"] == 1
path = flambe_save.save({**model, "epoch": 2}, "run", format="texts", overwrite=True)
assert torch.equal(flambe_save.load(path, node="layer").weight, model["layer"].weight)
with flambe_save.open(path) as save:
    assert save["layer"].total.parameters == 9
assert flambe_save.verify(path) == []
flambe_save.save_async({"epoch": 3}, "packed", compress=True, format="texts").result()
assert flambe_save.load("packed.tar.gz") == {"epoch": 3}
"""
    environment = installed(tmp_path, "texts_format", "flambe_save.formats", "texts = texts_format:FORMAT")
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path, timeout=120)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "layer",
        "stash.pkl",
        "state.pt",
        "texts.json",
    ]


def test_what_is_wrong_with_a_format(tmp_path: Path) -> None:
    """A format that is not there, and one that contradicts another argument, are refused by name."""
    for options, what in (
        ({"format": "text"}, "no format 'text' is known"),
        ({"format": "texts", "pickle_only": True}, "'texts' is not a single pickle"),
        ({"format": "directory", "pickle_only": True}, "'directory' is not a single pickle"),
    ):
        with pytest.raises(SaveError, match=what):
            flambe_save.save({"a": 1}, tmp_path / "a", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    assert flambe_save.save({"a": 1}, tmp_path / "a", format="pickle").endswith("a.pkl")


def test_an_array_of_another_library_is_a_tensor_of_the_save(tmp_path: Path) -> None:
    """It is saved and loaded among other values, listed with its type and shape, and counted like any tensor."""
    code = """
import flambe_save, torch, grid_array
grid = grid_array.Grid(2, 3)
grid.numbers[4] = 7.5
path = flambe_save.save({"layer": torch.nn.Linear(2, 3), "grids": [grid, grid]}, "run", check=True)
loaded = flambe_save.load(path)["grids"]
assert type(loaded[0]) is grid_array.Grid and loaded[0] is loaded[1]
assert loaded[0].numbers == grid.numbers and loaded[0].columns == 3
with flambe_save.open(path) as save:
    node = save["grids.0"]
    assert node.tensors["numbers"][:3] == ("float64", (2, 3), 48)
    assert node.statistics("numbers").maximum == 7.5
assert flambe_save.load_state_from_file(path)["grids.0.numbers"].sum() == 7.5
"""
    environment = installed(tmp_path, "grid_array", "flambe_save.adapters", "grid_array.Grid = grid_array:ADAPTER")
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path, timeout=120)
