"""Recording: objects keep the call of their constructor as a Schema."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import torch

from flambe_save.classes.registrable import all_subclasses
from flambe_save.classes.tags import TAGS
from flambe_save.describing.changes import Birth
from flambe_save.errors import CompilationError
from flambe_save.objects.arguments import bind_arguments, replace_items
from flambe_save.objects.attributes import own_attributes
from flambe_save.objects.optimizers import TRAINING
from flambe_save.schema.schema import RECORD, Schema, record, schema_of

C = TypeVar("C", bound=type)


class _Signature:
    """The signature of ``__init__``, which a ``__new__`` that takes anything would hide."""

    def __get__(self, obj: Any, cls: type) -> inspect.Signature:
        if obj is not None:  # an instance that can be called has a signature of its own
            raise AttributeError("__signature__")
        init: Any = getattr(cls, "__init__")  # noqa: B009  (mypy takes the plain access for one on an instance)
        parameters = () if init is object.__init__ else list(inspect.signature(init).parameters.values())[1:]
        return inspect.Signature(parameters)


class RecordsCall:
    """A mixin whose objects record the arguments that they are built with.

    Containers among the arguments are copied, so that ``__init__`` may change its own. A call that a mapping of names
    to values cannot hold is not recorded.
    """

    __signature__ = _Signature()

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Any:
        """Make the object and record the arguments."""
        if cls.__init__ is object.__init__ and (args or kwargs):
            raise TypeError(f"{cls.__name__}() takes no arguments")  # object does not check this beside a __new__
        make: Any = super().__new__
        instance = make(cls) if make is object.__new__ else make(cls, *args, **kwargs)
        record_call(instance, args, kwargs)
        return instance


def record_call(instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Record a call on the object that it is making."""
    cls = type(instance)
    try:
        schema = Schema(cls)
        memo: dict[int, Any] = {}
        for name, value in bind_arguments(cls, args, kwargs).items():
            schema.keywords[name] = replace_items(value, lambda item, _: item, None, memo)
    except (TypeError, ValueError, CompilationError, RecursionError):
        return  # __init__ raises what is wrong, or the object cannot be described
    if record(instance, schema):  # constructors of other classes are not wrapped, so their end is not seen
        _begin(instance, schema)


def _begin(instance: Any, schema: Schema) -> None:
    """Print the arguments of a constructor, and have its object printed when it returns."""
    try:
        schema.__dict__["_birth"] = Birth(schema)
    except Exception:  # from an argument's own class; the object is then saved as its parts
        return
    cls = type(instance)
    if cls.__init__ is object.__init__:
        _finish(instance)
    elif not hasattr(cls.__init__, _NOTES):
        _note_after(cls)


def _note_after(cls: Any) -> None:
    """Wrap a class's constructor to print its object; in a subclass, the subclass's own does so."""
    inner = getattr(cls.__init__, _WRAPS, cls.__init__)

    @functools.wraps(inner)
    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:
        inner(self, *args, **kwargs)
        if type(self).__init__ is __init__:
            _finish(self)

    setattr(__init__, _NOTES, True)
    cls.__init__ = __init__


def _finish(instance: Any) -> None:
    schema = own_attributes(instance).get(RECORD)
    birth = schema.__dict__.get("_birth") if type(schema) is Schema else None
    if birth is not None:
        try:
            birth.finish(instance, schema)
        except Exception:
            schema.__dict__["_birth"] = None


