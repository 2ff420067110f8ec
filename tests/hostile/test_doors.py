"""Trust is given by the caller alone: each way to give it opens what it names, and nothing gives it by the way."""

from __future__ import annotations

import copyreg
import inspect
import os
import pickle
import subprocess
import sys
import tarfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import casebook
import dill
import pytest
import torch
from casebook import (
    Outer,
    Trap,
    archive,
    call,
    holder,
    holder_tar,
    listed,
    marker,
    member,
    members_of,
    named,
    outer,
    text,
    touched,
    unlisted,
    warm,
    whole,
    with_config,
)
from cases import CASES
from hostile_folders import LIES
from hostile_pickles import CALLS, PLACES, call_of, in_pickle, in_state
from sandbox import Worker, in_child

import flambe_save
from flambe_save import (
    FlambeSaveError,
    FlambeSaveWarning,
    LoadError,
    MissingExtensionError,
    RegistrationError,
    SourceChangedWarning,
    StateMismatchWarning,
    UntrustedError,
    load,
    load_state_from_file,
    save,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="cases run in forked processes")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what a load always imports."""
    warm(tmp_path_factory.mktemp("warm"))


def evil(folder: Path) -> Path:
    """Return a save that names and calls a function."""
    return in_state(folder, whole(call("casebook", "touched", text(str(marker(folder))))))


def trap(folder: Path) -> Path:
    """Return a save that names a class of the tests."""
    return in_pickle(folder, whole(b"}" + text("a") + call("casebook", "Trap", text(str(marker(folder)))) + b"s"))


# ------------------------------------------------------------------------------------------------ not by the way


@pytest.mark.parametrize("name", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"])
def test_environment(name: str, tmp_path: Path) -> None:
    """torch's environment variables widen no load."""
    paths = [evil(tmp_path)]
    paths += [
        PLACES[where](_folder(tmp_path, where), call_of("a_function")(marker(tmp_path)))
        for where in ("stash", "legacy")
    ]
    code = (
        "import sys; import casebook, flambe_save\nfor path in sys.argv[1:]:\n"
        " try: flambe_save.load(path)\n except flambe_save.UntrustedError: print('refused')"
    )
    path = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    environment = {**os.environ, name: "1", "PYTHONPATH": path}
    command = [sys.executable, "-c", code, *map(str, paths)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split() == ["refused"] * 3
    assert not marker(tmp_path).exists()


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_safe_globals(tmp_path: Path) -> None:
    """What was added to torch's list of safe globals is not on ours."""
    path = in_state(tmp_path, whole(call("casebook", "Trap", text(str(marker(tmp_path))))))
    with torch.serialization.safe_globals([Trap]), pytest.raises(UntrustedError):
        load(path)
    assert not marker(tmp_path).exists()


@pytest.mark.parametrize(
    "trusted", [True, False, "os", b"os", "", 1, None, [1], [""], ["."], [b"os"], ["a", None], object]
)
def test_no_blanket_yes(trusted: Any, tmp_path: Path) -> None:
    """``trusted`` takes a list of names, and no yes to all."""
    for function in (load, load_state_from_file):
        with pytest.raises(TypeError):
            function(evil(_folder(tmp_path, function.__name__)), trusted=trusted)
    assert not marker(tmp_path).exists()


@pytest.mark.parametrize(
    "entry",
    ["*", "ca", "caseboo", "casebook.", ".casebook", "casebook*", "casebook.touch", "CASEBOOK", "touched", "builtins"],
)
def test_names_are_whole(entry: str, tmp_path: Path) -> None:
    """An entry of ``trusted`` is a whole name, and no pattern."""
    with pytest.raises(UntrustedError):
        load(evil(tmp_path), trusted=[entry])
    assert not marker(tmp_path).exists()


def test_no_second_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that is refused is not tried again by anything that unpickles more."""
    asked: list[str] = []

    def forbid(name: str) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            asked.append(name)
            raise AssertionError(name)

        return function

    paths = [evil(_folder(tmp_path, "a")), trap(_folder(tmp_path, "b")), *_stashed(_folder(tmp_path, "c"))]
    for module, name in ((torch, "load"), (pickle, "loads"), (pickle, "load"), (dill, "load"), (dill, "loads")):
        monkeypatch.setattr(module, name, forbid(f"{module.__name__}.{name}"))
    for path in paths:
        with pytest.raises(UntrustedError):
            load(path)
    assert asked == []


def _stashed(folder: Path) -> list[Path]:
    return [PLACES["stash"](folder, call_of("a_function")(marker(folder)))]


def test_the_source_in_a_save_is_never_run(tmp_path: Path) -> None:
    """source.py is for people, also where the class is not to be found."""
    path = with_config(tmp_path, "!gone.Away {}\n")
    (path / "source.py").write_text(f"open({str(marker(tmp_path))!r}, 'w').close()\nclass Away: pass\n")
    for options in ({}, {"weights_only": False}, {"trusted": ["gone"]}):
        with pytest.raises((RegistrationError, UntrustedError, MissingExtensionError)):
            load(path, **options)
    assert not marker(tmp_path).exists()


def test_codes_are_left_as_they_were(tmp_path: Path) -> None:
    """A load leaves nothing in the registry of codes that all pickles of the process share."""

    def work() -> Any:
        copyreg.add_extension("collections", "OrderedDict", 0x7100)
        before = dict(copyreg._extension_cache)  # type: ignore[attr-defined]
        for where in ("state", "legacy"):
            try:
                load_state_from_file(PLACES[where](_folder(tmp_path, where), whole(b"\x83\x00\x71)R")))
            except FlambeSaveError:
                pass
        return before == copyreg._extension_cache  # type: ignore[attr-defined]

    assert in_child(work)


# ------------------------------------------------------------------------------------------------ each door


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the modules ``aaa``, which imports some things, and ``aaab``."""
    one, other = types.ModuleType("aaa"), types.ModuleType("aaab")

    class Own(Trap):
        pass

    Own.__module__, Own.__qualname__ = "aaa", "Own"
    one.Own, one.casebook, one.touched, one.Trap = Own, casebook, touched, Trap  # type: ignore[attr-defined]
    other.Trap = Trap  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "aaa", one)
    monkeypatch.setitem(sys.modules, "aaab", other)


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    "name",
    [
        "aaab:Trap",
        "aaa:touched",
        "aaa:Trap",
        "aaa:casebook",
        "aaa:casebook.touched",
        "aaa:Own.spring.__globals__",
        "aaab:aaa.Own",
    ],
)
def test_a_module_is_its_own(name: str, tmp_path: Path) -> None:
    """A trusted module gives what it defines; not what it imported, nor what is called alike."""
    module, _, attribute = name.partition(":")
    pushed = text(module) + text(attribute) + b"\x93"
    path = in_state(tmp_path, whole(pushed + b"(" + text(str(marker(tmp_path))) + b"tR"))
    with pytest.raises(FlambeSaveError):
        load(path, trusted=["aaa"])
    assert not marker(tmp_path).exists()


