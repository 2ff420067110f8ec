"""Modules that are no Components: recorded, as skeletons, wrapped, parametrized, frozen, quantized."""

from __future__ import annotations

import copy
import re
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from other_process import run_program
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from flambe_save import (
    CompilationError,
    Component,
    LoadError,
    NeedsTrustWarning,
    SaveNotFoundError,
    StateMismatchError,
    StateMismatchWarning,
    UnsupportedObjectError,
    UntrustedError,
    load,
    load_state,
    load_state_from_file,
    opening,
    recorded,
    recording,
    register_adapter,
    save,
    save_state_to_file,
    untrusted,
    verify,
)
from flambe_save.adapters import Place, get_state
from flambe_save.adapters.fast_load import fill
from flambe_save.registry import ADAPTERS
from flambe_save.testing.codec import same


class Net(nn.Module):
    """Knows nothing of this package."""

    def __init__(self, size: int = 2, act: Any = torch.tanh) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size)
        self.act = act
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("scratch", torch.full((2,), 5.0), persistent=False)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return a value."""
        return self.act(self.layer(data)) + self.seen


class Owner(Component, nn.Module):
    """Holds a module that it is given."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


@recorded
class Recorded(Net):
    """Records its arguments, and may be built by any config."""


def alike(one: nn.Module, other: nn.Module, size: int) -> bool:
    """Whether two modules compute the same."""
    data = torch.linspace(-1, 1, 3 * size).reshape(3, size)
    return torch.equal(one(data), other(data))


# ------------------------------------------------------------------------------------------------ records


@pytest.mark.parametrize("flags", [{}, {"compress": True}, {"pickle_only": True}], ids=str)
def test_a_recorded_class_needs_no_trust(flags: dict[str, bool], tmp_path: Path) -> None:
    """Its arguments are its config; a copy has them too."""
    model = copy.deepcopy(Recorded(3, nn.functional.silu))
    path = save(model, tmp_path / "run", **flags)
    assert untrusted(path) == []
    again = load(path)
    assert type(again) is Recorded
    assert alike(again, model, 3)


def test_what_is_recorded_tells_its_arguments(tmp_path: Path) -> None:
    """Inside the context arguments are known, and stand beside the parts, which need no trust."""
    with recording():
        model = Net(3, act=nn.functional.gelu)
        plain = nn.Sequential(Net(2), nn.Linear(2, 1))
    for each, size in ((model, 3), (plain, 2)):
        path = save(each, tmp_path / "run", overwrite=True)
        assert untrusted(path) == []
        assert re.search(rf"arguments:\n +size: {size}\n", Path(path, "config.yaml").read_text())
        assert alike(load(path), each, size)


def test_nothing_is_recorded_outside(tmp_path: Path) -> None:
    """What is made before, after, or as a copy inside, has no record that could be wrong."""
    before = Net(3)
    with recording():
        twin = copy.deepcopy(before)
    after = Net(3)
    for model in (before, twin, after):
        path = save(model, tmp_path / "run", overwrite=True)
        assert "arguments" not in Path(path, "config.yaml").read_text()


def test_a_failing_constructor_says_so(tmp_path: Path) -> None:
    """Arguments that the class no longer takes are an error with the class's signature."""
    path = Path(save(Recorded(3), tmp_path / "run"))
    (path / "manifest.json").unlink()
    text = (path / "config.yaml").read_text().replace("size:", "width:")
    (path / "config.yaml").write_text(text)
    with pytest.raises(CompilationError, match="width"):
        load(path)


# ------------------------------------------------------------------------------------------------ parts


def test_a_module_is_its_parts(tmp_path: Path) -> None:
    """No pickle, no constructor, no trust: submodules, tensors and attributes, whatever the state_dict leaves out."""
    model = nn.Sequential(Net(300, nn.functional.relu))
    model[0].seen += 1
    model[0].scratch += 1
    model[0].extra = {"a": [1]}
    path = Path(save(model, tmp_path / "run"))
    assert (path / "stash.pkl").stat().st_size < 1000
    assert "scratch: !tensor 0.scratch" in (path / "config.yaml").read_text()
    again = load(path)
    assert alike(again, model, 300)
    assert (again[0].scratch.tolist(), again[0].extra) == ([6, 6], {"a": [1]})
    assert list(again.state_dict()) == list(model.state_dict())
    again[0].layer.weight.data.add_(1)  # it has memory of its own
    assert not alike(again, model, 300)