_NOTES = "_flambe_notes"
_WRAPS = "_flambe_wraps"  # the constructor without the wrapper of a recording
_KINDS = (torch.nn.Module, *TRAINING)
_MISSING = object()
_is_recording: ContextVar[bool] = ContextVar("recording", default=False)


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Record the arguments of each module, optimizer and scheduler made inside the ``with``.

    Objects with a record are saved as configs, without a pickle: ``with recording(): model = build()``. Arguments are
    kept as they are passed, containers copied. Objects made inside another constructor have records of their own.

    Examples
    --------
    >>> import torch
    >>> from flambe_save.schema.schema import schema_of
    >>> class Net(torch.nn.Module):
    ...     def __init__(self, size):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(size, size)
    >>> with recording():
    ...     net = Net(3)
    >>> schema_of(net)
    Schema(Net, size=3)
    """
    token = _is_recording.set(True)
    try:
        with _CONSTRUCTORS.watched():
            yield
    finally:
        _is_recording.reset(token)


def _noting(inner: Any) -> Any:
    """Wrap a constructor to record its call if this thread is recording."""

    @functools.wraps(inner)
    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:
        if type(self).__init__ is __init__ and _is_recording.get() and schema_of(self) is None:
            record_call(self, args, kwargs)
        inner(self, *args, **kwargs)

    setattr(__init__, _WRAPS, inner)
    return __init__


class _Constructors:
    """The constructors of modules, optimizers and schedulers; wrapped while any thread records.

    A ``__new__`` on ``nn.Module`` would be simpler, but could not be undone: Python treats a class that once had one
    differently from then on.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._users: list[int] = []  # the threads that record, once for each time
        self._wrapped: list[tuple[type, str, Any, Any]] = []  # class, name, value before, value now

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Inside the ``with``, wrap the constructors; afterwards they are as before."""
        try:
            with self._lock:
                self._users.append(threading.get_ident())
                if len(self._users) == 1:
                    for kind in _KINDS:
                        self._replace(kind, "__init_subclass__", self._for_new_classes(kind))
                        for cls in (kind, *all_subclasses(kind)):
                            self._wrap(cls)
            yield
        finally:
            with self._lock:
                self._users.remove(threading.get_ident())
                if not self._users:
                    self._restore()

    def after_fork(self) -> None:
        """Replace the lock in a forked process: a thread that is not there may hold it."""
        self._lock = threading.RLock()
        self._users = [thread for thread in self._users if thread == threading.get_ident()]
        if not self._users:
            self._restore()

    def _wrap(self, cls: Any) -> None:
        """Wrap a class's constructor, unless a base of these kinds has it, where it is wrapped."""
        owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
        if owner is cls or not issubclass(owner, _KINDS):
            self._replace(cls, "__init__", _noting(cls.__init__))

    def _for_new_classes(self, kind: Any) -> Any:
        """Return an ``__init_subclass__`` that wraps the constructors of new classes."""
        own = vars(kind).get("__init_subclass__")

        def __init_subclass__(cls: Any, /, **kwargs: Any) -> None:
            (super(kind, cls).__init_subclass__ if own is None else own.__get__(None, cls))(**kwargs)
            self._wrap(cls)

        return classmethod(__init_subclass__)

    def _replace(self, cls: type, name: str, value: Any) -> None:
        self._wrapped.append((cls, name, vars(cls).get(name, _MISSING), value))
        with contextlib.suppress(TypeError):  # a class that cannot be changed
            type.__setattr__(cls, name, value)

    def _restore(self) -> None:
        while self._wrapped:
            cls, name, before, now = self._wrapped[-1]
            if vars(cls).get(name) is now:  # else another library has put its own around it
                if before is _MISSING:
                    type.__delattr__(cls, name)
                else:
                    type.__setattr__(cls, name, before)
            self._wrapped.pop()


_CONSTRUCTORS = _Constructors()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_CONSTRUCTORS.after_fork)


def recorded(cls: C) -> C:
    """Decorate a class: its objects record their arguments, and configs may name it.

    Like a Component's, its constructor then runs in any load, as after :func:`register`.

    Examples
    --------
    >>> import torch
    >>> from flambe_save.schema.schema import schema_of
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
    cls.__flambe_recorded__ = True  # type: ignore[attr-defined]  # adapters know it by this
    TAGS.add(cls)
    return cls
