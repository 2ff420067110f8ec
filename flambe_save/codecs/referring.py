"""Values pickled apart, which refer to objects elsewhere in the save.

A reference is a persistent id with a number. The config beside the stash explains each number (schema/pickled.py).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from flambe_save.codecs.careful import Placeholder
from flambe_save.codecs.data import say_what, to_data
from flambe_save.codecs.numpy_types import check
from flambe_save.codecs.pickling import REFERENCE, elsewhere_of, pickled_once, unpicklable
from flambe_save.codecs.placement import Placer
from flambe_save.codecs.safe_globals import data_global
from flambe_save.codecs.torch_reading import persistent_storages, reading_storages
from flambe_save.codecs.trusting import as_load_errors, trusting_module
from flambe_save.codecs.unpickler import DataUnpickler
from flambe_save.pt.options import DumpOptions, LoadOptions
from flambe_save.pt.sources import MemorySource
from flambe_save.pt.zip_reader import Records, is_zip
from flambe_save.pt.zip_writer import zip_of
from flambe_save.state import Referring, Stash


def dump_referring(values: Mapping[str, Any], options: DumpOptions) -> tuple[Stash, list[str], list[bytes]]:
    """Pickle the values of a stash that refer to others.

    Returns
    -------
    (Stash, list of str, list of bytes)
        The stash with bytes in their places, a sentence for each, and the bytes.

    Raises
    ------
    UnsupportedObjectError
        If something cannot be pickled, by its name.
    """
    stash = Stash.of(values)
    referring = {name: value for name, value in stash.items() if isinstance(value, Referring)}
    if not referring:
        return stash, [], []
    found = Stash()
    found.paths, found.elsewhere = stash.paths, stash.elsewhere
    found.update(stash)
    pickles = {name: _dumped(value, stash, name, options) for name, value in referring.items()}
    found.update(pickles)
    sentences = say_what([(name, value) for name, one in referring.items() for value in one.values])
    return found, sentences, list(pickles.values())


def _dumped(value: Referring, stash: Stash, name: str, options: DumpOptions) -> bytes:
    prepared, opaque = to_data(value.values)
    numbers = {known: number for number, known in enumerate(value.objects)}
    module: Any = options.pickle_module if hasattr(options.pickle_module, "Pickler") else pickle
    try:
        return bytes(zip_of(*pickled_once(prepared, module, options.pickle_protocol, elsewhere_of(stash), numbers)))
    except Exception as error:
        raise unpicklable({name: value.values}, opaque, error) from error


def check_referring(data: bytes, options: LoadOptions) -> None:
    """Ask the caller's trust for all that bytes of :func:`dump_referring` name; nothing is made.

    Raises
    ------
    UntrustedError
        If they name anything that is neither data nor trusted.
    CorruptSaveError
        If they are damaged.
    """
    records, source = _records(data, options)
    if options.trust.findings is not None:  # an audit goes through it, with placeholders for references
        storage_of = persistent_storages(reading_storages(records, source, options, Placer(options.map_location)))
        DataUnpickler(
            _pickle_in(records),
            options,
            storage_of=lambda pid: Placeholder() if _is_reference(pid) else storage_of(pid),
        ).unpickle()
    elif options.trust.weights_only:
        DataUnpickler(_pickle_in(records), options).check_names()


def load_referring(data: bytes, objects: Sequence[Any], options: LoadOptions) -> Any:
    """Unpickle the list of values that :func:`dump_referring` has pickled.

    Parameters
    ----------
    data : bytes
    objects : sequence of object
        The objects that the values refer to, by their numbers; shared with them.
    options : LoadOptions

    Raises
    ------
    UntrustedError
        If the bytes name anything that is neither data nor trusted.
    CorruptSaveError
        If they are damaged.
    LoadError
        If what they name raises.
    """
    records, source = _records(data, options)
    storage_of = persistent_storages(reading_storages(records, source, options, Placer(options.map_location)))

    def found(pid: Any) -> Any:
        if _is_reference(pid):
            check(type(pid[1]) is int and 0 <= pid[1] < len(objects), "a reference to an object that the config lacks")
            return objects[pid[1]]
        return storage_of(pid)

    stream = _pickle_in(records)
    if options.trust.weights_only:
        return DataUnpickler(stream, options, storage_of=found).unpickle()
    base: Any = trusting_module(options).Unpickler

    class Unpickler(base):  # type: ignore[misc]
        def persistent_load(self, pid: Any) -> Any:
            if isinstance(pid, tuple) and len(pid) == 5 and isinstance(pid[1], type):  # the storage's own class
                pid = (pid[0], data_global(f"torch.{pid[1].__name__}"), *pid[2:])
            return found(pid)

    with as_load_errors(options):
        return Unpickler(stream, **options.pickle_load_args).load()


def _is_reference(pid: Any) -> bool:
    return isinstance(pid, tuple) and len(pid) == 2 and pid[0] == REFERENCE


def _records(data: Any, options: LoadOptions) -> tuple[Records, MemorySource]:
    source = MemorySource(bytearray(data)) if isinstance(data, bytes) else None
    if source is None or not is_zip(source):
        raise options.corrupt("a pickle with references is not a torch file")
    return Records(source, options), source


def _pickle_in(records: Records) -> io.BytesIO:
    if "data.pkl" not in records:
        raise records.damaged("it holds no data.pkl")
    return io.BytesIO(records.read("data.pkl"))
