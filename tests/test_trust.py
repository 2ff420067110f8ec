"""What a load may do: the list of what a save asks for, the doors that open it, and the limits of what it takes."""

from __future__ import annotations

import argparse
import ast
import collections
import ipaddress
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from other_process import run_program
from torch import nn

from flambe_save import (
    Component,
    ConfigError,
    CorruptSaveError,
    Finding,
    LimitError,
    Limits,
    LoadError,
    MissingExtensionError,
    NeedsTrustWarning,
    RegistrationError,
    SourceChangedWarning,
    UntrustedError,
    load,
    load_state_from_file,
    save,
    untrusted,
)
from flambe_save.deferred_init.budget import BuildBudget
from flambe_save.deferred_init.mode import DeferredInit
from flambe_save.support.sizes import unfolded_size
from flambe_save.trust import NO_TRUST, Trust


class Thing(Component):
    """Registers whatever it is given."""

    def __init__(self, value: Any = None, inner: Any = None) -> None:
        self.value, self.inner = value, inner
        self.register_attrs("value")


class Net(Component, nn.Module):
    """A module of a given size, with a mask that is no part of the state."""

    def __init__(self, size: int, mask: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size)
        self.register_buffer("mask", torch.ones(mask, mask), persistent=False)


def save_with(folder: Path, config: str | None = None, obj: Any = None) -> Path:
    """Return a save without a manifest, with a given config."""
    path = Path(save(Thing(1) if obj is None else obj, folder / "s"))
    (path / "manifest.json").unlink()
    if config is not None:
        (path / "config.yaml").write_text(config)
    return path


# ------------------------------------------------------------------------------------------------ untrusted


@pytest.mark.parametrize("flags", [{}, {"compress": True}, {"pickle_only": True}])
def test_a_save_of_data_asks_for_nothing(flags: dict[str, bool], tmp_path: Path) -> None:
    """A save that a default load opens gives no rows."""
    assert untrusted(save(Thing({"a": 1}, Net(2)), tmp_path / "s", **flags)) == []


def asking(folder: Path, **flags: bool) -> str:
    """Return a save that asks for classes in a state, in a stash, and in a part."""
    thing = Thing(argparse.Namespace(a=1), Thing(ipaddress.IPv4Address("1.2.3.4")))
    with pytest.warns(NeedsTrustWarning):
        return save(thing, folder / "s", **flags)


def test_every_global_is_listed_with_its_place(tmp_path: Path) -> None:
    """Node, file, name and argument, for each node that would be loaded alone."""
    path = asking(tmp_path)
    fraction, counter = (f"pickled global '{name}'" for name in ("ipaddress.IPv4Address", "argparse.Namespace"))
    rows = untrusted(path)
    assert set(rows) == {
        Finding("", "state.pt", counter, "trusted=['argparse.Namespace']"),
        Finding("", "stash.pkl", counter, "trusted=['argparse.Namespace']"),
        Finding("", "stash.pkl", fraction, "trusted=['ipaddress.IPv4Address']"),
        Finding("inner", "inner/state.pt", fraction, "trusted=['ipaddress.IPv4Address']"),
        Finding("inner", "inner/stash.pkl", fraction, "trusted=['ipaddress.IPv4Address']"),
    }
    assert untrusted(path, node="inner") == [row for row in rows if row.node == "inner"]


@pytest.mark.parametrize("flags", [{}, {"compress": True}, {"pickle_only": True}])
def test_an_error_has_the_same_rows(flags: dict[str, bool], tmp_path: Path) -> None:
    """Whoever is refused learns all of it at once, and what opens it opens all of it."""
    path = asking(tmp_path, **flags)
    with pytest.raises(UntrustedError, match=r"argparse.Namespace") as info:
        load(path)
    assert list(info.value.rows) == untrusted(path) != []
    names = sorted({row.argument.split("'")[1] for row in info.value.rows})
    assert names == ["argparse.Namespace", "ipaddress.IPv4Address"]
    assert load(path, trusted=names).inner.value == ipaddress.IPv4Address("1.2.3.4")


