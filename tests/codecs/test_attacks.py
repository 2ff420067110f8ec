"""Attacks on a default load, and ways to lose state in silence: each is refused; docstrings say by which rule."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.places import MODULES
from helpers.saves import with_config
from torch import nn

from flambe_save import (
    Component,
    CorruptSaveError,
    LinkError,
    LoadError,
    NeedsTrustWarning,
    SaveError,
    StateMismatchWarning,
    TargetExistsError,
    UnsupportedObjectError,
    UntrustedError,
    load,
    load_state_from_file,
    save,
    yaml,
)


class Holder(Component):
    """Registers whatever it is given."""

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.register_attrs("value")


class Private(Component, nn.Module):
    """Keeps its parts under private names."""

    def __init__(self) -> None:
        super().__init__()
        self._part = Holder()
        self._parts = {"a": Holder()}


class Outer(Component, nn.Module):
    """Takes a component."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner


class Overrides(Component):
    """Overrides a factory that reads files."""

    @classmethod
    def load_from_path(cls, path: str, **kwargs: Any) -> Any:
        """Would open anything."""
        Path(path).read_text()
        return cls()


def hostile_state(folder: Path, data: bytes) -> Path:
    """Return a save whose state.pt is a given pickle."""
    path = Path(save(Holder(1), folder / "s"))
    (path / "manifest.json").unlink()
    (path / "state.pt").write_bytes(data)
    return path


def test_a_link_to_a_function(tmp_path: Path) -> None:
    """A link gives values: else a scheduler would call the method of a path that it is given."""
    victim = tmp_path / "precious"
    victim.touch()
    path = with_config(
        tmp_path / "s",
        f"!torch.Sequential\npath: !path {victim}\nlin: !torch.Linear {{in_features: 1, out_features: 1}}\n"
        "params: !torch.ParameterList {values: [!@ lin.weight]}\nopt: !torch.SGD {params: !@ params, lr: 0.1}\n"
        "sched: !torch.LambdaLR {optimizer: !@ opt, lr_lambda: !@ path.unlink}\n",
    )
    with pytest.raises(LinkError, match="function 'unlink'"):
        load(path)
    assert victim.exists()


def test_an_overridden_factory(tmp_path: Path) -> None:
    """A factory that reads files needs trust in every subclass, whatever the override is decorated with."""
    path = with_config(tmp_path / "s", "!Overrides.load_from_path {path: nowhere}\n".replace("!O", "!test_attacks.O"))
    with pytest.raises(UntrustedError, match="load_from_path"):
        load(path)


