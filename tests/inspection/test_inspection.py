"""The open save: what a load would read, and nothing run; damaged, hostile and replaced saves; one file at a time."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from helpers.places import FLAMBE
from helpers.saves import CONTAINERS, written
from torch import nn

import flambe_save
from flambe_save import (
    Component,
    CorruptSaveError,
    FlambeSaveError,
    LoadError,
    SaveNotFoundError,
    SaveReplacedError,
    State,
    UnknownFormatError,
    UntrustedError,
    diff,
    load,
    load_state_from_file,
    save,
    save_state_to_file,
    state_from_tree,
    tree_from_state,
)
from flambe_save.formats import manifest as manifests
from flambe_save.formats.manifest import Manifest
from flambe_save.inspection import OpenSave, SavedNode
from flambe_save.inspection.documents import describe_diff, describe_node, describe_save
from flambe_save.layout import MANIFEST_FILE, NODE_FILES
from flambe_save.storage import FolderStore
from flambe_save.support.checksum import crc32
from flambe_save.testing.codec import same
from flambe_save.tree import prefixed

pytestmark = pytest.mark.filterwarnings("ignore::flambe_save.NeedsTrustWarning")

GOLDEN = ["classifier", "classifier_gz.tar.gz", "classifier_pkl.pkl", "linked", "shared", "stashed"]
KINDS = {"": "folder", ".tar.gz": "archive", ".pkl": "pickle", ".pkl.tar.gz": "archived pickle"}


class Odd:
    """What a stash holds, and no config can say."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and other.number == self.number

    __hash__ = object.__hash__

    def __reduce__(self) -> Any:  # so that it is pickled
        return Odd, (self.number,)


class Leaf(Component):
    """A component with weights, and something of no data."""

    _flambe_version = "1.2.0"

    def __init__(self, size: int = 3, odd: Any = None) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 2)
        self.odd = odd


class Trunk(Component):
    """Components in a component, two of whose tensors are one."""

    def __init__(self, left: Leaf, right: Leaf, rate: float = 0.5) -> None:
        super().__init__()
        self.left, self.right, self.rate = left, right, rate
        self.right.linear.weight = self.left.linear.weight


def write_state(state: Any, path: Path, suffix: str = "", **options: Any) -> Path:
    """Save a state in a container and return the save's path."""
    save_state_to_file(state, path, **CONTAINERS[suffix], **options)
    return path.with_name(path.name + suffix)


def trunk() -> Trunk:
    """Return a tree of components."""
    return Trunk(Leaf(), Leaf())


def odd_state() -> State:
    """Return a state of odd keys and values, with components at prefixes of all kinds."""
    values = {
        "plain": torch.arange(6.0).reshape(2, 3).t(),
        "with.dots": torch.tensor(2),
        "": torch.ones(1),
        "a b/ü<&>%\n": torch.zeros(0, 3, dtype=torch.int64),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "parameter": nn.Parameter(torch.ones(2)),
        "number": 3,
        "list": [1, (2.5, {"x": {3, 4}}), torch.ones(2)],
        "text": "β",
    }
    metadata: dict[str, dict[str, Any]] = {}
    prefixes = ["", "a", "a.b.c", "é/x", "ö<b>", "%41", "con", "A" * 250, "a.b.c.0"]
    state = State()
    for index, prefix in enumerate(prefixes):
        metadata[prefix] = {"_flambe_class": f"Class{index}", "_flambe_version": f"1.{index}.0"}
        for key, value in values.items():
            state[f"{prefix}.{key}" if prefix else key] = value
    state._metadata.update(metadata)
    state._metadata["_flambe_directories"] = set(prefixes)
    return state


def check_same(path: Path, opened: OpenSave, **options: Any) -> None:
    """Compare all that a handle tells with what a load of the state gives."""
    state = load_state_from_file(path, **options)
    nodes = prefixed(tree_from_state(state))
    assert {node.prefix for node in opened.walk()} == nodes.keys()
    found = State()
    for node in opened.walk():
        tree = nodes[node.prefix]
        texts = (node.class_name, node.version, node.config, node.source)
        assert texts == (tree.class_name, tree.version, tree.config, tree.source_code)
        tensors = {key: value for key, value in tree.state.items() if isinstance(value, torch.Tensor)}
        assert node.tensors.keys() == tensors.keys()
        for key, value in tensors.items():
            info = node.tensors[key]
            facts = (str(value.dtype).removeprefix("torch."), tuple(value.shape), value.numel() * value.element_size())
            assert info[:3] == facts
            assert info.device in ("cpu", None)
        assert set(node.state) == set(tree.state)
        assert len(node.state) == len(tree.state)
        for key, value in node.state.items():
            assert same(value, tree.state[key]), key
            found[f"{node.prefix}.{key}" if node.prefix else key] = value
        assert same(dict(node.stash), dict(tree.object_stash))
        assert len(node) == len(tree.children)
        assert all(node[key].parent == node for key in node)
    assert found.keys() == state.keys()


# ------------------------------------------------------------------------------------------------ as a load reads it


