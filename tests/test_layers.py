"""The house: which module may import which, and that the public names are what the docs say."""

from __future__ import annotations

import ast
import configparser
import functools
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flambe_save
from flambe_save import State, conversion

PACKAGE = Path(flambe_save.__file__).parent

# The picture in docs/design.md. A module imports from rows above its own, from its own package, and, where it stands
# alone, from modules named before it in its row.
LAYERS = [
    ["_version", "errors", "layout"],
    ["support"],
    ["registry", "state", "tree", "questions", "trust"],
    ["config", "storage", "pt"],
    ["codecs", "deferred_init"],
    ["objects"],
    ["classes"],
    ["schema"],
    ["describing"],
    ["formats", "adapters"],
    [
        *("reading", "running", "writing", "asking", "loading", "opening", "fresh", "saving", "background"),
        *("api", "filling", "migrating", "proof"),
    ],
    ["component", "dynamic", "conversion", "inspection", "page"],
    ["testing", "structure"],
    ["__init__"],
    ["cli"],
    ["__main__"],
]
PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
# What old pickles name: imports that go up
UPWARD = {f"config/{name}.py": {"schema", "describing"} for name in ("changes", "link", "schema")}
# The calls that go up: each is a name that is looked up when it is called
DOORS = {
    "flambe_save.api:load",  # SavedNode.load
    "flambe_save.describing.yaml:dump_all",  # Schema.serialize
    "flambe_save.describing.yaml:load",  # Schema.deserialize
}
# What looking into a save needs, and so none of it imports torch, dill or numpy
TORCH_FREE = (
    *("", "errors", "layout", "support", "registry", "state", "tree", "questions", "trust", "storage", "pt", "formats"),
    *("config.dialect", "config.nodes", "config.scalars", "reading", "running", "writing", "inspection", "page", "cli"),
)


def unit(path: Path) -> str:
    """Return the package or module of flambe_save that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return the units of flambe_save that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flambe_save"):
            names = (
                [node.module] if node.module != "flambe_save" else [f"flambe_save.{item.name}" for item in node.names]
            )
        elif isinstance(node, ast.Import):
            names = [item.name for item in node.names if item.name.startswith("flambe_save")]
        found |= {name.split(".")[1] if "." in name else "__init__" for name in names}
    return found


def test_every_module_has_its_place() -> None:
    """Each file belongs to a layer, and each layer's entry exists."""
    there = {unit(path) for path in PACKAGE.rglob("*.py")}
    assert there == {name for row in LAYERS for name in row}


def test_imports_go_one_way() -> None:
    """No module imports from its own row's packages or from a row below."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        here = unit(path)
        row = next(index for index, names in enumerate(LAYERS) if here in names)
        for other in imports(path) - {here} - UPWARD.get(path.relative_to(PACKAGE).as_posix(), set()):
            theirs = next(index for index, names in enumerate(LAYERS) if other in names)
            beside = theirs == row and not {here, other} & PACKAGES
            if not (theirs < row or (beside and LAYERS[row].index(other) < LAYERS[row].index(here))):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert wrong == []


def test_names_with_an_underscore_stay_in_their_module() -> None:
    """The underscore alone says what is a module's own; only packages list their public names."""
    taken, listed = [], []
    for path in sorted(PACKAGE.glob("**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flambe_save"):
                names = [name.name for name in node.names if re.match(r"_(?!_)", name.name)]
                taken += [f"{path.name}: {name}" for name in names if name != "_version"]
            elif isinstance(node, ast.Assign) and path.name not in ("__init__.py", "errors.py"):
                listed += [path.name for target in node.targets if getattr(target, "id", "") == "__all__"]
    assert taken == listed == []


def test_calls_that_go_up_are_named() -> None:
    """Only the doors that are listed here lead to a higher layer, and what they name is there."""
    found = {door for path in PACKAGE.rglob("*.py") for door in re.findall(r"\blate\(\"(.*?)\"\)", path.read_text())}
    assert found == DOORS
    for door in DOORS:
        module, _, name = door.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_no_two_modules_import_each_other() -> None:
    """Modules import no circle, types and what is imported inside functions apart."""
    graph = {name: imported(path) for name, path in modules().items()}
    graph = {name: targets & graph.keys() for name, targets in graph.items()}
    while leaves := {name for name, targets in graph.items() if not targets}:
        graph = {name: targets - leaves for name, targets in graph.items() if name not in leaves}
    assert graph == {}


@functools.cache
def modules() -> dict[str, Path]:
    """Return the package's modules by their dotted names."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> set[str]:
    """Return the names that a module imports when it is imported itself, with those of what it takes from packages."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{item.name}" for item in node.names)}
        elif isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
    # A package counts as imported only where it is all that is asked for
    return {name for name in found if not any(other.startswith(f"{name}.") and other in modules() for other in found)}


