"""What is saved and loaded: the models of the works, made of Components, and of plain modules for the peers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast
from unittest import mock

import torch
from torch import nn

from flambe_save import Component

T = TypeVar("T")

SEED = 7


class Block(Component, nn.Module):
    """One linear layer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layer makes of x, of shape (batch, size)."""
        return self.linear(x)  # type: ignore[no-any-return]


class Stack(Component, nn.Module):
    """Blocks, one after the other; each is a component."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the blocks make of x, of shape (batch, size)."""
        for block in self.blocks:
            x = block(x)
        return x


class Bag(Component, nn.Module):
    """Many tensors in one component."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.tensors = _parameters(count, size)


class Level(Component):
    """A component with one tensor, and another component inside."""

    def __init__(self, inner: Level | None) -> None:
        self.inner = inner
        self.value = torch.ones(2)
        self.register_attrs("value")


class PlainBlock(nn.Module):
    """A Block that knows nothing of flambe_save; its state has the same keys."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layer makes of x, of shape (batch, size)."""
        return self.linear(x)  # type: ignore[no-any-return]


class PlainStack(nn.Module):
    """A Stack that knows nothing of flambe_save."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PlainBlock(size) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the blocks make of x, of shape (batch, size)."""
        for block in self.blocks:
            x = block(x)
        return x


class PlainLayers(nn.Module):
    """A plain module of others, as most models are: what flambe_save writes as its parts."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PlainLayer(size) for _ in range(count))


class PlainLayer(nn.Module):
    """Three of torch's layers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(size, size), nn.LayerNorm(size), nn.Dropout(0.1)
        self.size = size


class PlainBag(nn.Module):
    """A Bag that knows nothing of flambe_save."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.tensors = _parameters(count, size)


def _parameters(count: int, size: int) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.empty(size)) for _ in range(count))


@contextmanager
def no_init() -> Iterator[None]:
    """Leave parameters as they are allocated: what torch.nn.init would write is about to be overwritten."""

    def leave(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return tensor

    init: Any = nn.init
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    with mock.patch.multiple(init, **dict.fromkeys(names, cast(Any, leave))):
        yield


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a module that has shapes, and no memory."""
    with torch.device("meta"):
        return make()


def tie(module: Any) -> None:
    """Let a transformer's parameters that are one be one again, after they were assigned."""
    if hasattr(module, "tie_weights"):
        module.tie_weights()


