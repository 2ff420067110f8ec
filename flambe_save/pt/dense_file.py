"""DenseFile: the tensors of a ``.pt`` file, listed and counted without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flambe_save.errors import quote
from flambe_save.pt.dense import PlainTensor, load_plain
from flambe_save.pt.options import LoadOptions
from flambe_save.pt.pickled import load_pickled
from flambe_save.pt.sources import MemorySource
from flambe_save.pt.tensor_info import ITEM_SIZES, TensorInfo
from flambe_save.pt.zip_reader import Records, is_zip

if TYPE_CHECKING:
    from flambe_save.pt.elements import Array


class DenseFile:
    """A ``.pt`` file that holds only dense tensors.

    Parameters
    ----------
    source : MemorySource
    records : Records
        Those of the source.
    tensors : dict of str to PlainTensor
    is_verified : bool
        Whether checksums are compared before elements are shown.

    Attributes
    ----------
    tensors : dict of str to TensorInfo
    """

    def __init__(
        self, source: MemorySource, records: Records, tensors: dict[str, PlainTensor], *, is_verified: bool
    ) -> None:
        self._source, self._records, self._plain = source, records, tensors
        self._unchecked = {item.storage for item in tensors.values()} if is_verified else set()
        self.tensors = {
            key: TensorInfo(item.dtype, item.shape, math.prod(item.shape) * ITEM_SIZES[item.dtype], item.location)
            for key, item in tensors.items()
        }

    @classmethod
    def of(cls, source: MemorySource, options: LoadOptions) -> DenseFile | None:
        """Open a file of dense tensors; None if the source holds anything else.

        Raises
        ------
        CorruptSaveError
            If it is damaged.
        """
        records = Records(source, options) if is_zip(source) else None
        if records is None or "data.pkl" not in records:
            return None
        data = records.read("data.pkl")
        plain = load_plain(data)
        tensors = load_pickled(data) if plain is None else plain.tensors
        if tensors is None or ("byteorder" in records and records.read("byteorder") != b"little"):
            return None  # codecs/ reads it, or reports what is wrong with it
        return cls(source, records, tensors, is_verified=options.is_verified)

    def elements(self, name: str, most: int) -> Iterator[Array]:
        """Yield flat arrays of up to ``most`` elements, in order; they may share the file's memory.

        Raises
        ------
        CorruptSaveError
            If they are damaged.
        """
        from flambe_save.pt.elements import elements_of  # needs numpy

        tensor, size = self._plain[name], self.tensors[name].bytes
        record = f"data/{tensor.storage}"
        start, length = self._records.place(record)
        if length != size or not tensor.fits:
            raise self._records.damaged(f"{quote(name)} reaches past its storage")
        if tensor.storage in self._unchecked:
            self._records.check(record)
            self._unchecked.discard(tensor.storage)
        return elements_of(self._source.piece(start, start + length), tensor.dtype, tensor.shape, tensor.stride, most)
