"""peft: base model and adapters in folders of their own, together again in another process."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from other_process import there_and_here
from torch import nn

from flambe_save import (
    Component,
    StateMismatchError,
    UnsupportedObjectError,
    UntrustedError,
    load,
    load_state,
    load_state_from_file,
    save,
    untrusted,
    verify,
)
from flambe_save.classes.tags import TAGS

transformers = pytest.importorskip("transformers", reason="pip install transformers")
peft = pytest.importorskip("peft", reason="pip install peft")

# peft asks models for a property that transformers has renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37, "vocab_size": 50}
IDS = {"input_ids": torch.arange(1, 9).reshape(2, 4)}
NUMBERS = {"x": torch.linspace(-1, 1, 6).reshape(2, 3)}


class Inner(Component, nn.Module):
    """A component inside the base model."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        return self.linear(x)  # type: ignore[no-any-return]


class Net(Component, nn.Module):
    """A base model that is a component, with an attribute in its state."""

    def __init__(self, width: int, inner: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.inner = inner
        self.steps = 0
        self.register_attrs("steps")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        return self.inner(self.norm(self.first(x)))  # type: ignore[no-any-return]


class Around(Component, nn.Module):
    """A component that is given a peft model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        return self.head(self.inner(x))  # type: ignore[no-any-return]


def classifier() -> Any:
    """Return an encoder with LoRA and a head that is trained as a whole."""
    base = transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT, num_labels=3))
    return peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]))


def two_adapters() -> Any:
    """Return a decoder with two adapters, the second of which is active."""
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, bos_token_id=1, eos_token_id=2)
    usual = {"task_type": "CAUSAL_LM", "fan_in_fan_out": True}
    first = peft.LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights="pissa", **usual)
    model = peft.get_peft_model(transformers.GPT2LMHeadModel(config), first)
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["c_attn", "c_proj"], use_dora=True, **usual))
    model.set_adapter("other")
    return model


def sequential() -> Any:
    """Return torch's own modules with LoRA."""
    base = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["2"]))


def component(config: Any = None) -> Any:
    """Return a component with adapters, which has a component inside."""
    base = Net(4, Inner(4))
    base.steps = 3
    return peft.get_peft_model(base, config or peft.LoraConfig(r=2, target_modules=["first", "linear"]))


def other_kind(name: str) -> Callable[[], Any]:
    """Return what makes a component with adapters of another kind."""
    more = {"feedforward_modules": ["linear"]} if name == "IA3Config" else {"r": 2}
    return lambda: component(getattr(peft, name)(target_modules=["first", "linear"], **more))


MODELS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "classifier": (classifier, IDS),
    "two_adapters": (two_adapters, IDS),
    "sequential": (sequential, {"input": NUMBERS["x"]}),
    "component": (component, NUMBERS),
    "around": (lambda: Around(component()), NUMBERS),
    "ia3": (other_kind("IA3Config"), NUMBERS),
    "loha": (other_kind("LoHaConfig"), NUMBERS),
    "lokr": (other_kind("LoKrConfig"), NUMBERS),
}


