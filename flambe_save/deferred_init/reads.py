"""ReadMode: a torch mode for functions: reads that are not operations, and small fills."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from flambe_save.deferred_init.pending import tensors_in

if TYPE_CHECKING:
    from flambe_save.deferred_init.mode import DeferredInit

# Show the address of a tensor's memory
_EXPOSING = (
    *("__array__", "__cuda_array_interface__", "__dlpack__", "_storage", "_typed_storage", "apply_", "const_data_ptr"),
    *("data_ptr", "is_shared", "map2_", "map_", "numpy", "set_", "share_memory_", "storage", "storage_type"),
    "untyped_storage",
)
# Read memory, and are not operations that a dispatch mode sees
_READING = (
    *("__contains__", "__deepcopy__", "__format__", "__reduce__", "__reduce_ex__", "__repr__", "__setstate__"),
    *("__str__", "new", "new_tensor", "tolist", "type", "_make_subclass"),
)


def _methods(names: tuple[str, ...]) -> Iterator[Any]:
    for name in names:
        found = getattr(torch.Tensor, name, None)
        if found is not None:
            yield found.__get__ if isinstance(found, property) or type(found).__name__ == "getset_descriptor" else found


_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]
_EXPOSES = frozenset([*_methods(_EXPOSING), torch.as_tensor, torch.asarray])
_SEES = _EXPOSES | {*_methods(_READING), torch.tensor, torch.tensordot}
# Make memory from numbers alone
_MAKES = frozenset((torch.empty, torch.ones, torch.zeros))
# Fill a tensor in place, and need no other memory
_INIT = ("constant", "normal", "uniform", "kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform")
_FILLS = frozenset([*_methods(("fill_", "zero_")), *(getattr(torch.nn.init, f"{name}_") for name in _INIT)])
# Takes the place of torch.nn.init's functions while a model of transformers is built, and calls them
_OF_TRANSFORMERS = "transformers.initialization"


class ReadMode(TorchFunctionMode):
    """Runs what is deferred before a function reads memory without an operation of torch's.

    Small layers are mostly made of calls that make or fill a little memory, and that are not deferred. These are run
    here, without the dispatch mode: it would take longer than they do.
    """

    def __init__(self, deferral: DeferredInit) -> None:
        super().__init__()
        self._deferral = deferral
        self._kinds: dict[Any, str] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, once it may see what it reads."""
        kwargs = kwargs or {}
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = _kind_of(func)
        if kind == "harmless" or self._deferral.is_busy:
            return func(*args, **kwargs)
        if kind == "makes":
            return self._deferral.make(func, args, kwargs)
        if kind == "fills":
            return self._deferral.fill(func, args, kwargs)
        if kind == "exposes" or not self._deferral.is_idle:
            self._before(func, args, kwargs)
        return func(*args, **kwargs)

    def _before(self, func: Any, args: Any, kwargs: Any) -> None:
        deferral = self._deferral
        if func == _SET_DATA:  # it writes to no memory
            deferral.keep_given(args[0], is_moved=True)
            return
        tensors = [*tensors_in(args, kwargs)]
        if func not in _SEES or any(map(deferral.is_pending, tensors)):
            deferral.run()
        if func in _EXPOSES:
            for tensor in tensors:
                deferral.expose(tensor)
                deferral.keep_given(tensor)


def _kind_of(func: Any) -> str:
    """Classify a function.

    A harmless one uses memory through operations alone, which the dispatch mode sees.
    """
    if func in _MAKES or func in _FILLS:
        return "makes" if func in _MAKES else "fills"
    if func in _EXPOSES or func == _SET_DATA:
        return "exposes"
    is_python = isinstance(func, (types.FunctionType, types.MethodType))
    module = getattr(func, "__module__", None) or ""
    is_of_torch = not is_python or module.partition(".")[0] == "torch" or module == _OF_TRANSFORMERS
    return "harmless" if is_of_torch and func not in _SEES else "reads"
