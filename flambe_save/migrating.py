"""Bring a save up to date with the classes of this program; no object is built."""

from __future__ import annotations

import os
from collections.abc import Iterable

import dill

from flambe_save.adapters.migrations import Migrated, migrate_state
from flambe_save.asking import errors_with_findings
from flambe_save.errors import CorruptSaveError
from flambe_save.formats.manifest import HAS_MANIFEST
from flambe_save.layout import STASH_KEY
from flambe_save.pt import DumpOptions, LoadOptions, MapLocation, PickleModule
from flambe_save.reading import read, shape_of, verify
from flambe_save.saving import Saving
from flambe_save.support.parallel import default_threads
from flambe_save.support.undoing import takes_back
from flambe_save.tree import state_from_tree
from flambe_save.trust import Limits, Trust, check_switches
from flambe_save.writing import Target, final_path


@takes_back
def migrate(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    dry_run: bool = False,
    map_location: MapLocation = None,
    pickle_module: PickleModule = dill,
    weights_only: bool = True,
    trusted: Iterable[str] = (),
    limits: Limits | None = None,
) -> list[Migrated]:
    """Bring a save up to date with the classes of this program.

    Migrations are applied to all components whose classes are imported, parents first; classes that moved are called
    by their present names. No object is built, and arguments in configs stay as they are. The save is replaced in one
    step, by one of the same shape, with the requirements and package versions that it had.

    Parameters
    ----------
    path : str or path
        A whole save.
    out : str or path, optional
        Where to write the result, in place of replacing the save.
    dry_run : bool
        Whether to write nothing, and only return the changes.
    map_location, limits
        As :func:`load`. The new save records the devices of this call.
    pickle_module, weights_only, trusted
        As :func:`load`. A stash that is more than data is opened and written again, which needs that trust.

    Returns
    -------
    list of Migrated
        ``(node, class_name, before, after)`` for each component that changes. Where it is empty, nothing is written.

    Raises
    ------
    VersionMismatchError
        If migrations of a class do not lead to its present major version.
    CorruptSaveError
        If the save is damaged.
    LoadError, ConfigError, SaveError
        If a migration raises, the save cannot be read, or cannot be written. The save is as it was.
    """
    check_switches(dry_run=dry_run)
    trust = Trust.of(weights_only, trusted, limits=limits)
    where = os.fspath(path)
    damage = verify(path, limits=limits)
    if damage:
        raise CorruptSaveError(
            f"{where!r} is damaged: {damage[0].problem}", node=damage[0].node, file=damage[0].file or where
        )
    with errors_with_findings(path, trust=trust, name="migrate"):
        saved = read(path, "", LoadOptions(trust, map_location, pickle_module))
        state = state_from_tree(saved.tree)
        rows = migrate_state(state, saved.tags)
        for prefix in state.components if rows else ():
            dict(state._metadata[prefix].get(STASH_KEY, {}))  # opens it
    if rows and not dry_run:
        is_archive, is_single, requirements = shape_of(path, limits)
        if requirements is not None and not requirements.startswith(HAS_MANIFEST):  # Flambe's
            requirements = f"{HAS_MANIFEST}\n{requirements}"
        how = DumpOptions(pickle_module, 2, saved.digest, requirements, saved.packages or None, default_threads())
        final = final_path(path, False, False) if out is None else final_path(out, is_archive, is_single)
        Saving(state, Target(final, is_archive, is_single, overwrite=out is None), how).write_now()
    return rows
