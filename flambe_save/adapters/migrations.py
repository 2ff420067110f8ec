"""Migrations: functions of a class that update states of its older versions.

component.py calls :func:`migrate_component` for each component that is loaded, and api.py calls :func:`migrate_state`
for a whole save.
"""

from __future__ import annotations

import functools
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import yaml as pyyaml

from flambe_save.adapters.class_source import source_of
from flambe_save.classes.renames import old_names, present_name
from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.config.dialect import Loader
from flambe_save.config.nodes import Document, parse, split_documents
from flambe_save.errors import FlambeSaveError, LoadError, RegistrationError, VersionMismatchError
from flambe_save.layout import (
    CLASS_KEY,
    CONFIG_FILE,
    CONFIG_KEY,
    DIRECTORIES_KEY,
    KEEP_VARS_KEY,
    NO_VERSION,
    SOURCE_KEY,
    TAGS_KEY,
    VERSION,
    VERSION_KEY,
)
from flambe_save.state import State, keys_below
from flambe_save.tree import join_prefix

_MARK = "_flambe_migrations"
_IN_A_TAG = "-;/?:@&=+$,_.~*'()[]"  # characters that YAML does not escape in a tag


class Migrated(NamedTuple):
    """A component of a save that is brought up to date.

    Attributes
    ----------
    node : str
        Its dotted prefix; ``""`` is the root.
    class_name : str
        Present name of its class.
    before, after : str
        The versions. They are equal where only names of classes changed, its own or others in its config.
    """

    node: str
    class_name: str
    before: str
    after: str


class _Step(NamedTuple):
    since: str
    until: str
    name: str
    function: Callable[[State], Any]


def migration(since: str, until: str) -> Callable[[Callable[[State], State]], Any]:
    """Decorate a function of a Component class that updates a state to a later version.

    Define the function in the body of the class, without ``self``: it becomes a static method. It gets a State of the
    component and the components inside it: keys and ``_metadata`` are relative to the component, whose own entry is
    ``""``. It returns that State, changed, or a new one; a new one without metadata gets that of the old. Values are
    shared with the save that is loaded: replace tensors, and do not write into them. A subclass inherits migrations,
    and overrides one by its name, so each has a name of its own.

    Parameters
    ----------
    since : str
        The ``_flambe_version`` that was saved, exactly; ``"0.0.0"`` is that of a class without one. Several
        decorators may be stacked.
    until : str
        The version of the result.

    Raises
    ------
    RegistrationError
        If either is not a version, or ``until`` is not the later one.

    Examples
    --------
    >>> from flambe_save import Component
    >>> class Scale(Component):
    ...     _flambe_version = "2.0.0"
    ...     @migration("1.0.0", "2.0.0")
    ...     def rename(state):
    ...         state["factor"] = state.pop("scale")
    ...         return state
    >>> Scale.rename(State(scale=3))["factor"]
    3
    """
    here, there = numbers(since), numbers(until)
    if here is None or there is None or here >= there:
        raise RegistrationError(
            f"a migration from {since!r} to {until!r}", fix="Give two versions, as in @migration('1.0.0', '2.0.0')."
        )

    def decorate(function: Callable[[State], State]) -> Any:
        plain = function.__func__ if isinstance(function, staticmethod) else function
        setattr(plain, _MARK, [*getattr(plain, _MARK, ()), (since, until)])
        return staticmethod(plain)

    return decorate


def numbers(version: Any) -> tuple[int, ...] | None:
    """Return a version's first three numbers, missing ones as 0; None for other texts."""
    return _numbers(version) if isinstance(version, str) and len(version) < 100 else None


@functools.lru_cache(maxsize=1000)
def _numbers(version: str) -> tuple[int, ...] | None:
    if VERSION.fullmatch(version) is None:
        return None
    return (*map(int, version.split(".")), 0, 0)[:3]


def has_migrations(cls: type) -> bool:
    """Whether a class declares any."""
    return any(True for _ in _declared(cls))


def migrate_component(cls: type, state: State, prefix: str) -> str:
    """Apply a class's migrations to a component's state, in place; return the saved version.

    They start at the saved version, and each at the version that the one before reached, up to the class's own. Where
    several start at a version, the one that goes furthest is applied.

    Raises
    ------
    LoadError
        If a migration raises, or does not return a State.
    """
    local = state._metadata.get(prefix, {})
    saved = str(local.get(VERSION_KEY, NO_VERSION))
    steps = list(_chain(cls, saved)) if VERSION_KEY in local else []
    if steps:
        part = _cut(state, prefix)
        for step in steps:
            part = _apply(step, cls, part, prefix)
        _put(part, state, prefix)
    return saved