@pytest.mark.parametrize("name", GOLDEN)
def test_flambes_saves(name: str) -> None:
    """Of Flambe's own saves, all is there that a load of the state reads; nothing vouches for them."""
    with flambe_save.open(FLAMBE / name) as opened:
        check_same(FLAMBE / name, opened)
        assert (opened.writer, opened.is_vouched_for, opened.damage, opened.verify()) == (None, False, [], [])
        assert opened.protocol == (None if name.endswith(".pkl") else 1)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_objects(suffix: str, tmp_path: Path) -> None:
    """Of an object's save, in any container, all is there that a load reads."""
    path = written(trunk(), tmp_path / "s", suffix)
    with flambe_save.open(path) as opened:
        check_same(path, opened)
        assert opened.kind == KINDS[suffix]
        assert opened.is_vouched_for
        assert opened.damage == opened.verify() == []
        assert [sorted(group) for group in opened.ties] == [["left.linear.weight", "right.linear.weight"]]
        assert f"{__name__}.Leaf" in opened.tags.values()
        assert opened["left"].class_path == f"{__name__}.Leaf"
        assert opened.total[:3] == (3, 10, 40)  # the weight that is one counts once
        assert opened["left"].total[:3] == opened["left"].own[:3] == (2, 8, 32)
        assert opened.own[:3] == (0, 0, 0)
        if "pkl" not in suffix:
            assert opened.packages["torch"] == torch.__version__
            assert opened.writer == f"flambe_save {flambe_save.__version__}"


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_odd_keys_and_values(suffix: str, tmp_path: Path) -> None:
    """Keys with dots, of odd characters, of any length, and values of all kinds are as a load reads them."""
    path = write_state(odd_state(), tmp_path / "s", suffix)
    with flambe_save.open(path) as opened:
        check_same(path, opened)
        assert opened["a.b.c"]["0"] == opened["a.b.c.0"] == opened["a"]["b.c"]["0"]
        assert [*opened["a"]] == ["b.c"]
        assert "b" not in opened["a"]
        assert "" not in opened


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_part_by_its_key(suffix: str, tmp_path: Path) -> None:
    """``node=`` opens a component alone, and all is relative to it."""
    path = write_state(odd_state(), tmp_path / "s", suffix)
    with flambe_save.open(path, node="a") as opened:
        check_same(path, opened, node="a")
        assert [node.prefix for node in opened.walk()] == ["", "b.c", "b.c.0"]
        assert opened.class_name == "Class1"
        assert "'a' of " in repr(opened)
        assert opened["b.c"].verify() == opened.verify() == []
    with pytest.raises(SaveNotFoundError, match=r"(?s)no 'a\.b'.*'a\.b\.c'"):
        flambe_save.open(path, node="a.b")


def test_a_part_by_its_folder(tmp_path: Path) -> None:
    """A folder inside a save is opened as a part of it, with and without the manifest."""
    path = written(Trunk(Leaf(), Leaf(odd={1: Leaf()})), tmp_path / "s")
    with flambe_save.open(path / "left") as opened:
        check_same(path / "left", opened)
        assert (opened.is_vouched_for, opened.class_name, opened.ties) == (True, "Leaf", [])
        assert same(opened.load().get_state(), load(path / "left").get_state())
    (path / MANIFEST_FILE).unlink()
    with flambe_save.open(path / "left") as opened:
        check_same(path / "left", opened)
        assert not opened.is_vouched_for
    with flambe_save.open(FLAMBE / "classifier" / "encoder") as opened:
        check_same(FLAMBE / "classifier" / "encoder", opened)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_load_from_the_handle(suffix: str, tmp_path: Path) -> None:
    """What is loaded from a handle is what a load gives, of the whole and of a part, with the handle's trust."""
    path = written(Trunk(Leaf(odd=Odd(3)), Leaf()), tmp_path / "s", suffix)
    with flambe_save.open(path, trusted=[__name__]) as opened:
        assert same(opened.load().get_state(), load(path, trusted=[__name__]).get_state())
        assert opened["left"].load().odd == Odd(3)
        with flambe_save.open(path, node="left", trusted=[__name__]) as part:
            assert part.load().odd == Odd(3)
    with flambe_save.open(path) as opened:
        with pytest.raises(UntrustedError):
            opened.load()
        assert opened["left"].load(trusted=[__name__]).odd == Odd(3)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_stash_needs_trust(suffix: str, tmp_path: Path) -> None:
    """Without trust a stash tells its types alone; with it, its values."""
    path = written(Leaf(odd=Odd(3)), tmp_path / "s", suffix)
    with flambe_save.open(path) as opened:
        [name] = opened.stash
        assert opened.stash.types() == {name: f"{__name__}.Odd"}
        assert opened.needs_trust
        with pytest.raises(UntrustedError, match="Odd"):
            opened.stash[name]
    for trust in ({"trusted": [__name__]}, {"weights_only": False}):
        with flambe_save.open(path, **trust) as opened:
            assert opened.stash[name] == Odd(3)
            assert dict(opened.stash) == {name: Odd(3)}


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_lambda_in_a_state(suffix: str, tmp_path: Path) -> None:
    """What dill writes is read as a load reads it, by those who trust everything."""
    path = write_state(State({"run": lambda: 7, "w": torch.ones(2)}), tmp_path / "s", suffix)
    with flambe_save.open(path, weights_only=False) as opened:
        assert opened.state["run"]() == 7
    with flambe_save.open(path) as opened:
        assert torch.equal(opened.state["w"], torch.ones(2))
        with pytest.raises(UntrustedError):
            opened.state["run"]


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_what_fits_together_with_trust_alone(suffix: str, tmp_path: Path) -> None:
    """Where nothing of a file can be put together without trust, asking for it says so, and is no empty answer."""
    numpy = pytest.importorskip("numpy")
    value = numpy.array([Odd(1)], dtype=object)
    path = write_state(State({"odd": value, "w": torch.ones(2)}), tmp_path / "s", suffix)
    with pytest.raises(UntrustedError), flambe_save.open(path) as opened:
        _ = opened.state["odd"]
    with flambe_save.open(path, weights_only=False) as opened:
        assert opened.state["odd"][0] == Odd(1)
        assert torch.equal(opened.state["w"], torch.ones(2))


