"""Loads that draw no random numbers which the state overwrites: what comes out is what plain construction gives."""

from __future__ import annotations

import contextlib
import copy
import random
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy
import pytest
import torch
import torch.utils.dlpack
from helpers.places import TORTURE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

import flambe_save
from flambe_save import Component, LimitError, Limits, load, load_state_from_file, loading, save
from flambe_save.adapters import adopted
from flambe_save.deferred_init import mode
from flambe_save.deferred_init.budget import BuildBudget
from flambe_save.deferred_init.mode import DeferredInit
from flambe_save.deferred_init.pending import PendingOps
from flambe_save.tree import state_from_tree
from flambe_save.trust import NO_TRUST, Trust

SEED = 1234


@pytest.fixture(autouse=True)
def _adopt_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adopt the smallest tensors too."""
    monkeypatch.setattr(adopted, "_LEAST", 0)
    monkeypatch.setattr(mode, "_WORTH_IT", 0)


class Plainly(DeferredInit):
    """A mode that defers nothing."""

    def __init__(self, is_on: bool = True) -> None:
        super().__init__(is_on=False)


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Load, inside the ``with``, by plain construction, and by copying."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "DeferredInit", Plainly)
        patch.setattr(adopted, "_use_count", None)
        yield


def random_states() -> Any:
    """Return the random states of the process, comparable."""
    name, words, *rest = numpy.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), (name, words.tolist(), *rest)


def seen(obj: Any) -> dict[str, Any]:
    """Return all that can be seen of an object's tensors: values, kinds, and which share memory."""
    found: dict[str, Any] = {}
    memories: dict[int, str] = {}

    def look(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if nn.parameter.is_lazy(value):
                found[name] = "lazy"
                return
            storage = value.untyped_storage()
            kind = (type(value), value.dtype, value.device, value.requires_grad, value.is_leaf, value.is_inference())
            shape = (tuple(value.shape), value.stride(), value.storage_offset(), storage.nbytes())
            shared = memories.setdefault(storage.data_ptr() or id(value), name)
            data = value.detach().contiguous().flatten().view(torch.uint8).tolist() if value.numel() else []
            found[name] = (kind, shape, shared, data)
        elif isinstance(value, numpy.ndarray):
            found[name] = value.tolist()
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                look(f"{name}[{index}]", item)
        elif isinstance(value, (int, float, str)):
            found[name] = value

    modules = obj.named_modules() if isinstance(obj, nn.Module) else [("", obj)]
    for path, module in modules:
        for table in ("_parameters", "_buffers"):
            for name, value in vars(module).get(table, {}).items():
                look(f"{path}.{name}", value)
        for name, value in vars(module).items():
            if not name.startswith("_"):
                look(f"{path}/{name}", value)
    return found


def loaded(path: str) -> Any:
    """Load, from one seed, and check that no random state has changed."""
    torch.manual_seed(SEED)
    random.seed(SEED)
    numpy.random.seed(SEED)
    before = random_states()
    obj = load(path)
    assert random_states() == before
    return obj


def check(obj: Any, folder: Path, make: Callable[[], Any] | None = None) -> Any:
    """Save an object and load it both ways; return what was loaded."""
    path = save(obj, folder / "save", overwrite=True)
    with plainly():
        expected = seen(loaded(path))
    found = loaded(path)
    assert seen(found) == expected
    if make is not None:
        torch.manual_seed(SEED)
        random.seed(SEED)
        numpy.random.seed(SEED)
        plain = make()
        plain.load_state_dict(obj.state_dict())
        assert seen(plain) == expected
    return found


class Count(PendingOps):
    """Counts what is deferred, and what of it is run after all."""

    put_off = ran = 0

    def add(self, *args: Any, **kwargs: Any) -> None:
        type(self).put_off += 1
        super().add(*args, **kwargs)

    def run(self) -> None:
        type(self).ran += len(self)
        super().run()


@contextlib.contextmanager
def counting() -> Iterator[type[Count]]:
    """Count, inside the ``with``."""
    Count.put_off = Count.ran = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mode, "PendingOps", Count)
        yield Count


# ---------------------------------------------------------------------------------------------- by name

