"""How we write: counts of what makes our docstrings, comments, messages and pages hard to read. They may only fall."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.places import ROOT

import flambe_save

PACKAGE = Path(flambe_save.__file__).parent
PAGES = sorted((*(ROOT / "docs").glob("**/*.md"), ROOT / "README.md"))

MOST = {
    "first line: What, How, Who, That, Where": 0,
    "first line: over 90 characters": 1,
    "Return what": 0,
    "is no (for: is not a)": 0,
    "whoever": 0,
    "somebody": 0,
    "nobody": 0,
    "told, tells of": 0,
    "to be had": 0,
    "gone into": 0,
    "page: sentence over 35 words": 1,
}

WORDS = {
    "Return what": r"\breturns? what\b",
    "is no (for: is not a)": r"(?<!\bthere )\b(?:is|are) no (?!longer\b|more\b)",
    "whoever": r"\bwhoever\b",
    "somebody": r"\bsomebody\b",
    "nobody": r"\bnobody\b",
    "told, tells of": r"\btold\b|\btells? of\b",
    "to be had": r"\bto be had\b",
    "gone into": r"\bgone into\b",
}
QUESTION = re.compile(r"(?:What|How|Who|That|Where)\b")
LONGEST_FIRST_LINE = 90
LONGEST_SENTENCE = 35  # words
SHOWN = 20  # places of one kind in a failure


class Text(NamedTuple):
    """A docstring, comment, message or paragraph, and where it stands."""

    kind: str
    path: Path
    line: int
    text: str


class Place(NamedTuple):
    """A match of one kind: the line that it stands in, and how bad it is beside others of its kind."""

    weight: int
    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        """Give the file, the line and the words."""
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.text}"


def of_module(path: Path) -> Iterator[Text]:
    """Yield the docstrings, messages and comments of a module."""
    source = path.read_text()
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped: set[int] = set()  # ids of nodes that are part of another text
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            skipped.add(id(node.value))
            yield Text("comment", path, node.value.lineno, node.value.value)  # docstrings too: counted for words
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
            first = node.body[0]
            yield Text("docstring", path, first.lineno, docstring)
        if isinstance(node, ast.JoinedStr):
            pieces = [part for part in node.values if isinstance(part, ast.Constant)]
            skipped.update(map(id, pieces))
            said = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield Text("message", path, node.lineno, said)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield Text("message", path, node.lineno, node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text("comment", path, token.start[0], token.string)


def of_page(path: Path) -> Iterator[Text]:
    """Yield the paragraphs, list items and table cells of a page, without its code."""
    lines: list[str] = []
    start, fenced = 1, False
    for number, line in enumerate([*path.read_text().splitlines(), ""], 1):
        bare = line.strip()
        fence = bare.startswith("```")
        fenced ^= fence
        begins = bool(re.match(r"(?:[-*|#>]|\d+\.) ?", bare)) or not bare or fence or fenced
        if begins and lines:
            yield Text("page", path, start, " ".join(lines))
            lines = []
        if bare.startswith("|"):
            yield from (Text("page", path, number, cell) for cell in bare.strip("|").split("|"))
        elif bare and not fence and not fenced and (lines or not line.startswith("    ")):  # indented: code
            start = start if lines else number
            lines.append(bare)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a paragraph; code and links count as one word, and as the words that are shown."""
    plain = re.sub(r"`[^`]*`", "`code`", text)
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", plain)
    yield from re.split(r"(?<=[.!?])[)*\"]*\s+", plain)


def found() -> dict[str, list[Place]]:
    """Return each kind's places, the worst first."""
    places: dict[str, list[Place]] = {kind: [] for kind in MOST}
    texts = [text for path in sorted(PACKAGE.glob("**/*.py")) for text in of_module(path)]
    pages = [text for path in PAGES for text in of_page(path)]
    for kind, path, line, text in [*texts, *pages]:
        if kind == "docstring":  # its words are counted as a text of the module
            first = text.splitlines()[0]
            if QUESTION.match(first):
                places["first line: What, How, Who, That, Where"].append(Place(len(first), path, line, first))
            if len(first) > LONGEST_FIRST_LINE:
                places["first line: over 90 characters"].append(Place(len(first), path, line, first))
            continue
        for name, pattern in WORDS.items():
            for match in re.finditer(pattern, " ".join(text.split()), re.IGNORECASE):
                joined = " ".join(text.split())
                words = joined[max(match.start() - 50, 0) : match.end() + 50]
                places[name].append(Place(0, path, line, f"... {words} ..."))
        if kind == "page":
            for sentence in sentences(text):
                count = len(sentence.split())
                if count > LONGEST_SENTENCE:
                    words = f"{count} words: {sentence[:100]} ..."
                    places["page: sentence over 35 words"].append(Place(count, path, line, words))
    return {kind: sorted(listed, key=lambda place: -place.weight) for kind, listed in places.items()}


@pytest.fixture(scope="module")
def places() -> dict[str, list[Place]]:
    """Give what is found, once for all kinds."""
    return found()


@pytest.mark.parametrize("kind", MOST)
def test_it_only_becomes_easier_to_read(places: dict[str, list[Place]], kind: str) -> None:
    """No kind has more places than the table allows; a smaller number goes into the table."""
    listed = places[kind]
    files = ", ".join(
        f"{path.relative_to(ROOT)} {count}" for path, count in Counter(place.path for place in listed).most_common(5)
    )
    worst = "\n".join(f"  {place}" for place in listed[:SHOWN])
    assert len(listed) <= MOST[kind], (
        f"{kind}: {len(listed)} places, at most {MOST[kind]} allowed: write it plainly. Most are in {files}.\n{worst}"
    )
