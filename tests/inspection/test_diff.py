"""diff(): nothing where two saves are the same, whatever contains them; every kind of change where they are not."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import FLAMBE
from helpers.saves import CONTAINERS, written

from flambe_save import Change, LoadError, SaveNotFoundError, State, diff, load, save
from flambe_save.inspection import changes, open_save, statistics
from flambe_save.inspection.configs import compare_configs
from flambe_save.layout import MANIFEST_FILE

pytestmark = pytest.mark.filterwarnings("ignore::flambe_save.NeedsTrustWarning")


class Odd:
    """What needs trust."""

    def __init__(self, number: int) -> None:
        self.number = number


def state_of(values: dict[str, Any], **nodes: dict[str, Any]) -> State:
    """Return a state with components, by their prefixes (``__`` stands for a dot)."""
    state = State(values)
    state._metadata["_flambe_directories"] = {""}
    for name, facts in {"": {}, **nodes}.items():
        prefix = name.replace("__", ".")
        state._metadata["_flambe_directories"].add(prefix)
        state._metadata[prefix] = {"_flambe_class": "Part", "_flambe_version": "1.0.0", **facts}
    return state


def rows(tmp_path: Path, before: State, after: State, **options: Any) -> list[Change]:
    """Return what is different between two states in saves, the same in each pair of containers."""
    found = []
    for suffix in ("", ".pkl"):
        paths = [
            written(state, tmp_path / name, suffix, overwrite=True) for name, state in (("a", before), ("b", after))
        ]
        found.append(diff(*paths, **options))
        assert diff(paths[0], paths[0], **options) == diff(paths[1], paths[1], **options) == []
    assert found[0] == found[1]
    return found[0]


def tensor_rows(tmp_path: Path, before: Any, after: Any, **options: Any) -> list[Change]:
    """Return what is different between two values."""
    return rows(tmp_path, state_of({"v": before}), state_of({"v": after}), **options)


def rich() -> State:
    """Return a state of many kinds of values."""
    weight = torch.randn(3, 4)
    values = {
        "a.w": weight,
        "b.w": weight,
        "nan": torch.tensor([math.nan, 1.0]),
        "t": torch.randn(4, 3).t(),
        "i": torch.tensor([2**60]),
        "empty": torch.empty(0),
        "steps": 5,
        "group": {"betas": (0.9, 0.999), "name": "x", "nan": math.nan, "set": {1, 2}},
        "odd": Odd(1),
        "sparse": torch.eye(3).to_sparse(),
    }
    config = {"_flambe_config": "!Part\nsize: 3\n", "_flambe_source": "class Part: ...\n"}
    return state_of(values, a=config, b={"_flambe_stash": {"1": Odd(2), "2": {3, 4}}}, a__c__d=config)


# ------------------------------------------------------------------------------------------------ the same


@pytest.mark.parametrize("one", CONTAINERS)
@pytest.mark.parametrize("other", CONTAINERS)
def test_the_same_in_other_containers(one: str, other: str, tmp_path: Path) -> None:
    """A save has no differences to itself in any container, but that what needs trust cannot be compared."""
    state = rich()
    a, b = written(state, tmp_path / "a", one), written(state, tmp_path / "b", other)
    found = diff(a, b)
    assert {(row.part, row.name) for row in found} <= {("value", "odd"), ("stash", "1")}
    assert all(row.text is not None and "not compared" in row.text for row in found)
    is_pickle = "pkl" in one, "pkl" in other
    assert bool(found) == (is_pickle[0] != is_pickle[1])
    del state["odd"], state._metadata["b"]["_flambe_stash"]["1"]
    assert diff(written(state, tmp_path / "c", one), written(state, tmp_path / "d", other)) == []


@pytest.mark.parametrize("name", ["classifier_gz.tar.gz", "classifier_pkl.pkl"])
def test_flambes_saves(name: str) -> None:
    """Flambe's saves are compared: with themselves, with a part of them, and with another model."""
    assert diff(FLAMBE / name, FLAMBE / name) == []
    with pytest.raises(SaveNotFoundError):
        diff(FLAMBE / name, FLAMBE / "none")
    found = diff(FLAMBE / "classifier", FLAMBE / "shared")
    assert {row.part for row in found} >= {"class", "node", "config"}
    again = diff(FLAMBE / "shared", FLAMBE / "classifier")
    opposite = {"added": "removed", "removed": "added"}
    mirrored = {
        (row.node, row.part, row.name, opposite.get(row.kind, row.kind), row.after, row.before) for row in again
    }
    assert mirrored == {(row.node, row.part, row.name, row.kind, row.before, row.after) for row in found}


