"""ReadMode: a torch mode that sees reads of memory that are not operations."""

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
# Takes the place of torch.nn.init's functions while a model of transformers is built, and calls them
_OF_TRANSFORMERS = "transformers.initialization"


class ReadMode(TorchFunctionMode):
    """Runs what is deferred before a function reads memory without an operation of torch's."""

    def __init__(self, deferral: DeferredInit) -> None:
        super().__init__()
        self._deferral = deferral
        self._harmless: dict[Any, bool] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, once it may see what it reads."""
        kwargs = kwargs or {}
        is_harmless = self._harmless.get(func)
        if is_harmless is None:
            is_harmless = self._harmless[func] = _is_harmless(func)
        if not (is_harmless or self._deferral.is_busy):
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


def _is_harmless(func: Any) -> bool:
    """Whether a function uses memory through operations alone, which the dispatch mode sees."""
    if func in _SEES or func == _SET_DATA:
        return False
    is_python = isinstance(func, (types.FunctionType, types.MethodType))
    module = getattr(func, "__module__", None) or ""
    return not is_python or module.partition(".")[0] == "torch" or module == _OF_TRANSFORMERS
