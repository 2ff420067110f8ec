"""Objects of classes that were defined again since, as running a notebook's cell once more does."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flambe_save import UnsupportedObjectError, load, save, untrusted

CELLS = {
    "module": """
from torch import nn
class Body(nn.Module):
    sizes = {"a": [1, (2.5, None)]}
    def forward(self, x, scale=(1, 2)):
        return [lambda: x * 3 for _ in range(2)]
    @property
    def size(self):
        return self.layer.in_features
    @staticmethod
    def helper(x):
        "Help."
        return super
class Net(Body):
    def __init__(self, size=2):
        super().__init__()
        self.layer = nn.Linear(size, size)
""",
    "component": """
from torch import nn
from flambe_save import Component
class Net(Component, nn.Module):
    def __init__(self, size=2):
        super().__init__()
        self.layer = nn.Linear(size, size)
""",
    "recorded": """
from torch import nn
from flambe_save import recorded
@recorded
class Net(nn.Module):
    def __init__(self, size=2):
        super().__init__()
        self.layer = nn.Linear(size, size)
""",
    "dataclass": """
import dataclasses, functools
@dataclasses.dataclass
class Net:
    size: int = 2
    items: list = dataclasses.field(default_factory=list)
    @functools.cached_property
    def twice(self):
        return self.size * 2
    @classmethod
    def of(cls):
        return cls(3)
""",
    "object": """
class Net:
    def __init__(self, size=2):
        self.size = size
""",
    "nested": """
class Outer:
    class Net:
        def __init__(self, size=2):
            self.size = size
Net = Outer.Net
""",
}
CHANGES = {  # each says something else than the cell of that name
    "module": [("x * 3", "x * 4"), ("(2.5, None)", "(2.5, 0)"), ("scale=(1, 2)", "scale=(1, 3)"), ("in_f", "out_f")],
    "component": [("size=2", "size=3"), ("nn.Linear(size, size)", "nn.Linear(size, 1)")],
    "recorded": [("super().__init__()", "super().__init__(); self.more = 1")],
    "dataclass": [("size: int = 2", "size: int = 3"), ("* 2", "* 3"), ("cls(3)", "cls(4)"), ("=list", "=dict")],
    "object": [("self.size = size", "self.size = size + 1"), ("class Net:", "class Net(dict):")],
    "nested": [("size=2", "size=1")],
}


@pytest.fixture
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return what runs a cell's text in one module, and gives the class Net that it defines."""
    module = types.ModuleType(f"cells_{abs(hash(request.node.name))}")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def execute(text: str) -> Any:
        exec(compile(text, "<cell>", "exec"), module.__dict__)
        return module.__dict__["Net"]

    return execute


@pytest.mark.parametrize("kind", CELLS)
def test_an_object_of_a_class_that_says_the_same_is_saved_by_its_name(
    tmp_path: Path, kind: str, run: Callable[[str], Any]
) -> None:
    """The bytes are those of before, and a load gives an object of the present class, without trust."""
    old = run(CELLS[kind])(4)
    path = Path(save(old, tmp_path / "save"))
    before = (path / "config.yaml").read_bytes()
    new = run(CELLS[kind] + "\n# one more time")
    assert type(old) is not new
    save(old, path, overwrite=True)
    assert (path / "config.yaml").read_bytes() == before
    assert untrusted(path) == []
    assert type(load(path)) is new


@pytest.mark.parametrize(("kind", "change"), [(kind, change) for kind in CHANGES for change in CHANGES[kind]])
def test_an_object_of_a_class_that_says_otherwise_is_refused(
    tmp_path: Path, kind: str, change: tuple[str, str], run: Callable[[str], Any]
) -> None:
    """The error says that the class was defined again; the good save stays, and the way out that it names works."""
    old = run(CELLS[kind])(4)
    path = Path(save(old, tmp_path / "save"))
    files = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert change[0] in CELLS[kind]
    new = run(CELLS[kind].replace(*change))
    with pytest.raises(
        UnsupportedObjectError, match=r"(?s)older definition of cells_\d+\..*Net.*obj\.__class__ = cells"
    ):
        save(old, path, overwrite=True)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == files
    if new.__bases__ != (dict,):
        old.__class__ = new
        assert type(load(save(old, path, overwrite=True))) is new


def test_a_part_is_named(tmp_path: Path, run: Callable[[str], Any]) -> None:
    """The error says where the object is."""
    old = run(CELLS["object"])(4)
    run(CELLS["object"].replace("size=2", "size=3"))
    with pytest.raises(UnsupportedObjectError, match=r"run\[1\] is of an older definition.*'__init__'"):
        save({"run": [1, old]}, tmp_path / "save")
    assert [*tmp_path.iterdir()] == []
