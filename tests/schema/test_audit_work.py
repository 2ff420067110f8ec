"""The audit of a pickle goes through its opcodes as often for many classes as for one."""

from __future__ import annotations

import collections
import pickle
import pickletools
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flambe_save import UntrustedError, load, save, untrusted

MANY = 60


def _module(monkeypatch: pytest.MonkeyPatch) -> Any:
    made: Any = types.ModuleType("audited")
    monkeypatch.setitem(sys.modules, "audited", made)
    for number in range(MANY):
        source = "def __reduce__(self):\n    return type(self), ()\n"
        names: dict[str, Any] = {}
        exec(source, names)
        cls = type(f"Kind{number}", (), {"__reduce__": names["__reduce__"], "__module__": "audited"})
        setattr(made, cls.__name__, cls)
    return made


def _work(path: Path, made: Any, kinds: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """Save objects of so many classes and audit them; return opcodes gone through, those there are, and rows."""
    value = [getattr(made, f"Kind{number % kinds}")() for number in range(5 * MANY)]
    size = sum(1 for _ in pickletools.genops(pickle.dumps(value, 2)))
    counted = collections.Counter()  # type: ignore[var-annotated]
    genops = pickletools.genops

    def counting(*args: Any) -> Iterator[Any]:
        for found in genops(*args):
            counted["opcodes"] += 1
            yield found

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(pickletools, "genops", counting)
        save({"a": value}, path)
        with pytest.raises(UntrustedError):
            load(path)
        rows = untrusted(path)
    return counted["opcodes"], size, len(rows)


def test_an_audit_is_linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is a number of passes over the pickle, whatever it names; each class has its row."""
    made = _module(monkeypatch)
    one, size_of_one, rows_of_one = _work(tmp_path / "one", made, 1, monkeypatch)
    many, size_of_many, rows_of_many = _work(tmp_path / "many", made, MANY, monkeypatch)
    assert (rows_of_one, rows_of_many) == (1, MANY)
    passes = one / size_of_one, many / size_of_many
    assert 0 < passes[1] < 2 * max(passes[0], 1) + 2, passes
    assert passes[1] < 30, passes
