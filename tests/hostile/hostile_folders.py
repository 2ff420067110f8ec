"""Folders that lead elsewhere, lack or repeat something, or lie; torch files whose zips do the same."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from casebook import (
    ONE,
    Case,
    Outer,
    add,
    case,
    holder,
    legacy,
    listed,
    mapping,
    outer,
    storage,
    tensor,
    text,
    torch_zip,
    unlisted,
    with_state,
    zip_of,
)

from flambe_save import (
    ConfigError,
    CorruptSaveError,
    LoadError,
    ProtocolError,
    SaveNotFoundError,
    UnknownFormatError,
    UntrustedError,
)

FILES = ("config.yaml", "state.pt", "version.txt", "source.py", "stash.pkl", "protocol_version.txt")

# ------------------------------------------------------------------------------------------------ entries


def changed(
    name: str,
    change: Callable[[Path], object],
    errors: type[BaseException] | tuple[type[BaseException], ...],
    message: str,
    rule: str,
    *,
    manifest: bool = False,
    state: bool = True,
) -> None:
    """Put a good folder with one change into the table, with or without its manifest."""

    def make(folder: Path) -> Path:
        path = outer(folder)
        if not manifest:
            unlisted(path)
        change(path)
        return path

    add(Case(name, make, errors if isinstance(errors, tuple) else (errors,), message, rule, state))


def link(target: str, name: str) -> Callable[[Path], None]:
    """Return the replacement of an entry by a symbolic link."""

    def change(path: Path) -> None:
        where = path / name
        if where.is_dir() and not where.is_symlink():
            shutil.rmtree(where)
        where.unlink(missing_ok=True)
        where.symlink_to(target)

    return change


def pipe(name: str) -> Callable[[Path], None]:
    """Return the replacement of a file by a pipe."""

    def change(path: Path) -> None:
        (path / name).unlink()
        os.mkfifo(path / name)

    return change


def remove(name: str) -> Callable[[Path], None]:
    """Return the removal of an entry."""
    return lambda path: shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()


def put(name: str, data: bytes | str) -> Callable[[Path], None]:
    """Return the writing of a file."""

    def change(path: Path) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))

    return change


def copied(name: str, other: str) -> Callable[[Path], None]:
    """Return the copy of a node's folder."""
    return lambda path: shutil.copytree(path / name, path / other)


for name in FILES:
    for listed_ in (True, False):
        for part in ("", "inner/"):
            changed(
                f"missing_{name}-{'listed' if listed_ else 'unlisted'}-{part[:-1] or 'root'}",
                remove(part + name),
                CorruptSaveError,
                "missing",
                "every node holds six files",
                manifest=listed_,
            )
    changed(f"pipe_{name}", pipe(f"inner/{name}"), CorruptSaveError, "regular", "only regular files are opened")
    changed(
        f"device_{name}",
        link("/dev/null", f"inner/{name}"),
        CorruptSaveError,
        "regular",
        "only regular files are opened",
    )
    changed(
        f"folder_{name}",
        lambda path, name=name: (remove(f"inner/{name}")(path), (path / "inner" / name).mkdir()),  # type: ignore[misc]
        CorruptSaveError,
        "",
        "a node's file is no folder",
    )
    changed(f"dangling_{name}", link("nowhere", f"inner/{name}"), (CorruptSaveError, LoadError), "", "a file is there")
    changed(f"empty_{name}", put(f"inner/{name}", b""), LoadError, "", "the manifest knows each file", manifest=True)
    if name in ("version.txt", "protocol_version.txt", "state.pt"):
        changed(f"emptied_{name}", put(f"inner/{name}", b""), LoadError, "", "an empty file is no such file")