class Scaled(torch.Tensor):
    """A tensor of a class of its own."""


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_tensor_of_a_class_of_its_own(suffix: str, tmp_path: Path) -> None:
    """It needs trust, and hides nothing beside it."""
    value = torch.arange(3.0).as_subclass(Scaled)
    path = write_state(State({"odd": value, "w": torch.ones(2)}), tmp_path / "s", suffix)
    with flambe_save.open(path) as opened:
        assert opened.statistics("w").mean == 1.0
        with pytest.raises((UntrustedError, KeyError)):
            opened.statistics("odd")
        rows = {row["name"]: row["statistics"] for row in describe_node(opened, statistics=True)["tensor_list"]}
        assert rows["w"]["mean"] == 1.0
        assert rows.get("odd") is None
    assert diff(path, path) == []
    with flambe_save.open(path, trusted=[__name__, "torch"]) as opened:
        assert type(opened.state["odd"]) is Scaled
        assert "odd" not in opened.tensors or opened.statistics("odd").mean == 1.0


# ------------------------------------------------------------------------------------------------ as a mapping


def test_it_is_a_mapping(tmp_path: Path) -> None:
    """Nodes are equal where they are the same node of the same handle, and true also without any inside."""
    path = written(trunk(), tmp_path / "s")
    with flambe_save.open(path) as one, flambe_save.open(path) as other:
        assert one["left"] == one["left"]
        assert hash(one["left"]) == hash(one["left"])
        assert one != other
        assert one["left"] != other["left"]
        assert one["left"] != one["right"]
        assert bool(one["left"])
        assert len(one["left"]) == 0
        assert (one.parent, one["left"].parent) == (None, one)
        assert [*one.items()] == [("left", one["left"]), ("right", one["right"])]
        assert one.get("none") is None
        for missing in ("", "none", "left.linear", "left.", ".left"):
            with pytest.raises(KeyError):
                one[missing]
        assert one.owner_of("left.linear.weight") == ("left", "linear.weight")
        with pytest.raises(KeyError):
            one.state["none"]


def test_a_handle_tells_what_it_is(tmp_path: Path) -> None:
    """In one line, also where it is closed or damaged."""
    path = written(trunk(), tmp_path / "s")
    with flambe_save.open(path) as opened:
        assert repr(opened) == f"<OpenSave {str(path)!r}: Trunk 0.0.0, 2 components inside, 10 parameters, 40 B>"
        assert repr(opened["left"]) == f"<SavedNode 'left' of {str(path)!r}: Leaf 1.2.0, 8 parameters, 32 B>"
        assert repr(opened["left"].state) == "<2 values: 'linear.weight', 'linear.bias'>"
    assert repr(opened) == f"<OpenSave {str(path)!r}: closed>"
    (path / "left" / "version.txt").write_text("nothing")
    (path / MANIFEST_FILE).unlink()
    with flambe_save.open(path) as opened:
        assert "damaged: it does not read Class:version" in repr(opened["left"])


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_closed_handle(suffix: str, tmp_path: Path) -> None:
    """Tensors that were read stay; what is asked for afterwards is an error that says so."""
    path = written(trunk(), tmp_path / "s", suffix)
    with flambe_save.open(path) as opened:
        weight, state = opened["left"].state["linear.weight"], opened["left"].state
        before = weight.clone()
    opened.close()  # once more does nothing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert torch.equal(weight, before)
    for ask in (
        *(lambda: opened.config, lambda: opened["left"].tensors, lambda: dict(state), lambda: opened["left"].stash),
        *(opened.verify, opened["left"].verify, lambda: opened["left"].statistics("linear.weight")),
        lambda: opened["left"].class_name,
    ):
        with pytest.raises(LoadError, match="closed"):
            _ = [*ask()]  # type: ignore[arg-type]
    assert "closed" in opened._repr_html_()
    assert [*opened] == ["left", "right"]


# ------------------------------------------------------------------------------------------------ as little as needed


