"""CarefulUnpickler, for pickles from strangers; Placeholder, for what they may not make."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, ClassVar, TypeGuard

from flambe_save.codecs.numpy_types import check
from flambe_save.codecs.safe_globals import check_key
from flambe_save.state import State

# The machine in Python: that in C has no hook for BUILD
PythonUnpickler: Any = pickle._Unpickler


class CarefulUnpickler(PythonUnpickler):  # type: ignore[misc]
    """An unpickler that fills only containers, and measures keys before it hashes them.

    A few opcodes can make a tuple of 2 ** 40 parts. The machine calls any method of the right name, such as a tensor's
    ``add``. Extension codes are refused: only the program that wrote them knows their meaning.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(PythonUnpickler.dispatch)

    def may_fill(self, item: Any) -> bool:
        """Whether an opcode may put items into an object."""
        return type(item) in (list, set, dict, OrderedDict, State) or isinstance(item, Placeholder)

    def load_setitem(self) -> None:
        self._check_filled(self.stack[-3], self.stack[-2:-1])
        PythonUnpickler.load_setitem(self)

    def load_setitems(self) -> None:
        self._check_filled(self.metastack[-1][-1], self.stack[::2])
        PythonUnpickler.load_setitems(self)

    def load_append(self) -> None:
        self._check_filled(self.stack[-2], ())
        PythonUnpickler.load_append(self)

    def load_appends(self) -> None:
        self._check_filled(self.metastack[-1][-1], ())
        PythonUnpickler.load_appends(self)

    def load_additems(self) -> None:
        self._check_filled(self.metastack[-1][-1], self.stack)
        PythonUnpickler.load_additems(self)

    def load_dict(self) -> None:
        self._check_filled({}, self.stack[::2])
        PythonUnpickler.load_dict(self)

    def load_frozenset(self) -> None:
        self._check_filled(set(), self.stack)
        PythonUnpickler.load_frozenset(self)

    def load_extension(self) -> None:
        raise pickle.UnpicklingError("an extension code, which only the program that wrote it knows")

    def _check_filled(self, item: Any, hashed: Iterable[Any]) -> None:
        check(self.may_fill(item), f"it fills a {type(item).__qualname__}, which is not a container")
        for key in hashed:
            check_key(key)

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    for _code in (pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_code[0]] = load_extension


class Placeholder(dict):  # type: ignore[type-arg]
    """Takes the place of an object that is not made: accepts any arguments, items and state.

    Attributes
    ----------
    stands_for : str
        The dotted name of the class or function; of the class, if a function gets one.
    is_class : bool
        Whether it is a class.
    is_filled : bool
        Whether a load that trusts the names is known to fill the object.
    """

    stands_for: ClassVar[str] = ""
    is_class: ClassVar[bool] = False
    is_filled = True

    def __new__(cls, *arguments: Any, **others: Any) -> Placeholder:
        classes = (item for item in arguments if is_placeholder_class(item))
        return dict.__new__(next(classes, cls))

    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__()

    def __call__(self, *arguments: Any) -> Placeholder:
        result = Placeholder()
        result.is_filled = False
        return result

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__

    def add(self, item: Any) -> None:
        """Take a set's item; also a list's, several, or a state."""

    append = extend = __setstate__ = add


def is_placeholder_class(item: Any) -> TypeGuard[type[Placeholder]]:
    """Whether a value stands for a class or a function."""
    return isinstance(item, type) and issubclass(item, Placeholder)
