"""Ordinary edits of an object after it was built: whatever can be noticed of it is loaded, or was named at the save."""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import functools
import io
import os
import pickle
import random
import re
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.places import TORTURE
from helpers.seeding import seed
from other_process import run_python
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import flambe_save.opening
from flambe_save import (
    Component,
    FlambeSaveWarning,
    UnsupportedObjectError,
    load,
    recorded,
    recording,
    save,
)
from flambe_save.describing.prints import TensorPrint

D, N = 6, 3
NAMED = "named at the save"

# ------------------------------------------------------------------------------------------------ pictures


def is_of_torch(hook: Any) -> bool:
    """Whether a hook is torch's own, left behind by what it did to a weight."""
    return (getattr(getattr(hook, "hook", hook), "__module__", None) or "").startswith("torch.")


class Picture:
    """Everything that a user could notice of an object: by its path, a fact that compares equal.

    What ``said``, the warnings of a save, name is not looked at, by whatever path it is come to: what else is that same
    object is there all the same.
    """

    left_out = frozenset(
        ("_schema", "_created_with_tag", "_registered_attributes", "_flat_weight_refs", "_is_full_backward_hook")
    )
    of_buffers = frozenset(("_is_buffer", "persistent"))  # what nn.Buffer notes for register_buffer

    def __init__(self, obj: Any, said: str = "") -> None:
        self.facts: dict[str, Any] = {}
        self._said = said
        self._named = set(named_of_modules(obj, said))
        self._seen: dict[int, str] = {}
        self._kept: list[Any] = []
        self.go("", obj)

    def go(self, path: str, item: Any) -> None:
        """Note one object and all that it holds; one that is known already is where it was first."""
        kind = type(item)
        if path and f"'{path}'" in self._said:
            self.facts[path] = NAMED
        elif item is None or isinstance(
            item, (bool, int, float, complex, str, bytes, range, slice, enum.Enum, np.generic)
        ):
            self.facts[path] = kind, repr(item)
        elif isinstance(item, (torch.dtype, torch.device, torch.Size, os.PathLike)):
            self.facts[path] = kind, str(item)
        elif isinstance(item, type):
            self.facts[path] = item
        elif isinstance(item, (types.FunctionType, types.BuiltinFunctionType)):
            self.facts[path] = item.__module__, item.__qualname__
        elif isinstance(item, (tuple, frozenset)):
            self._inside(path, item)
        elif id(item) in self._seen:
            self.facts[path] = f"again {self._seen[id(item)]}"
        else:
            self._seen[id(item)] = path
            self._kept.append(item)
            self._inside(path, item)

    def _inside(self, path: str, item: Any) -> None:
        begin = f"{path}." if path else ""
        kind = type(item)  # torch makes a new one for each parametrized module
        self.facts[path] = kind.__module__, kind.__qualname__
        if isinstance(item, torch.Tensor):
            self.facts[path] = tensor_facts(item)
            self._all(begin, {name: value for name, value in vars(item).items() if name not in self.of_buffers})
        elif isinstance(item, nn.Module):
            self._module(begin, item)
        elif isinstance(item, torch.optim.Optimizer):
            self.go(f"{begin}groups", [dict(sorted(group.items())) for group in item.param_groups])
            self.go(f"{begin}state", [(key, dict(value)) for key, value in item.state.items()])
        elif isinstance(item, torch.Generator):
            self.facts[f"{begin}state"] = item.get_state().tolist()
        elif isinstance(item, random.Random):
            self.facts[f"{begin}state"] = item.getstate()
        elif isinstance(item, np.ndarray):
            self.facts[path] = str(item.dtype), item.shape, item.tolist()
        elif isinstance(item, dict):
            self.facts[f"{begin}(keys)"] = list(item)
            self._all(begin, {str(key): value for key, value in item.items()})
            self.go(f"{begin}(factory)", getattr(item, "default_factory", None))
        elif isinstance(item, (list, tuple, collections.deque)):
            self.facts[f"{begin}(size)"] = len(item)
            self._all(begin, {str(number): value for number, value in enumerate(item)})
        elif isinstance(item, (set, frozenset)):
            self.facts[f"{begin}(items)"] = sorted(map(repr, item))
        elif isinstance(item, functools.partial):
            self._all(begin, {"func": item.func, "args": item.args, "keywords": item.keywords})
        elif isinstance(item, types.MethodType):
            self._all(begin, {"function": item.__func__, "self": item.__self__})
        elif isinstance(item, weakref.ReferenceType):
            self.go(f"{begin}(to)", item())
        else:
            own = dict(getattr(item, "__dict__", {}))
            own |= {name: getattr(item, name) for name in getattr(type(item), "__slots__", ()) if hasattr(item, name)}
            self.facts[f"{begin}(names)"] = sorted(own.keys() - self.left_out)
            self._all(begin, own)

    def _module(self, begin: str, item: nn.Module) -> None:
        own = {name: value for name, value in vars(item).items() if name not in self.left_out}
        for table in ("_parameters", "_buffers", "_modules"):
            self.facts[f"{begin}({table})"] = list(own[table])
            self._all(begin, own.pop(table))
        self.facts[f"{begin}(not persistent)"] = sorted(own.pop("_non_persistent_buffers_set"))
        for name in [name for name in own if name.endswith("_hooks")]:
            hooks = own.pop(name) or {}
            self.facts[f"{begin}{name}"] = [type(hook) for hook in hooks.values() if not is_of_torch(hook)]
        for name in [name for name in own if name.startswith("_forward") or "_hooks_" in name]:
            del own[name]
        self.facts[f"{begin}(names)"] = sorted(own)
        named = [name for name in own if (id(item), name) in self._named]
        self.facts.update((begin + name, NAMED) for name in named)
        self._all(begin, {name: value for name, value in own.items() if name not in named})

    def _all(self, begin: str, items: dict[str, Any]) -> None:
        for name, value in items.items():
            if name not in self.left_out:
                self.go(f"{begin}{name}", value)


def named_of_modules(obj: Any, said: str) -> Iterator[tuple[int, str]]:
    """Yield the modules, by their ids, and the names of those of their attributes that the warnings of a save name."""
    if isinstance(obj, nn.Module):
        modules = dict(obj.named_modules(remove_duplicate=False))
        for place in re.findall(r"'([\w.]+)'", said):
            path, _, name = place.rpartition(".")
            if path in modules:
                yield id(modules[path]), name


