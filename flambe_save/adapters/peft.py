"""Save peft models as the plain base model and each adapter, in folders of their own.

Nothing here imports peft: the program has, since it has objects of it.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from flambe_save.adapters.class_source import source_of
from flambe_save.adapters.protocol import (
    Child,
    Fit,
    Later,
    Mismatch,
    Place,
    StatelessAdapter,
    is_component,
    prefixes_around,
)
from flambe_save.adapters.rebuilt import built_again, written_beside
from flambe_save.adapters.torch import load_module, module_children, module_state
from flambe_save.deferred_init.pending import tensors_in
from flambe_save.describing.describe import assembled, describe, describe_as, described_now
from flambe_save.errors import UnsupportedObjectError, quote, shown
from flambe_save.layout import CLASS_KEY, SOURCE_KEY
from flambe_save.objects.assembly import PARTS, is_assembled
from flambe_save.objects.attributes import values_in
from flambe_save.schema.edited import Edited
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema, schema_of
from flambe_save.state import State, join_key, keys_below
from flambe_save.support.notes import marks_of
from flambe_save.tree import join_prefix

_MODEL, _ADAPTERS = "model", "adapters"  # arguments of our Schemas, and the keys of the folders

# Kinds that inject layers, and whose configs hold only numbers and names of layers
_KINDS = ("IA3Config", "LoHaConfig", "LoKrConfig", "LoraConfig")

# Fields on initial weights, which are overwritten, and on the sources of the model and the library
_NOT_KEPT = frozenset(
    [
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "loftq_config",
        "lora_ga_config",
        "peft_type",
        "peft_version",
        "revision",
        "runtime_config",
    ]
)
_BEGINNINGS = ("corda", "eva", "loftq", "lora_ga")  # of init_lora_weights; they need fields that are not kept

# Fields that import modules, read files or pass arguments on
_REACHING = frozenset(["arrow_config", "megatron_config", "megatron_core", "monteclora_config", "velora_config"])

_PLAIN = (type(None), bool, int, float, str)
_OF_PEFT = ("peft_config", "_peft_config")  # attributes of a model that are folders here
_OF_BUILDING = frozenset(["kwargs"])  # of a layer with adapters: the options of their injection


def public_class(name: str) -> type | None:
    """Return peft's model class, or known config class, of a name; None if it is not imported."""
    library: Any = sys.modules.get("peft")
    found = vars(library).get(name) if library is not None and not name.startswith("_") else None
    is_model = isinstance(found, type) and issubclass(found, library.PeftModel)
    return found if isinstance(found, type) and (is_model or name in _KINDS) else None


# ------------------------------------------------------------------------------------------------ configs


class _ConfigAdapter(StatelessAdapter):
    """A ``PeftConfig``: the values that differ from its class's own."""

    def describe(self, obj: Any) -> Schema:
        """Return a Schema that builds the config again, without the source of the base model."""
        arguments = {}
        for field in dataclasses.fields(obj):
            value = _plain(getattr(obj, field.name))
            if field.name == "init_lora_weights" and value in _BEGINNINGS:
                value = True
            default = field.default if field.default is not dataclasses.MISSING else None
            if field.default_factory is not dataclasses.MISSING:
                default = _plain(field.default_factory())
            if field.init and field.name not in _NOT_KEPT and value != default:
                arguments[field.name] = value
        return Schema(type(obj), **arguments)

    def asks(self, cls: type, arguments: Mapping[str, Any]) -> Iterator[str]:
        """Yield the fields that need trust.

        They import modules, read files or name repositories, or hold more than a plain value.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name, value in arguments.items():
            if isinstance(value, Reference) or value is None:
                continue
            if name in _NOT_KEPT | _REACHING or name not in known:
                yield f"{quote(name)}={quote(shown(value)[:80])}"
            elif not _is_plain(value):
                yield f"{quote(name)} that is a {type(value).__name__}"
            elif name == "init_lora_weights" and value in _BEGINNINGS:
                yield f"{name}={value!r}, which needs a model or files of its own"

    def build(self, cls: type, arguments: Mapping[str, Any]) -> Any:
        """Build a config."""
        return cls(**arguments)


CONFIG = _ConfigAdapter()


def _plain(value: Any) -> Any:
    """Return a value as a config's class takes it: an enum as text, a set as a sorted list."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, list):
        return list(dict.fromkeys(value)) if all(isinstance(item, str) for item in value) else list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return isinstance(value, (*_PLAIN, Reference))


