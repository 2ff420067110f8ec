"""Component: a class whose objects know how they were built and what they hold.

It uses ordinary attributes alone: no hooks are registered with torch, ``state_dict`` stays torch's own, and a Component
pickles and copies like any other object. dynamic.py makes Components of other classes.
"""

from __future__ import annotations

import abc
import copy
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import torch

from flambe_save import api
from flambe_save.adapters.checking import checker_of_module
from flambe_save.adapters.collecting import get_state
from flambe_save.adapters.migrations import check_major, has_migrations, migrate_component, numbers
from flambe_save.adapters.protocol import Check, Child, Fit, Later, Mismatch, Place, attribute_children
from flambe_save.adapters.restoring import load_state
from flambe_save.adapters.torch import load_module, module_children, module_state
from flambe_save.adapters.versions import check_version
from flambe_save.classes.factories import NEEDS_TRUST, registrable_factory
from flambe_save.classes.registrable import Registrable
from flambe_save.describing.describe import recorded_form
from flambe_save.describing.recording import RecordsCall
from flambe_save.errors import FlambeSaveError, SaveError, UnsupportedObjectError
from flambe_save.layout import NO_VERSION, VERSION_KEY
from flambe_save.objects.assembly import empty_tables
from flambe_save.schema.schema import Schema
from flambe_save.state import State

C = TypeVar("C", bound="Component")

_ATTRIBUTES = "_registered_attributes"


class _ComponentAdapter:
    """Components: registered attributes, values that ``_state`` adds, and a module's tensors."""

    has_own_children = True

    def describe(self, obj: Component) -> Schema | None:
        return recorded_form(obj)

    def children(self, obj: Component) -> Iterable[Child]:
        if isinstance(obj, torch.nn.Module):
            yield from module_children(obj)
            return
        yield from attribute_children(obj)

    def get_state(self, place: Place, state: State) -> Later:
        obj = place.obj
        if isinstance(obj, torch.nn.Module) and not place.covered:
            module_state(place, state)

        def finish() -> None:
            for name in sorted(vars(obj).get(_ATTRIBUTES, ())):
                if not hasattr(obj, name):
                    raise UnsupportedObjectError(f"the registered attribute {name!r} is gone", node=place.prefix)
                state[place.key_prefix + name] = getattr(obj, name)
            try:
                result = type(obj)._state(obj, state, place.key_prefix, state._metadata[place.prefix])
            except FlambeSaveError:
                raise
            except Exception as error:
                raise SaveError(
                    f"{type(obj).__qualname__}._state raised {type(error).__name__}: {str(error)[:200]}",
                    node=place.prefix,
                    fix="Nothing was written.",
                ) from error
            if result is not state and result is not None:  # an override may return a mapping of its own
                state.clear()
                state.update(result)

        return finish

    def checker(self, place: Place, state: State) -> Check | None:
        obj = place.obj
        if type(obj)._load_state is not Component._load_state or has_migrations(type(obj)):
            return None  # they may change the state
        check = checker_of_module(place, state)
        keys = [place.key_prefix + name for name in sorted(vars(obj).get(_ATTRIBUTES, ()))]

        def note(found: Mismatch) -> None:
            saved = state._metadata.get(place.prefix, {}).get(VERSION_KEY, NO_VERSION)
            if (numbers(saved) or (0,)) > (0, 0, 0):
                check_major(type(obj), saved, saved, place.prefix)
            if check is not None:
                check(found)
            found.missing += [key for key in keys if key not in state]
            found.consumed.update(keys)

        return None if check is None else note

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        obj = place.obj
        saved = migrate_component(type(obj), state, place.prefix)
        local = state._metadata.get(place.prefix, {})
        is_shown = type(obj)._load_state is not Component._load_state
        if fit is not None and fit.adoption is not None and (is_shown or local.get(VERSION_KEY, NO_VERSION) != saved):
            fit.adoption.end()  # a hook or migration may keep tensors that it sees
        check_version(type(obj), local, place.prefix, saved)
        try:
            type(obj)._load_state(
                obj, state, place.key_prefix, local, True, mismatch.missing, mismatch.unexpected, mismatch.errors
            )
        except KeyError as error:
            mismatch.errors.append(f"{type(obj).__qualname__}._load_state wants the key {error}")
        except FlambeSaveError:
            raise
        except Exception as error:  # the save may give it anything
            mismatch.errors.append(
                f"{type(obj).__qualname__}._load_state raised {type(error).__name__}: {str(error)[:200]}"
            )
        mismatch.owners[place.prefix] = is_shown
        for name in sorted(vars(obj).get(_ATTRIBUTES, ())):
            key = place.key_prefix + name
            if key in state:
                # A value from a file has no other owner; one from another object stays its own
                value = state[key] if fit is not None else copy.deepcopy(state[key])
                try:
                    setattr(obj, name, value)
                except Exception as error:  # the save may give a property's setter anything
                    mismatch.errors.append(f"{key} cannot be set: {type(error).__name__}: {str(error)[:200]}")
                mismatch.consumed.add(key)
            else:
                mismatch.missing.append(key)
        if isinstance(obj, torch.nn.Module) and not place.covered:
            return lambda: load_module(place, state, mismatch, fit)
        return None


class _CompileMethod:
    """``Component.compile`` on classes; on objects that are modules, torch's own ``compile``."""

    def __get__(self, obj: Any, cls: type[C]) -> Callable[..., Any]:
        if isinstance(obj, torch.nn.Module):
            return functools.partial(torch.nn.Module.compile, obj)
        return functools.partial(_compile, cls)


def _compile(cls: type, _factory: str | None = None, _stash: Mapping[str, Any] | None = None, /, **kwargs: Any) -> Any:
    return Schema(cls, _factory, **kwargs)(_stash)


class Component(Registrable, RecordsCall, abc.ABC, should_register=False):
    """An object that records how it was built, and whose state is saved and loaded.

    Subclass it alone or together with ``torch.nn.Module``, in either order. The arguments of the constructor are
    recorded as they are passed; ``super().__init__()`` may be forgotten. A subclass can be named in configs from the
    moment it is defined.

    A save holds a module's parameters and buffers, the attributes named with :meth:`register_attrs`, the values that
    :meth:`_state` adds, and the same of every Component inside, in attributes, lists, tuples, dicts and modules.

    Attributes
    ----------
    _flambe_version : str
        Class attribute. Above "0.0.0" it opts in to semantic versions: a load fails where the major number differs
        and warns where the minor one does, unless functions in the class that are decorated with :func:`migration`
        carry the state over. Otherwise a load warns where the source differs.

    Examples
    --------
    >>> class Scale(Component, torch.nn.Module):
    ...     def __init__(self, size, factor=2.0):
    ...         super().__init__()
    ...         self.weight = torch.nn.Parameter(torch.full((size,), factor))
    >>> Scale(3).get_state()
    State(Scale: 1 components, 1 values: weight)
    """

    _flambe_version: str = NO_VERSION
    __flambe_adapter__ = _ComponentAdapter()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.compile is torch.nn.Module.compile:  # where Module comes first among the bases
            cls.compile = vars(Component)["compile"]

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Any:
        """Make the object and record its arguments."""
        instance = super().__new__(cls, *args, **kwargs)
        if isinstance(instance, torch.nn.Module):
            tables, own = empty_tables(), vars(instance)  # so that super().__init__() may be forgotten
            tables.update(own)
            own.update(tables)
        return instance

    compile = _CompileMethod()

    # -------------------------------------------------------------------------------------------- hooks to override

    def run(self) -> bool:
        """Do a step of work and return whether there is more to do; by default False."""
        return False

    def metric(self) -> float | None:
        """Return the number by which variants of this component are compared; by default None."""
        return None

    @classmethod
    def setup_dependencies(cls, kwargs: dict[str, Any], /) -> None:
        """Add links or values to the keywords of a Schema before it is built; by default nothing."""

    @classmethod
    def precompile(cls, /, **kwargs: Any) -> None:
        """Act on a Schema's keywords after links were followed and before Schemas inside are built."""

    def _state(self, state_dict: State, prefix: str, local_metadata: dict[str, Any]) -> State:
        """Add values to the state, under ``prefix``; by default none.

        ``prefix`` ends in a dot or is empty. ``state_dict`` has the values of this component's module and of the
        components inside already.
        """
        return state_dict

    def _load_state(
        self,
        state_dict: State,
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load the values that :meth:`_state` added, before all others of this component.

        As torch's pre-hooks, it may change ``state_dict``, to rename old keys for instance, and add to the lists.
        """

    # -------------------------------------------------------------------------------------------- state

    def register_attrs(self, *names: str) -> None:
        """Make attributes part of the state.

        Raises
        ------
        AttributeError
            If the attribute is missing, cannot be set, or is part of the state already.
        """
        for name in names:
            if not hasattr(self, name):
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}, so it cannot be registered")
            if isinstance(self, torch.nn.Module) and any(
                name in table for table in (self._parameters, self._buffers, self._modules)
            ):
                raise AttributeError(f"{name!r} is a parameter, a buffer or a module, and so part of the state already")
            kept = inspect.getattr_static(type(self), name, None)
            if isinstance(kept, property) and kept.fset is None:
                raise AttributeError(f"{name!r} is a property without a setter, so it could not be loaded")
        registered = vars(self).setdefault(_ATTRIBUTES, set())
        registered.update(names)

    def get_state(self, destination: State | None = None, prefix: str = "", keep_vars: bool = False) -> State:
        """Return the state of this component and all inside it.

        Parameters
        ----------
        destination : State, optional
            Where to add it.
        prefix : str
            The beginning of its keys; it ends in a dot or is empty.
        keep_vars : bool
            Return parameters themselves, and not tensors detached from them.

        Returns
        -------
        State
            Tensors share their memory with the component.

        Raises
        ------
        UnsupportedObjectError
            If two components would get one key.
        """
        return get_state(self, destination, prefix.removesuffix("."), keep_vars=keep_vars)

    def load_state(self, state_dict: State, strict: bool = False) -> None:
        """Load a state of :meth:`get_state`; tensors are copied into the present ones.

        Parameters
        ----------
        state_dict : State
        strict : bool
            Whether missing and unexpected keys are an error; otherwise they are a warning.

        Raises
        ------
        StateMismatchError
            If shapes differ, or, with ``strict``, keys do.
        VersionMismatchError
            If the major version of a class differs.
        """
        state = state_dict if isinstance(state_dict, State) else State(state_dict)
        load_state(self, state, strict=strict)

    # -------------------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str], **kwargs: Any) -> str:
        """Save this component; parameters and errors as :func:`flambe_save.save`."""
        return api.save(self, path, **kwargs)

    @registrable_factory
    @classmethod
    def load_from_path(
        cls: type[C],
        path: str | os.PathLike[str],
        map_location: Any = None,
        use_saved_config_defaults: bool = True,
        **kwargs: Any,
    ) -> C:
        """Load a component from a save of this class.

        Parameters
        ----------
        path : str or path
        map_location : str, torch.device, mapping or callable, optional
        use_saved_config_defaults : bool
            Build the object from the saved config. Otherwise build it from ``kwargs``, and load the state alone.
        **kwargs
            With the saved config, options of :func:`flambe_save.load`; without it, arguments of the class.

        Raises
        ------
        LoadError
            As :func:`flambe_save.load`.
        """
        if use_saved_config_defaults:
            return cast(C, api.load(path, map_location=map_location, **kwargs))
        instance = cls(**kwargs)
        load_state(
            instance,
            api.load_state_from_file(path, map_location=map_location),
            fit=Fit(map_location) if map_location is not None else None,
        )
        return instance

    setattr(load_from_path.__func__, NEEDS_TRUST, True)  # type: ignore[attr-defined]  # it reads a file that the config names
