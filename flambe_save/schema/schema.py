"""Schema: a construction not yet run, and the Schemas that built objects record.

building.py builds the objects, and yaml.py reads and writes Schemas as text.
"""

from __future__ import annotations

import copy
import functools
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from reprlib import recursive_repr
from typing import Any

import torch

from flambe_save.classes.factories import factory_of
from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.config.scalars import PLAIN
from flambe_save.errors import CompilationError
from flambe_save.objects.arguments import Trail, keys_of, replace_items, signature_of
from flambe_save.objects.assembly import PARTS, assembler_of
from flambe_save.objects.attributes import held_items, held_pairs, own_attributes
from flambe_save.objects.builders import build_with, builder_of
from flambe_save.objects.structural import is_made_of_parts, maker_of
from flambe_save.registry import late
from flambe_save.schema.reference import Reference, Sources

_dump_all, _load = late("flambe_save.describing.yaml:dump_all"), late("flambe_save.describing.yaml:load")

TRANSPARENT: set[type] = set()  # classes in configs whose calls return another object, which records its own call
_UNBUILT = {"_compiled": None, "_compiling": False, "_given": None}  # of a Schema
RECORD = "_schema"  # where a built object keeps the Schema that describes it
WITHOUT_PARTS = frozenset((*PLAIN, torch.Tensor, torch.nn.Parameter))  # types of which there are many
# By the ids of objects, as long as these live: a WeakKeyDictionary would hash and compare them, which runs their code
_records: dict[int, tuple[weakref.ref[Any], Schema]] = {}


