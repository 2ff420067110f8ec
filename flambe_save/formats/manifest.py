"""Manifest: the list of a save's contents, written last: a save that has it is whole.

The keys are documented in docs/format.md; a change of their meaning is a change of ``MANIFEST_VERSION``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flambe_save._version import __version__
from flambe_save.errors import CorruptSaveError, ProtocolError, quote, quote_some
from flambe_save.formats.plan import FileStats
from flambe_save.layout import HIGHEST_PROTOCOL, MANIFEST_FILE, PROTOCOL
from flambe_save.pt import TensorInfo, is_tensor
from flambe_save.support.checksum import crc32, sha256_of

if TYPE_CHECKING:
    from importlib.metadata import Distribution

_FORMAT = "flambe_save"
MANIFEST_VERSION = 1
HAS_MANIFEST = "# of a save by flambe_save, which has a manifest.json"  # shows that a manifest was lost
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a package
_NAME_LINE, _VERSION_LINE = (re.compile(rf"^{key}: *(.+?)[ \r]*$", re.MULTILINE) for key in ("Name", "Version"))
_HEAD = 4096  # bytes of a package's metadata, which has its name and version in the first lines
_MOST_NAMES = 100  # of packages whose versions are compared
_PYTHON = ".".join(map(str, sys.version_info[:3]))
_MOST_AXES = 1000  # of a tensor
_ENDING = b',\n  "crc32": "%08x"\n}\n'  # of all the bytes before it
_ENDING_PATTERN = re.compile(rb',\n  "crc32": "([0-9a-f]{8})"\n}\n\Z')


@dataclass
class Manifest:
    """The root document of a save.

    Attributes
    ----------
    protocol : int
    writer : str
        The package and version that wrote it.
    packages : dict of str to str
        Versions of Python, of the core packages, and of those whose classes the tags name.
    tags : dict of str to str
        Tag -> dotted path of its class.
    nodes : dict of str to dict
        Prefix -> ``folder``, ``class``, ``version`` and ``tensors``: key -> ``dtype``, ``shape``, ``bytes``.
    ties : list of list of str
        Groups of state keys whose tensors are one.
    needs_trust : list of str
        Where the save holds more than data.
    files : dict of str to dict
        Name -> ``bytes``, ``crc32`` (8 hex digits) and, where asked for, ``sha256``: of every file but this one.
    """

    protocol: int = PROTOCOL
    writer: str = f"flambe_save {__version__}"
    packages: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    ties: list[list[str]] = field(default_factory=list)
    needs_trust: list[str] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def digest(self) -> str | None:
        """The digest that files have beside checksums."""
        return "sha256" if any("sha256" in entry for entry in self.files.values()) else None

    @property
    def folders(self) -> dict[str, str]:
        """The folder of each node by its prefix, with a slash after it unless it is the root."""
        return {prefix: f"{node['folder']}/" if node["folder"] else "" for prefix, node in self.nodes.items()}

    def to_json(self) -> bytes:
        """Return the document. Inverse of :meth:`from_json`."""
        entries = {"format": _FORMAT, "manifest": MANIFEST_VERSION, **vars(self)}.items()
        body = "{\n" + ",\n".join([f"  {_encode(key)}: {_pretty(value, '  ')}" for key, value in entries])
        data = body.encode()
        return data + _ENDING % crc32(data)

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read the document.

        Raises
        ------
        CorruptSaveError
            If it is not a manifest, or does not match its own checksum.
        ProtocolError
            If a newer version wrote it.
        """
        ending = _ENDING_PATTERN.search(data)
        is_whole = ending is not None and int(ending[1], 16) == crc32(data[: ending.start()])
        try:
            document = json.loads(data)
            version, protocol = document.pop("manifest", None), document.get("protocol")
            are_numbers = type(version) is int and type(protocol) is int
            if are_numbers and (version > MANIFEST_VERSION or protocol > HIGHEST_PROTOCOL):
                raise ProtocolError(
                    f"the save was written by {quote(document.get('writer', 'something'))}, whose format is newer",
                    file=MANIFEST_FILE,
                    fix="pip install --upgrade flambe_save",
                )
            if not is_whole:
                raise ValueError("its content does not match its checksum")
            if document.pop("format") != _FORMAT or not are_numbers:
                raise ValueError("the format is not flambe_save")
            del document["crc32"]
            manifest = cls(**document)
            manifest._check_types()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptSaveError(
                f"the manifest cannot be read: {str(error)[:200]}",
                file=MANIFEST_FILE,
                fix="Take it from a copy of the save; without it, the save loads with fewer checks.",
            ) from error
        return manifest

    def add_files(self, facts: Mapping[str, FileStats]) -> None:
        """Note the sizes and checksums of files, and their digests where there are such."""
        for name, (size, checksum, digest) in facts.items():
            self.files[name] = {"bytes": size, "crc32": f"{checksum:08x}"}
            if digest is not None:
                self.files[name]["sha256"] = digest

    def check_names(self, names: Iterable[str], folder: str = "") -> None:
        """Compare the files of a save with the listing.

        Parameters
        ----------
        names : iterable of str
        folder : str
            Only names that begin so are compared.

        Raises
        ------
        CorruptSaveError
            If files are missing or not listed; the message names all.
        """
        there = set(names) - {MANIFEST_FILE}
        listed = {name for name in self.files if name.startswith(folder)}
        missing, extra = sorted(listed - there), sorted(there - listed)
        if missing or extra:
            lines = [f"missing: {quote_some(missing)}"] if missing else []
            lines += [f"not of this save: {quote_some(extra)}"] if extra else []
            raise CorruptSaveError(
                f"the files are not those that were saved; {'; '.join(lines)}",
                file=missing[0] if missing else extra[0],
                fix="Take missing files from a copy; move foreign ones elsewhere. If you changed them on purpose: "
                "reseal(path), or flambe-save reseal PATH.",
            )

    def check_node(self, prefix: str, folder: str, class_name: str, version: str) -> None:
        """Compare a node's folder with its entry.

        Raises
        ------
        CorruptSaveError
            If they differ.
        """
        entry = self.nodes.get(prefix, {})
        there, listed = (folder, class_name, version), tuple(entry.get(key) for key in ("folder", "class", "version"))
        if there != listed:
            raise CorruptSaveError(
                f"the manifest lists {quote(listed)} for this node, and its folder says {quote(there)}",
                node=prefix,
                file=MANIFEST_FILE,
                fix="One of them was changed; take the save from a copy.",
            )

    def check_size(self, name: str, size: int) -> None:
        """Compare a file's size, before it is read.

        Raises
        ------
        CorruptSaveError
            If it differs.
        """
        if size != self.files[name]["bytes"]:
            raise self._damaged(name, f"it has {size} bytes, and {self.files[name]['bytes']} were saved")

    def check_file(self, name: str, checksum: int) -> None:
        """Compare the CRC-32 of a file's bytes.

        Raises
        ------
        CorruptSaveError
            If it differs.
        """
        if f"{checksum:08x}" != self.files[name]["crc32"]:
            raise self._changed(name)

    def check_digest(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Compare a file's bytes with its SHA-256, if the manifest has that.

        Raises
        ------
        CorruptSaveError
            If it differs.
        """
        noted = self.files[name].get("sha256")
        if noted is None:
            return
        if sha256_of(pieces) != noted:
            raise self._changed(name)

    def passes(self, name: str) -> int:
        """Return how often a file is read to verify it: twice if it has a SHA-256."""
        return 2 if "sha256" in self.files[name] else 1

    def _changed(self, name: str) -> CorruptSaveError:
        return self._damaged(name, "its content is not what was saved")

    def _damaged(self, name: str, what: str) -> CorruptSaveError:
        return CorruptSaveError(
            f"the file is damaged, or was changed: {what}",
            file=name,
            fix="Take it from a copy of the save; if you edited it: reseal(path), or flambe-save reseal PATH.",
        )

    def _check_types(self) -> None:
        tables: tuple[Mapping[str, Any], ...] = (self.packages, self.tags, self.nodes, self.files)
        if not all(isinstance(table, dict) for table in tables):
            raise TypeError("a table is not a table")
        texts = [self.writer, *self.packages.values(), *self.tags.values(), *self.needs_trust]
        if not isinstance(self.needs_trust, list) or not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is not a text")
        for entry in self.files.values():
            if not (type(entry["bytes"]) is int and entry["bytes"] >= 0 and isinstance(entry["crc32"], str)):
                raise TypeError("a file's entry has no size or checksum")
            if not isinstance(entry.get("sha256", ""), str):
                raise TypeError("a file's digest is not a text")
        for node in self.nodes.values():
            if not isinstance(node["folder"], str):
                raise TypeError("a node's entry has no folder")
        if not all(isinstance(group, list) and all(isinstance(key, str) for key in group) for group in self.ties):
            raise TypeError("the ties are not lists of keys")


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 63


_encode = json.JSONEncoder().encode
_encode_table = json.JSONEncoder(separators=("\0", ": ")).encode  # no text in JSON has a bare zero in it


def _pretty(value: Any, indent: str = "") -> str:
    """Return JSON with a line for each entry, but not for each number of a shape."""
    if not _holds_dicts(value):
        return _encode(value)
    deeper, first = indent + "  ", next(iter(value.values()))
    if isinstance(first, dict) and not _holds_dicts(first):  # a table, as of files and of tensors: encoded at once
        inner = _encode_table(value)[1:-1].replace("}\0", "},\n" + deeper).replace("\0", ", ")
        return f"{{\n{deeper}{inner}\n{indent}}}"
    entries = [f"{deeper}{encode_basestring_ascii(key)}: {_pretty(item, deeper)}" for key, item in value.items()]
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def _holds_dicts(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, dict) for item in value.values())


def tensor_facts(
    values: Mapping[str, Any], known: dict[Any, dict[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """Return dtype, shape, bytes and device of each tensor of a node; equal facts are one dict.

    The device is left out if it is the CPU. ``known`` keeps the facts, for other nodes. Inverse of :func:`tensors_of`.
    """
    known = {} if known is None else known
    found = {}
    for key, value in values.items():
        if is_tensor(value) and not value.is_nested:
            kind = value.dtype, value.shape, value.layout, value.device
            facts = known.get(kind)
            if facts is None:
                dtype, shape, size, device = TensorInfo.of(value, str(value.device))
                facts = known[kind] = {"dtype": dtype, "shape": list(shape), "bytes": size}
                if device != "cpu":
                    facts["device"] = device
            found[key] = facts
    return found


def tensors_of(facts: Any, known: dict[Any, TensorInfo]) -> dict[str, TensorInfo]:
    """Parse the facts of a node's tensors; ``known`` keeps results for equal facts.

    Raises
    ------
    CorruptSaveError
        If these are not facts of tensors.
    """
    found = {}
    try:
        for key, entry in facts.items():
            kind = entry["dtype"], entry.get("device", "cpu"), entry["bytes"], *entry["shape"]
            info = known.get(kind)
            if info is None:
                dtype, device, size, *shape = kind
                are_texts = isinstance(dtype, str) and isinstance(device, str)
                are_sizes = len(shape) <= _MOST_AXES and all(map(_is_size, shape)) and (size is None or _is_size(size))
                if not (are_texts and are_sizes and _is_size(math.prod(shape))):
                    raise ValueError(f"{quote(key)} is described as {quote(entry)}")
                info = known[kind] = TensorInfo(dtype, tuple(shape), size, device)
            found[key] = info
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CorruptSaveError(f"the manifest has invalid facts of tensors: {error}", file=MANIFEST_FILE) from error
    return found


def find_ties(items: Iterable[tuple[str, Any]]) -> list[list[str]]:
    """Return the groups of a state's keys that share one tensor: same memory, type and layout.

    Each group has two keys or more.
    """
    import torch  # as tensors do

    from flambe_save.codecs.data import tie_key

    tensors = [(key, value) for key, value in items if is_tensor(value)]
    # Addresses of plain ones are quick to ask for, and nearly all differ; a tensor of another kind may have none
    kinds = (torch.Tensor, torch.nn.Parameter)
    are_plain = all(type(one) in kinds and one.layout is torch.strided and not one.is_nested for _, one in tensors)
    addresses = [value.data_ptr() if are_plain else 0 for _, value in tensors]
    counts = Counter(addresses)
    groups: dict[Any, list[str]] = {}
    for (key, value), address in zip(tensors, addresses, strict=True):
        shared = tie_key(value) if counts[address] > 1 else None
        if shared is not None:
            groups.setdefault(shared, []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


@functools.cache
def _installed() -> dict[str, str]:
    from importlib.metadata import distributions

    return dict(found for found in map(_name_and_version, distributions()) if found is not None)


def _name_and_version(item: Distribution) -> tuple[str, str] | None:
    """Return both from the first lines of a package's metadata, without its description.

    ``item.metadata`` would parse all of it, and take a hundred times as long.
    """
    folder: Any = getattr(item, "_path", None)  # of packages in folders, as nearly all are
    name = version = None
    for file in ("METADATA", "PKG-INFO") if isinstance(folder, Path) else ():
        with contextlib.suppress(OSError), open(os.path.join(folder, file), "rb") as opened:
            text = opened.read(_HEAD).decode("utf-8", "replace")
            name, version = _NAME_LINE.search(text), _VERSION_LINE.search(text)
            break
    if name is None or version is None:
        text = item.read_text("METADATA") or item.read_text("PKG-INFO") or ""
        name, version = _NAME_LINE.search(text), _VERSION_LINE.search(text)
    return (name[1], version[1]) if name is not None and version is not None else None


def packages(classes: Iterable[str] = ()) -> dict[str, str]:
    """Return versions of Python, core packages, and packages that define classes of a save.

    Parameters
    ----------
    classes : iterable of str
        Dotted paths of the classes. A package counts if its name is that of the top-level module.
    """
    modules = {path.partition(".")[0] for path in classes} - {"flambe_save", "__main__", *sys.stdlib_module_names}
    found = {name: _version_of(name) for name in {"torch", "dill", "PyYAML", "numpy"} | modules}
    known = {name: number for name, number in sorted(found.items()) if number is not None}
    return {"python": _PYTHON, **known}


def changed_packages(saved: Mapping[str, str]) -> list[str]:
    """Describe each package whose major or minor version changed, or that is not installed."""
    changed = []
    for name, number in [item for item in saved.items() if _NAME.fullmatch(item[0])][:_MOST_NAMES]:
        here = _PYTHON if name == "python" else _version_of(name)
        if here is None:
            changed.append(f"{name} {number[:40]} when saved, not installed here")
        elif _major_minor(here) != _major_minor(number):
            changed.append(f"{name} {number[:40]} when saved, {here} here")
    return changed


@functools.lru_cache(maxsize=1000)
def _version_of(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        item = distribution(name)
        found = _name_and_version(item)
        return found[1] if found is not None else item.version
    except (PackageNotFoundError, ValueError):
        return None


def _major_minor(number: str) -> tuple[int, int] | str:
    """Return the first two numbers of a version; the version itself if it has none."""
    found = re.match(r"(?:\d{1,9}!)?v?(\d{1,9})(?:\.(\d{1,9}))?", number)
    return (int(found[1]), int(found[2] or 0)) if found is not None else number


def requirements() -> str:
    """Return the installed packages, one ``name==version`` a line, sorted."""
    lines = sorted((f"{name}=={version}" for name, version in _installed().items()), key=str.lower)
    return "\n".join([HAS_MANIFEST, *lines]) + "\n"
