"""Paths with a scheme: ``file://`` is a local path; other schemes have registered stores."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from flambe_save.errors import FlambeSaveError, quote
from flambe_save.registry import STORES

if TYPE_CHECKING:
    from flambe_save.storage import Store
    from flambe_save.trust import Limits

# s3://bucket/run, and what pathlib makes of that, s3:/bucket/run; simplecache::s3://bucket/run. One letter is a drive.
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/(?P<rest>/?.*)", re.DOTALL)


class StoreMaker(Protocol):
    """Makes the stores of a scheme of URLs; registered in STORES.

    ``STORES.add`` or an entry point of ``flambe_save.stores`` registers it. Its stores keep the contract of
    :class:`~flambe_save.storage.Store`.
    """

    def open(self, url: str, limits: Limits | None) -> Store:
        """Open what is at a URL for reading.

        Raises
        ------
        SaveNotFoundError
            If there is nothing there.
        """

    def create(self, url: str, *, overwrite: bool, size: int) -> Store:
        """Make a store that will appear at a URL, whole, when its ``with`` is left.

        ``size`` is the number of bytes that will be written.

        Raises
        ------
        TargetExistsError
            If something is there that may not be replaced.
        """


def maker_of(path: str | os.PathLike[str]) -> StoreMaker | None:
    """Return the registered maker of a URL's stores; None for a local path or an unknown scheme."""
    text = os.fspath(path)
    match = _URL.match(text) if isinstance(text, str) else None
    if match is None or match.start("scheme"):
        return None
    found: StoreMaker | None = STORES.get(match["scheme"].lower()) if match["scheme"].lower() != "file" else None
    return found


def local_path(path: str | os.PathLike[str], error: type[FlambeSaveError]) -> str:
    """Return the local path that a caller's path means.

    Parameters
    ----------
    path : str or path
        A path, or ``file:///path``, whose percent escapes are decoded.
    error : type
        What to raise.

    Raises
    ------
    FlambeSaveError
        If it is a URL of any other scheme; as a local path it would be a folder in the working directory.
    """
    text = os.fspath(path)
    match = _URL.match(text) if isinstance(text, str) else None
    if match is None:
        return text
    host, slash, name = match["rest"][1:].partition("/")
    is_file = match["scheme"].lower() == "file" and match.start("scheme") == 0
    if is_file and match["rest"].startswith("/") and slash and host in ("", "localhost"):
        return "/" + unquote(name)
    if is_file:
        raise error(
            f"{quote(text)} is not the URL of a file on this machine",
            file=text,
            fix="Write file:///path with three slashes, or the path alone.",
        )
    if maker_of(text) is not None:
        raise error(f"{quote(text)} is a URL, and a local path is needed here", file=text)
    raise error(
        f"{quote(text)} is a URL, and saves are local files: there is no store for {match['scheme']}://",
        file=text,
        fix="Save to a local path and copy the folder from there, or copy it here and load that. "
        f"A local folder of that name is './{match['scheme']}:/...'.",
    )
