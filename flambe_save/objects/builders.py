"""Builders: adapters that build the objects of a library's classes themselves, and know what their arguments can do.

schema.py builds with them; audit.py asks them, before anything is built, what needs trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

from flambe_save.questions import argument
from flambe_save.registry import ADAPTERS
from flambe_save.support.static import has_static
from flambe_save.trust import trust_in_force

__all__ = ["Builder", "build_with", "builder_of"]


class Builder(Protocol):
    """An adapter that builds what it describes: its Schemas may have other arguments than the class's constructor."""

    def asks(self, cls: type, arguments: Mapping[str, Any]) -> Iterable[str]:
        """Yield what in the arguments would make the class read, download or run something else.

        Parameters
        ----------
        cls : type
        arguments : mapping
            Before building, Schemas and references stand for what they give; just before the call there are none.
        """

    def build(self, cls: type, arguments: Mapping[str, Any]) -> Any:
        """Build an object of the class."""


def builder_of(cls: type) -> Builder | None:
    """Return the adapter registered for a class, where it is a Builder; a class that brings its own has none."""
    adapter = None if has_static(cls, "__flambe_adapter__") else ADAPTERS.for_type(cls)
    return cast(Builder, adapter) if hasattr(adapter, "build") else None


def build_with(builder: Builder, cls: type, /, **arguments: Any) -> Any:
    """Put what the arguments ask for to the trust of the load that is under way, and build.

    Raises
    ------
    UntrustedError
        If that trust does not reach.
    """
    trust_in_force().decide(argument(cls.__name__, what) for what in builder.asks(cls, arguments))
    return builder.build(cls, arguments)