BUILTINS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(3, 4),
    "Linear without bias": lambda: nn.Linear(3, 4, bias=False),
    "Bilinear": lambda: nn.Bilinear(3, 2, 4),
    "Conv1d": lambda: nn.Conv1d(2, 4, 3),
    "Conv2d": lambda: nn.Conv2d(2, 4, 3, groups=2),
    "Conv3d": lambda: nn.Conv3d(2, 2, 2),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(2, 4, 3),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(2, 4, 3),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(2, 2, 2),
    "Embedding": lambda: nn.Embedding(7, 3),
    "Embedding with padding": lambda: nn.Embedding(7, 3, padding_idx=2),
    "EmbeddingBag": lambda: nn.EmbeddingBag(7, 3),
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "BatchNorm3d": lambda: nn.BatchNorm3d(4),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(4, affine=True),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(4, affine=True),
    "LayerNorm": lambda: nn.LayerNorm([2, 3]),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "RNN": lambda: nn.RNN(3, 4, num_layers=2),
    "LSTM": lambda: nn.LSTM(3, 4, bidirectional=True),
    "LSTM with projection": lambda: nn.LSTM(3, 4, proj_size=2),
    "GRU": lambda: nn.GRU(3, 4, batch_first=True),
    "RNNCell": lambda: nn.RNNCell(3, 4),
    "LSTMCell": lambda: nn.LSTMCell(3, 4),
    "GRUCell": lambda: nn.GRUCell(3, 4),
    "MultiheadAttention": lambda: nn.MultiheadAttention(4, 2),
    "MultiheadAttention of sizes": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(4, 2, 6),
    "TransformerDecoderLayer": lambda: nn.TransformerDecoderLayer(4, 2, 6),
    "TransformerEncoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 2),
    "TransformerDecoder": lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 6), 2, nn.LayerNorm(4)),
    "Transformer": lambda: nn.Transformer(4, 2, 1, 1, 6, batch_first=True),
    "PReLU": lambda: nn.PReLU(3),
    "AdaptiveLogSoftmaxWithLoss": lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 10, [3, 6], div_value=2.0),
    "CrossEntropyLoss": lambda: nn.CrossEntropyLoss(weight=torch.rand(3)),
    "Sequential": lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)),
    "ModuleList": lambda: nn.ModuleList([nn.Linear(2, 3), nn.Conv1d(1, 2, 1)]),
    "ModuleDict": lambda: nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.GRU(2, 2)}),
    "ParameterList": lambda: nn.ParameterList([torch.randn(2), torch.randn(3, 2)]),
    "ParameterDict": lambda: nn.ParameterDict({"a": torch.randn(2), "b": torch.rand(3)}),
    "Dropout": lambda: nn.Dropout(0.25),
    "Flatten": lambda: nn.Flatten(),
    "Upsample": lambda: nn.Upsample(scale_factor=2),
    "ChannelShuffle": lambda: nn.ChannelShuffle(2),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(3, 4)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 4)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
    "old weight_norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 2)), nn.PReLU()),
    "bfloat16": lambda: nn.Linear(3, 4).bfloat16(),
    "double": lambda: nn.LSTM(3, 4).double(),
    "frozen": lambda: nn.Linear(3, 4).requires_grad_(False),
    "channels last": lambda: nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("make", BUILTINS.values(), ids=BUILTINS)
