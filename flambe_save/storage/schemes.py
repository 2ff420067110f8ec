"""Paths with a scheme: ``file://`` means a local path, and any other needs a store that there is not yet."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from flambe_save.errors import FlambeSaveError, quote

__all__ = ["local_path"]

# s3://bucket/run, and what pathlib makes of that, s3:/bucket/run; simplecache::s3://bucket/run. One letter is a drive.
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/(?P<rest>/?.*)", re.DOTALL)


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
        If it is a URL of any other scheme: written as a local path, it would be a folder of that name in the working
        directory.
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
    raise error(
        f"{quote(text)} is a URL, and saves are local files: there is no store for {match['scheme']}://",
        file=text,
        fix="Save to a local path and copy the folder from there, or copy it here and load that. "
        f"A local folder of that name is './{match['scheme']}:/...'.",
    )
