"""Deferral: while an object is built, random numbers are not drawn that its state will overwrite.

Random fills of new memory are written down in place of being run, and so is what is computed from nothing else. Any
other operation that touches such memory, and any other that draws numbers, first has all of them run, in order and from
the states that the generator would have had (randomness.py); watching.py tells of what is no operation. So whatever can
be seen is what it would have been.

When the object has its state, what was overwritten or freed is forgotten. Where anything else is left, all is run up
to there; memory that was overwritten meanwhile, or is gone, is then played by other memory.
"""

from __future__ import annotations

import functools
import math
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from flambe_save.deferred_init.budget import BuildBudget
from flambe_save.deferred_init.generators import Stream
from flambe_save.deferred_init.given import Given
from flambe_save.deferred_init.operations import FILLS, FLOATS, MAKES_RANDOM, are_numbers, kind_of
from flambe_save.deferred_init.patches import MAKING, SHOWING, Watch
from flambe_save.deferred_init.pending import (
    CAN_TELL,
    Memory,
    Step,
    View,
    is_whole,
    is_without_overlap,
    storage_of,
    tensors_in,
)
from flambe_save.support.undoing import note_undo

__all__ = ["Deferral", "when_drawn"]

_OTHERS = ("cuda", "meta")  # devices that have generators of their own, or none
_WORTH_IT = 1 << 14  # numbers to draw
_in_force: ContextVar[Deferral | None] = ContextVar("deferral in force", default=None)


def _before(name: str) -> None:
    """Have all run that is put off in this thread, before a function is called that shows it."""
    deferral = _in_force.get()
    if deferral is not None:
        deferral.run()
        if deferral.given is not None:
            deferral.given.keep_all()
        # No other thread sees the mode, so from the first one on it is as if there were none
        deferral.is_on = deferral.is_on and name != "start"


def when_drawn(tensor: torch.Tensor, read: Callable[[], None]) -> None:
    """Call what reads a tensor: at once, or where its random numbers are put off, when the object has its state.

    It is never called under a mode of somebody else's, in which tensors may have no values.
    """
    modes, deferral = int(torch._C._len_torch_dispatch_stack()), _in_force.get()
    if not modes:
        read()
    elif deferral is not None and modes == 1:
        deferral.read_when_drawn(tensor, read)


def _count(_: str) -> None:
    """Count a module that is about to be made or copied in this thread."""
    deferral = _in_force.get()
    if deferral is not None:
        deferral.count_module()


_watch, _making = Watch(_before, SHOWING), Watch(_count, MAKING)


class _Entry:
    """What there is before a deferral is entered, and is to be again."""

    def __init__(self) -> None:
        self.outer = _in_force.get()
        self.forget: Callable[[], None] = self.undo
        self._dispatch = torch._C._len_torch_dispatch_stack()
        self._functions = torch._C._len_torch_function_stack()
        self._flags = {name: vars(_python_dispatch)[name] for name in _FLAGS if name in vars(_python_dispatch)}

    def undo(self) -> None:
        """Bring it back, whatever of the deferral is still in force."""
        while torch._C._len_torch_function_stack() > self._functions:
            torch._C._pop_torch_function_stack()
        while torch._C._len_torch_dispatch_stack() > self._dispatch:
            torch._C._pop_torch_dispatch_stack(None)
        vars(_python_dispatch).update(self._flags)
        tell = vars(_python_dispatch).get("set_is_in_mode_without_ignore_compile_internals")
        if tell is not None:
            tell(self._flags[_FLAGS[-1]])
        _in_force.set(self.outer)
        _watch.leave(self)


# What torch notes about dispatch modes beside its stack of them
_FLAGS = (
    "_is_in_torch_dispatch_mode",
    "_is_in_non_infra_torch_dispatch_mode",
    "_is_in_any_mode_without_ignore_compile_internals",
)


