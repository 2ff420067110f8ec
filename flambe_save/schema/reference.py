"""References: config values that stand for objects made elsewhere, and their sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from flambe_save.classes.registrable import Registrable

if TYPE_CHECKING:
    from flambe_save.schema.schema import Schema


class Sources(NamedTuple):
    """The stash, state and parameters in which references find their objects.

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
    """A config value that stands for an object made elsewhere; building puts that in its place.

    Attributes
    ----------
    is_recorded : bool
        Class attribute: the built object records the reference, to be written again, and not what it stands for.
    is_for_containers : bool
        Class attribute: it may stand only where nothing but containers is around it.
    is_of_config : bool
        It was resolved to a container of the config itself, whose items are not built yet.
    """

    is_recorded = False
    is_for_containers = False
    is_of_config = False
    _document: Any = None  # the config around this

    def resolve(self, sources: Sources) -> Any:
        """Return the object; UnpreparedLinkError while it is not there yet."""
        raise NotImplementedError

    def awaits(self) -> Schema | None:
        """Return the Schema that has to be built before this can be resolved, or None."""
        return None

    def through(self, make: Callable[[Any], Any]) -> Reference:
        """Return a reference to a function's result for the object; for one that is resolved last."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop the result of an earlier resolve."""

    def within(self, document: Any) -> None:
        """Note the config around this: a Schema, or a mapping or list of them."""
        self._document = document

    def becomes(self, made_of: Callable[[Any], Any]) -> None:
        """Exchange a container of the config for the one that was built of it."""
