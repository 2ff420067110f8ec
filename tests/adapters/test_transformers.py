"""Hugging Face transformers: models come back from config and weights in another process, and configs reach nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from other_process import run_python, there_and_here
from torch import nn

import flambe_save
from flambe_save import (
    Component,
    UnsupportedObjectError,
    UntrustedError,
    load,
    load_state,
    save,
    untrusted,
)
from flambe_save.adapters import huggingface_configs
from flambe_save.adapters.huggingface import MODEL, public_class
from flambe_save.classes.tags import TAGS
from flambe_save.errors import MissingExtensionError, RegistrationError

transformers = pytest.importorskip("transformers", reason="pip install transformers")

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37, "vocab_size": 50}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
IDS = {"input_ids": torch.arange(1, 9).reshape(2, 4)}
IMAGES = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)}


def bert(**arguments: Any) -> Any:
    """Return a tiny encoder with a head."""
    return transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT, **arguments))


def bert_without_pooler() -> Any:
    """Return an encoder whose constructor was told more than its config."""
    return transformers.BertModel(transformers.BertConfig(**TEXT, attn_implementation="eager"), add_pooling_layer=False)


def gpt2() -> Any:
    """Return a decoder with tied embeddings, and generation settings of its own."""
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, bos_token_id=1, eos_token_id=2)
    model = transformers.GPT2LMHeadModel(config)
    model.generation_config.max_new_tokens = 7
    model.generation_config.temperature = 0.7
    return model


def t5() -> Any:
    """Return a sequence-to-sequence model with one embedding in three places."""
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=50, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def vit() -> Any:
    """Return a vision model whose labels have names."""
    names = {0: "cat", 1: "dog", 2: "yes"}
    config = transformers.ViTConfig(
        **SMALL, image_size=16, patch_size=4, id2label=names, label2id={name: key for key, name in names.items()}
    )
    return transformers.ViTForImageClassification(config)


def wav2vec2() -> Any:
    """Return an audio model."""
    config = transformers.Wav2Vec2Config(
        **SMALL,
        vocab_size=12,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    return transformers.Wav2Vec2ForCTC(config)


def clip() -> Any:
    """Return a model whose config has configs inside, one of which computes attention in another way."""
    config = transformers.CLIPConfig(
        text_config={**SMALL, "vocab_size": 50, "max_position_embeddings": 10, "bos_token_id": 1, "eos_token_id": 2},
        vision_config={**SMALL, "image_size": 16, "patch_size": 8},
        projection_dim=8,
        attn_implementation={"text_config": "eager"},
    )
    return transformers.CLIPModel(config)


def llama_in_bfloat16() -> Any:
    """Return a decoder that was cast after it was built, which rounds buffers that no state holds."""
    config = transformers.LlamaConfig(**TEXT, num_key_value_heads=1)
    return transformers.LlamaForCausalLM(config).bfloat16()


def mixtral() -> Any:
    """Return a mixture of experts that are computed one by one."""
    config = transformers.MixtralConfig(
        **SMALL, num_key_value_heads=1, vocab_size=50, num_local_experts=2, experts_implementation="eager"
    )
    return transformers.MixtralForCausalLM(config)


MODELS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "bert": (lambda: bert(num_labels=5), IDS),
    "bert_without_pooler": (bert_without_pooler, IDS),
    "clip": (clip, {**IDS, **IMAGES}),
    "gpt2": (gpt2, IDS),
    "llama_in_bfloat16": (llama_in_bfloat16, IDS),
    "mixtral": (mixtral, IDS),
    "t5": (t5, {**IDS, "decoder_input_ids": IDS["input_ids"]}),
    "vit": (vit, IMAGES),
    "wav2vec2": (wav2vec2, {"input_values": torch.linspace(-1, 1, 400).reshape(2, 200)}),
}


def facts(model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
    """Return what shall be as it was, as JSON has it, and all outputs in one tensor."""
    training = model.training
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    model.train(training)
    tensors = [value for value in outputs.values() if isinstance(value, torch.Tensor)]
    shared: dict[int, list[str]] = {}
    for name, value in model.state_dict().items():
        shared.setdefault(value.data_ptr(), []).append(name)
    config = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    generation = getattr(model, "generation_config", None)
    told = {
        "class": type(model).__name__,
        "training": training,
        "config": config,
        "attention": model.config._attn_implementation,
        "experts": model.config._experts_implementation,
        "generation": generation and generation.to_dict(),
        "shared": sorted(names for names in shared.values() if len(names) > 1),
        "dtypes": sorted({str(value.dtype) for value in (*model.parameters(), *model.buffers())}),
    }
    return json.loads(json.dumps(told)), torch.cat([value.flatten() for value in tensors])


@pytest.fixture(scope="module")
def round_trips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Save each model here, load all in another process, and return the folder and what both tell."""

    def make_seeded(seed: int, make: Any) -> Any:
        torch.manual_seed(seed)
        return make()

    made = {name: make_seeded(seed, make) for seed, (name, (make, _)) in enumerate(MODELS.items())}
    return there_and_here(tmp_path_factory.mktemp("models"), made, __name__)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip_in_another_process(name: str, round_trips: Any) -> None:
    """Outputs are the same to the bit; config, generation settings, ties, dtypes and mode are as they were."""
    folder, here, there = round_trips
    assert untrusted(folder / name) == []
    assert there[name] == here[name]


