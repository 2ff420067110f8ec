"""Walks over modules and their tensors, without recursion or methods of their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from flambe_save.errors import LimitError, UnsupportedObjectError


def module_at(module: Any, path: str) -> Any:
    """Return the module at a dotted path inside another; None without one."""
    for name in path.split(".") if path else ():
        module = module.__dict__["_modules"].get(name) if isinstance(module, nn.Module) else None
    return module


def modules_in(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return ``named_modules()`` as a list, in time that does not depend on depth."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    waiting = [("", module)]
    while waiting:
        path, inner = waiting.pop()
        if id(inner) not in seen:
            seen.add(id(inner))
            found.append((path, inner))
            if inner._modules:
                begin = f"{path}." if path else ""
                children = reversed(inner._modules.items())
                waiting += [(begin + name, child) for name, child in children if child is not None]
    return found


def everywhere(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules inside a module, at each of their places.

    Raises
    ------
    UnsupportedObjectError
        If one is inside itself; torch has no state of it.
    """
    around: set[int] = set()
    waiting: list[tuple[str | None, nn.Module]] = [("", module)]
    while waiting:
        path, inner = waiting.pop()
        if path is None:  # all that is inside was yielded
            around.remove(id(inner))
            continue
        if id(inner) in around:
            raise UnsupportedObjectError(
                f"{path}, a {type(inner).__qualname__}, is inside itself",
                fix="torch cannot use such a module. Hold the outer one in a list, or pass it to forward.",
            )
        yield path, inner
        if inner._modules:
            begin = f"{path}." if path else ""
            around.add(id(inner))
            waiting.append((None, inner))
            waiting += [(begin + name, child) for name, child in reversed(inner._modules.items()) if child is not None]


def named_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters and buffers of a module and of those inside it."""
    for path, inner in modules_in(module):
        begin = f"{path}." if path else ""
        for table in (inner._parameters, inner._buffers):
            yield from ((begin + name, tensor) for name, tensor in table.items() if tensor is not None)


def named_once(inside: list[tuple[str, nn.Module]], table: str) -> list[tuple[str, Any]]:
    """Name the tensors in a table of modules (``_parameters``); tied ones have the first name."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for path, inner in inside:
        for name, tensor in getattr(inner, table).items():
            if tensor is not None:
                found.setdefault(id(tensor), (f"{path}.{name}" if path else name, tensor))
    return [*found.values()]


def inside_itself(root: Any, children: Callable[[Any], Iterable[Any]], most: int | None = None) -> Any:
    """Return an object that is inside itself; None without one.

    Parameters
    ----------
    root : object
    children : callable
        The objects in an object.
    most : int, optional
        The number of objects that may be inside each other.

    Raises
    ------
    LimitError
        If more are.
    """
    done: set[int] = set()
    path: dict[int, None] = {id(root): None}
    stack = [(root, iter(children(root)))]
    while stack:
        outer, inside = stack[-1]
        for child in inside:
            if id(child) in path:
                return child
            if id(child) not in done:
                if len(path) == most:
                    raise LimitError(
                        f"objects are inside each other more than {most:,} levels deep", fix="Flatten them."
                    )
                path[id(child)] = None
                stack.append((child, iter(children(child))))
                break
        else:
            stack.pop()
            del path[id(outer)]
            done.add(id(outer))
    return None
