"""Codecs: one node's values to ``.pt`` files or bare pickles, and back.

Both read under the caller's :class:`~flambe_save.trust.Trust`. The parts that need no torch are in pt/.
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
    """Turns values into files and back."""

    suffix: str
    needs_pickle: bool

    def dump(self, values: V, options: DumpOptions) -> Draft:
        """Draft a file of values, with a sentence for each that only a trusting load reads."""

    def load(self, source: Source, options: LoadOptions) -> V:
        """Read values, to the devices in the options."""
