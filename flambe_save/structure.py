"""Structures: an object's config as JSON, with the shapes and types of its arrays beside it, and none of their values.

build_structure and load_structure are inverses; serialise and deserialise are save and load by the names that go with
them. What may be in a structure, and what a load of it may do, is decided where configs are read.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
import yaml as pyyaml

from flambe_save.adapters import Fit, ValueAdapter, adapter_for, get_state, load_state, restore_ties
from flambe_save.api import load, save
from flambe_save.classes.registrable import TAGS, dotted_path
from flambe_save.config.dialect import CORE
from flambe_save.config.nodes import parse, split_documents
from flambe_save.describing.represent import Representer, serialize
from flambe_save.errors import (
    ConfigError,
    FlambeSaveError,
    RegistrationError,
    StateMismatchError,
    UnsupportedObjectError,
    quote,
)
from flambe_save.formats import Saved
from flambe_save.layout import CONFIG_KEY, STASH_KEY, TAGS_KEY
from flambe_save.loading import build
from flambe_save.objects.arguments import Trail, keys_of
from flambe_save.objects.values import BY_TAG
from flambe_save.pt import LoadOptions
from flambe_save.schema.link import TensorLink
from flambe_save.schema.schema import Reference
from flambe_save.state import State, join_key, split_key
from flambe_save.support.trampoline import Steps, run
from flambe_save.tree import join_prefix, place_key, tree_from_state
from flambe_save.trust import Limits, Trust

__all__ = ["build_structure", "deserialise", "load_structure", "serialise"]

Entry: TypeAlias = "dict[str, Any]"

# The tags of a config whose types are not told by a dotted path of their own
_TYPES = {
    **{CORE + tag: f"builtins.{name}" for tag, name in (("null", "NoneType"), ("binary", "bytes"))},
    **{CORE + tag: f"builtins.{tag}" for tag in ("bool", "int", "float", "str")},
    **{CORE + tag: f"builtins.{name}" for tag, name in (("map", "dict"), ("seq", "list"))},
    **{f"!{tag}": f"builtins.{tag}" for tag in ("type", "function")},
    **{f"!{tag}": dotted_path(value.type) for tag, value in BY_TAG.items()},
    "!path": "pathlib.Path",  # where its class is depends on the system
}
_TAGS = {path: tag for tag, path in _TYPES.items()} | dict.fromkeys(
    ("datetime.date", "datetime.datetime"), CORE + "timestamp"
)
_LISTS = (CORE + "seq", "!tuple", "!set", "!frozenset", "!range", "!slice", "!torch.Size")
_OF_ITEMS = ("!builtins.dict", "!collections.OrderedDict", "!collections.Counter")  # {items: [[key, value], ...]}
_TENSOR, _PARAMETER, _ARRAY = "torch.Tensor", dotted_path(torch.nn.Parameter), "numpy.ndarray"
_NUMPY_TYPE = re.compile(r"[<>|][a-zA-Z][0-9]+(\[[0-9]*[a-zA-Z]+\])?")
_KEYS = {  # of each entry, which it has to have and which it may
    "container": ({"type", "node"}, {"tag", "form", "arrays", "extensions"}),
    "leaf": ({"type", "value"}, {"tag", "arrays", "extensions"}),
    "array": ({"type", "shape", "dtype"}, {"requires_grad", "device"}),
    "link": ({"type", "value"}, {"tag"}),
    "reference": ({"to"}, set()),
}


def build_structure(obj: Any) -> Entry:
    """Describe an object as dicts, lists, texts and numbers, which JSON holds; :func:`load_structure` is the inverse.

    Parameters
    ----------
    obj : object
        Anything that :func:`save` writes without a pickle.

    Returns
    -------
    dict
        An entry: ``node_type`` (container, leaf or reference), ``type`` (a dotted path), and what docs/structure.md
        says. It shares nothing with the object.

    Raises
    ------
    UnsupportedObjectError
        If a part can neither be told by its type and arguments nor is an array; the message says where it is.
    ConfigError
        If a config cannot hold a value, such as a text with half a surrogate pair.

    Examples
    --------
    >>> build_structure({"sizes": (3, 4)})["node"]["sizes"]["node"]["0"]
    {'node_type': 'leaf', 'type': 'builtins.int', 'value': 3}
    """
    state = get_state(obj, keep_vars=True)
    facts = state._metadata[""]
    if not facts.get(CONFIG_KEY):
        raise UnsupportedObjectError(f"it is not known how this {type(obj).__qualname__} was built", fix=_WAYS_OUT)
    extensions, document = split_documents(parse(facts[CONFIG_KEY]))
    describing = _Describing(state, facts.get(TAGS_KEY, {}), facts.get(STASH_KEY, {}))
    root: Entry = run(describing.entry(document.root, None))
    known: dict[int, str] = {}
    for key, value in _held(obj, state).items():
        owner, name = _owner_of(key, root)
        is_tied = known.setdefault(id(value), key) != key and isinstance(value, torch.nn.Parameter)
        described = {"node_type": "reference", "to": known[id(value)]} if is_tied else _array(value, key)
        owner.setdefault("arrays", {})[name] = described
    return {**root, "extensions": extensions} if extensions else root


def load_structure(structure: Mapping[str, Any], *, trusted: Iterable[str] = (), limits: Limits | None = None) -> Any:
    """Build the object that a structure describes, with zeros in its arrays. Inverse of :func:`build_structure`.

    Parameters
    ----------
    structure : dict
        Left as it is. One from a stranger runs nothing, as a save that is loaded.
    trusted : list of str
        As :func:`load`.
    limits : Limits, optional
        ``built_bytes`` is how many bytes the arrays may take, all together; they are counted before they are made.

    Returns
    -------
    object
        Its arrays are on the CPU. What a state holds beside arrays is as constructors leave it.

    Raises
    ------
    ConfigError
        If it is no structure, or does not fit the classes.
    UntrustedError, MissingExtensionError
        If it asks for more than classes that this program has imported and registered.
    LimitError
        If its arrays are larger than ``limits`` allows.
    StateMismatchError
        If the built object has other arrays.
    """
    trust = Trust.of(trusted=trusted, limits=limits)
    reading = _Reading(trust)
    try:
        nodes: list[pyyaml.Node] = [run(reading.node(structure, None, reading.root))]
        if structure.get("extensions"):
            nodes.insert(0, Representer(None).represent_data(structure["extensions"]))
        trust.check_size(sum(item.bytes for table in (reading.leaves, reading.arrays) for item in table.values()), 0)
        leaves = {key: item.zeros() for key, item in reading.leaves.items()}
        arrays = {key: item.zeros() for key, item in reading.arrays.items()}
        described = State()
        described._metadata[""] = {CONFIG_KEY: serialize(nodes)}
        saved = Saved(tree_from_state(described), tags=reading.tags, is_vouched_for=True)
        obj = build(saved, State({**leaves, **arrays}), LoadOptions(trust), "", "")
        _fill(obj, arrays, reading.ties)
    except FlambeSaveError as error:
        error.file = None  # there is no config.yaml, and so no line of it
        error.message = re.sub(r"^line [0-9]+: ", "", error.message)
        for said, meant in (("load(...", "load_structure(..."), ("in config.yaml", "in the structure")):
            error.fix = error.fix and error.fix.replace(said, meant)
        if "weights_only" in (error.fix or ""):
            error.fix = "A structure is never trusted with everything: build the object yourself, or save and load it."
        raise
    return obj


def serialise(path: Any, obj: Any, **options: Any) -> str:
    """Save an object: :func:`save` with the path first, or last; what is a text or a path is the path.

    Parameters
    ----------
    path : str or path
    obj : object
    **options
        Those of :func:`save`, which says what is raised, too.

    Returns
    -------
    str
        The path of the save.

    Raises
    ------
    TypeError
        If both are paths, or neither is.
    """
    are_paths = [isinstance(item, (str, os.PathLike)) for item in (path, obj)]
    if all(are_paths):
        raise TypeError("both arguments are texts or paths, so which is the path? Write save(obj, path).")
    if not any(are_paths):
        raise TypeError("neither argument is a path: serialise(path, obj)")
    return save(obj, path, **options) if are_paths[0] else save(path, obj, **options)


def deserialise(path: str | os.PathLike[str], **options: Any) -> Any:
    """Load an object. Inverse of :func:`serialise`; options, what is returned and what is raised are those of
    :func:`load`.
    """
    return load(path, **options)


# ------------------------------------------------------------------------------------------------ arrays

_WAYS_OUT = (
    "Build it inside `with flambe_save.recording():`, so that its arguments are known; register an adapter for its "
    "class; or leave it out."
)


class _Zeros(NamedTuple):
    """What an entry says of an array."""

    kind: str
    shape: list[int]
    dtype: Any
    requires_grad: bool

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * int(self.dtype.itemsize)

    def zeros(self) -> Any:
        try:
            if self.kind == _ARRAY:
                return sys.modules["numpy"].zeros(self.shape, self.dtype)
            made = torch.zeros(self.shape, dtype=self.dtype, device="cpu")
            if self.kind == _PARAMETER:
                return torch.nn.Parameter(made, self.requires_grad)
            return made.requires_grad_(self.requires_grad)
        except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
            raise ConfigError(f"no array is {self}: {str(error)[:200]}", fix="Correct the structure.") from error


def _array(value: Any, where: str) -> Entry:
    """Describe an array."""
    kind = dotted_path(type(value))
    entry = {"node_type": "leaf", "type": kind, "shape": list(getattr(value, "shape", ()))}
    if kind in (_TENSOR, _PARAMETER) and value.layout is torch.strided and not value.is_quantized:
        facts = {"device": str(value.device), "requires_grad": value.requires_grad}
        return {**entry, "dtype": str(value.dtype), **facts}
    if kind == _ARRAY and _NUMPY_TYPE.fullmatch(value.dtype.str) and not (value.dtype.hasobject or value.dtype.names):
        return {**entry, "dtype": value.dtype.str}
    what = f"{kind} of type {value.dtype}" if hasattr(value, "dtype") else kind
    raise UnsupportedObjectError(f"{where} is a {what}, which a structure cannot describe", fix=_WAYS_OUT)


def _held(obj: Any, state: State) -> dict[str, Any]:
    """Return the arrays that objects in a tree hold, by their keys in the state; those of containers are leaves."""
    numpy = sys.modules.get("numpy")
    kinds = (torch.Tensor,) if numpy is None else (torch.Tensor, numpy.ndarray)
    inside = {*state.components} - {""} if isinstance(adapter_for(obj), ValueAdapter) else None
    arrays = {key: value for key, value in state.items() if isinstance(value, kinds)}
    return {key: value for key, value in arrays.items() if inside is None or place_key(key, inside)[0]}


def _fill(obj: Any, arrays: Mapping[str, Any], ties: Mapping[str, str]) -> None:
    """Give an object that was just built arrays of the described shapes and types, and zeros in them."""
    state = get_state(obj)
    held = _held(obj, state)
    for key in held.keys() - arrays.keys():
        del state[key]
    for key, zeros in arrays.items():
        # Else its own values: a generator's are not to be zeros
        if key not in held or (held[key].shape, held[key].dtype) != (zeros.shape, zeros.dtype):
            state[key] = zeros.detach() if isinstance(zeros, torch.Tensor) else zeros
    load_state(obj, state, fit=Fit())
    restore_ties(obj, ([first, key] for key, first in ties.items()))
    made = get_state(obj, keep_vars=True) if arrays else {}
    for key, zeros in arrays.items():
        value: Any = made.get(key)
        if type(value) is not type(zeros) or (value.shape, value.dtype) != (zeros.shape, zeros.dtype):
            raise StateMismatchError(f"{quote(key)} is no {type(zeros).__qualname__}", fix="Correct the structure.")
        try:
            with torch.no_grad():
                value[...] = zeros
            if isinstance(value, torch.nn.Parameter):
                value.requires_grad_(zeros.requires_grad)
        except (RuntimeError, ValueError) as error:  # views that repeat memory, arrays that are read-only
            raise StateMismatchError(f"{quote(key)} cannot be filled: {str(error)[:200]}", fix=_WAYS_OUT) from error


# ------------------------------------------------------------------------------------------------ config to entries


def _key_of(path: Trail) -> str:
    """Return a path as a key of a state; only where it is to be written, since it is as long as the path is deep."""
    return join_key(keys_of(path))


def _owner_of(key: str, root: Entry) -> tuple[Entry, str]:
    """Return the innermost container that a key leads through, and what is left of the key."""
    entry, parts = root, key.split(".")
    for index, part in enumerate(parts[:-1]):
        inner = entry.get("node", {}).get(split_key(part)[0])
        if inner is None or inner["node_type"] != "container":
            return entry, ".".join(parts[index:])
        entry = inner
    return entry, parts[-1]


class _Describing:
    """Turns the nodes of a config into entries."""

    def __init__(self, state: State, tags: Mapping[str, str], stash: Mapping[str, Any]) -> None:
        self._state = state
        self._tags = tags
        self._stash = stash
        self._paths: dict[int, Trail] = {}

    def entry(self, node: pyyaml.Node, path: Trail) -> Steps:
        """Return the entry of a node."""
        if isinstance(node, pyyaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._paths:
            return {"node_type": "reference", "to": _key_of(self._paths[id(node)])}
        self._paths[id(node)] = path
        entry: Entry = {"node_type": "container", **self._type(node.tag)[1]}
        form, children = _children(node)
        if form != _form_of(node.tag):
            entry["form"] = form
        entry["node"] = {}
        for name, child in children:
            entry["node"][name] = yield self.entry(child, (path, name))
        return entry

    def _type(self, tag: str) -> tuple[type | None, Entry]:
        """Return what an entry says of a tag, and the class that it names."""
        if tag in _TYPES:
            return None, {"type": _TYPES[tag]}
        name = tag[1:]
        path = self._tags.get(name, name)
        cls, _ = TAGS.resolve(name, path, lambda _: True)
        is_implied = name in (path, TAGS.tag_of(cls)) and path not in _TAGS
        return cls, {"type": path} if is_implied else {"type": path, "tag": name}

    def _scalar(self, node: pyyaml.ScalarNode, path: Trail) -> Entry:
        tag, text = node.tag, node.value
        if tag == CORE + "timestamp":
            return {"node_type": "leaf", "type": f"datetime.date{'time' * (len(text) > 10)}", "value": text}
        if tag == "!$":
            return self._shared(self._stash[text], getattr(self._stash, "paths", {}).get(text), path)
        cls, entry = self._type(tag)
        if cls is TensorLink:
            return self._shared(self._state[text], None, path)
        if tag == "!type":
            text = self._tags.get(text, text)
        is_link = cls is not None and issubclass(cls, Reference)
        return {"node_type": "reference" if is_link else "leaf", **entry, "value": _value(tag, text)}

    def _shared(self, value: Any, where: str | None, path: Trail) -> Entry:
        """Return the entry of an array, or that of its second mention."""
        first = self._paths.setdefault(id(value), path)
        if first is not path:
            return {"node_type": "reference", "to": _key_of(first)}
        return _array(value, (_key_of(path) if where is None else where) or "it")


def _value(tag: str, text: str) -> Any:
    """Return what JSON holds for a text of a config: itself, but for what JSON says as exactly."""
    if tag == CORE + "null":
        return None
    if tag == CORE + "bool":
        return text.lower() == "true"
    if tag == CORE + "int" and re.fullmatch("-?[0-9]{1,15}", text):  # of more, others would read a float
        return int(text)
    return float(text) if tag == CORE + "float" and text[-1].isdigit() else text


def _form_of(tag: str) -> str:
    """Return how parts are named under a tag where an entry does not say: by index, or by a text."""
    return "list" if tag in _LISTS else "names"


def _children(node: Any) -> tuple[str, list[tuple[str, Any]]]:
    """Return how a collection's parts are named, and the parts by their names."""
    if isinstance(node, pyyaml.SequenceNode) and node.tag != "!odict":
        return "list", [(str(index), item) for index, item in enumerate(node.value)]
    pairs = node.value
    if node.tag in _OF_ITEMS and len(pairs) > 1:  # attributes too
        return "parts", [(key.value, value) for key, value in pairs]
    if node.tag in _OF_ITEMS:
        pairs = pairs[0][1].value
    if node.tag in (*_OF_ITEMS, "!odict"):
        pairs = [pair.value for pair in pairs]
    if all(key.tag == CORE + "str" for key, _ in pairs):
        return "names", [(key.value, value) for key, value in pairs]
    numbered = ((f"key {index}", f"value {index}") for index in range(len(pairs)))
    return "pairs", [
        item for names, pair in zip(numbered, pairs, strict=True) for item in zip(names, pair, strict=True)
    ]


