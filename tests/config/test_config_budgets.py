"""What a config may cost: links, aliases, ranges, copies and depth count, and links in containers are values."""

from __future__ import annotations

import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.saves import with_config
from torch import nn

from flambe_save import (
    Component,
    ConfigError,
    FlambeSaveError,
    LimitError,
    Limits,
    load,
    load_state,
    save,
    untrusted,
    yaml,
)

DEPTH = 4000


class Takes(Component, tag_namespace="bud"):
    """Keeps what it is given."""

    def __init__(self, first: Any = None, second: Any = None, third: Any = None) -> None:
        self.first, self.second, self.third = first, second, third


def loaded(path: Path, config: str, **options: Any) -> Any:
    """Return what a load makes of a config."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the manifest is gone, and modules have no state
        return load(with_config(path, config), strict=False, **options)


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ("a: [1]\nb: [!@ a]\nc: [!@ b]\nd: [!@ c]\n", "{'a': [1], 'b': [[1]], 'c': [[[1]]], 'd': [[[[1]]]]}"),
        (
            "a: !torch.ReLU {}\nb: [!@ a]\nc: {x: !@ b}\nd: !tuple [!@ c]\n",
            "{'a': ReLU(), 'b': [ReLU()], 'c': {'x': [ReLU()]}, 'd': ({'x': [ReLU()]},)}",
        ),
        ("a: [1]\nb: !@ a\nc: !@ b\nd: [!@ c]\n", "{'a': [1], 'b': [1], 'c': [1], 'd': [[1]]}"),
        (
            "a: {x: [!torch.ReLU {}]}\nb: !@ 'a[x]'\nc: !@ 'b[0]'\n",
            "{'a': {'x': [ReLU()]}, 'b': [ReLU()], 'c': ReLU()}",
        ),
        ("a: !set [1]\nb: [!@ a]\nc: !@ 'b[0]'\n", "{'a': {1}, 'b': [{1}], 'c': {1}}"),
    ],
)
def test_links_in_containers_are_values(config: str, shown: str, tmp_path: Path) -> None:
    """Through any number of containers, what a link leads to stands in its place."""
    assert repr(loaded(tmp_path / "s", config)) == shown


def test_a_link_to_a_container_is_that_container(tmp_path: Path) -> None:
    """One list of the config is one list, wherever links lead to it, in arguments too."""
    found = loaded(
        tmp_path / "s", "a: [1, {k: [2]}]\nb: [!@ a]\nc: !@ 'a[1]'\nd: !bud.Takes {first: !@ a, second: !@ c}\n"
    )
    assert found["b"][0] is found["a"]
    assert found["c"] is found["a"][1]
    assert (found["d"].first, found["d"].second) == (found["a"], found["c"])
    whole = yaml.load("!bud.Takes {first: [!torch.ReLU {}], second: !@ first, third: [!@ 'first[0]']}")()
    assert whole.second is whole.first
    assert whole.third[0] is whole.first[0]
    assert "first" in yaml.dump(whole)
    assert type(yaml.load(yaml.dump(whole))().second[0]) is nn.ReLU


def test_links_lead_through_other_references(tmp_path: Path) -> None:
    """A link to what the state holds is that tensor, and no reference to it."""
    path = with_config(tmp_path / "s", "x: !tensor x\ny: [!@ x]\n", {"x": torch.ones(2)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load(path, strict=False)
    assert found["y"][0] is found["x"]


@pytest.mark.parametrize(
    "config", ["a: {b: !@ a}\n", "a: [!@ a, 1]\n", "a: {b: [!@ c]}\nc: [!@ a]\n", "a: [!bud.Takes {first: !@ a}]\n"]
)
def test_links_to_parents_are_refused(config: str, tmp_path: Path) -> None:
    """A link cannot lead to a container that it is inside of."""
    with pytest.raises(FlambeSaveError, match="inside itself"):
        loaded(tmp_path / "s", config)


@pytest.mark.parametrize("count", [10_000, 30_000])
def test_modules_that_a_constructor_copies_count(count: int, tmp_path: Path) -> None:
    """Modules without tensors are counted while they are made, and the limits allow more of them."""
    config = f"a: !torch.TransformerEncoder {{encoder_layer: !torch.ReLU {{}}, num_layers: {count}}}\n"
    before = nn.Module.__init__, nn.Module.__setstate__
    with pytest.raises(LimitError, match="bytes of tensors and modules"):
        loaded(tmp_path / "s", config)
    assert (nn.Module.__init__, nn.Module.__setstate__) == before
    some = loaded(tmp_path / "t", config.replace(str(count), "100"), limits=Limits(built_bytes=8 << 20))
    assert len(some["a"].layers) == 100


def test_objects_of_the_config_justify_themselves(tmp_path: Path) -> None:
    """A config that lists many modules may have them."""
    config = "".join(f"a{index}: !torch.ReLU {{}}\n" for index in range(300))
    assert len(loaded(tmp_path / "s", config, limits=Limits(built_bytes=1))) == 300


RANGE = "!range [0, 1000000]"


@pytest.mark.parametrize(
    "config",
    [
        "".join(f"k{index}: !collections.deque {{items: {RANGE}, maxlen: null}}\n" for index in range(3)),
        f"r: &r {RANGE}\n" + "".join(f"k{index}: !builtins.set {{items: *r}}\n" for index in range(3)),
        "l: ["
        + "0, " * 9999
        + "0]\n"
        + "".join(f"k{i}: !collections.deque {{items: !@ l, maxlen: 1}}\n" for i in range(110)),
    ],
)
def test_values_in_arguments_count_wherever_they_are_named(config: str, tmp_path: Path) -> None:
    """Ranges and lists that objects go through are counted for each of these."""
    with pytest.raises(LimitError, match="values to what it builds"):
        loaded(tmp_path / "s", config)


def test_ranges_of_registered_classes_are_theirs(tmp_path: Path) -> None:
    """A component takes ranges of any number, as its constructor says what it does with them."""
    config = "".join(f"k{index}: !bud.Takes {{first: {RANGE}}}\n" for index in range(3))
    assert loaded(tmp_path / "s", config)["k2"].first == range(1_000_000)


@pytest.mark.parametrize("seed", [RANGE, f"[1, {RANGE}]", "[" + "0, " * 20_000 + "0]"])
def test_seeds_are_short(seed: str, tmp_path: Path) -> None:
    """A generator is given no seed that it would go through for long."""
    pytest.importorskip("numpy.random")
    with pytest.raises(FlambeSaveError, match=r"seed of more|values to what"):
        loaded(tmp_path / "s", f"g: !numpy.PCG64 {{seed: {seed}}}\n")


def test_memory_grows_with_the_depth_and_not_its_square(tmp_path: Path) -> None:
    """Lists in lists take about a kilobyte each to load and to save, besides their keys."""
    path = with_config(tmp_path / "s", "a: " + "[" * DEPTH + "]" * DEPTH + "\n")
    load(with_config(tmp_path / "t", "a: 1\n"))
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = load(path)
        of_load = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        save(value, tmp_path / "u")
        of_save = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    keys = DEPTH * DEPTH  # bytes of the keys of all places: a.0.0.0 and so on
    assert of_load < 2 * keys
    assert of_save < 3 * keys  # which was more than six times that


def test_time_grows_with_the_depth_and_not_its_square(tmp_path: Path) -> None:
    """Around a tensor, too, each level is looked into once by a save, and once where an object is filled."""

    def nested(value: Any) -> Any:
        for _ in range(DEPTH):
            value = [value]
        return [value, [1] * 20_000]

    begin = time.process_time()
    path = save(nested(torch.ones(2)), tmp_path / "s")
    here = nested(torch.zeros(2))
    load_state(here, path)
    assert time.process_time() - begin < 10  # which took 40 seconds
    assert here[1] == [1] * 20_000
    for _ in range(DEPTH + 1):
        here = here[0]
    assert here.all()


# What begins and ends a level of objects with changes, and how many levels a config may have of it
EDITED = {
    "an edit of an edit": ("!edited {object: ", ", changes: {}}", 8_000),
    "with changes": ("!edited {object: ", ", changes: {'': {attributes: {x: 1}}}}", 8_000),
    "in attributes": ("!edited {object: !bud.Takes {}, changes: {'': {attributes: {first: ", "}}}}", 2_400),
    "too deep": ("!edited {object: !bud.Takes {}, changes: {'': {attributes: {first: ", "}}}}", 8_000),
    "in modules": ("!edited {object: !torch.Sequential {}, changes: {'': {modules: {m: ", "}}}}", 2_400),
    "in arguments": ("!edited {object: !bud.Takes {first: ", "}, changes: {}}", 2_400),
}


@pytest.mark.parametrize("form", EDITED)
def test_edits_inside_each_other_work_or_are_refused(form: str, tmp_path: Path) -> None:
    """However deep, they are built or refused, in a time that grows with their number."""
    begins, ends, levels = EDITED[form]
    config = f"a: {begins * levels}!torch.ReLU {{}}{ends * levels}\n"
    path, begin, seen = with_config(tmp_path / "s", config), time.process_time(), []
    for call in (untrusted, lambda path: load(path, strict=False)):
        try:
            call(path)
            seen.append("done")
        except (LimitError, ConfigError) as error:
            seen.append(type(error).__name__ if "deep" in str(error) else str(error))
    assert time.process_time() - begin < 30
    assert seen == {"too deep": ["ConfigError"] * 2, "in modules": ["done", "LimitError"]}.get(form, ["done"] * 2)


def test_modules_deeper_than_the_stack_are_refused(tmp_path: Path) -> None:
    """torch fills modules by calls inside each other; what ends at Python's limit says so."""
    levels = 2_000
    config = "!torch.Sequential.parts {modules: {m: " * levels + "!torch.ReLU {}" + "}}" * levels
    with pytest.raises(LimitError, match=r"(?s)Python's stack.*setrecursionlimit"):
        loaded(tmp_path / "s", f"a: {config}\n")


def test_values_nested_without_end_are_refused(tmp_path: Path) -> None:
    """A LimitError comes before the keys of so many levels fill the memory."""
    value: Any = {}
    for _ in range(30_000):
        value = {"k": value}
    with pytest.raises(LimitError, match="levels deep"):
        save(value, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    while value:  # Python's own way to let go of it is deep, too
        value = value.pop("k")
