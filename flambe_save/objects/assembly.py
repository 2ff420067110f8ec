"""Modules, optimizers and plain objects as their parts: taken apart and assembled again.

In a config, ``!pkg.Net.parts`` and a mapping of tables: ``modules``, ``parameters``, ``buffers``, ``attributes``. A
load makes the object without its class's constructor, ``__setattr__``, ``__setstate__`` or properties. structural.py
does the same for classes whose objects are their fields; optimizers.py has the tables of optimizers.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from flambe_save.errors import quote
from flambe_save.objects.optimizers import (
    OPTIMIZER_ATTRIBUTES,
    OPTIMIZER_TABLES,
    TRAINING,
    fault,
    fill_optimizer,
    is_own_of_training,
    track_steps,
)
from flambe_save.objects.refilled import left_out, refill
from flambe_save.objects.special import OF_PICKLES, is_method, special_names
from flambe_save.objects.structural import is_sum_of_parts
from flambe_save.support.notes import NOTES, OF_THE_COMPILER
from flambe_save.support.static import has_static, is_special
from flambe_save.support.undoing import Setting

PARTS = "parts"  # the end of the tag of an object that is written as its parts
COMPLETE = "complete"  # of an object with a load_state_dict: whether its attributes are all of its state

_EMPTY = vars(nn.Module())
_HOOKS = tuple(name for name in _EMPTY if name.endswith("_hooks"))
_MADE = [(name, type(value)) for name, value in _EMPTY.items() if value is not None and type(value) is not bool]
# Attributes that nn.Module, this package and frameworks keep on every module
TABLES = frozenset(_EMPTY) | {"_schema", "_created_with_tag"} | NOTES

# Objects of these packages hold code
_CODE = (
    "torch.jit.",
    "torch.fx.",
    "torch.package.",
    "torch.export.",
    "torch._dynamo.",
    "torch._inductor.",
    "torch.ao.",
)
# These are made by calls alone: other objects refer to them, or they to others
_BY_CALL = ("torch.optim.", "torch.nn.parallel.", "torch.distributed.")
_REGISTERED = "_registered_attributes"  # the attributes that a component's state holds
_FLAT = frozenset(("_flat_weights", "_flat_weight_refs"))  # views of a recurrent layer's own parameters


def attributes_of(obj: Any) -> dict[str, Any]:
    """Return the attributes of an object outside torch's tables and its state; shared with it."""
    own: dict[str, Any] = obj.__dict__
    cls: Any = type(obj)
    names, chosen = _usual.get(cls, (None, ()))
    if [*own] == names:  # nearly all objects are like the last one of their class
        return {name: own[name] for name in chosen}
    found = {name: value for name, value in own.items() if name not in TABLES and not name.startswith(OF_THE_COMPILER)}
    if "_is_accelerate_prepared" in own:
        _take_off(obj, found)
    if issubclass(cls, torch.optim.Optimizer):
        return {name: value for name, value in found.items() if not is_own_of_training(obj, name)}
    for name in (*own.get(_REGISTERED, ()), *_made_again(cls)):
        found.pop(name, None)
    if _REGISTERED not in own and "_is_accelerate_prepared" not in own:  # then the names alone decide
        _usual[cls] = [*own], [*found]
    return found


# By class, the names in the __dict__ of an object, and those that are attributes
_usual: dict[type, tuple[list[str], list[str]]] = {}


@functools.cache
def _made_again(cls: Any) -> frozenset[str]:
    """Return the names of attributes that a constructor, or a load, makes from others."""
    return left_out(cls) | (_FLAT if issubclass(cls, nn.RNNBase) else frozenset())


def empty_tables() -> dict[str, Any]:
    """Return the attributes that ``nn.Module.__init__`` sets, each new."""
    tables = _EMPTY.copy()
    for name, make in _MADE:
        tables[name] = make()
    return tables


def _take_off(obj: Any, attributes: dict[str, Any]) -> None:
    """Remove the attributes by which accelerate runs ``forward`` in another precision."""
    original = getattr(attributes.get("_original_forward"), "__func__", None)
    if original is not None and original is getattr(type(obj), "forward", None):
        del attributes["_original_forward"]
        attributes.pop("forward", None)