@pytest.mark.usefixtures("modules")
def test_a_class_is_itself(tmp_path: Path) -> None:
    """A trusted class opens that class, and no other of its module."""
    path = in_state(tmp_path, whole(call("aaa", "Own", text(str(marker(tmp_path))))))
    with pytest.raises(UntrustedError):
        load(path, trusted=["aaa.Other", "aaa.Own.inner", "aaa.Ow"])
    assert not marker(tmp_path).exists()
    with pytest.raises(FlambeSaveError):  # it is no state
        load(path, trusted=["aaa.Own"])
    assert marker(tmp_path).exists()


def test_trust_in_a_class_opens_it(tmp_path: Path) -> None:
    """What the caller names is unpickled."""
    state = load_state_from_file(trap(tmp_path), trusted=["casebook"])
    assert type(state["a"]) is Trap
    assert marker(tmp_path).exists()


MISSING = "---\nnot_imported_at_all: not-imported-at-all\n---\n!casebook.Holder {}\n"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Note what would be run, and fail."""
    asked: list[Any] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        return types.SimpleNamespace(returncode=1, stderr="no", stdout="")

    for name in ("run", "Popen", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, run)
    return asked


@pytest.mark.parametrize(
    "options", [{}, {"weights_only": False}, {"trusted": ["not_imported_at_all"]}, {"trusted": ["pip"]}]
)
def test_nothing_else_installs(options: dict[str, Any], pip: list[Any], tmp_path: Path) -> None:
    """Only ``auto_install`` installs."""
    with pytest.raises(MissingExtensionError):
        load(with_config(tmp_path, MISSING), **options)
    assert pip == []


def test_installing_does_not_unpickle(pip: list[Any], tmp_path: Path) -> None:
    """``auto_install`` opens configs, and no pickle."""
    for index, make in enumerate((evil, trap)):
        with pytest.raises(UntrustedError):
            load(make(_folder(tmp_path, str(index))), auto_install=True)
        assert not marker(tmp_path / str(index)).exists()
    assert pip == []


@pytest.mark.parametrize(
    "requirement", ["--index-url=http://localhost/", "-r requirements.txt", " -e .", "--help", "-"]
)
def test_pip_gets_no_options(requirement: str, pip: list[Any], tmp_path: Path) -> None:
    """What a config calls a package is no option of pip, also where installing is allowed."""
    path = with_config(tmp_path, MISSING.replace(" not-imported-at-all", f" {requirement!r}"))
    with pytest.raises(MissingExtensionError):
        load(path, auto_install=True)
    for command in pip:
        assert "--" in command[0] or not command[0][-1].startswith("-")


@pytest.mark.parametrize("options", [{"trusted": ["casebook"]}, {"auto_install": True}])
@pytest.mark.parametrize(
    "config",
    [
        "!casebook.Holder.load_from_path {path: nowhere}\n",
        "!casebook.Anything {a: !casebook.Holder {}, b: !call a.run}\n",
    ],
)
def test_nothing_else_calls(config: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Neither trust in a module nor installing opens ``!call`` and factories that read."""
    with pytest.raises(UntrustedError):
        load(with_config(tmp_path, config), **options)


