"""Random trees of modules of every kind, after random edits: what is loaded is what was saved, in all that shows."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import pickle
import random
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import TORTURE
from other_process import run_python
from test_edits import D, Picture, Swish, attempt, differences, saved, silent
from torch import nn
from torch.nn.utils import parametrizations, prune

from flambe_save import Component, load, recorded

CHUNKS = 4
TREES = 1500 if TORTURE else 10  # in each chunk
AWAY = 400 if TORTURE else 20  # that another process loads
ONCE_WRONG = (20140, 20363, 20367, 40024, 40378, 40584, 41539, 41761, 42207, 42526, 42875, 50459, 50732, 51419, 51864)
ONCE_WRONG += (52838, 70269, 70678, 71084)
ONCE_WRONG_SINCE = (211031, 211511, 211665, 211702, 401230)  # with the later edits


# ------------------------------------------------------------------------------------------------ classes


def run(parts: Any, data: torch.Tensor) -> torch.Tensor:
    """Run what a module holds, one part after another; what takes no such data is left out."""
    for part in parts:
        if part is not None:
            data = part(data)
    return data


class Node(nn.Module):
    """Holds what it is given, and parts of its own; knows nothing of this package."""

    def __init__(self, *items: Any, size: int = D, act: Any = torch.tanh, named: Any = None) -> None:
        super().__init__()
        self.items = nn.ModuleList(items)
        self.own = nn.Sequential(nn.Linear(size, size), nn.LayerNorm(size))
        self.act = act
        self.named = nn.ModuleDict(named or {})
        self.scale = nn.Parameter(torch.ones(size))
        self.register_buffer("seen", torch.zeros(size))
        self.register_buffer("scratch", torch.ones(size), persistent=False)
        self.config = {"size": size, "items": [len(items)]}

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return a value."""
        data = run([*self.items, *self.named.values(), self.own], data)
        return self.act(data) * self.scale + self.seen


class ComponentNode(Component, Node):
    """Records its call."""

    def __init__(self, *items: Any, size: int = D, act: Any = torch.tanh, named: Any = None) -> None:
        Node.__init__(self, *items, size=size, act=act, named=named)


@recorded
class RecordedNode(Node):
    """Records its call too."""


class TyingNode(ComponentNode):
    """Changes in its constructor what it has made, and what it was given."""

    def __init__(self, *items: Any, size: int = D) -> None:
        super().__init__(*items, size=size)
        self.other = nn.Linear(size, size, bias=False)
        self.other.weight = self.own[0].weight
        self.own[1].requires_grad_(False)
        if len(self.items) > 1:
            self.first = self.items[0]
            self.items[-1] = nn.Identity()


class MakingNode(ComponentNode):
    """Makes others in its constructor."""

    def __init__(self, depth: int = 1, size: int = D) -> None:
        made = [RecordedNode(), Node(act=nn.ReLU())] if depth == 1 else [MakingNode(depth - 1), ComponentNode()]
        super().__init__(*made, size=size)
        self.note = f"depth {depth}"


@dataclasses.dataclass
class Holder:
    """Holds something, alone and in a list."""

    one: Any
    several: list[Any]


NODES: list[Callable[..., Any]] = [Node, ComponentNode, RecordedNode]
LEAVES: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(D, D),
    lambda: nn.Linear(D, D, bias=False),
    lambda: nn.LayerNorm(D),
    lambda: nn.BatchNorm1d(D),
    lambda: nn.BatchNorm1d(D, affine=False, track_running_stats=False),
    nn.ReLU,
    lambda: nn.LeakyReLU(0.2),
    nn.Tanh,
    nn.PReLU,
    nn.Identity,
    lambda: nn.Dropout(0.25),
    lambda: nn.GroupNorm(2, D),
    lambda: nn.RMSNorm(D),
    lambda: nn.Softmax(dim=-1),
    Swish,
    MakingNode,
    lambda: MakingNode(2),
    lambda: nn.TransformerEncoderLayer(D, 2, 8, dropout=0.0, batch_first=True),
]


