"""Totals of components, in which a shared tensor counts once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from flambe_save.pt import TensorInfo
from flambe_save.tree import MAX_PARTS, place_key


class Totals(NamedTuple):
    """Totals of components together; a shared tensor counts once.

    Attributes
    ----------
    tensors, parameters, bytes : int
        Tensors, their elements, and the bytes of these. Buffers and moments of optimizers count as parameters: a save
        does not distinguish them.
    dtypes, devices : tuple of str
        Of the tensors, sorted.
    """

    tensors: int
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]
    devices: tuple[str, ...]


def add_up(
    tensors: Mapping[str, Mapping[str, TensorInfo]], ties: Iterable[Sequence[str]]
) -> dict[str, tuple[Totals, Totals]]:
    """Return each component's totals, alone and with all inside it.

    ``tensors`` has a component's own tensors by its prefix. ``ties`` are groups of full keys whose tensors are one; a
    group that contradicts the tensors, or another group, is skipped.
    """
    own = {prefix: Tally() for prefix in tensors}
    total = {prefix: Tally() for prefix in tensors}
    for prefix, tally in own.items():
        for info in tensors[prefix].values():
            tally.add(info)
        total[prefix].join(tally)
    above = {prefix: place_key(prefix, tensors)[0] for prefix in tensors if prefix}
    for prefix in sorted(above, key=lambda prefix: -prefix.count(".")):  # those inside before what they are in
        total[above[prefix]].join(total[prefix])
    counted: set[tuple[str, str]] = set()
    for group in ties:
        places = dict.fromkeys(place_key(key, tensors) for key in group if key.count(".") <= MAX_PARTS)
        found = [(prefix, tensors[prefix][key]) for prefix, key in places if key in tensors[prefix]]
        tied = found[0][1] if found else None
        if tied is None or not counted.isdisjoint(places) or any(info != tied for _, info in found):
            continue
        counted.update(places)
        members: dict[str, int] = {}  # component -> how many of the group are in it, or in what is inside it
        for prefix, count in Counter(prefix for prefix, _ in found).items():
            own[prefix].add(tied, 1 - count)
            while True:
                members[prefix] = members.get(prefix, 0) + count
                if not prefix:
                    break
                prefix = above[prefix]
        for prefix, count in members.items():
            total[prefix].add(tied, 1 - count)
    return {prefix: (own[prefix].totals(), total[prefix].totals()) for prefix in tensors}


class Tally:
    """Adds tensors up."""

    def __init__(self) -> None:
        self.tensors = self.parameters = self.bytes = 0
        self.dtypes: set[str] = set()
        self.devices: set[str] = set()

    def add(self, info: TensorInfo, times: int = 1) -> None:
        self.tensors += times
        self.parameters += times * info.elements
        self.bytes += times * (info.bytes or 0)
        self.dtypes.add(info.dtype)
        if info.device is not None:
            self.devices.add(info.device)

    def join(self, other: Tally) -> None:
        self.tensors += other.tensors
        self.parameters += other.parameters
        self.bytes += other.bytes
        self.dtypes |= other.dtypes
        self.devices |= other.devices

    def totals(self) -> Totals:
        return Totals(
            self.tensors, self.parameters, self.bytes, tuple(sorted(self.dtypes)), tuple(sorted(self.devices))
        )
