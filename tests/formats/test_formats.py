"""Formats: the contract of both, how names become folders, what the manifest notices, and what is no save."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flambe_save.errors import (
    CorruptSaveError,
    LoadError,
    ProtocolError,
    SaveNotFoundError,
    UncheckedSaveWarning,
    UnknownFormatError,
    UnsupportedObjectError,
    UntrustedError,
)
from flambe_save.formats import Damage, Format, ReadOptions, Saved, format_of
from flambe_save.formats import manifest as manifests
from flambe_save.formats.directory import DIRECTORY
from flambe_save.formats.manifest import Manifest, find_ties, packages, requirements
from flambe_save.formats.pickle import PICKLE
from flambe_save.layout import (
    CLASS_KEY,
    CONFIG_KEY,
    DIRECTORIES_KEY,
    HIGHEST_PROTOCOL,
    MANIFEST_FILE,
    NODE_FILES,
    PROTOCOL_FILE,
    REQUIREMENTS_FILE,
    ROOT_FILES,
    STASH_KEY,
    VERSION_KEY,
    decode_name,
    encode_name,
)
from flambe_save.pt import DumpOptions, LoadOptions
from flambe_save.state import State, join_key
from flambe_save.storage import FolderStore, MemoryStore, TarStore, create_store, open_store
from flambe_save.testing import FormatContract, same_tree
from flambe_save.tree import SaveTreeNode, tree_from_state
from flambe_save.trust import Trust


class TestDirectoryContract(FormatContract):
    """Folders keep the contract."""

    def make_format(self) -> Format:
        """Return it."""
        return DIRECTORY


class TestPickleContract(FormatContract):
    """The single pickle keeps the contract."""

    def make_format(self) -> Format:
        """Return it."""
        return PICKLE


def node(class_name: str = "Model", children: dict[str, SaveTreeNode] | None = None, **values: Any) -> SaveTreeNode:
    """Return a node with values."""
    state = State(values)
    state._metadata[""] = {"version": 1}
    return SaveTreeNode(state, "1.0.0", class_name, f"class {class_name}: ...", "", {}, children or {})


def sample() -> SaveTreeNode:
    """Return a tree with components at several depths, one under a key with a dot."""
    leaf = node("Leaf", weight=torch.arange(3.0))
    encoder = node("Encoder", {"layers.0": leaf}, weight=torch.ones(2, 2))
    return node("Model", {"encoder": encoder, "head": node("Head", bias=torch.zeros(2))}, step=5)


def write(tree: SaveTreeNode, how: Format = DIRECTORY) -> dict[str, bytes]:
    """Return the files of a tree."""
    files: dict[str, bytes] = {}
    with MemoryStore(files) as store:
        how.plan(tree, DumpOptions()).write(store)
    return files


def read(files: dict[str, bytes], how: Format = DIRECTORY, prefix: str = "", trust: Trust | None = None) -> Saved:
    """Return what is read from files."""
    with MemoryStore(files) as store:
        return how.read(store, ReadOptions(LoadOptions(trust or Trust()), prefix, "the-save"))


def without_manifest(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files as Flambe writes them."""
    return {name: data for name, data in files.items() if name != MANIFEST_FILE}


# ------------------------------------------------------------------------------------------------------------- names

AWKWARD = [
    *("", ".", "..", "...", "/", "a/b", "../../elsewhere/file", "\\", "C:\\x", "a:b", "*", "?", '"', "<", ">", "|"),
    *(".hidden", "a.", "a ", " a", "a\n", "\0", "\x7f", "\ud800", "a\udfffb", "\U0001f4a9", "\u00e9", "e\u0301"),
    *("%", "%%", "%41", "%2F", "%2f", "%~", "a%~b", "%~0123", "%C3", "100%", "state.pt", "State.PT", "config.yaml"),
    *("manifest.json", "requirements.txt", "stash.pkl", "con", "CON", "nul.txt", "com1", "COM9.a.b", "conman"),
    *("x" * 199, "x" * 200, "x" * 201, "x" * 300, "\u00e9" * 100, "\u00e9" * 101, "/" * 70, "%" * 300, "." * 300),
]
KEYS = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.text(st.sampled_from("./%~ \\aA0é\U0001f4a9\ud800"), max_size=300),
    st.lists(st.sampled_from(AWKWARD), max_size=3).map("".join),
)