_WEIGHT_HOOKS = frozenset(
    (
        "torch.nn.utils.prune.BasePruningMethod",
        "torch.nn.utils.weight_norm.WeightNorm",
        "torch.nn.utils.spectral_norm.SpectralNorm",
    )
)


class _Plain:
    """The simplest class: larger objects keep something outside of their ``__dict__``."""


@functools.cache
def can_be_assembled(cls: Any) -> bool:
    """Whether objects of a class are their ``__dict__`` alone, and so can be written as parts."""
    bases = [base for base in cls.__mro__ if base not in (object, nn.Module)]
    if is_sum_of_parts(cls) or issubclass(cls, (type, torch.Tensor)) or f"{cls.__module__}.".startswith("flambe_save."):
        return False
    if cls.__basicsize__ != _Plain.__basicsize__ or cls.__itemsize__ or not cls.__dictoffset__:
        return False
    if any(name in vars(base) for base in bases for name in OF_PICKLES) or "__dict__" in special_names(cls):
        return False
    if any(f"{base.__module__}.".startswith(_CODE) for base in bases):
        return False
    if not issubclass(cls, TRAINING) and any(f"{base.__module__}.".startswith(_BY_CALL) for base in bases):
        return False
    return issubclass(cls, nn.Module) or cls.__module__.partition(".")[0] not in sys.stdlib_module_names


def fills_itself(cls: Any) -> bool:
    """Whether objects of a class take a state by their own ``load_state_dict``."""
    return not issubclass(cls, (nn.Module, torch.Tensor, *TRAINING)) and has_static(cls, "load_state_dict")


def has_parts(cls: Any) -> bool:
    """Whether a config can write objects of a class as parts, as it can tensors."""
    return can_be_assembled(cls) or issubclass(cls, torch.Tensor)


def hooks_in(module: Any) -> Iterator[tuple[str, Mapping[int, Any]]]:
    """Yield the hooks on a module and its tensors, by table: ``weight._backward_hooks``."""
    own = module.__dict__
    for name in filter(own.get, _HOOKS):
        yield name, own[name]
    for table in ("_parameters", "_buffers"):
        for name, tensor in own[table].items():
            if tensor is None:
                continue
            if tensor._backward_hooks:
                yield f"{name}._backward_hooks", tensor._backward_hooks
            if tensor._post_accumulate_grad_hooks:
                yield f"{name}._post_accumulate_grad_hooks", tensor._post_accumulate_grad_hooks


def is_set_by_torch(hook: Any) -> bool:
    """Whether a hook is torch's own: torch sets it again where needed, or left it behind."""
    function = getattr(hook, "hook", hook)
    return (getattr(function, "__module__", None) or "").startswith("torch.")


def computes_weights(hook: Any) -> bool:
    """Whether a hook is one of torch's that compute a weight from its parts: those are data."""
    cls: Any = type(hook)
    return is_class_of_weight_hooks(cls)


@functools.cache
def is_class_of_weight_hooks(cls: Any) -> bool:
    """Whether a class is one of torch's hooks that compute a weight from its parts."""
    kinds = {f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__}
    return f"{cls.__module__}.{cls.__qualname__}".startswith("torch.nn.utils.") and bool(kinds & _WEIGHT_HOOKS)


@functools.cache
def assembler_of(cls: type) -> Callable[..., Any]:
    """Return :func:`assemble` of one class."""
    return functools.partial(assemble, cls)


_noted: ContextVar[tuple[dict[int, Any], set[int]] | None] = ContextVar("assembled", default=None)


def noting(made: dict[int, Any], complete: set[int]) -> Setting[tuple[dict[int, Any], set[int]] | None]:
    """Inside the ``with``, note the objects that are assembled, by id: they are filled already.

    Of objects for which :func:`fills_itself` is true, only the ones in ``complete`` are.
    """
    return Setting(_noted, (made, complete))


def note_assembled(made: Any, *, is_complete: bool = False) -> None:
    """Note an object that is filled from the state already."""
    noted = _noted.get()
    if noted is not None:
        noted[0][id(made)] = made
        if is_complete:
            noted[1].add(id(made))


