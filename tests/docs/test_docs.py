"""The docs run: code blocks of the README and docs, and examples in docstrings; names in the docs exist."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shutil
import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from helpers.places import ROOT

import flambe_save
from flambe_save.registry import ADAPTERS

FLAMBE = ROOT / "tests" / "golden" / "flambe_0_4"  # a save of Flambe and the module with its classes
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
DOCS = [page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs").glob("**/*.md"))]
APART = ["docs/cli.md", "docs/faq.md"]  # a transcript, which test_cli_docs.py runs, and errors, which have a test below
PAGES = ["README.md", *(page for page in DOCS if page not in APART and BLOCK.search((ROOT / page).read_text()))]
EXTRA = {"docs/coming_from/lightning.md": "lightning"}  # what a page needs that the tests do not
MODULES = [item.name for item in pkgutil.walk_packages(flambe_save.__path__, "flambe_save.")]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return what runs code as a script in an empty folder would; it is given the code and the page it is from."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("__main__")  # a page's classes are those of a script
    monkeypatch.setitem(sys.modules, "__main__", module)
    return lambda code, page: exec(compile(code, page, "exec"), module.__dict__)


@pytest.mark.filterwarnings("ignore::flambe_save.NeedsTrustWarning")  # a page shows one
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's, of transformers
@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_run(page: str, tmp_path: Path, program: Callable[[str, str], None]) -> None:
    """The Python blocks of a page run, in order, as one program."""
    if page in EXTRA:
        warnings.simplefilter("ignore")  # of that library
        pytest.importorskip(EXTRA[page])
    if page == "docs/coming_from/flambe.md":
        shutil.copytree(FLAMBE / "classifier", tmp_path / "classifier")
    text = (ROOT / page).read_text()
    for block in BLOCK.findall(text):
        program(block, page)
    if page == "docs/quickstart.md":
        shown = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
        assert shown is not None
        assert (tmp_path / "tagger" / "config.yaml").read_text() == shown[1]


def test_the_readme_is_short() -> None:
    """Code that runs stands on the first screen, and everything else is linked."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert lines.index("```python") < 10


def outcome(run: Callable[[], None]) -> str:
    """Return what a program says when it ends: its error, its last warning, or nothing; lines are joined."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run()
        except Exception as error:
            return " ".join(f"{type(error).__name__}: {error}".split())
    last = caught[-1:]
    return " ".join(" ".join(f"{warning.category.__name__}: {warning.message}" for warning in last).split())


def test_the_errors_of_the_faq_are_those_that_are_raised(
    tmp_path: Path, program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block before a message gives just this message, however its lines are broken; every other one gives none."""
    page = "docs/faq.md"
    monkeypatch.setattr(sys, "path", sys.path[:])  # the page adds to it, and imports a module that it writes
    monkeypatch.delitem(sys.modules, "shapes", raising=False)
    pairs = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", (ROOT / page).read_text(), re.DOTALL)
    for code, message in pairs:
        said = outcome(partial(program, code, page)).replace(f"{tmp_path}/", "")
        assert said == " ".join(message.split())
    assert sum(1 for _, message in pairs if message) >= 10


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    """The examples in a module's docstrings give what they say."""
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def kinds_table() -> str:
    """Return the table of kinds as the registry has it."""
    types: dict[str, list[str]] = {}
    for name in ADAPTERS:
        note = ADAPTERS.notes.get(name)
        if note:
            short = name.rpartition(".")[2] if name.startswith(("builtins.", "torch.")) else name
            prefix = "torch." if name.startswith("torch.") else ""
            types.setdefault(note, []).append(f"`{prefix}{short}`")
    rows = [f"| {', '.join(names)} | {note} |" for note, names in types.items()]
    return "\n".join(["| type | what is kept |", "|---|---|", *rows]) + "\n"


def test_the_table_of_kinds_is_the_registry() -> None:
    """The page of kinds has a row for each adapter; UPDATE_DOCS=1 writes it anew."""
    page = ROOT / "docs/kinds.md"
    head, table, tail = re.split(
        r"(?<=test_docs.py -->\n)(.*?)(?=<!-- end of kinds)", page.read_text(), flags=re.DOTALL
    )
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(head + kinds_table() + tail)
        table = kinds_table()
    assert table == kinds_table()


def test_relative_links_lead_somewhere() -> None:
    """A link to a file of the project is to a file that is there."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())]
    missing = [(str(page), link) for page, link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_every_example_is_on_its_page() -> None:
    """The page of examples links each program of the folder."""
    text = (ROOT / "docs" / "examples.md").read_text()
    assert [path.name for path in (ROOT / "examples").glob("*.py") if f"(../examples/{path.name})" not in text] == []


def test_every_error_is_in_its_tree() -> None:
    """The tree in the docstring of errors.py names every class of it, under its base."""
    from flambe_save import errors

    drawn = re.findall(r"\w+(?:Error|Warning)\b", errors.__doc__ or "")
    assert set(errors.__all__) <= set(drawn)


def test_format_page_names_every_file_and_key() -> None:
    """The specification mentions each file name and each key of the manifest."""
    from flambe_save import layout
    from flambe_save.formats.manifest import Manifest

    text = (ROOT / "docs" / "format.md").read_text()
    names = [*layout.NODE_FILES, *layout.ROOT_FILES, *Manifest.__dataclass_fields__]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_design_page_names_every_module() -> None:
    """The picture of the house shows each module and package."""
    text = (ROOT / "docs" / "design.md").read_text()
    units = {name.split(".")[1] for name in MODULES if not name.split(".")[1].startswith("_")}
    assert [unit for unit in sorted(units) if f"{unit}.py" not in text and f"{unit}/" not in text] == []
