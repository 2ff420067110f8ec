"""Copy the files of a save or a part of it between stores, byte by byte; pack and unpack.

Nothing is unpickled, so nothing needs trust. Each file is compared with the manifest on its way. No torch is needed.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flambe_save.errors import (
    CorruptSaveError,
    FlambeSaveError,
    LoadError,
    SaveError,
    UncheckedSaveWarning,
    UnknownFormatError,
    quote,
    warn,
)
from flambe_save.formats import Format, Plan, ReadOptions, format_of
from flambe_save.formats.manifest import HAS_MANIFEST, Manifest
from flambe_save.formats.nodes import NodeReader
from flambe_save.formats.plan import FileStats, Link
from flambe_save.layout import (
    ARCHIVE_SUFFIX,
    CARD_FILES,
    CONFIG_FILE,
    MANIFEST_FILE,
    PROTOCOL_FILE,
    REQUIREMENTS_FILE,
    SOURCE_FILE,
    STASH_FILE,
    STATE_FILE,
    VERSION_FILE,
)
from flambe_save.pt import Draft, LoadOptions
from flambe_save.reading import errors_of, reading
from flambe_save.registry import FORMATS
from flambe_save.running import wait_for
from flambe_save.storage import Store, open_store, whole_save
from flambe_save.storage.tar import TarStore
from flambe_save.support.checksum import crc32
from flambe_save.support.parallel import default_threads
from flambe_save.support.progress import NO_PROGRESS, Progress, ShowProgress, progress_of
from flambe_save.support.undoing import takes_back
from flambe_save.tree import prefix_within, ties_within
from flambe_save.trust import Limits, Trust
from flambe_save.writing import Target, check_level, final_path, write_plan

_STEP = 1 << 20  # bytes that are in memory at a time
# Where there is no manifest to say it: the files of a node in the order in which a save writes them
_ORDER = (STATE_FILE, STASH_FILE, VERSION_FILE, SOURCE_FILE, CONFIG_FILE, PROTOCOL_FILE)


def copy_save(
    path: str | os.PathLike[str],
    target: Target,
    *,
    node: str = "",
    limits: Limits | None = None,
    progress: Progress = NO_PROGRESS,
) -> str:
    """Copy a save, or a component of a folder save, to the same format; return the path.

    Raises
    ------
    CorruptSaveError
        If a file is damaged; nothing is left then.
    LoadError, SaveError
    """
    wait_for(target.path)
    with contextlib.ExitStack() as source:
        if target.is_single:
            plan = _copy_of_file(path, limits, source)
        else:
            plan = Folders.opened(path, LoadOptions(Trust.of(limits=limits)), source).copy(node)
        threads = default_threads() if target.is_archive or plan.is_concurrent else 1
        return write_plan(plan, target, threads, progress)


@takes_back
def pack(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    level: int | None = None,
    limits: Limits | None = None,
    progress: ShowProgress = False,
) -> str:
    """Put a save that is a folder, or a .pkl, into an archive; :func:`unpack` is the inverse.

    The result is that of :func:`convert`; nothing is unpickled, so nothing in the save needs trust.

    Parameters
    ----------
    path : str or path
        A save; of a folder inside a save, the archive is a save of its own.
    out : str or path, optional
        The archive, by default ``path`` with ``.tar.gz`` behind it; that is appended where it is missing.
    overwrite : bool
        Whether a save that is there is replaced, in one step.
    level : int, optional
        Of the compression. The archive is to the byte what ``save(..., compress=True, level=level)`` would have written
        to that path.
    limits, progress
        As of :func:`convert`.

    Returns
    -------
    str
        The path of the archive.

    Raises
    ------
    SaveError
        If ``path`` is an archive already, or the archive cannot be written. Nothing is left behind.
    TargetExistsError
        If something is there already.
    LoadError
        If there is no save, or it cannot be read; a CorruptSaveError names a damaged file.
    """
    check_level(level, is_archive=True)
    return _repacked("pack", path, out, Target("", True, overwrite=overwrite, level=level), limits, progress)


@takes_back
def unpack(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    limits: Limits | None = None,
    progress: ShowProgress = False,
) -> str:
    """Unpack a save from an archive: a folder, or a .pkl. Inverse of :func:`pack`.

    Parameters
    ----------
    path : str or path
        The archive.
    out : str or path, optional
        Where, by default ``path`` without its ``.tar.gz``.
    overwrite, limits, progress
        As :func:`pack`; the limits say what the archive may unpack to.

    Returns
    -------
    str
        The path of the folder or the .pkl.

    Raises
    ------
    SaveError
        If ``path`` is not an archive, or what is in it cannot be written. Nothing is left behind.
    TargetExistsError, LoadError
        As :func:`pack`.
    """
    return _repacked("unpack", path, out, Target("", overwrite=overwrite), limits, progress)


def _repacked(
    verb: str,
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    target: Target,
    limits: Limits | None,
    progress: ShowProgress,
) -> str:
    """Copy a save into an archive or out of one; by default the target is named as the save."""
    where = os.fspath(path)

    def attempt() -> str:
        with open_store(path, limits) as store:
            if isinstance(store, TarStore) and target.is_archive:
                raise SaveError(f"{where!r} is an archive already", file=where, fix="Copy the file.")
            if not (isinstance(store, TarStore) or target.is_archive):
                raise SaveError(f"{where!r} is not an archive", file=where, fix="It can be read as it is.")
            is_single = format_of(store, where) is FORMATS["pickle"]
        if out is None and not (target.is_archive or where.endswith(ARCHIVE_SUFFIX)):
            raise SaveError(
                f"{where!r} does not end in {ARCHIVE_SUFFIX}, so its name does not say where to",
                file=where,
                fix="Say it: unpack(path, out).",
            )
        named = where.rstrip("/" + os.sep) if target.is_archive else where.removesuffix(ARCHIVE_SUFFIX)
        final = final_path(named if out is None else out, target.is_archive, is_single)
        found = replace(target, path=final, is_single=is_single)
        return copy_save(path, found, limits=limits, progress=progress_of(progress, f"{verb.capitalize()}ing"))

    with errors_of(path, name=verb):
        return reading(attempt, where)


# ------------------------------------------------------------------------------------------------ drafts and plans


class _CopiedFile(Draft):
    """A file of an open store."""

    def __init__(self, store: Store, name: str) -> None:
        super().__init__()
        self._store = store
        self._name = name
        with _read_errors(name):
            self.size = _size_of(store, name)

    def chunks(self) -> Iterator[tuple[bytes | bytearray | memoryview, int]]:
        done = 0
        with _read_errors(self._name):
            for chunk in _chunks_of(self._store, self._name, self.size):
                done += len(chunk)
                if done > self.size:
                    break
                yield chunk, crc32(chunk)
            if done != self.size:
                raise CorruptSaveError("it was changed while it was read", file=self._name, fix="Copy it again.")


def _size_of(store: Store, name: str) -> int:
    if isinstance(store, TarStore):
        return store.size(name)
    with store.reader(name) as file:
        return file.seek(0, io.SEEK_END)


def _chunks_of(store: Store, name: str, size: int) -> Iterator[memoryview]:
    if isinstance(store, TarStore):
        yield from store.chunks(name)
        return
    buffer = memoryview(bytearray(min(_STEP, size + 1)))  # one more than there is, to see that there is no more
    with store.reader(name) as file:
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            yield buffer[:count]


@contextlib.contextmanager
def _read_errors(name: str) -> Iterator[None]:
    """Mark errors of reading, so that they differ from errors of writing."""
    try:
        yield
    except FlambeSaveError as error:
        error.locate(file=name)
        raise
    except KeyError:
        raise CorruptSaveError("it leads to no file", file=name, fix="Put the file itself there.") from None
    except OSError as error:
        raise LoadError(f"the save cannot be read: {error.strerror or error}", file=name) from error


@dataclass
class Copy(Plan):
    """A plan of files that are copied from a store.

    Attributes
    ----------
    source : contextlib.ExitStack
        Closes the store; done before the commit, since an archive is wholly checked only then.
    is_concurrent : bool
        Whether the store can be read by several threads.
    """

    source: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    is_concurrent: bool = False

    def write(self, store: Store, threads: int = 1, link: Link | None = None, progress: Progress = NO_PROGRESS) -> None:
        """Write all files to an open store, and close the one that they come from."""
        super().write(store, threads, link, progress)
        self.source.close()


def _copy_of_file(path: str | os.PathLike[str], limits: Limits | None, source: contextlib.ExitStack) -> Copy:
    """Plan the copy of a single pickle, after a check for damage."""
    where = os.fspath(path)
    store = source.enter_context(open_store(path, limits))
    chosen: Format = format_of(store, where)
    for damage in chosen.inspect(store, ReadOptions(LoadOptions(Trust.of(limits=limits)), "", where)).verify():
        raise CorruptSaveError(damage.problem, file=damage.file, fix="Take it from a copy of the save.")
    return Copy({"": _CopiedFile(store, "")}, source=source)


# ------------------------------------------------------------------------------------------------ folders


class Folders:
    """A save in folders, or a folder of one, whose store is open.

    Attributes
    ----------
    store : Store
    manifest : Manifest or None
    reader : NodeReader
    keys : dict of str to str
        Folder, with a slash after it, -> prefix of its node, in the whole save.
    prefix : str
        Of the node that was opened: ``""`` unless that is a folder inside a save.
    """

    def __init__(
        self, store: Store, where: str, prefix: str, options: LoadOptions, source: contextlib.ExitStack
    ) -> None:
        self.store = store
        self.prefix = prefix
        self._where = where
        self._source = source
        self._names = store.names()
        own = [name for name in self._names if name not in CARD_FILES]
        self._sealed = _bytes_of(store, MANIFEST_FILE) if MANIFEST_FILE in own else None
        self.manifest = Manifest.from_json(self._sealed) if self._sealed is not None else None
        self.reader = NodeReader(store, self.manifest, options)
        if self.manifest is not None:
            self.manifest.check_names(own)
        # By the manifest no state is read for its key
        self.keys = self.reader.keys_of(own) if self.manifest is None else _keys_of(self.manifest)

    @classmethod
    def opened(cls, path: str | os.PathLike[str], options: LoadOptions, source: contextlib.ExitStack) -> Folders:
        """Open a path; ``source`` closes it. A folder inside a save is a part of the whole.

        Raises
        ------
        LoadError
            If it is not a save in folders, or its names are not those that were saved.
        """
        where, limits = os.fspath(path), options.trust.limits
        root, folder = whole_save(path)
        if folder:
            with contextlib.ExitStack() as whole:
                store = whole.enter_context(open_store(root, limits))
                if MANIFEST_FILE in store.names():
                    keys = _keys_of(Manifest.from_json(_bytes_of(store, MANIFEST_FILE)))
                    if f"{folder}/" in keys:
                        source.enter_context(whole.pop_all())
                        return cls(store, where, keys[f"{folder}/"], options, source)
        store = source.enter_context(open_store(path, limits))
        if format_of(store, where) is not FORMATS["directory"]:
            raise UnknownFormatError(
                f"{where!r} is not a save in folders", file=where, fix="Load it, and save it as a folder."
            )
        return cls(store, where, "", options, source)

    def folder_of(self, node: str) -> str | None:
        """Return the folder of a component, by its prefix in the opened part; None if not found."""
        wanted = prefix_within(self.prefix, node)
        return next((folder for folder, prefix in self.keys.items() if prefix == wanted), None)

    def warn_if_unchecked(self) -> None:
        """Warn where the manifest is gone of a save that had one."""
        had_one = self.manifest is None and REQUIREMENTS_FILE in self._names
        if had_one and _bytes_of(self.store, REQUIREMENTS_FILE).startswith(HAS_MANIFEST.encode()):
            text = f"{quote(self._where)} has lost its {MANIFEST_FILE}: its files are checked only by themselves"
            warn(text, UncheckedSaveWarning)

    def copy(self, node: str = "") -> Copy:
        """Plan the copy of all files, or of a component with all inside it, which becomes a save.

        Raises
        ------
        CorruptSaveError
            If a file's size is not what was saved; when it is written, if its bytes are not.
        """
        top = self.folder_of(node)
        assert top is not None, "callers look for a node before they name it"
        names = self._selected(top)
        manifest = self.manifest
        self.warn_if_unchecked()
        plan = Copy(source=self._source, is_concurrent=self.store.is_concurrent)
        for name in names:
            if os.sep != "/" and (os.sep in name or ":" in name):  # Windows
                raise CorruptSaveError(f"{quote(name)} leads elsewhere on this system", file=name)
            if manifest is None and name not in CARD_FILES:
                self.reader.check(name, self.keys.get(name[: name.rfind("/") + 1]))
            plan.files[name.removeprefix(top)] = draft = _CopiedFile(self.store, name)
            if manifest is not None and name in manifest.files:
                manifest.check_size(name, draft.size)
        if manifest is None:
            return plan
        plan.digest = "sha256" if any("sha256" in manifest.files.get(name, ()) for name in names) else None
        part = self._part(manifest, top)

        def seal(facts: Mapping[str, FileStats]) -> tuple[str, bytes]:
            for name in filter(manifest.files.__contains__, names):
                copied = facts[name.removeprefix(top)]
                manifest.check_file(name, copied.checksum)
                if manifest.files[name].get("sha256", copied.digest) != copied.digest:
                    raise CorruptSaveError("its SHA-256 is not the saved one", file=name, fix="Take it from a copy.")
            if not top:
                assert self._sealed is not None, "it is where the manifest is from"
                return MANIFEST_FILE, self._sealed
            part.add_files(facts)
            return MANIFEST_FILE, part.to_json()

        plan.seal = seal
        return plan

    def _selected(self, top: str) -> list[str]:
        """Return the names of a part, in the order of a save, without the manifest."""
        if self.manifest is not None:
            names = list(self.manifest.files)
        else:
            names = [folder + last for folder in sorted(self.keys) for last in _ORDER]
            names += [REQUIREMENTS_FILE] if REQUIREMENTS_FILE in self._names else []
        names = [name for name in names if name.startswith(top) or name == REQUIREMENTS_FILE]
        return names + ([name for name in self._names if name in CARD_FILES] if not top else [])

    def _part(self, manifest: Manifest, top: str) -> Manifest:
        """Return the manifest of a component and all inside it, without the files yet to be copied."""
        prefix = self.keys[top]
        begin = f"{prefix}." if prefix else ""
        nodes: dict[str, Any] = {}
        for inner, entry in manifest.nodes.items():
            if inner == prefix or inner.startswith(begin):
                nodes[inner[len(begin) :]] = {**entry, "folder": f"{entry['folder']}/".removeprefix(top).rstrip("/")}
        return replace(
            manifest,
            nodes=nodes,
            ties=ties_within(manifest.ties, prefix),
            needs_trust=[sentence.removeprefix(top) for sentence in manifest.needs_trust if sentence.startswith(top)],
            files={},
        )


def _keys_of(manifest: Manifest) -> dict[str, str]:
    """Return folder, with a slash after it, -> prefix of every node.

    Raises
    ------
    CorruptSaveError
        If a node has no files.
    """
    keys = {folder: prefix for prefix, folder in manifest.folders.items()}
    for folder, prefix in keys.items():
        missing = [folder + last for last in _ORDER if folder + last not in manifest.files]
        if missing:
            raise CorruptSaveError("the manifest lists a node without its files", node=prefix, file=missing[0])
    return keys


def _bytes_of(store: Store, name: str) -> bytes:
    with _read_errors(name), store.reader(name) as file:
        return file.read()
