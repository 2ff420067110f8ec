"""Factories: class methods that configs may call to make an object."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from flambe_save.objects.assembly import PARTS, assembler_of, has_parts
from flambe_save.support.static import bases_of, names_of

F = TypeVar("F")

NEEDS_TRUST = "_flambe_needs_trust"  # marks a factory that reads or downloads what its arguments name
_FACTORY = "_flambe_factory"  # marks a method as a factory


def registrable_factory(method: F) -> F:
    """Decorate a class method so that a config may call it: ``!Vocab.from_text {text: ...}``.

    Below or above ``@classmethod``, or without it.
    """
    if inspect.isfunction(method):
        return _Factory(method)  # type: ignore[return-value]
    setattr(getattr(method, "__func__", method), _FACTORY, True)
    return method


class _Factory:
    """A function declared as a factory: a class method, also without ``@classmethod``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        setattr(self, _FACTORY, True)

    def __set_name__(self, owner: type, name: str) -> None:
        wrapped: Any = classmethod(self.__wrapped__)  # type: ignore[attr-defined]
        setattr(wrapped.__func__, _FACTORY, True)
        setattr(owner, name, wrapped)

    def __call__(self, cls: type, /, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(cls, *args, **kwargs)  # type: ignore[attr-defined]


def factory_of(cls: type, name: str) -> Callable[..., Any] | None:
    """Return a class's factory of a name, bound to it, or None; an override needs no decorator.

    Each class whose objects can be put together from their parts has the factory ``parts``.
    """
    if name == PARTS and has_parts(cls):
        return assembler_of(cls)
    if any(getattr(function, _FACTORY, False) is True for function in _functions_of(cls, name)):
        return getattr(cls, name)  # type: ignore[no-any-return]
    return None


def needs_trust(cls: type, name: str) -> bool:
    """Whether a factory, or one that it overrides, reads or downloads what its arguments name."""
    return any(getattr(function, NEEDS_TRUST, False) for function in _functions_of(cls, name))


def _functions_of(cls: type, name: str) -> Iterator[Callable[..., Any]]:
    """Yield the plain functions of a name in a class and its bases."""
    for base in bases_of(cls):
        declared = names_of(base).get(name)
        function = declared.__func__ if isinstance(declared, (staticmethod, classmethod)) else declared
        if type(function) in (types.FunctionType, _Factory):
            yield function
