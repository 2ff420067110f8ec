"""Extensions: the packages that a config's first document names, and what it takes to import or install one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

import flambe_save
from flambe_save import ConfigError, MissingExtensionError, Schema, yaml
from flambe_save.classes.extensions import import_trusted
from flambe_save.trust import Trust

MODULE = """
from flambe_save import Component

class Gadget(Component):
    def __init__(self, size=1, inner=None):
        self.size = size
        self.inner = inner
"""


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Return a function that writes a module which can be imported during the test, and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, source: str = MODULE) -> str:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.setitem(sys.modules, name, None)  # so that it is taken out again after the test
        del sys.modules[name]
        return name

    return write


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stand in for pip, which fails; return the commands that it is given."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no such package\n")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def config(module: str, requirement: str = "a-requirement") -> str:
    return f"{module}: {requirement}\n---\n!{module}.Gadget\nsize: 3\n"


# ---------------------------------------------------------------------------------------------------- importing


def test_a_missing_extension_names_module_and_fix(write_module: Callable[..., str]) -> None:
    """What is not imported stays so: the error is an ImportError, names module and requirement, and what to type."""
    name = write_module("ext_missing")
    with pytest.raises(
        MissingExtensionError,
        match=r"'ext_missing' \(installed from '\./here'\).*\nimport ext_missing first, or .*trusted=\['ext_missing'\]",
    ) as caught:
        yaml.load(config(name, "./here"))
    assert isinstance(caught.value, ImportError)
    assert name not in sys.modules


def test_an_imported_extension_needs_no_trust(write_module: Callable[..., str]) -> None:
    """A module that the program has imported may be used."""
    name = write_module("ext_imported")
    module = __import__(name)
    assert type(yaml.load(config(name))()) is module.Gadget


@pytest.mark.parametrize("load", [yaml.load, lambda text, **how: yaml.load_all(text, **how)[1]])
def test_a_trusted_extension_is_imported(load: Callable[..., Schema], write_module: Callable[..., str]) -> None:
    """Naming the module in trusted allows its import, with load and load_all."""
    name = write_module("ext_trusted")
    assert load(config(name), trusted=[name])().size == 3


@pytest.mark.parametrize("trusted", [["ext"], ["ext_other_more"], ["ext_other.Gadget"], ["e"]])
def test_trust_is_for_the_module_that_was_named(trusted: list[str], write_module: Callable[..., str]) -> None:
    """Neither a prefix of the name nor a longer name nor a class inside is trust in the module."""
    name = write_module("ext_other")
    with pytest.raises(MissingExtensionError, match="ext_other"):
        yaml.load(config(name), trusted=trusted)
    assert name not in sys.modules


@pytest.mark.parametrize("trusted", ["ext_text", True, 1, [""], [True], None])
def test_trusted_is_a_list_of_names(trusted: object) -> None:
    """A text would be a list of letters, and True a blanket yes; both are refused."""
    with pytest.raises(TypeError, match="trusted takes a list"):
        yaml.load(config("ext_text"), trusted=trusted)  # type: ignore[arg-type]


def test_no_extension_is_imported_before_all_are_allowed(write_module: Callable[..., str]) -> None:
    """Where one of two extensions is not trusted, neither is imported."""
    write_module("ext_allowed")
    write_module("ext_refused")
    with pytest.raises(MissingExtensionError, match="ext_refused"):
        yaml.load("ext_allowed: x\next_refused: y\n---\n- 1", trusted=["ext_allowed"])
    assert "ext_allowed" not in sys.modules


def test_an_extension_that_is_not_installed_says_how_to_install_it(pip: list[list[str]]) -> None:
    """Trust imports and does not install."""
    with pytest.raises(MissingExtensionError, match=r"'ext_nowhere' cannot be used.*\npip install 'a-requirement'"):
        yaml.load(config("ext_nowhere"), trusted=["ext_nowhere"])
    assert pip == []


@pytest.mark.parametrize(
    "source",
    ["import ext_that_is_not_there", "from os import nothing_like_it", "def broken(:", "raise RuntimeError('no')"],
)
def test_an_extension_that_cannot_be_imported_is_an_error_of_ours(
    source: str, write_module: Callable[..., str], pip: list[list[str]]
) -> None:
    """Whatever its import raises, the error names the extension, keeps the cause, and nothing is installed."""
    name = write_module("ext_broken", source)
    with pytest.raises(MissingExtensionError, match="'ext_broken' cannot be used") as caught:
        yaml.load(config(name), trusted=[name], auto_install=True)
    assert caught.value.__cause__ is not None
    assert pip == []


@pytest.mark.parametrize("name", [".relative", "''", "a..b", "a b"])
def test_what_is_no_module_name_is_an_error_of_ours(name: str, pip: list[list[str]]) -> None:
    """A name that Python cannot import is refused, whatever is allowed."""
    with pytest.raises((MissingExtensionError, ConfigError), match=r"extension"):
        yaml.load(f"{name}: requirement\n---\n- 1", auto_install=True)
    assert pip == []


def test_trust_imports_the_modules_of_tags(write_module: Callable[..., str]) -> None:
    """Where a config names no extension, its tags and what a save recorded for them name the modules."""
    names = [write_module(f"ext_tag{number}") for number in range(4)]
    tags = ["ext_tag0.Gadget", "short", "ext_tag2.Gadget", "ext_tag3.Outer.Gadget"]
    recorded = {"short": "ext_tag1.make.Gadget"}
    import_trusted(tags, recorded, Trust.of(trusted=["ext_tag0", "ext_tag1", "ext_tag3.Outer"]))
    assert [name in sys.modules for name in names] == [True, True, False, True]


# ---------------------------------------------------------------------------------------------------- sections


@pytest.mark.parametrize("section", ["", "{}", "null", "# nothing"])
def test_an_empty_section_asks_for_nothing(section: str) -> None:
    """The section may be there and be empty."""
    assert yaml.load(f"---\n{section}\n---\n- 1") == [1]


@pytest.mark.parametrize("section", ["- os", "os: 1", "1: os", "text"])
def test_a_first_document_of_another_form_is_refused(section: str) -> None:
    """Before one config there can only be a mapping of names to requirements."""
    with pytest.raises(ConfigError, match="must map extensions"):
        yaml.load(f"{section}\n---\n- 1")


def test_load_all_gives_the_section_too() -> None:
    """load_all returns every document as it is."""
    assert yaml.load_all("sys: python\n---\n- 1\n---\n- 2") == [{"sys": "python"}, [1], [2]]


# ---------------------------------------------------------------------------------------------------- metadata


KEPT = """---
ext_kept: ./there
--- !ext_kept.Gadget
size: 3
inner: !ext_kept.Gadget
  size: 4
  inner: null
