"""Tags: the class that a ``!tag`` in a config means, and the tag of a class.

Classes are registered by being imported (subclasses of Registrable) or by name (``register``): registrable.py. A tag is
the class's top-level module and its name, ``!textnet.Encoder``. Where two classes would share one, both are written
with their full dotted path; a tag that fits several classes is an error. torch's own modules, optimizers and schedulers
are found under ``!torch.`` when a config first names them, and so are the random generators of torch, numpy and Python.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator

import torch

from flambe_save.classes.factories import factory_of
from flambe_save.classes.lookup import find_imported, import_path
from flambe_save.classes.openness import is_open_to_assembly
from flambe_save.classes.redefined import differences, present_class
from flambe_save.errors import RegistrationError
from flambe_save.objects.assembly import PARTS
from flambe_save.objects.special import is_answered_by_type, runs_when_made
from flambe_save.objects.structural import is_made_of_parts
from flambe_save.objects.values import BY_TAG
from flambe_save.registry import MOVED
from flambe_save.support.static import path_of
from flambe_save.trust import NO_TRUST

_NO_NAMESPACE = frozenset(("__main__", "tests", "flambe_save"))
# Our own classes keep their first names on disk, so that saves do not change where rooms do
_FIRST_NAMES = {f"flambe_save.schema.{name}": f"flambe_save.config.{name}" for name in ("edited", "link", "pickled")}
_FIRST_NAMES["flambe_save.schema.stored"] = "flambe_save.config.link"


def dotted_path(cls: type) -> str:
    """Return ``package.module.Outer.Class``; functions around the class are outer names."""
    module, name = path_of(cls)
    module = _FIRST_NAMES.get(module, module) if type(module) is str else None
    return f"{module}.{name}".replace(".<locals>", "")


def written_path(cls: type) -> str:
    """Return the dotted path that a save records; a script's classes have its name in it."""
    return dotted_path(cls) if cls in TAGS else import_path(present_class(cls)) or dotted_path(cls)


