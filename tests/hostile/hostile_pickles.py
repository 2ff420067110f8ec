"""Pickles that would run something: each way to name and to call it, in each place where a save holds a pickle."""

from __future__ import annotations

import copyreg
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from casebook import (
    Case,
    Slotted,
    Trap,
    add,
    apply,
    archive,
    binary,
    call,
    case,
    holder,
    legacy,
    marker,
    member,
    named,
    number,
    outer,
    text,
    torch_zip,
    touched,
    unlisted,
    whole,
    with_state,
)

from flambe_save import CorruptSaveError, UntrustedError

Payload = Callable[[Path], bytes]  # from the marker to a pickle

# ------------------------------------------------------------------------------------------------ places


def in_state(folder: Path, data: bytes) -> Path:
    """In the root's state."""
    return with_state(folder, torch_zip(data))


def in_bare_state(folder: Path, data: bytes) -> Path:
    """In a state that is no torch file."""
    return with_state(folder, data)


def in_legacy_state(folder: Path, data: bytes) -> Path:
    """In a torch file of 2019."""
    return with_state(folder, legacy(data))


def in_child(folder: Path, data: bytes) -> Path:
    """In the state of a component inside."""
    return with_state(folder, torch_zip(data), "inner/state.pt")


def in_stash(folder: Path, data: bytes) -> Path:
    """In the stash, where the config asks for it."""
    path = unlisted(holder(folder))
    (path / "config.yaml").write_text("!casebook.Holder\nvalue: !$ '0'\n")
    (path / "stash.pkl").write_bytes(torch_zip(data))
    return path


def in_bare_stash(folder: Path, data: bytes) -> Path:
    """In a stash as Flambe wrote it before 0.4."""
    path = in_stash(folder, data)
    (path / "stash.pkl").write_bytes(data)
    return path


def in_referring(folder: Path, data: bytes) -> Path:
    """In a pickle of its own in the stash, which may refer to what the config builds."""
    path = in_stash(folder, pickle.dumps({"0": torch_zip(data)}))
    (path / "config.yaml").write_text("!casebook.Holder\nvalue: !pickled {pickle: !$ '0', item: 0, objects: []}\n")
    return path


def in_pickle(folder: Path, data: bytes) -> Path:
    """As a whole .pkl."""
    (folder / "s.pkl").write_bytes(data)
    return folder / "s.pkl"


def in_packed_pickle(folder: Path, data: bytes) -> Path:
    """As a .pkl.tar.gz."""
    return archive(folder / "s.pkl.tar.gz", [member("s.pkl", data)])


def in_archive(folder: Path, data: bytes) -> Path:
    """In the state of a .tar.gz."""
    from casebook import members_of

    return archive(folder / "s.tar.gz", members_of(in_state(folder, data)))


def in_nested_file(folder: Path, data: bytes) -> Path:
    """In a torch file that a pickle holds."""
    return in_pickle(folder, whole(call("torch.storage", "_load_from_bytes", binary(torch_zip(data)))))


PLACES: dict[str, Callable[[Path, bytes], Path]] = {
    "state": in_state,
    "bare": in_bare_state,
    "legacy": in_legacy_state,
    "child": in_child,
    "stash": in_stash,
    "bare_stash": in_bare_stash,
    "referring": in_referring,
    "pkl": in_pickle,
    "packed": in_packed_pickle,
    "archive": in_archive,
    "nested": in_nested_file,
}
IN_STASH = ("stash", "bare_stash", "referring")


def place(
    payload: Payload,
    name: str,
    where: str,
    message: str,
    rule: str,
    errors: tuple[type[BaseException], ...] = (UntrustedError,),
) -> None:
    """Put a payload into the table, in one place."""

    def make(folder: Path) -> Path:
        return PLACES[where](folder, payload(marker(folder)))

    # A stash is opened when it is looked into, and the state alone does not look
    add(Case(f"{name}-{where}", make, errors, message, rule, where not in IN_STASH))


# ------------------------------------------------------------------------------------------------ calls by name


def said(path: Path) -> bytes:
    """Push the marker's path."""
    return text(str(path))


def inner(path: Path) -> bytes:
    """Push a pickle that makes the marker."""
    return binary(whole(call("casebook", "touched", said(path))))


