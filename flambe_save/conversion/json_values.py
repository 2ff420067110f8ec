"""Values as JSON with their tensors beside it, and back; state_json.py makes text of them."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from flambe_save.codecs.data import compact, tie_key
from flambe_save.conversion.tensor_files import DTYPES, METADATA, is_plain, strides
from flambe_save.errors import UnsupportedObjectError, quote
from flambe_save.pt.tensor_info import fills_storage
from flambe_save.state import ordered

_HASHES = 2**61 - 1  # numbers below it have hashes of their own, on every machine of 64 bits
_MOST_LARGE_KEYS = 1000
WAY_OUT = "Convert it to a folder, a .tar.gz or a .pkl, which can hold it."
_KNOWN_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*DTYPES.values(), torch.complex128)}


class ValueWriter:
    """Turns values into JSON values, and collects the tensors.

    One object stays one, texts within a node too: a save that is made of the text then has the same files.

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
        self._held: list[Any] = []  # objects that are noted by their ids
        self._in_key = 0

    def key(self, key: str, owner: str) -> str:
        """Note a key of the state, which the root's file holds unchanged, and return it."""
        if not owner:
            self._is_first(key, owner)
        return key

    def encoded(self, value: Any, path: str, owner: str) -> Any:
        """Return a value in JSON's types; any other is a mapping of one key that begins with ``!``.

        Raises
        ------
        UnsupportedObjectError
        """
        try:
            return self._encoded(value, path, owner)
        except RecursionError as error:
            raise UnsupportedObjectError(f"{quote(path)} is nested too deep", fix=WAY_OUT) from error

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
                fix=WAY_OUT,
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
        """Return a key in full, even where one object is in two places: hashing walks all of it."""
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
                fix=WAY_OUT,
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
        """Note a tensor's elements, unless another has the same; return their name and its facts."""
        tensor = compact(tensor)
        more: dict[str, Any] = {}
        if isinstance(tensor, torch.nn.Parameter):
            more["parameter"] = True
        if tensor.requires_grad:
            more["requires_grad"] = True
        storage = tensor.untyped_storage()
        is_whole = tensor.numel() > 0 and fills_storage(tensor)
        known = self._storages.get(storage._cdata) if is_whole else None
        has_dtype = tensor.dtype in DTYPES.values()
        if known is not None and self.tensors[known].dtype == (tensor.dtype if has_dtype else torch.uint8):
            return known, {**more, "shape": [*tensor.shape], "stride": [*tensor.stride()]}
        name = path
        while name in self.tensors or name == METADATA:
            name += "_"
        if not has_dtype:
            self.tensors[name] = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            more |= {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": [*tensor.shape]}
            return name, more
        self.tensors[name] = tensor
        if is_whole:
            self._storages[storage._cdata] = name
        if tensor.stride() != strides(tensor.shape):
            more["stride"] = [*tensor.stride()]
        return name, more


class ValueReader:
    """Turns JSON values into values, with the tensors at hand."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._bases: dict[str, torch.Tensor] = {}
        self._layouts: dict[str, Any] = {}
        self._made: dict[str, torch.Tensor] = {}
        self._containers: list[Any] = []  # in the order in which they come
        self._texts: dict[tuple[str, str], str] = {}
        self._in_key = 0
        self._large_keys = 0

    def text(self, text: str, owner: str) -> str:
        """Return the one object that stands for a text in a node."""
        return self._texts.setdefault((owner, text), text)

    def value(self, value: Any, owner: str) -> Any:
        """Return a value written by :meth:`ValueWriter.encoded`; a bad one is a ValueError."""
        if isinstance(value, str):
            return self.text(value, owner)
        if isinstance(value, list):
            items: list[Any] = self._noted([])
            items.extend(self.value(item, owner) for item in value)
            return items
        if not isinstance(value, dict):
            return value
        tag = next(iter(value), "")
        if tag[:1] == "!":
            check(len(value) == 1, "a mapping has a key of ours, and others")
            return self._tagged(tag, value[tag], owner)
        made: dict[str, Any] = self._noted({})
        for key, item in value.items():
            made[self.text(key, owner)] = self.value(item, owner)
        return made

    def _tagged(self, tag: str, content: Any, owner: str) -> Any:
        if tag == "!tensor":
            return self._tensor(content)
        if tag == "!str":
            return "".join(list(content))  # an object of its own
        if tag == "!float":
            return float(content)
        if tag == "!again":
            check(not self._in_key and type(content) is int, "a key refers to what was before it")
            return self._containers[content]
        if tag in ("!dict", "!odict"):
            made = self._noted(OrderedDict() if tag == "!odict" else {})
            for key, item in content:
                first = self._key(key, owner)
                made[first] = self.value(item, owner)
            return made
        kind = {"!tuple": tuple, "!set": set, "!frozenset": frozenset}[tag]
        number = len(self._containers)
        self._noted(None)  # what is inside has later numbers
        inner = self.value if tag == "!tuple" else self._key
        whole = kind([inner(item, owner) for item in content])
        if not self._in_key:
            self._containers[number] = whole
        return whole

    def _noted(self, made: Any) -> Any:
        if not self._in_key:
            self._containers.append(made)
        return made

    def _key(self, value: Any, owner: str) -> Any:
        """Return a key that holds nothing twice: hashing it takes no longer than its length."""
        self._in_key += 1
        if type(value) in (int, float) and abs(value) >= _HASHES:
            self._large_keys += 1
            check(self._large_keys <= _MOST_LARGE_KEYS, "too many keys are large numbers, whose hashes may collide")
        try:
            return self.value(value, owner)
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
        check(all(type(number) is int and 0 <= number < 1 << 62 for number in numbers), "a shape is none")
        check(len(shape) == len(stride) <= 64, "a shape is none")
        check(math.prod(shape) * dtype.itemsize == tensor.numel() * tensor.element_size(), "a shape does not fit")
        if "shape" in more and "dtype" not in more:  # it views the memory of another
            base = self._bases[name]
            check(_span(shape, stride) <= base.untyped_storage().nbytes() // dtype.itemsize, "a shape does not fit")
            return torch.empty(0, dtype=dtype).set_(base.untyped_storage(), 0, shape, stride)
        layout = dtype, tuple(shape), tuple(stride)
        if name in self._bases:  # with another flag; a second copy would be a way to ask for any amount of memory
            check(self._layouts[name] == layout, "a tensor lies in two ways")
            return self._bases[name]
        if "dtype" in more:
            tensor = tensor.clone().view(dtype).view(shape)  # a copy lies at a multiple of its elements' size
        elif "stride" in more:
            check(_span(shape, stride) <= max(tensor.numel(), 1), "a stride does not fit")
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


def check(is_so: bool, what: str) -> None:
    """Refuse values that no save holds."""
    if not is_so:
        raise ValueError(what)