@pytest.fixture
def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the names of files that are opened in folders."""
    names: list[str] = []
    reader = FolderStore.reader

    def noting(self: FolderStore, name: str) -> BinaryIO:
        names.append(name)
        return reader(self, name)

    monkeypatch.setattr(FolderStore, "reader", noting)
    return names


def test_walking_reads_the_manifest_alone(tmp_path: Path, files_read: list[str]) -> None:
    """The tree, its classes, tensors and totals, and the documents of it, take no other file."""
    path = written(trunk(), tmp_path / "s")
    with flambe_save.open(path) as opened:
        for node in opened.walk():
            _ = node.class_name, node.version, dict(node.tensors), node.total, node.own, node.needs_trust, repr(node)
        describe_save(opened)
        opened._repr_html_()
        assert files_read == [MANIFEST_FILE]
        _ = opened["left"].config
        assert files_read == [MANIFEST_FILE, "left/config.yaml"]


def test_one_tensor_reads_little(tmp_path: Path) -> None:
    """A small tensor, or a value, beside a large one is read without it; so are the facts of both."""
    large = torch.ones(16 << 20)  # 64 MiB
    path = write_state(State({"large": large, "small": torch.ones(3), "group": {"rate": [0.1]}}), tmp_path / "s")
    with open(path / "state.pt", "r+b") as file:  # damage the large one: whoever reads it finds out
        file.seek(32 << 20)
        file.write(b"\x01")
    with flambe_save.open(path) as opened:
        before = _resident()
        assert torch.equal(opened.state["small"], torch.ones(3))
        assert opened.state["group"] == {"rate": [0.1]}
        assert opened.statistics("small").norm == pytest.approx(3**0.5)
        assert opened.state.types()["large"] == "torch.Tensor"
        assert [row["value"] for row in describe_node(opened)["values"]] == ["{'rate': [0.1]}"]
        assert _resident() - before < 16 << 20
        with pytest.raises(CorruptSaveError, match=r"state\.pt"):
            opened.state["large"]
        with pytest.raises(CorruptSaveError, match=r"state\.pt"):
            opened.statistics("large")
    assert opened.size > 64 << 20


def _resident() -> int:
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the system does not tell")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_writing_to_a_tensor_changes_no_save(suffix: str, tmp_path: Path) -> None:
    """What is changed in a tensor that was read changes no file, and is no damage of one."""
    path = written(trunk(), tmp_path / "s", suffix)
    expected = load_state_from_file(path)["left.linear.weight"]
    before = {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}
    with flambe_save.open(path) as opened:
        node = opened["left"]
        node.state["linear.weight"].fill_(7)
        _ = opened["right"].state["linear.bias"]
        if "pkl" not in suffix:
            assert torch.equal(node.state["linear.weight"], expected)
            node.state["linear.weight"].fill_(7)
            assert node.statistics("linear.weight").maximum != 7
        assert node.state["linear.bias"].shape == (2,)
        assert opened.verify() == []
    assert before == {file: file.read_bytes() for file in before}
    assert torch.equal(load_state_from_file(path)["left.linear.weight"], expected)


# ------------------------------------------------------------------------------------------------ nothing is run


class Bomb:
    """Unpickles to a call of ``os.system``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def look_at(path: Path, other: Path | None = None) -> None:
    """Ask a save for all that can be asked for; errors of ours are answers too."""
    with flambe_save.open(path) as opened:
        json.dumps(describe_save(opened))
        for ask in (opened.verify, opened._repr_html_, lambda: repr(opened)):
            _ = ask()
        for node in opened.walk():
            json.dumps(describe_node(node, statistics=True))
            asked: list[Callable[[], Any]] = [
                *(lambda node=node: dict(node.tensors), lambda node=node: node.config, lambda node=node: node.source),
                *(lambda node=node: node.state.types(), lambda node=node: node.stash.types(), node.verify),
                *(lambda node=node: [node.state[key] for key in node.state], lambda node=node: node.state.digest),
                *(lambda node=node: [node.stash[key] for key in node.stash], lambda node=node: repr(node.state)),
                *(lambda node=node: (node.class_path, node.needs_trust, node.total, node.own), node._repr_html_),
                lambda node=node: [[*node.pieces(key, 3)] for key in node.tensors],
                lambda node=node: repr(node),
            ]
            for one in asked:
                with contextlib.suppress(FlambeSaveError):
                    one()
    for pair in ((other, path), (path, other)) if other is not None else ():
        json.dumps(describe_diff("a", "b", diff(*pair)))


@pytest.fixture
def flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that the module ``hostile_module`` makes when it is imported, or its class when it is built."""
    found = tmp_path / "flag"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "hostile_module.py").write_text(
        f"from pathlib import Path\nPath({str(found)!r}).touch()\n"
        f"class Trap:\n    def __init__(self, *a, **k): Path({str(found)!r}).touch()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    yield found
    sys.modules.pop("hostile_module", None)


HOSTILE_CONFIG = "---\nhostile_module: hostile_module\n---\n!hostile_module.Trap\na: !hostile_module.Trap {}\n"


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_hostile_save_runs_nothing(suffix: str, tmp_path: Path, flag: Path) -> None:
    """Whatever its pickles and configs ask for, looking at a save imports, builds and calls nothing."""
    state = State({"w": torch.ones(2)})
    state._metadata[""] = {"_flambe_class": "Trap", "_flambe_config": HOSTILE_CONFIG, "_flambe_source": "1/0"}
    good = write_state(state, tmp_path / "good", suffix)
    state["bomb"] = Bomb(flag)
    state._metadata[""]["_flambe_stash"] = {"1": Bomb(flag)}
    path = write_state(state, tmp_path / "bad", suffix)
    assert not flag.exists()
    look_at(path, good)
    with flambe_save.open(path) as opened:
        assert torch.equal(opened.state["w"], torch.ones(2))
        for values in (opened.state, opened.stash):
            with pytest.raises(UntrustedError):
                _ = [values[key] for key in values]
    assert not flag.exists()
    assert "hostile_module" not in sys.modules
    with flambe_save.open(path, weights_only=False) as opened:
        _ = opened.state["bomb"]
    assert flag.exists()  # it is loaded


@pytest.mark.parametrize("name", ["state.pt", "stash.pkl", "whole.pkl"])
def test_a_bare_hostile_pickle_runs_nothing(name: str, tmp_path: Path, flag: Path) -> None:
    """A file that is nothing but a call is not called, whether it is a part of a save or all of it."""
    data = pickle.dumps({"w": Bomb(flag)})
    path = tmp_path / name
    if name != "whole.pkl":
        path = written(trunk(), tmp_path / "s")
        (path / MANIFEST_FILE).unlink()
        (path / "left" / name).write_bytes(data)
        look_at(path, written(trunk(), tmp_path / "good"))
    else:
        path.write_bytes(data)
        try:
            look_at(path)
        except LoadError as error:
            assert "system" in str(error)  # noqa: PT017
    assert not flag.exists()


# ------------------------------------------------------------------------------------------------ damage


def edited(path: Path, edit: Callable[[Manifest], object]) -> Path:
    """Change a save's manifest, truthfully signed."""
    document = json.loads((path / MANIFEST_FILE).read_bytes())
    manifest = Manifest(**{key: document[key] for key in document.keys() - {"format", "manifest", "crc32"}})
    edit(manifest)
    (path / MANIFEST_FILE).write_bytes(manifest.to_json())
    return path


