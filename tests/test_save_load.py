"""save and load as a user meets them: shapes, parts, devices, types, ties, versions, and what goes wrong."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import tarfile
import types
import warnings
from pathlib import Path
from typing import Any

import cloudpickle
import dill
import pytest
import textnet
import torch
from other_process import run_program
from torch import nn

import flambe_save
from flambe_save import (
    Component,
    CorruptSaveError,
    LoadError,
    NeedsTrustWarning,
    ProtocolError,
    SaveError,
    SaveNotFoundError,
    SourceChangedWarning,
    State,
    StateMismatchError,
    StateMismatchWarning,
    TargetExistsError,
    UnknownFormatError,
    UnsupportedObjectError,
    UntrustedError,
    VersionMismatchError,
    VersionMismatchWarning,
    load,
    load_state_from_file,
    save,
    save_async,
    save_state_to_file,
)

SHAPES = {
    "run": (False, False),
    "run.pkl": (False, True),
    "run.tar.gz": (True, False),
    "run.pkl.tar.gz": (True, True),
}
every_shape = pytest.mark.parametrize(("name", "flags"), SHAPES.items())


class Net(Component, nn.Module):
    """A parameter, a persistent and a transient buffer, a registered tensor and a stashed one."""

    def __init__(self, size: int = 3, scale: Any = None) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.rnn = nn.LSTM(size, 2)
        self.register_buffer("kept", torch.arange(size))
        self.register_buffer("transient", torch.ones(size), persistent=False)
        self.history = torch.zeros(2)
        self.scale = scale
        self.register_attrs("history")


class Tied(Component, nn.Module):
    """Ties its two halves only when asked to, outside the constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Net()
        self.two = Net()

    def tie(self) -> Tied:
        """Make the halves share a weight."""
        self.two.linear.weight = self.one.linear.weight
        return self


class Versioned(Component):
    """Opts in to semantic versions."""

    _flambe_version = "1.2.3"

    def __init__(self) -> None:
        self.x = 1
        self.register_attrs("x")


class Stashed(Component):
    """Takes anything."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing


class Opaque:
    """What only a pickle can hold."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def __reduce__(self) -> Any:  # so that it is pickled
        return Opaque, (self.value,)


def classifier() -> textnet.Classifier:
    """Return the model of the golden saves, with fresh weights."""
    return textnet.Classifier(textnet.Embedder(20, 8), textnet.Encoder(8, 12), textnet.Head(12, 3))


def equal(one: Any, other: Any) -> bool:
    """Whether two states have equal keys and tensors."""
    return set(one) == set(other) and all(
        torch.equal(one[key], other[key]) if isinstance(one[key], torch.Tensor) else one[key] == other[key]
        for key in one
    )


# ------------------------------------------------------------------------------------------------- shapes and paths


