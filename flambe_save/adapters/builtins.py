"""How torch.nn's own modules were built.

A built-in module's arguments are read off its attributes and then checked against what they build on the meta device:
what differs, but for the numbers in it, is written down beside them.
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

__all__ = ["Averaging", "Parametrized", "agree", "builtin_schema"]


def builtin_schema(module: nn.Module) -> Schema | None:
    """Return a Schema that builds a module of torch.nn again, or None where its arguments cannot be told."""
    cls = type(module)
    if parametrize.is_parametrized(module):
        return _parametrized_schema(module)
    if cls is swa_utils.AveragedModel:
        return _averaged_schema(module)
    return _plain_schema(module, module)


def _plain_schema(module: nn.Module, owner: nn.Module) -> Schema | None:
    """Return the Schema of a module that is as its class makes it, and whose attributes are those of another."""
    cls = type(module)
    if not cls.__module__.startswith("torch.nn.modules."):
        return None
    if not TAGS.is_open(cls):  # one that torch does not show
        return None
    if cls in _CONTAINERS:
        arguments, names = _CONTAINERS[cls](module)
        made = _print_of_container(module, names)
    else:
        known = _arguments(module)
        if known is None:
            return None
        arguments, built = known, _print_of_built(cls, known)
        if built is None:
            return None
        made = built
    return edited(owner, Schema(cls, **arguments), changes_since(module, made, is_exact=False))


_UNKNOWN = object()

# Containers: their arguments, and the names inside them of what these put there
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
    """Return what is called by its number, from 0 on, as an argument; other names are somebody's."""
    names = [name for name, _ in takewhile(lambda pair: pair[0] == str(pair[1]), zip(inside, count(), strict=False))]
    return {argument: [inside[name] for name in names]}, names


def _print_of_container(module: nn.Module, names: Collection[str]) -> Print:
    """Return the print of a container as its arguments make it: what is in it is one of these, whatever it is."""
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


def _copied(layer: Any) -> dict[str, Any]:
    """Return the arguments of one of torch's layers of which a constructor makes copies: nothing in them is shared."""
    known = _arguments(layer) if type(layer) in _LAYERS else None
    if known is not None and isinstance(known["activation"], nn.Module):
        known["activation"] = told = builtin_schema(known["activation"])
        if told is None or any(isinstance(item, nn.Module) for item in items_in(told)):
            known = None
    if known is None:
        raise AttributeError("no layer that is made by its arguments alone")
    return known


def _stack(module: Any, layer: str) -> dict[str, Any]:
    inside = [id(inner) for _, inner in everywhere(module)]
    if len({*inside}) < len(inside):
        raise AttributeError("the layers are no copies of one")
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
    """Read constructor arguments off a module's attributes of the same names; None where one is not to be found."""
    if type(module) in _DERIVED:
        try:
            return _DERIVED[type(module)](module)
        except (AttributeError, LookupError, TypeError):  # somebody took it apart
            return None
    arguments: dict[str, Any] = {}
    cls: Any = type(module)
    parameters = signature_of(cls).parameters
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
    if cls is nn.MultiheadAttention:  # two of its arguments are told by its tensors alone
        arguments["bias"] = module.in_proj_bias is not None
        if module.bias_k is not None:
            arguments["add_bias_kv"] = True
    return arguments


def _tensor_names(module: nn.Module) -> list[str]:
    return [name for name, value in module._parameters.items() if value is not None]


def agree(recorded: Schema, now: Schema) -> bool:
    """Whether the arguments that a module was built from, defaults included, are those that it shows now."""
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
    """Return the print of what arguments build on the meta device; None where they build nothing."""
    # Most layers of a model are built with the same few numbers; what equal arguments mean is told by their repr
    key = (cls, repr(arguments)) if all(type(value) in _NUMBERS for value in arguments.values()) else None
    if key is not None and key in _built:
        return _built[key]
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has been told when the module was made
            made = print_of(_build(Schema(cls, **arguments)))
    except Exception:  # whatever a constructor refuses, these are not its arguments
        return None
    if key is not None and len(_built) < _MOST_BUILT:
        _built[key] = made
    return made


