"""A node's stash, kept as bytes until its values are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flambe_save.errors import CorruptSaveError
from flambe_save.pt import LoadOptions, MemorySource
from flambe_save.registry import CODECS


class LazyStash(Mapping[str, Any]):
    """A stash that is unpickled at its first use: weights load where the stash is not trusted."""

    def __init__(self, data: bytes, options: LoadOptions, node: str, file: str) -> None:
        self._data: bytes | None = data
        self._shared_options = options
        self._node = node
        self._file = file
        self._values: dict[str, Any] = {}

    @property
    def _options(self) -> LoadOptions:
        return replace(self._shared_options, node=self._node, file=self._file)

    def _open(self) -> dict[str, Any]:
        if self._data is not None:
            values = CODECS["pt"].load(MemorySource(bytearray(self._data)), self._options)
            if not isinstance(values, dict):
                raise CorruptSaveError("the stash is not a dict", node=self._node, file=self._file)
            self._values, self._data = values, None
        return self._values

    def __getitem__(self, key: str) -> Any:
        return self._open()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._open())

    def __len__(self) -> int:
        return len(self._open())

    def __bool__(self) -> bool:
        # Without unpickling, which may need trust: most stashes are empty
        if self._data is None:
            return bool(self._values)
        from flambe_save.pt.zip_reader import holds_nothing  # a list of components asks for no stash

        return not holds_nothing(self._data, self._options)

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return dict, (self._open(),)

    def __repr__(self) -> str:
        return f"LazyStash({'not opened' if self._data is not None else self._values})"