@pytest.mark.parametrize("last", NODE_FILES)
@pytest.mark.parametrize("how", ["cut", "removed", "emptied", "changed"])
@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_damaged_file(last: str, how: str, has_manifest: bool, tmp_path: Path) -> None:
    """It is named, by what asks for it and by verify; all other files are there."""
    good, path = written(trunk(), tmp_path / "good"), written(trunk(), tmp_path / "s")
    file = path / "left" / last
    data = file.read_bytes()
    if how == "removed":
        file.unlink()
    else:
        half = len(data) // 2
        file.write_bytes({"cut": data[:-1], "emptied": b""}.get(how, data[:half] + b"\xff" + data[half + 1 :]))
    if not has_manifest:
        (path / MANIFEST_FILE).unlink()
    look_at(path, good)
    with flambe_save.open(path) as opened:
        found = {row.file for row in opened.verify()} - {MANIFEST_FILE}
        is_seen = has_manifest or how == "removed" or (bool(data) and last in ("state.pt", "stash.pkl"))
        if is_seen and data != file.read_bytes() if file.exists() else True:
            assert found == {f"left/{last}"}
            assert {row.node for row in opened.verify() if row.file != MANIFEST_FILE} == {"left"}
        right = opened["right"]
        assert (right.class_name, right.version, bool(right.source)) == ("Leaf", "1.2.0", True)
        assert right.verify() == []
        assert right.state["linear.bias"].shape == (2,)
        if has_manifest:
            assert set(opened["left"].tensors) == {"linear.weight", "linear.bias"}
            assert opened.total[:3] == (3, 10, 40)
        if last == "state.pt" and how in ("removed", "emptied"):
            with pytest.raises(CorruptSaveError, match=r"left/state\.pt"):
                dict(opened["left"].state)


def test_a_flipped_bit_in_a_tensor(tmp_path: Path) -> None:
    """The tensors beside a damaged one are readable, and so are the values; the damaged one names its file."""
    state = State({"a": torch.full((50,), 2.0), "b": torch.ones(4), "list": [1, 2]})
    path = write_state(state, tmp_path / "s")
    good = write_state(state, tmp_path / "good")
    data = bytearray((path / "state.pt").read_bytes())
    data[data.index(torch.full((50,), 2.0).numpy().tobytes()) + 20] ^= 4
    (path / "state.pt").write_bytes(data)
    with flambe_save.open(path) as opened:
        assert torch.equal(opened.state["b"], torch.ones(4))
        assert opened.state["list"] == [1, 2]
        assert opened.statistics("b").mean == 1.0
        for ask in (lambda: opened.state["a"], lambda: opened.statistics("a"), lambda: [*opened.pieces("a", 9)]):
            with pytest.raises(CorruptSaveError, match=r"state\.pt"):
                ask()
        [row] = opened.verify()
        assert row.file == "state.pt"
        assert describe_node(opened, statistics=True)["problem"].startswith("state.pt: ")
    assert [(row.part, row.name) for row in diff(good, path)] == [("damage", "state.pt")]


def test_a_whole_folder_is_missing(tmp_path: Path) -> None:
    """The manifest still tells what was in it."""
    path = written(trunk(), tmp_path / "s")
    shutil.rmtree(path / "left")
    look_at(path, written(trunk(), tmp_path / "good"))
    with flambe_save.open(path) as opened:
        assert {row.file for row in opened.damage} == {f"left/{name}" for name in NODE_FILES}
        assert {row.node for row in opened.damage} == {"left"}
        assert opened["left"].class_name == "Leaf"
        assert describe_save(opened)["nodes"][1]["problem"] == "left/config.yaml: it is missing"
        assert opened["right"].verify() == []


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"a": 1', b"null", b"9" * 5000, b"[" * 20_000])
def test_a_broken_manifest(data: bytes, tmp_path: Path) -> None:
    """It is told of, and all else is read without it."""
    path = written(trunk(), tmp_path / "s")
    (path / MANIFEST_FILE).write_bytes(data)
    look_at(path, written(trunk(), tmp_path / "good"))
    with flambe_save.open(path) as opened:
        assert [row.file for row in opened.damage] == [MANIFEST_FILE]
        assert not opened.is_vouched_for
        assert opened.verify() == opened.damage
        assert opened["left"].state["linear.weight"].shape == (2, 3)


def test_a_lost_manifest(tmp_path: Path) -> None:
    """That a save had one is told; of Flambe's saves, which have none, it is not."""
    path = written(trunk(), tmp_path / "s")
    (path / MANIFEST_FILE).unlink()
    with flambe_save.open(path) as opened:
        assert [(row.file, row.node) for row in opened.damage] == [(MANIFEST_FILE, "")]
        assert opened.total[:3] == (4, 16, 64)  # what was one is not known to be


