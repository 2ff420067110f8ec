"""Registry: names to objects or import paths, so that other packages can add entries.

The registries of the package (formats, stores, adapters) are instances; a plug-in adds its own through an entry point
of the group that the registry names, read only when a lookup is about to fail.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, cast

from flambe_save.errors import MissingDependencyError
from flambe_save.support.static import has_static, static_of

T = TypeVar("T")


class Registry(Generic[T]):
    """Name -> object, resolved on first use.

    Parameters
    ----------
    kind : str
        A name for the entries, in messages.
    group : str
        The entry-point group through which other packages add entries.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, T | str] = {}
        self._hints: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self._by_type: dict[type, T | None] = {}
        self._traits: dict[tuple[str, ...] | Callable[[type], bool], str] = {}
        self._plugins_read = False

    def __repr__(self) -> str:
        return f"Registry({self.kind}: {', '.join(self) or 'empty'})"

    def __iter__(self) -> Iterator[str]:
        known = list(self._entries)
        yield from known
        self._read_plugins()  # looks at all installed packages, so only if the package's own entries are not enough
        yield from [name for name in self._entries if name not in known]

    def add(self, name: str, value: T | str, *, hint: str = "", note: str = "") -> None:
        """Register ``value``, or ``"package.module:Name"`` to import it from when first asked for.

        ``hint`` is the pip line to show when that import fails; ``note`` says in the docs what the entry does.
        """
        self._entries[name] = value
        self.notes[name] = note
        self._hints[name] = hint
        self._by_type.clear()

    def add_trait(self, trait: tuple[str, ...] | Callable[[type], bool], name: str) -> None:
        """Use entry ``name`` for types without an entry that have these attributes, or pass a test.

        The first trait that was added and fits counts.
        """
        self._traits[trait] = name
        self._by_type.clear()

    def get(self, name: str) -> T | None:
        """Return the entry, importing it if it is registered by name; None without one.

        Raises
        ------
        MissingDependencyError
            If the entry's module needs a package that is not installed.
        """
        if name not in self._entries:
            self._read_plugins()
        if name not in self._entries:
            return None
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            try:
                entry = cast(T, getattr(importlib.import_module(module), attribute))
            except ImportError as error:
                raise MissingDependencyError(
                    f"the {self.kind} {name!r} could not be imported: {error}", fix=self._hints[name] or None
                ) from error
            self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        entry = self.get(name)
        if entry is None:
            raise KeyError(f"no {self.kind} {name!r}; there are {', '.join(self)}")
        return entry

    def for_type(self, cls: type) -> T | None:
        """Return the entry of the nearest class that ``cls`` inherits from; else one by trait.

        A class is named by its dotted path; ``package.*`` names all classes of a package, where they share no base.
        """
        if cls not in self._by_type:
            names = [
                name
                for base in cls.__mro__
                for name in (f"{base.__module__}.{base.__qualname__}", f"{base.__module__.partition('.')[0]}.*")
            ]
            names += [name for trait, name in self._traits.items() if _has(cls, trait)]
            self._by_type[cls] = next((entry for entry in map(self.get, names) if entry is not None), None)
        return self._by_type[cls]

    def _read_plugins(self) -> None:
        if not self._plugins_read:
            from importlib.metadata import entry_points

            self._plugins_read = True
            for point in entry_points(group=self.group):
                self._entries.setdefault(point.name, point.value)
                self._hints.setdefault(point.name, "")


def _has(cls: type, trait: tuple[str, ...] | Callable[[type], bool]) -> bool:
    return trait(cls) if callable(trait) else all(has_static(cls, name) for name in trait)


def late(path: str) -> Callable[..., Any]:
    """Return the function ``"package.module:name"`` of a higher row, imported when it is called.

    tests/test_layers.py lists these functions, and allows no others.
    """
    module, _, name = path.partition(":")

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **options)

    return call


# Values are typed where they are used: the protocols live in higher layers.
FORMATS: Registry[Any] = Registry("format", "flambe_save.formats")
CODECS: Registry[Any] = Registry("codec", "flambe_save.codecs")
ADAPTERS: Registry[Any] = Registry("adapter", "flambe_save.adapters")
STORES: Registry[Any] = Registry("store", "flambe_save.stores")  # by the schemes of URLs

FORMATS.add("directory", "flambe_save.formats.directory:DIRECTORY")
FORMATS.add("pickle", "flambe_save.formats.pickle:PICKLE")
CODECS.add("pt", "flambe_save.codecs.torch:CODEC")
CODECS.add("pickle", "flambe_save.codecs.pickle:CODEC")

# Old dotted path -> the class that was there; classes/renames.py fills it, and unpickling looks into it too
MOVED: dict[str, type] = {}


def find_adapter(obj: Any) -> Any:
    """Return the adapter of an object's class, or the one registered for its type; else None."""
    own = static_of(type(obj), "__flambe_adapter__")
    return own if own is not None else ADAPTERS.for_type(type(obj))
