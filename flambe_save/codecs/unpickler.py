"""DataUnpickler: finds only globals that are data or trusted by the caller."""

from __future__ import annotations

import functools
import importlib
import io
import itertools
import operator
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from flambe_save import questions
from flambe_save.codecs.careful import CarefulUnpickler, Placeholder, PythonUnpickler, is_placeholder_class
from flambe_save.codecs.data import EXTENSION_TYPES
from flambe_save.codecs.foreseen import cannot_take, find_named, home_of, is_class_name, makes_its_own
from flambe_save.codecs.naming import find_in_script
from flambe_save.codecs.numpy_types import DtypeProxy, build_array, check, holds_objects
from flambe_save.codecs.safe_globals import SafeCallable, data_global, holds_stand_in, real_classes
from flambe_save.errors import FlambeSaveError, LimitError, LoadError
from flambe_save.pt.opcodes import NUMBERS, end_of_numbers, globals_of, pickle_end, present_name
from flambe_save.pt.options import LoadOptions
from flambe_save.questions import Question
from flambe_save.registry import MOVED
from flambe_save.state import State
from flambe_save.support.sizes import MAX_UNFOLDED, unfolded_size
from flambe_save.support.undoing import note_undo

_NESTED = "torch.storage._load_from_bytes"
_DILL_TYPE = "dill._dill._load_type"
_OBJECTS = "numpy.object_"
_SCHEMA = "flambe_save.schema.schema.Schema"
_DILL_ARRAY = "dill._dill._create_array"
_COPY_BYTES = frozenset(("builtins.bytearray", "builtins.bytes", "_codecs.encode"))
_MAKE_TENSORS = frozenset(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3"))
_NUMPY_TYPE = "numpy.dtype"
_BUDGET = 1 << 20
IMPOSSIBLE = "a call that fails: "  # begins the finding for a pickle that cannot be unpickled with any trust
_MOST_STAND_INS = 1000  # classes that an audit makes, each a thousand times larger than its name


class DataUnpickler(CarefulUnpickler):
    """An unpickler that finds only the globals of safe_globals.py and trusted ones.

    A pickle may set attributes of a mapping, of a numpy type or array that it has just made, and of objects of trusted
    classes. Keys are measured before they are hashed, and there is a budget for copies of bytes.

    Parameters
    ----------
    stream : io.BytesIO
        The pickle begins at its current position.
    options : LoadOptions
    storage_of : callable, optional
        Turns a persistent id into a storage.
    nested : callable, optional
        Reads the bytes of a torch file that is inside the pickle.
    """

    def __init__(
        self,
        stream: io.BytesIO,
        options: LoadOptions,
        *,
        storage_of: Callable[[Any], Any] | None = None,
        nested: Callable[[bytes], Any] | None = None,
    ) -> None:
        super().__init__(stream, **{"encoding": "utf-8", **options.pickle_load_args})
        self._options = options
        self._stream = stream
        self._start = stream.tell()
        self._trust = options.trust
        self._storage_of = storage_of
        self._nested = nested
        self._where = {"node": options.node, "file": options.file}
        self._budget = _BUDGET + 16 * len(stream.getbuffer())
        self._expanded = 0
        self._listed: set[str] | None = None  # the names that Trust was asked about
        self._used_trust = False
        self._types: dict[int, tuple[DtypeProxy, int]] = {}  # without a state yet; and the memo's size before
        self._moved: set[type] = set()  # classes found by another name
        self._made: dict[int, Any] = {}  # objects of trusted functions, by their ids
        self._stand_ins: dict[str, type[Placeholder]] = {}
        self._found: dict[str, Any] = {}  # what this process has by these names
        self._known = len(options.trust.findings or ())  # findings of the audit before

    def unpickle(self) -> Any:  # not "read": the machine keeps a function of that name in each object
        """Unpickle one object.

        Raises
        ------
        UntrustedError
            If the pickle names anything that is neither data nor trusted; the error lists all of it.
        CorruptSaveError
            If the pickle is damaged.
        """
        forget = note_undo(self.__dict__.clear)
        try:
            return self._unpickled()
        finally:
            self.__dict__.clear()  # its memo refers to it, and would keep the file in memory
            forget()

    def _unpickled(self) -> Any:
        try:
            codes: set[int] = set()
            size = pickle_end(memoryview(self._stream.getbuffer())[self._start :], codes)
            if codes <= _HARMLESS:
                value = pickle.Unpickler(self._stream).load()
            else:
                if self._trust.trusted:  # nothing is made before all names are known to be trusted
                    self._refuse_unknown(globals_of(self._rest()))
                value = self.load()
                if is_placeholder_class(value):
                    value = value()
            if codes <= _HARMLESS - _SHARING:
                return value
            most = max(MAX_UNFOLDED, 4 * size)
            check(unfolded_size(value, most) <= most, "it stands for far more values than it has bytes")
            check(not self._types, "a type without a state")
            return value
        except FlambeSaveError:
            raise
        except Exception as error:
            if self._trust.findings:  # placeholders may not fit where they belong
                self._note_doubt("what does not fit together by names alone")
                return Placeholder()
            if self._used_trust:
                raise LoadError(
                    f"what is trusted cannot be unpickled by names alone: {type(error).__name__}: {str(error)[:200]}",
                    fix="If you know who wrote it: load(..., weights_only=False).",
                    **self._where,
                ) from error
            # MemoryError too: a pickle may ask for more than its own size could justify
            raise self._options.broken_pickle(error) from error

    def check_names(self) -> None:
        """Refuse a pickle that names anything neither data nor trusted; nothing is made.

        Raises
        ------
        UntrustedError
            The error lists all of it.
        CorruptSaveError
            If the pickle is damaged.
        """
        try:
            pickle_end(memoryview(self._stream.getbuffer())[self._start :])
        except pickle.UnpicklingError as error:
            raise self._options.broken_pickle(error) from error
        names = list(globals_of(self._rest()))
        self._refuse_unknown(names)
        if _DILL_TYPE in names and not self._trust.allows(_DILL_TYPE):  # it gives a type by an unknown name
            self._refuse([_DILL_TYPE])

    def find_class(self, module: str, name: str) -> Any:
        """Find the stand-in for a listed global; import a trusted one; refuse others."""
        module, name = present_name(module, name, self.proto)
        dotted = f"{module}.{name}"
        if dotted == _NESTED and self._nested is not None:
            return self._within_budget(self._nested)
        if dotted == _DILL_TYPE and not self._trust.allows(dotted):
            return SafeCallable(self._dill_type)
        if dotted in EXTENSION_TYPES and module not in sys.modules:
            self._decide([questions.extension(module)])
            if self._trust.findings is None:
                importlib.import_module(module)
        found = data_global(dotted)
        if dotted == _DILL_ARRAY and not (self._used_trust or self._trust.allows(dotted)):
            self._refuse_with_others(dotted)
        if dotted == _NUMPY_TYPE:
            return SafeCallable(self._stand_for_type)
        if found is not None:
            if dotted in _MAKE_TENSORS:
                return self._within_size(found)
            return self._within_budget(found) if dotted in _COPY_BYTES else found
        if not self._allows(dotted):
            self._refuse_with_others(dotted)
            if self._trust.findings is None:
                self._refuse([dotted])  # in case the list left it out
        if self._trust.findings is not None:
            found = MOVED.get(dotted) or find_in_script(module, name)
            if found is None:
                found = find_named(module, name)
                if dotted != _SCHEMA:  # a Schema is listed only alone
                    self._check_home(found, home_of(found), dotted)
            return self._stand_in(dotted, found)
        self._used_trust = True
        if dotted in MOVED:  # the program declares that this is the class; the old module is not imported
            self._moved.add(MOVED[dotted])
            return MOVED[dotted]
        found = find_in_script(module, name)
        if found is not None:
            self._moved.add(found)
            return found
        sys.audit("pickle.find_class", module, name)
        found = operator.attrgetter(name)(importlib.import_module(module))
        home = getattr(found, "__module__", None)
        if isinstance(home, str) and callable(found):
            home = f"{home}.{getattr(found, '__qualname__', type(found).__qualname__)}"
        else:
            home = None
        self._check_home(found, home, dotted)
        return found

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a torch file has beside its pickle."""
        if self._storage_of is None:
            raise pickle.UnpicklingError("a persistent id where there is no storage")
        return self._storage_of(pid)

    def _stand_in(self, name: str, found: Any = None) -> type[Placeholder]:
        """The placeholder for a class or a function, in an audit."""
        if name not in self._stand_ins and len(self._stand_ins) < _MOST_STAND_INS:
            known = {"stands_for": name, "is_class": is_class_name(name, found)}
            self._stand_ins[name] = type("Placeholder", (Placeholder,), known)
            self._found[name] = found
        return self._stand_ins.get(name, Placeholder)

    def _note_doubt(self, what: str) -> None:
        """Note, in an audit that found names to trust, that trust in these may not be enough."""
        if len(self._trust.findings or ()) > self._known:
            self._decide([questions.doubt(f"{what}: trust in names may not be enough")])

    def _dill_type(self, name: Any) -> Any:
        """Stand in for ``dill._dill._load_type``, which gives the type set in Flambe's own saves."""
        check(isinstance(name, str), "dill names a type without a text")
        if name != "set":
            self._refuse([f"{_DILL_TYPE}({name[:80]!r})"])
            if self._trust.findings is not None:
                return self._stand_in(name)
            self._used_trust = True
            return super().find_class(*_DILL_TYPE.rsplit(".", 1))(name)
        return data_global("builtins.set")

    def _stand_for_type(self, *arguments: Any) -> DtypeProxy:
        made = DtypeProxy(*arguments)
        self._types[id(made)] = made, len(self.memo)
        return made

    def _replace(self, stand_in: DtypeProxy, value: Any) -> None:
        """Replace the proxy of a numpy type, just made, on the stack and in the memo."""
        _, before = self._types.pop(id(stand_in))
        self.stack[-1] = value
        for key in itertools.islice(reversed(self.memo), len(self.memo) - before):
            if self.memo[key] is stand_in:
                self.memo[key] = value

    def _within_budget(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def spend(*arguments: Any) -> Any:
            self._budget -= sum(len(item) for item in arguments if isinstance(item, (str, bytes, bytearray)))
            check(self._budget >= 0, "it copies the same bytes again and again")
            return make(*arguments)

        return SafeCallable(spend)

    def _within_size(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """Count the bytes of tensors beyond their storages, which copies would take."""

        def measure(*arguments: Any) -> Any:
            tensor = make(*arguments)
            held = tensor.untyped_storage().nbytes()
            self._expanded += max(0, tensor.numel() * tensor.element_size() - held)
            if self._expanded > self._trust.limits.built_bytes:
                raise LimitError(
                    f"its tensors repeat what is stored, to more than {self._expanded:,} bytes",
                    fix=f"If they are meant to: load(..., limits=Limits(built_bytes={2 * self._expanded})).",
                    **self._where,
                )
            return tensor

        return SafeCallable(measure)

    # -------------------------------------------------------------------------------------------- opcodes

    dispatch: ClassVar[dict[int, Any]] = dict(CarefulUnpickler.dispatch)

    def may_fill(self, item: Any) -> bool:
        """Whether it is a container, or an object of a trusted class."""
        if isinstance(item, Placeholder) and not item.is_filled:
            self._note_doubt(f"items for what {item.stands_for or 'a call'} makes")
        return super().may_fill(item) or self._allows_type(type(item))

    def load_mark(self) -> None:
        PythonUnpickler.load_mark(self)
        if self._unframer.current_frame is None:
            start = self._stream.tell()
            with self._stream.getbuffer() as data:
                end = end_of_numbers(data, start)
                if end > start:  # the machine in C makes many at once
                    self.stack.extend(pickle.Unpickler(io.BytesIO(b"(" + data[start:end] + b"t.")).load())
            self._stream.seek(end)

    dispatch[pickle.MARK[0]] = load_mark

    def load_build(self) -> None:
        state, item = self.stack.pop(), self.stack[-1]
        if isinstance(item, Placeholder):
            self._check_handed(state)
            if not item.is_filled:
                self._note_doubt(f"a state for what {item.stands_for or 'a call'} makes")
        elif isinstance(item, DtypeProxy):
            self._replace(item, item.build(state))
        elif type(item) in (OrderedDict, State):
            check(isinstance(state, dict) and all(isinstance(key, str) for key in state), "a mapping's odd attributes")
            check(not any(hasattr(type(item), key) for key in state), "a mapping's methods are set")
            item.__dict__.update(state)
        elif type(item).__module__ == "numpy" and type(item).__name__ == "ndarray":
            if holds_objects(state):  # the array's users may call any method of them
                self._refuse([_OBJECTS])
            build_array(item, state)
        else:
            if not (self._allows_type(type(item)) or id(item) in self._made):
                raise pickle.UnpicklingError(f"a state for a {type(item).__qualname__}, which takes none")
            self.stack.append(real_classes(state))
            PythonUnpickler.load_build(self)

    dispatch[pickle.BUILD[0]] = load_build

    def load_reduce(self) -> None:
        arguments, make = self.stack[-1], self.stack[-2]
        if self._trust.findings is not None and self._foresee(make, arguments):
            return
        if not isinstance(make, SafeCallable):
            self.stack[-1] = real_classes(arguments)
        PythonUnpickler.load_reduce(self)
        made, home = self.stack[-1], getattr(make, "__module__", None)
        # A library's function makes objects of the library's classes; setting their state is a part of that
        if isinstance(home, str) and self._trust.allows(f"{home}.{getattr(make, '__qualname__', '')}"):
            package = type(made).__module__.partition(".")[0]
            if package == home.partition(".")[0] and not callable(made):
                self._made[id(made)] = made

    def _foresee(self, make: Any, arguments: Any) -> bool:
        """Put a placeholder on the stack for a call, in an audit; False if the call can be made."""
        given = list(arguments) if type(arguments) is tuple else []
        classes = [item for item in given if is_placeholder_class(item)]
        caller = make if is_placeholder_class(make) else None
        is_made = caller is not None or classes or any(isinstance(item, Placeholder) for item in (make, *given))
        if not is_made:
            return False
        made: Placeholder = next(iter(classes), caller or Placeholder)()
        if caller is not None:
            self._check_handed(arguments)
            names = [item.stands_for for item in classes]
            made.is_filled = caller.is_class or makes_its_own(caller.stands_for, names)
            refusal = cannot_take(self._found.get(caller.stands_for), given) if caller.is_class else None
            if refusal is not None:
                self._decide([questions.doubt(IMPOSSIBLE + refusal)])
        elif isinstance(make, Placeholder):  # a made object is called
            made.is_filled = False
        elif classes:  # a function of data is given a class
            self._note_doubt(f"data that is made of {classes[0].stands_for}")
        self.stack[-2:] = [made]
        return True

    dispatch[pickle.REDUCE[0]] = load_reduce

    def _check_handed(self, value: Any) -> None:
        """Note, in an audit, that trusted code would get a safe callable or a stand-in."""
        if holds_stand_in(real_classes(value)):
            self._note_doubt("classes or functions inside of what trusted code is given")

    def _check_home(self, found: Any, home: str | None, dotted: str) -> None:
        """Refuse a global that a trusted module only imports: it is trusted for what it defines."""
        if isinstance(found, types.ModuleType):
            self._refuse([f"{dotted} (the module {found.__name__})"])
        elif home is not None and not self._allows(home):
            self._refuse([home])

    def _allows(self, dotted: str) -> bool:
        """Whether a global is trusted by its name, or by the name that it has moved to."""
        moved = MOVED.get(dotted)
        present = dotted if moved is None else f"{moved.__module__}.{moved.__qualname__}"
        if present == _SCHEMA and self._trust.trusted:  # a Component's arguments: it calls nothing
            return True
        return self._trust.allows(dotted) or self._trust.allows(present)

    def _allows_type(self, kind: type) -> bool:
        return kind in self._moved or self._allows(f"{kind.__module__}.{kind.__qualname__}")

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        listed = list(names)
        unknown = _unknown(listed)
        if not unknown and _DILL_ARRAY in listed:
            # Plain arrays are pickled otherwise: this one is part of an object that needs trust, or holds objects
            unknown = [_DILL_ARRAY]
        asked = [item for item in unknown if not self._allows(item)]
        self._refuse([item for item in asked if item != _SCHEMA] or asked)  # a Schema comes with objects of a class

    def _refuse_with_others(self, dotted: str) -> None:
        """Refuse a name and all others in the pickle; an audit lists them once."""
        if self._listed is None:
            names = dict.fromkeys([dotted, *globals_of(self._rest())])
            self._listed = {*names}
            self._refuse_unknown(names)
        elif dotted not in self._listed:
            self._listed.add(dotted)
            self._refuse_unknown([dotted])

    def _refuse(self, names: list[str]) -> None:
        self._decide(questions.pickled(names))

    def _decide(self, asked: list[Question]) -> None:
        self._trust.decide(asked, **self._where)

    def _rest(self) -> bytes:
        return self._stream.getvalue()[self._start :]


_SHARING = frozenset(code[0] for code in (pickle.BINGET, pickle.LONG_BINGET))
# Opcodes that make only dicts and lists of texts, bytes and numbers. They make no tuples, whose hashes could take long,
# so the machine in C may run them.
_HARMLESS = frozenset(
    code[0]
    for code in (
        *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK),
        *(pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.SETITEM, pickle.SETITEMS, pickle.APPEND, pickle.APPENDS),
        *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.SHORT_BINBYTES, pickle.BINBYTES),
        *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
        *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
    )
).union(NUMBERS)


@functools.lru_cache(maxsize=32)
def is_harmless(data: bytes) -> bool:
    """Whether a pickle makes only dicts and lists of plain values, each once."""
    codes: set[int] = set()
    try:
        return pickle_end(data, codes) == len(data) and codes <= _HARMLESS - _SHARING
    except pickle.UnpicklingError:
        return False


def unknown_globals(data: bytes) -> list[str]:
    """The dotted names that a pickle would import and that are not data."""
    return _unknown(globals_of(data))


def _unknown(names: Iterable[str]) -> list[str]:
    return [name for name in names if data_global(name) is None and name not in (_NESTED, _DILL_TYPE)]
