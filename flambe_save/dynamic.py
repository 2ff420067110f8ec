"""Components made of other classes: of one, or of its subclasses when a config names them."""

from __future__ import annotations

import functools
import inspect
from typing import Any, cast

from flambe_save.classes.registrable import all_subclasses
from flambe_save.classes.tags import TAGS
from flambe_save.component import Component


def dynamic_component(
    class_: type, tag: str, tag_namespace: str | None = None, parent_component_class: type[Component] = Component
) -> type[Component]:
    """Return a subclass of any class that is a Component too, under a tag of its own.

    Parameters
    ----------
    class_ : type
        Not changed. A class that is a Component already is returned itself.
    tag : str
    tag_namespace : str, optional
    parent_component_class : type
        The Component class to mix in.

    Raises
    ------
    TypeError
        If ``parent_component_class`` is not a Component.
    """
    if not issubclass(parent_component_class, Component):
        raise TypeError(f"{parent_component_class!r} is not a subclass of Component")
    if issubclass(class_, parent_component_class):
        return class_
    copied = {name: getattr(class_, name) for name in functools.WRAPPER_ASSIGNMENTS if hasattr(class_, name)}
    copied.pop("__annotations__", None)
    make: Any = type(parent_component_class)
    return cast(
        type[Component],
        make(class_.__name__, (parent_component_class, class_), copied, tag_override=tag, tag_namespace=tag_namespace),
    )


def make_component(class_: type, tag_namespace: str, only_module: str | None = None) -> None:
    """Make a class and all its subclasses usable in configs, as Components, under a namespace.

    The Components are made when a config first names them. The classes themselves are not changed.

    Parameters
    ----------
    class_ : type
    tag_namespace : str
        ``make_component(torch.optim.Optimizer, "optim")`` gives ``!optim.Adam``.
    only_module : str, optional
        Leave out classes of modules whose names do not begin so.
    """

    made: dict[str, type] = {}

    def lookup(name: str) -> type | None:
        if name in made:
            return made[name]
        for sub in sorted({class_, *all_subclasses(class_)}, key=lambda item: (item.__module__, item.__qualname__)):
            inside = only_module is None or sub.__module__.startswith(only_module)
            if sub.__name__ == name and inside and not inspect.isabstract(sub):
                made[name] = dynamic_component(sub, name, tag_namespace)
                return made[name]
        return None

    TAGS.provide(tag_namespace, lookup)