class Deferral(TorchDispatchMode):
    """Inside its ``with``, puts off random fills; it also counts what is allocated, and knows what memory is new.

    Attributes
    ----------
    is_on : bool
        Whether anything is put off.
    given : Given or None
        The memory of a state that is told before somebody may write to it.
    """

    def __init__(self, is_on: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        is_inner = _in_force.get() is not None  # in a constructor, whose load puts off what happens in here too
        self.is_on = is_on and CAN_TELL and not is_inner
        self.given: Given | None = None
        self._budget: BuildBudget | None = None
        self._reads = _Reads(self)
        self._entries: list[_Entry] = []
        self._is_busy = False  # what is seen is done by this object itself
        self._kinds: dict[Any, str] = {}
        self._steps: list[Step] = []
        self._pending: dict[int, Memory] = {}  # by the id of the storage
        self._new: dict[int, weakref.ref[torch.UntypedStorage]] = {}  # the same of what was made in here
        self._prune_at = 1024
        self._stream = Stream()
        self._readers: list[Callable[[], None]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes seconds, to keep it out of what is never compiled

    def __enter__(self) -> Deferral:
        entry = _Entry()
        entry.forget = note_undo(entry.undo)
        super().__enter__()  # type: ignore[no-untyped-call]
        self._reads.__enter__()  # type: ignore[no-untyped-call]
        _watch.enter(entry)
        _in_force.set(self)
        self._entries.append(entry)
        return self

    def __exit__(self, *error: Any) -> None:
        if not self._entries:  # an interrupt came when it was to be entered again
            return
        entry = self._entries.pop()
        _in_force.set(entry.outer)
        _watch.leave(entry)
        self._reads.__exit__(*error)  # type: ignore[no-untyped-call]
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        entry.forget()

    @contextmanager
    def counted_by(self, budget: BuildBudget | None) -> Iterator[None]:
        """Be in force inside the ``with``, where a budget counts operations."""
        forget = note_undo(functools.partial(_making.leave, self))
        self._budget = budget
        try:
            if budget is not None:
                _making.enter(self)
            with self:
                yield
        finally:
            self._budget = None
            _making.leave(self)
            forget()

    def count_module(self) -> None:
        """Count a module that is about to be made, here or in what this is inside of."""
        if self._budget is not None:
            self._budget.count_module()
        elif self._entries and self._entries[-1].outer is not None:
            self._entries[-1].outer.count_module()

    @contextmanager
    def left(self) -> Iterator[None]:
        """Leave it, inside the ``with``, for what needs no watching: nothing that is put off is read there."""
        if not self._entries:  # it is left already
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    # ---------------------------------------------------------------------------------------- what others ask

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor's memory was made in here, and nobody was given more of it than tensors."""
        storage = tensor.untyped_storage()
        known = self._new.get(id(storage))
        return known is not None and known() is storage

    def overwrite(self, tensor: torch.Tensor) -> None:
        """Forget what was put off for a tensor that is about to be overwritten, unseen; of a part of memory, run it."""
        storage = tensor.untyped_storage()
        memory = self._memory_of(storage)
        if memory is not None and is_whole(tensor, storage):
            self._lose(storage, memory)
        elif memory is not None:
            self.run()

    def expose(self, tensor: Any) -> None:
        """Note that somebody is given the address of a tensor's memory: from now on, nothing is put off for it."""
        storage = storage_of(tensor)
        if storage is not None:
            self._new.pop(id(storage), None)

    def given_away(self, tensor: Any, *, is_moved: bool = False) -> None:
        """Keep a tensor of the state: its values, or its place if it is about to be moved."""
        if self.given is None:
            return
        was_busy, self._is_busy = self._is_busy, True
        try:
            with torch._C.DisableTorchFunction():
                self.given.keep_place(tensor) if is_moved else self.given.keep(tensor)
        finally:
            self._is_busy = was_busy

    def finish(self) -> None:
        """Run what somebody may still look at, and what comes before that."""
        wanted = [index for index, step in enumerate(self._steps) if step.into.memory.is_wanted]
        if wanted:
            del self._steps[wanted[-1] + 1 :]
            self.run()
        self._steps, self._pending = [], {}
        readers, self._readers = self._readers, []
        for read in readers:
            read()

    def read_when_drawn(self, tensor: torch.Tensor, read: Callable[[], None]) -> None:
        """Call what reads a tensor, unseen: now, or where the tensor's values are put off, when all is finished."""
        with torch._C.DisableTorchFunction():  # to ask is not to look
            is_pending = self.is_pending(tensor)
        if is_pending:
            self._readers.append(read)
            return
        with self.left():
            read()

    def run(self) -> None:
        """Run all that is put off."""
        if not self._steps:
            return
        steps, self._steps, self._pending = self._steps, [], {}
        last = {id(memory): index for index, step in enumerate(steps) for memory in step.memories}
        was_busy, self._is_busy = self._is_busy, True
        try:
            with torch.no_grad(), torch.autocast("cpu", enabled=False), torch._C.DisableTorchFunction():
                before = self._stream.make()
                for index, step in enumerate(steps):
                    if step.draw is not None:
                        before(step.draw)
                    step.run()
                    for memory in step.memories:
                        if last[id(memory)] == index:
                            memory.stand_in = None
                before(None)
        finally:
            self._is_busy = was_busy

    @property
    def is_idle(self) -> bool:
        """Whether nothing is put off."""
        return not self._steps

    def is_pending(self, tensor: Any) -> bool:
        """Whether a tensor's values are put off."""
        storage = storage_of(tensor) if self._pending else None
        return storage is not None and self._memory_of(storage) is not None

    # ---------------------------------------------------------------------------------------- operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, or put it off."""
        kwargs = kwargs or {}
        if self._is_busy:
            return func(*args, **kwargs)
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = kind_of(func)
        self._is_busy = True  # what follows may call torch
        try:
            if self._budget is not None:
                self._budget.count(func, args, kwargs)
            if self.given is not None:
                with torch._C.DisableTorchFunction():
                    self.given.before(func, args, kwargs)
            done, result = False, None
            if kind == "views":
                pass
            elif any(not issubclass(item, torch.nn.Parameter) for item in types):
                self.run()
            else:
                with torch._C.DisableTorchFunction():
                    done, result = self._handle(kind, func, args, kwargs)
        finally:
            self._is_busy = False
        return result if done else func(*args, **kwargs)

    def _handle(self, kind: str, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        """Return whether an operation has been done, or put off, and what it returns."""
        if kind == "makes":
            return True, self._made(func(*args, **kwargs), kwargs)
        if kind == "makes random":
            return self._make_random(func, args, kwargs)
        if kind == "fills":
            if self._can_fill(func, args, kwargs):
                self._put_off(func, args[0], args[1:], is_random=True)
                return True, args[0]
            if args[0].device.type in _OTHERS:
                return False, None
        elif kind == "draws":
            pass
        elif kind == "copies":
            return self._copy(func, args, kwargs)
        elif not self._pending or not any(map(self.is_pending, tensors_in(args, kwargs))):
            return False, None
        elif kind == "changes":
            if self.is_pending(args[0]) and _can_change(args[0]) and are_numbers(args[1:], kwargs):
                self._put_off(func, args[0], args[1:], kwargs)
                return True, args[0]
        elif kind == "copies into":
            return self._copy_into(func, args, kwargs)
        elif kind == "computes":
            source = args[0]
            if (
                self.is_pending(source)
                and _can_change(source)
                and source.is_contiguous()
                and are_numbers(args[1:], kwargs)
            ):
                result = self._made(torch.empty_like(source), {})
                self._put_off(func, result, args, kwargs, is_result=True)
                return True, result
        self.run()
        return False, None

    def _make_random(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        fill, begin = MAKES_RANDOM[func]
        like = args[0] if isinstance(args[0], torch.Tensor) else None
        dtype = kwargs.get("dtype") or (torch.get_default_dtype() if like is None else like.dtype)
        device = torch.device(kwargs.get("device") or ("cpu" if like is None else like.device))
        known = ("dtype", "device", "layout", "pin_memory", "memory_format")
        is_plain = dtype in FLOATS and device.type == "cpu" and not kwargs.get("pin_memory")
        is_plain = is_plain and kwargs.get("layout") in (None, torch.strided) and all(name in known for name in kwargs)
        is_plain = is_plain and len(args) == (begin or 0) + 1 and (like is None or like.layout == torch.strided)
        count = math.prod(args[begin]) if like is None else like.numel()
        if not (self._is_worth_it(count) and is_plain and FILLS[fill](*args[:begin])):
            if device.type not in _OTHERS:
                self.run()
            return True, self._made(func(*args, **kwargs), kwargs)
        result = torch.empty(args[begin], **kwargs) if like is None else torch.empty_like(like, **kwargs)
        self._put_off(fill, self._made(result, {}), args[:begin], is_random=True)
        return True, result

    def _is_worth_it(self, count: int) -> bool:
        """Whether so many draws are put off: a few cost less, but have their turn where others are put off already."""
        return self.is_on and (count >= _WORTH_IT or bool(self._steps))

    def _can_fill(self, func: Any, args: Any, kwargs: Any) -> bool:
        tensor = args[0]
        return (
            self._is_worth_it(tensor.numel())
            and tensor.dtype in FLOATS
            and all(value is None for value in kwargs.values())
            and FILLS[func](*args[1:])
            and _is_plain(tensor)
            and (self.knows(tensor) or self.is_pending(tensor))
            and is_without_overlap(tensor)
        )

    def _copy(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        source = args[0]
        if not self.is_pending(source):
            return True, self._made(func(*args, **kwargs), kwargs)
        options = {name: value for name, value in kwargs.items() if name not in ("non_blocking", "pin_memory")}
        device = torch.device(options.get("device") or source.device)
        is_plain = device.type == "cpu" and not kwargs.get("pin_memory") and _is_plain(source)
        dtype = options.get("dtype") or source.dtype
        if not (is_plain and is_without_overlap(source) and {dtype, source.dtype} <= {*FLOATS} and len(args) == 1):
            self.run()
            return True, self._made(func(*args, **kwargs), kwargs)
        if options.get("memory_format") is None:
            options["memory_format"] = torch.preserve_format
        result = self._made(torch.empty_like(source, **options), {})
        self._put_off(torch.ops.aten.copy_.default, result, (source,))
        return True, result

    def _copy_into(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        target, source = args[:2]
        storage = storage_of(target)
        memory = None if storage is None else self._memory_of(storage)
        if not self.is_pending(source):
            if storage is not None and memory is not None and is_whole(target, storage):
                func(*args, **kwargs)  # before anything is forgotten: it may fail
                self._lose(storage, memory)
                return True, target
        elif memory is not None or (_is_plain(target) and self.knows(target)):
            is_alike = source.shape == target.shape and {source.dtype, target.dtype} <= {*FLOATS}
            is_alike = is_alike and _is_plain(source) and storage_of(source) is not storage
            if is_alike and is_without_overlap(target):
                self._put_off(func, target, (source,))
                return True, target
        self.run()
        return False, None

    # ---------------------------------------------------------------------------------------- keeping book

    def _made(self, tensor: Any, kwargs: Any) -> Any:
        """Note that an operation has made memory."""
        storage = None if kwargs.get("pin_memory") else storage_of(tensor)
        if storage is not None:
            self._new[id(storage)] = weakref.ref(storage)
            if len(self._new) > self._prune_at:
                self._new = {key: known for key, known in self._new.items() if known() is not None}
                self._prune_at = 2 * len(self._new) + 1024
        return tensor

    def _memory_of(self, storage: torch.UntypedStorage) -> Memory | None:
        memory = self._pending.get(id(storage))
        return memory if memory is not None and memory.storage() is storage else None

    def _lose(self, storage: torch.UntypedStorage, memory: Memory) -> None:
        memory.is_lost = True
        del self._pending[id(storage)]

    def _view(self, tensor: torch.Tensor) -> View:
        storage = tensor.untyped_storage()
        memory = self._memory_of(storage)
        if memory is None:
            memory = self._pending[id(storage)] = Memory(storage)
        return View(memory, tensor.dtype, int(tensor.storage_offset()), tensor.size(), tensor.stride())

    def _put_off(
        self,
        func: Any,
        into: torch.Tensor,
        args: Any,
        kwargs: Any = None,
        is_random: bool = False,
        is_result: bool = False,
    ) -> None:
        target = self._view(into)
        views = tuple(self._view(item) if isinstance(item, torch.Tensor) else item for item in args)
        draw = self._stream.put_off() if is_random else None
        self._steps.append(Step(func, target, views, kwargs or {}, is_result, draw))


def _can_change(tensor: torch.Tensor) -> bool:
    """Whether numbers that change a tensor in place leave its type as it is."""
    return tensor.dtype in FLOATS and _is_plain(tensor) and is_without_overlap(tensor)


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_neg()


# What gives away where a tensor's memory is
_EXPOSING = [
    "__array__",
    "__cuda_array_interface__",
    "__dlpack__",
    "_storage",
    "_typed_storage",
    "apply_",
    "const_data_ptr",
    "data_ptr",
    "is_shared",
    "map2_",
    "map_",
    "numpy",
    "set_",
    "share_memory_",
    "storage",
    "storage_type",
    "untyped_storage",
]
# What reads memory and is no operation that a mode sees
_READING = [
    "__contains__",
    "__deepcopy__",
    "__format__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__setstate__",
    "__str__",
    "new",
    "new_tensor",
    "tolist",
    "type",
    "_make_subclass",
]


def _functions(owner: Any, names: list[str]) -> Iterator[Any]:
    for name in names:
        found = getattr(owner, name, None)
        if found is not None:
            yield found.__get__ if isinstance(found, property) or type(found).__name__ == "getset_descriptor" else found


_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]
_EXPOSES = frozenset([*_functions(torch.Tensor, _EXPOSING), torch.as_tensor, torch.asarray])
_SEES = _EXPOSES | {*_functions(torch.Tensor, _READING), torch.tensor, torch.tensordot}


class _Reads(TorchFunctionMode):
    """Sees what reads memory without an operation of torch's: has what is put off run before."""

    def __init__(self, deferral: Deferral) -> None:
        super().__init__()
        self._deferral = deferral
        self._harmless: dict[Any, bool] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, when it may see what it reads."""
        kwargs = kwargs or {}
        is_harmless = self._harmless.get(func)
        if is_harmless is None:
            is_harmless = self._harmless[func] = _is_harmless(func)
        if not is_harmless:
            self._before(func, args, kwargs)
        return func(*args, **kwargs)

    def _before(self, func: Any, args: Any, kwargs: Any) -> None:
        deferral = self._deferral
        if deferral._is_busy:
            return
        if func == _SET_DATA:  # it writes to no memory
            deferral.given_away(args[0], is_moved=True)
            return
        tensors = [*tensors_in(args, kwargs)]
        if func not in _SEES or any(map(deferral.is_pending, tensors)):
            deferral.run()
        if func in _EXPOSES:
            for tensor in tensors:
                deferral.expose(tensor)
                deferral.given_away(tensor)


# Takes the place of torch.nn.init's functions while a model of transformers is built, and calls them
_OF_TRANSFORMERS = "transformers.initialization"


def _is_harmless(func: Any) -> bool:
    """Whether all that a function does with memory is done by operations, which the mode sees."""
    if func in _SEES or func == _SET_DATA:
        return False
    is_python = isinstance(func, (types.FunctionType, types.MethodType))
    module = getattr(func, "__module__", None) or ""
    return not is_python or module.partition(".")[0] == "torch" or module == _OF_TRANSFORMERS
