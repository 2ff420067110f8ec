"""Scalars: the plain values that YAML itself holds, and how each is written."""

from __future__ import annotations

import base64
import datetime
import re
from typing import Any

import yaml as pyyaml

from flambe_save.config.dialect import CORE, SCALARS
from flambe_save.errors import ConfigError


def has_plain_offset(value: Any) -> bool:
    """Whether YAML can write a time's offset, in whole minutes; True for other values."""
    zone = getattr(value, "tzinfo", None) if type(value) is datetime.datetime else None
    return zone is None or (type(zone) is datetime.timezone and not value.utcoffset() % datetime.timedelta(minutes=1))


def _scalar(tag: str, text: str, style: str | None = None) -> pyyaml.Node:
    return pyyaml.ScalarNode(CORE + tag, text, style=style)


def _float(value: float) -> pyyaml.Node:
    text = repr(value)
    if text in ("inf", "-inf", "nan"):
        return _scalar("float", text.replace("inf", ".inf").replace("nan", ".nan"))
    # YAML 1.1 knows no float without a point
    return _scalar("float", text if "." in text or "e" not in text else text.replace("e", ".0e"))


PLAIN: dict[type, Any] = {
    type(None): lambda value: _scalar("null", "null"),
    bool: lambda value: _scalar("bool", "true" if value else "false"),
    int: lambda value: _scalar("int", str(value)),
    float: _float,
    str: lambda value: _scalar("str", value, "|" if "\n" in value else None),
    bytes: lambda value: _scalar("binary", base64.b64encode(value).decode("ascii")),
    datetime.date: lambda value: _scalar("timestamp", value.isoformat()),
    datetime.datetime: lambda value: _scalar("timestamp", value.isoformat(" ")),
}


_PATTERNS = {kind: re.compile(pattern) for kind, (pattern, _) in SCALARS.items()}


def scalar_value(node: pyyaml.ScalarNode) -> Any:
    """Return the plain value of a scalar with a tag of YAML itself. Inverse of :data:`PLAIN`.

    Raises
    ------
    ConfigError
        If its text is not such a value.
    """
    kind, text = node.tag.removeprefix(CORE), str(node.value)
    try:
        if kind in _PATTERNS and _PATTERNS[kind].fullmatch(text) is None:
            raise ValueError("it is not written as one")
        if kind == "str":
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if kind == "float":
            return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
        if kind == "binary":
            return base64.b64decode(text, validate=False)
        if kind == "timestamp":
            return pyyaml.constructor.SafeConstructor().construct_yaml_timestamp(node)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{text[:80]!r} is not a valid {kind}: {error}") from error
    raise ConfigError(f"the tag '!!{kind[:80]}' is not part of this dialect")
