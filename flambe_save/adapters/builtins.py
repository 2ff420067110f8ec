"""Describe torch.nn's own modules by their arguments and later changes.

Arguments are read off a module's attributes. A module is then built with them on the meta device, and its differences,
apart from the values of tensors, are written beside the arguments.
"""

from __future__ import annotations

import inspect
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from itertools import count, takewhile
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim import swa_utils

from flambe_save.adapters.parametrized import effective
from flambe_save.classes.registrable import Registrable
from flambe_save.classes.tags import TAGS
from flambe_save.describing.changes import GIVEN, Changes, changes_since
from flambe_save.describing.describe import edited, take_lost
from flambe_save.describing.known import KNOWN
from flambe_save.describing.prints import Print, print_of
from flambe_save.objects.arguments import signature_of
from flambe_save.objects.walks import everywhere, modules_in
from flambe_save.schema.edited import Edited
from flambe_save.schema.link import Link
from flambe_save.schema.schema import Schema, defaults_of, items_in


def builtin_schema(module: nn.Module) -> Schema | None:
    """Return a Schema that builds a torch.nn module again; None if its arguments are not known."""
    cls = type(module)
    if parametrize.is_parametrized(module):
        return _parametrized_schema(module)
    if cls is swa_utils.AveragedModel:
        return _averaged_schema(module)
    return _plain_schema(module, module)


def _plain_schema(module: nn.Module, owner: nn.Module) -> Schema | None:
    """Return the Schema of a module without parametrizations, which ``owner`` may have."""
    cls = type(module)
    if not (cls.__module__.startswith("torch.nn.modules.") and TAGS.is_open(cls)):  # the second: torch shows it
        return None
    arguments: dict[str, Any] | None
    made: Print | None
    if cls in _CONTAINERS:
        arguments, names = _CONTAINERS[cls](module)
        made = _print_of_container(module, names)
    else:
        arguments = _arguments(module)
        made = None if arguments is None else _print_of_built(cls, arguments)
    if arguments is None or made is None:
        return None
    return edited(owner, Schema(cls, **arguments), changes_since(module, made, is_exact=False))


_UNKNOWN = object()

# Containers: functions that return their arguments, and the names under which a constructor puts these
_CONTAINERS: dict[type, Callable[[Any], tuple[dict[str, Any], Collection[str]]]] = {
    nn.Sequential: lambda module: (_sequential(module), module._modules),
    nn.ModuleList: lambda module: _listed(module._modules, "modules"),
    nn.ModuleDict: lambda module: ({"modules": dict(module._modules)}, module._modules),
    nn.ParameterList: lambda module: ({"values": list(module)}, [*map(str, range(len(module)))]),
    nn.ParameterDict: lambda module: ({"parameters": dict(module.items())}, list(module)),
}


def _sequential(module: nn.Sequential) -> dict[str, Any]:
    names = list(module._modules)
    if names == [str(index) for index in range(len(names))]:
        return {"args": list(module._modules.values())}
    return {"args": [OrderedDict(module._modules)]}


def _listed(inside: Mapping[str, Any], argument: str) -> tuple[dict[str, Any], list[str]]:
    """Return the items named by their numbers, from 0 on, as an argument; and their names."""
    names = [name for name, _ in takewhile(lambda pair: pair[0] == str(pair[1]), zip(inside, count(), strict=False))]
    return {argument: [inside[name] for name in names]}, names


def _print_of_container(module: nn.Module, names: Collection[str]) -> Print:
    """Return the print of a container as its arguments make it, with any items."""
    cls: Any = type(module)
    made = print_of(cls())
    for table in ("modules", "parameters"):
        own = vars(module)[f"_{table}"]
        getattr(made, table).update((name, GIVEN) for name in names if name in own)
    for name in ("_size", "_keys", *(name for name in vars(module) if name in names)):
        if name in vars(module):
            made.attributes[name] = GIVEN
    return made


def _layer(module: Any) -> dict[str, Any]:
    """Return the arguments that a transformer and its layers have in common."""
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


def _copied(layer: Any) -> dict[str, Any]:
    """Return the arguments of a layer that torch's constructors copy: none of them is shared.

    Raises
    ------
    AttributeError
        If its arguments alone do not make it.
    """
    known = _arguments(layer) if type(layer) in _LAYERS else None
    if known is not None and isinstance(known["activation"], nn.Module):
        known["activation"] = activation = builtin_schema(known["activation"])
        if activation is None or any(isinstance(item, nn.Module) for item in items_in(activation)):
            known = None
    if known is None:
        raise AttributeError("its arguments alone do not make this layer")
    return known


