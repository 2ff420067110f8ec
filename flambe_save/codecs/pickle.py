"""PickleCodec: a whole State in one pickle, as Flambe's ``pickle_only`` writes it; tensors are torch files inside it."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any, BinaryIO

import torch

from flambe_save.codecs.data import to_data
from flambe_save.codecs.options import DumpOptions, LoadOptions
from flambe_save.codecs.torch import unpicklable, unpickle_data, unpickle_trusting
from flambe_save.errors import LoadError

__all__ = ["PickleCodec"]


class PickleCodec:
    """Any values in a bare pickle, which ``pickle.load`` reads with nothing but torch installed."""

    suffix = ".pkl"
    needs_pickle = True

    def dump(self, values: Any, file: BinaryIO, options: DumpOptions) -> list[str]:
        """Write values with the options' pickle module; return the paths of what is more than data.

        Raises
        ------
        UnsupportedObjectError
            If something cannot be pickled; the message names it.
        """
        storages: dict[int, _Storage] = {}
        prepared, opaque = to_data(values, lambda tensor: _Tensor(tensor, storages))
        try:
            options.pickle_module.dump(prepared, file, protocol=options.pickle_protocol)
        except OSError:
            raise
        except Exception as error:
            raise unpicklable(opaque, error) from error
        return [path for path, _ in opaque]

    def load(self, file: BinaryIO, options: LoadOptions) -> Any:
        """Read values: data only, unless the caller trusts everything.

        Raises
        ------
        UntrustedError
            If the pickle holds more than data and the caller does not trust it.
        CorruptSaveError
            If it is damaged.
        """
        stream = io.BytesIO(file.read())
        if options.trust.weights_only:
            return unpickle_data(stream, options)
        try:
            return unpickle_trusting(stream, options)
        except (LoadError, MemoryError):
            raise
        except Exception as error:
            raise LoadError(
                f"{type(error).__name__} while unpickling: {str(error)[:200]}",
                node=options.node,
                file=options.file,
            ) from error


class _Tensor:
    """Pickles as torch pickles a tensor, but for its storage."""

    def __init__(self, tensor: torch.Tensor, storages: dict[int, _Storage]) -> None:
        self._tensor = tensor
        self._storages = storages

    def __reduce__(self) -> Any:
        rebuild, arguments = self._tensor.__reduce_ex__(2)[:2]
        if rebuild not in _REBUILD:
            return self._tensor.__reduce_ex__(2)
        if isinstance(self._tensor, torch.nn.Parameter):
            data = _Tensor(self._tensor.detach(), self._storages)
            return rebuild, (data, self._tensor.requires_grad, OrderedDict())
        storage = self._storages.setdefault(self._tensor.untyped_storage()._cdata, _Storage(arguments[0]))
        return rebuild, (storage, *arguments[1:])


class _Storage:
    """Pickles as torch pickles a storage, but in the zip format: the old one would write a memory address."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def __reduce__(self) -> Any:
        buffer = io.BytesIO()
        torch.save(self._storage, buffer)
        return torch.storage._load_from_bytes, (buffer.getvalue(),)


_REBUILD = (
    torch._utils._rebuild_tensor_v2,
    torch._utils._rebuild_tensor_v3,
    torch._utils._rebuild_qtensor,
    torch._utils._rebuild_parameter,
)