def facts(model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
    """Return what shall be as it was, as JSON has it, and the outputs."""
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    model.train()
    inner = model.inner if isinstance(model, Around) else model
    told = {
        "class": type(inner).__name__,
        "trained": {name: value.requires_grad for name, value in model.named_parameters()},
        "active": inner.active_adapters,
        "configs": {name: sorted(map(str, plain(config).items())) for name, config in inner.peft_config.items()},
    }
    return json.loads(json.dumps(told)), getattr(outputs, "logits", outputs)


def plain(config: Any) -> dict[str, Any]:
    """Return a config's values, sets in order."""
    values = config.to_dict().items()
    return {
        name: sorted(value) if isinstance(value, (set, list)) else value
        for name, value in values
        if name not in ("auto_mapping", "base_model_name_or_path")
    }


def trained(make: Callable[[], Any]) -> Any:
    """Return a model none of whose weights, and no running mean, is what its constructor makes."""
    model = make()
    with torch.no_grad():
        for value in (*model.parameters(), *(item for item in model.buffers() if item.is_floating_point())):
            value.add_(torch.rand_like(value) * 0.1)
    return model


@pytest.fixture(scope="module")
def round_trips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Save each model here, load all in another process, and return the folder and what both tell."""
    made = {name: trained(make) for name, (make, _) in MODELS.items()}
    return there_and_here(tmp_path_factory.mktemp("models"), made, __name__)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip_in_another_process(name: str, round_trips: Any) -> None:
    """Outputs are the same to the bit; configs, active adapters and what is trained are as they were."""
    folder, here, there = round_trips
    assert untrusted(folder / name) == []
    assert verify(folder / name) == []
    assert there[name] == here[name]


def test_each_adapter_has_a_folder(round_trips: Any) -> None:
    """It holds the adapter's tensors, as peft names them, and its config; it can be read alone."""
    folder, _, _ = round_trips
    path = folder / "two_adapters"
    assert sorted(item.name for item in path.iterdir() if item.is_dir()) == [
        "adapters.default",
        "adapters.other",
        "model",
    ]
    model = load(path)
    for name in ("default", "other"):
        state = load_state_from_file(path, node=f"adapters.{name}")
        own = peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        assert state.keys() == own.keys()
        assert all(torch.equal(state[key], own[key]) for key in own)
    assert (path / "adapters.default" / "config.yaml").read_text() == (
        "!peft.LoraConfig\ntask_type: CAUSAL_LM\nr: 4\ntarget_modules: [c_attn]\nfan_in_fan_out: true\n"
        "init_lora_weights: pissa\n"
    )
    assert (path / "adapters.default" / "version.txt").read_text() == "LoraConfig:0.0.0"
    with pytest.raises(StateMismatchError):
        load(path, node="adapters.default")  # weights without what they are for


def test_the_base_model_loads_alone(round_trips: Any) -> None:
    """Its folder holds the plain model under plain names: it loads as such, without its adapters."""
    folder, _, _ = round_trips
    model, base = load(folder / "classifier"), load(folder / "classifier", node="model")
    assert type(base) is transformers.BertForSequenceClassification
    with torch.no_grad(), model.disable_adapter():
        expected = model.eval()(**IDS).logits
    assert torch.equal(base.eval()(**IDS).logits, expected)
    component = load(folder / "component", node="model")
    assert (type(component), component.steps) == (Net, 3)
    assert torch.equal(
        load(folder / "component", node="model.inner").linear.weight,
        load_state_from_file(folder / "component")["model.inner.linear.weight"],
    )


def test_inside_a_component(round_trips: Any) -> None:
    """A peft model that a component holds has its folders inside the component's."""
    folder, _, _ = round_trips
    state = load_state_from_file(folder / "around")
    assert not [key for key in state if "base_layer" in key or "lora_A.default" in key]
    assert {"inner.model", "inner.model.inner", "inner.adapters.default"} <= state._metadata["_flambe_directories"]


def test_a_method_of_a_part_of_the_base_model(tmp_path: Path) -> None:
    """A helper's bound method is that of the part of the loaded model, which has another key than its attribute."""
    model = sequential()
    layer = model.get_base_model()[0]
    path = save({"callback": [layer.forward], "model": model}, tmp_path / "save")
    again = load(path)
    assert again["callback"][0].__self__ is again["model"].get_base_model()[0]


def test_loading_into_a_model_that_is_there(round_trips: Any, tmp_path: Path) -> None:
    """A component's own get_state and load_state carry a peft model's weights."""
    torch.manual_seed(1)
    one, other = trained(lambda: Around(component())), Around(component())
    other.load_state(one.get_state(), strict=True)
    assert torch.equal(facts(one, NUMBERS)[1], facts(other, NUMBERS)[1])


# ------------------------------------------------------------------------------------------------ what was changed


def _layer(model: Any) -> Any:
    """Return the layer with adapters that the component inside the base model has."""
    return model.get_base_model().inner.linear


def _edited(change: Callable[[Any], Any]) -> Any:
    """Return a component with adapters, none of whose weights is as it was made, and a change to it."""
    model = trained(component)
    change(model)
    return model


CHANGES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "an attribute": (lambda model: setattr(model, "note", "z"), lambda model: model.note),
    "adapters that are off": (
        lambda model: model.base_model.disable_adapter_layers(),
        lambda model: _layer(model).disable_adapters,
    ),
    "a scaling": (
        lambda model: _layer(model).scaling.update(default=5.0),
        lambda model: _layer(model).scaling["default"],
    ),
    "a dropout": (
        lambda model: _layer(model).lora_dropout.update({"default": nn.Dropout(0.4)}),
        lambda model: str(_layer(model).lora_dropout),
    ),
    "a module": (lambda model: setattr(model, "head", nn.Linear(8, 2)), lambda model: model.head.weight.tolist()),
    "a buffer": (lambda model: model.register_buffer("cal", torch.ones(2) * 3), lambda model: model.cal.tolist()),
    "a parameter": (
        lambda model: setattr(model, "scale", nn.Parameter(torch.ones(2) * 3)),
        lambda model: model.scale.tolist(),
    ),
    "a buffer of a layer": (
        lambda model: _layer(model).register_buffer("cal", torch.ones(2) * 3),
        lambda model: _layer(model).cal.tolist(),
    ),
    "a module in a layer": (
        lambda model: setattr(_layer(model), "more", nn.Linear(2, 2)),
        lambda model: _layer(model).more.weight.tolist(),
    ),
    "another adapter's weight": (
        lambda model: _layer(model).lora_A.update({"default": nn.Linear(4, 2)}),
        lambda model: _layer(model).lora_A["default"].bias.tolist(),
    ),
    "a tensor": (lambda model: setattr(model, "cal", torch.ones(2) * 3), lambda model: model.cal.tolist()),
    "modules in a list": (
        lambda model: setattr(model, "heads", [nn.Linear(2, 2)]),
        lambda model: model.heads[0].weight.tolist(),
    ),
    "a component": (
        lambda model: setattr(model, "helper", Inner(2)),
        lambda model: model.helper.linear.weight.tolist(),
    ),
    "a reference to a layer": (
        lambda model: setattr(model, "last", _layer(model)),
        lambda model: model.last is _layer(model),
    ),
    "a reference to a layer of the base model": (
        lambda model: setattr(model, "last", _layer(model).base_layer),
        lambda model: model.last is _layer(model).base_layer,
    ),
    "a mark on a weight": (
        lambda model: setattr(_layer(model).base_layer.weight, "mark", "x"),
        lambda model: _layer(model).base_layer.weight.mark,
    ),
}


