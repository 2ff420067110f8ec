"""Torch's files without torch: read and write zips, walk pickles, list tensors.

Nothing is run. codecs/ makes tensors and objects of them.
"""

from __future__ import annotations

from flambe_save.pt.options import DumpOptions, LoadOptions, MapLocation, PickleModule
from flambe_save.pt.sources import MemorySource, Source, open_source, pieces_of
from flambe_save.pt.tensor_info import TensorInfo, is_tensor
from flambe_save.pt.zip_writer import Draft

__all__ = [
    "Draft",
    "DumpOptions",
    "MemorySource",
    "LoadOptions",
    "MapLocation",
    "PickleModule",
    "Source",
    "TensorInfo",
    "is_tensor",
    "open_source",
    "pieces_of",
]
