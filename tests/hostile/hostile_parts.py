"""Configs that put objects together from parts, or change them, so that code runs, a load hangs or nonsense is left.

The classes here are imported, and neither registered nor trusted: a default load may make objects of some of them, and
runs nothing that they define. Most saves would be refused in the end in any case, for their state is not wanted; what
counts is what happened on the way.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from casebook import Case, add, holder, listed, marker, torch_zip, with_config
from torch import nn

from flambe_save import (
    CompilationError,
    Component,
    ConfigError,
    FlambeSaveError,
    LinkError,
    LoadError,
    RegistrationError,
    StateMismatchError,
    UntrustedError,
)

importlib.import_module("numpy.random")  # its generators are there for configs once it is imported

_TARGET: list[Path] = []


def spring(*_: Any, **__: Any) -> None:
    """Make the marker of the case that runs; there is none while the classes are defined."""
    for path in _TARGET:
        path.touch()


# ------------------------------------------------------------------------------------------------ classes


class Net(nn.Module):
    """Springs when it is called."""

    def forward(self, *args: Any, **_: Any) -> Any:
        """Spring."""
        spring()
        return args[0] if args else None


class Plain:
    """Holds attributes."""

    def release(self, *_: Any) -> None:
        """Spring."""
        spring()


class Still(nn.Module):
    """Holds parts; defines nothing."""


class Setter(nn.Module):
    """Springs when an attribute is set."""

    def __setattr__(self, name: str, value: Any) -> None:
        spring()
        super().__setattr__(name, value)


class Getter(nn.Module):
    """Springs when an attribute is looked for."""

    def __getattr__(self, name: str) -> Any:
        spring()
        return super().__getattr__(name)


class Lister(nn.Module):
    """Springs when its parts are listed."""

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Spring."""
        spring()
        return super().named_parameters(*args, **kwargs)

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Spring."""
        spring()
        return super().named_modules(*args, **kwargs)


class Applier(nn.Module):
    """Springs when it is moved."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        spring()
        return super()._apply(fn, recurse)


class Filled(nn.Module):
    """Springs when it is filled."""

    def _load_from_state_dict(self, *args: Any) -> None:
        spring()
        super()._load_from_state_dict(*args)


class Stating(nn.Module):
    """Springs when its state is asked for."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Spring."""
        spring()
        return super().state_dict(*args, **kwargs)


class Walked(nn.Module):
    """Springs when it is walked, or measured."""

    def __iter__(self) -> Iterator[Any]:
        spring()
        return iter(())

    def __len__(self) -> int:
        spring()
        return 0


class Copied(nn.Module):
    """Springs when it is copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        spring()
        return self


class Hashed(nn.Module):
    """Springs when it is looked for in a table."""

    def __hash__(self) -> int:
        spring()
        return 1

    def __eq__(self, other: object) -> bool:
        spring()
        return self is other


class Props(nn.Module):
    """Springs when a property is read."""

    @property
    def secret(self) -> Any:
        """Spring."""
        spring()
        return 1

    @property
    def weight(self) -> Any:
        """Spring."""
        spring()
        return self._parameters["weight"]


class Mode(nn.Module):
    """Springs when it is asked whether it trains."""

    @property
    def training(self) -> bool:
        """Spring."""
        spring()
        return True

    @training.setter
    def training(self, value: bool) -> None:
        spring()


@dataclasses.dataclass(frozen=True)
class HashedFields:
    """Is hashed by what is in it."""

    x: Any = None


class PlainProps:
    """Springs when a property is read."""

    @property
    def secret(self) -> Any:
        """Spring."""
        spring()
        return 1


@dataclasses.dataclass(eq=False)
class FieldsWithProperty:
    """Springs when a property is read, or it is shown."""

    x: Any = None

    @property
    def secret(self) -> Any:
        """Spring."""
        spring()
        return 1

    def __repr__(self) -> str:
        spring()
        return "1"


@dataclasses.dataclass
class PropertyForField:
    """Springs when its field is read, which a property computes."""

    x: Any

    @property
    def x(self) -> Any:  # type: ignore[no-redef]
        """Spring."""
        spring()
        return 1


class FromYaml:
    """Reads its own YAML."""

    @classmethod
    def from_yaml(cls, *_: Any) -> Any:
        """Spring."""
        spring()
        return cls()


@dataclasses.dataclass
class FieldsFromYaml:
    """A sum of fields that reads its own YAML."""

    x: Any = None

    @classmethod
    def from_yaml(cls, *_: Any) -> Any:
        """Spring."""
        spring()
        return cls()


@dataclasses.dataclass
class FieldsPrepared:
    """A sum of fields with a method that has the name of a component's hook."""

    x: Any = None

    @classmethod
    def setup_dependencies(cls, *_: Any) -> None:
        """Spring."""
        spring()


class Prepared(nn.Module):
    """Has methods with the names of a component's hooks."""

    @classmethod
    def setup_dependencies(cls, *_: Any) -> None:
        """Spring."""
        spring()


class Precompiled(nn.Module):
    """Has a method with the name of a component's hook."""

    @classmethod
    def precompile(cls, **_: Any) -> None:
        """Spring."""
        spring()


class Unregistered(Component, nn.Module, should_register=False):
    """A component that its author left out of the registry."""

    def _load_state(self, *_: Any) -> None:
        spring()


class Meta(type):
    """Springs when a class has not what it is asked for."""

    def __getattr__(cls, name: str) -> Any:
        spring()
        raise AttributeError(name)


class Classy(nn.Module, metaclass=Meta):
    """Has code in its class's class."""


class Typed(nn.Module):
    """Says itself what it is."""

    @property
    def __class__(self) -> Any:
        spring()
        return nn.Module


class Temporary(Component):
    """Made its own folder, and springs when it goes."""

    def __init__(self) -> None:
        self.path = None

    def __del__(self) -> None:
        if getattr(self, "path", None) is not None:
            spring()


class Attributed(Component):
    """Registers what it is given."""

    def __init__(self) -> None:
        self.value = None
        self.register_attrs("value")