UNREADABLE = "only regular files, and folders that are none of somebody else's, are read"
changed("linked_folder", link(".", "inner"), CorruptSaveError, "", UNREADABLE)
changed("linked_folder_listed", link("..", "inner"), CorruptSaveError, "", UNREADABLE, manifest=True)
changed("linked_folder_more", link("inner", "more"), CorruptSaveError, "", UNREADABLE)
changed(
    "linked_manifest", link("/dev/null", "manifest.json"), CorruptSaveError, "regular", "only regular files are opened"
)
changed("pipe_more", lambda path: os.mkfifo(path / "pipe"), CorruptSaveError, "", "a save holds nothing but its files")
changed("extra_file", put("notes.txt", "mine"), CorruptSaveError, "notes.txt", "a save holds nothing but its files")
changed(
    "extra_listed", put("notes.txt", "mine"), CorruptSaveError, "notes.txt", "the manifest lists all", manifest=True
)
changed("extra_inside", put("inner/model.py", "x"), CorruptSaveError, "model.py", "a save holds nothing but its files")
changed("foreign_folder", put("data/train.csv", "x"), CorruptSaveError, "", "each folder of a save is a node")
changed("foreign_folder_deep", put("data/a/b/train.csv", "x"), CorruptSaveError, "", "each folder of a save is a node")
changed("extra_colour", put("\x1b[31m\n", "x"), CorruptSaveError, "", "what a message quotes is quoted")
changed(
    "extra_bytes", lambda path: Path(os.fsdecode(os.fsencode(path) + b"/\xff\xfe")).touch(), CorruptSaveError, "", "q"
)
changed("flood_of_files", lambda path: [put(f"{i:060}", "x")(path) for i in range(300)], CorruptSaveError, "", "q")
changed(
    "flood_of_folders",
    lambda path: [(path / f"{i:0200}").mkdir() or put(f"{i:0200}/config.yaml", "x")(path) for i in range(100)],
    CorruptSaveError,
    "missing",
    "what a message lists is cut",
)

# ------------------------------------------------------------------------------------------------ names

NAMES = {
    "dots": "%2E%2E",
    "dot": "%2E",
    "slash": "a%2Fb",
    "double": "%252E",
    "lower": "%2e",
    "unneeded": "%61",
    "half": "a%2",
    "no_digits": "%zz",
    "not_utf8": "%FF",
    "overlong": "%C0%AE%C0%AE",
    "null": "%00",
    "long_mark": "a%~0123456789abcdef0123456789abcdef",
    "long_mark_alone": "%~",
    "absolute": "%2Fetc",
}
WANTED = (
    "dots",
    "dot",
    "slash",
    "double",
    "null",
    "absolute",
    "unneeded",
)  # keys that a save could have; this object has none
for kind, name in NAMES.items():
    rule = "a folder's name is one that a save would give, and of a part that the object has"
    changed(f"name_{kind}", copied("inner", name), LoadError, "", rule, state=kind not in WANTED)
changed(
    "name_by_case",
    copied("inner", "INNER"),
    LoadError,
    "",
    "names differ by more than case, or nothing wants them",
    state=False,
)
changed(
    "name_same_prefix",
    lambda path: (copied("inner", "inner/b")(path), copied("inner/b", "inner.b")(path)),
    LoadError,
    "",
    "a prefix is one node",
)
changed(
    "name_same_prefix_listed",
    lambda path: (copied("inner", "inner/b")(path), copied("inner/b", "inner.b")(path), listed(path)),
    LoadError,
    "",
    "a prefix is one node",
    manifest=True,
)
changed(
    "another_node",
    copied("inner", "lin"),
    LoadError,
    "",
    "a folder inside belongs to the object around it",
    state=False,
)
changed(
    "a_node_of_nobody",
    copied("inner", "other"),
    LoadError,
    "",
    "a folder inside belongs to the object around it",
    state=False,
)

# ------------------------------------------------------------------------------------------------ small files

