"""numpy types: those of ml_dtypes are data, and types that stand for themselves come back as numpy's own."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flambe_save import CorruptSaveError, MissingExtensionError, NeedsTrustWarning, load, save, untrusted
from flambe_save.codecs.unpickler import DataUnpickler
from flambe_save.pt.options import LoadOptions

ml_dtypes = pytest.importorskip("ml_dtypes")
SHAPES: list[dict[str, Any]] = [{}, {"compress": True}, {"pickle_only": True}]
TYPES = [value for value in vars(ml_dtypes).values() if isinstance(value, type) and issubclass(value, np.generic)]


class Space:
    """Keeps a type and a class of numpy where a pickle alone has them."""

    __slots__ = ("array", "dtype")

    def __init__(self, dtype: Any, array: Any) -> None:
        self.dtype, self.array = dtype, array

    def __getstate__(self) -> Any:
        return self.dtype, self.array

    def __setstate__(self, state: Any) -> None:
        self.dtype, self.array = state


def values() -> dict[str, Any]:
    """Return arrays of each type, and of all shapes and orders of one."""
    found: dict[str, Any] = {kind.__name__: np.ones(3).astype(kind) for kind in TYPES}
    kind = ml_dtypes.bfloat16
    found |= {
        "none": np.zeros((0, 2), kind),
        "one": np.array(2, kind),
        "order": np.asfortranarray(np.ones((2, 3), kind)),
    }
    return found | {"fields": np.zeros(2, [("a", kind), ("b", "f4", (2,))]), "scalar": kind(3)}


@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_of_ml_dtypes_are_data(tmp_path: Path, shape: dict[str, Any]) -> None:
    """They are read without trust, of the same types, to the byte."""
    before = values()
    path = save(before, tmp_path / "save", **shape)
    assert untrusted(path) == []
    after = load(path)
    for name, value in before.items():
        assert (type(after[name]), after[name].dtype) == (type(value), value.dtype)
        assert (after[name].shape, after[name].tobytes()) == (value.shape, value.tobytes())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_type_that_stands_for_itself_is_numpys(tmp_path: Path, shape: dict[str, Any]) -> None:
    """In containers and in objects of classes that are trusted, whatever shape the save has."""
    types = [
        np.dtype(kind) for kind in (ml_dtypes.int4, "f4", "U3", "M8[ns]", [("a", "<i4"), ("b", ml_dtypes.bfloat16)])
    ]
    assert load(save({"types": types, "again": types[0]}, tmp_path / "types", **shape)) == {
        "types": types,
        "again": types[0],
    }
    with pytest.warns(NeedsTrustWarning):
        path = save(Space(types, ml_dtypes.bfloat16), tmp_path / "space", **shape)
    space = load(path, trusted=[f"{__name__}.Space"])
    assert (space.dtype, space.array) == (types, ml_dtypes.bfloat16)
    path = save(Space(types[1], np.ndarray), tmp_path / "other", **shape)  # what it needs has been said
    assert load(path, trusted=[f"{__name__}.Space"]).array is np.ndarray


def test_a_program_that_has_not_imported_ml_dtypes_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No load imports it by itself; an audit lists it, and trust imports it."""
    path = save({"a": np.ones(2, ml_dtypes.bfloat16)}, tmp_path / "save")
    monkeypatch.delitem(sys.modules, "ml_dtypes")
    with pytest.raises(MissingExtensionError, match=r"(?s)ml_dtypes.*state\.pt.*import ml_dtypes first"):
        load(path)
    assert "ml_dtypes" not in sys.modules
    assert {row.argument for row in untrusted(path)} == {"trusted=['ml_dtypes']"}
    assert "ml_dtypes" not in sys.modules
    monkeypatch.setattr("importlib.import_module", lambda name: sys.modules.setdefault(name, ml_dtypes))
    assert load(path, trusted=["ml_dtypes"])["a"].dtype == ml_dtypes.bfloat16


class _State:
    """Pickles as a numpy type with any state."""

    def __init__(self, code: Any, *state: Any) -> None:
        self.code, self.state = code, state

    def __reduce__(self) -> Any:
        return (np.dtype, (self.code, False, True), *self.state)


@pytest.mark.parametrize(
    "value",
    [
        _State(ml_dtypes.bfloat16, (3, "<", None, None, None, 4, 2, 64)),  # of another size
        _State(ml_dtypes.bfloat16, (3, ">", None, None, None, 2, 2, 64)),
        _State(ml_dtypes.bfloat16, (3, "<", None, ("a",), {"a": (np.dtype("f4"), 0)}, 2, 2, 64)),
        _State("f4"),  # no state
        _State("V4", (3, "|", (3, 4), None, None, 4, 1, 0)),
    ],
)
def test_states_that_are_none_are_refused(value: Any) -> None:
    """What numpy would believe is checked, and a stand-in never gets out."""
    data = pickle.dumps([value], 2)
    with pytest.raises(CorruptSaveError):
        DataUnpickler(io.BytesIO(data), LoadOptions()).unpickle()


def test_types_in_types_are_nested_twenty_times_at_most() -> None:
    """numpy goes through them on the stack of C."""

    def nested(levels: int) -> bytes:
        dtype = np.dtype("f4")
        for _ in range(levels):
            dtype = np.dtype([("a", dtype)])
        return pickle.dumps([dtype])

    assert DataUnpickler(io.BytesIO(nested(10)), LoadOptions()).unpickle()
    with pytest.raises(CorruptSaveError, match="too deep"):
        DataUnpickler(io.BytesIO(nested(30)), LoadOptions()).unpickle()
