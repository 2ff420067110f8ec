"""Reseal: write a new manifest for a hand-edited save, once all of it is found readable."""

from __future__ import annotations

import hashlib
import os
from typing import Any, NamedTuple

from flambe_save.asking import errors_with_findings
from flambe_save.classes.tags import TAGS, written_path
from flambe_save.config.nodes import Document, parse, split_documents
from flambe_save.errors import (
    CorruptSaveError,
    FlambeSaveError,
    RegistrationError,
    SaveError,
    StateMismatchWarning,
    quote,
    warn,
)
from flambe_save.formats.directory import DIRECTORY
from flambe_save.formats.manifest import Manifest, find_ties, packages, tensor_facts
from flambe_save.formats.nodes import NodeReader
from flambe_save.formats.plan import FileStats
from flambe_save.layout import CARD_FILES, CONFIG_FILE, MANIFEST_FILE, STASH_FILE, STATE_FILE
from flambe_save.objects.values import BY_TAG
from flambe_save.pt import LoadOptions, open_source, pieces_of
from flambe_save.reading import reading
from flambe_save.schema.own_names import NAMING_TAGS
from flambe_save.schema.questions import contradiction
from flambe_save.state import split_key
from flambe_save.storage import FileStore, FolderStore, Store, check_outside, local_path, open_store
from flambe_save.support.checksum import crc32
from flambe_save.support.undoing import takes_back
from flambe_save.tree import join_prefix
from flambe_save.trust import Limits, Trust


class Edited(NamedTuple):
    """A file of a save that differs from its manifest's entry.

    Attributes
    ----------
    node : str or None
        Dotted prefix of its component; ``""`` is the root, None where the file is of no one component.
    file : str
        The file inside the save.
    change : {"changed", "added", "removed"}
    """

    node: str | None
    file: str
    change: str


@takes_back
def reseal(path: str | os.PathLike[str], *, dry_run: bool = False, limits: Limits | None = None) -> list[Edited]:
    """Write a new manifest for a hand-edited folder, which then loads without complaint.

    The save is first read as a load reads it: every config has to parse, and every state has to be readable data. No
    class of it is built. Only ``manifest.json`` is written, in one step.

    Parameters
    ----------
    path : str or path
        A whole save in a folder.
    dry_run : bool
        Whether only to list the changes.
    limits : Limits, optional
        As :func:`load`.

    Returns
    -------
    list of Edited
        ``(node, file, change)`` for each file that differs from the saved one; if there is none, nothing is written.

    Raises
    ------
    CorruptSaveError, ConfigError
        If a file cannot be read: the error names it, and the manifest stays as it was.
    SaveError
        If it is not a folder, is a part of a save, or cannot be written.

    Warns
    -----
    StateMismatchWarning
        If the config of a component contradicts the one around it, from which the whole is built.
    """
    where = local_path(path, SaveError)
    check_outside(where)

    def attempt() -> tuple[list[Edited], Manifest]:
        with open_store(where, limits) as store:
            if not isinstance(store, FolderStore):
                raise SaveError(
                    f"{where!r} is one file, and only a folder is edited by hand",
                    file=where,
                    fix="Unpack it first: flambe-save unpack, or flambe-save convert PATH OUT.",
                )
            return _resealed(store, where, LoadOptions(Trust.of(limits=limits).audit(), "cpu", is_mapped=True))

    with errors_with_findings(path, name="reseal"):
        edited, manifest = reading(attempt, where)
    if edited and not dry_run:
        data = manifest.to_json()
        try:
            with (
                FileStore(os.path.join(where, MANIFEST_FILE), "w", overwrite=True, durable=True) as target,
                target.writer("", len(data)) as file,
            ):
                file.write(data)
        except OSError as error:
            if isinstance(error, FlambeSaveError):
                raise
            raise SaveError(f"the manifest cannot be written: {error.strerror or error}", file=where) from error
    return edited


