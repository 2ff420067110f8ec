"""Data of the report for the page's scripts: columns in place of rows, and each text once.

A component or tensor is a number here, its place in the columns, so nothing in the page is found by a name out of a
save. Control characters, and those that turn the direction of writing, are written out on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flambe_save.errors import plain
from flambe_save.page.highlight import Highlighter

MARKS = ("same", "added", "removed", "changed")
_STATISTICS = ("count", "minimum", "maximum", "mean", "std", "nan", "inf", "zero", "norm")
_MEASURES = ("relative_norm", "max_abs", "mean_abs", "cosine")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
_BINS = 48  # of a histogram; one of more has neighbours put together
_NAME, _TEXT = 500, 500_000  # characters; the longest that is shown of one name, and of one text


def pack(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data that the page's scripts read, from a report of JSON values.

    Parameters
    ----------
    report : mapping
        ``{"saves": [one or two], "difference": mapping or None}``; nothing of it is changed.

    Raises
    ------
    MissingDependencyError
        If Pygments is not installed.
    """
    texts = _Texts()
    saves = [_Save(save, texts) for save in report["saves"]]
    difference = report.get("difference")
    data = {
        "saves": [save.packed for save in saves],
        "difference": None if difference is None else _difference(difference, saves, texts),
    }
    return {"strings": texts.strings, "texts": texts.runs, **data}


class _Texts:
    """Every name and text of the page, once."""

    def __init__(self) -> None:
        self.strings: list[str] = []
        self.runs: list[list[list[str]]] = []
        self._strings: dict[str, int] = {}
        self._runs: dict[tuple[str, str], int] = {}
        self._highlighter = Highlighter()

    def name(self, text: object) -> int:
        """Return the number of a text of one line; -1 for None."""
        return -1 if text is None else self._string(_cut(str(text), _NAME).replace("\n", "\\n"))

    def names(self, texts: Iterable[object] | None) -> list[int]:
        """Return the numbers of some texts of one line each."""
        return [self.name(text) for text in texts or ()]

    def lines(self, text: object) -> int:
        """Return the number of a text of several lines; -1 for None."""
        return -1 if text is None else self._string(_cut(str(text), _TEXT))

    def coloured(self, text: object, language: str) -> int:
        """Return the number of a text cut into runs; -1 for None and for an empty one."""
        if not text:
            return -1
        key = (str(text), language)
        if key not in self._runs:
            self._runs[key] = len(self.runs)
            self.runs.append(self._highlighter.runs(plain(_cut(key[0], _TEXT)), language))
        return self._runs[key]

    def _string(self, text: str) -> int:
        if text not in self._strings:
            self._strings[text] = len(self.strings)
            self.strings.append(plain(text))
        return self._strings[text]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… and {len(text) - most:,} characters more"


def _number(value: Any) -> float | int | str | None:
    """Return a number rounded to six digits, the most that are shown.

    "nan", "inf", "-inf" and None stay as they are.
    """
    if value is None:  # of a tensor without finite elements
        return None
    if isinstance(value, str):
        return value if value in ("nan", "inf", "-inf") else "nan"
    if isinstance(value, int):
        return int(value)
    short = float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return int(short) if isinstance(short, float) and short.is_integer() and abs(short) < 1e15 else short


