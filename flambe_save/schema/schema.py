"""Schema: a construction not yet run. yaml.py reads and writes Schemas; calling one builds the object, once.

Building goes through a Schema's keywords in order: references (links and stash ids, link.py) are followed, Schemas
inside are built, then the class or its factory is called with the result.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from reprlib import recursive_repr
from typing import Any, NamedTuple, Protocol

import torch

from flambe_save.classes.factories import factory_of
from flambe_save.classes.lookup import is_harmless
from flambe_save.classes.registrable import Registrable
from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.classes.well_known import KEEPERS
from flambe_save.config.scalars import PLAIN
from flambe_save.errors import CompilationError, FlambeSaveError, LimitError, LinkError, UnpreparedLinkError, shown
from flambe_save.objects.arguments import CONTAINERS, Trail, call_with, keys_of, replace_items, replacing, signature_of
from flambe_save.objects.assembly import PARTS, assembler_of
from flambe_save.objects.attributes import held_items, held_pairs, own_attributes
from flambe_save.objects.builders import build_with, builder_of
from flambe_save.objects.optimizers import TRAINING
from flambe_save.objects.structural import POINTERS, is_made_of_parts, maker_of
from flambe_save.objects.walks import modules_in
from flambe_save.registry import late
from flambe_save.state import join_key
from flambe_save.support.sizes import MAX_UNFOLDED, unfolded_size
from flambe_save.support.trampoline import Call, Steps, run
from flambe_save.trust import trust_in_force

__all__ = [
    "NOTE_BIRTH",
    "RECORD",
    "TRANSPARENT",
    "WITHOUT_PARTS",
    "Reference",
    "Schema",
    "Sources",
    "build",
    "defaults_of",
    "parameters_of",
    "items_in",
    "record",
    "schema_of",
    "visit",
]

_dump_all, _load = late("flambe_save.describing.yaml:dump_all"), late("flambe_save.describing.yaml:load")

MAX_REPEATED = 1_000_000  # values that arguments may hold beyond those of the config
_MOST_SEEDS = 10_000  # numbers in a seed

NOTE_BIRTH: list[Callable[[Any, Schema], Any]] = []  # changes.py adds its function, which takes Schemas itself
TRANSPARENT: set[type] = set()  # classes in configs whose calls return another object, which records its own call
RECORD = "_schema"  # where a built object keeps the Schema that describes it
WITHOUT_PARTS = frozenset((*PLAIN, torch.Tensor, torch.nn.Parameter))  # types of which there are many
# By the ids of objects, as long as these live: a WeakKeyDictionary would hash and compare them, which runs their code
_records: dict[int, tuple[weakref.ref[Any], Schema]] = {}


class Sources(NamedTuple):
    """What references are taken from, beside the config that they are in.

    Attributes
    ----------
    stash : mapping of str to object
        What YAML cannot hold, by ids.
    state : mapping of str to object
        The save's state.
    parameters : dict of int to torch.nn.Parameter
        Those that were made of the state's tensors, by the ids of these: one tensor is one parameter.
    """

    stash: Mapping[str, Any]
    state: Mapping[str, Any]
    parameters: dict[int, Any]


class Reference(Registrable, should_register=False):
    """Something in a config that stands for an object made elsewhere; building replaces it by that object.

    Attributes
    ----------
    is_recorded : bool
        Class attribute: whether what is built records the reference, to be written again, and not the object.
    is_for_containers : bool
        Class attribute: whether it can only stand where nothing but containers is around it.
    is_of_config : bool
        Whether what it was resolved to is a container of the config, of which nothing is built.
    """

    is_recorded = False
    is_for_containers = False
    is_of_config = False

    def resolve(self, sources: Sources) -> Any:
        """Return the object; UnpreparedLinkError while it is not there yet."""
        raise NotImplementedError

    def awaits(self) -> Schema | None:
        """Return the Schema that is to be built before this can be resolved, or None."""
        return None

    def through(self, make: Callable[[Any], Any]) -> Reference:
        """Return a reference to what a function makes of the object; for those that are resolved when all is built."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what an earlier resolve found."""

    def within(self, document: Any) -> None:
        """Learn which config this is in: a Schema, or a mapping or list of them."""

    def becomes(self, made_of: Callable[[Any], Any]) -> None:
        """Learn what containers of the config have become."""


