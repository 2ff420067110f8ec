"""Scalars: the plain values that YAML itself holds, and how each is written."""

from __future__ import annotations

import base64
import datetime
from typing import Any

import yaml as pyyaml

from flambe_save.config.dialect import CORE

__all__ = ["PLAIN", "has_plain_offset"]


def has_plain_offset(value: Any) -> bool:
    """Whether YAML can say a time's offset, in whole minutes; also of what is no time."""
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
