"""Containers: convert a save to the container that the output's name ends in.

If both hold the same files, these are copied (copying.py); otherwise the state goes from one to the other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import dill
import torch

from flambe_save.adapters import get_state
from flambe_save.asking import errors_with_findings
from flambe_save.conversion.copying import Folders, copy_save
from flambe_save.conversion.state_json import Content, content_of, draft_of
from flambe_save.conversion.tensor_files import TensorFile, is_tensor_file
from flambe_save.errors import SaveError, SaveNotFoundError
from flambe_save.formats import Plan, format_of
from flambe_save.formats.manifest import HAS_MANIFEST
from flambe_save.layout import (
    ARCHIVE_SUFFIX,
    PICKLE_SUFFIX,
    REQUIREMENTS_FILE,
    STASH_KEY,
    TAGS_KEY,
    TENSORS_SUFFIX,
    is_torch,
)
from flambe_save.pt import Draft, DumpOptions, LoadOptions, PickleModule, open_source
from flambe_save.reading import read, reading
from flambe_save.registry import CODECS, FORMATS
from flambe_save.running import wait_for
from flambe_save.saving import Saving
from flambe_save.state import State
from flambe_save.storage import FileStore, Store, open_store
from flambe_save.support.parallel import default_threads
from flambe_save.support.progress import NO_PROGRESS, Progress, ShowProgress, progress_of
from flambe_save.support.undoing import takes_back
from flambe_save.tree import state_from_tree, tree_from_state
from flambe_save.trust import Limits, Trust
from flambe_save.writing import Target, check_level, final_path, write_plan

_OTHER_SUFFIXES = (".tgz", ".tar", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
# Endings of files that are not written here; any other, as in model.encoder or run.1, is part of a folder's name
_FOREIGN = (
    "onnx h5 hdf5 keras pb tflite gguf ggml npy npz mlmodel msgpack mar nemo ptl torchscript engine trt joblib pickle "
    "dill mat zarr lmdb tfrecord parquet arrow feather csv tsv txt md rst log json jsonl yaml yml toml ini xml html "
    "htm pdf png jpg jpeg svg gif py ipynb db sqlite gz bz2 xz zst 7z rar whl so bin exe doc docx xls xlsx"
)
_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


@takes_back
def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    level: int | None = None,
    weights_only: bool = True,
    trusted: Iterable[str] = (),
    pickle_module: PickleModule = dill,
    limits: Limits | None = None,
    progress: ShowProgress = False,
) -> str:
    """Write a save, or a file of tensors, as another container; no object is built.

    A save is converted without loss between a folder, an archive and, if it is data without a stash, a ``.safetensors``
    file. A pickle does not list the installed packages. Tensors of other devices are on the CPU afterwards, except
    where files are copied: between a folder and an archive, or two archives.

    Parameters
    ----------
    path : str or path
        A save in any container, or a folder inside one; a ``.safetensors`` file, or one that ``torch.save`` wrote; its
        content says which. A flat mapping of names to tensors that is not a save is kept as
        :func:`flambe_save.save_state_to_file` would keep it, any other value as :func:`flambe_save.save` would.
    out : str or path
        Ends in ``.tar.gz``, ``.pkl``, ``.pkl.tar.gz`` or ``.safetensors``; with any other name it is a folder, unless
        that is the ending of another kind of file, such as ``.onnx``, and no slash is behind it.
    overwrite : bool
        Whether a save that is there is replaced, in one step.
    level : int, optional
        Of an archive's compression, as of :func:`flambe_save.save`.
    weights_only, trusted, pickle_module
        As of :func:`flambe_save.load`, for values that are more than data. Not needed where files are copied.
    limits : Limits, optional
        As of :func:`flambe_save.load`.
    progress : bool or callable
        As of :func:`flambe_save.save`.

    Returns
    -------
    str
        The path of the new save.

    Raises
    ------
    TargetExistsError
        If something is there already.
    UnsupportedObjectError
        If a ``.safetensors`` file cannot hold it: a stash, values that are neither tensors nor plain data. The error
        names the node.
    UntrustedError
        If it holds more than data, and that has to be read.
    CorruptSaveError
        If it is damaged.
    SaveError, LoadError
        If it cannot be written, or read. Nothing is left behind, whatever the error.

    Warns
    -----
    NeedsTrustWarning
        If a save was written anew that holds more than data.
    """
    where = os.fspath(path)
    trust = Trust.of(weights_only, trusted, limits=limits)
    target = target_of(out, overwrite, level)
    meter = progress_of(progress, "Converting")
    with errors_with_findings(path, trust=trust, name="convert"):
        if not is_tensors(target.path) and reading(lambda: has_same_files(path, target, limits), where):
            return reading(lambda: copy_save(path, target, limits=limits, progress=meter), where)
        options = LoadOptions(trust, "cpu", pickle_module, is_mapped=True)
        content = reading(lambda: content_at(path, options), where)
        return write_content(content, target, pickle_module, meter)


def target_of(out: str | os.PathLike[str], overwrite: bool, level: int | None) -> Target:
    """Return the place and format of a new save, from the output's name.

    Raises
    ------
    SaveError
        If the name or the level is not one that can be written.
    """
    final = final_path(out, False, False)
    is_folder = os.fspath(out).endswith(("/", os.sep))
    if final.endswith(_TORCH_SUFFIXES):
        raise SaveError(
            f"{final!r} would be a file of torch.save, and none is written here",
            file=final,
            fix="Name a .safetensors file, a .pkl, a .tar.gz or a folder; a folder has a state.pt for each component.",
        )
    if final.endswith(_OTHER_SUFFIXES):
        raise SaveError(
            f"{final!r} has the name of an archive of another kind",
            file=final,
            fix=f"Name a {ARCHIVE_SUFFIX} or a folder.",
        )
    is_archive = final.endswith(ARCHIVE_SUFFIX)
    is_known = is_archive or is_tensors(final) or final.endswith(PICKLE_SUFFIX)
    ending = os.path.splitext(final)[1]
    if ending[1:].lower() in _FOREIGN.split() and not (is_known or is_folder):
        raise SaveError(
            f"{final!r} has the ending of a kind of file that is not written here: {ending!r}",
            file=final,
            fix=f"Known are {ARCHIVE_SUFFIX}, {PICKLE_SUFFIX}, {PICKLE_SUFFIX}{ARCHIVE_SUFFIX} and {TENSORS_SUFFIX}; "
            f"any other name is a folder. For a folder of that name, end it with a slash: {final + '/'!r}.",
        )
    check_level(level, is_archive=is_archive)
    is_single = is_tensors(final) or final.removesuffix(ARCHIVE_SUFFIX).endswith(PICKLE_SUFFIX)
    return Target(final, is_archive, is_single, overwrite, level=level)


def is_tensors(path: str) -> bool:
    """Whether a path is that of a safetensors file, by its name."""
    return path.endswith(TENSORS_SUFFIX)


def has_same_files(path: str | os.PathLike[str], target: Target, limits: Limits | None) -> bool:
    """Whether a save at a path has the files that the target needs, so that they can be copied."""
    with open_store(path, limits) as store:
        if isinstance(store, FileStore) and _sniffed(store, os.fspath(path)) is not None:
            return False
        found = format_of(store, os.fspath(path))
    return found is FORMATS["pickle" if target.is_single else "directory"]


def _sniffed(store: FileStore, path: str) -> str | None:
    """Return ``"tensors"`` or ``"torch"`` for a file of these by its first bytes; else None."""
    with store.reader("") as file:
        start, size = file.read(200), file.seek(0, os.SEEK_END)
    if is_torch(start):
        return "torch"
    if is_tensor_file(start, size, path):
        return "tensors"
    return None


# ------------------------------------------------------------------------------------------------ reading


def content_at(path: str | os.PathLike[str], options: LoadOptions, node: str = "") -> Content:
    """Read a save, a file, or a component of a save; tensors may share the file's memory.

    Raises
    ------
    LoadError
        If it cannot be read, is damaged, or asks for trust.
    UnsupportedObjectError
        If it is a value that no save can hold.
    """
    where = os.fspath(path)
    limits = options.trust.limits
    with open_store(path, limits) as store:
        kind = _sniffed(store, where) if isinstance(store, FileStore) else None
        if kind is not None:
            with store.reader("") as file:
                held = open_source(file, mapped=True, threads=options.threads)
                if kind == "torch":
                    return _part_of(_content_of_value(CODECS["pt"].load(held, options)), node, where)
                tensors = TensorFile(held, where)
                return _part_of(content_of(tensors) or Content(State(tensors.tensors())), node, where)
        is_folders = format_of(store, where) is FORMATS["directory"]
    saved = read(path, node, options)
    state = state_from_tree(saved.tree)
    for prefix in state.components:
        if STASH_KEY in state._metadata[prefix]:
            dict(state._metadata[prefix][STASH_KEY])  # opens it, which may need trust
    requirements = None
    if is_folders:
        with contextlib.ExitStack() as closing:
            requirements = _requirements_of(Folders.opened(path, options, closing))
    return Content(state, saved.packages, requirements, saved.digest)


def _part_of(content: Content, node: str, where: str) -> Content:
    if not node:
        return content
    tree = tree_from_state(content.state)
    part = tree.find(node)
    if part is None:
        raise SaveNotFoundError(f"the save has no node {node!r}", file=where)
    tags = tree.state._metadata[""].get(TAGS_KEY)
    if tags is not None:
        part.state._metadata[""].setdefault(TAGS_KEY, tags)
    return replace(content, state=state_from_tree(part))


def _requirements_of(folders: Folders) -> str | None:
    """Return the packages that were installed when a save was written; None if it lists none."""
    store: Store = folders.store
    if REQUIREMENTS_FILE not in store.names():
        return None
    folders.reader.check(REQUIREMENTS_FILE, None)
    with store.reader(REQUIREMENTS_FILE) as file:
        text = file.read().decode()
    return text if text.startswith(HAS_MANIFEST) else f"{HAS_MANIFEST}\n{text}"  # Flambe's


def _content_of_value(value: Any) -> Content:
    """Return a torch file's content as a save would hold it: named tensors become a state."""
    if not _is_flat(value):
        return Content(get_state(value))
    state = State(value)
    metadata = getattr(value, "_metadata", None)
    for prefix, local in metadata.items() if isinstance(metadata, dict) else ():
        if isinstance(prefix, str) and isinstance(local, dict):
            facts = {key: item for key, item in local.items() if not str(key).startswith("_flambe_")}
            state._metadata[prefix] = facts
    return Content(state)


def _is_flat(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) for key in value)
        and all(isinstance(item, torch.Tensor) for item in value.values())
    )


# ------------------------------------------------------------------------------------------------ writing


def write_content(
    content: Content, target: Target, pickle_module: PickleModule, progress: Progress = NO_PROGRESS
) -> str:
    """Write a state and its metadata in the target's container; return its path.

    Raises
    ------
    UnsupportedObjectError
        If it cannot hold it.
    SaveError
        If it cannot be written.
    """
    if is_tensors(target.path):
        return write_draft(draft_of(content), target, progress)
    requirements, packages = content.requirements, content.packages or None
    options = DumpOptions(pickle_module, 2, content.digest, requirements, packages, default_threads(), progress)
    return Saving(content.state, target, options).write_now()


def write_draft(draft: Draft, target: Target, progress: Progress = NO_PROGRESS) -> str:
    """Write a single file; return its path."""
    wait_for(target.path)
    return write_plan(Plan({"": draft}), target, default_threads(), progress)
