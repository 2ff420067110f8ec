"""Save and load modules by their ``state_dict``; builtins.py describes torch.nn's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from flambe_save.adapters.adopted import runs_torch_only, saved_dtype
from flambe_save.adapters.arrays import ArrayAdapter, check_has_shape
from flambe_save.adapters.builtins import agree, builtin_schema
from flambe_save.adapters.checking import checker_of_module
from flambe_save.adapters.containers import OBJECT
from flambe_save.adapters.fast_load import fill, kinds_of
from flambe_save.adapters.parametrized import effective, give_effective, split_effective
from flambe_save.adapters.protocol import (
    Check,
    Child,
    Fit,
    Later,
    Mismatch,
    Place,
    adapter_for,
    holds,
    holds_state,
    is_component,
    plumbing_of,
)
from flambe_save.codecs.data import tie_key
from flambe_save.codecs.placement import Placer
from flambe_save.config.scalars import PLAIN
from flambe_save.describing.describe import form_of, lost_of
from flambe_save.errors import FlambeSaveError, LimitError
from flambe_save.layout import DIRECTORIES_KEY, KEEP_VARS_KEY, MODES_KEY
from flambe_save.objects.unwrap import plain_keys, wrapped_keys
from flambe_save.objects.walks import everywhere, module_at, modules_in, named_once, named_tensors
from flambe_save.pt.tensor_info import fills_storage
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema, items_in, schema_of
from flambe_save.state import State, keys_below
from flambe_save.support.static import static_of


class ModuleAdapter:
    """Any ``nn.Module``."""

    has_own_children = True

    def describe(self, obj: nn.Module) -> Schema | None:
        """Return a Schema of the arguments now, of the recorded call, or of the parts; else None.

        The present arguments of a built-in win over its recorded call. Where they agree, the record may have links.
        """
        now = builtin_schema(obj)
        recorded = schema_of(obj)
        if now is not None:
            if recorded is None or lost_of(now) or not any(isinstance(item, Reference) for item in items_in(recorded)):
                return now
            return recorded if agree(recorded, now) else now
        return form_of(obj)

    def children(self, obj: nn.Module) -> Iterable[Child]:
        """Return the submodules, whose tensors are covered, and components among plain attributes."""
        return module_children(obj)

    def get_state(self, place: Place, state: State) -> None:
        """Add the module's ``state_dict``, where no module around it has done so."""
        if not place.covered:
            module_state(place, state)

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Return a function that loads the ``state_dict``, to call after hooks of components inside."""
        return None if place.covered else lambda: load_module(place, state, mismatch, fit)

    def checker(self, place: Place, state: State) -> Check | None:
        """Return a function that notes keys and sizes that differ."""
        return checker_of_module(place, state)


MODULE = ModuleAdapter()


def module_children(module: nn.Module) -> Iterator[Child]:
    """Yield submodules as covered, then components and other known kinds in plain attributes.

    Any other attribute is loose: it is saved where the module is written as its parts.
    """
    for name, child in module._modules.items():
        if child is not None:
            yield Child(name, child, covered=True)
    plumbing = plumbing_of(type(module))
    for name, value in vars(module).items():
        if name in plumbing or type(value) in PLAIN:
            continue
        if holds(value, _is_loose, in_parts=True):
            yield Child(name, value, is_borrowed=True, is_loose=True)
        elif holds(value, _is_part_of_module):
            yield Child(name, value)
        elif holds(value, _is_part_of_module, in_parts=True):
            yield Child(name, value, is_borrowed=True, is_loose=True)


def _is_loose(value: Any) -> bool:
    if isinstance(value, (torch.Tensor, nn.Module)):
        return not is_component(value)
    adapter = adapter_for(value)
    return isinstance(adapter, ArrayAdapter) or adapter is OBJECT


def _is_part_of_module(value: Any) -> bool:
    return is_component(value) or (holds_state(value) and not isinstance(value, nn.Module))


def module_state(place: Place, state: State) -> None:
    """Add a module's ``state_dict`` and its metadata under the place's prefix.

    Raises
    ------
    UnsupportedObjectError
        If a module is inside itself.
    """
    try:
        own = place.obj.state_dict(keep_vars=True) if place.keep_vars else place.obj.state_dict()
    except RecursionError:
        for _ in everywhere(place.obj):  # which raises an error of ours, if that is why
            pass
        raise
    metadata = getattr(own, "_metadata", {})
    plain, begin = plain_keys(place.obj, [*own, *metadata]), place.key_prefix
    for key, value in {**own, **effective(place.obj)}.items():
        check_has_shape(value, key, place.prefix)
        state[begin + plain.get(key, key)] = value
    for prefix, local in metadata.items():
        full = begin + plain[prefix] if plain[prefix] else place.prefix
        if full in (DIRECTORIES_KEY, KEEP_VARS_KEY):
            continue  # a submodule of that name: its version cannot be kept
        state._metadata[full] = {**local, **state._metadata.get(full, {})}
    inside = modules_in(place.obj)
    state._metadata.setdefault(place.prefix, {})[MODES_KEY] = _modes(place.obj, inside)


def _modes(module: nn.Module, inside: list[tuple[str, nn.Module]]) -> dict[str, Any]:
    """Return the frozen parameters and the modules in training mode, by plain keys."""
    frozen = [name for name, parameter in named_once(inside, "_parameters") if not parameter.requires_grad]
    is_training = _is_on(module.training)
    others = [path for path, inner in inside if _is_on(inner.training) is not is_training]
    special = {path: inner.training for path, inner in inside if _is_special(inner.training)}
    plain = plain_keys(module, [*frozen, *others, *special]) if frozen or others or special else {}
    found: dict[str, Any] = {
        "training": is_training,
        "otherwise": [plain[name] for name in others],
        "frozen": [plain[name] for name in frozen],
    }
    return {**found, "values": {plain[name]: value for name, value in special.items()}} if special else found


def _is_on(training: Any) -> bool:
    """Whether a module with this value of ``training`` is in training mode."""
    return bool(training) if type(training) in PLAIN or isinstance(training, np.generic) else True


def _is_special(training: Any) -> bool:
    """Whether the ``training`` of a module is a plain value other than True and False."""
    return type(training) in PLAIN and type(training) is not bool


def _set_modes(module: nn.Module, modes: Any, assembled: Mapping[int, Any]) -> None:
    """Freeze parameters and set training modes as saved; other programs' saves lack them."""
    if not isinstance(modes, dict) or not isinstance(modes.get("training"), bool):
        return
    frozen, others = (
        {*names} if isinstance(names := modes.get(key), list) else set() for key in ("frozen", "otherwise")
    )
    values = modes.get("values")
    values = values if type(values) is dict and all(map(_is_special, values.values())) else {}
    inside, kinds = modules_in(module), kinds_of(assembled)
    parameters = named_once(inside, "_parameters")
    plain = plain_keys(module, [*(name for name, _ in parameters), *(path for path, _ in inside)])
    for name, parameter in parameters:
        is_free = plain[name] not in frozen
        if parameter.requires_grad is not is_free and (parameter.is_floating_point() or parameter.is_complex()):
            torch.Tensor.requires_grad_(parameter, is_free)
    for path, inner in inside:
        training = values.get(plain[path], modes["training"] is not (plain[path] in others))
        if inner.__dict__.get("training") is not training:  # setting an attribute of a module takes time
            if type(inner) in kinds:
                inner.__dict__["training"] = training  # runs no setter of its class
            else:
                inner.training = training