def test_trust_makes_tags_of_classes_alone(tmp_path: Path) -> None:
    """A trusted module's classes may be built by tags; its functions, and what it imports from others, may not."""
    for config in ("!math.sqrt {x: 4}\n", "!casebook.Path {args: x}\n", "!casebook.zlib.crc32 {data: x}\n"):
        with pytest.raises(RegistrationError):
            load(with_config(_folder(tmp_path, config[1:14]), config), trusted=["math", "casebook", "zlib"])
    target = marker(tmp_path)
    path = with_config(_folder(tmp_path, "trap"), f"!casebook.Trap {{path: {target}}}\n")
    with pytest.raises(UntrustedError, match="Trap"):
        load(path, trusted=["math"])
    assert not target.exists()
    with pytest.warns(StateMismatchWarning, match="value"):
        load(path, trusted=["casebook.Trap"], strict=False)
    assert target.exists()


def test_only_one_module_of_two(tmp_path: Path) -> None:
    """Where one of two globals is trusted, neither is run."""
    body = call("casebook", "Trap", text(str(marker(tmp_path)))) + b"0" + named("math", "sqrt") + b"0}"
    with pytest.raises(UntrustedError):
        load(in_state(tmp_path, whole(body)), trusted=["casebook"])
    assert not marker(tmp_path).exists()


# ------------------------------------------------------------------------------------------------ looking first


REFUSED = [name for name, case in CASES.items() if UntrustedError in case.errors]


def rows_of(name: str, folder: Path) -> Any:
    """Return the rows of a case's error, and those that untrusted() finds."""
    path = CASES[name].make(folder)
    with pytest.raises(UntrustedError) as caught:
        load(path)
    return [tuple(row) for row in caught.value.rows], [tuple(row) for row in flambe_save.untrusted(path)]


@pytest.fixture(scope="module")
def child(_warm: None) -> Iterator[Worker]:
    """A process in which saves are made and looked at."""
    worker = Worker(rows_of)
    yield worker
    worker.close()


@pytest.mark.parametrize("name", [name for name in REFUSED if name.partition("-")[0] in CALLS])
def test_what_a_save_asks_for(name: str, child: Worker, tmp_path: Path) -> None:
    """untrusted() finds a row for what a load refuses, and the error has the same rows."""
    from_error, found = child(name, tmp_path)
    module, attribute, *_ = CALLS[name.partition("-")[0]]
    assert from_error == found
    wanted = f"{module.replace('__builtin__', 'builtins')}.{attribute}"
    if wanted.isprintable() and len(wanted) < 100:
        assert any(wanted in " ".join(map(str, row)) for row in found), found


@pytest.mark.parametrize(
    ("config", "argument"),
    [
        ("!casebook.Holder.load_from_path {path: nowhere}\n", "load_from_path"),
        ("!casebook.Anything {a: !casebook.Holder {}, b: !call a.run}\n", "a.run"),
        (MISSING, "not_imported_at_all"),
    ],
)
def test_what_a_config_asks_for(config: str, argument: str, tmp_path: Path) -> None:
    """Calls, factories that read and extensions have rows too."""
    path = with_config(tmp_path, config)
    rows = flambe_save.untrusted(path)
    assert any(argument in " ".join(map(str, row)) for row in rows), rows
    with pytest.raises((UntrustedError, MissingExtensionError)) as caught:
        load(path)
    assert [tuple(row) for row in caught.value.rows] == [tuple(row) for row in rows]


