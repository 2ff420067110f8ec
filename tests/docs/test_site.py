"""The site of docs/: it builds without a warning, its links lead somewhere, and it needs no network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from helpers.places import ROOT

import flambe_save

pytest.importorskip("sphinx", reason="the extra `docs` is not installed")

AXE = Path(os.environ.get("FLAMBE_SAVE_AXE") or ROOT / "node_modules" / "axe-core" / "axe.min.js")
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "srcset")}


class Page(HTMLParser):
    """The ids of a page, where its links go, and what it has a browser load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what is asked for."""
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            elif tag == "a" and name == "href":
                self.links.append(value or "")
            elif (tag, name) in LOADED:
                self.loaded.append(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it: a warning, such as an unknown name in a docstring, is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", folder / "cache", ROOT / "docs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([*command, folder / "html"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page of the site, by its file."""
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_each_public_name_is_in_the_reference(pages: dict[Path, Page]) -> None:
    """A name of ``__all__`` has a place of its own; so has ``open``, which a star import leaves out."""
    ids = {name for path, page in pages.items() if path.parent.name == "api" for name in page.ids}
    names = [*flambe_save.__all__, "open", *(f"yaml.{name}" for name in ("load", "load_all", "dump", "dump_all"))]
    missing = [name for name in names if not ids & {f"flambe_save.{name}", f"module-flambe_save.{name}"}]
    assert missing == []


def test_links_lead_to_a_page_and_a_place_in_it(pages: dict[Path, Page]) -> None:
    """Each link inside the site is to a file that is there; where it names an anchor, that is in the page."""
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or parts.netloc:
                continue
            ids = pages[target].ids if target in pages else set()
            if not target.exists() or (parts.fragment and target in pages and unquote(parts.fragment) not in ids):
                broken.append((path.name, link))
    assert broken == []


def test_every_page_is_reached_from_the_start(site: Path, pages: dict[Path, Page]) -> None:
    """The contents beside the start page list each document of docs/."""
    linked = {(site / (urlsplit(link).path or "index.html")).resolve() for link in pages[site / "index.html"].links}
    documents = [page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")]
    assert [str(page) for page in documents if (site / page).resolve() not in linked] == []


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    """Scripts, styles, fonts and images lie beside the pages; so does what a style asks for."""
    loaded = [(path.name, link) for path, page in pages.items() for link in page.loaded]
    assert [row for row in loaded if urlsplit(row[1]).scheme not in ("", "data") or urlsplit(row[1]).netloc] == []
    missing = [(name, link) for name, link in loaded if link and not (site / unquote(urlsplit(link).path)).exists()]
    assert [row for row in missing if not any((path / row[1].split("?")[0]).exists() for path in site.iterdir())] == []
    outside = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//")
    assert [path.name for path in site.rglob("*.css") if outside.search(path.read_text(encoding="utf-8"))] == []


def test_the_pages_say_nothing_of_the_machine(pages: dict[Path, Page]) -> None:
    """A default in a signature is as the source has it, not the repr of a module with its path."""
    assert [path.name for path in pages if str(ROOT) in path.read_text(encoding="utf-8")] == []
    assert [path.name for path in pages if "&lt;module" in path.read_text(encoding="utf-8")] == []


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page: small letters, no punctuation, dashes for spaces."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = [title.replace("`", "") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_anchors_are_right_on_github_too() -> None:
    """A link between the project's pages that names a heading names one that is there."""
    wrong = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for path, anchor in re.findall(r"\]\(([\w./-]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
            target = page.parent / path if path else page
            if anchor not in anchors(target):
                wrong.append((page.name, f"{path}#{anchor}"))
    assert wrong == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that reads files alone."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed")
    os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "proxy-server=127.0.0.1:9"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    from selenium.webdriver.chrome.service import Service

    made = selenium.Chrome(options=options, service=Service(executable_path=driver))
    yield made
    made.quit()


def resize(browser: Any, width: int) -> None:
    """Give the window the width of a phone or a desktop."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_window(browser: Any, site: Path, pages: dict[Path, Page], width: int) -> None:
    """Wide tables and code scroll by themselves, on a phone and on a desktop, and the browser complains of nothing."""
    resize(browser, width)
    browser.get_log("browser")  # of tests before this one
    wide = {}
    for path in pages:
        browser.get(path.as_uri())
        room = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        if room[0] > room[1]:
            wide[path.name] = room
    assert wide == {}
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_the_search_finds_without_a_network(browser: Any, site: Path) -> None:
    """A word of one page is found from the page's files alone."""
    browser.get(f"{(site / 'search.html').as_uri()}?q=keep_memory")
    end = time.monotonic() + 20
    while not (found := browser.find_elements("css selector", "#search-results li a")):
        assert time.monotonic() < end, "nothing was found"
        time.sleep(0.05)
    assert any(link.get_attribute("href").split("#")[0].endswith("training.html") for link in found), json.dumps(
        [link.get_attribute("href") for link in found]
    )


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed")
@pytest.mark.parametrize("name", ["index", "faq", "kinds", "api/saving", "coming_from/torch_save"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_are_accessible(browser: Any, site: Path, name: str, width: int) -> None:
    """axe finds nothing wrong: contrast, names, landmarks, and what scrolls can be scrolled by the keyboard."""
    resize(browser, width)
    browser.get((site / f"{name}.html").as_uri())
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    browser.set_script_timeout(60)
    wrong = browser.execute_async_script(
        "axe.run().then((found) => arguments[0](found.violations.map(({id, nodes}) => [id, nodes[0].html])))"
    )
    assert wrong == []
