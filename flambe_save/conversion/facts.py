"""Facts: a State as tensors and one JSON text, and back, so that a file of tensors alone can hold a save.

docs/format.md describes the text. What neither a tensor nor such a text can hold is refused.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from flambe_save._version import __version__
from flambe_save.codecs.data import compact, fills_storage, tie_key
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
from flambe_save.state import State, ordered
from flambe_save.support.checksum import crc32
from flambe_save.tree import place_key, state_from_tree, tree_from_state

__all__ = ["FACTS", "Content", "content_of", "draft_of"]

FACTS = "flambe_save"  # the key in the metadata of a safetensors file
_VERSION = 1
_ENDING = ', "crc32": "%08x"}'
_HASHES = 2**61 - 1  # numbers below it have hashes of their own, on every machine of 64 bits
_MOST_LARGE_KEYS = 1000
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
    state = state_from_tree(tree_from_state(content.state))  # of a bare mapping that is one node
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
    return safetensors_draft(writing.tensors, {**_FORMAT, FACTS: body + ending})


def _owner(key: str, nodes: Container[str]) -> str:
    """Return the node whose file has what is at a key."""
    return key if key in nodes else place_key(key, nodes)[0]


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

    What is one object stays one, texts within a node too: the files of a save that is made of it are the same then.

    Attributes
    ----------
    tensors : dict of str to torch.Tensor
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._known: dict[Any, tuple[str, dict[str, Any]]] = {}  # by what makes two tensors one
        self._storages: dict[int, str] = {}
        self._numbers: dict[int, int] = {}  # of containers, in the order in which they come, by their ids
        self._texts: dict[tuple[str, str], int] = {}  # node and text -> id of the first such text
        self._held: list[Any] = []  # what was noted by its id
        self._in_key = 0

    def key(self, key: str, owner: str) -> str:
        """Note a key of the state, which the root's file has as it is, and return it."""
        if not owner:
            self._is_first(key, owner)
        return key

    def encoded(self, value: Any, path: str, owner: str) -> Any:
        """Return a value as JSON has it; what it has not is a mapping of one key that begins with ``!``.

        Raises
        ------
        UnsupportedObjectError
        """
        try:
            return self._encoded(value, path, owner)
        except RecursionError as error:
            raise UnsupportedObjectError(f"{quote(path)} is nested too deep", fix=_WAY_OUT) from error

    def _is_first(self, text: str, owner: str) -> bool:
        """Whether a text is the very object that was the first such text in a node."""
        self._held.append(text)
        return self._texts.setdefault((owner, text), id(text)) == id(text)

    def _encoded(self, value: Any, path: str, owner: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int):
            return value
        if kind is str:
            return value if self._is_first(value, owner) else {"!str": value}
        if kind is float:
            return value if math.isfinite(value) else {"!float": repr(value)}
        if isinstance(value, torch.Tensor):
            return {"!tensor": self._tensor(value, path)}
        if kind not in (list, tuple, dict, OrderedDict, set, frozenset) or getattr(value, "__dict__", None):
            raise UnsupportedObjectError(
                f"{quote(path)} is a {kind.__module__}.{kind.__qualname__}, which is neither a tensor nor plain data",
                fix=_WAY_OUT,
            )
        if not self._in_key:
            if id(value) in self._numbers:
                return {"!again": self._numbers[id(value)]}
            self._numbers[id(value)] = len(self._numbers)
            self._held.append(value)
        if kind in (list, tuple):
            items = [self._encoded(item, f"{path}[{index}]", owner) for index, item in enumerate(value)]
            return items if kind is list else {"!tuple": items}
        if kind in (set, frozenset):
            return {f"!{kind.__name__}": [self._key(item, f"{path}{{{item!r}}}", owner) for item in ordered(value)]}
        pairs = [
            (self._key(key, path, owner), self._encoded(item, f"{path}[{key!r}]", owner)) for key, item in value.items()
        ]
        if kind is dict and all(type(key) is str and key[:1] != "!" for key, _ in pairs):
            return dict(pairs)
        return {"!dict" if kind is dict else "!odict": pairs}

    def _key(self, value: Any, path: str, owner: str) -> Any:
        """Return what will be hashed, which takes as long as it is: in full, though it be one object in two places."""
        self._in_key += 1
        try:
            return self._encoded(value, path, owner)
        finally:
            self._in_key -= 1

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
        is_whole = tensor.numel() > 0 and fills_storage(tensor)
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
        if type(document["version"]) is not int:
            raise ValueError("it has no version")
        if document["version"] > _VERSION:
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
        self._layouts: dict[str, Any] = {}
        self._made: dict[str, torch.Tensor] = {}
        self._containers: list[Any] = []  # in the order in which they come
        self._texts: dict[tuple[str, str], str] = {}
        self._in_key = 0
        self._large_keys = 0

    def content(self, document: dict[str, Any]) -> Content:
        state = State()
        components = document["components"]
        _check(isinstance(components, list) and "" in components, "the components are no list")
        nodes = set(components)
        for key, value in document["state"].items():
            owner = _owner(key, nodes)
            state[key if owner else self._text(key, owner)] = self._value(value, owner)
        for prefix, local in document["metadata"].items():
            found = self._value(local, _owner(prefix, nodes))
            _check(type(found) is dict, "the facts of a node are no mapping")
            state._metadata[prefix] = {key: item for key, item in found.items() if key != STASH_KEY}
        for prefix in components:
            local = state._metadata[prefix]
            texts = [local[CLASS_KEY], *(local.get(key, "") for key in (VERSION_KEY, SOURCE_KEY, CONFIG_KEY))]
            tags = local.get(TAGS_KEY, {})
            _check(isinstance(tags, dict), "the tags are no mapping")
            texts += [text for item in tags.items() for text in item]
            _check(all(isinstance(text, str) for text in texts), "a class, a config or a tag is no text")
            "".join(texts).encode()  # a ValueError where no file could hold it
        state._metadata[DIRECTORIES_KEY] = set(components)
        packages, requirements, digest = (document[key] for key in ("packages", "requirements", "digest"))
        texts = [text for item in packages.items() for text in item]
        _check(all(isinstance(text, str) for text in texts), "a package has no version")
        _check(requirements is None or isinstance(requirements, str), "the requirements are no text")
        _check(digest in (None, "sha256"), "there is no such digest")
        return Content(state, packages, requirements, digest)

    def _text(self, text: str, owner: str) -> str:
        """Return the one object that stands for a text in a node."""
        return self._texts.setdefault((owner, text), text)

    def _value(self, value: Any, owner: str) -> Any:
        if isinstance(value, str):
            return self._text(value, owner)
        if isinstance(value, list):
            items: list[Any] = self._noted([])
            items.extend(self._value(item, owner) for item in value)
            return items
        if not isinstance(value, dict):
            return value
        tag = next(iter(value), "")
        if tag[:1] == "!":
            _check(len(value) == 1, "a mapping has a key of ours, and others")
            return self._tagged(tag, value[tag], owner)
        made: dict[str, Any] = self._noted({})
        for key, item in value.items():
            made[self._text(key, owner)] = self._value(item, owner)
        return made

    def _tagged(self, tag: str, content: Any, owner: str) -> Any:
        if tag == "!tensor":
            return self._tensor(content)
        if tag == "!str":
            return "".join(list(content))  # an object of its own
        if tag == "!float":
            return float(content)
        if tag == "!again":
            _check(not self._in_key and type(content) is int, "a key refers to what was before it")
            return self._containers[content]
        if tag in ("!dict", "!odict"):
            made = self._noted(OrderedDict() if tag == "!odict" else {})
            for key, item in content:
                first = self._key(key, owner)
                made[first] = self._value(item, owner)
            return made
        kind = {"!tuple": tuple, "!set": set, "!frozenset": frozenset}[tag]
        number = len(self._containers)
        self._noted(None)  # what is inside has later numbers
        inner = self._value if tag == "!tuple" else self._key
        whole = kind([inner(item, owner) for item in content])
        if not self._in_key:
            self._containers[number] = whole
        return whole

    def _noted(self, made: Any) -> Any:
        if not self._in_key:
            self._containers.append(made)
        return made

    def _key(self, value: Any, owner: str) -> Any:
        """Return what will be hashed. Invariant: it holds nothing twice, so that this takes no longer than it is."""
        self._in_key += 1
        if type(value) in (int, float) and abs(value) >= _HASHES:
            self._large_keys += 1
            _check(self._large_keys <= _MOST_LARGE_KEYS, "too many keys are large numbers, whose hashes may collide")
        try:
            return self._value(value, owner)
        finally:
            self._in_key -= 1

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
        layout = dtype, tuple(shape), tuple(stride)
        if name in self._bases:  # with another flag; a second copy would be a way to ask for any amount of memory
            _check(self._layouts[name] == layout, "a tensor lies in two ways")
            return self._bases[name]
        if "dtype" in more:
            tensor = tensor.clone().view(dtype).view(shape)  # of their own, so that they lie at multiples of their size
        elif "stride" in more:
            _check(_span(shape, stride) <= max(tensor.numel(), 1), "a stride does not fit")
            tensor = _strided(tensor, shape, stride)
        self._bases[name], self._layouts[name] = tensor, layout
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
