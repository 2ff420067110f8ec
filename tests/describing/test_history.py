"""How an object is saved depends on the object alone, and not on what the process did before."""

from __future__ import annotations

import collections
import copy
import pickle
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.saves import files_of
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

import flambe_save
from flambe_save import Component, load, recording, save
from flambe_save.adapters import ValueAdapter
from flambe_save.registry import ADAPTERS
from flambe_save.schema.schema import schema_of

NAME = "flambe_save_history"
SOURCE = """
import dataclasses, enum, typing
import torch
from torch import nn
from flambe_save import Component, recorded

T = typing.TypeVar("T")

@dataclasses.dataclass
class Data:
    width: int = 1
    items: list = dataclasses.field(default_factory=list)

@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: int

@dataclasses.dataclass
class Box(typing.Generic[T]):
    value: T

class Point(typing.NamedTuple):
    x: int

class Flags(enum.Flag):
    A = 1
    B = 2

class Plain:
    def __init__(self, model):
        self.model, self.shadow = model, {k: v.clone() for k, v in model.state_dict().items()}

class Stateful:
    n = 0
    def state_dict(self):
        return {"n": self.n}
    def load_state_dict(self, state):
        self.n = state["n"]

class Body:
    def __init__(self, size=3):
        super().__init__()
        self.layer, self.seen = nn.Linear(size, size), 0
        self.register_buffer("table", torch.arange(3.0))
    def forward(self, x):
        return self.layer(x)

class Net(Body, nn.Module):
    __constants__ = ["seen"]

class First(Body, Component, nn.Module):
    pass

class Last(Body, nn.Module, Component):
    pass

@recorded
class Recorded(Body, nn.Module):
    pass

class Alone(Component):
    def __init__(self, words=()):
        self.words = list(words)
        self.register_attrs("words")
"""


def objects(module: Any) -> dict[str, Any]:
    """Return one object of each kind, of the classes of a module; always with the same values."""
    torch.manual_seed(0)
    net = module.Net()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return {
        "dataclass": module.Data(2, [1]),
        "slotted": module.Slotted(2),
        "generic": module.Box[int](3),
        "named tuple": module.Point(1),
        "flags": module.Flags.A | module.Flags.B,
        "object": {"model": net, "ema": module.Plain(net)},
        "stateful": module.Stateful(),
        "module": net,
        "component, a module": module.First(),
        "module, a component": module.Last(),
        "component": module.Alone(["a"]),
        "recorded": module.Recorded(),
        "torch's": nn.Sequential(nn.Linear(3, 3), nn.ReLU()),
        "recurrent": nn.LSTM(2, 2),
        "run": {"model": net, "optimizer": optimizer},
        "tensors": [torch.arange(3), net.state_dict()],
        "containers": [collections.defaultdict(list, a=[1]), collections.deque([1], 3), {1, 2}],
        "names": [module.Net, nn.functional.relu],
    }


def files(obj: Any, path: Path) -> dict[str, bytes]:
    """Save an object and return the bytes of all files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class among the values needs trust
        where = Path(save(obj, path, overwrite=True))
    return files_of(where)


def saved(items: dict[str, Any], path: Path) -> dict[str, dict[str, bytes]]:
    """Save each of several objects."""
    return {name: files(obj, path) for name, obj in items.items()}


def in_threads(items: dict[str, Any], path: Path) -> None:
    """Save the objects in two threads at once."""
    threads = [threading.Thread(target=saved, args=(items, path / str(number))) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def compiled(items: dict[str, Any], path: Path) -> None:
    """Compile each module that takes three numbers, beside itself and in place, and run it."""
    for name in ("module", "component, a module", "module, a component", "recorded", "torch's"):
        torch.compile(items[name], backend="eager")(torch.ones(1, 3))
        items[name].compile(backend="eager")
        items[name](torch.ones(1, 3))


def compiled_by_lightning(items: dict[str, Any], path: Path) -> None:
    """Compile each module, and note how on it, as torch.compile does once lightning is imported."""
    compiled(items, path)
    for name in ("module", "component, a module", "module, a component", "recorded", "torch's"):
        items[name]._compile_kwargs = {"backend": "eager"}


def scripted(items: dict[str, Any], path: Path) -> None:
    """Compile torch's modules as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that TorchScript is to go
        torch.jit.script(items["torch's"])
        torch.jit.script(items["recurrent"])


def recorded(items: dict[str, Any], path: Path) -> None:
    """Build others of the same classes inside a recording."""
    with recording():
        for obj in items.values():
            if isinstance(obj, nn.Module) and type(obj).__module__ == NAME:
                type(obj)(2)


def each(do: Callable[[Any], Any]) -> Callable[[dict[str, Any], Path], None]:
    """Return what does something with each object."""
    return lambda items, path: collections.deque((do(obj) for obj in items.values()), 0) and None


HISTORIES: dict[str, Callable[[dict[str, Any], Path], Any]] = {
    "copy": each(copy.copy),
    "deepcopy": each(copy.deepcopy),
    "pickle": each(lambda obj: pickle.loads(pickle.dumps(obj))),
    "first save": saved,
    "threads": in_threads,
    "compile": compiled,
    "compile with lightning": compiled_by_lightning,
    "script": scripted,
    "recording": recorded,
}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return a function that gives the module's classes anew, which nothing has happened to yet."""

    def make() -> Any:
        module = types.ModuleType(NAME)
        monkeypatch.setitem(sys.modules, NAME, module)
        exec(SOURCE, module.__dict__)
        return module

    return make


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, bytes]]]:
    """Save one of each kind before anything else was done."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        module = types.ModuleType(NAME)
        monkeypatch.setitem(sys.modules, NAME, module)
        exec(SOURCE, module.__dict__)
        yield saved(objects(module), tmp_path_factory.mktemp("reference") / "save")


def differing(one: dict[str, dict[str, bytes]], other: dict[str, dict[str, bytes]]) -> dict[str, Any]:
    """Return the files that differ, by the kinds of objects."""
    files = {kind: {*one[kind], *other[kind]} for kind in other}
    pairs = {kind: {name: (one[kind].get(name), other[kind].get(name)) for name in files[kind]} for kind in files}
    found = {kind: {name: both for name, both in pairs[kind].items() if both[0] != both[1]} for kind in pairs}
    return {kind: names for kind, names in found.items() if names}


@pytest.mark.parametrize("history", HISTORIES)
def test_a_save_has_the_same_bytes_whatever_was_done_before(
    history: str, fresh: Callable[[], Any], reference: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """The object that something was done with is saved as before, and so is another one of its class."""
    module = fresh()
    items = objects(module)
    HISTORIES[history](items, tmp_path / "history")
    again, others = saved(items, tmp_path / "save"), saved(objects(module), tmp_path / "save")
    assert differing(again, reference) == {}
    assert [name for name in reference if others[name] != reference[name]] == []
    assert load(save(items["module"], tmp_path / "loaded")).layer.in_features == 3


def test_a_recording_leaves_no_trace() -> None:
    """Inside it all constructors note their calls, also those of new classes; then each class is what it was."""

    class Mixin:
        def __init__(self, size: int) -> None:
            super().__init__()

    class Mixed(Mixin, nn.Module):
        pass

    watched = (nn.Module, nn.Linear, torch.optim.Optimizer, torch.optim.Adam, LRScheduler, Mixin, Mixed)
    before = [dict(vars(cls)) for cls in watched]
    with recording():
        with recording():
            assert schema_of(Mixed(3)) == flambe_save.Schema(Mixed, size=3)

        class Late(nn.Module):
            def __init__(self, size: int, *rest: int) -> None:
                super().__init__()

        assert schema_of(Late(3, 4)) == flambe_save.Schema(Late, size=3, rest=[4])
        assert schema_of(nn.Linear(3, 4)) is not None
        twin = copy.deepcopy(Mixed.__new__(Mixed))
        assert schema_of(twin) is None
    assert [dict(vars(cls)) for cls in watched] == before
    assert schema_of(Mixed(3)) is schema_of(Late(3)) is None
    assert not hasattr(Late.__init__, "__wrapped__")


def test_a_recording_that_ends_by_an_error_leaves_no_trace() -> None:
    """Also where recordings of two threads overlap: the last one takes all back."""
    before, entered, go_on = dict(vars(nn.Linear)), threading.Event(), threading.Event()

    def other() -> None:
        with recording():
            entered.set()
            go_on.wait(10)

    def failing() -> None:
        with recording():
            thread.start()
            entered.wait(10)
            raise ZeroDivisionError

    thread = threading.Thread(target=other)
    with pytest.raises(ZeroDivisionError):
        failing()
    assert schema_of(nn.Linear(1, 1)) is None  # though the other thread still records
    go_on.set()
    thread.join()
    assert dict(vars(nn.Linear)) == before


def test_classes_that_read_their_own_arguments_still_do(tmp_path: Path) -> None:
    """A base class behind nn.Module with a ``__new__`` is given the arguments, inside a recording and after."""

    class Remembers:
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            made = super().__new__(cls)
            made.given = args
            return made

    class Hub(nn.Module, Remembers):
        def __init__(self, size: int) -> None:
            super().__init__()

    with recording():
        assert Hub(5).given == (5,)
    assert Hub(6).given == (6,)

    class Late(nn.Module, Component):
        def __init__(self, size: int = 2) -> None:
            super().__init__()
            self.size = size

    assert load(save(Late(3), tmp_path / "save")).size == 3


def test_what_python_looks_up_itself_is_named_and_not_saved(tmp_path: Path) -> None:
    """An attribute with two underscores, which no load would set, is left out of the save by name."""
    net = nn.Sequential(nn.Linear(1, 1))
    net.__odd__ = 3  # type: ignore[assignment]
    with pytest.warns(flambe_save.StateMismatchWarning, match="__odd__"):
        path = save(net, tmp_path / "save")
    assert not hasattr(load(path), "__odd__")


def test_an_adapter_that_is_registered_late_counts_from_then_on(
    tmp_path: Path, fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that was saved as its parts before is built by its adapter afterwards."""
    monkeypatch.setattr(ADAPTERS, "_entries", {**ADAPTERS._entries})
    module = fresh()
    assert load(save(module.Data(2), tmp_path / "parts")) == module.Data(2)

    class Builds(ValueAdapter):
        def describe(self, obj: Any) -> Any:
            return flambe_save.Schema(type(obj), width=obj.width)

        def asks(self, cls: type, arguments: Any) -> Any:
            return ()

        def build(self, cls: Any, arguments: Any) -> Any:
            return cls(arguments["width"] + 1)

    flambe_save.register_adapter(module.Data, Builds())  # type: ignore[arg-type]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its class is not registered
            path = save(module.Data(2), tmp_path / "built")
        assert load(path, trusted=[NAME]).width == 3
    finally:
        monkeypatch.undo()
        ADAPTERS._by_type.clear()