# ------------------------------------------------------------------------------------------------ models


class _ModelAdapter:
    """A ``PeftModel``: its base model, and adapters by name."""

    def describe(self, obj: Any) -> Schema:
        """Return a Schema of the plain base model, the adapters' configs and the active adapters.

        Raises
        ------
        UnsupportedObjectError
            If the adapters are of a kind that injects no layers, or are merged, or it is not known how the base model
            was built.
        """
        _check(obj)
        adapters = dict(obj.peft_config)
        arguments: dict[str, Any] = {_MODEL: _plain_base(obj), _ADAPTERS: adapters}
        active = list(obj.active_adapters)
        if active != list(adapters)[:1]:
            arguments["active_adapter"] = active[0] if len(active) == 1 else active
        fresh = self._fresh(type(obj), arguments)
        schema = written_beside(Schema(type(obj), **arguments), obj, fresh, apart_from=_OF_BUILDING)
        return (assembled(obj) or schema) if _is_more_than_a_call(obj, schema) else schema

    def _fresh(self, cls: type, arguments: Mapping[str, Any]) -> Any:
        """Build the model of the arguments, with tensors that have no values."""
        given = {**arguments, _MODEL: copy.deepcopy(arguments[_MODEL])}
        with torch.device("meta"):
            return built_again(lambda: self.build(cls, given))

    def children(self, obj: Any) -> Iterator[Child]:
        """Return the base model and each adapter: they are components, with folders of their own."""
        if _is_by_parts(obj):
            yield from module_children(obj)
            return
        base = obj.get_base_model()
        for inner in base.modules():
            if is_component(inner):  # the adapters in it are not changes of its own
                describe_as(inner, schema_of(inner))
        yield Child(_MODEL, base if is_component(base) else _Part(base, obj), covered=True)
        for name, config in obj.peft_config.items():
            yield Child(join_key([_ADAPTERS, name]), _Part(config, obj), covered=True)
        yield from (child for child in module_children(obj) if not child.covered and child.name not in _OF_PEFT)

    def get_state(self, place: Place, state: State) -> None:
        """Add the tensors, each under the key that it has in its component."""
        if not place.covered:
            module_state(place, state)
        if _is_by_parts(place.obj):
            return
        begin = place.key_prefix
        for raw, saved in _names(place.obj).items():
            if begin + raw in state:
                if begin + saved in state:
                    raise UnsupportedObjectError(f"two tensors would get the key {begin + saved!r}", node=place.prefix)
                state[begin + saved] = state.pop(begin + raw)
        modules = _module_names(place.obj)
        for raw, _ in place.obj.named_modules():
            local = state._metadata.pop(begin + raw, None) if raw else None
            if local is not None and raw in modules:
                state._metadata[begin + modules[raw]] = local

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Rename the tensors to the module's own keys, and load them."""
        begin = place.key_prefix
        for raw, saved in _names(place.obj).items():
            if begin + saved in state:
                state[begin + raw] = state.pop(begin + saved)
        modules = _module_names(place.obj)
        for raw, saved in modules.items():
            if begin + saved in state._metadata:
                state._metadata[begin + raw] = state._metadata[begin + saved]
            elif begin + raw in state._metadata:  # it was written as its parts
                state._metadata[begin + saved] = state._metadata[begin + raw]
        own = place.obj.state_dict()
        for key in keys_below(state, place.prefix):
            local = key[len(begin) :]
            owner = next((name for name in prefixes_around(local) if name in modules), None)
            if owner is not None and local not in own:  # a component of the base model added it
                state[begin + modules[owner] + local[len(owner) :]] = state.pop(key)
        return None if place.covered else lambda: load_module(place, state, mismatch, fit)

    def asks(self, cls: type, arguments: Mapping[str, Any]) -> Iterator[str]:
        """Yield arguments that need trust: all but base models, known configs and names."""
        for name, value in arguments.items():
            if isinstance(value, Reference):
                continue
            if name == _ADAPTERS:
                if not isinstance(value, dict) or not all(isinstance(item, (Reference, str)) for item in value):
                    yield f"adapters that are a {type(value).__name__}"
                    continue
                for item in value.values():
                    kind = item.component_subclass if isinstance(item, Schema) else type(item)
                    if not isinstance(item, Reference) and public_class(kind.__name__) is not kind:
                        yield f"an adapter that is a {kind.__name__}"
            elif name == "active_adapter":
                if not _is_plain(value):
                    yield f"active_adapter that is a {type(value).__name__}"
            elif name == _MODEL:
                if _may_answer_itself(value):
                    yield f"a base model, or a config of it, that is put together of its parts: a {_name_of(value)}"
            else:
                yield f"{quote(name)}, which is not an argument of it"

    def build(self, cls: type, arguments: Mapping[str, Any]) -> Any:
        """Build a peft model around the base model, with fresh adapters."""
        adapters, active = dict(arguments[_ADAPTERS]), arguments.get("active_adapter")
        model: Any = None
        for name, config in adapters.items():
            beginning = copy.deepcopy(config)
            if not isinstance(getattr(beginning, "init_lora_weights", True), bool):
                beginning.init_lora_weights = True  # some other values take long, and all weights are overwritten
            if model is None:
                model = cls(arguments[_MODEL], beginning, name)
            else:
                model.add_adapter(name, beginning)
            for field in ("init_lora_weights", "modules_to_save"):  # some models add their head to these once more
                if hasattr(config, field):
                    setattr(model.peft_config[name], field, getattr(config, field))
        if active is not None:
            (model.set_adapter if isinstance(active, str) else model.base_model.set_adapter)(active)
        return model