def test_builtins_are_as_plain_construction_makes_them(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    """Modules of torch.nn, alone, are bit for bit the same either way, and are what was saved."""
    obj = make()
    if not isinstance(obj, (nn.ParameterList, nn.ParameterDict)):
        with flambe_save.recording():
            obj = make()
    found = check(obj, tmp_path)
    assert {key: value.tolist() for key, value in found.state_dict().items()} == {
        key: value.tolist() for key, value in obj.state_dict().items()
    }


# ---------------------------------------------------------------------------------------------- constructors that look


class Module(Component, nn.Module):
    """What these tests' components have in common."""


class ReadsItsWeights(Module):
    """Computes attributes, parameters and buffers from weights that it has just been given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.norm = float(self.layer.weight.detach().norm())
        self.kept = self.layer.weight.detach().clone()
        self.other = nn.Parameter(self.layer.weight.detach().t() @ torch.randn(4, 2))
        self.register_buffer("scale", self.layer.weight.std(), persistent=False)
        with torch.no_grad():
            self.layer.weight /= self.layer.weight.norm()


class ReadsBySideDoors(Module):
    """Reads weights by ways that are no operations of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = nn.Linear(2, 2).weight.tolist()
        self.array = nn.Linear(2, 2).weight.detach().numpy().copy()
        self.also = numpy.asarray(nn.Linear(2, 2).weight.detach()) * 2
        self.text = repr(nn.Linear(2, 2).weight) + f"{torch.randn(())}" + str(torch.rand(2))
        self.made = torch.tensor([torch.randn(()), torch.randn(())])
        self.stored = list(nn.Linear(2, 2).weight.untyped_storage())
        self.deep = copy.deepcopy(torch.randn(3))
        self.via_dlpack = torch.from_dlpack(torch.rand(3)).clone()
        self.number = float(torch.rand(())) + torch.rand(2).sum().item()
        self.is_large = bool(torch.rand(()) > 0.5)
        self.mapped = torch.rand(3).map_(torch.rand(3), lambda a, b: a + b)
        self.bytes = list(memoryview(torch.rand(2).numpy()))


class WritesBySideDoors(Module):
    """Keeps numpy's view of a weight, and writes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4))
        array = self.weight.detach().numpy()
        nn.init.normal_(self.weight)
        self.sum = float(array.sum())
        array[1] = 5.0
        self.register_buffer("other", self.weight.detach() * 2, persistent=False)


class Draws(Module):
    """Has random numbers that no state holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.register_buffer("noise", torch.randn(5), persistent=False)
        self.plain = torch.rand(2, 2)
        self.second = nn.Linear(3, 3)
        self.numbers = [random.random(), float(numpy.random.rand()), torch.randint(9, (2,)).tolist()]
        self.last = torch.randperm(5)
        self.third = nn.Embedding(3, 2, padding_idx=0)


class Seeds(Module):
    """Sets and reads the random state on the way, in every way there is."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)
        torch.manual_seed(7)
        self.b = torch.rand(2)
        torch.manual_seed(7)
        self.c = torch.randn(3)
        kept = torch.get_rng_state()
        self.d = torch.rand(2)
        torch.manual_seed(3)
        self.e = torch.rand(2)
        torch.set_rng_state(kept)
        self.f = torch.rand(2)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.g = nn.init.orthogonal_(torch.empty(3, 3))
            self.h = torch.rand(2)
        self.i = torch.rand(2)
        with torch.random.fork_rng():
            self.j = torch.rand(2)
        self.k = torch.rand(2)
        torch.set_rng_state(kept)
        self.l = torch.rand(2)
        self.m = torch.randn(2, generator=torch.Generator().manual_seed(4))
        self.n = torch.rand(2)
        torch.default_generator.manual_seed(torch.initial_seed() + 1)
        self.o = torch.rand(2).tolist()
        self.p = torch.rand(2)
        torch.set_rng_state(kept)
        self.q = torch.rand(2)


class SeedsTheSame(Module):
    """Seeds as the caller has, while draws are put off."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.rand(2)
        torch.manual_seed(SEED)
        self.b = torch.rand(2)
        torch.manual_seed(SEED)
        self.c = nn.Linear(2, 2)


class Initialises(Module):
    """Uses what torch.nn.init has."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.empty(4, 6) for _ in range(9)])
        nn.init.orthogonal_(self.weights[0], gain=2)
        nn.init.trunc_normal_(self.weights[1], std=0.02)
        nn.init.sparse_(self.weights[2], 0.3)
        nn.init.xavier_normal_(self.weights[3])
        nn.init.kaiming_uniform_(self.weights[4], a=2)
        nn.init.eye_(self.weights[5])
        nn.init.normal_(self.weights[6], 1, 2)
        nn.init.trunc_normal_(self.weights[7], a=1.5, b=4)
        nn.init.constant_(self.weights[8], 3)
        self.conv = nn.Conv1d(2, 2, 3)
        nn.init.dirac_(self.conv.weight)
        self.register_buffer("after", torch.rand(3), persistent=False)
        self.register_buffer("copy", self.weights[6].detach().clone(), persistent=False)


class Computes(Module):
    """Makes parameters by arithmetic on random numbers, and keeps some of what goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(3, 4) * 0.02)
        self.b = nn.Parameter(torch.rand(4).mul_(2).sub_(1).clamp_(-0.5, 0.5))
        raw = torch.randn(5)
        self.c = nn.Parameter(raw / 3 + 1)
        self.register_buffer("raw", raw, persistent=False)
        self.d = nn.Parameter(torch.empty(2, 3).uniform_(-1, 1).t())
        self.e = nn.Parameter(torch.normal(0.0, 0.1, (3,)).to(torch.float64))
        self.f = nn.Parameter(torch.empty(4, 4).exponential_(2.0))
        self.f.data[1].zero_()
        self.f.data[:, 2].fill_(3)
        self.g = nn.Parameter(torch.empty(6).bernoulli_(0.3))
        self.h = nn.Parameter(torch.randn_like(self.a))
        self.view = self.h.detach()[1:]
        self.i = torch.empty(3, 3).normal_().expand(2, 3, 3)
        self.j = torch.empty(2, 2, dtype=torch.float16).uniform_(-3, 3)
        self.k = torch.randn(4).sign()
        self.l = torch.empty(3).copy_(torch.rand(3))
        self.m = torch.randn(2, dtype=torch.complex64)
        self.n = -torch.rand(3)
        self.o = torch.rand(4).add_(torch.rand(4), alpha=2)
        self.p = torch.rand(3).cauchy_().log_normal_().geometric_(0.5)
        self.q = torch.rand(2, 3).double().half().float()
        self.r = 2 * torch.randn(3) - 1
        self.s = torch.rand(3).resize_(5)[:3].clone()


class Fails(Module):
    """Makes mistakes on purpose, and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.rand(2)
        self.errors = []
        for fill in (
            lambda: torch.empty(2).normal_(0, -1),
            lambda: torch.empty(2).uniform_(2, 1),
            lambda: torch.empty(2).bernoulli_(3.0),
            lambda: torch.empty(1).expand(3).normal_(),
            lambda: torch.empty(2, dtype=torch.long).normal_(),
            lambda: torch.rand(2).add_(1j),
            lambda: torch.rand(2).copy_(torch.rand(3)),
            lambda: torch.rand(2, requires_grad=True).zero_(),
            lambda: torch.rand(2).clamp_(),
        ):
            try:
                fill()
                self.errors.append("")
            except Exception as error:
                self.errors.append(type(error).__name__)
        self.b = torch.rand(2)


class Ties(Module):
    """Ties and shares, and keeps aliases."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight
        self.view = self.head.weight.detach()[1:]
        self.bias = nn.Parameter(torch.randn(4))
        self.half = self.bias.detach()[:2]
        self.copies = copy.deepcopy(nn.ModuleList([nn.Linear(2, 2), nn.BatchNorm1d(3)]))
        self.again = [copy.deepcopy(self.head.bias), copy.copy(self.head.bias)]
        self.flat = torch.randn(6)
        self.one = nn.Parameter(self.flat[:3])
        self.two = nn.Parameter(self.flat[3:])
        self.long = torch.rand(9)
        self.short = nn.Parameter(self.long[:4])
        self.alias = self.copies[1].running_mean