"""


def test_what_a_config_was_read_with_is_written_with_it(write_module: Callable[..., str]) -> None:
    """Schemas and objects note the extension of their class, and no other; their configs name it again."""
    schema = yaml.load(KEPT.replace("./there", "./there\nsys: python"), trusted=[write_module("ext_kept")])
    assert yaml.dump(schema) == yaml.dump(schema()) == KEPT
    assert yaml.dump(schema().inner).startswith("---\next_kept: ./there\n--- !ext_kept.Gadget\nsize: 4\n")
    assert schema.aggregate_extensions_metadata() == {"ext_kept": "./there"}


def test_containers_of_objects_name_their_extensions(write_module: Callable[..., str]) -> None:
    """The section covers all objects in a list, and comes back through a stream."""
    name = write_module("ext_listed")
    text = config(name)
    stream = io.StringIO()
    yaml.dump([yaml.load(text, trusted=[name])(), 1], stream)
    stream.seek(0)
    assert stream.getvalue().startswith("---\next_listed: a-requirement\n---\n- !ext_listed.Gadget\n")
    assert yaml.load(stream)[0].size == 3


def test_serialize_keeps_extensions(write_module: Callable[..., str]) -> None:
    """Schema.serialize tells them beside the text, and deserialize notes them again."""
    name = write_module("ext_sent")
    data = Schema.serialize(yaml.load(config(name), trusted=[name]))
    assert data["extensions"] == {"ext_sent": "a-requirement"}
    assert yaml.dump(Schema.deserialize(data)).startswith("---\next_sent: a-requirement\n---")


# ---------------------------------------------------------------------------------------------------- installing


@pytest.mark.parametrize("requirement", ["--version", "-r list.txt", "-e .", "--index-url=http://127.0.0.1:9/ x"])
def test_a_requirement_that_is_an_option_is_refused(requirement: str, pip: list[list[str]]) -> None:
    """pip never sees what begins with a dash, unless the caller has listed it."""
    for allowed in (True, ["another"]):
        with pytest.raises(MissingExtensionError, match=r"auto_install=\['.*'\]"):
            yaml.load(config("ext_option", f"'{requirement}'"), auto_install=allowed)
    assert pip == []


PLAIN = ["package", "a-b.c_d", "package>=1", "package ==1.0.*, !=1.0.2", "package~=2.1", "package===1.0+local"]
OTHER = [
    *("./package", "../package", "/package", "~/package", "dir/package", "package.whl/", "file:///package", "a b"),
    *("git+https://127.0.0.1/x", "http://127.0.0.1/x.whl", "package @ http://127.0.0.1/x.whl", "package[extra]"),
    *(
        "package; python_version>'3'",
        "package --index-url=http://127.0.0.1",
        "package\n-e .",
        "C:\\package",
        "",
        "päckage",
    ),
]


@pytest.mark.parametrize("requirement", PLAIN)
def test_names_and_versions_are_installed(requirement: str, pip: list[list[str]]) -> None:
    """With True pip is given a package's name and versions, as the save has them."""
    with pytest.raises(MissingExtensionError, match="pip failed"):
        yaml.load(config("ext_plain", json.dumps(requirement)), auto_install=True)
    assert pip[0][-1] == requirement