def test_saved_again_by_us(tmp_path: Path) -> None:
    """A save of Flambe's that was loaded and saved has the same states and texts."""
    pytest.importorskip("textnet")
    save(load(FLAMBE / "classifier"), tmp_path / "again")
    assert [row for row in diff(FLAMBE / "classifier", tmp_path / "again") if row.part != "config"] == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.tensor([-0.0, 1.0]), torch.tensor([0.0, 1.0])),
        (torch.tensor([math.nan, 1.0]), torch.tensor([math.nan, 1.0])),
        (torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(3, 2).t().contiguous().t().reshape(2, 3)),
        (torch.arange(6.0).reshape(3, 2).t().contiguous(), torch.arange(6.0).reshape(3, 2).t()),
        (["ab", "ab"], ["ab", "".join(["a", "b"])]),
        ({"x": math.nan, "s": {1, 2, 3}}, {"x": float("nan"), "s": {3, 2, 1}}),
        (10**5000, 10**5000),
    ],
    ids=["minus-zero", "nan", "contiguous", "transposed", "texts", "nan-in-dict", "large"],
)
def test_what_is_equal(before: Any, after: Any, tmp_path: Path) -> None:
    """Equal numbers and values are no change, however they lie in memory."""
    assert tensor_rows(tmp_path, before, after) == []


# ------------------------------------------------------------------------------------------------ tensors and values


@pytest.mark.parametrize(
    ("before", "after", "kind", "texts"),
    [
        (torch.zeros(2), torch.ones(2), "changed", ("float32 2", "float32 2")),
        (torch.zeros(2), torch.zeros(3), "reshaped", ("float32 2", "float32 3")),
        (torch.zeros(2, 1), torch.zeros(2), "reshaped", ("float32 2 x 1", "float32 2")),
        (torch.zeros(()), torch.zeros((), dtype=torch.int64), "retyped", ("float32 ()", "int64 ()")),
        (torch.tensor([2**53]), torch.tensor([2**53 + 1]), "changed", ("int64 1", "int64 1")),
        (torch.tensor([1.0]), torch.tensor([math.nan]), "changed", ("float32 1", "float32 1")),
        (torch.eye(2).to_sparse(), torch.zeros(2, 2).to_sparse(), "changed", ("float32 2 x 2", "float32 2 x 2")),
        (torch.eye(2).to_sparse(), torch.eye(2), "changed", ("float32 2 x 2", "float32 2 x 2")),
    ],
    ids=["changed", "longer", "flatter", "retyped", "int64", "nan", "sparse", "dense"],
)
def test_tensors(before: Any, after: Any, kind: str, texts: tuple[str, str], tmp_path: Path) -> None:
    """A tensor that differs is one row, whose kind says how."""
    [row] = tensor_rows(tmp_path, before, after)
    assert (row.node, row.part, row.name, row.kind, row.before, row.after) == ("", "tensor", "v", kind, *texts)
    is_measured = kind != "reshaped" and before.layout == after.layout == torch.strided
    assert (row.measures is not None) == is_measured


def test_measures(tmp_path: Path) -> None:
    """A changed tensor says how far it moved; a retyped one whether its numbers are the same."""
    [row] = tensor_rows(tmp_path, torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5]))
    assert row.measures is not None
    assert (row.measures.max_abs, row.measures.mean_abs, row.measures.relative_norm) == (0.5, 0.25, 0.1)
    [row] = tensor_rows(tmp_path, torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0], dtype=torch.float16))
    assert (row.kind, row.measures and row.measures.is_same) == ("retyped", True)


def test_added_and_removed(tmp_path: Path) -> None:
    """What is in one alone is said to be added or removed."""
    before = state_of({"t": torch.ones(2), "v": 1}, gone={})
    after = state_of({"u": torch.ones(2), "w": "x"}, new={"_flambe_class": "New"})
    found = {(row.node, row.part, row.name, row.kind, row.before, row.after) for row in rows(tmp_path, before, after)}
    assert found == {
        ("", "tensor", "t", "removed", "float32 2", None),
        ("", "tensor", "u", "added", None, "float32 2"),
        ("", "value", "v", "removed", "1", None),
        ("", "value", "w", "added", None, "'x'"),
        ("gone", "node", None, "removed", "Part 1.0.0", None),
        ("new", "node", None, "added", None, "New 1.0.0"),
    }


