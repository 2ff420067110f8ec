"""torch.nn modules: their state is their ``state_dict``; those of torch.nn itself also tell how they were built.

A built-in module's arguments are read off its attributes and then checked: what they build on the meta device must
be the same module but for the numbers in it. Where that fails, nothing is claimed.
"""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from flambe_save.adapters.protocol import PLUMBING, Child, Fit, Later, Mismatch, Place, adapter_for, is_component
from flambe_save.codecs.options import placer
from flambe_save.config.link import Link
from flambe_save.config.registrable import TAGS
from flambe_save.config.schema import Schema, defaults_of, schema_of
from flambe_save.errors import FlambeSaveError, RegistrationError, UnsupportedObjectError
from flambe_save.layout import DIRECTORIES_KEY, KEEP_VARS_KEY
from flambe_save.state import State

__all__ = ["MODULE", "ModuleAdapter", "holds", "load_module", "module_children", "module_state"]


class ModuleAdapter:
    """Any ``nn.Module``."""

    def describe(self, obj: nn.Module) -> Schema | None:
        """Return a Schema of a torch.nn built-in, or the one that a module was built from; None where neither is known.

        What a built-in is now wins over what it was built from; where they agree, the record still knows of links.
        """
        recorded, now = schema_of(obj), builtin_schema(obj)
        return recorded if now is None or (recorded is not None and _agree(recorded, now)) else now

    def children(self, obj: nn.Module) -> Iterable[Child]:
        """Return the submodules, whose tensors are covered, and components among plain attributes."""
        return module_children(obj)

    def get_state(self, place: Place, state: State) -> None:
        """Add the module's ``state_dict``, where no module around it has done so."""
        if not place.covered:
            module_state(place, state)

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Return the loading of the ``state_dict``: it comes after the hooks of components inside."""
        return None if place.covered else lambda: load_module(place, state, mismatch, fit)


MODULE = ModuleAdapter()


def module_children(module: nn.Module) -> Iterator[Child]:
    """Yield submodules as covered, then components and other known kinds in plain attributes or containers there.

    A module hidden in a list is not torch's to save, and so not ours; a Component is, wherever it is.
    """
    for name, child in module._modules.items():
        if child is not None:
            yield Child(name, child, covered=True)
    for name, value in vars(module).items():
        if name not in PLUMBING and holds(value, _is_part_of_module):
            yield Child(name, value)


def _is_part_of_module(value: Any) -> bool:
    return is_component(value) or (adapter_for(value) is not None and not isinstance(value, nn.Module))


def holds(value: Any, wanted: Callable[[Any], bool]) -> bool:
    """Whether a value is what is wanted, or a list, tuple or dict with one in it, however deep."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) not in (list, tuple, dict):
            if wanted(item):
                return True
        elif id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if type(item) is dict else item)
    return False


def module_state(place: Place, state: State) -> None:
    """Add a module's ``state_dict`` and its metadata under the place's prefix."""
    own = place.obj.state_dict(keep_vars=True) if place.keep_vars else place.obj.state_dict()
    for key, value in own.items():
        if nn.parameter.is_lazy(value):
            raise UnsupportedObjectError(
                f"{key!r} is a parameter of a lazy module that has no shape yet",
                node=place.prefix,
                fix="Run the model once, so that its lazy modules know their sizes, and save it then.",
            )
        state[place.key_prefix + key] = value
    for prefix, local in getattr(own, "_metadata", {}).items():
        full = f"{place.key_prefix}{prefix}" if prefix else place.prefix
        if full in (DIRECTORIES_KEY, KEEP_VARS_KEY):
            continue  # a submodule of that name: torch's version of it has no place
        state._metadata[full] = {**local, **state._metadata.get(full, {})}