def test_rows_of_a_config(tmp_path: Path) -> None:
    """Extensions, classes of modules that are not imported, calls, and factories that read."""
    path = save_with(
        tmp_path,
        "no_such_ext: ./ext\n---\n!test_trust.Thing\nvalue: !no_such_module.Class {}\n"
        "inner: !test_trust.Thing.load_from_path {path: x}\nlast: !call inner.get_state\n",
    )
    rows = untrusted(path)
    assert rows == [
        Finding(
            "",
            "config.yaml",
            "class 'no_such_module.Class' for the tag '!no_such_module.Class'",
            "trusted=['no_such_module']",
        ),
        Finding("", "config.yaml", "a call of '!test_trust.Thing.load_from_path'", "weights_only=False"),
        Finding("", "config.yaml", "a call of '!call inner.get_state'", "weights_only=False"),
        Finding("", "config.yaml", "import of 'no_such_ext' (installed from './ext')", "trusted=['no_such_ext']"),
    ]
    with pytest.raises(UntrustedError, match="load_from_path") as info:
        load(path)
    assert list(info.value.rows) == rows
    (path / "config.yaml").write_text("no_such_ext: ./ext\n---\n!test_trust.Thing {}\n")
    with pytest.raises(MissingExtensionError, match="no_such_ext") as info:
        load(path)
    assert list(info.value.rows) == rows[-1:]


def test_an_unknown_tag_has_rows_too(tmp_path: Path) -> None:
    """A class that is not imported is what most loads lack; the error says so as a row."""
    path = save_with(tmp_path, "!no_such_module.Class {}\n")
    with pytest.raises(RegistrationError, match="import no_such_module first") as info:
        load(path)
    assert [row.argument for row in info.value.rows] == ["trusted=['no_such_module']"]


