"""Records, objects of named fields: dataclasses, classes of attrs, models of pydantic.

None of these libraries is imported here: a program with their classes has imported them.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, NamedTuple

from flambe_save.support.static import static_of

NO_DEFAULT = object()
_OF_PYDANTIC = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")  # slots of each model


class Field(NamedTuple):
    """A field of a record.

    Attributes
    ----------
    name : str
    default : object
        ``NO_DEFAULT`` where there is none.
    factory : callable or None
        Makes the default.
    """

    name: str
    default: Any
    factory: Any


def is_record(cls: Any) -> bool:
    """Whether a class is a record: its objects have fields and come from ``object.__new__``."""
    is_marked = dataclasses.is_dataclass(cls) or "__attrs_attrs__" in vars(cls) or _is_model(cls)
    return is_marked and cls.__new__ is object.__new__


def is_named_tuple(cls: type) -> bool:
    """Whether NamedTuple or namedtuple made a class; False for its subclasses."""
    return cls.__bases__ == (tuple,) and type(static_of(cls, "_fields")) is tuple and "_make" in vars(cls)


def is_written_for_it(value: Any) -> bool:
    """Whether a library wrote a method for the class that has it."""
    return getattr(value, "__module__", None) in ("dataclasses", "attr._make")


def is_known_base(cls: type) -> bool:
    """Whether a class is pydantic's BaseModel, which runs no other code of subclasses."""
    return cls is _base_model()


def is_known_type(cls: type) -> bool:
    """Whether a class has the metaclass of pydantic's models, which answers like ``type``."""
    base = _base_model()
    return base is not None and type(cls) is type(base)


def fields_of(cls: Any) -> list[Field]:
    """Return the fields of a record's class, in order."""
    if dataclasses.is_dataclass(cls):
        return [Field(f.name, _given(f.default), _given(f.default_factory, None)) for f in dataclasses.fields(cls)]
    if _is_model(cls):
        found = vars(cls).get("__pydantic_fields__") or {}
        fields = [Field(name, _given(field.default), field.default_factory) for name, field in found.items()]
        return [*fields, *(Field(name, NO_DEFAULT, None) for name in _OF_PYDANTIC)]
    attr = vars(sys.modules["attr"])
    made, nothing = attr["Factory"], attr["NOTHING"]
    return [
        Field(f.name, NO_DEFAULT, f.default.factory)
        if isinstance(f.default, made)
        else Field(f.name, NO_DEFAULT if f.default is nothing else f.default, None)
        for f in vars(cls)["__attrs_attrs__"]
    ]


def _given(value: Any, otherwise: Any = NO_DEFAULT) -> Any:
    is_given = value is not dataclasses.MISSING and type(value).__name__ != "PydanticUndefinedType"
    return value if is_given else otherwise


def _base_model() -> Any:
    return vars(sys.modules["pydantic.main"]).get("BaseModel") if "pydantic.main" in sys.modules else None


def _is_model(cls: type) -> bool:
    base = _base_model()
    return base is not None and cls is not base and issubclass(cls, base)
