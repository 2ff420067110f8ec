"""All that an object is, as lines of text: two objects with the same lines are the same, whatever they are made of.

This is not the package's own idea of an object: modules are gone through by their ``__dict__``, anything else by what
pickle would take of it.
"""

from __future__ import annotations

import copyreg
import hashlib
import types
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy
import torch
import torch.fx
from torch import nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, torch.Size, range)
# What this package, torch and transformers note on modules for themselves
_NOTES = frozenset(
    # The last is a hash of texts, which is another in each process
    (
        *("_schema", "_created_with_tag", "_is_hf_initialized", "_is_accelerate_prepared", "_is_torch_compile"),
        "_original_object_hash",
    )
)
_OF_TRACING = frozenset(("._graph", "._tracer_cls"))  # what code was made of
_FLAT = frozenset(("_flat_weights", "_flat_weight_refs"))  # weak references among them


def facts(obj: Any) -> list[str]:
    """Return the lines that describe an object and all that it refers to: values, types, order, and what is one.

    Names of attributes are sorted, and hooks are left out: these two are not promised. Neither is which tuples of
    plain values are one, for Python itself makes one of equal constants.
    """
    lines: list[str] = []
    seen: dict[int, str] = {}
    alive: list[Any] = []  # ids are only unique while their objects live
    waiting: list[tuple[str, Any]] = [("", obj)]
    while waiting:
        path, value = waiting.pop()
        kind = type(value)
        if kind.__name__ == "AcceleratedOptimizer":  # a save looks through it, as through DistributedDataParallel
            value = value.optimizer
            kind = type(value)
        if kind in _PLAIN:
            lines.append(f"{path} = {value!r}")
            continue
        if id(value) in seen and not _is_constant(value):
            lines.append(f"{path} is {seen[id(value)]}")
            continue
        seen[id(value)] = path or "the root"
        alive.append(value)
        text, inside = _taken_apart(value)
        lines.append(f"{path}: {kind.__module__}.{kind.__qualname__} {text}".rstrip())
        waiting.extend((f"{path}{name}", item) for name, item in reversed([*inside]))
    return lines


def _is_constant(value: Any) -> bool:
    return type(value) in _PLAIN or (isinstance(value, tuple) and all(map(_is_constant, value)))


def _taken_apart(value: Any) -> tuple[str, Iterable[tuple[str, Any]]]:
    """Return what there is to say of an object itself, and what it refers to, with names."""
    kind = type(value)
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, numpy.ndarray):
        if value.dtype.hasobject:
            return f"{value.dtype} {value.shape}", [(f"[{i}]", item) for i, item in enumerate(value.ravel().tolist())]
        return f"{value.dtype} {value.shape} {_hash(value.tobytes())}", ()
    if kind.__module__ == "typing":  # Python keeps one of equal ones, as long as it likes
        return repr(value), ()
    if isinstance(value, numpy.random.RandomState):  # what it was seeded with gives it no more numbers
        return "", [("", value.get_state(legacy=False))]
    if isinstance(value, numpy.generic):
        return f"{value.dtype} {_hash(value.tobytes())}", ()
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}", ()
    if isinstance(value, types.ModuleType):
        return value.__name__, ()
    if isinstance(value, types.FunctionType):
        return f"{value.__module__}.{value.__qualname__}", ()
    if isinstance(value, types.MethodType):
        return "", [(".__func__", value.__func__), (".__self__", value.__self__)]
    if isinstance(value, torch.fx.GraphModule):
        return f"{value.code!r}", [(name, item) for name, item in _of_module(value) if name not in _OF_TRACING]
    if isinstance(value, nn.Module):
        return "", _of_module(value)
    if kind in (list, tuple):
        return f"{len(value)}", [(f"[{index}]", item) for index, item in enumerate(value)]
    if kind in (dict, OrderedDict):
        return f"{len(value)}", _of_mapping(value.items())
    if kind in (set, frozenset):
        return f"{sorted(map(repr, value))}", ()
    return _reduced(value)