@settings(max_examples=300)
@given(KEYS)
def test_names_are_safe(key: str) -> None:
    """Whatever the key, its name is one that any file system takes, that stays in its folder, and is none of ours."""
    name = encode_name(key)
    assert 0 < len(name.encode()) <= 255
    assert not re.search(r'[/\\:*?"<>|\x00-\x1f\x7f]', name)
    assert name[0] != "."
    assert name[-1] not in ". "
    assert name.lower() not in {*NODE_FILES, *ROOT_FILES}
    assert name.partition(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@settings(max_examples=300)
@given(KEYS)
def test_names_decode(key: str) -> None:
    """A name decodes to its key, or, where it had to be shortened, to None."""
    decoded = decode_name(encode_name(key))
    assert decoded == key or (decoded is None and len(key) > 60)


@settings(max_examples=300)
@given(KEYS, KEYS)
def test_two_keys_have_two_names(one: str, other: str) -> None:
    """Different keys never share a folder."""
    assert (encode_name(one) == encode_name(other)) == (one == other)


@given(st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.\-é ]{0,40}[A-Za-z0-9_])?", fullmatch=True))
def test_ordinary_names_stay(key: str) -> None:
    """Keys that Flambe wrote as they are read, and are written, as they are."""
    reserved = key.lower() in {*NODE_FILES, *ROOT_FILES} or re.match(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)", key)
    assert reserved or encode_name(key) == key
    assert decode_name(key) == key


@settings(max_examples=300)
@given(KEYS)
@example("%41")
@example("a%2Fb%2fc")
@example("%ED%A0%80")
@example("%E9")
def test_only_names_that_are_written_decode(name: str) -> None:
    """Of names with escapes only those decode that ``encode_name`` writes, so that no two stand for one key."""
    try:
        key = decode_name(name)
    except ValueError:
        return
    assert key is None or "%" not in name or name in (encode_name(key), encode_name(key, every=True))


@settings(max_examples=60, deadline=None)
@given(st.sets(st.lists(KEYS, min_size=1, max_size=3).map(join_key), max_size=4), st.data())
def test_trees_with_any_keys_come_back(
    tmp_path_factory: pytest.TempPathFactory, prefixes: set[str], data: st.DataObject
) -> None:
    """Components under any keys are written to folders of a disk and come back, in either format."""
    state = State({join_key([prefix, "w"]): index for index, prefix in enumerate(sorted(prefixes))}, root=-1)
    for prefix in {"", *prefixes}:
        state._metadata[prefix] = {CLASS_KEY: f"Class{len(prefix)}", VERSION_KEY: "1.0.0"}
        state._metadata[DIRECTORIES_KEY].add(prefix)
    tree = tree_from_state(state)
    how, single = data.draw(st.sampled_from([(DIRECTORY, False), (PICKLE, True)]))
    path = tmp_path_factory.mktemp("any") / "save"
    with create_store(path, archive=data.draw(st.booleans()), single=single) as store:
        how.plan(tree, DumpOptions()).write(store)
    with open_store(path) as store:
        assert format_of(store, "the-save") is how
        assert same_tree(how.read(store, ReadOptions(LoadOptions())).tree, tree)


def test_a_name_that_no_save_has(tmp_path: Path) -> None:
    """A folder whose name is no encoding, or the encoding of another folder's key, is damage and not a component."""
    files = without_manifest(write(node("Model", {"A": node("Part")})))
    odd = {name.replace("A/", "%zz/"): data for name, data in files.items()}
    with pytest.raises(CorruptSaveError, match="%zz"):
        read(odd)
    twice = {**files, **{name.replace("A/", "%41/"): data for name, data in files.items()}}
    with pytest.raises(CorruptSaveError, match="%41"):
        read(twice)


def test_a_long_key_is_kept_by_its_node() -> None:
    """A key too long for a folder is shortened in the name and whole in the node; a false one is noticed."""
    keys = ["x" * 300 + "1", "x" * 300 + "2"]
    tree = node("Model", {key: node(f"Part{key[-1]}", {"inner": node("Inner")}) for key in keys})
    files = write(tree)
    assert same_tree(read(files).tree, tree)
    assert same_tree(read(files, prefix=f"{keys[1]}.inner").tree, node("Inner"))
    one, other = sorted({name.partition("/")[0] for name in files if "%~" in name})
    swapped = {
        name.replace(one, "@").replace(other, one).replace("@", other): data
        for name, data in without_manifest(files).items()
    }
    with pytest.raises(CorruptSaveError, match="another key"):
        read(swapped)


# ----------------------------------------------------------------------------------------------------------- layout


def test_six_files_per_node() -> None:
    """Every node has the six files, the root two more, and a key with a dot is one folder."""
    folders = ["", "encoder/", "encoder/layers.0/", "head/"]
    expected = {folder + name for folder in folders for name in NODE_FILES} | set(ROOT_FILES)
    assert set(write(sample())) == expected


def test_the_manifest_is_written_last() -> None:
    """The document that says that the save is whole comes after all else."""
    order = []

    class Recording(MemoryStore):
        def writer(self, name: str, size: int | None = None) -> Any:
            order.append(name)
            return super().writer(name, size)

    with Recording() as store:
        DIRECTORY.plan(sample(), DumpOptions()).write(store)
    assert order[-1] == MANIFEST_FILE
    assert len(set(order)) == len(order) == 4 * 6 + 2