def tensor_facts(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return what a tensor is, its bits included; of one whose items overlap, not how they lie."""
    plain = tensor.detach()
    stride = None
    if plain.layout == torch.strided:
        stride = (plain.contiguous() if 0 in plain.stride() else plain).stride()
    with torch._C.DisableTorchFunctionSubclass():
        values = plain.to_dense().contiguous().reshape(-1).view(torch.uint8).tolist() if plain.numel() else []
    return type(tensor), tensor.dtype, tensor.shape, stride, tensor.layout, tensor.requires_grad, values


def outputs(model: Any) -> dict[str, Any]:
    """Return what a model and the modules in it compute and what their gradients are; changes the buffers.

    What cannot be computed is the error's type: an edit may have made the model unusable.
    """
    found: dict[str, Any] = {}
    if not isinstance(model, nn.Module):
        return found
    for value in model.parameters():
        value.grad = None
    modes = {path: inner.training for path, inner in model.named_modules()}
    for path, inner in [("", model), *((name, child) for name, child in model.named_children())]:
        for mode in (False, True):
            inner.train(mode)
            seed(1)
            dtype = next((value.dtype for value in inner.parameters() if value.is_floating_point()), torch.float32)
            data = torch.linspace(-1, 1, 4 * D).view(4, D).to(dtype)
            result = attempt(lambda inner=inner, data=data: inner(data))
            if isinstance(result, torch.Tensor):
                attempt(lambda result=result: result.float().square().sum().backward())
                result = tensor_facts(result)[1:]
            found[f"({'train' if mode else 'eval'}) {path}"] = result if isinstance(result, type) else repr(result)
        for name, inner in model.named_modules():
            inner.training = modes[name]
    for name, value in model.named_parameters():
        found[f"(gradient) {name}"] = None if value.grad is None else tensor_facts(value.grad)[1:]
        value.grad = None
    return found


def look(obj: Any) -> dict[str, Any]:
    """Return all that can be noticed of an object; changes its buffers by running it."""
    found = Picture(obj).facts
    if isinstance(obj, nn.Module):
        found["(repr)"] = attempt(lambda: repr(obj).split(" at 0x")[0])
        found["(state)"] = list(obj.state_dict())
        found["(all parameters)"] = [name for name, _ in obj.named_parameters(remove_duplicate=False)]
        found["(all modules)"] = [name for name, _ in obj.named_modules(remove_duplicate=False)]
    found.update(outputs(obj))
    return found


def attempt(function: Callable[[], Any]) -> Any:
    """Return what a function returns, or the type of its error: an edit may have made it impossible."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, once in a process
        try:
            return function()
        except Exception as error:
            return type(error)


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the facts that differ, by their paths."""
    missing = "not there"
    return {
        path: (one.get(path, missing), other.get(path, missing))
        for path in {**one, **other}
        if one.get(path, missing) != other.get(path, missing)
    }


def silent(differ: dict[str, Any], said: str) -> dict[str, Any]:
    """Return those of the differences that no warning names."""
    lost = [path for path in differ if "(" not in path and (_is_named(path, said) or NAMED in str(differ[path][0]))]
    return {
        path: pair
        for path, pair in differ.items()
        if path not in lost and not any(path.startswith(f"{name}.") for name in lost) and not (lost and "(" in path)
    }


def _is_named(path: str, said: str) -> bool:
    return any(f"'{'.'.join(path.split('.')[:size])}'" in said for size in range(1, path.count(".") + 2))


# ------------------------------------------------------------------------------------------------ models


class Color(enum.Enum):
    """An attribute of somebody's."""

    RED = 1
    BLUE = "blue"


@dataclasses.dataclass
class Options:
    """Likewise."""

    rate: float = 0.1
    sizes: list[int] = dataclasses.field(default_factory=lambda: [1, 2])
    layer: Any = None


class Average:
    """A plain object that keeps copies of weights, as trainers do."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.shadow = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.steps = 0


class Slotted:
    """A plain object without a ``__dict__``."""

    __slots__ = ("size", "table")

    def __init__(self) -> None:
        self.size, self.table = 2, {"a": [1]}


class Marked(nn.Parameter):
    """A kind of parameter."""


class Swish(nn.Module):
    """A layer of somebody's, with a property that its constructor calls otherwise."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self._beta = beta

    @property
    def beta(self) -> float:
        """A value that has a setter."""
        return self._beta

    @beta.setter
    def beta(self, value: float) -> None:
        self._beta = 2 * value

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return a value."""
        return data * torch.sigmoid(self._beta * data)


class Block(nn.Module):
    """A part that knows nothing of this package."""

    def __init__(self, size: int = D, act: Callable[[Any], Any] = torch.tanh) -> None:
        super().__init__()
        self.lin = nn.Linear(size, size)
        self.act = act

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return a value."""
        return data + self.act(self.lin(data))


class Half(nn.Module):
    """A parametrization."""

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return a value."""
        return data / 2


def body(self: Any) -> None:
    """Fill a model, as its constructor does."""
    self.enc = nn.Sequential(
        collections.OrderedDict(lin=nn.Linear(D, D), act=nn.ReLU(), norm=nn.BatchNorm1d(D), drop=nn.Dropout(0.1))
    )
    self.blocks = nn.ModuleList([Block(), Block(act=nn.GELU())])
    self.heads = nn.ModuleDict({"a": nn.Linear(D, N), "b": nn.Linear(D, N)})
    self.gains = nn.ParameterList([torch.ones(D), torch.full((D,), 2.0)])
    self.table = nn.ParameterDict({"x": nn.Parameter(torch.ones(N)), "y": torch.zeros(N)})
    self.drop = nn.Dropout(0.1)
    self.fc = nn.Linear(D, N)
    self.register_buffer("seen", torch.arange(2.0))
    self.register_buffer("scratch", torch.full((2,), 5.0), persistent=False)
    self.options = {"depth": 2, "names": ["a", "b"]}
    self.order = ["a", "b"]
    self.note = None


def run(self: Any, data: torch.Tensor) -> torch.Tensor:
    """Use all parts of a model."""
    data = self.enc(data)
    for block, gain in zip(self.blocks, self.gains, strict=False):
        data = block(data) * gain
    found = self.fc(self.drop(data)) + self.seen.sum()
    return sum((head(data) * self.table["x"] for head in self.heads.values()), found)


class AsComponent(Component, nn.Module):
    """Records its call."""

    def __init__(self, d: int = D) -> None:
        super().__init__()
        body(self)

    forward = run


@recorded
class AsRecorded(nn.Module):
    """Records its call too."""

    def __init__(self, d: int = D) -> None:
        super().__init__()
        body(self)

    forward = run


class AsPlain(nn.Module):
    """Knows nothing of this package."""

    def __init__(self, d: int = D) -> None:
        super().__init__()
        body(self)

    forward = run


class AsDict(nn.ModuleDict):
    """A container of torch's, extended."""

    def __init__(self) -> None:
        super().__init__()
        body(self)

    forward = run


def in_recording() -> nn.Module:
    """Return a model whose call is known though its class is not registered."""
    with recording():
        return AsPlain()


def as_sequential() -> nn.Module:
    """Return one of torch's own containers, with what a model of a class has."""
    made = nn.Sequential()
    body(made)
    return made


KINDS: dict[str, Callable[[], Any]] = {
    "component": AsComponent,
    "recorded": AsRecorded,
    "plain": AsPlain,
    "recording": in_recording,
    "sequential": as_sequential,
    "dict": AsDict,
}
MAIN_KINDS = ("component", "plain", "sequential")


# ------------------------------------------------------------------------------------------------ edits


def twice(self: Any, data: torch.Tensor) -> torch.Tensor:
    """Stand for a method."""
    return 2 * type(self).forward(self, data)


EDITS: dict[str, Callable[[Any], Any]] = {}


def edit(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Add an edit to the matrix; what it returns is saved instead of the model, if it returns something."""
    EDITS[function.__name__] = function
    return function


def edits(**functions: Callable[[Any], Any]) -> None:
    """Add edits that are no more than a call."""
    EDITS.update((name, lambda model, change=change: (change(model), None)[1]) for name, change in functions.items())


edits(
    nothing=lambda m: None,
    same_shape=lambda m: setattr(m, "fc", nn.Linear(D, N)),
    new_head=lambda m: setattr(m, "fc", nn.Linear(D, N + 2)),
    new_head_mlp=lambda m: setattr(m, "fc", nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, N))),
    identity=lambda m: setattr(m, "fc", nn.Identity()),
    act_swap=lambda m: m.enc.__setitem__(1, nn.GELU()),
    drop_p=lambda m: setattr(m.drop, "p", 0.5),
    drop_identity=lambda m: setattr(m, "drop", nn.Identity()),
    nobias=lambda m: setattr(m, "fc", nn.Linear(D, N, bias=False)),
    add_module=lambda m: setattr(m, "extra", nn.Linear(2, 2)),
    enc_append=lambda m: m.enc.append(nn.Linear(D, D)),
    enc_append_tanh=lambda m: m.enc.append(nn.Tanh()),
    enc_pop=lambda m: m.enc.pop(1),
    freeze=lambda m: m.enc.requires_grad_(False),
    to_eval=lambda m: m.eval(),
    eval_part=lambda m: m.drop.eval(),
    training_none=lambda m: (setattr(m, "scale", nn.Parameter(torch.ones(1))), setattr(m, "training", None)),
    training_zero=lambda m: (setattr(m, "training", 0), setattr(m.enc[0], "training", 1)),
    hook=lambda m: m.fc.register_forward_hook(lambda mod, i, o: o * 0),
    prehook=lambda m: m.register_forward_pre_hook(lambda mod, i: (i[0] * 3,)),
    method=lambda m: setattr(m, "forward", types.MethodType(twice, m)),
    attr=lambda m: setattr(m, "best", 0.93),
    attr_dict=lambda m: setattr(m, "history", {"loss": [1.0, 0.5]}),
    attr_several=lambda m: (setattr(m, "d_model", 1), setattr(m, "training_steps", 10)),
    buffer=lambda m: m.register_buffer("mean", torch.ones(8)),
    buffer_np=lambda m: m.register_buffer("mean", torch.ones(8), persistent=False),
    param=lambda m: setattr(m, "scale", nn.Parameter(torch.ones(1))),
    plain_tensor=lambda m: setattr(m, "classes", torch.arange(3)),
    half=lambda m: m.half(),
    dtype_part=lambda m: m.fc.double(),
    spectral=lambda m: parametrizations.spectral_norm(m.fc),
    weightnorm=lambda m: parametrizations.weight_norm(m.fc),
    pruned=lambda m: prune.l1_unstructured(m.fc, "weight", 0.5),
)


@edit
def tie(m: Any) -> None:
    """One weight in two layers."""
    m.fc = nn.Linear(D, D, bias=False)
    m.fc.weight = m.enc[0].weight


@edit
def share(m: Any) -> None:
    """One module in two places."""
    m.enc[0].bias = nn.Parameter(torch.zeros(D))
    m.enc2 = m.enc


@edit
def change_class(m: Any) -> None:
    """What built it is no longer what it is."""
    m.__class__ = AsPlain


@edit
def columns(m: Any) -> None:
    """Another layout in memory."""
    m.enc[0].weight.data = m.enc[0].weight.data.t().contiguous().t()


# activations, freezing, modes, settings of layers
@edit
def all_relu_to_silu(m: Any) -> None:
    """Replace a kind of layer wherever it is."""
    for parent in [*m.modules()]:
        for name, child in [*parent.named_children()]:
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.SiLU(inplace=True))


@edit
def block_act(m: Any) -> None:
    """A function becomes a module, and a module another; deep inside."""
    m.blocks[1].act = nn.Hardswish()
    del m.blocks[0].act
    m.blocks[0].act = nn.PReLU(D)


edits(
    block_act_function=lambda m: setattr(m.blocks[0], "act", torch.nn.functional.silu),
    own_layer=lambda m: setattr(m.enc, "act", Swish(0.5)),
    own_layer_property=lambda m: (setattr(m.enc, "act", Swish(0.5)), setattr(m.enc.act, "beta", 3.0)),
    inplace=lambda m: setattr(m.enc[1], "inplace", True),
    momentum=lambda m: setattr(m.enc.norm, "momentum", 0.01),
    momentum_none=lambda m: setattr(m.enc.norm, "momentum", None),
    eps=lambda m: setattr(m.enc.norm, "eps", 1e-3),
    no_stats=lambda m: (
        setattr(m.enc.norm, "track_running_stats", False),
        setattr(m.enc.norm, "running_mean", None),
        setattr(m.enc.norm, "running_var", None),
        setattr(m.enc.norm, "num_batches_tracked", None),
    ),
    no_affine=lambda m: (setattr(m.enc.norm, "weight", None), setattr(m.enc.norm, "bias", None)),
    layer_norm=lambda m: setattr(m.enc, "norm", nn.LayerNorm(D)),
    sync_norm=lambda m: setattr(m, "enc", nn.SyncBatchNorm.convert_sync_batchnorm(m.enc)),
    norm_eval_frozen=lambda m: (m.enc.norm.eval(), m.enc.norm.requires_grad_(False)),
    train_part_of_eval=lambda m: (m.eval(), m.enc.norm.train()),
    freeze_all_but_head=lambda m: (m.requires_grad_(False), m.fc.requires_grad_(True)),
    freeze_bias=lambda m: [p.requires_grad_(False) for name, p in m.named_parameters() if name.endswith("bias")],
    in_features_wrong=lambda m: setattr(m.fc, "in_features", 99),
    softmax_dim=lambda m: (m.enc.append(nn.Softmax()), setattr(m.enc[-1], "dim", 0)),
    padding_idx=lambda m: (setattr(m, "emb", nn.Embedding(5, 2)), setattr(m.emb, "padding_idx", 1)),
    training_flag_int=lambda m: setattr(m.drop, "p", 0),
)


# structure
@edit
def children_swapped(m: Any) -> None:
    """Two children in each other's places."""
    m.enc[0], m.fc = m.fc, m.enc[0]


@edit
def blocks_reversed(m: Any) -> None:
    """The same modules in another order."""
    m.blocks = nn.ModuleList(reversed(m.blocks))


@edit
def renamed(m: Any) -> None:
    """A module under another name, at the end."""
    m.head = m.fc
    del m.fc


@edit
def moved_to_end(m: Any) -> None:
    """Taken out and put in again: last in the order now."""
    enc = m.enc
    del m.enc
    m.enc = enc


@edit
def parameters_reordered(m: Any) -> None:
    """The bias before the weight."""
    weight = m.fc.weight
    del m.fc.weight
    m.fc.weight = weight


@edit
def child_wrapped(m: Any) -> None:
    """A layer inside another."""
    m.fc = nn.Sequential(nn.Dropout(0.2), m.fc)


@edit
def whole_wrapped(m: Any) -> Any:
    """The model inside a container of torch's."""
    return nn.Sequential(nn.Identity(), m)


@edit
def unwrapped_part(m: Any) -> Any:
    """A part of the model alone."""
    return m.enc


edits(
    list_insert=lambda m: m.blocks.insert(0, Block(act=torch.sin)),
    list_extend=lambda m: m.blocks.extend([nn.Linear(D, D), Block()]),
    list_del=lambda m: m.blocks.__delitem__(0),
    list_repeats=lambda m: m.blocks.append(m.blocks[0]),
    list_empty=lambda m: setattr(m, "blocks", nn.ModuleList()),
    dict_add=lambda m: m.heads.update({"c": nn.Linear(D, N)}),
    dict_pop=lambda m: m.heads.pop("a"),
    dict_replace=lambda m: m.heads.update({"a": nn.Linear(D, 2 * N)}),
    dict_order=lambda m: m.heads.update({"a": m.heads.pop("a")}),
    dict_same=lambda m: m.heads.update({"b": m.heads["a"]}),
    sequential_insert=lambda m: m.blocks[0].add_module("more", nn.Sequential(nn.Tanh()).insert(0, nn.Linear(2, 2))),
    sequential_extend=lambda m: m.enc.extend([nn.Tanh(), nn.Linear(D, D)]),
    sequential_slice=lambda m: setattr(m, "enc", m.enc[:2]),
    parameter_list_append=lambda m: m.gains.append(nn.Parameter(torch.full((D,), 3.0))),
    parameter_list_replace=lambda m: m.gains.__setitem__(0, nn.Parameter(torch.full((D,), 3.0))),
    parameter_list_frozen=lambda m: m.gains[1].requires_grad_(False),
    parameter_list_tied=lambda m: m.gains.__setitem__(1, m.gains[0]),
    parameter_dict_add=lambda m: m.table.update({"z": nn.Parameter(torch.ones(2))}),
    parameter_dict_pop=lambda m: m.table.pop("y"),
    parameter_dict_order=lambda m: m.table.__setitem__("x", m.table.pop("x")),
    register_module=lambda m: m.register_module("0", nn.Linear(2, 2)),
    register_none=lambda m: m.register_module("nothing", None),
    child_none=lambda m: setattr(m, "drop", None),
    delete_child=lambda m: delattr(m, "drop"),
    same_twice=lambda m: (setattr(m, "one", nn.Linear(2, 2)), setattr(m, "other", m.one)),
    shared_deep=lambda m: setattr(m.blocks[1], "lin", m.blocks[0].lin),
    transformer=lambda m: setattr(m, "extra", nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
    attention_edited=lambda m: (
        setattr(m, "extra", nn.MultiheadAttention(4, 2)),
        setattr(m.extra, "out_proj", nn.Linear(4, 4)),
    ),
    rnn=lambda m: (setattr(m, "extra", nn.LSTM(2, 3)), setattr(m.extra, "dropout", 0.0)),
    rnn_weight=lambda m: (
        setattr(m, "extra", nn.GRU(2, 3)),
        setattr(m.extra, "weight_hh_l0", nn.Parameter(torch.ones(9, 3))),
    ),
)


# parameters and buffers
@edit
def untie(m: Any) -> None:
    """What was one is two."""
    m.enc[0].weight = nn.Parameter(m.fc.weight.detach().clone())
    m.fc.weight = m.enc[0].weight
    m.fc.weight = nn.Parameter(m.fc.weight.detach().clone())


@edit
def list_turned_around(m: Any) -> None:
    """Modules of a list that are not in the order of their numbers."""
    m.blocks.append(Block())
    for key in ("2", "1", "0"):
        m.blocks._modules[key] = m.blocks._modules.pop(key)


@edit
def tie_names(m: Any) -> None:
    """A parameter that a model has at its root too."""
    m.head_weight = m.fc.weight


@edit
def buffer_is_parameter(m: Any) -> None:
    """A buffer that shares its memory with a parameter, as a tensor of its own."""
    m.register_buffer("alias", m.fc.weight.detach())


@edit
def parameter_to_buffer(m: Any) -> None:
    """A weight that is learned no more."""
    weight = m.fc.weight.detach()
    del m.fc.weight
    m.fc.register_buffer("weight", weight)


@edit
def buffer_to_parameter(m: Any) -> None:
    """A buffer that is learned from now on."""
    value = m.seen
    del m.seen
    m.seen = nn.Parameter(value.clone())


def buffer_of(m: Any, name: str) -> None:
    """Register a buffer of one number that is repeated."""
    m.register_buffer(name, torch.full((1,), 7.0).expand(3))


@edit
def marks(m: Any) -> None:
    """Attributes of parameters, as optimizers' groups are told by."""
    m.fc.weight.no_decay = True
    m.fc.weight.names = ["out", "in"]
    m.fc.bias.lr_scale = 0.1
    m.seen.kind = "count"


@edit
def marks_refer(m: Any) -> None:
    """A parameter that refers to a module and another parameter."""
    m.fc.weight.owner = m.fc
    m.fc.bias.other = m.enc[0].bias


edits(
    bias_none=lambda m: setattr(m.fc, "bias", None),
    buffer_none=lambda m: setattr(m, "seen", None),
    scratch_none=lambda m: setattr(m, "scratch", None),
    bias_deleted=lambda m: delattr(m.fc, "bias"),
    buffer_deleted=lambda m: delattr(m, "seen"),
    scratch_values=lambda m: m.scratch.add_(1),
    scratch_new=lambda m: setattr(m, "scratch", torch.zeros(3, dtype=torch.int64)),
    seen_values=lambda m: m.seen.mul_(3),
    seen_shape=lambda m: setattr(m, "seen", torch.ones(3, 2)),
    seen_other_not_persistent=lambda m: m.register_buffer("seen", torch.ones(2), persistent=False),
    seen_not_persistent=lambda m: m.register_buffer("seen", m.seen, persistent=False),
    scratch_persistent=lambda m: m.register_buffer("scratch", m.scratch, persistent=True),
    persistence_set=lambda m: m._non_persistent_buffers_set.add("seen"),
    nn_buffer=lambda m: setattr(m, "mean", nn.Buffer(torch.ones(2), persistent=False)),
    buffer_is_another=lambda m: m.register_buffer("again", m.seen),
    buffer_is_scratch=lambda m: setattr(m, "seen", m.scratch),
    scratch_is_buffer=lambda m: setattr(m, "scratch", m.seen),
    buffer_of_part_is_scratch=lambda m: m.fc.register_buffer("kept", m.scratch),
    buffer_expanded=lambda m: m.register_buffer("wide", torch.full((1,), 7.0).expand(3)),
    buffer_of_part_expanded=lambda m: m.fc.register_buffer("wide", torch.full((2, 1), 7.0).expand(2, 3)),
    buffer_expanded_twice=lambda m: (buffer_of(m, "wide"), m.fc.register_buffer("wide", m.wide)),
    buffer_expanded_added=lambda m: buffer_of(m.enc.append(nn.Linear(D, D))[-1], "wide"),
    buffer_with_gradient=lambda m: m.register_buffer("soft", torch.ones(2).requires_grad_()),
    seen_with_gradient=lambda m: m.seen.requires_grad_(),
    scratch_with_gradient=lambda m: m.scratch.requires_grad_(),
    complex_parameter=lambda m: setattr(m, "phase", nn.Parameter(torch.ones(2, dtype=torch.complex64) * 1j)),
    bfloat16_part=lambda m: m.blocks.to(torch.bfloat16),
    float8_buffer=lambda m: m.register_buffer("small", torch.ones(3).to(torch.float8_e4m3fn)),
    int_parameter=lambda m: setattr(m, "codes", nn.Parameter(torch.arange(3), requires_grad=False)),
    kind_of_parameter=lambda m: setattr(m.fc, "weight", Marked(torch.ones(N, D))),
    kind_of_parameter_added=lambda m: setattr(m, "w", Marked(torch.ones(2), requires_grad=False)),
    weight_replaced=lambda m: setattr(m.fc, "weight", nn.Parameter(torch.ones(N, D))),
    weight_shape=lambda m: setattr(m.fc, "weight", nn.Parameter(torch.ones(N + 1, D))),
    weight_data=lambda m: setattr(m.fc.weight, "data", torch.ones(N, D)),
    weight_data_view=lambda m: setattr(m.fc.weight, "data", torch.arange(50.0)[1 : 1 + N * D].view(N, D)),
    empty_parameter=lambda m: setattr(m, "none", nn.Parameter(torch.empty(0, 3))),
    scalar_parameter=lambda m: setattr(m, "temperature", nn.Parameter(torch.tensor(0.07))),
    channels_last=lambda m: setattr(m, "conv", nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)),
    grads=lambda m: m.fc(torch.ones(1, D)).sum().backward(),
    tie_bias=lambda m: setattr(m.heads["b"], "bias", m.heads["a"].bias),
    tie_block=lambda m: setattr(m.blocks[1].lin, "weight", m.blocks[0].lin.weight),
    tie_transposed=lambda m: setattr(m.blocks[1].lin.weight, "data", m.blocks[0].lin.weight.data.t()),
    frozen_tie=lambda m: (setattr(m.heads["b"], "weight", m.heads["a"].weight), m.heads.requires_grad_(False)),
)


# attributes
@edit
def parent(m: Any) -> None:
    """A reference back that is no child."""
    object.__setattr__(m.blocks[0], "parent", [m])
    m.blocks[1].__dict__["parent"] = m


@edit
def cycle(m: Any) -> None:
    """Data inside itself."""
    m.history = {"events": []}
    m.history["events"].append(m.history)


@edit
def shared_list(m: Any) -> None:
    """One list in two attributes of two modules."""
    m.log = ["a"]
    m.enc.log = m.log


@edit
def hidden_modules(m: Any) -> None:
    """Modules that are no children, in plain containers."""
    m.experts = [nn.Linear(2, 2), Block(2)]
    m.by_name = {"a": nn.Linear(2, 2), "fc": m.fc}
    m.pair = (m.enc, nn.Tanh())


edits(
    hidden_in_dataclass=lambda m: setattr(m, "note", Options(layer=nn.Linear(2, 2))),
    hidden_in_namespace=lambda m: setattr(m, "note", [types.SimpleNamespace(a=[nn.Linear(2, 2)])]),
    hidden_in_ordered=lambda m: setattr(m, "note", collections.OrderedDict(a=nn.Linear(2, 2))),
    hidden_in_deque=lambda m: setattr(m, "note", {"a": collections.deque([nn.Linear(2, 2)])}),
    hidden_in_named_tuple=lambda m: setattr(m, "note", Pair(1, nn.Linear(2, 2))),
    hidden_parametrized=lambda m: setattr(m, "note", [parametrizations.weight_norm(nn.Linear(2, 2))]),
    hidden_component=lambda m: setattr(m, "note", Options(layer=AsComponent())),
)


@edit
def tensors_in_containers(m: Any) -> None:
    """Tensors and parameters in plain containers; one is the model's own."""
    m.memory = [torch.ones(2), m.fc.weight, m.seen]
    m.centers = {"a": torch.zeros(2, requires_grad=True), "b": nn.Parameter(torch.ones(1))}


@edit
def plain_object(m: Any) -> None:
    """A helper that refers to the model."""
    m.average = Average(m.fc)
    m.average.steps = 3


@edit
def optimizer_inside(m: Any) -> None:
    """An optimizer that the model keeps."""
    m.optimizer = torch.optim.Adam(m.fc.parameters(), lr=0.1)
    m.fc(torch.ones(1, D)).sum().backward()
    m.optimizer.step()
    m.optimizer.zero_grad()


@edit
def copied_then_edited(m: Any) -> Any:
    """A copy is another object with the same record."""
    twin = copy.deepcopy(m)
    twin.fc = nn.Linear(D, 2)
    twin.note = "copy"
    m.fc = nn.Identity()
    return twin


@edit
def edited_then_copied(m: Any) -> Any:
    """A copy has the edits too."""
    m.fc = nn.Linear(D, 2)
    m.enc.norm.momentum = 0.5
    m.blocks[0].note = {"a": 1}
    return copy.deepcopy(m)


@edit
def copied_shallow(m: Any) -> Any:
    """A copy that shares its tables."""
    twin = copy.copy(m)
    twin.note = "shallow"
    return twin


@edit
def pickled(m: Any) -> Any:
    """A model that came out of a pickle."""
    m.fc = nn.Linear(D, 2)
    return pickle.loads(pickle.dumps(m))


@edit
def loaded_weights(m: Any) -> None:
    """Filled from another, by assignment."""
    other = copy.deepcopy(m)
    for value in other.parameters():
        value.data.add_(1)
    m.load_state_dict(other.state_dict(), assign=True)


@edit
def target_and_online(m: Any) -> Any:
    """Two models and a copy of one in a dict, as in reinforcement learning."""
    m.note = "online"
    return {"online": m, "target": copy.deepcopy(m).requires_grad_(False).eval(), "same": m, "step": 3}


@edit
def undone(m: Any) -> None:
    """What was put back is as it was."""
    fc, m.fc = m.fc, nn.Identity()
    m.fc = fc
    m.extra = 1
    del m.extra


edits(
    delete_attr=lambda m: delattr(m, "note"),
    delete_options=lambda m: delattr(m, "options"),
    option_inside=lambda m: m.options["names"].append("c"),
    option_new=lambda m: m.options.update(width=3),
    order_reversed=lambda m: m.order.reverse(),
    note_tuple=lambda m: setattr(m, "note", (1, [2], {"a": (3,)})),
    numbers=lambda m: setattr(m, "note", [1, 1.0, True, 1j, float("inf"), -0.0, 10**30, b"x", None]),
    nan=lambda m: setattr(m, "note", float("nan")),
    keys=lambda m: setattr(m, "note", {1: "a", "1": "b", None: 0, (1, 2): [], 2.5: {}}),
    sets=lambda m: setattr(m, "note", {"a": {1, 2}, "b": frozenset("ab")}),
    collections_of=lambda m: setattr(
        m, "note", [collections.defaultdict(list, a=[1]), collections.deque([1], 3), collections.Counter("aab")]
    ),
    named_tuple=lambda m: setattr(m, "note", Pair(1, torch.ones(2))),
    array=lambda m: setattr(m, "note", np.arange(6.0).reshape(2, 3).T),
    array_in_list=lambda m: setattr(m, "note", [np.arange(3), np.float32(2.5), np.array("text")]),
    color=lambda m: setattr(m, "note", [Color.RED, Color.BLUE]),
    dataclass=lambda m: setattr(m, "note", Options(0.2, [3])),
    dataclass_of_layer=lambda m: setattr(m, "note", Options(layer=m.fc)),
    simple_namespace=lambda m: setattr(m, "note", types.SimpleNamespace(a=1, b=[torch.ones(1)])),
    partial=lambda m: setattr(m, "note", functools.partial(torch.nn.functional.gelu, approximate="tanh")),
    partial_act=lambda m: setattr(m.blocks[0], "act", functools.partial(nn.functional.leaky_relu, negative_slope=0.3)),
    dtype_attr=lambda m: setattr(m, "note", [torch.bfloat16, torch.device("cpu"), torch.Size([1, 2]), slice(1, 2)]),
    class_attr=lambda m: setattr(m, "note", [nn.Linear, Block, int]),
    function_attr=lambda m: setattr(m, "note", [twice, torch.relu, len]),
    generator=lambda m: setattr(m, "note", torch.Generator().manual_seed(3)),
    random_state=lambda m: setattr(m, "note", random.Random(4)),
    numpy_generator=lambda m: setattr(m, "note", np.random.default_rng(3).bit_generator.state),
    slotted=lambda m: setattr(m, "note", Slotted()),
    path=lambda m: setattr(m, "note", Path("a") / "b"),
    large_list=lambda m: setattr(m, "note", list(range(20_000))),
    view=lambda m: setattr(m, "note", torch.arange(12.0)[2:8].view(2, 3).t()),
    view_of_weight=lambda m: setattr(m, "note", m.fc.weight.detach()[0]),
    tensor_is_buffer=lambda m: setattr(m, "note", m.seen),
    tensor_is_weight=lambda m: m.__dict__.__setitem__("note", m.fc.weight),
    sparse=lambda m: setattr(m, "note", torch.eye(3).to_sparse()),
    meta_flags=lambda m: setattr(m.fc, "is_head", True),
    private=lambda m: setattr(m, "_cache", {"a": torch.ones(1)}),
    dunder_like=lambda m: setattr(m, "_", "x"),
    lock=lambda m: setattr(m, "lock", threading.Lock()),
    opened=lambda m: setattr(m, "stream", io.BytesIO(b"text")),
    weak=lambda m: setattr(m, "ref", weakref.ref(m.fc)),
    local_function=lambda m: setattr(m, "fn", lambda value: value),
    method_of_another=lambda m: setattr(m, "fn", m.fc.forward),
    extra_state=lambda m: setattr(m, "counted", Counted(3)),
    name_with_dots=lambda m: setattr(m, "note", {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}),
    attribute_like_table=lambda m: setattr(m, "modules_", {"fc": m.fc}),
    odd_name=lambda m: m.__dict__.update({"a b": 1, "ü": 2}),
    child_of_odd_name=lambda m: m.add_module("a b", nn.Linear(2, 2)),
    special_keys=lambda m: (m.heads.update({"__x__": nn.Linear(D, N)}), m.heads.update({"__": nn.Linear(D, N)})),
)


Pair = collections.namedtuple("Pair", "a b")


class Counted(nn.Module):
    """Keeps what is no tensor in its state."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_extra_state(self) -> Any:
        """Return it."""
        return {"size": self.size}

    def set_extra_state(self, state: Any) -> None:
        """Take it."""
        self.size = state["size"]


# what torch offers to change modules with
@edit
def parametrized_twice(m: Any) -> None:
    """Two parametrizations of one weight, one of somebody's."""
    parametrize.register_parametrization(m.fc, "weight", Half())
    parametrize.register_parametrization(m.fc, "weight", Half())
    parametrize.register_parametrization(m.fc, "bias", Half())


@edit
def child_of_what_is_parametrized(m: Any) -> None:
    """A child that comes after what torch has added itself."""
    parametrizations.weight_norm(m.fc)
    m.fc.extra = nn.ReLU()


@edit
def parametrization_removed(m: Any) -> None:
    """A class that has been changed, and changed back."""
    parametrizations.weight_norm(m.fc)
    parametrize.remove_parametrizations(m.fc, "weight")


@edit
def pruning_removed(m: Any) -> None:
    """What is left of pruning is zeros."""
    prune.random_unstructured(m.fc, "weight", 0.5)
    prune.remove(m.fc, "weight")


@edit
def pruned_twice(m: Any) -> None:
    """Two masks of one weight, and one of the bias."""
    prune.l1_unstructured(m.fc, "weight", 0.3)
    prune.random_structured(m.fc, "weight", 1, dim=0)
    prune.l1_unstructured(m.fc, "bias", 1)


@edit
def old_weight_norm(m: Any) -> None:
    """Torch's first way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(m.fc)
        nn.utils.spectral_norm(m.enc[0])


@edit
def lazy_run(m: Any) -> None:
    """A lazy layer that has been run is no longer lazy."""
    m.extra = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyBatchNorm1d())
    m.extra(torch.ones(3, D))


@edit
def swapped_module_copy(m: Any) -> None:
    """Clones of a layer, as transformers make them."""
    m.blocks = nn.ModuleList([copy.deepcopy(m.blocks[1]) for _ in range(3)])
    m.blocks[2].lin.weight.data.zero_()


@edit
def fused(m: Any) -> None:
    """A layer and its normalization made one."""
    m.eval()
    m.enc = nn.Sequential(nn.utils.fusion.fuse_linear_bn_eval(m.enc[0], m.enc[2]), nn.ReLU())


@edit
def averaged(m: Any) -> Any:
    """A model and its moving average."""
    average = torch.optim.swa_utils.AveragedModel(m)
    m.fc.weight.data.add_(1)
    average.update_parameters(m)
    return nn.ModuleDict({"model": m, "average": average})


edits(
    orthogonal=lambda m: parametrizations.orthogonal(m.enc[0]),
    parametrized=lambda m: parametrize.register_parametrization(m.fc, "weight", Half()),
    pruned_structured=lambda m: prune.ln_structured(m.fc, "weight", 0.5, n=2, dim=0),
    pruned_global=lambda m: prune.global_unstructured(
        [(m.fc, "weight"), (m.heads["a"], "weight")], prune.L1Unstructured, amount=0.4
    ),
    initialized=lambda m: [nn.init.xavier_uniform_(p) for p in m.parameters() if p.dim() > 1],
    backward_hook=lambda m: m.fc.register_full_backward_hook(lambda *a: None),
    state_dict_hook=lambda m: m.register_state_dict_post_hook(lambda *a: None),
    load_hook=lambda m: m.register_load_state_dict_pre_hook(lambda *a: None),
    compiled_flag=lambda m: m.fc.register_forward_hook(lambda *a: None).remove(),
    parameter_hook=lambda m: m.fc.weight.register_hook(lambda grad: grad),
    double=lambda m: m.double(),
    share_memory=lambda m: m.share_memory(),
    type_of_part=lambda m: m.enc.type(torch.float16),
)


# ------------------------------------------------------------------------------------------------ the matrix


def made(kind: str, name: str) -> Any:
    """Return a model of one kind after one edit."""
    seed(0)
    model = KINDS[kind]()
    found = EDITS[name](model)
    return model if found is None else found


def saved(obj: Any, path: str | Path) -> str:
    """Save an object, and return all that the save said."""
    flambe_save.opening._warned.clear()  # what needs trust is told once in a process
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        save(obj, path)
    assert all(issubclass(each.category, FlambeSaveWarning) for each in said), [str(each.message) for each in said]
    return "\n".join(f"{each.category.__name__}: {each.message}" for each in said)


def check(obj: Any, folder: Path, twice: bool = True) -> str:
    """Save and load an object, perhaps twice in a row, and compare; return what the first save said."""
    said = saved(obj, folder / "first")
    again = load(folder / "first", weights_only="NeedsTrustWarning" not in said)
    here, seen = Picture(obj, said).facts, Picture(again, said).facts
    left = silent(differences(here, seen), said)
    assert not left, (left, said)
    if not twice:
        left = silent(differences(look(obj), look(again)), said)
        assert not left, (left, said)
        return said
    more = saved(again, folder / "second")
    third = load(folder / "second", weights_only="NeedsTrustWarning" not in more)
    left = silent(differences(Picture(again, more).facts, Picture(third, more).facts), more)
    assert not left, ("of what was loaded", left, more)
    here, seen, later = look(obj), look(again), look(third)
    left = silent(differences(here, seen), said)
    assert not left, (left, said)
    assert not silent(differences(seen, later), more)
    return said


# Functions and classes that are named, and what only a pickle holds: a load needs trust, and the save says so
NEEDS_TRUST = frozenset(("slotted", "sparse", "function_attr", "class_attr", "local_function"))


def cases() -> list[tuple[str, str, bool]]:
    """Return the rows of the matrix: all kinds in the long form.

    Else they are one of the main kinds in turn, and for every second edit one of the others; and what was loaded is
    saved again for every second row.
    """
    others = [kind for kind in KINDS if kind not in MAIN_KINDS]
    found = []
    for number, name in enumerate(EDITS):
        kinds = [*KINDS] if TORTURE else [MAIN_KINDS[number % len(MAIN_KINDS)]]
        if not TORTURE and number % 2:
            kinds.append(others[number // 2 % len(others)])
        found += [(kind, name, TORTURE > 0 or (len(found) + place) % 2 == 0) for place, kind in enumerate(kinds)]
    return found


@pytest.mark.parametrize(("kind", "name", "twice"), cases(), ids=lambda value: value if isinstance(value, str) else "")
def test_an_edit_is_loaded_or_named(kind: str, name: str, twice: bool, tmp_path: Path) -> None:
    """Of each kind of class, after each edit: what is noticeable is equal, by default and after a second save."""
    said = check(made(kind, name), tmp_path, twice)
    assert "NeedsTrustWarning" not in said or name in NEEDS_TRUST


@pytest.mark.parametrize("kind", ["component", "recorded", "plain"])
@pytest.mark.parametrize("table", ["module", "parameter", "buffer"])
def test_names_that_python_looks_up_are_refused(kind: str, table: str, tmp_path: Path) -> None:
    """A module's own entry has no name that no load would give; the save says so, and writes nothing."""
    model = KINDS[kind]()
    value = {"module": nn.ReLU(), "parameter": nn.Parameter(torch.ones(1)), "buffer": torch.ones(1)}[table]
    (model.add_module if table == "module" else getattr(model, f"register_{table}"))("__x__", value)
    with pytest.raises(UnsupportedObjectError, match=rf"has '__x__' among its {table}s, a name that no load accepts"):
        save(model, tmp_path / "save")
    assert not (tmp_path / "save").exists()


@pytest.mark.parametrize("kind", MAIN_KINDS)
def test_modules_in_a_set_are_named(kind: str, tmp_path: Path) -> None:
    """A set's items have no names to find weights by; modules that are elsewhere too are kept."""
    model = KINDS[kind]()
    model.known, model.hidden = {model.fc}, {nn.Linear(2, 2)}
    said = saved(model, tmp_path / "save")
    assert "'hidden' holds modules that torch does not know of" in said
    again = load(tmp_path / "save")
    assert again.known == {again.fc}
    assert torch.equal(again.fc.weight, model.fc.weight)


# ------------------------------------------------------------------------------------------------ in other places


class Owner(Component, nn.Module):
    """Is given a module."""

    def __init__(self, net: Any, size: int = 1) -> None:
        super().__init__()
        self.net = net
        self.size = size

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return a value."""
        return self.net(data)


class Maker(Component, nn.Module):
    """Makes a module itself."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net = KINDS[kind]()

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return a value."""
        return self.net(data)


class PlainOwner(nn.Module):
    """Is given a module, and knows nothing of this package."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return a value."""
        return self.net(data)


PLACES: dict[str, Callable[[str], tuple[Any, Any]]] = {
    "argument": lambda kind: _owned(Owner(KINDS[kind]())),
    "made inside": lambda kind: _owned(Maker(kind)),
    "in a plain module": lambda kind: _owned(PlainOwner(KINDS[kind]())),
    "in a list": lambda kind: _in_list(KINDS[kind]()),
    "argument in a list": lambda kind: _owned(Owner(nn.ModuleList([KINDS[kind](), nn.Tanh()])), 0),
    "deep": lambda kind: _owned(PlainOwner(Owner(PlainOwner(KINDS[kind]()))), "net", "net"),
}


def _owned(owner: Any, *more: Any) -> tuple[Any, Any]:
    inner = owner.net
    for name in more:
        inner = inner[name] if isinstance(name, int) else getattr(inner, name)
    return owner, inner


def _in_list(model: Any) -> tuple[Any, Any]:
    return {"items": [model, {"again": model}], "epoch": 1}, model


RETURNING = ["whole_wrapped", "unwrapped_part", "copied_then_edited", "edited_then_copied", "copied_shallow", "pickled"]
INSIDE = [name for name in EDITS if name not in (*RETURNING, "target_and_online", "averaged")]


@pytest.mark.parametrize("kind", ["component", "recorded", "plain", "sequential"])
@pytest.mark.parametrize("place", PLACES)
def test_an_edit_inside_another_object(place: str, kind: str, tmp_path: Path) -> None:
    """A module that is an argument, made by a constructor, or inside others: its edits are loaded or named as well."""
    names = INSIDE if TORTURE else random.Random(f"{kind} {place}").sample(INSIDE, 10)
    wrong = {}
    for name in names:
        seed(0)
        whole, inner = PLACES[place](kind)
        EDITS[name](inner)
        try:
            check(whole, tmp_path / name)
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"[:500]
    assert not wrong, wrong


# ------------------------------------------------------------------------------------------------ what is loaded


@pytest.mark.parametrize("kind", ["component", "recorded", "plain", "sequential"])
def test_an_edit_of_what_was_loaded(kind: str, tmp_path: Path) -> None:
    """A model that was edited, saved and loaded is edited again as the first was."""
    names = INSIDE if TORTURE else random.Random(f"{kind} again").sample(INSIDE, 14)
    wrong = {}
    for number, name in enumerate(names):
        first = names[number - 1]
        seed(0)
        try:
            model = made(kind, "new_head")
            said = saved(model, tmp_path / f"{number}")
            again = load(tmp_path / f"{number}", weights_only="NeedsTrustWarning" not in said)
            EDITS[name](again)
            if first not in ("delete_child", "child_none", "bias_deleted"):
                EDITS["freeze_bias"](again)
            check(again, tmp_path / name)
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"[:500]
    assert not wrong, wrong


# ------------------------------------------------------------------------------------------------ constructors


class Headless(Component, nn.Module):
    """Edits what it is given."""

    def __init__(self, backbone: Any, size: int = 2) -> None:
        super().__init__()
        backbone.fc = nn.Identity()
        backbone.heads.pop("b")
        backbone.enc.requires_grad_(False)
        backbone.note = "headless"
        self.backbone = backbone
        self.fc = nn.Linear(D, size)


@recorded
class HeadlessRecorded(nn.Module):
    """The same, of a class that is decorated."""

    def __init__(self, backbone: Any, size: int = 2) -> None:
        super().__init__()
        backbone.fc = nn.Identity()
        backbone.note = "headless"
        self.backbone = backbone
        self.fc = nn.Linear(D, size)


class HeadlessPlain(nn.Module):
    """The same, of a class that knows nothing."""

    def __init__(self, backbone: Any, size: int = 2) -> None:
        super().__init__()
        backbone.fc = nn.Identity()
        backbone.note = "headless"
        self.backbone = backbone
        self.fc = nn.Linear(D, size)


class Parts(Component, nn.Module):
    """Is given modules in containers, and keeps them in its own."""

    def __init__(self, layers: list[Any], named: dict[str, Any], act: Any = torch.tanh, tied: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers, nn.Linear(D, D))
        self.named = nn.ModuleDict(named)
        self.act = act
        if tied:
            self.body[-1].weight = self.body[0].weight


class Derived(AsComponent):
    """Edits what its base class made."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.fc = nn.Linear(D, width)
        self.enc.norm.momentum = 0.3
        del self.drop
        self.note = ["derived"]
        self.freeze()

    def freeze(self) -> None:
        """Freeze a part."""
        self.enc.requires_grad_(False)


HEADLESS = {"component": Headless, "recorded": HeadlessRecorded, "plain": HeadlessPlain}


@pytest.mark.parametrize("kind", ["component", "recorded", "plain", "sequential"])
@pytest.mark.parametrize("owner", HEADLESS)
def test_a_constructor_that_edits_its_argument(owner: str, kind: str, tmp_path: Path) -> None:
    """As it was left by the constructor, and edited before it, after it, or both."""
    for number in range(4):
        backbone = KINDS[kind]()
        if number & 1:
            backbone.enc.norm.momentum = 0.5
            backbone.fc = nn.Linear(D, 7)
        whole = HEADLESS[owner](backbone)
        if number & 2:
            whole.backbone.note = "after"
            whole.backbone.blocks.append(Block())
            whole.fc.bias = None
        check(whole, tmp_path / str(number))


@pytest.mark.parametrize("tied", [False, True])
def test_modules_given_in_containers(tied: bool, tmp_path: Path) -> None:
    """What a constructor is given in lists and dicts, edited inside and in its own containers."""
    shared = nn.Linear(D, D)
    changes: dict[str, Callable[[Parts], Any]] = {
        "nothing": lambda whole: None,
        "given": lambda whole: setattr(whole.body[1], "act", torch.sin),
        "taken out": lambda whole: whole.body.pop(1),
        "swapped": lambda whole: whole.body.__setitem__(0, whole.body[2]),
        "both": lambda whole: whole.named.update({"new": whole.body[0]}),
        "frozen": lambda whole: whole.body.requires_grad_(False),
        "replaced": lambda whole: setattr(whole, "body", nn.Sequential(nn.Tanh())),
        "untied": lambda whole: setattr(whole.body[3], "weight", nn.Parameter(torch.ones(D, D))),
        "weight of the given": lambda whole: setattr(whole.body[0], "weight", nn.Parameter(torch.ones(D, D))),
        "act": lambda whole: setattr(whole, "act", nn.GELU()),
    }
    for name, change in changes.items():
        whole = Parts(
            [nn.Linear(D, D), Block(), AsRecorded()], {"a": shared, "b": AsComponent(), "c": shared}, tied=tied
        )
        change(whole)
        check(whole, tmp_path / name)


def test_an_argument_that_was_replaced(tmp_path: Path) -> None:
    """What a constructor was given is nowhere in the object any more."""
    for number, other in enumerate((AsComponent(), AsPlain(), nn.Linear(D, 2), Owner(AsPlain()), None)):
        whole = Owner(AsRecorded())
        whole.net = other
        check(whole, tmp_path / str(number))


def test_a_class_that_edits_what_its_base_made(tmp_path: Path) -> None:
    """As built, and after edits that put back what the base had made."""
    check(Derived(), tmp_path / "built")
    model = Derived(5)
    model.drop = nn.Dropout(0.1)
    model.note = None
    model.enc.requires_grad_(True)
    check(model, tmp_path / "edited")


def test_helpers_beside_a_model(tmp_path: Path) -> None:
    """Plain objects that refer to a model, to its parameters, and to each other."""
    for kind in ("component", "recorded", "plain", "sequential"):
        model = KINDS[kind]()
        model.fc = nn.Linear(D, 9)
        helper = Average(model)
        other = Average(model.enc)
        other.first, helper.other, helper.head = helper, other, model.fc.weight
        check({"helper": helper, "model": model}, tmp_path / f"{kind} 1")
        check({"model": model, "helper": helper, "also": [helper, other]}, tmp_path / f"{kind} 2")
        check(helper, tmp_path / f"{kind} 3")


# ------------------------------------------------------------------------------------------------ training


TRAINED = """
nothing same_shape new_head new_head_mlp act_swap nobias enc_append freeze to_eval buffer param share weightnorm
spectral pruned orthogonal columns all_relu_to_silu block_act momentum layer_norm renamed parameter_list_replace
parameter_list_tied parameter_dict_add shared_deep tie_block tie_bias untie kind_of_parameter weight_replaced
children_swapped blocks_reversed freeze_all_but_head hidden_modules marks rnn double copied_then_edited
edited_then_copied lazy_run parametrized tie_names moved_to_end
"""


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Take one step, of all parts that can be run."""
    seed(2)
    optimizer.zero_grad()
    for path, inner in model.named_modules():
        if len(path) > 0 and path.count(".") < 2:
            dtype = next((value.dtype for value in inner.parameters()), torch.float32)
            data = torch.linspace(-1, 1, 4 * D, dtype=dtype).view(4, D)
            result = attempt(lambda inner=inner, data=data: inner(data))
            if isinstance(result, torch.Tensor) and result.requires_grad:
                result.square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", ["component", "recorded", "plain", "sequential"])
def test_training_goes_on_equally(kind: str, tmp_path: Path) -> None:
    """With its optimizer, before or after the model in a dict: after one more step, each parameter is equal."""
    wrong = {}
    for number, name in enumerate(TRAINED.split()):
        model = made(kind, name)
        groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1}]
        groups.append({"params": [p for p in model.parameters() if p.dim() <= 1], "lr": 0.02})
        optimizer = (torch.optim.AdamW, torch.optim.Adam)[number % 2](groups, lr=0.01)
        trained(model, optimizer)
        pairs = [("model", model), ("optimizer", optimizer), ("epoch", number)]
        try:
            said = saved(dict(pairs if number % 3 else pairs[::-1]), tmp_path / name)
            again = load(tmp_path / name, weights_only="NeedsTrustWarning" not in said)
            trained(model, optimizer)
            trained(again["model"], again["optimizer"])
            optimizer.zero_grad()
            again["optimizer"].zero_grad()
            here = Picture({"model": model, "optimizer": optimizer}).facts
            seen = Picture({"model": again["model"], "optimizer": again["optimizer"]}).facts
            left: Any = silent(differences(here, seen), said)
        except Exception as error:
            left = error
        if left:
            wrong[name] = repr(left)[:500]
    assert not wrong, wrong


