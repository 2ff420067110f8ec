"""timm: models come back by the name of their architecture, and no name reaches the hub."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import Component, UntrustedError, load, save, untrusted
from flambe_save.classes.tags import TAGS
from flambe_save.errors import CompilationError, RegistrationError

MODELS = """
import torch
from torch import nn

class TinyNet(nn.Module):
    def __init__(self, num_classes=1000, in_chans=3, width=4):
        super().__init__()
        self.num_classes = num_classes
        self.conv = nn.Conv2d(in_chans, width, 3)
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, images):
        return self.head(self.conv(images).mean((2, 3)))

class OtherNet(TinyNet):
    pass

class Block(nn.Module):
    pass
"""

CALLS: list[tuple[str, dict[str, Any]]] = []


class Transform:
    """Something of timm that is no model."""

    __module__ = "timm.data"


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Put a small stand-in for timm among the modules: two architectures of one class, one of another."""
    library: Any = types.ModuleType("timm")
    library.models = types.ModuleType("timm.models")
    monkeypatch.setitem(sys.modules, "timm", library)
    monkeypatch.setitem(sys.modules, "timm.models", library.models)
    exec(compile(MODELS, "timm", "exec"), vars(library.models))
    kinds = {"tiny_4": ("TinyNet", 4), "tiny_8": ("TinyNet", 8), "other_4": ("OtherNet", 4)}

    def create_model(name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
        CALLS.append((name, {"pretrained": pretrained, **arguments}))
        kind, width = kinds[name]
        model: nn.Module = getattr(library.models, kind)(width=width, **arguments)
        model.pretrained_cfg = {"architecture": name}  # type: ignore[assignment]
        return model

    library.create_model, library.is_model = create_model, kinds.__contains__
    yield library
    CALLS.clear()


def test_round_trip(timm: Any, tmp_path: Path) -> None:
    """The config names the architecture, and how many classes and channels; nothing pretrained is asked for."""
    model = timm.create_model("tiny_8", num_classes=5, in_chans=2)
    path = save(model, tmp_path / "model")
    assert (Path(path) / "config.yaml").read_text() == (
        "!timm.TinyNet\narchitecture: tiny_8\nnum_classes: 5\nin_chans: 2\n"
    )
    assert untrusted(path) == []
    again, images = load(path), torch.rand(2, 2, 8, 8)
    assert torch.equal(again(images), model(images))
    assert not any(arguments["pretrained"] for _, arguments in CALLS)


def test_without_a_head(timm: Any, tmp_path: Path) -> None:
    """A model that gives features has no classes, which is not the same as the usual number of them."""
    path = save(timm.create_model("tiny_4", num_classes=0), tmp_path / "model")
    assert type(load(path).head) is nn.Identity


def test_inside_torchs_own_modules(timm: Any, tmp_path: Path) -> None:
    """A timm model is an argument like any other."""
    model = nn.Sequential(timm.create_model("tiny_4", num_classes=5), nn.ReLU())
    again, images = load(save(model, tmp_path / "model")), torch.rand(1, 3, 8, 8)
    assert torch.equal(again(images), model(images))


def test_a_changed_model_is_kept(timm: Any, tmp_path: Path) -> None:
    """What is not that of the architecture stands beside its name; a model that names none is written as its parts."""
    changed = timm.create_model("tiny_4", num_classes=5)
    changed.conv = nn.Conv2d(3, 4, 5)
    nameless = timm.models.TinyNet(num_classes=5)
    wrong = timm.create_model("tiny_4", num_classes=5)
    wrong.pretrained_cfg = {"architecture": "other_4"}
    assert changed.pretrained_cfg == {"architecture": "tiny_4"}
    begins = ("!edited\nobject: !timm.TinyNet\n", "!timm.TinyNet.parts\n", "!timm.TinyNet.parts\n")
    for model, begin in zip((changed, nameless, wrong), begins, strict=True):
        path = save(model, tmp_path / "model", overwrite=True)
        text = Path(path, "config.yaml").read_text()
        assert text.startswith(begin), text[:200]
        again = load(path)
        assert repr(again) == repr(model)
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_what_is_no_model(timm: Any, tmp_path: Path) -> None:
    """Other objects of timm are like any object: a component may hold them."""

    class Holder(Component, nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transform = Transform()
            self.linear = nn.Linear(1, 1)

    again = load(save(Holder(), tmp_path / "model"))
    assert type(again.transform) is Transform


@pytest.mark.parametrize(
    "line",
    [
        "architecture: hf-hub:someone/model",
        "architecture: local-dir:/tmp",
        "architecture: 3",
        "pretrained: true",
        "checkpoint_path: /elsewhere/file",
        "num_classes: '3'",
    ],
)
def test_a_config_reaches_nothing(line: str, timm: Any, tmp_path: Path) -> None:
    """Names of the hub, files and other arguments are refused, listed, and not built."""
    path = Path(save(timm.create_model("tiny_4", num_classes=5), tmp_path / "model"))
    CALLS.clear()
    old = f"{line.partition(':')[0]}: "
    lines = (path / "config.yaml").read_text().splitlines()
    (path / "config.yaml").write_text("\n".join([*(item for item in lines if not item.startswith(old)), line, ""]))
    (path / "manifest.json").unlink()
    with pytest.raises(UntrustedError, match="TinyNet with"):
        load(path)
    assert [row.argument for row in untrusted(path)] == ["weights_only=False"]
    assert CALLS == []


def test_the_class_must_be_the_architectures(timm: Any, tmp_path: Path) -> None:
    """An architecture of another class than the tag is an error."""
    path = Path(save(timm.create_model("tiny_4", num_classes=5), tmp_path / "model"))
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("tiny_4", "other_4"))
    (path / "manifest.json").unlink()
    with pytest.raises(CompilationError, match="'other_4' is a OtherNet, not a TinyNet"):
        load(path)


def test_the_program_must_have_imported_it(timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without timm among the modules its tags mean nothing."""
    path = save(timm.create_model("tiny_4", num_classes=5), tmp_path / "model")
    assert TAGS.knows("timm.TinyNet")
    assert not TAGS.knows("timm.create_model")
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.delitem(sys.modules, "timm.models")
    with pytest.raises(RegistrationError, match=r"timm\.TinyNet"):
        load(path)


def test_the_real_one(tmp_path: Path) -> None:
    """A model of the library itself."""
    library = pytest.importorskip("timm", reason="timm needs torchvision, which is not installed here")
    model = library.create_model("resnet18", num_classes=5).eval()
    again, images = load(save(model, tmp_path / "model")).eval(), torch.rand(1, 3, 32, 32)
    assert torch.equal(again(images), model(images))