PROTOCOLS = {
    "999": ProtocolError,
    "999999999999999": LoadError,
    "-1": LoadError,
    "": LoadError,
    "one": LoadError,
    "1.0": LoadError,
    "\u0661": LoadError,
    "\u00b2": LoadError,
    "0x1": LoadError,
    "9" * 5000: LoadError,
    "\x1b[31m": LoadError,
}
for index, (content, error) in enumerate(PROTOCOLS.items()):
    changed(
        f"protocol_{index}",
        put("inner/protocol_version.txt", content),
        error,
        "",
        "a protocol is a decimal number that is known",
    )
    changed(
        f"protocol_root_{index}",
        put("protocol_version.txt", content),
        error,
        "",
        "a protocol is a decimal number that is known",
    )
changed("protocol_flood", put("protocol_version.txt", "x" * 1_000_000), LoadError, "", "what a message quotes is cut")
changed(
    "version_without_colon", put("version.txt", "Outer 0.0.0"), CorruptSaveError, "version", "it reads Class:version"
)
changed(
    "version_flood", put("version.txt", "x" * 1_000_000), CorruptSaveError, "version", "what a message quotes is cut"
)
changed("version_bytes", put("version.txt", b"\xff:\xfe"), CorruptSaveError, "UTF-8", "texts are UTF-8")
changed("source_bytes", put("source.py", b"\xff\xfe"), CorruptSaveError, "UTF-8", "texts are UTF-8")
changed("config_bytes", put("config.yaml", b"\xff\xfe"), (CorruptSaveError, ConfigError), "UTF-8", "texts are UTF-8")

# ------------------------------------------------------------------------------------------------ state files

changed(
    "swapped_nodes",
    lambda path: [shutil.copy(path / "inner" / name, path / name) for name in ("state.pt",)],
    LoadError,
    "",
    "a state fits its object",
    state=False,
)
changed(
    "swapped_listed",
    lambda path: shutil.copy(path / "inner/state.pt", path / "state.pt"),
    CorruptSaveError,
    "damaged|changed",
    "the manifest knows each file",
    manifest=True,
)


