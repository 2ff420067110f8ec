"""numpy's types and arrays in pickles of data, each checked before numpy gets it.

Nothing here imports ml_dtypes: unpickler.py asks trust for it, and an audit goes on without it.
"""

from __future__ import annotations

import math
import pickle
import re
import sys
from typing import Any, cast

_LARGEST_SCALAR = 16  # bytes of a number that ml_dtypes defines, with room


def check(condition: bool, message: str) -> None:
    """Refuse a pickle's arguments unless a condition holds."""
    if not condition:
        raise pickle.UnpicklingError(message)


def is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(item) is int and item >= 0 for item in value)


ARRAY = object()  # stands for the class numpy.ndarray, which pickles of arrays name; it cannot be called


class DtypeProxy:
    """Stands for a numpy type until its state is checked, because some crash numpy.

    Parameters
    ----------
    code : str or ExtensionType or type
        A type as numpy's pickles name it: ``f4``, ``U3``, ``V12``; one of another package by the class of its scalars.
    """

    def __init__(self, code: Any = "", align: Any = False, copy: Any = False) -> None:
        is_text = isinstance(code, str) and re.fullmatch(r"[biufcSUVmMO?]\d{0,9}", code) is not None
        check(
            is_text or isinstance(code, (ExtensionType, type)), "an array of an unknown type"
        )  # classes are trusted ones
        self._code = code
        self._state: Any = None

    def build(self, state: Any) -> Any:
        """The numpy type with a state from a pickle: byte order, parts, size."""
        check(isinstance(state, tuple) and len(state) in (8, 9) and state[0] in (3, 4), "a type of an unknown version")
        self._state = state
        made = self._real()
        check(not _is_deep(made), "a type nested too deep")
        return made

    def _real(self) -> Any:
        """Make the type by numpy's public constructor, which checks it."""
        import numpy

        make: Any = numpy.dtype
        if not isinstance(self._code, str):
            return self._extension(make)
        _, order, inner, names, fields, size = self._state[:6]
        check(order in ("<", ">", "=", "|") and type(size) is int and size < 1 << 31, "a type without a size")
        if inner is not None:
            check(isinstance(inner, tuple) and len(inner) == 2 and _is_type(inner[0]), "a bad sub-array")
            shape = inner[1] if isinstance(inner[1], tuple) else (inner[1],)
            check(is_shape(shape) and math.prod(shape) < 1 << 31, "a bad sub-array")
            return make((inner[0], shape))
        if names is not None:
            check(isinstance(names, tuple) and isinstance(fields, dict) and set(names) == set(fields), "bad fields")
            parts: dict[str, Any] = {"names": list(names), "formats": [], "offsets": [], "itemsize": size}
            for name in names:
                field = fields[name]
                check(isinstance(field, tuple) and len(field) in (2, 3), "a bad field")
                check(_is_type(field[0]) and type(field[1]) is int and 0 <= field[1] <= size, "a bad field")
                parts["formats"].append(field[0])
                parts["offsets"].append(field[1])
            return make(parts)
        if self._code[:1] in ("S", "V", "U"):
            check(size >= 0, "a type of no size")
            return make(f"{order}{self._code[0]}{size // (4 if self._code[0] == 'U' else 1)}")
        if self._code[:1] in ("m", "M") and len(self._state) == 9:
            unit: Any = self._state[8][1] if isinstance(self._state[8], tuple) and len(self._state[8]) == 2 else ()
            check(isinstance(unit, tuple) and len(unit) >= 2 and type(unit[1]) is int, "a time of no unit")
            name = unit[0].decode("ascii") if isinstance(unit[0], bytes) else unit[0]
            check(isinstance(name, str) and name.isalpha(), "a time of no unit")
            generic = make(f"{self._code[0]}8") if name == "generic" else None
            return (generic or make(f"{self._code[0]}8[{unit[1]}{name}]")).newbyteorder(order)
        return make(self._code).newbyteorder(order)

    def _extension(self, make: Any) -> Any:
        import numpy

        if isinstance(self._code, ExtensionType) and not self._code.is_imported():  # an audit, which imports nothing
            size = self._state[5]
            check(type(size) is int and 0 < size <= _LARGEST_SCALAR, "a type of no size")
            return make(f"V{size}")
        scalar = self._code.real() if isinstance(self._code, ExtensionType) else self._code
        check(issubclass(scalar, numpy.generic), "a type of no scalars")
        made = make(scalar)
        is_plain = self._state[1:6] == ("<", None, None, None, made.itemsize)
        check(is_plain and not made.hasobject, "a type of another size or byte order")
        return made


