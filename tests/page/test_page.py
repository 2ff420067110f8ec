"""The page without a browser: nothing of a save becomes markup, nothing is fetched, a report is always one page."""

from __future__ import annotations

import base64
import copy
import hashlib
import http.client
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import page_report
import pytest
from helpers.places import TESTS
from other_process import run_program

import flambe_save
from flambe_save.errors import MissingDependencyError
from flambe_save.page import PageServer, policy, render
from flambe_save.page.data import pack
from flambe_save.page.highlight import Highlighter

pytest.importorskip("pygments")

ASSETS = Path(flambe_save.__file__).parent / "page"
REPORTS = {"one": page_report.one, "two": page_report.two, "hostile": page_report.hostile}


class Document(HTMLParser):
    """The elements of a page with their attributes and, for those that hold text alone, their text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """Return the attributes and text of each element of a tag."""
        return [(found, text) for (name, found), text in zip(self.elements, self.texts, strict=True) if name == tag]


def data_of(html: str) -> dict[str, Any]:
    """Return what the page's scripts read."""
    [text] = [text for attributes, text in Document(html).of("script") if attributes.get("type") == "application/json"]
    data: dict[str, Any] = json.loads(text)
    return data


def test_same_report_same_bytes() -> None:
    """A report is rendered to the same page in another process, and is left as it was."""
    digests = []
    for made in REPORTS.values():
        report = made()
        before = copy.deepcopy(report)
        digests.append(hashlib.sha256(render(report).encode()).hexdigest())
        assert report == before
    code = (
        f"import sys, hashlib; sys.path.insert(0, {str(TESTS)!r}); import page_report;"
        f"from flambe_save.page import render;"
        f"made = [getattr(page_report, name)() for name in {list(REPORTS)}];"
        f"print(*(hashlib.sha256(render(report).encode()).hexdigest() for report in made))"
    )
    assert run_program(code).stdout.split() == digests


@pytest.mark.parametrize("name", REPORTS)
def test_elements_are_those_of_the_template(name: str) -> None:
    """Whatever a report holds, the page has the same elements with the same attributes."""
    expected = Document(render(page_report.one())).elements
    assert Document(render(REPORTS[name]())).elements == expected


def test_data_holds_no_markup() -> None:
    """No character of the data could end its element or a line, and none is a control character."""
    html = render(page_report.hostile())
    start = html.index('id="data">') + len('id="data">')
    data = html[start : html.index("</script>", start)]
    assert re.search("[<>&\x00-\x1f\x7f-\uffff]", data) is None
    assert json.loads(data)["strings"]


def test_what_steers_is_written_out() -> None:
    """Control characters, line separators and changes of direction are shown as escapes, in every text."""
    data = data_of(render(page_report.hostile()))
    texts = data["strings"] + [text for runs in data["texts"] for _, text in runs]
    steering = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
    assert [text for text in texts if steering.search(text)] == []
    assert any("\\u202egnp.exe" in text for text in texts)


def test_title_is_text() -> None:
    """The paths of the saves stand in the title, escaped."""
    html = render(page_report.hostile())
    title = html[html.index("<title>") : html.index("</title>")]
    assert "&lt;/script&gt;&lt;script&gt;window.__hacked" in title
    assert title.count("<") == 1


def test_the_title_names_no_part_of_the_template() -> None:
    """A path that looks like a hole of the template is text too."""
    report = page_report.one()
    report["saves"][0]["path"] = "$data ${script} {{ style }} $$"
    assert "<title>$data ${script} {{ style }} $$ \u2013 flambe_save</title>" in render(report)


@pytest.mark.parametrize("name", REPORTS)
def test_policy_allows_these_scripts_alone(name: str) -> None:
    """The hashes in the head are those of the one script and the one style, and all else is refused."""
    document = Document(render(REPORTS[name]()))
    [stated] = [
        found["content"] for found, _ in document.of("meta") if found.get("http-equiv") == "Content-Security-Policy"
    ]
    scripts = [text for found, text in document.of("script") if "type" not in found]
    styles = [text for _, text in document.of("style")]
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts + styles
    ]
    assert stated == policy()
    assert re.findall("'sha256-[^']+'", stated or "") == hashes
    assert len(hashes) == 2
    assert policy().startswith("default-src 'none'; ")
    assert "unsafe" not in policy()


