"""Conversions: each pair of containers, bytes that stay, parts cut out, files of others, damage that leaves nothing."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import tracemalloc
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import textnet
import torch
from helpers.places import FLAMBE
from helpers.saves import files_of, flip
from torch import nn

from flambe_save import (
    Component,
    CorruptSaveError,
    LimitError,
    Limits,
    LoadError,
    NeedsTrustWarning,
    SaveError,
    SaveNotFoundError,
    TargetExistsError,
    UncheckedSaveWarning,
    UnsupportedObjectError,
    UntrustedError,
    load,
    load_state_from_file,
    save,
    save_state_to_file,
    verify,
)
from flambe_save.conversion import convert, extract, pack, unpack
from flambe_save.conversion.copying import Folders, _CopiedFile, copy_save
from flambe_save.conversion.state_json import Content, content_of, draft_of
from flambe_save.conversion.tensor_files import TensorFile
from flambe_save.layout import MANIFEST_FILE
from flambe_save.pt import MemorySource
from flambe_save.state import State
from flambe_save.storage import TarStore
from flambe_save.writing import Target

ENDINGS = {
    "folder": "",
    "archive": ".tar.gz",
    "pickle": ".pkl",
    "packed pickle": ".pkl.tar.gz",
    "tensors": ".safetensors",
}


class Leaf(Component, nn.Module):
    """A component with a weight."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)


class Tree(Component, nn.Module):
    """Components in components, with names that folders must escape, and a weight that two of them share."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"a/b": Leaf(size), "Con": Leaf(size), "con": Leaf(size), "x" * 250: Leaf(size)})
        self.inner["a/b"].linear.weight = self.inner["con"].linear.weight
        self.steps = (3, [1.5, float("inf")], {"k": {1, 2}})
        self.register_attrs("steps")


class Held(Component):
    """Holds anything; what YAML cannot say goes into its stash."""

    def __init__(self, value: Any = None, leaf: Any = None) -> None:
        self.value, self.leaf = value, leaf


class Opaque:
    """No data."""

    def __eq__(self, other: object) -> bool:
        return type(other) is Opaque

    def __hash__(self) -> int:
        return 1

    def __reduce__(self) -> Any:  # so that it is pickled
        return Opaque, ()


def run() -> dict[str, Any]:
    """Return a training run: a model, its optimizer after a step, and a scheduler."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW([{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.5}])
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer, "epoch": 3, "mask": torch.arange(6).reshape(2, 3).t()}


def same(one: Any, other: Any) -> bool:
    """Whether two states have the same keys and values."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype and one.stride() == other.stride()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


def nothing_but(folder: Path, *names: str) -> bool:
    """Whether a folder holds just these, and nothing that was left behind."""
    return sorted(item.name for item in folder.iterdir()) == sorted(names)


def saved(obj: Any, path: Path, kind: str = "folder") -> Path:
    """Save an object in a container."""
    if kind == "tensors":
        return Path(convert(save(obj, path.with_name("source")), f"{path}.safetensors"))
    return Path(save(obj, path, compress="archive" in kind or "packed" in kind, pickle_only="pickle" in kind))


# ------------------------------------------------------------------------------------------------ containers


@pytest.mark.parametrize(("first", "second"), [*itertools.product(ENDINGS, ENDINGS)])
@pytest.mark.parametrize("make", [Tree, run])
def test_every_pair_of_containers(make: Callable[[], Any], first: str, second: str, tmp_path: Path) -> None:
    """From each container to each: the state is the same, ties are kept, and checksums hold."""
    obj = make()
    original = saved(obj, tmp_path / "first", first)
    out = str(tmp_path / "second") + ENDINGS[second]
    assert convert(original, out) == out
    again = convert(out, tmp_path / "folder")
    state, expected = load_state_from_file(again), load_state_from_file(save(obj, tmp_path / "expected"))
    assert same(state, expected)
    assert state.components == expected.components
    assert verify(again) == []
    load(again)


@pytest.mark.parametrize("kind", ["archive", "tensors"])
@pytest.mark.parametrize("make", [Tree, run])
def test_there_and_back_is_the_same_folder(make: Callable[[], Any], kind: str, tmp_path: Path) -> None:
    """Through an archive or a file of tensors, a folder comes back with all its files to the byte."""
    path = save(make(), tmp_path / "a", digest="sha256")
    convert(path, tmp_path / f"b{ENDINGS[kind]}")
    assert files_of(convert(tmp_path / f"b{ENDINGS[kind]}", tmp_path / "c")) == files_of(path)


def test_a_pickle_keeps_all_but_the_packages(tmp_path: Path) -> None:
    """Through a pickle, all files come back to the byte: it was written with the packages of this very program."""
    path = save(run(), tmp_path / "a")
    assert files_of(convert(convert(path, tmp_path / "b.pkl"), tmp_path / "c")) == files_of(path)
    assert Path(convert(path, tmp_path / "d.pkl")).read_bytes() == (tmp_path / "b.pkl").read_bytes()


def test_packages_and_requirements_are_those_of_the_save(tmp_path: Path) -> None:
    """What was installed when a save was written is kept, and not what is now."""
    path = Path(save(run(), tmp_path / "a"))
    text = (path / "requirements.txt").read_text().splitlines()[0] + "\nold==1\n"
    (path / "requirements.txt").write_text(text)
    (path / MANIFEST_FILE).unlink()
    with pytest.warns(UncheckedSaveWarning):
        again = convert(path, tmp_path / "b.safetensors")
    assert Path(convert(again, tmp_path / "c"), "requirements.txt").read_text() == text


def test_a_tie_is_one_tensor_again(tmp_path: Path) -> None:
    """A weight that two components share is in a file of tensors once, and is one weight when that is loaded."""
    convert(save(Tree(), tmp_path / "a"), tmp_path / "b.safetensors")
    loaded = load(convert(tmp_path / "b.safetensors", tmp_path / "c.pkl"))
    assert loaded.inner["a/b"].linear.weight is loaded.inner["con"].linear.weight
    assert len(safetensors.torch.load_file(tmp_path / "b.safetensors")) == 7


VALUES = {
    "values": [
        1,
        -1.5,
        True,
        None,
        "é\ud800",
        (1, (2,)),
        {"!x": 1},
        {1: "a", (1, 2): "b"},
        {"z", "a"},
        float("-inf"),
        1 << 80,
    ],
    "mapping": OrderedDict(a=1),
    "texts": ["".join(["ab", "c"]), "".join(["a", "bc"])],
    "empty": [{}, [], (), set(), frozenset({1})],
    "__metadata__": torch.ones(2),
    "inside": [torch.ones(2), {"x": torch.zeros(0, 3)}],
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "expanded": torch.ones(1, 1).expand(2, 3),
    "view": torch.arange(10)[2:5],
    "complex": torch.ones(2, 2, dtype=torch.complex128),
    "bool": torch.tensor([True, False, True]),
    "brain": torch.ones(3, dtype=torch.bfloat16),
    "eight": torch.ones(3).to(torch.float8_e4m3fn),
    "parameter": nn.Parameter(torch.ones(2)),
    "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
    "grad": torch.ones(2, requires_grad=True),
    "scalar": torch.tensor(3),
}


def test_values_of_every_kind_come_back(tmp_path: Path) -> None:
    """Plain values, and tensors of any type and layout, are in a file of tensors as they were."""
    path = save_state_to_file(VALUES, tmp_path / "a")
    again = convert(convert(path, tmp_path / "b.safetensors"), tmp_path / "c")
    assert files_of(again) == files_of(path)


def test_what_is_one_object_stays_one(tmp_path: Path) -> None:
    """A list in two places, or in itself, and tensors that share memory, are so again."""
    shared: list[Any] = [1]
    shared.append(shared)
    base = torch.arange(6.0)
    state = {"a": [shared, shared], "b": base, "c": base.view(2, 3), "d": base}
    path = save_state_to_file(state, tmp_path / "a")
    again = convert(convert(path, tmp_path / "b.safetensors"), tmp_path / "c")
    loaded = load_state_from_file(again)
    assert files_of(again) == files_of(path)
    assert loaded["a"][0] is loaded["a"][1] is loaded["a"][0][1]
    assert loaded["b"].data_ptr() == loaded["c"].data_ptr() == loaded["d"].data_ptr()


def test_other_programs_read_the_file(tmp_path: Path) -> None:
    """The file is one of the safetensors library's, with the names of the state, and says that it is of torch."""
    path = convert(save(run(), tmp_path / "a"), tmp_path / "b.safetensors")
    found, state = safetensors.torch.load_file(path), load_state_from_file(tmp_path / "a")
    assert all(torch.equal(value, state[key]) for key, value in found.items())
    assert found.keys() == {key for key, value in state.items() if isinstance(value, torch.Tensor)}
    with safetensors.safe_open(path, "pt") as file:
        assert sorted(file.metadata()) == ["flambe_save", "format"]
    assert Path(convert(tmp_path / "a", tmp_path / "c.safetensors")).read_bytes() == Path(path).read_bytes()


