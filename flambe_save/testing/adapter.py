"""AdapterContract: register an adapter, inherit this in a ``Test...`` class, make an object."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

import pytest

from flambe_save.adapters import Adapter, adapter_for, get_state, load_state
from flambe_save.api import load, save
from flambe_save.errors import StateMismatchError
from flambe_save.state import State, split_key
from flambe_save.testing.codec import same


class AdapterContract(abc.ABC):
    """Rules of every Adapter, tried through the traversal that calls it."""

    @abc.abstractmethod
    def make_object(self, seed: int) -> Any:
        """Return a new object; all are built alike, and their states differ where the seeds do."""

    def adapter(self) -> Adapter:
        """Return the adapter that is registered for the object."""
        found = adapter_for(self.make_object(0))
        assert found is not None, "register_adapter() comes first"
        return found

    def test_describe_builds_an_equal_object(self) -> None:
        """The described object has the same type and description, and takes the same state."""
        obj = self.make_object(1)
        schema = self.adapter().describe(obj)
        if schema is None:
            pytest.skip("how the object was built is not known")
        built = schema()
        load_state(built, get_state(obj))
        assert type(built) is type(obj)
        assert self.adapter().describe(built) == self.adapter().describe(obj)
        assert same(get_state(built), get_state(obj))

    def test_load_state_is_the_inverse_of_get_state(self) -> None:
        """An object that took another's state has that state."""
        one, other = self.make_object(1), self.make_object(2)
        assert not same(get_state(other), get_state(one)), "make_object must give objects whose states differ"
        load_state(other, get_state(one))
        assert same(get_state(other), get_state(one))

    def test_get_state_changes_nothing(self) -> None:
        """Asking twice gives the same."""
        obj = self.make_object(1)
        assert same(get_state(obj), get_state(obj))

    def test_load_state_leaves_the_state(self) -> None:
        """The state that is loaded is the same afterwards."""
        state = get_state(self.make_object(1))
        load_state(self.make_object(2), state)
        assert same(state, get_state(self.make_object(1)))

    def test_state_is_under_its_prefix(self) -> None:
        """Inside another object, keys and values are the same but for the prefix."""
        state = State(other=1)
        get_state(self.make_object(1), state, "a.b")
        expected = {"other": 1, **{f"a.b.{key}": value for key, value in get_state(self.make_object(1)).items()}}
        assert same(dict(state), expected)

    def test_a_missing_key_is_reported(self) -> None:
        """A state without one of its keys does not load, and the error names the key."""
        for key in get_state(self.make_object(1)):
            state = get_state(self.make_object(1))
            del state[key]
            with pytest.raises(StateMismatchError, match="missing") as info:
                load_state(self.make_object(2), state)
            assert key in str(info.value)

    def test_an_unknown_key_is_reported(self) -> None:
        """A state with a key too many does not load, and the error names the key."""
        state = get_state(self.make_object(1))
        state["no_such_key"] = 1
        with pytest.raises(StateMismatchError, match="no_such_key"):
            load_state(self.make_object(2), state)

    def test_children_have_names_of_one_part(self) -> None:
        """Each child has a name of its own, with no dot in it."""
        names = [child.name for child in self.adapter().children(self.make_object(1))]
        assert len(set(names)) == len(names)
        assert all(name and len(split_key(name)) == 1 for name in names)

    def test_a_save_loads(self, tmp_path: Path) -> None:
        """A save in a folder loads, with the same state, for a caller who trusts nothing."""
        obj = self.make_object(1)
        if self.adapter().describe(obj) is None:
            pytest.skip("how the object was built is not known")
        loaded = load(save(obj, tmp_path / "save"))
        assert type(loaded) is type(obj)
        assert same(get_state(loaded), get_state(obj))
