"""PickleCodec: a whole State in one pickle, with tensors as torch files inside."""

from __future__ import annotations

import io
import pickle
from typing import Any

import dill

from flambe_save.codecs.data import Portable, check_no_file, say_what, to_data
from flambe_save.codecs.naming import by_names
from flambe_save.codecs.pickling import unpicklable
from flambe_save.codecs.torch_reading import unpickle_data
from flambe_save.codecs.trusting import unpickle_trusting
from flambe_save.pt.options import DumpOptions, LoadOptions
from flambe_save.pt.sources import Source
from flambe_save.pt.zip_writer import Draft


class PickleCodec:
    """Any values in a bare pickle, which ``pickle.load`` reads where torch is installed."""

    suffix = ".pkl"
    needs_pickle = True

    def dump(self, values: Any, options: DumpOptions) -> Draft:
        """Draft a file of values; pickle module and errors are those of :meth:`TorchCodec.dump`."""
        prepared, opaque = to_data(values, Portable.wrapper())
        try:
            module, data = options.pickle_module if opaque else pickle, None
            if module is dill:
                data = by_names(lambda module: module.dumps(prepared, options.pickle_protocol), bytes)
            if data is None:
                data = _dumped(prepared, module, options.pickle_protocol)
        except Exception as error:
            raise unpicklable(values, opaque, error) from error
        return Draft(data, opaque=say_what(opaque))

    def load(self, source: Source, options: LoadOptions) -> Any:
        """Read values: only data, unless the caller trusts everything.

        Raises
        ------
        UntrustedError
            If the pickle holds more than data and the caller does not trust it.
        CorruptSaveError
            If it is damaged.
        """
        stream = io.BytesIO(source.piece(0, source.size))
        return (unpickle_data if options.trust.weights_only else unpickle_trusting)(stream, options)


def _dumped(values: Any, module: Any, protocol: int) -> bytes:
    buffer = io.BytesIO()
    if module is pickle or not hasattr(module, "Pickler"):
        module.dump(values, buffer, protocol=protocol)
        return buffer.getvalue()

    class Pickler(module.Pickler):  # type: ignore[misc]
        def persistent_id(self, obj: Any) -> None:
            check_no_file(obj)

    Pickler(buffer, protocol=protocol).dump(values)
    return buffer.getvalue()


CODEC = PickleCodec()
