"""Pickles that would take memory or time out of all proportion: each is measured before it is answered."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import torch
from casebook import (
    ONE,
    Case,
    add,
    binary,
    call,
    case,
    mapping,
    named,
    number,
    shape,
    storage,
    tensor,
    text,
    torch_zip,
    whole,
)
from hostile_pickles import IN_STASH, PLACES, in_nested_file, in_pickle, in_stash, in_state

from flambe_save import CorruptSaveError, FlambeSaveError, LimitError, UnknownFormatError, UntrustedError

LARGE_TUPLE = b"K\x01\x85" + b"2\x86" * 14  # 2 ** 14 parts; a key may have 10,000
HASHED = "too large to be hashed"
COUNT, INDEX_ = "a count larger than the pickle", "an index (or a size )?larger than the pickle"
REPEATED = (512 << 20) // 4 + 1024  # numbers of 4 bytes: what tensors may repeat, and a little more


def sizes(
    name: str, body: bytes, rule: str, message: str, *, where: tuple[str, ...] = ("state", "pkl", "legacy")
) -> None:
    """Put a pickle into the table, in several places."""
    for place in where:

        def make(folder: Path, place: str = place) -> Path:
            return PLACES[place](folder, whole(body))

        kinds = (CorruptSaveError, LimitError, UntrustedError, UnknownFormatError)
        add(Case(f"{name}-{place}", make, kinds, message, rule, place not in IN_STASH))


NO_CLASS = "a storage's class stands for its type alone"
sizes("bytearray_of_a_size", call("builtins", "bytearray", number(8)), "bytearray takes bytes, not a size", "latin1")
sizes("bytes_of_a_size", call("builtins", "bytes", number(8)), "bytes takes bytes, not a size", "latin1")
sizes("float_tensor", call("torch", "FloatTensor", number(8)), "no class that allocates is found", "torch.FloatTensor")
sizes("float_storage", call("torch", "FloatStorage", number(8)), NO_CLASS, "not callable")
sizes("untyped_storage", call("torch.storage", "UntypedStorage", number(8)), NO_CLASS, "not callable")
sizes(
    "parameter_of_nothing",
    call("torch._utils", "_rebuild_parameter", number(5), b"\x88", b"}"),
    "arguments are checked",
    "a parameter that is not a tensor",
)
PRESENT = "a count is compared with what is there"
sizes("binunicode8", b"\x8d" + struct.pack("<Q", 10_000) + b"abc", PRESENT, COUNT)
sizes("binbytes8", b"\x8e" + struct.pack("<Q", 10_000) + b"abc", PRESENT, COUNT)
sizes("bytearray8", b"\x96" + struct.pack("<Q", 10_000) + b"abc", PRESENT, COUNT)
sizes("binbytes", b"B" + struct.pack("<I", 10_000) + b"abc", PRESENT, COUNT)
sizes("long4", b"\x8b" + struct.pack("<i", 10_000) + b"abc", PRESENT, COUNT)
sizes("long4_negative", b"\x8b" + struct.pack("<i", -5) + b"abc", "a count is no negative number", COUNT)
sizes("frame", b"\x95" + struct.pack("<Q", 10_000) + b"N", "a frame is no larger than the pickle", INDEX_)
sizes("long_binput", b"}r" + struct.pack("<I", 10_000), "a memo index is no larger than the pickle", INDEX_)
sizes("put", b"}p10000\n", "a memo index is no larger than the pickle", INDEX_)
sizes("int_of_many_digits", b"I" + b"9" * 5_000 + b"\n", "Python limits the digits of an int", "cannot be read")
sizes("long_of_many_digits", b"L" + b"9" * 5_000 + b"L\n", "Python limits the digits of an int", "cannot be read")
sizes("deep_lists", b"]" * 2_000 + b"a" * 1_999, "what is built is walked without recursion", "mapping|list")
sizes("deep_tuples", b"N" + b"\x85" * 2_000, "what is built is walked without recursion", "mapping|tuple")
sizes("marks", b"(" * 3, "a pickle that ends early is damage", "cannot be read")
MEASURED = "what is hashed is measured before"
sizes("key", b"}" + LARGE_TUPLE + b"K\x01s", MEASURED, HASHED, where=tuple(PLACES))
sizes("keys", b"}(" + LARGE_TUPLE + b"K\x01u", MEASURED, HASHED)
sizes("dict_opcode", b"(" + LARGE_TUPLE + b"K\x01d", MEASURED, HASHED)
sizes("item", b"\x8f(" + LARGE_TUPLE + b"\x90", MEASURED, HASHED)
sizes("frozen", b"(" + LARGE_TUPLE + b"\x91", MEASURED, HASHED)
sizes("set_call", call("builtins", "set", b"]" + LARGE_TUPLE + b"a"), MEASURED, HASHED)
for kind, module in {
    "ordered": "collections",
    "flambe": "flambe.compile.serialization",
    "own": "flambe_save.state",
}.items():
    sizes(
        f"{kind}_pairs",
        call(module, "OrderedDict" if kind == "ordered" else "State", b"](" + LARGE_TUPLE + b"K\x01\x86e"),
        MEASURED,
        HASHED,
    )
    sizes(
        f"{kind}_setitem",
        call(module, "OrderedDict" if kind == "ordered" else "State") + LARGE_TUPLE + b"K\x01s",
        MEASURED,
        HASHED,
    )


def of_a_storage() -> bytes:
    """Return a torch file of one storage."""
    buffer = io.BytesIO()
    torch.save(torch.ones(1).untyped_storage(), buffer)
    return buffer.getvalue()


def nested_files(calls: int) -> bytes:
    """Return a pickle that reads the torch file inside it again and again."""
    push = named("torch.storage", "_load_from_bytes") + b"q\x01" + binary(of_a_storage()) + b"q\x02"
    return whole(push + b"h\x01h\x02\x85R0" * calls + b"h\x01h\x02\x85R")


@case(CorruptSaveError, "copies the same bytes", "files inside pickles are read within one budget")
def nested_files_in_a_pickle(folder: Path) -> Path:
    """A pickle asks for the file inside it more often than its size justifies."""
    return in_pickle(folder, nested_files(2_000))


@case(CorruptSaveError, "copies the same bytes", "files inside pickles are read within one budget")
def nested_files_in_a_state(folder: Path) -> Path:
    """The same in a state."""
    return in_state(folder, nested_files(2_000))


@case(UntrustedError, "_load_from_bytes", "a file inside a pickle holds no other")
def nested_files_of_two_levels(folder: Path) -> Path:
    """A file inside a file inside a pickle."""
    return in_nested_file(folder, whole(call("torch.storage", "_load_from_bytes", binary(of_a_storage()))))


# ------------------------------------------------------------------------------------------------ tensors


def with_tensor(folder: Path, pushed: bytes, records: dict[str, bytes]) -> Path:
    """Return a save whose state holds a pushed value."""
    return in_records(folder, mapping(text("lin.weight"), pushed), records)


def in_records(folder: Path, pickled: bytes, records: dict[str, bytes]) -> Path:
    """Return a save whose state is a pickle and records."""
    from casebook import with_state

    return with_state(folder, torch_zip(pickled, records))


@case(CorruptSaveError, "storage|bytes", "a storage has the size that its persistent id tells")
def a_storage_larger_than_its_record(folder: Path) -> Path:
    """A storage of two elements over a record of one."""
    return with_tensor(folder, tensor(storage("0", 2), 0, (2,), (1,)), {"0": ONE})


@case(CorruptSaveError, "storage|bytes", "a storage has the size that its persistent id tells")
def a_storage_smaller_than_its_record(folder: Path) -> Path:
    """A record that is longer than its storage."""
    return with_tensor(folder, tensor(storage("0", 1), 0, (1,), (1,)), {"0": ONE * 2})


@case(CorruptSaveError, "missing", "a storage's record is there")
def a_storage_without_its_record(folder: Path) -> Path:
    """A key that no record has."""
    return with_tensor(folder, tensor(storage("7", 1), 0, (1,), (1,)), {"0": ONE})


@case(CorruptSaveError, "missing|cannot be read", "a storage's key is the name of a record and no path")
def a_storage_by_a_path(folder: Path) -> Path:
    """A key that points elsewhere."""
    return with_tensor(folder, tensor(storage("../elsewhere", 1), 0, (1,), (1,)), {"0": ONE})


VIEWS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "past_the_end": (0, (2,), (1,)),
    "by_offset": (1, (1,), (1,)),
    "by_stride": (0, (1, 2), (1, 2)),
    "negative_offset": (-1, (1,), (1,)),
    "negative_stride": (0, (1,), (-1,)),
    "negative_size": (0, (-1,), (1,)),
    "uneven": (0, (1, 1), (1,)),
}
for view, (offset, size, stride) in VIEWS.items():
    for rebuilt in ("v2", "quantized"):

        def make_view(
            folder: Path,
            offset: int = offset,
            size: tuple[int, ...] = size,
            stride: tuple[int, ...] = stride,
            rebuilt: str = rebuilt,
        ) -> Path:
            if rebuilt == "v2":
                return with_tensor(folder, tensor(storage("0", 1), offset, size, stride), {"0": ONE})
            return with_tensor(folder, quantized(offset, size, stride), {"0": b"\x01"})

        add(
            Case(
                f"view_{view}-{rebuilt}",
                make_view,
                (CorruptSaveError,),
                "past its storage|a bad offset|a bad shape",
                "a tensor lies inside its storage",
            )
        )


def quantized(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Push a quantized tensor of one byte."""
    quantizer = b"(" + named("torch", "per_tensor_affine") + b"G" + struct.pack(">d", 1.0) + b"K\x00t"
    parts = storage("0", 1, "QInt8Storage"), number(offset), shape(*size), shape(*stride), quantizer, b"\x89", b"}"
    return call("torch._utils", "_rebuild_qtensor", *parts)


