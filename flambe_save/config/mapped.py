"""MappedRegistrable: classes of plain options, built as soon as a config is read."""

from __future__ import annotations

from typing import Any

from flambe_save.config.registrable import Registrable
from flambe_save.config.schema import Schema, schema_of

__all__ = ["MappedRegistrable"]


class MappedRegistrable(Registrable, should_register=False):
    """A class that is built at once when its tag is read from a config, from the mapping under it."""

    @classmethod
    def from_yaml(cls, constructor: Any, node: Any, factory_name: str | None) -> Any:
        """Build an instance; ``!Class`` alone means no arguments.

        Raises
        ------
        CompilationError
            If the class is abstract or the arguments do not fit.
        """
        return Schema(cls, factory_name, **constructor.construct_mapping(node))()

    @classmethod
    def to_yaml(cls, representer: Any, node: Any, tag: str) -> Any:
        """Write the arguments that an instance was built from."""
        schema = schema_of(node)
        return representer.represent_mapping(tag, schema.keywords if schema is not None else {})