def random_tree(rng: random.Random, depth: int, known: list[nn.Module]) -> nn.Module:
    """Return a module, one that is there already now and then."""
    if known and rng.random() < 0.1:
        return rng.choice(known)
    if depth == 0 or rng.random() < 0.2:
        made = rng.choice(LEAVES)()
    else:
        items = [random_tree(rng, depth - 1, known) for _ in range(rng.randint(0, 3))]
        kind = rng.randrange(6)
        if kind == 0:
            made = nn.Sequential(*items)
        elif kind == 1:
            made = nn.Sequential(collections.OrderedDict((f"part{number}", item) for number, item in enumerate(items)))
        elif kind == 2:
            made = TyingNode(*items)
        else:
            named = {f"n{number}": random_tree(rng, depth - 1, known) for number in range(rng.randint(0, 1))}
            act = rng.choice([torch.tanh, nn.functional.silu, nn.ReLU(), Swish(0.3)])
            made = rng.choice(NODES)(*items, act=act, named=named)
    known.append(made)
    return made


# ------------------------------------------------------------------------------------------------ edits


def _inside(model: nn.Module) -> list[nn.Module]:
    """Return the modules that people edit, not those that hold what computes a weight."""
    return [
        inner
        for path, inner in model.named_modules()
        if "parametrizations" not in path.split(".") and not isinstance(inner, nn.MultiheadAttention)
    ]


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [inner for inner in _inside(model) if type(inner) is nn.Linear]


def _unchanged(model: nn.Module) -> list[nn.Linear]:
    return [
        layer
        for layer in _linears(model)
        if "weight" in layer._parameters and layer.weight.dtype == torch.float32 and not layer._forward_pre_hooks
    ]


def _places(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [
        (parent, name)
        for parent in _inside(model)
        for name, child in parent._modules.items()
        if child is not None and name != "parametrizations"
    ]


def replace(rng: random.Random, model: nn.Module) -> None:
    """Another module in the place of one."""
    if places := _places(model):
        parent, name = rng.choice(places)
        parent._modules[name] = random_tree(rng, 1, [])


def reuse(rng: random.Random, model: nn.Module) -> None:
    """A leaf in one more place."""
    leaves = [inner for inner in _inside(model) if not any(True for _ in inner.children())]
    if places := _places(model):
        parent, name = rng.choice(places)
        parent._modules[name] = rng.choice(leaves)


def add_child(rng: random.Random, model: nn.Module) -> None:
    """One more child, that no forward uses, or one of a container."""
    parent = rng.choice(_inside(model))
    made = random_tree(rng, 1, [])
    names = [str(number) for number in range(len(parent._modules))]
    if isinstance(parent, (nn.Sequential, nn.ModuleList)) and [*parent._modules] == names and rng.random() < 0.5:
        parent.insert(rng.randint(0, len(parent)), made)
    else:
        parent.add_module(rng.choice(["extra", "more", "9"]), made)


def remove_child(rng: random.Random, model: nn.Module) -> None:
    """A child less in a container, or none in its place."""
    parents = [inner for inner in _inside(model) if isinstance(inner, (nn.Sequential, nn.ModuleList)) and len(inner)]
    if parents:
        parent = rng.choice(parents)
        del parent._modules[rng.choice([*parent._modules])]


def reorder(rng: random.Random, model: nn.Module) -> None:
    """Children, or parameters, in another order."""
    parent = rng.choice(_inside(model))
    table = rng.choice([parent._modules, parent._parameters, parent._buffers])
    for name in rng.sample([*table], len(table)):
        table[name] = table.pop(name)


def swap(rng: random.Random, model: nn.Module) -> None:
    """Two children in each other's places."""
    leaves = [place for place in _places(model) if not any(True for _ in place[0]._modules[place[1]].children())]
    if len(leaves) > 1:
        (one, name), (other, key) = rng.sample(leaves, 2)
        one._modules[name], other._modules[key] = other._modules[key], one._modules[name]


def tie(rng: random.Random, model: nn.Module) -> None:
    """One parameter for two."""
    if len(linears := _linears(model)) > 1:
        one, other = rng.sample(linears, 2)
        name = rng.choice(["weight", "bias"])
        setattr(one, name, getattr(other, name))


def untie(rng: random.Random, model: nn.Module) -> None:
    """A parameter of its own."""
    if linears := _linears(model):
        layer = rng.choice(linears)
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=rng.random() < 0.5)