class Constructed(nn.Module):
    """Has a constructor, which a config may not run."""

    def __init__(self, size: int = 1) -> None:
        spring()
        super().__init__()


class Deleted(nn.Module):
    """Springs when it goes."""

    def __del__(self) -> None:
        spring()


class Made(nn.Module):
    """Springs when it is made."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Spring."""
        spring()
        return super().__new__(cls)


class Reduced(nn.Module):
    """Says itself how it is taken apart."""

    def __reduce__(self) -> Any:
        spring()
        return Reduced, ()


class CalledPlain:
    """Springs when it is called."""

    def __call__(self, *_: Any) -> Any:
        """Spring."""
        spring()
        return 1.0


class LoadedPlain:
    """Springs when it is given a state."""

    def state_dict(self) -> Any:
        """Spring."""
        spring()
        return {}

    def load_state_dict(self, _: Any) -> None:
        """Spring."""
        spring()


class Detached(torch.Tensor):
    """Springs when it is detached, or filled."""

    def detach(self) -> Any:
        """Spring."""
        spring()
        return super().detach()

    def copy_(self, *args: Any, **kwargs: Any) -> Any:
        """Spring."""
        spring()
        return super().copy_(*args, **kwargs)


class Freed(nn.Parameter):
    """Springs when it is freed."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Spring."""
        spring()
        return super().requires_grad_(requires_grad)


class Functional(torch.Tensor):
    """Springs in every operation."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Spring."""
        spring()
        return super().__torch_function__(func, types, args, kwargs or {})


# ------------------------------------------------------------------------------------------------ saves


def parts(
    name: str,
    content: str,
    errors: type[BaseException] | tuple[type[BaseException], ...],
    message: str,
    rule: str,
    state: dict[str, Any] | None = None,
    ties: list[list[str]] | None = None,
    modes: dict[str, Any] | None = None,
) -> None:
    """Put a config into the table, perhaps with a state, with ties, and with the modes of the module at ``m``."""

    def make(folder: Path) -> Path:
        _TARGET[:] = [marker(folder)]
        if "!torch.SGD" in content:
            importlib.import_module("torch._dynamo")  # torch does so itself where an optimizer is made
        path = with_config(folder, content) if ties is None else holder(folder)
        (path / "config.yaml").write_text(content)
        if state is not None:
            values: Any = OrderedDict(state)
            values._metadata = OrderedDict({"m": {"version": 1, "modes": modes}} if modes else {})
            torch.save(values, path / "state.pt")
        return path if ties is None else listed(path, lambda document: document.update(ties=ties))

    kinds = errors if isinstance(errors, tuple) else (errors,)
    add(Case(f"parts_{name}", make, kinds, message, rule, False))


ANY: tuple[type[BaseException], ...] = (ConfigError, LoadError)
LINEAR = "!torch.Linear {in_features: 1, out_features: 1}"
OPTIMIZER = f"l: {LINEAR}\no: !torch.SGD {{params: [!parameter 'l:weight'], lr: 0.1}}\n"
CALLABLE = "!hostile_parts.Net.parts {}"
UNWANTED = {"unwanted": torch.ones(1)}
ONE = {"m.w": torch.ones(2), **UNWANTED}
WIDE = {"weight": torch.ones(1, 1, dtype=torch.double), "bias": torch.ones(1, dtype=torch.double)}
FILLED = {**ONE, **{f"m.lin.{key}": value for key, value in WIDE.items()}}
MODES = {"training": False, "frozen": [], "otherwise": ["lin", "0.lin"]}

# ---------------------------------------------------------------- classes that are not made of parts at all

CLASSES = "objects are not made of parts where a class says how they are made, taken apart, called or removed"
for _name, _content in {
    "deleted": "!hostile_parts.Deleted.parts {}",
    "reduced": "!hostile_parts.Reduced.parts {}",
    "called": "!hostile_parts.CalledPlain.parts {}",
    "loaded": "!hostile_parts.LoadedPlain.parts {}",
    "functional": "!hostile_parts.Functional.parts {data: !tensor value}",
    "of_jit": "!torch.jit.ScriptModule.parts {}",
    "of_jit_in_full": "!torch.jit._script.RecursiveScriptModule.parts {}",
    "of_fx": "!torch.fx.graph_module.GraphModule.parts {}",
    "of_an_optimizer": "!torch.SGD.parts {attributes: {param_groups: []}}",
    "of_a_scheduler": "!torch.LambdaLR.parts {attributes: {lr_lambdas: []}}",
    "of_the_library": "!logging.Logger.parts {}",
    "of_a_thread": "!threading.Thread.parts {}",
    "of_a_type": "!hostile_parts.Meta.parts {}",
    "of_a_list": "!builtins.list.parts {}",
    "of_a_trust": "!flambe_save.trust.Trust.parts {attributes: {weights_only: false}}",
    "of_a_class_in_a_class": "!hostile_parts.Net.forward.parts {}",
    "by_its_class": "!hostile_parts.Constructed {size: 2}",
    "twice": "!hostile_parts.Net.parts.parts {}",
    "of_nothing": "!.parts {}",
    "alone": "!parts {}",
}.items():
    parts(f"class_{_name}", _content, (*ANY, UntrustedError), "", CLASSES)
