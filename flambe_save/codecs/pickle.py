"""PickleCodec: a whole State in one pickle, with tensors as torch files inside."""

from __future__ import annotations

import io
import pickle
from typing import Any

import dill

from flambe_save.codecs.data import check_no_file, say_what, to_data
from flambe_save.codecs.naming import by_names
from flambe_save.codecs.nested import Apart, Portable
from flambe_save.codecs.nested_reading import set_apart
from flambe_save.codecs.pickling import unpicklable
from flambe_save.codecs.torch_reading import unpickle_data
from flambe_save.codecs.trusting import has_unpickler, unpickle_trusting
from flambe_save.pt.options import DumpOptions, LoadOptions
from flambe_save.pt.sources import Source
from flambe_save.pt.zip_writer import Draft


class PickleCodec:
    """Any values in a bare pickle, which ``pickle.load`` reads where torch is installed."""

    suffix = ".pkl"
    needs_pickle = True

    def dump(self, values: Any, options: DumpOptions) -> Draft:
        """Draft a file of values; pickle module and errors are those of :meth:`TorchCodec.dump`.

        Large tensors are read when it is written.
        """
        apart = Apart(options.pickle_protocol)
        prepared, opaque = to_data(values, Portable.wrapper(apart))
        sentences = say_what(opaque)
        module = options.pickle_module if opaque else pickle

        def drafted(module: Any) -> Draft:
            apart.begin()
            _dump(prepared, apart, module, options.pickle_protocol)
            return apart.draft(sentences) or Draft(_whole(values, module, options.pickle_protocol), opaque=sentences)

        try:
            found = by_names(drafted, lambda draft: draft.pickled) if module is dill else None
            return found if found is not None else drafted(module)
        except Exception as error:
            raise unpicklable(values, opaque, error) from error

    def load(self, source: Source, options: LoadOptions) -> Any:
        """Read values: only data, unless the caller trusts everything.

        Raises
        ------
        UntrustedError
            If the pickle holds more than data and the caller does not trust it.
        CorruptSaveError
            If it is damaged.
        """
        is_data = options.trust.weights_only
        if not (is_data or has_unpickler(options)):
            return unpickle_trusting(io.BytesIO(source.piece(0, source.size)), options)
        try:
            data, files = set_apart(source)
        except pickle.UnpicklingError as error:
            raise options.broken_pickle(error) from error
        return (unpickle_data if is_data else unpickle_trusting)(io.BytesIO(data), options, files=files)


def _whole(values: Any, module: Any, protocol: int) -> bytes:
    """The pickle by a module that writes no pickle as Python's would be."""
    prepared, _ = to_data(values, Portable.wrapper())
    buffer = io.BytesIO()
    _dump(prepared, buffer, module, protocol)
    return buffer.getvalue()


def _dump(values: Any, file: Any, module: Any, protocol: int) -> None:
    if module is pickle or not hasattr(module, "Pickler"):
        module.dump(values, file, protocol=protocol)
        return

    class Pickler(module.Pickler):  # type: ignore[misc]
        def persistent_id(self, obj: Any) -> None:
            check_no_file(obj)

    Pickler(file, protocol=protocol).dump(values)


CODEC = PickleCodec()