def load_module(place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> None:
    """Load what lies under the place's prefix with the module's own ``load_state_dict``."""
    begin = place.key_prefix
    own: OrderedDict[str, Any] = OrderedDict(
        (key[len(begin) :], value)
        for key, value in state.items()
        if key.startswith(begin) and key not in mismatch.consumed
    )
    own._metadata = {  # type: ignore[attr-defined]
        prefix[len(begin) :] if prefix != place.prefix else "": local
        for prefix, local in state._metadata.items()
        if isinstance(local, dict) and (prefix == place.prefix or prefix.startswith(begin))
    }
    for local in own._metadata.values():  # type: ignore[attr-defined]
        if type(local.get("version", 1)) not in (int, type(None)):
            mismatch.errors.append(f"{place.prefix!r}: a module's version is no number")
            return
    try:
        if fit is not None:
            _fit(place.obj, own, fit)
        result = place.obj.load_state_dict(own, strict=False)
    except FlambeSaveError:
        raise
    except Exception as error:  # torch raises RuntimeError for shapes, and anything for values of other kinds
        mismatch.errors.append(str(error))
        mismatch.consumed.update(begin + key for key in own)
        return
    mismatch.missing += [begin + key for key in result.missing_keys]
    mismatch.consumed.update(begin + key for key in own.keys() - set(result.unexpected_keys))


def _fit(module: nn.Module, own: OrderedDict[str, Any], fit: Fit) -> None:
    """Give parameters and buffers the types and devices of their saved values, so that nothing is rounded or left
    behind.

    Parameters stay the objects they are, so that whatever refers to them still does.
    """
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    saved = {id(tensor): own[name] for name, tensor in named if isinstance(own.get(name), torch.Tensor)}
    devices = {tensor.device for tensor in saved.values()}
    place = placer(devices.pop() if fit.map_location is None and len(devices) == 1 else fit.map_location)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if nn.parameter.is_lazy(tensor):
            return tensor
        value = saved.get(id(tensor))
        if value is None:
            return _moved(tensor, place)
        dtype = (
            value.dtype if value.is_floating_point() or value.is_complex() or not tensor.requires_grad else tensor.dtype
        )
        if value.shape != tensor.shape or (dtype, value.device) == (tensor.dtype, tensor.device):
            return tensor
        return torch.empty_like(tensor, dtype=dtype, device=value.device)

    module._apply(change)  # type: ignore[no-untyped-call]  # RNNs refresh their flat weights there


def _moved(tensor: torch.Tensor, place: Callable[[torch.UntypedStorage, str], torch.UntypedStorage]) -> torch.Tensor:
    """Return a tensor that the state does not hold, where ``map_location`` wants it."""
    storage = tensor.untyped_storage()
    moved = place(storage, str(tensor.device))
    if moved.device == storage.device:
        return tensor
    return tensor.detach().to(moved.device)


# ------------------------------------------------------------------------------------------------- built-ins


def builtin_schema(module: nn.Module) -> Schema | None:
    """Return a Schema that builds a module of torch.nn again, or None where its arguments cannot be told."""
    cls = type(module)
    if not cls.__module__.startswith("torch.nn.modules."):
        return None
    try:
        TAGS.tag_of(cls)
    except RegistrationError:
        return None
    if cls in _CONTAINERS:
        return Schema(cls, **_CONTAINERS[cls](module))
    arguments = _arguments(module)
    if arguments is None or not _rebuilds(module, arguments):
        return None
    return Schema(cls, **arguments)


_UNKNOWN = object()

_CONTAINERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    nn.Sequential: lambda module: _sequential(module),
    nn.ModuleList: lambda module: {"modules": list(module)},
    nn.ModuleDict: lambda module: {"modules": dict(module.items())},
    nn.ParameterList: lambda module: {"values": list(module)},
    nn.ParameterDict: lambda module: {"parameters": dict(module.items())},
}


def _sequential(module: nn.Sequential) -> dict[str, Any]:
    names = list(module._modules)
    if names == [str(index) for index in range(len(names))]:
        return {"args": list(module)}
    return {"args": [OrderedDict(module._modules)]}


def _layer(module: Any) -> dict[str, Any]:
    """Return the arguments that a transformer's layers, and the whole of it, have in common."""
    activations = {nn.functional.relu: "relu", nn.functional.gelu: "gelu"}
    return {
        "d_model": module.self_attn.embed_dim,
        "nhead": module.self_attn.num_heads,
        "dim_feedforward": module.linear1.out_features,
        "dropout": module.dropout.p,
        "activation": activations.get(module.activation, module.activation),
        "layer_norm_eps": module.norm1.eps,
        "batch_first": module.self_attn.batch_first,
        "norm_first": module.norm_first,
        "bias": module.linear1.bias is not None,
    }