parts(
    "class_that_says_what_it_is",
    "!hostile_parts.Typed.parts {}",
    ANY,
    "",
    "a class whose objects answer for their class themselves is not made of parts",
)
parts(
    "class_with_a_class_of_its_own",
    "!hostile_parts.Classy.parts {}",
    ANY,
    "",
    "no code of a metaclass is run to find out what a class has",
)
parts(
    "class_that_reads_yaml",
    "!hostile_parts.FromYaml.parts {attributes: {a: 1}}",
    ANY,
    "",
    "from_yaml is asked of registered classes alone",
)
parts(
    "fields_that_read_yaml",
    "!hostile_parts.FieldsFromYaml {x: 1}",
    ANY,
    "",
    "from_yaml is asked of registered classes alone, and not of a sum of fields",
)
parts(
    "fields_with_dependencies",
    "!hostile_parts.FieldsPrepared {x: 1}",
    ANY,
    "",
    "setup_dependencies is asked of registered classes alone, and not of a sum of fields",
)
parts(
    "class_with_dependencies",
    "!hostile_parts.Prepared.parts {}",
    ANY,
    "",
    "setup_dependencies is asked of registered classes alone",
)
parts(
    "class_that_is_precompiled",
    "!hostile_parts.Precompiled.parts {}",
    ANY,
    "",
    "precompile is asked of registered classes alone",
)
parts(
    "component_that_is_not_registered",
    "!hostile_parts.Unregistered.parts {}",
    (*ANY, UntrustedError),
    "",
    "a component that is not registered has hooks, so its objects are not made of parts",
)
parts(
    "component_that_is_removed",
    "!casebook.Holder {value: !hostile_parts.Temporary.parts {attributes: {path: x}}}",
    ANY,
    "",
    "parts are refused for a registered class with __del__ too: its constructor promises what it removes",
)
parts(
    "component_that_is_removed_edited",
    "!casebook.Holder {value: !edited {object: !hostile_parts.Temporary {}, changes: {'': {attributes: {path: x}}}}}",
    ANY,
    "",
    "an object whose class has __del__ is not edited: its constructor promises what it removes",
)

# ---------------------------------------------------------------- code of classes that are made of parts

RUNS = "nothing that the class of an assembled object defines is run by a load"
for _kind in ("Setter", "Getter", "Lister", "Applier", "Filled", "Stating", "Copied", "Hashed", "Mode", "Made"):
    _call = f"!hostile_parts.{_kind}.parts {{parameters: {{w: !param m.w}}, modules: {{lin: {LINEAR}}}}}"
    parts(f"root_of_{_kind}", f"m: {_call}\n", StateMismatchError, "unwanted", RUNS, FILLED, modes=MODES)
    _inner = {key.replace("m.", "m.0."): value for key, value in FILLED.items()}
    _call = _call.replace("!param m.w", "!param m.0.w")
    for _outer, _content in {
        "sequential": f"!torch.Sequential {{args: [{_call}]}}",
        "component": f"!casebook.Holder {{value: {_call}}}",
        "data_parallel": f"!torch.DataParallel {{module: {_call}}}",
        "wrapped": f"!torch.Sequential {{args: [!torch.DataParallel {{module: {_call}}}]}}",
        "averaged": f"!torch.AveragedModel {{model: {_call}}}",
        "encoder": f"!torch.TransformerEncoder {{encoder_layer: {_call}, num_layers: 1}}",
    }.items():
        parts(f"{_outer}_of_{_kind}", f"m: {_content}\n", ANY, "", RUNS, _inner, modes=MODES)
_FILLED = {"m.state": {"a": 1}, "m.item.state": {"a": 1}, **UNWANTED}
for _name, _content in {
    "itself": "!hostile_parts.LoadedPlain.parts {complete: true}",
    "in_a_module": "!hostile_parts.Net.parts {attributes: {item: !hostile_parts.LoadedPlain.parts {complete: true}}}",
}.items():
    parts(f"state_for_{_name}", f"m: {_content}\n", StateMismatchError, "unwanted", RUNS, _FILLED)
_walked = "!hostile_parts.Walked.parts {}"
for _outer, _content in {
    "list": f"!torch.ModuleList {{modules: {_walked}}}",
    "dict": f"!torch.ModuleDict {{modules: {_walked}}}",
    "parameters": f"!torch.ParameterList {{values: {_walked}}}",
    "optimizer": f"!torch.SGD {{lr: 0.1, params: {_walked}}}",
}.items():
    parts(f"walked_by_{_outer}", f"m: {_content}\n", ANY, "", RUNS, UNWANTED)
parts(
    "called_by_a_schedule",
    f"{OPTIMIZER}s: !torch.LambdaLR {{optimizer: !@ o, lr_lambda: {CALLABLE}}}\n",
    ANY,
    "",
    "what an optimizer or a schedule may call was registered, or is torch's",
    {},
)
for _method in ("state_dict", "load_state_dict"):
    parts(
        f"schedule_with_{_method}",
        f"!torch.LambdaLR.parts {{attributes: {{{_method}: {CALLABLE}, lr_lambdas: []}}}}\n",
        ANY,
        "",
        "an attribute does not stand in for a method that a load calls",
        {"state": {"lr_lambdas": []}},
    )
    parts(
        f"optimizer_with_{_method}",
        f"l: {LINEAR}\no: !edited {{object: !torch.SGD {{params: [!parameter 'l:weight'], lr: 0.1}}, changes: "
        f"{{'': {{attributes: {{{_method}: {CALLABLE}}}}}}}}}\n",
        ANY,
        "",
        "an attribute does not stand in for a method that a load calls",
        {},
    )