def test_a_config_imports_nothing(tmp_path: Path) -> None:
    """torch imports some of its modules when an attribute is asked for; names are looked up without asking."""
    path = with_config(tmp_path / "s", "!test_attacks.Holder {value: !torch.dtype onnx}\n")
    code = (
        f"import sys; sys.path[:0] = {[*map(str, MODULES)]!r}; import test_attacks, flambe_save\n"
        f"before = set(sys.modules)\ntry: flambe_save.load({str(path)!r})\nexcept flambe_save.ConfigError: pass\n"
        "print(sorted(name for name in set(sys.modules) - before if name.startswith('torch.onnx')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"


DTYPE = b"cnumpy\ndtype\n(X\x02\0\0\0V8\x89\x88tR"
PICKLES = {
    # a type that is changed after an array has it
    "dtype_twice": b"\x80\x02" + DTYPE + b"(K\x03X\x01\0\0\0|NNNK\x08K\x01K\0tb(K\x03X\x01\0\0\0|NNNK\x09K\x01K\0tb.",
    # BUILD on a tensor would reach Tensor.__setstate__, which resizes
    "tensor_state": b"\x80\x02ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\n"
    b"(K\x02tK\x01\x85\x89tR(K\x01K\x02K\x03tb.",
    # a dict's key that is a tuple of tuples of ... has 2 ** 14 parts to hash
    "large_key": b"\x80\x02}K\x01\x85" + b"2\x86" * 14 + b"K\x01s.",
    "large_item": b"\x80\x04\x8f(K\x01\x85" + b"2\x86" * 14 + b"\x90.",
    # one long text, made bytes again and again
    "same_bytes": b"\x80\x03c__builtin__\nbytearray\nq\x01B\0\0\x10\0"
    + b"x" * (1 << 20)
    + b"q\x02"
    + b"h\x01h\x02\x85R0" * 20
    + b"N.",
    # a mapping whose methods are replaced
    "shadowed_method": b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x01sb.",
}


REASONS = {
    "dtype_twice": "a state for a",
    "tensor_state": "a state for a Tensor",
    "large_key": "too large to be hashed",
    "large_item": "too large to be hashed",
    "same_bytes": "copies the same bytes",
    "shadowed_method": "a mapping's methods are set",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_were_answered_with_memory_or_time(name: str, tmp_path: Path) -> None:
    """What a BUILD may set, what is hashed and how often bytes are copied is limited before it is done."""
    with pytest.raises(CorruptSaveError, match=f"cannot be read.*{REASONS[name]}"):
        load_state_from_file(hostile_state(tmp_path, PICKLES[name]))


def test_a_legacy_file_is_measured_too(tmp_path: Path) -> None:
    """The pass that looks for storages takes no memo index that is larger than the pickle."""
    start = b"".join(pickle.dumps(item, 2) for item in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    with pytest.raises(CorruptSaveError, match="an index or a size larger than the pickle"):
        load_state_from_file(hostile_state(tmp_path, start + b"\x80\x02ccollections\nOrderedDict\n)Rr\0\x27\0\0."))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and device files")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_files_that_are_none(kind: str, tmp_path: Path) -> None:
    """Only regular files are read, and nothing waits for a pipe's other end."""
    path = Path(save(Holder(1), tmp_path / "s"))
    (path / "manifest.json").unlink()
    (path / "source.py").unlink()
    if kind == "pipe":
        os.mkfifo(path / "source.py")
    else:
        (path / "source.py").symlink_to("/dev/null")
    with pytest.raises(CorruptSaveError, match="not a regular file"):
        load(path)


def test_links_to_files_are_read(tmp_path: Path) -> None:
    """A snapshot in the Hugging Face cache is a folder of links to blobs beside it, and loads."""
    path = Path(save(Outer(Holder(1)), tmp_path / "snapshots" / "abc"))
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(sorted(item for item in path.rglob("*") if item.is_file())):
        blob = tmp_path / "blobs" / str(number)
        file.rename(blob)
        file.symlink_to(os.path.relpath(blob, file.parent))
    assert load(path).inner.value == load(path / "inner").value == 1


def test_a_key_of_many_parts(tmp_path: Path) -> None:
    """The way up from a key takes the square of its parts, so their number is limited."""
    (tmp_path / "s.pkl").write_bytes(pickle.dumps({"." * 10_001: 1}, 2))
    with pytest.raises(LoadError, match="parts"):
        load_state_from_file(tmp_path / "s.pkl")


# --------------------------------------------------------------------------------------------- lost in silence


def test_parts_under_private_names(tmp_path: Path) -> None:
    """Private attributes are the object's own too, and are saved."""
    thing = Private()
    thing._part.value, thing._parts["a"].value = 1, 2
    again = load(save(thing, tmp_path / "s"))
    assert (again._part.value, again._parts["a"].value) == (1, 2)


def test_a_part_that_was_replaced(tmp_path: Path) -> None:
    """A component that the object was built from and no longer holds is warned of by name when it is saved."""
    thing = Outer(Holder(1))
    thing.inner = Holder(2)
    with pytest.warns(StateMismatchWarning, match=r"inner \(Holder\).*not found in it"):
        save(thing, tmp_path / "s")


def test_what_cannot_be_registered() -> None:
    """A name that is in the state already, or could not be set again, is refused when it is registered."""

    class Both(Component, nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.layer = nn.Linear(1, 1)
            self.register_attrs(name)

        @property
        def fixed(self) -> int:
            return 1

    for name in ("weight", "layer", "fixed"):
        with pytest.raises(AttributeError, match=name):
            Both(name)


def test_loading_from_an_object_shares_nothing() -> None:
    """Registered values that come from another object stay its own."""
    one, other = Holder({"a": [1]}), Holder()
    other.load_state(one.get_state())
    other.value["a"].append(2)
    assert one.value == {"a": [1]}


def test_modules_under_keys_that_read_alike(tmp_path: Path) -> None:
    """Two modules that would get one key are an error, as two components are."""
    with pytest.raises(UnsupportedObjectError, match="read alike"):
        save(Group({1: nn.Linear(1, 1), "1": nn.Linear(1, 1)}), tmp_path / "s")


class Group(Component):
    """Keeps a dict."""

    def __init__(self, table: Any) -> None:
        self.table = table


@pytest.mark.parametrize("dtype", [">i4", ">f8", "<U3", [("a", ">i2"), ("b", "S3")], "M8[us]"])
def test_numpy_types_of_any_order(dtype: Any, tmp_path: Path) -> None:
    """Arrays come back as from numpy's own pickles, which turn foreign byte orders into the machine's."""
    array = np.ones(3, dtype) if isinstance(dtype, str) and dtype[0] == ">" else np.zeros(3, dtype)
    again = load(save(Holder(array), tmp_path / "s")).value
    assert again.dtype == pickle.loads(pickle.dumps(array, 2)).dtype
    assert np.array_equal(again, array)


# --------------------------------------------------------------------------------------------- overwrite


def test_overwrite_keeps_what_is_no_save(tmp_path: Path) -> None:
    """A file of one's own inside a save, a text that ends in .pkl and somebody's archive are not removed."""
    path = Path(save(Holder(1), tmp_path / "s"))
    (path / "notes.txt").write_text("mine")
    (tmp_path / "n.pkl").write_text("mine")
    (tmp_path / "photo.jpg").touch()
    subprocess.run(["tar", "czf", "a.tar.gz", "photo.jpg"], cwd=tmp_path, check=True)
    for target, options in ((path, {}), (tmp_path / "n", {"pickle_only": True}), (tmp_path / "a", {"compress": True})):
        with pytest.raises(TargetExistsError, match="not part of a save"):
            save(Holder(2), target, overwrite=True, **options)
    assert (path / "notes.txt").read_text() == (tmp_path / "n.pkl").read_text() == "mine"


def test_nothing_is_written_inside_a_save(tmp_path: Path) -> None:
    """A save inside another would damage it, new or over one of its parts."""
    path = Path(save(Outer(Holder(1)), tmp_path / "s"))
    for target in (path / "more", path / "inner"):
        with pytest.raises(SaveError, match="is a save itself"):
            save(Holder(2), target, overwrite=True)
    assert load(path).inner.value == 1


@pytest.mark.parametrize("tag", ["torch.nn.Linear", "torch.nn.modules.linear.Linear"])
def test_torch_by_its_dotted_path(tag: str) -> None:
    """A torch class is found under the path that people import it by, too."""
    assert yaml.load(f"!{tag} {{in_features: 1, out_features: 2}}")().out_features == 2


def test_a_call_is_warned_of_and_a_text_about_one_is_not(tmp_path: Path) -> None:
    """A config that asks for a call says so when it is saved; the same letters in a string ask for nothing."""
    text = "!test_attacks.Group\ntable:\n  one: !test_attacks.Holder {}\n  two: !call 'table[one].get_state'\n"
    with pytest.warns(NeedsTrustWarning, match="a call of .!call table"):
        path = save(yaml.load(text)(), tmp_path / "call")
    with pytest.raises(UntrustedError, match="call"):
        load(path)
    again = load(save(Group({"text": "say !call now"}), tmp_path / "text"))
    assert again.table == {"text": "say !call now"}