class Schema(MutableMapping[str, Any]):
    """A class, perhaps one of its factories, and keyword arguments, that make an object when called.

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
    _birth: Any  # of an object that was made: what it was then (changes.py)

    def __init__(self, component_subclass: type, factory_method: str | None = None, /, **keywords: Any) -> None:
        if not isinstance(component_subclass, type):
            raise TypeError(f"a Schema is of a class, not of {component_subclass!r}")
        self.__dict__.update(
            component_subclass=component_subclass,
            factory_method=factory_method,
            keywords=keywords,
            _compiled=None,
            _compiling=False,
            _given=None,
            _extensions={},
            _created_with_tag=None,
            _birth=None,
        )

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
        same = (self.component_subclass, self.factory_method) == (
            other.component_subclass,
            other.factory_method,
        )
        return same and self.keywords == other.keywords

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        # A copy has keywords of its own and is not built: it makes another object
        unbuilt = {"_compiled": None, "_compiling": False, "_given": None}
        return {**self.__dict__, **unbuilt, "keywords": dict(self.keywords)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self.__dict__.get("_birth"):  # nothing is left of it in a pickle
            self.__dict__["_birth"] = None

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
        """The keywords, and once it is being built those that the call was given in their place."""
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
                f"{self._name} is built already, so {', '.join(overrides)} cannot change",
                fix="Pass overrides to the first call, or copy the Schema.",
            )
        return build(self, Sources({} if stash is None else stash, {}, {}), overrides)

    def _building(self, building: _Building, overrides: Mapping[str, Any], path: Trail) -> Steps:
        if self._compiled is not None:
            return self._compiled
        copied = building.copies.copy_for(self) if building.copies is not None else None
        if copied is not None:
            self._compiled = copied
            building.note(copied, 1 + len(self.keywords))
            return copied
        if self._compiling:
            raise CompilationError(f"{self._name} is an argument of itself", node=join_key(keys_of(path)))
        self._compiling = True
        try:
            self._given = {**self.keywords, **overrides}
            return (yield self._constructing(building, self._given, path))
        except FlambeSaveError as error:
            if error.node is None:
                error.locate(node=join_key(keys_of(path)) if path is not None else "")
            raise
        finally:
            self._compiling = False

    def _constructing(self, building: _Building, given: dict[str, Any], path: Trail) -> Steps:
        cls, sources = self.component_subclass, building.sources
        if inspect.isabstract(cls):
            missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
            raise CompilationError(f"{cls.__name__} is abstract", fix=f"Define {missing}, or use a subclass.")
        is_asked = cls in TAGS and self.factory_method != PARTS  # no code runs of classes that nobody registered
        if is_asked and hasattr(cls, "setup_dependencies"):
            cls.setup_dependencies(given)
        ready = {key: replace_items(value, building.resolved, None, building.ready) for key, value in given.items()}
        if is_asked and hasattr(cls, "precompile"):
            cls.precompile(**ready)

        built: dict[str, Any] = {}
        around = building.constructors, building.users
        is_call = not (self.factory_method == PARTS or cls in TRANSPARENT or is_made_of_parts(cls))
        if self.factory_method == PARTS or cls in TRANSPARENT:
            building.constructors = building.users = 0
        elif is_call:
            building.constructors += 1
            building.users += cls not in KEEPERS
        for key, value in ready.items():
            is_plain = type(value) in PLAIN
            built[key] = value if is_plain else (yield replacing(value, building.change, (path, key), building.built))
        building.constructors, building.users = around
        _check_names(cls, built)
        _check_callable(cls, built)
        if building.has_functions and building.users + is_call:
            _check_given(built)
        whole = building.count(cls, built)
        if sources.stash and unfolded_size(built, MAX_UNFOLDED) > MAX_UNFOLDED:
            raise CompilationError("the arguments stand for too many values, with what comes from the stash")
        name = dotted_path(cls) + (f".{self.factory_method}" if self.factory_method else "")
        make = _callable_of(cls, self.factory_method)
        if cls in POINTERS and building.constructors:  # which would call it
            raise CompilationError(f"a {cls.__qualname__} is an argument of a constructor", fix="Correct the config.")
        target = built.get("object") if cls in POINTERS else None
        if isinstance(target, Reference):  # it is there when all is built
            instance: Any = target.through(lambda found: call_with(make, {**built, "object": found}, name))
        else:
            instance = call_with(make, built, name)

        def keep(item: Any, _: Trail) -> Any:
            if isinstance(item, Reference) and not item.is_recorded:
                item = item.resolve(sources)
            if isinstance(item, Reference):  # a copy: the Schema's own is followed anew if it is built again
                item = copy.copy(item)
                item.becomes(building.made_of)
            return item._compiled if isinstance(item, Schema) else item

        self._compiled = instance
        building.note(instance, whole)
        if building.copies is not None:
            building.copies.note(self, instance)
        if is_made_of_parts(cls) or cls in TRANSPARENT:
            return instance  # it shows what it is
        if self.factory_method == PARTS:
            if isinstance(given.get("arguments"), Mapping) and cls in TAGS and not schema_of(instance):
                record(instance, Schema(cls, **given["arguments"]))  # which tells how it was made, and not what it is
            return instance
        kept = {key: replace_items(value, keep, None, building.kept) for key, value in given.items()}
        described = Schema(cls, self.factory_method, **kept)
        described.__dict__.update(_extensions=self._extensions, _created_with_tag=self._created_with_tag)
        described.__dict__["_birth"] = _birth_of(instance, described)
        record(instance, described)
        return instance

    @property
    def _name(self) -> str:
        return self.component_subclass.__name__

    # -------------------------------------------------------------------------------------------- inspection

    def contains(self, schema: Any, original_link: Any = None) -> tuple[bool, list[str]]:
        """Return whether a Schema, or an object built from one, is this or inside this, and the keys that lead to it.

        ``original_link`` is where to stop: what comes after it is not built when it is followed.
        """
        for trail, item in visit(self):
            if item is original_link and item is not None:
                return False, []
            if item is schema or (isinstance(item, Schema) and item._compiled is schema is not None):
                return True, list(keys_of(trail))
        return False, []

    def add_extensions_metadata(self, extensions: Mapping[str, str]) -> None:
        """Note, here and in all Schemas inside, which of a config's extensions its class comes from."""
        for item in items_in(self):
            if isinstance(item, Schema):
                item._note_extension(extensions)

    def _note_extension(self, extensions: Mapping[str, str]) -> None:
        module = self.component_subclass.__module__.partition(".")[0]
        self._extensions = {module: extensions[module]} if module in extensions else {}

    def aggregate_extensions_metadata(self) -> dict[str, str]:
        """Return the extensions of this and all Schemas inside."""
        found: dict[str, str] = {}
        for item in items_in(self):
            schema = item if isinstance(item, Schema) else schema_of(item)
            if schema is not None:
                found.update(schema._extensions)
        return found

    @staticmethod
    def serialize(obj: Any) -> dict[str, Any]:
        """Return ``{"yaml": text, "extensions": {...}}`` for a Schema or a mapping of Schemas."""
        extensions: dict[str, str] = {}
        for item in items_in(obj):
            if isinstance(item, Schema):
                extensions.update(item._extensions)
        return {"yaml": _dump_all([obj]), "extensions": extensions}

    @staticmethod
    def deserialize(data: Mapping[str, Any]) -> Any:
        """Return what :meth:`serialize` was given."""
        obj = _load(data["yaml"])
        for item in items_in(obj):
            if isinstance(item, Schema):
                item._note_extension(data["extensions"])
        return obj


