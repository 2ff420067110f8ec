"""Put an optimizer's saved state into one, directly or by its ``load_state_dict``."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.optim import Optimizer

from flambe_save.objects.optimizers import is_data

GROUPS = "param_groups"
STATE = "state"
WHOLE = ""  # the entry of a parameter's state that is not a dict of names
_STEP = "step"  # torch keeps it on its device; other entries go to their parameters' devices

Kept: TypeAlias = "dict[str, dict[str, tuple[str, Any]]]"  # name of a parameter -> entry -> (key, value)


class SavedState(NamedTuple):
    """The saved state of an optimizer, to be put into an existing one.

    Attributes
    ----------
    groups : list of dict
        With the names of parameters.
    kept : dict
        The state of each parameter.
    shared : dict
        Entries under other keys than parameters.
    named : dict of str to torch.Tensor
        The parameters of the existing optimizer, by their names in the save.
    is_last : bool
        Whether the parameters were the last entry of the groups.
    """

    groups: list[dict[str, Any]]
    kept: Kept
    shared: dict[Any, Any]
    named: dict[str, torch.Tensor]
    is_last: bool

    def fill(self, obj: Any) -> None:
        """Put the saved state into the optimizer unchanged; no code of its class is run."""
        own = obj.__dict__
        devices: dict[int, bool] = {}
        for group, filled in zip(own.get(GROUPS) or (), self._groups_for(obj), strict=True):
            group.clear()
            group.update(filled)
            follows = bool(group.get("capturable") or group.get("fused"))
            devices.update((id(tensor), follows) for tensor in group["params"])
        if own.get(STATE) is None:
            return
        kept = {
            self.named[name]: self._kept_for(name, devices.get(id(self.named[name]), False))
            for name in self.kept
            if name in self.named
        }
        own[STATE].clear()
        own[STATE].update({**kept, **self.shared})

    def give(self, obj: Optimizer, more: dict[str, Any], dtypes: Any) -> None:
        """Give the optimizer's ``load_state_dict`` the saved state, in torch's form.

        Parameters
        ----------
        obj : torch.optim.Optimizer
        more : dict
            Entries of a ``state_dict`` that torch does not know.
        dtypes : dict of str to str or None
            The types of parameters whose state has tensors of another type, which torch would round.
        """
        numbers = {id(tensor): number for number, tensor in enumerate(self.named.values())}
        groups = [
            {**group, "params": [numbers[id(tensor)] for tensor in group["params"]]} for group in self._groups_for(obj)
        ]
        inside = {number for group in groups for number in group["params"]}
        kept = {name: self._kept_for(name, None) for name in self.kept if name in self.named}
        state = {numbers[id(self.named[name])]: value for name, value in kept.items()}
        defaults = dict(obj.defaults)
        obj.load_state_dict(
            {
                STATE: {**{key: value for key, value in state.items() if key in inside}, **self.shared},
                GROUPS: groups,
                **more,
            }
        )
        obj.defaults.clear()  # torch adds to them
        obj.defaults.update(defaults)
        is_torchs = type(obj).load_state_dict is Optimizer.load_state_dict
        for name in kept:
            tensor = self.named[name]
            has_type = isinstance(dtypes, dict) and dtypes.get(name) == str(tensor.dtype).removeprefix("torch.")
            if numbers[id(tensor)] not in inside or (is_torchs and (has_type or _has_texts(kept[name]))):
                obj.state[tensor] = self._kept_for(name, _follows(obj, tensor))

    def _groups_for(self, obj: Any) -> list[dict[str, Any]]:
        """Return the optimizer's groups, each with the options of the saved group most like it."""
        called = {id(tensor): name for name, tensor in self.named.items()}
        return [
            _filled_group(number, group, {called[id(item)] for item in group["params"]}, self.groups, self.is_last)
            for number, group in enumerate(obj.__dict__.get(GROUPS) or ())
        ]

    def _kept_for(self, name: str, follows: bool | None) -> Any:
        """Return a parameter's state on its device; not moved where ``follows`` is None."""
        tensor = self.named[name]
        entries = {entry: with_parameters(value, self.named) for entry, (_, value) in self.kept[name].items()}
        if follows is not None:
            entries = {
                entry: value if entry == _STEP and not follows else _moved(value, tensor.device)
                for entry, value in entries.items()
            }
        return entries.get(WHOLE, entries)


