"""Adopt the memory of saved values, instead of copying it into a module's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, TypeGuard

import torch
from torch import nn

from flambe_save.classes.tags import TAGS, dotted_path
from flambe_save.deferred_init.given import Given
from flambe_save.deferred_init.mode import DeferredInit
from flambe_save.objects.attributes import values_in
from flambe_save.objects.walks import everywhere, modules_in
from flambe_save.questions import unregistered_class
from flambe_save.support.static import static_of
from flambe_save.trust import NO_TRUST, Trust

_LEAST = 64 << 10  # bytes: copying less costs no more than finding out whether it can be adopted


class Adoption:
    """Lets an object take over freshly read tensors, where no other code can notice.

    Parameters
    ----------
    deferral : DeferredInit
        Active while the object is built: only memory that was made in it, and that it fully knows, is replaced.
    trust : Trust
        The caller's.

    Attributes
    ----------
    assembled : dict of int to object
        By their ids, objects that were made of their parts, and so hold the state's tensors already.
    complete : set of int
        Of these, the ids of objects that take no state though their class has a way to.
    parameters : dict of int to torch.Tensor
        Parameters, and buffers of copied layers, that were made of the state's tensors, by the ids of these.
    given : Given
        Tensors that were taken out of the state while the object was built.
    """

    def __init__(self, deferral: DeferredInit, trust: Trust = NO_TRUST) -> None:
        self.deferral = deferral
        self.trust = trust
        self.assembled: dict[int, Any] = {}
        self.complete: set[int] = set()
        self.parameters: dict[int, nn.Parameter] = {}
        self._is_over = _use_count is None
        self.given = Given(self.parameters)
        self._adopted: list[torch.Tensor] = []

    def takes_state(self, obj: Any) -> bool:
        """Whether an object takes a state: one that was made of all its attributes does not.

        Raises
        ------
        UntrustedError
            If it may be a constructor's copy of such an object.
        """
        if id(obj) in self.assembled:
            return id(obj) not in self.complete
        cls: Any = type(obj)
        if cls not in TAGS and any(type(self.assembled[number]) is cls for number in self.complete):
            self.trust.decide([unregistered_class(dotted_path(cls))])
        return True

    def given_from(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a view of a state that notes the tensors taken out of it."""

        def noted(value: Any) -> Any:
            self.given.add(value)
            return value

        return StateView(state, noted)

    def watch_given(self, stash: Mapping[str, Any]) -> None:
        """Keep copies of the values of the state and of a stash that constructors write to."""
        self.given.is_watched, self.deferral.given = True, self.given
        for value in values_in(stash):
            self.given.add(value)

    def end(self) -> None:
        """Stop adopting, and copy adopted memory: a hook or migration is about to see the state."""
        self._is_over = True
        with self.deferral.left(), torch.no_grad():
            for tensor in (*self._adopted, *self.parameters.values()):
                tensor.data = tensor.data.clone()
        self._adopted = []
        self.parameters.clear()  # they no longer share the state's memory

    def is_worth_it(self, own: Mapping[str, Any]) -> bool:
        """Whether a module with these saved values has anything to adopt, or to forget."""
        return not self.deferral.is_idle or any(map(_is_worth_it, own.values()))

    def adopt(self, module: nn.Module, own: OrderedDict[str, Any]) -> None:
        """Give tensors of a module the memory of their saved values, where no code can notice.

        ``own`` then has the module's tensor itself as the value, so that nothing is copied.
        """
        if self._is_over:
            return
        places = _places(module)
        rnns = [inner for inner in module.modules() if isinstance(inner, nn.RNNBase)]
        flat = {id(tensor) for inner in rnns for tensor in inner.parameters()}
        owners: dict[int, set[int]] = {}  # the tensors of the module that each saved memory is for
        values: dict[int, dict[int, torch.Tensor]] = {}  # the saved tensors that are in it
        for names, tensor in places.values():
            for name in names:
                value = own.get(name)
                if _is_worth_it(value):
                    storage = value.untyped_storage()
                    owners.setdefault(storage._cdata, set()).add(id(tensor))
                    values.setdefault(storage._cdata, {})[id(value)] = value
        for names, tensor in places.values():
            value = own.get(names[-1])
            if not _is_worth_it(value):
                continue
            memory = value.untyped_storage()._cdata
            if (
                len(owners[memory]) == 1
                and all(_is_same(own.get(name), value) for name in names)
                and all(item not in self.given for item in values[memory].values())
                and not (value.is_cuda and id(tensor) in flat)  # cuDNN wants these in one piece
                and self._can_take(tensor, value, len(values[memory]))
            ):
                tensor.data = value
                self._adopted.append(tensor)
                own.update((name, tensor) for name in names)

    def _can_take(self, tensor: torch.Tensor, value: torch.Tensor, users: int) -> bool:
        """Whether a tensor can take a value's memory, which ``users`` tensors of the state share."""
        if type(tensor) not in (nn.Parameter, nn.Buffer, torch.Tensor):
            return False
        if not torch._has_compatible_shallow_copy_type(tensor, value):  # the object may be on the meta device
            return False
        if value.is_meta or value.dtype != saved_dtype(tensor, value) or value.is_inference() or tensor.is_inference():
            return False
        is_alike = value.shape == tensor.shape and value.stride() == tensor.stride() and value.is_contiguous()
        if not is_alike or value.is_conj() or value.is_neg() or tensor.grad is not None:
            return False
        return (
            self.deferral.knows(tensor)
            and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
            and _use_count is not None
            and _use_count(tensor) == 1
            and _use_count(value) == users
        )

    def overwrite(self, module: nn.Module, own: Mapping[str, Any]) -> None:
        """Forget deferred operations on tensors that saved values are about to overwrite."""
        for names, tensor in _places(module).values():
            value = own.get(names[-1])
            if isinstance(value, torch.Tensor) and value is not tensor and value.shape == tensor.shape:
                self.deferral.overwrite(tensor)