@pytest.mark.parametrize(
    ("state", "node", "what"),
    [
        ({"x.a": Opaque()}, "", "x.a"),
        ({"x": np.ones(2)}, "", "numpy.ndarray"),
        ({"x": torch.ones(2).to_sparse()}, "", "sparse"),
        ({"x": torch.ones(2, device="meta")}, "", "x"),
        ({"x": [10**5000]}, "", "JSON"),
    ],
)
def test_what_tensors_cannot_hold_is_refused(state: dict[str, Any], node: str, what: str, tmp_path: Path) -> None:
    """A value that is neither a tensor nor plain data is an error that names it, and what could hold it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeedsTrustWarning)
        path = save_state_to_file(state, tmp_path / "a.pkl", pickle_only=True)
        with pytest.raises(UnsupportedObjectError, match=rf"(?s){what}.*(folder|by hand)"):
            convert(path, tmp_path / "b.safetensors", weights_only=False)
    assert nothing_but(tmp_path, "a.pkl")


def test_a_stash_is_refused_by_its_node(tmp_path: Path) -> None:
    """A file of tensors has no place for a stash; the error says of which component."""
    with pytest.warns(NeedsTrustWarning):
        path = save(Held(1, Held(Opaque())), tmp_path / "a")
    with pytest.raises(UnsupportedObjectError, match="stash") as caught:
        convert(path, tmp_path / "b.safetensors", trusted=[__name__])
    assert caught.value.node in ("", "leaf")
    assert nothing_but(tmp_path, "a")


def test_a_stash_asks_for_trust_where_it_is_opened(tmp_path: Path) -> None:
    """To a pickle a stash is opened, under the caller's trust; the error lists what it asks for, and this call."""
    with pytest.warns(NeedsTrustWarning):
        path = save(Held(Opaque()), tmp_path / "a")
    with pytest.raises(UntrustedError, match=r"(?s)Opaque.*convert\(\.\.\., trusted=") as caught:
        convert(path, tmp_path / "b.pkl")
    assert caught.value.rows
    assert nothing_but(tmp_path, "a")
    convert(path, tmp_path / "b.pkl", trusted=[__name__])  # what needs trust was told by the save
    assert load(tmp_path / "b.pkl", trusted=[__name__]).value == Opaque()


@pytest.mark.parametrize("name", ["classifier", "linked", "shared", "classifier_gz.tar.gz", "classifier_pkl.pkl"])
@pytest.mark.parametrize("kind", ENDINGS)
def test_saves_of_flambe(name: str, kind: str, tmp_path: Path) -> None:
    """Flambe's own saves, which have no manifest, go into every container and load from there."""
    out = convert(FLAMBE / name, str(tmp_path / "out") + ENDINGS[kind])
    state = load_state_from_file(convert(out, tmp_path / "again"))
    expected = load_state_from_file(FLAMBE / name)
    assert same(dict(state), dict(expected))
    load(tmp_path / "again")