def _resealed(store: Store, where: str, options: LoadOptions) -> tuple[list[Edited], Manifest]:
    """Read all of a save; return the changes, and the manifest that lists them."""
    names = [name for name in store.names() if name not in CARD_FILES]
    before = _manifest_of(store, names)
    if before is None and MANIFEST_FILE not in names and not DIRECTORY.sniff(names):
        raise SaveError(
            f"{where!r} is not a save", file=where, fix="Name the folder that holds the root's config.yaml."
        )
    known = Manifest() if before is None else before
    reader = NodeReader(store, None, options)
    keys = reader.keys_of([name for name in names if name != MANIFEST_FILE])
    facts = {
        name: _facts_of(store, name, is_digested=known.digest is not None) for name in names if name != MANIFEST_FILE
    }
    made = Manifest(reader.protocol("", ""), known.writer, dict(known.packages), dict(known.tags))
    made.add_files(facts)
    edited = [
        Edited(keys.get(name[: name.rfind("/") + 1]), name, change)
        for name in sorted({*facts, *known.files})
        if (change := _change(name, known, made)) is not None
    ]
    changed = {row.file for row in edited}
    values: dict[str, Any] = {}
    configs: dict[str, Document] = {}
    for folder, prefix in keys.items():
        node = reader.node(folder, prefix)
        made.nodes[prefix] = {
            "folder": folder.rstrip("/"),
            "class": node.class_name,
            "version": node.version,
            "tensors": tensor_facts(node.state),
        }
        dict(node.object_stash)  # reads it
        values.update((join_prefix(prefix, key), value) for key, value in node.state.items())
        if node.config.strip():
            configs[prefix] = _config_of(node.config, made.tags, prefix, folder)
        for name in (folder + STATE_FILE, folder + STASH_FILE):
            if name in changed:
                made.needs_trust += [f"{name}: {what}" for what in reader.outline(name, prefix).needs_trust]
            else:
                made.needs_trust += [row for row in known.needs_trust if row.startswith(f"{name}: ")]
    made.tags = dict(sorted(made.tags.items()))
    if before is None:
        made.ties = find_ties(values.items())
    else:
        made.ties = [group for group in before.ties if all(key in values for key in group)]
    made.packages = made.packages or packages(made.tags.values())
    _warn_of_contradictions(configs)
    if before is None:
        edited.append(Edited(None, MANIFEST_FILE, "added"))
    return edited, made


def _manifest_of(store: Store, names: list[str]) -> Manifest | None:
    """Return the present manifest; None if none can be read, and all is then listed anew."""
    if MANIFEST_FILE not in names:
        return None
    with store.reader(MANIFEST_FILE) as file:
        try:
            return Manifest.from_json(file.read())
        except CorruptSaveError:
            return None


def _facts_of(store: Store, name: str, *, is_digested: bool) -> FileStats:
    digest, checksum, size = hashlib.sha256(), 0, 0
    with store.reader(name) as file:
        for piece in pieces_of(open_source(file, mapped=True)):
            checksum = crc32(piece, checksum)
            size += len(piece)
            if is_digested:
                digest.update(piece)
    return FileStats(size, checksum, digest.hexdigest() if is_digested else None)


def _change(name: str, before: Manifest, now: Manifest) -> str | None:
    if name not in before.files:
        return "added"
    if name not in now.files:
        return "removed"
    one, other = before.files[name], now.files[name]
    return "changed" if (one["bytes"], one["crc32"]) != (other["bytes"], other["crc32"]) else None


def _config_of(text: str, tags: dict[str, str], prefix: str, folder: str) -> Document:
    """Parse a config, and add the meaning of its new tags, if their classes are imported."""
    try:
        _, document = split_documents(parse(text))
        for tag in document.tags:
            if tag not in tags and tag not in BY_TAG and tag not in NAMING_TAGS:
                try:
                    cls, _ = TAGS.resolve(tag, None, lambda name: True)
                except RegistrationError:
                    continue  # the program that loads it may know it
                tags[tag] = written_path(cls)
    except FlambeSaveError as error:
        error.locate(node=prefix, file=folder + CONFIG_FILE)
        raise
    return document


def _warn_of_contradictions(configs: dict[str, Document]) -> None:
    whole = configs.get("")
    known: dict[int, dict[str, Any]] = {}
    for prefix, part in configs.items() if whole is not None else ():
        difference = contradiction(whole, split_key(prefix), part, known) if whole is not None and prefix else None
        if difference is not None:
            warn(
                f"the config of node {quote(prefix)} contradicts the one around it, at {quote(difference)}: the whole "
                "is built from the one around it, and the part alone from its own. Make the same edit in both",
                StateMismatchWarning,
            )