def test_a_part_of_a_module_loads_alone(tmp_path: Path) -> None:
    """A submodule is found by its key in the state, with modes and values."""
    model = nn.ModuleDict({"a": Net(3), "b": nn.Sequential(nn.Linear(3, 3), Net(2).eval())})
    path = save({"model": model}, tmp_path / "run")
    assert torch.equal(load(path, node="model.a").layer.weight, model["a"].layer.weight)
    part = load(path, node="model.b.1")
    assert (type(part), part.training) == (Net, False)
    assert alike(part, model["b"][1], 2)
    with pytest.raises(SaveNotFoundError, match="nothing"):
        load(path, node="model.nothing")


def test_a_state_needs_no_trust(tmp_path: Path) -> None:
    """Weights are readable, and fill a model that is there: the whole, a part, and one layer."""
    model = nn.ModuleDict({"a": Net(3), "b": nn.Sequential(nn.Linear(3, 3))})
    path = save({"model": model}, tmp_path / "run")
    assert torch.equal(load_state_from_file(path)["model.a.layer.weight"], model["a"].layer.weight)
    whole, part, layer = nn.ModuleDict({"a": Net(3), "b": nn.Sequential(nn.Linear(3, 3))}), Net(3), nn.Linear(3, 3)
    load_state(whole, path, node="model")
    load_state(part, path, node="model.a")
    load_state(layer, path, node="model.b.0")
    assert alike(whole["a"], model["a"], 3)
    assert alike(part, model["a"], 3)
    assert alike(layer, model["b"], 3)
    with pytest.raises(SaveNotFoundError, match="nothing"):
        load_state(layer, path, node="model.nothing")
    with pytest.raises(StateMismatchError, match="missing"):
        load_state(part, path, node="model.b")


def test_a_module_given_to_a_component(tmp_path: Path) -> None:
    """As an argument it is its parts too, for the component's state has its tensors."""
    owner = Owner(Net(200, nn.functional.relu))
    path = Path(save(owner, tmp_path / "run"))
    assert (path / "stash.pkl").stat().st_size < 1000
    assert alike(load(path).net, owner.net, 200)


def test_ties_of_parts(tmp_path: Path) -> None:
    """Parameters that are one stay one, and an optimizer moves them."""
    model = nn.Sequential(Net(2, nn.functional.relu), Net(2, nn.functional.relu))
    model[1].layer.weight = model[0].layer.weight
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    path = save({"optimizer": optimizer, "model": model}, tmp_path / "run")
    again = load(path)
    assert again["model"][0].layer.weight is again["model"][1].layer.weight
    moved = {id(value) for value in again["optimizer"].param_groups[0]["params"]}
    assert moved == {id(value) for value in again["model"].parameters()}


def test_what_hangs_on_a_module_is_kept_or_named(tmp_path: Path) -> None:
    """An attribute of somebody's stands beside a built-in's arguments; a hook is named."""
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))):
        model.note = [1]
        assert load(save(model, tmp_path / "run", overwrite=True)).note == [1]
        model.register_forward_hook(print)
        with pytest.warns(StateMismatchWarning, match="'_forward_hooks'"):
            path = save(model, tmp_path / "run", overwrite=True)
        assert not load(path)._forward_hooks