@pytest.mark.parametrize(
    ("before", "after"), [(1, 2), (1, 1.0), (True, 1), ([1], (1,)), ({"a": [1, {2}]}, {"a": [1, {3}]}), ("a", None)]
)
def test_values(before: Any, after: Any, tmp_path: Path) -> None:
    """A value of another type or content is a change."""
    [row] = tensor_rows(tmp_path, before, after)
    assert (row.part, row.name, row.kind, row.before, row.after) == ("value", "v", "changed", repr(before), repr(after))


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 2), ({"atol": 0.1}, 1), ({"atol": 0.09}, 2), ({"rtol": 0.1}, 1), ({"atol": 2.0}, 0), ({"atol": math.inf}, 0)],
)
def test_tolerances(options: dict[str, float], count: int, tmp_path: Path) -> None:
    """What is within the tolerances is no change."""
    before = state_of({"a": torch.tensor([1.0], dtype=torch.float64), "b": torch.tensor([1, 2])})
    after = state_of({"a": torch.tensor([1.09375], dtype=torch.float64), "b": torch.tensor([1, 4])})
    assert len(rows(tmp_path, before, after, **options)) == count


@pytest.mark.parametrize(
    "options", [{"atol": -1}, {"rtol": -0.1}, {"atol": math.nan}, {"only": "tensors"}, {"only": ["state", "x"]}]
)
def test_arguments_that_are_none(options: dict[str, Any], tmp_path: Path) -> None:
    """A tolerance below zero, or a part that there is not, is a ValueError."""
    path = written(state_of({}), tmp_path / "a")
    with pytest.raises(ValueError, match="tolerances"):
        diff(path, path, **options)


# ------------------------------------------------------------------------------------------------ texts


def test_texts_of_a_component(tmp_path: Path) -> None:
    """Class, version, config and source each are a row, and ``only=`` chooses among them."""
    before = state_of({"w": torch.ones(1)}, a={"_flambe_config": "!A\nx: 1\n", "_flambe_source": "one\ntwo\n"})
    changed = {"_flambe_config": "!A\nx: 2\ny: z\n", "_flambe_source": "one\nthree\n", "_flambe_version": "2.0.0"}
    after = state_of({"w": torch.zeros(1)}, a={"_flambe_class": "Other", **changed})
    found = rows(tmp_path, before, after)
    assert [(row.node, row.part, row.name, row.kind, row.before, row.after) for row in found] == [
        ("", "tensor", "w", "changed", "float32 1", "float32 1"),
        ("a", "class", None, "changed", "Part", "Other"),
        ("a", "version", None, "changed", "1.0.0", "2.0.0"),
        ("a", "config", "x", "changed", "1", "2"),
        ("a", "config", "y", "added", None, "z"),
        ("a", "source", None, "changed", None, None),
    ]
    assert found[-1].text == "--- before\n+++ after\n@@ -1,2 +1,2 @@\n one\n-two\n+three"
    always = {"class", "version"}
    for only, parts in (
        ("state", {"tensor"}),
        (["config", "source"], {"config", "source"}),
        ([], {"tensor", "config"}),
    ):
        assert {row.part for row in rows(tmp_path, before, after, only=only)} >= parts | always
    assert "tensor" not in {row.part for row in rows(tmp_path, before, after, only="config")}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a: 1", "a: 2", [("a", "1", "2")]),
        ("a: 1", "a: '1'", [("a", "1 (int)", "1 (str)")]),
        ("1: a\n'1': b", "1: a\n'1': c", [("1", "b", "c")]),
        ("? [1]\n: 2\n? [2]\n: 3", "? [1]\n: 4\n? [2]\n: 3", [("[1 items]", "2", "4")]),
        ("a: !B {x: 1}", "a: !C {x: 1}", [("a", "!B {...}", "!C {...}")]),
        ("a: !B x", "a: !B y", [("a", "!B x", "!B y")]),
        ("a: [1, 2]", "a: [1]", [("a[1]", "2", None)]),
        ("a: {b: [{c: 1}]}", "a: {b: [{c: 2}]}", [("a.b[0].c", "1", "2")]),
        ("a: {}", "a: []", [("a", "{}", "[]")]),
        ("", "a: 1", [("", None, "{...}")]),
        ("a: &x {b: 1}\nc: *x", "a: {b: 1}\nc: {b: 1}", [("c", "*a", "{...}")]),
        ("a: &x {b: 1}\nc: &y {b: 1}\nd: *x", "a: &x {b: 1}\nc: &y {b: 1}\nd: *y", [("d", "*a", "*c")]),
        ("a: &x {b: 1}\nc: *x", "a: &x {b: 2}\nc: *x", [("a.b", "1", "2")]),
    ],
)
def test_configs(before: str, after: str, expected: list[tuple[str, str | None, str | None]]) -> None:
    """Configs are compared by what they say: values, tags, keys, and which parts are one object."""
    assert compare_configs(before, after) == expected
    assert compare_configs(after, before) == [(path, there, here) for path, here, there in expected]
    assert compare_configs(before, f"{before}  # a comment\n" if before else "\n") == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{a: 1, b: [x]}", "b:\n- x\na: 1"),
        ("a: 16", "a: 0x10"),
        ("a: null", "a: ~"),
        ("a: 1.0", "a: 1.00"),
        ("a: .nan", "a: .NaN"),
        ("a: True", "a: true"),
        ("a: |\n  x\n", 'a: "x\\n"'),
        ("a: &x [1]\nb: *x", "a: &other [1]\nb: *other"),
        ("a: &x {}\nb: 1", "a: {}\nb: 1"),
    ],
)
def test_configs_that_say_the_same(before: str, after: str) -> None:
    """How a config is written is no change."""
    assert compare_configs(before, after) == compare_configs(after, before) == []