class Tags:
    """The registry of tags: every class by its dotted path, and the names it can be called by."""

    def __init__(self) -> None:
        self._classes: dict[str, type] = {}  # dotted path -> class; defining a class again replaces it
        self._named: dict[str, dict[str, None]] = {}  # last part of a tag -> dotted paths it may mean
        self._explicit: dict[str, dict[str, None]] = {}  # alias -> dotted paths
        self._own_tags: dict[str, dict[str, None]] = {}  # dotted path -> its aliases, the newest last
        self._modules: dict[str, list[str]] = {}  # namespace -> modules that a program has to import first
        self._providers: dict[str, list[Callable[[str], type | None] | str]] = {}  # namespace -> lookups by name
        self._tag_cache: dict[type, str] = {}

    def __repr__(self) -> str:
        return f"Tags({len(self._classes)} classes, {len(self._explicit)} aliases)"

    def __contains__(self, cls: type) -> bool:
        found = self._classes.get(dotted_path(cls))
        return found is cls or (found is not None and not differences(cls, found))

    def at(self, path: str) -> type | None:
        """Return the class that is registered under a dotted path, or None."""
        return self._classes.get(path)

    def add(self, cls: type, tag: str | None = None) -> None:
        """Register a class under its own name, and under ``tag``, which becomes its preferred one."""
        if tag in BY_TAG or tag == "type":
            raise RegistrationError(f"the tag '!{tag}' is one of the dialect's own values", fix="Choose another alias.")
        path = dotted_path(cls)
        if self._classes.get(path) is not cls:
            if path in MOVED:
                raise RegistrationError(
                    f"{dotted_path(MOVED[path])} is said to have moved from {path}, where there is another class now",
                    fix="Remove that class, or the @moved_from.",
                )
            self._classes[path] = cls
            self._own_tags[path] = {}
            for paths in self._explicit.values():
                paths.pop(path, None)
        self._named.setdefault(path.rpartition(".")[2], {})[path] = None
        if tag is not None:
            self._explicit.setdefault(tag, {})[path] = None
            self._own_tags[path].pop(tag, None)
            self._own_tags[path][tag] = None
        self._tag_cache.clear()

    def provide(self, namespace: str, lookup: Callable[[str], type | None] | str, module: str | None = None) -> None:
        """Let ``lookup`` find classes by name under a namespace, when a tag is first used.

        A lookup ``"package.module:function"`` is for the package that the namespace names: it is imported and called
        only where the program has imported that package. ``module`` is the module that a program has to import first,
        where that is not the namespace itself.
        """
        self._providers.setdefault(namespace, []).append(lookup)
        if module is not None:
            self._modules.setdefault(namespace, []).append(module)

    def _lookups(self, namespace: str) -> Iterator[Callable[[str], type | None]]:
        lookups = self._providers.get(namespace, [])
        for index, lookup in enumerate(lookups):
            if isinstance(lookup, str):
                if namespace not in sys.modules:
                    continue
                module, _, name = lookup.partition(":")
                lookup = lookups[index] = getattr(importlib.import_module(module), name)
            yield lookup

    def tag_of(self, cls: type, factory: str | None = None) -> str:
        """Return the tag that a class is written with, without its ``!``.

        Raises
        ------
        RegistrationError
            If the class is not registered, or has no such factory.
        """
        if factory is not None and factory_of(cls, factory) is None:
            raise RegistrationError(
                f"{dotted_path(cls)} has no factory {factory!r}", fix="Decorate it with @registrable_factory."
            )
        if cls not in self._tag_cache:
            self._tag_cache[cls] = self._find_tag(cls)
        return f"{self._tag_cache[cls]}.{factory}" if factory else self._tag_cache[cls]

    def resolve(
        self, tag: str, recorded: str | None = None, allows: Callable[[str], bool] = NO_TRUST.allows
    ) -> tuple[type, str | None]:
        """Return the class that a tag means, and the factory it names or None.

        Classes that are imported but not registered are found by their dotted path where they are the sum of their
        parts or ``allows`` is true.

        Parameters
        ----------
        tag : str
            Without its ``!``: an alias, ``namespace.Class``, or any suffix of a dotted path that fits one class only.
        recorded : str, optional
            The dotted path that a save recorded for the tag; it decides where a tag fits several classes.
        allows : callable
            Whether the caller trusts a dotted path; by default none.

        Raises
        ------
        RegistrationError
            If the tag fits no class, or several; the message names them, or what to import.
        """
        owner, _, last = tag.rpartition(".")
        if recorded in MOVED:
            return self._moved(tag, [recorded]) or (MOVED[recorded], self._factory_in(tag, MOVED[recorded]))
        if recorded in self._classes:
            cls = self._classes[recorded]
            if self._fits(recorded, tag):
                return cls, None
            if factory_of(cls, last) is not None and self._fits(recorded, owner):
                return self._checked((cls, last), tag, allows)
        found = self._here(tag) or self._moved(tag, MOVED)
        if found is not None:
            return self._checked(found, tag, allows)
        if recorded in self._classes:  # only the alias that it was written with is gone
            return self._classes[recorded], self._factory_in(tag, self._classes[recorded])
        is_of_parts = last == PARTS and owner != ""
        path = recorded or (owner if is_of_parts else tag)
        imported = find_imported(path)
        if isinstance(imported, type):
            is_trusted = allows(path)
            if not is_trusted and not is_answered_by_type(imported):
                raise self._unknown(tag, recorded)  # code of its metaclass may run at any question
            if is_of_parts and factory_of(imported, PARTS) and (is_trusted or is_open_to_assembly(imported)):
                return imported, PARTS
            if not is_of_parts and (is_made_of_parts(imported) or is_trusted):
                return imported, None
        raise self._unknown(tag, recorded)

    @staticmethod
    def _checked(found: tuple[type, str | None], tag: str, allows: Callable[[str], bool]) -> tuple[type, str | None]:
        """Refuse to assemble objects whose class runs code when they are deleted or looked at."""
        cls, factory = found
        if factory == PARTS and runs_when_made(cls) and not allows(dotted_path(cls)):
            raise RegistrationError(
                f"the class of the tag '!{tag}' has a __del__ or a __getattribute__ of its own",
                fix=f"If you know who wrote it: load(..., trusted=[{dotted_path(cls)!r}]).",
            )
        return found

    def _here(self, tag: str) -> tuple[type, str | None] | None:
        """Return the class that a tag means by present names, and the factory it names; else None."""
        found = self._class_of(tag)
        if found is not None:
            return found, None
        owner, _, last = tag.rpartition(".")
        maker = self._class_of(owner) if owner else None
        return (maker, last) if maker is not None and factory_of(maker, last) is not None else None

    def _class_of(self, tag: str) -> type | None:
        namespace, _, name = tag.rpartition(".")
        found = self._only(tag)
        return found if found is not None else self._provided(namespace, name)

    def _moved(self, tag: str, paths: Iterable[str]) -> tuple[type, str | None] | None:
        """Return the class that a tag means by an old path, and the factory it names; else None."""
        owner, _, last = tag.rpartition(".")
        found: dict[type, str | None] = {MOVED[path]: None for path in paths if self._fits(path, tag)} or {
            MOVED[path]: last for path in paths if owner and self._fits(path, owner) and factory_of(MOVED[path], last)
        }
        if len(found) > 1:
            names = ", ".join(sorted(map(dotted_path, found)))
            raise RegistrationError(
                f"the tag '!{tag}' fits the old places of several classes: {names}",
                fix="Write the full dotted path of one of them.",
            )
        return next(iter(found.items()), None)

    def _factory_in(self, tag: str, cls: type) -> str | None:
        """Return the end of a tag if it is a factory of the renamed class, else None."""
        last = tag.rpartition(".")[2]
        is_alias = tag in self._own_tags[dotted_path(cls)]
        return last if not is_alias and factory_of(cls, last) is not None else None

    def _only(self, tag: str) -> type | None:
        """Return the one class that a tag fits, or None."""
        found = self._candidates(tag)
        if len(found) > 1:
            raise RegistrationError(
                f"the tag '!{tag}' fits several classes: {', '.join(sorted(found))}",
                fix=f"Write the full dotted path, as in '!{min(found)}', or give one of them an @alias.",
            )
        return self._classes[found[0]] if found else None

    def _fits(self, path: str, tag: str) -> bool:
        is_own = tag in self._own_tags.get(path, ())
        return is_own or path.endswith("." + tag) or tag in (path, _short_tag(path))

    def knows(self, tag: str, recorded: str | None = None) -> bool:
        """Whether a tag names a class that is found."""
        try:
            self.resolve(tag, recorded)
        except RegistrationError:
            return False
        return True

    def means(self, tag: str, cls: type, factory: str | None) -> bool:
        """Whether a tag names this class and factory by their present names."""
        try:
            return self._here(tag) == (cls, factory)
        except RegistrationError:
            return False

    def is_open(self, cls: type) -> bool:
        """Whether a default load builds a class: registered, provided, or the sum of its parts."""
        return cls in self or self._provider_of(cls) is not None or is_made_of_parts(cls)

    def has_name(self, cls: type) -> bool:
        """Whether a config can name a class."""
        is_found = cls in self or self._provider_of(cls) is not None
        return is_found or find_imported(dotted_path(cls)) is present_class(cls)

    def _provider_of(self, cls: type) -> str | None:
        """Return the namespace under which a lookup finds a class."""
        for namespace in self._providers:
            if any(lookup(cls.__name__) is cls for lookup in self._lookups(namespace)):
                return namespace
        return None

    def _find_tag(self, cls: type) -> str:
        path = dotted_path(cls)
        if cls not in self:
            namespace = self._provider_of(cls)
            if namespace is not None:
                return f"{namespace}.{cls.__name__}"
            named = import_path(present_class(cls))
            if named is not None:
                return named  # in full, because the other classes of its name are not known
            raise RegistrationError(
                f"{path} has no tag", fix="Make it a subclass of Component, or register(cls, 'tag')."
            )
        for tag in reversed(self._own_tags[path]):
            if self._candidates(tag) == [path]:
                return tag
        short = _short_tag(path)
        return short if self._candidates(short) == [path] else path

    def _candidates(self, tag: str) -> list[str]:
        """Return the paths that a tag fits: by alias or path, else own tag, else a path's end."""
        paths = self._named.get(tag.rpartition(".")[2], {})
        exact = [*self._explicit.get(tag, ()), *(path for path in paths if path == tag)]
        own = [path for path in paths if _short_tag(path) == tag]
        return list(dict.fromkeys(exact)) or own or [path for path in paths if path.endswith("." + tag)]

    def _provided(self, namespace: str, name: str) -> type | None:
        for lookup in self._lookups(namespace.partition(".")[0]):
            found = lookup(name)
            if found is None:
                continue
            # Also found as torch.nn.Linear and torch.nn.modules.linear.Linear
            if "." not in namespace or getattr(sys.modules.get(namespace), name, None) is found:
                return found
        return None

    def _unknown(self, tag: str, recorded: str | None) -> RegistrationError:
        what = f"no imported class has the tag '!{tag}'"
        needed = next(
            (module for module in self._modules.get(tag.rpartition(".")[0], ()) if module not in sys.modules), None
        )
        if needed is not None:  # a part of a library that it imports late
            return RegistrationError(what, fix=f"import {needed} first.")
        if recorded:
            module = recorded.rpartition(".")[0]
            what += f"; the save recorded {recorded}"
            fix = f"import {module} first, or load(..., trusted=[{module!r}]); a class that moved takes "
            fix += f"@moved_from({recorded!r})."
            if module == "__main__":
                fix = "Load it in the program that defines the class, or move it to a module."
            return RegistrationError(what, fix=fix)
        namespace, _, name = tag.rpartition(".")
        names = [*self._named, *self._explicit, *(dir(torch.nn) + dir(torch.optim) if namespace == "torch" else ())]
        # A config may have thousands of unknown tags, and a program thousands of classes
        alike = [other for other in names if other[:1] == name[:1] and abs(len(other) - len(name)) < 4]
        close = difflib.get_close_matches(name, alike, 3, 0.7)
        if close:
            return RegistrationError(what, fix=f"Did you mean {' or '.join(close)}? If not, import its module first.")
        module = namespace.partition(".")[0] if namespace not in ("", "torch") else "the module that defines it"
        return RegistrationError(what, fix=f"import {module} first.")


TAGS = Tags()


def _short_tag(path: str) -> str:
    namespace, name = path.partition(".")[0], path.rpartition(".")[2]
    return name if namespace in _NO_NAMESPACE else f"{namespace}.{name}"