class ExtensionType:
    """Stands for the class of a type's scalars, by its name in ml_dtypes."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    @staticmethod
    def is_imported() -> bool:
        """Whether the program has imported ml_dtypes: only an audit goes on without it."""
        return "ml_dtypes" in sys.modules

    def real(self) -> type:
        """The class itself."""
        found = getattr(sys.modules.get("ml_dtypes"), "__dict__", {}).get(self._name)
        check(isinstance(found, type), "a type that the installed ml_dtypes does not have")
        return cast(type, found)


def holds_objects(state: Any) -> bool:
    """Whether the state of an array has Python's objects as elements."""
    return isinstance(state, tuple) and len(state) == 5 and _is_type(state[2]) and bool(state[2].hasobject)


def build_array(array: Any, state: Any) -> None:
    """Set the state of an empty array that a pickle has made."""
    check(isinstance(state, tuple) and len(state) == 5 and _is_type(state[2]), "an array of an unknown version")
    _, shape, dtype, fortran, raw = state
    if holds_objects(state):
        check(dtype.kind == "O" and is_shape(shape) and type(raw) is list, "a bad array")
        check(len(raw) == math.prod(shape), "an array of another size than its items")
        array.__setstate__((1, shape, dtype, bool(fortran), raw))
        return
    check(is_shape(shape) and isinstance(raw, (bytes, bytearray)), "a bad array")
    check(len(raw) == math.prod(shape) * dtype.itemsize, "an array of another size than its bytes")
    array.__setstate__((1, shape, dtype, bool(fortran), bytes(raw)))


def _is_type(value: Any) -> bool:
    return "numpy" in sys.modules and isinstance(value, sys.modules["numpy"].dtype)


def _is_deep(dtype: Any) -> bool:
    """Whether a numpy type has more than 20 levels of types inside."""
    level: dict[int, Any] = {id(dtype): dtype}
    for _ in range(20):
        inner = [part for outer in level.values() for part in ([outer.base] if outer.subdtype else _fields(outer))]
        level = {id(part): part for part in inner}
        if not level:
            return False
    return True


def _fields(dtype: Any) -> list[Any]:
    return [dtype.fields[name][0] for name in dtype.names or ()]


def empty_array(kind: Any, shape: Any, code: Any) -> Any:
    import numpy

    check(kind is ARRAY and shape == (0,), "an array of an unknown kind")
    return numpy.ndarray((0,), "b")


def scalar_of(dtype: Any, data: bytes = b"") -> Any:
    import numpy

    check(_is_type(dtype) and isinstance(data, bytes), "a bad scalar")
    check(not dtype.hasobject and len(data) == dtype.itemsize, "a scalar of another size")
    return numpy.frombuffer(data, dtype)[0] if dtype.itemsize else dtype.type()


def array_from_buffer(buffer: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> Any:
    import numpy

    check(_is_type(dtype) and is_shape(shape) and order in ("C", "F", "K"), "a bad array")
    check(isinstance(buffer, (bytes, bytearray)) and not dtype.hasobject, "an array without its bytes")
    check(len(buffer) == math.prod(shape) * dtype.itemsize, "an array of another size than its bytes")
    flat = numpy.frombuffer(buffer, dtype) if len(buffer) else numpy.empty(0, dtype)
    if order == "K" and axes is not None:
        check(isinstance(axes, tuple) and sorted(axes) == list(range(len(shape))), "an array with bad axes")
        return flat.reshape(shape, order="C").transpose(axes)
    return flat.reshape(shape, order="F" if order == "F" else "C")
