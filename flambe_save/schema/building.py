"""Building: the objects of a config's Schemas, arguments before the objects that take them.

For each Schema the references in its keywords are followed, the Schemas in them are built, and the class or its
factory is called with the result. The object then records what it was built from.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.classes.well_known import KEEPERS
from flambe_save.config.scalars import PLAIN
from flambe_save.errors import CompilationError, FlambeSaveError, LinkError, UnpreparedLinkError
from flambe_save.objects.arguments import Trail, call_with, keys_of, replace_items, replacing
from flambe_save.objects.assembly import PARTS
from flambe_save.objects.structural import POINTERS, is_made_of_parts
from flambe_save.schema.checks import Counts, check_callables, check_functions, check_names
from flambe_save.schema.layers import Layers
from flambe_save.schema.reference import Reference, Sources
from flambe_save.schema.schema import (
    TRANSPARENT,
    Schema,
    callable_of,
    calls_constructor,
    items_in,
    record,
    schema_of,
)
from flambe_save.state import join_key
from flambe_save.support.sizes import MAX_UNFOLDED, unfolded_size
from flambe_save.support.trampoline import Call, Steps, run

NOTE_BIRTH: list[Callable[[Any, Schema], Any]] = []  # changes.py adds its function, which takes Schemas itself


def build(
    config: Any, sources: Sources, overrides: Mapping[str, Any] | None = None, copies: Layers | None = None
) -> Any:
    """Build a Schema's object, or containers with the objects of the Schemas in them.

    Parameters
    ----------
    config : Schema or container
    sources : Sources
    overrides : mapping, optional
        Keywords to use instead of the Schema's own.
    copies : Layers, optional
        Layers that may be copies of ones built before.

    Raises
    ------
    CompilationError, LinkError
        As a call of a Schema.
    """
    size, has_functions = 0, False
    for item in () if isinstance(config, Schema) and config._compiled is not None else items_in(config):
        size += 1
        if isinstance(item, Reference):
            item.forget()
        elif type(item) is types.FunctionType or (isinstance(item, Schema) and item.component_subclass in POINTERS):
            has_functions = True
    building = _Building(sources, copies, Counts(size), has_functions)
    try:
        if isinstance(config, Schema):
            return run(building.object_of(config, overrides or {}, None))
        # In the two steps that a Schema's arguments take, so that what both hold is one
        ready = replace_items(config, building.resolved, None, building.ready)
        built = run(replacing(ready, building.change, None, building.built))
        building.counts.add(object, {"": built})
        return built
    except RecursionError as error:
        raise LinkError("the links of the config lead from one to the next too many times") from error


class _Building:
    """One building of a config: its sources, and the containers that its Schemas share."""

    def __init__(self, sources: Sources, copies: Layers | None, counts: Counts, has_functions: bool) -> None:
        self.sources = sources
        self.copies = copies
        self.counts = counts
        self.has_functions = has_functions  # in the config: functions, methods or weak references
        # By the ids of what they are copies of:
        self.ready: dict[int, Any] = {}  # containers of the config, with references resolved
        self.built: dict[int, Any] = {}  # those in turn, with Schemas built
        self.kept: dict[int, Any] = {}  # containers of the config, as objects record them
        self.constructors = 0  # how many calls of constructors, for whose arguments something is being built
        self.users = 0  # how many of these may do more with an argument than keep it

    def object_of(self, schema: Schema, overrides: Mapping[str, Any], path: Trail) -> Steps:
        """Return the object of a Schema, built where it was not yet."""
        if schema._compiled is not None:
            return schema._compiled
        copied = self.copies.copy_for(schema) if self.copies is not None else None
        if copied is not None:
            schema._compiled = copied
            self.counts.note(copied, 1 + len(schema.keywords))
            return copied
        if schema._compiling:
            name = schema.component_subclass.__name__
            raise CompilationError(f"{name} is an argument of itself", node=join_key(keys_of(path)))
        schema._compiling = True
        try:
            schema._given = {**schema.keywords, **overrides}
            return (yield self._construct(schema, schema._given, path))
        except FlambeSaveError as error:
            if error.node is None:
                error.locate(node=join_key(keys_of(path)) if path is not None else "")
            raise
        finally:
            schema._compiling = False

    def _construct(self, schema: Schema, given: dict[str, Any], path: Trail) -> Steps:
        """Build a Schema's arguments, call its class with them, and record them on the object."""
        cls, is_of_parts = schema.component_subclass, schema.factory_method == PARTS
        if inspect.isabstract(cls):
            missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
            raise CompilationError(f"{cls.__name__} is abstract", fix=f"Define {missing}, or use a subclass.")
        is_asked = cls in TAGS and not is_of_parts  # no code runs of classes that are not registered
        if is_asked and hasattr(cls, "setup_dependencies"):
            cls.setup_dependencies(given)
        ready = {key: replace_items(value, self.resolved, None, self.ready) for key, value in given.items()}
        if is_asked and hasattr(cls, "precompile"):
            cls.precompile(**ready)

        built: dict[str, Any] = {}
        around = self.constructors, self.users
        is_call = calls_constructor(cls, schema.factory_method)
        if is_of_parts or cls in TRANSPARENT:
            self.constructors = self.users = 0
        elif is_call:
            self.constructors += 1
            self.users += cls not in KEEPERS
        for key, value in ready.items():
            is_plain = type(value) in PLAIN
            built[key] = value if is_plain else (yield replacing(value, self.change, (path, key), self.built))
        self.constructors, self.users = around
        check_names(cls, built)
        check_callables(cls, built)
        if self.has_functions and self.users + is_call:
            check_functions(built)
        whole = self.counts.add(cls, built)
        if self.sources.stash and unfolded_size(built, MAX_UNFOLDED) > MAX_UNFOLDED:
            raise CompilationError("the arguments stand for too many values, with what comes from the stash")
        instance = schema._compiled = self._call(schema, built)
        self.counts.note(instance, whole)
        if self.copies is not None:
            self.copies.note(schema, instance)
        if is_call:
            self._record(instance, schema, given)
        elif is_of_parts and not (cls in TRANSPARENT or is_made_of_parts(cls)):
            arguments = given.get("arguments")  # of the call that made it, which says nothing of what it is now
            if isinstance(arguments, Mapping) and cls in TAGS and not schema_of(instance):
                record(instance, Schema(cls, **arguments))
        return instance

    def _call(self, schema: Schema, arguments: dict[str, Any]) -> Any:
        cls, factory = schema.component_subclass, schema.factory_method
        name = dotted_path(cls) + (f".{factory}" if factory else "")
        make = callable_of(cls, factory)
        if cls in POINTERS and self.constructors:  # which would call it
            raise CompilationError(f"a {cls.__qualname__} is an argument of a constructor", fix="Correct the config.")
        target = arguments.get("object") if cls in POINTERS else None
        if isinstance(target, Reference):  # it is there when all is built
            return target.through(lambda found: call_with(make, {**arguments, "object": found}, name))
        return call_with(make, arguments, name)

    def _record(self, instance: Any, schema: Schema, given: Mapping[str, Any]) -> None:
        """Record a Schema of the objects that an object was built from, and of links to write again."""
        cls, factory = schema.component_subclass, schema.factory_method
        kept = {key: replace_items(value, self._kept, None, self.kept) for key, value in given.items()}
        described = Schema(cls, factory, **kept)
        described._extensions, described._created_with_tag = schema._extensions, schema._created_with_tag
        described._birth = _birth_of(instance, described)
        record(instance, described)

    def _kept(self, item: Any, _: Trail) -> Any:
        if isinstance(item, Reference) and not item.is_recorded:
            item = item.resolve(self.sources)
        if isinstance(item, Reference):  # a copy: the Schema's own is followed anew if it is built again
            item = copy.copy(item)
            item.becomes(self._made_of)
        return item._compiled if isinstance(item, Schema) else item

    def _made_of(self, container: Any) -> Any:
        """Return the container that was built of one in the config."""
        return self.built.get(id(self.ready.get(id(container))), container)

    def resolved(self, item: Any, path: Trail) -> Any:
        """Return the object of a reference, or the reference where that is not built yet."""
        if not isinstance(item, Reference):
            return item
        try:
            found = item.resolve(self.sources)
        except UnpreparedLinkError:
            return item
        return Call(replacing(found, self.resolved, path, self.ready)) if item.is_of_config else found

    def change(self, item: Any, path: Trail) -> Any:
        """Return the object that takes the place of a reference or of a Schema; other items stay."""
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
        return Call(self.object_of(item, {}, path)) if isinstance(item, Schema) else item

    def _after(self, awaited: Schema, item: Reference, path: Trail) -> Steps:
        yield self.object_of(awaited, {}, path)
        return item.resolve(self.sources)


def _birth_of(instance: Any, described: Schema) -> Any:
    """Return the print of an object as it was made; for a factory's object, as it was returned.

    None where the class is not registered and its constructor was not noted.
    """
    made = schema_of(instance)
    birth = None if made is None else made._birth
    if described.factory_method is None and birth is not None:
        return birth
    return NOTE_BIRTH[0](instance, described) if type(instance) in TAGS else None