@pytest.mark.parametrize("suffix", [".tar.gz", ".pkl", ".pkl.tar.gz"])
def test_a_damaged_single_file(suffix: str, tmp_path: Path) -> None:
    """An archive or a pickle that was cut is an error of ours, or still tells what it can."""
    good = written(trunk(), tmp_path / "good", suffix)
    data = good.read_bytes()
    path = tmp_path / f"bad{suffix}"
    for end in (0, 1, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(LoadError, match="bad"):
            look_at(path, good)


TENSOR = {"dtype": "float32", "shape": [3], "bytes": 12}
ABSURD: list[dict[str, Any]] = [
    *({"shape": [10**400]}, {"shape": [-1]}, {"shape": "abc"}, {"shape": [2**62] * 500}, {"shape": [1.0]}),
    *({"shape": None}, {"shape": {"1": 2}}, {"shape": [0] * 100_000}, {"shape": [[]]}, {"shape": [True]}),
    *({"bytes": ""}, {"bytes": 10**4000}, {"bytes": -4}, {"bytes": True}, {"bytes": 0.0}, {"bytes": []}),
    *({"dtype": 7}, {"dtype": ["x"]}, {"dtype": None}, {"device": 7}, {"device": None}),
]


@pytest.mark.parametrize("odd", ABSURD, ids=lambda odd: str(odd)[:30])
def test_absurd_facts_of_tensors(odd: dict[str, Any], tmp_path: Path) -> None:
    """A manifest's facts that are none are damage of the manifest, and what the files hold is still read."""
    good = written(trunk(), tmp_path / "good")
    path = edited(written(trunk(), tmp_path / "s"), lambda it: it.nodes["left"]["tensors"].update(a={**TENSOR, **odd}))
    look_at(path, good)
    with flambe_save.open(path) as opened:
        with pytest.raises(CorruptSaveError, match=r"manifest\.json"):
            _ = opened["left"].tensors
        assert opened["left"].state["linear.weight"].shape == (2, 3)
        assert opened.total.tensors == 2


@pytest.mark.parametrize("size", [-1, 10**4299, "7", None, 1.5, True])
def test_absurd_sizes_of_files(size: Any, tmp_path: Path) -> None:
    """A file of a size that none has is damage, however it is written."""
    path = edited(written(trunk(), tmp_path / "s"), lambda it: it.files["state.pt"].update(bytes=size))
    look_at(path, written(trunk(), tmp_path / "good"))
    with flambe_save.open(path) as opened:
        assert opened.verify()
        assert 0 <= opened.size < 1 << 63


def test_facts_that_are_not_those_of_the_file(tmp_path: Path) -> None:
    """A manifest that says of a tensor what is not so is found where the tensor is looked at."""
    lies = {"linear.weight": TENSOR, "linear.bias": {"dtype": "int32", "shape": [2], "bytes": 8}, "none": TENSOR}
    path = edited(written(trunk(), tmp_path / "s"), lambda it: it.nodes["left"].update(tensors=lies))
    good = written(trunk(), tmp_path / "good")
    look_at(path, good)
    with flambe_save.open(path) as opened:
        for name in lies:
            for ask in (opened["left"].statistics, lambda name: opened["left"].pieces(name, 3)):
                with pytest.raises(CorruptSaveError, match="manifest"):
                    ask(name)
        assert opened["left"].state["linear.bias"].shape == (2,)
    assert {row.part for row in diff(good, path)} == {"tensor", "damage"}


@pytest.mark.parametrize("folder", ["../good/left", "../../etc", "/etc", "left/../../good/left", "nowhere", ".", "\0"])
def test_a_manifest_that_leads_out(folder: str, tmp_path: Path) -> None:
    """Only files of the save are read, whatever folder the manifest names."""
    good = written(trunk(), tmp_path / "good")
    path = edited(written(trunk(), tmp_path / "s"), lambda it: it.nodes["left"].update(folder=folder))
    look_at(path, good)
    with flambe_save.open(path) as opened:
        for ask in (lambda: opened["left"].config, lambda: dict(opened["left"].state), lambda: opened["left"].source):
            with pytest.raises(CorruptSaveError):
                ask()
        assert opened["right"].state["linear.bias"].shape == (2,)


@pytest.mark.parametrize(
    "ties",
    [
        [["left.linear.weight", "nope"]],
        [["no", "pe"], []],
        [["left.linear.weight"] * 3],
        [["left.linear.weight", "right.linear.weight"]] * 3,
        [["left.linear.weight", "left.linear.bias"]],
        [["." * 20_000, "left.linear.bias"]],
        [[""] * 2],
    ],
    ids=lambda ties: str(ties)[:40],
)
def test_ties_that_are_none(ties: list[list[str]], tmp_path: Path) -> None:
    """What a manifest ties that is not there, or twice, takes nothing from the totals."""
    path = edited(written(trunk(), tmp_path / "s"), lambda it: setattr(it, "ties", ties))
    look_at(path, written(trunk(), tmp_path / "good"))
    with flambe_save.open(path) as opened:
        is_pair = ties[0] == ["left.linear.weight", "right.linear.weight"]
        assert opened.total[:3] == ((3, 10, 40) if is_pair else (4, 16, 64))
        assert all(min(*node.own[:3], *node.total[:3]) >= 0 for node in opened.walk())


def test_odd_nodes_in_a_manifest(tmp_path: Path) -> None:
    """No root, prefixes of all kinds, facts that are none: there is a root, and all is told."""
    path = written(trunk(), tmp_path / "s")
    good = written(trunk(), tmp_path / "good")
    edited(path, lambda it: it.nodes.pop(""))
    look_at(path, good)
    with flambe_save.open(path) as opened:
        assert opened.class_name == "Trunk"
    odd = [".", "..", "left.", ".left", "left..x", "\ud800", "\0", "<b>", "left.linear"]
    edited(path, lambda it: it.nodes.update({key: {"folder": "x", "class": 7, "version": None} for key in odd}))
    look_at(path, good)
    with flambe_save.open(path) as opened:
        assert {node.prefix for node in opened.walk()} == {"", "left", "right", *odd}
        assert opened["left"][""] == opened["left."]
    edited(path, lambda it: it.nodes.clear())
    look_at(path, good)
    with flambe_save.open(path) as opened:
        assert [node.prefix for node in opened.walk()] == [""]


def test_components_in_one_another_without_end(tmp_path: Path) -> None:
    """A tree deeper than Python's stack is walked, described and shown."""
    chain = {"n" + ".n" * depth: {"folder": "", "class": "C", "version": "1", "tensors": {}} for depth in range(2000)}
    path = edited(written(trunk(), tmp_path / "s"), lambda it: it.nodes.update(chain))
    with flambe_save.open(path) as opened:
        shown = opened._repr_html_()
        assert shown.count("<details") == shown.count("</details>") == 500
        assert "and 1,503 more components" in shown
        assert len(describe_save(opened)["nodes"]) == 2003
        assert opened["n.n.n"].total[:3] == (0, 0, 0)


def test_a_state_of_odd_sizes(tmp_path: Path) -> None:
    """A file that says that a tensor is more than any memory is damaged, and no error of torch's."""
    path = write_state(State({"w": torch.ones(7)}), tmp_path / "s")
    (path / MANIFEST_FILE).unlink()
    source = zipfile.ZipFile(path / "state.pt")
    parts = {name: source.read(name) for name in source.namelist()}
    source.close()
    [name] = [name for name in parts if name.endswith("data.pkl")]
    for length, number in (b"K\x07", b"\x8a\x08" + b"\xff" * 7 + b"\x7f"), (b"K\x07", b"J\xff\xff\xff\x7f"):
        data = parts[name].replace(length, number)
        assert data != parts[name]
        with zipfile.ZipFile(path / "state.pt", "w") as target:
            for other, content in parts.items():
                target.writestr(other, data if other == name else content)
        look_at(path)
        with flambe_save.open(path) as opened, pytest.raises(CorruptSaveError, match=r"state\.pt"):
            opened.state["w"]


def test_values_too_long_to_be_written(tmp_path: Path) -> None:
    """Numbers and containers that Python cannot print, or not soon, are described all the same."""
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    state = State({"number": 10**5000, "deep": deep, "text": "x" * 10**6, "ansi": "\x1b[31m"})
    path = write_state(state, tmp_path / "s")
    with flambe_save.open(path) as opened:
        rows = {row["name"]: row["value"] for row in describe_node(opened)["values"]}
    assert all(len(value) <= 200 and "\x1b" not in value for value in rows.values())
    assert rows["number"] == "<int, not shown: ValueError>"
    assert diff(path, path) == []


# ------------------------------------------------------------------------------------------------ replaced


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_replaced_while_open(suffix: str, tmp_path: Path) -> None:
    """A handle tells of the save that was opened, or that it is gone; never of the one in its place."""
    old = Trunk(Leaf(odd=Odd(1)), Leaf())
    path = written(old, tmp_path / "s", suffix)
    with flambe_save.open(path, trusted=[__name__]) as opened:
        written(Trunk(Leaf(size=5, odd=Odd(2)), Leaf()), tmp_path / "s", suffix, overwrite=True)
        assert opened["left"].tensors["linear.weight"].shape == (2, 3)
        try:
            assert torch.equal(opened["left"].state["linear.weight"], old.left.linear.weight)
            assert opened["left"].config == "!Leaf\nsize: 3\nodd: !$ 1\n" or "size: 5" not in opened["left"].config
            [value] = opened["left"].stash.values()
            assert value == Odd(1)
        except SaveReplacedError as error:
            assert "replaced" in str(error)  # noqa: PT017
            assert suffix in ("", ".pkl")
    with flambe_save.open(path) as opened:
        assert opened["left"].tensors["linear.weight"].shape == (2, 5)


# ------------------------------------------------------------------------------------------------ texts


def test_html_is_escaped(tmp_path: Path) -> None:
    """Nothing of a save becomes markup, or steers a terminal."""
    state = State({"<script>w": torch.ones(2), "\ud800": torch.ones(1)})
    state._metadata[""] = {"_flambe_class": "<script>alert(1)</script>\x1b[31m", "_flambe_version": "<i>"}
    state._metadata["<b>&"] = {"_flambe_class": "Child"}
    state._metadata["_flambe_directories"] = {"", "<b>&"}
    for suffix in CONTAINERS:
        path = write_state(state, tmp_path / "s", suffix)
        with flambe_save.open(path) as opened:
            shown = opened._repr_html_()
            assert set(re.findall(r"</?([a-z]+)", shown)) == {"ul", "li", "details", "summary", "b", "code"}
            assert "&lt;script&gt;alert(1)" in shown
            assert "&lt;b&gt;&amp;" in shown
            assert "\x1b" not in shown + repr(opened)
            shown.encode()


def test_html_of_many_components(tmp_path: Path) -> None:
    """Past some hundreds, components are counted."""
    state = State({f"c{index}.w": torch.ones(1) for index in range(510)})
    state._metadata["_flambe_directories"] = {"", *(f"c{index}" for index in range(510))}
    state._metadata.update({f"c{index}": {"_flambe_class": "C"} for index in range(510)})
    path = write_state(state, tmp_path / "s", ".pkl")
    with flambe_save.open(path) as opened:
        shown = opened._repr_html_()
        assert shown.count("<details") == 500
        assert "and 11 more components" in shown
        assert opened["c7"]._repr_html_().count("<details open>") == 1


@pytest.mark.parametrize("make", [lambda path: path.write_text("text"), lambda path: path.mkdir(), lambda path: None])
def test_what_is_no_save(make: Callable[[Path], object], tmp_path: Path) -> None:
    """It is said what it is, as a load says it."""
    make(tmp_path / "x")
    errors = []
    for ask in (flambe_save.open, load):
        with pytest.raises((UnknownFormatError, SaveNotFoundError)) as caught:
            ask(tmp_path / "x")
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


# ------------------------------------------------------------------------------------------------ anything


def damaged(data: bytes, name: str, chance: random.Random) -> bytes:
    """Return bytes with some changed; a manifest is signed again most of the time, so that more of it is believed."""
    raw = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 3, 10])):
        raw[chance.randrange(len(raw))] = chance.choice([chance.randrange(256), 0, 255, 0x80])
    if chance.random() < 0.1:
        del raw[chance.randrange(len(raw)) :]
    ending = manifests._ENDING_PATTERN.search(bytes(raw)) if name == MANIFEST_FILE else None
    if ending is not None and chance.random() < 0.8:
        del raw[ending.start() :]
        raw += manifests._ENDING % crc32(bytes(raw))
    return bytes(raw)