MODEL = _ModelAdapter()


def _may_answer_itself(model: Any) -> bool:
    """Whether a load put together the base model or its config: peft calls methods of both."""
    if isinstance(model, Schema):
        return model.factory_method == PARTS
    config = vars(model).get("config") if isinstance(model, nn.Module) else None
    return is_assembled(model) or is_assembled(config)


def _name_of(model: Any) -> str:
    return (model.component_subclass if isinstance(model, Schema) else type(model)).__name__


def _is_by_parts(model: Any) -> bool:
    """Whether a save writes a model as its parts: a plain module, without folders."""
    schema = described_now(model)
    return schema is not None and schema.factory_method == PARTS


class _PartAdapter(StatelessAdapter):
    """The base model or an adapter of a peft model: it has a config, but no own tensors."""

    def describe(self, obj: _Part) -> Schema | None:
        return describe(_plain_base(obj.owner) if obj.is_base else obj.obj)

    def children(self, obj: _Part) -> Iterable[Child]:
        return module_children(obj.obj) if obj.is_base else ()

    def get_state(self, place: Place, state: State) -> None:
        kind = type(place.obj.obj)
        state._metadata[place.prefix] |= {CLASS_KEY: kind.__name__, SOURCE_KEY: source_of(kind)}


class _Part:
    """A part of a peft model that gets a folder of its own."""

    __flambe_adapter__ = _PartAdapter()

    def __init__(self, obj: Any, owner: Any) -> None:
        self.obj = obj
        self.owner = owner
        self.is_base = isinstance(obj, nn.Module)