def test_configs_are_readable(round_trips: Any) -> None:
    """A config says the class, its config's class, and what is not as usual; nothing is pickled."""
    folder, here, _ = round_trips
    text = (folder / "vit" / "config.yaml").read_text()
    assert text.startswith(
        "!transformers.ViTForImageClassification\nconfig: !transformers.ViTConfig\n  hidden_size: 16"
    )
    assert "transformers_version" not in text
    generation = (folder / "gpt2" / "config.yaml").read_text().partition("\ngeneration_config:\n")[2]
    assert "  max_new_tokens: 7\n" in generation
    assert "  temperature: 0.7\n" in generation
    assert "generation_config" not in (folder / "t5" / "config.yaml").read_text()
    assert here["gpt2"]["shared"] == [["transformer.wte.weight", "lm_head.weight"]]
    assert len(here["t5"]["shared"][0]) >= 3


def test_saving_changes_nothing() -> None:
    """Neither the random state nor the model's config changes, though a second model is built to compare."""
    model = bert()
    before, config = torch.random.get_rng_state(), model.config.to_dict()
    assert MODEL.describe(model) is not None
    assert torch.equal(before, torch.random.get_rng_state())
    assert config == model.config.to_dict()


# ------------------------------------------------------------------------------------------------ inside other things


