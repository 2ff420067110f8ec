"""Unpickle with full trust, by the caller's own pickle module, which may run anything."""

from __future__ import annotations

import contextlib
import io
import pickle
import types
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch

from flambe_save.codecs.naming import find_in_script
from flambe_save.codecs.torch_reading import load_data
from flambe_save.errors import LoadError
from flambe_save.layout import LEGACY_TORCH
from flambe_save.pt.dense import load_plain
from flambe_save.pt.options import LoadOptions
from flambe_save.pt.sources import Source
from flambe_save.pt.zip_reader import Records, is_zip
from flambe_save.registry import MOVED
from flambe_save.state import State


def unpickle_trusting(
    stream: io.BytesIO, options: LoadOptions, *, files: Mapping[bytes, Source] = types.MappingProxyType({})
) -> Any:
    """Unpickle by the caller's pickle module, which may run anything.

    ``files`` are torch files that bytes in the pickle stand for; only an Unpickler can look them up.

    Raises
    ------
    LoadError
        If it raises, or has a ``load`` of its own but no Unpickler, which ``map_location`` needs.
    """
    if not has_unpickler(options) and options.map_location is not None:
        raise LoadError(
            "a pickle module without an Unpickler cannot follow map_location", fix="Pass pickle_module=dill."
        )
    with as_load_errors(options):
        load = trusting_module(options, files).load if has_unpickler(options) else options.pickle_module.load
        return load(stream, **options.pickle_load_args)


def has_unpickler(options: LoadOptions) -> bool:
    """Whether the caller's pickle module has an Unpickler, which looks names up."""
    return hasattr(options.pickle_module, "Unpickler") or options.pickle_module.load is pickle.load


def load_trusting(source: Source, options: LoadOptions) -> Any:
    """Read a torch file, zip or legacy, or a bare pickle; errors as :func:`unpickle_trusting`."""
    if is_zip(source):
        records = Records(source, options)
        plain = load_plain(records.read("data.pkl")) if "data.pkl" in records else None
        if plain is not None:
            return load_data(source, options)
        if options.is_verified and not options.checksums_known:
            for name in records.names:
                records.check(name)  # torch would read a damaged record
    data = io.BytesIO(source.piece(0, source.size))
    if not is_zip(source) and LEGACY_TORCH not in data.getbuffer()[:32].tobytes():
        return unpickle_trusting(data, options)
    with as_load_errors(options):
        return torch.load(
            data,
            cast(Any, options.map_location),
            trusting_module(options),
            weights_only=False,
            **options.pickle_load_args,
        )


@contextlib.contextmanager
def as_load_errors(options: LoadOptions) -> Iterator[None]:
    """Turn any error of a trusted pickle into a LoadError that names the file."""
    try:
        yield
    except (LoadError, MemoryError):
        raise
    except Exception as error:
        raise LoadError(
            f"{type(error).__name__} while unpickling: {str(error)[:200]}", node=options.node, file=options.file
        ) from error


def trusting_module(options: LoadOptions, files: Mapping[bytes, Source] = types.MappingProxyType({})) -> Any:
    """The caller's pickle module, with Flambe's State and ``map_location`` in its Unpickler."""
    base: Any = getattr(options.pickle_module, "Unpickler", pickle.Unpickler)

    def load_from_bytes(data: Any) -> Any:
        source = files.get(data) if type(data) is bytes else None
        data = data if source is None else bytes(source.piece(0, source.size))
        return torch.load(io.BytesIO(data), cast(Any, options.map_location), weights_only=False)

    class Unpickler(base):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) == ("flambe.compile.serialization", "State"):
                return State
            if (module, name) == ("torch.storage", "_load_from_bytes"):
                return load_from_bytes
            if f"{module}.{name}" in MOVED:
                return MOVED[f"{module}.{name}"]
            return find_in_script(module, name) or super().find_class(module, name)

    def load(file: Any, **arguments: Any) -> Any:
        return Unpickler(file, **arguments).load()

    return types.SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=load)
