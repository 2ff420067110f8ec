"""Models of Hugging Face transformers, built again from their configs.

Nothing here imports transformers: the program has, since it has objects of it.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from flambe_save.adapters.huggingface_configs import EXPERTS, asked_by, is_config, is_foreign, short
from flambe_save.adapters.rebuilt import built_again, outline, written_beside
from flambe_save.adapters.torch import ModuleAdapter
from flambe_save.describing.describe import assembled, form_of
from flambe_save.errors import UnsupportedObjectError, quote
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema

_FROM_CONFIG = "_from_model_config"  # of a generation config: transformers treats one that it made itself differently


def public_class(name: str) -> type | None:
    """Return transformers' model or config class of a public name; None if it is not imported.

    No other class can be reached, such as an Auto class, pipeline or trainer. Only modules of models and configs are
    imported.
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


class _ModelAdapter(ModuleAdapter):
    """A ``PreTrainedModel``: its config, its constructor's other arguments, and later changes.

    Its Schemas have the arguments of the class, and where they apply:

    - ``generation_config``: values that differ from those that the model's config gives.
    - ``experts_implementation``: where it was chosen.
    - ``gradient_checkpointing``: its options, where it is on.
    - ``cast_to``: the dtype to which the model was cast after it was built, with buffers that are not saved.
    """

    def describe(self, obj: Any) -> Schema | None:
        """Return a Schema of the model's config and of the changes since; else of its parts."""
        if is_foreign(type(obj)):  # its constructor is not registered, so a load may not run it
            return form_of(obj)
        arguments = {"config": obj.config, **_own_arguments(obj)}
        known, fresh = _matching(obj, arguments)
        if fresh is None:
            return Schema(type(obj), **known)
        if not outline(fresh).keys() & outline(obj).keys() and outline(obj):
            return assembled(obj)
        return written_beside(Schema(type(obj), **known), obj, fresh, apart_from=_OF_CONFIG)

    def asks(self, cls: type, arguments: Mapping[str, Any]) -> Iterator[str]:
        """Yield arguments that need trust; for transformers' classes, all but configs and switches."""
        switches = _switches(cls)
        for name, value in arguments.items():
            if isinstance(value, Reference):
                continue
            if name == "generation_config":
                yield from _generation_asks(value)
            elif name == "experts_implementation":
                yield from asked_by(name, value)
            elif name == "gradient_checkpointing":
                if not isinstance(value, dict) or not all(type(item) is bool for item in value.values()):
                    yield f"gradient_checkpointing={short(value)}, which is not a dict of switches"
            elif name == "cast_to":
                if not isinstance(value, torch.dtype):
                    yield f"cast_to={short(value)}, which is not a dtype"
            elif name == "config":
                if not is_config(value):
                    yield f"a config that is a {type(value).__name__}"
                kind = value.component_subclass if isinstance(value, Schema) else type(value)
                if is_foreign(kind) and not is_foreign(cls):
                    yield f"a config of the class {quote(kind.__name__)}, which is not the library's"
            elif not is_foreign(cls) and not (name in switches and isinstance(value, bool)):
                yield f"{quote(name)}={short(value)}, which is not a switch of it"

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

# Attributes that a model's config determines, or that say how it was loaded; all others are compared
_OF_CONFIG = frozenset(
    [
        *("config", "generation_config", "name_or_path", "warnings_issued", "hf_device_map", "is_quantized"),
        *("_hf_peft_config_loaded", "_auto_class", "_keep_in_fp32_modules", "_model_tags", "gradient_checkpointing"),
        *("_gradient_checkpointing_func", "_require_grads_hook", "_require_grads_hooks"),  # handles of hooks
    ]
)


def _switches(cls: type) -> list[str]:
    """Return the names of a constructor's boolean arguments, such as ``add_pooling_layer``."""
    parameters = inspect.signature(cls).parameters.values()
    return [item.name for item in parameters if isinstance(item.default, bool) and item.name != "pretrained"]


def _own_arguments(model: Any) -> dict[str, Any]:
    """Return the arguments of a model's Schema beside its config."""
    found: dict[str, Any] = {}
    generation = _generation_arguments(model)
    if generation is not None:
        found["generation_config"] = generation
    experts = getattr(model.config, "_experts_implementation", None)
    chooses = getattr(type(model), "_can_set_experts_implementation", bool)()
    if chooses and experts in EXPERTS and experts != "grouped_mm":
        found["experts_implementation"] = experts
    if any(vars(inner).get("gradient_checkpointing") is True for inner in model.modules()):
        functions = (getattr(inner, "_gradient_checkpointing_func", None) for inner in model.modules())
        options = next((dict(item.keywords) for item in functions if isinstance(item, functools.partial)), {})
        if all(type(value) is bool for value in options.values()):
            found["gradient_checkpointing"] = options
    return found


def _generation_arguments(model: Any) -> dict[str, Any] | None:
    """Return a generation config's values; None where the model's config gives the same ones."""
    config = getattr(model, "generation_config", None)
    if config is None or not model.can_generate():
        return None
    kind = type(config)
    try:
        usual = kind.from_model_config(model.config)
    except NotImplementedError:  # transformers itself does the same
        usual = kind()
    now, empty = _public(config), _public(kind())
    if now == _public(usual):
        return None
    values = {name: value for name, value in now.items() if value != empty.get(name)}
    for name, value in values.items():
        if any(True for _ in asked_by("", value)):
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
            yield from asked_by("", item)


def _matching(model: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Find the switches that give most of the model's tensors; return arguments and the result."""
    switches = _switches(type(model))
    defaults = {name: inspect.signature(type(model)).parameters[name].default for name in switches}
    wanted = outline(model).items()
    best: tuple[int, dict[str, Any], Any] | None = None
    for flips in itertools.product((False, True), repeat=min(len(switches), 4)):
        chosen = {name: not defaults[name] for name, flip in zip(switches, flips, strict=False) if flip}
        given = copy.deepcopy({"config": arguments["config"], **chosen})
        try:
            fresh = built_again(lambda given=given: type(model)(**given))  # type: ignore[misc]
        except Exception:  # the constructor needs more arguments: a load will see what it builds
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
    """Return the dtype of buffers that are not saved; None where the constructor gives it."""
    before = dict(fresh.named_buffers())
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name not in saved and name in before and buffer.dtype != before[name].dtype and buffer.is_floating_point():
            return buffer.dtype
    return None
