"""The house: which module may import which, and that the public names are what the docs say."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import flambe_save

PACKAGE = Path(flambe_save.__file__).parent

# The picture in docs/design.md. A module imports from rows above its own, from its own package, and, where it stands
# alone, from modules named before it in its row.
LAYERS = [
    ["_version", "errors", "layout"],
    ["support"],
    ["registry", "state", "tree", "trust"],
    ["config", "storage", "codecs", "deferred_init"],
    ["objects"],
    ["classes"],
    ["schema"],
    ["describing"],
    ["formats", "adapters"],
    ["loading", "opening", "fresh", "saving", "background", "api", "filling", "proof"],
    ["component", "conversion", "inspection", "page"],
    ["testing", "structure"],
    ["__init__"],
    ["cli"],
    ["__main__"],
]
PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
# What old pickles name, and how what they find is reached: imports that go up
UPWARD = {f"config/{name}.py": {"schema", "describing"} for name in ("changes", "link", "schema")}
UPWARD["schema/schema.py"] = {"describing"}  # Schema.serialize and deserialize: named doors to yaml


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
        "import flambe_save; from flambe_save.classes.registrable import TAGS;"
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
