"""DeferredInit: a torch mode that defers random numbers, for a state to overwrite.

Random fills of new memory are deferred, and so is what is computed from nothing else (pending.py). Before any other
operation that touches such memory, and any other that draws numbers, all of them run, in order and from the states
that the generator would have had (generators.py). reads.py and patches.py see what is not an operation. So code sees
the values that plain construction would give.

When the object has its state, operations whose results were overwritten or freed are forgotten. Where anything else is
left, all run up to there; other memory stands in for what was overwritten meanwhile, or is gone.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from flambe_save.deferred_init.budget import BuildBudget, are_small
from flambe_save.deferred_init.given import Given
from flambe_save.deferred_init.operations import FILLS, FLOATS, MAKES_RANDOM, are_numbers, kind_of
from flambe_save.deferred_init.patches import MAKING, SHOWING, Watch
from flambe_save.deferred_init.pending import CAN_TELL, PendingOps, storage_of, tensors_in
from flambe_save.deferred_init.reads import ReadMode
from flambe_save.pt.tensor_info import fills_storage, is_without_overlap
from flambe_save.support.undoing import note_undo

_OTHERS = ("cuda", "meta")  # devices that have generators of their own, or none
_WORTH_IT = 1 << 14  # numbers to draw
_SCALARS = frozenset((type(None), bool, int, float, str))
_DENSE = frozenset((torch.Tensor, torch.nn.Parameter))
_OF_EMPTY = frozenset(("device", "dtype"))
_in_force: ContextVar[DeferredInit | None] = ContextVar("deferral in force", default=None)


def _before(name: str) -> None:
    """Run what is deferred in this thread, before a function is called that shows it."""
    deferral = _in_force.get()
    if deferral is not None:
        deferral.run()
        if deferral.given is not None:
            deferral.given.keep_all()
        # No other thread sees the mode, so from the first one on nothing more is deferred
        deferral.is_on = deferral.is_on and name != "start"


def _count(_: str) -> None:
    """Count a module that is about to be made or copied in this thread."""
    deferral = _in_force.get()
    if deferral is not None:
        deferral.count_module()


_watch, _making = Watch(_before, SHOWING), Watch(_count, MAKING)


def when_drawn(tensor: torch.Tensor, read: Callable[[], None]) -> None:
    """Call a function that reads a tensor, once its values are there.

    That is at once, or if they are deferred, when the object has its state. The function is never called under another
    mode, in which tensors may have no values.
    """
    modes, deferral = int(torch._C._len_torch_dispatch_stack()), _in_force.get()
    if not modes:
        read()
    elif deferral is not None and modes == 1:
        deferral.read_when_drawn(tensor, read)


# Torch's notes about dispatch modes, beside its stack of them
_FLAGS = (
    "_is_in_torch_dispatch_mode",
    "_is_in_non_infra_torch_dispatch_mode",
    "_is_in_any_mode_without_ignore_compile_internals",
)


class _Entry:
    """Torch's modes before this one is entered, to be restored."""

    def __init__(self) -> None:
        self.outer = _in_force.get()
        self.forget: Callable[[], None] = self.undo
        self._dispatch = torch._C._len_torch_dispatch_stack()
        self._functions = torch._C._len_torch_function_stack()
        self._flags = {name: vars(_python_dispatch)[name] for name in _FLAGS if name in vars(_python_dispatch)}

    def undo(self) -> None:
        """Restore them, however far the mode was entered or left."""
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