class Buffered(nn.Module):
    """Has both kinds of buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.kept = nn.Buffer(torch.ones(2))
        self.scratch = nn.Buffer(torch.full((2,), 3.0), persistent=False)
        self.register_buffer("usual", torch.zeros(1))


@pytest.mark.parametrize("make", [Buffered, Net, lambda: nn.Linear(2, 2)], ids=["own", "plain", "of torch"])
def test_a_buffer_of_nn_stays_one(make: Any, tmp_path: Path) -> None:
    """isinstance(value, nn.Buffer) is what it was, also of one that was added later."""
    model = make()
    model.later = nn.Buffer(torch.full((3,), 2.0))
    path = save(model, tmp_path / "run")
    again = load(path, trusted=[str(row.argument)[10:-2] for row in untrusted(path)])
    for name, value in model.named_buffers():
        found = again.get_buffer(name)
        assert isinstance(found, nn.Buffer) is isinstance(value, nn.Buffer), name
        assert vars(found) == vars(value)
        assert torch.equal(found, value)
    assert again._non_persistent_buffers_set == model._non_persistent_buffers_set
    assert (Path(save(again, tmp_path / "twice")) / "config.yaml").read_text() == (
        Path(path) / "config.yaml"
    ).read_text()


class Scaled(Component, nn.Module):
    """Its constructor may put a hook on a parameter."""

    def __init__(self, is_hooked: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        if is_hooked:
            self.layer.weight.register_hook(lambda gradient: gradient * 0)


@pytest.mark.parametrize("make", [Scaled, lambda: Net(2, nn.functional.relu), nn.Linear, nn.Sequential])
@pytest.mark.parametrize("how", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_parameters_are_named(how: str, make: Any, tmp_path: Path) -> None:
    """As those on modules are, whoever made the module; what a constructor puts on, the load's constructor does too."""
    model = make(nn.Linear(2, 2)) if make is nn.Sequential else make(2, 2) if make is nn.Linear else make()
    name, weight = next(iter(model.named_parameters()))
    getattr(weight, how)(print)
    table = "_backward_hooks" if how == "register_hook" else "_post_accumulate_grad_hooks"
    with pytest.warns(StateMismatchWarning, match=f"not saved, since they are not data: '{re.escape(name)}.{table}'"):
        path = save(model, tmp_path / "run")
    assert not getattr(next(iter(load(path).parameters())), table)


def test_hooks_that_a_constructor_puts_on_parameters_come_back(tmp_path: Path) -> None:
    """They are part of the call, and no warning is due."""
    assert load(save(Scaled(is_hooked=True), tmp_path / "run")).layer.weight._backward_hooks


class Pickled(nn.Module):
    """Says itself what it is made of."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.scratch = part, nn.Parameter(torch.full((300, 300), 3.0))

    def __reduce_ex__(self, protocol: Any) -> Any:
        make, arguments, state, *rest = super().__reduce_ex__(protocol)
        return make, arguments, {**state, "was": "pickled"}, *rest


def test_a_module_with_a_protocol_of_its_own_is_a_skeleton(tmp_path: Path) -> None:
    """It is pickled, without its weights, and needs trust; two that share a part still do."""
    part = Net(2, nn.functional.relu)
    with pytest.warns(NeedsTrustWarning, match=r"stash\.pkl: a is a test_modules\.Pickled"):
        path = Path(save({"a": Pickled(part), "b": Pickled(part)}, tmp_path / "run"))
    assert (path / "stash.pkl").stat().st_size < 10_000 < (path / "a" / "state.pt").stat().st_size
    with pytest.raises(UntrustedError, match=r"test_modules\.Pickled"):
        load(path)
    again = load(path, trusted=["test_modules", "torch.nn"])
    assert again["a"].part is again["b"].part
    assert (again["a"].was, again["a"].scratch[0, 0].item()) == ("pickled", 3)


# ------------------------------------------------------------------------------------------------ modes


def test_frozen_parameters_and_modes(tmp_path: Path) -> None:
    """What was frozen is frozen, what was in training is in training, also where the constructor says otherwise."""

    class Freezes(Component, nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(1, 1).requires_grad_(False), nn.Linear(1, 1)
            self.a.eval()

    model = Freezes()
    model.a.requires_grad_(True).train()
    model.b.bias.requires_grad_(False)
    model.eval()
    model.b.train()
    again = load(save(model, tmp_path / "run"))
    assert [value.requires_grad for value in again.parameters()] == [True, True, True, False]
    assert [inner.training for inner in again.modules()] == [False, False, True]
    other = Freezes()
    load_state(other, tmp_path / "run")
    assert [value.requires_grad for value in other.parameters()] == [False, False, True, True]


# ------------------------------------------------------------------------------------------------ wrappers


def base() -> nn.Sequential:
    """Return a model with a name that wrappers use inside it."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"module": nn.Linear(2, 2)}))