Arguments = Callable[[Path], tuple[bytes, ...]]
NONE: Arguments = lambda path: ()  # noqa: E731
MARKER: Arguments = lambda path: (said(path),)  # noqa: E731
# What is named is harmless, and merely not data. Beside functions of the tests, which make the marker, there is one
# name of each kind: of Python, of modules that do have names which are data, through such a name, and of no module
CALLS: dict[str, tuple[str, str, Arguments]] = {
    "a_function": ("casebook", "touched", MARKER),
    "class": ("casebook", "Trap", MARKER),
    "class_by_copyreg": ("copyreg", "__newobj__", lambda path: (named("casebook", "Trap"), said(path))),
    "in_another_module": ("casebook", "Path.touch", lambda path: (call("pathlib", "PosixPath", said(path)),)),
    "module": ("casebook", "json", NONE),
    "builtin": ("builtins", "len", MARKER),
    "builtin_getattr": ("builtins", "getattr", lambda path: (named("casebook", "Trap"), text("spring"))),
    "builtin_map": ("builtins", "map", lambda path: (named("casebook", "touched"), b"(" + said(path) + b"l")),
    "python_2": ("__builtin__", "abs", lambda path: (number(1),)),
    "of_the_library": ("os", "getcwd", NONE),
    "of_the_library_in_c": ("math", "sqrt", lambda path: (number(4),)),
    "pathlib": ("pathlib", "Path.touch", lambda path: (call("pathlib", "PosixPath", said(path)),)),
    "collections": ("collections", "namedtuple", NONE),
    "datetime": ("datetime", "date.today", NONE),
    "codecs": ("_codecs", "decode", NONE),
    "torch": ("torch", "is_tensor", lambda path: (number(1),)),
    "torch_utils": ("torch._utils", "_get_all_device_indices", NONE),
    "torch_serialization": ("torch.serialization", "get_default_mmap_options", NONE),
    "torch_through_data": ("torch._utils", "_rebuild_tensor_v2.__globals__", NONE),
    "numpy": ("numpy", "zeros", lambda path: (number(1),)),
    "numpy_multiarray": ("numpy._core.multiarray", "zeros", lambda path: (number(1),)),
    "dill_type": ("dill._dill", "_load_type", lambda path: (text("NoneType"),)),
    "dill_loads": ("dill", "loads", lambda path: (inner(path),)),
    "pickle_loads": ("pickle", "loads", lambda path: (inner(path),)),
    "not_imported": ("antigravity", "fly1", NONE),
    "nowhere": ("no_such_module", "name", NONE),
    "colour": ("\x1b[31mred", "\x1b]0;title\x07", NONE),
    "long_name": ("m" * 10_000, "n" * 10_000, NONE),
    "odd_name": ("a.b\u202eevil", "c\u0000d", NONE),
}


def call_of(name: str) -> Payload:
    """Return the payload of a row of the table."""
    module, attribute, arguments = CALLS[name]
    if name in ("colour", "odd_name"):
        return lambda path: whole(text(module) + text(attribute) + b"\x93)R")
    return lambda path: whole(call(module, attribute, *arguments(path)))


for index, row in enumerate(CALLS):
    RULE = "a pickle finds nothing by name but the stand-ins of safe_globals.py"
    others = [where for where in PLACES if where not in ("state", "pkl")]
    for where in ("state", "pkl", others[index % len(others)]):
        place(call_of(row), row, where, "trusting load|asks for|not trusted|may unpickle", RULE)

# ------------------------------------------------------------------------------------------------ ways to call


class Reduced:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced


def by_protocol(protocol: int) -> Payload:
    """Return what the pickle module itself writes."""
    return lambda path: pickle.dumps([Reduced(Trap, str(path))], protocol)


def stack(body: Callable[[bytes], bytes]) -> Payload:
    """Return a payload of a body that is made of the pushed path."""
    return lambda path: whole(body(said(path)))


