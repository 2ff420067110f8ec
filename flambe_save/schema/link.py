"""Links: config values that lead to objects of the same config: ``!@ encoder.size``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from flambe_save.classes.registrable import alias
from flambe_save.classes.tags import dotted_path
from flambe_save.config.link_text import create_link_str
from flambe_save.config.scalars import PLAIN
from flambe_save.errors import LinkError, MalformedLinkError, UnpreparedLinkError, quote
from flambe_save.objects.arguments import CONTAINERS
from flambe_save.objects.assembly import Awaited
from flambe_save.objects.attributes import code_behind, held_attribute, held_item, is_callable_value, is_function_of
from flambe_save.objects.special import says_its_class
from flambe_save.objects.walks import module_at
from flambe_save.questions import property_read
from flambe_save.schema.reference import Reference, Sources
from flambe_save.schema.schema import Schema, schema_of
from flambe_save.state import split_key
from flambe_save.trust import trust_in_force


@alias("@")
@alias("link")
class Link(Reference):
    """A value taken from an object that is built earlier in the same config.

    Parameters
    ----------
    schematic_path : sequence of str
        Keys that lead through the config to an object: ``["model", "encoder"]``. Indices of lists are keys too.
    attr_path : sequence of str, optional
        Public attributes to follow from the built object: ``["rnn", "hidden_size"]``.
    target : Schema or object, optional
        The object of the first key. Without it the link is followed in the config that it was read from.

    Attributes
    ----------
    resolved : object
        The value of the link, once it has been followed.
    target_leaf : object
        The built object at the end of ``schematic_path``.
    is_held : bool
        Whether it was followed through what objects hold alone, which needs no trust.
    """

    is_recorded = True
    may_be_callable = False

    def __init__(
        self, schematic_path: Sequence[str], attr_path: Sequence[str] | None = None, target: Any = None
    ) -> None:
        create_link_str(schematic_path, attr_path)  # refuses other texts, private attributes above all
        self.schematic_path = list(schematic_path)
        self.attr_path = list(attr_path or ())
        self.target = target
        self._following = False
        self.forget()

    @property
    def root_schema(self) -> str:
        """The key that the link starts from."""
        return self.schematic_path[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({create_link_str(self.schematic_path, self.attr_path)})"

    def trail(self) -> list[Any]:
        """Return the config and the item at each key, as far as nothing has to be built."""
        found = [self._document]
        try:
            for key in self.schematic_path:
                found.append(step(self, found[-1], key))
        except LinkError:
            pass
        return found

    def forget(self) -> None:
        self.resolved: Any = None
        self.target_leaf: Any = None
        self.is_resolved, self.is_held, self.is_of_config = False, True, False
        self.sources: Sources | None = None

    def becomes(self, made_of: Callable[[Any], Any]) -> None:
        if self.is_of_config:
            self.resolved = self.target_leaf = made_of(self.resolved)

    def __call__(self) -> Any:
        """Follow the link, once.

        Raises
        ------
        UnpreparedLinkError
            If what it points to is not built yet: a later sibling, or a parent.
        MalformedLinkError
            If a key names nothing in the config.
        LinkError
            If the object has no such attribute, or the link leads back to itself.
        UntrustedError
            If code of the object's class gives the attribute, as a property does, and the load under way does not
            trust it.
        """
        if self._following:
            raise LinkError(f"{self!r} leads back to itself", fix="Point one of the links at an object.")
        if not self.is_resolved:
            self._following = True
            try:
                self.resolved = self._follow()
            finally:
                self._following = False
            self.is_resolved = True
        return self.resolved

    def resolve(self, sources: Sources) -> Any:
        self.sources = sources
        try:
            return self()
        finally:
            self.sources = None  # else an object that records the link would keep the save's whole state

    def _follow(self) -> Any:
        current = self.target
        is_of_config = True
        if current is None:
            if self._document is None:
                raise UnpreparedLinkError(
                    f"{self!r} does not know the config it is in", fix="Read it with yaml.load, or set its target."
                )
            current = step(self, self._document, self.root_schema)
        for key in self.schematic_path[1:]:
            current = step(self, current, key)
        if isinstance(current, Reference):
            reference, current = current, _referred(self, current)
            is_of_config = reference.is_of_config
        if isinstance(current, Schema):
            if current._compiled is None:
                raise UnpreparedLinkError(
                    f"{self!r} points to a {current.component_subclass.__name__} that is not built when it is followed",
                    fix="A link can point to what stands before it in the config, not to a parent or a later sibling.",
                )
            current = current._compiled
        self.target_leaf = current
        self.is_of_config = is_of_config and not self.attr_path and type(current) in CONTAINERS
        for index, attribute in enumerate(self.attr_path):
            current = self._attribute(current, index)
            if type(current) not in PLAIN and says_its_class(type(current)):  # which runs wherever the value is used
                hook = f"{dotted_path(type(current))}.__class__"
                trust_in_force().decide([property_read(hook, repr(self), self.attr_path[index + 1 :])])
            is_last = index == len(self.attr_path) - 1
            if not (is_last and self.may_be_callable) and is_callable_value(current):
                raise self._leads_to_function(attribute)
        return current

    def _leads_to_function(self, name: str) -> LinkError:
        return LinkError(
            f"{self!r} leads to the function {name!r}, and a link gives values, never what can be called",
            fix="Write !call for its result.",
        )

    def _attribute(self, current: Any, index: int) -> Any:
        """Return an attribute that the object holds, or with enough trust, that its class computes."""
        name = self.attr_path[index]
        try:
            return held_attribute(current, name)
        except AttributeError as error:
            code = [f"{dotted_path(owner)}.{found}" for owner, found in code_behind(type(current), name)]
            schema = schema_of(current)
            if not code and schema is not None and name in schema.arguments:
                return step(self, schema, name)
            if not code:
                raise LinkError(f"{self!r}: {error}", fix="Name a public attribute of the object.") from error
        if not self.may_be_callable and is_function_of(type(current), name):
            raise self._leads_to_function(name)
        rest = self.attr_path[index + 1 :]
        trust_in_force().decide(property_read(path, repr(self), rest) for path in code)
        self.is_held = False
        try:
            return getattr(current, name)
        except Exception as error:  # whatever the code of the class raises
            raise LinkError(f"{self!r}: {error}", fix="Name a public attribute of the object.") from error


def _referred(link: Reference, current: Reference) -> Any:
    """Return the object of a reference that another link leads to, or through."""
    sources = link.sources if isinstance(link, Link) else None
    if sources is not None:
        return current.resolve(sources)
    return current() if isinstance(current, Link) else current


def step(link: Reference, current: Any, key: str) -> Any:
    """Return the item at one key, in a config or in the arguments that an object records."""
    if isinstance(current, Link):
        current = _referred(link, current)
    schema = current if isinstance(current, Schema) else schema_of(current)
    try:
        return held_item(schema.arguments if schema is not None else current, key)
    except (LookupError, ValueError, AttributeError):
        raise MalformedLinkError(
            f"{link!r}: there is no {key!r} in the config", fix="Check the link's keys against the config."
        ) from None


@alias("call")
class FunctionCallLink(Link):
    """A link to the result of a call of its target, without arguments."""

    may_be_callable = True

    def _follow(self) -> Any:
        target = super()._follow()
        try:
            return target()
        except Exception as error:
            raise LinkError(f"{self!r}: the call raised {type(error).__name__}: {str(error)[:200]}") from error


@alias("parameter")
class ParameterLink(Reference):
    """A parameter or buffer of a module that the same config builds, as an optimizer holds it.

    Parameters
    ----------
    text : str
        The keys that lead to the module in the config, dotted, a colon, and the name inside it:
        ``"model:encoder.weight"``.
    tensor : torch.Tensor, optional
        For a link to be written: its target, of which the text is found then.
    """

    kind = "parameter"
    tables: tuple[str, ...] = ("_parameters", "_buffers")

    def __init__(self, text: str, tensor: Any = None) -> None:
        self.path, colon, self.name = text.partition(":")
        if tensor is None and not (self.path and colon and self.name):
            raise MalformedLinkError(f"{quote(text)} is not a {self.kind}", fix=f"Write model:name.of.the.{self.kind}.")
        self.tensor = tensor

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path}:{self.name})"

    def awaits(self) -> Schema | None:
        """Return the module's Schema if it is not built yet, or the one that a link there awaits."""
        target = self._target()
        if isinstance(target, Reference):
            return target.awaits()
        return target if isinstance(target, Schema) and target._compiled is None else None

    def resolve(self, sources: Sources) -> Any:
        """Return the parameter itself.

        Raises
        ------
        UnpreparedLinkError
            If the module is not built yet.
        LinkError
            If it has no such parameter.
        """
        target = self._target()
        if isinstance(target, Schema):
            if target._compiled is None:
                raise UnpreparedLinkError(f"{self!r} points to a module that is not built yet")
            target = target._compiled
        elif isinstance(target, Reference):
            target = target.resolve(sources)
        outer, _, last = self.name.rpartition(".")
        owner = module_at(target, outer)
        for table in self.tables if isinstance(owner, torch.nn.Module) else ():
            found = vars(owner).get(table, {}).get(last)
            if found is not None:
                return found
        raise LinkError(
            f"{self!r}: the module has no such {self.kind}", fix=f"Name it as named_{self.kind}s() of the module does."
        )

    def _target(self) -> Any:
        target = self._document
        for key in split_key(self.path):
            target = step(self, target, key)
        return target


