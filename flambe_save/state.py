"""State: an object's values by flat dotted keys, with metadata per component.

tree.py cuts it into folders.

Keys are made of parts by :func:`join_key` and taken apart by :func:`split_key`; a part that holds a dot itself (a
dict's key, say) is escaped, so that the two are inverses.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flambe_save.layout import CLASS_KEY, DIRECTORIES_KEY

_EMPTY_PART = "%"  # a lone percent sign is never the result of escaping


class State(OrderedDict[str, Any]):
    """An ordered mapping of dotted keys to values, as module state_dicts are, and ``_metadata``.

    ``_metadata`` belongs to the instance. It maps each component's prefix (``""`` for the root) to a dict of facts
    about it, and ``_flambe_directories`` to the set of those prefixes. Values are shared,
    not copied.
    """

    _metadata: OrderedDict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._metadata = OrderedDict({DIRECTORIES_KEY: set()})

    def copy(self) -> State:
        """Return a shallow copy that has its own metadata mapping."""
        new = type(self)(self)
        new._metadata = OrderedDict(self._metadata)
        new._metadata[DIRECTORIES_KEY] = set(self._metadata.get(DIRECTORIES_KEY, ()))
        return new

    __copy__ = copy

    def under(self, prefix: str) -> State:
        """Return the State below a prefix, with keys relative to it; values are shared."""
        if not prefix:
            return self.copy()
        part, begin = State(), f"{prefix}."
        part.update((key[len(begin) :], value) for key, value in self.items() if key.startswith(begin))
        for key, local in self._metadata.items():
            if key == prefix or key.startswith(begin):
                part._metadata[key[len(begin) :]] = local
        directories = self._metadata.get(DIRECTORIES_KEY, ())
        part._metadata[DIRECTORIES_KEY] = {
            key[len(begin) :] for key in directories if key == prefix or key.startswith(begin)
        }
        return part

    @property
    def components(self) -> list[str]:
        """The prefixes of the components, sorted; the root is ``""``."""
        return sorted(self._metadata.get(DIRECTORIES_KEY, ()))

    def __repr__(self) -> str:
        root = self._metadata.get("", {}).get(CLASS_KEY, "")
        shown = ", ".join(list(self)[:4]) + (", ..." if len(self) > 4 else "")
        return f"State({root}: {len(self.components)} components, {len(self)} values: {shown})"


class _Indexed(OrderedDict[str, Any]):
    """A mapping that finds the keys below a prefix without a walk over all keys."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sorted: list[str] | None = None  # all keys, also removed ones; made at its first use
        self._order: dict[str, int] = {}  # the order in which they were added
        self._count = 0
        super().__init__(*args, **kwargs)

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self:
            if self._sorted is not None and key not in self._order:
                insort(self._sorted, key)
            self._order[key] = self._count
            self._count += 1
        super().__setitem__(key, value)

    def below(self, prefix: str) -> list[str]:
        """Return the keys inside a prefix, in the order in which they were added."""
        if self._sorted is None:
            self._sorted = sorted(self._order)
        first, last = bisect_left(self._sorted, f"{prefix}."), bisect_left(self._sorted, f"{prefix}/")  # "/" is next
        return sorted((key for key in self._sorted[first:last] if key in self), key=self._order.__getitem__)


class IndexedState(_Indexed, State):
    """A State for many calls of :func:`keys_below`, as in a load; its metadata is indexed too."""

    @classmethod
    def of(cls, state: State) -> IndexedState:
        """Return a shallow copy of a State."""
        made = cls(state)
        made._metadata = _Indexed(state.copy()._metadata)
        for prefix in made.components:
            made._metadata.setdefault(prefix, {})
        return made


def keys_below(mapping: Mapping[str, Any], prefix: str) -> list[str]:
    """Return the keys of a mapping that lie inside a prefix, all for ``""``, in order."""
    if not prefix:
        return list(mapping)
    if isinstance(mapping, _Indexed):
        return mapping.below(prefix)
    return [key for key in mapping if key.startswith(f"{prefix}.")]


class Referring(NamedTuple):
    """Values of a stash that are pickled alone, with references to what the save has elsewhere.

    Attributes
    ----------
    values : list of object
    objects : dict of int to object
        The objects that they refer to, by their ids, in the order of the references' numbers.
    """

    values: list[Any]
    objects: dict[int, Any]


class Stash(dict[str, Any]):
    """Values that a config cannot hold, by ids, and their places in the object.

    Attributes
    ----------
    paths : dict of str to str
        Id -> ``model.layers[3].hook``, for messages.
    elsewhere : dict of int to str
        Objects that have a place in the save, by their ids, and their names there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[str, str] = {}
        self.elsewhere: Mapping[int, str] = {}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Stash:
        """Return values as a Stash; a Stash is returned as it is."""
        if isinstance(values, Stash):
            return values
        made = cls()
        made.update(values)
        return made


def join_key(parts: Iterable[str]) -> str:
    """Join parts into a dotted key. Inverse of :func:`split_key` for one part or more.

    Examples
    --------
    >>> join_key(["encoder", "rnn", "bias"])
    'encoder.rnn.bias'
    >>> join_key(["vocabularies", "a.b"])
    'vocabularies.a%2Eb'
    """
    return ".".join(_escape(part) for part in parts)


def split_key(key: str) -> list[str]:
    """Split a dotted key into its parts. Inverse of :func:`join_key`.

    Examples
    --------
    >>> split_key("vocabularies.a%2Eb")
    ['vocabularies', 'a.b']
    """
    return [_unescape(part) for part in key.split(".")]


def _escape(part: str) -> str:
    return part.replace("%", "%25").replace(".", "%2E") or _EMPTY_PART


def _unescape(part: str) -> str:
    return "" if part == _EMPTY_PART else part.replace("%2E", ".").replace("%25", "%")


def ordered(items: Iterable[Any]) -> list[Any]:
    """Return a set's items in an order that depends on them alone, not on hash seeds or history."""
    return sorted(items, key=lambda item: (type(item).__name__, _text(item)))


def _text(item: Any) -> str:
    if isinstance(item, (set, frozenset)):
        return f"{{{','.join(sorted(map(_text, item)))}}}"
    return f"({','.join(map(_text, item))})" if isinstance(item, tuple) else repr(item)


def traverse(nested: Mapping[str, Any], path: Sequence[str] | None = None) -> Iterator[tuple[list[str], str, Any]]:
    """Yield ``(path, key, value)`` for each value in nested mappings that is not a mapping.

    Parameters
    ----------
    nested : Mapping
        A mapping, some of whose values may be mappings; these are entered too.
    path : sequence of str, optional
        The keys that led to ``nested``.

    Examples
    --------
    >>> list(traverse({"a": 1, "b": {"c": 2}}))
    [([], 'a', 1), (['b'], 'c', 2)]
    """
    here = list(path or ())
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from traverse(value, [*here, key])
        else:
            yield here, key, value