parts(
    "optimizer_without_groups",
    f"l: {LINEAR}\no: !edited {{object: !torch.SGD {{params: [!parameter 'l:weight'], lr: 0.1}}, changes: "
    "{'': {attributes: {param_groups: 5}}}}\n",
    ANY,
    "",
    "an optimizer is not edited: its groups are its adapter's",
    {},
)
# What is put together has its attributes already: no state of the save fills it, and none of its methods is called
parts(
    "schedule_without_an_optimizer",
    f"!torch.LambdaLR.parts {{attributes: {{optimizer: {LINEAR}, base_lrs: []}}}}\n",
    ANY,
    "",
    "a schedule drives an optimizer, and nothing else is changed to tell of its steps",
    {},
)
parts(
    "generator_with_methods",
    "!edited {object: !random.Random {}, changes: {'': {attributes: "
    f"{{setstate: {CALLABLE}, getstate: {CALLABLE}}}}}}}}}\n",
    ANY,
    "",
    "an attribute does not stand in for a method that a load calls",
    {"state": [3, [1] * 625, None]},
)
parts(
    "property_behind_a_link",
    "a: !hostile_parts.Props.parts {}\nb: !@ a.secret\n",
    ANY,
    "",
    "a link follows what objects hold, and no properties of classes that nobody registered",
)
parts("property_of_a_plain_object", "a: !hostile_parts.PlainProps.parts {}\nb: !@ a.secret\n", ANY, "", "as before")
HOLDS = "a link reads what an object holds: never a property, a descriptor or __getattr__ of a class"
parts(
    "property_of_a_dataclass",
    "a: !hostile_parts.FieldsWithProperty {x: 1}\nb: !@ a.secret\n",
    UntrustedError,
    "",
    HOLDS,
)
parts("property_for_a_field", "a: !hostile_parts.PropertyForField {x: 1}\nb: !@ a.nothing\n", ANY, "", HOLDS)
parts("property_of_numpy", "a: !numpy.PCG64 {}\nb: !@ a.cffi\n", UntrustedError, "BitGenerator.cffi", HOLDS)
parts(
    "property_of_torch",
    "a: !torch.LSTM {input_size: 1, hidden_size: 1}\nb: !@ a.all_weights\n",
    UntrustedError,
    "",
    HOLDS,
)
parts("items_of_a_class", "a: !hostile_parts.Walked.parts {}\nc: !@ a\nb: !@ 'c[0]'\n", ANY, "", HOLDS)
parts(
    "key_that_shows_itself",
    "a: !builtins.dict {items: [[!hostile_parts.FieldsWithProperty {x: 1}, 2]]}\nc: !@ a\nb: !@ 'c[1]'\n",
    ANY,
    "no '1'",
    "a link's key is compared with plain keys alone",
)
for _kind in ("Props", "Setter"):
    parts(
        f"{_kind}_behind_a_tie",
        f"a: !hostile_parts.{_kind}.parts {{parameters: {{weight: !param a.weight}}}}\n"
        f"b: !hostile_parts.{_kind}.parts {{parameters: {{weight: "
        "!torch.nn.parameter.Parameter.parts {data: !tensor b.weight}}}\n",
        ANY,
        "",
        "ties are restored in torch's tables, and not by attributes",
        {"a.weight": torch.ones(2), "b.weight": torch.ones(2), **UNWANTED},
        [["a.weight", "b.weight"]],
    )
parts(
    "property_behind_a_parametrization",
    "!hostile_parts.Props.parts\n"
    "modules: {parametrizations: !torch.ModuleDict {modules: {secret: !torch.Identity {}}}}\n",
    ANY,
    "",
    "what a parametrization computes is asked of torch's own classes alone",
    {"secret": torch.ones(2)},
)
parts(
    "parametrization",
    f"!hostile_parts.Still.parts\nmodules: {{parametrizations: !torch.ModuleDict {{modules: {{x: {CALLABLE}}}}}}}\n",
    ANY,
    "",
    "a parametrization that was put together is not asked to compute",
    {"x": torch.ones(2)},
)
parts(
    "method_of_an_edited_rnn",
    "!edited {object: !torch.LSTM {input_size: 1, hidden_size: 1}, changes: {'': {attributes: "
    f"{{flatten_parameters: {CALLABLE}}}}}}}}}\n",
    ANY,
    "",
    "an attribute does not stand in for a method of torch's that a load calls",
)
SHADOW = "an attribute does not stand in for a method of torch's"
for _method in (
    *("load_state_dict", "_load_from_state_dict", "_apply", "named_parameters", "named_buffers", "named_modules"),
    *("__deepcopy__", "__class__", "__dict__"),
):
    parts(
        f"method_{_method}",
        f"!edited {{object: {LINEAR}, changes: {{'': {{attributes: {{{_method}: {CALLABLE}}}}}}}}}\n",
        ANY,
        "",
        SHADOW,
        {**WIDE, **UNWANTED},
    )
for _method in ("requires_grad_", "data_ptr", "is_floating_point", "untyped_storage"):
    parts(
        f"method_of_a_parameter_{_method}",
        "m: !hostile_parts.Still.parts {parameters: {w: !torch.nn.parameter.Parameter.parts {data: !tensor m.w, "
        f"attributes: {{{_method}: {CALLABLE}}}}}}}}}\n",
        ANY,
        "",
        SHADOW,
        ONE,
        modes=MODES,
    )
OF_TENSORS = "nothing that the class of an assembled tensor defines is run by a load"
for _name, _content in {
    "detached": "!torch.nn.parameter.Parameter.parts {data: !hostile_parts.Detached.parts {data: !tensor m.w}}",
    "freed": "!hostile_parts.Freed.parts {data: !tensor m.w}",
}.items():
    _content = f"m: !hostile_parts.Still.parts {{parameters: {{w: {_content}}}}}\n"
    parts(f"tensor_{_name}", _content, ANY, "", OF_TENSORS, ONE, modes=MODES)
parts(
    "tensor_filled",
    "m: !hostile_parts.Still.parts {buffers: {x: !hostile_parts.Detached.parts {data: !tensor m.w}}}\n",
    ANY,
    "",
    OF_TENSORS,
    {**ONE, "m.x": torch.ones(2)},
)
TABLES = "names in a module's tables are those that torch takes"
for _table, _value in {"modules": CALLABLE, "parameters": "!param module.x", "buffers": "!tensor module.x"}.items():
    for _key in ("__deepcopy__", "__class__", "''"):
        parts(
            f"name_{_table}_{_key}",
            f"!torch.AveragedModel {{model: !hostile_parts.Still.parts {{{_table}: {{{_key}: {_value}}}}}}}\n",
            CompilationError,
            "",
            TABLES,
            {"module.x": torch.ones(2), "n_averaged": torch.tensor(0)},
        )
parts(
    "name_in_two_tables",
    "!hostile_parts.Still.parts {parameters: {w: !param w}, buffers: {w: !tensor w}}\n",
    CompilationError,
    "",
    TABLES,
    {"w": torch.ones(2)},
)

# ---------------------------------------------------------------- what is edited, or taken for something else