class Schema(MutableMapping[str, Any]):
    """A class, or a factory of it, with keyword arguments; calling it makes the object.

    A mapping over the keywords, which can also be read and set with a dot where no method has their name. Keywords
    may hold Schemas and references at any depth of lists, tuples and dicts.

    The order of a call: ``setup_dependencies(kwargs)`` of the class, where it has one, may add to the keywords;
    references that can be followed are; ``precompile(**kwargs)`` of the class sees the result; what is left is built
    in order; the class is called. The same Schema always gives the same object.

    Parameters
    ----------
    component_subclass : type
        The class.
    factory_method : str, optional
        The name of a method declared with ``@registrable_factory``.
    **keywords
        The arguments. A list under the name of a ``*args`` parameter is passed as those positional arguments.

    Examples
    --------
    >>> from flambe_save import Component
    >>> class Layer(Component):
    ...     def __init__(self, size=2):
    ...         self.size = size
    >>> schema = Schema(Layer, size=3)
    >>> schema.size = 4
    >>> schema().size, schema() is schema()
    (4, True)
    """

    component_subclass: type
    factory_method: str | None
    keywords: dict[str, Any]
    _compiled: Any
    _compiling: bool
    _given: dict[str, Any] | None
    _extensions: dict[str, str]
    _created_with_tag: str | None
    _birth: Any  # the print of the built object (changes.py)

    def __init__(self, component_subclass: type, factory_method: str | None = None, /, **keywords: Any) -> None:
        if not isinstance(component_subclass, type):
            raise TypeError(f"a Schema is of a class, not of {component_subclass!r}")
        call = {"component_subclass": component_subclass, "factory_method": factory_method, "keywords": keywords}
        self.__dict__.update(call, _extensions={}, _created_with_tag=None, _birth=None, **_UNBUILT)

    # -------------------------------------------------------------------------------------------- mapping

    def __getitem__(self, key: str) -> Any:
        return self.keywords[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.keywords[key] = value

    def __delitem__(self, key: str) -> None:
        del self.keywords[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keywords)

    def __len__(self) -> int:
        return len(self.keywords)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and name in self.__dict__.get("keywords", ()):
            return self.keywords[name]
        raise AttributeError(f"this Schema has no keyword {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            super().__setattr__(name, value)
        else:
            self.keywords[name] = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schema):
            return NotImplemented
        ours, theirs = ((item.component_subclass, item.factory_method, item.keywords) for item in (self, other))
        return ours == theirs

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **_UNBUILT, "keywords": dict(self.keywords)}  # a copy makes another object

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__["_birth"] = state.get("_birth") or None  # in a pickle it is empty

    def __copy__(self) -> Schema:
        new = Schema(self.component_subclass, self.factory_method)
        new.__dict__.update(self.__getstate__())

        def take(item: Any, _: Trail) -> Any:
            if not isinstance(item, Reference):
                return item
            taken = copy.copy(item)
            taken.within(new)
            return taken

        new.keywords.update((key, replace_items(value, take)) for key, value in self.keywords.items())
        return new

    @property
    def arguments(self) -> dict[str, Any]:
        """The keywords; once it is being built, with the overrides that the call was given."""
        return self.keywords if self._given is None else self._given

    @recursive_repr()
    def __repr__(self) -> str:
        name = self.component_subclass.__name__ + (f".{self.factory_method}" if self.factory_method else "")
        return f"Schema({', '.join([name, *(f'{key}={value!r}' for key, value in self.keywords.items())])})"

    # -------------------------------------------------------------------------------------------- building

    def __call__(self, stash: Mapping[str, Any] | None = None, **overrides: Any) -> Any:
        """Build the object, or return it where it has been built.

        Parameters
        ----------
        stash : mapping, optional
            The objects that ``!$`` references name.
        **overrides
            Keywords to use instead of this Schema's own.

        Raises
        ------
        CompilationError
            If the class is abstract, the arguments do not fit it, it raises, or it is built already and there are
            overrides.
        LinkError
            If a link cannot be followed.
        """
        if self._compiled is not None and overrides:
            raise CompilationError(
                f"{self.component_subclass.__name__} is built already, so {', '.join(overrides)} cannot change",
                fix="Pass overrides to the first call, or copy the Schema.",
            )
        from flambe_save.schema.building import build  # which makes Schemas itself

        return build(self, Sources({} if stash is None else stash, {}, {}), overrides)

    # -------------------------------------------------------------------------------------------- inspection

    def contains(self, schema: Any, original_link: Any = None) -> tuple[bool, list[str]]:
        """Return whether a Schema, or an object built from one, is in this, and the keys to it.

        This itself counts. ``original_link`` is where to stop: what comes after it is not built when it is followed.
        """
        for trail, item in visit(self):
            if item is original_link and item is not None:
                return False, []
            if item is schema or (isinstance(item, Schema) and item._compiled is schema is not None):
                return True, list(keys_of(trail))
        return False, []

    def add_extensions_metadata(self, extensions: Mapping[str, str]) -> None:
        """Note the extensions that the classes of this and all Schemas inside come from."""
        _note_extensions(self, extensions)

    def _note_extension(self, extensions: Mapping[str, str]) -> None:
        module = self.component_subclass.__module__.partition(".")[0]
        self._extensions = {module: extensions[module]} if module in extensions else {}

    def aggregate_extensions_metadata(self) -> dict[str, str]:
        """Return the extensions of this and all Schemas inside."""
        return _extensions_in(self)

    @staticmethod
    def serialize(obj: Any) -> dict[str, Any]:
        """Return ``{"yaml": text, "extensions": {...}}`` for a Schema or a mapping of Schemas."""
        return {"yaml": _dump_all([obj]), "extensions": _extensions_in(obj)}

    @staticmethod
    def deserialize(data: Mapping[str, Any]) -> Any:
        """Return the Schemas that :meth:`serialize` was given."""
        obj = _load(data["yaml"])
        _note_extensions(obj, data["extensions"])
        return obj


def _note_extensions(config: Any, extensions: Mapping[str, str]) -> None:
    for item in items_in(config):
        if isinstance(item, Schema):
            item._note_extension(extensions)


def _extensions_in(config: Any) -> dict[str, str]:
    schemas = (item if isinstance(item, Schema) else schema_of(item) for item in items_in(config))
    return {name: path for schema in schemas if schema is not None for name, path in schema._extensions.items()}


