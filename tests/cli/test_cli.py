"""The command: every verb on every kind of save, exit codes, documents, damage, hostile saves, terminals, pipes."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import pickle
import pty
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pytest
import rich.cells
import torch
from helpers.places import FLAMBE, ROOT
from torch import nn

import flambe_save
from flambe_save import Component, SaveTreeNode, State, diff, load, save, save_state_to_file, state_from_tree
from flambe_save.cli import looking, main
from flambe_save.cli.terminal import Terminal
from flambe_save.formats.manifest import Manifest

FLAMBES = ["classifier", "classifier_gz.tar.gz", "classifier_pkl.pkl", "linked", "shared", "stashed"]
OURS = ["a", "a.tar.gz", "a.pkl", "a.pkl.tar.gz", "a/inner", "a#inner", "odd", "stashed", "tied"]
EVERY = [*OURS, *(f"flambe/{name}" for name in FLAMBES)]
WRITING = ["migrate", "reseal", "convert", "extract", "pack", "unpack"]
VERBS = ["tree", "show", "diff", "verify", "untrusted", *WRITING, "report", "view"]
SCHEMA = json.loads((ROOT / "docs" / "cli.schema.json").read_text())


class Inner(Component, nn.Module):
    """The smaller part."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 2)


class Outer(Component, nn.Module):
    """The whole."""

    _flambe_version = "1.2.0"

    def __init__(self, inner: Inner, second: Inner, name: str = "x") -> None:
        super().__init__()
        self.inner, self.second = inner, second
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))


class Odd(Component, nn.Module):
    """Tensors of all sorts."""

    def __init__(self) -> None:
        super().__init__()
        values = [1.0, 2.0, 0.0, float("nan"), float("inf")]
        self.register_buffer("floats", torch.tensor(values))
        self.register_buffer("halves", torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("complex", torch.tensor([3 + 4j]))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("scalar", torch.tensor(7))


class Opaque:
    """Not data."""

    def __reduce__(self) -> Any:  # so that it is pickled
        return Opaque, ()


class Stashing(Component, nn.Module):
    """Takes what YAML cannot hold."""

    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)