GLOBAL = "only what the config itself builds is edited, never what the program shares"
parts(
    "edited_function",
    "!casebook.Anything {a: !edited {object: !function torch.nn.functional.relu, changes: {'': {attributes: {x: 1}}}}}",
    CompilationError,
    "",
    GLOBAL,
    {},
)
parts(
    "edited_enum",
    "!casebook.Anything {a: !edited {object: !casebook.Mood {name: GOOD}, changes: {'': {attributes: {_value_: 2}}}}}",
    CompilationError,
    "",
    GLOBAL,
    {},
)
parts(
    "edited_class",
    "!casebook.Anything {a: !edited {object: !type casebook.Holder, changes: {'': {attributes: {x: 1}}}}}",
    ConfigError,
    "",
    GLOBAL,
    {},
)
EDITS = "a change fits what it changes"
for _name, _change in {
    "list": "[1]",
    "path_upwards": "{'..': {attributes: {a: 1}}}",
    "path_number": "{0: {attributes: {a: 1}}}",
    "path_dunder": "{__dict__: {attributes: {a: 1}}}",
    "table": "{'': {_modules: {}}}",
    "module_as_a_number": "{'': {modules: {a: 1}}}",
    "parameter_as_a_tensor": "{'': {parameters: {weight: !tensor value}}}",
    "hook": "{'': {hooks: [!torch.ReLU {}]}}",
    "hook_twice": "{'': {hooks: [1]}}",
    "removed_number": "{'': {removed: [1]}}",
    "removed_text": "{'': {removed: weight}}",
    "order_of_hooks": "{'': {order: {forward_hooks: []}}}",
    "order_of_others": "{'': {order: {parameters: [weight, weight]}}}",
    "order_short": "{'': {order: {parameters: [weight]}}}",
    "order_list": "{'': {order: [weight]}}",
    "order_null": "{'': {order: {parameters: null}}}",
    "not_persistent": "{'': {not_persistent: [weight]}}",
    "not_persistent_list": "{'': {not_persistent: [[]]}}",
    "change_list": "{'': [1]}",
    "tables_of_torch": "{'': {attributes: {_forward_hooks: {}}}}",
    "training": "{'': {attributes: {training: x}}}",
}.items():
    parts(f"edit_{_name}", f"!edited {{object: {LINEAR}, changes: {_change}}}\n", ANY, "", EDITS)
parts("edited_data", "!edited {object: 5, changes: {'': {attributes: {a: 1}}}}\n", ANY, "", EDITS)
parts("edited_nothing", "!edited {object: null, changes: {'': {removed: [a]}}}\n", ANY, "", EDITS)
parts("edited_link", "!edited {object: !back '', changes: {'': {attributes: {key: x}}}}\n", ANY, "", EDITS)
parts(
    "edited_deep",
    "!edited {object: " * 4_900 + LINEAR + ", changes: {}}" * 4_900,
    FlambeSaveError,
    "",
    "building uses no more than Python's stack",
)
parts(
    "nested_deep",
    "!hostile_parts.Still.parts {modules: {a: " * 4_900 + LINEAR + "}}" * 4_900,
    FlambeSaveError,
    "",
    "filling uses no more than Python's stack",
)
parts(
    "chained_deep",
    "a0: !hostile_parts.Still.parts {}\n"
    + "".join(f"a{n}: !hostile_parts.Still.parts {{modules: {{a: !@ a{n - 1}}}}}\n" for n in range(1, 1_000)),
    FlambeSaveError,
    "",
    "names of what is nested take no more than the config's size justifies",
)
parts(
    "modules_doubled",
    "a0: !hostile_parts.Still.parts {}\n"
    + "".join(
        f"a{n}: !hostile_parts.Still.parts {{modules: {{a: !@ a{n - 1}, b: !@ a{n - 1}}}}}\n" for n in range(1, 60)
    ),
    FlambeSaveError,
    "",
    "a module in many places is gone into once",
)
parts(
    "attributes_doubled",
    "a0: !hostile_parts.Plain.parts {}\n"
    + "".join(
        f"a{n}: !hostile_parts.Plain.parts {{attributes: {{a: !@ a{n - 1}, b: !@ a{n - 1}}}}}\n" for n in range(1, 60)
    ),
    FlambeSaveError,
    "",
    "an object in many places is gone into once",
)
parts(
    "sequences_doubled",
    f"a0: {LINEAR}\n"
    + "".join(f"a{n}: !torch.Sequential {{args: [!@ a{n - 1}, !@ a{n - 1}]}}\n" for n in range(1, 60)),
    FlambeSaveError,
    "",
    "a module in many places is gone into once",
)
parts(
    "back_by_many_ways",
    "a0: !hostile_parts.Still.parts {}\n"
    + "".join(
        f"a{n}: !hostile_parts.Still.parts {{modules: {{x: !@ a{n - 1}}}, attributes: {{x: !@ a{n - 1}}}}}\n"
        for n in range(1, 60)
    )
    + f"b: [!back {'.'.join(['a59', *['x'] * 58, 'y'])}]\n",
    FlambeSaveError,
    "",
    "each container on the way of a link back is gone into once",
)
parts(
    "cycle_of_modules",
    "a: !torch.Sequential {args: [!torch.Sequential {args: []}]}\n"
    "b: !edited {object: !@ a, changes: {'0': {modules: {x: !@ a}}}}\n",
    ANY,
    "",
    "no change puts a module inside itself",
    {},
)
parts(
    "cycle_of_wrappers",
    "a: !torch.DataParallel {module: !torch.Identity {}}\n"
    "b: !edited {object: !@ a, changes: {'': {modules: {module: !@ a}}}}\n",
    ANY,
    "",
    "no change puts a module inside itself",
)
parts(
    "wrapper_of_nothing",
    "!torch.nn.parallel.data_parallel.DataParallel.parts {}\n",
    ANY,
    "",
    "a wrapper has something inside it",
)
parts(
    "wrapper_emptied",
    "!edited {object: !torch.DataParallel {module: !torch.Identity {}}, changes: {'': {removed: [module]}}}\n",
    ANY,
    "",
    "a wrapper has something inside it",
)