def load_module(place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> None:
    """Load the values under the place's prefix with the module's own ``load_state_dict``."""
    begin = place.key_prefix
    saved = {key[len(begin) :]: state[key] for key in keys_below(state, place.prefix) if key not in mismatch.consumed}
    inside = {
        "": place.prefix,
        **{prefix[len(begin) :]: prefix for prefix in keys_below(state._metadata, place.prefix)},
    }
    local_metadata = {
        key: local for key, prefix in inside.items() if isinstance(local := state._metadata.get(prefix), dict)
    }
    here = wrapped_keys(place.obj, [*saved, *local_metadata])
    own: OrderedDict[str, Any] = OrderedDict((here[key], value) for key, value in saved.items())
    own._metadata = {here[prefix]: local for prefix, local in local_metadata.items()}  # type: ignore[attr-defined]
    called = {name: begin + key for key, name in here.items()}
    replaced, effective_values = split_effective(place.obj, own)
    mismatch.consumed.update(called[name] for name in (*replaced, *effective_values))
    for name in (*replaced, *effective_values):
        del own[name]
    for prefix, local in own._metadata.items():  # type: ignore[attr-defined]
        version = local.get("version", 1)  # a class may have a text, which only it can read
        is_its_own = type(version) is str and static_of(type(module_at(place.obj, prefix)), "_version") == version
        if type(version) not in (int, type(None)) and not is_its_own:
            mismatch.errors.append(f"{place.prefix!r}: a module's version is not a number")
            return
    adoption = fit.adoption if fit is not None else None
    deferral = adoption.deferral if adoption is not None else None
    assembled: Mapping[int, Any] = adoption.assembled if adoption is not None else {}
    taken = adoption.parameters if adoption is not None else {}
    done = _take_own(place.obj, own, assembled, taken, mismatch)
    mismatch.consumed.update(called[name] for name in done)
    if adoption is not None and not (adoption.is_worth_it(own) and runs_torch_only(place.obj, assembled)):
        adoption = None
    is_unseen = adoption is not None or (deferral is not None and deferral.is_idle)
    try:
        with deferral.left() if deferral is not None and is_unseen else nullcontext():
            if adoption is not None:
                adoption.adopt(place.obj, own)
            if fit is not None:
                _fit(place.obj, own, fit, assembled)
            if adoption is not None:
                adoption.overwrite(place.obj, own)
            missing, unexpected = fill(place.obj, own, assembled)
    except FlambeSaveError:
        raise
    except RecursionError as error:
        raise LimitError(
            "modules are inside each other more deeply than Python's stack allows for",
            node=place.prefix,
            fix="Flatten the model, or raise the limit with sys.setrecursionlimit.",
        ) from error
    except Exception as error:  # torch raises RuntimeError for shapes, and anything for values of other kinds
        mismatch.errors.append(f"{place.prefix}: {error}" if place.prefix else str(error))
        mismatch.consumed.update(called[key] for key in own)
        return
    if fit is not None:
        _set_modes(place.obj, state._metadata.get(place.prefix, {}).get(MODES_KEY), assembled)
    given = give_effective(place.obj, effective_values, mismatch)
    mismatch.missing += [begin + plain for key, plain in plain_keys(place.obj, missing).items() if key not in given]
    mismatch.consumed.update(called[key] for key in own.keys() - set(unexpected))


def _take_own(
    module: nn.Module,
    own: OrderedDict[str, Any],
    assembled: Container[int],
    taken: Mapping[int, torch.Tensor],
    mismatch: Mismatch,
) -> list[str]:
    """Remove values that a module's ``load_state_dict`` does not take; return their names.

    An assembled module has its values already. Saved buffers that are not persistent are there too if this load has
    built the object; otherwise they are filled here. ``taken`` are the tensors made of the state's, by the ids of
    these.
    """
    done = []
    for path, inner in everywhere(module):
        begin, is_filled = (f"{path}." if path else ""), id(inner) in assembled
        for table in (inner._parameters, inner._buffers):
            for name, tensor in table.items():
                key = begin + name
                if key not in own or not (is_filled or name in inner._non_persistent_buffers_set):
                    continue
                value = own[key]
                if tensor is None:
                    continue  # load_state_dict reports the key
                del own[key]
                done.append(key)
                if value is tensor or taken.get(id(value)) is tensor:
                    continue
                if not isinstance(value, torch.Tensor):
                    mismatch.errors.append(f"{key} is a {type(value).__qualname__} in the save, and a tensor here")
                    continue
                if _are_one(value, tensor):
                    continue
                if value.shape != tensor.shape:
                    sizes = f"{tuple(value.shape)} in the save, {tuple(tensor.shape)} here"
                    mismatch.errors.append(f"size mismatch for {key}: {sizes}")
                    continue
                try:
                    if is_filled and (value.dtype, value.device) != (tensor.dtype, tensor.device):
                        tensor.data = value.clone()  # a constructor has replaced the tensor that it was given
                        continue
                    with torch.no_grad():
                        torch.Tensor.copy_(tensor, value)
                except (RuntimeError, NotImplementedError) as error:  # a layout that cannot be written to
                    mismatch.errors.append(f"{key} cannot be filled: {str(error)[:200]}")
    return done


def _are_one(value: torch.Tensor, tensor: torch.Tensor) -> bool:
    if value.layout != torch.strided or tensor.layout != torch.strided or value.is_meta or tensor.is_meta:
        return False
    return value.numel() == 0 or tie_key(value) == tie_key(tensor)


def _fit(module: nn.Module, own: OrderedDict[str, Any], fit: Fit, assembled: Container[int] = ()) -> None:
    """Cast and move parameters and buffers like their saved values, so that none is rounded.

    They stay the same objects, so that references to them stay valid.
    """
    named = [*named_tensors(module)]
    saved = {id(tensor): own[name] for name, tensor in named if isinstance(own.get(name), torch.Tensor)}
    deferral = fit.adoption.deferral if fit.adoption is not None else None
    if deferral is not None and callable(fit.map_location):
        deferral.run()  # map_location gets storages, which it may read
    devices = {tensor.device for tensor in saved.values()}
    place = Placer(devices.pop() if fit.map_location is None and len(devices) == 1 else fit.map_location)
    with deferral.left() if deferral is not None else nullcontext():
        wanted = {id(tensor): _wanted(tensor, saved.get(id(tensor)), place) for _, tensor in named}
    if deferral is not None and any(target is not None and key not in saved for key, target in wanted.items()):
        deferral.run()  # moving a tensor reads it
    if all(target is None for target in wanted.values()):
        return

    def change(tensor: torch.Tensor) -> torch.Tensor:
        target = wanted.get(id(tensor))
        if target is None:
            return tensor
        if id(tensor) not in saved:
            return tensor.detach().to(target.device)
        return (
            torch.empty_strided(tensor.shape, target.stride, dtype=target.dtype, device=target.device)
            if target.stride is not None
            else torch.empty_like(tensor, dtype=target.dtype, device=target.device)
        )

    whole: set[int] = set()  # modules that an _apply of their own has visited
    for _, inner in modules_in(module):
        if id(inner) in assembled or id(inner) in whole:
            continue
        for buffer in inner._buffers.values():
            if buffer is None or wanted.get(id(buffer)) is None:
                continue
            made = change(buffer)
            if torch._has_compatible_shallow_copy_type(buffer, made):
                buffer.data = made
                wanted[id(buffer)] = None
        apply: Any = type(inner)._apply
        if apply.__module__.partition(".")[0] == "torch" and "_apply" not in vars(inner):
            apply(inner, change, recurse=False)  # RNNs refresh their flat weights there
        else:
            whole.update(id(part) for _, part in modules_in(inner))
            inner._apply(change)  # type: ignore[no-untyped-call]


class _Target(NamedTuple):
    """Type and device to give a tensor, and the saved value's strides where they fit."""

    dtype: torch.dtype
    device: torch.device
    stride: tuple[int, ...] | None = None


def _wanted(
    tensor: torch.Tensor, value: torch.Tensor | None, place: Callable[[torch.UntypedStorage, str], torch.UntypedStorage]
) -> _Target | None:
    """Return a tensor's target, by its saved value or ``map_location``; None to keep it."""
    if nn.parameter.is_lazy(tensor) or value is tensor:  # the second: a buffer that the config took from the state
        return None
    if value is None:
        storage = tensor.untyped_storage()
        moved = place(storage, str(tensor.device))
        return None if moved.device == storage.device else _Target(tensor.dtype, moved.device)
    if value.shape != tensor.shape:
        return None
    dtype, is_dense = saved_dtype(tensor, value), tensor.layout == value.layout == torch.strided
    stride = value.stride() if is_dense and fills_storage(value) else None
    if is_dense and tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        # It repeats its elements, so that nothing can be copied into it
        return _Target(dtype, value.device, stride or torch.empty(tensor.shape, device="meta").stride())
    if (dtype, value.device) == (tensor.dtype, tensor.device) and (stride is None or stride == tensor.stride()):
        return None
    return _Target(dtype, value.device, stride)