def no_bias(rng: random.Random, model: nn.Module) -> None:
    """None in a parameter's place."""
    if linears := _linears(model):
        rng.choice(linears).bias = None


def freeze(rng: random.Random, model: nn.Module) -> None:
    """A part without gradients."""
    rng.choice(_inside(model)).requires_grad_(rng.random() < 0.2)


def mode(rng: random.Random, model: nn.Module) -> None:
    """A part in the other mode."""
    rng.choice(_inside(model)).train(rng.random() < 0.2)


def dtype(rng: random.Random, model: nn.Module) -> None:
    """A part, or all, of another type."""
    rng.choice([model, rng.choice(_inside(model))]).to(rng.choice([torch.float64, torch.bfloat16]))


def attribute(rng: random.Random, model: nn.Module) -> None:
    """Data on a module."""
    values = [
        lambda: rng.random(),
        lambda: {"a": [1, (2, "x")], "b": {rng.randrange(5)}},
        lambda: torch.full((2, 3), rng.random()).t(),
        lambda: [torch.ones(2), None],
        lambda: nn.functional.relu,
        lambda: torch.float16,
        lambda: collections.OrderedDict(b=1, a=2),
    ]
    setattr(rng.choice(_inside(model)), rng.choice(["note", "epoch", "_hidden"]), rng.choice(values)())


def reference(rng: random.Random, model: nn.Module) -> None:
    """A reference to a module, or tensor, of the tree that is no child."""
    inner = rng.choice(_inside(model))
    found = [rng.choice(_inside(model))]
    if tensors := [*model.parameters(), *model.buffers()]:
        found.append(rng.choice(tensors))
    inner.__dict__[rng.choice(["ref", "link"])] = rng.choice([found, tuple(found), {"to": found}])


def buffer(rng: random.Random, model: nn.Module) -> None:
    """Another buffer, of another kind, or one that is one no more."""
    inner = rng.choice(_inside(model))
    name = rng.choice([*inner._buffers, "mean"])
    if not (hasattr(inner, name) and name not in inner._buffers):
        value = rng.choice([torch.arange(3), torch.ones(D), None])
        inner.register_buffer(name, value, persistent=rng.random() < 0.5)


def values(rng: random.Random, model: nn.Module) -> None:
    """Other values in a tensor."""
    tensors = [value for value in [*model.parameters(), *model.buffers()] if value.is_floating_point()]
    if tensors:
        rng.choice(tensors).data.add_(rng.random())


def layout(rng: random.Random, model: nn.Module) -> None:
    """Other strides."""
    if linears := _linears(model):
        layer = rng.choice(linears)
        layer.weight.data = layer.weight.data.t().contiguous().t()


def setting(rng: random.Random, model: nn.Module) -> None:
    """A layer's own setting."""
    layer = rng.choice(_inside(model))
    for name in ("momentum", "eps", "p", "negative_slope", "_beta", "inplace"):
        if hasattr(layer, name) and not isinstance(getattr(layer, name), bool):
            setattr(layer, name, 0.125)
            return


def clone(rng: random.Random, model: nn.Module) -> None:
    """A copy of a part in another's place."""
    if places := _places(model):
        parent, name = rng.choice(places)
        parent._modules[name] = copy.deepcopy(parent._modules[name])


def parametrization(rng: random.Random, model: nn.Module) -> None:
    """What torch computes weights with."""
    if linears := _unchanged(model):
        layer = rng.choice(linears)
        rng.choice(
            [
                lambda: parametrizations.weight_norm(layer),
                lambda: parametrizations.spectral_norm(layer),
                lambda: prune.l1_unstructured(layer, "weight", 0.5),
            ]
        )()


EDITS = (replace, reuse, add_child, remove_child, reorder, swap, tie, untie, no_bias, freeze, mode, dtype, attribute)
EDITS += (reference, buffer, values, layout, setting, clone, parametrization)


def held(rng: random.Random, value: Any) -> Any:
    """Return a value as attributes hold it: itself, or in one of many containers."""
    return rng.choice(
        [
            lambda: value,
            lambda: [value],
            lambda: {"x": (value,)},
            lambda: types.SimpleNamespace(x=value),
            lambda: collections.OrderedDict(x=[value]),
            lambda: collections.deque([value]),
            lambda: Holder(value, [value]),
        ]
    )()