def visit(root: Any) -> Iterator[tuple[Trail, Any]]:
    """Yield ``(trail, item)`` for all inside a Schema, or an object that records one.

    Parents come first, arguments in order; each Schema, recorded object or container is entered once.
    """
    seen: set[int] = set()
    stack: list[tuple[Trail, Any]] = [(None, root)]
    while stack:
        trail, item = stack.pop()
        yield trail, item
        if type(item) in WITHOUT_PARTS or id(item) in seen:
            continue
        keys, values = _inside(item)
        if values:
            seen.add(id(item))
            inner: list[tuple[Trail, Any]] = [
                ((trail, str(key)), value) for key, value in zip(keys, values, strict=True)
            ]
            stack.extend(reversed(inner))


def items_in(root: Any) -> Iterator[Any]:
    """Yield the items of :func:`visit`, in a time that does not grow with their depth."""
    seen: set[int] = set()
    stack: list[Any] = [root]
    while stack:
        item = stack.pop()
        yield item
        if type(item) in WITHOUT_PARTS or id(item) in seen:
            continue
        _, values = _inside(item)
        if values:
            seen.add(id(item))
            stack.extend(reversed(values))


def _inside(item: Any) -> tuple[Iterable[Any], list[Any]]:
    """Return the keys and values of a container, a Schema, or an object that records one."""
    if type(item) is dict:  # as most are
        return item.keys(), list(item.values())
    if isinstance(item, Reference):
        return (), []
    schema = item if type(item) is Schema else schema_of(item)
    if schema is not None:
        return schema.keywords.keys(), list(schema.keywords.values())
    items = held_items(item) if isinstance(item, (list, tuple, set, frozenset)) else None
    if items is not None:
        return range(len(items)), items
    pairs = held_pairs(item) or ()
    return [key for key, _ in pairs], [value for _, value in pairs]


def record(instance: Any, schema: Schema) -> bool:
    """Record on an object the Schema that describes it, so that it can be written again.

    The Schema's keywords hold built objects and no reference back to the object, which would keep it alive. Objects of
    classes that are not registered have it beside them, so that a pickle of them holds no Schema.

    Returns
    -------
    bool
        Whether the class is registered.
    """
    is_ours = type(instance) in TAGS
    try:
        if is_ours:
            instance.__dict__[RECORD] = schema
        elif type(instance).__hash__ is not None:
            key = id(instance)
            _records[key] = weakref.ref(instance, functools.partial(_records.pop, key)), schema
    except (AttributeError, TypeError):
        pass  # an object with slots; only its own adapter can describe it
    return is_ours


def schema_of(obj: Any) -> Schema | None:
    """Return the Schema that a Component, or an object built from one, records; else None."""
    if type(obj) is Schema or issubclass(type(obj), type):  # isinstance would run a __class__ of the object's
        return None
    recorded = own_attributes(obj).get(RECORD)
    if recorded is None:
        held, recorded = _records.get(id(obj), (None, None))
        if held is None or held() is not obj:
            return None
    return recorded if isinstance(recorded, Schema) else None


def calls_constructor(cls: type, factory: str | None) -> bool:
    """Whether a constructor or factory makes the objects, and not their parts alone."""
    return not (factory == PARTS or cls in TRANSPARENT or is_made_of_parts(cls))


def parameters_of(schema: Schema) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a Schema's callable by name; none where it has no signature."""
    try:
        return signature_of(callable_of(schema.component_subclass, schema.factory_method)).parameters
    except (TypeError, ValueError):
        return {}


def defaults_of(schema: Schema) -> dict[str, Any]:
    """Return the defaults of the parameters that a Schema's keywords leave out."""
    return {
        name: parameter.default
        for name, parameter in parameters_of(schema).items()
        if parameter.default is not inspect.Parameter.empty and name not in schema.keywords
    }


def callable_of(cls: type, factory: str | None) -> Callable[..., Any]:
    """Return the callable that makes objects: the class, a factory, builder or assembler."""
    if factory == PARTS:
        return assembler_of(cls)
    if factory is None:
        builder = builder_of(cls)
        if builder is not None:
            return functools.partial(build_with, builder, cls)
        return cls if cls in TAGS or not is_made_of_parts(cls) else maker_of(cls)
    found = factory_of(cls, factory)
    if found is None:
        raise CompilationError(
            f"{dotted_path(cls)} declares no factory {factory!r}", fix="Decorate it with @registrable_factory."
        )
    return found