# ------------------------------------------------------------------------------------------------ in other processes


_SAVE = """
import json, sys, torch, test_edits
print(json.dumps(test_edits.save_rows(sys.argv[1])))
"""
_LOAD = """
import json, sys, torch, test_edits
print(json.dumps(test_edits.compare_rows(sys.argv[1])))
"""


def rows() -> Iterator[tuple[str, str]]:
    """Yield a kind for each edit, in turn; all kinds in the long form."""
    kinds = [*KINDS]
    for number, name in enumerate(EDITS):
        for kind in kinds if TORTURE else [kinds[number % len(kinds)]]:
            yield kind, name


def save_rows(folder: str) -> int:
    """Save a model for each row, and next to it what is noticeable of it."""
    torch.set_num_threads(1)
    for kind, name in rows():
        model = made(kind, name)
        try:
            said = saved(model, f"{folder}/{kind}-{name}")
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        with open(f"{folder}/{kind}-{name}.pkl", "wb") as file:
            pickle.dump((said, {path: repr(fact) for path, fact in look(model).items()}), file)
    return len([*rows()])


def compare_rows(folder: str) -> dict[str, str]:
    """Load each row's model, and return what differs without having been named."""
    torch.set_num_threads(1)
    wrong = {}
    for kind, name in rows():
        with open(f"{folder}/{kind}-{name}.pkl", "rb") as file:
            said, here = pickle.load(file)
        try:
            again = load(f"{folder}/{kind}-{name}", weights_only="NeedsTrustWarning" not in said)
            left = silent(differences(here, {path: repr(fact) for path, fact in look(again).items()}), said)
        except Exception as error:
            left = {type(error).__name__: str(error)}
        if left:
            wrong[f"{kind}-{name}"] = repr(left)[:500]
    return wrong