@case(
    CorruptSaveError, "larger than its storage", "a tensor that torch would have to allocate is as large as its storage"
)
def a_broadcast_quantized_tensor(folder: Path) -> Path:
    """One byte that stands for two."""
    return with_tensor(folder, quantized(0, (2,), (0,)), {"0": b"\x01"})


BROADCAST = tensor(storage("0", 1), 0, (REPEATED,), (0,))
TWO = tensor(storage("0", 1), 0, (2,), (0,))


@case(LimitError, "repeat what is stored", "what a few stored numbers may stand for is limited")
def a_broadcast_weight(folder: Path) -> Path:
    """A weight of more than 512 MiB over four bytes."""
    return in_records(folder, mapping(text("lin.weight"), BROADCAST, text("lin.bias"), BROADCAST), {"0": ONE})


@case(CorruptSaveError, "which is not a container", "an opcode for sets takes sets")
def a_tensor_as_a_set(folder: Path) -> Path:
    """Adding an item to a tensor would compute the sum."""
    return with_tensor(folder, TWO + b"(K\x01\x90", {"0": ONE})


@case(CorruptSaveError, "which is not a container", "an opcode for mappings takes mappings")
def a_tensor_as_a_mapping(folder: Path) -> Path:
    """Setting an item of a tensor would fill it."""
    return with_tensor(folder, tensor(storage("0", 1), 0, (1, 2), (0, 0)) + b"K\x00K\x01s", {"0": ONE})