def test_page_needs_nothing_else() -> None:
    """The page refers to nothing outside of it, but for the name of the SVG namespace."""
    html = render(page_report.two()).replace("http://www.w3.org/2000/svg", "")
    references = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)""", html)
    assert re.search(r"https?://|@import|url\(|\bimport\s*\(|\bfetch\(|XMLHttp|WebSocket|sendBeacon", html) is None
    assert [reference for reference in references if not reference.startswith(("#", "data:image/svg+xml,"))] == []


def test_scripts_never_make_markup_of_text() -> None:
    """No script uses what turns a text into elements or code, nor an id made while it runs but one that is fixed."""
    script = "\n".join(path.read_text() for path in ASSETS.glob("*.js"))
    makers = r"innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|DOMParser|srcdoc|document\.write"
    runners = r"\beval\b|new Function|setTimeout\(['\"`]"
    assert re.search(f"{makers}|{runners}", script) is None
    assert set(re.findall(r"\bid: ([^ ,}]+)", script)) == {'"map-title"', '"details-title"', '"results"'}


def test_every_file_is_used_and_packaged() -> None:
    """Each script beside the template is in the page, and all of them are package data."""
    html = render(page_report.one())
    setup = (ASSETS.parent.parent / "setup.cfg").read_text()
    assert [path.name for path in ASSETS.glob("*.js") if path.read_text() not in html] == []
    assert "flambe_save.page = *.html, *.css, *.js" in setup


def test_equal_texts_are_there_once() -> None:
    """A config or source that many components share is in the page once."""
    html = render(page_report.one())
    assert html.count("nn.Linear(width, 3 * width)") == 0  # it is cut into runs
    assert html.count("A language model of the size") == 1
    data = data_of(html)
    configs = data["saves"][0]["nodes"]["source"]
    names = [data["strings"][name] for name in data["saves"][0]["nodes"]["name"]]
    assert configs[names.index("blocks.0.mlp")] == configs[names.index("blocks.1.mlp")] >= 0
    assert len(set(data["strings"])) == len(data["strings"])


def test_runs_are_the_text() -> None:
    """The runs of a text are all of it, whatever it holds, and a long one is not cut into runs."""
    highlighter = Highlighter()
    texts = [
        "",
        "\n\n  x: 1\n\n",
        "a: [b, 'c']  # d\n",
        "!x.Y {a: |\n  z\n}",
        "\t",
        "def f():\n    return '''x\n",
        "\\" * 99,
    ]
    for language in ("yaml", "python", "other"):
        assert ["".join(run[1] for run in highlighter.runs(text, language)) for text in texts] == texts
    for slow in ("x: 1\n" * 20_000, "@" * 20_000, " \n" * 20_000):
        assert highlighter.runs(slow, "python") == highlighter.runs(slow, "yaml") == [["", slow]]
    assert {kind for kind, _ in highlighter.runs("def f(x): return 'a' + 1  # c\n", "python")} >= {
        "k",
        "f",
        "s",
        "n",
        "c",
    }


def test_tree_of_names() -> None:
    """A component's parent is the longest prefix of whole parts that is a component; its label is what remains."""
    shows = [page_report.show(name, "X", []) for name in ("", "a", "a.b", "a.b.c.d", "ab", "x.y", "x.y.")]
    nodes = pack({"saves": [page_report.save("p", shows)]})
    packed = nodes["saves"][0]["nodes"]
    assert packed["parent"] == [-1, 0, 1, 2, 0, 0, 5]
    assert [nodes["strings"][label] for label in packed["label"]] == ["", "a", "b", "c.d", "ab", "x.y", ""]


def test_ties_lead_to_tensors() -> None:
    """Each key of a tie has the number of its tensor, or none where there is no such tensor."""
    shows = [
        page_report.show("", "X", [page_report.tensor("a", (1,)), page_report.tensor("b.c", (1,))]),
        page_report.show("d", "X", [page_report.tensor("e", (1,))]),
    ]
    data = pack({"saves": [page_report.save("p", shows, [["a", "b.c", "d.e", "gone.f"]])]})
    assert [tensor for _, tensor in data["saves"][0]["ties"][0]] == [0, 1, 2, -1]


