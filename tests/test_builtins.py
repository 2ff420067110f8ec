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