def wrap_inside(model: nn.Module) -> nn.Module:
    """Return a model a part of which is wrapped, twice."""
    return nn.ModuleList([model[0], nn.DataParallel(nn.DataParallel(model[1]))])


def compiled(model: nn.Module) -> Any:
    """Return a compiled model; the compiler's first import warns of what torch itself still uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(model)


WRAPPERS: dict[str, Any] = {
    "plain": lambda model: model,
    "compiled": compiled,
    "data parallel": nn.DataParallel,
    "compiled data parallel": lambda model: compiled(nn.DataParallel(model)),
}


@pytest.mark.parametrize("saved", WRAPPERS)
@pytest.mark.parametrize("filled", WRAPPERS)
def test_wrapped_and_plain_are_one(saved: str, filled: str, tmp_path: Path) -> None:
    """A save of either fills either, and loads as the plain module."""
    path = save({"model": WRAPPERS[saved](base())}, tmp_path / "run")
    assert untrusted(path) == []
    again = load(path)["model"]
    assert type(again) is nn.Sequential
    assert same(again.state_dict(), base().state_dict())
    other = base()
    for value in other.parameters():
        value.data.zero_()
    load_state({"model": WRAPPERS[filled](other)}, path)
    assert same(other.state_dict(), base().state_dict())


def test_wrappers_inside_a_model(tmp_path: Path) -> None:
    """Keys are those of the modules inside; so are frozen parameters, and an optimizer's names."""
    model = wrap_inside(base())
    model[1].module.module["module"].bias.requires_grad_(False)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], 0.1, momentum=0.9)
    path = save({"model": model, "optimizer": optimizer}, tmp_path / "run")
    keys = [key for key in load_state_from_file(path) if key.startswith("model")]
    assert keys == ["model.0.weight", "model.0.bias", "model.1.module.weight", "model.1.module.bias"]
    again = load(path)
    assert not again["model"][1]["module"].bias.requires_grad
    assert len(again["optimizer"].param_groups[0]["params"]) == 3
    load_state(wrap_inside(base()), path, node="model")


def test_a_compiled_model_saved_by_torch(tmp_path: Path) -> None:
    """A state_dict that somebody else saved from a compiled model fills the plain one."""
    path = save_state_to_file(compiled(base()).state_dict(), tmp_path / "run")
    other = base()
    other[0].weight.data.zero_()
    load_state(other, path)
    assert same(other.state_dict(), base().state_dict())


def test_distributed(tmp_path: Path) -> None:
    """DistributedDataParallel is looked through like the others."""
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(base())
        path = save(model, tmp_path / "run")
        load_state(model, path)
    finally:
        torch.distributed.destroy_process_group()
    assert same(load(path).state_dict(), base().state_dict())


# ------------------------------------------------------------------------------------------------ parametrizations


def weight_normed() -> nn.Sequential:
    """Return a model with each of torch's parametrizations."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    parametrizations.weight_norm(model[0])
    parametrizations.spectral_norm(model[1], n_power_iterations=2)
    parametrizations.orthogonal(model[2], orthogonal_map="cayley")
    return model


def test_parametrized_modules(tmp_path: Path) -> None:
    """They are built again with what computes their weights, without trust, and a save changes nothing."""
    model = weight_normed()
    before = copy.deepcopy(model.state_dict())
    path = save(model, tmp_path / "run")
    assert same(model.state_dict(), before)
    assert untrusted(path) == []
    again = load(path)
    assert all(map(parametrize.is_parametrized, again))
    assert same(again.state_dict(), model.state_dict())
    assert alike(again.eval(), model.eval(), 3)


def test_parametrized_to_plain_and_back(tmp_path: Path) -> None:
    """A plain module takes what was computed; a parametrized one takes plain weights and makes them its own."""
    model, plain = weight_normed().eval(), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    load_state(plain, save(model, tmp_path / "run"))
    assert alike(plain, model, 3)
    normed = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    load_state(normed, save(plain, tmp_path / "plain"))
    data = torch.ones(1, 3)
    assert torch.allclose(normed(data), model(data))
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    with pytest.raises(StateMismatchError, match=r"0\.weight cannot be given to its parametrization"):
        load_state(normed, save(other, tmp_path / "other"))


def test_quantized_modules(tmp_path: Path) -> None:
    """A dynamically quantized module is a skeleton; its packed weights are in the state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this way of quantizing is to go
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})
        data = torch.randn(2, 4)
        with pytest.warns(NeedsTrustWarning):
            path = save(model, tmp_path / "run")
        with pytest.raises(UntrustedError):
            load(path)
        assert torch.equal(load(path, weights_only=False)(data), model(data))


