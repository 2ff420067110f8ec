"""A report as one HTML document: template, styles, scripts, and the report as data.

Nothing of a save becomes markup: it is JSON in an element that browsers do not run, from which the scripts make text.
The policy in the document's head allows these very styles and scripts, by their hashes, and nothing else: no request to
anywhere, no handler in an attribute, and no text that is turned into markup later.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

from flambe_save.errors import plain
from flambe_save.page.data import pack

# In the order in which they run; each uses what those before it define
_SCRIPTS = ("base", "model", "parts", "tree", "treemap", "details", "difference", "main")
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # ASCII otherwise, so U+2028 and U+2029 are escaped too


def render(report: Mapping[str, Any]) -> str:
    """Return the page of a report: one document, the same for the same report.

    Parameters
    ----------
    report : mapping
        ``{"saves": [SAVE], "difference": None}``, or two saves and their difference, as the command line gathers them.
        It may come from a hostile save. Nothing of it is changed.

    Returns
    -------
    str
        HTML that needs no other file and no network, to be written as UTF-8.

    Raises
    ------
    MissingDependencyError
        If Pygments is not installed.
    """
    # A text that is not Unicode (lone surrogates) is written out by `plain`, which leaves only what UTF-8 holds
    title = plain(" and ".join(str(save["path"])[:200] for save in report["saves"])).replace("\n", " ")
    text = json.dumps(pack(report), separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return Template(_asset("page.html")).substitute(
        title=html.escape(title), policy=html.escape(policy()), style=_style(), script=_script(), data=text
    )


@functools.cache
def policy() -> str:
    """Return the content security policy of every page, as its head and :func:`serve` state it."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(_script())}",
            f"style-src {_hash(_style())}",
            "img-src data:",  # the icon in the head
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@functools.cache
def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _style() -> str:
    return f"\n{_asset('page.css')}"


@functools.cache
def _script() -> str:
    pieces = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    return f'\n"use strict";\n(() => {{\n{pieces}}})();\n'