class Lazy(Module):
    """Learns its sizes when it is first used, or loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.LazyConv1d(2, 1))
        self.register_buffer("noise", torch.rand(3), persistent=False)


class OnDevices(Module):
    """Is built under devices and types of its own."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.meta = nn.Linear(2, 3)
        self.meta.to_empty(device="cpu")
        nn.init.normal_(self.meta.weight)
        nn.init.normal_(self.meta.bias)
        with torch.device("cpu"):
            self.cpu = nn.Linear(2, 3)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        self.double = nn.Linear(2, 2)
        self.plain = torch.rand(2)
        torch.set_default_dtype(before)
        self.channels = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            self.inference = torch.rand(3)
        self.skipped = torch.nn.utils.skip_init(nn.Linear, 2, 2)
        nn.init.ones_(self.skipped.weight)
        nn.init.ones_(self.skipped.bias)


class Parametrized(Module):
    """Parametrizes while it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Linear(3, 4))
        self.b = parametrizations.spectral_norm(nn.Conv1d(2, 3, 2))
        self.c = parametrizations.orthogonal(nn.Linear(3, 3))
        self.register_buffer("noise", torch.rand(3), persistent=False)


class Rewrites(Module):
    """Has hooks that change the state, or read what is there, while it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.other = nn.Linear(2, 3)
        self.sums: list[float] = []
        self.layer.register_load_state_dict_pre_hook(self._before)

    def _before(self, module: nn.Module, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.sums.append(float(self.other.weight.detach().sum()))  # not loaded yet
        state_dict[prefix + "weight"] = state_dict[prefix + "weight"] * 2


class Grows(Module):
    """Reads what it was built with in its own hook, draws numbers there, and keeps what is in the state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.noise = torch.rand(2)

    def _load_state(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.kept = state_dict[prefix + "layer.weight"]
        self.part = state_dict[prefix + "layer.bias"][:2]
        self.before = self.layer.weight.detach().clone()
        self.drawn = torch.rand(3)


class Threads(Module):
    """Has weights changed and read by threads of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.zeroed = torch.randn(200, 200)
        self.layer = nn.Linear(200, 200)
        thread = threading.Thread(target=self.zeroed.zero_)
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            self.seen = pool.submit(lambda: self.layer.weight.detach().clone()).result()
        self.later = torch.rand(200, 200)


class KeepsTheRandomState(Module):
    """Gives the random state to a generator of its own, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.Linear(200, 200)
        self.kept = torch.get_rng_state()
        own = torch.Generator()
        own.set_state(torch.random.get_rng_state())
        self.noise = torch.randn(5, generator=own)
        self.after = torch.rand(3)


class HandsOver(Module):
    """Hands a weight to another library."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(200, 200)
        capsule = torch.utils.dlpack.to_dlpack(self.layer.weight.detach())
        self.seen = torch.utils.dlpack.from_dlpack(capsule).clone()


LOOKING = [
    Threads,
    KeepsTheRandomState,
    HandsOver,
    ReadsItsWeights,
    ReadsBySideDoors,
    WritesBySideDoors,
    Draws,
    Seeds,
    SeedsTheSame,
    Initialises,
    Computes,
    Fails,
    Ties,
    OnDevices,
    Parametrized,
    Rewrites,
    Grows,
]


@pytest.mark.parametrize("cls", LOOKING, ids=lambda cls: cls.__name__)
def test_constructors_see_what_they_would(cls: type[Module], tmp_path: Path) -> None:
    """Whatever a constructor or hook looks at, computes and keeps is what plain construction gives."""
    make = None if cls is Grows else cls
    assert type(check(cls(), tmp_path, make)) is cls


CONTEXTS: dict[str, Callable[[], Any]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "device": lambda: torch.device("cpu"),
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
@pytest.mark.parametrize("cls", [Computes, ReadsItsWeights, Ties], ids=lambda cls: cls.__name__)
def test_loads_inside_contexts_of_torch(cls: type[Module], context: Callable[[], Any], tmp_path: Path) -> None:
    """Whatever is in force around a load, the result is that of plain construction there."""
    obj = cls()
    with context():
        assert type(check(obj, tmp_path)) is cls


def test_loads_while_meta_is_the_default_device(tmp_path: Path) -> None:
    """What is built on the meta device gets the values that were saved."""
    net = nn.Sequential(nn.Linear(300, 300), nn.Linear(3, 3))
    path = save(net, tmp_path / "s")
    with torch.device("meta"):
        found = load(path)
    assert all(torch.equal(one, other) for one, other in zip(found.parameters(), net.parameters(), strict=True))


class Registers(Module):
    """Hands a weight to the program, and fails when it is built a second time."""

    made: ClassVar[list[torch.Tensor]] = []

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(200, 200)
        self.made.append(self.layer.weight.detach())
        if len(self.made) > 1:
            raise ValueError("no more")


def test_what_a_failing_constructor_handed_out_has_its_values(tmp_path: Path) -> None:
    """A load that fails leaves nothing uninitialised that somebody may still look at."""
    path = save(Registers(), tmp_path / "s")
    with pytest.raises(flambe_save.FlambeSaveError):
        load(path)
    assert len(Registers.made) == 2
    assert 0 < Registers.made[1].abs().max() <= 200**-0.5


def test_nothing_stays_replaced(tmp_path: Path) -> None:
    """What is watched while an object is built is the function itself again afterwards, also after an error."""
    before = torch.get_rng_state, torch.random.get_rng_state, torch.utils.dlpack.to_dlpack, threading.Thread.start
    load(save(nn.Linear(300, 300), tmp_path / "s"))
    with pytest.raises(flambe_save.FlambeSaveError):
        load(tmp_path / "nothing")
    assert before == (
        torch.get_rng_state,
        torch.random.get_rng_state,
        torch.utils.dlpack.to_dlpack,
        threading.Thread.start,
    )


def test_lazy_modules_are_loaded_into(tmp_path: Path) -> None:
    """A lazy layer that has run is the layer that it became."""
    obj = Lazy()
    obj.layers(torch.rand(2, 4, 5))
    found = check(obj, tmp_path)
    assert (found.layers[0].in_features, found.layers[1].num_features, found.layers[2].in_channels) == (5, 4, 4)
    assert repr(found) == repr(obj)
    assert found.layers[0].weight.tolist() == obj.layers[0].weight.tolist()


def test_all_reads_of_tensors_are_seen() -> None:
    """Whatever method of a tensor is called first on numbers that are put off returns what it would."""
    arguments: list[tuple[Any, ...]] = [(), (torch.ones(2, 2),), (0,), (1.0,), (torch.float64,), (lambda value: value,)]
    # Addresses, and what is no method of a tensor's values
    left_out = {"_cdata", "const_data_ptr", "data_ptr", "__hash__", "__class__", "__dir__", "__init__", "__new__"}
    names = sorted({*dir(torch.Tensor)} - left_out)

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value = value.detach() if value.layout == torch.strided else value.to_dense()
            return str(value.dtype), tuple(value.shape), value.tolist()
        if isinstance(value, (list, tuple)):
            return [*map(plain, value)]
        if isinstance(value, numpy.ndarray):
            return value.tolist()
        return value if isinstance(value, (int, float, str, bytes)) else type(value)

    def called(name: str, given: tuple[Any, ...], deferral: Any) -> Any:
        torch.manual_seed(SEED)
        try:
            with deferral:
                tensor = torch.empty(2, 2).normal_()
                torch.rand(3)
                found = getattr(tensor, name)
                result = found(*given) if callable(found) else found
                numbers = None if isinstance(result, torch.Tensor) else plain(result)
                after = torch.rand(2)
            deferral.finish()
            return [numbers, plain(result), plain(tensor), plain(after)]
        except Exception as error:
            return type(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong = [
            (name, given)
            for number, name in enumerate(names)
            for given in (arguments if TORTURE else [arguments[0], arguments[1 + number % 5]])
            if str(called(name, given, DeferredInit())) != str(called(name, given, DeferredInit(is_on=False)))
        ]
    assert wrong == []


# ---------------------------------------------------------------------------------------------- that it is used


def test_what_is_overwritten_is_never_drawn(tmp_path: Path) -> None:
    """All random fills of a common model are put off, and none is run."""
    model = nn.Sequential(
        nn.Linear(3, 4),
        nn.Embedding(5, 3, padding_idx=1),
        nn.LSTM(3, 4),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        nn.BatchNorm1d(3),
    )
    path = save(model, tmp_path / "s")
    with counting() as count:
        load(path)
    assert (count.put_off, count.ran) == (16, 0)


def test_few_draws_are_made_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small fills are run, as putting them off costs more; behind a large one that is put off, they have their turn."""
    monkeypatch.undo()
    path = save(nn.Sequential(nn.Linear(5, 6), nn.Linear(300, 300), nn.Linear(5, 7)), tmp_path / "net")
    with counting() as count:
        load(path)
    assert (count.put_off, count.ran) == (4, 0)


SMALL: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(5, 6),
    "double": lambda: nn.Linear(5, 6, dtype=torch.float64),
    "conv": lambda: nn.Conv2d(2, 3, 3),
    "norm": lambda: nn.LayerNorm(4),
    "batch norm": lambda: nn.BatchNorm1d(4),
    "embedding": lambda: nn.Embedding(4, 5, padding_idx=1),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "behind a large one": lambda: nn.Sequential(nn.Linear(300, 300), nn.Linear(5, 7)),
    "given a generator": lambda: nn.Linear(5, 6).apply(
        lambda layer: nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    ),
    "a view": lambda: nn.ParameterList([nn.init.uniform_(torch.zeros(3, 4)[1:, ::2]), torch.ones(2).fill_(3)]),
}


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
def test_small_layers_are_as_plain_construction_makes_them(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made and filled at once has the numbers, and the next draw those after them."""
    monkeypatch.undo()
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        plain, after = make(), torch.rand(3)
        torch.manual_seed(SEED)
        deferral = DeferredInit()
        with deferral.counted_by(BuildBudget(NO_TRUST, 1, 1 << 20)):
            made, found = make(), torch.rand(3)
        deferral.finish()
    assert torch.equal(after, found)
    for expected, value in zip(plain.state_dict().values(), made.state_dict().values(), strict=True):
        assert torch.equal(expected, value)


def test_small_layers_are_built_past_the_dispatch_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mode that calls Python for each operation would take longer than the operations do."""
    monkeypatch.undo()
    seen = []
    dispatch = DeferredInit.__torch_dispatch__
    monkeypatch.setattr(
        DeferredInit, "__torch_dispatch__", lambda self, func, *rest: seen.append(func) or dispatch(self, func, *rest)
    )
    with DeferredInit():
        layer = nn.Linear(5, 6)
        assert not seen
        layer.weight.data.mul_(2)
    assert seen


@pytest.mark.parametrize("make", [lambda: torch.empty(1), lambda: torch.zeros((2, 2)), lambda: nn.Linear(1, 1)])
def test_small_tensors_are_counted(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A billion small tensors are too much, too."""
    monkeypatch.undo()
    trust = Trust.of(limits=Limits(built_bytes=1 << 20))
    with pytest.raises(LimitError), DeferredInit().counted_by(BuildBudget(trust, 1, 4)):
        [make() for _ in range(1000)]


@pytest.mark.parametrize("is_inner", [False, True])
def test_other_modes_see_small_layers(is_inner: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constructor's own mode, and the caller's, see each operation."""
    monkeypatch.undo()
    seen = []

    class Looking(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    looking = Looking()  # type: ignore[no-untyped-call]
    outer, inner = (DeferredInit(), looking) if is_inner else (looking, DeferredInit())
    with outer, inner:
        nn.Linear(2, 3)
    assert seen.count(torch.ops.aten.uniform_.default) == 2
    assert seen.count(torch.ops.aten.empty.memory_format) >= 2


def test_what_is_read_is_drawn_with_all_before_it(tmp_path: Path) -> None:
    """A constructor that looks at a weight has all run that is before it."""
    path = save(ReadsItsWeights(), tmp_path / "s")
    with counting() as count:
        load(path)
    assert (count.put_off, count.ran) == (3, 3)


def test_what_is_left_is_drawn_at_the_end(tmp_path: Path) -> None:
    """Numbers that no state holds are drawn, with what comes before them, when all else is loaded."""

    class Tail(Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.register_buffer("noise", torch.randn(5), persistent=False)
            self.last = nn.Linear(3, 3)

    path = save(Tail(), tmp_path / "s")
    with counting() as count:
        load(path)
    assert (count.put_off, count.ran) == (5, 3)


class Plain(Module):
    """Asks to be built plainly."""

    _flambe_init = True

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)


@pytest.mark.parametrize("how", ["class", "inner class", "strict=False"])
def test_plain_construction_can_be_asked_for(how: str, tmp_path: Path) -> None:
    """With `_flambe_init = True` anywhere in the config, or without strict, nothing is put off."""
    obj = {"class": Plain, "inner class": lambda: nn.Sequential(Plain()), "strict=False": lambda: nn.Linear(2, 2)}[
        how
    ]()
    path = save(obj, tmp_path / "s")
    with counting() as count:
        load(path, strict=how != "strict=False")
    assert count.put_off == 0


def test_missing_keys_keep_what_was_built(tmp_path: Path) -> None:
    """Without strict, what the state lacks has the values of plain construction."""
    obj = nn.Linear(3, 3)
    path = save(obj, tmp_path / "s")
    state = load_state_from_file(path)
    del state["weight"]
    path = flambe_save.save_state_to_file(state, tmp_path / "less")
    torch.manual_seed(SEED)
    with pytest.warns(flambe_save.errors.StateMismatchWarning):
        found = load(path, strict=False)
    torch.manual_seed(SEED)
    assert torch.equal(found.weight, nn.Linear(3, 3).weight)


def test_a_load_inside_a_constructor(tmp_path: Path) -> None:
    """A constructor may itself load: it gets what it would, and so does what is around it."""
    inner = save(Draws(), tmp_path / "inner")

    class Loads(Module):
        def __init__(self) -> None:
            super().__init__()
            self.before = torch.rand(2)
            self.inner = load(inner)
            self.after = torch.rand(2)
            self.layer = nn.Linear(2, 2)

    assert type(check(Loads(), tmp_path, Loads).inner) is Draws


def test_a_failing_load_leaves_random_states(tmp_path: Path) -> None:
    """An error while building, or in the state, changes no random state."""
    path = save(nn.Linear(3, 3), tmp_path / "s")
    state = load_state_from_file(path)
    del state["weight"]
    path = flambe_save.save_state_to_file(state, tmp_path / "less")
    before = random_states()
    with pytest.raises(flambe_save.errors.StateMismatchError):
        load(path)
    assert random_states() == before


def test_loads_in_threads_leave_random_states(tmp_path: Path) -> None:
    """Of loads that overlap, the last gives back what the first has found."""
    path = save(nn.Sequential(*[Draws() for _ in range(4)]), tmp_path / "s")
    before = random_states()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load(path), range(12)))
    assert random_states() == before
    assert all(torch.equal(item[0].first.weight, found[0][0].first.weight) for item in found)


# ---------------------------------------------------------------------------------------------- adoption


@contextlib.contextmanager
def reading() -> Iterator[dict[str, torch.Tensor]]:
    """Tell, inside the ``with``, what tensors a load has read from files."""
    found: dict[str, torch.Tensor] = {}

    def read(tree: Any) -> Any:
        state = state_from_tree(tree)
        found.update((key, value.untyped_storage().data_ptr()) for key, value in state.items())
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "state_from_tree", read)
        yield found


def adopts(obj: nn.Module, read: dict[str, Any]) -> set[str]:
    """Return the keys of the tensors whose memory is the one that was read into."""
    tensors = {**dict(obj.named_parameters(remove_duplicate=False)), **dict(obj.named_buffers())}
    return {key for key, value in tensors.items() if value.untyped_storage().data_ptr() == read.get(key)}


ADOPTING: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(3, 4),
    "Embedding": lambda: nn.Embedding(5, 3, padding_idx=1),
    "Conv2d": lambda: nn.Conv2d(2, 3, 2),
    "BatchNorm1d": lambda: nn.BatchNorm1d(3),
    "LSTM": lambda: nn.LSTM(3, 4),
    "MultiheadAttention": lambda: nn.MultiheadAttention(4, 2),
    "TransformerEncoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 2),
    "bfloat16": lambda: nn.Linear(3, 4).bfloat16(),
    "frozen": lambda: nn.Linear(3, 4).requires_grad_(False),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(3, 4)),
}


@pytest.mark.parametrize("make", ADOPTING.values(), ids=ADOPTING)
def test_what_was_read_is_adopted(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    """Every tensor of common modules is the memory that was read into; it trains, and saves, as any other."""
    with flambe_save.recording():
        obj = make()
    path = save(obj, tmp_path / "s")
    with reading() as read:
        found = load(path)
    computed = {"num_batches_tracked", "parametrizations.weight.original0"}  # by operations, from others
    assert adopts(found, read) == {*obj.state_dict()} - computed
    for parameter in found.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(found.parameters(), lr=1.0).step()
    again = load(path)
    assert all(torch.equal(value, obj.state_dict()[key]) for key, value in again.state_dict().items())


def test_small_tensors_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is smaller than it is worth is copied."""
    monkeypatch.undo()
    path = save(nn.Sequential(nn.Linear(128, 128), nn.Linear(3, 3)), tmp_path / "s")
    with reading() as read:
        found = load(path)
    assert adopts(found, read) == {"0.weight"}


def test_the_state_that_a_caller_keeps_is_copied(tmp_path: Path) -> None:
    """A State that was loaded by itself never shares memory with an object that it is loaded into."""
    obj = ReadsItsWeights()
    path = save(obj, tmp_path / "s")
    state = load_state_from_file(path)
    obj.load_state(state)
    mine = {value.untyped_storage().data_ptr() for value in obj.state_dict().values()}
    assert not mine & {value.untyped_storage().data_ptr() for value in state.values()}


def test_ties_are_adopted_once(tmp_path: Path) -> None:
    """A weight with two names is one parameter, in the memory that was read into, and its views are not torn off."""
    embedding, head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    head.weight = embedding.weight
    path = save(nn.Sequential(embedding, nn.ReLU(), head), tmp_path / "s")
    with reading() as read:
        found = load(path)
    assert found[0].weight is found[2].weight
    assert "0.weight" in adopts(found, read) or "2.weight" in adopts(found, read)


class Keeps(Module):
    """Keeps views and addresses of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.viewed = nn.Parameter(torch.randn(4, 4))
        self.view = self.viewed.detach()[1:]
        self.shown = nn.Parameter(torch.randn(4, 4))
        self.array = self.shown.detach().numpy()
        self.addressed = nn.Parameter(torch.randn(4, 4))
        self.address = self.addressed.data_ptr() - self.addressed.data_ptr()
        self.shared = nn.Parameter(torch.randn(4, 4).share_memory_())
        self.part = nn.Parameter(torch.randn(8)[:4])
        self.turned = nn.Parameter(torch.randn(4, 4).t())
        self.repeated = nn.Parameter(torch.zeros(1).expand(4, 4), requires_grad=False)
        self.free = nn.Parameter(torch.randn(4, 4))


def test_what_somebody_else_sees_is_copied(tmp_path: Path) -> None:
    """Memory stays where views, arrays or addresses of it are kept; views keep on showing the parameter."""
    obj = Keeps()
    path = save(obj, tmp_path / "s")
    with reading() as read:
        found = load(path)
    assert adopts(found, read) == {"free"}
    assert torch.equal(found.view, found.viewed[1:])
    assert found.array.tolist() == found.shown.tolist()
    assert found.shared.is_shared()
    assert type(check(obj, tmp_path)) is Keeps


class KeepsTheState(Module):
    """Keeps all that its hook is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def _load_state(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.seen = state_dict


@pytest.mark.parametrize("order", [False, True], ids=["before", "after"])
def test_hooks_may_keep_the_state(order: bool, tmp_path: Path) -> None:
    """A hook that keeps the state, of a component before or after, keeps what was saved, whatever the object does."""
    parts = {"a": nn.Linear(3, 3), "b": KeepsTheState()}
    path = save(dict(reversed(parts.items())) if order else parts, tmp_path / "s")
    found = load(path)
    saved = {key: value.clone() for key, value in found["b"].seen.items()}
    for parameter in (*found["a"].parameters(), *found["b"].parameters()):
        parameter.data.zero_()
    assert all(torch.equal(found["b"].seen[key], value) for key, value in saved.items())
    assert saved["a.weight"].any()


@pytest.mark.parametrize("is_given", [False, True])
def test_tensors_that_constructors_are_given_stay_theirs(is_given: bool) -> None:
    """A tensor of the state that an argument stands for is not the memory of a parameter too."""
    deferral = DeferredInit()
    adoption = adopted.Adoption(deferral)
    state = OrderedDict(weight=torch.rand(3, 3))
    with deferral:
        module = nn.Linear(3, 3, bias=False)
    if is_given:
        assert adoption.given_from(state)["weight"] is state["weight"]
    address = state["weight"].data_ptr()
    with deferral.left():
        adoption.adopt(module, state)
    assert (module.weight.data_ptr() == address) is not is_given


def test_hooks_see_what_was_built(tmp_path: Path) -> None:
    """Where torch's hooks or a class's own loading run, values are copied when they would be."""
    path = save(Rewrites(), tmp_path / "s")
    with reading() as read:
        found = load(path)
    assert adopts(found, read) == set()


def test_torch_may_not_tell_who_uses_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch's count of users nothing is adopted, and all is as it would be."""
    monkeypatch.setattr(torch._C, "_storage_Use_Count", lambda storage: 7)
    monkeypatch.setattr(adopted, "_use_count", adopted._find_use_count())
    path = save(nn.Linear(3, 4), tmp_path / "s")
    with reading() as read:
        found = load(path)
    assert adopts(found, read) == set()


# ---------------------------------------------------------------------------------------------- random trees

LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(4, 4),
    lambda: nn.Conv1d(2, 2, 3),
    lambda: nn.Embedding(5, 4, padding_idx=3),
    lambda: nn.LayerNorm(4),
    lambda: nn.BatchNorm1d(4),
    lambda: nn.LSTM(4, 4),
    lambda: nn.GRU(4, 2),
    lambda: nn.MultiheadAttention(4, 2),
    lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 2),
    lambda: nn.Bilinear(2, 3, 2),
    lambda: nn.PReLU(),
    lambda: parametrizations.weight_norm(nn.Linear(2, 3)),
    lambda: nn.Linear(2, 3).bfloat16(),
    ReadsItsWeights,
    ReadsBySideDoors,
    Draws,
    Seeds,
    SeedsTheSame,
    Computes,
    Ties,
    OnDevices,
    Parametrized,
]


class Tree(Module):
    """Makes what it is told to, in order, and random numbers between."""

    def __init__(self, makes: list[int], seed: int | None = None) -> None:
        super().__init__()
        if seed is not None:
            torch.manual_seed(seed)
        self.parts = nn.ModuleList([])
        for index in makes:
            self.parts.append(LAYERS[index]())
            if index % 3 == 0:
                self.register_buffer(f"noise{len(self.parts)}", torch.rand(2), persistent=False)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    makes=st.lists(st.lists(st.sampled_from(range(len(LAYERS))), max_size=4), min_size=1, max_size=3),
    seed=st.none() | st.just(SEED),
)
def test_random_trees(makes: list[list[int]], seed: int | None, tmp_path: Path) -> None:
    """Trees of all these are bit for bit the same either way."""
    tree = nn.Sequential(*(Tree(part, seed) for part in makes))
    assert type(check(tree, tmp_path)) is nn.Sequential


# ---------------------------------------------------------------------------------------------- transformers

_SMALL = {
    "vocab_size": 19,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}
_IMAGES = {**_SMALL, "image_size": 8, "patch_size": 4}
MODELS: dict[str, dict[str, Any]] = {
    "BertModel": _SMALL,
    "BertForMaskedLM": _SMALL,
    "RobertaForSequenceClassification": {**_SMALL, "pad_token_id": 1},
    "DistilBertModel": {"vocab_size": 19, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12},
    "AlbertModel": {**_SMALL, "embedding_size": 4},
    "ElectraModel": {**_SMALL, "embedding_size": 4},
    "GPT2LMHeadModel": {"vocab_size": 19, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16},
    "GPTNeoXForCausalLM": _SMALL,
    "OPTForCausalLM": {**_SMALL, "ffn_dim": 12, "word_embed_proj_dim": 8},
    "LlamaForCausalLM": {**_SMALL, "num_key_value_heads": 2},
    "MistralModel": {**_SMALL, "num_key_value_heads": 1},
    "Qwen2ForCausalLM": {**_SMALL, "num_key_value_heads": 2},
    "T5ForConditionalGeneration": {
        "vocab_size": 19,
        "d_model": 8,
        "d_ff": 12,
        "num_layers": 1,
        "num_heads": 2,
        "d_kv": 4,
    },
    "ViTModel": _IMAGES,
    "BeitModel": _IMAGES,
    "ConvNextModel": {"hidden_sizes": [4, 8, 8, 8], "depths": [1, 1, 1, 1]},
}


READ_NOTHING = ["BertModel", "GPT2LMHeadModel", "LlamaForCausalLM"]  # in their constructors


@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers_are_as_plain_construction_makes_them(name: str, tmp_path: Path) -> None:
    """Models of transformers are bit for bit the same either way, and adopt what was read."""
    transformers = pytest.importorskip("transformers")
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    obj = cls(cls.config_class(**MODELS[name])).eval()
    found = check(obj, tmp_path)
    with reading() as read, counting() as count:
        again = load(tmp_path / "save")
    assert adopts(again, read) >= {key for key, value in obj.named_parameters() if value.dim() > 1}
    assert count.put_off
    assert name not in READ_NOTHING or not count.ran
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in obj.state_dict().items())