def check_major(cls: Any, saved: str, reached: str, prefix: str) -> str:
    """Compare major versions; return a sentence on both versions, for a message.

    Raises
    ------
    VersionMismatchError
        If the major versions differ.
    """
    here, there = numbers(cls._flambe_version) or (0, 0, 0), numbers(reached) or (0, 0, 0)
    carried = f", which migrations carry to {reached}," if reached != saved else ""
    text = (
        f"{cls.__qualname__} has version {cls._flambe_version} here and {saved} in the save{carried} (node {prefix!r})"
    )
    if here[0] != there[0]:
        missing = f"A @migration from {reached!r} to {cls._flambe_version!r} is missing. " if here > there else ""
        raise VersionMismatchError(text, node=prefix, fix=f"{missing}The code of that major version loads it.")
    return text


def _chain(cls: type, saved: str) -> Iterator[_Step]:
    here, last = numbers(saved), numbers(getattr(cls, "_flambe_version", NO_VERSION))
    if here is None or last is None or not here < last:
        return
    declared = list(_declared(cls))
    while True:
        fitting = [step for step in declared if numbers(step.since) == here and (numbers(step.until) or last) <= last]
        if not fitting:
            return
        step = max(fitting, key=lambda item: numbers(item.until) or last)  # the first of equals: the most derived
        yield step
        here = numbers(step.until)


def _declared(cls: type) -> Iterator[_Step]:
    """Yield a class's migrations, the most derived class's first, without overridden ones."""
    seen: set[str] = set()
    for base in cls.__mro__:
        for name, member in vars(base).items():
            if name not in seen and isinstance(member, staticmethod):
                for since, until in getattr(member.__func__, _MARK, ()):
                    yield _Step(since, until, name, member.__func__)
        seen.update(vars(base))


def _apply(step: _Step, cls: type, part: State, prefix: str) -> State:
    what = f"the migration {step.name} of {cls.__qualname__}, from {step.since} to {step.until},"
    fix = "Correct it; the save is as it was."
    metadata = part._metadata
    try:
        result = step.function(part)
    except Exception as error:
        raise LoadError(f"{what} raised {type(error).__name__}: {str(error)[:200]}", node=prefix, fix=fix) from error
    if not isinstance(result, State) or not all(isinstance(key, str) for key in result):
        raise LoadError(
            f"{what} returned a {type(result).__name__}, and not a State of texts to values", node=prefix, fix=fix
        )
    if not result._metadata.get(DIRECTORIES_KEY):
        result._metadata = metadata
    result._metadata[""] = {**result._metadata.get("", {}), VERSION_KEY: step.until}
    return result


def _cut(state: State, prefix: str) -> State:
    """Return the part of a state below a component's prefix. Inverse of :func:`_put`."""
    begin = join_prefix(prefix, "") if prefix else ""
    part = State((key[len(begin) :], state[key]) for key in keys_below(state, prefix))
    names, directories = _names_below(state, prefix), state._metadata[DIRECTORIES_KEY]
    part._metadata.update((name[len(begin) :], dict(state._metadata[name])) for name in names)
    part._metadata[DIRECTORIES_KEY] = {name[len(begin) :] for name in names if name in directories}
    return part


def _put(part: State, state: State, prefix: str) -> None:
    """Replace what a state holds below a component's prefix."""
    begin = join_prefix(prefix, "") if prefix else ""
    directories = state._metadata[DIRECTORIES_KEY]
    for key in keys_below(state, prefix):
        del state[key]
    for name in _names_below(state, prefix):
        del state._metadata[name]
        directories.discard(name)
    for key, value in part.items():
        state[begin + key] = value
    for name, local in part._metadata.items():
        if name not in (DIRECTORIES_KEY, KEEP_VARS_KEY):
            state._metadata[begin + name if name else prefix] = local
    directories.update((prefix, *(begin + name for name in part.components if name)))


def _names_below(state: State, prefix: str) -> list[str]:
    """Return the prefixes in the metadata of a component and of all inside it."""
    names = dict.fromkeys([prefix, *keys_below(state._metadata, prefix)])
    return [name for name in names if name in state._metadata and name not in (DIRECTORIES_KEY, KEEP_VARS_KEY)]


# ------------------------------------------------------------------------------------------------ a whole save


