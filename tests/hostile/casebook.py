"""The table of hostile and damaged saves: what a case is, and the pieces that cases are made of.

Payloads do no more than make an empty file, the marker, and sizes are just past a limit of this package: a case shows
that our own check is there, and would do no harm anywhere else. cases.py has them all.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import json
import pickle
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from flambe_save import Component, SaveNotFoundError, load, load_state_from_file, save, untrusted, verify

Make = Callable[[Path], Path]


class Case(NamedTuple):
    """One save that a default load must refuse.

    Attributes
    ----------
    name : str
    make : callable
        Makes the save below a folder and returns its path.
    errors : tuple of type
        One of these is raised by a load.
    message : str
        A regular expression for the error's text.
    rule : str
        What stops it.
    state : bool
        Whether ``load_state_from_file`` refuses it too.
    """

    name: str
    make: Make
    errors: tuple[type[BaseException], ...]
    message: str
    rule: str
    state: bool = True


CASES: dict[str, Case] = {}


def add(case: Case) -> None:
    """Put a case into the table."""
    assert case.name not in CASES, case.name
    CASES[case.name] = case


def case(
    errors: type[BaseException] | tuple[type[BaseException], ...],
    message: str,
    rule: str,
    *,
    state: bool = True,
) -> Callable[[Make], Make]:
    """Put a function that makes a save into the table, under its own name."""

    def decorate(make: Make) -> Make:
        kinds = errors if isinstance(errors, tuple) else (errors,)
        add(Case(make.__name__, make, kinds, message, rule, state))
        return make

    return decorate


# ------------------------------------------------------------------------------------------------ classes


class Holder(Component):
    """Registers whatever it is given."""

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.register_attrs("value")


class Outer(Component, nn.Module):
    """Has a part, a layer and the same tensor twice."""

    def __init__(self, inner: Any = None, size: int = 2) -> None:
        super().__init__()
        self.inner = inner
        self.lin = nn.Linear(size, size)
        self.tied = self.lin.weight

    def method(self) -> None:
        """Not a factory."""


class Anything(Component):
    """Takes all keywords and keeps none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


@dataclasses.dataclass
class Record:
    """The sum of its parts."""

    x: Any = None


@dataclasses.dataclass
class Caller:
    """Does something when it is called."""

    x: Any = None

    def __call__(self, *args: Any) -> None:
        """Spring."""
        Path(str(self.x)).touch()


def _spring() -> None:
    raise SystemExit("a default was made")


@dataclasses.dataclass
class Grown:
    """Has a field whose default is made by code."""

    x: Any = dataclasses.field(default_factory=_spring)


class Mood(enum.Enum):
    """A member."""

    GOOD = 1


class Finder(enum.Flag):
    """Finds members by code."""

    ONE = 1

    @classmethod
    def _missing_(cls, value: Any) -> Any:
        raise SystemExit("a member was looked for")


def touched(path: str) -> None:
    """Make an empty file: what a pickle names and calls in these saves, and nobody trusts."""
    Path(path).touch()


class Trap:
    """Makes an empty file by whichever way a pickle brings it to life."""

    def __new__(cls, path: str | None = None, *, key: str | None = None) -> Trap:
        """Spring."""
        for found in (path, key):
            if found is not None:
                Path(found).touch()
        return super().__new__(cls)

    def spring(self, item: Any) -> None:
        """Touch a path."""
        Path(item).touch()

    __setstate__ = append = add = __call__ = spring

    def __setitem__(self, key: Any, item: Any) -> None:
        Path(item).touch()


class Slotted:
    """Springs when an attribute is set."""

    __slots__ = ("_kept",)

    @property
    def path(self) -> str:
        """The path."""
        return str(self._kept)

    @path.setter
    def path(self, item: str) -> None:
        Path(item).touch()


# ------------------------------------------------------------------------------------------------ saves


def marker(folder: Path) -> Path:
    """Return the file that a payload makes."""
    return folder / "MARKER"