def back(rng: random.Random, model: nn.Module) -> None:
    """A module outside of the tree that has a part of it, and to which the part leads."""
    inner = rng.choice(_inside(model))
    outer = rng.choice([rng.choice(NODES)(), nn.Sequential()])
    outer._modules["child"] = inner
    inner.__dict__["back"] = held(rng, outer)


def hidden(rng: random.Random, model: nn.Module) -> None:
    """A module that is no child, in an attribute; of the tree now and then."""
    made = random_tree(rng, 1, []) if rng.random() < 0.7 else rng.choice(_inside(model))
    rng.choice(_inside(model)).__dict__[rng.choice(["hid", "back"])] = held(rng, made)


def expanded(rng: random.Random, model: nn.Module) -> None:
    """A buffer that repeats its elements."""
    inner = rng.choice(_inside(model))
    name = rng.choice([*inner._buffers, "wide"])
    if not (hasattr(inner, name) and name not in inner._buffers):
        value = torch.full((1,), rng.random()).expand(rng.choice([D, 3]))
        inner.register_buffer(name, value, persistent=rng.random() < 0.7)


def tie_buffer(rng: random.Random, model: nn.Module) -> None:
    """One buffer for two, of which the state may hold but one."""
    owners = [(inner, name) for inner in _inside(model) for name, value in inner._buffers.items() if value is not None]
    if owners:
        inner, name = rng.choice(owners)
        other, key = rng.choice([(inner, rng.choice([*inner._buffers])), (rng.choice(_inside(model)), "tied")])
        if key in other._buffers or not hasattr(other, key):
            other.register_buffer(key, inner._buffers[name], persistent=other is not inner or rng.random() < 0.6)


def row(rng: random.Random, model: nn.Module) -> None:
    """A row of layers of torch's, one of which is in it twice, or somewhere else too."""
    layer = nn.TransformerEncoderLayer(D, 2, 8, dropout=0.0, batch_first=True)
    made = nn.TransformerEncoder(layer, rng.randint(1, 3), enable_nested_tensor=False)
    taken = rng.choice([*made.layers, made.layers[0].linear1, made.layers[-1].norm2])
    kind = rng.randrange(4)
    if kind == 0:
        made.layers[rng.randrange(len(made.layers))] = made.layers[0]
    elif kind == 1:
        made.layers.append(made.layers[-1])
    elif kind == 2:
        rng.choice(_inside(model)).add_module("taken", taken)
    rng.choice(_inside(model)).add_module("row", made)


LATER_EDITS = (back, hidden, expanded, tie_buffer, row)  # which the seeds of ONCE_WRONG did not draw


