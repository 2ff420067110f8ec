"""Genuine saves written by Flambe 0.4 load under the default trust, and what we write is what its reader expects."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import roomnet
import textnet
import torch

from flambe_save import load, load_state_from_file, save
from flambe_save.layout import NODE_FILES, ROOT_FILES

FLAMBE = Path(__file__).parent / "golden" / "flambe_0_4"
EXPECTED = json.loads((FLAMBE / "expected.json").read_text())
SAVES = {
    "classifier": "classifier",
    "classifier_gz": "classifier_gz.tar.gz",
    "classifier_pkl": "classifier_pkl.pkl",
    "linked": "linked",
    "shared": "shared",
    "stashed": "stashed",
}


def facts(state: Any) -> dict[str, Any]:
    """Return what expected.json holds of a state: sums of tensors, other values as they are."""
    return {
        key: value.double().sum().item() if isinstance(value, torch.Tensor) else value for key, value in state.items()
    }


@pytest.mark.parametrize("name", SAVES)
def test_loads_with_the_expected_state(name: str) -> None:
    """Every save gives an object with just the keys and sums that Flambe recorded."""
    found = facts(load(FLAMBE / SAVES[name]).get_state())
    wanted = EXPECTED[name]
    assert found.keys() == wanted.keys()
    assert all(found[key] == pytest.approx(wanted[key], abs=1e-9) for key in wanted if isinstance(wanted[key], float))
    assert all(found[key] == wanted[key] for key in wanted if not isinstance(wanted[key], float))


@pytest.mark.parametrize("name", SAVES)
def test_state_alone_loads(name: str) -> None:
    """The state without the object has the same values, and every component's facts."""
    state = load_state_from_file(FLAMBE / SAVES[name])
    assert facts(state).keys() == EXPECTED[name].keys()
    assert all(state._metadata[prefix]["_flambe_class"] for prefix in state.components)


@pytest.mark.parametrize("name", ["classifier", "classifier_gz", "classifier_pkl"])
def test_computes_the_same(name: str) -> None:
    """The classifier's forward pass gives what it gave under Flambe."""
    model = load(FLAMBE / SAVES[name]).eval()
    result = model(torch.arange(12).reshape(3, 4))
    assert torch.allclose(result, torch.tensor(EXPECTED["_forward"]), atol=1e-6)


def test_shared_component_is_one_object() -> None:
    """An anchor in Flambe's config is one object."""
    pair = load(FLAMBE / "shared")
    assert pair.left is pair.right.left
    assert isinstance(pair.right.right, textnet.Vocab)


def test_link_is_kept() -> None:
    """A link in Flambe's config is followed, and written as a link again."""
    model = load(FLAMBE / "linked")
    assert model.encoder.rnn.input_size == model.embedder.dim == 6
    assert "input_size: !@ embedder.dim" in model.get_state()._metadata[""]["_flambe_config"]


@pytest.mark.parametrize("part", ["encoder", "embedder", "head"])
def test_parts_load_alone(part: str) -> None:
    """A sub-folder of Flambe's save is a save, and `node=` reaches the same component in an archive or a pickle."""
    alone = load(FLAMBE / "classifier" / part).state_dict()
    for name in ("classifier", "classifier_gz", "classifier_pkl"):
        other = load(FLAMBE / SAVES[name], node=part).state_dict()
        assert all(torch.equal(alone[key], other[key]) for key in alone)


def test_our_folder_is_what_a_flambe_reader_expects(tmp_path: Any) -> None:
    """Saved again, a Flambe object gives the same files with the same texts, read by nothing but torch."""
    model = load(FLAMBE / "classifier")
    save(model, tmp_path / "again")
    theirs = {path.relative_to(FLAMBE / "classifier") for path in (FLAMBE / "classifier").rglob("*") if path.is_file()}
    ours = {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert {str(path) for path in ours - theirs} == {"manifest.json"}
    for path in theirs:
        if path.suffix in (".yaml", ".py") or path.name in ("version.txt", "protocol_version.txt"):
            assert (tmp_path / "again" / path).read_text().strip() == (FLAMBE / "classifier" / path).read_text().strip()
        if path.name == "state.pt":
            before, now = (
                torch.load(root / path, weights_only=False) for root in (FLAMBE / "classifier", tmp_path / "again")
            )
            assert type(now).__name__ == "OrderedDict"
            assert "_metadata" in now.__dict__
            assert list(before) == list(now)
            assert all(torch.equal(before[key], now[key]) for key in before)
    assert int((tmp_path / "again" / "protocol_version.txt").read_text()) == 1


def test_node_folders_hold_six_files(tmp_path: Any) -> None:
    """Every folder but the root holds just the six files of a node."""
    save(load(FLAMBE / "shared"), tmp_path / "s")
    for folder in (path for path in (tmp_path / "s").rglob("*") if path.is_dir()):
        assert {path.name for path in folder.iterdir() if path.is_file()} == set(NODE_FILES)
    assert {path.name for path in (tmp_path / "s").iterdir() if path.is_file()} == {*NODE_FILES, *ROOT_FILES}


ROOMS = Path(__file__).parent / "golden" / "before_rooms"


def outputs(net: Any) -> Any:
    """Return what a net computes of a fixed input."""
    return net(torch.arange(8.0).reshape(2, 4) / 10)


@pytest.mark.parametrize("name", ["net", "net.pkl"])
def test_saves_from_before_the_rooms_load(name: str) -> None:
    """A config with a link, written when links were in another module, loads by default and keeps its link."""
    net = load(ROOMS / name)
    assert torch.equal(outputs(net), outputs(roomnet.net()))
    assert "size: !@ encoder.size" in net.get_state()._metadata[""]["_flambe_config"]


def test_pickles_from_before_the_rooms_load() -> None:
    """A pickled component holds its Schema and its links, by the modules in which these were."""
    net = pickle.loads((ROOMS / "component.pickle").read_bytes())
    assert torch.equal(outputs(net), outputs(roomnet.net()))


def test_a_run_from_before_the_rooms_loads() -> None:
    """Edits, references, random states, averages, parametrizations; a pickle that refers to a module of the save."""
    run = load(ROOMS / "run", trusted=["roomnet"])
    assert run["model"].encoder.extra == 5
    assert run["model"].encoder.drop.p == 0.3
    assert run["helper"].module is run["model"].head
    assert run["optimizer"].param_groups[0]["params"][0] is run["model"].encoder.layer.weight
    assert type(run["average"]) is torch.optim.swa_utils.AveragedModel
    assert torch.nn.utils.parametrize.is_parametrized(run["tied"], "weight")


@pytest.mark.filterwarnings("ignore::flambe_save.NeedsTrustWarning")
@pytest.mark.parametrize("name", ["net", "run"])
def test_the_rooms_change_no_byte(tmp_path: Path, name: str) -> None:
    """The same objects are saved as the same bytes; versions of packages apart."""
    roomnet.write(tmp_path)
    for path in sorted(item for item in (ROOMS / name).rglob("*") if item.is_file()):
        was, now = path.read_bytes(), (tmp_path / path.relative_to(ROOMS)).read_bytes()
        if path.name == "manifest.json":
            old, new = (json.loads(data) for data in (was, now))
            assert old.pop("packages").keys() == new.pop("packages").keys()
            for document in (old, new):  # what packages are installed
                del document["crc32"], document["files"]["requirements.txt"]
            was, now = (json.dumps(item).encode() for item in (old, new))
        if path.name != "requirements.txt":
            assert now == was, path
