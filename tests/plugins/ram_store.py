"""A plug-in as another package would ship it: saves at ``ram://name``, kept in this process's memory."""

from __future__ import annotations

from types import TracebackType

from flambe_save.errors import SaveNotFoundError, TargetExistsError
from flambe_save.storage import MemoryStore, Store
from flambe_save.trust import Limits

KEPT: dict[str, dict[str, bytes]] = {}


class RamStores:
    """Makes stores for the scheme ``ram``."""

    def open(self, url: str, limits: Limits | None) -> Store:
        """Open what is kept under a URL."""
        if url not in KEPT:
            raise SaveNotFoundError(f"nothing is kept at {url}", file=url, fix=f"There are {sorted(KEPT)}.")
        return MemoryStore(KEPT[url])

    def create(self, url: str, *, overwrite: bool, size: int) -> Store:
        """Make a store whose files are kept once it is left."""
        if url in KEPT and not overwrite:
            raise TargetExistsError(f"there is a save at {url}", file=url, fix="Pass overwrite=True to replace it.")
        return _New(url)


class _New(MemoryStore):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is None:
            KEPT[self._url] = self.files


STORES = RamStores()
