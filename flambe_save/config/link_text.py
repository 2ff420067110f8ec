"""The text of a link, ``root[key][key].attribute.attribute``: read and written."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flambe_save.errors import MalformedLinkError, quote

_KEY = r"[^\[\].\s]+"
_ATTRIBUTE = r"[A-Za-z]\w*"
_LINK = re.compile(rf"(?P<root>{_KEY})(?P<keys>(?:\[[^\[\]]+\])*)(?P<attributes>(?:\.{_ATTRIBUTE})*)")


def parse_link_str(link_str: str) -> tuple[list[str], list[str]]:
    """Return the keys and the attributes that a link names. Inverse of :func:`create_link_str`.

    Raises
    ------
    MalformedLinkError
        If the text does not follow ``root[key][key].attribute.attribute``; private attributes cannot be named.

    Examples
    --------
    >>> parse_link_str("model[encoder].rnn.hidden_size")
    (['model', 'encoder'], ['rnn', 'hidden_size'])
    """
    match = _LINK.fullmatch(link_str)
    if match is None or "__" in (match["root"][:2], *(key[:2] for key in re.findall(r"\[([^\[\]]+)\]", match["keys"]))):
        raise MalformedLinkError(
            f"{quote(link_str)} is not a link", fix="Write root[key][key].attribute, as in 'model[encoder].size'."
        )
    keys = re.findall(r"\[([^\[\]]+)\]", match["keys"])
    return [match["root"], *keys], match["attributes"].split(".")[1:]


def create_link_str(schematic_path: Sequence[str], attr_path: Sequence[str] | None = None) -> str:
    """Return the text of a link. Inverse of :func:`parse_link_str`.

    Raises
    ------
    MalformedLinkError
        If the path is empty or a part of it cannot be written.

    Examples
    --------
    >>> create_link_str(["model", "encoder"], ["rnn", "hidden_size"])
    'model[encoder].rnn.hidden_size'
    """
    if not schematic_path:
        raise MalformedLinkError("a link needs at least the key that it starts from")
    text = schematic_path[0] + "".join(f"[{key}]" for key in schematic_path[1:])
    text += "".join(f".{attribute}" for attribute in attr_path or ())
    if parse_link_str(text) != (list(schematic_path), list(attr_path or ())):
        raise MalformedLinkError(f"the keys {list(schematic_path)} cannot be written as a link")
    return text