def random_case(seed: int) -> tuple[nn.Module, list[str]]:
    """Return a tree after some edits, and their names."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model = random_tree(rng, rng.randint(1, 3), [])
    done = [rng.choice(EDITS) for _ in range(rng.randint(0, 5))]
    if seed not in ONCE_WRONG:
        done += [rng.choice(LATER_EDITS) for _ in range(rng.randint(0, 3))]
        rng.shuffle(done)
    for number, change in enumerate(done):
        with contextlib.suppress(RuntimeError, TypeError):  # torch refuses some edits after others
            change(random.Random(f"{seed} {number}"), model)  # of its own, so that a case can be reduced by hand
    return model, [change.__name__ for change in done]


# ------------------------------------------------------------------------------------------------ comparing


def has_cycle(model: nn.Module) -> bool:
    """Whether a module is inside itself, which torch cannot use."""
    inside: set[int] = set()

    def found(module: nn.Module) -> bool:
        if id(module) in inside:
            return True
        inside.add(id(module))
        answer = any(found(child) for child in module._modules.values() if child is not None)
        inside.discard(id(module))
        return answer

    return found(model)


def facts(model: nn.Module, said: str) -> dict[str, Any]:
    """Return all that shows of a model: what it is, and what it computes and learns, in both modes."""
    found = Picture(model, said).facts
    found["(repr)"] = attempt(lambda: repr(model).split(" at 0x")[0])
    found["(state)"] = list(model.state_dict())
    found["(parameters)"] = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    found["(buffers)"] = [name for name, _ in model.named_buffers(remove_duplicate=False)]
    found["(modules)"] = [name for name, _ in model.named_modules(remove_duplicate=False)]
    found["(own parameters)"] = [name for name, _ in model.named_parameters()]
    model.zero_grad()
    torch.manual_seed(1)
    data = torch.linspace(-1, 1, 4 * D).view(4, D)
    result = attempt(lambda: model(data))
    if isinstance(result, torch.Tensor):
        found["(output)"] = result.dtype, result.detach().tolist()
        found["(backward)"] = attempt(lambda: result.float().square().sum().backward())
        found["(gradients)"] = [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    else:
        found["(output)"] = result
    return {path: repr(fact) for path, fact in found.items()}


def problem(seed: int, folder: Path) -> str | None:
    """Return what is wrong with one tree; None where nothing is."""
    model, done = random_case(seed)
    if has_cycle(model):
        return None
    try:
        said = saved(model, folder / "model")
        again = load(folder / "model")
        here, seen = facts(model, said), facts(again, said)
        left: Any = silent(differences(here, seen), said)
        if not left and seed % 4 == 0:
            model = again
            said = saved(again, folder / "second")
            here, seen = facts(again, said), facts(load(folder / "second"), said)
            left = silent(differences(here, seen), said)
    except Exception as error:
        left = f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return f"seed {seed}, {', '.join(done)}: {str(left)[:700]}" if left else None


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_trees(chunk: int, tmp_path: Path) -> None:
    """Saved and loaded by default, and some of them once more: equal in all that shows, or named at the save."""
    wrong = [
        text for seed in range(chunk * TREES, (chunk + 1) * TREES) if (text := problem(seed, tmp_path / str(seed)))
    ]
    assert wrong == [], f"{len(wrong)} of {TREES}: " + "\n".join(wrong[:10])


def test_trees_that_were_once_wrong(tmp_path: Path) -> None:
    """Equal in all that shows, or named at the save."""
    assert [text for seed in ONCE_WRONG + ONCE_WRONG_SINCE if (text := problem(seed, tmp_path / str(seed)))] == []


def test_the_trees_are_of_all_kinds() -> None:
    """Of what is built, much can be run, and every edit and class occurs."""
    cases = [random_case(seed) for seed in range(100)]
    assert {name for _, done in cases for name in done} == {change.__name__ for change in (*EDITS, *LATER_EDITS)}
    assert {Node, ComponentNode, RecordedNode, TyingNode, MakingNode} <= {
        type(inner) for model, _ in cases for inner in model.modules()
    }
    can_run = [isinstance(attempt(lambda model=model: model(torch.ones(4, D))), torch.Tensor) for model, _ in cases]
    assert sum(can_run) > 50


# ------------------------------------------------------------------------------------------------ elsewhere

_LOAD = """
import json, sys, torch, test_random_modules
print(json.dumps(test_random_modules.compare_all(sys.argv[1])))
"""


def compare_all(folder: str) -> dict[str, str]:
    """Load what another process saved, and return what differs."""
    torch.set_num_threads(1)
    wrong = {}
    for file in sorted(Path(folder).glob("*.pkl")):
        said, here = pickle.loads(file.read_bytes())
        try:
            left: Any = silent(differences(here, facts(load(file.with_suffix("")), said)), said)
        except Exception as error:
            left = f"{type(error).__name__}: {error}"
        if left:
            wrong[file.stem] = str(left)[:500]
    return wrong


def test_random_trees_in_another_process(tmp_path: Path) -> None:
    """Saved here and loaded by a program that knows nothing but the classes."""
    refused = {}
    for seed in range(10**6, 10**6 + AWAY):
        model, done = random_case(seed)
        if has_cycle(model):
            continue
        try:
            said = saved(model, tmp_path / str(seed))
        except Exception as error:
            refused[str(seed)] = f"{done}: {error}"
            continue
        (tmp_path / f"{seed}.pkl").write_bytes(pickle.dumps((said, facts(model, said))))
    assert {**refused, **run_python(_LOAD, tmp_path)} == {}