def values(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Return a change of a state's values, written again by torch."""

    def write(path: Path) -> None:
        found = torch.load(path / "state.pt", weights_only=False)
        found = change(found) or found
        torch.save(found, path / "state.pt")

    return write


STATES: dict[str, tuple[Callable[[Any], object], bool]] = {
    "extra_key": (lambda found: found.update({"nothing": torch.ones(1)}), False),
    "missing_key": (lambda found: found.pop("lin.weight") is None or None, False),
    "other_shape": (lambda found: found.update({"lin.weight": torch.ones(5, 5)}), False),
    "no_tensor": (lambda found: found.update({"lin.weight": "text"}), False),
    "key_of_a_child": (lambda found: found.update({"inner.other": 1}), False),
    "key_into_a_child": (lambda found: found.update({"inner.value.deeper": 1}), False),
    "number_as_key": (lambda found: found.update({1: 2}), True),
    "colour_as_key": (lambda found: found.update({"\x1b[31m\n": torch.ones(1)}), False),
    "flood_of_keys": (lambda found: found.update({f"{i:0100}": 1 for i in range(5_000)}), False),
    "a_list": (lambda found: [1], True),
    "nothing": (lambda found: torch.ones(1), True),
}
for kind, (change, refused) in STATES.items():
    changed(f"state_{kind}", values(change), LoadError, "", "a state fits its object", state=refused)


def claims(path: Path) -> None:
    """Write into the state's metadata what only the files and folders may tell."""
    found = torch.load(path / "state.pt", weights_only=False)
    found._metadata = {
        "": {"_flambe_class": "casebook.Trap", "_flambe_config": "!unknown.Tag {}", "_flambe_version": "9.0.0"},
        "claimed": {"_flambe_class": "Holder", "_flambe_config": "!casebook.Holder {}"},
        "_flambe_directories": {"", "claimed"},
        "keep_vars": True,
        "lin": {"version": "x" * 100},
    }
    found["claimed.value"] = 1
    torch.save(found, path / "state.pt")


changed(
    "state_that_claims_components", claims, LoadError, "", "files and folders tell what is a component", state=False
)

# ------------------------------------------------------------------------------------------------ manifest

Document = dict[str, Any]


def manifest(name: str, change: Callable[[Document], object], rule: str, message: str = "", state: bool = True) -> None:
    """Put a save into the table whose manifest fits its files and lies about something else."""

    def make(folder: Path) -> Path:
        return listed(outer(folder), change)

    add(Case(f"manifest_{name}", make, (LoadError,), message, rule, state))


TEXT = "a manifest has the keys and types of docs/format.md"
manifest("protocol", lambda found: found.update(protocol=999), "a protocol is one that is known")
manifest("of_later", lambda found: found.update(manifest=999), "a manifest is of a version that is known")
manifest("of_text", lambda found: found.update(manifest="1"), TEXT)
manifest("of_nothing", lambda found: found.clear(), TEXT)
manifest("of_others", lambda found: found.update(format="other"), TEXT)
manifest("more_keys", lambda found: found.update(more=1), TEXT)
manifest("nodes_as_list", lambda found: found.update(nodes=[]), TEXT)
manifest("files_as_list", lambda found: found.update(files=[]), TEXT)
manifest("no_files", lambda found: found.update(files={}), "the manifest lists all files")
manifest(
    "file_outside",
    lambda found: found["files"].update({"../outside": {"bytes": 1, "crc32": "00000000"}}),
    "a listed file is there",
)
manifest(
    "file_absolute",
    lambda found: found["files"].update({"/elsewhere": {"bytes": 1, "crc32": "00000000"}}),
    "a listed file is there",
)
manifest(
    "file_twice",
    lambda found: found["files"].update({"./state.pt": {"bytes": 1, "crc32": "00000000"}}),
    "a listed file is there",
)
manifest("file_of_another_size", lambda found: found["files"]["state.pt"].update(bytes=1), "sizes are compared")
manifest(
    "file_of_another_sum", lambda found: found["files"]["state.pt"].update(crc32="00000000"), "checksums are compared"
)
manifest("file_of_bool_size", lambda found: found["files"]["state.pt"].update(bytes=True), TEXT)
manifest(
    "tie_to_nothing", lambda found: found["ties"].append(["lin.weight", "nothing"]), "a tie is of tensors of the save"
)
manifest("tie_to_another", lambda found: found["ties"].append(["lin.weight", "lin.bias"]), "tied tensors are equal")
manifest("tie_of_numbers", lambda found: found["ties"].append([1, 2]), TEXT)
manifest("tie_as_text", lambda found: found.update(ties=["ab"]), TEXT)
manifest(
    "tie_of_dots",
    lambda found: found["ties"].append(["lin.weight", "." * 10_001]),
    "the parts of a key are limited",
    "more than 10000 parts",
)
manifest("node_of_a_number", lambda found: found["nodes"].update(inner=5), TEXT)
manifest("tags_of_numbers", lambda found: found["tags"].update(x=5), TEXT)
manifest("writer_of_a_number", lambda found: found.update(writer=5), TEXT)
manifest("colour", lambda found: found.update(writer="\x1b[31m\n", protocol=999), "what a message quotes is quoted")
manifest(
    "colour_in_a_file",
    lambda found: found["files"].update({"\x1b[31m\n": {"bytes": 1, "crc32": "0"}}),
    "what a message quotes is quoted",
)
manifest(
    "flood",
    lambda found: found["files"].update({f"{i:01000}": {"bytes": 1, "crc32": "0"} for i in range(1000)}),
    "what a message lists is cut",
)

RAW = {
    "of_lists": b"[" * 20_000,
    "of_digits": b'{"manifest": ' + b"9" * 5_000 + b"}",
    "of_nan": b'{"manifest": NaN, "format": "flambe_save", "protocol": NaN}',
    "as_list": b"[1]",
    "as_null": b"null",
    "empty": b"",
    "of_bytes": b"\xff\xfe\x00",
    "of_zeros": bytes(1000),
}
for kind, data in RAW.items():
    changed(f"manifest_{kind}", put("manifest.json", data), CorruptSaveError, "", TEXT)


@case(LoadError, "", "a flipped bit in the manifest is found by its own checksum")
def manifest_of_another_digit(folder: Path) -> Path:
    """One letter of a version in the table of packages."""
    path = outer(folder)
    data = (path / "manifest.json").read_bytes()
    at = data.index(b'"torch": "') + 10
    (path / "manifest.json").write_bytes(data[:at] + b"9" + data[at + 1 :])
    return path


# What a hostile manifest may say without any effect: the folders tell all of it
LIES: dict[str, Callable[[Document], object]] = {
    "a_node_that_is_not_there": lambda found: found["nodes"].update(
        other={"folder": "other", "class": "Holder", "version": "0.0.0", "tensors": {}}
    ),
    "a_node_left_out": lambda found: found["nodes"].pop("inner"),
    "another_class": lambda found: found["nodes"]["inner"].update({"class": "Other"}),
    "another_folder": lambda found: found["nodes"]["inner"].update(folder="../inner"),
    "another_shape": lambda found: found["nodes"][""]["tensors"]["lin.weight"].update(shape=[7]),
    "no_trust_needed": lambda found: found["needs_trust"].append("all of it"),
    "tags_of_others": lambda found: found["tags"].update({"casebook.Holder": "casebook.touched", "x": "os.getcwd"}),
    "packages": lambda found: found["packages"].update(torch="99.0", evil="1.0"),
}


# ------------------------------------------------------------------------------------------------ torch files


def good_state() -> bytes:
    """Return the root's state of a good save."""
    buffer = io.BytesIO()
    torch.save(Outer().state_dict(), buffer)
    return buffer.getvalue()


def records_of(data: bytes) -> list[tuple[str, bytes]]:
    """Return the records of a zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return [(info.filename, file.read(info)) for info in file.infolist()]


def remade(change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> bytes:
    """Return a torch file of changed records."""
    return zip_of(change(records_of(good_state())))


def patched(find: bytes, replacement: bytes, data: bytes | None = None) -> bytes:
    """Return a torch file with some bytes replaced, in the last place where they stand."""
    data = good_state() if data is None else data
    at = data.rindex(find)
    return data[:at] + replacement + data[at + len(find) :]


def plain() -> bytes:
    """Return a torch file as zipfile writes zips; its last record is a storage."""
    found = mapping(text("lin.weight"), tensor(storage("0", 4), 0, (2, 2), (2, 1)))
    return zip_of([("s/data.pkl", found), ("s/byteorder", b"little"), ("s/data/0", ONE * 4)])


def overlapping() -> bytes:
    """Return a zip two of whose records are the same bytes."""
    data = bytearray(plain())
    at = [here for here in range(len(data)) if data[here : here + 4] == b"PK\x01\x02"]
    first, second = at[0], at[2]
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


def with_field(field: int, value: bytes) -> bytes:
    """Return a zip with a field of its last central entry changed."""
    data = bytearray(plain())
    at = data.rindex(b"PK\x01\x02")
    data[at + field : at + field + len(value)] = value
    return bytes(data)


def end_field(field: int, value: bytes) -> bytes:
    """Return a zip with a field of its end record changed."""
    data = bytearray(plain())
    at = data.rindex(b"PK\x05\x06")
    data[at + field : at + field + len(value)] = value
    return bytes(data)


def big_endian() -> bytes:
    """Return what a big-endian machine would write."""
    return remade(lambda found: [(name, b"big" if name.endswith("byteorder") else data) for name, data in found])


def script() -> bytes:
    """Return a TorchScript archive."""
    found = [
        ("s/constants.pkl", b"\x80\x02)."),
        ("s/code/__torch__.py", b"class M(Module): pass"),
        ("s/version", b"3\n"),
    ]
    return zip_of([("s/data.pkl", b"\x80\x02c__torch__\nM\n)\x81."), *found])


ZIPS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "name_twice": (lambda: remade(lambda found: [*found, found[0]]), "twice", "a record comes once"),
    "two_pickles": (
        lambda: remade(lambda found: [*found, (found[0][0], b"\x80\x02N.")]),
        "twice",
        "a record comes once",
    ),
    "names_by_case": (
        lambda: remade(lambda found: [*found, (found[0][0].upper(), b"x")]),
        "twice|another folder",
        "a record comes once, ignoring case",
    ),
    "another_folder": (
        lambda: remade(lambda found: [*found, ("other/data.pkl", b"x")]),
        "another",
        "a zip is one folder",
    ),
    "no_folder": (lambda: zip_of([("data.pkl", b"\x80\x02N.")]), "", "a zip is one folder"),
    "compressed": (lambda: zip_of(records_of(good_state()), zipfile.ZIP_DEFLATED), "compressed", "records are stored"),
    "overlapping": (overlapping, "lies on another|checksum|damaged", "records do not overlap"),
    "wrong_sum": (lambda: with_field(16, b"\0\0\0\0"), "checksum", "records are checked"),
    "wrong_size": (lambda: with_field(24, b"\1\0\0\0"), "", "records are checked"),
    "wrong_offset": (lambda: with_field(42, b"\1\0\0\0"), "", "records are checked"),
    "far_offset": (lambda: with_field(42, b"\xf0\xff\xff\x7f"), "", "records are checked"),
    "zip64_without_fields": (lambda: with_field(42, b"\xff\xff\xff\xff"), "", "records are checked"),
    "huge_size": (lambda: with_field(20, b"\xf0\xff\xff\x7f\xf0\xff\xff\x7f"), "", "records are checked"),
    "version_needed": (lambda: with_field(6, b"\xff\0"), "", "the directory is one that zipfile knows"),
    "end_size": (lambda: end_field(12, b"\xff\xff\xff\x7f"), "", "the directory lies in the file"),
    "end_offset": (lambda: end_field(16, b"\xff\xff\xff\x7f"), "", "the directory lies in the file"),
    "truncated": (lambda: good_state()[:-100], "damaged", "a zip ends in its directory"),
    "truncated_early": (lambda: good_state()[:100], "damaged", "a zip ends in its directory"),
    "magic_alone": (lambda: b"PK\x03\x04", "damaged", "a zip ends in its directory"),
    "no_records": (lambda: b"PK\x05\x06" + bytes(18), "", "a torch file holds data.pkl"),
    "no_pickle": (lambda: remade(lambda found: found[1:]), "data.pkl", "a torch file holds data.pkl"),
    "no_storage": (
        lambda: remade(lambda found: [item for item in found if "data/0" not in item[0]]),
        "missing",
        "a storage's record is there",
    ),
    "big_endian": (big_endian, "big-endian", "bytes are little-endian"),
    "empty_pickle": (lambda: torch_zip(b""), "", "a pickle ends in STOP"),
    "numbers_alone": (lambda: torch_zip(b"\x80\x02K\x01."), "mapping", "a state is a mapping"),
    "script": (script, "", "TorchScript is code"),
    "bad_names": (lambda: zip_of([("s/data.pkl", b"\x80\x02N."), ("s/../../evil", b"x")]), "", "nothing is extracted"),
    "wrong_location": (
        lambda: torch_zip(
            mapping(text("lin.weight"), tensor(storage("0", 1, location="nowhere:7"), 0, (1,), (1,))), {"0": ONE}
        ),
        "",
        "a device is one of this machine",
    ),
    "colour_location": (
        lambda: torch_zip(
            mapping(text("lin.weight"), tensor(storage("0", 1, location="\x1b[31m\n"), 0, (1,), (1,))), {"0": ONE}
        ),
        "",
        "what a message quotes is quoted",
    ),
    "colour_key": (
        lambda: torch_zip(mapping(text("a"), tensor(storage("\x1b[31m\n", 1), 0, (1,), (1,))), {"0": ONE}),
        "",
        "what a message quotes is quoted",
    ),
    "colour_record": (
        lambda: remade(lambda found: [*found, ("s/\x1b[31m\n", b"x"), ("s/\x1b[31m\n", b"x")]),
        "",
        "what a message quotes is quoted",
    ),
    "legacy_big_endian": (
        lambda: legacy(b"\x80\x02}.").replace(b"\x88", b"\x89", 1),
        "byte order",
        "bytes are little-endian",
    ),
    "legacy_truncated": (lambda: legacy(b"\x80\x02}.")[:40], "", "a pickle ends in STOP"),
    "legacy_of_later": (
        lambda: legacy(b"\x80\x02}.").replace(b"M\xe9\x03", b"M\xff\x7f", 1),
        "protocol",
        "1001 is known",
    ),
    "legacy_without_storages": (
        lambda: legacy(mapping(text("a"), tensor(storage("0", 1), 0, (1,), (1,)), protocol=2)),
        "without its storages",
        "a storage is there",
    ),
    "legacy_storage_cut": (
        lambda: legacy(
            mapping(text("a"), tensor(legacy_storage(10), 0, (1,), (1,)), protocol=2),
            b"\x80\x02](" + text("0") + b"e." + struct.pack("<Q", 10) + b"ab",
        ),
        "",
        "a storage is as long as it says",
    ),
    "legacy_view_outside": (
        lambda: legacy(
            mapping(text("a"), tensor(legacy_storage(1, (text("v"), 5, 9)), 0, (9,), (1,)), protocol=2),
            b"\x80\x02](" + text("0") + b"e." + struct.pack("<Q", 1) + ONE,
        ),
        "",
        "a view lies inside its storage",
    ),
    "legacy_keys_of_numbers": (lambda: legacy(b"\x80\x02}.", b"\x80\x02](K\x01K\x02e."), "", "keys are texts"),
    "legacy_keys_of_nothing": (lambda: legacy(b"\x80\x02}.", b"\x80\x02N."), "", "keys are a list"),
}


def legacy_storage(numel: int, view: tuple[bytes, int, int] | None = None) -> bytes:
    """Push a storage of a legacy file, which may be a view of another."""
    from casebook import named, number

    pushed = b"N" if view is None else b"(" + view[0] + number(view[1]) + number(view[2]) + b"t"
    parts = text("storage"), named("torch", "FloatStorage"), text("0"), text("cpu"), number(numel), pushed
    return b"(" + b"".join(parts) + b"tQ"


for kind, (build, message, rule) in ZIPS.items():
    errors = (LoadError, UntrustedError)
    add(Case(f"zip_{kind}", lambda folder, build=build: with_state(folder, build()), errors, message, rule))  # type: ignore[misc]


@case(LoadError, "", "TorchScript's classes are code")
def a_script_module(folder: Path) -> Path:
    """What torch.jit.save writes, as a state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    return with_state(folder, buffer.getvalue())


# ------------------------------------------------------------------------------------------------ innocents

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
PAGE = b"<!DOCTYPE html>\n<html><body>404</body></html>\n"


def single(name: str, data: Callable[[], bytes], message: str, rule: str = "a message says what a file is") -> None:
    """Put a single file that is no save into the table, under several names."""
    for suffix in (".pkl", "", ".tar.gz"):

        def make(folder: Path, suffix: str = suffix) -> Path:
            (folder / f"s{suffix}").write_bytes(data())
            return folder / f"s{suffix}"

        add(Case(f"{name}{suffix}", make, (LoadError,), message, rule))


def safetensors() -> bytes:
    """Return a safetensors file of one tensor."""
    head = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(head)) + head + ONE