def _tensor(value: torch.Tensor) -> tuple[str, Iterable[tuple[str, Any]]]:
    marks = [(f".{name}", mark) for name, mark in sorted(value.__dict__.items()) if name not in _NOTES]
    about = f"{value.dtype} {tuple(value.shape)} {value.device} requires_grad={value.requires_grad}"
    if hasattr(value, "__tensor_flatten__"):
        names, rest = value.__tensor_flatten__()
        return about, [*((f".{name}", getattr(value, name)) for name in names), (".rest", rest)]
    if value.layout is torch.sparse_coo:
        return about, [(".indices", value._indices()), (".values", value._values())]
    if torch.nn.parameter.is_lazy(value):
        return "lazy", marks
    with torch._C.DisableTorchFunctionSubclass():
        plain = torch.Tensor.detach(value).as_subclass(torch.Tensor).contiguous().resolve_conj().resolve_neg()
        data = plain.flatten().view(torch.uint8) if plain.numel() else plain
        return f"{about} {_hash(data.numpy().tobytes())}", marks


def _of_module(module: nn.Module) -> Iterable[tuple[str, Any]]:
    own = module.__dict__
    yield ".training", own["training"]
    for table in ("_modules", "_parameters", "_buffers"):
        yield f".{table}", list(own[table])
        yield from ((f".{name}", item) for name, item in own[table].items())
    yield "._non_persistent_buffers_set", sorted(own["_non_persistent_buffers_set"])
    known = vars(nn.Module()).keys() | _NOTES | (_FLAT if isinstance(module, nn.RNNBase) else set())
    state = module.__getstate__() if type(module).__getstate__ is not object.__getstate__ else None
    if isinstance(state, dict):  # what its class says that is left out of copies
        known |= own.keys() - state.keys()
    yield from ((f".{name}", own[name]) for name in sorted(own.keys() - known))


def _of_mapping(pairs: Iterable[tuple[Any, Any]]) -> Iterable[tuple[str, Any]]:
    for number, (key, value) in enumerate(pairs):
        if type(key) in _PLAIN:
            yield f"[{key!r}]", value
        else:
            yield f".key{number}", key
            yield f".value{number}", value


def _reduced(value: Any) -> tuple[str, Iterable[tuple[str, Any]]]:
    """Take an object apart as pickle does; where it cannot, by its ``__dict__``."""
    own = getattr(value, "__dict__", {})
    by_name = [(f".{name}", own[name]) for name in sorted(map(str, own)) if name not in _NOTES and name in own]
    try:
        reduced = copyreg.dispatch_table[type(value)](value) if type(value) in copyreg.dispatch_table else None
        reduced = reduced or value.__reduce_ex__(4)
    except Exception as error:  # it cannot be pickled: a lock, a file
        return f"({type(error).__name__})", by_name
    if isinstance(reduced, str):
        return reduced, ()
    call, arguments, state, items, pairs, *_ = *reduced, *(None,) * 5
    inside: list[tuple[str, Any]] = []
    if call is not copyreg.__newobj__ or len(arguments) > 1:
        inside += [(".made_by", call), (".made_of", arguments)]
    slots = None
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        state, slots = state
    if isinstance(state, dict) and own:  # a class may leave out caches, or make anything of the rest
        is_packed = any(isinstance(item, bytes) for item in state.values())
        state = own if is_packed else {name: own.get(name, item) for name, item in state.items()}
    for part in (state, slots):
        if isinstance(part, dict) and all(isinstance(name, str) for name in part):
            inside += [(f".{name}", part[name]) for name in sorted(part) if name not in _NOTES]
        elif part is not None:
            inside.append((".state", part))
    inside += [(f"[{index}]", item) for index, item in enumerate(items or ())]
    inside += _of_mapping(pairs or ())
    return "", inside


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