_HOLDS = "!hostile_parts.Still.parts {{modules: {{m: {}}}}}".format
for _name, _content in {
    "inside": _HOLDS(_HOLDS("!back ''")),
    "crosswise": f"{{a: {_HOLDS('!back b')}, b: {_HOLDS('!back a')}}}",
    "changed": "{a: !edited {object: !torch.Sequential {args: []}, changes: {'': {modules: {m: !back a}}}}}",
    "of_a_list": f"{{a: [1], b: {_HOLDS('!back a')}}}",
    "of_a_tensor": f"{{a: !tensor a, b: {_HOLDS('!back a')}}}",
    "of_a_method": f"{{a: !torch.ReLU {{}}, b: {_HOLDS('!builtins.method {object: !back a, name: forward}')}}}",
    "of_a_scheduler": f"{{a: {_HOLDS('!back b')}, b: !torch.ReLU {{}}, c: !torch.SWALR {{optimizer: {_HOLDS('!back b')}"
    ", swa_lr: 1}}",
    "of_an_average": f"{{a: !torch.AveragedModel {{model: {_HOLDS(_HOLDS('!back a'))}}}}}",
}.items():
    parts(
        f"module_put_in_place_{_name}",
        _content + "\n",
        FlambeSaveError,
        "",
        "what is put in a module's place when all is built is a module, and none is inside itself",
        {"a": torch.ones(2)} if _name == "of_a_tensor" else None,
    )

# ---------------------------------------------------------------- tables, links and placeholders

FITS = "the tables of an object hold what they are for"
for _name, _tables in {
    "unknown": "{methods: {}}",
    "positional": "{cls: x}",
    "list": "{attributes: [1]}",
    "numbered": "{attributes: {1: 2}}",
    "dunder": "{attributes: {__class__: 1}}",
    "hooks": "{attributes: {_forward_pre_hooks: {}}}",
    "schema": "{attributes: {_schema: 1}}",
    "module": "{modules: {a: !tensor value}}",
    "parameter": "{parameters: {a: !tensor value}}",
    "buffer": "{buffers: {a: !torch.ReLU {}}}",
    "buffer_of_text": "{buffers: {a: x}}",
    "back": "{modules: {a: !back ''}}",
    "hook": "{hooks: [!torch.ReLU {}]}",
    "hook_back": "{hooks: [!back '']}",
    "hooks_text": "{hooks: abc}",
    "not_persistent": "{not_persistent: [a]}",
    "no_key": "{parameters: {a: !param nothing}}",
    "no_tensor": "{parameters: {a: !param ''}}",
    "parameter_of_itself": "{parameters: {a: !parameter 'a:a'}}",
    "module_of_itself": "{modules: {a: !module ':a'}}",
    "module_dunder": "{modules: {a: !module 'attributes:__dict__'}}",
}.items():
    parts(f"table_{_name}", f"!hostile_parts.Still.parts {_tables}\n", ANY, "", FITS)
for _name, _content in {
    "arguments_number": "!casebook.Outer.parts {arguments: 5}",
    "arguments_list": "!casebook.Outer.parts {arguments: [1]}",
    "arguments_numbered": "!casebook.Outer.parts {arguments: {1: 2}}",
    "registered_number": "!hostile_parts.Attributed.parts {attributes: {_registered_attributes: 5}}",
    "registered_numbers": "!hostile_parts.Attributed.parts {attributes: {_registered_attributes: [1, a]}}",
    "registered_numbers_edited": "!edited {object: !hostile_parts.Attributed {}, changes: {'': {attributes: "
    "{_registered_attributes: 5}}}}",
    "schema": "!hostile_parts.Attributed.parts {attributes: {_schema: !casebook.Holder {}}}",
    "class": "!hostile_parts.Attributed.parts {attributes: {_created_with_tag: [1]}}",
    "tensor_of_text": "!torch.nn.parameter.Parameter.parts {data: abc}",
    "tensor_of_nothing": "!torch.nn.parameter.Parameter.parts {}",
    "tensor_dunder": "!torch.nn.parameter.Parameter.parts {data: !tensor value, attributes: {__class__: 1}}",
    "tensor_grad": "!torch.nn.parameter.UninitializedParameter.parts {data: !tensor value}",
    "link_to_itself": "a: !module a:x\n",
    "links_to_each_other": "a: !module b:x\nb: !module a:x\n",
    "modules_in_each_other": "a: !hostile_parts.Still.parts {modules: {x: !module b:y}}\n"
    "b: !hostile_parts.Still.parts {modules: {y: !module a:x}}\n",
}.items():
    parts(f"fits_{_name}", _content, ANY, "", FITS)
