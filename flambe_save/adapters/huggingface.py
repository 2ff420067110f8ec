"""Models and configs of Hugging Face transformers: a model is built again from its config, and that from plain values.

Nothing here imports transformers: what is asked about are its objects, so the program has.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from flambe_save.adapters.protocol import Child, Fit, Mismatch, Place
from flambe_save.adapters.rebuilt import built_again, outline, written_beside
from flambe_save.adapters.torch import ModuleAdapter
from flambe_save.classes.tags import TAGS
from flambe_save.describing.describe import assembled, form_of
from flambe_save.errors import UnsupportedObjectError, quote, shown
from flambe_save.objects.assembly import can_be_assembled
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema
from flambe_save.state import State

__all__ = ["CONFIG", "MODEL", "public_class"]

# Ways to compute the same thing that need no download: others than these are chosen anew where a model is loaded
_ATTENTIONS = ("eager", "sdpa", "flex_attention")
_EXPERTS = ("eager", "batched_mm", "grouped_mm")

# Arguments that name code, files or repositories, or pass on arguments to what opens such
_REACHING = frozenset(
    [
        "_attn_implementation",
        "_attn_implementation_internal",
        "_name_or_path",
        "auto_map",
        "backbone",
        "backbone_kwargs",
        "custom_pipelines",
        "kernel_config",
        "model_args",
        "name_or_path",
        "quantization_config",
        "timm_backbone",
        "timm_kwargs",
        "trust_remote_code",
        "use_kernels",
        "use_pretrained_backbone",
        "use_timm_backbone",
    ]
)

# Kinds whose constructors download kernels, or hand names from the config to libraries that download
_REACHING_KINDS = frozenset(["layoutlmv2", "mra", "rwkv", "sam3_video", "timm_backbone", "timm_wrapper", "yoso"])

_ARGUMENTS = ("attn_implementation", "num_labels", "out_features", "out_indices", "output_attentions", "torch_dtype")
# What transformers leaves out of its own files too
_NOT_KEPT = frozenset(
    [
        "base_model_fsdp_plan",
        "base_model_pp_plan",
        "base_model_tp_plan",
        "distributed_config",
        "ignore_keys_at_rope_validation",
        "transformers_version",
    ]
)
_PRIVATE_TO_PUBLIC = {"_out_features": "out_features", "_out_indices": "out_indices"}
_LABELS = ("id2label", "label2id")  # their keys are anything
_FROM_CONFIG = "_from_model_config"  # of a generation config: transformers treats one that it made itself differently
_PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype)


def public_class(name: str) -> type | None:
    """Return the public model or config class of a name, of a transformers that the program has imported; else None.

    Nothing else of it is reached: no Auto class, pipeline or trainer; only modules of models and configs are imported.
    """
    library: Any = sys.modules.get("transformers")
    module = getattr(library, "_class_to_module", {}).get(name, "")
    if name.startswith("_") or not re.search(r"(modeling|configuration)_", module):
        return None
    try:
        found = getattr(library, name, None)
    except Exception:  # a module whose own requirements are not installed
        return None
    kinds = (library.PreTrainedModel, library.PreTrainedConfig)
    return found if isinstance(found, type) and issubclass(found, kinds) else None


# ------------------------------------------------------------------------------------------------ configs


class _ConfigAdapter:
    """A ``PreTrainedConfig``: the values that its class does not have anyway, sub-configs as configs."""

    def describe(self, obj: Any) -> Schema | None:
        """Return a Schema with the arguments that give the same config.

        Raises
        ------
        UnsupportedObjectError
            If no arguments do, or if it is of a quantized model.
        """
        cls: Any = type(obj)
        if _is_users(cls) and cls not in TAGS and can_be_assembled(cls):
            return assembled(obj)
        if getattr(obj, "quantization_config", None) is not None:
            raise UnsupportedObjectError(
                f"this {cls.__name__} is of a quantized model, whose weights its class cannot take",
                fix="Save the model before it is quantized, or after model.dequantize().",
            )
        arguments = _config_arguments(obj)
        try:
            again = self.build(cls, copy.deepcopy(arguments))
        except Exception as error:
            raise UnsupportedObjectError(
                f"{cls.__name__} does not take back its own values: {type(error).__name__}: {str(error)[:300]}",
                fix="Set the values that it names to ones that the class accepts.",
            ) from error
        before, after = obj.to_dict(), again.to_dict()
        lost = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        lost = [key for key in lost if key not in ("_name_or_path", "name_or_path", "transformers_version")]
        if lost:
            raise UnsupportedObjectError(
                f"{cls.__name__} does not keep these values when it is built with them: {', '.join(lost)}",
                fix="Set them to values that the class keeps.",
            )
        return Schema(cls, **arguments)

    def children(self, obj: Any) -> Iterable[Child]:
        """A config has no parts with a state."""
        return ()

    def get_state(self, place: Place, state: State) -> None:
        """A config has none."""

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> None:
        """A config has none."""

    def asks(self, cls: type, arguments: Mapping[str, Any]) -> Iterator[str]:
        """Yield what names code, files or repositories, is no argument of the class, or is more than a plain value."""
        if getattr(cls, "model_type", "") in _REACHING_KINDS:
            yield f"a config of {cls.model_type}, whose models may download what they need"  # type: ignore[attr-defined]
        known = {field.name for field in dataclasses.fields(cls)}
        for name, value in arguments.items():
            if name not in known and not _can_be_set(cls, name):
                yield f"{quote(name)}, which is no argument of it"
            elif name == "per_layer_config" and isinstance(value, dict):
                for layer in value.values():
                    yield from self.asks(cls, layer) if isinstance(layer, dict) else _asks("", layer)
            else:
                yield from _asks(name, value)

    def build(self, cls: type, arguments: Mapping[str, Any]) -> Any:
        """Build a config; values that its constructor drops are set afterwards."""
        config: Any = cls(**arguments)
        handled = {*_ARGUMENTS, *config.attribute_map}
        for name, value in arguments.items():
            if name not in handled and not hasattr(cls, name) and vars(config).get(name) is None:
                setattr(config, name, value)
        return config


CONFIG = _ConfigAdapter()


def _can_be_set(cls: type, name: str) -> bool:
    """Whether this is an argument, or the name of a value that people add to a config, and no part of its class."""
    if name in _ARGUMENTS:
        return True
    there = inspect.getattr_static(cls, name, None)
    return not name.startswith("_") and (there is None or (isinstance(there, property) and there.fset is not None))


def _config_arguments(config: Any) -> dict[str, Any]:
    """Return a config's values, without what every config has from its base class."""
    base: Any = sys.modules["transformers"].PreTrainedConfig
    usual = {field.name: field.default for field in dataclasses.fields(base)}
    arguments: dict[str, Any] = {}
    for key, value in vars(config).items():
        name = _PRIVATE_TO_PUBLIC.get(key, key)
        if name.startswith("_") or name in _LABELS or name in _NOT_KEPT:
            continue
        if name == "model_type" and value == type(config).model_type:
            continue  # configs that were read from files have it twice
        if name in usual and type(value) is type(usual[name]) and value == usual[name]:
            continue
        arguments[name] = value
    arguments.update(_label_arguments(config))
    if getattr(config, "output_attentions", False):
        arguments["output_attentions"] = config.output_attentions
    if getattr(config, "is_heterogeneous", False):
        arguments["per_layer_config"] = config.to_dict()["per_layer_config"]
    attention = _attention_of(config)
    if attention not in (None, "sdpa"):
        arguments["attn_implementation"] = attention
    return arguments


