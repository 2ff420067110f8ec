"""Extract a component of a save as a save of its own, or a tensor of its state as a file."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Collection, Iterable
from typing import Any

import dill
import torch

from flambe_save.asking import errors_with_findings
from flambe_save.conversion.containers import (
    content_at,
    has_same_files,
    is_tensors,
    target_of,
    write_content,
    write_draft,
)
from flambe_save.conversion.copying import Folders, copy_save
from flambe_save.conversion.tensor_files import FORMAT, npy_draft, safetensors_draft
from flambe_save.errors import SaveError, SaveNotFoundError, quote_some
from flambe_save.pt import LoadOptions, PickleModule
from flambe_save.reading import reading
from flambe_save.state import State
from flambe_save.support.progress import ShowProgress, progress_of
from flambe_save.support.undoing import takes_back
from flambe_save.tree import join_prefix, place_key
from flambe_save.trust import Limits, Trust
from flambe_save.writing import Target, final_path

_NPY_SUFFIX = ".npy"
_NEAR = 8  # names that an error lists


@takes_back
def extract(
    path: str | os.PathLike[str],
    node: str,
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
    """Write a component of a save as a save of its own, or one tensor of it as a file.

    From folders and archives to these, files are copied unchanged, and nothing needs trust. The result loads to what
    ``load(path, node=node)`` returns.

    Parameters
    ----------
    path : str or path
        A save, or a folder inside one.
    node : str
        The dotted key of a component, or of a tensor in the state.
    out : str or path
        For a component as for :func:`convert`; for a tensor it ends in ``.npy`` or ``.safetensors``.
    overwrite : bool
        Whether a save that is there is replaced, in one step.
    level, weights_only, trusted, pickle_module, limits, progress
        As of :func:`convert`.

    Returns
    -------
    str
        The path of the new save or file.

    Raises
    ------
    SaveNotFoundError
        If there is no such component and no such tensor; the error lists names that are near.
    UnsupportedObjectError
        If a file of tensors cannot hold it.
    SaveError
        If the output's name does not fit its content, or it cannot be written. Nothing is left behind.
    TargetExistsError
        If something is there already.
    LoadError
        As :func:`convert`.
    """
    where = os.fspath(path)
    trust = Trust.of(weights_only, trusted, limits=limits)
    options = LoadOptions(trust, "cpu", pickle_module, is_mapped=True)
    final = final_path(out, False, False)
    meter = progress_of(progress, "Extracting")
    with errors_with_findings(path, trust=trust, name="extract"):
        tensor = reading(lambda: _find(path, node, final, options), where)
        if tensor is not None:
            draft = safetensors_draft({node: tensor}, FORMAT) if is_tensors(final) else npy_draft(tensor)
            return write_draft(draft, Target(final, is_single=True, overwrite=overwrite), meter)
        if final.endswith(_NPY_SUFFIX):
            raise SaveError(
                f"{node!r} is a component, and {final!r} the name of a file for one tensor",
                file=final,
                fix="Name a folder, a .tar.gz, a .pkl or a .safetensors file.",
            )
        target = target_of(out, overwrite, level)
        if not target.is_single and reading(lambda: has_same_files(path, target, limits), where):
            return reading(lambda: copy_save(path, target, node=node, limits=limits, progress=meter), where)
        return write_content(reading(lambda: content_at(path, options, node), where), target, pickle_module, meter)


def _find(path: str | os.PathLike[str], node: str, final: str, options: LoadOptions) -> torch.Tensor | None:
    """Return the tensor of a name, or None for a component.

    Raises
    ------
    SaveNotFoundError
        If neither has that name.
    SaveError
        If the output is not named as a file for one tensor.
    """
    limits = options.trust.limits
    if not has_same_files(path, Target(""), limits):
        state = content_at(path, options).state
        components = set(state.components) | {""}
        return None if node in components else _tensor_in(state, node, node, components, final)
    with contextlib.ExitStack() as source:
        folders = Folders.opened(path, options, source)
        if folders.folder_of(node) is not None:
            return None
        begin = f"{folders.prefix}." if folders.prefix else ""
        inside = [prefix for prefix in folders.keys.values() if prefix == folders.prefix or prefix.startswith(begin)]
        prefixes = {prefix[len(begin) :] for prefix in inside}
        owner, key = place_key(node, prefixes)
        folder = folders.folder_of(owner)
        assert folder is not None, "the prefixes are those of folders"
        prefix = folders.keys[folder]
        if folders.manifest is not None:  # so that no state is read for a tensor that is not in it
            listed = folders.manifest.nodes.get(prefix, {}).get("tensors", {})
            if key not in listed:
                raise _not_found(node, [join_prefix(owner, name) for name in listed], prefixes)
        folders.warn_if_unchecked()
        return _tensor_in(folders.reader.node(folder, prefix).state, key, node, prefixes, final)


def _tensor_in(state: State, key: str, node: str, prefixes: Collection[str], final: str) -> torch.Tensor:
    value: Any = state.get(key)
    if not isinstance(value, torch.Tensor):
        begin = node.removesuffix(key)
        raise _not_found(node, [f"{begin}{name}" for name in state if isinstance(state[name], torch.Tensor)], prefixes)
    if not (is_tensors(final) or final.endswith(_NPY_SUFFIX)):
        raise SaveError(
            f"{node!r} is one tensor, and {final!r} is not the name of a file for one",
            file=final,
            fix="Name an output that ends in .npy or .safetensors.",
        )
    return value.detach()


def _not_found(node: str, names: Iterable[str], prefixes: Iterable[str]) -> SaveNotFoundError:
    every = [*filter(None, prefixes), *names]
    near = difflib.get_close_matches(node, every, n=_NEAR, cutoff=0.4) or every[:_NEAR]
    return SaveNotFoundError(
        f"the save has no component and no tensor {node!r}",
        node=node,
        fix=f"Near to it are: {quote_some(near, _NEAR)}." if near else "It has one component, and no tensors.",
    )
