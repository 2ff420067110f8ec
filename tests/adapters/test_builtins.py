"""torch.nn's own modules tell how they were built: each in this table is written as a tag and built again alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from flambe_save import load, save, untrusted, yaml
from flambe_save.adapters.torch import builtin_schema

MODULES: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(2, 3),
    lambda: nn.Linear(2, 3, bias=False),
    lambda: nn.Bilinear(2, 3, 4),
    lambda: nn.Conv1d(2, 4, 3, padding="same"),
    lambda: nn.Conv2d(2, 4, (3, 5), stride=2, padding=1, groups=2, bias=False, padding_mode="circular"),
    lambda: nn.ConvTranspose2d(2, 4, 3, output_padding=1, stride=2),
    lambda: nn.Embedding(5, 3, padding_idx=-1),
    lambda: nn.EmbeddingBag(5, 3, mode="sum"),
    lambda: nn.LSTM(2, 3, 2, bidirectional=True, proj_size=2),
    lambda: nn.GRU(2, 3, batch_first=True, bias=False),
    lambda: nn.RNN(2, 3, nonlinearity="relu"),
    lambda: nn.LSTMCell(2, 3),
    lambda: nn.GRUCell(2, 3, bias=False),
    lambda: nn.BatchNorm2d(4, affine=False),
    lambda: nn.BatchNorm1d(3, momentum=None, track_running_stats=False),
    lambda: nn.LayerNorm((3, 4)),
    lambda: nn.LayerNorm(4, elementwise_affine=False),
    lambda: nn.LayerNorm(4, bias=False),
    lambda: nn.GroupNorm(2, 4),
    lambda: nn.InstanceNorm2d(3, affine=True),
    lambda: nn.RMSNorm(4),
    lambda: nn.Dropout(0.3, inplace=True),
    lambda: nn.ReLU(),
    lambda: nn.ReLU(True),
    lambda: nn.GELU("tanh"),
    lambda: nn.LeakyReLU(0.2),
    lambda: nn.PReLU(3),
    lambda: nn.Softmax(-1),
    lambda: nn.LogSoftmax(1),
    lambda: nn.Identity(),
    lambda: nn.Flatten(1, 2),
    lambda: nn.Unflatten(1, (2, 3)),
    lambda: nn.MaxPool2d(2, ceil_mode=True),
    lambda: nn.AvgPool2d(3, 1),
    lambda: nn.AdaptiveAvgPool2d((1, None)),
    lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    lambda: nn.PixelShuffle(2),
    lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
    lambda: nn.CrossEntropyLoss(weight=torch.ones(3)),
    lambda: nn.MSELoss(reduction="sum"),
    lambda: nn.BCEWithLogitsLoss(pos_weight=torch.ones(2)),
    lambda: nn.MultiheadAttention(8, 2),
    lambda: nn.MultiheadAttention(8, 2, bias=False, kdim=4, vdim=5, batch_first=True),
    lambda: nn.MultiheadAttention(8, 2, kdim=4, add_bias_kv=True),
    lambda: nn.MultiheadAttention(8, 2, bias=False, add_bias_kv=True, add_zero_attn=True),
    lambda: nn.TransformerEncoderLayer(8, 2, 16),
    lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 2),
    lambda: nn.TransformerDecoderLayer(8, 2),
    lambda: nn.Transformer(8, 2, 1, 1),
    lambda: nn.Hardtanh(-2, 2),
    lambda: nn.Threshold(0.1, 20),
    lambda: nn.ZeroPad2d(2),
    lambda: nn.ReflectionPad1d((1, 2)),
    lambda: nn.CosineSimilarity(dim=0),
    lambda: nn.PairwiseDistance(p=1),
    lambda: nn.TripletMarginLoss(1.5),
    lambda: nn.Fold((4, 5), 2),
    lambda: nn.Unfold(2),
    lambda: nn.LazyLinear(3),
    lambda: nn.ParameterList([nn.Parameter(torch.ones(2))]),
    lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10]),
    lambda: nn.Softplus(2),
    lambda: nn.CTCLoss(1),
    lambda: nn.GaussianNLLLoss(full=True),
    lambda: nn.Sequential(nn.Linear(1, 2)),
    lambda: nn.ModuleDict({"a": nn.ReLU()}),
    lambda: nn.LPPool2d(2, 3),
    lambda: nn.SyncBatchNorm(3),
    lambda: nn.FractionalMaxPool2d(2, output_size=(3, 3)),
    lambda: nn.MaxUnpool2d(2),
    lambda: nn.Hardsigmoid(),
    lambda: nn.ELU(0.5),
    lambda: nn.GLU(1),
    lambda: nn.RReLU(),
    lambda: nn.KLDivLoss(log_target=True),
    lambda: nn.HuberLoss(delta=2.0),
    lambda: nn.ChannelShuffle(2),
    lambda: nn.AlphaDropout(0.1),
    lambda: nn.Softmin(1),
    lambda: nn.NLLLoss(ignore_index=3),
    lambda: nn.CosineEmbeddingLoss(0.5),
    lambda: nn.MultiMarginLoss(p=2),
    lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, batch_first=True), 2, norm=nn.LayerNorm(8)),
    lambda: nn.ParameterDict({"a": nn.Parameter(torch.ones(2))}),
    lambda: nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=True, bias=False),
    lambda: nn.Conv3d(1, 2, 3),
    lambda: nn.ModuleList([nn.Linear(1, 2)]),
    lambda: nn.LocalResponseNorm(2),
    lambda: nn.Mish(),
    lambda: nn.SiLU(),
    lambda: nn.CELU(0.5),
    lambda: nn.PoissonNLLLoss(),
]


@pytest.mark.parametrize("number", range(len(MODULES)))
def test_is_written_and_built_again(number: int, tmp_path: Path) -> None:
    """What a built-in shows of its arguments builds the same module, and a save of it loads without trust."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has hints for some of these combinations
        module = MODULES[number]()
        assert builtin_schema(module) is not None
        stash: dict[str, object] = {}
        text = yaml.dump(module, stash=stash)
        again = yaml.load(str(text))(stash)
        assert type(again) is type(module)
        assert repr(again) == repr(module)
        if any(nn.parameter.is_lazy(value) for value in module.state_dict(keep_vars=True).values()):
            return
        loaded = load(save(module, tmp_path / "m"))
    before, after = module.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_batch_norm_that_counts_nothing_needs_no_trust(tmp_path: Path) -> None:
    """num_batches_tracked may be None, as some libraries set it."""
    module = nn.BatchNorm1d(3)
    module.num_batches_tracked = None
    path = save(module, tmp_path / "save")
    assert untrusted(path) == []
    assert load(path).num_batches_tracked is None
    attention = nn.MultiheadAttention(4, 2, kdim=3, add_bias_kv=True)
    assert "edited" not in Path(save(attention, tmp_path / "attention"), "config.yaml").read_text()