# ------------------------------------------------------------------------------------------------ kinds of one's own


class Thermometer:
    """A kind that nobody knows."""

    def __init__(self, unit: str) -> None:
        self.unit, self.reading = unit, torch.zeros(1)


class Barometer(Thermometer):
    """One that says itself what it is made of, which is not all of it."""

    def __getstate__(self) -> dict[str, Any]:
        return {"unit": self.unit}


class _ThermometerAdapter:
    """Reads a thermometer."""

    def describe(self, obj: Thermometer) -> Any:
        from flambe_save import Schema

        return Schema(Thermometer, unit=obj.unit)

    def children(self, obj: Thermometer) -> Any:
        return ()

    def get_state(self, place: Place, state: Any) -> None:
        state[place.key_prefix + "reading"] = place.obj.reading

    def load_state(self, place: Place, state: Any, mismatch: Any, fit: Any) -> None:
        key = place.key_prefix + "reading"
        mismatch.consumed.add(key)
        place.obj.reading = state[key]


def test_a_kind_of_ones_own(tmp_path: Path) -> None:
    """An adapter is all that a new kind takes; its class needs trust, as nobody registered it."""
    register_adapter(Thermometer, _ThermometerAdapter(), note="its reading")
    try:
        thermometer = Thermometer("K")
        thermometer.reading += 300
        with pytest.warns(NeedsTrustWarning, match="Thermometer"):
            path = save({"inside": thermometer}, tmp_path / "run")
        again = load(path, trusted=[__name__])["inside"]
    finally:
        ADAPTERS._entries.pop(f"{__name__}.Thermometer")
        ADAPTERS._by_type.clear()
    assert (again.unit, again.reading.tolist()) == ("K", [300])


def test_an_object_of_no_kind_goes_to_the_stash(tmp_path: Path) -> None:
    """Alone, and in a dict; with trust it comes back."""
    for value in (Barometer("K"), {"a": [Barometer("K")]}):
        opening._warned.clear()
        with pytest.warns(NeedsTrustWarning, match=r"(the Barometer itself|a\[0\]) is a test_modules\.Barometer"):
            path = save(value, tmp_path / "run", overwrite=True)
        again = load(path, trusted=[__name__])
        assert (again["a"][0] if isinstance(again, dict) else again).unit == "K"
    assert verify(path) == []


def test_a_script_in_another_process(tmp_path: Path) -> None:
    """Saved in one program, loaded in another that has only imported the module."""
    (tmp_path / "zoo.py").write_text(
        textwrap.dedent(
            """
            import torch, flambe_save
            @flambe_save.recorded
            class Zebra(torch.nn.Module):
                def __init__(self, stripes):
                    super().__init__()
                    self.layer = torch.nn.Linear(stripes, 1)
            """
        )
    )
    steps = [
        "import zoo; model = zoo.Zebra(3); torch.nn.init.constant_(model.layer.weight, 7.0)\n"
        "flambe_save.save({'model': model, 'optimizer': torch.optim.Adam(model.parameters())}, 'run')",
        "import zoo; run = flambe_save.load('run')\n"
        "assert run['optimizer'].param_groups[0]['params'][0] is run['model'].layer.weight\n"
        "print(run['model'].layer.weight.tolist())",
        "print(flambe_save.load('run/model', trusted=['zoo']).layer.weight.tolist())",
    ]
    shown = []
    for step in steps:
        code = f"import sys; sys.path.insert(0, '.'); import torch, flambe_save\n{step}"
        result = run_program(code, folder=tmp_path)
        assert result.returncode == 0, result.stderr
        shown.append(result.stdout)
    assert shown == ["", "[[7.0, 7.0, 7.0]]\n", "[[7.0, 7.0, 7.0]]\n"]