@pytest.mark.filterwarnings("ignore:'heads' holds modules")
@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_kept(name: str, tmp_path: Path) -> None:
    """It is data beside the call, or the whole is its parts; a model of the same changes is filled."""
    change, told = CHANGES[name]
    model = _edited(change)
    path = save(model, tmp_path / "save")
    assert untrusted(path) == []
    again = load(path)
    assert told(again) == told(model)
    assert again.get_base_model().steps == 3
    assert torch.equal(facts(again, NUMBERS)[1], facts(model, NUMBERS)[1])
    state = save(model, tmp_path / "state", build=False)
    other = component()
    change(other)
    load_state(other, state)
    assert torch.equal(facts(other, NUMBERS)[1], facts(model, NUMBERS)[1])


def test_what_was_not_changed_is_a_call(tmp_path: Path) -> None:
    """Nothing that peft makes anew for each model counts as changed."""
    for name, (make, _) in MODELS.items():
        text = (Path(save(make(), tmp_path / name)) / "config.yaml").read_text()
        assert "!peft.tuners" not in text
        assert "!edited" not in text


def test_a_buffer_of_the_base_model_that_no_state_holds(tmp_path: Path) -> None:
    """Its values are compared with those that the base model is built with."""
    model = classifier()
    model.get_base_model().bert.embeddings.position_ids.add_(1)
    again = load(save(model, tmp_path / "save"))
    positions = [item.get_base_model().bert.embeddings.position_ids for item in (model, again)]
    assert torch.equal(*positions)