def test_edits_in_another_process(tmp_path: Path) -> None:
    """Saved in one process and loaded in another, which knows nothing but the classes."""
    assert run_python(_SAVE, tmp_path) > 200
    assert run_python(_LOAD, tmp_path) == {}


class Numbered(Component, nn.Module):
    """Has numbers that were used as signs."""

    def __init__(self) -> None:
        super().__init__()
        self.last_step = -1
        self.soft = nn.Softmax(dim=-1)


def test_a_number_that_was_minus_one(tmp_path: Path) -> None:
    """What was -1 when an object was made is no mark of ours: another number is a change."""
    model = Numbered()
    model.last_step = 5
    model.soft.dim = 0
    again = load(save(model, tmp_path / "model"))
    assert (again.last_step, again.soft.dim) == (5, 0)


LARGE = 300  # of a side: so many bytes squared are more than those that are kept to be compared
KINDS_OF_LARGE: dict[str, Callable[[], torch.Tensor]] = {
    "mask": lambda: torch.ones(1, 1, LARGE, LARGE, dtype=torch.bool).tril(),
    "floats": lambda: torch.arange(LARGE * LARGE, dtype=torch.float32).view(LARGE, LARGE),
    "transposed": lambda: torch.arange(LARGE * LARGE, dtype=torch.bfloat16).view(LARGE, LARGE).t(),
    "repeated": lambda: torch.arange(LARGE, dtype=torch.float64).expand(LARGE, LARGE),
    "offset": lambda: torch.arange(LARGE * LARGE + 1, dtype=torch.int64).to(torch.uint8)[1:],
    "conjugated": lambda: torch.arange(LARGE * LARGE).to(torch.complex64).view(LARGE, LARGE).conj(),
    "square": lambda: torch.eye(127, dtype=torch.int64).roll(1, 0),  # words in as many rows as columns
}