def is_assembled(obj: Any) -> bool:
    """Whether the load that is building has assembled an object."""
    noted = _noted.get()
    return noted is not None and id(obj) in noted[0]


def assemble(cls: type, /, **tables: Any) -> Any:
    """Make an object of its parts; no code of its class is run.

    Parameters
    ----------
    cls : type
    **tables : object
        Of a module ``modules``, ``parameters``, ``buffers`` (mappings of names, with None where there is none),
        ``not_persistent`` (names of buffers) and ``hooks`` (torch's pruning methods). Of a tensor ``data`` and
        ``requires_grad``. Of an optimizer those of :func:`fill_optimizer`. Of any object ``attributes``;
        with ``complete``, true, these are all of one that could take a state by its own code.
        ``arguments``, which tell how it was once built, are not used.

    Raises
    ------
    CompilationError
        If the tables are not those of the class, or hold what cannot be there.
    """
    if issubclass(cls, torch.Tensor):
        return _tensor(cls, **tables)
    known = {"attributes", "arguments"}
    if issubclass(cls, nn.Module):
        known |= {"modules", "parameters", "buffers", "not_persistent", "hooks"}
    is_optimizer = issubclass(cls, torch.optim.Optimizer)
    if is_optimizer:
        known |= OPTIMIZER_TABLES
    if fills_itself(cls):
        known |= {COMPLETE}
    _named(cls, "arguments", tables.get("arguments"))
    unknown = sorted(tables.keys() - known)
    if unknown:
        raise fault(cls, f"has no table {quote(unknown[0])}", f"Its tables are {', '.join(sorted(known))}.")
    is_complete = tables.get(COMPLETE, False)
    if type(is_complete) is not bool:
        raise fault(cls, f"is {COMPLETE}, or it is not", "Write true or false.")
    made: Any = object.__new__(cls)
    note_assembled(made, is_complete=is_complete)
    if issubclass(cls, nn.Module):
        made.__dict__.update(empty_tables())
        for table in _KINDS:
            put_in_table(made, table, tables.get(table))
        set_not_persistent(made, tables.get("not_persistent"))
        put_hooks(made, tables.get("hooks"))
    if is_optimizer:
        fill_optimizer(made, **{name: tables[name] for name in tables.keys() & OPTIMIZER_TABLES})
    put_attributes(made, tables.get("attributes"))
    refill(made)
    if issubclass(cls, torch.optim.lr_scheduler.LRScheduler):
        _check_scheduler(made)
    if isinstance(made, nn.RNNBase):
        nn.RNNBase._init_flat_weights(made)
    return made


def _check_scheduler(made: Any) -> None:
    """Check the optimizer of a scheduler, and track its steps as the constructor does."""
    optimizer = made.__dict__.get("optimizer")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise fault(type(made), f"drives no {type(optimizer).__qualname__}")
    if optimizer is not None and "base_lrs" in made.__dict__:  # torch sets these in one constructor
        track_steps(optimizer)


class Awaited:
    """A placeholder for a module that has this one inside, put in its place when all is built.

    Until then walks over modules find nothing in it.
    """

    _modules: Mapping[str, Any] = MappingProxyType({})
    _parameters = _buffers = _modules


_KINDS: dict[str, Any] = {"modules": nn.Module, "parameters": nn.Parameter, "buffers": torch.Tensor}


def may_be_called(name: str, module: Any, table: str) -> bool:
    """Whether a module's table may have an entry of a name; not ``__len__`` or the like.

    torch's containers of modules take any, as their constructors do.
    """
    is_container = table == "modules" and type(module).__module__ == nn.ModuleDict.__module__
    return bool(name) and (is_container or not is_special(name))