def _histogram(counts: list[int]) -> str:
    """Return a histogram's heights as one digit of 64 each; what is not empty is at least 1."""
    step = -(-len(counts) // _BINS) or 1
    bins = [sum(counts[start : start + step]) for start in range(0, len(counts), step)]
    top = max(bins, default=0) or 1
    return "".join(_DIGITS[min(63, -(-count * 63 // top))] for count in bins)


class _Save:
    """One save: its columns, and where in them a name is."""

    def __init__(self, save: Mapping[str, Any], texts: _Texts) -> None:
        self._texts = texts
        nodes = list(save["nodes"])
        self.places = {str(node["node"]): place for place, node in enumerate(nodes)}
        self.parents = _parents(self.places)
        self.names = list(self.places)
        self.keys: dict[str, int] = {}  # of each tensor, by its key in the whole state
        details = save.get("details") or {}
        shows = [details.get(node["node"]) or {} for node in nodes]
        facts = save["save"]
        self.packed: dict[str, Any] = {
            "path": texts.name(save["path"]),
            "kind": texts.name(facts["kind"]),
            "writer": texts.name(facts["writer"]),
            "protocol": texts.name(facts["protocol"]),
            "digest": texts.name(facts["digest"]),
            "bytes": facts["bytes"],
            "whole": bool(facts["is_whole"]),
            "verified": bool(save.get("is_verified", True)),
            "packages": [texts.names(pair) for pair in sorted((facts["packages"] or {}).items())],
            "nodes": self._nodes(nodes, shows),
            "tensors": self._tensors(shows),
            "ties": [self._tie(keys) for keys in save["ties"]],
            "damage": [
                [
                    self.places.get(row["node"], -1),
                    texts.name(row["node"]),
                    texts.name(row["file"]),
                    texts.name(row["problem"]),
                ]
                for row in save["damage"]
            ],
        }

    def _nodes(self, nodes: list[Mapping[str, Any]], shows: list[Mapping[str, Any]]) -> dict[str, Any]:
        texts = self._texts
        return {
            "name": texts.names(self.names),
            "label": texts.names(_labels(self.names, self.parents)),
            "parent": self.parents,
            "class": texts.names(node["class"] for node in nodes),
            "path": texts.names(node["class_path"] for node in nodes),
            "version": texts.names(node["version"] for node in nodes),
            "tensors": [node["tensors"] for node in nodes],
            "parameters": [node["parameters"] for node in nodes],
            "bytes": [node["bytes"] for node in nodes],
            "allTensors": [node["total"]["tensors"] for node in nodes],
            "allParameters": [node["total"]["parameters"] for node in nodes],
            "allBytes": [node["total"]["bytes"] for node in nodes],
            "dtypes": texts.names(", ".join(map(str, node["dtypes"])) for node in nodes),
            "devices": texts.names(", ".join(map(str, node["devices"])) for node in nodes),
            "problem": texts.names(node["problem"] for node in nodes),
            "trust": {place: texts.names(node["trust"]) for place, node in enumerate(nodes) if node["trust"]},
            "config": [texts.coloured(show.get("config"), "yaml") for show in shows],
            "source": [texts.coloured(show.get("source"), "python") for show in shows],
            "values": {
                place: [
                    [texts.name(row["name"]), texts.name(row["type"]), texts.lines(row["value"])]
                    for row in show["values"]
                ]
                for place, show in enumerate(shows)
                if show.get("values")
            },
            "stash": {
                place: [[texts.name(row["name"]), texts.name(row["type"])] for row in show["stash"]]
                for place, show in enumerate(shows)
                if show.get("stash")
            },
        }

    def _tensors(self, shows: list[Mapping[str, Any]]) -> dict[str, Any]:
        texts = self._texts
        columns: dict[str, list[Any]] = {
            name: [] for name in ("first", "name", "dtype", "shape", "bytes", "device", "statistics", "histogram")
        }
        for place, show in enumerate(shows):
            columns["first"].append(len(columns["name"]))
            for tensor in show.get("tensor_list") or ():
                key = f"{self.names[place]}.{tensor['name']}" if self.names[place] else str(tensor["name"])
                self.keys[key] = len(columns["name"])
                statistics = tensor["statistics"]
                columns["name"].append(texts.name(tensor["name"]))
                columns["dtype"].append(texts.name(tensor["dtype"]))
                columns["shape"].append(
                    texts.name(" \N{MULTIPLICATION SIGN} ".join(map(str, tensor["shape"])) or "scalar")
                )
                columns["bytes"].append(tensor["bytes"])
                columns["device"].append(texts.name(tensor["device"]))
                columns["statistics"].append(statistics and [_number(statistics[name]) for name in _STATISTICS])
                columns["histogram"].append(_histogram(statistics["histogram"]) if statistics else "")
        columns["first"].append(len(columns["name"]))
        return columns

    def _tie(self, keys: Iterable[object]) -> list[list[int]]:
        """Return each key as its text and the number of its tensor; -1 where there is none."""
        return [[self._texts.name(key), self.keys.get(str(key), -1)] for key in keys]


def _parents(places: Mapping[str, int]) -> list[int]:
    """Return the index of each component's parent: the longest prefix of a component; else -1."""
    lengths = {len(name) for name in places}
    parents = []
    for name in places:
        end = len(name)
        while (end := name.rfind(".", 0, end)) >= 0:
            if end in lengths and name[:end] in places:
                break
        parents.append(places.get(name[: max(end, 0)], -1) if name else -1)
    return parents


def _labels(names: Sequence[str], parents: Sequence[int]) -> list[str]:
    """Return each component's name beside its siblings."""
    starts = [len(names[parent]) + 1 if parent >= 0 and names[parent] else 0 for parent in parents]
    return [name[start:] for name, start in zip(names, starts, strict=True)]


def _difference(difference: Mapping[str, Any], saves: Sequence[_Save], texts: _Texts) -> dict[str, Any]:
    """Return the changes as columns, and both saves' components as one tree, removed ones last."""
    before, after = saves
    places = {name: place for place, name in enumerate(dict.fromkeys((*after.names, *before.names)))}
    names, parents = list(places), _parents(places)
    marks = [
        MARKS.index("removed" if name not in after.places else "added" if name not in before.places else "same")
        for name in names
    ]
    rows: dict[str, list[Any]] = {
        name: [] for name in ("node", "where", "part", "name", "kind", "before", "after", "text", "a", "b", *_MEASURES)
    }
    for change in difference["changes"]:
        node, name = change["node"], change["name"]
        place = -1 if node is None else places.get(node, -1)
        if place >= 0 and marks[place] == MARKS.index("same"):
            marks[place] = MARKS.index("changed")
        key = f"{node}.{name}" if node else str(name)
        is_tensor = change["part"] == "tensor" and node is not None
        measures = change["measures"] or {}
        rows["node"].append(place)
        rows["where"].append(texts.name(node))
        rows["part"].append(texts.name(change["part"]))
        rows["name"].append(texts.name(name))
        rows["kind"].append(texts.name(change["kind"]))
        rows["before"].append(texts.lines(change["before"]))
        rows["after"].append(texts.lines(change["after"]))
        rows["text"].append(texts.lines(change["text"]))
        rows["a"].append(before.keys.get(key, -1) if is_tensor else -1)
        rows["b"].append(after.keys.get(key, -1) if is_tensor else -1)
        for measure in _MEASURES:
            value = measures.get(measure)
            rows[measure].append(_number(value))
    return {
        "a": texts.name(difference["a"]),
        "b": texts.name(difference["b"]),
        "nodes": {
            "name": texts.names(names),
            "label": texts.names(_labels(names, parents)),
            "parent": parents,
            "a": [before.places.get(name, -1) for name in names],
            "b": [after.places.get(name, -1) for name in names],
            "mark": marks,
        },
        "changes": rows,
    }