def _stack(module: Any, layer: str) -> dict[str, Any]:
    inside = [id(inner) for _, inner in everywhere(module)]
    if len({*inside}) < len(inside):
        raise AttributeError("the layers are not copies of one")
    first = module.layers[0]
    return {layer: Schema(type(first), **_copied(first)), "num_layers": module.num_layers, "norm": module.norm}


_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)

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
        **_copied(module.encoder.layers[0]),
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
    """Read constructor arguments off attributes of the same names; None where one is missing."""
    if type(module) in _DERIVED:
        try:
            return _DERIVED[type(module)](module)
        except (AttributeError, LookupError, TypeError):  # parts of it were removed or replaced
            return None
    arguments: dict[str, Any] = {}
    cls: Any = type(module)
    parameters = signature_of(cls).parameters
    for name in _PARAMETERS.get(type(module), parameters):
        if name in ("device", "dtype", "args", "kwargs") or name.startswith("_"):
            continue  # the state has type and device, and private arguments only fill in weights
        value = getattr(module, name, _UNKNOWN)
        if name == "bias" and not isinstance(value, bool):
            value = any(inner.startswith(("bias", "in_proj_bias")) for inner in _tensor_names(module))
        if value is _UNKNOWN and parameters[name].default is inspect.Parameter.empty:
            return None
        if value is not _UNKNOWN:  # else the comparison with what is built shows whether it was the default
            arguments[name] = value
    if cls is nn.MultiheadAttention:  # only its tensors show two of its arguments
        arguments["bias"] = module.in_proj_bias is not None
        if module.bias_k is not None:
            arguments["add_bias_kv"] = True
    return arguments


def _tensor_names(module: nn.Module) -> list[str]:
    return [name for name, value in module._parameters.items() if value is not None]


def agree(recorded: Schema, now: Schema) -> bool:
    """Whether a module's recorded arguments, with defaults, equal its present ones."""
    known = {name: value() if isinstance(value, Link) else value for name, value in recorded.keywords.items()}
    known = {**defaults_of(recorded), **known}
    for name, value in now.keywords.items():
        other = known.get(name, _UNKNOWN)
        if type(value) is not type(other) or isinstance(value, torch.Tensor):
            return False
        try:
            if value != other:
                return False
        except RuntimeError:  # of containers with tensors
            return False
    return True


def _print_of_built(cls: type, arguments: dict[str, Any]) -> Print | None:
    """Return the print of a module that arguments build on the meta device; None if they fail."""
    # Most layers of a model are built with the same few numbers, of which the repr is enough
    key = (cls, repr(arguments)) if all(map(_is_of_numbers, arguments.values())) else None
    if key is not None and key in _built:
        return _built[key]
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the constructor warned when the module was made
            made = print_of(_build(Schema(cls, **arguments)))
    except Exception:  # the constructor refuses these arguments
        return None
    if key is not None and len(_built) < _MOST_BUILT:
        _built[key] = made
    return made


def _build(value: Any) -> Any:
    """Return an argument's value; for a Schema, of a class of torch's, the built module."""
    if type(value) is not Schema:
        return value
    return value.component_subclass(**{name: _build(item) for name, item in value.keywords.items()})


def _is_of_numbers(value: Any) -> bool:
    """Whether a value is a number or text, or a tuple of these, as the shape of a LayerNorm is."""
    return type(value) in _NUMBERS or (type(value) is tuple and all(type(item) in _NUMBERS for item in value))


_NUMBERS = (bool, int, float, str, type(None))
_MOST_BUILT = 1000
_built: dict[tuple[type, str], Print] = {}  # of classes of torch.nn alone


# ------------------------------------------------------------------------------------------- parametrizations

# Options of torch's own parametrizations, by their classes
_OPTIONS: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "_WeightNorm": ("weight_norm", lambda part: {"dim": part.dim}),
    "_SpectralNorm": (
        "spectral_norm",
        lambda part: {"n_power_iterations": part.n_power_iterations, "eps": part.eps, "dim": part.dim},
    ),
    "_Orthogonal": (
        "orthogonal",
        lambda part: {"orthogonal_map": part.orthogonal_map.name, "use_trivialization": hasattr(part, "base")},
    ),
}