def put_in_table(module: Any, table: str, values: Any) -> None:
    """Put entries into a module's table; they replace those of the same names.

    Raises
    ------
    CompilationError
        If one is of another kind, or has a name that cannot be there.
    """
    kind = _KINDS[table]
    own: dict[str, Any] = module.__dict__[f"_{table}"]
    others = [module.__dict__[f"_{name}"] for name in _KINDS if name != table]
    for name, value in _named(type(module), table, values).items():
        if not may_be_called(name, module, table):
            raise fault(type(module), f"can have no {quote(name)} among its {table}", "Take it out of the config.")
        if any(name in other for other in others):
            raise fault(type(module), f"has {quote(name)} in two tables", "Take one out of the config.")
        is_awaited = isinstance(value, Awaited) and table == "modules"
        if not (value is None or is_awaited or isinstance(value, kind)):
            what = f"has under {quote(name)} of its {table} a {type(value).__qualname__}"
            raise fault(type(module), what, f"It takes a {kind.__name__}, or null.")
        own[name] = value


def set_not_persistent(module: Any, names: Any) -> None:
    """Set the names of the buffers that a module's ``state_dict`` leaves out."""
    names = [] if names is None else names
    buffers = module.__dict__["_buffers"]
    if type(names) is not list or not all(type(name) is str and name in buffers for name in names):
        raise fault(type(module), "has no buffers of the names that are not persistent", "Name buffers of it.")
    module.__dict__["_non_persistent_buffers_set"] = set(names)


def put_hooks(module: Any, hooks: Any) -> None:
    """Replace a module's hooks of torch's that compute weights.

    Raises
    ------
    CompilationError
        If one is another hook.
    """
    own = module.__dict__["_forward_pre_hooks"]
    for number in [number for number, hook in own.items() if computes_weights(hook)]:
        del own[number]
    for number, hook in enumerate(hooks if type(hooks) is list else () if hooks is None else (hooks,)):
        if not computes_weights(hook):
            raise fault(type(module), f"has a hook that is a {type(hook).__qualname__}", "Take it out of the config.")
        own[-1 - number] = hook  # torch numbers hooks that are registered from 0


def put_attributes(obj: Any, values: Any) -> None:
    """Set attributes of an object; no setter of its class is run.

    Raises
    ------
    CompilationError
        If a name is one that Python or torch looks up, or a method of the class.
    """
    own = obj.__dict__
    for name, value in _named(type(obj), "attributes", values).items():
        is_optimizer = issubclass(type(obj), torch.optim.Optimizer)
        is_taken = name in TABLES or (is_optimizer and name in OPTIMIZER_ATTRIBUTES)
        if is_special(name) or is_taken:
            raise fault(type(obj), f"can have no attribute {quote(name)}", "Take it out of the config.")
        if callable(value) and is_method(type(obj), name):
            raise fault(type(obj), f"has a method {quote(name)}, and no attribute", "Take it out of the config.")
        if name == _REGISTERED and not _are_names(value):
            raise fault(type(obj), "has registered attributes that are not names")
        own[name] = value


def _are_names(value: Any) -> bool:
    is_set = type(value) is set
    return is_set and all(type(name) is str and not name.startswith("__") and name not in TABLES for name in value)


def _tensor(
    cls: type[torch.Tensor], /, data: Any = None, requires_grad: Any = False, attributes: Any = None, **others: Any
) -> Any:
    if others or not isinstance(data, torch.Tensor) or type(requires_grad) is not bool:
        raise fault(cls, "is made of data, a tensor, requires_grad and attributes")
    if requires_grad and not (data.is_floating_point() or data.is_complex()):
        raise fault(cls, f"of type {data.dtype} requires no gradient")
    with torch._C.DisableTorchFunctionSubclass():
        plain = torch.Tensor.detach(data) if type(data) is not torch.Tensor else data
        made = torch.Tensor._make_subclass(cls, plain, requires_grad)
    if issubclass(cls, nn.Parameter) is not isinstance(made, nn.Parameter):
        raise fault(cls, "is not a parameter")
    put_attributes(made, attributes)
    return made


def _named(cls: type, table: str, values: Any) -> Mapping[str, Any]:
    """Return a table if it is a plain dict of plain names: subclasses may run code of their own."""
    if values is None:
        return {}
    if type(values) is not dict or not all(type(name) is str for name in values):
        raise fault(cls, f"takes a mapping of names as {quote(table)}")
    return values
