"""The public side of configs: load, load_all, dump and dump_all of text, streams and paths.

construct.py and documents.py do the work; config/dialect.py says which YAML it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from flambe_save.classes.extensions import import_extensions, questions_of_extensions
from flambe_save.config.nodes import extensions_in, parse, split_documents
from flambe_save.describing.documents import config_text, serialize
from flambe_save.describing.represent import Representer
from flambe_save.errors import ConfigError
from flambe_save.schema.construct import construct
from flambe_save.trust import Trust


def load(
    source: str | IO[str] | os.PathLike[str], *, trusted: Iterable[str] = (), auto_install: bool | Iterable[str] = False
) -> Any:
    """Read one config, with or without an extensions section before it.

    Parameters
    ----------
    source : str, stream or path
        A str is YAML text; a path is a ``pathlib.Path``.
    trusted : list of str
        Extensions that may be imported, and classes and functions that may be used without being registered.
    auto_install : bool or list of str
        Whether missing extensions may be installed with pip, as in :func:`flambe_save.load`.

    Returns
    -------
    object
        A :class:`flambe_save.Schema` where the config is of a class; nothing is built before it is called.

    Raises
    ------
    ConfigError
        If the text is not a config, or holds several.
    MissingExtensionError
        If an extension is not imported and may not be.

    Examples
    --------
    >>> load("!torch.Linear {in_features: 2, out_features: 3}")()
    Linear(in_features=2, out_features=3, bias=True)
    """
    extensions, document = split_documents(parse(_read(source)))
    trust = Trust.of(trusted=trusted, auto_install=auto_install)
    trust.decide(questions_of_extensions(extensions))
    import_extensions(extensions, trust)
    return construct(document, extensions=extensions, trust=trust)


def load_all(
    source: str | IO[str] | os.PathLike[str], *, trusted: Iterable[str] = (), auto_install: bool | Iterable[str] = False
) -> list[Any]:
    """Read each document of a config, also the extensions section; see :func:`load`."""
    trust = Trust.of(trusted=trusted, auto_install=auto_install)
    documents = parse(_read(source))
    first = extensions_in(documents[0]) if len(documents) > 1 and not documents[0].tags else None
    if not first:
        return [construct(document, trust=trust) for document in documents]
    trust.decide(questions_of_extensions(first))
    import_extensions(first, trust)
    return [first, *(construct(document, extensions=first, trust=trust) for document in documents[1:])]


def _read(source: str | IO[str] | os.PathLike[str]) -> str:
    if isinstance(source, str):
        return source
    try:
        return Path(source).read_text(encoding="utf-8") if isinstance(source, os.PathLike) else source.read()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"this is not YAML, because it is not text: {error}", file=str(getattr(source, "name", source))
        ) from error


def dump(
    obj: Any, target: IO[str] | os.PathLike[str] | str | None = None, *, stash: dict[str, Any] | None = None
) -> str | None:
    """Write a Schema, an object that knows how it was built, or plain values, as one config.

    An extensions section goes before it where it needs one. Objects are written with the defaults of their class
    filled in.

    Parameters
    ----------
    obj : object
    target : stream or path, optional
        Where to write; without it the text is returned.
    stash : dict, optional
        Receives, by the ids that ``!$`` tags name, what YAML cannot hold.

    Raises
    ------
    UnsupportedObjectError
        If YAML cannot hold something and there is no stash.
    RegistrationError
        If a class has no tag.
    """
    return _write(config_text(obj, stash)[0], target)


def dump_all(
    documents: Iterable[Any],
    target: IO[str] | os.PathLike[str] | str | None = None,
    *,
    stash: dict[str, Any] | None = None,
) -> str | None:
    """Write several documents without adding any; see :func:`dump`."""
    text = serialize([Representer(document, stash).represent_data(document) for document in documents])
    return _write(text, target)


def _write(text: str, target: IO[str] | os.PathLike[str] | str | None) -> str | None:
    if target is None:
        return text
    if isinstance(target, (str, os.PathLike)):
        Path(target).write_text(text, encoding="utf-8")
    else:
        target.write(text)
    return None