def _has_texts(value: Any) -> bool:
    """Whether a parameter's state has texts, which torch would change."""
    items = value.values() if isinstance(value, dict) else value
    return isinstance(value, str) or (type(value) in (list, tuple, dict) and any(map(_has_texts, items)))


_MARK = "!parameter"


def with_names(value: Any, name_of: Callable[[torch.Tensor], str | None]) -> Any:
    """Replace parameters in containers by marks with their names; no copy where none are."""

    def marked(item: Any) -> Any:
        name = name_of(item) if isinstance(item, torch.nn.Parameter) else None
        return item if name is None else (_MARK, name)

    return _replaced(value, marked)


def with_parameters(value: Any, named: Mapping[str, torch.Tensor]) -> Any:
    """Replace marks by the parameters that they name. Inverse of :func:`with_names`."""

    def found(item: Any) -> Any:
        is_mark = type(item) is tuple and len(item) == 2 and item[0] == _MARK and isinstance(item[1], str)
        return named.get(item[1], item) if is_mark else item

    return _replaced(value, found)


def _replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply ``change`` to a value and all in it, keys too; no copy where nothing changes."""
    changed = change(value)
    kind: Any = type(value)
    if changed is not value or kind not in (list, tuple, dict):
        return changed
    items = [part for pair in value.items() for part in pair] if kind is dict else value
    now = [_replaced(item, change) for item in items]
    if all(map(operator.is_, items, now)):
        return value
    return dict(zip(now[::2], now[1::2], strict=True)) if kind is dict else kind(now)


def _follows(obj: Optimizer, tensor: torch.Tensor) -> bool:
    """Whether the count of steps is on the parameter's device."""
    groups = (group for group in obj.param_groups if any(item is tensor for item in group["params"]))
    return any(group.get("capturable") or group.get("fused") for group in groups)


def _moved(value: Any, device: torch.device) -> Any:
    """Move the tensors in a value to a device; the value itself where they are there."""
    if isinstance(value, torch.Tensor):
        return value if value.device == device else value.to(device)
    kind: Any = type(value)
    if kind not in (list, tuple, dict, deque):
        return value
    items = [*(value.values() if kind is dict else value)]
    moved = [_moved(item, device) for item in items]
    if all(map(operator.is_, items, moved)):
        return value
    if kind is deque:
        return deque(moved, value.maxlen)
    return dict(zip(value, moved, strict=True)) if kind is dict else kind(moved)


def would_be_rounded(parameter: torch.Tensor, kept: Any) -> bool:
    """Whether torch would cast a tensor of a parameter's state to the parameter's type."""
    waiting, is_float = [kept], parameter.is_floating_point()
    while waiting and is_float:
        item = waiting.pop()
        if isinstance(item, torch.Tensor):
            if item.dtype != parameter.dtype:
                return True
        elif type(item) is dict:
            waiting.extend(value for name, value in item.items() if name != _STEP)
        elif type(item) in (list, tuple, deque):
            waiting.extend(item)
    return False


def know_old_versions(obj: Optimizer) -> None:
    """Let one of torch's own optimizers update a state from an older torch."""
    defaults = dict(obj.defaults)
    obj.__setstate__({STATE: obj.state, GROUPS: obj.param_groups})
    obj.defaults.clear()  # torch adds to them
    obj.defaults.update(defaults)


def _filled_group(
    number: int, group: dict[str, Any], mine: set[str], saved: list[dict[str, Any]], is_last: bool
) -> dict[str, Any]:
    """Return a group with the options of the saved group that shares most parameters with it."""
    shared = [len(mine & set(other["params"])) for other in saved]
    is_empty = not mine and number < len(saved) and not saved[number]["params"]
    if not any(shared) and not is_empty:
        return dict(group)
    best = number if is_empty or (number < len(saved) and shared[number] == max(shared)) else shared.index(max(shared))
    apart = [name for name, value in group.items() if name != "params" and not is_data(value)]
    own = {name: group[name] for name in ("params", "param_names", *apart) if name in group}  # not in the state
    filled = {**{name: value for name, value in saved[best].items() if name != "param_names" or name in own}, **own}
    order = [name for name in group if name in filled] if apart else [] if is_last else ["params"]
    return {**{name: filled[name] for name in order}, **filled}
