"""Pickles that would run something: each way to name and to call it, in each place where a save holds a pickle."""

from __future__ import annotations

import copyreg
import functools
import marshal
import pickle
import sys
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
    careless,
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
    live: bool = True,
) -> None:
    """Put a payload into the table, in one place."""

    def make(folder: Path) -> Path:
        return PLACES[where](folder, payload(marker(folder)))

    # A stash is opened when it is looked into, and the state alone does not look
    add(Case(f"{name}-{where}", make, errors, message, rule, where not in IN_STASH, careless if live else None))


# ------------------------------------------------------------------------------------------------ calls by name


def touch(path: Path) -> bytes:
    """A command for a shell."""
    return text(f"touch '{path}'")


def code(path: Path) -> bytes:
    """The same in Python."""
    return text(f"open({str(path)!r}, 'w').close()")


def evil(path: Path) -> bytes:
    """A pickle that runs something."""
    return binary(whole(call("posix", "system", touch(path))))


Arguments = Callable[[Path], tuple[bytes, ...]]
EMPTY = b"}"
CALLS: dict[str, tuple[str, str, Arguments, bool]] = {
    "system": ("posix", "system", lambda path: (touch(path),), True),
    "os_system": ("os", "system", lambda path: (touch(path),), True),
    "popen": ("os", "popen", lambda path: (touch(path),), False),
    "nt_system": ("nt", "system", lambda path: (touch(path),), False),
    "subprocess": ("subprocess", "getoutput", lambda path: (touch(path),), True),
    "exec": ("builtins", "exec", lambda path: (code(path),), True),
    "exec_2": ("__builtin__", "execfile", lambda path: (code(path),), False),
    "eval": ("builtins", "eval", lambda path: (text(f"open({str(path)!r}, 'w')"),), True),
    "open": ("builtins", "open", lambda path: (text(str(path)), text("w")), True),
    "io_open": ("io", "open", lambda path: (text(str(path)), text("w")), True),
    "codecs_open": ("codecs", "open", lambda path: (text(str(path)), text("w")), True),
    "breakpoint": ("builtins", "breakpoint", lambda path: (), False),
    "path_touch": ("pathlib", "Path.touch", lambda path: (call("pathlib", "PosixPath", text(str(path))),), True),
    "path_write": (
        "pathlib",
        "PosixPath.write_text",
        lambda path: (call("pathlib", "PosixPath", text(str(path))), text("")),
        True,
    ),
    "path_os": ("pathlib", "os.system", lambda path: (touch(path),), True),
    "torch_os": ("torch", "os.system", lambda path: (touch(path),), True),
    "torch_load": ("torch", "load", lambda path: (text(str(path)),), False),
    "serialization_load": ("torch.serialization", "load", lambda path: (text(str(path)),), False),
    "hub_load": ("torch.hub", "load", lambda path: (text("owner/repo"), text("model")), False),
    "jit_load": ("torch.jit", "load", lambda path: (text(str(path)),), False),
    "torch_import": ("torch._utils", "_import_dotted_name", lambda path: (text("posix.system"),), False),
    "torch_exec": ("torch.fx.graph_module", "_exec_with_source", lambda path: (code(path), EMPTY), True),
    "torch_run": ("torch.utils.collect_env", "run", lambda path: (touch(path),), True),
    "torch_globals": ("torch._utils", "_rebuild_tensor_v2.__globals__.get", lambda path: (text("sys"),), False),
    "numpy_load": ("numpy", "load", lambda path: (evil_file(path), b"N", b"\x88"), True),
    "numpy_runstring": ("numpy.testing._private.utils", "runstring", lambda path: (code(path), EMPTY), True),
    "numpy_exec": ("numpy", "f2py.os.system", lambda path: (touch(path),), False),
    "code_type": ("types", "CodeType", lambda path: (number(0),), False),
    "function_type": ("types", "FunctionType", lambda path: (marshalled(path), EMPTY), False),
    "dill_code": ("dill._dill", "_create_code", lambda path: (number(0),), False),
    "dill_function": ("dill._dill", "_create_function", lambda path: (marshalled(path), EMPTY), False),
    "dill_import": ("dill._dill", "_import_module", lambda path: (text("posix.system"),), False),
    "dill_type": ("dill._dill", "_load_type", lambda path: (text("CodeType"),), False),
    "dill_loads": ("dill", "loads", lambda path: (evil(path),), True),
    "pickle_loads": ("pickle", "loads", lambda path: (evil(path),), True),
    "c_pickle_loads": ("_pickle", "loads", lambda path: (evil(path),), True),
    "marshal_loads": ("marshal", "loads", lambda path: (binary(marshal.dumps(compile("1", "", "eval"))),), False),
    "import": ("builtins", "__import__", lambda path: (text("antigravity"),), False),
    "import_module": ("importlib", "import_module", lambda path: (text("this"),), False),
    "resolve_name": ("pkgutil", "resolve_name", lambda path: (text("posix:system"),), False),
    "run_path": ("runpy", "run_path", lambda path: (text(str(path)),), False),
    "timeit": ("timeit", "timeit", lambda path: (code(path), text(""), named("time", "time"), number(1)), True),
    "pipepager": ("pydoc", "pipepager", lambda path: (text(""), touch(path)), True),
    "map": ("builtins", "map", lambda path: (named("posix", "system"), b"(" + touch(path) + b"l"), False),
    "getattr": ("builtins", "getattr", lambda path: (named("posix", "stat"), text("__self__")), False),
    "reconstructor": ("copyreg", "__newobj__", lambda path: (named("casebook", "Trap"), text(str(path))), True),
    "trap": ("casebook", "Trap", lambda path: (text(str(path)),), True),
    "webbrowser": ("webbrowser", "open", lambda path: (text("about:blank"),), False),
    "socket": ("socket", "create_connection", lambda path: (text("localhost"),), False),
    "ctypes": ("ctypes", "CDLL", lambda path: (b"N",), False),
    "colour": ("\x1b[31mred", "\x1b]0;title\x07", lambda path: (), False),
    "long_name": ("m" * 100_000, "n" * 100_000, lambda path: (), False),
    "odd_name": ("a.b\u202eevil", "c\u0000d", lambda path: (), False),
}


