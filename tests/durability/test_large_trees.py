"""Trees that are wide, deep or oddly named, through all four shapes."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from durability_tools import (
    SHAPES,
    Operation,
    at,
    die,
    every_shape,
    in_child,
    needs_fork,
    needs_proc,
    open_handles,
    values_of,
    watch,
    write,
)
from helpers.places import TORTURE
from torch import nn

from flambe_save import Component, SaveError, load, load_state_from_file

Figure = Callable[[str, object], None]


class Leaf(Component):
    """One number."""

    def __init__(self, number: int = 0) -> None:
        self.value = torch.tensor(number)
        self.register_attrs("value")


class Crowd(Component):
    """Components by name, in a dict."""

    def __init__(self, members: Any = None) -> None:
        self.members = members or {}


class Link(Component):
    """One of a chain, with a name that makes paths long."""

    def __init__(self, number: int = 0, a_component_inside_this_one: Any = None) -> None:
        self.value = torch.tensor(number)
        self.a_component_inside_this_one = a_component_inside_this_one
        self.register_attrs("value")


class Layer(Component, nn.Module):
    """A module of a chain."""

    def __init__(self, number: int = 0, inner: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2,), float(number)))
        self.inner = inner


INNER: dict[type, str] = {Link: "a_component_inside_this_one", Layer: "inner"}


def chain(cls: type, depth: int, start: int = 0) -> Any:
    """Return components one inside the other; the outermost has the number ``start``."""
    obj = None
    for number in reversed(range(start, start + depth)):
        obj = cls(number, obj)
    return obj


def numbers_of(obj: Any) -> list[int]:
    """Return the numbers along a chain."""
    numbers = []
    while obj is not None:
        numbers.append(int((obj.value if isinstance(obj, Link) else obj.weight.detach()[0]).item()))
        obj = getattr(obj, INNER[type(obj)])
    return numbers


def crowd(names: Any, start: int = 0) -> Crowd:
    """Return a leaf for each name."""
    return Crowd({name: Leaf(number) for number, name in enumerate(names, start)})


def members_of(obj: Crowd) -> dict[Any, int]:
    """Return the number of each leaf."""
    return {name: int(leaf.value) for name, leaf in obj.members.items()}


# ------------------------------------------------------------------------------------------------------------- width


@every_shape
def test_many_components_in_one_parent(name: str, flags: tuple[bool, bool], deep_path: Path, figure: Figure) -> None:
    """Ten thousand parts of one parent: saved, loaded, one of them alone, and replaced by fewer."""
    count = 10_000 if TORTURE else 2000
    path = deep_path / name
    obj = crowd(f"part{number}" for number in range(count))
    begin = time.monotonic()
    write(obj, path, flags)
    saved = time.monotonic()
    again = load(path)
    figure(
        f"seconds to save and to load {count} components", (round(saved - begin, 1), round(time.monotonic() - saved, 1))
    )
    assert members_of(again) == members_of(obj)
    assert int(load(path, node=f"members.part{count - 1}").value) == count - 1
    if TORTURE:
        write(crowd(["only"]), path, flags)
        assert members_of(load(path)) == {"only": 0}
    assert os.listdir(deep_path) == [name]


# ------------------------------------------------------------------------------------------------------------- depth


def check_deep(cls: type, depth: int, path: Path, flags: tuple[bool, bool], figure: Figure) -> None:
    """Save, load, load a part alone, overwrite, and look for what was left."""
    handles, limit = open_handles(), sys.getrecursionlimit()
    obj = chain(cls, depth)
    begin = time.monotonic()
    write(obj, path, flags)
    saved = time.monotonic()
    again = load(path)
    figure(f"seconds to save and to load {depth} deep", (round(saved - begin, 1), round(time.monotonic() - saved, 1)))
    assert numbers_of(again) == list(range(depth))
    for place in (1, depth // 2, depth - 1) if TORTURE else (depth // 2,):
        part = load(path, node=".".join([INNER[cls]] * place))
        assert numbers_of(part) == list(range(place, depth))
    if TORTURE:
        assert len(load_state_from_file(path)) == depth
        write(chain(cls, depth, start=7), path, flags)
        assert numbers_of(load(path)) == list(range(7, 7 + depth))
        assert os.listdir(path.parent) == [path.name]
    write(chain(cls, 2), path, flags)
    assert numbers_of(load(path)) == [0, 1]
    assert os.listdir(path.parent) == [path.name]
    assert sum(len(files) for _, _, files in os.walk(path.parent)) == (14 if path.name == "run" else 1)
    assert open_handles() == handles
    assert sys.getrecursionlimit() == limit


@pytest.fixture
def _little_stack() -> Iterator[None]:
    """Leave room for fewer calls one inside the other than a tree of everyday tests is deep."""
    limit, depth, frame = sys.getrecursionlimit(), 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(min(limit, depth + 190))
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("_little_stack")
@every_shape
def test_a_thousand_components_deep(name: str, flags: tuple[bool, bool], deep_path: Path, figure: Figure) -> None:
    """One component inside the other, a thousand times: paths longer than the system takes in one piece."""
    check_deep(Link, 1000 if TORTURE else 220, deep_path / name, flags, figure)


@every_shape
def test_three_hundred_modules_deep(name: str, flags: tuple[bool, bool], deep_path: Path, figure: Figure) -> None:
    """torch itself recurses into modules, so three hundred is about what it stands."""
    check_deep(Layer, 300 if TORTURE else 120, deep_path / name, flags, figure)


@pytest.mark.parametrize(("name", "flags"), [("run", (False, False)), ("run.tar.gz", (True, False))])
def test_deep_with_few_handles(name: str, flags: tuple[bool, bool], deep_path: Path) -> None:
    """A deep save needs no handle for each of its folders: an ordinary limit of open files will do."""
    depth, room = (400, 256) if TORTURE else (150, 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, room), hard))
    try:
        write(chain(Link, depth), deep_path / name, flags)
        assert numbers_of(load(deep_path / name)) == list(range(depth))
        write(chain(Link, 3), deep_path / name, flags)
        assert numbers_of(load(deep_path / name)) == [0, 1, 2]
        assert os.listdir(deep_path) == [name]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@needs_fork
@needs_proc
def test_a_deep_save_that_fails_leaves_nothing(deep_path: Path) -> None:
    """What was written aside is removed however deep it is, and the old save stays."""
    depth = 600 if TORTURE else 160
    write(chain(Link, depth), deep_path / "run", (False, False))

    def fail(operation: Operation) -> None:
        raise OSError(errno.ENOSPC, "full")

    def body() -> None:
        watch(before=at(5 * depth, fail, ("write",)))
        write(chain(Link, depth, 1), deep_path / "run", (False, False))

    ended = in_child(body)
    assert ended.raised is not None
    assert ended.raised.is_a(SaveError), ended.raised
    assert os.listdir(deep_path) == ["run"]
    assert numbers_of(load(deep_path / "run")) == list(range(depth))


# ------------------------------------------------------------------------------------------------------------- names

E_ACUTE = "\N{LATIN SMALL LETTER E WITH ACUTE}"
NAMES = [
    unicodedata.normalize("NFC", E_ACUTE),
    unicodedata.normalize("NFD", E_ACUTE),
    "\N{GRINNING FACE}",
    "\N{CJK UNIFIED IDEOGRAPH-65E5}\N{CJK UNIFIED IDEOGRAPH-672C}",
    "\N{ARABIC LETTER ALEF}\N{ARABIC LETTER BEH}",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp",
    "\N{ZERO WIDTH SPACE}",
    "con",
    "CON",
    "nul.txt",
    "LPT1",
    "aux.tar.gz",
    "x" * 300,
    "x" * 299 + "y",
    "\N{SNOWMAN}" * 100,
    "a.b",
    "a..b",
    ".",
    "..",
    "...",
    ".hidden",
    "ends.",
    "/",
    "a/b",
    "//",
    "../../elsewhere/file",
    "/elsewhere/file",
    "a\\b",
    "C:\\x",
    "%",
    "%%",
    "%41",
    "100%",
    "%2F",
    "%~",
    " ",
    "  a  ",
    "tab\there",
    "line\nbreak",
    "bell\x07",
    "del\x7f",
    "State.PT",
    "state.pt",
    "manifest.json",
    "MANIFEST.json",
    "requirements.txt",
    "config.yaml",
    "W",
    "w",
    "Straße",
    "STRASSE",
    "\N{LATIN SMALL LETTER DOTLESS I}",
    "I",
    "i",
    "-rf",
    "*",
    "?",
    "<>|\"'",
    "!tag",
    "&anchor",
    "{}",
    "[]",
    "yes",
    "null",
    "~",
    "1",
    "1.5",
    "#",
    ": ",
    "- ",
    "__init__",
    "self",
    "_metadata",
]


def test_names_are_what_they_should_be() -> None:
    """The list holds each name once."""
    assert len(set(NAMES)) == len(NAMES)


@every_shape
def test_odd_names(name: str, flags: tuple[bool, bool], deep_path: Path, figure: Figure) -> None:
    """Whatever a component is called, it comes back so called; alone, too."""
    path = deep_path / name
    obj = crowd(NAMES)
    write(obj, path, flags)
    again = load(path)
    assert members_of(again) == members_of(obj)
    assert list(again.members) == list(obj.members)
    assert values_of(again) == values_of(obj)
    write(crowd(reversed(NAMES)), path, flags)
    assert os.listdir(deep_path) == [name]
    figure("odd names", len(NAMES))


@every_shape
def test_an_odd_name_alone(name: str, flags: tuple[bool, bool], deep_path: Path) -> None:
    """A component with an odd name, and another inside it, are saved without the others, and ``node=`` finds them."""
    path = deep_path / name
    for key in NAMES if TORTURE else NAMES[list(SHAPES).index(name) :: len(SHAPES)]:
        obj = Crowd({key: Crowd({key: Leaf(5)})})
        write(obj, path, flags)
        assert int(load(path).members[key].members[key].value) == 5, key
        prefixes = [prefix for prefix in load_state_from_file(path).components if prefix]
        assert len(prefixes) == 2, key
        assert int(load(path, node=max(prefixes, key=len)).value) == 5, key
        assert os.listdir(deep_path) == [name]


@every_shape
def test_keys_that_differ_by_case_as_parameters(name: str, flags: tuple[bool, bool], deep_path: Path) -> None:
    """``W`` and ``w`` are two parameters of one module."""

    obj = Weights()
    write(obj, deep_path / name, flags)
    again = load(deep_path / name)
    assert (again.W.item(), again.w.item()) == (1.0, 2.0)


class Weights(Component, nn.Module):
    """Two parameters, alike but for case."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.ones(1))
        self.w = nn.Parameter(torch.ones(1) * 2)


@needs_fork
@needs_proc
def test_a_deep_leftover_is_removed(deep_path: Path) -> None:
    """What a killed process left of a deep save is removed by the next save, however deep it is."""
    path = deep_path / "run"
    depth = 1000 if TORTURE else 200

    def doomed() -> None:
        watch(before=at(5 * depth, die, ("write",)))
        write(chain(Link, depth), path, (False, False))

    ended = in_child(doomed)
    assert ended.status == -signal.SIGKILL, ended
    assert os.listdir(deep_path) != []
    write(chain(Link, 2), path, (False, False))
    assert os.listdir(deep_path) == ["run"]