def _build(value: Any) -> Any:
    """Return what an argument stands for: a constructor of torch's is called."""
    if type(value) is not Schema:
        return value
    return value.component_subclass(**{name: _build(item) for name, item in value.keywords.items()})


_NUMBERS = (bool, int, float, str, type(None))
_MOST_BUILT = 1000
_built: dict[tuple[type, str], Print] = {}  # of classes of torch.nn alone


# ------------------------------------------------------------------------------------------- parametrizations

# How torch's own parametrizations tell what they were made with
_TOLD: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
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
    """In a config, a module some of whose tensors are computed: ``!parametrized {module: ..., weight: [...]}``.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place, and what is returned.
    **parts : list
        For each tensor, what computes it: modules, or mappings of torch's own, ``{kind: weight_norm, dim: 0}``.
    """

    def __new__(cls, module: Any, /, **parts: Any) -> Any:
        """Return the module."""
        for name, several in parts.items():
            for part in several:
                if isinstance(part, nn.Module):
                    parametrize.register_parametrization(module, name, part, unsafe=True)
                    module.parametrizations[name].unsafe = False  # it was only not to be tried now
                    continue
                kind, options = part["kind"], {key: value for key, value in part.items() if key != "kind"}
                if kind not in [told for told, _ in _TOLD.values()]:
                    raise ValueError(f"torch has no parametrization {kind!r}")
                getattr(parametrizations, kind)(module, name, **options)
        return module


def _parametrized_schema(module: Any) -> Schema | None:
    """Return the Schema of the plain module with what computes its tensors, where the plain one is known."""
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
    parts = {name: [_told(part) for part in several] for name, several in module.parametrizations.items()}
    changes = _tied_originals(module)
    order = [*module._modules]
    if order[-1] != "parametrizations":
        changes[""] = {"order": {"modules": order}}
    return edited(module, Schema(Parametrized, module=schema, **parts), Changes(changes, lost, {}))


def _tied_originals(module: Any) -> dict[str, dict[str, Any]]:
    """Return what parametrizations compute from that something else refers to, as changes of what a call makes."""
    tied = KNOWN.get().tied
    found = {
        name: {key: value for key, value in several._parameters.items() if id(value) in tied}
        for name, several in module.parametrizations.items()
    }
    return {f"parametrizations.{name}": {"parameters": tensors} for name, tensors in found.items() if tensors}


def _told(part: nn.Module) -> Any:
    if type(part).__module__ != parametrizations.__name__:
        return part
    kind, tell = _TOLD[type(part).__name__]
    return {"kind": kind, **tell(part)}


# ------------------------------------------------------------------------------------------------- averages


class Averaging(Registrable, tag_override="averaging"):
    """In a config, one of torch's functions that average weights: ``!averaging {name: ema_multi_avg_fn, decay: 0.99}``.

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
    # Its constructor makes a copy: what others have of the model inside is put in the copy's place
    is_shared = any(id(inner) in KNOWN.get().shared for _, inner in modules_in(module.module))
    tables = {"": {"modules": {"module": module.module}}} if is_shared else {}
    return edited(module, schema, Changes(tables, [], {}))


def _averaging(function: Any) -> Any:
    """Return the Schema of a function that torch made to average weights; any other as it is."""
    made = inspect.unwrap(function) if isinstance(function, types.FunctionType) else None
    if made is None or made.__module__ != swa_utils.__name__:
        return function
    maker = made.__qualname__.partition(".<locals>")[0]
    kept = dict(zip(made.__code__.co_freevars, (cell.cell_contents for cell in made.__closure__ or ()), strict=True))
    return Schema(Averaging, name=maker.removeprefix("get_"), **({"decay": kept["decay"]} if "decay" in kept else {}))