class _Building:
    """One building of a config and all Schemas inside it: its sources, and the copies of containers that they share."""

    def __init__(self, sources: Sources, copies: Copies | None) -> None:
        self.sources = sources
        self.copies = copies
        self.ready: dict[int, Any] = {}
        self.built: dict[int, Any] = {}
        self.kept: dict[int, Any] = {}
        self.size = 0  # of the config, in items
        self.is_counted = trust_in_force().weights_only
        self.counted = 0  # values in arguments
        self.sizes: dict[int, int] = {}  # of built containers
        self.unfolded: dict[int, int] = {}  # the same, with what is in the objects in them
        self.objects: dict[int, int] = {}  # how many values what Schemas have built stands for
        self.made: dict[int, Any] = {}  # containers that Schemas have built
        self.has_functions = False  # whether the config hands on functions, methods or weak references
        self.constructors = 0  # how many calls of constructors, for whose arguments something is being built
        self.users = 0  # how many of these may do more with an argument than keep it

    def resolved(self, item: Any, path: Trail) -> Any:
        """Return what a reference stands for, as far as that is there yet; a container of the config has its own."""
        if not isinstance(item, Reference):
            return item
        try:
            found = item.resolve(self.sources)
        except UnpreparedLinkError:
            return item
        return Call(replacing(found, self.resolved, path, self.ready)) if item.is_of_config else found

    def made_of(self, container: Any) -> Any:
        """Return what a container of the config has become."""
        return self.built.get(id(self.ready.get(id(container))), container)

    def count(self, cls: type, arguments: Mapping[str, Any]) -> int:
        """Count the values in a class's arguments; return how many they stand for, with what is in objects among them.

        Raises
        ------
        LimitError
            If they are far more than the config itself has, because links, aliases and ranges name them again and
            again. A class that the program has registered may be given ranges of any number.
        """
        if not self.is_counted:
            return 1
        parts = [value for value in arguments.values() if type(value) not in WITHOUT_PARTS]
        whole = 1 + len(arguments) - len(parts)
        self.counted += whole
        for value in parts:
            own = len(value) if type(value) is range and cls not in TAGS else 0
            self.counted += own + self.size_of(value, self.sizes, {})
            whole += self.size_of(value, self.unfolded, self.objects)
        most = max(self.counted, whole)
        if most > max(MAX_REPEATED, 4 * self.size):
            raise LimitError(
                f"the config gives {most:,} values to what it builds, and has {self.size:,}",
                fix="Look at its links, aliases and ranges. If you know who wrote it: load(..., weights_only=False).",
            )
        if parts:
            _check_seeds(cls, arguments)
        return whole

    def note(self, instance: Any, whole: int) -> None:
        """Note what a Schema has built, and how many values it stands for."""
        if type(instance) in CONTAINERS:
            self.made[id(instance)] = instance
        self.objects[id(instance)] = whole

    def size_of(self, value: Any, sizes: dict[int, int], objects: dict[int, int]) -> int:
        """Return how many values a container stands for, what is in several places counted in each.

        What Schemas have built counts as ``objects`` says, or as one. ``sizes`` keeps those of containers.
        """

        def is_open(item: Any) -> bool:
            return type(item) in CONTAINERS and id(item) not in self.made

        def of_object(item: Any) -> int:
            return 1 if type(item) in WITHOUT_PARTS else objects.get(id(item), 1)

        waiting = [value] if is_open(value) else []
        while waiting:
            container = waiting[-1]
            items = [*container, *container.values()] if isinstance(container, dict) else [*container]
            inside = [item for item in items if is_open(item)]
            unknown = [] if id(container) in sizes else [item for item in inside if id(item) not in sizes]
            if unknown:
                waiting.extend(unknown)
                continue
            sizes[id(container)] = 1 + sum(sizes[id(item)] if is_open(item) else of_object(item) for item in items)
            waiting.pop()
        return sizes[id(value)] if is_open(value) else of_object(value)

    def change(self, item: Any, path: Trail) -> Any:
        """Return what takes the place of an item: what a reference stands for, and what a Schema builds."""
        if isinstance(item, Reference):
            awaited = item.awaits()
            if awaited is not None and not awaited._compiling:
                return Call(self._after(awaited, item, path))
            if item.is_for_containers and self.constructors:
                raise LinkError(f"{item!r} is an argument of a constructor", fix="It can stand in containers alone.")
            reference, item = item, item.resolve(self.sources)
            if reference.is_of_config:
                return Call(replacing(self.ready.get(id(item), item), self.change, path, self.built))
            if isinstance(item, Reference) and item is not reference:
                return self.change(item, path)
        return Call(item._building(self, {}, path)) if isinstance(item, Schema) else item

    def _after(self, awaited: Schema, item: Reference, path: Trail) -> Steps:
        yield awaited._building(self, {}, path)
        return item.resolve(self.sources)