def remember(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    """Make a save once, and copies of it from then on."""
    kept = Path(tempfile.mkdtemp(prefix="casebook-"))
    made: list[Path] = []

    def again(folder: Path) -> Path:
        if not made:
            made.append(Path(str(make(kept / "s"))))
        target = folder / made[0].name
        if made[0].is_dir():
            shutil.copytree(made[0], target)
        else:
            shutil.copy(made[0], target)
        return target

    return again


holder = remember(lambda path: save(Holder(torch.ones(2)), path))
outer = remember(lambda path: save(Outer(Holder(torch.ones(2))), path))
holder_tar = remember(lambda path: save(Holder(torch.ones(2)), path, compress=True))
holder_pkl = remember(lambda path: save(Holder(torch.ones(2)), path, pickle_only=True))


def warm(folder: Path) -> None:
    """Make the saves that are copied, and load each, so that what a load always imports is imported."""
    for index, make in enumerate((holder, outer, holder_tar, holder_pkl)):
        inside = folder / str(index)
        inside.mkdir()
        path = make(inside)
        for function in (load, load_state_from_file, untrusted, verify):
            function(path)
        try:
            load(inside / "other")
        except SaveNotFoundError:
            pass


def unlisted(path: Path) -> Path:
    """Return a save without its manifest, so that nothing but its own files speak for it."""
    (path / "manifest.json").unlink(missing_ok=True)
    return path


def listed(path: Path, change: Callable[[dict[str, Any]], object] | None = None) -> Path:
    """Make a save's manifest fit its files again, then change it on purpose."""
    document = json.loads((path / "manifest.json").read_bytes())
    document["files"] = {
        str(file.relative_to(path)): {
            "bytes": file.stat().st_size,
            "crc32": f"{zlib.crc32(file.read_bytes()):08x}",
        }
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }
    if change is not None:
        change(document)
    (path / "manifest.json").write_bytes(sealed(document))
    return path


def sealed(document: dict[str, Any]) -> bytes:
    """Return a manifest that ends in its own checksum."""
    rest = {key: value for key, value in document.items() if key != "crc32"}
    body = json.dumps(rest)[:-1].encode()
    return body + b',\n  "crc32": "%08x"\n}\n' % zlib.crc32(body)


def with_state(folder: Path, data: bytes, name: str = "state.pt") -> Path:
    """Return a save one of whose files holds given bytes."""
    path = unlisted(outer(folder))
    (path / name).write_bytes(data)
    return path


def with_config(folder: Path, text: str | bytes) -> Path:
    """Return a save with a given config."""
    path = unlisted(holder(folder))
    (path / "config.yaml").write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return path


def archive(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    """Write a .tar.gz of any members."""
    with tarfile.open(path, mode) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member of an archive."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def members_of(path: Path, root: str = "s") -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return a folder's files as members of an archive."""
    found = [member(root, type=tarfile.DIRTYPE)]
    for item in sorted(path.rglob("*")):
        name = f"{root}/{item.relative_to(path)}"
        found.append(member(name, type=tarfile.DIRTYPE) if item.is_dir() else member(name, item.read_bytes()))
    return found


# ------------------------------------------------------------------------------------------------ pickles


def text(value: str) -> bytes:
    """Push a text."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def binary(value: bytes) -> bytes:
    """Push bytes."""
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    """Push an int."""
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def named(module: str, name: str) -> bytes:
    """Push a global; dotted names need the way of protocol 4."""
    if "." in name:
        return text(module) + text(name) + b"\x93"
    return b"c" + f"{module}\n{name}\n".encode()


def apply(function: bytes, *arguments: bytes) -> bytes:
    """Call what a pickle has pushed."""
    return function + b"(" + b"".join(arguments) + b"tR"


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """Call a global."""
    return apply(named(module, name), *arguments)


def whole(body: bytes, protocol: int = 4) -> bytes:
    """Return a pickle."""
    return b"\x80" + bytes([protocol]) + body + b"."


def mapping(*pairs: bytes, protocol: int = 4) -> bytes:
    """Return the pickle of an OrderedDict of pushed keys and values."""
    return whole(named("collections", "OrderedDict") + b")R(" + b"".join(pairs) + b"u", protocol)


def storage(key: str, numel: int, kind: str = "FloatStorage", location: str = "cpu") -> bytes:
    """Push a storage that a torch file keeps beside its pickle."""
    parts = text("storage"), named("torch", kind), text(key), text(location), number(numel)
    return b"(" + b"".join(parts) + b"tQ"


def shape(*sizes: int) -> bytes:
    """Push a tuple of ints."""
    return b"(" + b"".join(number(size) for size in sizes) + b"t"


def tensor(held: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Push a tensor over a pushed storage."""
    parts = held, number(offset), shape(*size), shape(*stride), b"\x89", named("collections", "OrderedDict") + b")R"
    return call("torch._utils", "_rebuild_tensor_v2", *parts)


def torch_zip(pickled: bytes, records: dict[str, bytes] | None = None, root: str = "s") -> bytes:
    """Return a torch file of a pickle and storages."""
    rest = {"byteorder": b"little", **{f"data/{key}": data for key, data in (records or {}).items()}, "version": b"3\n"}
    return zip_of([(f"{root}/{name}", data) for name, data in {"data.pkl": pickled, **rest}.items()])


def zip_of(records: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip of any records, twice the same name too."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as file:
        warnings.simplefilter("ignore")
        for name, data in records:
            file.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def legacy(body: bytes, storages: bytes = b"\x80\x02].") -> bytes:
    """Return a file as torch wrote it before 1.6, around a pickle."""
    start = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001, "type_sizes": {}})
    return b"".join(pickle.dumps(item, 2) for item in start) + body + storages


ONE = struct.pack("<f", 1.0)