@pytest.mark.parametrize("requirement", OTHER)
def test_anything_else_has_to_be_listed_by_the_caller(requirement: str, pip: list[list[str]]) -> None:
    """A path, a URL or an option that a save chose never reaches pip, unless the caller has written it too."""
    text = config("ext_other", json.dumps(requirement))
    for allowed in (True, ["other"]):
        with pytest.raises(MissingExtensionError, match="auto_install"):
            yaml.load(text, auto_install=allowed)
    assert pip == []
    if requirement:
        with pytest.raises(MissingExtensionError, match="pip failed"):
            yaml.load(text, auto_install=[requirement])
        assert len(pip) == 1


def test_a_name_is_no_folder(pip: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the working directory is not installed in place of the package of that name."""
    (tmp_path / "package").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingExtensionError, match="pip failed"):
        yaml.load(config("ext_local", "package"), auto_install=True)
    assert pip[0][-1] == "package"


def test_a_failed_installation_tells_what_pip_said(pip: list[list[str]]) -> None:
    """The error ends with pip's own last words; pip was asked for just the requirement, with this interpreter."""
    with pytest.raises(MissingExtensionError, match="pip failed: ERROR: no such package"):
        yaml.load(config("ext_unknown", "no-such-package>=1"), auto_install=True)
    assert [command[0] for command in pip] == [sys.executable]
    assert pip[0][-1] == "no-such-package>=1"


def test_a_local_path_is_made_absolute(pip: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is given to pip by its full path, so that it cannot be taken for a name in an index."""
    (tmp_path / "package").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingExtensionError, match="pip failed"):
        yaml.load(config("ext_local", "package"), auto_install=["package"])
    assert pip[0][-1] == str(tmp_path / "package")


def test_what_installs_but_does_not_import_is_an_error(pip: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that installs another module than was named is told."""
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", ""))
    with pytest.raises(MissingExtensionError, match="'ext_elsewhere' cannot be used: installed, but"):
        yaml.load(config("ext_elsewhere"), auto_install=True)


BACKEND = '''
"""A build backend of its own, so that nothing is downloaded."""
import zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "ext_real-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{wheel_directory}/{name}", "w") as wheel:
        wheel.write("ext_real.py")
        info = "ext_real-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: ext_real\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
'''

PROGRAM = """
import sys
from pathlib import Path
from flambe_save import MissingExtensionError, yaml

text = "ext_real: {package}\\n---\\n!ext_real.Gadget {{size: 3}}"
try:
    yaml.load(text)
except MissingExtensionError as error:
    print(type(error).__name__)
gadget = yaml.load(text, auto_install=["{package}"])()
print(gadget.size, Path(sys.modules["ext_real"].__file__).is_relative_to(sys.prefix))
print("ext_real: {package}" in yaml.dump(gadget))
"""


def test_auto_install_installs_a_local_package(tmp_path: Path) -> None:
    """In an environment of its own, a real package is installed with pip, imported, and named in new configs."""
    package, environment = tmp_path / "package", tmp_path / "environment"
    package.mkdir()
    (package / "ext_real.py").write_text(MODULE)
    (package / "backend.py").write_text(BACKEND)
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site_packages = next(environment.glob("[Ll]ib/**/site-packages"))
    ours = [path for path in sys.path if path.endswith("-packages")]
    (site_packages / "ours.pth").write_text("\n".join([str(Path(flambe_save.__file__).parents[1]), *ours]))
    done = subprocess.run(
        [python, "-W", "error", "-c", PROGRAM.format(package=package)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    assert (done.stdout.split(), done.stderr) == (["MissingExtensionError", "3", "True", "True"], "")