def _check(model: Any) -> None:
    for name, config in model.peft_config.items():
        if public_class(type(config).__name__) is not type(config):
            raise UnsupportedObjectError(
                f"the adapter {name!r} is a {type(config).__name__}; only {', '.join(_KINDS)} are known here",
                fix="Save its state_dict() alone with save_state_to_file.",
            )
    if any(getattr(module, "merged", False) is True for module in model.modules()):
        raise UnsupportedObjectError(
            "the adapters are merged into the base model's weights, so that neither can be saved",
            fix="Call unmerge_adapter() first, or save what merge_and_unload() returns.",
        )


def _plain_base(model: Any) -> Any:
    """Return a copy of the base model on the meta device, without its adapters.

    Raises
    ------
    UnsupportedObjectError
        If it is not known how it was built.
    """
    memo: dict[int, Any] = {}
    kept = (tensor for module in model.modules() for tensor in tensors_in(*vars(module).values()))  # as in tied layers
    others = {  # not persistent: their values show whether they were changed
        id(module._buffers[name]) for module in model.modules() for name in module._non_persistent_buffers_set
    }
    for tensor in (*model.parameters(), *model.buffers(), *(value for value in kept if not value.is_leaf)):
        if id(tensor) not in others:
            empty = torch.empty_like(tensor, device="meta")
            memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    base = copy.deepcopy(model, memo).unload()
    found = describe(base)
    if found is None or found.factory_method == PARTS:
        raise UnsupportedObjectError(
            f"it is not known how the base model, a {type(base).__qualname__}, was built",
            fix="Make its class a Component, or save the model's state_dict() alone with save_state_to_file.",
        )
    return base


def _is_more_than_a_call(model: Any, schema: Schema) -> bool:
    """Whether changes refer to layers that have other names in a folder."""
    if any(marks_of(tensor) for tensor in (*model.parameters(), *model.buffers())):
        return True
    if schema.component_subclass is not Edited:
        return False
    names = _module_names(model)
    known = {id(module) for name, module in model.named_modules() if name in names or _is_wrapper(module)}
    for path, change in schema.keywords["changes"].items():
        if path.startswith("base_model.model") and not change.keys().isdisjoint(("parameters", "buffers")):
            return True
        attributes = [*values_in(change.get("attributes", {}))]
        if any(isinstance(value, nn.Module) for value in attributes):
            return True
        if any(id(value) in known for value in values_in(change.get("modules", {}))):
            return True
    return False


def _is_wrapper(module: nn.Module) -> bool:
    """Whether a module is a layer with adapters around one of the base model."""
    return hasattr(module, "adapter_layer_names")


def _module_names(model: Any) -> dict[str, str]:
    """Map the base model's modules from their names in the peft model to those in the save."""
    begin = ["base_model", "model"]
    wrappers = {name for name, module in model.named_modules() if _is_wrapper(module)}
    found = {}
    for name, _ in model.named_modules():
        parts = name.split(".")
        if parts[:2] != begin or name in wrappers:
            continue
        plain = [_MODEL]
        for end in range(2, len(parts)):
            if ".".join(parts[:end]) not in wrappers:
                plain.append(parts[end])
            elif parts[end] not in ("base_layer", "original_module"):
                break  # an adapter's own
        else:
            found[name] = ".".join(plain)
    return found


def _names(model: Any) -> dict[str, str]:
    """Map the keys of a peft model's state to those in the save."""
    library: Any = sys.modules["peft"]
    raw = model.state_dict()
    keys = {id(value): key for key, value in raw.items()}
    found: dict[str, str] = {}
    for name in model.peft_config:
        own = library.get_peft_model_state_dict(
            model, state_dict=dict(raw), adapter_name=name, save_embedding_layers=False
        )
        for key, value in own.items():
            if id(value) in keys:
                found.setdefault(keys[id(value)], join_prefix(join_key([_ADAPTERS, name]), key))
    modules = _module_names(model)
    for key in raw:
        owner, _, last = key.rpartition(".")
        if key not in found and owner in modules:
            found[key] = f"{modules[owner]}.{last}"
    return found