def test_rows_of_a_tag_to_import(tmp_path: Path) -> None:
    """A tag whose module the manifest records is a row, and the error for it has the row."""
    path = CASES["tag_in_reach"].make(tmp_path)
    sys.path.remove(str(tmp_path))
    rows = flambe_save.untrusted(path)
    assert any("imported_by_a_tag" in " ".join(map(str, row)) for row in rows), rows
    with pytest.raises(RegistrationError) as caught:
        load(path)
    assert [tuple(row) for row in caught.value.rows] == [tuple(row) for row in rows]  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [holder, outer], ids=["holder", "outer"])
def test_a_good_save_asks_for_nothing(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """No rows, and no damage."""
    path = make(tmp_path)
    assert list(flambe_save.untrusted(path)) == []
    assert list(flambe_save.verify(path)) == []


# ------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    "limits",
    [{"members": 3}, {"unpacked_bytes": 1000}, {"ratio": 1e-9, "unpacked_bytes": 5000}],
    ids=["members", "bytes", "both"],
)
def test_archives_within_limits(limits: dict[str, int], tmp_path: Path) -> None:
    """An archive of more members, or more bytes, than the caller allows is refused; others are not."""
    path = holder_tar(tmp_path)
    for function in (load, load_state_from_file):
        with pytest.raises(LoadError):
            function(path, limits=flambe_save.Limits(**limits))
        function(path, limits=flambe_save.Limits(members=100, unpacked_bytes=1 << 20))


def test_folders_that_repeat_are_members(tmp_path: Path) -> None:
    """The same folder again and again counts each time."""
    more = [member("s", type=tarfile.DIRTYPE)] * 2000
    path = archive(tmp_path / "s.tar.gz", [*more, *members_of(holder(tmp_path))])
    with pytest.raises(LoadError):
        load(path, limits=flambe_save.Limits(members=1000))


def test_what_is_built_is_within_limits(tmp_path: Path) -> None:
    """A constructor gets the memory that the state justifies, and what the caller allows beyond that."""
    small = with_config(tmp_path, "!casebook.Holder {value: !torch.Linear {in_features: 4000, out_features: 4000}}\n")
    with pytest.raises(FlambeSaveError) as caught:
        load(small, limits=flambe_save.Limits(built_bytes=1 << 16))
    assert not isinstance(caught.value, flambe_save.StateMismatchError)
    large = save(Outer(size=1500), tmp_path / "large")
    assert load(large, limits=flambe_save.Limits(built_bytes=1 << 16)).lin.in_features == 1500


# ------------------------------------------------------------------------------------------------ lies


@pytest.mark.parametrize("name", LIES)
def test_a_manifest_that_lies_changes_nothing(name: str, tmp_path: Path) -> None:
    """What the manifest says beyond files, ties and tags is for people: the folders tell the truth, or it is damage."""
    truth = load(outer(_folder(tmp_path, "good")))
    path = listed(outer(_folder(tmp_path, "bad")), LIES[name])
    try:
        found = load(path)
    except (FlambeSaveError, flambe_save.PackageVersionWarning):
        return
    assert type(found.inner) is type(truth.inner)
    assert torch.equal(found.lin.weight, truth.lin.weight)


def test_a_child_of_another_class(tmp_path: Path) -> None:
    """A part whose folder says that it is of another class, with another config, is an error or a warning."""
    path = unlisted(outer(tmp_path))
    (path / "inner" / "version.txt").write_text("Anything:0.0.0")
    (path / "inner" / "config.yaml").write_text("!casebook.Anything {}\n")
    with pytest.raises((FlambeSaveError, FlambeSaveWarning)):
        load(path)


@pytest.mark.parametrize("source", ["\x1b[31mred\x07\n", "class Holder:\n" + "    x = 1\n" * 100_000, "x" * 1_000_000])
def test_a_changed_source_is_shown_with_care(source: str, tmp_path: Path) -> None:
    """The warning of a changed source holds no escape codes, and not all of a huge one."""
    path = unlisted(holder(tmp_path))
    (path / "source.py").write_text(source)
    with pytest.warns(SourceChangedWarning) as caught:
        load(path)
    shown = str(caught[0].message)
    assert all(line.isprintable() for line in shown.replace("\t", " ").split("\n"))
    assert len(shown) < 20_000


def test_the_signature_says_no() -> None:
    """By default nothing is trusted, installed or run."""
    defaults = {name: item.default for name, item in inspect.signature(load).parameters.items()}
    assert defaults["weights_only"] is True
    assert not any(defaults.get(name) for name in ("trusted", "auto_install", "use_saved_source"))