class Parametrized(Registrable, tag_override="parametrized"):
    """A module with computed tensors in a config.

    Written as ``!parametrized {module: ..., weight: [...]}``.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place and returned.
    **parts : list
        For each tensor, its parametrizations: modules, or mappings of torch's own, ``{kind: weight_norm, dim: 0}``.
    """

    def __new__(cls, module: Any, /, **parts: Any) -> Any:
        """Return the module."""
        for name, several in parts.items():
            for part in several:
                if isinstance(part, nn.Module):
                    parametrize.register_parametrization(module, name, part, unsafe=True)
                    module.parametrizations[name].unsafe = False  # True only keeps torch from trying it now
                    continue
                kind, options = part["kind"], {key: value for key, value in part.items() if key != "kind"}
                if kind not in [known for known, _ in _OPTIONS.values()]:
                    raise ValueError(f"torch has no parametrization {kind!r}")
                getattr(parametrizations, kind)(module, name, **options)
        return module


def _parametrized_schema(module: Any) -> Schema | None:
    """Return the Schema of the plain module, if it is known, with its parametrizations."""
    cls: Any = parametrize.type_before_parametrizations(module)
    plain = cls.__new__(cls)
    vars(plain).update(vars(module))
    plain._load_state_dict_pre_hooks = OrderedDict()  # one of them is the parametrization's
    plain._modules = {name: child for name, child in module._modules.items() if name != "parametrizations"}
    plain._parameters = {
        **module._parameters,
        **{key: nn.Parameter(effective(module)[key]) for key in module.parametrizations},
    }
    schema = _plain_schema(plain, module)
    if schema is None:
        return None
    lost = take_lost(schema)
    if schema.component_subclass is Edited:
        own = schema.keywords["changes"].get("", {})
        own.pop("order", None)  # parametrizations take tensors out of the order
        if not own:
            schema.keywords["changes"].pop("", None)
        if not schema.keywords["changes"]:
            schema = schema.keywords["object"]
    parts = {name: [_described(part) for part in several] for name, several in module.parametrizations.items()}
    changes = _tied_originals(module)
    order = [*module._modules]
    if order[-1] != "parametrizations":
        changes[""] = {"order": {"modules": order}}
    return edited(module, Schema(Parametrized, module=schema, **parts), Changes(changes, lost, {}))


def _tied_originals(module: Any) -> dict[str, dict[str, Any]]:
    """Return originals of parametrizations that others refer to, as changes to a call's result."""
    tied = KNOWN.get().tied
    found = {
        name: {key: value for key, value in several._parameters.items() if id(value) in tied}
        for name, several in module.parametrizations.items()
    }
    return {f"parametrizations.{name}": {"parameters": tensors} for name, tensors in found.items() if tensors}


def _described(part: nn.Module) -> Any:
    if type(part).__module__ != parametrizations.__name__:
        return part
    kind, options = _OPTIONS[type(part).__name__]
    return {"kind": kind, **options(part)}


# ------------------------------------------------------------------------------------------------- averages


class Averaging(Registrable, tag_override="averaging"):
    """One of torch's functions that average weights, in a config.

    Written as ``!averaging {name: ema_multi_avg_fn, decay: 0.99}``.

    Parameters
    ----------
    name : {"ema_avg_fn", "ema_multi_avg_fn", "swa_avg_fn", "swa_multi_avg_fn"}
    decay : float, optional
    """

    def __new__(cls, name: str, decay: float | None = None) -> Any:
        """Return the function."""
        if name not in ("ema_avg_fn", "ema_multi_avg_fn", "swa_avg_fn", "swa_multi_avg_fn"):
            raise ValueError(f"no averaging {name!r}")
        make = getattr(swa_utils, f"get_{name}")
        return make() if decay is None else make(decay)


def _averaged_schema(module: Any) -> Schema:
    functions = {name: _averaging(getattr(module, name)) for name in ("avg_fn", "multi_avg_fn")}
    schema = Schema(type(module), model=module.module, **functions, use_buffers=module.use_buffers)
    # Its constructor makes a copy; where other objects share the model inside, the shared one replaces the copy
    is_shared = any(id(inner) in KNOWN.get().shared for _, inner in modules_in(module.module))
    tables = {"": {"modules": {"module": module.module}}} if is_shared else {}
    return edited(module, schema, Changes(tables, [], {}))


def _averaging(function: Any) -> Any:
    """Return the Schema of a function of torch's that averages weights; any other itself."""
    made = inspect.unwrap(function) if isinstance(function, types.FunctionType) else None
    if made is None or made.__module__ != swa_utils.__name__:
        return function
    maker = made.__qualname__.partition(".<locals>")[0]
    kept = dict(zip(made.__code__.co_freevars, (cell.cell_contents for cell in made.__closure__ or ()), strict=True))
    return Schema(Averaging, name=maker.removeprefix("get_"), **({"decay": kept["decay"]} if "decay" in kept else {}))