def legacy_save() -> bytes:
    """Return a file as torch.save wrote it before 1.6."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


single("lfs_pointer", lambda: POINTER, "(?i)git.lfs")
single("html_page", lambda: PAGE, "(?i)html")
single("torch_file", good_state, "(?i)torch")
single("legacy_torch_file", legacy_save, "(?i)torch")
single("safetensors_file", safetensors, "(?i)safetensors")
single("empty_file", lambda: b"", "(?i)empty")
single("text_file", lambda: b"hello, world\n", "(?i)no (pickle|save)|text")
single("zip_file", lambda: zip_of([("a.txt", b"x")]), "(?i)zip|torch")
single("pickled_list", lambda: b"\x80\x04]\x94.", "(?i)list")
single("pickled_number", lambda: b"\x80\x04K\x01.", "(?i)int")

for what, data in {
    "lfs_pointer": POINTER,
    "html_page": PAGE,
    "text": b"hello, world\n",
    "safetensors": safetensors(),
}.items():
    message = {"lfs_pointer": "(?i)git.lfs", "html_page": "(?i)html", "safetensors": "(?i)safetensors", "text": ""}[
        what
    ]
    changed(f"{what}_as_state", put("state.pt", data), LoadError, message, "a message says what a file is")
    changed(
        f"{what}_as_stash", put("stash.pkl", data), LoadError, message, "a message says what a file is", state=False
    )
    changed(f"{what}_as_manifest", put("manifest.json", data), LoadError, "manifest", "a message says what a file is")
changed(
    "lfs_pointer_as_listed_state",
    put("state.pt", POINTER),
    LoadError,
    "(?i)git.lfs|damaged|changed",
    "as before",
    manifest=True,
)


@case(LoadError, "(?i)no save|nothing|empty", "a message says what a folder holds")
def empty_folder(folder: Path) -> Path:
    """Nothing in it."""
    (folder / "s").mkdir()
    return folder / "s"


@case(UnknownFormatError, "photo", "a message says what a folder holds")
def somebodys_folder(folder: Path) -> Path:
    """Photographs."""
    (folder / "s").mkdir()
    (folder / "s" / "photo.jpg").write_bytes(b"\xff\xd8")
    return folder / "s"


@case(LoadError, "(?i)no save|holds", "a message says what a folder holds")
def a_folder_of_saves(folder: Path) -> Path:
    """Two saves beside each other."""
    (folder / "all").mkdir()
    for name in ("one", "two"):
        shutil.move(str(holder(folder)), folder / "all" / name)
    return folder / "all"


@case(SaveNotFoundError, "no save", "a message says what is near")
def nothing_at_all(folder: Path) -> Path:
    """No such path."""
    return folder / "nothing"


@case(LoadError, "", "a path is a file or a folder")
def a_pipe(folder: Path) -> Path:
    """A pipe as the save."""
    os.mkfifo(folder / "s.pkl")
    return folder / "s.pkl"


@case(LoadError, "neither a file nor a folder", "a path is a file or a folder")
def a_device(folder: Path) -> Path:
    """A device as the save."""
    (folder / "s.pkl").symlink_to("/dev/null")
    return folder / "s.pkl"


@case(LoadError, "", "a link leads somewhere")
def a_link_to_itself(folder: Path) -> Path:
    """A link that leads to itself."""
    (folder / "s").symlink_to("s")
    return folder / "s"


@case(LoadError, "", "a path is one that the system takes")
def a_path_with_a_null(folder: Path) -> Path:
    """A null byte in the path."""
    return folder / "a\0b"


@case(LoadError, "", "a path is one that the system takes")
def a_path_too_long(folder: Path) -> Path:
    """A name of 300 letters."""
    return folder / ("x" * 300)


@case(LoadError, "", "a path in a message is quoted")
def a_path_of_colours(folder: Path) -> Path:
    """Escape codes in the path."""
    return folder / "\x1b[31m\n\x07"