class WithLarge(Component, nn.Module):
    """Has a large buffer that no state holds."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.register_buffer("large", KINDS_OF_LARGE[kind](), persistent=False)


class Noisy(Component, nn.Module):
    """Has buffers that no state holds, one of them random."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.fc = nn.Linear(side, side)
        self.register_buffer("table", torch.zeros(side, side), persistent=False)
        self.register_buffer("noise", torch.randn(side, side), persistent=False)


def write_by_data(tensor: torch.Tensor) -> None:
    """Change one element in a way that torch does not count."""
    first = tensor.data[(0,) * tensor.dim()]
    first.copy_(first == 0)


def write_by_moving(tensor: torch.Tensor) -> None:
    """Change the order of what is there, and nothing else."""
    tensor.data = (tensor.t() if tensor.dim() == 2 else tensor.flip(-1)).clone()


@pytest.mark.parametrize("write", [None, write_by_data, write_by_moving])
@pytest.mark.parametrize("kind", KINDS_OF_LARGE)
def test_a_large_buffer_that_no_state_holds(kind: str, write: Any, tmp_path: Path) -> None:
    """A write that torch does not count is seen in a large buffer too; one that was left alone is not written."""
    model = WithLarge(kind)
    if write is not None:
        write(model.large)
    path = save(model, tmp_path / "model")
    again = load(path)
    assert again.large.dtype == model.large.dtype
    assert torch.equal(again.large, model.large)
    assert Path(path, "config.yaml").read_text().startswith("!edited") is (write is not None)