@pytest.mark.parametrize(("suffix", "count"), [("", 70), ("bare", 90), (".tar.gz", 170), (".pkl", 170)])
def test_random_damage_is_an_error_of_ours(suffix: str, count: int, tmp_path: Path) -> None:
    """Whatever bytes are changed, looking at a save and comparing it raises nothing else, nor hangs."""
    state = State({"w": torch.ones(3), "t": torch.ones(2, 3).t(), "list": [1, {"b": {2}}], "a.w": torch.ones(2)})
    state._metadata[""] = {"_flambe_class": "A", "_flambe_config": "!A\na: &x [1, 2]\nb: *x\n", "_flambe_version": "1"}
    state._metadata["a"] = {"_flambe_class": "B", "_flambe_stash": {"1": {1, 2}}}
    state._metadata["_flambe_directories"] = {"", "a"}
    good = write_state(state, tmp_path / "good", suffix.removeprefix("bare"))
    if suffix == "bare":
        (good / MANIFEST_FILE).unlink()
    contents = {file: file.read_bytes() for file in [good, *good.rglob("*")] if file.is_file()}
    kept = {file: data for file, data in contents.items() if data}
    names = [file for file in kept if file.name in (MANIFEST_FILE, "state.pt", "stash.pkl", "config.yaml", good.name)]
    bad = tmp_path / f"bad{suffix.removeprefix('bare')}"
    if good.is_dir():
        shutil.copytree(good, bad)
    chance = random.Random(count)
    refused = 0
    for _ in range(count):
        file = chance.choice(names)
        place = bad / file.relative_to(good) if good.is_dir() else bad
        place.write_bytes(damaged(kept[file], file.name, chance))
        try:
            look_at(bad, good)
        except FlambeSaveError:
            refused += 1
        place.write_bytes(kept[file])
    assert refused == 0 if good.is_dir() and suffix != "bare" else refused < count


