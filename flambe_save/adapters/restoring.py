"""Load a State into an object: compare the two, set plain values, and fill the rest.

State --load_state--> object; collecting.py is the way there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flambe_save.adapters.checking import check
from flambe_save.adapters.class_source import source_of
from flambe_save.adapters.protocol import Adapter, Fit, Later, Mismatch, Place, is_component
from flambe_save.adapters.traversal import Wants, walk_object
from flambe_save.adapters.values import ValueFilling
from flambe_save.errors import StateMismatchError, StateMismatchWarning, warn
from flambe_save.layout import NO_VERSION, SOURCE_KEY, VERSION_KEY
from flambe_save.state import IndexedState, State, keys_below
from flambe_save.tree import place_key


def load_state(
    obj: Any,
    state: State,
    *,
    strict: bool = True,
    fit: Fit | None = None,
    values: ValueFilling | None = None,
    skips_sizes: bool = False,
    has_overrides: bool = False,
) -> State:
    """Load a State into an object and all components inside it. Inverse of :func:`get_state`.

    Parameters
    ----------
    obj : object
        Changed in place; tensors are copied into the memory that the object has.
    state : State
        Not changed.
    strict : bool
        Whether keys that are missing or not wanted are an error; otherwise they are a warning.
    fit : Fit, optional
        Casts and moves the tensors of an object that was just built. Mismatches are then not looked for beforehand.
    values : ValueFilling, optional
        Plain values that are put in place too.
    skips_sizes : bool
        Whether, without ``strict``, tensors of other sizes stay as they were, with a warning; otherwise it is an error.
    has_overrides : bool
        Whether a caller's values were put into the config, for messages.

    Returns
    -------
    State
        The loaded state, with the changes that the object's migrations and hooks made.

    Raises
    ------
    StateMismatchError
        If keys or shapes differ; the message lists all of them. Without ``fit`` the object is then unchanged, unless a
        class's own hook refuses: by then other parts may be filled.
    VersionMismatchError
        If the major version of a class differs.
    """
    state = IndexedState.of(state)  # a copy, for hooks may change it
    mismatch = Mismatch(owners={"": False})

    kinds: dict[str, type] = {}

    def enter(place: Place, adapter: Adapter) -> Later:
        mismatch.owners[place.prefix] = False
        if is_component(place.obj):
            kinds[place.prefix] = type(place.obj)
        return adapter.load_state(place, state, mismatch, fit)

    def wants(parent: Place, place: Place, name: str) -> bool:
        return place.prefix in state or bool(keys_below(state, place.prefix))

    skipped: dict[str, str] = {}
    if fit is None or skips_sizes:
        skipped = _check(obj, state, strict, skips_sizes, wants, values)
    if values is not None:
        values.apply()
    walk_object(obj, "", enter, wants=wants)
    mismatch.missing = [key for key in mismatch.missing if key not in skipped]
    mismatch.unexpected += [
        key for key in state if key not in mismatch.consumed and not mismatch.owners[place_key(key, mismatch.owners)[0]]
    ]
    if mismatch:
        hint = _hint_of_migration(mismatch, state, kinds)
        is_error = strict or bool(mismatch.errors)
        _report(obj, mismatch, is_error=is_error, is_filled=fit is None, hint=hint, has_overrides=has_overrides)
    return state


def _check(
    obj: Any, state: State, strict: bool, skips_sizes: bool, wants: Wants, values: ValueFilling | None
) -> dict[str, str]:
    """Compare a state with an object before filling it; remove and return other sizes.

    Raises
    ------
    StateMismatchError
        If anything differs, with ``strict``; if sizes differ, without ``skips_sizes``.
    """
    places: list[tuple[Place, Adapter]] = []
    walk_object(obj, "", lambda place, adapter: places.append((place, adapter)), wants=wants)
    found = check(places, state)
    if values is not None:
        values.plan(obj)
        found.unexpected = [key for key in found.unexpected if key not in values.taken]
        found.errors += values.problems
        found.missing += values.missing
    if found and (strict or (found.sizes and not skips_sizes)):
        kinds = {place.prefix: type(place.obj) for place, _ in places if is_component(place.obj)}
        _report(obj, found, is_error=True, is_filled=True, hint=_hint_of_migration(found, state, kinds))
    for key in found.sizes:
        del state[key]
    if found.sizes or found.errors or (values is not None and values.missing):
        found.missing = [] if values is None else values.missing  # the caller lists keys when all is filled
        found.unexpected = []
        _report(obj, found, is_error=False, is_filled=True)
    if values is not None and values.refused:
        warn("these stay as they were, and are not filled:\n  " + "\n  ".join(values.refused), StateMismatchWarning)
    return found.sizes


def _hint_of_migration(mismatch: Mismatch, state: State, kinds: Mapping[str, type]) -> str:
    """Return advice where keys differ since a class's source changed; else ``""``."""
    for key in (*mismatch.missing, *mismatch.unexpected):
        prefix = place_key(key, {"": None, **kinds})[0]
        cls, local = kinds.get(prefix), state._metadata.get(prefix, {})
        before = local.get(SOURCE_KEY)
        if (
            cls is not None
            and before
            and not cls.__module__.startswith("flambe_save.")
            and source_of(cls)
            and before != source_of(cls)
        ):
            version = local.get(VERSION_KEY, NO_VERSION)
            return (
                f"The source of {cls.__qualname__} has changed since the save. Where it calls things otherwise now, "
                f"@migration({version!r}, NEW_VERSION) in it renames the keys of old saves (docs/versions.md)."
            )
    return ""


def _report(
    obj: Any, mismatch: Mismatch, *, is_error: bool, is_filled: bool, hint: str = "", has_overrides: bool = False
) -> None:
    """Raise or warn of what does not fit.

    Raises
    ------
    StateMismatchError
        If it is an error.
    """
    text = f"the saved state does not fit this {type(obj).__qualname__}:\n  {mismatch}"
    if not is_error:
        warn(text, StateMismatchWarning)
        return
    if not is_filled:  # the object was built from the save's config
        fix = "Build the object yourself, and fill it with what fits: load_state(your_model, path, strict=False)."
        if has_overrides:
            fix += " With overrides=, strict=False leaves tensors of other sizes as they were built."
    elif mismatch.errors:
        fix = "Build the object as it was when it was saved."
    else:
        fix = "Build the object as it was when it was saved, or fill it with what fits: strict=False."
    raise StateMismatchError(text, fix=f"{hint} {fix}".lstrip())
