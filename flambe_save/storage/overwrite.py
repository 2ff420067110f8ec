"""Check a target before a save replaces it: nothing but a save may be lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path

from flambe_save.errors import SaveError, TargetExistsError
from flambe_save.layout import CARD_FILES, NODE_FILES, PICKLE_SUFFIX, PROTOCOL_FILE, TENSORS_SUFFIX
from flambe_save.registry import FORMATS
from flambe_save.storage.filesystem import Folder, Kind

_GZIP_START = b"\x1f\x8b"
_PICKLE_START = b"\x80"
_TENSORS_START = b"\x93NUMPY"


def check_outside(path: str | os.PathLike[str]) -> None:
    """Refuse to write inside another save, which would then hold foreign files.

    Raises
    ------
    SaveError
    """
    folder = Path(os.path.abspath(path)).parent
    if (folder / PROTOCOL_FILE).is_file():
        raise SaveError(
            f"{str(folder)!r} is a save itself, and what is written into it would damage it",
            file=str(path),
            fix="Choose a path outside it; to change a part, load the whole, and save the whole.",
        )


def is_save_folder(folder: Path) -> bool:
    """Whether a folder is a save: it has a protocol number, or another format's names."""
    if (folder / PROTOCOL_FILE).is_file():
        return True
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return any(FORMATS[kind].sniff(names) for kind in FORMATS if kind != "directory")


def check_replaceable(path: str | os.PathLike[str], *, keeps_cards: bool = False) -> None:
    """Refuse to replace anything but a save.

    Parameters
    ----------
    path : path
    keeps_cards : bool
        Whether the new save keeps the files that hubs put beside a save's root (:func:`cards_at`).

    Raises
    ------
    TargetExistsError
        If a folder holds files that no save has, or a file is neither a pickle, an archive of a save, nor tensors.
    """
    target = Path(os.path.abspath(path))
    foreign = None
    if target.is_dir():
        foreign = _foreign_file(target, CARD_FILES if keeps_cards else ())
    elif target.is_file() and not _is_save(target):
        foreign = target.name
    if foreign is not None:
        raise TargetExistsError(
            f"{foreign!r} at {str(target)!r} is not part of a save, so overwrite=True does not remove it",
            file=str(target),
            fix="Choose another path, or move it elsewhere.",
        )


def cards_at(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """Return the files that hubs and people put beside the root of a save, by name."""
    found = {}
    for name in CARD_FILES:
        with contextlib.suppress(OSError):
            found[name] = Path(path, name).read_bytes()
    return found


def _foreign_file(path: Path, known: Collection[str] = ()) -> str | None:
    """Return a file in a folder that no save has; hidden ones are the system's."""
    with Folder(path) as folder:
        for name, kind in folder.walk(skip=lambda last: last.startswith(".")):
            if kind is Kind.FOLDER or name in known:
                continue
            last = name.rpartition("/")[2]
            if not any(last in FORMATS[name_of].file_names for name_of in FORMATS):  # plug-ins come last
                return name
    return None


def _is_save(path: Path) -> bool:
    """Whether a file begins as our pickles and archives do, or as files of tensors."""
    with open(path, "rb") as file:
        start = file.read(10)
    if not start.startswith(_GZIP_START):
        is_tensors = start.startswith(_TENSORS_START) or (start[8:9] == b"{" and path.name.endswith(TENSORS_SUFFIX))
        return start[:1] in (_PICKLE_START, b"") or is_tensors
    try:
        with tarfile.open(path, "r:gz") as archive:
            first = [member.name for member in itertools.islice(archive, 4)]
    except (tarfile.TarError, EOFError, OSError, zlib.error):
        return True  # a damaged archive may go
    return any(name.endswith(PICKLE_SUFFIX) or name.rpartition("/")[2] in NODE_FILES for name in first)
