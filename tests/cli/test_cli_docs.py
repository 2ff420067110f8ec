"""The page of the command line is a real transcript: each of its blocks is run again, in order, and compared."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.places import ROOT

from flambe_save.cli import main

PAGE = ROOT / "docs" / "cli.md"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
VERSIONS = re.compile(r"\b(flambe_save|torch|\"flambe_save\":) (\"?)\d[\w.+]*")
SHELL = re.compile(r"[|;&<>$]| --import ")  # what makes it more than a command that can be run right here


class Shell:
    """Runs the lines of a transcript; a plain `flambe-save ...` in this process, which is much faster."""

    def __init__(self, folder: Path) -> None:
        self.code = 0
        command = folder / "bin" / "flambe-save"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m flambe_save "$@"\n')
        command.chmod(0o755)
        (command.parent / "python").symlink_to(sys.executable)
        path = os.pathsep.join([str(command.parent), os.environ["PATH"]])
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, line: str) -> str:
        """Run a line and return what it prints, on both outputs."""
        if line == "echo $?":
            return f"{self.code}\n"
        if line.startswith("flambe-save ") and not SHELL.search(line):
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                try:
                    self.code = main(shlex.split(line)[1:])
                except SystemExit as end:
                    self.code = int(end.code or 0)
            return out.getvalue()
        run = ["bash", "-c", f"exec 2>&1; {line.replace('python ', f'{shlex.quote(sys.executable)} ')}"]
        done = subprocess.run(run, stdout=subprocess.PIPE, env=self._environment, timeout=300)
        self.code = done.returncode
        return done.stdout.decode()


def test_the_page_is_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block gives what stands in the page, versions aside; UPDATE_DOCS=1 writes the page anew."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    shell = Shell(tmp_path)
    untold = []

    def again(block: re.Match[str]) -> str:
        kind, text = block[1], block[2]
        if kind == "python":
            name = text.partition("\n")[0].removeprefix("# ")
            Path(name).write_text(text)
            return block[0]
        lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
        shown = []
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            shown.append(f"$ {line}\n{shell.run(line)}")
            if shell.code and following != "echo $?" and line != "echo $?":
                untold.append(line)
        return f"```console\n{''.join(shown)}```"

    page = PAGE.read_text()
    real = BLOCK.sub(again, page)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(real)
        page = real
    assert VERSIONS.sub(r"\1 \2VERSION", real) == VERSIONS.sub(r"\1 \2VERSION", page)
    assert untold == []


def test_the_page_has_a_section_for_each_verb() -> None:
    """No verb is left out, and each is in a transcript but `view`, which would wait for a browser."""
    from flambe_save.cli import _VERBS

    page = PAGE.read_text()
    titles = " ".join(re.findall(r"^## (.*)$", page, re.MULTILINE))
    assert [verb for verb in _VERBS if not re.search(rf"\b{verb}\b", titles)] == []
    assert [verb for verb in _VERBS if f"$ flambe-save {verb} " not in page] == ["view"]


def test_the_page_names_each_field_of_the_documents() -> None:
    """Every property in the schema stands in the page's tables, but those of all documents."""
    schema = json.loads((ROOT / "docs" / "cli.schema.json").read_text())
    names = {name for part in schema["$defs"].values() for name in part.get("properties", ())}
    tables = "\n".join(line for line in PAGE.read_text().splitlines() if line.startswith("|"))
    missing = {name for name in names if f"`{name}`" not in tables}
    assert missing == {"flambe_save", "schema", "verb"}


def test_the_readme_shows_the_same() -> None:
    """The transcript in the README is a part of the page's."""
    blocks = [block[2] for block in BLOCK.finditer((ROOT / "README.md").read_text()) if "$ flambe-save" in block[2]]
    shown = re.split(r"^(?=\$ )", "".join(blocks), flags=re.MULTILINE)[1:]
    assert len(shown) == 2
    assert [command for command in shown if command.rstrip() not in PAGE.read_text()] == []
