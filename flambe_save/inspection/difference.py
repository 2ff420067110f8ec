"""diff(): the differences of two saves, from their trees to how far each tensor moved."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from flambe_save.errors import ConfigError, LoadError, UnsupportedObjectError, UntrustedError
from flambe_save.inspection.configs import compare_configs
from flambe_save.inspection.documents import PARTS
from flambe_save.inspection.humanize import all_of, shape_of, value_of
from flambe_save.inspection.measures import Measures, statistics_module
from flambe_save.inspection.nodes import SavedNode, SavedValues
from flambe_save.inspection.opening import OpenSave, open_save
from flambe_save.pt import DumpOptions, TensorInfo
from flambe_save.registry import CODECS
from flambe_save.support.progress import ShowProgress, progress_of
from flambe_save.trust import Limits

_MOST_LINES = 10_000  # of a source; what differs is found in the square of them, at worst


@dataclass(frozen=True)
class Change:
    """One difference between two saves.

    Attributes
    ----------
    node : str or None
        Prefix of the component; None for the save as a whole.
    part : str
        ``"node"``, ``"class"``, ``"version"``, ``"config"``, ``"source"``, ``"tensor"``, ``"value"``, ``"stash"``,
        ``"tie"``, ``"package"``, or ``"damage"`` where something could not be compared.
    name : str or None
        Of the tensor or value, in its component; the path in the config; the package.
    kind : str
        ``"added"``, ``"removed"`` or ``"changed"``; of a tensor also ``"reshaped"`` or ``"retyped"``.
    before, after : str or None
        The two values, in short.
    text : str or None
        Of source code: a unified diff.
    measures : Measures or None
        Of a tensor that was changed or retyped.
    """

    node: str | None
    part: str
    name: str | None
    kind: str
    before: str | None = None
    after: str | None = None
    text: str | None = None
    measures: Measures | None = None


def diff(
    a: str | os.PathLike[str] | OpenSave,
    b: str | os.PathLike[str] | OpenSave,
    *,
    atol: float = 0.0,
    rtol: float = 0.0,
    only: str | Collection[str] = (),
    limits: Limits | None = None,
    progress: ShowProgress = False,
) -> list[Change]:
    """Compare two saves; nothing of them is imported, built or run.

    Tensors are read a piece at a time. Files that are equal by their SHA-256 digests, or are hard links to each other,
    are not read; :func:`verify` compares files with their digests.

    Parameters
    ----------
    a, b : str, path or OpenSave
        Saves, or folders inside saves, of any kind. An open save stays open: ``open(path, node="encoder")`` compares
        a component of an archive.
    atol, rtol : float
        Tensors whose elements are all within ``|b - a| <= atol + rtol * |a|`` count as equal, if shape and type are.
    only : {"state", "config", "source"} or several of them
        The parts that are compared; by default all, and packages too.
    limits : Limits, optional
    progress : bool or callable
        As :func:`save`; the bytes are those of the tensors of ``a``.

    Returns
    -------
    list of Change
        Empty where the saves are the same.

    Raises
    ------
    LoadError
        If either cannot be read. Damage inside is a row with the part ``"damage"``.
    ValueError
        If a tolerance is negative, or ``only`` names no part.
    MissingDependencyError
        If tensors differ and numpy is not installed.
    """
    with contextlib.ExitStack() as closing:
        one, other = (
            save if isinstance(save, OpenSave) else closing.enter_context(open_save(save, limits=limits))
            for save in (a, b)
        )
        meter = closing.enter_context(progress_of(progress, "Comparing"))
        meter.begin(one.total.bytes)
        return [*changes(one, other, atol=atol, rtol=rtol, only=only, advance=meter.advance)]


def changes(
    a: OpenSave,
    b: OpenSave,
    *,
    atol: float = 0.0,
    rtol: float = 0.0,
    only: str | Collection[str] = (),
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[Change]:
    """Yield the changes between two open saves, component by component.

    Parameters
    ----------
    a, b, atol, rtol, only
        As :func:`diff`.
    advance : callable
        Called with counts of bytes that need not be compared any more; in all those of the tensors of ``a``.
    """
    chosen = {only} if isinstance(only, str) else set(only) or set(PARTS)
    if not (atol >= 0 and rtol >= 0) or not chosen <= set(PARTS):
        raise ValueError(f"tolerances are numbers from 0, and only= takes {', '.join(PARTS)}")
    return _Comparison(a, b, atol, rtol, chosen if only else {*PARTS, "package"}, advance).changes()


class _Comparison:
    def __init__(
        self, a: OpenSave, b: OpenSave, atol: float, rtol: float, parts: set[str], advance: Callable[[int], None]
    ) -> None:
        self.a, self.b, self.atol, self.rtol, self.parts, self.advance = a, b, atol, rtol, parts, advance
        self.reported: set[str | None] = set()  # damaged files

    def changes(self) -> Iterator[Change]:
        for save in (self.a, self.b):
            for row in save.damage:
                self.reported.add(row.file)
                yield Change(row.node, "damage", row.file, "changed", text=f"{save.path}: {row.problem}")
        ours = {node.prefix: node for node in self.a.walk()}
        theirs = {node.prefix: node for node in self.b.walk()}
        if "package" in self.parts and self.a.packages and self.b.packages:
            yield from self._packages()
        if "state" in self.parts and self.a.is_vouched_for and self.b.is_vouched_for:
            yield from self._ties()
        for prefix in {**ours, **theirs}:
            one, other = ours.get(prefix), theirs.get(prefix)
            if one is None or other is None:
                before, after = (None if node is None else _class_of(node) for node in (one, other))
                yield Change(prefix, "node", None, _kind(one, other), before, after)
                continue
            for part in (self._kinds, self._configs, self._sources, self._states):
                yield from self._or_damage(prefix, part(prefix, one, other))

    def _or_damage(self, prefix: str, changes: Iterator[Change]) -> Iterator[Change]:
        """Yield changes; if a part cannot be read, a row of damage replaces the rest."""
        try:
            yield from changes
        except (LoadError, ConfigError, UnsupportedObjectError) as error:
            if error.file is None or error.file not in self.reported:
                yield Change(prefix, "damage", error.file, "changed", text=error.message)

    def _kinds(self, prefix: str, a: SavedNode, b: SavedNode) -> Iterator[Change]:
        if a.class_name != b.class_name:
            yield Change(prefix, "class", None, "changed", a.class_name, b.class_name)
        if a.version != b.version:
            yield Change(prefix, "version", None, "changed", a.version, b.version)

    def _configs(self, prefix: str, a: SavedNode, b: SavedNode) -> Iterator[Change]:
        if "config" not in self.parts:
            return
        both = [key for key in a if key in b and _has_config(a[key]) and _has_config(b[key])]
        in_lists = (re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", key) for key in both)  # as configs call what is in lists
        covered = {*both, *in_lists}
        for path, before, after in compare_configs(a.config, b.config, covered):
            yield Change(prefix, "config", path or None, _kind(before, after), before, after)

    def _sources(self, prefix: str, a: SavedNode, b: SavedNode) -> Iterator[Change]:
        if "source" not in self.parts:
            return
        before, after = a.source, b.source
        if before != after:
            yield Change(prefix, "source", None, "changed", text=_lines_that_differ(before, after))

    def _states(self, prefix: str, a: SavedNode, b: SavedNode) -> Iterator[Change]:
        if "state" not in self.parts:
            return
        if a._part.fingerprints() & b._part.fingerprints():
            self.advance(a.own.bytes)
        else:
            yield from self._or_damage(prefix, self._tensors(prefix, a, b))
            yield from self._or_damage(prefix, self._values(prefix, "value", a.state, b.state))
        yield from self._values(prefix, "stash", a.stash, b.stash)

    def _tensors(self, prefix: str, a: SavedNode, b: SavedNode) -> Iterator[Change]:
        ours, theirs = _plain_tensors(a), _plain_tensors(b)
        for name in {**ours, **theirs}:
            one, other = ours.get(name), theirs.get(name)
            if one is None or other is None:
                before, after = (None if info is None else _describe(info) for info in (one, other))
                yield Change(prefix, "tensor", name, _kind(one, other), before, after)
                self.advance(0 if one is None else one.bytes or 0)
                continue
            yield from self._or_damage(prefix, self._tensor(prefix, name, a, b, one, other))

    def _tensor(
        self, prefix: str, name: str, a: SavedNode, b: SavedNode, one: TensorInfo, other: TensorInfo
    ) -> Iterator[Change]:
        if one.shape != other.shape:
            self.advance(one.bytes or 0)
            yield Change(prefix, "tensor", name, "reshaped", _describe(one), _describe(other))
            return
        kind = "retyped" if one.dtype != other.dtype else "changed"
        measures = None
        if one.is_countable and other.is_countable:
            counting = statistics_module()
            size = (one.bytes or 0) // (one.elements or 1)
            with contextlib.suppress(NotImplementedError):  # a type without numbers of a byte or more
                measures = counting.compare(
                    lambda: a._elements(name, counting.PIECE),
                    lambda: b._elements(name, counting.PIECE),
                    atol=self.atol,
                    rtol=self.rtol,
                    advance=lambda count: self.advance(count * size),
                )
        if measures is None or one.dtype.startswith("q"):  # what is quantized has scales too
            is_close = _same(a.state[name], b.state[name])
        else:
            is_close = measures.is_close if self.atol or self.rtol else measures.is_same
        if kind == "retyped" or not is_close:
            yield Change(prefix, "tensor", name, kind, _describe(one), _describe(other), measures=measures)

    def _values(self, prefix: str, part: str, a: SavedValues, b: SavedValues) -> Iterator[Change]:
        if part == "stash" and a.digest == b.digest:
            return
        ours, theirs = a.types(), b.types()
        for name in {**ours, **theirs}:
            if part == "value" and "torch.Tensor" in (ours.get(name), theirs.get(name)):
                continue
            before, after = _short(a, name, ours), _short(b, name, theirs)
            if before is None or after is None or ours[name] != theirs[name]:
                yield Change(prefix, part, name, _kind(before, after), before, after)
                continue
            try:
                is_same = _same(a[name], b[name])
            except UntrustedError:
                if a.digest != b.digest:
                    problem = "not compared: only a trusting load reads it"
                    yield Change(prefix, part, name, "changed", before, after, problem)
                continue
            if not is_same:
                # Values that look equal in short are shown in full
                text = _lines_that_differ(all_of(a[name]), all_of(b[name])) if before == after else None
                yield Change(prefix, part, name, "changed", before, after, text)

    def _packages(self) -> Iterator[Change]:
        ours, theirs = self.a.packages, self.b.packages
        for name in {**ours, **theirs}:
            before, after = ours.get(name), theirs.get(name)
            if before != after:
                yield Change(None, "package", name, _kind(before, after), before, after)

    def _ties(self) -> Iterator[Change]:
        ours, theirs = ({" = ".join(sorted(group)) for group in save.ties} for save in (self.a, self.b))
        for group in sorted(ours ^ theirs):
            yield Change(None, "tie", group, "removed" if group in ours else "added")


def _lines_that_differ(before: str, after: str) -> str:
    """Return a unified diff."""
    one, other = before.splitlines(), after.splitlines()
    if max(len(one), len(other)) > _MOST_LINES:
        return f"{len(one):,} lines before and {len(other):,} after: too many to tell which differ"
    return "\n".join(difflib.unified_diff(one, other, "before", "after", lineterm=""))


def _kind(before: object, after: object) -> str:
    return "added" if before is None else "removed" if after is None else "changed"


def _class_of(node: SavedNode) -> str:
    try:
        return f"{node.class_name} {node.version}".strip()
    except LoadError:
        return "?"


def _plain_tensors(node: SavedNode) -> dict[str, TensorInfo]:
    """Return a component's tensors, but those of classes that need trust, which count as values."""
    types = node.state.types()
    return {name: info for name, info in node.tensors.items() if types.get(name, "torch.Tensor") == "torch.Tensor"}


def _has_config(node: SavedNode) -> bool:
    """Whether a component has a config to compare, or to report as damaged with the component."""
    try:
        return bool(node.config)
    except LoadError:
        return True


def _describe(info: TensorInfo) -> str:
    return f"{info.dtype} {shape_of(info.shape)}"


def _short(values: SavedValues, name: str, types: dict[str, str]) -> str | None:
    """Return a value in short, as far as that needs no trust."""
    if name not in types:
        return None
    try:
        return value_of(values[name]) if types[name] != "torch.Tensor" else types[name]
    except UntrustedError:
        return types[name]


def _same(one: Any, other: Any) -> bool:
    """Whether two values of data are equal, to the bit."""
    try:
        return _written(one) == _written(other) or _alike(one, other)
    except RecursionError:
        return False


def _written(value: Any) -> bytes:
    return bytes(CODECS["pickle"].dump(value, DumpOptions()))


def _alike(one: Any, other: Any) -> bool:
    """Whether values are equal whose pickles differ.

    Equal texts may be one object in one pickle, and two in the other.
    """
    if type(one) is not type(other):
        return False
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if type(one) in (dict, OrderedDict):
        return _alike([*one], [*other]) and _alike([*one.values()], [*other.values()])
    return _written(one) == _written(other)