def test_the_texts_are_plain() -> None:
    """What is not tensors can be read with the eyes."""
    tree = sample()._replace(config="!Model\nβ: 1\r\n", source_code="class Model:\r\n\tpass")
    files = write(tree)
    assert files["config.yaml"].decode() == tree.config
    assert files["source.py"].decode() == tree.source_code
    assert files["encoder/version.txt"] == b"Encoder:1.0.0"
    assert files["encoder/protocol_version.txt"] == b"1"
    assert f"torch=={torch.__version__}" in files[REQUIREMENTS_FILE].decode().splitlines()
    assert same_tree(read(files).tree, tree)


@pytest.mark.parametrize(("key", "protocol"), [("encoder", b"1"), ("a.b", b"1"), ("a/b", b"2"), ("x" * 300, b"2")])
def test_the_protocol_is_as_low_as_it_can_be(key: str, protocol: bytes) -> None:
    """Flambe's protocol, unless a folder's name would mean another key to Flambe; all nodes say the same."""
    files = write(node("Model", {"plain": node("Part", {key: node("Part")})}))
    found = {data for name, data in files.items() if name.endswith(PROTOCOL_FILE)}
    assert found == {protocol}
    assert json.loads(files[MANIFEST_FILE])["protocol"] == int(protocol)


@pytest.mark.parametrize("store", [FolderStore, TarStore])
def test_every_folder_is_a_save(tmp_path: Path, store: Any) -> None:
    """Any folder of a save, by itself, reads as the part of the tree that it holds."""
    with store(tmp_path / "save", "w") as target:
        DIRECTORY.plan(sample(), DumpOptions()).write(target)
    with store(tmp_path / "save") as source:
        assert same_tree(DIRECTORY.read(source, ReadOptions(LoadOptions())).tree, sample())
    if store is FolderStore:
        with FolderStore(tmp_path / "save/encoder") as source:
            part = DIRECTORY.read(source, ReadOptions(LoadOptions())).tree
        assert same_tree(part, sample().children["encoder"])


def test_two_writes_are_byte_equal(tmp_path: Path) -> None:
    """Two folders of one tree, at different paths, hold the same bytes."""
    for name in ("one", "b/other"):
        with FolderStore(tmp_path / name, "w") as store:
            DIRECTORY.plan(sample(), DumpOptions()).write(store)
    with FolderStore(tmp_path / "one") as one, FolderStore(tmp_path / "b/other") as other:
        assert one.names() == other.names()
        pairs = [
            ((tmp_path / "one" / name).read_bytes(), (tmp_path / "b/other" / name).read_bytes()) for name in one.names()
        ]
    assert all(mine == yours for mine, yours in pairs)


@pytest.mark.parametrize("how", [DIRECTORY, PICKLE], ids=["directory", "pickle"])
def test_a_value_that_cannot_be_written_is_located(how: Format) -> None:
    """The error for a value that no pickle takes says in which node, and file, it is."""
    tree = sample()
    tree.children["encoder"].state["generator"] = (item for item in "ab")
    with pytest.raises(UnsupportedObjectError, match="generator") as info:
        write(tree, how)
    assert "encoder" in str(info.value)
    assert how is PICKLE or (info.value.node, info.value.file) == ("encoder", "encoder/state.pt")


def test_formats_are_told_apart_by_names() -> None:
    """The names alone say which format a store holds, and that it holds none."""
    assert format_of(MemoryStore(write(sample())), "x") is DIRECTORY
    assert format_of(MemoryStore(write(sample(), PICKLE)), "x") is PICKLE
    with pytest.raises(UnknownFormatError, match=r"'x' is not a save: it holds 'model\.bin'"):
        format_of(MemoryStore({"model.bin": b""}), "x")
    with pytest.raises(UnknownFormatError, match="nothing"):
        format_of(MemoryStore({}), "x")


# ---------------------------------------------------------------------------------------------------------- manifest

NAMES = st.text(max_size=10)
MANIFESTS = st.builds(
    Manifest,
    protocol=st.integers(1, HIGHEST_PROTOCOL),
    writer=NAMES,
    packages=st.dictionaries(NAMES, NAMES, max_size=3),
    tags=st.dictionaries(NAMES, NAMES, max_size=3),
    nodes=st.dictionaries(
        NAMES,
        st.fixed_dictionaries(
            {
                "folder": NAMES,
                "class": NAMES,
                "version": NAMES,
                "tensors": st.dictionaries(
                    NAMES,
                    st.fixed_dictionaries(
                        {"dtype": NAMES, "shape": st.lists(st.integers(min_value=0)), "bytes": st.none()}
                    ),
                ),
            }
        ),
        max_size=3,
    ),
    ties=st.lists(st.lists(NAMES, min_size=2, max_size=3), max_size=3),
    needs_trust=st.lists(NAMES, max_size=3),
    files=st.dictionaries(
        NAMES, st.fixed_dictionaries({"bytes": st.integers(0), "crc32": st.from_regex("[0-9a-f]{8}", fullmatch=True)})
    ),
)