@alias("module")
class ModuleLink(ParameterLink):
    """A module that the constructor of another made: ``"model:encoder.layers.0"``."""

    kind = "module"
    tables = ("_modules",)


@alias("back")
class BackLink(Reference, Awaited):
    """A container or object of the config, by its state key; adapters put it in last."""

    is_for_containers = True

    def __init__(self, key: str) -> None:
        self.key = key
        self._origin: BackLink | None = None
        self._make: Callable[[Any], Any] = lambda found: found
        self._made: tuple[Any] | None = None

    @property
    def origin(self) -> BackLink:
        """The link in the config that this was made from; most often itself."""
        return self if self._origin is None else self._origin

    def __repr__(self) -> str:
        return f"BackLink({self.key!r})"

    def resolve(self, sources: Sources) -> Any:
        """Return this itself: it stands for the object until all is built."""
        return self

    def through(self, make: Callable[[Any], Any]) -> BackLink:
        found = BackLink(self.key)
        found._origin, found._make = self.origin, make
        return found

    def made_of(self, found: Any) -> Any:
        """Return the replacement of this, made of the object at the key; the same one each time."""
        if self._made is None:
            self._made = (self._make(found),)
        return self._made[0]


class Elsewhere(Reference, should_register=False):
    """An object to be written that has a place of its own, where others link to it."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj
