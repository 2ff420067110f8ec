"""Objects with ``state_dict`` and ``load_state_dict``, such as loaders and metrics."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flambe_save.adapters.protocol import (
    Check,
    Child,
    Fit,
    Later,
    Mismatch,
    Place,
    StatelessAdapter,
    attribute_children,
)
from flambe_save.describing.describe import assembled, recorded_form, stateful_form
from flambe_save.errors import SaveError, UnsupportedObjectError
from flambe_save.layout import ENTRIES_ATTRIBUTES_KEY, ENTRIES_KEY
from flambe_save.schema.schema import Schema
from flambe_save.state import State, join_key

_WHOLE = "state"  # the key of a state_dict that is not a mapping of names


class StatefulAdapter:
    """Objects of no other kind with ``state_dict`` and ``load_state_dict``, entry by entry."""

    comes_last = False
    knows_others = True

    def describe(self, obj: Any) -> Schema | None:
        """Return the Schema of the recorded call; where it is not known, of the class and its data."""
        return stateful_form(obj)

    def children(self, obj: Any) -> Iterable[Child]:
        """Return nothing: the object's ``state_dict`` is all of it."""
        return ()

    def get_state(self, place: Place, state: State) -> Later:
        """Add each entry of the ``state_dict``, or all of it where it is not a mapping of names."""
        add_entries(place, self.state_dict_of(place), state)
        return None

    def state_dict_of(self, place: Place) -> Any:
        """Return the object's ``state_dict``.

        Raises
        ------
        SaveError
            If the object raises anything; it names the place.
        """
        try:
            return place.obj.state_dict()
        except Exception as error:
            raise SaveError(
                f"{type(place.obj).__qualname__}.state_dict raised {type(error).__name__}: {str(error)[:200]}",
                node=place.prefix,
                fix="Nothing was written.",
            ) from error

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Give the object its saved ``state_dict``, unless it was made of all its attributes."""
        own = take_entries(place, state, mismatch)
        if own is not None and (fit is None or fit.adoption is None or fit.adoption.takes_state(place.obj)):
            with noting_failure(place, mismatch):
                place.obj.load_state_dict(own)
        return None

    def checker(self, place: Place, state: State) -> Check:
        """Return a function that notes missing entries."""
        return lambda found: take_entries(place, state, found)


@contextmanager
def noting_failure(place: Place, mismatch: Mismatch) -> Iterator[None]:
    """Note any exception of an object's ``load_state_dict``, which gets whatever is in the save."""
    try:
        yield
    except Exception as error:
        mismatch.errors.append(
            f"{place.prefix or 'the root'}: {type(place.obj).__qualname__}.load_state_dict raised "
            f"{type(error).__name__}: {str(error)[:200]}"
        )


def in_parts(obj: Any) -> Schema:
    """Return the Schema of an object's parts.

    Raises
    ------
    UnsupportedObjectError
        If its class defines how it is pickled.
    """
    found = assembled(obj)
    if found is None:
        raise UnsupportedObjectError(
            f"a {type(obj).__qualname__} is more than its attributes, for its class defines how it is pickled",
            fix="register_adapter() for its class, or leave it out.",
        )
    return found


def add_entries(place: Place, own: Any, state: State) -> None:
    """Add a ``state_dict`` under a place's prefix, and the names of its entries to the metadata."""
    if not isinstance(own, Mapping) or not all(isinstance(name, str) for name in own):
        own = {_WHOLE: own}
        names: list[str] | None = None
    else:
        names = list(own)
    for name, value in own.items():
        state[place.key_prefix + join_key([name])] = value
    local = state._metadata.setdefault(place.prefix, {})
    local[ENTRIES_KEY] = names
    if type(own) is OrderedDict:
        local[ENTRIES_ATTRIBUTES_KEY] = dict(vars(own))


def take_entries(place: Place, state: State, mismatch: Mismatch) -> Any:
    """Return the ``state_dict`` that :func:`add_entries` added; None if entries are missing."""
    local = state._metadata.get(place.prefix, {})
    names = local.get(ENTRIES_KEY)
    expected = [_WHOLE] if not isinstance(names, list) else [str(name) for name in names]
    keys = {name: place.key_prefix + join_key([name]) for name in expected}
    missing = [key for key in keys.values() if key not in state]
    mismatch.missing += missing
    mismatch.consumed.update(keys.values())
    if missing:
        return None
    if not isinstance(names, list):
        return state[keys[_WHOLE]]
    own = {name: state[key] for name, key in keys.items()}
    attributes = local.get(ENTRIES_ATTRIBUTES_KEY)
    if not isinstance(attributes, dict):
        return own
    made = OrderedDict(own)
    if not all(isinstance(name, str) and not hasattr(made, name) for name in attributes):
        mismatch.errors.append(f"{place.prefix or 'the root'}: its state_dict has attributes that none can have")
        return None
    vars(made).update(attributes)
    return made


STATEFUL = StatefulAdapter()


class _RecordedAdapter(StatelessAdapter):
    """Recorded objects of no other kind: their arguments, and attributes with a state."""

    def describe(self, obj: Any) -> Schema | None:
        """Return the Schema of the arguments."""
        return recorded_form(obj)

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the attributes that hold a state."""
        return attribute_children(obj)


RECORDED = _RecordedAdapter()