parts(
    "param_of_no_tensor",
    "!hostile_parts.Still.parts {parameters: {a: !param a}}\n",
    LinkError,
    "that is a list, not a tensor",
    "a parameter is made of a tensor of the state",
    {"a": [1, 2]},
)
parts(
    "registered_machinery",
    "!hostile_parts.Attributed.parts {attributes: {_registered_attributes: [__dict__]}}\n",
    ANY,
    "",
    "a component says itself which of its attributes are its state",
    {"__dict__": {"load_state": 1, "__deepcopy__": 2}},
)
parts(
    "key_of_no_tensor",
    "!hostile_parts.Still.parts {buffers: {a: !tensor b}}\n",
    StateMismatchError,
    "",
    "a value that is no tensor is not silently dropped where a module holds one",
    {"a": {"x": 1}, "b": torch.ones(2)},
)
parts(
    "key_of_nothing",
    "!hostile_parts.Still.parts {parameters: {w: null}}\n",
    StateMismatchError,
    "w",
    "a value for what a module does not have is not silently dropped",
    {"w": torch.ones(2)},
)
parts(
    "key_that_is_not_wanted",
    "!hostile_parts.Still.parts {parameters: {w: !param w}}\n",
    StateMismatchError,
    "other",
    "a state that an assembled module does not want is an error, as with any other",
    {"w": torch.ones(2), "other": torch.ones(2)},
)
parts(
    "sparse_in_place_of_another",
    "m: !hostile_parts.Still.parts {buffers: {a: !tensor m.b}}\n",
    LoadError,
    "",
    "tensors that have no memory of their own are not asked where it is",
    {"m.a": torch.eye(2).to_sparse(), "m.b": torch.ones(2, 2), **UNWANTED},
)
parts(
    "sparse",
    "m: !hostile_parts.Still.parts {buffers: {a: !tensor m.a}}\n",
    LoadError,
    "unwanted",
    "tensors that have no memory of their own are not asked where it is",
    {"m.a": torch.eye(2).to_sparse(), **UNWANTED},
)
parts(
    "expanded",
    "m: !hostile_parts.Still.parts {buffers: {a: !tensor m.b}}\n",
    LoadError,
    "",
    "what cannot be filled is an error that says so",
    {"m.a": torch.ones(2, 2), "m.b": torch.ones(1).expand(2, 2), **UNWANTED},
)
LEFT = "no placeholder of ours is left in what a load returns"
for _name, _content in {
    "by_another_name": "[!BackLink 'x']",
    "by_its_path": "[!flambe_save.config.link.BackLink 'x']",
    "by_its_parts": "[!back.parts 'x']",
    "in_a_partial": "!functools.partial {func: !function torch.nn.functional.relu, args: [!back ''], keywords: {}}",
    "in_a_set": "!builtins.set {items: [!back '']}",
    "in_a_tuple": "!tuple [!back '']",
    "in_a_parameter": "!torch.nn.parameter.Parameter.parts {data: !tensor w, attributes: {a: !back 'parameters.w'}}",
    "in_a_buffer": "!hostile_parts.Detached.parts {data: !tensor w, attributes: {a: !back 'buffers.w'}}",
    "in_a_hook": "!hostile_parts.Still.parts {hooks: [!torch.nn.utils.weight_norm.WeightNorm.parts {attributes: "
    "{a: !back ''}}]}",
    "of_ours": "!flambe_save.describing.changes.AsBuilt.parts x",
    "of_ours_as_parts": "!flambe_save.describing.changes.AsBuilt.parts {attributes: {obj: 1}}",
    "of_ours_assembled": "[!flambe_save.deferred_init.budget.BuildBudget.parts {}]",
    "as_arguments": "!casebook.Anything.parts {arguments: {inner: !back ''}}",
    "as_arguments_of_a_link": "!casebook.Anything.parts {arguments: {inner: !back 'nowhere'}, attributes: {a: [1]}}",
}.items():
    _table = {"in_a_parameter": "parameters", "in_a_buffer": "buffers"}.get(_name)
    _held = {"w": torch.ones(2)} if _table else {}
    if _table:
        _content = f"!hostile_parts.Still.parts {{{_table}: {{w: {_content}}}}}"
    parts(f"left_{_name}", _content + "\n", (ConfigError, LoadError, RegistrationError), "", LEFT, _held)


# ------------------------------------------------------------------------------------------------ bound methods

BOUND = "a method is bound, and not called: it is a plain function of the class of an object that the config builds"
_METHOD = "!builtins.method {{object: {}, name: {}}}".format
for _name, _object, _method, _error in (
    ("property", "!hostile_parts.Props.parts {}", "secret", CompilationError),
    ("property_of_a_record", "!hostile_parts.FieldsWithProperty {x: 1}", "secret", CompilationError),
    ("called_by_python", "!hostile_parts.Hashed.parts {}", "__hash__", CompilationError),
    ("special", "!hostile_parts.Net.parts {}", "__call__", CompilationError),
    ("found_by_code", "!hostile_parts.Getter.parts {}", "anything", CompilationError),
    ("of_a_class", "!type hostile_parts.Detached", "detach", (CompilationError, UntrustedError, ConfigError)),
    ("of_an_abstract_class", "!type casebook.Anything", "register", CompilationError),
    ("of_a_function", "!function torch.nn.functional.relu", "__get__", CompilationError),
    ("of_a_number", "5", "bit_length", CompilationError),
    ("of_a_placeholder", "!back ''", "through", ANY),
    ("of_nothing", "!back nowhere", "release", LinkError),
    ("of_one_with_del", "!hostile_parts.Deleted.parts {}", "release", (UntrustedError, RegistrationError)),
    ("no_name", "!hostile_parts.Plain.parts {}", "[1]", CompilationError),
):
    parts(f"method_{_name}", f"[{_METHOD(_object, _method)}]\n", _error, "", BOUND)
for _name, _value in {"method": _METHOD("!back m", "release"), "link": "!back m"}.items():
    for _holder, _attribute in {"Net": "forward", "Filled": "_load_from_state_dict", "Plain": "release"}.items():
        parts(
            f"{_name}_in_place_of_{_holder}",
            f"m: !hostile_parts.{'Net' if _name == 'link' else 'Plain'}.parts {{}}\n"
            f"n: !hostile_parts.{_holder}.parts {{attributes: {{{_attribute}: {_value}}}}}\n",
            CompilationError,
            "has a method",
            "what is put in place when all is built does not stand in for a method either",
        )
for _name, _value in {"method": _METHOD("!back m", "release"), "link": "!back m"}.items():
    parts(
        f"{_name}_in_place_of_one_of_a_tensor",
        f"m: !hostile_parts.{'Net' if _name == 'link' else 'Plain'}.parts {{}}\n"
        "n: !hostile_parts.Still.parts {parameters: {w: !torch.nn.parameter.Parameter.parts {data: !tensor n.w, "
        f"attributes: {{requires_grad_: {_value}}}}}}}}}\n",
        CompilationError,
        "has a method",
        "what is put in place when all is built does not stand in for a method of a tensor either",
        {"n.w": torch.ones(2)},
    )