class StateView(Mapping[str, Any]):
    """A view of a state that passes each value through a function when it is looked up."""

    def __init__(self, state: Mapping[str, Any], change: Callable[[Any], Any]) -> None:
        self._state = state
        self._change = change

    def __getitem__(self, key: str) -> Any:
        return self._change(self._state[key])

    def __contains__(self, key: object) -> bool:
        return key in self._state

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def _is_worth_it(value: Any) -> TypeGuard[torch.Tensor]:
    is_plain = type(value) is torch.Tensor and value.layout == torch.strided
    return is_plain and value.numel() * value.element_size() >= _LEAST


def _is_same(other: Any, value: torch.Tensor) -> bool:
    if other is value:
        return True
    is_alike = _is_worth_it(other) and (other.dtype, other.shape) == (value.dtype, value.shape)
    return is_alike and (other.data_ptr(), other.stride()) == (value.data_ptr(), value.stride())


def _places(module: nn.Module) -> dict[int, tuple[list[str], torch.Tensor]]:
    """Return the tensors that a ``load_state_dict`` fills, by id, with their names in order."""
    found: dict[int, tuple[list[str], torch.Tensor]] = {}
    for path, inner in everywhere(module):
        begin = f"{path}." if path else ""
        for table, left_out in ((inner._parameters, ()), (inner._buffers, inner._non_persistent_buffers_set)):
            for name, tensor in table.items():
                if tensor is not None and name not in left_out and not nn.parameter.is_lazy(tensor):
                    found.setdefault(id(tensor), ([], tensor))[0].append(begin + name)
    return found


def saved_dtype(tensor: torch.Tensor, value: torch.Tensor) -> torch.dtype:
    """Return a tensor's type for a saved value: the value's, where the tensor can have that."""
    return value.dtype if value.is_floating_point() or value.is_complex() or not tensor.requires_grad else tensor.dtype


def runs_torch_only(module: nn.Module, assembled: Container[int] = ()) -> bool:
    """Whether filling a module runs only torch's code; those ``assembled``, by id, run none."""
    if torch.__future__.get_swap_module_params_on_conversion():
        return False
    if id(module) not in assembled and not (
        "load_state_dict" not in vars(module) and _is_of_torch(static_of(type(module), "load_state_dict"))
    ):
        return False
    methods = ("_load_from_state_dict", "_apply", "set_extra_state")
    for _, inner in modules_in(module):
        if id(inner) in assembled:
            continue
        hooks = [*inner._load_state_dict_pre_hooks.values(), *inner._load_state_dict_post_hooks.values()]
        if any(not _is_of_torch(getattr(hook, "hook", hook)) for hook in hooks):
            return False
        if any(name in vars(inner) or not _is_of_torch(static_of(type(inner), name)) for name in methods):
            return False
        kinds = {type(tensor) for tensor in (*inner._parameters.values(), *inner._buffers.values())}
        if any(kind.__module__.partition(".")[0] not in ("torch", "builtins") for kind in kinds):
            return False
    return True


def _is_of_torch(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "").partition(".")[0] == "torch"


def _find_use_count() -> Callable[[torch.Tensor], int] | None:
    """Return a function that counts the tensors on a memory; None where torch has none."""
    count: Any = getattr(torch._C, "_storage_Use_Count", None)
    if count is None:
        return None

    def users(tensor: torch.Tensor) -> int:
        return int(count(tensor.untyped_storage()._cdata)) - 1  # the storage's own object is one

    one = torch.empty(1)
    if users(one) != 1:
        return None
    other = one.detach()
    return users if users(one) == 2 and users(other) == 2 else None


_use_count = _find_use_count()