@settings(max_examples=60, deadline=None)
@given(MANIFESTS)
def test_manifests_come_back(manifest: Manifest) -> None:
    """A manifest is the same after JSON, which any JSON reader reads."""
    data = manifest.to_json()
    assert Manifest.from_json(data) == manifest
    assert json.loads(data)["format"] == "flambe_save"


def test_what_the_manifest_says() -> None:
    """Classes, versions, tensors, ties, sizes and checksums are all there to be looked up without opening a .pt."""
    tree = sample()
    tree.children["head"].state["tied"] = tree.children["encoder"].state["weight"]
    tree.children["head"].state["sparse"] = torch.eye(2).to_sparse()
    files = write(tree)
    document = json.loads(files[MANIFEST_FILE])
    encoder = document["nodes"]["encoder"]
    assert (encoder["folder"], encoder["class"], encoder["version"]) == ("encoder", "Encoder", "1.0.0")
    assert encoder["tensors"] == {"weight": {"dtype": "float32", "shape": [2, 2], "bytes": 16}}
    assert list(document["nodes"]) == ["", "encoder", "encoder.layers.0", "head"]
    assert document["ties"] == [["encoder.weight", "head.tied"]]
    assert document["nodes"]["head"]["tensors"]["sparse"]["bytes"] is None
    expected = {
        name: {"bytes": len(data), "crc32": f"{zlib.crc32(data):08x}"} for name, data in without_manifest(files).items()
    }
    assert document["files"] == expected
    assert document["packages"]["torch"] == torch.__version__
    assert document["needs_trust"] == []


def test_the_manifest_is_for_people_too() -> None:
    """A line for each file and node, so that two manifests can be compared line by line."""
    lines = write(sample())[MANIFEST_FILE].decode().splitlines()
    assert sum('"crc32"' in line for line in lines) == 4 * 6 + 1 + 1  # the last is the manifest's own
    assert max(map(len, lines)) < 300


def test_what_is_more_than_data_is_told() -> None:
    """What will need trust is returned by the write, and stands in the manifest, with its place."""
    tree = sample()
    tree.children["encoder"].state["vocabulary"] = {"words": Opaque()}
    tree = tree._replace(object_stash={"1": Opaque()})
    files: dict[str, bytes] = {}
    with MemoryStore(files) as store:
        plan = DIRECTORY.plan(tree, DumpOptions())
        plan.write(store)
    told = plan.opaque
    assert told == json.loads(files[MANIFEST_FILE])["needs_trust"]
    assert [line.split(" is a ")[0] for line in sorted(told)] == [
        "encoder/state.pt: vocabulary['words']",
        "stash.pkl: 1",
    ]


class Opaque:
    """More than data."""

    def __reduce__(self) -> Any:  # so that it is pickled
        return Opaque, ()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"{}", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"[" * 20_000, b'{"format": "flambe_save"}', b"NaN"],
    ids=lambda data: repr(data[:20]),
)
def test_a_garbage_manifest_is_corrupt(data: bytes) -> None:
    """A manifest that is none is damage; that it is there forbids reading the save as one of Flambe's."""
    with pytest.raises(CorruptSaveError, match="manifest cannot be read") as info:
        read({**write(sample()), MANIFEST_FILE: data})
    assert info.value.file == MANIFEST_FILE


FIELDS = ["format", "manifest", "protocol", "writer", "packages", "tags", "nodes", "ties", "needs_trust", "files"]


@pytest.mark.parametrize("field", [*FIELDS, "unknown"])
def test_a_field_of_another_type_is_corrupt(field: str) -> None:
    """Each field is checked before it is used; what is of another type than it should be is an error of ours."""
    files = write(sample())
    refused = 0
    for value in (None, True, 5, -1, 1.5, "x", ["x"], [[1]], [["a", "b"]], {"x": 1}, {"x": {}}, {"x": {"folder": 1}}):
        document = json.loads(files[MANIFEST_FILE])
        document[field] = value
        try:
            saved = read({**files, MANIFEST_FILE: json.dumps(document).encode()})
        except LoadError:
            refused += 1
        else:
            assert same_tree(saved.tree, sample()), value
            assert all(type(name) is type(path) is str for name, path in saved.tags.items()), value
    assert refused >= 6


@pytest.mark.parametrize(("field", "value"), [("manifest", 2), ("protocol", HIGHEST_PROTOCOL + 1), ("manifest", 10**6)])
def test_a_newer_manifest_is_of_a_newer_protocol(field: str, value: int) -> None:
    """A manifest from the future says so, whatever else is in it, and who wrote it."""
    files = write(sample())
    document = {**json.loads(files[MANIFEST_FILE]), field: value, "writer": "flambe_save 9.0", "new_field": {}}
    with pytest.raises(ProtocolError, match=r"flambe_save 9\.0(?s:.)*pip install --upgrade"):
        read({**files, MANIFEST_FILE: json.dumps(document).encode()})