def _stack(module: Any, layer: str) -> dict[str, Any]:
    return {layer: module.layers[0], "num_layers": module.num_layers, "norm": module.norm}


# Built-ins whose arguments are not attributes of the same names.
_DERIVED: dict[type, Callable[[Any], dict[str, Any]]] = {
    nn.TransformerEncoderLayer: _layer,
    nn.TransformerDecoderLayer: _layer,
    nn.TransformerEncoder: lambda module: {
        **_stack(module, "encoder_layer"),
        "enable_nested_tensor": module.enable_nested_tensor,
        "mask_check": module.mask_check,
    },
    nn.TransformerDecoder: lambda module: _stack(module, "decoder_layer"),
    nn.Transformer: lambda module: {
        **_layer(module.encoder.layers[0]),
        "num_encoder_layers": module.encoder.num_layers,
        "num_decoder_layers": module.decoder.num_layers,
    },
    nn.PairwiseDistance: lambda module: {"p": module.norm, "eps": module.eps, "keepdim": module.keepdim},
    nn.AdaptiveLogSoftmaxWithLoss: lambda module: {
        "in_features": module.in_features,
        "n_classes": module.n_classes,
        "cutoffs": module.cutoffs[:-1],
        "div_value": module.div_value,
        "head_bias": module.head_bias,
    },
}

# Constructors that only say *args, **kwargs.
_RNN = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size")
_PARAMETERS: dict[type, tuple[str, ...]] = {
    nn.LSTM: _RNN,
    nn.GRU: _RNN[:-1],
    nn.RNN: (*_RNN[:-1], "nonlinearity"),
}


def _arguments(module: nn.Module) -> dict[str, Any] | None:
    """Read constructor arguments off a module's attributes of the same names; None where one is not to be found."""
    if type(module) in _DERIVED:
        try:
            return _DERIVED[type(module)](module)
        except (AttributeError, IndexError):  # somebody took it apart
            return None
    arguments: dict[str, Any] = {}
    parameters = inspect.signature(type(module)).parameters
    for name in _PARAMETERS.get(type(module), parameters):
        if name in ("device", "dtype", "args", "kwargs") or name.startswith("_"):
            continue  # the state tells type and device, and private arguments only fill in weights
        value = getattr(module, name, _UNKNOWN)
        if name == "bias" and not isinstance(value, bool):
            value = any(inner.startswith(("bias", "in_proj_bias")) for inner in _tensor_names(module))
        if value is _UNKNOWN and parameters[name].default is inspect.Parameter.empty:
            return None
        if value is not _UNKNOWN:  # else the check that follows decides whether the default was meant
            arguments[name] = value
    return arguments


def _tensor_names(module: nn.Module) -> list[str]:
    return [name for name, value in module._parameters.items() if value is not None]


def _agree(recorded: Schema, now: Schema) -> bool:
    """Whether the arguments that a module was built from, defaults included, are those that it shows now."""
    known = {name: value() if isinstance(value, Link) else value for name, value in recorded.keywords.items()}
    known = {**defaults_of(recorded), **known}
    for name, value in now.keywords.items():
        other = known.get(name, _UNKNOWN)
        if type(value) is not type(other) or isinstance(value, torch.Tensor) or value != other:
            return False
    return True


def _rebuilds(module: nn.Module, arguments: dict[str, Any]) -> bool:
    """Whether arguments build the same module: type, repr, names and shapes, and plain attributes."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has been told when the module was made
            other = type(module)(**arguments)
    except Exception:  # whatever a constructor refuses, these are not its arguments
        return False
    return repr(other) == repr(module) and _outline(other) == _outline(module)


def _outline(module: nn.Module) -> Any:
    """What two modules must share to be alike but for their numbers."""
    tensors = {
        name: None if nn.parameter.is_lazy(value) else tuple(value.shape)
        for name, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    plain = {
        f"{prefix}.{name}": value
        for prefix, inner in module.named_modules()
        for name, value in vars(inner).items()
        if isinstance(value, (bool, int, float, str, tuple, type(None))) and name != "training"
    }
    kinds = [(prefix, type(inner)) for prefix, inner in module.named_modules()]
    return tensors, plain, kinds