_RELEASE = _METHOD("!hostile_parts.Plain.parts {}", "release")
_SCHEDULER = (
    f"a: !hostile_parts.Plain.parts {{attributes: {{b: {_RELEASE}, c: [{_RELEASE}]}}}}\n"
    f"{OPTIMIZER.replace('o: ', 'o: &o ')}s: !torch.LambdaLR {{optimizer: *o, lr_lambda:"
)
for _name, _content in {
    "argument": f"{_SCHEDULER} {_RELEASE}}}",
    "argument_in_a_list": f"{_SCHEDULER} [{_RELEASE}]}}",
    "argument_behind_a_link": f"{_SCHEDULER} !@ a.b}}",
    "argument_in_a_list_behind_a_link": f"{_SCHEDULER} !@ a.c}}",
    "argument_of_anything": f"!casebook.Anything {{a: {_RELEASE}}}",
    "argument_later": "!casebook.Holder {value: " + _METHOD("!back ''", "register_attrs") + "}",
    "default_factory": f"!collections.defaultdict {{default_factory: {_RELEASE}, items: []}}",
    "default_factory_later": "a: !hostile_parts.Plain.parts {}\nb: !collections.defaultdict {default_factory: "
    + _METHOD("!back a", "release")
    + ", items: []}",
    "partial": f"!functools.partial {{func: {_RELEASE}, args: [], keywords: {{}}}}",
    "hook": f"!hostile_parts.Still.parts {{hooks: [{_RELEASE}]}}",
    "edited": f"!edited {{object: {_RELEASE}, changes: {{'': {{attributes: {{a: 1}}}}}}}}",
    "class": "[!type builtins.method]",
    "assembled": "[!builtins.method.parts {attributes: {a: 1}}]",
    "key_later": "a: !hostile_parts.Plain.parts {}\nb: !builtins.dict {items: [["
    + _METHOD("!back a", "release")
    + ", 1]]}",
}.items():
    parts(f"method_as_{_name}", _content + "\n", ANY, "", f"{BOUND}; no constructor is given one")

WEAK = "a weak reference is to an object that the config builds, and calls nothing when that goes"
_DEEP = "&a0 !hostile_parts.HashedFields {x: 1}" + "".join(
    f"\n- &a{i} !hostile_parts.HashedFields {{x: !tuple [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 16)
)
for _name, _content in {
    "to_a_number": "[!weakref.ReferenceType {object: 5}]",
    "to_a_list": "[!weakref.ReferenceType {object: [1]}]",
    "with_a_callback": f"[!weakref.ReferenceType {{object: !hostile_parts.Plain.parts {{}}, callback: {_RELEASE}}}]",
    "as_an_argument": "!casebook.Anything {a: !weakref.ReferenceType {object: !hostile_parts.Plain.parts {}}}",
    "to_what_has_del": "[!weakref.ReferenceType {object: !hostile_parts.Deleted.parts {}}]",
    "to_nothing": "[!weakref.ReferenceType {object: !back nowhere}]",
    "as_a_key": f"- {_DEEP}\n- !builtins.set {{items: [!weakref.ReferenceType {{object: *a15}}]}}",
    "in_a_key": f"- {_DEEP}\n- !builtins.dict {{items: [[!tuple [!weakref.ReferenceType {{object: *a15}}], 1]]}}",
    "class": "[!type weakref.ReferenceType]",
    "other_class": "[!weakref.WeakMethod {object: 1}]",
    "edited": "!edited {object: !weakref.ReferenceType {object: !hostile_parts.Plain.parts {}}, changes: {'': {}}}",
}.items():
    parts(f"weak_{_name}", _content + "\n", ANY, "more than 10000 values" if _name.endswith("key") else "", WEAK)


# ------------------------------------------------------------------------------------------------ references of pickles


def referring(name: str, config: str, errors: Any, message: str, rule: str, stash: dict[str, Any]) -> None:
    """Put a config into the table, beside a stash."""

    def make(folder: Path) -> Path:
        path = with_config(folder, config)
        torch.save(stash, path / "stash.pkl")
        return path

    add(Case(name, make, errors if isinstance(errors, tuple) else (errors,), message, rule, state=False))


def _numbered(*numbers: Any) -> bytes:
    """Return a torch file of references with given numbers."""
    buffer = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("object", obj.number) if isinstance(obj, Reference) else None

    Pickler(buffer, protocol=2).dump([Reference(number) for number in numbers])
    return torch_zip(buffer.getvalue())


class Reference:
    """Stands for a reference to an object."""

    def __init__(self, number: Any) -> None:
        self.number = number


ITSELF = "what a pickle refers to comes from the config that names the pickle, which a load reads first"
_ONE = _numbered(0)
for _name, _config, _errors, _stash in (
    ("outside", "{pickle: !$ '0', item: 0, objects: []}", LoadError, {"0": _ONE}),
    ("no_number", "{pickle: !$ '0', item: 0, objects: [1]}", LoadError, {"0": _numbered("0")}),
    ("negative", "{pickle: !$ '0', item: 0, objects: [1]}", LoadError, {"0": _numbered(-1)}),
    ("no_item", "{pickle: !$ '0', item: 9, objects: [1]}", FlambeSaveError, {"0": _ONE}),
    ("negative_item", "{pickle: !$ '0', item: -1, objects: [1]}", FlambeSaveError, {"0": _ONE}),
    ("odd_item", "{pickle: !$ '0', item: {}, objects: [1]}", FlambeSaveError, {"0": _ONE}),
    ("odd_objects", "{pickle: !$ '0', item: 0, objects: 1}", FlambeSaveError, {"0": _ONE}),
    ("inline", "{pickle: !!binary UEsDBA==, item: 0, objects: []}", FlambeSaveError, {}),
    ("linked", "{pickle: !@ a, item: 0, objects: []}", FlambeSaveError, {"0": _ONE}),
    ("missing", "{pickle: !$ '7', item: 0, objects: []}", LoadError, {"0": _ONE}),
    ("no_file", "{pickle: !$ '0', item: 0, objects: []}", LoadError, {"0": b"PK"}),
    ("no_bytes", "{pickle: !$ '0', item: 0, objects: []}", LoadError, {"0": [1]}),
    ("cut", "{pickle: !$ '0', item: 0, objects: [1]}", LoadError, {"0": _ONE[:-30]}),
    ("back", "{pickle: !$ '0', item: 0, objects: [!back '']}", FlambeSaveError, {"0": _ONE}),
    ("needs_itself", "{pickle: !$ '0', item: 0, objects: [!module 'a:x']}", FlambeSaveError, {"0": _ONE}),
):
    referring(f"refers_{_name}", f"a: !pickled {_config}\nb: 1\n", _errors, "", ITSELF, _stash)
referring(
    "refers_by_its_path",
    "a: !flambe_save.config.pickled.Pickled {pickle: !$ '0', item: 0, objects: [1]}\n",
    FlambeSaveError,
    "",
    ITSELF,
    {"0": _ONE},
)