@case(CorruptSaveError, "a size of no numbers", "a size is made of a tuple of ints")
def a_size_of_a_tensor(folder: Path) -> Path:
    """It would be gone through number by number."""
    return with_tensor(folder, call("torch", "Size", TWO), {"0": ONE})


@case(CorruptSaveError, "a mapping of nothing", "a mapping is made of pairs")
def a_state_of_a_tensor(folder: Path) -> Path:
    """It would be gone through row by row."""
    rows = tensor(storage("0", 1), 0, (2, 2), (0, 0))
    return in_records(folder, whole(call("flambe_save.state", "State", rows)), {"0": ONE})


def sparse(indices: bytes, values: bytes, size: bytes) -> bytes:
    """Push a sparse tensor."""
    layout = call("torch.serialization", "_get_layout", text("torch.sparse_coo"))
    return call("torch._utils", "_rebuild_sparse_tensor", layout, b"(" + indices + values + size + b"t")


INDEX = struct.pack("<q", 3)
THREE = tensor(storage("1", 1, "LongStorage"), 0, (1, 1), (1, 1))
SPARSE = {
    "outside": sparse(THREE, tensor(storage("0", 1), 0, (1,), (1,)), shape(3)),
    "negative": sparse(
        tensor(storage("2", 1, "LongStorage"), 0, (1, 1), (1, 1)), tensor(storage("0", 1), 0, (1,), (1,)), shape(3)
    ),
    "uneven": sparse(THREE, tensor(storage("0", 1), 0, (1, 1), (1, 1)), shape(3)),
    "no_tensors": sparse(b"N", b"N", shape(3)),
    "lists": sparse(b"](K\x01K\x02e", b"](K\x01e", shape(3)),
    "bad_layout": call("torch.serialization", "_get_layout", text("torch.onnx")),
    "layout_of_a_function": call("torch.serialization", "_get_layout", text("load")),
}
for kind, pushed in SPARSE.items():

    def make_sparse(folder: Path, pushed: bytes = pushed) -> Path:
        return with_tensor(folder, pushed, {"0": ONE, "1": INDEX, "2": struct.pack("<q", -1)})

    add(
        Case(
            f"sparse_{kind}",
            make_sparse,
            (CorruptSaveError, LimitError),
            "",
            "a sparse tensor's invariants are checked",
        )
    )