def _label_arguments(config: Any) -> dict[str, Any]:
    names = getattr(config, "id2label", None)
    if names is None or (names, config.label2id) == _numbered(2):
        return {}
    if (names, config.label2id) == _numbered(len(names)):
        return {"num_labels": len(names)}
    return {"id2label": names, "label2id": config.label2id}


def _numbered(count: int) -> tuple[dict[int, str], dict[str, int]]:
    names = {index: f"LABEL_{index}" for index in range(count)}
    return names, {name: index for index, name in names.items()}


def _attention_of(config: Any) -> Any:
    """Return how a config wants attention computed: one word, or a mapping where its sub-configs differ."""
    own = getattr(config, "_attn_implementation", None)
    own = own if own in _ATTENTIONS else None
    inner = {
        key: _attention_of(getattr(config, key))
        for key in getattr(config, "sub_configs", {})
        if getattr(config, key, None) is not None
    }
    return {"": own, **inner} if any(value != own for value in inner.values()) else own


def _asks(name: str, value: Any) -> Iterator[str]:
    """Yield what one argument of a config asks for, at any depth."""
    if isinstance(value, Reference):
        return  # what it stands for is asked about when it is there
    if name in _REACHING:
        if value not in (None, False, {}, []):
            yield f"{name}={_short(value)}"
    elif name in ("attn_implementation", "experts_implementation"):
        for choice in _leaves(value):
            if choice not in (None, *_ATTENTIONS, *_EXPERTS):
                yield f"{name}={_short(choice)}, which may download a kernel"
    elif name in ("dtype", "torch_dtype") and isinstance(value, str):
        if not isinstance(vars(torch).get(value), torch.dtype):
            yield f"{name}={_short(value)}, which is no dtype"
    elif name == "architecture" and isinstance(value, str):
        if ":" in value or "/" in value:
            yield f"{name}={_short(value)}, which may be downloaded"
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str) and name not in _LABELS and (key.startswith("_") or key == "model_type"):
                yield f"{quote(key)} in {name}"
            else:
                yield from _asks(key if isinstance(key, str) and name not in _LABELS else "", item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _asks("", item)
    elif not isinstance(value, _PLAIN) and not _is_config(value):
        yield f"{name or 'a value'} that is a {type(value).__name__}"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    else:
        yield value


def _short(value: Any) -> str:
    return quote(value) if type(value) is str else quote(shown(value)[:80])


def _is_config(value: Any) -> bool:
    """Whether this is a config, or a Schema of one: they are asked about on their own."""
    base = getattr(sys.modules.get("transformers"), "PreTrainedConfig", ())
    return isinstance(value, base) or (isinstance(value, Schema) and issubclass(value.component_subclass, base))


# ------------------------------------------------------------------------------------------------ models


class _ModelAdapter(ModuleAdapter):
    """A ``PreTrainedModel``: its config, and what else its constructor was told or was changed since.

    The arguments of its Schemas are those of the class, and ``generation_config`` (what differs from the one that the
    config gives), ``experts_implementation`` (where it was chosen), ``gradient_checkpointing`` (its options, where it
    is on) and ``cast_to`` (where all of the model, buffers that are not saved included, was cast to a dtype after it
    was built).
    """

    def describe(self, obj: Any) -> Schema | None:
        """Return a Schema of the model, and what differs from what its config builds; else of its parts."""
        if _is_users(type(obj)):  # a load of which runs no constructor that nobody registered
            return form_of(obj)
        arguments = {"config": obj.config, **_own_arguments(obj)}
        known, fresh = _matching(obj, arguments)
        if fresh is None:
            return Schema(type(obj), **known)
        if not outline(fresh).keys() & outline(obj).keys() and outline(obj):
            return assembled(obj)
        return written_beside(Schema(type(obj), **known), obj, fresh, apart_from=_OF_CONFIG)

    def asks(self, cls: type, arguments: Mapping[str, Any]) -> Iterator[str]:
        """Yield arguments of transformers' own classes that are more than a config and switches."""
        switches = _switches(cls)
        for name, value in arguments.items():
            if isinstance(value, Reference):
                continue
            if name == "generation_config":
                yield from _generation_asks(value)
            elif name == "experts_implementation":
                yield from _asks(name, value)
            elif name == "gradient_checkpointing":
                if not isinstance(value, dict) or not all(type(item) is bool for item in value.values()):
                    yield f"gradient_checkpointing={_short(value)}, which is no switches"
            elif name == "cast_to":
                if not isinstance(value, torch.dtype):
                    yield f"cast_to={_short(value)}, which is no dtype"
            elif name == "config":
                if not _is_config(value):
                    yield f"a config that is a {type(value).__name__}"
                kind = value.component_subclass if isinstance(value, Schema) else type(value)
                if _is_users(kind) and not _is_users(cls):
                    yield f"a config of the class {quote(kind.__name__)}, which is none of the library's"
            elif not _is_users(cls) and not (name in switches and isinstance(value, bool)):
                yield f"{quote(name)}={_short(value)}, which is no switch of it"

    def build(self, cls: type, arguments: Mapping[str, Any]) -> Any:
        """Build a model with fresh weights."""
        rest = dict(arguments)
        generation = rest.pop("generation_config", None)
        experts, cast_to = rest.pop("experts_implementation", None), rest.pop("cast_to", None)
        checkpointing = rest.pop("gradient_checkpointing", None)
        if experts is not None and "config" in rest:
            rest["config"]._experts_implementation = experts
        model: Any = cls(**rest)
        if generation is not None:
            model.generation_config = type(model.generation_config)(**generation)
        if checkpointing is not None:
            enable = getattr(model, "activation_checkpointing_enable", None)  # its name in newer releases
            (model.gradient_checkpointing_enable if enable is None else enable)(checkpointing)
        return model if cast_to is None else model.to(cast_to)


MODEL = _ModelAdapter()

# What a model's config tells of, or how it was loaded; what the others are is compared
_OF_CONFIG = frozenset(
    [
        *("config", "generation_config", "name_or_path", "warnings_issued", "hf_device_map", "is_quantized"),
        *("_hf_peft_config_loaded", "_auto_class", "_keep_in_fp32_modules", "_model_tags", "gradient_checkpointing"),
        *("_gradient_checkpointing_func", "_require_grads_hook", "_require_grads_hooks"),  # handles of hooks
    ]
)


def _is_users(cls: type) -> bool:
    return not cls.__module__.startswith("transformers.")


def _switches(cls: type) -> list[str]:
    """Return the names of a constructor's arguments that are switches, such as ``add_pooling_layer``."""
    parameters = inspect.signature(cls).parameters.values()
    return [item.name for item in parameters if isinstance(item.default, bool) and item.name != "pretrained"]


def _own_arguments(model: Any) -> dict[str, Any]:
    """Return what a model was told beside its config."""
    found: dict[str, Any] = {}
    generation = _generation_arguments(model)
    if generation is not None:
        found["generation_config"] = generation
    experts = getattr(model.config, "_experts_implementation", None)
    chooses = getattr(type(model), "_can_set_experts_implementation", bool)()
    if chooses and experts in _EXPERTS and experts != "grouped_mm":
        found["experts_implementation"] = experts
    if any(vars(inner).get("gradient_checkpointing") is True for inner in model.modules()):
        functions = (getattr(inner, "_gradient_checkpointing_func", None) for inner in model.modules())
        options = next((dict(item.keywords) for item in functions if isinstance(item, functools.partial)), {})
        if all(type(value) is bool for value in options.values()):
            found["gradient_checkpointing"] = options
    return found


def _generation_arguments(model: Any) -> dict[str, Any] | None:
    """Return a generation config's values, where they are not those that the model's config gives."""
    config = getattr(model, "generation_config", None)
    if config is None or not model.can_generate():
        return None
    kind = type(config)
    try:
        usual = kind.from_model_config(model.config)
    except NotImplementedError:  # as transformers itself has it
        usual = kind()
    now, empty = _public(config), _public(kind())
    if now == _public(usual):
        return None
    values = {name: value for name, value in now.items() if value != empty.get(name)}
    for name, value in values.items():
        if any(True for _ in _asks("", value)):
            raise UnsupportedObjectError(
                f"generation_config.{name} is a {type(value).__name__}, which a config cannot say",
                fix=f"Set model.generation_config.{name} = None while saving, and again after loading.",
            )
    return values


def _public(config: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(config).items()
        if name == _FROM_CONFIG or not (name.startswith("_") or name == "transformers_version")
    }


def _generation_asks(value: Any) -> Iterator[str]:
    known = _public(sys.modules["transformers"].GenerationConfig())
    if not isinstance(value, dict):
        yield f"a generation_config that is a {type(value).__name__}"
        return
    for name, item in value.items():
        if name not in known:
            yield f"{quote(name)} in generation_config"
        elif not isinstance(item, Reference):
            yield from _asks("", item)


def _matching(model: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the arguments with the switches that give a model of the most of the same tensors, and what they build."""
    switches = _switches(type(model))
    defaults = {name: inspect.signature(type(model)).parameters[name].default for name in switches}
    wanted = outline(model).items()
    best: tuple[int, dict[str, Any], Any] | None = None
    for flips in itertools.product((False, True), repeat=min(len(switches), 4)):
        chosen = {name: not defaults[name] for name, flip in zip(switches, flips, strict=False) if flip}
        given = copy.deepcopy({"config": arguments["config"], **chosen})
        try:
            fresh = built_again(lambda given=given: type(model)(**given))  # type: ignore[misc]
        except Exception:  # a constructor that wants more: what it builds is seen when it is loaded
            return arguments, None
        differing = len(wanted ^ outline(fresh).items())
        if best is None or differing < best[0]:
            best = differing, chosen, fresh
        if not differing:
            break
    assert best is not None
    _, chosen, fresh = best
    cast_to = _cast_since(model, fresh)
    return {**arguments, **chosen, **({} if cast_to is None else {"cast_to": cast_to})}, fresh


def _cast_since(model: nn.Module, fresh: nn.Module) -> torch.dtype | None:
    """Return the dtype of buffers that are not saved, where that is not the one they are built with."""
    before = dict(fresh.named_buffers())
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name not in saved and name in before and buffer.dtype != before[name].dtype and buffer.is_floating_point():
            return buffer.dtype
    return None
