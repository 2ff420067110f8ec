"""Facts: a State as tensors and one JSON text, and back, so that a file of tensors alone can hold a save.

docs/format.md describes the text. What neither a tensor nor such a text can hold is refused.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from flambe_save._version import __version__
from flambe_save.checksum import crc32
from flambe_save.codecs import Draft
from flambe_save.codecs.data import compact, tie_key
from flambe_save.conversion.tensorfiles import (
    DTYPES,
    METADATA,
    TensorFile,
    checksum_of,
    is_plain,
    safetensors_draft,
    strides,
    table_of,
)
from flambe_save.errors import FlambeSaveError, ProtocolError, UnsupportedObjectError, quote
from flambe_save.layout import CLASS_KEY, CONFIG_KEY, DIRECTORIES_KEY, KEEP_VARS_KEY, SOURCE_KEY, STASH_KEY, VERSION_KEY
from flambe_save.state import State, ordered
from flambe_save.tree import place_key

__all__ = ["FACTS", "Content", "content_of", "draft_of"]

FACTS = "flambe_save"  # the key in the metadata of a safetensors file
_VERSION = 1
_ENDING = ', "crc32": "%08x"}'
_FORMAT = {"format": "pt"}  # what readers of others ask for
_WAY_OUT = "Convert it to a folder, a .tar.gz or a .pkl, which can hold it."
_KNOWN_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*DTYPES.values(), torch.complex128)}


@dataclass
class Content:
    """A State, and what a save knows beside it.

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


# ------------------------------------------------------------------------------------------------ writing


def draft_of(content: Content) -> Draft:
    """Draft the safetensors file of a save. Inverse of :func:`content_of`.

    Raises
    ------
    UnsupportedObjectError
        If it holds a stash, or values that are neither tensors nor plain data; the error names the node.
    """
    state = content.state
    writing = _Writing()
    nodes = set(state.components)
    for prefix in nodes:
        if state._metadata[prefix].get(STASH_KEY):
            raise UnsupportedObjectError(
                "the node has a stash, of what only a pickle can hold, and safetensors has none",
                node=prefix,
                fix=_WAY_OUT,
            )
    document: dict[str, Any] = {"version": _VERSION, "writer": f"flambe_save {__version__}", "state": {}}
    for key, value in state.items():
        try:
            document["state"][key] = writing.encoded(value, key)
        except FlambeSaveError as error:
            error.locate(node=place_key(key, nodes)[0])
            raise
    document["metadata"] = {
        prefix: writing.facts({key: item for key, item in local.items() if key != STASH_KEY}, prefix)
        for prefix, local in state._metadata.items()
        if prefix not in (DIRECTORIES_KEY, KEEP_VARS_KEY)
    }
    document["components"] = state.components
    document |= {"packages": content.packages, "requirements": content.requirements, "digest": content.digest}
    body = _body(document)
    table = table_of(writing.tensors)
    ending = _ENDING % _checksum(body, table, checksum_of(writing.tensors, table))
    return safetensors_draft(writing.tensors, {**_FORMAT, FACTS: body + ending})


def _body(document: Mapping[str, Any]) -> str:
    try:
        return json.dumps(document)[:-1]
    except (RecursionError, ValueError) as error:  # an int of too many digits
        raise UnsupportedObjectError(
            f"the values cannot be written as JSON: {str(error)[:200]}", fix=_WAY_OUT
        ) from error


def _checksum(body: str, table: Mapping[str, Any], data: int) -> int:
    """Return the checksum of a file: of the text, of the table of tensors, and of their elements."""
    return crc32(body.encode(), crc32(json.dumps(table, sort_keys=True).encode(), data))