def test_states_and_trees_agree(tmp_path: Path) -> None:
    """The nodes of a handle make the tree that a load of the state makes."""
    path = written(trunk(), tmp_path / "s")
    state = load_state_from_file(path)
    with flambe_save.open(path) as opened:
        assert [node.prefix for node in opened.walk()] == [*prefixed(tree_from_state(state))]
        assert all(isinstance(node, SavedNode) for node in opened.walk())
    assert state_from_tree(tree_from_state(state)).keys() == state.keys()


def test_threads_share_an_open_save(tmp_path: Path) -> None:
    """Threads that read different components of one open save get what is theirs."""
    with flambe_save.open(save(Trunk(Leaf(2), Leaf(3)), tmp_path / "save")) as found:
        expected = {key: found[key].config for key in found}

        def read(key: str) -> bool:
            return all(found[key].config == expected[key] and [*found[key].state] != [] for _ in range(50))

        with ThreadPoolExecutor(4) as pool:
            found_all = [*pool.map(read, [*expected] * 4)]
    assert all(found_all)


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_pieces_of_what_is_not_contiguous(most: int, tmp_path: Path) -> None:
    """They are the elements in their order, each piece but the last of one length."""
    value = torch.arange(210.0).reshape(5, 6, 7).permute(2, 0, 1)
    with flambe_save.open(save({"v": value}, tmp_path / "save")) as found:
        cut = [*found.pieces("v", most)]
    assert torch.equal(torch.cat(cut), value.reshape(-1))
    assert {len(piece) for piece in cut[:-1]} <= {most}


def test_classes_are_looked_up_once(tmp_path: Path) -> None:
    """Two classes of one name in other modules have no one path; any other has."""
    with flambe_save.open(save(Trunk(Leaf(2), Leaf(3)), tmp_path / "save")) as found:
        found.tags["another"] = "elsewhere.Leaf"
        assert found.class_path == f"{__name__}.Trunk"
        assert found["left"].class_path is None
