"""TorchCodec: values to ``.pt`` files, as ``torch.save`` writes them, and back.

Without torch's own code: that spends most of a save in a slow CRC, its reader checks neither the zip nor its CRCs, and
its ``weights_only`` unpickler does not know Flambe's pickles. docs/format.md describes the files. pickling.py pickles
the values; torch_reading.py reads them as data, trusting.py with all that a pickle may do.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from flambe_save.codecs.data import say_what, to_data
from flambe_save.codecs.dense import dump_plain
from flambe_save.codecs.nested import Portable
from flambe_save.codecs.pickling import elsewhere_of, pickled_once, unpicklable
from flambe_save.codecs.torch_reading import load_data
from flambe_save.codecs.trusting import load_trusting
from flambe_save.pt.options import DumpOptions, LoadOptions
from flambe_save.pt.sources import Source
from flambe_save.pt.zip_writer import Draft, empty_dict, zip_of
from flambe_save.state import Stash


class TorchCodec:
    """Any values, most often a node's State, in a ``.pt`` file; reading data needs no trust."""

    suffix = ".pt"
    needs_pickle = False

    def dump(self, values: Any, options: DumpOptions) -> Draft:
        """Draft a file of values, as :func:`torch.save` writes it.

        The standard library pickles data, so that a reader does not need the writer's pickle module.

        Raises
        ------
        UnsupportedObjectError
            If a value cannot be pickled, by its name.
        """
        if not values and type(values) in (dict, Stash):
            return empty_dict(options.pickle_protocol)
        plain = dump_plain(values, options.pickle_protocol)
        if plain is not None:
            return zip_of(*plain)
        prepared, opaque = to_data(values)
        module: Any = options.pickle_module if opaque else pickle
        try:
            if hasattr(module, "Pickler"):
                elsewhere = elsewhere_of(values)
                return zip_of(*pickled_once(prepared, module, options.pickle_protocol, elsewhere), say_what(opaque))
            buffer = io.BytesIO()  # then as a bare pickle, which the reader knows too
            prepared, _ = to_data(values, Portable.wrapper())
            module.dump(prepared, buffer, protocol=options.pickle_protocol)
        except Exception as error:
            raise unpicklable(values, opaque, error) from error
        return Draft(buffer.getvalue(), opaque=say_what(opaque))

    def load(self, source: Source, options: LoadOptions) -> Any:
        """Read values; tensors get memory of their own, or share that of a mapped file.

        Raises
        ------
        UntrustedError
            If the file holds more than data and the caller does not trust it.
        CorruptSaveError
            If it is damaged.
        """
        if not options.trust.weights_only:
            return load_trusting(source, options)
        return load_data(source, options)


CODEC = TorchCodec()
