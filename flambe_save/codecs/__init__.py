"""Codecs: one node's values to bytes and back. torch.py writes ``.pt`` files, pickle.py bare pickles.

Both read under the caller's :class:`~flambe_save.trust.Trust`; what counts as data is written down once, in data.py.
What needs no torch of all this is in pt/.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from flambe_save.codecs.lazy_values import LazyFile, LazyValues, type_name
from flambe_save.codecs.pickle import PickleCodec
from flambe_save.codecs.placement import Placer
from flambe_save.codecs.referring import check_referring, dump_referring, load_referring
from flambe_save.codecs.torch import TorchCodec
from flambe_save.codecs.unpickler import IMPOSSIBLE, unknown_globals
from flambe_save.pt import Draft, DumpOptions, LoadOptions, Source

__all__ = [
    "IMPOSSIBLE",
    "Codec",
    "LazyValues",
    "LazyFile",
    "PickleCodec",
    "Placer",
    "TorchCodec",
    "check_referring",
    "dump_referring",
    "load_referring",
    "type_name",
    "unknown_globals",
]

V = TypeVar("V")


class Codec(Protocol[V]):
    """How values become bytes: ``dump`` drafts a file, which reads tensors when it is written; ``load`` reads one."""

    suffix: str
    needs_pickle: bool

    def dump(self, values: V, options: DumpOptions) -> Draft:
        """Draft a file of values; it says what in them only a trusting load will read."""

    def load(self, source: Source, options: LoadOptions) -> V:
        """Read values, on the devices that the options say."""
