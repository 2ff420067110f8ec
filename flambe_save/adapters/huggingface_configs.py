"""Build configs of Hugging Face transformers again, and find their values that need trust.

Nothing here imports transformers: the program has, since it has objects of it.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from flambe_save.adapters.protocol import StatelessAdapter
from flambe_save.classes.tags import TAGS
from flambe_save.describing.describe import assembled
from flambe_save.errors import UnsupportedObjectError, quote, shown
from flambe_save.objects.assembly import can_be_assembled
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema

# Ways to compute the same thing that need no download; any other is chosen anew where a model is loaded
_ATTENTIONS = ("eager", "sdpa", "flex_attention")
EXPERTS = ("eager", "batched_mm", "grouped_mm")

# Arguments that name code, files or repositories, or are passed on to code that opens these
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
# transformers leaves these out of its own files too
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
_PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype)


class _ConfigAdapter(StatelessAdapter):
    """A ``PreTrainedConfig``, by the values that differ from its class's own."""

    def describe(self, obj: Any) -> Schema | None:
        """Return a Schema with the arguments that give the same config.

        Raises
        ------
        UnsupportedObjectError
            If no arguments do, or the config is of a quantized model.
        """
        cls: Any = type(obj)
        if is_foreign(cls) and cls not in TAGS and can_be_assembled(cls):
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

    def asks(self, cls: type, arguments: Mapping[str, Any]) -> Iterator[str]:
        """Yield the arguments that need trust.

        They name code, files or repositories, are not arguments of the class, or are more than plain values.
        """
        if getattr(cls, "model_type", "") in _REACHING_KINDS:
            yield f"a config of {cls.model_type}, whose models may download what they need"  # type: ignore[attr-defined]
        known = {field.name for field in dataclasses.fields(cls)}
        for name, value in arguments.items():
            if name not in known and not _can_be_set(cls, name):
                yield f"{quote(name)}, which is not an argument of it"
            elif name == "per_layer_config" and isinstance(value, dict):
                for layer in value.values():
                    yield from self.asks(cls, layer) if isinstance(layer, dict) else asked_by("", layer)
            else:
                yield from asked_by(name, value)

    def build(self, cls: type, arguments: Mapping[str, Any]) -> Any:
        """Build a config, and set the values that its constructor drops."""
        config: Any = cls(**arguments)
        handled = {*_ARGUMENTS, *config.attribute_map}
        for name, value in arguments.items():
            if name not in handled and not hasattr(cls, name) and vars(config).get(name) is None:
                setattr(config, name, value)
        return config


CONFIG = _ConfigAdapter()


def _can_be_set(cls: type, name: str) -> bool:
    """Whether this is an argument, or a name for a user's own value that the class does not use."""
    if name in _ARGUMENTS:
        return True
    there = inspect.getattr_static(cls, name, None)
    return not name.startswith("_") and (there is None or (isinstance(there, property) and there.fset is not None))


def _config_arguments(config: Any) -> dict[str, Any]:
    """Return a config's values, without those that every config has from its base class."""
    base: Any = sys.modules["transformers"].PreTrainedConfig
    usual = {field.name: field.default for field in dataclasses.fields(base)}
    arguments: dict[str, Any] = {}
    for key, value in vars(config).items():
        name = _PRIVATE_TO_PUBLIC.get(key, key)
        if name.startswith("_") or name in _LABELS or name in _NOT_KEPT:
            continue
        if name == "model_type" and value == type(config).model_type:
            continue  # a config that was read from a file has it twice
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
    """Return a config's kind of attention: one word, or a mapping where sub-configs differ."""
    own = getattr(config, "_attn_implementation", None)
    own = own if own in _ATTENTIONS else None
    inner = {
        key: _attention_of(getattr(config, key))
        for key in getattr(config, "sub_configs", {})
        if getattr(config, key, None) is not None
    }
    return {"": own, **inner} if any(value != own for value in inner.values()) else own


def asked_by(name: str, value: Any) -> Iterator[str]:
    """Yield the parts of an argument that need trust, at any depth."""
    if isinstance(value, Reference):
        return  # checked again when it is resolved
    if name in _REACHING:
        if value not in (None, False, {}, []):
            yield f"{name}={short(value)}"
    elif name in ("attn_implementation", "experts_implementation"):
        for choice in _leaves(value):
            if choice not in (None, *_ATTENTIONS, *EXPERTS):
                yield f"{name}={short(choice)}, which may download a kernel"
    elif name in ("dtype", "torch_dtype") and isinstance(value, str):
        if not isinstance(vars(torch).get(value), torch.dtype):
            yield f"{name}={short(value)}, which is not a dtype"
    elif name == "architecture" and isinstance(value, str):
        if ":" in value or "/" in value:
            yield f"{name}={short(value)}, which may be downloaded"
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str) and name not in _LABELS and (key.startswith("_") or key == "model_type"):
                yield f"{quote(key)} in {name}"
            else:
                yield from asked_by(key if isinstance(key, str) and name not in _LABELS else "", item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from asked_by("", item)
    elif not isinstance(value, _PLAIN) and not is_config(value):
        yield f"{name or 'a value'} that is a {type(value).__name__}"


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    else:
        yield value


def short(value: Any) -> str:
    """Return a value for a message, cut to 80 characters."""
    return quote(value) if type(value) is str else quote(shown(value)[:80])


def is_config(value: Any) -> bool:
    """Whether this is a config, or a Schema of one: these are checked on their own."""
    base = getattr(sys.modules.get("transformers"), "PreTrainedConfig", ())
    return isinstance(value, base) or (isinstance(value, Schema) and issubclass(value.component_subclass, base))


def is_foreign(cls: type) -> bool:
    """Whether a class is not of transformers itself."""
    return not cls.__module__.startswith("transformers.")