# ------------------------------------------------------------------------------------------------ numpy


def dtype(code: str, state: bytes = b"") -> bytes:
    """Push a numpy type."""
    return call("numpy", "dtype", text(code), b"\x89", b"\x88") + (state + b"b" if state else b"")


def type_state(size: int, order: str = "|", inner: bytes = b"N", names: bytes = b"N", fields: bytes = b"N") -> bytes:
    """Push the state of a numpy type."""
    return b"(" + number(3) + text(order) + inner + names + fields + number(size) + number(1) + number(0) + b"t"


def array(pushed: bytes, sizes: tuple[int, ...], raw: bytes) -> bytes:
    """Push a numpy array of bytes, or of a pushed list."""
    made = call("numpy._core.multiarray", "_reconstruct", named("numpy", "ndarray"), shape(0), binary(b"b"))
    content = raw if raw[:1] == b"]" else binary(raw)
    return made + b"(" + number(1) + shape(*sizes) + pushed + b"\x89" + content + b"tb"


F4, F8, V8, OBJECT = type_state(-1, "<"), type_state(-1, "<"), type_state(8), type_state(-1)
ARRAYS = {
    "larger_type": array(dtype("V8", type_state(9)), (1,), b"12345678"),
    "type_without_a_state": array(dtype("V9"), (1,), b"12345678"),
    "larger_subarray": array(dtype("V8", type_state(8, inner=b"(" + dtype("f4", F4) + shape(2) + b"t")), (1,), b"1234"),
    "nested_subarrays": array(
        dtype("V8", type_state(8, inner=b"(" + dtype("V8", V8) + shape(1 << 16, 1 << 15) + b"t")),
        (1,),
        b"1234",
    ),
    "more_than_its_bytes": array(dtype("f4", F4), (2,), b"1234"),
    "of_objects": array(dtype("O8", OBJECT), (1,), b"](Ne"),
    "objects_in_fields": array(
        dtype(
            "V8",
            type_state(
                8,
                names=b"(" + text("a") + b"t",
                fields=b"}" + text("a") + b"(" + dtype("O8", OBJECT) + number(0) + b"ts",
            ),
        ),
        (1,),
        b"](Ne",
    ),
    "fields_outside": array(
        dtype(
            "V8",
            type_state(
                8, names=b"(" + text("a") + b"t", fields=b"}" + text("a") + b"(" + dtype("f8", F8) + number(8) + b"ts"
            ),
        ),
        (1,),
        b"12345678",
    ),
    "scalar": call("numpy._core.multiarray", "scalar", dtype("f8", F8), binary(b"1")),
    "scalar_of_objects": call("numpy._core.multiarray", "scalar", dtype("O8", OBJECT), binary(bytes(8))),
    "of_a_class": call("numpy._core.multiarray", "_reconstruct", named("torch", "float32"), shape(0), binary(b"b")),
    "of_a_size": call("numpy._core.multiarray", "_reconstruct", named("numpy", "ndarray"), shape(1), binary(b"b")),
    "buffer": call("numpy._core.numeric", "_frombuffer", binary(b"1234"), dtype("f4", F4), shape(2), text("C")),
    "axes": call("numpy._core.numeric", "_frombuffer", binary(b"1234"), dtype("f4", F4), shape(1), text("K"), shape(1)),
}
FITS = "another size|unknown|a bad|an array with bad|without its bytes|cannot override"
for kind, pushed in ARRAYS.items():
    reason = "numpy.object_" if kind.startswith(("of_objects", "objects_")) else FITS
    rule = "numpy gets types and sizes that fit the bytes"
    sizes(f"array_{kind}", pushed, rule, reason, where=("state", "pkl", "stash"))


