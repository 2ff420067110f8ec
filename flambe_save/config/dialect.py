"""The dialect of YAML: private subclasses of PyYAML's loader and dumper.

Reading follows YAML 1.2's core schema (``yes`` is a string, ``1e-5`` a float), which is what Flambe's writer used;
what is written reads the same under YAML 1.1.
"""

from __future__ import annotations

import re
from typing import Any

import yaml as pyyaml

CORE = "tag:yaml.org,2002:"
MAX_DEPTH = 10_000  # collections in one another, read or written

_Base: Any = getattr(pyyaml, "CSafeLoader", pyyaml.SafeLoader)
_DumperBase: Any = getattr(pyyaml, "CSafeDumper", pyyaml.SafeDumper)

# YAML 1.2 core schema (yaml.org/spec/1.2.2, 10.3.2), and YAML 1.1's timestamps, which both languages' dumpers write
# plain.
SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "timestamp": (
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}"
        r"(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?",
        list("0123456789"),
    ),
}


class Loader(_Base):  # type: ignore[misc]
    """Resolves plain scalars by YAML 1.2 alone."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own attribute)


class Dumper(_DumperBase):  # type: ignore[misc]
    """Quotes what either YAML version would read as something else than a string."""


for _name, (_pattern, _first) in SCALARS.items():
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(CORE + _name, re.compile(f"(?:{_pattern})$"), _first)


def children_of(node: Any) -> list[Any]:
    """Return the nodes directly inside a node, keys included, in order."""
    if isinstance(node, pyyaml.MappingNode):
        return [item for pair in node.value for item in pair]
    return node.value if isinstance(node, pyyaml.SequenceNode) else []