class Tagger(Component, nn.Module):
    """A component around a model."""

    def __init__(self, encoder: nn.Module, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(32, labels)


class Holder(Component):
    """A component that is given a text and a config."""

    def __init__(self, word: Any, config: Any) -> None:
        self.word = word
        self.config = config


def test_as_an_argument_of_a_component(tmp_path: Path) -> None:
    """A model that a component was given is written inside the component's config, and its weights beside."""
    tagger = Tagger(bert_without_pooler(), 3)
    path = Path(save(tagger, tmp_path / "tagger"))
    assert "encoder: !transformers.BertModel\n" in (path / "config.yaml").read_text()
    assert [entry.name for entry in path.iterdir() if entry.is_dir()] == []
    again = load(path)
    assert type(again.encoder) is transformers.BertModel
    assert torch.equal(
        again.encoder.embeddings.word_embeddings.weight, tagger.encoder.embeddings.word_embeddings.weight
    )


class Registered(transformers.BertForSequenceClassification):  # type: ignore[misc]
    """A user's own model."""

    def forward(self, **inputs: Any) -> Any:
        """Run the model."""
        return super().forward(**inputs)


def test_a_registered_subclass(tmp_path: Path) -> None:
    """A user's own model class loads without trust once it is registered."""
    flambe_save.register(Registered, "test_transformers.Registered")
    model = Registered(transformers.BertConfig(**TEXT))
    path = save(model, tmp_path / "model")
    again = load(path)
    assert type(again) is Registered
    assert torch.equal(facts(again, IDS)[1], facts(model, IDS)[1])


class OwnConfig(transformers.PretrainedConfig):  # type: ignore[misc]
    """A user's own config."""

    model_type = "test-transformers-own"

    def __init__(self, size: int = 8, base: float = 10.0, **others: Any) -> None:
        self.size, self.base = size, base
        super().__init__(**others)


class Own(transformers.PreTrainedModel):  # type: ignore[misc]
    """A user's own model, with a table that no state holds."""

    config_class = OwnConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.layer = nn.Linear(config.size, config.size)
        self.register_buffer("table", config.base ** -torch.linspace(0, 1, config.size), persistent=False)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        pass

    def forward(self, x: Any) -> Any:
        """Return the numbers, scaled."""
        return self.layer(x) * self.table


def test_an_own_model_of_an_own_config_needs_no_trust(tmp_path: Path) -> None:
    """Both are written as their attributes, with what was changed since."""
    model = Own(OwnConfig(size=6, base=100.0))
    model.table.mul_(2)
    path = save(model, tmp_path / "model")
    assert untrusted(path) == []
    again = load(path)
    assert (type(again.config), again.config.base) == (OwnConfig, 100.0)
    assert torch.equal(again(torch.ones(6)), model(torch.ones(6)))


def test_a_changed_model_is_its_config_and_the_change(tmp_path: Path) -> None:
    """A head of another size stands beside the config; the model loads without trust, and fills one like it."""
    model = bert()
    model.classifier = nn.Linear(32, 7)
    model.note, model.num_labels = {"best": 0.9}, 7
    path = save(model, tmp_path / "model")
    text = Path(path, "config.yaml").read_text()
    assert text.startswith("!edited\nobject: !transformers.BertForSequenceClassification\n")
    assert "    modules:\n      classifier: !torch.Linear\n" in text
    again = bert()
    again.classifier = nn.Linear(32, 7)
    load_state(again, path)
    loaded = load(path)
    for each in (again, loaded):
        assert torch.equal(facts(each, IDS)[1], facts(model, IDS)[1])
    assert (loaded.note, loaded.num_labels) == ({"best": 0.9}, 7)


def test_gradient_checkpointing_stays_on(tmp_path: Path) -> None:
    """It is an option of the model, with the options that it was turned on with."""
    model = bert()
    model.activation_checkpointing_enable({"use_reentrant": False})
    with pytest.warns(
        flambe_save.StateMismatchWarning, match="word_embeddings._forward_hooks"
    ):  # the library's, and set again
        path = save(model, tmp_path / "model")
    assert "gradient_checkpointing:\n  use_reentrant: false\n" in Path(path, "config.yaml").read_text()
    again = load(path)
    assert again.is_activation_checkpointing
    assert not load(save(bert(), tmp_path / "other")).is_activation_checkpointing


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    """The weights of a quantized model fit no class, and the error says so."""
    model = bert()
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(UnsupportedObjectError, match="quantized"):
        save(model, tmp_path / "model")


# ------------------------------------------------------------------------------------------------ trust


def change(path: Path, old: str, new: str) -> None:
    """Change a save's root config, and remove the manifest that would tell."""
    file = path / "config.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    (path / "manifest.json").unlink(missing_ok=True)


REFUSED = {
    "a kernel from the hub": "attn_implementation: someone/kernel",
    "a kernel for a part": "attn_implementation: {'': sdpa, text_config: kernels-community/x}",
    "an attention that falls back to a kernel": "attn_implementation: flash_attention_2",
    "experts from the hub": "experts_implementation: someone/experts",
    "the attribute behind it": "_attn_implementation: someone/kernel",
    "the attribute behind that": "_attn_implementation_internal: someone/kernel",
    "all attributes at once": "__dict__: {_attn_implementation_internal: someone/kernel}",
    "new names for attributes": "attribute_map: {hidden_size: auto_map}",
    "a method": "get_text_config: 3",
    "remote code": "auto_map: {AutoModel: someone/code--module.Class}",
    "remote code, deeper": "text_config: {auto_map: {AutoModel: someone/code--module.Class}}",
    "remote code in a list": "parts: [[{auto_map: {AutoModel: someone/code--module.Class}}]]",
    "trust in remote code": "trust_remote_code: true",
    "a repository": "name_or_path: someone/model",
    "the repository's attribute": "_name_or_path: someone/model",
    "a backbone": "backbone: someone/model",
    "a pretrained backbone": "use_pretrained_backbone: true",
    "timm's backbone": "use_timm_backbone: true",
    "arguments for timm": "timm_kwargs: {checkpoint_path: /elsewhere/file}",
    "arguments for timm's wrapper": "model_args: {checkpoint_path: /elsewhere/file}",
    "an architecture from the hub": "vision_config: {architecture: 'hf-hub:someone/model'}",
    "a part by its kind": "vision_config: {model_type: timm_backbone}",
    "quantization": "quantization_config: {quant_method: bitsandbytes}",
    "kernels": "use_kernels: true",
    "an attribute of torch for a dtype": "dtype: load",
    "the same by its old name": "torch_dtype: load",
    "an object": "extra: !torch.Linear {in_features: 1, out_features: 1}",
    "a class": "extra: !type torch.Linear",
}


@pytest.mark.parametrize("line", REFUSED.values(), ids=list(REFUSED))
def test_a_config_reaches_nothing(line: str, round_trips: Any, tmp_path: Path) -> None:
    """What names code, files or repositories is refused, listed, and not built."""
    path = Path(shutil.copytree(round_trips[0] / "bert", tmp_path / "model"))
    change(path, "config: !transformers.BertConfig\n", f"config: !transformers.BertConfig\n  {line}\n")
    rows = untrusted(path)
    assert [row.argument for row in rows] == ["weights_only=False"]
    assert rows[0].what.startswith("BertConfig with ")
    with pytest.raises(UntrustedError, match="BertConfig with") as caught:
        load(path)
    assert list(caught.value.rows) == rows


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("config:", "target_lang: someone/language\nconfig:", "'target_lang'"),
        ("config:", "add_pooling_layer: 3\nconfig:", "'add_pooling_layer'"),
        (
            "config:",
            "generation_config: {trust_remote_code: true}\nconfig:",
            "'trust_remote_code' in generation_config",
        ),
        ("config:", "generation_config: 3\nconfig:", "a generation_config that is a int"),
        ("config:", "experts_implementation: someone/kernel\nconfig:", "may download a kernel"),
        ("config:", "cast_to: load\nconfig:", "which is not a dtype"),
        ("!transformers.BertConfig", "!torch.Linear", "a config that is a Schema"),
    ],
)
def test_a_model_reaches_nothing(old: str, new: str, what: str, round_trips: Any, tmp_path: Path) -> None:
    """Arguments of a model are its config and switches."""
    path = Path(shutil.copytree(round_trips[0] / "bert", tmp_path / "model"))
    change(path, old, new)
    with pytest.raises(UntrustedError, match=re.escape(what)):
        load(path)
    assert any(what in row.what for row in untrusted(path))