class _Writing:
    """Turns values into what JSON has, and collects the tensors.

    Attributes
    ----------
    tensors : dict of str to torch.Tensor
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._known: dict[Any, tuple[str, dict[str, Any]]] = {}  # by what makes two tensors one
        self._storages: dict[int, str] = {}
        self._held: list[Any] = []  # what was numbered by its id
        self._seen: set[int] = set()

    def encoded(self, value: Any, path: str) -> Any:
        """Return a value as JSON has it; what it has not is a mapping of one key that begins with ``!``.

        Raises
        ------
        UnsupportedObjectError
        """
        try:
            return self._encoded(value, path)
        except RecursionError as error:
            raise UnsupportedObjectError(f"{quote(path)} is nested too deep", fix=_WAY_OUT) from error

    def facts(self, local: dict[str, Any], prefix: str) -> Any:
        """Return what is known of a node or module as JSON has it; these are read alone, so they share nothing."""
        self._seen.clear()
        return self.encoded(local, f"facts of {prefix}")

    def _encoded(self, value: Any, path: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"!float": repr(value)}
        if isinstance(value, torch.Tensor):
            return {"!tensor": self._tensor(value, path)}
        if kind not in (list, tuple, dict, OrderedDict, set, frozenset):
            raise UnsupportedObjectError(
                f"{quote(path)} is a {kind.__module__}.{kind.__qualname__}, which is neither a tensor nor plain data",
                fix=_WAY_OUT,
            )
        if kind is not tuple and kind is not frozenset:
            if id(value) in self._seen:
                raise UnsupportedObjectError(f"{quote(path)} is one object in two places", fix=_WAY_OUT)
            self._seen.add(id(value))
            self._held.append(value)
        if kind in (list, tuple):
            items = [self._encoded(item, f"{path}[{index}]") for index, item in enumerate(value)]
            return items if kind is list else {"!tuple": items}
        if kind in (set, frozenset):
            return {f"!{kind.__name__}": [self._encoded(item, f"{path}{{{item!r}}}") for item in ordered(value)]}
        if getattr(value, "__dict__", None):
            raise UnsupportedObjectError(f"{quote(path)} is a mapping with attributes", fix=_WAY_OUT)
        if kind is dict and all(type(key) is str for key in value) and not any(key[:1] == "!" for key in value):
            return {key: self._encoded(item, f"{path}[{key!r}]") for key, item in value.items()}
        pairs = [[self._encoded(key, path), self._encoded(item, f"{path}[{key!r}]")] for key, item in value.items()]
        return {"!dict" if kind is dict else "!odict": pairs}

    def _tensor(self, tensor: torch.Tensor, path: str) -> Any:
        if not is_plain(tensor) or str(tensor.dtype).removeprefix("torch.") not in _KNOWN_DTYPES:
            raise UnsupportedObjectError(
                f"{quote(path)} is a {type(tensor).__qualname__} of {tensor.dtype} and {tensor.layout}, which "
                "safetensors has not",
                fix=_WAY_OUT,
            )
        shared = tie_key(tensor)
        what = (*shared, type(tensor), tensor.requires_grad) if shared is not None else id(tensor)
        self._held.append(tensor)
        if what in self._known:
            name, more = self._known[what]
        else:
            name, more = self._known[what] = self._stored(tensor, path)
        return {"name": name, **more} if more else name

    def _stored(self, tensor: torch.Tensor, path: str) -> tuple[str, dict[str, Any]]:
        """Note a tensor's elements, unless they are another's; return their name, and what makes the tensor of them."""
        tensor = compact(tensor)
        more: dict[str, Any] = {}
        if isinstance(tensor, torch.nn.Parameter):
            more["parameter"] = True
        if tensor.requires_grad:
            more["requires_grad"] = True
        storage = tensor.untyped_storage()
        is_whole = storage.nbytes() == tensor.numel() * tensor.element_size() > 0
        known = self._storages.get(storage._cdata) if is_whole else None
        if known is not None and self.tensors[known].dtype == _stored_dtype(tensor):
            return known, {**more, "shape": [*tensor.shape], "stride": [*tensor.stride()]}
        name = path
        while name in self.tensors or name == METADATA:
            name += "_"
        if tensor.dtype not in DTYPES.values():
            self.tensors[name] = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            more |= {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": [*tensor.shape]}
            return name, more
        self.tensors[name] = tensor
        if is_whole:
            self._storages[storage._cdata] = name
        if tensor.stride() != strides(tensor.shape):
            more["stride"] = [*tensor.stride()]
        return name, more


def _stored_dtype(tensor: torch.Tensor) -> torch.dtype:
    return tensor.dtype if tensor.dtype in DTYPES.values() else torch.uint8


# ------------------------------------------------------------------------------------------------ reading


def content_of(file: TensorFile) -> Content | None:
    """Return the save that a safetensors file holds; None where it holds tensors alone. Inverse of :func:`draft_of`.

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
        if type(document["version"]) is int and document["version"] > _VERSION:
            raise ProtocolError(
                f"the file was written by {quote(document.get('writer', 'something'))}, whose format is newer",
                fix="pip install --upgrade flambe_save",
            )
        if text != body + _ENDING % _checksum(body, file.table, file.checksum()):
            raise ValueError("it does not match its checksum")
        return _Reading(file.tensors()).content(document)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise file.damaged(f"what it says of the save cannot be read: {str(error)[:200]}") from error
    except RuntimeError as error:  # torch's, of a shape that it cannot make
        if isinstance(error, FlambeSaveError):
            raise
        raise file.damaged(f"a tensor cannot be made: {str(error)[:200]}") from error