# ------------------------------------------------------------------------------------------------ entries to config


class _Made:
    """The node that was made of an entry, and what of its parts, by their names."""

    __slots__ = ("node", "parts")

    def __init__(self) -> None:
        self.node: pyyaml.Node | None = None
        self.parts: dict[str, _Made] = {}


class _Reading:
    """Turns entries into the nodes of a config.

    Attributes
    ----------
    root : _Made
    tags : dict of str to str
        Tag -> dotted path of its class.
    leaves, arrays : dict of str to _Zeros
        By their keys in a state: arrays that the config names, and those that objects hold.
    ties : dict of str to str
        Key of an array -> key of the one that it is.
    """

    def __init__(self, trust: Trust) -> None:
        self.tags: dict[str, str] = {}
        self.leaves: dict[str, _Zeros] = {}
        self.arrays: dict[str, _Zeros] = {}
        self.ties: dict[str, str] = {}
        self.root = _Made()
        self._trust = trust

    def node(self, entry: Any, path: Trail, place: _Made) -> Steps:
        """Return the node of an entry, and note it in its place."""
        shape = _check(entry, path)
        made: Any
        if shape == "reference":
            made = self._before(entry["to"])
            if made is None:
                raise _wrong(path, f"{quote(entry['to'])} leads to nothing before it")
            return made
        if shape == "array":
            key = f"array {len(self.leaves)}"
            self.leaves[key] = _zeros_of(entry, path)
            made = place.node = pyyaml.ScalarNode(self._tag({"type": dotted_path(TensorLink)}), key)
            return made
        tag = self._tag(entry)
        if shape != "container":
            made = place.node = pyyaml.ScalarNode(tag, self._text(entry, tag, path))
        else:
            form, parts = entry.get("form", _form_of(tag)), entry["node"]
            if not isinstance(parts, dict) or [*parts] != _names(form, parts):
                raise _wrong(path, f"its parts are not named as those of the form {quote(form)} are")
            made = (pyyaml.SequenceNode if form == "list" else pyyaml.MappingNode)(tag, [], flow_style=True)
            place.node = made
            built = []
            for name, part in parts.items():
                inner = place.parts[name] = _Made()
                built.append((yield self.node(part, (path, name), inner)))
            if form in ("names", "parts"):
                built = [item for name, part in zip(parts, built, strict=True) for item in (_text_node(name), part)]
            made.value = built if form == "list" else [*zip(built[::2], built[1::2], strict=True)]
            if tag in (*_OF_ITEMS, "!odict") and form not in ("list", "parts"):
                made = place.node = _as_items(made)
        self._read_arrays(entry.get("arrays", {}), path)
        return made

    def _before(self, key: str) -> pyyaml.Node | None:
        """Return the node that was made at a place; None where there is none yet."""
        place: _Made | None = self.root
        for part in split_key(key) if key else ():
            place = place.parts.get(part) if place is not None else None
        return None if place is None else place.node

    def _tag(self, entry: Entry) -> str:
        """Return the tag that an entry's type is written with, and note what it means."""
        path = entry["type"]
        tag = entry.get("tag")
        if tag is None and path in _TAGS:
            return _TAGS[path]
        if tag is None:
            try:
                tag = TAGS.tag_of(TAGS.resolve(path, path, self._trust.allows)[0])
            except RegistrationError:  # whoever checks the config says what is to be done
                tag = path
        self.tags[tag] = path
        return f"!{tag}"

    def _text(self, entry: Entry, tag: str, path: Trail) -> str:
        """Return a leaf's value as the config has it; whether it is one of its type is seen when that is read."""
        value = entry["value"]
        if isinstance(value, str):
            if tag == "!type" and value not in _TAGS:
                self.tags[value] = value
            return value
        if type(value) not in (type(None), bool, int, float) or tag == CORE + "str" or not tag.startswith(CORE):
            raise _wrong(path, f"a {type(value).__name__} is no value of a {quote(entry['type'])}")
        try:
            return str(Representer(None).represent_data(value).value)
        except UnsupportedObjectError as error:  # an int of too many digits
            raise _wrong(path, error.message) from error

    def _read_arrays(self, arrays: Any, path: Trail) -> None:
        if not isinstance(arrays, dict) or not all(isinstance(name, str) for name in arrays):
            raise _wrong(path, "its arrays are no dict by names")
        begin = _key_of(path) if arrays else ""
        for name, entry in arrays.items():
            key = join_prefix(begin, name)
            shape = _check(entry, key)
            if shape == "reference":
                self.ties[key] = entry["to"]
                if entry["to"] not in self.arrays:
                    raise _wrong(key, f"{quote(entry['to'])} is no array before it")
            elif shape != "array" or key in self.arrays:
                raise _wrong(key, "it is no array, or there twice")
            self.arrays[key] = self.arrays[entry["to"]] if shape == "reference" else _zeros_of(entry, key)


