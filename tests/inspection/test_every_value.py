"""Every verb of the command over every kind of tensor and value that a save can hold."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import pathlib
import unicodedata
import uuid
import warnings
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flambe_save import load, save, verify
from flambe_save.cli import main
from flambe_save.errors import plain

NAN, INF = float("nan"), float("inf")
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SMALL = [getattr(torch, name) for name in dir(torch) if name.startswith("float8_")]
WHOLE = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
COMPLEX = [torch.complex32, torch.complex64, torch.complex128]


class Mood(enum.Enum):
    """A member."""

    GOOD = 1


def _tensors() -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {
        "empty": torch.empty(0),
        "no_rows": torch.empty(0, 3),
        "no_columns": torch.empty(3, 0, 2),
        "empty_whole": torch.empty(0, dtype=torch.int64),
        "empty_flags": torch.empty(0, dtype=torch.bool),
        "empty_complex": torch.empty(0, dtype=torch.complex64),
        "scalar": torch.tensor(7.0),
        "scalar_nan": torch.tensor(NAN),
        "all_infinite": torch.tensor([INF, -INF]),
        "minus_infinite": torch.tensor([-INF, -INF]),
        "mixed": torch.tensor([1.0, NAN, INF, -INF, 0.0, -0.0]),
        "one_finite": torch.tensor([NAN, 2.0, NAN]),
        "tiny": torch.tensor([5e-324, 1e-310], dtype=torch.float64),
        "huge": torch.tensor([1.7e308, -1.7e308], dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "all_false": torch.zeros(3, dtype=torch.bool),
        "complex_nan": torch.tensor([complex(NAN, 1), complex(INF, NAN)]),
        "turned": torch.arange(6.0).reshape(2, 3).t(),
        "expanded": torch.ones(1).expand(5),
        "stepped": torch.arange(10)[::3],
        "conjugated": torch.tensor([1 + 2j]).conj(),
        "negated": torch.tensor([1 + 2j]).conj().imag,
        "parameter": torch.nn.Parameter(torch.empty(0, 2)),
        "frozen": torch.nn.Parameter(torch.full((2,), NAN), requires_grad=False),
        "sparse": torch.eye(3).to_sparse(),
        "sparse_empty": torch.sparse_coo_tensor(torch.empty(2, 0, dtype=torch.int64), torch.empty(0), (3, 3)),
        "sparse_rows": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "many_dimensions": torch.ones((1,) * 20),
    }
    for dtype in FLOATS:
        found[f"nan_{dtype}"] = torch.full((3,), NAN, dtype=dtype)
    for dtype in [*FLOATS, *SMALL, *WHOLE, *COMPLEX]:
        found[str(dtype)] = torch.ones(3).to(dtype)
    return found


def _values() -> dict[str, Any]:
    return {
        "nothing": None,
        "nan": NAN,
        "infinite": -INF,
        "minus_zero": -0.0,
        "large": 10**400,
        "complex": complex(NAN, -0.0),
        "empty_text": "",
        "lines": "a\n\tb\r\n\x00\x1b[31m",
        "hidden": "a\u202eb\u200b\U000e0041",
        "emoji": "\U0001f469\u200d\U0001f680\ufe0f",
        "long": "x" * 5000,
        "bytes": b"\x00\xff" * 40,
        "empty_dict": {},
        "odd_keys": {1: "a", None: "b", False: "c", (1, 2): "d", "": "e", "a.b": torch.empty(0)},
        "nested": {"a": [{"b": (torch.empty(0), [NAN])}]},
        "set": {1, 2},
        "frozen": frozenset(("a",)),
        "deque": deque([1], maxlen=3),
        "default": defaultdict(list, a=[1]),
        "ordered": OrderedDict(a=1),
        "range": range(0, 10, 3),
        "slice": slice(1, None),
        "path": pathlib.Path("a/b"),
        "date": datetime.date(2024, 2, 29),
        "time": datetime.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),
        "delta": datetime.timedelta(days=-1, microseconds=1),
        "decimal": decimal.Decimal("NaN"),
        "fraction": fractions.Fraction(1, 3),
        "uuid": uuid.UUID(int=5),
        "member": Mood.GOOD,
        "dtype": torch.float8_e4m3fn,
        "device": torch.device("cpu"),
        "size": torch.Size([1, 0]),
        "generator": torch.Generator(),
        "array_empty": np.empty((0, 3)),
        "array_nan": np.full((2,), NAN),
        "array_whole": np.arange(3, dtype=np.uint16),
        "array_flags": np.array([True]),
        "array_complex": np.array([1j]),
        "array_text": np.array(["a", "\u202e"]),
        "array_bytes": np.array([b"a"]),
        "array_dates": np.array(["2024-01-01", "NaT"], dtype="datetime64[D]"),
        "array_record": np.zeros(2, dtype=[("a", "<f4"), ("b", "<i8", (2,))]),
        "array_scalar": np.array(NAN),
        "number_of_numpy": np.float32(NAN),
    }


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch says that its sparse and quantized tensors change
    EVERY = {**_tensors(), **_values()}


def run(*arguments: object) -> int:
    """Run the command in this process."""
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", EVERY)
def test_every_verb_on_every_value(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each verb ends well or says in words what it cannot do, and writes nothing that a reader would not see."""
    value = EVERY[kind]
    one, two = tmp_path / "one", tmp_path / "two"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save({"a": value, "b": torch.ones(2)}, one)
        save({"a": torch.ones(3), "b": torch.ones(2)}, two)
        assert verify(one) == []
        ends = {
            "tree": run("tree", one),
            "tree modules": run("tree", "--modules", one),
            "show": run("show", one),
            "show json": run("show", one, "--json"),
            "diff": run("diff", one, two),
            "diff back": run("diff", two, one, "--json"),
            "diff same": run("diff", one, one),
            "verify": run("verify", one),
            "untrusted": run("untrusted", one),
            "report": run("report", one, "-o", tmp_path / "one.html"),
            "report of two": run("report", two, one, "-o", tmp_path / "two.html"),
            "convert": run("convert", one, tmp_path / "c.tar.gz"),
            "convert pickle": run("convert", one, tmp_path / "c.pkl"),
            "convert back": run("convert", tmp_path / "c.pkl", tmp_path / "back"),
            "migrate": run("migrate", one, "-o", tmp_path / "m"),
        }
        odd = {"extract": run("extract", one, tmp_path / "e.safetensors")}
    written = capsys.readouterr()
    assert {verb: end for verb, end in ends.items() if end not in (0, 1)} == {}, written.err
    assert odd["extract"] in (0, 2), written.err
    assert "bug" not in written.err, written.err
    for text in (written.out, written.err):
        assert plain(text) == text.expandtabs(4)
    assert ends["diff same"] == 0 or "nan" in kind
    assert type(load(tmp_path / "back", trusted=[__name__])["a"]) is type(load(one, trusted=[__name__])["a"])


def test_nothing_hidden_is_written() -> None:
    """All of Unicode's control, format and separator characters are written out, and what else shows nothing."""
    every = [chr(code) for code in range(0x110000)]
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    hidden = [char for char in every if unicodedata.category(char) in kinds and char not in "\t\n"]
    more = ["\u034f", "\u115f", "\u180b", "\u3164", "\ufe0f", "\uffa0", "\U000e0100", "\U000e01ef"]
    assert [hex(ord(char)) for char in [*hidden, *more] if plain(char) == char] == []
    shown = [char for char in every if unicodedata.category(char)[0] in "LNPS" and char not in more]
    assert [char for char in shown if plain(char) != char and char not in "\u1160\u115f"] == []
