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
from flambe_save.support.parallel import CollectionPaused, check_threads
from flambe_save.support.progress import ShowProgress, progress_of
from flambe_save.support.undoing import takes_back
from flambe_save.tree import state_from_tree
from flambe_save.trust import Limits, Trust, check_switches
from flambe_save.writing import Target


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
        ``.pkl`` and ``.tar.gz`` are appended where they apply and are missing. ``file:///path`` is that path; any other
        URL needs a store of its scheme.
    compress : bool
        Whether to write a .tar.gz.
    pickle_only : bool
        Whether to write one pickle in place of folders.
    overwrite : bool
        Whether to replace a save at the path. The old one stays until the new one is complete.
    pickle_module : module
        Pickles what is more than data; has ``dump`` and ``Pickler``, as pickle and dill.
    pickle_protocol : int
    durable : bool
        Whether to return only when the save is on the disk, so that it outlives a power cut. A save that replaces
        another always is, before the old one is removed.
    digest : {"sha256"}, optional
        A digest to note for each file in the manifest, to sign it or to find it by content.
    base : str or path, optional
        An earlier whole save in a folder. Files of tensors that are the same to the byte become hard links to those of
        the base, where the disk can do that. Archives, pickles and files of less than 4 KiB are written as without a
        base. Each save is complete by itself; either may be deleted once this one is written. A base that is still
        being written in the background is waited for.
    threads : int, optional
        How many threads write at once; by default as many as there are cores, up to four.
    level : int, optional
        With ``compress``: 0 stores, 1 is fast, 9 is small. The default suits weights, which higher levels hardly make
        smaller. Where isal is installed (the extra ``fast``) its three levels stand for 1 to 3, 4 to 6, and 7 to 9.
    format : str, optional
        A registered format: ``"directory"`` by default, ``"pickle"`` with ``pickle_only``. Other packages add theirs by
        entry points of the group ``flambe_save.formats``.
    progress : bool or callable
        True shows a bar on the standard error output, where that is a terminal. A callable is called as
        ``progress(done, total)``, with bytes before packing, by one thread at a time, though not always this one.
        ``done`` never falls, and is ``total`` just before the save is committed. Its errors end the save and are raised
        unchanged; nothing is left behind.
    build : bool
        Whether to write how the object is built. False writes states and plain values alone, and pickles nothing:
        :func:`load_state` fills an object that you built from it, and :func:`load` refuses it.
    check : bool
        Whether a fresh process loads the save before it is committed, and compares structure, plain values, and tensors
        to the bit. It imports the modules of the classes; of the script that runs, it runs the definitions alone. Costs
        seconds, and the object's memory once more: for the first save of a run.

    Returns
    -------
    str
        The path of the save.

    Raises
    ------
    TargetExistsError
        If there is something at the path.
    UnsupportedObjectError
        If the object, or a part of it, cannot be represented; with ``build=False``, if its state is more than data.
    SaveError
        If it cannot be written, or ``check`` does not get back what was saved. Nothing is left behind, and an earlier
        save at the path stays.
    LoadError
        If the base is damaged, or is not a save. Nothing is written.

    Warns
    -----
    NeedsTrustWarning
        If the save holds more than data, so that a default load will refuse that part.
    """
    target = Target.of(path, compress, pickle_only, overwrite, durable, base, level, format)
    options = dump_options(pickle_module, pickle_protocol, digest, threads, progress)
    with CollectionPaused():  # until all that the save made is freed: then there is nothing to go through
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
    """Save an object, as it is now, in the background.

    The call returns when the tensors are copied and everything else is pickled; later changes are not saved. At most
    two saves are in the background: a third waits for the first. Any save to the same path, or based on it, waits for
    this one; so does the end of the program. A load does not wait; call ``.result()`` first.

    Parameters
    ----------
    keep_memory : bool
        Whether the memory of the copy, as much as the object's tensors take, is kept to make the next copy faster.
        False frees it when this save is done.
    progress : bool or callable
        As :func:`save`, from the thread in the background. What a callable raises is raised by ``.result()``.
    others
        As :func:`save`.

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
        The device of all its tensors, as in :func:`torch.load`. By default, where they were when they were saved.
    auto_install : bool or list of str
        Whether extensions that the config names are installed with pip, and imported. True installs packages by name
        and versions alone. A list has the requirements that may be installed, word for word: paths, URLs and options of
        pip too.
    pickle_module : module
        Unpickles, with ``weights_only=False``, what is more than data.
    node : str
        The dotted key of a part to load alone: a component; a module, as ``"model.layers.3"``, for which the component
        around it is built; or a plain value in a dict, list, dataclass or plain object, as ``"epoch"``, for which
        nothing else is read.
    weights_only : bool
        False trusts the save with everything, as in torch.
    trusted : list of str
        Modules or ``module.Class`` names that may be imported and unpickled; :func:`untrusted` lists what a save needs.
    use_saved_source : bool
        Whether to run the source code in the save for classes that no imported module has.
    limits : Limits, optional
        How much an archive may unpack to, and constructors may allocate.
    strict : bool
        Whether keys that are missing, or that the object does not want, are an error. False makes them a warning.
    mmap : bool
        Whether to map the files of a folder in place of reading them; archives and pickles are read. Processes share
        that memory, and the system takes it back when it needs it. Training copies page by page what it changes, which
        takes longer in all than reading; the files never change. Saves replace files, which does no harm; to cut a
        mapped file short in place ends the process (SIGBUS).
    verify : bool
        Whether the checksum of every file is compared. Without, mapped files are read only when they are used.
    threads : int, optional
        How many threads read at once; by default as many as there are cores, up to four.
    progress : bool or callable
        Shows or receives how much is read, as :func:`save`; building the object comes after that. Mapped files count
        while their checksums are compared, an archive by its packed bytes, a .pkl before it is unpickled. Of an archive
        whose ``node`` alone is read, the rest counts at the end. Where a save is replaced while it is read, ``total``
        grows by what is read of the new one.
    overrides : mapping of str to object, optional
        Values in place of those in the config: ``{"head.out_features": 5}``. An unknown name is an error, which lists
        near ones. Without ``strict``, tensors whose sizes no longer fit stay as the constructor made them, and a
        warning lists them.

    Returns
    -------
    object
        Modules are in training mode, and parameters frozen, as when they were saved; or as constructors leave them, of
        a save by Flambe, which does not hold that.

    Raises
    ------
    LoadError
        SaveNotFoundError, UnknownFormatError, CorruptSaveError, ProtocolError, UntrustedError, LimitError,
        MissingExtensionError, VersionMismatchError and StateMismatchError say which. Where trust is missing, ``rows``
        of the error are those of :func:`untrusted`.
    ConfigError
        If the config cannot be understood, or no longer fits the classes.

    Warns
    -----
    SourceChangedWarning, VersionMismatchWarning
        If a class changed since the save.
    PackageVersionWarning
        If a package of the manifest has another major or minor version.
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
        Values by dotted keys. Its metadata has each component's class, version, source, config and stash; a stash is
        opened, and needs trust, at its first use.
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
    """List what a save asks for beyond data and imported classes. Nothing is run or imported.

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