def evil_file(path: Path) -> bytes:
    """A file beside the save that numpy would unpickle."""
    beside = path.with_name("array.npy")
    beside.write_bytes(whole(call("posix", "system", touch(path))))
    return text(str(beside))


def marshalled(path: Path) -> bytes:
    """A code object."""
    return call("marshal", "loads", binary(marshal.dumps(compile(f"open({str(path)!r}, 'w')", "", "eval"))))


def call_of(name: str) -> Payload:
    """Return the payload of a row of the table."""
    module, attribute, arguments, _ = CALLS[name]
    if name in ("colour", "odd_name"):
        return lambda path: whole(text(module) + text(attribute) + b"\x93)R")
    return lambda path: whole(call(module, attribute, *arguments(path)))


for index, (row, (*_, is_live)) in enumerate(CALLS.items()):
    RULE = "a pickle finds nothing by name but the stand-ins of rebuild.py"
    others = [where for where in PLACES if where not in ("state", "pkl")]
    for where in ("state", "pkl", others[index % len(others)]):
        place(call_of(row), row, where, "trusting load|asks for|not trusted|may unpickle", RULE, live=is_live)

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


def stack(body: Callable[[bytes, bytes], bytes]) -> Payload:
    """Return a payload of a body that is made of the pushed path and the pushed command."""
    return lambda path: whole(body(text(str(path)), touch(path)))