class Copies(Protocol):
    """What may have a copy in place of an object to build: layers.py."""

    def copy_for(self, schema: Schema) -> Any:
        """Return a copy of what was built before; None where the Schema is to be built."""

    def note(self, schema: Schema, made: Any) -> None:
        """Note what was built."""


def build(
    config: Any, sources: Sources, overrides: Mapping[str, Any] | None = None, copies: Copies | None = None
) -> Any:
    """Build what a config describes: a Schema's object, or containers with what the Schemas in them build.

    Parameters
    ----------
    config : Schema or object
    sources : Sources
    overrides : mapping, optional
        Keywords to use instead of the Schema's own.
    copies : Copies, optional

    Raises
    ------
    CompilationError, LinkError
        As a call of a Schema.
    """
    building = _Building(sources, copies)
    if not (isinstance(config, Schema) and config._compiled is not None):
        for item in items_in(config):
            building.size += 1
            is_pointer = isinstance(item, Schema) and item.component_subclass in POINTERS
            building.has_functions = building.has_functions or is_pointer or type(item) is types.FunctionType
            if isinstance(item, Reference):
                item.forget()
    try:
        if isinstance(config, Schema):
            return run(config._building(building, overrides or {}, None))
        # In the two steps that a Schema's arguments take, so that what both hold is one
        ready = replace_items(config, building.resolved, None, building.ready)
        built = run(replacing(ready, building.change, None, building.built))
        building.count(object, {"": built})
        return built
    except RecursionError as error:
        raise LinkError("the links of the config lead from one to the next too many times") from error


