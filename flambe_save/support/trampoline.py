"""Calls as deep as a config: generators run from a list, so Python's stack sets no limit."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeAlias

Steps: TypeAlias = "Generator[Steps, Any, Any]"  # yields other steps to be run, and is sent their results


class Call(NamedTuple):
    """Steps still to be run, in the place of their result."""

    steps: Steps


def run(steps: Steps) -> Any:
    """Run a generator and all that it yields, and return its result.

    An error of one is raised in the generator that yielded it.

    Examples
    --------
    >>> def depth(nested):
    ...     return (1 + (yield depth(nested[0]))) if nested else 0
    >>> nested = []
    >>> for _ in range(100_000):
    ...     nested = [nested]
    >>> run(depth(nested))
    100000
    """
    stack, result, error = [steps], None, None
    while stack:
        try:
            inner = stack[-1].send(result) if error is None else stack[-1].throw(error)
        except StopIteration as stop:
            stack.pop()
            result, error = stop.value, None
        except BaseException as raised:
            stack.pop()
            error = raised
        else:
            stack.append(inner)
            result, error = None, None
    if error is not None:
        raise error
    return result