def test_many_aliases_are_compared_once() -> None:
    """A config that unfolds to more than there are atoms is compared as it is written."""
    lines = ["a0: &a0 [1, 2]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 15)]
    before = "\n".join(lines)
    assert compare_configs(before, before.replace("[1, 2]", "[1, 3]")) == [("a0[1]", "2", "3")]


def test_a_config_around_another_is_compared_without_it(tmp_path: Path) -> None:
    """A change in a component's config is told of that component alone."""
    facts = {"_flambe_config": "!Root\na: !Part\n  x: {}\n"}
    states = []
    for number in ("1", "2"):
        inner = {"_flambe_config": f"!Part\nx: {number}\n"}
        state = state_of({}, a=inner)
        state._metadata[""]["_flambe_config"] = facts["_flambe_config"].replace("{}", number)
        states.append(state)
    [row] = rows(tmp_path, *states)
    assert (row.node, row.part, row.name) == ("a", "config", "x")


# ------------------------------------------------------------------------------------------------ of the whole


def test_ties_and_packages(tmp_path: Path) -> None:
    """A tie that is broken is a change, and so is another version of a package, unless parts are chosen."""
    weight = torch.ones(2)
    before, after = state_of({"a": weight, "b": weight}), state_of({"a": weight, "b": weight.clone()})
    [row] = rows(tmp_path, before, after)
    assert (row.node, row.part, row.name, row.kind) == (None, "tie", "a = b", "removed")
    paths = [written(before, tmp_path / "x"), written(before, tmp_path / "y")]
    with open_save(paths[0]) as one, open_save(paths[1]) as other:
        other.packages = {**other.packages, "torch": "1.0"}
        [row] = changes(one, other)
        assert (row.part, row.name, row.kind, row.after) == ("package", "torch", "changed", "1.0")
        assert [*changes(one, other, only="state")] == []


def test_progress_is_told_of_all_bytes(tmp_path: Path) -> None:
    """Whatever is changed, added or the same, in the end all of the first save's bytes are told of."""
    before = state_of({"a": torch.ones(10), "b": torch.ones(3), "c": torch.ones(5)}, n={})
    after = state_of({"a": torch.ones(10), "b": torch.ones(4), "d": torch.ones(5)}, n={})
    a, b = written(before, tmp_path / "a"), written(after, tmp_path / "b")
    told: list[int] = []
    with open_save(a) as one, open_save(b) as other:
        assert len([*changes(one, other, advance=told.append)]) == 3
    assert sum(told) == 18 * 4


# ------------------------------------------------------------------------------------------------ what is not read


@pytest.mark.parametrize("how", ["digest", "base", "archive"])
def test_equal_files_are_not_read(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests, and links to one file, settle that states are the same."""
    state = state_of({"w": torch.randn(5000), "v": [1]})
    options = {"digest": "sha256"} if how != "base" else {}
    a = written(state, tmp_path / "a", **options)
    if how == "base":
        b = written(state, tmp_path / "b", base=a)
        assert (a / "state.pt").stat().st_ino == (b / "state.pt").stat().st_ino
    else:
        b = written(state, tmp_path / "b", ".tar.gz" if how == "archive" else "", **options)
    monkeypatch.setattr(statistics, "compare", lambda *_, **__: pytest.fail("the tensors were read"))
    assert diff(a, b) == []
    monkeypatch.undo()
    state["w"] = state["w"] + 1
    c = written(state, tmp_path / "c", **options)
    assert [row.name for row in diff(a, c)] == ["w"]


# ------------------------------------------------------------------------------------------------ trust and damage


@pytest.mark.parametrize("where", ["state", "stash"])
def test_what_needs_trust(where: str, tmp_path: Path) -> None:
    """It is said not to be compared, unless its files are the same; with trust it is compared."""
    paths = []
    for number in (1, 1, 2):
        state = state_of({"w": torch.ones(1)})
        if where == "state":
            state["odd"] = Odd(number)
        else:
            state._metadata[""]["_flambe_stash"] = {"odd": Odd(number)}
        paths.append(written(state, tmp_path / str(len(paths))))
    assert diff(paths[0], paths[1]) == []
    [row] = diff(paths[0], paths[2])
    assert (row.part, row.name, row.kind) == ("value" if where == "state" else "stash", "odd", "changed")
    assert row.text == "not compared: only a trusting load reads it"
    assert row.before == row.after == f"{__name__}.Odd"
    with open_save(paths[0], trusted=[__name__]) as one, open_save(paths[2], trusted=[__name__]) as other:
        [row] = changes(one, other)
        assert row.text is None


def test_stashes_of_data(tmp_path: Path) -> None:
    """What is data in a stash needs no trust."""
    states = [state_of({}, a={"_flambe_stash": {"1": {number}, "2": b"x"}}) for number in (1, 2)]
    [row] = rows(tmp_path, *states)
    assert (row.node, row.part, row.name, row.before, row.after) == ("a", "stash", "1", "{1}", "{2}")


def _flip(path: Path, tensor: torch.Tensor) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(tensor.numpy().tobytes())] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_damaged_tensor_hides_no_other(side: int, has_manifest: bool, tmp_path: Path) -> None:
    """What is damaged is a row, and everything beside it is compared."""
    values = {"a": torch.full((9,), 3.0), "b": torch.ones(2), "v": [1]}
    before = state_of(values, inner={"_flambe_stash": {"1": {1}}})
    after = state_of({**values, "b": torch.zeros(2), "v": [2]}, inner={"_flambe_stash": {"1": {2}}})
    paths = [written(before, tmp_path / "0"), written(after, tmp_path / "1")]
    _flip(paths[side] / "state.pt", values["a"])
    for path in paths if not has_manifest else ():
        (path / MANIFEST_FILE).unlink()
    found = [(row.node, row.part, row.name) for row in diff(*paths)]
    assert found == [
        *([("", "damage", MANIFEST_FILE)] * 2 if not has_manifest else []),
        ("", "damage", "state.pt"),
        ("", "tensor", "b"),
        ("", "value", "v"),
        ("inner", "stash", "1"),
    ]


@pytest.mark.parametrize("name", ["version.txt", "config.yaml", "source.py", "state.pt", "stash.pkl"])
@pytest.mark.parametrize("make", [lambda path: path.unlink(), lambda path: path.write_bytes(b"\xff\xfe\0")])
@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_damaged_file(name: str, make: Callable[[Path], Any], has_manifest: bool, tmp_path: Path) -> None:
    """It is a row of the component that it is of, on either side, and other components are compared."""
    config = {"_flambe_config": "!Part {}\n", "_flambe_source": "x"}
    before = state_of({"w": torch.ones(2), "p.w": torch.ones(1)}, p=config, only_here=config)
    after = state_of({"w": torch.zeros(2), "p.w": torch.ones(1)}, p=config)
    a, b = written(before, tmp_path / "a"), written(after, tmp_path / "b")
    for folder in ("p", "only_here"):
        make(a / folder / name)
    if not has_manifest:
        (a / MANIFEST_FILE).unlink()
    for pair in ((a, b), (b, a)):
        found = diff(*pair)
        assert ("", "tensor", "w") in [(row.node, row.part, row.name) for row in found]
        assert ("only_here", "node", None) in [(row.node, row.part, row.name) for row in found]
        damage = [row for row in found if row.part == "damage"]
        if not (name == "version.txt" and has_manifest):  # the manifest says what the file does
            beside = {("", MANIFEST_FILE), ("only_here", f"only_here/{name}")}  # are told where that costs no reading
            assert {("p", f"p/{name}")} == {(row.node, row.name) for row in damage} - beside
            assert all(row.text for row in damage)


def test_what_cannot_be_read_at_all(tmp_path: Path) -> None:
    """A side that is no save is a LoadError that names it."""
    path = written(state_of({}), tmp_path / "a")
    (tmp_path / "b.pkl").write_bytes(b"\x80nothing")
    for pair in ((path, tmp_path / "b.pkl"), (tmp_path / "b.pkl", path)):
        with pytest.raises(LoadError, match=r"b\.pkl"):
            diff(*pair)


def _quantized(values: list[float], scale: float, zero: int) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it deprecated
        return torch.quantize_per_tensor(torch.tensor(values), scale, zero, torch.quint8)


def test_quantized_tensors_are_their_scales_too(tmp_path: Path) -> None:
    """Where they stand for the same numbers and are other bytes, they differ."""
    [row] = tensor_rows(tmp_path, _quantized([1.0, 2.0], 0.1, 0), _quantized([1.0, 2.0], 0.1, 7))
    assert (row.part, row.kind) == ("tensor", "changed")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.tensor([2**60]), torch.tensor([2**60 + 100])),
        (torch.tensor([complex(math.nan, 1)]), torch.tensor([complex(math.nan, 2)])),
        (torch.tensor([complex(math.nan, 1)]), torch.tensor([complex(1, math.nan)])),
    ],
)
def test_what_floats_do_not_tell_apart(before: torch.Tensor, after: torch.Tensor, tmp_path: Path) -> None:
    """Large integers, and NaN in one part of complex numbers, are compared as they are, with a tolerance too."""
    [row] = tensor_rows(tmp_path, before, after, atol=0.5)
    assert (row.part, row.kind) == ("tensor", "changed")


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:100])])
def test_digests_do_not_stand_for_a_file_that_is_gone(harm: Callable[[Path], Any], tmp_path: Path) -> None:
    """A noted digest settles nothing where the file is not there, or is cut."""
    paths = [written(state_of({"w": torch.ones(50)}), tmp_path / name, digest="sha256") for name in ("a", "b")]
    assert diff(*paths) == []
    harm(paths[1] / "state.pt")
    assert {row.part for row in diff(*paths)} == {"damage"}


def test_damage_that_is_known_is_told(tmp_path: Path) -> None:
    """A file that is not of the save, or a lost manifest, is a row on either side, though all else is equal."""
    paths = [written(state_of({"w": torch.ones(5)}), tmp_path / name) for name in ("a", "b")]
    (paths[1] / "extra.bin").write_bytes(b"x")
    [row] = diff(*paths)
    assert (row.part, row.name) == ("damage", "extra.bin")
    (paths[1] / "extra.bin").unlink()
    (paths[0] / MANIFEST_FILE).unlink()
    assert [(row.part, row.name) for row in diff(*paths)] == [("damage", MANIFEST_FILE)]


def test_configs_in_lists_are_told_once(tmp_path: Path) -> None:
    """What a config calls `layers[0]` is the component `layers.0`, which is compared by itself."""
    before, after = (
        state_of(
            {},
            **{
                "": {"_flambe_config": f"!Part\nlayers:\n- !Part {{size: {size}}}\n"},
                "layers__0": {"_flambe_config": f"!Part {{size: {size}}}\n"},
            },
        )
        for size in (1, 2)
    )
    [row] = rows(tmp_path, before, after)
    assert (row.node, row.part, row.name) == ("layers.0", "config", "size")
