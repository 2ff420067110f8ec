"""A plug-in as another package would ship it: the files of tensors in folders, and all texts of a save in one file."""

from __future__ import annotations

import json
from collections.abc import Sequence

from flambe_save.errors import CorruptSaveError
from flambe_save.formats import Contents, Plan, ReadOptions, Saved
from flambe_save.formats.directory import DIRECTORY
from flambe_save.pt import Draft, DumpOptions
from flambe_save.storage import MemoryStore, Store
from flambe_save.tree import SaveTreeNode

TEXTS = "texts.json"


class TextsFormat:
    """The folder layout, but for its texts: these are in ``texts.json``."""

    file_names = (TEXTS,)

    def plan(self, root: SaveTreeNode, options: DumpOptions) -> Plan:
        """Plan the files of tensors, and the one of texts."""
        layout, files = DIRECTORY.plan(root, options), dict[str, bytes]()
        with MemoryStore(files) as store:
            layout.write(store)
        drafts = {name: Draft(data) for name, data in files.items() if name.endswith((".pt", ".pkl"))}
        texts = {name: data.decode() for name, data in sorted(files.items()) if name not in drafts}
        drafts[TEXTS] = Draft(json.dumps(texts, indent=1).encode())
        return Plan(drafts, opaque=layout.opaque, referring=layout.referring)

    def read(self, store: Store, options: ReadOptions) -> Saved:
        """Read a tree, or a part of it."""
        return DIRECTORY.read(_as_folders(store), options)

    def inspect(self, store: Store, options: ReadOptions) -> Contents:
        """Look at what a store holds."""
        contents = DIRECTORY.inspect(_as_folders(store), options)
        contents.size = sum(len(store.reader(name).read()) for name in store.names())
        return contents

    def sniff(self, names: Sequence[str]) -> bool:
        """Whether these are the names of such a save."""
        return TEXTS in names


def _as_folders(store: Store) -> MemoryStore:
    """Return the files that the folder layout has."""
    files = {name: store.reader(name).read() for name in store.names()}
    try:
        texts = json.loads(files.pop(TEXTS))
    except (KeyError, ValueError) as error:
        raise CorruptSaveError(f"the texts cannot be read: {error}", file=TEXTS) from error
    return MemoryStore({**{name: text.encode() for name, text in texts.items()}, **files})


FORMAT = TextsFormat()
