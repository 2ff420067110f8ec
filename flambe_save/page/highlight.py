"""Colours for configs and sources: runs of one kind each, inserted into the page as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from flambe_save.errors import MissingDependencyError

# The kinds that the style sheet knows, by the token of Pygments that they begin with; the first that fits counts
_KINDS = {
    "Token.Comment": "c",
    "Token.Literal.String.Doc": "c",
    "Token.Literal.String": "s",
    "Token.Literal.Number": "n",
    "Token.Keyword.Type": "t",
    "Token.Keyword": "k",
    "Token.Operator.Word": "k",
    "Token.Name.Class": "t",
    "Token.Name.Function": "f",
    "Token.Name.Tag": "a",
    "Token.Name.Decorator": "d",
    "Token.Name.Builtin.Pseudo": "d",
    "Token.Name.Builtin": "f",
}
_LONGEST = 50_000  # characters of one text
_MOST = 2_000_000  # of all that are coloured
# A lexer's patterns can take the square of a line, or of a run of blanks: 50,000 of them are most of a minute
_SLOW = re.compile(r"[^\n]{1000}|\s{200}")


class Highlighter:
    """Cuts texts into runs; what is too much for a lexer stays one run.

    Raises
    ------
    MissingDependencyError
        If Pygments is not installed.
    """

    def __init__(self) -> None:
        try:
            from pygments import lexers
        except ImportError as error:
            raise MissingDependencyError("the page needs Pygments", fix="pip install 'flambe_save[cli]'") from error
        options = {"stripnl": False, "ensurenl": False}
        self._lexers: dict[str, Callable[[str], Iterator[tuple[object, str]]]] = {
            "yaml": lexers.YamlLexer(**options).get_tokens,
            "python": lexers.PythonLexer(**options).get_tokens,
        }
        self._kinds: dict[object, str] = {}
        self._left = _MOST

    def runs(self, text: str, language: str) -> list[list[str]]:
        """Return the text as ``[kind, text]`` pairs, in order and complete.

        Parameters
        ----------
        text : str
            A config or a source.
        language : str
            ``"yaml"``, ``"python"``, or another for no colours.
        """
        lexer = self._lexers.get(language)
        self._left -= len(text)
        if lexer is None or len(text) > _LONGEST or self._left < 0 or _SLOW.search(text):
            return [["", text]]
        runs: list[list[str]] = []
        for token, piece in lexer(text):
            kind = self._kind(token)
            if runs and (runs[-1][0] == kind or not piece.strip()):
                runs[-1][1] += piece
            else:
                runs.append([kind, piece])
        return runs

    def _kind(self, token: object) -> str:
        if token not in self._kinds:
            name = str(token)
            self._kinds[token] = next((kind for start, kind in _KINDS.items() if name.startswith(start)), "")
        return self._kinds[token]