def visit(root: Any) -> Iterator[tuple[Trail, Any]]:
    """Yield ``(trail, item)`` for everything in the arguments of a Schema, or of an object that records one.

    Parents come first, arguments in order; each Schema, recorded object or container is gone into once.
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
    """Yield the items that :func:`visit` yields, in no more time than there are items, however deep they are."""
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
    """Return the keys and values of the arguments of a Schema, or of an object that records one, or of a container."""
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
    """Keep on an object the Schema that describes it, so that it can be written again.

    The Schema's keywords hold built objects; it does not refer back to the object, or memory would outlive its last
    user. Objects of classes that are not ours keep it beside them, so that whoever pickles them pickles no Schema.

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
        pass  # an object with slots, or without a hash; only its own adapter can describe it
    return is_ours


def schema_of(obj: Any) -> Schema | None:
    """Return the Schema that an object records, where it is a Component or was built from a Schema."""
    if type(obj) is Schema or issubclass(type(obj), type):  # isinstance would ask the object for its class
        return None
    recorded = own_attributes(obj).get(RECORD)
    if recorded is None:
        held, recorded = _records.get(id(obj), (None, None))
        if held is None or held() is not obj:
            return None
    return recorded if isinstance(recorded, Schema) else None


def parameters_of(schema: Schema) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a Schema's callable by their names; none where it tells none."""
    try:
        return signature_of(_callable_of(schema.component_subclass, schema.factory_method)).parameters
    except (TypeError, ValueError):
        return {}


def defaults_of(schema: Schema) -> dict[str, Any]:
    """Return the defaults of the parameters that a Schema's keywords leave out."""
    return {
        name: parameter.default
        for name, parameter in parameters_of(schema).items()
        if parameter.default is not inspect.Parameter.empty and name not in schema.keywords
    }


def _birth_of(instance: Any, described: Schema) -> Any:
    """Return what an object was when it was made; what a factory has made is known when that has returned."""
    made = schema_of(instance)
    birth = None if made is None else made.__dict__.get("_birth")
    if described.factory_method is None and birth is not None:
        return birth
    return NOTE_BIRTH[0](instance, described) if type(instance) in TAGS else None


