"""Objects that remember how they were built, as a Schema: of classes that say so, or made while that is asked for."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

from flambe_save.config.arguments import bind_arguments, replace_items
from flambe_save.config.changes import Birth
from flambe_save.config.registrable import TAGS
from flambe_save.config.schema import Schema, record, schema_of
from flambe_save.errors import CompilationError

__all__ = ["RecordsCall", "recorded", "recording"]

C = TypeVar("C", bound=type)


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
        record_call(instance, args, kwargs)
        return instance


def record_call(instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Keep on an object that is being made the arguments that its class was called with."""
    cls = type(instance)
    try:
        schema = Schema(cls)
        memo: dict[int, Any] = {}
        for name, value in bind_arguments(cls, args, kwargs).items():
            schema.keywords[name] = replace_items(value, lambda item, _: item, (), memo)
    except (TypeError, ValueError, CompilationError, RecursionError):
        return  # __init__ will say what is wrong, or the object cannot be described
    record(instance, schema)
    if cls in TAGS:  # of others nothing is changed, so that nobody tells when their constructors return
        _begin(instance, schema)


def _begin(instance: Any, schema: Schema) -> None:
    """Note what a constructor is given, and have it noted what it has made when it returns."""
    try:
        schema._birth = Birth(schema)
    except Exception:  # what an argument's own class raises; the object is saved as its parts then
        return
    cls = type(instance)
    if cls.__init__ is object.__init__:
        _finish(instance)
    elif not hasattr(cls.__init__, _NOTES):
        _note_after(cls)


def _note_after(cls: Any) -> None:
    """Let a class's constructor note what it has made; a subclass's does so itself, after calling this one."""
    inner = cls.__init__

    @functools.wraps(inner)
    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:
        inner(self, *args, **kwargs)
        if type(self).__init__ is __init__:
            _finish(self)

    setattr(__init__, _NOTES, True)
    cls.__init__ = __init__


def _finish(instance: Any) -> None:
    schema = schema_of(instance)
    birth = schema.__dict__.get("_birth") if schema is not None else None
    if birth is not None:
        try:
            birth.finish(instance, schema)
        except Exception:
            schema._birth = None  # type: ignore[union-attr]


_NOTES = "_flambe_notes"
_is_recording: ContextVar[bool] = ContextVar("recording", default=False)


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Record the arguments of every ``nn.Module``, optimizer and scheduler that is made inside the ``with``.

    What was recorded is saved as a config, with no pickle: ``with recording(): model = build()``. Arguments are kept as
    they are passed, containers copied; a class that calls for another's constructor is recorded with its own.

    Examples
    --------
    >>> import torch
    >>> from flambe_save.config.schema import schema_of
    >>> class Net(torch.nn.Module):
    ...     def __init__(self, size):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(size, size)
    >>> with recording():
    ...     net = Net(3)
    >>> schema_of(net)
    Schema(Net, size=3)
    """
    for base in (torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler):
        if base.__new__ is object.__new__:
            # It stays: Python does not take back a __new__ without a trace. Outside of a recording it does nothing.
            base.__new__ = _recording_new  # type: ignore[method-assign,assignment]
    token = _is_recording.set(True)
    try:
        yield
    finally:
        _is_recording.reset(token)


def _recording_new(cls: type, /, *args: Any, **kwargs: Any) -> Any:
    instance: Any = _next_new(cls)(cls, *args, **kwargs)
    is_copy = sys._getframe(1).f_code is copyreg.__newobj__.__code__  # type: ignore[attr-defined]
    if _is_recording.get() and not is_copy:  # a copy is made without the arguments
        record_call(instance, args, kwargs)
    return instance


def _next_new(cls: type) -> Any:
    """Return the ``__new__`` that would be called without the one of a recording: another base may have one."""
    bases = iter(cls.__mro__)
    for base in bases:
        if getattr(vars(base).get("__new__"), "__func__", vars(base).get("__new__")) is _recording_new:
            break
    found = next((vars(base)["__new__"] for base in bases if "__new__" in vars(base)), object.__new__)
    found = getattr(found, "__func__", found)
    return (lambda kind, /, *args, **kwargs: object.__new__(kind)) if found is object.__new__ else found


def recorded(cls: C) -> C:
    """Decorate a class so that its objects record their arguments, and so that configs may name it.

    Like a Component's, its constructor is then run by any load: what :func:`register` says too.

    Examples
    --------
    >>> import torch
    >>> from flambe_save.config.schema import schema_of
    >>> @recorded
    ... class Net(torch.nn.Module):
    ...     def __init__(self, size):
    ...         super().__init__()
    >>> schema_of(Net(3))
    Schema(Net, size=3)
    """
    inherited: Any = cls.__new__

    def make(kind: Any, /, *args: Any, **kwargs: Any) -> Any:
        instance = inherited(kind) if inherited is object.__new__ else inherited(kind, *args, **kwargs)
        record_call(instance, args, kwargs)
        return instance

    cls.__new__ = make  # type: ignore[method-assign]
    cls.__signature__ = _Signature()  # type: ignore[attr-defined]
    cls.__flambe_recorded__ = True  # type: ignore[attr-defined]  # what adapters know it by
    TAGS.add(cls)
    return cls
