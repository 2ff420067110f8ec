"""MappedRegistrable: classes of plain options, built as soon as a config is read."""

from __future__ import annotations

from typing import Any

from flambe_save.classes.registrable import Registrable
from flambe_save.describing.recording import RecordsCall
from flambe_save.errors import CompilationError
from flambe_save.schema.schema import Schema, schema_of


class MappedRegistrable(Registrable, RecordsCall, should_register=False):
    """A class that is built as soon as its tag is read, from the mapping under it."""

    @classmethod
    def from_yaml(cls, constructor: Any, node: Any, factory_name: str | None) -> Any:
        """Build an instance; ``!Class`` alone means no arguments.

        Raises
        ------
        CompilationError
            If the class is abstract or the arguments do not fit.
        """
        schema = Schema(cls, factory_name)
        schema.keywords.update(constructor.construct_arguments(node))
        return schema()

    @classmethod
    def to_yaml(cls, representer: Any, node: Any, tag: str) -> Any:
        """Write the arguments that an instance was built from."""
        schema = schema_of(node)
        if schema is None:
            raise CompilationError(f"the arguments of this {cls.__name__} were not recorded")
        if schema.factory_method and not tag.endswith(f".{schema.factory_method}"):
            tag = f"{tag}.{schema.factory_method}"
        return representer.represent_mapping(tag, schema.keywords)
