"""Registrable: classes that register themselves under tags; decorators for other classes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from flambe_save.classes.tags import TAGS

C = TypeVar("C", bound=type)

_namespace: ContextVar[str | None] = ContextVar("registration namespace", default=None)


class Registrable:
    """A class whose subclasses can be named in configs, from the moment they are defined.

    A subclass may say how it is written and read by two class methods, ``to_yaml(representer, node, tag)`` and
    ``from_yaml(constructor, node, factory_name)``; without them it is built from the mapping under its tag.

    Parameters
    ----------
    should_register : bool
        Class argument: False leaves this class out.
    tag_override : str, optional
        Class argument: a name other than the class's own.
    tag_namespace : str, optional
        Class argument: a namespace other than the top-level module.
    """

    def __init_subclass__(
        cls,
        should_register: bool = True,
        tag_override: str | None = None,
        tag_namespace: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if should_register:
            _register(cls, tag_override, tag_namespace)


def _register(cls: type, tag: str | None, namespace: str | None) -> None:
    prefixes = [prefix for prefix in (_namespace.get(), namespace) if prefix is not None]
    if tag is None and not prefixes:
        TAGS.add(cls)
    else:
        TAGS.add(cls, ".".join([*prefixes, tag if tag is not None else cls.__name__]))


def alias(tag: str, tag_namespace: str | None = None) -> Callable[[C], C]:
    """Decorate a class with one more tag; the topmost alias is the one it is written with.

    Examples
    --------
    >>> @alias("conv")
    ... class Convolution(Registrable):
    ...     pass
    >>> TAGS.tag_of(Convolution)
    'conv'
    """

    def decorate(cls: C) -> C:
        _register(cls, tag, tag_namespace)
        return cls

    return decorate


def register(cls: C, tag: str) -> C:
    """Give a tag to any class, also to one that is not a Registrable; returns the class."""
    return alias(tag)(cls)


@contextlib.contextmanager
def registration_context(namespace: str) -> Iterator[None]:
    """Register classes defined inside the ``with`` or a decorated function under a namespace."""
    token = _namespace.set(namespace)
    try:
        yield
    finally:
        _namespace.reset(token)


def all_subclasses(class_: type) -> set[type]:
    """Return all subclasses of a class, however deep, without the class itself."""
    found: set[type] = set()
    stack: list[type] = [class_]
    while stack:
        subclasses: list[type] = type.__subclasses__(stack.pop())
        for sub in subclasses:
            if sub not in found:
                found.add(sub)
                stack.append(sub)
    return found
