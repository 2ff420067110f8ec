"""Run code in a Python of its own, as a program that loads what another has saved.

Each program is a fork of a template, which has imported torch and this package and done nothing with them: that is paid
once for each process of the tests, and not for each program. What is about a start of Python itself begins one with
``subprocess``.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from helpers.places import MODULES, ROOT

import flambe_save

SECONDS = 300


class Done(NamedTuple):
    """What became of a program."""

    returncode: int  # below zero where a signal ended it
    stdout: str
    stderr: str


def run_program(
    code: str,
    *arguments: object,
    folder: Path | None = None,
    places: Sequence[Path] = (),
    warnings: Sequence[str] = (),
) -> Done:
    """Run code with ``sys.argv[1:]`` in a process of its own.

    Parameters
    ----------
    code : str
    *arguments : object
    folder : Path, optional
        The current directory; modules there are found, as from ``python -c``.
    places : sequence of Path
        Where further modules are found.
    warnings : sequence of str
        As the option ``-W`` of Python.
    """
    with tempfile.TemporaryDirectory() as outputs:
        asked = {
            "code": code,
            "arguments": [*map(str, arguments)],
            "folder": str(folder or Path.cwd()),
            "path": ["", *map(str, places), str(ROOT)],
            "warnings": [*warnings],
            "environment": {**os.environ, "HF_HUB_OFFLINE": "1"},
            "threads": torch.get_num_threads(),  # as many as here: sums depend on how they are split
            "seconds": SECONDS,
            "outputs": outputs,
        }
        template = _template()
        assert template.stdin is not None
        assert template.stdout is not None
        template.stdin.write(json.dumps(asked) + "\n")
        template.stdin.flush()
        returncode = int(template.stdout.readline())
        shown = [(Path(outputs) / name).read_text("utf-8", "replace") for name in ("stdout", "stderr")]
    return Done(returncode, *shown)


def run_python(code: str, *arguments: object) -> Any:
    """Run code that finds the modules of the tests, and return the JSON in the last line that it prints."""
    done = run_program(code, *arguments, places=MODULES)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def _template() -> subprocess.Popen[str]:
    command = [sys.executable, "-X", "utf8", "-c", _TEMPLATE]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    started = subprocess.Popen(command, env=found, **pipes)  # type: ignore[call-overload]
    assert started.stdin is not None
    atexit.register(lambda: (started.stdin.close(), started.wait()))  # type: ignore[union-attr]
    return started


_TEMPLATE = """
import atexit, json, os, signal, sys, threading, traceback, types, warnings
import torch, flambe_save
flambe_save.save, flambe_save.load  # imports what they need

def program(asked):
    for number, name in (1, "stdout"), (2, "stderr"):
        os.dup2(os.open(os.path.join(asked["outputs"], name), os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.alarm(asked["seconds"])
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["-c", *asked["arguments"]]
    sys.path[:0] = asked["path"]
    for text in asked["warnings"]:
        warnings._setoption(text)
    torch.set_num_threads(asked["threads"])
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    status = 0
    try:
        exec(compile(asked["code"], "<string>", "exec"), main.__dict__)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            program(json.loads(line))
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
"""


def there_and_here(folder: Path, made: dict[str, Any], module: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Save models here, load them in another process, and return the folder and what both tell of them.

    ``module`` is a test module with ``MODELS``, name -> (function, inputs), and ``facts``, which returns what can be
    compared and all outputs in one tensor.
    """
    tests, here = sys.modules[module], {}
    for name, model in made.items():
        told, outputs = tests.facts(model, tests.MODELS[name][1])
        here[name] = {**told, "same outputs": True}
        flambe_save.save(model, folder / name)
        torch.save(outputs, folder / f"{name}.pt")
    return folder, here, run_python(_LOAD, module, folder)


_LOAD = """
import importlib, json, pathlib, sys, torch, flambe_save
tests, folder, told = importlib.import_module(sys.argv[1]), pathlib.Path(sys.argv[2]), {}
for name, (_, inputs) in tests.MODELS.items():
    model = flambe_save.load(folder / name)
    expected = torch.load(folder / f"{name}.pt")
    facts, outputs = tests.facts(model, inputs)
    told[name] = {**facts, "same outputs": torch.equal(outputs, expected)}
print(json.dumps(told))
"""
