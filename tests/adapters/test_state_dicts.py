"""A ``state_dict`` as a value, or as what an object gives as its state: its ``_metadata`` is a part of it."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from flambe_save import (
    Component,
    FlambeSaveError,
    StateMismatchError,
    build_structure,
    load,
    load_state,
    load_state_from_file,
    load_structure,
    recorded,
    save,
)
from flambe_save.adapters import load_state as fill

SHAPES: list[dict[str, Any]] = [{}, {"compress": True}, {"pickle_only": True}]


class Turned(nn.Module):
    """Stored its weight transposed in its first version, and turns such states when they are loaded."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0).view(2, 2))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        if local_metadata.get("version", 1) < 2:
            state_dict[prefix + "weight"] = state_dict[prefix + "weight"].t()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@recorded
class Averaged:
    """Gives the state of a module as its own, as helpers that average weights do."""

    modules: ClassVar[list[nn.Module]] = []  # where no save looks

    def __init__(self, module: nn.Module) -> None:
        self.modules.append(module)
        self.number = len(self.modules) - 1

    def state_dict(self) -> Any:
        """Return the module's."""
        return self.modules[self.number].state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Fill the module, strictly."""
        self.modules[self.number].load_state_dict(state)


class Restored(Component):
    """Is given a state_dict."""

    def __init__(self, state: Any = None) -> None:
        self.state = state


def is_kept(state: Any) -> bool:
    """Return whether a state of a Turned is loaded without being turned."""
    module = Turned()
    with torch.no_grad():
        module.weight.zero_()
    module.load_state_dict(state)
    return type(state) is OrderedDict and torch.equal(module.weight, Turned().weight)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_state_dict_is_saved_as_a_value_with_its_metadata(tmp_path: Path, shape: dict[str, Any]) -> None:
    """Alone, in containers, twice, and copied: what is one is one, and modules see which version it is of."""
    own = nn.Sequential(Turned()).state_dict()
    kept = {"best": own, "again": own, "older": [copy.deepcopy(Turned().state_dict())]}
    loaded = load(save(kept, tmp_path / "save", **shape))
    assert loaded["again"] is loaded["best"]
    assert vars(loaded["best"]) == vars(own)
    assert type(loaded["best"]._metadata) is OrderedDict
    assert is_kept(loaded["older"][0])
    assert is_kept(load(save(Turned().state_dict(), tmp_path / "alone", **shape)))


def test_a_state_dict_without_tensors_or_with_odd_keys_keeps_its_attributes(tmp_path: Path) -> None:
    """Attributes are kept of any ordered or counting dict, large ones too."""
    for number, value in enumerate((OrderedDict(), OrderedDict({(1, 2): 3}), Counter("abca"), OrderedDict(a=range(3)))):
        value.note = {"of": [1, (2,)]}  # type: ignore[attr-defined]
        again = load(save({"value": value}, tmp_path / str(number)))["value"]
        assert (again, type(again), vars(again)) == (value, type(value), vars(value))
    large = OrderedDict((str(number), number) for number in range(10_001))
    large._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    assert vars(load(save({"large": large}, tmp_path / "large"))["large"]) == vars(large)


def test_an_object_whose_state_is_a_modules_gets_its_metadata_again(tmp_path: Path) -> None:
    """A state_dict that an object gives is handed to it again as it was: of its type, with its attributes."""
    path = save({"held": Averaged(nn.Sequential(Turned()))}, tmp_path / "save")
    other = nn.Sequential(Turned())
    nn.init.zeros_(other[0].weight)
    load_state({"held": Averaged(other)}, path)
    assert torch.equal(other[0].weight, Turned().weight)
    nn.init.zeros_(Averaged.modules[-2][0].weight)  # type: ignore[index,arg-type]
    load(path)  # which builds another one, of the same module
    assert torch.equal(Averaged.modules[-2][0].weight, other[0].weight)  # type: ignore[index]


def test_a_component_that_was_given_a_state_dict_is_given_it_again(tmp_path: Path) -> None:
    """The record of an argument is a copy with the metadata."""
    assert is_kept(load(save(Restored(Turned().state_dict()), tmp_path / "save")).state)


def test_a_structure_tells_of_a_state_dicts_metadata() -> None:
    """The attributes are part of an object's structure."""
    made = load_structure(build_structure({"state": Turned().state_dict()}))
    assert made["state"]._metadata == OrderedDict({"": {"version": 2}})


@pytest.mark.parametrize("name", ["items", "__class__", "pop", "3"])
def test_a_config_sets_no_method_of_a_mapping(tmp_path: Path, name: str) -> None:
    """What a config says of a mapping's attributes replaces none of its methods."""
    path = Path(save({"a": Turned().state_dict()}, tmp_path / "save"))
    (path / "manifest.json").unlink()
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("_metadata", {"3": "3"}.get(name, name)))
    with pytest.raises(FlambeSaveError, match="attribute"), pytest.warns(UserWarning, match="manifest"):
        load(path)


def test_attributes_that_replace_methods_are_refused_in_a_state(tmp_path: Path) -> None:
    """Nor does what a save's state says of an object's state_dict."""
    held = Averaged(Turned())
    state = load_state_from_file(save({"held": held}, tmp_path / "save"))
    state._metadata["held"]["entries_attributes"] = {"items": 3}
    with pytest.raises(StateMismatchError, match="attributes that none can have"):
        fill({"held": held}, state)
