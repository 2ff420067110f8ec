"""Pickle by names; those of the running script get its module name for ``__main__``."""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from flambe_save.support.script import name_of_script

R = TypeVar("R")

_Machine: Any = pickle._Pickler  # that in C writes the name __main__, which differs from program to program


class ScriptPickler(_Machine):  # type: ignore[misc]
    """A pickler that writes the running script's name in place of ``__main__``."""

    dispatch: ClassVar[dict[Any, Any]] = dict(_Machine.dispatch)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if getattr(obj, "__module__", None) != "__main__":
            _Machine.save_global(self, obj, name)
            return
        script, path = name_of_script(), name or obj.__qualname__
        if script is None or find_in_script(script, path) is not obj or (self.proto < 4 and "." in path):
            raise pickle.PicklingError(f"{path} has no name that another program could import")
        if self.proto < 4:
            self.write(pickle.GLOBAL + f"{script}\n{path}\n".encode())
        else:
            self.save(script)
            self.save(path)
            self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)

    dispatch[types.FunctionType] = save_global


def _dumps(value: Any, protocol: int) -> bytes:
    buffer = io.BytesIO()
    ScriptPickler(buffer, protocol).dump(value)
    return buffer.getvalue()


_SCRIPT = types.SimpleNamespace(Pickler=ScriptPickler, dumps=_dumps)


def by_names(dump: Callable[[Any], R], pickle_in: Callable[[R], bytes]) -> R | None:
    """Pickle by names alone; None if that takes dill.

    Trust in names does not unpickle dill's own functions, which it uses for some values. Only values without a name
    that another program could import need dill: a lambda, or a class inside a function.

    Parameters
    ----------
    dump : callable
        Pickles with a module that is like :mod:`pickle`.
    pickle_in : callable
        Returns the pickle in a result of ``dump``.
    """
    for module in (pickle, _SCRIPT):
        try:
            found = dump(module)
        except Exception:
            continue
        if b"__main__" not in pickle_in(found):
            return found
    return None


def find_in_script(module: str, name: str) -> Any:
    """Find a class or function of the running script, if that is the module; else None.

    Imports of the script are not found: trust in it is not trust in all that it uses.
    """
    script = sys.modules["__main__"]
    found: Any = script if module == name_of_script() else None
    for part in name.split("."):
        found = vars(found).get(part) if found is script or isinstance(found, type) else None
    return found if getattr(found, "__module__", None) == "__main__" else None
