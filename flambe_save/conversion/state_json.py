"""Facts: a State as tensors and one JSON text, and back, for files of tensors alone.

docs/format.md describes the text; json_values.py writes the values in it. Values that neither can hold are refused.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from flambe_save._version import __version__
from flambe_save.conversion.json_values import WAY_OUT, ValueReader, ValueWriter, check
from flambe_save.conversion.tensor_files import FORMAT, TensorFile, checksum_of, safetensors_draft, table_of
from flambe_save.errors import FlambeSaveError, ProtocolError, UnsupportedObjectError, quote
from flambe_save.layout import (
    CLASS_KEY,
    CONFIG_KEY,
    DIRECTORIES_KEY,
    KEEP_VARS_KEY,
    SOURCE_KEY,
    STASH_KEY,
    TAGS_KEY,
    VERSION_KEY,
)
from flambe_save.pt import Draft
from flambe_save.state import State
from flambe_save.support.checksum import crc32
from flambe_save.tree import place_key, state_from_tree, tree_from_state

FACTS = "flambe_save"  # the key in the metadata of a safetensors file
_VERSION = 1
_ENDING = ', "crc32": "%08x"}'


@dataclass
class Content:
    """A State, and the packages, requirements and digest of its save.

    Attributes
    ----------
    state : State
    packages : dict of str to str
    requirements : str or None
    digest : str or None
    """

    state: State
    packages: dict[str, str] = field(default_factory=dict)
    requirements: str | None = None
    digest: str | None = None


def draft_of(content: Content) -> Draft:
    """Draft the safetensors file of a save. Inverse of :func:`content_of`.

    Raises
    ------
    UnsupportedObjectError
        If it holds a stash, or values that are neither tensors nor plain data; the error names the node.
    """
    state = state_from_tree(tree_from_state(content.state))  # of a bare mapping that is one node
    writing = ValueWriter()
    nodes = set(state.components)
    for prefix in nodes:
        if state._metadata[prefix].get(STASH_KEY):
            raise UnsupportedObjectError(
                "the node has a stash, of what only a pickle can hold, and safetensors has none",
                node=prefix,
                fix=WAY_OUT,
            )
    document: dict[str, Any] = {"version": _VERSION, "writer": f"flambe_save {__version__}", "state": {}}
    for key, value in state.items():
        owner = _owner(key, nodes)
        try:
            document["state"][writing.key(key, owner)] = writing.encoded(value, key, owner)
        except FlambeSaveError as error:
            error.locate(node=owner)
            raise
    document["metadata"] = {
        prefix: writing.encoded(
            {key: item for key, item in local.items() if key != STASH_KEY}, f"facts of {prefix}", _owner(prefix, nodes)
        )
        for prefix, local in state._metadata.items()
        if prefix not in (DIRECTORIES_KEY, KEEP_VARS_KEY)
    }
    document["components"] = state.components
    document |= {"packages": content.packages, "requirements": content.requirements, "digest": content.digest}
    body = _body(document)
    table = table_of(writing.tensors)
    ending = _ENDING % _checksum(body, table, checksum_of(writing.tensors, table))
    return safetensors_draft(writing.tensors, {**FORMAT, FACTS: body + ending})


def _owner(key: str, nodes: Container[str]) -> str:
    """Return the node whose file has the value of a key."""
    return key if key in nodes else place_key(key, nodes)[0]


def _body(document: Mapping[str, Any]) -> str:
    try:
        return json.dumps(document)[:-1]
    except (RecursionError, ValueError) as error:  # an int of too many digits
        raise UnsupportedObjectError(
            f"the values cannot be written as JSON: {str(error)[:200]}", fix=WAY_OUT
        ) from error


def _checksum(body: str, table: Mapping[str, Any], data: int) -> int:
    """Return the checksum of the text, of the table of tensors, and of their elements."""
    return crc32(body.encode(), crc32(json.dumps(table, sort_keys=True).encode(), data))


def content_of(file: TensorFile) -> Content | None:
    """Return the save in a safetensors file; None without one. Inverse of :func:`draft_of`.

    Raises
    ------
    CorruptSaveError
        If the text is damaged, or does not fit the tensors.
    ProtocolError
        If it is of a newer version.
    """
    text = file.metadata.get(FACTS)
    if text is None:
        return None
    body = text[: -len(_ENDING % 0)]
    try:
        document = json.loads(text)
        if type(document["version"]) is not int:
            raise ValueError("it has no version")
        if document["version"] > _VERSION:
            raise ProtocolError(
                f"the file was written by {quote(document.get('writer', 'something'))}, whose format is newer",
                fix="pip install --upgrade flambe_save",
            )
        if text != body + _ENDING % _checksum(body, file.table, file.checksum()):
            raise ValueError("it does not match its checksum")
        return _content(document, ValueReader(file.tensors()))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise file.damaged(f"what it says of the save cannot be read: {str(error)[:200]}") from error
    except RuntimeError as error:  # torch's, of a shape that it cannot make
        if isinstance(error, FlambeSaveError):
            raise
        raise file.damaged(f"a tensor cannot be made: {str(error)[:200]}") from error


def _content(document: dict[str, Any], reading: ValueReader) -> Content:
    state = State()
    components = document["components"]
    check(isinstance(components, list) and "" in components, "the components are not a list")
    nodes = set(components)
    for key, value in document["state"].items():
        owner = _owner(key, nodes)
        state[key if owner else reading.text(key, owner)] = reading.value(value, owner)
    for prefix, local in document["metadata"].items():
        found = reading.value(local, _owner(prefix, nodes))
        check(type(found) is dict, "the facts of a node are not a mapping")
        state._metadata[prefix] = {key: item for key, item in found.items() if key != STASH_KEY}
    for prefix in components:
        local = state._metadata[prefix]
        texts = [local[CLASS_KEY], *(local.get(key, "") for key in (VERSION_KEY, SOURCE_KEY, CONFIG_KEY))]
        tags = local.get(TAGS_KEY, {})
        check(isinstance(tags, dict), "the tags are not a mapping")
        texts += [text for item in tags.items() for text in item]
        check(all(isinstance(text, str) for text in texts), "a class, a config or a tag is not a text")
        "".join(texts).encode()  # a ValueError where no file could hold it
    state._metadata[DIRECTORIES_KEY] = set(components)
    packages, requirements, digest = (document[key] for key in ("packages", "requirements", "digest"))
    texts = [text for item in packages.items() for text in item]
    check(all(isinstance(text, str) for text in texts), "a package has no version")
    check(requirements is None or isinstance(requirements, str), "the requirements are not a text")
    check(digest in (None, "sha256"), "there is no such digest")
    return Content(state, packages, requirements, digest)