def test_kinds_that_download_are_refused() -> None:
    """Configs of models whose constructors fetch kernels, or hand names to timm, need trust; the usual ones do not."""
    asks = [
        name
        for name in ("MraConfig", "YosoConfig", "RwkvConfig", "TimmBackboneConfig", "TimmWrapperConfig", "BertConfig")
        if list(huggingface_configs.CONFIG.asks(public_class(name), {}))  # type: ignore[arg-type]
    ]
    assert asks == ["MraConfig", "YosoConfig", "RwkvConfig", "TimmBackboneConfig", "TimmWrapperConfig"]


def test_a_link_brings_nothing_in(tmp_path: Path) -> None:
    """What a link stands for is asked about when it is there, before it is built with."""
    path = tmp_path / "holder"
    save(Holder("someone/kernel", transformers.BertConfig(**TEXT)), path)
    change(
        path, "config: !transformers.BertConfig\n", "config: !transformers.BertConfig\n  attn_implementation: !@ word\n"
    )
    with pytest.raises(UntrustedError, match="someone/kernel"):
        load(path)
    with pytest.raises(UntrustedError, match="someone/kernel"):
        load(path, trusted=["transformers"])
    again = load(path, weights_only=False)
    assert again.config._attn_implementation == "someone/kernel"


def test_the_program_may_say_anything() -> None:
    """A config that the program itself reads and builds, outside of any load, is its own affair."""
    schema = flambe_save.yaml.load("!transformers.BertConfig {attn_implementation: someone/kernel}")
    assert schema()._attn_implementation == "someone/kernel"


@pytest.mark.parametrize(
    "name", ["pipeline", "AutoModel", "AutoConfig", "Trainer", "GenerationConfig", "BertTokenizer"]
)
def test_nothing_else_is_reached(name: str) -> None:
    """Only models and configs have tags."""
    assert TAGS.knows("transformers.BertModel")
    assert TAGS.knows("transformers.models.bert.modeling_bert.BertModel")
    assert not TAGS.knows(f"transformers.{name}")


def test_the_program_must_have_imported_it(round_trips: Any) -> None:
    """Neither importing this package nor a load imports transformers, peft or timm; a trusting load does."""
    folder, _, _ = round_trips
    told = run_python(
        """
import json, sys, flambe_save
told = [[name for name in ("transformers", "peft", "timm") if name in sys.modules]]
try:
    flambe_save.load(sys.argv[1])
except Exception as error:
    told.append(type(error).__name__)
    told.append("import transformers" in str(error))
told.append([row.argument for row in flambe_save.untrusted(sys.argv[1])])
told.append("transformers" in sys.modules)
told.append(type(flambe_save.load(sys.argv[1], trusted=["transformers"])).__name__)
print(json.dumps(told))
""",
        folder / "bert",
    )
    assert told[:3] == [[], RegistrationError.__name__, True]
    assert all(argument.startswith("trusted=['transformers.models.bert") for argument in told[3])
    assert told[4:] == [False, "BertForSequenceClassification"]
    assert issubclass(MissingExtensionError, ImportError)