def test_the_reading_core_imports_no_torch() -> None:
    """Each module that looking into a save needs is imported without torch, dill and numpy."""
    names = ["flambe_save" + (f".{name}" if name else "") for name in TORCH_FREE]
    every = [name for name in modules() if any(name == free or name.startswith(f"{free}.") for free in names[1:])]
    late = {"flambe_save.inspection.statistics", "flambe_save.pt.elements"}  # which count, with numpy
    assert loaded_by("".join(f"import {name}\n" for name in sorted(set(every) - late))) == []


def loaded_by(code: str, *arguments: str) -> list[str]:
    """Return which of the heavy packages a fresh process has imported once it ran some code."""
    code += "\nimport sys\nprint(*sorted({'torch', 'dill', 'numpy'} & sys.modules.keys()), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stderr.split()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A save of some components, and an archive of it."""
    folder = tmp_path_factory.mktemp("saved")
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    flambe_save.save({"model": model, "run": {"epoch": 3, "note": ["a", (1, 2)]}}, folder / "run")
    conversion.pack(folder / "run", folder / "run.tar.gz")
    return folder


@pytest.mark.parametrize("name", ["run", "run.tar.gz"])
def test_looking_into_a_save_imports_no_torch(saved: Path, name: str) -> None:
    """Open, walk, read texts, list tensors and totals, verify, compare with itself: all without torch."""
    code = """
import sys, flambe_save
path = sys.argv[1]
with flambe_save.open(path) as save:
    nodes = list(save.walk())
    assert len(nodes) > 1
    for node in nodes:
        node.config, node.source, node.total, node.needs_trust, repr(node), node.class_path
        assert all(info.dtype for info in node.tensors.values())
    assert save.total.tensors == 7 and not save.verify()
assert flambe_save.verify(path) == []
assert list(flambe_save.diff(path, path)) == []
"""
    numbers = ["numpy"] if name.endswith(".gz") else []  # of what is packed all is read
    assert loaded_by(code, str(saved / name)) == numbers


@pytest.mark.parametrize("verb", ["--help", "tree", "show", "verify", "pack", "unpack"])
def test_looking_from_the_command_line_imports_no_torch(saved: Path, tmp_path: Path, verb: str) -> None:
    """The verbs that only look, or copy files as they are."""
    source = saved / ("run.tar.gz" if verb == "unpack" else "run")
    given = {"--help": [], "pack": [source, tmp_path / "out.tar.gz"], "unpack": [source, tmp_path / "out"]}
    arguments = [str(item) for item in given.get(verb, [source])]
    code = """
import sys
from flambe_save.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
assert not code, code
"""
    assert loaded_by(code, verb, *arguments) == []


