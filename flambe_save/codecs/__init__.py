"""Codecs: one node's values to bytes and back. torch.py writes ``.pt`` files, pickle.py bare pickles.

Both read under the caller's :class:`~flambe_save.trust.Trust`; what counts as data is written down once, in data.py.
"""

from __future__ import annotations

from typing import BinaryIO, Protocol, TypeVar

from flambe_save.codecs.options import DumpOptions, LoadOptions, MapLocation, PickleModule, placer
from flambe_save.codecs.pickle import PickleCodec
from flambe_save.codecs.torch import TorchCodec
from flambe_save.codecs.unpickler import pickle_end

__all__ = [
    "Codec",
    "DumpOptions",
    "LoadOptions",
    "MapLocation",
    "PickleCodec",
    "PickleModule",
    "TorchCodec",
    "pickle_end",
    "placer",
]

V = TypeVar("V")


class Codec(Protocol[V]):
    """How values become bytes: ``dump`` into a file that is open for writing, ``load`` from one open for reading."""

    suffix: str
    needs_pickle: bool

    def dump(self, values: V, file: BinaryIO, options: DumpOptions) -> list[str]:
        """Write values; say, a sentence each, what in them only a trusting load will read."""

    def load(self, file: BinaryIO, options: LoadOptions) -> V:
        """Read values, on the devices that the options say."""