# ------------------------------------------------------------------------------------------------ budgets


@case(CorruptSaveError, "copies the same bytes", "bytes are copied within a budget")
def the_same_bytes_again(folder: Path) -> Path:
    """One long text is made bytes again and again, and all are kept."""
    copies = named("_codecs", "encode") + b"q\x01" + text("x" * (1 << 20)) + b"q\x02" + b"](" + b"h\x01h\x02\x85R" * 20
    return in_state(folder, whole(copies + b"e"))


@case(FlambeSaveError, "", "a tuple that stands for too much is not handed on", state=False)
def a_large_tuple_in_a_set_of_the_config(folder: Path) -> Path:
    """The stash holds a large tuple, and the config puts it into a set."""
    path = in_stash(folder, whole(b"}" + text("0") + LARGE_TUPLE + b"s"))
    (path / "config.yaml").write_text("!casebook.Holder\nvalue: !set [!$ '0']\n")
    return path


add(
    Case(
        "a_large_tuple_as_an_argument",
        lambda folder: _argument(folder),
        (FlambeSaveError,),
        "",
        "a tuple that stands for too much is not handed on",
        False,
    )
)


def _argument(folder: Path) -> Path:
    path = in_stash(folder, whole(b"}" + text("0") + LARGE_TUPLE + b"s"))
    conv = "!torch.Conv2d {in_channels: 1, out_channels: 1, kernel_size: 1, padding_mode: !$ '0'}"
    (path / "config.yaml").write_text(f"!casebook.Holder\nvalue: {conv}\n")
    return path


@case(CorruptSaveError, "parts|cannot be read", "the parts of a key are limited")
def a_key_of_dots(folder: Path) -> Path:
    """Each key of a state is looked for upwards from part to part."""
    return in_pickle(folder, whole(b"}" + text("." * 10_001) + b"K\x01s", 2))


@case(CorruptSaveError, "", "a nested file holds a storage")
def a_nested_file_of_no_storage(folder: Path) -> Path:
    """A pickle's torch file holds something else."""
    return in_nested_file(folder, whole(b"K\x01"))