TOUCHED = named("casebook", "touched")
TRAP = named("casebook", "Trap")
WAYS: dict[str, tuple[Payload, str]] = {
    "inst": (stack(lambda path: b"(" + path + b"icasebook\ntouched\n"), "INST finds by name too"),
    "inst_new": (stack(lambda path: b"(" + path + b"icasebook\nTrap\n"), "INST finds by name too"),
    "obj": (stack(lambda path: b"(" + TOUCHED + path + b"o"), "OBJ takes what was found"),
    "newobj": (stack(lambda path: TRAP + path + b"\x85\x81"), "NEWOBJ takes what was found"),
    "newobj_ex": (
        stack(lambda path: TRAP + b")}" + text("key") + path + b"s\x92"),
        "NEWOBJ_EX takes what was found",
    ),
    "setstate": (stack(lambda path: TRAP + b")\x81" + path + b"b"), "the object is not made"),
    "setter": (
        stack(lambda path: named("casebook", "Slotted") + b")\x81N}" + text("path") + path + b"s\x86b"),
        "the object is not made",
    ),
    "setitem": (stack(lambda path: TRAP + b")\x81K\x01" + path + b"s"), "the object is not made"),
    "append": (stack(lambda path: TRAP + b")\x81" + path + b"a"), "the object is not made"),
    "appends": (stack(lambda path: TRAP + b")\x81(" + path + b"e"), "the object is not made"),
    "additems": (stack(lambda path: TRAP + b")\x81(" + path + b"\x90"), "the object is not made"),
    "called_object": (stack(lambda path: TRAP + b")\x81" + path + b"\x85R"), "the object is not made"),
    "python_2_names": (
        stack(lambda path: named("__builtin__", "getattr") + TRAP + text("spring") + b"\x86R"),
        "Python 2's names are the same names",
    ),
    "stack_global": (
        stack(lambda path: text("casebook") + text("touched") + b"\x93" + path + b"\x85R"),
        "STACK_GLOBAL finds by name",
    ),
    "memo": (
        stack(
            lambda path: text("touched") + b"\x94" + text("casebook") + b"\x940h\x01h\x00" + b"\x93" + path + b"\x85R"
        ),
        "what a name is decides when it is looked up, not how it came to the stack",
    ),
    "decoys": (
        stack(
            lambda path: (
                text("casebook")
                + text("touched")
                + text("collections")
                + text("OrderedDict")
                + b"00\x93"
                + path
                + b"\x85R"
            )
        ),
        "names are checked when they are looked up, whatever a scan of the opcodes saw",
    ),
    "two_steps": (
        stack(lambda path: apply(call("builtins", "getattr", named("casebook", "Path"), text("cwd")))),
        "the first name is refused",
    ),
    "partial": (
        stack(lambda path: call("functools", "partial", TOUCHED, path) + b")R"),
        "what would call another thing is refused too",
    ),
    "reduce": (
        stack(
            lambda path: (
                call("functools", "reduce", TOUCHED, b"(" + path + b"l")
                + call("builtins", "list", call("builtins", "map", TOUCHED, b"(" + path + b"l"))
                + b"0"
            )
        ),
        "what would call another thing is refused too",
    ),
    "attrgetter": (
        stack(lambda path: apply(call("operator", "attrgetter", text("touched")), named("sys", "modules"))),
        "what would look up another thing is refused too",
    ),
    "methodcaller": (
        stack(lambda path: apply(call("operator", "methodcaller", text("touch")), call("pathlib", "PosixPath", path))),
        "what would call another thing is refused too",
    ),
    "evil_persistent_id": (
        stack(lambda path: b"(" + text("storage") + apply(TOUCHED, path) + text("0") + b"tQ"),
        "a persistent id is data itself",
    ),
    "after_stop": (
        stack(lambda path: b"}." + apply(TOUCHED, path)),
        "what follows the end is not unpickled, and is damage",
    ),
    "load_from_bytes": (
        lambda path: whole(call("torch.storage", "_load_from_bytes", inner(path))),
        "a file inside a pickle is read by the same rules",
    ),
    "load_from_zip": (
        lambda path: whole(
            call("torch.storage", "_load_from_bytes", binary(torch_zip(whole(apply(TOUCHED, said(path))))))
        ),
        "a file inside a pickle is read by the same rules",
    ),
    "numpy_objects": (
        lambda path: pickle.dumps({"a": np.array([Reduced(Trap, str(path))], object)}, 4),
        "arrays of objects name what is in them",
    ),
    "trap_in_a_key": (
        stack(lambda path: b"}" + apply(TOUCHED, path) + b"K\x01s"),
        "a key is found by the same rules",
    ),
    **{f"protocol_{number}": (by_protocol(number), "no protocol has a way of its own") for number in range(6)},
    "protocol_0_text": (
        lambda path: b"ccasebook\ntouched\n(S'" + str(path).encode() + b"'\ntR.",
        "the oldest opcodes find by name too",
    ),
}

