"""Save and load objects and states: the public functions.

save   object --get_state--> State --tree_from_state--> SaveTreeNode --Format.write--> Store
load   Store --Format.read--> SaveTreeNode --Trust--> Schema --> object <--load_state-- State
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import dill

from flambe_save.asking import audit, errors_with_findings
from flambe_save.background import start
from flambe_save.errors import Finding, LoadError, UnsupportedObjectError
from flambe_save.loading import load_object
from flambe_save.pt import LoadOptions, MapLocation, PickleModule
from flambe_save.reading import read
from flambe_save.saving import Saving, dump_options
from flambe_save.state import State
from flambe_save.support.parallel import check_threads
from flambe_save.support.progress import ShowProgress, progress_of
from flambe_save.support.undoing import takes_back
from flambe_save.tree import state_from_tree
from flambe_save.trust import Limits, Trust, check_switches
from flambe_save.writing import Target

__all__ = [
    "load",
    "load_state_from_file",
    "save",
    "save_async",
    "save_state_to_file",
    "untrusted",
]


@takes_back
def save(
    obj: Any,
    path: str | os.PathLike[str],
    compress: bool = False,
    pickle_only: bool = False,
    overwrite: bool = False,
    pickle_module: PickleModule = dill,
    pickle_protocol: int = 2,
    *,
    durable: bool = False,
    digest: str | None = None,
    base: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    level: int | None = None,
    format: str | None = None,
    progress: ShowProgress = False,
    build: bool = True,
    check: bool = False,
) -> str:
    """Save an object as a folder that can be opened by hand; :func:`load` is the inverse.

    Parameters
    ----------
    obj : object
        Anything: modules, optimizers, containers of these and of tensors; docs/kinds.md says how each kind is kept.
    path : str or path
        Where. ``.pkl`` and ``.tar.gz`` are appended where they apply and the path does not end so. ``file:///path`` is
        that path; any other URL is refused.
    compress : bool
        A .tar.gz.
    pickle_only : bool
        One pickle, in place of folders.
    overwrite : bool
        Whether a save that is there is replaced. Until the new one is complete, the old one stays.
    pickle_module : module
        Pickles what is more than data; ``dump`` and ``Pickler``, as pickle and dill have them.
    pickle_protocol : int
    durable : bool
        Whether to return only when the save is on the disk, so that it outlives a power cut. A save that replaces
        another always is, before the old one goes.
    digest : {"sha256"}, optional
        A digest to note for each file in the manifest, to sign it or to find it by content.
    base : str or path, optional
        An earlier save: a whole one, in a folder. Tensors of components that are the same to the byte are not written
        again: their files become hard links to those of the base, where the disk can do that; archives and pickles are
        written as without, and files of less than 4 KiB too. Each save is complete by itself, and either may be deleted
        once this one is written. A base that is still being written in the background is waited for.
    threads : int, optional
        How many threads write at once; by default as many as there are cores, up to four.
    level : int, optional
        With ``compress``: 0 stores, which is quickest, 1 is fast, 9 is small; the default suits weights, which a higher
        level hardly makes smaller. Where isal is installed (the extra ``fast``) its three levels stand for 1 to 3, 4 to
        6, and 7 to 9.
    format : str, optional
        The name of the format, of those that are registered: ``"directory"`` by default, or ``"pickle"`` with
        ``pickle_only``. Other packages add theirs by entry points of the group ``flambe_save.formats``.
    progress : bool or callable
        True shows a bar on the standard error output, where that is a terminal. A callable is called as
        ``progress(done, total)``, with bytes of the files before they are packed: by one thread at a time, though not
        always this one, with ``done`` never less than before and equal to ``total`` at last, just before the save is
        committed. Its errors end the save and are raised unchanged, and nothing is left behind. A file that is linked
        counts when that is done.
    build : bool
        Whether to write how the object is built. False writes what a resume needs alone: states and plain values, no
        pickle of anything. :func:`load_state` fills an object from it that you built; :func:`load` refuses it.
    check : bool
        Whether a fresh process loads what was written, before it takes its place at the path, and compares structure,
        tensors to the bit and plain values. It imports the modules of the classes; of the script that runs, it takes
        what that defines, and runs none of the rest. Costs seconds, and the object's memory once more: for the first
        save of a run.

    Returns
    -------
    str
        The path of the save.

    Raises
    ------
    TargetExistsError
        If something is there already.
    UnsupportedObjectError
        If the object, or a part of it, cannot be represented; with ``build=False``, if its state is more than data.
    SaveError
        If it cannot be written, or ``check`` does not get back what was saved. Nothing is left behind, and a save that
        was there stays.
    LoadError
        If the base is damaged, or no save. Nothing is written.

    Warns
    -----
    NeedsTrustWarning
        If the save holds more than data, so that a default load will refuse that part.
    """
    target = Target.of(path, compress, pickle_only, overwrite, durable, base, level, format)
    options = dump_options(pickle_module, pickle_protocol, digest, threads, progress)
    return Saving.of_object(obj, target, options, build=build, check=check).write_now()


@takes_back
def save_state_to_file(
    state: Mapping[str, Any],
    path: str | os.PathLike[str],
    compress: bool = False,
    pickle_only: bool = False,
    overwrite: bool = False,
    pickle_module: PickleModule = dill,
    pickle_protocol: int = 2,
    *,
    durable: bool = False,
    digest: str | None = None,
    base: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    level: int | None = None,
    format: str | None = None,
    progress: ShowProgress = False,
) -> str:
    """Save a State, or a bare ``state_dict``; :func:`load_state_from_file` is the inverse.

    Parameters, returns, errors and warnings are those of :func:`save`.
    """
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise UnsupportedObjectError(f"a state maps keys, which are texts, to values; this is a {type(state).__name__}")
    target = Target.of(path, compress, pickle_only, overwrite, durable, base, level, format)
    options = dump_options(pickle_module, pickle_protocol, digest, threads, progress)
    return Saving(state, target, options).write_now()


def save_async(
    obj: Any,
    path: str | os.PathLike[str],
    compress: bool = False,
    pickle_only: bool = False,
    overwrite: bool = False,
    pickle_module: PickleModule = dill,
    pickle_protocol: int = 2,
    *,
    durable: bool = False,
    digest: str | None = None,
    base: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    level: int | None = None,
    format: str | None = None,
    progress: ShowProgress = False,
    keep_memory: bool = True,
    build: bool = True,
    check: bool = False,
) -> Future[str]:
    """Save an object in the background, as it is now: training can go on at once, and what it changes is not saved.

    The call returns when the tensors are copied and everything else is pickled. Two saves are in the background at
    most: another one waits for the first of them. Any save to the same path, or based on it, waits for this one; so
    does the end of the program. A load does not: ``.result()`` tells when there is something to load.

    Parameters
    ----------
    keep_memory : bool
        Whether the memory of the copy is kept for the next one, which is made faster then: as much as the object's
        tensors take. A call with False lets go of it when its save is done.
    obj, path, compress, pickle_only, overwrite, pickle_module, pickle_protocol, durable, digest, base, threads, level,
    format
        As :func:`save`; so ``build`` and ``check``.
    progress : bool or callable
        As :func:`save`, of what is written in the background, from there. What a callable raises is raised by
        ``.result()``.

    Returns
    -------
    concurrent.futures.Future of str
        ``.result()`` waits for the save and returns its absolute path, or raises what :func:`save` raises while it
        writes; that is logged as an error as well.

    Raises
    ------
    UnsupportedObjectError
        If the object, or a part of it, cannot be represented.
    SaveError
        If there is not enough memory for the copy.

    Warns
    -----
    NeedsTrustWarning
        As :func:`save`.
    """
    check_switches(keep_memory=keep_memory)
    target = Target.of(path, compress, pickle_only, overwrite, durable, base, level, format)
    options = dump_options(pickle_module, pickle_protocol, digest, threads, progress)
    saving = Saving.of_object(obj, target, options, build=build, check=check)
    saving.warn_needs_trust()
    return start(saving, keep_memory=keep_memory)


@takes_back
def load(
    path: str | os.PathLike[str],
    map_location: MapLocation = None,
    auto_install: bool | Iterable[str] = False,
    pickle_module: PickleModule = dill,
    *,
    node: str = "",
    weights_only: bool = True,
    trusted: Iterable[str] = (),
    use_saved_source: bool = False,
    limits: Limits | None = None,
    strict: bool = True,
    mmap: bool = False,
    verify: bool = True,
    threads: int | None = None,
    progress: ShowProgress = False,
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """Load an object: build it from its config, then give it its state. Inverse of :func:`save`.

    By default nothing of the save is run: data is read, and only classes that this program has imported are built.

    Parameters
    ----------
    path : str or path
        A save, or any folder inside one.
    map_location : str, torch.device, mapping or callable, optional
        Where the object shall be, as in :func:`torch.load`: all its parameters, buffers, registered and stashed
        tensors. By default, where they were when they were saved.
    auto_install : bool or list of str
        Whether extensions that the config names are installed with pip, and imported. True installs what it names by a
        package's name and versions alone. A path, a URL or an option of pip has to stand in a list here, word for word;
        then just what is listed is installed.
    pickle_module : module
        Unpickles, with ``weights_only=False``, what is more than data.
    node : str
        The dotted key of a component inside the save, to load that alone; of a module, as ``"model.layers.3"``,
        for which the component around it is built; or of a plain value in a dict, list, dataclass or plain object, as
        ``"epoch"``, for which nothing else is read.
    weights_only : bool
        False trusts the save with everything, as in torch.
    trusted : list of str
        Modules or ``module.Class`` names that may be imported and unpickled; :func:`untrusted` tells which are asked
        for.
    use_saved_source : bool
        Whether a class that no imported module has is made from the source code in the save. This runs that code.
    limits : Limits, optional
        How much an archive may unpack to, and constructors may allocate.
    strict : bool
        Whether keys that are missing, or that the object does not want, are an error; otherwise they are a warning.
    mmap : bool
        Whether tensors share memory with the files of a folder, in place of being read; archives and pickles are read.
        Other processes share that memory, and the system takes it back when it needs it. What is trained is copied
        page by page as it is first changed, which takes longer in all than reading; the files never change. Saves
        replace files, and so do no harm; who cuts a mapped file short in place ends the process (SIGBUS).
    verify : bool
        Whether the checksum of every file is compared. Without, what is mapped is read only when it is used.
    threads : int, optional
        How many threads read at once; by default as many as there are cores, up to four.
    progress : bool or callable
        Whom to tell how much is read, as :func:`save`; building the object comes after that. Files of a folder count
        while they are read, and mapped ones while their checksums are compared, or when they are mapped where none are.
        A .pkl counts as it is read, before it is unpickled, and an archive, by its packed bytes, as it is unpacked; of
        one whose ``node`` alone is read, the rest counts at the end. Where a save is replaced while it is read, what is
        read of the new one is added to ``total``.
    overrides : mapping of str to object, optional
        Values in place of those in the config: ``{"head.out_features": 5}``. Names that the config does not have are an
        error, which lists near ones. Without ``strict``, tensors whose sizes no longer fit stay as the constructor made
        them, and a warning lists them.

    Returns
    -------
    object
        As it was: modules train, and parameters are frozen, that did and were when they were saved. A save by Flambe
        does not say; there it is as constructors leave it.

    Raises
    ------
    LoadError
        SaveNotFoundError, UnknownFormatError, CorruptSaveError, ProtocolError, UntrustedError, LimitError,
        MissingExtensionError, VersionMismatchError and StateMismatchError say which. Where trust is what is missing,
        ``rows`` of the error are those of :func:`untrusted`.
    ConfigError
        If the config cannot be understood, or no longer fits the classes.

    Warns
    -----
    SourceChangedWarning, VersionMismatchWarning
        If a class changed since the save.
    PackageVersionWarning
        If the major or minor version of a package did that the manifest lists.
    """
    check_switches(strict=strict, mmap=mmap, verify=verify)
    trust = Trust.of(weights_only, trusted, auto_install, use_saved_source, limits)
    with errors_with_findings(path, node, trust):
        count = check_threads(threads, LoadError)
        meter = progress_of(progress, "Loading")
        options = LoadOptions(
            trust, map_location, pickle_module, is_mapped=mmap, is_verified=verify, threads=count, progress=meter
        )
        return load_object(path, node, options, strict=strict, overrides=overrides or {})


@takes_back
def load_state_from_file(
    path: str | os.PathLike[str],
    map_location: MapLocation = None,
    pickle_module: PickleModule = dill,
    *,
    node: str = "",
    weights_only: bool = True,
    trusted: Iterable[str] = (),
    limits: Limits | None = None,
    mmap: bool = False,
    verify: bool = True,
    threads: int | None = None,
    progress: ShowProgress = False,
    **pickle_load_args: Any,
) -> State:
    """Load a State, building no object; parameters and errors as :func:`load`.

    Parameters
    ----------
    **pickle_load_args
        Further arguments of the Unpickler, such as ``encoding``.

    Returns
    -------
    State
        Values by dotted keys. Its metadata holds each component's class, version, source, config and stash; a stash is
        opened, and asks for trust, when it is looked into.
    """
    check_switches(mmap=mmap, verify=verify)
    trust = Trust.of(weights_only, trusted, limits=limits)
    count = check_threads(threads, LoadError)
    meter = progress_of(progress, "Loading")
    options = LoadOptions(
        trust, map_location, pickle_module, pickle_load_args, mmap, verify, threads=count, progress=meter
    )
    with errors_with_findings(path, node, trust), meter:
        return state_from_tree(read(path, node, options).tree)


@takes_back
def untrusted(path: str | os.PathLike[str], *, node: str = "", limits: Limits | None = None) -> list[Finding]:
    """List what a save asks for beyond data and imported classes; nothing of it is run, imported or installed.

    Parameters
    ----------
    path, node, limits
        As :func:`load`.

    Returns
    -------
    list of Finding
        ``(node, file, what, argument)``: pickled globals, modules and extensions to import, classes that are not
        imported, calls; and the argument of :func:`load` that would allow each. Empty for a save that a default load
        opens.

    Raises
    ------
    LoadError, ConfigError
        If the save cannot be read.
    """
    return audit(path, node, Trust.of(limits=limits))