def _check_callable(cls: type, arguments: Mapping[str, Any]) -> None:
    """Refuse what optimizers and schedulers would call, or call something of: modules but torch's own, which only
    compute, methods, and objects of other libraries, also as what is filled in of a function."""
    if not issubclass(cls, TRAINING):
        return
    waiting = [*arguments.values()]
    while waiting:
        item = waiting.pop()
        if not _may_be_called(item):
            raise CompilationError(f"a {cls.__name__} takes no {type(item).__qualname__}", fix="Correct the config.")
        if type(item) in (list, tuple):
            waiting.extend(item)
        elif type(item) is functools.partial:
            waiting.extend((item.func, *item.args, *item.keywords.values()))


def _check_given(arguments: Mapping[str, Any]) -> None:
    """Refuse methods, weak references and functions in what a constructor is given, also where a list is given that
    stands elsewhere; one that only computes, or is trusted, may be."""
    waiting, seen = [*arguments.values()], set()
    while waiting:
        item = waiting.pop()
        cls: Any = type(item)
        if cls in WITHOUT_PARTS or id(item) in seen:
            continue
        seen.add(id(item))
        path = f"{item.__module__}.{item.__qualname__}" if cls is types.FunctionType else ""
        if cls in POINTERS or (path and not (is_harmless(item) or trust_in_force().allows(path))):
            raise CompilationError(
                f"a {path or cls.__qualname__} is an argument of a constructor", fix="Correct the config."
            )
        if cls is functools.partial:
            waiting.extend((item.func, *item.args, *item.keywords.values()))
        elif cls in CONTAINERS:
            waiting.extend([*item, *item.values()] if isinstance(item, dict) else item)


def _may_be_called(item: Any) -> bool:
    cls: Any = type(item)
    if isinstance(item, torch.nn.Module):
        return all(type(inner).__module__.startswith("torch.nn.modules.") for _, inner in modules_in(item))
    if isinstance(item, (torch.Tensor, *TRAINING)) or cls in TAGS:
        return True
    is_known = cls.__module__.partition(".")[0] in ("torch", "numpy", *sys.stdlib_module_names)
    return cls is not types.MethodType and (is_known or trust_in_force().allows(dotted_path(cls)))


def _check_seeds(cls: type, arguments: Mapping[str, Any]) -> None:
    """Refuse seeds that a generator would go through for long: ranges in lists, and lists of very many numbers."""
    if not cls.__module__.startswith(("numpy.random", "random")):
        return
    waiting, count = [*arguments.values()], 0
    while waiting:
        item = waiting.pop()
        count += 1
        if type(item) in (list, tuple):
            count += len(item)
            waiting.extend(item if count <= _MOST_SEEDS else ())
        elif type(item) is range:
            count += len(item)
    if count > _MOST_SEEDS:
        raise CompilationError(f"a seed of more than {_MOST_SEEDS} numbers", fix="Correct the config.")


def _check_names(cls: type, arguments: dict[str, Any]) -> None:
    """Refuse names that torch would set as attributes over a module's own: its class, its tables, its methods."""
    names = arguments.get("parameters") if issubclass(cls, torch.nn.ParameterDict) else None
    if names is None:
        return
    taken = {*dir(torch.nn.ParameterDict), *vars(torch.nn.ParameterDict())}
    pairs = names if isinstance(names, Mapping) else [pair[0] for pair in names if isinstance(pair, (list, tuple))]
    for name in pairs:
        if type(name) is not str or name in taken or name.startswith("__"):
            raise CompilationError(f"{shown(name)} is no name of a parameter", fix="Correct the config.")
    if type(names) is dict:
        arguments["parameters"] = OrderedDict(names)  # torch sorts what has no order that counts


def _callable_of(cls: type, factory: str | None) -> Callable[..., Any]:
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
            f"{dotted_path(cls)} declares no factory {factory!r}",
            fix="Decorate it with @registrable_factory.",
        )
    return found