# ------------------------------------------------------------------------------------------------ packing


@pytest.mark.parametrize("make", [Tree, run])
def test_an_archive_is_what_a_save_would_have_made(make: Callable[[], Any], tmp_path: Path) -> None:
    """Packing gives the bytes of a save with compress=True; unpacking gives the folder; both are inverses."""
    obj = make()
    path = save(obj, tmp_path / "a")
    (tmp_path / "there").mkdir()
    archive = save(obj, tmp_path / "there" / "a", compress=True)
    assert pack(path) == str(tmp_path / "a.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == Path(archive).read_bytes()
    assert unpack(archive) == str(tmp_path / "there" / "a")
    assert files_of(tmp_path / "there" / "a") == files_of(path)
    assert Path(pack(tmp_path / "there" / "a", overwrite=True)).read_bytes() == (tmp_path / "a.tar.gz").read_bytes()


@pytest.mark.parametrize("level", [None, 0, 9])
@pytest.mark.parametrize("kind", ["folder", "pickle", "part"])
def test_packing_is_converting(kind: str, level: int | None, tmp_path: Path) -> None:
    """Both ways, packing gives what convert does with the same name, to the byte, also over what is there."""
    path = saved(run() if kind == "part" else Tree(), tmp_path / "a", kind)
    path = path / "model" if kind == "part" else path
    ending = ENDINGS.get(kind, "")
    written = {}
    for name, (there, back) in {"pack": (pack, unpack), "convert": (convert, convert)}.items():
        for _ in range(2):
            archive = there(path, tmp_path / name / f"b{ending}.tar.gz", level=level, overwrite=True)
            again = back(archive, tmp_path / name / f"c{ending}", overwrite=True)
        written[name] = files_of(archive), files_of(again)
    assert written["pack"] == written["convert"]


def test_a_pickle_is_packed_and_unpacked(tmp_path: Path) -> None:
    """A .pkl has an archive too."""
    path = Path(save(run(), tmp_path / "a.pkl", pickle_only=True))
    data = path.read_bytes()
    assert pack(path) == f"{path}.tar.gz"
    path.unlink()
    assert unpack(f"{path}.tar.gz") == str(path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("name", ["classifier", "linked", "shared", "stashed"])
def test_saves_of_flambe_are_packed(name: str, tmp_path: Path) -> None:
    """Saves without a manifest are copied to the byte as well, after a look at their zips."""
    archive = pack(FLAMBE / name, tmp_path / "a.tar.gz")
    assert files_of(unpack(archive)) == files_of(FLAMBE / name)
    assert Path(pack(tmp_path / "a", tmp_path / "b" / "a.tar.gz")).read_bytes() == Path(archive).read_bytes()


def test_no_trust_is_needed_to_copy(tmp_path: Path) -> None:
    """A stash that is more than data is copied unopened; nothing in it runs."""
    with pytest.warns(NeedsTrustWarning):
        path = Path(save(Held(Opaque(), Held(Opaque())), tmp_path / "a"))
    hostile = pickle.dumps(Evil(tmp_path / "ran"))
    (path / "stash.pkl").write_bytes(hostile)
    (path / MANIFEST_FILE).unlink()
    with pytest.warns(UncheckedSaveWarning):
        archive = pack(path)
    with pytest.warns(UncheckedSaveWarning):
        unpack(archive, tmp_path / "b")
    assert files_of(tmp_path / "b") == files_of(path)
    assert not (tmp_path / "ran").exists()


class Evil:
    """A pickle that makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_card_goes_along(tmp_path: Path) -> None:
    """What a hub puts beside a save is packed with it."""
    path = Path(save(Leaf(), tmp_path / "a"))
    (path / "README.md").write_text("hello")
    assert files_of(unpack(pack(path), tmp_path / "b")) == files_of(path)


def test_a_foreign_archive_is_unpacked(tmp_path: Path) -> None:
    """So is an archive that another program packed."""
    path = save(Tree(), tmp_path / "a")
    shutil.make_archive(str(tmp_path / "b"), "gztar", tmp_path, "a")
    assert files_of(unpack(tmp_path / "b.tar.gz")) == files_of(path)


def test_large_files_pass_in_pieces(tmp_path: Path) -> None:
    """Neither way holds a large file in memory."""
    save({"x": torch.rand(24 << 20)}, tmp_path / "a", threads=1)
    tracemalloc.start()
    try:
        pack(tmp_path / "a", level=0)
        unpack(tmp_path / "a.tar.gz", tmp_path / "b")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert files_of(tmp_path / "b") == files_of(tmp_path / "a")
    assert peak < 48 << 20 < (tmp_path / "a" / "state.pt").stat().st_size


@pytest.mark.parametrize(
    "how", [pack, lambda path: convert(path, f"{path}.pkl"), lambda path: convert(path, f"{path}2")]
)
@pytest.mark.parametrize("name", ["inner.Con/state.pt", "config.yaml", "requirements.txt", "manifest.json"])
def test_damage_is_refused_and_named(how: Callable[[Path], str], name: str, tmp_path: Path) -> None:
    """A changed byte anywhere is an error that names the file; nothing is left."""
    path = Path(save(Tree(), tmp_path / "a"))
    flip(path / name, -60)
    with pytest.raises(CorruptSaveError) as caught:
        how(path)
    assert caught.value.file is not None
    assert name in caught.value.file
    assert nothing_but(tmp_path, "a")


def test_damage_without_a_manifest(tmp_path: Path) -> None:
    """Without a manifest the checksums inside the torch files tell."""
    shutil.copytree(FLAMBE / "classifier", tmp_path / "a")
    flip(tmp_path / "a" / "head" / "state.pt", 600)
    with pytest.raises(CorruptSaveError, match=r"head/state\.pt"):
        pack(tmp_path / "a")
    assert nothing_but(tmp_path, "a")


def test_a_digest_is_compared(tmp_path: Path) -> None:
    """A SHA-256 that was noted is compared, though the CRC-32 is right."""
    path = Path(save(Leaf(), tmp_path / "a", digest="sha256"))
    manifest = json.loads((path / MANIFEST_FILE).read_text())
    manifest["files"]["state.pt"]["sha256"] = "0" * 64
    from flambe_save.formats.manifest import Manifest

    for key in ("format", "manifest", "crc32"):
        del manifest[key]
    (path / MANIFEST_FILE).write_bytes(Manifest(**manifest).to_json())
    with pytest.raises(CorruptSaveError, match="SHA-256"):
        pack(path)
    assert nothing_but(tmp_path, "a")


def test_damaged_archives_and_pickles(tmp_path: Path) -> None:
    """What is damaged in an archive or a pickle leaves nothing either, whatever the target."""
    archive, pickled = (Path(saved(Tree(), tmp_path / "a", kind)) for kind in ("archive", "pickle"))
    for path, out in itertools.product((archive, pickled), ("x", "x.pkl", "x.tar.gz", "x.pkl.tar.gz", "x.safetensors")):
        if path.stat().st_size:
            flip(path, path.stat().st_size // 2)
        with pytest.raises(LoadError):
            convert(path, tmp_path / out)
        flip(path, path.stat().st_size // 2)
    flip(archive, 400)
    with pytest.raises(LoadError):
        unpack(archive, tmp_path / "x")
    assert nothing_but(tmp_path, "a.tar.gz", "a.pkl")


def test_files_that_are_missing_or_foreign(tmp_path: Path) -> None:
    """A file that is not there, or not of the save, is an error that names it."""
    path = Path(save(Leaf(), tmp_path / "a"))
    (path / "more.txt").write_text("x")
    with pytest.raises(CorruptSaveError, match=r"more\.txt"):
        pack(path)
    (path / "more.txt").unlink()
    (path / "source.py").unlink()
    with pytest.raises(CorruptSaveError, match=r"source\.py"):
        pack(path)
    assert nothing_but(tmp_path, "a")


def test_a_file_that_changes_while_it_is_copied(tmp_path: Path) -> None:
    """A file that got shorter since it was measured is no file of the copy."""
    import contextlib

    from flambe_save.pt import LoadOptions

    path = Path(save(Leaf(), tmp_path / "a"))
    with contextlib.ExitStack() as source:
        store = Folders.opened(path, LoadOptions(), source).store
        draft = _CopiedFile(store, "state.pt")
        (path / "state.pt").write_bytes(b"short")
        with pytest.raises(CorruptSaveError, match="changed while"):
            list(draft.chunks())
        (path / "state.pt").write_bytes(bytes(draft.size + 1))
        with pytest.raises(CorruptSaveError, match="changed while"):
            list(draft.chunks())


def test_what_an_archive_tells_at_its_end_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage that is found only when an archive is closed is found before anything is in place."""
    archive = save(Tree(), tmp_path / "a", compress=True)

    def fail(self: TarStore) -> None:
        raise CorruptSaveError("the end is not what it should be")

    monkeypatch.setattr(TarStore, "_check_rest", fail)
    with pytest.raises(CorruptSaveError, match="the end"):
        copy_save(archive, Target(str(tmp_path / "b")))
    assert nothing_but(tmp_path, "a.tar.gz")


def test_views_in_a_torch_file_are_kept_alone(tmp_path: Path) -> None:
    """A tensor that views a part of another's memory comes with its own elements, as a save would keep it."""
    whole = torch.arange(24.0).reshape(4, 6)
    weights = {"a": whole[:, :2], "b": whole.t()[1:3], "c": whole}
    torch.save(weights, tmp_path / "w.pt")
    again = convert(convert(tmp_path / "w.pt", tmp_path / "w.safetensors"), tmp_path / "out")
    assert files_of(again) == files_of(save_state_to_file(weights, tmp_path / "expected"))


@pytest.mark.parametrize(
    "call",
    [
        lambda path, out: pack(path, f"{out}.tar.gz"),
        lambda path, out: unpack(pack(path, out.parent / "p.tar.gz", overwrite=True), out),
        lambda path, out: convert(path, f"{out}.safetensors"),
        lambda path, out: convert(path, f"{out}.pkl"),
        lambda path, out: extract(path, "inner.Con", out),
        lambda path, out: extract(path, "inner.Con.linear.weight", f"{out}.npy"),
    ],
)
def test_what_is_there_is_kept(call: Callable[[Path, Path], str], tmp_path: Path) -> None:
    """A target that is there is an error, and stays; with overwrite=True it is replaced, if it is one of that kind."""
    path = Path(save(Tree(), tmp_path / "a"))
    first = Path(call(path, tmp_path / "out"))
    before = files_of(first) or first.read_bytes()
    with pytest.raises(TargetExistsError):
        call(path, tmp_path / "out")
    assert (files_of(first) or first.read_bytes()) == before
    assert not [item for item in tmp_path.iterdir() if item.name.startswith(".")]


@pytest.mark.parametrize("ending", ["", ".tar.gz", ".pkl", ".safetensors"])
def test_overwrite_replaces_a_save_and_nothing_else(ending: str, tmp_path: Path) -> None:
    """overwrite=True swaps a save for another, and refuses to replace what is none."""
    path, out = save(Tree(), tmp_path / "a"), Path(f"{tmp_path / 'out'}{ending}")
    convert(save(Leaf(), tmp_path / "b"), out)
    convert(path, out, overwrite=True)
    assert load_state_from_file(convert(out, tmp_path / "c")).keys() == load_state_from_file(path).keys()
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    if ending:
        out.write_text("a diary")
    else:
        out.mkdir()
        (out / "diary.txt").write_text("mine")
    with pytest.raises(TargetExistsError):
        convert(path, out, overwrite=True)
    assert out.exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: pack(pack(a)), "an archive already"),
        (lambda a: unpack(a), "not an archive"),
        (lambda a: convert(a, f"{a}.pt"), "torch.save"),
        (lambda a: convert(a, f"{a}.pkl", level=3), "level"),
        (lambda a: pack(a, level=10), "level"),
        (lambda a: convert(a, f"{a}/inside"), "is a save itself"),
        (lambda a: extract(a, "inner.Con", f"{a}.npy"), "one tensor"),
        (lambda a: extract(a, "inner.Con.linear.bias", f"{a}.tar.gz"), r"\.npy or \.safetensors"),
        (lambda a: unpack(shutil.copy(pack(a), f"{a}.bundle")), "unpack"),
    ],
)
def test_calls_that_make_no_sense(call: Callable[[str], str], message: str, tmp_path: Path) -> None:
    """Each is an error that says what to do, and leaves nothing."""
    path = save(Tree(), tmp_path / "a")
    with pytest.raises(SaveError, match=message):
        call(path)
    assert set(os.listdir(tmp_path)) <= {"a", "a.tar.gz", "a.bundle"}