@pytest.mark.parametrize("name", ["run", "run.tar.gz"])
def test_numbers_need_numpy_and_no_torch(saved: Path, tmp_path: Path, name: str) -> None:
    """Statistics of all types that a dense state can hold, and how far two saves are apart."""
    types = [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64]
    for folder, shift in (("one", 0), ("two", 1)):
        state = {str(dtype): (torch.arange(6).reshape(2, 3).t() + shift).to(dtype) for dtype in types}
        flambe_save.save_state_to_file(State(state), tmp_path / folder, compress=name.endswith(".gz"))
    suffix = name.removeprefix("run")
    code = """
import sys, flambe_save
run, one, two = sys.argv[1:]
with flambe_save.open(run) as save:
    for node in save.walk():
        for key in node.tensors:
            assert node.statistics(key).count
with flambe_save.open(one) as save:
    assert save.statistics("torch.bfloat16").mean == 2.5
    assert save.statistics("torch.bool").zero == 1
found = flambe_save.diff(one, two)
assert [change.measures.max_abs for change in found] == [1.0] * 6, found
from flambe_save.cli import main
assert main(["show", run, "--stats"]) == 0
assert main(["diff", one, two]) == 1
"""
    paths = [saved / name, tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"]
    assert loaded_by(code, *map(str, paths)) == ["numpy"]


EIGHT_BITS = [name for name in dir(torch) if name.startswith("float8_")]


@pytest.mark.parametrize("is_ours", [True, False], ids=["saved", "torch.save"])
def test_numbers_of_8_bit_floats_need_no_torch(tmp_path: Path, is_ours: bool) -> None:
    """Statistics and differences of all 256 numbers of each kind, beside other types, from any writer's pickle."""
    codes = torch.arange(256).to(torch.uint8)
    one = {name: codes.view(getattr(torch, name)) for name in EIGHT_BITS}
    two = {name: codes.flip(0).view(getattr(torch, name)) for name in EIGHT_BITS}
    expected = {name: one[name].float()[one[name].float().isfinite()] for name in one}
    least = {name: [len(found), float(found.min()), float(found.max())] for name, found in expected.items()}
    for name, state in (("one", one), ("two", two)):
        state["more"] = torch.ones(2, 3, dtype=torch.uint32).t()
        flambe_save.save_state_to_file(State(state), tmp_path / name)
        if not is_ours:
            torch.save(state, tmp_path / name / "state.pt")
            (tmp_path / name / "manifest.json").unlink()
    code = """
import json, sys, flambe_save
one, two, least = sys.argv[1:]
with flambe_save.open(one) as save:
    for name, expected in json.loads(least).items():
        found = save.statistics(name)
        assert [found.count - found.nan - found.inf, found.minimum, found.maximum] == expected, (name, found)
    assert save.statistics("more").mean == 1
changes = list(flambe_save.diff(one, two))
assert sum(change.measures is not None for change in changes) == len(json.loads(least)), changes
"""
    assert loaded_by(code, str(tmp_path / "one"), str(tmp_path / "two"), json.dumps(least)) == ["numpy"]


def test_numbers_say_that_they_need_numpy(saved: Path) -> None:
    """Where numpy is not installed, an error of ours has the pip line."""
    code = """
import sys, flambe_save
sys.modules["numpy"] = None
with flambe_save.open(sys.argv[1]) as save:
    try:
        save["model"].statistics("0.weight")
    except flambe_save.MissingDependencyError as error:
        assert "pip install numpy" in str(error)
        sys.exit(0)
sys.exit(1)
"""
    done = subprocess.run([sys.executable, "-c", code, str(saved / "run")], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_it_reads_saves_where_torch_is_not_installed(saved: Path, tmp_path: Path) -> None:
    """The package and PyYAML are enough for the verbs that look."""
    found = [importlib.util.find_spec(name) for name in ("flambe_save", "yaml", "_yaml")]
    for spec in found:
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin) if spec.submodule_search_locations is None else Path(spec.origin).parent
        (tmp_path / source.name).symlink_to(source)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for verb in ("tree", "show", "verify"):
        command = [sys.executable, "-S", "-m", "flambe_save", verb, str(saved / "run")]  # -S: no other packages
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
        assert (result.returncode, result.stderr) == (0, "")
    refused = subprocess.run(
        [sys.executable, "-S", "-c", "import flambe_save; flambe_save.load"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=120,
    )
    assert "No module named 'torch'" in refused.stderr


def test_names_are_imported_when_they_are_asked_for() -> None:
    """What is imported late is what a type checker sees, no more and no less, and is what `__all__` says."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {(node.module, item.name) for node in block.body if isinstance(node, ast.ImportFrom) for item in node.names}
    late = {**flambe_save._READING, **flambe_save._OTHERS}
    assert {(module, name) for module, names in late.items() for name in names.split()} == seen
    assert {name for _, name in seen} - {"open_save"} <= set(flambe_save.__all__) <= set(dir(flambe_save))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        flambe_save.lod  # type: ignore[attr-defined]  # noqa: B018


def test_public_names_are_sorted_and_exist() -> None:
    """`__all__` lists each public name once, and each is there."""
    names = flambe_save.__all__
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(flambe_save, name)] == []


def test_every_public_name_is_documented() -> None:
    """Each public name has a docstring of its own."""
    undocumented = [
        name
        for name in flambe_save.__all__
        if name != "__version__" and not (getattr(flambe_save, name).__doc__ or "").strip()
    ]
    assert undocumented == []


def test_import_is_quiet() -> None:
    """Importing the package makes no components, registers only its own classes, and says nothing."""
    code = (
        "import flambe_save; from flambe_save.classes.tags import TAGS;"
        "print(flambe_save.all_subclasses(flambe_save.Component), sorted(TAGS._classes))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    links = [
        f"flambe_save.config.link.{name}"
        for name in (
            *("BackLink", "FunctionCallLink", "Link", "ModuleLink", "ParameterLink", "PickledDataLink"),
            *("StoredParameter", "TensorLink", "Unbuilt"),
        )
    ]
    adapters = ("builtins.Averaging", "builtins.Parametrized", "random.RandomStates")
    rooms = [f"flambe_save.adapters.{name}" for name in adapters]
    own = [*rooms, "flambe_save.config.edited.Edited", *links, "flambe_save.config.pickled.Pickled"]
    assert (result.stdout, result.stderr) == (f"set() {own}\n", "")


def test_import_costs_little_more_than_torch() -> None:
    """Beside itself, the package imports PyYAML and small modules of Python: nothing of torch that torch leaves out."""
    code = (
        "import sys, torch; before = set(sys.modules); import flambe_save;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    cheap = {"flambe_save", "yaml", "_yaml", "dill", "isal"}
    dear = {"asyncio", "email", "http", "multiprocessing", "pydoc", "sqlite3", "ssl", "tkinter", "unittest", "xml"}
    found = {name for name in result.stdout.split() if "cython" not in name}
    assert found - cheap - (sys.stdlib_module_names - dear) == set()


def test_the_source_distribution_holds_all_that_tests_need() -> None:
    """MANIFEST.in names each folder of the repository but the package, which setuptools finds, and files that exist."""
    root = PACKAGE.parent
    lines = [line.split() for line in (root / "MANIFEST.in").read_text().splitlines()]
    grafted = {line[1] for line in lines if line[:1] == ["graft"]}
    assert {"benchmarks", "docs", "examples", "tests"} <= grafted
    included = [name for line in lines if line[:1] in (["graft"], ["include"]) for name in line[1:]]
    assert [name for name in included if not (root / name).exists()] == []


def test_extras_are_what_the_package_imports() -> None:
    """Each package of an extra for users is imported somewhere in the package, or by its name when it is there."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(PACKAGE.parent / "setup.cfg")
    extras = {name: value.split() for name, value in settings["options.extras_require"].items()}
    assert set(extras) == {"fast", "cli", "all", "bench", "test", "docs", "dev"}
    text = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    used = (*extras["fast"], *extras["cli"])
    assert [name for name in used if not re.search(rf"(import |from |import_module\(\"){name}\b", text)] == []
