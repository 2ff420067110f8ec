"""Adapters: how each kind of object tells how it was built, and gives and takes its state. traversal.py calls them.

A new kind is one class with the four methods of :class:`Adapter`, registered under the dotted path of the type it is
for, or named by that type's own ``__flambe_adapter__``. Entry points of the group ``flambe_save.adapters`` are found
too.
"""

from __future__ import annotations

from flambe_save.adapters.containers import close_cycles
from flambe_save.adapters.optimizers import Averaging
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
from flambe_save.adapters.traversal import get_state, load_state, restore_ties
from flambe_save.registry import ADAPTERS

__all__ = [
    "Adapter",
    "Averaging",
    "Child",
    "Fit",
    "Mismatch",
    "Place",
    "ValueAdapter",
    "adapter_for",
    "close_cycles",
    "get_state",
    "is_component",
    "load_state",
    "register_adapter",
    "restore_ties",
]

for _module, _adapter, _types in (
    ("containers", "SEQUENCE", "builtins.list builtins.tuple collections.deque"),
    ("containers", "MAPPING", "builtins.dict"),
    ("containers", "SET", "builtins.set builtins.frozenset"),
    (
        *("containers", "PARTS"),
        "dataclass enum.Enum functools.partial types.SimpleNamespace datetime.timedelta decimal.Decimal "
        "fractions.Fraction uuid.UUID re.Pattern",
    ),
    ("arrays", "ARRAY", "torch.Tensor numpy.ndarray"),
    ("torch", "MODULE", "torch.nn.modules.module.Module"),
    ("optimizers", "OPTIMIZER", "torch.optim.optimizer.Optimizer"),
    (
        *("optimizers", "SCHEDULER"),
        "torch.optim.lr_scheduler.LRScheduler torch.optim.lr_scheduler.ReduceLROnPlateau",
    ),
    ("optimizers", "SCALER", "torch.amp.grad_scaler.GradScaler"),
    ("random", "TORCH_GENERATOR", "torch._C.Generator"),
    ("random", "NUMPY_GENERATOR", "numpy.random._generator.Generator"),
    ("random", "NUMPY_RANDOM_STATE", "numpy.random.mtrand.RandomState"),
    ("random", "PYTHON_RANDOM", "random.Random"),
    ("stateful", "STATEFUL", "state_dict"),
):
    for _type in _types.split():
        ADAPTERS.add(_type, f"flambe_save.adapters.{_module}:{_adapter}")
ADAPTERS.add_trait(("__dataclass_fields__",), "dataclass")
ADAPTERS.add_trait(("state_dict", "load_state_dict"), "state_dict")