# ------------------------------------------------------------------------------------------------ shared layers


def _row(count: int = 2) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), count)


def _decoder() -> nn.TransformerDecoder:
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8), 2)


def _changed(row: nn.Module, function: Callable[[nn.Module], object]) -> nn.Module:
    function(row)
    return row


def _taken(row: nn.Module, *names: str) -> nn.Module:
    return nn.ModuleList([row, *(row.get_submodule(name) for name in names)])


class Layer(nn.Module):
    """A layer of a row that is none of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.one = self.other = nn.Linear(2, 2)


def _average() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


SHARED: dict[str, Callable[[], nn.Module]] = {
    "appended": lambda: _changed(_decoder(), lambda row: row.layers.append(row.layers[0])),
    "replaced": lambda: _changed(_row(), lambda row: row.layers.__setitem__(1, row.layers[0])),
    "of_three": lambda: _changed(_row(3), lambda row: row.layers.__setitem__(0, row.layers[2])),
    "attention": lambda: _changed(_row(), lambda row: setattr(row.layers[1], "self_attn", row.layers[0].self_attn)),
    "norm": lambda: _changed(_row(), lambda row: setattr(row, "norm", row.layers[0].norm1)),
    "first_of_row": lambda: _taken(_row(), "layers.0"),
    "second_of_row": lambda: _taken(_row(), "layers.1", "layers.1.linear1"),
    "before_the_row": lambda: nn.ModuleList(reversed([*_taken(_row(), "layers.0")])),
    "all_of_row": lambda: _taken(_row(), "layers"),
    "added": lambda: _changed(_row(), lambda row: setattr(row, "first", row.layers[0].linear1)),
    "of_its_own_kind": lambda: nn.TransformerEncoder(Layer(), 2),
    "whole": lambda: _changed(
        nn.Transformer(4, 2, 2, 2, 8), lambda whole: whole.encoder.layers.__setitem__(1, whole.encoder.layers[0])
    ),
    "average": lambda: _taken(_average(), "module"),
    "before_the_average": lambda: nn.ModuleList(reversed([*_taken(_average(), "module.0", "module")])),
    "part_of_average": lambda: _taken(_average(), "module.0"),
}


def _places(model: nn.Module) -> list[int]:
    """Return which modules are one, by the numbers of the first of their places."""
    seen: dict[int, int] = {}
    return [seen.setdefault(id(inner), len(seen)) for _, inner in model.named_modules(remove_duplicate=False)]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", SHARED)
def test_layers_that_a_constructor_copies_stay_one(name: str, tmp_path: Path) -> None:
    """What stands twice is one after a load, and is none of what a constructor was only given to copy."""
    made = SHARED[name]()
    again = load(save(made, tmp_path / "save"))
    assert _places(again) == _places(made)
    assert list(again.state_dict()) == list(made.state_dict())
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in made.state_dict().items())


def test_a_row_is_written_by_one_layer(tmp_path: Path) -> None:
    """The layer that a constructor copies is told once, by its arguments."""
    save(_row(3), tmp_path / "save")
    assert (tmp_path / "save" / "config.yaml").read_text().count("TransformerEncoderLayer") == 1