class _Reading:
    """Turns what JSON has into values, with the tensors at hand."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._bases: dict[str, torch.Tensor] = {}
        self._made: dict[str, torch.Tensor] = {}

    def content(self, document: dict[str, Any]) -> Content:
        state = State()
        for key, value in document["state"].items():
            state[key] = self._value(value)
        for prefix, local in document["metadata"].items():
            found = self._value(local)
            _check(isinstance(found, dict), "the facts of a node are no mapping")
            state._metadata[prefix] = {key: item for key, item in found.items() if key != STASH_KEY}
        components = document["components"]
        for prefix in components:
            local = state._metadata[prefix]
            texts = [local[CLASS_KEY], *(local.get(key, "") for key in (VERSION_KEY, SOURCE_KEY, CONFIG_KEY))]
            _check(all(isinstance(text, str) for text in texts), "a class or a config is no text")
        state._metadata[DIRECTORIES_KEY] = set(components)
        packages, requirements, digest = (document[key] for key in ("packages", "requirements", "digest"))
        texts = [text for item in packages.items() for text in item]
        _check(all(isinstance(text, str) for text in texts), "a package has no version")
        _check(requirements is None or isinstance(requirements, str), "the requirements are no text")
        _check(digest in (None, "sha256"), "there is no such digest")
        return Content(state, packages, requirements, digest)

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if not isinstance(value, dict):
            return value
        tag = next(iter(value), "")
        if tag[:1] != "!":
            return {key: self._value(item) for key, item in value.items()}
        _check(len(value) == 1, "a mapping has a key of ours, and others")
        content = value[tag]
        if tag == "!tensor":
            return self._tensor(content)
        if tag == "!float":
            return float(content)
        if tag in ("!dict", "!odict"):
            pairs = [(self._value(key), self._value(item)) for key, item in content]
            return OrderedDict(pairs) if tag == "!odict" else dict(pairs)
        made = {"!tuple": tuple, "!set": set, "!frozenset": frozenset}[tag]
        return made(self._value(item) for item in content)

    def _tensor(self, content: Any) -> torch.Tensor:
        label = json.dumps(content, sort_keys=True)
        if label not in self._made:
            name, more = (content, {}) if isinstance(content, str) else (content["name"], content)
            tensor = self._laid_out(name, more)
            requires_grad = more.get("requires_grad", False) is True
            if more.get("parameter", False) is True:
                tensor = torch.nn.Parameter(tensor, requires_grad=requires_grad)
            elif requires_grad:
                tensor = tensor.detach().requires_grad_()
            self._made[label] = tensor
        return self._made[label]

    def _laid_out(self, name: str, more: Mapping[str, Any]) -> torch.Tensor:
        tensor = self._tensors[name]
        dtype = _KNOWN_DTYPES[more["dtype"]] if "dtype" in more else tensor.dtype
        shape = more.get("shape", [*tensor.shape])
        stride = more.get("stride") or [*strides(shape)]
        numbers = [*shape, *stride]
        _check(all(type(number) is int and 0 <= number < 1 << 62 for number in numbers), "a shape is none")
        _check(len(shape) == len(stride) <= 64, "a shape is none")
        _check(math.prod(shape) * dtype.itemsize == tensor.numel() * tensor.element_size(), "a shape does not fit")
        if "shape" in more and "dtype" not in more:  # it views the memory of another
            base = self._bases[name]
            _check(_span(shape, stride) <= base.untyped_storage().nbytes() // dtype.itemsize, "a shape does not fit")
            return torch.empty(0, dtype=dtype).set_(base.untyped_storage(), 0, shape, stride)
        if "dtype" in more:
            tensor = tensor.clone().view(dtype).view(shape)  # of their own, so that they lie at multiples of their size
        elif "stride" in more:
            _check(_span(shape, stride) <= max(tensor.numel(), 1), "a stride does not fit")
            tensor = _strided(tensor, shape, stride)
        self._bases[name] = tensor
        return tensor


def _span(shape: list[int], stride: list[int]) -> int:
    """Return how many elements lie between the first and the last of a tensor, with both."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _strided(tensor: torch.Tensor, shape: list[int], stride: list[int]) -> torch.Tensor:
    """Return a copy of a tensor whose elements lie as strides say."""
    made = torch.empty(_span(shape, stride), dtype=tensor.dtype).as_strided(shape, stride)
    source, target = tensor, made
    for dimension, step in enumerate(stride):
        if not step and shape[dimension] > 1:  # one element stands for all
            source, target = source.narrow(dimension, 0, 1), target.narrow(dimension, 0, 1)
    target.copy_(source)
    return made


def _check(is_so: bool, what: str) -> None:
    if not is_so:
        raise ValueError(what)