for index, (way, (payload, rule)) in enumerate(WAYS.items()):
    errors = (
        (CorruptSaveError, UntrustedError)
        if way in ("after_stop", "numpy_objects", "load_from_bytes")
        else (UntrustedError,)
    )
    others = ["state", "stash", "child"] if way.startswith("protocol_") else list(PLACES)
    if way == "after_stop":
        others = ["pkl", "packed"]
    for where in dict.fromkeys((others[0], others[index % len(others)], others[(3 * index + 1) % len(others)])):
        place(payload, way, where, "", rule, errors)


# ------------------------------------------------------------------------------------------------ codes


NAME = ("casebook", "touched")
_CODES: dict[int, tuple[str, str]] = copyreg._inverted_registry  # type: ignore[attr-defined]


def registered(opcode: bytes, number: int, used: bool) -> Payload:
    """Return a call of a function by the code that the program has registered for it."""

    def payload(path: Path) -> bytes:
        for code in [code for code, what in _CODES.items() if what == NAME]:  # of another case in this process
            copyreg.remove_extension(*NAME, code)
        copyreg.add_extension(*NAME, number)
        width = {b"\x82": 1, b"\x83": 2, b"\x84": 4}[opcode]
        push = opcode + number.to_bytes(width, "little")
        if used:
            copyreg._extension_cache[number] = touched  # type: ignore[attr-defined]  # as after any pickle that used it
        return whole(push + said(path) + b"\x85R")

    return payload


CODES = {"ext1": (b"\x82", 240), "ext2": (b"\x83", 0x7001), "ext4": (b"\x84", 0x70000001)}
for ext, (opcode, number_) in CODES.items():
    for used in (False, True):
        for where in ("state", "pkl", "legacy"):
            place(
                registered(opcode, number_, used),
                f"{ext}_{'used' if used else 'fresh'}",
                where,
                "",
                "codes of copyreg's registry are names as well, also where Python has found them before",
                (UntrustedError, CorruptSaveError),
            )


# ------------------------------------------------------------------------------------------------ modules


def importing(folder: Path) -> Path:
    """Make a save that names a module which would run on import."""
    name = "imported_by_a_pickle"
    (folder / f"{name}.py").write_text(f"open({str(marker(folder))!r}, 'w').close()\nvalue = dict\n")
    return in_state(folder, whole(named(name, "value")))


@case(UntrustedError, "imported_by_a_pickle", "nothing is imported to learn what it is")
def a_module_to_import(folder: Path) -> Path:
    """A pickle names a module that is not imported yet."""
    return importing(folder)


@case(UntrustedError, "OrderedDict.fromkeys", "a name is one text: dots in its last part lead nowhere")
def dotted_through_data(folder: Path) -> Path:
    """A name leads through something that is data."""
    return in_state(
        folder, whole(text("collections") + text("OrderedDict.fromkeys.__self__") + b"\x93N0ccasebook\ntouched\n")
    )


@case(UntrustedError, "casebook.Trap", "the error lists all that is refused, and not the first alone")
def all_names_are_listed(folder: Path) -> Path:
    """Several globals are named."""
    return in_state(folder, whole(TOUCHED + TRAP + named("builtins", "len") + b"\x87"))


@functools.cache
def _keep() -> type:
    return Slotted  # pickles of this module name it


@case(CorruptSaveError, "cannot be read|persistent", "persistent ids are tuples that name storages")
def a_text_as_persistent_id(folder: Path) -> Path:
    """A persistent id of protocol 0."""
    return in_state(folder, b"Pcasebook.touched\n.")


@case((CorruptSaveError, UntrustedError), "", "old files could hold a module's class and source; these are not read")
def a_module_as_persistent_id(folder: Path) -> Path:
    """torch before 1.6 kept classes with their source under such ids."""
    pid = b"(" + text("module") + TRAP + text("casebook.py") + text("class Trap: pass") + b"tQ"
    return with_state(folder, legacy(whole(pid, 2)))


@case(CorruptSaveError, "cannot be read", "nothing outside a torch file has storages")
def a_persistent_id_in_a_pickle(folder: Path) -> Path:
    """A .pkl asks for a storage beside it."""
    return in_pickle(folder, whole(b"(" + text("storage") + text("0") + b"tQ"))


@case(UntrustedError, "casebook.Outer|_rebuild|Module", "a whole module is more than data")
def a_whole_module(folder: Path) -> Path:
    """torch.save(model) as a state."""
    import io

    import torch
    from casebook import Outer

    buffer = io.BytesIO()
    torch.save(Outer(), buffer)
    path = unlisted(outer(folder))
    (path / "state.pt").write_bytes(buffer.getvalue())
    return path