SYSTEM = named("posix", "system")
TRAP = named("casebook", "Trap")
WAYS: dict[str, tuple[Payload, str]] = {
    "inst": (stack(lambda path, command: b"(" + command + b"iposix\nsystem\n"), "INST finds by name too"),
    "inst_new": (stack(lambda path, command: b"(" + path + b"icasebook\nTrap\n"), "INST finds by name too"),
    "obj": (stack(lambda path, command: b"(" + SYSTEM + command + b"o"), "OBJ takes what was found"),
    "newobj": (stack(lambda path, command: TRAP + path + b"\x85\x81"), "NEWOBJ takes what was found"),
    "newobj_ex": (
        stack(lambda path, command: TRAP + b")}" + text("key") + path + b"s\x92"),
        "NEWOBJ_EX takes what was found",
    ),
    "setstate": (stack(lambda path, command: TRAP + b")\x81" + path + b"b"), "the object is not made"),
    "setter": (
        stack(lambda path, command: named("casebook", "Slotted") + b")\x81N}" + text("path") + path + b"s\x86b"),
        "the object is not made",
    ),
    "setitem": (stack(lambda path, command: TRAP + b")\x81K\x01" + path + b"s"), "the object is not made"),
    "append": (stack(lambda path, command: TRAP + b")\x81" + path + b"a"), "the object is not made"),
    "appends": (stack(lambda path, command: TRAP + b")\x81(" + path + b"e"), "the object is not made"),
    "additems": (stack(lambda path, command: TRAP + b")\x81(" + path + b"\x90"), "the object is not made"),
    "called_object": (stack(lambda path, command: TRAP + b")\x81" + path + b"\x85R"), "the object is not made"),
    "python_2_names": (
        stack(lambda path, command: named("__builtin__", "getattr") + TRAP + text("spring") + b"\x86R"),
        "Python 2's names are the same names",
    ),
    "stack_global": (
        stack(lambda path, command: text("posix") + text("system") + b"\x93" + command + b"\x85R"),
        "STACK_GLOBAL finds by name",
    ),
    "memo": (
        stack(
            lambda path, command: (
                text("system") + b"\x94" + text("posix") + b"\x940h\x01h\x00" + b"\x93" + command + b"\x85R"
            )
        ),
        "what a name is decides when it is looked up, not how it came to the stack",
    ),
    "decoys": (
        stack(
            lambda path, command: (
                text("posix")
                + text("system")
                + text("collections")
                + text("OrderedDict")
                + b"00\x93"
                + command
                + b"\x85R"
            )
        ),
        "names are checked when they are looked up, whatever a scan of the opcodes saw",
    ),
    "two_steps": (
        stack(lambda path, command: apply(call("builtins", "getattr", named("os", "sys"), text("exit")))),
        "the first name is refused",
    ),
    "partial": (
        stack(lambda path, command: call("functools", "partial", SYSTEM, command) + b")R"),
        "what would call another thing is refused too",
    ),
    "reduce": (
        stack(
            lambda path, command: (
                call("functools", "reduce", SYSTEM, b"(" + command + b"l")
                + call("builtins", "list", call("builtins", "map", SYSTEM, b"(" + command + b"l"))
                + b"0"
            )
        ),
        "what would call another thing is refused too",
    ),
    "attrgetter": (
        stack(lambda path, command: apply(call("operator", "attrgetter", text("system")), named("sys", "modules"))),
        "what would look up another thing is refused too",
    ),
    "methodcaller": (
        stack(
            lambda path, command: apply(
                call("operator", "methodcaller", text("touch")), call("pathlib", "PosixPath", path)
            )
        ),
        "what would call another thing is refused too",
    ),
    "evil_persistent_id": (
        stack(lambda path, command: b"(" + text("storage") + apply(SYSTEM, command) + text("0") + b"tQ"),
        "a persistent id is data itself",
    ),
    "after_stop": (
        stack(lambda path, command: b"}." + apply(SYSTEM, command)),
        "what follows the end is not unpickled, and is damage",
    ),
    "load_from_bytes": (
        lambda path: whole(call("torch.storage", "_load_from_bytes", evil(path))),
        "a file inside a pickle is read by the same rules",
    ),
    "load_from_zip": (
        lambda path: whole(
            call("torch.storage", "_load_from_bytes", binary(torch_zip(whole(apply(SYSTEM, touch(path))))))
        ),
        "a file inside a pickle is read by the same rules",
    ),
    "numpy_objects": (
        lambda path: pickle.dumps({"a": np.array([Reduced(Trap, str(path))], object)}, 4),
        "arrays of objects name what is in them",
    ),
    "trap_in_a_key": (
        stack(lambda path, command: b"}" + apply(SYSTEM, command) + b"K\x01s"),
        "a key is found by the same rules",
    ),
    **{f"protocol_{number}": (by_protocol(number), "no protocol has a way of its own") for number in range(6)},
    "protocol_0_text": (
        lambda path: b"cposix\nsystem\n(S'touch " + str(path).encode() + b"'\ntR.",
        "the oldest opcodes find by name too",
    ),
}
_NOT_LIVE = ("python_2_names", "two_steps", "attrgetter", "evil_persistent_id", "after_stop")
_LIVE_IN_BARE = ("evil_persistent_id",)

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
        place(payload, way, where, "", rule, errors, live=way not in _NOT_LIVE)


# ------------------------------------------------------------------------------------------------ codes


def registered(opcode: bytes, number: int, used: bool) -> Payload:
    """Return a call of a function by the code that the program has registered for it."""

    def payload(path: Path) -> bytes:
        copyreg.add_extension("posix", "system", number)
        width = {b"\x82": 1, b"\x83": 2, b"\x84": 4}[opcode]
        push = opcode + number.to_bytes(width, "little")
        if used:
            pickle.loads(whole(push))  # from now on Python finds the function without being asked for its name
        return whole(push + touch(path) + b"\x85R")

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


def careless_import(path: Path) -> None:
    """Unpickle with the module in reach."""
    sys.path.insert(0, str(path.parent))
    careless(path)


@case(UntrustedError, "imported_by_a_pickle", "nothing is imported to learn what it is", live=careless_import)
def a_module_to_import(folder: Path) -> Path:
    """A pickle names a module that is not imported yet."""
    return importing(folder)


@case(UntrustedError, "posix|torch", "a name is one text: dots in its last part lead nowhere")
def dotted_through_data(folder: Path) -> Path:
    """A name leads through something that is data."""
    return in_state(
        folder, whole(text("collections") + text("OrderedDict.fromkeys.__self__") + b"\x93N0cposix\nsystem\n")
    )


@case(UntrustedError, "casebook.Trap", "the error lists all that is refused, and not the first alone")
def all_names_are_listed(folder: Path) -> Path:
    """Several globals are named."""
    return in_state(folder, whole(SYSTEM + TRAP + named("builtins", "exec") + b"\x87"))


@functools.cache
def _keep() -> type:
    return Slotted  # pickles of this module name it


@case(CorruptSaveError, "cannot be read|persistent", "persistent ids are tuples that name storages")
def a_text_as_persistent_id(folder: Path) -> Path:
    """A persistent id of protocol 0."""
    return in_state(folder, b"Pposix.system\n.")


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
