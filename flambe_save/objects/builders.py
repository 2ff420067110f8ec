"""Builders: adapters that build objects, and know which arguments need trust.

schema.py builds with them; questions.py asks them before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

from flambe_save.questions import argument
from flambe_save.registry import ADAPTERS
from flambe_save.support.static import has_static
from flambe_save.trust import trust_in_force


class Builder(Protocol):
    """An adapter that builds: its Schemas may have other arguments than the class's constructor."""

    def asks(self, cls: type, arguments: Mapping[str, Any]) -> Iterable[str]:
        """Yield the arguments with which the class would read, download or run something else.

        Parameters
        ----------
        cls : type
        arguments : mapping
            Before building, with Schemas and references in place of objects; just before the call, with the objects.
        """

    def build(self, cls: type, arguments: Mapping[str, Any]) -> Any:
        """Build an object of the class."""


def builder_of(cls: type) -> Builder | None:
    """Return the Builder registered for a class; None for a class with its own adapter."""
    adapter = None if has_static(cls, "__flambe_adapter__") else ADAPTERS.for_type(cls)
    return cast(Builder, adapter) if hasattr(adapter, "build") else None


def build_with(builder: Builder, cls: type, /, **arguments: Any) -> Any:
    """Check the arguments against the trust of the load in progress, and build.

    Raises
    ------
    UntrustedError
        If that trust does not allow one.
    """
    trust_in_force().decide(argument(cls.__name__, what) for what in builder.asks(cls, arguments))
    return builder.build(cls, arguments)