def test_difference_joins_both_trees() -> None:
    """The components of both saves are one tree, each with its places, mark and changes."""
    data = pack(page_report.two())
    packed, strings = data["difference"], data["strings"]
    nodes = packed["nodes"]
    names = [strings[name] for name in nodes["name"]]
    gone, new = names.index("blocks.1.mlp"), names.index("pooler")
    assert (nodes["a"][gone] >= 0, nodes["b"][gone], nodes["mark"][gone]) == (True, -1, 2)
    assert (nodes["a"][new], nodes["b"][new] >= 0, nodes["mark"][new]) == (-1, True, 1)
    assert names[nodes["parent"][gone]] == "blocks.1"
    rows = packed["changes"]
    tensors = [at for at, part in enumerate(rows["part"]) if strings[part] == "tensor"]
    assert tensors
    assert all(rows["a"][at] >= 0 and rows["b"][at] >= 0 and rows["relative_norm"][at] > 0 for at in tensors)


def test_numbers_that_are_none_and_histograms() -> None:
    """Numbers that are not finite stay words, others keep six digits, a histogram becomes one digit a bin."""
    tensor = page_report.tensor("a", (4,))
    tensor["statistics"].update(minimum="-inf", maximum=float("nan"), mean=1 / 3, histogram=[0, 1, 1000] * 32)
    columns = pack({"saves": [page_report.save("p", [page_report.show("", "X", [tensor])])]})["saves"][0]["tensors"]
    assert columns["statistics"][0][1:4] == ["-inf", "nan", 0.333333]
    assert (len(columns["histogram"][0]), columns["histogram"][0][:3]) == (48, "1__")


def test_a_save_with_nothing_in_it() -> None:
    """A save without components, details, packages or a writer is a page too."""
    empty = page_report.save("p", [])
    empty["save"].update(writer=None, packages={}, bytes=None)
    bare = page_report.save("q", [page_report.show("", "X", [])])
    bare["details"] = {}
    for made in (empty, bare):
        assert data_of(render({"saves": [made], "difference": None}))["saves"][0]["writer"] == -1 or made is bare


def test_huge_report_is_small() -> None:
    """10,000 components with 100,000 tensors make a page of tens of megabytes at most."""
    html = render(page_report.huge())
    assert 1_000_000 < len(html) < 20_000_000


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Pygments the error says what to type."""
    monkeypatch.setitem(sys.modules, "pygments", None)
    with pytest.raises(MissingDependencyError) as caught:
        render(page_report.one())
    assert str(caught.value).endswith("pip install 'flambe_save[cli]'")


@pytest.fixture
def server() -> Iterator[PageServer]:
    """A server of a page, in a thread."""
    with PageServer("<!doctype html>é") as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: PageServer, method: str = "GET", path: str = "/", host: str | None = None) -> http.client.HTTPResponse:
    """Return the answer to a request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
        connection.endheaders()
        answer = connection.getresponse()
        answer.text = answer.read().decode()  # type: ignore[attr-defined]
        return answer
    finally:
        connection.close()


def test_server_gives_the_page(server: PageServer, capfd: pytest.CaptureFixture[str]) -> None:
    """GET / is the page, with headers that keep it to itself, and nothing is printed."""
    answer = ask(server)
    assert (answer.status, answer.text) == (200, "<!doctype html>é")  # type: ignore[attr-defined]
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Security-Policy"] == f"{policy()}; frame-ancestors 'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Server"] == "flambe_save"
    assert ask(server, host=f"localhost:{server.server_port}").status == 200
    assert server.url == f"http://127.0.0.1:{server.server_port}/"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("path", ["/x", "/?a", "/../elsewhere/file", "/index.html", "/favicon.ico"])
def test_server_has_one_page(server: PageServer, path: str) -> None:
    """Any other path is an error that repeats nothing of it."""
    answer = ask(server, path=path)
    assert answer.status == 404
    assert path not in answer.text  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", "localhost"]
)
def test_server_refuses_other_hosts(server: PageServer, host: str) -> None:
    """A name that merely points here does not get the page."""
    answer = ask(server, host=host.format(port=server.server_port))
    assert (answer.status, "doctype" in answer.text) == (421, False)  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "<script>"])
def test_server_only_gives(server: PageServer, method: str) -> None:
    """Nothing but GET is answered with the page."""
    answer = ask(server, method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")
    assert "script>" not in answer.text  # type: ignore[attr-defined]


def test_server_listens_on_this_machine_alone(server: PageServer, capfd: pytest.CaptureFixture[str]) -> None:
    """The socket is bound to 127.0.0.1; requests that are none, or end early, print nothing."""
    for text in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET"):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b"doctype" not in answer
    assert server.server_address[0] == "127.0.0.1"
    assert capfd.readouterr() == ("", "")
