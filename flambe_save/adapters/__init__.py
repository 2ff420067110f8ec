"""Describe each kind of object, and read and set its state. traversal.py calls the adapters.

A new kind is one class with the four methods of :class:`Adapter`. It is registered under the dotted path of its type,
named by that type's own ``__flambe_adapter__``, or found as an entry point of the group ``flambe_save.adapters``.
"""

from __future__ import annotations

from flambe_save.adapters.adopted import Adoption
from flambe_save.adapters.collecting import get_state
from flambe_save.adapters.containers import close_cycles
from flambe_save.adapters.protocol import (
    Adapter,
    Child,
    Fit,
    Mismatch,
    Place,
    ValueAdapter,
    adapter_for,
    is_component,
    register_adapter,
)
from flambe_save.adapters.random import RandomStates
from flambe_save.adapters.restoring import load_state
from flambe_save.adapters.ties import restore_ties
from flambe_save.adapters.unbuilt import get_unbuilt_state
from flambe_save.adapters.unchanged import Passed
from flambe_save.adapters.values import ValueFilling
from flambe_save.classes.tags import TAGS
from flambe_save.classes.well_known import method_class, numpy_class, random_class, torch_class
from flambe_save.objects.assembly import can_be_assembled
from flambe_save.objects.derived import is_derived
from flambe_save.registry import ADAPTERS

__all__ = [
    "Adapter",
    "Adoption",
    "Child",
    "Fit",
    "Mismatch",
    "Passed",
    "Place",
    "RandomStates",
    "ValueAdapter",
    "ValueFilling",
    "adapter_for",
    "close_cycles",
    "get_state",
    "get_unbuilt_state",
    "is_component",
    "load_state",
    "register_adapter",
    "restore_ties",
]

# Kept of each kind, its adapter, and its types; docs/kinds.md is made from this
for _note, _adapter, _types in (
    ("items in order, of exact types", "containers:SEQUENCE", "builtins.list builtins.tuple collections.deque"),
    ("items by any keys; ordered, default and counting ones too", "containers:MAPPING", "builtins.dict"),
    ("items that hold no state of their own", "containers:SET", "builtins.set builtins.frozenset"),
    (
        "its parts; no constructor and no `__post_init__` is run by a load",
        "containers:PARTS",
        "dataclass enum.Enum functools.partial types.SimpleNamespace datetime.timedelta decimal.Decimal "
        "fractions.Fraction uuid.UUID re.Pattern",
    ),
    ("its values, in the state; of a view its own bytes", "arrays:ARRAY", "torch.Tensor numpy.ndarray"),
    (
        "its `state_dict`, which parameters are frozen, which modules train; its arguments where they are known",
        "torch:MODULE",
        "torch.nn.modules.module.Module",
    ),
    (
        "its groups, defaults and attributes, and what it keeps for each parameter, by the parameter's name",
        "optimizers:OPTIMIZER",
        "torch.optim.optimizer.Optimizer",
    ),
    (
        "its `state_dict`, and its arguments or attributes; it drives the loaded optimizer",
        "schedulers:SCHEDULER",
        "torch.optim.lr_scheduler.LRScheduler",
    ),
    ("its scale and settings", "schedulers:SCALER", "torch.amp.grad_scaler.GradScaler"),
    ("where it is in its stream", "random:TORCH_GENERATOR", "torch._C.Generator"),
    ("where it is in its stream", "random:NUMPY_GENERATOR", "numpy.random._generator.Generator"),
    ("where it is in its stream", "random:NUMPY_RANDOM_STATE", "numpy.random.mtrand.RandomState"),
    ("where it is in its stream", "random:PYTHON_RANDOM", "random.Random"),
    # Of other libraries; these adapters are imported only after the program has imported the library
    ("its config, and its weights", "huggingface:MODEL", "transformers.modeling_utils.PreTrainedModel"),
    ("its plain values", "huggingface_configs:CONFIG", "transformers.configuration_utils.PreTrainedConfig"),
    ("the base model and each adapter, in folders of their own", "peft:MODEL", "peft.peft_model.PeftModel"),
    ("its plain values", "peft:CONFIG", "peft.config.PeftConfigMixin"),
    ("the name of its factory, where that builds it again, and its weights", "timm:MODEL", "timm.*"),
    ("the entries of its `state_dict`, by name", "stateful:STATEFUL", "state_dict"),
    ("its arguments, and what holds a state in its attributes", "stateful:RECORDED", "recorded"),
    ("its attributes; no code of its class is run by a load", "containers:OBJECT", "object"),
):
    for _type in _types.split():
        ADAPTERS.add(_type, f"flambe_save.adapters.{_adapter}", note=_note)
ADAPTERS.add_trait(("__dataclass_fields__",), "dataclass")
ADAPTERS.add_trait(("__attrs_attrs__",), "dataclass")
ADAPTERS.add_trait(("__pydantic_fields__",), "dataclass")
ADAPTERS.add_trait(is_derived, "dataclass")
ADAPTERS.add_trait(("state_dict", "load_state_dict"), "state_dict")
ADAPTERS.add_trait(("__flambe_recorded__",), "recorded")
ADAPTERS.add_trait(can_be_assembled, "object")
for _namespace, _lookup in (("torch", torch_class), ("random", random_class)):
    TAGS.provide(_namespace, _lookup)
TAGS.provide("numpy", numpy_class, "numpy.random")
TAGS.provide("builtins", method_class)
for _library, _adapter in (("transformers", "huggingface"), ("peft", "peft"), ("timm", "timm")):
    TAGS.provide(_library, f"flambe_save.adapters.{_adapter}:public_class")