def _wrong(where: Trail | str, what: str) -> ConfigError:
    path = where if isinstance(where, str) else _key_of(where)
    return ConfigError(f"at {quote(path)}: {what}" if path else what, fix="Make the structure with build_structure.")


def _check(entry: Any, path: Trail | str) -> str:
    """Return which of the five shapes an entry has."""
    if not isinstance(entry, dict):
        raise _wrong(path, "an entry is a dict")
    kind = entry.get("node_type")
    shape = (
        "array" if kind == "leaf" and "shape" in entry else "link" if kind == "reference" and "type" in entry else kind
    )
    needed, more = _KEYS[shape] if isinstance(shape, str) and shape in _KEYS else ({"node_type"}, set())
    keys = entry.keys() - {"node_type"}
    if not needed <= keys <= needed | more:
        raise _wrong(path, f"a {quote(kind)} with the keys {quote(sorted(map(str, keys)))} is no entry")
    if not all(isinstance(entry.get(name, ""), str) for name in ("type", "tag", "to")):
        raise _wrong(path, "a type, a tag or a path is no text")
    return str(shape)


def _names(form: Any, parts: Mapping[str, Any]) -> list[str] | None:
    """Return how parts must be named, in order."""
    if form in ("names", "parts"):
        return [name for name in parts if isinstance(name, str)]
    if form == "list":
        return [str(index) for index in range(len(parts))]
    return (
        [f"{what} {index}" for index in range(len(parts) // 2) for what in ("key", "value")]
        if form == "pairs"
        else None
    )


def _text_node(text: str) -> pyyaml.Node:
    return pyyaml.ScalarNode(CORE + "str", text)


def _as_items(node: pyyaml.MappingNode) -> pyyaml.Node:
    """Return a mapping as the list of pairs that the config says it by. Inverse of what :func:`_children` undoes."""
    pairs: list[Any] = [pyyaml.SequenceNode(CORE + "seq", [*pair], flow_style=True) for pair in node.value]
    if node.tag not in _OF_ITEMS:
        return pyyaml.SequenceNode(node.tag, pairs, flow_style=True)
    items = pyyaml.SequenceNode(CORE + "seq", pairs, flow_style=True)
    return pyyaml.MappingNode(node.tag, [(_text_node("items"), items)], flow_style=True)


def _zeros_of(entry: Entry, path: Trail | str) -> _Zeros:
    """Read what an entry says of an array, and nothing else, so that it can be counted."""
    kind, shape, name, requires_grad = entry["type"], entry["shape"], entry["dtype"], entry.get("requires_grad", False)
    are_sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not are_sizes or not isinstance(name, str) or type(requires_grad) is not bool:
        raise _wrong(path, "an array has a list of sizes, a type, and requires its gradient or not")
    if kind in (_TENSOR, _PARAMETER):
        return _Zeros(kind, shape, BY_TAG["torch.dtype"].build(name.removeprefix("torch.")), requires_grad)
    if kind != _ARRAY or not _NUMPY_TYPE.fullmatch(name) or "numpy" not in sys.modules:
        raise _wrong(path, f"no {quote(kind)} of {quote(name)} can be made; numpy's need numpy to be imported")
    try:
        dtype = sys.modules["numpy"].dtype(name)
    except (TypeError, ValueError) as error:
        raise _wrong(path, f"{quote(name)} is no type of an array: {error}") from error
    if dtype.hasobject:
        raise _wrong(path, "an array of objects is no data")
    return _Zeros(kind, shape, dtype, False)