def test_two_states_of_one_object_are_equal() -> None:
    """Collecting a state changes neither the object nor what the next one collects."""
    model = weight_normed()
    run = {"model": model, "optimizer": torch.optim.Adam(model.parameters())}
    assert same(get_state(run), get_state(run))


@recorded
class Keeper:
    """No module, and no Component; it keeps modules in several ways."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.more = model, {"list": [nn.Linear(2, 2)]}
        self.optimizer = torch.optim.SGD(model.parameters(), 0.1)


def test_a_recorded_class_that_is_no_module(tmp_path: Path) -> None:
    """The modules that it holds keep their weights."""
    keeper = Keeper(nn.Linear(2, 2))
    again = load(save({"keeper": keeper}, tmp_path / "run"))["keeper"]
    assert same(again.model.state_dict(), keeper.model.state_dict())
    assert same(again.more["list"][0].state_dict(), keeper.more["list"][0].state_dict())
    assert again.optimizer.param_groups[0]["params"][0] is again.model.weight


def test_what_is_one_stays_one(tmp_path: Path) -> None:
    """A part of two modules is one part of two."""
    part = Net(2, nn.functional.relu)
    again = load(save({"a": Wraps(part), "b": Wraps(part)}, tmp_path / "run"))
    assert again["a"].part is again["b"].part


class Wraps(nn.Module):
    """Holds a part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part


def test_old_weight_norm(tmp_path: Path) -> None:
    """What a hook computes is no leaf, and is computed again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is to go
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)))
    again = load(save(model, tmp_path / "run"))
    assert alike(again, model, 3)
    assert len(again[0]._forward_pre_hooks) == 1


def test_modules_that_torch_does_not_know_of(tmp_path: Path) -> None:
    """A plain list of layers that a constructor makes is no part of a module's state: a save says so, and names it."""
    model = Hiding()
    with pytest.warns(StateMismatchWarning, match=r"more.*nn\.ModuleList"):
        save(model, tmp_path / "run")
    assert "more.a.0.weight" not in load_state_from_file(tmp_path / "run")
    model.more = {"b": [nn.Linear(2, 2)]}  # and this one is a change, and so it is data
    again = load(save(model, tmp_path / "changed"))
    assert torch.equal(again.more["b"][0].weight, model.more["b"][0].weight)


@recorded
class Hiding(nn.Module):
    """Has layers that torch does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.more = {"a": [nn.Linear(2, 2)]}


class Renaming(nn.Module):
    """Takes a weight by its old name, and reports what it is asked to load."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.inner = nn.ModuleDict({"a": nn.Linear(2, 2), "ab": nn.Linear(2, 2, bias=False)})
        self.asked: list[Any] = []
        self.register_load_state_dict_post_hook(lambda module, keys: keys.unexpected_keys.append("of.a.hook"))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        self.asked.append((list(state_dict), prefix, local_metadata))
        state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}old")
        state_dict[f"{prefix}inner.ab.weight"] = torch.ones(2, 2)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_filling_is_what_torch_does() -> None:
    """Hooks see the same, and the same keys are missing, unexpected and in errors, as with load_state_dict."""
    own = nn.ModuleList([Renaming(), nn.BatchNorm1d(2)]).state_dict()
    for key in ("0.inner.a.bias", "0.inner.ab.weight", "1.weight", "0.weight"):
        del own[key]
    own["0.old"], own["0.inner.abc.weight"], own["x"] = torch.ones(2), torch.ones(1), torch.ones(1)
    results = []
    for load_into in (fill, lambda module, own: module.load_state_dict(own, strict=False)):
        model = nn.ModuleList([Renaming(), nn.BatchNorm1d(2)])
        keys = tuple(load_into(model, own))
        with pytest.raises(RuntimeError) as failed:
            load_into(model, {**own, "0.old": torch.ones(3), "0.inner.a.weight": "none"})
        results.append((keys, str(failed.value), model[0].asked, model[0].inner["ab"].weight.tolist()))  # type: ignore
    assert results[0] == results[1]


