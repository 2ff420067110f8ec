"""State, its keys, and the tree that it is cut into: pairs of functions that are inverses for any keys."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambe_save import SaveTreeNode, State, state_from_tree, traverse, tree_from_state
from flambe_save.layout import CLASS_KEY, CONFIG_KEY, DIRECTORIES_KEY, SOURCE_KEY, STASH_KEY, VERSION_KEY
from flambe_save.state import IndexedState, join_key, keys_below, split_key
from flambe_save.tree import walk

PARTS = st.one_of(st.sampled_from(["a", "b", "c", "", "a%", "net", "0"]), st.text(max_size=3))
KEYS = st.lists(PARTS, min_size=1, max_size=5).map(".".join)


def state_of(values: dict[str, Any], prefixes: set[str]) -> State:
    """Make a State with metadata for the given components and for one module that is none."""
    state = State(values)
    for prefix in prefixes | {""}:
        state._metadata[prefix] = {
            VERSION_KEY: "1.0.0",
            CLASS_KEY: f"Class{len(prefix)}",
            SOURCE_KEY: "source",
            CONFIG_KEY: f"!X {{}} # {prefix!r}",
            STASH_KEY: {"0": prefix},
            "version": 2,
        }
        state._metadata[DIRECTORIES_KEY].add(prefix)
    return state


@given(st.lists(st.text(), min_size=1))
def test_keys_join_and_split(parts: list[str]) -> None:
    """Any parts come back from the key that they are joined to."""
    assert split_key(join_key(parts)) == parts


@given(st.dictionaries(KEYS, st.integers(), max_size=8), st.sets(KEYS.filter(bool), max_size=6))
def test_state_comes_back_from_its_tree(values: dict[str, int], prefixes: set[str]) -> None:
    """A State cut into a tree and put together again has the same values and metadata."""
    state = state_of(values, prefixes)
    again = state_from_tree(tree_from_state(state))
    assert dict(again) == dict(state)
    assert dict(again._metadata) == dict(state._metadata)


@given(st.dictionaries(KEYS, st.integers(), max_size=8), st.sets(KEYS.filter(bool), max_size=6))
def test_tree_comes_back_from_its_state(values: dict[str, int], prefixes: set[str]) -> None:
    """A tree put together and cut again is the same tree."""
    tree = tree_from_state(state_of(values, prefixes))
    assert tree_from_state(state_from_tree(tree)) == tree


@given(st.dictionaries(KEYS, st.integers(), max_size=8), st.sets(KEYS.filter(bool), max_size=6))
def test_every_component_is_one_node(values: dict[str, int], prefixes: set[str]) -> None:
    """The tree has a node for each component, found under its prefix, and for nothing else."""
    tree = tree_from_state(state_of(values, prefixes))
    assert len(list(walk(tree))) == len(prefixes) + 1
    assert all(tree.find(prefix).object_stash == {"0": prefix} for prefix in prefixes)  # type: ignore[union-attr]


def test_key_goes_to_the_longest_prefix() -> None:
    """A key lies in the deepest component on its way, also past objects that are none."""
    tree = tree_from_state(
        state_of({"net.child.leaf.w": 1, "net.child.w": 2, "net.w": 3}, {"net.child", "net.child.leaf"})
    )
    assert tree.state == {"net.w": 3}
    assert tree.children["net.child"].state == {"w": 2}
    assert tree.children["net.child"].children["leaf"].state == {"w": 1}


def test_bare_state_dict_is_one_node() -> None:
    """A mapping without metadata becomes a single node that knows no class."""
    tree = tree_from_state({"a.b": 1})
    assert isinstance(tree, SaveTreeNode)
    assert (tree.state, tree.children, tree.class_name, tree.config) == ({"a.b": 1}, {}, "", "")


def test_metadata_belongs_to_the_instance() -> None:
    """Two States share no metadata, and a copy has its own."""
    one, other = State(), State()
    one._metadata["x"] = {}
    one._metadata[DIRECTORIES_KEY].add("x")
    assert "x" not in other._metadata
    for duplicate in (one.copy(), copy.copy(one)):
        duplicate._metadata[DIRECTORIES_KEY].add("y")
        assert one.components == ["x"]
        assert duplicate.components == ["x", "y"]


def test_state_pickles_with_its_metadata() -> None:
    """A State survives pickle and deepcopy with its metadata."""
    state = state_of({"a": 1}, {"c"})
    for again in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        assert type(again) is State
        assert again == state
        assert again._metadata == state._metadata


def test_state_shows_what_it_is() -> None:
    """The repr counts instead of printing weights."""
    assert repr(state_of({"a": 1, "b": 2}, {"c"})) == "State(Class0: 2 components, 2 values: a, b)"


def test_traverse_yields_leaves_with_their_paths() -> None:
    """Nested mappings are gone into, everything else is a value."""
    assert list(traverse({"a": {"b": {"c": 1}}, "d": [2]}, ["top"])) == [
        (["top", "a", "b"], "c", 1),
        (["top"], "d", [2]),
    ]


def test_find_knows_no_half_names() -> None:
    """A prefix that is only the beginning of a component's name finds nothing."""
    tree = tree_from_state(state_of({}, {"encoder"}))
    assert tree.find("enc") is None
    assert tree.find("") is tree
    with pytest.raises(AttributeError):
        tree.state = State()  # type: ignore[misc]


@given(
    st.lists(KEYS, unique=True, max_size=20),
    st.lists(st.tuples(st.booleans(), KEYS), max_size=20),
    st.lists(KEYS, min_size=1, max_size=5),
)
def test_an_index_finds_what_a_search_finds(
    keys: list[str], changes: list[tuple[bool, str]], prefixes: list[str]
) -> None:
    """Keys below a prefix are those that begin with it, in order, also after some have come and gone."""
    plain = State((key, 0) for key in keys)
    indexed = IndexedState.of(plain)
    found = [keys_below(indexed, prefix) for prefix in prefixes]
    assert found == [keys_below(plain, prefix) for prefix in prefixes]
    for is_there, key in changes:
        for state in (plain, indexed):
            if is_there:
                state[key] = 1
            else:
                state.pop(key, None)
    assert [keys_below(indexed, key) for key in prefixes] == [
        [key for key in plain if key.startswith(f"{prefix}.")] if prefix else list(plain) for prefix in prefixes
    ]
