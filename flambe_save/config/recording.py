"""RecordsCall: objects that remember how they were built, as a Schema."""

from __future__ import annotations

import inspect
from typing import Any

from flambe_save.config.arguments import bind_arguments, replace_items
from flambe_save.config.schema import Schema, record
from flambe_save.errors import CompilationError

__all__ = ["RecordsCall"]


class _Signature:
    """Makes a class's signature that of its ``__init__``: ``__new__`` below takes anything, and would hide it."""

    def __get__(self, obj: Any, cls: type) -> inspect.Signature:
        if obj is not None:  # an instance that can be called has a signature of its own
            raise AttributeError("__signature__")
        init: Any = getattr(cls, "__init__")  # noqa: B009  (mypy takes the plain access for one on an instance)
        parameters = () if init is object.__init__ else list(inspect.signature(init).parameters.values())[1:]
        return inspect.Signature(parameters)


class RecordsCall:
    """Mixed into a class, makes its objects record the arguments that they are built with.

    Containers among the arguments are copied, so that ``__init__`` may change its own. A call that a mapping of names
    to values cannot hold is not recorded.
    """

    __signature__ = _Signature()

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Any:
        """Make the object and record the arguments."""
        if cls.__init__ is object.__init__ and (args or kwargs):
            raise TypeError(f"{cls.__name__}() takes no arguments")  # object would not say so, as there is a __new__
        make: Any = super().__new__
        instance = make(cls) if make is object.__new__ else make(cls, *args, **kwargs)
        try:
            schema = Schema(cls)
            memo: dict[int, Any] = {}
            for name, value in bind_arguments(cls, args, kwargs).items():
                schema.keywords[name] = replace_items(value, lambda item, _: item, (), memo)
        except (TypeError, CompilationError, RecursionError):
            return instance  # __init__ will say what is wrong, or the object cannot be described
        record(instance, schema)
        return instance