@every_shape
def test_each_shape(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """The path says the shape, is returned, and the object comes back."""
    model = classifier()
    path = save(model, tmp_path / "run", *flags)
    assert path == str(tmp_path / name)
    again = load(path)
    assert type(again) is type(model)
    assert equal(model.get_state(), again.get_state())
    assert os.listdir(tmp_path) == [name]


@every_shape
def test_ending_is_not_doubled(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """A path that ends as it should is taken as it is."""
    assert save(classifier(), tmp_path / name, *flags) == str(tmp_path / name)


@every_shape
def test_parts_load_alone(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """`node=` loads one component out of any shape."""
    model = classifier()
    path = save(model, tmp_path / "run", *flags)
    encoder = load(path, node="encoder")
    assert type(encoder) is textnet.Encoder
    assert equal(encoder.state_dict(), model.encoder.state_dict())
    with pytest.raises(SaveNotFoundError, match=r"'decoder'.*\n.*'encoder'"):
        load(path, node="decoder")


@every_shape
def test_states_alone(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """A State goes through a file and back with its metadata."""
    state = classifier().get_state()
    path = save_state_to_file(state, tmp_path / "run", *flags)
    again = load_state_from_file(path)
    assert type(again) is State
    assert equal(state, again)
    assert again._metadata.keys() == state._metadata.keys()


@every_shape
def test_bare_state_dict(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """What torch gives is saved too; only the state comes back, and load says so."""
    weights = nn.Linear(2, 3).state_dict()
    path = save_state_to_file(weights, tmp_path / "run", *flags)
    assert equal(load_state_from_file(path), weights)
    with pytest.raises(LoadError, match=r"does not say how(.|\n)*load_state"):
        load(path)


@every_shape
def test_overwrite(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """Without overwrite the old save stays; with it nothing of the old one does."""
    old, new = classifier(), Net()
    path = save(old, tmp_path / "run", *flags)
    with pytest.raises(TargetExistsError, match="overwrite=True") as info:
        save(new, tmp_path / "run", *flags)
    assert isinstance(info.value, FileExistsError)
    assert isinstance(info.value, ValueError)
    assert equal(load(path).get_state(), old.get_state())
    save(new, tmp_path / "run", *flags, True)
    assert equal(load(path).get_state(), new.get_state())
    assert os.listdir(tmp_path) == [name]


@every_shape
def test_same_object_same_bytes(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """Two saves of one object, and of the object loaded from one, are equal files."""
    model = classifier()
    paths = [save(model, tmp_path / folder / "run", *flags) for folder in ("a", "b")]
    paths.append(save(load(paths[0]), tmp_path / "c" / "run", *flags))
    assert len({contents(path) for path in paths}) == 1


def test_same_bytes_in_another_process(tmp_path: Path) -> None:
    """Neither hash seeds nor addresses get into a save."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch, textnet, flambe_save;"
        "torch.manual_seed(0); v = textnet.Vocab(['b', 'a']);"
        "v.index = {'x', 'y', 'z', 'w'}; v.counts = {(1, 'p'), None};"
        "flambe_save.save(textnet.Pair(v, textnet.Head(2, 3)), sys.argv[2]);"
        "flambe_save.save(textnet.Pair(v, textnet.Head(2, 3)), sys.argv[2] + '/../p', pickle_only=True)"
    )
    folder = str(Path(textnet.__file__).parent)
    for seed in ("1", "2"):
        target = tmp_path / seed / "s"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, folder, str(target)], check=True, env=environment, timeout=120)
    assert contents(tmp_path / "1" / "s") == contents(tmp_path / "2" / "s")


def contents(path: Any) -> tuple[tuple[str, bytes], ...]:
    """Return the names and bytes of a file or of all files in a folder."""
    path = Path(path)
    if path.is_file():
        return (("", path.read_bytes()),)
    return tuple(sorted((str(file.relative_to(path)), file.read_bytes()) for file in path.rglob("*") if file.is_file()))


@pytest.mark.parametrize(
    "module", [pickle, dill, cloudpickle, types.SimpleNamespace(dump=pickle.dump, load=pickle.load)]
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
@every_shape
def test_pickle_modules(name: str, flags: tuple[bool, bool], module: Any, protocol: int, tmp_path: Path) -> None:
    """Anything with dump and load pickles what is more than data, in any protocol."""
    with pytest.warns(NeedsTrustWarning, match="Opaque"):
        path = save(Stashed([Opaque(3), torch.ones(2)]), tmp_path / "run", *flags, False, module, protocol)
    with pytest.raises(UntrustedError, match="Opaque"):
        load(path)
    again = load(path, None, False, module, weights_only=False)
    assert again.thing[0].value == 3
    assert torch.equal(again.thing[1], torch.ones(2))
    assert load(path, trusted=[f"{Opaque.__module__}"]).thing[0].value == 3


def test_weights_stay_readable_where_the_stash_is_not_trusted(tmp_path: Path) -> None:
    """Only who looks into the stash needs trust."""
    net = Net(scale=Opaque())
    with pytest.warns(NeedsTrustWarning):
        path = save(net, tmp_path / "run")
    state = load_state_from_file(path)
    assert torch.equal(state["linear.weight"], net.linear.weight)
    with pytest.raises(UntrustedError, match=r"(?s)Opaque.*stash.pkl.*trusted="):
        dict(state._metadata[""]["_flambe_stash"])


# ------------------------------------------------------------------------------------------------- devices and types


LOCATIONS = {
    "text": "meta",
    "device": torch.device("meta"),
    "mapping": {"cpu": "meta"},
    "callable": lambda storage, location: torch.UntypedStorage(storage.nbytes(), device="meta"),
}


@pytest.mark.parametrize("location", LOCATIONS.values(), ids=LOCATIONS)
@every_shape
def test_map_location_moves_the_object(name: str, flags: tuple[bool, bool], location: Any, tmp_path: Path) -> None:
    """Parameters, buffers of both kinds, registered and stashed tensors are where the caller wants them."""
    net = load(save(Net(scale=torch.ones(2)), tmp_path / "run", *flags), location)
    tensors = [*net.parameters(), *net.buffers(), net.history, net.scale]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(tensors) == 10
    assert all(isinstance(parameter, nn.Parameter) for parameter in net.parameters())


def test_map_location_none_from_a_callable_means_the_default(tmp_path: Path) -> None:
    """As in torch, a callable may leave a storage where it is."""
    net = load(save(Net(), tmp_path / "run"), lambda storage, location: None)
    assert {tensor.device.type for tensor in net.buffers()} == {"cpu"}


def test_device_that_is_not_there(tmp_path: Path) -> None:
    """A device that this machine lacks is an error that says what to pass."""
    path = save(Net(), tmp_path / "run")
    with pytest.raises(LoadError, match=r"(?s)cuda:99.*map_location='cpu'"):
        load(path, "cuda:99")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@every_shape
def test_cuda(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """A model saved on a GPU loads there, on the CPU, and from the CPU onto the GPU, all of it."""
    net = Net(scale=torch.ones(2, device="cuda")).cuda()
    net.history = net.history.cuda()
    path = save(net, tmp_path / "run", *flags)
    for location, wanted in ((None, "cuda"), ("cpu", "cpu"), ({"cuda:0": "cpu"}, "cpu"), ("cuda:0", "cuda")):
        again = load(path, location)
        assert {t.device.type for t in [*again.parameters(), *again.buffers(), again.history, again.scale]} == {wanted}
        assert torch.equal(again.linear.weight.cpu(), net.linear.weight.cpu())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_types_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    """A model that was converted loads in its own type and not rounded to the constructor's."""
    net = Net().to(dtype)
    again = load(save(net, tmp_path / "run"))
    assert again.linear.weight.dtype == again.rnn.weight_ih_l0.dtype == dtype
    assert equal(net.get_state(), again.get_state())
    assert again.rnn(torch.ones(1, 3, dtype=dtype))[0].dtype == dtype


def test_loaded_model_trains(tmp_path: Path) -> None:
    """What was loaded has gradients, and training it leaves the file alone."""
    path = save(classifier(), tmp_path / "run")
    before = contents(path)
    model = load(path)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.arange(4).reshape(2, 2)).sum().backward()
    optimizer.step()
    assert contents(path) == before
    assert not equal(model.get_state(), load(path).get_state())


@every_shape
def test_ties_come_back(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """A weight tied across components after construction is one parameter again, in each shape."""
    again = load(save(Tied().tie(), tmp_path / "run", *flags))
    assert again.one.linear.weight is again.two.linear.weight
    assert again.one.linear.bias is not again.two.linear.bias
    apart = load(save(Tied(), tmp_path / "other", *flags))
    assert apart.one.linear.weight is not apart.two.linear.weight


def test_tied_tensor_is_in_each_component(tmp_path: Path) -> None:
    """Each folder is a save of its own, so each holds the tied weight."""
    model = Tied().tie()
    path = Path(save(model, tmp_path / "run"))
    parts = [load(path / part) for part in ("one", "two")]
    assert all(torch.equal(part.linear.weight, model.one.linear.weight) for part in parts)


def test_small_view_of_a_large_tensor_is_small(tmp_path: Path) -> None:
    """Only a view's own numbers are written."""
    net = Net()
    net.history = torch.zeros(1_000_000)[:2]
    path = Path(save(net, tmp_path / "run"))
    assert (path / "state.pt").stat().st_size < 10_000


# ------------------------------------------------------------------------------------------------- versions and source


@pytest.mark.parametrize(
    ("version", "error", "warning"),
    [("2.0.0", VersionMismatchError, None), ("1.3.0", None, VersionMismatchWarning), ("1.2.4", None, None)],
)
def test_semantic_versions(
    version: str, error: Any, warning: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A major difference is an error, a minor one a warning, a patch neither."""
    path = save(Versioned(), tmp_path / "run")
    monkeypatch.setattr(Versioned, "_flambe_version", version)
    if error:
        with pytest.raises(error, match=rf"{version}.*1\.2\.3") as info:
            load(path)
        assert isinstance(info.value, LoadError)
    elif warning:
        with pytest.warns(warning, match=rf"{version}.*1\.2\.3"):
            assert load(path).x == 1
    else:
        assert load(path).x == 1


def test_changed_source_warns_with_a_diff(tmp_path: Path) -> None:
    """A class that did not opt in to versions is compared by its source."""
    path = Path(save(Net(), tmp_path / "run"))
    (path / "manifest.json").unlink()
    source = (path / "source.py").read_text()
    (path / "source.py").write_text(source.replace("size: int = 3", "size: int = 4"))
    with pytest.warns(SourceChangedWarning, match=r"(?s)-.*size: int = 4.*\+.*size: int = 3"):
        assert load(path).linear.in_features == 3


# ------------------------------------------------------------------------------------------------- strictness


def test_missing_and_unexpected_keys_are_all_listed(tmp_path: Path) -> None:
    """strict lists every key that does not fit; strict=False warns with the same list."""
    model = classifier()
    state = model.get_state()
    del state["head.linear.bias"], state["embedder.embedding.weight"]
    state["encoder.more"] = torch.ones(1)
    path = save_state_to_file(state, tmp_path / "run")
    listed = r"(?s)embedder.embedding.weight, head.linear.bias.*encoder.more"
    with pytest.raises(StateMismatchError, match=listed) as info:
        load(path)
    assert isinstance(info.value, RuntimeError)
    with pytest.warns(StateMismatchWarning, match=listed):
        again = load(path, strict=False)
    assert torch.equal(again.head.linear.weight, model.head.linear.weight)


def test_shapes_that_differ_are_always_an_error(tmp_path: Path) -> None:
    """A tensor of another shape never leaves a random weight, strict or not."""
    state = classifier().get_state()
    state["head.linear.weight"] = torch.ones(1, 1)
    path = save_state_to_file(state, tmp_path / "run")
    for strict in (True, False):
        with pytest.raises(StateMismatchError, match=r"head\.linear\.weight"):
            load(path, strict=strict)


# ------------------------------------------------------------------------------------------------- bad input


def test_wrong_path(tmp_path: Path) -> None:
    """A path with nothing at it names what is near."""
    save(classifier(), tmp_path / "run1")
    with pytest.raises(SaveNotFoundError, match="'run1'") as info:
        load(tmp_path / "run")
    assert isinstance(info.value, FileNotFoundError)


FOREIGN = {
    "empty folder": (None, "holds nothing"),
    "torch.save": (b"PK\x03\x04rest", "torch.load"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "html": (b"<!DOCTYPE html><html>", "HTML"),
    "nothing": (b"", "empty"),
    "text": (b"hello", "not a pickle"),
}


@pytest.mark.parametrize(("content", "hint"), FOREIGN.values(), ids=FOREIGN)
def test_things_that_are_no_save(content: bytes | None, hint: str, tmp_path: Path) -> None:
    """What people load by mistake is named for what it is."""
    path = tmp_path / "x"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UnknownFormatError, match=hint):
        load(path)


@pytest.mark.parametrize("file", ["config.yaml", "encoder/state.pt", "encoder/stash.pkl", "head/version.txt"])
@pytest.mark.parametrize("manifest", [True, False])
def test_missing_file(file: str, manifest: bool, tmp_path: Path) -> None:
    """A file that is gone is named, with its node, with or without a manifest."""
    path = Path(save(classifier(), tmp_path / "run"))
    (path / file).unlink()
    if not manifest:
        (path / "manifest.json").unlink()
    with pytest.raises(CorruptSaveError, match=file.replace(".", r"\.")) as info:
        load(path)
    assert info.value.file == file


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("size", [0, 10, -1])
def test_truncated_file(size: int, manifest: bool, tmp_path: Path) -> None:
    """A file that was cut is named, with its node."""
    path = Path(save(classifier(), tmp_path / "run"))
    if not manifest:
        (path / "manifest.json").unlink()
    whole = (path / "encoder/state.pt").read_bytes()
    (path / "encoder/state.pt").write_bytes(whole[:size])
    with pytest.raises(CorruptSaveError) as info:
        load(path)
    assert (info.value.node, info.value.file) == ("encoder", "encoder/state.pt")


@pytest.mark.parametrize("name", ["run.tar.gz", "run.pkl", "run.pkl.tar.gz"])
def test_truncated_single_files(name: str, tmp_path: Path) -> None:
    """A pickle or archive that was cut anywhere is damaged, and nothing else."""
    path = Path(save(classifier(), tmp_path / "run", *SHAPES[name]))
    whole = path.read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptSaveError):
            load(path)
    assert len(whole) > 100


def test_newer_protocol(tmp_path: Path) -> None:
    """A save of a newer protocol says what to upgrade."""
    path = Path(save(classifier(), tmp_path / "run"))
    (path / "manifest.json").unlink()
    (path / "head/protocol_version.txt").write_text("99")
    with pytest.raises(ProtocolError, match=r"(?s)99.*head.*pip install --upgrade"):
        load(path)


def test_unknown_tag_says_what_to_import(tmp_path: Path) -> None:
    """In a process that has not imported the classes, the error names the module that the save recorded."""
    path = save(classifier(), tmp_path / "run")
    code = f"import flambe_save; flambe_save.load({path!r})"
    result = run_program(code)
    last = result.stderr.strip().splitlines()[-6:]
    assert any("textnet.Encoder" in line for line in last), last
    assert any("import textnet" in line for line in last), last


def test_config_that_no_longer_fits(tmp_path: Path) -> None:
    """An argument that the class does not take is named, with the node."""
    path = Path(save(classifier(), tmp_path / "run"))
    (path / "manifest.json").unlink()
    config = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(config.replace("n_classes:", "classes:"))
    with (
        pytest.warns(StateMismatchWarning, match="node 'head' contradicts the one around it, at '!textnet.Head'"),
        pytest.raises(flambe_save.CompilationError, match=r"(?s)textnet.Head.*classes") as info,
    ):
        load(path)
    assert info.value.node == "head"


@every_shape
def test_failed_save_leaves_nothing(name: str, flags: tuple[bool, bool], tmp_path: Path) -> None:
    """An object that cannot be pickled fails the save by name, and nothing is left, not even parent folders."""
    with (
        pytest.raises(UnsupportedObjectError, match="generator"),
        warnings.catch_warnings(),
    ):
        save(Stashed(item for item in "ab"), tmp_path / "deep" / "run", *flags)
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_pickled_is_refused(tmp_path: Path) -> None:
    """What is of no known kind and cannot be pickled is refused by its place, with the ways out; nothing is left."""
    with pytest.raises(UnsupportedObjectError, match=r"(?s)a\.b\[0\] is a builtins\.generator.*register_adapter"):
        save({"a": {"b": [iter(x for x in "ab")]}}, tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_torch_built_in_as_root(tmp_path: Path) -> None:
    """A model made of torch's own modules needs no class of the user's."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 1, bias=False)))
    again = load(save(model, tmp_path / "run"))
    assert repr(again) == repr(model)
    assert equal(model.state_dict(), again.state_dict())


def test_bare_trust_is_refused(tmp_path: Path) -> None:
    """trusted takes names, never a blanket yes."""
    path = save(classifier(), tmp_path / "run")
    for value in (True, "textnet"):
        with pytest.raises(TypeError, match="list of module"):
            load(path, trusted=value)  # type: ignore[arg-type]


def test_archive_holds_one_folder(tmp_path: Path) -> None:
    """An archive unpacks into a folder of its own name, which loads."""
    path = save(classifier(), tmp_path / "run", compress=True)
    with tarfile.open(path) as archive:
        assert archive.getnames()[0] == "run"
        archive.extractall(tmp_path / "out", filter="data")
    assert isinstance(load(tmp_path / "out" / "run"), textnet.Classifier)


def test_components_copy_and_pickle() -> None:
    """A Component is an ordinary object: copies have the config and the state."""
    model = classifier()
    config = model.get_state()._metadata[""]["_flambe_config"]
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert equal(again.get_state(), model.get_state())
    assert copy.deepcopy(model).get_state()._metadata[""]["_flambe_config"] == config
    # Of one that was unpickled nobody knows what it was when it was built, so it is written as it is
    assert again.get_state()._metadata[""]["_flambe_config"].startswith("!textnet.Classifier.parts\n")


def test_arguments_are_checked_before_the_object_is_looked_at(tmp_path: Path) -> None:
    """What a save cannot do it says at once: collecting the state of a large model takes a while."""
    looked: list[str] = []

    class Seen(nn.Linear):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            looked.append("state")
            return super().state_dict(*args, **kwargs)

    wrong: list[dict[str, Any]] = [{"level": 3}, {"digest": "md5"}, {"pickle_protocol": 99}, {"threads": 0}]
    for options in (*wrong, {"build": False, "check": True}):
        for function in (save, save_async):
            with pytest.raises(SaveError):
                function(Seen(2, 2), tmp_path / "run", **options)
    assert looked == []
