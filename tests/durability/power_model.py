"""A disk as simple as it can be, that forgets at a power cut whatever was not synced, in any combination.

A file's bytes are sure once the file was synced. What a folder lists is sure once the folder was synced. Of the rest,
any part may be there and any part not: more than any real file system would lose, so what survives here survives.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from durability_tools import Operation

State = dict[str, bytes | None]  # bytes of files, None for folders, by path


class Entry(NamedTuple):
    """A change of what folders list: ``number`` is known under these names before, and under those after."""

    removed: tuple[tuple[int, str, int], ...]  # folder, name, and what was listed there
    added: tuple[tuple[int, str, int], ...]


class Disk:
    """Files and folders by number, as they are in memory and as they are surely on the disk.

    Parameters
    ----------
    root : path
        The folder that is modelled; all that is below it is on the disk when the model begins.
    """

    ROOT = 0

    def __init__(self, root: Path) -> None:
        self.root = os.fspath(root)
        self.content: dict[int, bytearray] = {}
        self.synced: dict[int, bytes] = {}
        self.entries: dict[int, dict[str, int]] = {self.ROOT: {}}
        self.sure: dict[int, dict[str, int]] = {self.ROOT: {}}
        self.pending: list[Entry] = []
        for here, folders, files in os.walk(root):
            for name in sorted(folders):
                self._add(self._number(here), name, folder=True)
            for name in sorted(files):
                number = self._add(self._number(here), name, folder=False)
                self.content[number][:] = Path(here, name).read_bytes()
                self.synced[number] = bytes(self.content[number])
        self.sure = {number: dict(listed) for number, listed in self.entries.items()}
        self.pending.clear()

    # -------------------------------------------------------------------------------------------- what happens

    def replay(self, operation: Operation) -> None:
        """Do what an operation did."""
        name, paths = operation.name, operation.paths
        if not all(path == self.root or path.startswith(self.root + os.sep) for path in paths):
            return  # a sync of a folder above
        if name in ("open", "truncate"):
            folder, last = self._place(paths[0])
            number = self.entries[folder].get(last)
            if number is None:
                self._add(folder, last, folder=False)
            elif name == "truncate" and number in self.content:
                self.content[number].clear()
        elif name == "write":
            content = self.content[self._number(paths[0])]
            content.extend(bytes(max(0, operation.offset - len(content))))
            content[operation.offset : operation.offset + len(operation.data)] = operation.data
        elif name in ("fsync", "fdatasync"):
            self._sync(self._number(paths[0]))
        elif name == "syncfs":
            for number in (*self.content, *self.entries):
                self._sync(number)
        elif name == "mkdir":
            self._add(*self._place(paths[0]), folder=True)
        elif name in ("unlink", "remove", "rmdir"):
            folder, last = self._place(paths[0])
            self._change(Entry(((folder, last, self.entries[folder][last]),), ()))
        elif name in ("rename", "replace", "exchange", "link"):
            self._move(name, *(self._place(path) for path in paths))
        elif name != "close":
            raise NotImplementedError(f"the model knows no {name}")

    def _number(self, path: str | os.PathLike[str]) -> int:
        number = self.ROOT
        rest = os.path.relpath(path, self.root)
        for part in rest.split(os.sep) if rest != os.curdir else ():
            number = self.entries[number][part]
        return number

    def _place(self, path: str) -> tuple[int, str]:
        return self._number(os.path.dirname(path)), os.path.basename(path)

    def _add(self, parent: int, name: str, *, folder: bool) -> int:
        number = len(self.content) + len(self.entries)
        if folder:
            self.entries[number] = {}
            self.sure[number] = {}
        else:
            self.content[number] = bytearray()
            self.synced[number] = b""
        self._change(Entry((), ((parent, name, number),)))
        return number

    def _move(self, name: str, one: tuple[int, str], other: tuple[int, str]) -> None:
        first, second = self.entries[one[0]][one[1]], self.entries[other[0]].get(other[1])
        if name == "exchange":
            assert second is not None
            self._change(Entry(((*one, first), (*other, second)), ((*one, second), (*other, first))))
            return
        removed = ((*one, first),) if name != "link" else ()
        self._change(Entry((*removed, *(((*other, second),) if second is not None else ())), ((*other, first),)))

    def _change(self, entry: Entry) -> None:
        _apply(entry, self.entries)
        self.pending.append(entry)

    def _sync(self, number: int) -> None:
        if number in self.content:
            self.synced[number] = bytes(self.content[number])
            return
        sure = [entry for entry in self.pending if any(number == where for where, *_ in (*entry.removed, *entry.added))]
        for entry in sure:
            _apply(entry, self.sure)
            self.pending.remove(entry)

    # -------------------------------------------------------------------------------------------- what may be found

    def now(self) -> State:
        """Return what is below the root, nothing lost."""
        return dict(self._walk(self.entries, {number: bytes(content) for number, content in self.content.items()}))

    def cuts(self, rng: random.Random, extra: int) -> Iterator[State]:
        """Yield what may be found after a power cut now: the extremes, then some chosen at random."""
        count = len(self.pending)
        every = frozenset(range(count))
        chosen = [every, frozenset()]
        chosen += [frozenset(range(length)) for length in range(1, count)]
        chosen += [every - {index} for index in range(count)] + [frozenset({index}) for index in range(count)]
        for which in dict.fromkeys(chosen):
            for data in ("lost", "kept"):
                yield self._cut(which, dict.fromkeys(self.content, data))
        for _ in range(extra):
            which = frozenset(index for index in range(count) if rng.random() < 0.7)
            data = {number: rng.choice(["lost", "kept", "half", "zeros"]) for number in self.content}
            yield self._cut(which, data)

    def _cut(self, which: frozenset[int], data: Mapping[int, str]) -> State:
        entries = {number: dict(listed) for number, listed in self.sure.items()}
        for index, entry in enumerate(self.pending):
            if index in which:
                _apply(entry, entries)
        content = {}
        for number, now in self.content.items():
            kept, fate = bytes(now), data[number]
            if kept != self.synced[number] and fate != "kept":
                lost = {"lost": self.synced[number], "half": kept[: len(kept) // 2], "zeros": bytes(len(kept))}
                kept = lost[fate]
            content[number] = kept
        return dict(self._walk(entries, content))

    def _walk(
        self, entries: Mapping[int, Mapping[str, int]], content: Mapping[int, bytes]
    ) -> Iterator[tuple[str, bytes | None]]:
        stack = [(self.ROOT, "")]
        while stack:
            folder, before = stack.pop()
            for name, number in sorted(entries[folder].items()):
                if number in content:
                    yield before + name, content[number]
                else:
                    yield before + name, None
                    stack.append((number, f"{before}{name}/"))


def _apply(entry: Entry, entries: dict[int, dict[str, int]]) -> None:
    for folder, name, number in entry.removed:
        if entries[folder].get(name) == number:
            del entries[folder][name]
    for folder, name, number in entry.added:
        entries[folder][name] = number


def lay_out(state: State, folder: Path) -> None:
    """Write a state to a real disk."""
    folder.mkdir()
    for name in sorted(name for name, content in state.items() if content is None):
        (folder / name).mkdir()
    for name, content in state.items():
        if content is not None:
            (folder / name).write_bytes(content)