def test_torch_fills_its_own_layers_beside_copies() -> None:
    """A batch norm of an old save gets what that save lacks, also where another one is filled already."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    own = nn.Sequential(nn.Identity(), nn.BatchNorm1d(2)).state_dict()
    del own["1.num_batches_tracked"], own._metadata["1"]["version"]  # type: ignore[attr-defined]
    assert fill(model, own, {id(model[0]): model[0]}) == ([], [])


def test_a_load_state_dict_of_its_own_is_called(tmp_path: Path) -> None:
    """A module that loads itself in its own way does so."""

    class Own(nn.Linear):
        def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
            self.is_called = True
            return super().load_state_dict(*args, **kwargs)

    model = Own(2, 2)
    assert fill(model, model.state_dict()) == ([], [])
    assert model.is_called


@recorded
class MetaState(nn.Module):
    """Has a tensor in an extra state."""

    def get_extra_state(self) -> dict[str, Any]:
        return {"values": [torch.ones(2, device="meta")]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.values = state["values"]


class Bag:
    """A plain object."""

    def __init__(self, held: Any) -> None:
        self.held = held


WITHOUT_VALUES = {
    "module": (lambda: nn.Linear(2, 2, device="meta"), "'weight', 'bias'", lambda made: made.weight),
    "nested": (lambda: {"a": [Net(2).to("meta")]}, r"'a\.0\.layer\.weight'", lambda made: made["a"][0].layer.weight),
    "recorded": (lambda: Recorded(2).to("meta"), r"'layer\.weight'", lambda made: made.layer.weight),
    "dict": (lambda: {"x": torch.ones(2), "y": torch.ones(2, device="meta")}, "'y'", lambda made: made["y"]),
    "alone": (lambda: torch.ones(2, device="meta"), "'value'", lambda made: made),
    "attribute": (lambda: Bag([torch.ones(2, device="meta")]), r"'held\.0'", lambda made: made.held[0]),
    "set": (lambda: {torch.ones(2, device="meta")}, r"'!\$ 0'", lambda made: made.pop()),
    "extra state": (MetaState, "'_extra_state'", lambda made: made.values[0]),
}


@pytest.mark.parametrize("flags", [{}, {"pickle_only": True}], ids=str)
@pytest.mark.parametrize("name", WITHOUT_VALUES)
def test_what_has_no_values_is_refused_by_name(name: str, flags: dict[str, bool], tmp_path: Path) -> None:
    """What was saved on the meta device holds nothing, which a load says, unless the caller asks for meta."""
    make, names, tensor_of = WITHOUT_VALUES[name]
    path = save(make(), tmp_path / "save", **flags)
    with pytest.raises(LoadError, match=rf"(?s)no values of.*{names}.*map_location='meta'"):
        load(path)
    assert tensor_of(load(path, map_location="meta")).is_meta


def test_nothing_is_filled_from_what_has_no_values(tmp_path: Path) -> None:
    """load_state and a load of one value refuse such tensors too, and only these."""
    path = save({"x": [torch.ones(2)], "y": [torch.ones(2, device="meta")]}, tmp_path / "save")
    here = {"x": [torch.zeros(2)], "y": [torch.zeros(2)]}
    for strict in (True, False):
        with pytest.raises(LoadError, match=r"no values of 'y\.0'"):
            load_state(here, path, strict=strict)
    assert not here["x"][0].any()
    load_state(here["x"], path, node="x")
    assert here["x"][0].all()
    assert load(path, node="x")[0].all()
    with pytest.raises(LoadError, match=r"no values of 'y\.0'"):
        load(path, node="y")


class LeavesOut(nn.Module):
    """Leaves a cache out of copies of it, and makes it again."""

    def __init__(self, by: Any = 2.0) -> None:
        super().__init__()
        self.layer, self.by, self.cache = nn.Linear(2, 2), by, {"sum": 1.0}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "cache"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("no load by parts calls this")


def test_a_module_of_data_is_its_parts_whatever_its_copies_hold(tmp_path: Path) -> None:
    """No code of its class runs, and nothing is left out; where it holds more than data, its class is asked."""
    again = load(save(LeavesOut(by=3.0), tmp_path / "data"))
    assert (again.by, again.cache) == (3.0, {"sum": 1.0})
    assert (tmp_path / "data" / "config.yaml").read_text().startswith("!test_modules.LeavesOut.parts")
    more = LeavesOut()
    more.layer.forward = more.layer.forward  # a bound method, which no config can say
    more.forward = more.layer.forward
    with pytest.raises(UnsupportedObjectError, match="no load by parts calls this"):
        save(more, tmp_path / "more")


class AddsItsArguments(nn.Module):
    """Adds an entry to a ``state_dict``, its own or that of what is around it, and has a version that is a text."""

    _version: Any = "0.1"

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        found = super().state_dict(*args, **kwargs)
        found["arguments"] = {"size": self.layer.in_features}
        return found

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return super().load_state_dict({k: v for k, v in state_dict.items() if k != "arguments"}, *args, **kwargs)


@pytest.mark.parametrize("made", [lambda m: m, lambda m: {"a": m}, nn.Sequential], ids=["alone", "dict", "inside"])
def test_what_a_module_adds_to_a_state_dict_is_in_nobodys_way(made: Any, tmp_path: Path) -> None:
    """Also where it lands in the state_dict of a module of torch around it."""
    module = AddsItsArguments(3)
    again = load(save(made(module), tmp_path / "run"))
    inside = again["a"] if isinstance(again, dict) else again[0] if isinstance(again, nn.Sequential) else again
    assert torch.equal(inside.layer.weight, module.layer.weight)


class AddsAnAttribute(AddsItsArguments):
    """Adds an attribute of its own, which is more than data."""

    def __init__(self, size: int = 2) -> None:
        super().__init__(size)
        self.given = {"size": size, "act": nn.functional.gelu, "kind": AddsItsArguments}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        found = super().state_dict(*args, **kwargs)
        found["arguments"] = self.given
        return found


@pytest.mark.parametrize("made", [lambda m: m, lambda m: {"a": m}], ids=["alone", "dict"])
def test_what_a_module_adds_is_not_pickled_where_the_config_says_it(made: Any, tmp_path: Path) -> None:
    """It is an attribute, and of the module's own library; so a load needs no trust, and a filling none either."""
    module = AddsAnAttribute(3)
    path = save(made(module), tmp_path / "run")
    assert untrusted(path) == []
    again = load(path)
    inside = again["a"] if isinstance(again, dict) else again
    assert inside.given == module.given
    here = AddsAnAttribute(3)
    load_state(made(here), path)
    assert torch.equal(here.layer.weight, module.layer.weight)


def _inside_itself(kind: str) -> nn.Module:
    """Return a module that is inside itself, which torch cannot use."""
    model: Any = nn.Sequential(nn.Linear(2, 2))
    if kind == "built-in":
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1)
        model.layers[0].outer = model
    elif kind == "component":
        model = Recorded(2, nn.functional.silu)
        model.outer = model
    else:
        model[0].outer = model
    return model


@pytest.mark.parametrize("kind", ["plain", "built-in", "component"])
def test_a_module_inside_itself_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    """It has no state: neither a save nor a load into it goes on without an end."""
    model = _inside_itself(kind)
    with pytest.raises(UnsupportedObjectError, match=r"outer, a \w+, is inside itself"):
        save(model, tmp_path / "model")
    save(nn.Linear(2, 2), tmp_path / "other")
    with pytest.raises(UnsupportedObjectError, match="is inside itself"):
        load_state(model, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