@dataclass(frozen=True)
class Work:
    """A model, and what is needed to use it in any of the formats.

    Parameters
    ----------
    key, title : str
    make : callable
        Makes the model that flambe_save saves, with whatever weights; or another object, which no peer can save.
    plain : callable
        Constructs a module with the same keys for the peers, with torch's random init.
    batch : callable, optional
        Makes the input of the first forward.
    shape : (int, int)
        How many components or tensors, and their size.
    dtype : torch.dtype
    """

    key: str
    title: str
    make: Callable[[], Any]
    plain: Callable[[], nn.Module]
    batch: Callable[[], torch.Tensor] | None = None
    shape: tuple[int, int] = (0, 0)
    dtype: torch.dtype = torch.float32
    _made: dict[str, Any] = field(default_factory=dict, compare=False)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what ``make`` made when it was first asked for under this name."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]  # type: ignore[no-any-return]

    @property
    def model(self) -> Any:
        """The model; its weights are random, and the same in every process."""
        return self.once("model", self._model)

    def _model(self) -> Any:
        with no_init():
            model = self.make()
        if not isinstance(model, nn.Module):
            return model
        model = model.to(self.dtype)
        generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.02, generator=generator)
        return model

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """All tensors of the model, by key; they share its memory."""
        return self.once("state", lambda: dict(self.model.state_dict()) if isinstance(self.model, nn.Module) else {})

    @property
    def stored(self) -> dict[str, torch.Tensor]:
        """The tensors of the model without those that are tied to one before."""
        return self.once("stored", self._stored)

    def _stored(self) -> dict[str, torch.Tensor]:
        tensors: dict[int, tuple[str, torch.Tensor]] = {}
        for key, tensor in self.state.items():
            tensors.setdefault(tensor.data_ptr(), (key, tensor))
        return dict(tensors.values())

    @property
    def parts(self) -> list[dict[str, torch.Tensor]]:
        """The tensors of each component, where there are many; else one part with all."""
        return self.once("parts", self._parts)

    def _parts(self) -> list[dict[str, torch.Tensor]]:
        grouped: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in self.stored.items():
            prefix = ".".join(key.split(".")[:2]) if key.startswith("blocks.") else ""
            grouped.setdefault(prefix, {})[key] = tensor
        return list(grouped.values())

    @property
    def plain_model(self) -> nn.Module:
        """A plain module with the model's own tensors."""
        return self.once("plain", lambda: self.shared(self.plain))

    def shared(self, make: Callable[[], nn.Module]) -> nn.Module:
        """Return a module with the model's own tensors."""
        module = on_meta(make)
        module.load_state_dict(self.state, assign=True)
        tie(module)
        return module

    @property
    def bytes(self) -> int:
        """How many bytes the tensors have."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.stored.values())

    @contextmanager
    def negated(self, prefix: str = "") -> Iterator[None]:
        """Give the parameters below a prefix the other sign meanwhile."""
        changed = [parameter for key, parameter in self.model.named_parameters() if key.startswith(prefix)]
        with torch.no_grad():
            for parameter in changed:
                parameter.neg_()
            yield
            for parameter in changed:
                parameter.neg_()

    def input(self) -> torch.Tensor:
        """Return the input of the first forward."""
        assert self.batch is not None
        return self.once("input", self.batch)


def _gpt2(title: str, layers: int, width: int, vocabulary: int) -> Work:
    def make() -> nn.Module:
        from transformers import GPT2Config, GPT2LMHeadModel

        heads = max(1, width // 64)
        last = vocabulary - 1
        config = GPT2Config(
            n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocabulary, bos_token_id=last, eos_token_id=last
        )
        model: Any = GPT2LMHeadModel(config)
        return cast(nn.Module, model.eval())

    return Work("d", title, make, make, batch=lambda: torch.ones(1, 4, dtype=torch.long), shape=(layers, width))


class Sizes(NamedTuple):
    """How large the works are."""

    blocks: tuple[int, int]  # of (a): how many, and their width
    components: int  # of (b)
    tensors: int  # of (c)
    transformer: tuple[int, int, int]  # (d): layers, width, words
    archive: tuple[int, int]  # blocks, and their width
    levels: int  # of (l)
    crowd: int  # components of (m)


SIZES = {
    "full": Sizes((8, 5656), 1000, 10_000, (12, 768, 50_257), (8, 2828), 1000, 10_000),
    "quick": Sizes((8, 2000), 200, 2_000, (4, 512, 10_000), (8, 1000), 200, 1000),
    "small": Sizes((8, 1000), 40, 500, (2, 256, 2_000), (8, 350), 50, 100),
    "tiny": Sizes((8, 16), 9, 12, (1, 64, 50), (8, 16), 5, 12),
}


def stack(key: str, count: int, width: int, dtype: torch.dtype = torch.float32, title: str = "{}") -> Work:
    """Return the work of so many components, each with a linear layer of a width."""
    return Work(
        key,
        title.format(f"{count} components of Linear({width}, {width})"),
        make=lambda: Stack([Block(width) for _ in range(count)]),
        plain=functools.partial(PlainStack, count, width),
        batch=lambda: torch.ones(1, width),
        shape=(count, width),
        dtype=dtype,
    )


def works(size: str) -> dict[str, Work]:
    """Return the works by their keys; models are made when they are first used.

    Parameters
    ----------
    size : {"full", "quick", "small", "tiny"}
    """
    sizes = SIZES[size]
    count, width = sizes.archive
    layers, tensors = sizes.components // 4, sizes.tensors
    made = [
        stack("a", *sizes.blocks),
        _gpt2(f"GPT-2 with {sizes.transformer[0]} layers of {sizes.transformer[1]}", *sizes.transformer),
        stack("fp32", count, width, title="archive, {}"),
        stack("bf16", 2 * count, width, torch.bfloat16, title="the same in bfloat16, twice as many"),
        Work(
            "c",
            f"{tensors} tensors of 1 KB in one component",
            make=lambda: Bag(tensors, 256),
            plain=functools.partial(PlainBag, tensors, 256),
            shape=(tensors, 256),
        ),
        Work(
            "e",
            f"a plain module of {sizes.components} modules",
            make=functools.partial(PlainLayers, layers, 32),
            plain=functools.partial(PlainLayers, layers, 32),
            shape=(layers, 32),
        ),
        Work(
            "t",
            "a training run of 100 KB: a model of 6 layers, Adam, a scheduler, random states",
            make=functools.partial(PlainStack, 6, 37),
            plain=functools.partial(PlainStack, 6, 37),
            shape=(6, 37),
        ),
        Work(
            "l",
            f"{sizes.levels} components, one inside the other",
            lambda: levels(sizes.levels),
            functools.partial(PlainStack, 1, 2),
        ),
        stack("b", sizes.components, 32),
        stack("m", sizes.crowd, 32),
    ]
    return {work.key: work for work in made}


def levels(count: int) -> Level | None:
    """Return components, one inside the other."""
    outer = None
    for _ in range(count):
        outer = Level(outer)
    return outer