def test_any_changed_byte_of_a_manifest_is_noticed_or_harmless() -> None:
    """A manifest with a changed byte does not give another tree, nor another kind of error."""
    tree = sample()
    tree.children["head"].state["tied"] = tree.children["encoder"].state["weight"]
    files = write(tree)
    data = files[MANIFEST_FILE]
    refused = 0
    for index in range(0, len(data), max(1, len(data) // 250)):
        damaged = bytearray(data)
        damaged[index] ^= 1 << index % 7
        try:
            saved = read({**files, MANIFEST_FILE: bytes(damaged)})
        except LoadError:
            refused += 1
        else:
            assert same_tree(saved.tree, tree), index
    assert refused > 100


def test_a_missing_file_is_named() -> None:
    """A file that is gone is named, all of them if several are, and also where there is no manifest."""
    files = write(sample())
    del files["encoder/state.pt"], files["head/config.yaml"]
    for some in (files, without_manifest(files)):
        with pytest.raises(CorruptSaveError, match=r"missing.*encoder/state\.pt.*head/config\.yaml") as info:
            read(some)
        assert info.value.file == "encoder/state.pt"


def test_a_missing_folder_is_named() -> None:
    """A component that is gone altogether is missed where there is a manifest."""
    files = {name: data for name, data in write(sample()).items() if not name.startswith("head/")}
    with pytest.raises(CorruptSaveError, match=r"missing.*head/state\.pt"):
        read(files)


@pytest.mark.parametrize("name", ["notes.txt", "encoder/notes.txt", "new/notes.txt", "encoder/deep/er/x"])
def test_a_foreign_file_is_named(name: str) -> None:
    """An unknown thing on disk is an error, never skipped, with a manifest or without."""
    files = {**write(sample()), name: b"mine"}
    for some in (files, without_manifest(files)):
        with pytest.raises(CorruptSaveError, match=re.escape(name)):
            read(some)


@pytest.mark.parametrize("folder", ["", "encoder/", "encoder/layers.0/"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data + b"\n", lambda data: data[:-1] + b"\xff"]
)
def test_a_changed_file_is_named(folder: str, damage: Any) -> None:
    """A file that is cut, longer or changed is named, and so is its node; nothing of it is used."""
    files = write(sample()._replace(config="!Model {}"))
    for name in NODE_FILES:
        if not files[folder + name]:
            continue
        with pytest.raises(CorruptSaveError, match="damaged") as info:
            read({**files, folder + name: damage(files[folder + name])})
        assert (info.value.file, info.value.node) == (folder + name, folder.rstrip("/").replace("/", "."))


def test_a_save_without_a_manifest_reads() -> None:
    """Flambe wrote no manifest: the same tree is read, and what was tied is equal."""
    tree = sample()
    tree.children["head"].state["tied"] = tree.children["encoder"].state["weight"]
    saved = read(without_manifest(write(tree)))
    assert same_tree(saved.tree, tree)
    assert (saved.ties, saved.tags) == ([], {})


BROKEN = {
    "protocol_of_words": ("protocol_version.txt", b"one", CorruptSaveError, "not a protocol number"),
    "protocol_empty": ("protocol_version.txt", b"", CorruptSaveError, "not a protocol number"),
    "protocol_huge": ("protocol_version.txt", b"9" * 5000, LoadError, "protocol"),
    "protocol_newer": ("protocol_version.txt", b"3", ProtocolError, "protocol 3"),
    "version_without_colon": ("version.txt", b"Encoder", CorruptSaveError, "Class:version"),
    "config_not_text": ("config.yaml", b"\xff\xfe", CorruptSaveError, "UTF-8"),
    "source_not_text": ("source.py", b"\x80", CorruptSaveError, "UTF-8"),
    "state_empty": ("state.pt", b"", CorruptSaveError, "this is empty"),
    "state_pointer": ("state.pt", b"version https://git-lfs.github.com/spec/v1\n", CorruptSaveError, "git lfs pull"),
    "state_page": ("state.pt", b"<!DOCTYPE html><html>", CorruptSaveError, "HTML page"),
    "state_no_mapping": ("state.pt", pickle.dumps([1], 2), CorruptSaveError, "not a mapping"),
    "state_keys": ("state.pt", pickle.dumps({1: 1}, 2), CorruptSaveError, "not a mapping"),
}


@pytest.mark.parametrize("prefix", ["", "encoder"])
@pytest.mark.parametrize(("name", "data", "error", "match"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named(prefix: str, name: str, data: bytes, error: Any, match: str) -> None:
    """Without a manifest a file is checked by what it says; the error names the node and the file."""
    full = f"{prefix}/{name}" if prefix else name
    with pytest.raises(error, match=match) as info:
        read({**without_manifest(write(sample())), full: data})
    assert (info.value.node, info.value.file) == (prefix, full)


JUNK = {
    "number": 5,
    "text": "x",
    "list": [1],
    "root_is_a_number": {"": 5},
    "directories_are_a_number": {"": {}, DIRECTORIES_KEY: 5},
    "odd_facts": {"a": {1: 2}},
    "odd_prefix": {5: {}},
}


@pytest.mark.parametrize("how", [DIRECTORY, PICKLE], ids=["directory", "pickle"])
@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_metadata_that_is_junk_does_no_harm(how: Format, junk: Any) -> None:
    """Whatever someone put into a state's ``_metadata``, reading is an error of ours or gives the values."""
    values: Any = OrderedDict(step=5)
    values._metadata = junk
    file = "state.pt" if how is DIRECTORY else ""
    files = {**without_manifest(write(node(step=5), how)), file: pickle.dumps(values, 2)}
    try:
        loaded = dict(read(files, how).tree.state)
    except LoadError as error:
        assert error.file in (file, "the-save")  # noqa: PT017
    else:
        assert loaded == {"step": 5}


# --------------------------------------------------------------------------------------------------------- one pickle


CONTRADICTIONS = {
    "directories": {DIRECTORIES_KEY: 5},
    "directory": {DIRECTORIES_KEY: [5]},
    "not_described": {DIRECTORIES_KEY: ["", "a"], "": {CLASS_KEY: "Model"}},
    "described_by_a_number": {DIRECTORIES_KEY: ["", "a"], "": {CLASS_KEY: "Model"}, "a": 5},
    "class": {DIRECTORIES_KEY: [""], "": {CLASS_KEY: 5}},
    "version": {DIRECTORIES_KEY: [""], "": {CLASS_KEY: "Model", VERSION_KEY: 5}},
    "config": {DIRECTORIES_KEY: [""], "": {CLASS_KEY: "Model", CONFIG_KEY: 5}},
    "stash": {DIRECTORIES_KEY: [""], "": {CLASS_KEY: "Model", STASH_KEY: 5}},
}


@pytest.mark.parametrize("metadata", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_pickle_that_contradicts_itself_is_corrupt(metadata: dict[Any, Any]) -> None:
    """Components that are named and not described, or described by no text, are damage."""
    values: Any = OrderedDict(step=5)
    values._metadata = metadata
    with pytest.raises(CorruptSaveError, match="pickle"):
        read({"": pickle.dumps(values, 2)}, PICKLE)


FOREIGN = {
    "torch": (b"PK\x03\x04abc", r"torch\.load"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "html": (b"\n<!DOCTYPE html>", "HTML page"),
    "empty": (b"", "empty"),
    "text": (b"hello", "not a pickle"),
    "list": (pickle.dumps([1], 2), "holds a list, not a State"),
    "keys": (pickle.dumps({1: 2}, 2), "not a State"),
}


@pytest.mark.parametrize(("data", "match"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_no_save_is_told(data: bytes, match: str) -> None:
    """A single file that is something else is an UnknownFormatError that says what, and what to do."""
    with pytest.raises(UnknownFormatError, match=match) as info:
        read({"": data}, PICKLE)
    assert info.value.file == "the-save"


def test_the_pickle_needs_nothing_of_ours() -> None:
    """A .pkl is an OrderedDict to ``pickle.load``, with the metadata on it."""
    values = pickle.loads(write(sample(), PICKLE)[""])
    assert type(values) is OrderedDict
    assert list(values) == ["step", "encoder.weight", "encoder.layers.0.weight", "head.bias"]
    assert values._metadata[DIRECTORIES_KEY] == ["", "encoder", "encoder.layers.0", "head"]


def test_a_bare_state_dict_is_a_tree_of_one() -> None:
    """A pickled ``state_dict`` reads as a State without components."""
    tree = read({"": pickle.dumps(torch.nn.Linear(2, 1).state_dict(), 2)}, PICKLE).tree
    assert (list(tree.state), tree.children, tree.class_name) == (["weight", "bias"], {}, "")


# --------------------------------------------------------------------------------------------------------------- ties


def test_ties_inside_a_node_that_is_read_alone() -> None:
    """Reading one node restores the ties inside it, and tells them relative to it."""
    tree = sample()
    leaf = tree.children["encoder"].children["layers.0"]
    leaf.state["tied"] = leaf.state["weight"]
    tree.state["tied"] = leaf.state["weight"]
    saved = read(write(tree), prefix="encoder")
    values = saved.tree.children["layers.0"].state
    assert saved.ties == [["layers.0.weight", "layers.0.tied"]]
    assert values["weight"] is values["tied"]


@pytest.mark.parametrize(
    "ties",
    [
        [["encoder.weight", "head.bias"]],
        [["encoder.weight", "step"]],
        [["encoder.weight", "no.such.key"]],
        [["encoder.weight", "encoder.other"]],
    ],
    ids=["shape", "no_tensor", "unknown", "values"],
)
def test_a_tie_that_was_none_is_corrupt(ties: list[list[str]]) -> None:
    """A manifest that ties tensors which differ, in shape or in value, would change weights, so it is refused."""
    tree = sample()
    tree.children["encoder"].state["other"] = torch.zeros(2, 2)
    files = write(tree)
    manifest = Manifest.from_json(files[MANIFEST_FILE])
    manifest.ties = ties
    with pytest.raises(CorruptSaveError, match="ties") as info:
        read({**files, MANIFEST_FILE: manifest.to_json()})
    assert info.value.file == MANIFEST_FILE


@pytest.mark.filterwarnings("ignore:Sparse .* beta state:UserWarning")
@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "sparse_csc"])
def test_a_tie_of_tensors_of_another_layout_is_corrupt(layout: str) -> None:
    """Sparse tensors that differ are not tied; torch has no bytes in a row to compare them by."""
    tree = sample()
    values = tree.children["encoder"].state
    for key, tensor in (("one", torch.eye(2)), ("two", 2 * torch.eye(2)), ("three", torch.eye(2))):
        values[key] = tensor.to_sparse(layout=getattr(torch, layout))
    files = write(tree)
    manifest = Manifest.from_json(files[MANIFEST_FILE])
    manifest.ties = [["encoder.one", "encoder.three"]]
    tied = read({**files, MANIFEST_FILE: manifest.to_json()}).tree.children["encoder"].state
    assert tied["one"] is tied["three"]
    manifest.ties = [["encoder.one", "encoder.two"]]
    with pytest.raises(CorruptSaveError, match="a tensor that differs"):
        read({**files, MANIFEST_FILE: manifest.to_json()})


def test_ties_are_of_memory_not_of_values() -> None:
    """Tensors are tied where they are one memory seen in one way; equal, overlapping or transposed ones are not."""
    weight = torch.ones(2, 2)
    values = {"a": weight, "b": weight.detach(), "c": weight.t(), "d": torch.ones(2, 2), "e": weight[0], "f": 1}
    assert find_ties(values.items()) == [["a", "b"]]


def test_ties_of_one_address_and_of_tensors_of_other_kinds() -> None:
    """Groups are in the order of their first keys, whatever address they share; a subclass may be one with a tensor."""

    class Marked(torch.Tensor):
        pass

    one, other = torch.ones(2, 2), torch.ones(2)
    values = {"a": one, "b": other, "c": other, "d": one.t(), "e": one.t(), "f": torch.eye(2).to_sparse()}
    assert find_ties(values.items()) == [["b", "c"], ["d", "e"]]
    values = {"a": one, "b": other, "c": other.as_subclass(Marked)}
    assert find_ties(values.items()) == [["b", "c"]]


def test_the_lines_of_a_manifest() -> None:
    """Each file and each tensor has a line of its own, also where names hold what JSON puts between entries."""
    odd = 'a}\0", {'
    facts = {"dtype": "float32", "shape": [2, 3], "bytes": 24}
    node = {"folder": "", "class": "A", "version": "1.0.0", "tensors": {"w": facts, odd: facts}}
    manifest = Manifest(files={odd: {"bytes": 1, "crc32": "0" * 8}, "b": {"bytes": 2, "crc32": "1" * 8}})
    manifest.nodes = {"": node, "x": {**node, "tensors": {}}}
    lines = manifest.to_json().decode().splitlines()
    assert sum('"shape": [2, 3]' in line for line in lines) == sum('"crc32"' in line for line in lines) - 1 == 2
    assert lines[-4] == '    "b": {"bytes": 2, "crc32": "11111111"}'
    assert '      "tensors": {}' in lines
    assert Manifest.from_json(manifest.to_json()) == manifest


# --------------------------------------------------------------------------------------------------- trust and stashes


def test_a_stash_is_opened_when_it_is_looked_into() -> None:
    """Weights read where the stash is not trusted; looking into it is what is refused, with its place."""
    tree = sample()
    tree.children["head"] = tree.children["head"]._replace(object_stash={"1": Opaque(), "2": {"data"}})
    files = write(tree)
    stash = read(files).tree.children["head"].object_stash
    assert bool(stash)
    with pytest.raises(UntrustedError, match="Opaque") as info:
        stash["2"]
    assert (info.value.node, info.value.file) == ("head", "head/stash.pkl")
    trusting = read(files, trust=Trust.of(trusted=[__name__])).tree.children["head"].object_stash
    assert (type(trusting["1"]), trusting["2"], len(trusting)) == (Opaque, {"data"}, 2)


def test_an_empty_stash_is_empty() -> None:
    """A node without a stash has one that is empty, with nothing to refuse."""
    assert not read(write(sample())).tree.object_stash


def test_a_stash_of_another_kind_is_corrupt() -> None:
    """A stash that is not a dict is damage."""
    files = {**without_manifest(write(sample())), "stash.pkl": pickle.dumps([1], 2)}
    with pytest.raises(CorruptSaveError, match="not a dict") as info:
        len(read(files).tree.object_stash)
    assert info.value.file == "stash.pkl"


@pytest.mark.parametrize("how", [DIRECTORY, PICKLE], ids=["directory", "pickle"])
def test_a_state_that_is_not_trusted_is_refused(how: Format) -> None:
    """A value that is more than data is refused with the file it is in, and opens where its module is trusted."""
    tree = sample()
    tree.children["encoder"].state["vocabulary"] = Opaque()
    files = write(tree, how)
    with pytest.raises(UntrustedError, match=rf"{__name__}\.Opaque") as info:
        read(files, how)
    assert info.value.file == ("encoder/state.pt" if how is DIRECTORY else "the-save")
    opened = read(files, how, trust=Trust.of(trusted=[f"{__name__}.Opaque"])).tree
    assert type(opened.children["encoder"].state["vocabulary"]) is Opaque


def test_a_node_beside_what_is_not_trusted_reads() -> None:
    """Only the node that is asked for is opened: what is elsewhere in the save does not matter to it."""
    tree = sample()
    tree.children["encoder"].state["vocabulary"] = Opaque()
    assert same_tree(read(write(tree), prefix="head").tree, sample().children["head"])


def test_unknown_nodes_are_listed() -> None:
    """The error for a node that is not there lists those that are."""
    with pytest.raises(SaveNotFoundError, match=r"'decoder'(?s:.)*'encoder', 'encoder\.layers\.0', 'head'"):
        read(write(sample()), prefix="decoder")


# ------------------------------------------------------------------------------------------------------- environment


def test_a_manifest_that_is_gone_is_told() -> None:
    """A save that had a manifest and has none is read with a warning; Flambe's, which never had one, without."""
    files = without_manifest(write(sample()))
    with pytest.warns(UncheckedSaveWarning, match=r"lost its manifest\.json"):
        read(files)
    assert [(item.file, item.problem[:13]) for item in damage(files)] == [(MANIFEST_FILE, "it is missing")]
    files["requirements.txt"] = b"torch==2.13.0\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(files)
    assert damage(files) == []


def damage(files: dict[str, bytes]) -> list[Damage]:
    """Return what verifying files yields."""
    with MemoryStore(files) as store:
        return list(DIRECTORY.inspect(store, ReadOptions(LoadOptions())).verify())


@pytest.mark.parametrize("name", sorted(write(sample())))
def test_verify_compares_every_digest(name: str) -> None:
    """A file that was changed together with its checksum is found by its SHA-256, whichever file it is."""
    with MemoryStore() as store:
        DIRECTORY.plan(sample(), DumpOptions(digest="sha256")).write(store)
    files = store.files
    manifest = Manifest.from_json(files[MANIFEST_FILE])
    if name == MANIFEST_FILE:
        assert damage(files) == []
        return
    manifest.files[name]["sha256"] = "0" * 64
    found = damage({**files, MANIFEST_FILE: manifest.to_json()})
    assert [item.file for item in found] == [name]


def test_a_card_beside_the_root_is_passed_over() -> None:
    """A model card, as hubs put it there, is no damage; other files, and a card in a part, are."""
    files = {**write(sample()), "README.md": b"# a card"}
    assert damage(files) == []
    assert read(files).tree.class_name == "Model"
    for name in ("notes.md", "encoder/README.md"):
        with pytest.raises(CorruptSaveError, match="not of this save"):
            read({**files, name: b""})


def test_packages_of_any_metadata_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and versions are those of the metadata, however its lines end, and wherever they stand in it."""
    files = {
        "one_odd-1.0.dist-info/METADATA": "Metadata-Version: 2.1\r\nName: One.odd \r\nVersion: 1.0\r\n\r\ntext",
        "late-2.0.dist-info/METADATA": f"License: {'x' * 9000}\nName: late\nVersion: 2.0\n",
        "egg-3.0.egg-info/PKG-INFO": "Name: egg\nVersion: 3.0\n",
        "none-4.0.dist-info/METADATA": "Name: none\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(text.encode())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(manifests, "_installed", manifests._installed.__wrapped__)
    monkeypatch.setattr(manifests, "_version_of", manifests._version_of.__wrapped__)
    lines = requirements().splitlines()
    assert {"One.odd==1.0", "late==2.0", "egg==3.0"} <= {*lines}
    assert not any(line.startswith("none==") for line in lines)
    assert {"late": "2.0", "egg": "3.0"}.items() <= packages(["late.Thing", "egg.Thing"]).items()


def test_requirements_are_installed_packages() -> None:
    """Each line is a package with its version, sorted, and no path of this machine."""
    first, *lines = requirements().splitlines()
    assert first.startswith("# of a save by flambe_save")
    assert lines == sorted(lines, key=str.lower)
    assert all(re.fullmatch(r"[\w.\-]+==[\w.+!\-]+", line) for line in lines)
    assert os.getcwd() not in requirements()


def test_packages_are_those_that_matter() -> None:
    """The manifest names Python, torch and what reads and writes pickles and YAML."""
    assert {"python", "torch", "dill", "PyYAML"} <= set(packages())
