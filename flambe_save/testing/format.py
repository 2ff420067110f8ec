"""FormatContract: inherit it in a ``Test...`` class, make the format; it uses a MemoryStore."""

from __future__ import annotations

import abc
from typing import Any

import pytest
import torch

from flambe_save.errors import LoadError, SaveNotFoundError
from flambe_save.formats import Damage, Format, ReadOptions, Saved
from flambe_save.layout import MANIFEST_FILE
from flambe_save.pt import DumpOptions, LoadOptions, TensorInfo
from flambe_save.registry import FORMATS
from flambe_save.state import State
from flambe_save.storage import MemoryStore
from flambe_save.testing.codec import same
from flambe_save.tree import SaveTreeNode, prefixed, walk


class FormatContract(abc.ABC):
    """Rules of every Format."""

    @abc.abstractmethod
    def make_format(self) -> Format:
        """Return the format."""

    def make_tree(self) -> SaveTreeNode:
        """Return a tree to save: nested components, a dotted key, a stash, a tensor in two nodes."""
        tied = torch.arange(6.0).reshape(2, 3)
        decoder = _node("Decoder", {"weight": tied, "steps": [1, {"two": {2}}]}, config="!Decoder\nsize: 3\n")
        encoder = _node("Encoder", {"weight": tied, "rnn.bias": torch.zeros(4, dtype=torch.float16)})
        encoder.state._metadata["rnn"] = {"version": 2}
        encoder.children["layers.0"] = _node("Layer", {"a": torch.tensor(1)}, version="1.2.0")
        encoder.children["layers.1"] = _node("Layer", {}, stash={"1": {"b", "a"}, "2": b"\x00\xff"})
        root = _node("Model", {"embedding": torch.ones(2, dtype=torch.complex64)}, source="class Model: 'β'\r\n")
        root.children.update({"decoder": decoder, "encoder": encoder})
        return root

    def write(self, tree: SaveTreeNode) -> dict[str, bytes]:
        """Return the files of a tree that holds only data."""
        files: dict[str, bytes] = {}
        with MemoryStore(files) as store:
            plan = self.make_format().plan(tree, DumpOptions())
            plan.write(store, threads=2)
        assert plan.opaque == []
        return files

    def read(self, files: dict[str, bytes], node: str = "") -> Saved:
        """Return the result of a read of files."""
        with MemoryStore(files) as store:
            return self.make_format().read(store, ReadOptions(LoadOptions(), node, "the-save"))

    def test_read_is_the_inverse_of_write(self) -> None:
        """The tree that is read is the one that was written."""
        assert same_tree(self.read(self.write(self.make_tree())).tree, self.make_tree())

    def test_one_node_alone(self) -> None:
        """A single node is a save too, though it holds nothing."""
        assert same_tree(self.read(self.write(_node("Empty", {}))).tree, _node("Empty", {}))

    def test_the_tree_is_not_changed(self) -> None:
        """Writing leaves the tree as it is."""
        tree = self.make_tree()
        self.write(tree)
        assert same_tree(tree, self.make_tree())

    def test_same_tree_same_bytes(self) -> None:
        """Two writes of one tree, or of an equal one, give equal files."""
        tree = self.make_tree()
        assert self.write(tree) == self.write(tree) == self.write(self.make_tree())

    def test_it_knows_its_own(self) -> None:
        """Sniffing says yes to what this format wrote, and no other registered format does."""
        names = sorted(self.write(self.make_tree()))
        others = [FORMATS[name] for name in FORMATS if type(FORMATS[name]) is not type(self.make_format())]
        assert self.make_format().sniff(names)
        assert not any(other.sniff(names) for other in others)

    @pytest.mark.parametrize("names", [[], ["model.bin"], ["a/b.txt", "a/c.txt"]])
    def test_it_does_not_claim_what_is_foreign(self, names: list[str]) -> None:
        """Sniffing says no to files that are not a save."""
        assert not self.make_format().sniff(names)

    def test_a_tensor_of_two_nodes_stays_one(self) -> None:
        """A tensor in two places is one after a read, and its keys are listed."""
        saved = self.read(self.write(self.make_tree()))
        tied = [saved.tree.children[name].state["weight"] for name in ("decoder", "encoder")]
        assert tied[0].untyped_storage()._cdata == tied[1].untyped_storage()._cdata
        assert [sorted(group) for group in saved.ties] == [["decoder.weight", "encoder.weight"]]

    @pytest.mark.parametrize("node", ["decoder", "encoder", "encoder.layers.1"])
    def test_a_node_is_read_alone(self, node: str) -> None:
        """A read of one node gives it, with all that is inside, as the whole read does."""
        files = self.write(self.make_tree())
        expected = self.make_tree().find(node)
        assert expected is not None
        assert same_tree(self.read(files, node).tree, expected)

    @pytest.mark.parametrize("node", ["encoder.layers", "decode", "decoder.weight"])
    def test_an_unknown_node_is_not_found(self, node: str) -> None:
        """A node that is not there is an error that names it and lists the others."""
        with pytest.raises(SaveNotFoundError, match=rf"(?s){node}'.*'encoder.layers.1'"):
            self.read(self.write(self.make_tree()), node)

    def test_a_truncated_file_is_named(self) -> None:
        """Wherever a file is cut, that is a CorruptSaveError that names it, unless nothing is lost."""
        files = self.write(self.make_tree())
        for name, data in files.items():
            for length in {0, len(data) // 2, max(0, len(data) - 1)} - {len(data)}:
                self._check_damaged({**files, name: data[:length]}, name)

    def test_a_missing_file_is_named(self) -> None:
        """A save without one of its files is an error naming the file, unless it is not needed."""
        files = self.write(self.make_tree())
        if len(files) == 1:
            pytest.skip("a single file cannot lack another")
        for name in files:
            self._check_damaged({other: data for other, data in files.items() if other != name}, name)

    def _check_damaged(self, files: dict[str, bytes], name: str) -> None:
        try:
            tree = self.read(files).tree
        except LoadError as error:
            assert (name or "the-save") in str(error)  # noqa: PT017
        else:
            assert same_tree(tree, self.make_tree()), name

    def test_a_whole_save_verifies(self) -> None:
        """A written save has no damage, whatever trust its reader needs."""
        assert self.damage(self.write(self.make_tree())) == []

    def test_all_damage_is_told_at_once(self) -> None:
        """Each file whose last bytes are gone is named, in one go."""
        files = self.write(self.make_tree())
        chosen = sorted(name for name in files if name.endswith(".pt"))[:2] or [""]
        found = self.damage({name: data[:-10] if name in chosen else data for name, data in files.items()})
        assert [item.file for item in found] == [name or "the-save" for name in chosen]

    def test_inspect_is_what_read_gives(self) -> None:
        """Looking finds the nodes, texts, tensors and values of a read, each when it is asked for."""
        files = self.write(self.make_tree())
        tree = prefixed(self.read(files).tree)
        with MemoryStore(files) as store:
            contents = self.make_format().inspect(store, ReadOptions(LoadOptions(), "", "the-save"))
            assert contents.nodes.keys() == tree.keys()
            assert contents.damage == []
            assert [sorted(group) for group in contents.ties] == [["decoder.weight", "encoder.weight"]]
            assert contents.is_vouched_for == self.read(files).is_vouched_for
            assert contents.size == sum(map(len, files.values())) - len(files.get(MANIFEST_FILE, b""))
            for prefix, node in contents.nodes.items():
                known = tree[prefix]
                texts = (known.class_name, known.version, known.config, known.source_code)
                assert (node.class_name, node.version, node.config, node.source) == texts
                assert list(node.verify()) == []
                assert node.needs_trust == []
                tensors = {key: value for key, value in known.state.items() if isinstance(value, torch.Tensor)}
                assert dict(node.tensors) == {key: TensorInfo.of(value, "cpu") for key, value in tensors.items()}
                state, stash = node.state, node.stash
                assert state.tensors.keys() == tensors.keys()
                assert same({key: state.read(key) for key in known.state}, dict(known.state))
                assert same({key: stash.read(key) for key in known.object_stash}, dict(known.object_stash))
                for key, value in tensors.items():
                    flat = torch.cat([*state.pieces(key, 4), value.new_empty(0)])
                    assert same(flat, value.reshape(-1))

    def test_inspect_reads_around_damage(self) -> None:
        """If one node's state is damaged, the others are still read, and verify names it."""
        files = self.write(self.make_tree())
        if len(files) == 1:
            pytest.skip("a single file is read as a whole")
        [name] = [name for name in files if name.startswith("decoder/") and name.endswith("state.pt")]
        files[name] = files[name][:-10]
        with MemoryStore(files) as store:
            contents = self.make_format().inspect(store, ReadOptions(LoadOptions(), "", "the-save"))
            assert [(row.node, row.file) for row in contents.verify()] == [("decoder", name)]
            with pytest.raises(LoadError, match=name):
                contents.nodes["decoder"].state.read("weight")
            assert contents.nodes["decoder"].class_name == "Decoder"
            assert contents.nodes["encoder"].state.read("weight").shape == (2, 3)

    def damage(self, files: dict[str, bytes]) -> list[Damage]:
        """Return the damage that verifying finds in files."""
        with MemoryStore(files) as store:
            return list(self.make_format().inspect(store, ReadOptions(LoadOptions(), "", "the-save")).verify())

    def test_values_are_read_where_they_shall_be(self) -> None:
        """``map_location`` reaches the tensors of every node."""
        files = self.write(self.make_tree())
        with MemoryStore(files) as store:
            saved = self.make_format().read(store, ReadOptions(LoadOptions(map_location="meta")))
        devices = {
            value.device.type
            for _, node in walk(saved.tree)
            for value in node.state.values()
            if isinstance(value, torch.Tensor)
        }
        assert devices == {"meta"}


def same_tree(one: SaveTreeNode, other: SaveTreeNode) -> bool:
    """Whether two trees have the same nodes: bits of values, texts, stashes, module metadata.

    The order of children does not matter.
    """
    mine, yours = dict(walk(one)), dict(walk(other))
    return mine.keys() == yours.keys() and all(same(_facts(mine[path]), _facts(yours[path])) for path in mine)


def _facts(node: SaveTreeNode) -> list[Any]:
    metadata = {
        prefix: {key: value for key, value in local.items() if not str(key).startswith("_flambe_")}
        for prefix, local in sorted(node.state._metadata.items())
        if isinstance(local, dict)
    }
    texts = (node.version, node.class_name, node.source_code, node.config)
    return [dict(node.state), texts, dict(sorted(node.object_stash.items())), metadata]


def _node(
    class_name: str,
    values: dict[str, Any],
    *,
    config: str = "",
    source: str = "",
    version: str = "0.0.0",
    stash: dict[str, Any] | None = None,
) -> SaveTreeNode:
    state = State(values)
    state._metadata[""] = {"version": 1}
    return SaveTreeNode(state, version, class_name, source, config, stash or {}, {})