class Result(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


def run(*argv: str) -> Result:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as end:
            code = int(end.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a program of its own that finds this package."""
    drop = ("NO_COLOR", "COLUMNS", "TERM", "PYTHONWARNINGS")
    return {
        **{name: value for name, value in os.environ.items() if name not in drop},
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TERM": "xterm",
        **more,
    }


def command(*argv: str, before: str = "", **more: str) -> Result:
    """Run the command as a program of its own; ``before`` is Python that runs first."""
    code = ["-c", f"{before}; import sys; from flambe_save.cli import main; sys.exit(main())"] if before else []
    words = [sys.executable, *(code or ["-m", "flambe_save"]), *argv]
    done = subprocess.run(words, capture_output=True, env=environment(**more), timeout=120)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def on_terminal(*argv: str, before: str = "", **more: str) -> tuple[int, str]:
    """Run the command with a terminal for both outputs; return its exit code and what the terminal got."""
    code = ["-c", f"{before}; import sys; from flambe_save.cli import main; sys.exit(main())"] if before else []
    ours, theirs = pty.openpty()
    words = [sys.executable, *(code or ["-m", "flambe_save"]), *argv]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**more)) as process:
        os.close(theirs)
        parts = []
        with contextlib.suppress(OSError):  # the other end was closed
            while part := os.read(ours, 1 << 16):
                parts.append(part)
        os.close(ours)
        process.wait(timeout=120)
    return process.returncode, b"".join(parts).decode().replace("\r\n", "\n")


def check(found: Any, *, verb: str | None = None) -> Any:
    """Compare a document with the schema of its verb, and with that of all, and return it."""
    name = "failure" if "error" in found else found["verb"]
    for schema in (SCHEMA, {"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]}):
        jsonschema.Draft202012Validator(schema).validate(found)
    assert verb in (None, found["verb"])
    return found


def make_outer(shift: float = 0.0) -> Outer:
    """Return the same object each time, but for a shift of one of its parts."""
    torch.manual_seed(0)
    made = Outer(Inner(), Inner(8))
    with torch.no_grad():
        made.second.linear.weight += shift
    return made


@pytest.fixture(scope="module")
def _saves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saves")
    outer = make_outer()
    save(outer, folder / "a")
    save(outer, folder / "a.tar.gz", compress=True)
    save(outer, folder / "a.pkl", pickle_only=True)
    save(outer, folder / "a.pkl.tar.gz", pickle_only=True, compress=True)
    save(make_outer(0.5), folder / "b")
    save(Odd(), folder / "odd")
    tied = make_outer()
    tied.inner.linear.register_parameter("again", tied.weight)
    save(tied, folder / "tied")
    with pytest.warns(flambe_save.NeedsTrustWarning):
        save(Stashing(Opaque()), folder / "stashed")
    shutil.copytree(FLAMBE, folder / "flambe")
    return folder


@pytest.fixture
def saves(_saves: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of saves, where the command runs; nothing may change them."""
    monkeypatch.chdir(_saves)
    monkeypatch.setenv("COLUMNS", "80")
    return _saves


@pytest.fixture
def copies(saves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with saves of its own, which a test may change."""
    shutil.copytree(saves / "a", tmp_path / "a")
    shutil.copytree(saves / "b", tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------------------ every verb and kind


def test_the_schema_is_one() -> None:
    """The schema is a valid one, closed everywhere, with a document for each verb."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    objects = [part for part in SCHEMA["$defs"].values() if "properties" in part]
    assert all(part["additionalProperties"] is False for part in objects)
    assert set(VERBS) <= set(SCHEMA["$defs"])


@pytest.mark.parametrize("path", EVERY)
def test_verbs_that_look_take_every_kind(path: str, saves: Path) -> None:
    """Each shows every kind of save, as text and as the document of the schema, and ends with 0."""
    before = sorted(str(item) for item in saves.rglob("*"))
    for verb in (["tree"], ["show"], ["show", "--stats"], ["verify"]):
        shown, told = run(*verb, path), run(*verb, path, "--json")
        assert (shown.code, told.code, shown.err, told.err) == (0, 0, "", ""), verb
        assert shown.out.strip()
        check(told.document, verb=verb[0])
    asked = run("untrusted", path, "--json")
    assert asked.code == (1 if check(asked.document, verb="untrusted")["findings"] else 0)
    assert run("diff", path, path).out == ""
    assert sorted(str(item) for item in saves.rglob("*")) == before


@pytest.mark.parametrize("path", ["a", "a.tar.gz", "a.pkl", "a.pkl.tar.gz"])
def test_all_kinds_tell_the_same(path: str, saves: Path) -> None:
    """The components of a save, and what is shown of one, do not depend on what the save is kept in."""
    mine, other = (run("tree", name, "--json").document["nodes"] for name in (path, "a"))
    untold = {"class_path"} if ".pkl" in path else set()
    assert [{k: v for k, v in node.items() if k not in untold} for node in mine] == [
        {k: v for k, v in node.items() if k not in untold} for node in other
    ]
    key = "#inner.linear.weight"
    mine, other = (run("show", name + key, "--stats", "--json").document["tensor_list"] for name in (path, "a"))
    assert mine == other
    assert run("diff", "a", path) == (0, "", "")


def test_tree_has_what_a_save_holds(saves: Path) -> None:
    """Classes, versions, counts with ties counted once, sizes, types and devices, in columns."""
    nodes = {node["node"]: node for node in run("tree", "a", "--json").document["nodes"]}
    assert list(nodes) == ["", "inner", "second"]
    root = nodes[""]
    assert (root["class"], root["version"], root["parameters"]) == ("Outer", "1.2.0", 6)
    kinds = {"dtypes": ["float32"], "devices": ["cpu"]}
    assert root["total"] == {"tensors": 5, "parameters": 34, "bytes": 136, **kinds}
    assert (nodes["inner"]["parent"], nodes["inner"]["dtypes"], nodes["inner"]["devices"]) == ("", ["float32"], ["cpu"])
    shown = run("tree", "a").out.splitlines()
    assert shown[3].split() == ["a", "Outer", "1.2.0", "34", "136", "B", "float32", "cpu"]
    assert [line[:9] for line in shown[4:]] == ["├─ inner ", "└─ second"]


def test_tree_says_ties_and_trust(saves: Path) -> None:
    """Tensors that are one are named, and what needs trust stands beside its component."""
    assert "one tensor: weight = inner.linear.again\n" in run("tree", "tied").out
    assert re.search(r"stashed +Stashing .*needs trust: stash\.pkl\n", run("tree", "stashed").out)


def test_tree_depth_and_order(saves: Path) -> None:
    """--depth cuts, in both outputs; --sort size puts the largest first."""
    names = ["", "inner", "second"]
    for arguments, expected in (
        ((), names),
        (("--depth", "0"), [""]),
        (("--depth", "1"), names),
        (("--sort", "size"), ["", "second", "inner"]),
    ):
        found = run("tree", "a", "--json", *arguments).document
        assert [node["node"] for node in found["nodes"]] == expected
        shown = run("tree", "a", *arguments).out.splitlines()[3:]
        assert [line.split()[0 if index == 0 else 1] for index, line in enumerate(shown)] == ["a", *expected[1:]]


@pytest.mark.parametrize("path", ["a/inner", "a#inner"])
def test_a_part_is_called_by_its_name(path: str, saves: Path) -> None:
    """A sub-folder and a component of a save are the root of what is shown."""
    assert run("tree", path).out.splitlines()[3].startswith("inner ")
    assert run("show", path).out.startswith("inner: Inner 0.0.0 (test_cli.Inner)\n10 parameters, 40 B\n")


def test_show_has_all_of_a_component(saves: Path) -> None:
    """Class, config, tensors and source are there, and of a save of Flambe the stash by its types."""
    shown = run("show", "a").out
    for part in ("(test_cli.Outer)", "34 parameters, 6 of them its own", "!test_cli.Inner", "2 x 3", "class Outer("):
        assert part in shown
    found = run("show", "flambe/stashed", "--json").document
    assert found["stash"] == [{"name": "0", "type": "torch.Tensor"}]
    stashed = run("show", "stashed", "--json").document
    assert [item["type"] for item in stashed["stash"]] == ["test_cli.Opaque"]
    assert stashed["trust"]


def test_show_counts_what_is_in_tensors(saves: Path) -> None:
    """Statistics are those of the finite elements; what has none has none."""
    found = {
        item["name"]: item["statistics"] for item in run("show", "odd", "--stats", "--json").document["tensor_list"]
    }
    floats = found["floats"]
    finite = np.array([1.0, 2.0, 0.0])
    assert (floats["nan"], floats["inf"], floats["zero"], floats["count"]) == (1, 1, 1, 5)
    expected = [finite.min(), finite.max(), finite.mean(), finite.std(), np.linalg.norm(finite)]
    assert [floats[key] for key in ("minimum", "maximum", "mean", "std", "norm")] == pytest.approx(expected)
    assert sum(floats["histogram"]) == 3
    assert found["complex"]["maximum"] == 5
    assert found["empty"]["minimum"] is None
    line = next(line for line in run("show", "odd", "--stats").out.splitlines() if line.startswith("  floats"))
    assert "█" in line


def test_show_one_tensor(saves: Path) -> None:
    """A tensor's key shows it alone."""
    shown = run("show", "a#second.linear.bias").out
    assert shown.startswith("second.linear.bias: in Inner 0.0.0 (test_cli.Inner)\n")
    assert "linear.weight" not in shown
    assert "class " not in shown
    found = run("show", "a#second.linear.bias", "--json").document
    assert (found["node"], found["name"], [item["name"] for item in found["tensor_list"]]) == (
        "second",
        "linear.bias",
        ["linear.bias"],
    )


def test_paths_and_keys_may_hold_a_number_sign(copies: Path) -> None:
    """A file that is there is no node of another, and a key keeps the rest."""
    os.rename("a", "x#y")
    assert run("tree", "x#y").code == 0
    assert run("tree", "x#y#inner").code == 0
    assert looking.split_path("b#in#ner") == ("b", "in#ner")
    assert looking.split_path("no#no#no") == ("no", "no#no")


# ------------------------------------------------------------------------------------------------ diff


def test_diff_tells_what_changed(saves: Path) -> None:
    """The changed tensor with how far it moved, a count below, and 1."""
    found = run("diff", "a", "b")
    assert found.code == 1
    assert found.out.startswith(
        "--- a\n+++ b\n\nsecond\n  ~  tensor  linear.weight  float32 2 x 8  max 0.5  mean 0.5  "
    )
    assert found.out.endswith("\ntensors changed: 1\n")
    (row,) = check(run("diff", "a", "b", "--json").document)["changes"]
    assert (row["node"], row["name"]) == ("second", "linear.weight")
    assert row["measures"]["max_abs"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--atol", "0.6"], 0),
        (["--atol", "0.4"], 1),
        (["--rtol", "1e9"], 0),
        (["--only", "config"], 0),
        (["--only", "state"], 1),
        (["--only", "config", "--only", "state"], 1),
        (["-q"], 1),
        (["--exit-code-only"], 1),
    ],
)
def test_diff_options(arguments: list[str], code: int, saves: Path) -> None:
    """Tolerances and --only leave differences out, and -q prints none."""
    found = run("diff", "a", "b", *arguments)
    assert (found.code, found.err) == (code, "")
    assert bool(found.out) == (code == 1 and arguments[0] not in ("-q", "--exit-code-only"))


def test_diff_of_parts(saves: Path) -> None:
    """Components and sub-folders are compared by themselves."""
    assert run("diff", "a#inner", "b/inner").code == 0
    assert run("diff", "a#second", "b#second").code == 1
    found = run("diff", "a#inner", "a#second")
    assert re.search(r"~  config  size +8\n", found.out) or "size" in found.out
    assert "float32 2 x 4 -> float32 2 x 8" in found.out


def test_diff_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes, versions, sources, components and ties are told, each as the function diff has it."""
    monkeypatch.chdir(tmp_path)

    def tree(version: str, name: str, source: str, children: Sequence[str]) -> State:
        def node(*below: str) -> SaveTreeNode:
            made = {key: node() for key in below}
            state = State({"x": torch.ones(2)})
            state._metadata = {"": {}}
            return SaveTreeNode(state, version, name, source, "", {}, made)

        return state_from_tree(node(*children))

    save_state_to_file(tree("1.0.0", "One", "a = 1\nb = 2\n", ["left", "both"]), "one")
    save_state_to_file(tree("2.0.0", "Two", "a = 1\nb = 3\n", ["both", "right"]), "two")
    shown = run("diff", "one", "two").out
    rows = check(run("diff", "one", "two", "--json").document)["changes"]
    assert [(row["node"], row["part"], row["name"]) for row in rows] == [
        (row.node, row.part, row.name) for row in diff("one", "two")
    ]
    for text in (
        "-  component    One 1.0.0",
        "+  component    Two 2.0.0",
        "One -> Two",
        "      -b = 2\n      +b = 3\n",
    ):
        assert text in shown
    assert shown.count("the root\n") == 1


# ------------------------------------------------------------------------------------------------ verbs that write


def test_convert_extract_pack_unpack(copies: Path) -> None:
    """Each writes what the function of its name does, says where, and refuses to replace it unasked."""
    for argv, out in (
        (["convert", "a", "c.pkl"], "c.pkl"),
        (["convert", "a", "c.tar.gz", "--level", "9"], "c.tar.gz"),
        (["convert", "a", "c.safetensors"], "c.safetensors"),
        (["extract", "a#inner", "inner"], "inner"),
        (["extract", "a#weight", "weight.npy"], "weight.npy"),
        (["pack", "a"], "a.tar.gz"),
        (["pack", "a", "p.tar.gz", "--level", "0"], "p.tar.gz"),
        (["unpack", "p.tar.gz"], "p"),
        (["unpack", "p.tar.gz", "q"], "q"),
    ):
        done = run(*argv)
        assert done.code == 0, done
        assert done.out.startswith("written: ")
        assert done.out.rstrip().endswith(out)
        again = run(*argv, "--json")
        assert again.code == 2
        assert "--overwrite" in check(again.document, verb=argv[0])["error"]["fix"]
        assert "overwrite=True" not in again.err
        told = run(*argv, "--overwrite", "--json")
        assert os.path.samefile(check(told.document, verb=argv[0])["written"], out)
    for path in ("c.pkl", "c.tar.gz", "p", "q"):
        assert run("diff", "a", path, "--only", "state").code == 0, path
    assert run("diff", "a#inner", "inner").code == 0
    assert np.load("weight.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_flambes_saves_are_converted(saves: Path, tmp_path: Path) -> None:
    """Flambe's own saves can be packed, converted and taken apart."""
    for name in ("classifier", "classifier_gz.tar.gz", "classifier_pkl.pkl"):
        out = str(tmp_path / f"{name}.safetensors")
        assert run("convert", f"flambe/{name}", out).code == 0
        assert run("extract", f"flambe/{name}#head", str(tmp_path / name / "head")).code in (0, 2)
    assert run("pack", "flambe/classifier", str(tmp_path / "p.tar.gz")).code == 0
    assert run("diff", "flambe/classifier", str(tmp_path / "p.tar.gz")).code == 0


def test_migrate_is_dry_unless_told(copies: Path) -> None:
    """Without --write nothing changes and the code is 1; with it the save is replaced, and nothing is left to do."""
    Path("newer.py").write_text(
        "from torch import nn\nfrom flambe_save import Component, migration, moved_from\n"
        "@moved_from('test_cli.Inner')\nclass Newer(Component, nn.Module):\n"
        "    _flambe_version = '1.0.0'\n"
        "    def __init__(self, size=4):\n        super().__init__()\n        self.linear = nn.Linear(size, 2)\n"
        "    @migration('0.0.0', '1.0.0')\n    def up(state):\n        return state\n"
    )
    before = (Path("a") / "manifest.json").read_bytes()
    argv = ["migrate", "a", "--import", "newer", "--json"]
    dry = command(*argv)
    assert (dry.code, check(dry.document)["written"]) == (1, None), dry
    assert {row["class_name"] for row in dry.document["changes"]} == {"Newer", "Outer"}
    assert (Path("a") / "manifest.json").read_bytes() == before
    done = command(*argv, "--write")
    assert (done.code, check(done.document)["written"]) == (0, "a"), done
    assert (Path("a") / "manifest.json").read_bytes() != before
    again = command(*argv)
    assert (again.code, again.document["changes"]) == (0, [])
    unknown = command("migrate", "a", "--import", "no_such_module")
    assert unknown.code == 2
    assert "no_such_module" in unknown.err


def test_the_page_verbs_have_documents(saves: Path, tmp_path: Path) -> None:
    """report tells where it wrote, and view where it serves, until it is interrupted."""
    out = str(tmp_path / "page.html")
    told = run("report", "a", "b", "-o", out, "--json")
    assert (told.code, check(told.document)["written"]) == (0, out)
    words = [sys.executable, "-m", "flambe_save", "view", "a", "--no-browser", "--no-stats", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        lines = [*itertools.takewhile(lambda line: line != b"}\n", process.stdout), b"}"]
        found = check(json.loads(b"".join(lines)), verb="view")
        with urllib.request.urlopen(found["url"], timeout=60) as page:  # so it is serving by now
            assert b"<html" in page.read()
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    assert found["url"].startswith("http://127.0.0.1:")
    assert code == 0


def test_show_takes_modules_and_parts(saves: Path) -> None:
    """A module that is no component is shown with its tensors, a value in full, and --only leaves the rest out."""
    found = check(run("show", "a#inner.linear", "--json").document)
    assert [item["name"] for item in found["tensor_list"]] == ["linear.weight", "linear.bias"]
    assert (found["name"], found["config"]) == ("linear", "")
    only = check(run("show", "a", "--only", "config", "--json").document)
    assert only["config"]
    assert not only["source"]
    assert only["tensor_list"] == only["values"] == []


def test_what_takes_whole_saves_says_so(copies: Path) -> None:
    """A component is no source of convert, and a name of another kind of archive no target."""
    assert "flambe-save extract a#inner OUT" in run("convert", "a#inner", "x").err
    assert ".tar.gz" in run("convert", "a", "x.tgz").err
    assert sorted(path.name for path in copies.glob("x*")) == []


def test_a_page_is_replaced_when_told(copies: Path) -> None:
    """--overwrite replaces the page, and never a folder; without it the page stays."""
    (copies / "page.html").write_text("old")
    assert run("report", "a", "-o", "page.html").code == 2
    assert (copies / "page.html").read_text() == "old"
    assert run("report", "a", "-o", "page.html", "--overwrite").code == 0
    assert "<html" in (copies / "page.html").read_text()
    assert run("report", "a", "-o", "b", "--overwrite").code == 2
    assert (copies / "b" / "manifest.json").is_file()


@pytest.mark.parametrize("paths", [["d"], ["a", "d"]])
def test_a_page_of_what_is_damaged(paths: list[str], copies: Path) -> None:
    """What is found damaged on the way is on the page, and the code is 2."""
    shutil.copytree("a", "d")
    damage_bit(copies / "d")
    assert run("report", *paths, "-o", "page.html").code == 2
    assert "does not match its checksum" in (copies / "page.html").read_text()


def test_a_page_says_whole_of_what_was_read(copies: Path) -> None:
    """A file that no component has is compared too; without the tensors nothing is, and the page says so."""
    with open("a/requirements.txt", "a") as file:
        file.write("# more\n")
    told = run("report", "a", "-o", "page.html")
    assert (told.code, "damaged: requirements.txt" in told.out) == (2, True)
    assert run("report", "a", "-o", "quick.html", "--no-stats").code == 0
    assert '"verified":false' in (copies / "quick.html").read_text()


def test_no_name_makes_lines_long(copies: Path) -> None:
    """A class with a name of 100,000 letters is cut, so that it does not pad every other line."""
    shutil.copytree("a", "d")
    manifest = Manifest.from_json((copies / "d" / "manifest.json").read_bytes())
    manifest.nodes["inner"]["class"] = "X" * 100_000
    (copies / "d" / "manifest.json").write_bytes(manifest.to_json())
    assert max(map(len, run("tree", "d").out.splitlines())) < 500


def test_tree_lists_modules(saves: Path) -> None:
    """Modules that are no components stand where they are, with what is in them; --depth counts them."""
    found = check(run("tree", "a", "--modules", "--json").document)
    assert [module["name"] for module in found["modules"]] == ["inner.linear", "second.linear"]
    assert found["nodes"] == check(run("tree", "a", "--json").document)["nodes"]
    lines = run("tree", "a", "--modules").out.splitlines()
    assert [line.split()[-6] for line in lines if "linear" in line] == ["-", "-"]
    assert "linear" not in run("tree", "a", "--modules", "--depth", "1").out


# ------------------------------------------------------------------------------------------------ errors


def test_trouble_is_2_and_names_what_is_near(saves: Path) -> None:
    """No save, no such component, no such verb or a wrong option: 2, with what is near or wrong."""
    for argv, text in (
        (["tree", "aa"], "'a'"),
        (["tree", "a#iner"], "'inner'"),
        (["show", "a#inner.linear.weigth"], "'inner.linear.weight'"),
        (["diff", "a", "nosuch"], "nosuch"),
        (["tre", "a"], "tree"),
        (["tree", "a", "--depth", "-1"], "--depth: '-1' is not 0, or a number above"),
        (["diff", "a", "b", "--atol", "nan"], "--atol: 'nan' is not 0, or a number above"),
        (["diff", "a", "b", "--only", "states"], "state"),
        (["diff", "a", "b", "-q", "--json"], "not allowed"),
        (["diff", "a"], "B"),
        (["tree", "a", "--dep", "1"], "--dep"),
        (["tree", __file__], "not a save"),
        (["extract", "a", "a"], "already"),
        (["extract", "a#inner.linear.bias", "x.tar.gz"], ".npy"),
        (["convert", "a", "x.pt"], "torch.save"),
        (["unpack", "a"], "not an archive"),
    ):
        found = run(*argv)
        assert (found.code, found.out) == (2, ""), argv
        assert text in found.err, argv
        assert "Traceback" not in found.err
    near = run("show", "a#inner.linear.weigth").err
    assert near.count("'inner.linear.weight'") == 1


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("report", "view")])
def test_errors_are_documents_too(verb: str, saves: Path, tmp_path: Path) -> None:
    """With --json there is always a document on the standard output, and the sentence on the other."""
    more = {"diff": ["a"], "convert": [str(tmp_path / "o")], "extract": [str(tmp_path / "o")]}.get(verb, [])
    found = run(verb, "nosuch", *more, "--json")
    error = check(found.document, verb=verb)["error"]
    assert (found.code, error["type"]) == (2, "SaveNotFoundError")
    assert error["message"] in found.err


def test_a_bug_is_trouble_and_no_difference(saves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw ends with 2, where Python would end with 1; what it says cannot steer the terminal."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("\x1b[31mboo")

    monkeypatch.setattr(looking, "open_save", fail)
    found = run("tree", "a", "--json")
    assert found.code == 2
    assert check(found.document)["error"]["type"] == "RuntimeError"
    assert "\\x1b[31mboo" in found.err
    assert "\x1b" not in found.err


def test_interrupting_is_130(saves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends quietly, with the code that a shell gives it."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(looking, "open_save", interrupt)
    assert run("tree", "a") == (130, "", "")


def test_warnings_are_ours_alone(saves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this package are one line; those of libraries are not the reader's concern."""
    import warnings

    real = looking.open_save

    def warning(*args: Any, **options: Any) -> Any:
        warnings.warn("theirs", DeprecationWarning, stacklevel=1)
        warnings.warn("ours", flambe_save.FlambeSaveWarning, stacklevel=1)
        return real(*args, **options)

    monkeypatch.setattr(looking, "open_save", warning)
    assert run("tree", "a").err == "flambe-save: warning: ours\n"


# ------------------------------------------------------------------------------------------------ damage


def damage_missing(folder: Path) -> None:
    """Take a file away."""
    (folder / "inner" / "state.pt").unlink()


def damage_cut(folder: Path) -> None:
    """Cut a state."""
    os.truncate(folder / "inner" / "state.pt", 300)


def damage_bit(folder: Path) -> None:
    """Flip a bit in a tensor's values."""
    path = folder / "inner" / "state.pt"
    data = bytearray(path.read_bytes())
    values = torch.load(path)["linear.weight"].numpy().tobytes()
    data[data.index(values) + 5] ^= 1
    path.write_bytes(data)


def damage_source(folder: Path) -> None:
    """Change a text."""
    with open(folder / "inner" / "source.py", "a") as file:
        file.write("# changed\n")


def damage_manifest(folder: Path) -> None:
    """Break the manifest."""
    (folder / "manifest.json").write_text("{")


def damage_folder(folder: Path) -> None:
    """Take a component away."""
    shutil.rmtree(folder / "inner")


# What each verb can know: 2 where it reads what is damaged
DAMAGE = {
    damage_missing: {"tree": 2, "show": 2, "show --stats": 2, "verify": 2, "diff": 2},
    damage_cut: {"tree": 0, "show": 2, "show --stats": 2, "verify": 2, "diff": 2},
    damage_bit: {"tree": 0, "show": 0, "show --stats": 2, "verify": 2, "diff": 2},
    damage_source: {"tree": 0, "show": 2, "show --stats": 2, "verify": 2, "diff": 2},
    damage_manifest: {"tree": 2, "show": 2, "show --stats": 2, "verify": 2, "diff": 2},
    damage_folder: {"tree": 2, "show": 2, "show --stats": 2, "verify": 2, "diff": 2},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_of_a_damaged_save_all_else_is_shown(damage: Any, copies: Path) -> None:
    """What can be read is shown, what cannot is named, and the code is 2, as text and as JSON."""
    shutil.copytree("a", "d")
    damage(copies / "d")
    for verb, code in DAMAGE[damage].items():
        name, *options = verb.split()
        path = "d#inner" if name == "show" else "d"
        argv = [name, *(["a"] if name == "diff" else []), path, *options]
        shown, told = run(*argv), run(*argv, "--json")
        assert (shown.code, told.code, told.err) == (code, code, ""), verb
        found = check(told.document)
        rows = [row for row in found["changes"] if row["part"] == "damage"] if name == "diff" else found["damage"]
        assert bool(rows) == ("damaged" in shown.out) == (code == 2), verb
        if name == "tree":
            assert [node["node"] for node in found["nodes"]] == ["", "inner", "second"]
            assert "└─ second" in shown.out
    other = run("show", "d#second", "--stats")
    assert other.code == (2 if damage is damage_manifest else 0)
    assert "linear.weight" in other.out
    assert "size: 8" in other.out
    assert run("diff", "a", "d", "-q").code in (1, 2)


def test_a_damaged_archive_and_pickle(saves: Path, tmp_path: Path) -> None:
    """Where nothing can be read, that is trouble for every verb, with a sentence."""
    for name in ("a.tar.gz", "a.pkl"):
        data = (saves / name).read_bytes()
        cut = tmp_path / name
        cut.write_bytes(data[: len(data) // 2])
        for verb in ("tree", "show", "verify"):
            found = run(verb, str(cut), "--json")
            assert found.code == 2, (name, verb)
            check(found.document)
            assert "Traceback" not in found.err
        assert run("diff", str(cut), name).code == 2


# ------------------------------------------------------------------------------------------------ hostile saves

NASTY = "\x1b[31mred\x1b]0;title\x07\n\u202egnp.[red]bold[/red]\r\x9b2J{x}%s"
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class _Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a save whose texts steer terminals, and one whose pickles and config run and import things."""
    monkeypatch.chdir(tmp_path)
    Path("modules").mkdir()
    Path("modules/evil.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\nclass Evil: pass\n")

    def node(state: State, config: str, **children: SaveTreeNode) -> SaveTreeNode:
        state._metadata = {"": {}}
        return SaveTreeNode(state, "1.0.0", NASTY, f"# {NASTY}\n", config, {}, children)

    inner = node(State({"n[red]\x1b[2J": torch.ones(1)}), f"!{'evil.Evil'} {{x: {json.dumps(NASTY)}}}\n")
    tree = node(State({"t": torch.zeros(2), "u": {"k": NASTY}}), "!evil.Evil {}\n", **{"c\x1b[1m\u202e": inner})
    save_state_to_file(state_from_tree(tree), "nasty")
    shutil.copytree("nasty", "runs")
    Path("runs/manifest.json").unlink()
    requirements = Path("runs/requirements.txt")
    requirements.unlink()
    Path("runs/stash.pkl").write_bytes(pickle.dumps({"0": _Runs()}, 2))
    Path("runs/config.yaml").write_text("!evil.Evil\nx: !os.system touch ran\ny: !$ 0\nz: !@ evil.Evil\n")
    Path("plain.pkl").write_bytes(pickle.dumps(_Runs(), 2))
    return tmp_path


_LOOKING = itertools.product(["tree", "show", "verify", "untrusted"], ["nasty", "runs"], [[], ["--json"]])
VERBS_ON_HOSTILE = [
    *([verb, path, *more] for verb, path, more in _LOOKING),
    ["show", "nasty", "--stats"],
    ["show", "runs", "--stats"],
    ["diff", "nasty", "runs"],
    ["diff", "runs", "nasty", "--json"],
    ["migrate", "runs"],
    ["tree", "plain.pkl"],
    ["untrusted", "plain.pkl"],
    ["verify", "plain.pkl"],
    ["pack", "runs", "out.tar.gz"],
    ["convert", "runs", "out.pkl"],
    ["convert", "runs", "out.safetensors"],
    ["extract", "runs", "out"],
    ["report", "runs", "nasty", "-o", "out.html"],
]  # fmt: skip


def test_nothing_of_a_hostile_save_is_imported_or_run(hostile: Path) -> None:
    """No verb imports the module that a config names, though it could, or runs a pickle; all end as they should."""
    script = (
        "import sys, json, io, contextlib\nfrom flambe_save.cli import main\ncodes = []\n"
        "for argv in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:\n"
        "        codes.append(main(argv))\n"
        "    assert 'Traceback' not in err.getvalue(), (argv, err.getvalue())\n"
        "print(json.dumps([codes, 'evil' in sys.modules]))\n"
    )
    env = environment(PYTHONPATH=os.pathsep.join([str(ROOT), str(hostile / "modules")]))
    words = [sys.executable, "-c", script, json.dumps(VERBS_ON_HOSTILE)]
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=300)
    assert done.stderr == ""
    codes, is_imported = json.loads(done.stdout)
    assert not is_imported
    assert set(codes) <= {0, 1, 2}
    assert not (hostile / "imported").exists()
    assert not (hostile / "ran").exists()
    subprocess.run([sys.executable, "-c", "import evil"], env=env, check=True)  # it would have told
    assert (hostile / "imported").exists()


def test_nothing_of_a_hostile_save_steers_a_terminal(hostile: Path) -> None:
    """Control characters come out as text, everywhere; markup stays what it is."""
    for argv in VERBS_ON_HOSTILE:
        found = run(*argv)
        assert CONTROLS.search(found.out + found.err) is None, argv
    shown = run("tree", "nasty").out
    assert "\\x1b[31mred" in shown
    assert "[red]bold[/red]" in shown
    assert len(shown.splitlines()) == 5
    code, screen = on_terminal("show", "nasty", COLUMNS="200")
    assert code == 0
    assert CONTROLS.search(re.sub(r"\x1b\[[\d;]*m", "", screen)) is None
    assert "\x1b]" not in screen
    assert "[red]bold[/red]" in screen


# ------------------------------------------------------------------------------------------------ terminals and pipes


class Tty(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def drawn(out: io.StringIO, rows: Any, **options: Any) -> list[str]:
    """Return the lines of a table."""
    Terminal(out).table(rows, **options)
    return out.getvalue().splitlines()


def test_colour_on_a_terminal_alone(saves: Path) -> None:
    """A terminal gets colour, but not where it is not wanted, not there, or no rich is installed; a pipe never."""
    colour = re.compile(r"\x1b\[[\d;]+m")
    no_bar = "from flambe_save.cli import terminal; terminal.BAR_DELAY = 1000"  # which a slow machine would draw
    code, plain = on_terminal("diff", "a", "b", before=no_bar, NO_COLOR="1", COLUMNS="200")
    assert (code, plain) == (1, run("diff", "a", "b").out)
    code, coloured = on_terminal("diff", "a", "b", before=no_bar, COLUMNS="200")
    assert colour.search(coloured)
    assert (code, colour.sub("", coloured)) == (1, plain)
    hide = f"{no_bar}; import sys; sys.modules['rich'] = sys.modules['shtab'] = None"
    assert on_terminal("diff", "a", "b", before=hide, COLUMNS="200") == (1, plain)
    assert command("diff", "a", "b").out == plain


def test_colours_of_texts(saves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs and sources are highlighted; TERM=dumb and NO_COLOR leave them plain, an empty NO_COLOR does not."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def written() -> str:
        out = Tty()
        Terminal(out).code("class A:\n    x = 'é[red]'\n", "python")
        return out.getvalue()

    coloured = written()
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == "  class A:\n      x = 'é[red]'\n"
    monkeypatch.setenv("NO_COLOR", "")
    assert written() == coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in written()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in written()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_narrow_terminals(width: int, saves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are folded to the width of a terminal, and lose nothing; pipes get one line a row."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    wide = run("show", "odd", "--stats").out
    monkeypatch.setattr(sys, "stdout", out := Tty())
    assert main(["show", "odd", "--stats"]) == 0
    table = out.getvalue().partition("tensors\n")[2].partition("\n\n")[0]
    assert max(map(len, table.splitlines())) <= width
    assert table.split() == wide.partition("tensors\n")[2].partition("\n\n")[0].split()


def test_wide_characters_align() -> None:
    """Columns start at the same place after characters of two columns, and after those of none."""
    names = ["plain", "日本語", "e\u0301te\u0301", "ﾊﾝ", "한국어", "zero\u200bwidth", "🙂"]
    lines = drawn(io.StringIO(), [[name, "|", "x"] for name in names])
    assert len({rich.cells.cell_len(line[: line.index("|")]) for line in lines}) == 1


def test_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are flush right, the last text of a row widens no column, and empty folds take no line."""
    rows = [["a", "1", "x"], ["bb", "10", ""], ["a long one that ends here", "", ""]]
    assert drawn(io.StringIO(), rows, right=(1,)) == ["a    1  x", "bb  10", "a long one that ends here"]
    monkeypatch.setenv("COLUMNS", "11")
    assert drawn(Tty(), [["name", "text"], ["one", "a text"], ["two", ""]]) == [
        "name",
        "      text",
        "one",
        "      a text",
        "two",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_encodings(encoding: str, saves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an encoding has not is drawn in ASCII, or written as an escape; nothing fails."""
    for argv in (["tree", "a"], ["show", "odd", "--stats"], ["show", "odd", "--stats", "--json"]):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        assert main(argv) == 0
        text = raw.getvalue().decode(encoding)
        assert "\\u" not in text
        if argv[0] == "tree":
            assert ("└─ second" if encoding == "utf-8" else "`- second") in text


def test_a_c_locale(saves: Path) -> None:
    """LC_ALL=C without any help of Python's is no trouble."""
    found = command("tree", "a", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (found.code, found.err) == (0, "")
    assert "`- second" in found.out


def test_a_closed_pipe_is_no_error(saves: Path, tmp_path: Path) -> None:
    """`| head -1` ends the command quietly; a full disk is trouble, in one line."""
    made = {f"t{index}": torch.zeros(1) for index in range(5000)}
    save_state_to_file(made, tmp_path / "many")
    line = f"set -o pipefail; {sys.executable} -m flambe_save show {tmp_path}/many | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment(), timeout=120)
    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout.count("\n") == 1
    if os.path.exists("/dev/full"):
        line = f"{sys.executable} -m flambe_save tree a --json > /dev/full"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment(), timeout=120)
        assert (done.returncode, done.stderr) == (2, "flambe-save: No space left on device\n")


def test_long_work_shows_a_bar_on_a_terminal(copies: Path) -> None:
    """The bar is on the terminal, but not where it is soon over; a pipe gets none."""
    slow = "from flambe_save.cli import terminal; terminal.BAR_DELAY = 0"
    for before, shown in ((slow, True), ("", False)):
        code, screen = on_terminal("pack", "a", "--overwrite", before=before, COLUMNS="100")
        assert (code, "Packing" in screen) == (0, shown), screen
    assert "Packing" not in "".join(command("pack", "b")[1:])


# ------------------------------------------------------------------------------------------------ help and completion


def test_help_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each verb has a help that fits into 80 columns and explains all that it takes."""
    for verb in ([], *([verb] for verb in VERBS)):
        found = run(*verb, "--help")
        assert (found.code, found.err) == (0, "")
        assert max(map(len, found.out.splitlines())) <= 80, verb
        assert not verb or "--json" in found.out
    overall = run("--help").out
    assert [verb for verb in VERBS if not re.search(rf"^    {verb} ", overall, re.MULTILINE)] == []
    nothing = run()
    assert (nothing.code, nothing.out, nothing.err) == (2, "", overall)
    assert run("--version").out == f"flambe_save {flambe_save.__version__}\n"


def test_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script for bash is one, and completes verbs; without shtab the message says what to install."""
    script = run("--completion", "bash").out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    ask = "\nCOMP_WORDS=(flambe-save ver); COMP_CWORD=1; COMP_LINE='flambe-save ver'; COMP_POINT=15\n"
    function = "$(complete -p flambe-save | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
    done = subprocess.run(
        ["bash"], input=f"{script}{ask}{function} flambe-save ver flambe-save; echo ${{COMPREPLY[@]}}\n",
        text=True, capture_output=True,
    )  # fmt: skip
    assert done.stdout.split() == ["verify"]
    assert all(run("--completion", shell).code == 0 for shell in ("zsh", "tcsh"))
    monkeypatch.setitem(sys.modules, "shtab", None)
    found = run("--completion", "bash")
    assert (found.code, found.out) == (2, "")
    assert "pip install" in found.err


def test_both_ways_to_call_it(saves: Path) -> None:
    """`python -m flambe_save` and the installed script are the same function."""
    from configparser import ConfigParser

    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options.entry_points"]["console_scripts"].strip() == "flambe-save = flambe_save.cli:main"
    assert command("tree", "a") == run("tree", "a")
    assert load("a", trusted=["test_cli"]).weight.shape == (2, 3)


# ------------------------------------------------------------------------------------------------ large saves


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A save of 10,000 components and 100,000 tensors."""
    zero = torch.zeros(1)

    def node(children: dict[str, SaveTreeNode]) -> SaveTreeNode:
        state = State({f"layer.t{index}": zero for index in range(10)})
        state._metadata = {"": {}}
        return SaveTreeNode(state, "1.0.0", "Part", "", "", {}, children)

    tree = node({f"g{group}": node({f"p{index}": node({}) for index in range(99)}) for group in range(100)})
    path = tmp_path_factory.mktemp("large") / "save.tar.gz"  # a file is written faster than 60,000
    save_state_to_file(state_from_tree(tree), path, compress=True, level=1)
    yield path
    path.unlink()


def test_tree_of_a_large_save(large: Path) -> None:
    """10,000 components take a few times as long as importing torch and parsing the manifest, and bounded memory."""
    script = (
        "import time; begin = time.perf_counter(); import torch; torch_s = time.perf_counter() - begin\n"
        "import contextlib, io, json, resource, sys; from flambe_save.cli import looking, main\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "import tarfile; archive = tarfile.open(sys.argv[1])\n"
        "text = archive.extractfile(next(item for item in archive if 'manifest.json' in item.name)).read()\n"
        "begin = time.perf_counter(); json.loads(text); json_s = time.perf_counter() - begin\n"
        "before = peak(); out = io.StringIO(); begin = time.perf_counter()\n"
        "with contextlib.redirect_stdout(out): code = main(['tree', sys.argv[1]])\n"
        "tree_s = time.perf_counter() - begin\n"
        "print(json.dumps([code, out.getvalue().count('Part'), tree_s / (torch_s + json_s), peak() - before,\n"
        "    len(text) / 1e6]))\n"
    )
    words = [sys.executable, "-c", script, str(large)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=300, check=True)
    code, count, ratio, peak, size = json.loads(done.stdout)
    assert (code, count) == (0, 10_001)
    assert ratio < 3
    assert peak < 100 + 10 * size  # MB