PLACES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "base": (lambda model: {"model": model, "base": model.get_base_model()}, lambda run: run["base"]),
    "base first": (lambda model: {"base": model.get_base_model(), "model": model}, lambda run: run["base"]),
    "in lists": (
        lambda model: {"all": [{"base": model.base_model.model}], "model": model},
        lambda run: run["all"][0]["base"],
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_base_model_that_something_else_has_too(name: str, tmp_path: Path) -> None:
    """It is one object with the one inside the peft model, after a load and where both are filled."""
    make, base = PLACES[name]
    run = make(trained(component))
    path = save(run, tmp_path / "save")
    assert untrusted(path) == []
    again, other = load(path), make(component())
    load_state(other, path)
    for each in (again, other):
        assert base(each) is each["model"].get_base_model()
        assert base(each).steps == 3
        assert torch.equal(facts(each["model"], NUMBERS)[1], facts(run["model"], NUMBERS)[1])


def test_what_does_not_fit_is_no_change_of_source(tmp_path: Path) -> None:
    """Objects of ours that stand for parts of a model have no source that a save knows."""
    path = save(component(), tmp_path / "save")
    with pytest.raises(StateMismatchError) as error:
        load_state(sequential(), path)
    assert "source" not in str(error.value)


# ------------------------------------------------------------------------------------------------ what is refused


class Plain(nn.Module):
    """A module of which nobody knows how it was built."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)


def test_an_unknown_base_is_refused(tmp_path: Path) -> None:
    """The error says that it is the base model of which too little is known."""
    model = peft.get_peft_model(Plain(), peft.LoraConfig(target_modules=["linear"]))
    with pytest.raises(UnsupportedObjectError, match="how the base model, a Plain, was built"):
        save(model, tmp_path / "model")


def test_merged_adapters_are_refused(tmp_path: Path) -> None:
    """Merged weights are neither the base model's nor the adapter's."""
    model = component()
    model.merge_adapter()
    with pytest.raises(UnsupportedObjectError, match="merged"):
        save(model, tmp_path / "model")
    model.unmerge_adapter()
    assert Path(save(model, tmp_path / "model")).is_dir()


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    """Prompts are no layers; the error names the kinds that are known."""
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, bos_token_id=1, eos_token_id=2)
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = peft.get_peft_model(transformers.GPT2LMHeadModel(config), prompts)
    with pytest.raises(UnsupportedObjectError, match=r"PromptTuningConfig; only .* LoraConfig"):
        save(model, tmp_path / "model")


REFUSED = {
    "an import": "megatron_core: os",
    "an import in action": "megatron_config: {a: 1}",
    "a library": "auto_mapping: {base_model_class: system, parent_library: os}",
    "a repository": "base_model_name_or_path: someone/model",
    "its revision": "revision: main",
    "files": "corda_config: {cache_file: /elsewhere/file}",
    "files of another": "eva_config: {rho: 1.0}",
    "quantization": "loftq_config: {loftq_bits: 4}",
    "a beginning that needs them": "init_lora_weights: loftq",
    "routing": "arrow_config: {top_k: 1}",
    "runtime": "runtime_config: {ephemeral_gpu_offload: true}",
    "an object": "rank_pattern: !torch.Linear {in_features: 1, out_features: 1}",
    "what is no argument": "anything: 1",
}


@pytest.mark.parametrize("line", REFUSED.values(), ids=list(REFUSED))
def test_a_config_reaches_nothing(line: str, round_trips: Any, tmp_path: Path) -> None:
    """What imports, reads or names repositories is refused, listed, and not built."""
    path = Path(shutil.copytree(round_trips[0] / "sequential", tmp_path / "model"))
    file = path / "config.yaml"
    file.write_text(file.read_text().replace("!peft.LoraConfig\n", f"!peft.LoraConfig\n    {line}\n", 1))
    (path / "manifest.json").unlink()
    with pytest.raises(UntrustedError, match="LoraConfig with"):
        load(path)
    assert [row.argument for row in untrusted(path)] == ["weights_only=False"]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("adapters:", "low_cpu_mem_usage: true\nadapters:", "'low_cpu_mem_usage'"),
        ("adapters:", "adapters: {default: !torch.ReLU {}}\nolder:", "an adapter that is a ReLU"),
        ("adapters:", "adapters: 3\nolder:", "adapters that are a int"),
        ("adapters:", "active_adapter: !torch.ReLU {}\nadapters:", "active_adapter that is a Schema"),
    ],
)
def test_a_model_reaches_nothing(old: str, new: str, what: str, round_trips: Any, tmp_path: Path) -> None:
    """Arguments of a peft model are its base, configs of known kinds, and names."""
    path = Path(shutil.copytree(round_trips[0] / "sequential", tmp_path / "model"))
    file = path / "config.yaml"
    file.write_text(file.read_text().replace(old, new, 1))
    (path / "manifest.json").unlink()
    with pytest.raises(UntrustedError, match=re.escape(what)):
        load(path)


@pytest.mark.parametrize("name", ["PromptTuningConfig", "XLoraConfig", "AutoPeftModel", "get_peft_model", "PeftConfig"])
def test_nothing_else_is_reached(name: str) -> None:
    """Only models and configs of known kinds have tags."""
    assert TAGS.knows("peft.PeftModel")
    assert not TAGS.knows(f"peft.{name}")


def test_adapters_of_tied_embeddings_share_their_memory_again(tmp_path: Path) -> None:
    """peft ties the adapters of tied layers by views; they are saved, and share the memory of one again."""
    config = transformers.LlamaConfig(**TEXT, num_key_value_heads=2, tie_word_embeddings=True)
    targets = ["q_proj", "embed_tokens"]
    lora = peft.LoraConfig(r=2, target_modules=targets, ensure_weight_tying=True)
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora).eval()
    nn.init.normal_(model.base_model.model.lm_head.lora_B.default.weight)
    again = load(save(model, tmp_path / "save"))
    head, embedding = again.base_model.model.lm_head, again.base_model.model.model.embed_tokens
    assert head.lora_A.default.weight.data_ptr() == embedding.lora_embedding_B["default"].data_ptr()
    assert head.base_layer.weight is embedding.base_layer.weight
    assert torch.equal(again(**IDS).logits, model(**IDS).logits)


class Answering:
    """A config that answers by its own code."""

    def to_dict(self) -> Any:
        """Note it, though nobody may ask."""
        ANSWERED.append("to_dict")
        return {}


class Asked(nn.Module):
    """A base model with a config."""


ANSWERED: list[str] = []
_BASE = "!test_peft.Asked.parts {modules: {first: %s}, attributes: {config: !test_peft.Answering.parts {}}}"
_EDITED = "!edited {object: %s, changes: {'': {attributes: {config: !test_peft.Answering.parts {}}}}}"
_LAYER = "!torch.Linear {in_features: 2, out_features: 2}"


@pytest.mark.parametrize(
    "config",
    [
        f"model: {_BASE % _LAYER}",
        f"model: {_EDITED % ('!torch.Sequential {args: [' + _LAYER + ']}')}",
    ],
)
def test_peft_asks_nothing_that_is_put_together(config: str, tmp_path: Path) -> None:
    """It calls methods of a base model's config, so a default load hands it none of another class."""
    path = Path(save({"x": 1}, tmp_path / "save"))
    (path / "manifest.json").unlink()
    adapters = "adapters: {default: !peft.LoraConfig {r: 2, target_modules: all-linear}}"
    (path / "config.yaml").write_text(f"!peft.PeftModel\n{config}\n{adapters}\n")
    with pytest.raises(UntrustedError, match="of its parts"):
        load(path)
    assert ANSWERED == []