class DeferredInit(TorchDispatchMode):
    """Defers random fills inside its ``with``; counts allocations, and notes new memory.

    Attributes
    ----------
    is_on : bool
        Whether anything is deferred.
    is_busy : bool
        Whether this object calls torch itself, which is neither deferred nor counted.
    given : Given or None
        Is shown each tensor of the state before code may write to it.
    """

    def __init__(self, is_on: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        is_inner = _in_force.get() is not None  # in a constructor, whose load defers what happens in here too
        self.is_on = is_on and CAN_TELL and not is_inner
        self.is_busy = False
        self.given: Given | None = None
        self._budget: BuildBudget | None = None
        self._reads = ReadMode(self)
        self._entries: list[_Entry] = []
        self._ops = PendingOps()
        self._new: dict[int, weakref.ref[torch.UntypedStorage]] = {}  # storages that were made in here, by their ids
        self._prune_at = 1024
        self._readers: list[Callable[[], None]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes seconds, to keep it out of what is never compiled

    def __enter__(self) -> DeferredInit:
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
        """Count a module that is about to be made, here or in the mode around this one."""
        if self._budget is not None:
            self._budget.count_small()
        elif self._entries and self._entries[-1].outer is not None:
            self._entries[-1].outer.count_module()

    @contextmanager
    def left(self) -> Iterator[None]:
        """Leave the mode inside the ``with``, for code that reads no deferred values."""
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
        """Whether a tensor's memory was made in here, and only tensors lead to it."""
        storage = tensor.untyped_storage()
        known = self._new.get(id(storage))
        return known is not None and known() is storage

    def overwrite(self, tensor: torch.Tensor) -> None:
        """Forget the deferred values of a tensor that is about to be overwritten.

        If the tensor is a part of its memory, all that is deferred runs.
        """
        memory = self._ops.find(tensor)
        if memory is not None and fills_storage(tensor):
            self._ops.lose(memory)
        elif memory is not None:
            self.run()

    def expose(self, tensor: Any) -> None:
        """Note that code gets the address of a tensor's memory; no later fill of it is deferred."""
        self._new.pop(id(storage_of(tensor)), None)

    def keep_given(self, tensor: Any, *, is_moved: bool = False) -> None:
        """Keep a tensor of the state: its values, or its place if it is about to be moved."""
        if self.given is not None:
            with self._unseen():
                self.given.keep_place(tensor) if is_moved else self.given.keep(tensor)

    def finish(self) -> None:
        """Run the operations whose results are still reachable, and all before them."""
        self._ops.drop_unreachable()
        self.run()
        readers, self._readers = self._readers, []
        for read in readers:
            read()

    def make(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call a function that makes memory of a size, past the dispatch mode where it is small."""
        is_plain = kwargs.get("device") is None and kwargs.keys() <= _OF_EMPTY
        if not (is_plain and are_small(args)) or self._is_among_others():
            return func(*args, **kwargs)
        if self._budget is not None:
            self._budget.count_small()
        with torch._C._DisableTorchDispatch():
            return self._made(func(*args, **kwargs), kwargs)

    def fill(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Fill a tensor by a function, past the dispatch mode where that would not defer it."""
        tensor = args[0] if args else kwargs.get("tensor")
        if self._ops or type(tensor) not in _DENSE or self._is_among_others() or self._is_worth_it(tensor.numel()):
            return func(*args, **kwargs)
        others = {type(item) for item in (*args, *kwargs.values()) if item is not tensor}
        if not others <= _SCALARS or tensor.device.type != "cpu" or not self.knows(tensor):
            return func(*args, **kwargs)
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            return func(*args, **kwargs)

    def _is_among_others(self) -> bool:
        """Whether other modes are in force beside this one, which are to see all."""
        return torch._C._len_torch_dispatch_stack() > 1 or torch._C._len_torch_function_stack() > 0

    def read_when_drawn(self, tensor: torch.Tensor, read: Callable[[], None]) -> None:
        """Call a function that reads a tensor: now, or in ``finish`` if the values are deferred."""
        with torch._C.DisableTorchFunction():  # asking reads nothing
            is_pending = self.is_pending(tensor)
        if is_pending:
            self._readers.append(read)
            return
        with self.left():
            read()

    def run(self) -> None:
        """Run all deferred operations."""
        if self._ops:
            with self._unseen(), torch.no_grad(), torch.autocast("cpu", enabled=False):
                self._ops.run()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is deferred."""
        return not self._ops

    def is_pending(self, tensor: Any) -> bool:
        """Whether a tensor's values are deferred."""
        return tensor in self._ops

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        was_busy, self.is_busy = self.is_busy, True
        try:
            with torch._C.DisableTorchFunction():
                yield
        finally:
            self.is_busy = was_busy

    # ---------------------------------------------------------------------------------------- operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, or defer it."""
        kwargs = kwargs or {}
        if self.is_busy:
            return func(*args, **kwargs)
        kind = kind_of(func)
        self.is_busy = True  # what follows may call torch
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
            self.is_busy = False
        return result if done else func(*args, **kwargs)

    def _handle(self, kind: str, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        """Run or defer an operation; where that is left to the caller, first run what is deferred.

        Returns
        -------
        (bool, object)
            Whether it is done, and its result.
        """
        if kind == "makes":
            return True, self._made(func(*args, **kwargs), kwargs)
        if kind == "makes random":
            return self._make_random(func, args, kwargs)
        if kind == "fills":
            if self._can_fill(func, args, kwargs):
                self._ops.add(func, args[0], args[1:], is_random=True)
                return True, args[0]
            if args[0].device.type in _OTHERS:
                return False, None
        elif kind == "draws":
            pass
        elif kind == "copies":
            return self._copy(func, args, kwargs)
        elif not self._ops or not any(map(self.is_pending, tensors_in(args, kwargs))):
            return False, None
        elif kind == "changes":
            if self._can_change(args, kwargs):
                self._ops.add(func, args[0], args[1:], kwargs)
                return True, args[0]
        elif kind == "copies into":
            return self._copy_into(func, args, kwargs)
        elif kind == "computes" and self._can_change(args, kwargs) and args[0].is_contiguous():
            result = self._made(torch.empty_like(args[0]), {})
            self._ops.add(func, result, args, kwargs, is_result=True)
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
        is_plain = is_plain and len(args) == begin + 1 and (like is None or like.layout == torch.strided)
        count = math.prod(args[begin]) if like is None else like.numel()
        if not (self._is_worth_it(count) and is_plain and FILLS[fill](*args[:begin])):
            if device.type not in _OTHERS:
                self.run()
            return True, self._made(func(*args, **kwargs), kwargs)
        result = torch.empty(args[begin], **kwargs) if like is None else torch.empty_like(like, **kwargs)
        self._ops.add(fill, self._made(result, {}), args[:begin], is_random=True)
        return True, result

    def _is_worth_it(self, count: int) -> bool:
        """Whether so many draws are worth deferring: few are only if they come after deferred ones."""
        return self.is_on and (count >= _WORTH_IT or bool(self._ops))

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

    def _can_change(self, args: Any, kwargs: Any) -> bool:
        """Whether the first argument is deferred, and the others are numbers that keep its type."""
        tensor = args[0]
        return (
            self.is_pending(tensor)
            and tensor.dtype in FLOATS
            and _is_plain(tensor)
            and is_without_overlap(tensor)
            and are_numbers(args[1:], kwargs)
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
        self._ops.add(torch.ops.aten.copy_.default, result, (source,))
        return True, result

    def _copy_into(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        target, source = args[:2]
        memory = self._ops.find(target)
        if not self.is_pending(source):
            if memory is not None and fills_storage(target):
                func(*args, **kwargs)  # before anything is forgotten: it may fail
                self._ops.lose(memory)
                return True, target
        elif memory is not None or (_is_plain(target) and self.knows(target)):
            is_alike = source.shape == target.shape and {source.dtype, target.dtype} <= {*FLOATS}
            is_alike = is_alike and _is_plain(source) and storage_of(source) is not storage_of(target)
            if is_alike and is_without_overlap(target):
                self._ops.add(func, target, (source,))
                return True, target
        self.run()
        return False, None

    def _made(self, tensor: Any, kwargs: Any) -> Any:
        """Note the new memory of an operation's result, and return that."""
        storage = None if kwargs.get("pin_memory") else storage_of(tensor)
        if storage is not None:
            self._new[id(storage)] = weakref.ref(storage)
            if len(self._new) > self._prune_at:
                self._new = {key: known for key, known in self._new.items() if known() is not None}
                self._prune_at = 2 * len(self._new) + 1024
        return tensor


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_neg()