def test_an_audit_imports_nothing(tmp_path: Path) -> None:
    """Listing what a save asks for imports none of it, not even what the environment would allow torch."""
    module = tmp_path / "pickled_by_name.py"
    module.write_text("open('marker', 'w')\nclass Thing: pass\n")
    code = (
        "import sys, pickle, pathlib, warnings; sys.path[:0] = ['.', sys.argv[1]]\n"
        "import flambe_save, test_trust\n"
        "path = pathlib.Path(flambe_save.save(test_trust.Thing(1), 's'))\n"
        "(path / 'manifest.json').unlink()\n"
        "(path / 'state.pt').write_bytes(b'\\x80\\x02cpickled_by_name\\nThing\\n)R.')\n"
        "rows = flambe_save.untrusted(path)\n"
        "try: flambe_save.load(path)\n"
        "except flambe_save.UntrustedError: print(len(rows), 'pickled_by_name' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, Path(__file__).parent],
        cwd=tmp_path,
        env={**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stdout.split() == ["1", "False"]
    assert not (tmp_path / "marker").exists()


def test_nothing_is_imported_before_all_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is trusted is not imported for a pickle that names something else too, nor for a call."""
    (tmp_path / "trusted_but_late.py").write_text("class Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = save_with(tmp_path)
    (path / "state.pt").write_bytes(b"\x80\x02(ctrusted_but_late\nThing\n)Rczlib\ncrc32\nt.")
    with pytest.raises(UntrustedError, match="zlib"):
        load(path, trusted=["trusted_but_late"])
    path = save_with(tmp_path / "2", "!test_trust.Thing {value: !trusted_but_late.Thing {}, inner: !call value.x}\n")
    with pytest.raises(UntrustedError, match="call"):
        load(path, trusted=["trusted_but_late"])
    assert "trusted_but_late" not in sys.modules


def test_classes_that_an_extension_brings_are_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an import makes known is asked for as what was known before: a factory that reads needs full trust."""
    (tmp_path / "brought_in.py").write_text("from flambe_save import Component\nclass Thing(Component): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = save_with(tmp_path, "brought_in: brought-in\n---\n!brought_in.Thing.load_from_path {path: nowhere}\n")
    with pytest.raises(UntrustedError, match="load_from_path"):
        load(path, auto_install=True)
    with pytest.raises(UntrustedError, match="load_from_path"):
        load(path, trusted=["brought_in"])


def test_an_error_names_all_of_a_kind(tmp_path: Path) -> None:
    """Two functions that are refused stand in one message, and the argument that it gives allows both."""
    path = save_with(tmp_path, "!test_trust.Thing {value: !function os.getcwd, inner: !function os.getpid}\n")
    with pytest.raises(UntrustedError, match=r"(?s)'os\.getcwd', 'os\.getpid'.*trusted=\['os.getcwd', 'os.getpid'\]"):
        load(path)


def test_stashes_are_opened_only_when_they_are_used(tmp_path: Path) -> None:
    """A state is read though a stash beside it needs trust; and trusting everything runs none that is not asked for."""
    with pytest.warns(NeedsTrustWarning):
        path = save(Thing(1, Thing(2, ipaddress.IPv4Address("1.2.3.4"))), tmp_path / "s")
    state = load_state_from_file(path)
    assert state["inner.value"] == 2
    with pytest.raises(UntrustedError):
        dict(state._metadata[""]["_flambe_stash"])


# ------------------------------------------------------------------------------------------------ saved source


SOURCE = '''
class Left(Component, nn.Module):
    """A class that is gone."""
    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, 1)


class Child(Left):
    """A class that is built on it."""
    def __init__(self, size, left):
        super().__init__(size)
        self.left = left
'''


@pytest.fixture
def gone(tmp_path: Path) -> Path:
    """Return a save of classes whose module is gone."""
    (tmp_path / "gone_module.py").write_text("from torch import nn\nfrom flambe_save import Component\n" + SOURCE)
    code = (
        "import torch, flambe_save, gone_module as m; torch.manual_seed(1)\n"
        "flambe_save.save(m.Child(3, m.Left(2)), 's')"
    )
    done = run_program(code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "gone_module.py").unlink()
    return tmp_path / "s"


def test_saved_source_is_used_only_when_asked_for(gone: Path, tmp_path: Path) -> None:
    """Classes that no module has are made from source.py; the object works, and can be saved again."""
    for options in ({}, {"auto_install": True}):
        with pytest.raises(RegistrationError, match="gone_module"):
            load(gone, **options)
    with pytest.raises(MissingExtensionError, match=r"(?s)'gone_module' cannot be imported.*use_saved_source"):
        load(gone, trusted=["gone_module"])
    again = load(gone, use_saved_source=True)
    assert type(again).__module__ == "gone_module"
    assert again.left.layer.weight.shape == (1, 2)
    assert type(load(save(again, tmp_path / "t"))) is type(again)


def test_a_trusted_module_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its own code raises is told, and not taken for its absence; a class in it may be nested."""
    (tmp_path / "raises_itself.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtensionError, match="No module named 'no_such_module_at_all'"):
        load(save_with(tmp_path, "!raises_itself.Outer.Inner {}\n"), trusted=["raises_itself"])


def test_following_the_advice_loads_it(tmp_path: Path) -> None:
    """Names that a save warns of, an error lists and a row names are enough, dill's idioms for types included."""
    with pytest.warns(NeedsTrustWarning, match=r"a load needs trusted=\[") as caught:
        path = save(Thing(collections.defaultdict(list, a=[1])), tmp_path / "s")
    names = re.search(r"trusted=(\[.*\])", str(caught[0].message))
    with pytest.raises(UntrustedError) as info:
        load(path)
    advised = re.search(r"trusted=(\[.*?\])\)", str(info.value).split("untrusted(")[0])
    assert names is not None
    assert advised is not None
    for listed in (names[1], advised[1]):
        assert load(path, trusted=ast.literal_eval(listed)).value == {"a": [1]}


def test_what_trust_by_names_cannot_unpickle(tmp_path: Path) -> None:
    """Where the names are trusted and the pickle still does not fit them, the error says what would open it."""
    path = save_with(tmp_path)
    (path / "state.pt").write_bytes(b"\x80\x02ctest_trust\nThing\n(K\x01K\x02K\x03tR.")
    with pytest.raises(LoadError, match=r"(?s)what is trusted cannot be unpickled.*TypeError.*weights_only=False"):
        load(path, trusted=["test_trust.Thing"])


@pytest.mark.parametrize("dtype", ["f4", "<i8", [("a", ">i2"), ("b", "S3")], "M8[us]"])
def test_numpy_types_are_data(dtype: Any, tmp_path: Path) -> None:
    """A type that stands on its own is numpy's own again, beside arrays of it."""
    value = np.dtype(dtype)
    again = load(save(Thing([value, {"x": (value, np.zeros(2, value))}]), tmp_path / "s")).value
    assert again[0] == again[1]["x"][0] == value
    assert isinstance(again[0], np.dtype)
    array = np.zeros(2, value)
    assert again[1]["x"][1].dtype == pickle.loads(pickle.dumps(array)).dtype


def test_saved_source_that_does_not_run(tmp_path: Path) -> None:
    """The error names the class and what it lacks."""
    path = save_with(tmp_path, "!nowhere.Lost {}\n")
    (path / "version.txt").write_text("Lost:0.0.0")
    (path / "source.py").write_text("class Lost(Missing): pass\n")
    with pytest.raises(LoadError, match=r"(?s)'nowhere.Lost' cannot be run: NameError.*import that module first"):
        load(path, use_saved_source=True)


@pytest.mark.parametrize("name", ["weights_only", "auto_install", "use_saved_source"])
def test_switches_are_switches(name: str, tmp_path: Path) -> None:
    """A text that reads like no is not taken for yes."""
    with pytest.raises(TypeError, match=f"{name} must be True or False"):
        load(save(Thing(1), tmp_path / "s"), **{name: "False"})


def test_requirements_are_texts(tmp_path: Path) -> None:
    """The error shows what was passed."""
    with pytest.raises(TypeError, match=r"a list of requirements in texts, not \[3\]"):
        load(save(Thing(1), tmp_path / "s"), auto_install=[3])  # type: ignore[list-item]


def test_an_object_that_is_built_has_a_class(tmp_path: Path) -> None:
    """A bare state alone has none; a config beside it is of one."""
    path = Path(save(Thing(1), tmp_path / "s"))
    (path / "manifest.json").unlink()
    (path / "version.txt").write_text(":0.0.0")
    with pytest.raises(CorruptSaveError, match="Class:version"):
        load(path)


# ------------------------------------------------------------------------------------------------ limits


GREEDY = {
    "one_layer": "!torch.Linear {in_features: 1000000, out_features: 1000000}",
    "many_layers": "!torch.Transformer {d_model: 2, nhead: 1, num_encoder_layers: 1000000000, dim_feedforward: 1}",
    "deep_rnn": "!torch.LSTM {input_size: 1, hidden_size: 1, num_layers: 1000000000}",
    "embedding": "!torch.Embedding {num_embeddings: 1000000000000, embedding_dim: 1}",
    "of_ours": "!test_trust.Net {size: 1, mask: 10000000}",
}


@pytest.mark.parametrize("config", GREEDY.values(), ids=GREEDY)
def test_a_config_that_builds_more_than_the_state_justifies(config: str, tmp_path: Path) -> None:
    """Memory is refused before it is taken, one large tensor or very many small ones."""
    with pytest.raises(LimitError, match=r"(?s)config builds over.*limits=Limits"):
        load(save_with(tmp_path, config))


def test_limits_can_be_raised(tmp_path: Path) -> None:
    """A buffer that no state holds may be large where the caller says so; trusting everything needs no limit."""
    path = save(Net(1, 2000), tmp_path / "s")
    with pytest.raises(LimitError):
        load(path, limits=Limits(built_bytes=1))
    assert load(path, limits=Limits(built_bytes=100_000_000)).mask.shape == (2000, 2000)
    assert load(path, weights_only=False, limits=Limits(built_bytes=1)).mask.shape == (2000, 2000)


def test_limits_are_limits(tmp_path: Path) -> None:
    """A mapping of them is refused before anything is read."""
    with pytest.raises(TypeError, match="limits takes Limits"):
        load(tmp_path, limits={"ratio": 3})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, True, "many"])
def test_limits_are_numbers(value: Any) -> None:
    """A limit that is none is refused when it is made."""
    with pytest.raises(ValueError, match="takes a number above 0"):
        Limits(members=value)


OPERATIONS: dict[str, Callable[[], Any]] = {
    "zeros": lambda: torch.zeros(10**9),
    "old_constructor": lambda: torch.FloatTensor(10**9),
    "like": lambda: torch.zeros_like(torch.zeros(1).expand(10**9)),
    "clone": lambda: torch.zeros(1).expand(10**9).clone(),
    "repeat": lambda: torch.zeros(1).repeat(10**9),
    "pad": lambda: nn.functional.pad(torch.zeros(1), (0, 10**9)),
    "range": lambda: torch.arange(10**9),
    "random": lambda: torch.randperm(10**9),
    "eye": lambda: torch.eye(20_000),
    "new": lambda: torch.zeros(1).new_ones(10**9),
    "many": lambda: [torch.zeros(1) for _ in range(10**4)],
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_every_way_to_allocate_is_counted(operation: Callable[[], Any]) -> None:
    """Whatever makes a tensor is measured before it is made."""
    with pytest.raises(LimitError), DeferredInit().counted_by(BuildBudget(NO_TRUST, 1, 4)):
        operation()


def test_the_budget_imports_nothing(tmp_path: Path) -> None:
    """torch would import its compiler, which takes seconds, for a mode that is not told to be left alone."""
    code = (
        "import sys, torch, flambe_save, test_trust; p = flambe_save.save(test_trust.Net(2), sys.argv[1])\n"
        "before = set(sys.modules); flambe_save.load(p); print(sorted(set(sys.modules) - before))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "s"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stdout.strip() == "[]"


def test_unfolded_size() -> None:
    """Shared parts count each time, a container inside itself once, and counting stops where it is enough."""
    row = [1, 2]
    loop: list[Any] = [row]
    loop.append(loop)
    doubled: Any = (1,)
    for _ in range(14):
        doubled = (doubled, doubled)
    assert [unfolded_size(value, 1000) for value in (5, "text", [row, row], {"a": {1: row}}, loop, doubled)] == [
        1,
        1,
        7,
        7,
        5,
        1001,
    ]


# ------------------------------------------------------------------------------------------------ messages


def test_messages_steer_no_terminal(tmp_path: Path) -> None:
    """What a save holds comes out of errors and warnings without control characters, and cut."""
    colour = "\x1b[31m\u202e"
    path = save_with(tmp_path, f'!test_trust.Thing {{"{"x" * 5000}\\e[31m": 1}}\n')
    with pytest.raises(ConfigError) as info:
        load(path)
    assert all(char.isprintable() or char == "\n" for char in str(info.value))
    assert max(map(len, str(info.value).split("\n"))) < 1200
    (path / "config.yaml").write_text("!test_trust.Thing {}\n")
    (path / "source.py").write_text(f"class Thing: '{colour}'\n" + "# more\n" * 1000)
    with pytest.warns(SourceChangedWarning) as caught:
        load(path)
    text = str(caught[0].message)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("\n") <= 101


def test_trust_takes_no_blanket_yes() -> None:
    """True, a text and an empty name are refused."""
    for given in (True, "os", [""], [True], None):
        with pytest.raises(TypeError, match="trusted takes a list"):
            Trust.of(trusted=given)  # type: ignore[arg-type]
    assert Trust.of(trusted=["a"]).allows("a.b")
    assert not Trust.of(trusted=["a"]).allows("ab")


def test_an_audit_reads_sparse_tensors(tmp_path: Path) -> None:
    """What torch cannot make without memory is looked at all the same."""
    assert untrusted(save({"mask": torch.eye(3).to_sparse()}, tmp_path / "save")) == []
