"""Link files of a new save to those of an earlier one where their bytes are the same."""

from __future__ import annotations

import os
from types import TracebackType

from flambe_save.errors import CorruptSaveError, FlambeSaveError, SaveError
from flambe_save.formats.manifest import Manifest
from flambe_save.formats.plan import FileStats, Plan
from flambe_save.layout import CARD_FILES, MANIFEST_FILE, STASH_FILE, STATE_FILE
from flambe_save.pt import open_source
from flambe_save.storage import FolderStore, Store, open_store
from flambe_save.storage.filesystem import FileIdentity, identity

_LEAST = 4096  # bytes of a file that is worth a link: less fits the disk's smallest block


class BaseSave:
    """An earlier save in a folder, for ``with``; open while files are linked to it.

    Only files that people do not edit by hand are linked to: an edit of one save would change the other.

    Parameters
    ----------
    path : path

    Raises
    ------
    LoadError
        When it is entered, if there is no save, or its manifest is damaged.
    SaveError
        If files cannot be linked to it: it is a single file, or has no manifest.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._same: dict[str, tuple[FileStats, FileIdentity]] = {}

    def __enter__(self) -> BaseSave:
        store = open_store(self.path)
        if not isinstance(store, FolderStore):
            raise SaveError(
                f"{self.path!r} is a single file, which cannot be linked to in parts",
                file=self.path,
                fix="Pass base= a save that is a folder.",
            )
        self._store = store.__enter__()
        try:
            self._names = [name for name in store.names() if name not in CARD_FILES]
            if MANIFEST_FILE not in self._names:
                raise SaveError(
                    f"{self.path!r} has no {MANIFEST_FILE}, so it may lack files",
                    file=self.path,
                    fix="Pass base= a save by flambe_save, and the whole of it.",
                )
            with store.reader(MANIFEST_FILE) as file:
                self._manifest = Manifest.from_json(file.read())
        except BaseException:
            self._store.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.__exit__(kind, error, trace)

    def compare(self, plan: Plan, threads: int) -> int:
        """Compare planned files with the base's, and its other files with their checksums.

        Returns
        -------
        int
            How many bytes need not be written.

        Raises
        ------
        CorruptSaveError
            If the base is not what was saved.
        """
        self._manifest.check_names(self._names)
        for name, entry in self._manifest.files.items():
            try:
                with self._store.reader(name) as file:
                    compared = identity(os.fstat(file.fileno()))
                    source = open_source(file, mapped=True, threads=threads)
                    self._manifest.check_size(name, source.size)
                    draft = plan.files.get(name)
                    is_linked = name.rpartition("/")[2] in (STATE_FILE, STASH_FILE) and source.size >= _LEAST
                    is_linked = is_linked and not (plan.digest is not None and plan.digest not in entry)
                    checksum = draft.same_as(source, threads) if draft is not None and is_linked else None
                    same = checksum is not None
                    checksum = source.checksum() if checksum is None else checksum
                    self._manifest.check_file(name, checksum)
            except FlambeSaveError as error:
                error.locate(file=os.path.join(self.path, name))
                raise
            except KeyError:
                raise CorruptSaveError("it leads to no file", file=os.path.join(self.path, name)) from None
            if same:
                digest = entry.get("sha256") if plan.digest is not None else None
                self._same[name] = FileStats(source.size, checksum, digest), compared
        return sum(facts.size for facts, _ in self._same.values())

    def link(self, name: str, store: Store) -> FileStats | None:
        """Link a file that is the same into a store, where possible; return its facts."""
        if name not in self._same or not isinstance(store, FolderStore):
            return None
        facts, compared = self._same[name]
        return facts if store.link(name, self._store, compared) else None