def test_there_is_nothing(tmp_path: Path) -> None:
    """No save, or a file of another kind, is an error of ours."""
    (tmp_path / "x.bin").write_text("hello")
    for call in (
        pack,
        unpack,
        lambda path: convert(path, tmp_path / "y"),
        lambda path: extract(path, "", tmp_path / "y"),
    ):
        with pytest.raises(SaveNotFoundError):
            call(tmp_path / "none")
        with pytest.raises((LoadError, SaveError)):
            call(tmp_path / "x.bin")
    assert nothing_but(tmp_path, "x.bin")


def test_limits_hold(tmp_path: Path) -> None:
    """What an archive may unpack to is limited here too."""
    archive = save(Tree(), tmp_path / "a", compress=True)
    with pytest.raises(LimitError):
        unpack(archive, limits=Limits(unpacked_bytes=10))
    with pytest.raises(LimitError):
        convert(archive, tmp_path / "b.pkl", limits=Limits(unpacked_bytes=10))
    assert nothing_but(tmp_path, "a.tar.gz")


@pytest.mark.parametrize("ending", [*ENDINGS.values()])
def test_a_full_disk_leaves_nothing(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the system's while writing is a SaveError, and nothing is left."""
    from flambe_save.storage.atomic import AtomicWrite

    def fail(self: AtomicWrite) -> None:
        raise OSError(28, "No space left on device")

    path = save(Tree(), tmp_path / "a")
    monkeypatch.setattr(AtomicWrite, "commit", fail)
    with pytest.raises(SaveError, match="No space"):
        convert(path, f"{tmp_path / 'b'}{ending}")
    assert nothing_but(tmp_path, "a")


# ------------------------------------------------------------------------------------------------ extracting


@pytest.mark.parametrize("kind", ENDINGS)
@pytest.mark.parametrize("target", ["", ".tar.gz", ".pkl", ".safetensors"])
@pytest.mark.parametrize("node", ["inner.a%2Fb", "inner.Con", ""])
def test_a_component_alone(kind: str, target: str, node: str, tmp_path: Path) -> None:
    """What is extracted, from any container to any, loads to what load(path, node=...) gives."""
    path = saved(Tree(), tmp_path / "a", kind)
    node = node.replace("%2F", "/")
    folder = save(Tree(), tmp_path / "folder")
    out = extract(path, node, f"{tmp_path / 'part'}{target}")
    again = convert(out, tmp_path / "again")
    torch.manual_seed(0)
    expected = load_state_from_file(convert(path, tmp_path / "whole"), node=node)
    assert same(load_state_from_file(again), expected)
    assert type(load(again)) is type(load(folder, node=node))
    assert verify(again) == []


def test_a_part_of_the_manifest(tmp_path: Path) -> None:
    """An extracted folder has the bytes of the component's, and a manifest that is that part of the old one."""

    class Pair(Component, nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tree = Tree()
            self.other = Leaf()

    with pytest.warns(NeedsTrustWarning):
        path = Path(save({"pair": Pair(), "held": Held(Opaque(), Held(Opaque()))}, tmp_path / "a", digest="sha256"))
    whole = json.loads((path / MANIFEST_FILE).read_text())
    for node in ("pair.tree", "held", "pair"):
        out = Path(extract(path, node, tmp_path / node))
        part = json.loads((out / MANIFEST_FILE).read_text())
        folder = path / whole["nodes"][node]["folder"]
        inside = files_of(folder) | {"requirements.txt": (path / "requirements.txt").read_bytes()}
        assert {name: data for name, data in files_of(out).items() if name != MANIFEST_FILE} == inside
        assert part["nodes"][""]["class"] == whole["nodes"][node]["class"]
        assert part["files"]["state.pt"] == whole["files"][f"{whole['nodes'][node]['folder']}/state.pt"]
        assert part["packages"] == whole["packages"]
        assert verify(out) == []
        assert files_of(extract(folder, "", tmp_path / f"{node}2")) == files_of(out)
    assert json.loads((tmp_path / "pair.tree" / MANIFEST_FILE).read_text())["ties"]
    trust = json.loads((tmp_path / "held" / MANIFEST_FILE).read_text())["needs_trust"]
    assert {sentence.partition(":")[0] for sentence in trust} == {"stash.pkl", "leaf/stash.pkl"}
    assert json.loads((tmp_path / "pair" / MANIFEST_FILE).read_text())["needs_trust"] == []
    assert files_of(extract(path / "pair", "tree", tmp_path / "t")) == files_of(tmp_path / "pair.tree")


@pytest.mark.parametrize("name", ["classifier", "classifier_gz.tar.gz", "classifier_pkl.pkl"])
def test_a_component_of_flambe(name: str, tmp_path: Path) -> None:
    """A component of a save without a manifest is the folder as it is."""
    out = extract(FLAMBE / name, "encoder", tmp_path / "a")
    assert type(load(out)) is textnet.Encoder
    assert same(dict(load(out).state_dict()), dict(load(FLAMBE / name, node="encoder").state_dict()))
    if name == "classifier":
        expected = files_of(FLAMBE / name / "encoder")
        assert {key: value for key, value in files_of(out).items() if key != "requirements.txt"} == expected


@pytest.mark.parametrize("kind", ENDINGS)
def test_one_tensor_alone(kind: str, tmp_path: Path) -> None:
    """A tensor of the state becomes a file of its own, which numpy and safetensors read."""
    tree = Tree()
    path, weight = saved(tree, tmp_path / "a", kind), tree.inner["con"].linear.weight.detach()
    key = "inner.con.linear.weight"
    assert np.array_equal(np.load(extract(path, key, tmp_path / "w.npy")), weight.numpy())
    found = safetensors.torch.load_file(extract(path, key, tmp_path / "w.safetensors"))
    assert list(found) == [key]
    assert torch.equal(found[key], weight)


@pytest.mark.parametrize(
    "value",
    [torch.tensor(3.5), torch.zeros(0, 2), torch.arange(6).reshape(2, 3).t(), torch.ones(2, dtype=torch.complex128)],
)
def test_arrays_of_numpy(value: torch.Tensor, tmp_path: Path) -> None:
    """Any shape and type that numpy has is read by it as it was, and the header is as numpy writes it."""
    extract(save_state_to_file({"x": value}, tmp_path / "a"), "x", tmp_path / "x.npy")
    found = np.load(tmp_path / "x.npy")
    assert found.dtype == value.numpy().dtype
    assert np.array_equal(found, value.numpy())
    np.save(tmp_path / "y.npy", value.contiguous().numpy())
    assert found.shape == value.shape == np.load(tmp_path / "y.npy").shape


def test_what_numpy_has_not(tmp_path: Path) -> None:
    """bfloat16 is refused for .npy, by a message that says .safetensors."""
    path = save_state_to_file({"x": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "a")
    with pytest.raises(UnsupportedObjectError, match=r"(?s)bfloat16.*\.safetensors"):
        extract(path, "x", tmp_path / "x.npy")
    assert nothing_but(tmp_path, "a")
    extract(path, "x", tmp_path / "x.safetensors")


def test_a_tensor_that_repeats_itself(tmp_path: Path) -> None:
    """A tensor of more than 512 MiB that is one number over and over is refused before it is laid out."""
    path = save_state_to_file({"x": torch.ones(1).expand((512 << 20) // 4 + 2)}, tmp_path / "a")
    for name, out in (("convert", "b.safetensors"), ("extract", "b.npy")):
        with pytest.raises(LimitError, match=rf"(?s)repeat.*{name}\(\.\.\., limits="):
            convert(path, tmp_path / out) if name == "convert" else extract(path, "x", tmp_path / out)
    assert nothing_but(tmp_path, "a")


def test_one_warning_of_a_lost_manifest(tmp_path: Path) -> None:
    """Whatever is made of a save whose manifest is gone, one warning tells."""
    path = Path(save(Tree(), tmp_path / "a"))
    (path / MANIFEST_FILE).unlink()
    calls: list[Callable[[], str]] = [
        lambda: pack(path),
        lambda: convert(path, tmp_path / "b.pkl"),
        lambda: extract(path, "inner.Con", tmp_path / "c"),
        lambda: extract(path, "inner.Con.linear.bias", tmp_path / "c.npy"),
    ]
    for call in calls:
        with pytest.warns(UncheckedSaveWarning) as caught:
            call()
        assert len(caught) == 1


@pytest.mark.parametrize("kind", ["folder", "pickle", "tensors"])
def test_near_names_are_told(kind: str, tmp_path: Path) -> None:
    """A name that is of nothing is an error with those that are near to it."""
    path = saved(Tree(), tmp_path / "a", kind)
    with pytest.raises(SaveNotFoundError, match=r"(?s)inner\.Cn.*'inner\.Con'"):
        extract(path, "inner.Cn", tmp_path / "x")
    with pytest.raises(SaveNotFoundError, match=r"(?s)'inner\.Con\.linear\.bias'"):
        extract(path, "inner.Con.linear.bais", tmp_path / "x.npy")
    with pytest.raises(SaveNotFoundError):
        extract(path, "steps", tmp_path / "x.npy")
    assert not (tmp_path / "x").exists()


def test_nothing_is_read_that_is_not_needed(tmp_path: Path) -> None:
    """Damage elsewhere in a save is none of a component's business."""
    path = Path(save(Tree(), tmp_path / "a"))
    flip(path / "inner.Con" / "state.pt", -100)
    extract(path, "inner.a/b", tmp_path / "b")
    extract(path, "inner.a/b.linear.bias", tmp_path / "b.npy")
    with pytest.raises(CorruptSaveError, match="Con"):
        extract(path, "inner.Con", tmp_path / "c")
    assert nothing_but(tmp_path, "a", "b", "b.npy")


# ------------------------------------------------------------------------------------------------ files of others


@pytest.mark.parametrize("ending", [*ENDINGS.values()])
def test_a_foreign_file_of_tensors(ending: str, tmp_path: Path) -> None:
    """Weights that another program wrote become what save_state_to_file would write."""
    weights = {"b": torch.ones(3), "a.c": torch.arange(2), "x": torch.tensor([True])}
    safetensors.torch.save_file(weights, tmp_path / "w.bin", {"format": "pt"})
    out = convert(tmp_path / "w.bin", f"{tmp_path / 'out'}{ending}")
    state = load_state_from_file(convert(out, tmp_path / "again"))
    assert {**state}.keys() == weights.keys()
    assert all(torch.equal(state[key], value) for key, value in weights.items())


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.ckpt", "w"])
def test_a_flat_torch_file(name: str, is_zip: bool, tmp_path: Path) -> None:
    """A state_dict is kept as save_state_to_file keeps it, to the byte."""
    weights = run()["model"].state_dict()
    torch.save(weights, tmp_path / name, _use_new_zipfile_serialization=is_zip)
    expected = save_state_to_file(weights, tmp_path / "expected")
    assert files_of(convert(tmp_path / name, tmp_path / "out")) == files_of(expected)


def test_a_nested_torch_file(tmp_path: Path) -> None:
    """A checkpoint of several things is kept as save would keep it."""
    parts = run()
    value = {"model": parts["model"].state_dict(), "epoch": 3, "optimizer": parts["optimizer"].state_dict()}
    torch.save(value, tmp_path / "w.pt")
    loaded = load(convert(tmp_path / "w.pt", tmp_path / "out"))
    assert same(dict(loaded["model"]), dict(value["model"]))
    assert loaded["epoch"] == 3
    assert same(loaded["optimizer"], value["optimizer"])
    assert convert(tmp_path / "w.pt", tmp_path / "out.safetensors")


def test_a_torch_file_with_more_than_data(tmp_path: Path) -> None:
    """What would have to be run is refused by name, and not run."""
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(UntrustedError, match=r"(?s)torch\.nn\.modules\.linear\.Linear.*convert\("):
        convert(tmp_path / "model.pt", tmp_path / "out")
    torch.save({"a": torch.ones(1), "b": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(UntrustedError, match="mkdir"):
        convert(tmp_path / "evil.pt", tmp_path / "out")
    assert nothing_but(tmp_path, "model.pt", "evil.pt")


def test_metadata_of_a_torch_file_makes_no_components(tmp_path: Path) -> None:
    """What a file of others claims to be a component of ours is passed over."""
    weights = OrderedDict(a=torch.ones(1))
    weights._metadata = OrderedDict({"": {"version": 1, "_flambe_class": 3}, "_flambe_directories": 7, "x": 5})  # type: ignore[attr-defined]
    torch.save(weights, tmp_path / "w.pt")
    state = load_state_from_file(convert(tmp_path / "w.pt", tmp_path / "out"))
    assert state.components == [""]
    assert state._metadata[""]["version"] == 1


def header(text: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    """Return a safetensors file of a header, as long as it says or not."""
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


ONE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
HOSTILE = {
    "empty": b"",
    "short": b"\1\2\3",
    "huge": header(b"{}", 10_000),
    "large": header(b"{}", 100_000_001),
    "longer than the file": header(b"{}", 3),
    "no JSON": header(b"{nonsense"),
    "no UTF-8": header(b'{"\xff":1}'),
    "no mapping": header(b"[1,2]"),
    "nested": header(b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
    "digits": header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5_000 + b'],"data_offsets":[0,4]}}', data=bytes(4)),
    "twice": header(ONE[:-1] + b"," + ONE[1:], data=bytes(4)),
    "no entry": header(b'{"a":1}'),
    "no type": header(ONE.replace(b"F32", b"X32"), data=bytes(4)),
    "a list for a type": header(ONE.replace(b'"F32"', b"[]"), data=bytes(4)),
    "another size": header(ONE.replace(b"[1]", b"[2]"), data=bytes(4)),
    "negative": header(ONE.replace(b"[1]", b"[-1,-1]"), data=bytes(4)),
    "a fraction": header(ONE.replace(b"[1]", b"[1.0]"), data=bytes(4)),
    "a shape of many": header(ONE.replace(b"[1]", b"[" + b",".join([b"1"] * 100) + b"]"), data=bytes(4)),
    "a hole": header(ONE.replace(b"[0,4]", b"[4,8]"), data=bytes(8)),
    "too much": header(ONE, data=bytes(5)),
    "cut": header(ONE, data=bytes(3)),
    "overlap": header(ONE[:-1] + b"," + ONE[1:].replace(b'"a"', b'"b"'), data=bytes(4)),
    "an empty shape past what torch counts": header(
        ONE.replace(b"[1]", b"[0,2305843009213693952,2305843009213693952]").replace(b"[0,4]", b"[0,0]")
    ),
    "metadata": header(b'{"__metadata__":{"a":1}}'),
    "metadata of a list": header(b'{"__metadata__":[]}'),
    "no version": header(b'{"__metadata__":{"flambe_save":"{}"}}'),
    "no facts": header(b'{"__metadata__":{"flambe_save":"3"}}'),
    "facts without a checksum": header(b'{"__metadata__":{"flambe_save":"{\\"version\\":1}"}}'),
    "a newer version": header(b'{"__metadata__":{"flambe_save":"{\\"version\\":2}"}}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_of_tensors(name: str, tmp_path: Path) -> None:
    """Whatever a header claims, reading it is an error of ours, and takes no memory for what is not there."""
    (tmp_path / "w.safetensors").write_bytes(HOSTILE[name])
    with pytest.raises(LoadError):
        convert(tmp_path / "w.safetensors", tmp_path / "out")
    assert nothing_but(tmp_path, "w.safetensors")


def of_facts(change: Callable[[dict[str, Any]], object]) -> TensorFile:
    """Return a file whose text was changed by somebody who can count checksums."""
    from flambe_save.conversion import state_json

    state = State(a=torch.ones(2), b=[1, (2, 3)])
    state._metadata[""] = {"_flambe_class": "X"}
    state._metadata["_flambe_directories"] = {""}
    file = TensorFile(MemorySource(bytearray(bytes(draft_of(Content(state))))), "w")
    document = json.loads(file.metadata["flambe_save"])
    del document["crc32"]
    change(document)
    body = json.dumps(document)[:-1]
    file.metadata["flambe_save"] = body + state_json._ENDING % state_json._checksum(body, file.table, file.checksum())
    return file


def again_and_again() -> Any:
    """Return a list whose last item takes years to hash."""
    values: list[Any] = [{"!tuple": [1]}]  # number 1, in the list that is number 0
    values += [{"!tuple": [{"!again": number}] * 2} for number in range(1, 60)]
    return [*values, {"!set": [{"!again": 60}]}]


def test_facts_are_what_they_are() -> None:
    """The helper changes nothing that it is not told to change."""
    found = content_of(of_facts(lambda document: None))
    assert found is not None
    assert same(dict(found.state), {"a": torch.ones(2), "b": [1, (2, 3)]})


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["state"].update(a={"!tensor": "nothing"}),
        lambda document: document["state"].update(a={"!tensor": 3}),
        lambda document: document["state"].update(a={"!tensor": {"name": "a", "shape": [3], "stride": [1]}}),
        lambda document: document["state"].update(a={"!tensor": {"name": "a", "stride": [2]}}),
        lambda document: document["state"].update(a={"!tensor": {"name": "a", "stride": [-1]}}),
        lambda document: document["state"].update(a={"!tensor": {"name": "a", "dtype": "complex128"}}),
        lambda document: document["state"].update(a={"!tensor": {"name": "a", "dtype": "object", "shape": [2]}}),
        lambda document: document["state"].update(b={"!call": "os.getcwd"}),
        lambda document: document["state"].update(b={"!tuple": 3}),
        lambda document: document["state"].update(b={"!set": [[1]]}),
        lambda document: document["state"].update(b={"!again": 10}),
        lambda document: document["state"].update(b={"!tuple": [], "x": 1}),
        lambda document: document["state"].update(b=again_and_again()),
        lambda document: document.update(components=["", "x"]),
        lambda document: document.update(components=[]),
        lambda document: document.update(components={}),
        lambda document: document["metadata"].update({"": 3}),
        lambda document: document["metadata"].update({"": {"_flambe_class": 3}}),
        lambda document: document.update(packages=[]),
        lambda document: document.update(packages={"a": 1}),
        lambda document: document.update(requirements=3),
        lambda document: document.update(digest="md5"),
        lambda document: document.update(version=None),
        lambda document: document.pop("state"),
        lambda document: document["state"].update(b={"!set": [number * (2**61 - 1) for number in range(1, 1_002)]}),
        lambda document: document["state"].update(
            b={"!dict": [[number * (2**61 - 1), 0] for number in range(1, 1_002)]}
        ),
        lambda document: document["state"].update(
            a={"!tensor": {"name": "a", "dtype": "uint8", "shape": [8]}},
            c={"!tensor": {"name": "a", "dtype": "float64", "shape": [1]}},
        ),
        lambda document: document["metadata"].update({"": {"_flambe_class": "X", "_flambe_tags": [1]}}),
        lambda document: document["metadata"].update({"": {"_flambe_class": "X", "_flambe_tags": {"a": 3}}}),
        lambda document: document["metadata"].update({"": {"_flambe_class": "\ud800"}}),
    ],
)
def test_hostile_facts(change: Callable[[dict[str, Any]], object]) -> None:
    """Whatever the text says of the tensors and the tree, reading it is an error of ours, and soon."""
    with pytest.raises(CorruptSaveError):
        content_of(of_facts(change))


def test_facts_that_copy_a_tensor_copy_it_once() -> None:
    """However many names ask for another layout of it, with other flags: they share the one copy."""
    layout = {"name": "a", "dtype": "float64", "shape": [1]}
    names = {f"c{number}": {"!tensor": {**layout, "junk": number}} for number in range(100)}
    found = content_of(of_facts(lambda document: document.update(state=names)))
    assert found is not None
    assert len({found.state[name].data_ptr() for name in names}) == 1


@pytest.mark.parametrize("at", [80, 600, -5])
def test_a_changed_file_of_tensors_is_no_save(at: int, tmp_path: Path) -> None:
    """The checksum covers the text, the table and the elements."""
    path = Path(convert(save(Leaf(), tmp_path / "a"), tmp_path / "b.safetensors"))
    flip(path, at)
    with pytest.raises(CorruptSaveError):
        convert(path, tmp_path / "c")
    assert nothing_but(tmp_path, "a", "b.safetensors")


def test_progress_reaches_its_end(tmp_path: Path) -> None:
    """Each function tells how many bytes are written, up to all of them."""
    save(nn.Linear(300, 300), tmp_path / "a")
    for write in (
        lambda told: convert(tmp_path / "a", tmp_path / "b.safetensors", progress=told),
        lambda told: convert(tmp_path / "a", tmp_path / "b.pkl", progress=told),
        lambda told: extract(tmp_path / "a", "weight", tmp_path / "w.npy", progress=told),
        lambda told: extract(tmp_path / "a", "", tmp_path / "part", progress=told),
        lambda told: pack(tmp_path / "a", progress=told),
        lambda told: unpack(tmp_path / "a.tar.gz", tmp_path / "c", progress=told),
    ):
        calls: list[tuple[int, int]] = []
        write(lambda done, total, calls=calls: calls.append((done, total)))
        assert calls[-1][0] == calls[-1][1] >= 360_000


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".pkl"])
def test_views_of_a_storage_as_large_as_themselves(suffix: str, tmp_path: Path) -> None:
    """A view that repeats what is not at the beginning of its storage keeps its elements, in every container."""
    whole = torch.arange(6.0).reshape(2, 3)
    values = {"last": whole[-1].expand_as(whole), "whole": whole, "odd": whole.view(-1).as_strided((2, 3), (0, 1), 3)}
    path = save(values, tmp_path / "a")
    if suffix:
        path = convert(convert(path, tmp_path / f"b{suffix}"), tmp_path / "c")
    found = load(path)
    assert all(torch.equal(found[name], value) for name, value in values.items())