def test_a_large_buffer_that_numpy_writes_to(tmp_path: Path) -> None:
    """numpy writes to the memory of a tensor, of which torch knows nothing."""
    model = WithLarge("floats")
    model.large.numpy()[7, 5] = -1
    assert load(save(model, tmp_path / "model")).large[7, 5] == -1


@pytest.mark.parametrize("side", [3, LARGE])
def test_a_buffer_of_what_was_loaded(side: int, tmp_path: Path) -> None:
    """The same goes for an object that a load has built."""
    model = load(save(Noisy(side), tmp_path / "first"))
    model.table.data[1, 1] = 7
    model.noise.data[1, 1] = 7
    again = load(save(model, tmp_path / "second"))
    assert again.table[1, 1] == again.noise[1, 1] == 7


def test_a_large_buffer_that_is_replaced() -> None:
    """What was noted of a buffer does not keep it in memory."""
    model = WithLarge("floats")
    held = weakref.ref(model.large.untyped_storage())
    model.large = torch.zeros(1)
    assert held() is None


def test_a_large_buffer_that_torch_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a device without the operations that this takes, writes are seen that torch counts."""

    def refuse(tensor: torch.Tensor) -> None:
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr("flambe_save.describing.prints._sums_of", refuse)
    model = WithLarge("floats")
    assert Path(save(model, tmp_path / "first"), "config.yaml").read_text() == "!test_edits.WithLarge\nkind: floats\n"
    model.large.neg_()
    assert torch.equal(load(save(model, tmp_path / "second")).large, model.large)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch is about to do without them
def test_a_large_quantized_tensor() -> None:
    """The numbers of a quantized tensor are read as what they are kept as."""

    def made(value: float) -> torch.Tensor:
        return torch.quantize_per_tensor(torch.full((LARGE, LARGE), value), 0.5, 0, torch.quint8)

    known = TensorPrint(made(1.0), "", is_compared=True)
    assert known.is_same(made(1.0))
    assert not known.is_same(made(2.0))