def migrate_state(state: State, tags: Mapping[str, str]) -> list[Migrated]:
    """Update a state, in place: apply migrations, parents first, and rename moved classes.

    Parameters
    ----------
    state : State
        Components whose config names no imported class, or that have no config, are not changed.
    tags : mapping of str to str
        The save's record of its tags: tag -> dotted path.

    Returns
    -------
    list of Migrated
        The components that changed.

    Raises
    ------
    VersionMismatchError
        If a component cannot be brought to the major version of its class.
    LoadError, ConfigError
        If a migration raises, or a config cannot be read.
    """
    rows: list[Migrated] = []
    names: dict[str, tuple[str, str]] = {}  # a tag of the save -> the tag and the dotted path to write
    done: set[str] = set()
    while left := [prefix for prefix in state.components if prefix not in done]:  # a migration may make new ones
        for prefix in left:
            done.add(prefix)
            if prefix in state._metadata[DIRECTORIES_KEY] and state._metadata[prefix].get(CONFIG_KEY, "").strip():
                try:
                    rows += _migrate_node(state, prefix, tags, names)
                except FlambeSaveError as error:
                    error.locate(node=prefix)
                    raise
    if names:
        for prefix in state.components:
            known = state._metadata[prefix].get(TAGS_KEY)
            known = known if isinstance(known, dict) else {}  # in a pickle it may be anything
            state._metadata[prefix][TAGS_KEY] = dict(names.get(tag, (tag, path)) for tag, path in known.items())
        state._metadata[""][TAGS_KEY] |= dict(names.values())
    return rows


def _migrate_node(
    state: State, prefix: str, tags: Mapping[str, str], names: dict[str, tuple[str, str]]
) -> Iterator[Migrated]:
    """Yield a component's row, if it changes; add moved classes in its config to ``names``."""
    try:
        _, document = split_documents(parse(state._metadata[prefix][CONFIG_KEY]))
    except FlambeSaveError as error:
        error.locate(file=CONFIG_FILE)
        raise
    moved = {tag: found for tag in _names_in(document) if (found := _present(tag, tags)) is not None}
    names.update(moved)
    own_tag = document.root.tag.removeprefix("!")
    try:
        cls: Any = TAGS.resolve(own_tag, tags.get(own_tag))[0]
    except RegistrationError:
        cls = None
    saved = reached = str(state._metadata[prefix].get(VERSION_KEY, NO_VERSION))
    if hasattr(cls, "_flambe_version"):
        migrate_component(cls, state, prefix)
        reached = str(state._metadata[prefix][VERSION_KEY])
        if numbers(reached) not in (None, (0, 0, 0)):
            check_major(cls, saved, reached, prefix)
    if not moved and reached == saved:
        return
    local = state._metadata[prefix] = dict(state._metadata[prefix])
    local[CONFIG_KEY] = _renamed(local[CONFIG_KEY], {tag: new for tag, (new, _) in moved.items()})
    if cls is not None and (reached != saved or own_tag in moved):
        local[SOURCE_KEY] = source_of(cls)
        if local.get(CLASS_KEY) in old_names(cls):
            local[CLASS_KEY] = cls.__name__
    yield Migrated(prefix, str(local.get(CLASS_KEY, "")), saved, reached)


def _names_in(document: Document) -> Iterator[str]:
    """Yield the class names in a config: its tags, and the texts under ``!type``."""
    yield from document.tags
    yield from (str(node.value) for node in document.nodes if node.tag == "!type")


def _present(tag: str, tags: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the tag and dotted path to write for a moved class; None for any other."""
    new, path = present_name(tag, tags.get(tag))
    if (new, path) == (tag, tags.get(tag)) or path is None:
        return None
    if new != tag and tags.get(new, path) != path:  # in this save that tag means another class
        cls, factory = TAGS.resolve(tag, tags.get(tag))
        new = dotted_path(cls) + (f".{factory}" if factory else "")
    return new, path


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a config with other tags; the rest of its text is not changed."""
    pieces, here, under_type = [], 0, False
    for token in pyyaml.scan(text, Loader=Loader) if names else ():
        new = None
        if isinstance(token, pyyaml.TagToken):
            handle, name = token.value
            under_type = (handle, name) == ("!", "type")
            if handle == "!" and name in names:
                new = "!" + urllib.parse.quote(names[name], safe=_IN_A_TAG)
        elif isinstance(token, pyyaml.ScalarToken):
            new = names.get(token.value) if under_type else None
            under_type = False
        if new is not None:
            pieces += [text[here : token.start_mark.index], new]
            here = token.end_mark.index
    return "".join([*pieces, text[here:]])
