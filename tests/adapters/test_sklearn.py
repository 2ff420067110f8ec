"""scikit-learn: estimators go to the stash or the state, need trust by name, and predict the same afterwards."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import dill
import numpy as np
import pytest
import torch
from other_process import run_python
from torch import nn

from flambe_save import (
    Component,
    LoadError,
    NeedsTrustWarning,
    UntrustedError,
    load,
    load_state_from_file,
    save,
    untrusted,
)

pytest.importorskip("sklearn", reason="pip install scikit-learn")

from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NUMBERS = np.random.default_rng(0).normal(size=(60, 4))
LABELS = (NUMBERS[:, 0] + NUMBERS[:, 1] > 0).astype(int)


class Scaled(Component, nn.Module):
    """A network behind a scaler that it was given: an argument, so in the stash."""

    def __init__(self, scaler: Any, size: int) -> None:
        super().__init__()
        self.scaler = scaler
        self.linear = nn.Linear(size, 2)

    def forward(self, x: Any) -> torch.Tensor:
        """Return scores of plain numbers."""
        scaled = torch.as_tensor(self.scaler.transform(x), dtype=torch.float32)
        return self.linear(scaled)  # type: ignore[no-any-return]


class Ensemble(Component):
    """An estimator that was fitted later: an attribute, so in the state."""

    def __init__(self, trees: int) -> None:
        self.forest = make_pipeline(StandardScaler(), RandomForestClassifier(trees, random_state=0))
        self.register_attrs("forest")


IN_ANOTHER_PROCESS = """
import json, sys, numpy, torch, flambe_save
from test_sklearn import NUMBERS, outputs
model = flambe_save.load(sys.argv[1], trusted=json.loads(sys.argv[2]))
print(json.dumps([type(model).__name__, bool(numpy.array_equal(outputs(model), numpy.load(sys.argv[3])))]))
"""


def outputs(model: Any) -> Any:
    """Return what a model says of the numbers."""
    if isinstance(model, Ensemble):
        return model.forest.predict_proba(NUMBERS)
    with torch.no_grad():
        return model(NUMBERS).numpy()


def scaled() -> Scaled:
    """Return a network with a fitted scaler."""
    return Scaled(StandardScaler().fit(NUMBERS), 4)


def ensemble() -> Ensemble:
    """Return a fitted forest."""
    model = Ensemble(5)
    model.forest.fit(NUMBERS, LABELS)
    return model


def test_a_scaler_is_data(tmp_path: Path) -> None:
    """An estimator that is no more than its attributes needs no trust, and is exact in another process."""
    model = scaled()
    path = save(model, tmp_path / "model")
    assert untrusted(path) == []
    np.save(tmp_path / "outputs.npy", outputs(model))
    assert run_python(IN_ANOTHER_PROCESS, path, "[]", tmp_path / "outputs.npy") == ["Scaled", True]
    again = load(path)
    assert vars(again.scaler).keys() == vars(model.scaler).keys()
    assert np.array_equal(again.scaler.mean_, NUMBERS.mean(0))
    assert np.allclose(again.scaler.inverse_transform(again.scaler.transform(NUMBERS)), NUMBERS)


def test_a_forest_in_another_process(tmp_path: Path) -> None:
    """The save says what it asks for; a load refuses it until it is trusted by name, and then predicts the same."""
    model = ensemble()
    with pytest.warns(NeedsTrustWarning, match="sklearn"):
        path = save(model, tmp_path / "model")
    np.save(tmp_path / "outputs.npy", outputs(model))
    rows = untrusted(path)
    assert {row.file for row in rows} == {"state.pt"}
    assert any(row.what.startswith("pickled global 'sklearn.") for row in rows)
    with pytest.raises(UntrustedError, match="sklearn"):
        load(path)
    names = [row.argument.removeprefix("trusted=['").removesuffix("']") for row in rows]
    told = run_python(IN_ANOTHER_PROCESS, path, str(names).replace("'", '"'), tmp_path / "outputs.npy")
    assert told == ["Ensemble", True]


def test_weights_beside_a_pickle_need_no_trust(tmp_path: Path) -> None:
    """A pickle that is not trusted does not keep anybody from the weights."""
    model = Scaled(ensemble().forest, 4)
    with pytest.warns(NeedsTrustWarning):
        path = save(model, tmp_path / "model")
    assert torch.equal(load_state_from_file(path)["linear.weight"], model.linear.weight)


class Made:
    """Pickles as an array that dill made with a function of the pickle's choice."""

    def __init__(self, make: Any, *arguments: Any) -> None:
        self.call = make, arguments

    def __reduce__(self) -> Any:
        """Return dill's function for arrays, and what to give it."""
        return dill._dill._create_array, (*self.call, ())


class Holder(Component):
    """Has an attribute in its state."""

    def __init__(self) -> None:
        self.value: Any = None
        self.register_attrs("value")


@pytest.mark.parametrize("made", [Made(OrderedDict), Made(set, [])])
def test_dills_arrays_are_arrays(made: Made, tmp_path: Path) -> None:
    """On its own the function that makes them needs trust; and then it makes nothing else."""
    holder = Holder()
    holder.value = made
    with pytest.warns(NeedsTrustWarning):
        path = save(holder, tmp_path / "holder")
    with pytest.raises(UntrustedError, match="_create_array"):
        load(path)
    asked = [row.what for row in untrusted(path)]
    assert asked[0] == "pickled global 'dill._dill._create_array'"
    assert "trust in names may not be enough" in asked[1]
    with pytest.raises(LoadError, match="an array of an unknown kind"):
        load(path, trusted=["dill._dill._create_array"])


def test_a_library_by_name(tmp_path: Path) -> None:
    """Trusting the library is enough: the arrays inside its objects need no name of their own."""
    model = ensemble()
    with pytest.warns(NeedsTrustWarning):
        path = save(model, tmp_path / "model")
    assert np.array_equal(outputs(load(path, trusted=["sklearn"])), outputs(model))
