"""The page in a browser: what can be clicked, typed and seen, that nothing hostile runs, and that it is accessible."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import page_report
import pytest
from helpers.places import ROOT

from flambe_save.page import PageServer, render

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
pytest.importorskip("pygments")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None, reason="chromium or chromedriver is not installed"
)

AXE = Path(os.environ.get("FLAMBE_SAVE_AXE") or ROOT / "node_modules" / "axe-core" / "axe.min.js")


class Page:
    """A driver with a page open in it."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def open(self, report: dict[str, Any] | str, fragment: str = "") -> Page:
        """Open the page of a report, or an address."""
        if not isinstance(report, str):
            file = self.folder / f"page{len(list(self.folder.glob('*.html')))}.html"
            file.write_text(render(report), encoding="utf-8")
            report = file.as_uri()
        self.driver.get(report + fragment)
        self.wait(lambda: self.js("return document.documentElement.dataset.ready") == "")
        return self

    def js(self, code: str, *arguments: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(code, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements that a selector finds."""
        found: list[WebElement] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> WebElement:
        """Return the first element that a selector finds."""
        return self.driver.find_element("css selector", selector)  # type: ignore[no-any-return]

    def texts(self, selector: str) -> list[str]:
        """Return the texts of the elements that a selector finds, shown or not."""
        texts: list[str] = self.js(
            "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)", selector
        )
        return texts

    def wait(self, condition: Callable[[], Any], seconds: float = 10) -> Any:
        """Return what a condition gives once it holds."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, "the page did not come to what was waited for"
            time.sleep(0.02)
        return value

    def title(self) -> str:
        """Return the name of the component that the panel is of."""
        return self.texts("#details-title .name")[0]

    def row(self, label: str) -> WebElement:
        """Return the first row of the tree with a label."""
        return next(row for row in self.all(".tree .row") if row.find_element("css selector", ".label").text == label)

    def click(self, element: WebElement) -> None:
        """Click in the middle of an element that was brought into view."""
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element(element).click().perform()

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def focused(self) -> str:
        """Return the text of the row or element that has the focus."""
        found = "const at = document.activeElement; return (at.querySelector('.label') ?? at).textContent"
        return str(self.js(found))

    def media(self, **features: str) -> None:
        """Emulate media features."""
        rows = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": rows})

    def resize(self, width: int, height: int) -> None:
        """Give the window a size, down to a phone's."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def complaints(self) -> list[str]:
        """Return what the browser logged since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser of its own profile, which downloads nothing."""
    os.environ.update(SE_OFFLINE="true", SE_AVOID_STATS="true")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.set_capability("unhandledPromptBehavior", "ignore")  # an alert is to be seen
    made = webdriver.Chrome(options=options, service=Service(executable_path=CHROMEDRIVER))
    yield made
    made.quit()


@pytest.fixture
def page(driver: Any, tmp_path: Path) -> Iterator[Page]:
    """A page at 1400 by 1000, light; at the end the browser must have had nothing to complain of."""
    made = Page(driver, tmp_path)
    made.resize(1400, 1000)
    made.media(prefers_color_scheme="light")
    yield made
    assert made.complaints() == []
    driver.get("about:blank")


def test_head_says_what_it_is(page: Page) -> None:
    """The head has the path, the class, the totals and the badges; packages are there when they are asked for."""
    page.open(page_report.one())
    assert page.texts("h1 .name") == ["runs/gpt-small"]
    assert page.texts(".badge")[:5] == ["whole", "needs trust", "folder", "flambe_save 0.1.0", "protocol 1"]
    assert "GPT6.72 M parameters26.9 MB in tensors15 components28 tensors" in page.texts(".figures")[0]
    assert not page.one(".packages").is_displayed()
    page.click(page.one(".folds summary"))
    assert page.one(".packages").is_displayed()
    assert "torch2.13.0" in page.texts(".packages div")


def test_other_badges(page: Page) -> None:
    """A damaged save and an unchecked one say so, with what is wrong."""
    report = page_report.one()
    save = report["saves"][0]
    for item in (*save["nodes"], *save["details"].values()):
        item["trust"] = []
    save["save"].update(is_whole=False, writer=None)
    page.open(report)
    assert page.texts(".badge")[:4] == ["unchecked", "data only", "folder", "Flambe"]
    save["damage"] = [{"node": "embedding", "file": "embedding/state.pt", "problem": "the checksum differs"}]
    page.open(report)
    assert page.texts(".badge")[0] == "damaged"
    page.click(page.one(".note li a"))
    page.wait(lambda: page.title() == "embedding")
    assert "embedding/state.pt: the checksum differs" in page.texts(".details .note.bad")[0]


def test_click_through_the_tree(page: Page) -> None:
    """A click selects a row and shows its details; one on the arrow, or a second one, folds it."""
    page.open(page_report.one())
    assert page.title() == "root"
    page.click(page.row("attention"))
    page.wait(lambda: page.title() == "attention")
    assert page.row("attention").get_attribute("aria-selected") == "true"
    assert page.texts(".path a") == ["root", "blocks.0"]
    assert page.texts("tbody .opens") == [
        "project.weight",
        "project.bias",
        "out.weight",
        "out.bias",
    ]
    assert "dropout" in page.texts(".block .code")[0]
    assert page.all(".code-k")
    before = len(page.all(".tree .row"))
    page.click(page.row("blocks.0").find_element("css selector", ".twisty"))
    assert page.row("blocks.0").get_attribute("aria-expanded") == "false"
    assert len(page.all(".tree .row")) == before - 4
    assert page.title() == "attention"
    page.click(page.row("blocks.0"))
    page.wait(lambda: page.title() == "blocks.0")
    page.click(page.row("blocks.0"))
    assert page.row("blocks.0").get_attribute("aria-expanded") == "true"
    page.driver.back()
    page.wait(lambda: page.title() == "attention")


def test_keyboard_through_the_tree(page: Page) -> None:
    """Arrows, Home, End, letters and Enter do what the tree pattern says; one row is in the order of tabs."""
    page.open(page_report.one())
    page.js("document.querySelector('.tree [tabindex=\"0\"]').focus()")
    assert page.focused() == "root"
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert page.focused() == "blocks.0"
    page.press(Keys.ARROW_RIGHT)
    assert page.focused() == "norm1"
    page.press(Keys.ARROW_LEFT)
    assert page.focused() == "blocks.0"
    page.press(Keys.ARROW_LEFT)
    assert page.row("blocks.0").get_attribute("aria-expanded") == "false"
    page.press(Keys.ARROW_DOWN)
    assert page.focused() == "blocks.1"
    page.press(Keys.ARROW_UP, Keys.ARROW_RIGHT)
    assert page.row("blocks.0").get_attribute("aria-expanded") == "true"
    page.press(Keys.END)
    assert page.focused() == "head"
    page.press(Keys.HOME)
    assert page.focused() == "root"
    page.press("e", "m")
    assert page.focused() == "embedding"
    page.press(Keys.ENTER)
    page.wait(lambda: page.title() == "embedding")
    assert len(page.all('.tree [tabindex="0"]')) == 1
    assert page.row("embedding").get_attribute("tabindex") == "0"


def test_search(page: Page) -> None:
    """Names, classes and dtypes are found, by all words, and the counts are announced; a result leads to its tensor."""
    page.open(page_report.one())
    page.press("/")
    assert page.js("return document.activeElement.id") == "search"
    page.press(*"layernorm")
    page.wait(lambda: page.texts("#found") == ["5 components, 0 tensors"])
    assert page.one("#found").get_attribute("aria-live") == "polite"
    assert not page.one(".tree").is_displayed()
    page.js("document.activeElement.select()")
    page.press(*"blocks.1 up float32")
    page.wait(lambda: page.texts("#found") == ["0 components, 2 tensors"])
    assert page.texts(".results .label") == ["blocks.1.mlp.up.weight", "blocks.1.mlp.up.bias"]
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER)
    page.wait(lambda: page.title() == "mlp")
    page.wait(lambda: page.focused() == "up.bias")
    assert page.texts('.opens[aria-expanded="true"]') == ["up.bias"]
    page.press("/", *"zzz")
    page.wait(lambda: page.texts("#found") == ["Nothing found"])
    page.press(Keys.ESCAPE)
    assert page.one(".tree").is_displayed()
    page.press(*"mlp.down.w")
    page.wait(lambda: page.texts("#found") == ["0 components, 2 tensors"])


def test_treemap(page: Page) -> None:
    """A click or the keyboard selects a rectangle, a second click on a component goes into it, its path leads back."""
    page.open(page_report.one())
    cell = page.wait(lambda: page.all('.map g[aria-label^="blocks.1.attention"]'))[0]
    page.js("arguments[0].scrollIntoView({block: 'center'})", cell)
    head = -int(cell.rect["height"] / 2) + 6  # its middle is a rectangle inside of it
    ActionChains(page.driver).move_to_element_with_offset(cell, 0, head).click().perform()
    page.wait(lambda: page.title() == "attention")
    assert page.all('.tree [aria-selected="true"]')[0].get_attribute("title").startswith("blocks.1.attention")
    assert cell.get_attribute("aria-current") == "true"
    tensor = page.one('.map g[aria-label^="project.weight of blocks.0.attention"]')
    page.click(tensor)
    page.wait(lambda: page.focused() == "project.weight")
    assert page.texts('.opens[aria-expanded="true"]') == ["project.weight"]
    page.js("document.querySelector('.map g').focus()")
    page.press(Keys.ARROW_DOWN)
    assert page.js("return document.activeElement.getAttribute('aria-label')").startswith("embedding")
    page.press(Keys.ENTER)
    page.wait(lambda: page.title() == "embedding")
    page.click(page.row("blocks.0"))
    page.wait(lambda: page.title() == "blocks.0")
    page.click(page.one(".map-head > .quiet"))
    assert page.texts(".crumbs button") == ["root", "blocks.0"]
    assert page.all('.map g[aria-label^="embedding"]') == []
    page.click(page.one(".crumbs button"))
    assert len(page.all('.map g[aria-label^="embedding"]')) == 1


def test_rectangles_have_the_area_of_their_bytes(page: Page) -> None:
    """Tensors of one component have areas as their sizes are, and no rectangle leaves the drawing."""
    page.open(page_report.one())
    page.wait(lambda: page.all(".map .cell"))
    boxes = page.js(
        "return [...document.querySelectorAll('.map .cell')].map((g) => [g.getAttribute('aria-label'), "
        "...['x', 'y', 'width', 'height'].map((name) => Number(g.querySelector('rect').getAttribute(name)))])"
    )
    width, height = page.js(
        "const box = document.querySelector('.map svg').viewBox.baseVal; return [box.width, box.height]"
    )
    assert all(x >= 0 and y >= 0 and x + w <= width + 0.2 and y + h <= height + 0.2 for _, x, y, w, h in boxes)
    area = {label.split(",")[0]: (w + 1) * (h + 1) for label, _, _, w, h in boxes}
    ratio = area["project.weight of blocks.0.attention"] / area["out.weight of blocks.0.attention"]
    assert 2.7 < ratio < 3.3


def test_tensor_rows_and_ties(page: Page) -> None:
    """A tensor opens to its histogram and statistics, and to the tensor that it is tied to."""
    page.open(page_report.one(), "#v0-c2")
    page.wait(lambda: page.title() == "embedding")
    page.click(page.all("tbody .opens")[0])
    assert "elements3,072,000" in page.texts(".opened-tensor dl div")
    assert len(page.all(".opened-tensor svg path.bars")) == 1
    page.click(page.one(".opened-tensor a"))
    page.wait(lambda: page.title() == "head")
    page.wait(lambda: page.focused() == "weight")
    page.click(page.all(".sort")[0])
    assert page.one("thead th").get_attribute("aria-sort") == "ascending"


def test_numbers_that_are_none(page: Page) -> None:
    """NaN and infinities are shown as such, and a tensor that was not read, is empty or constant draws no error."""
    report = page_report.one()
    rows = report["saves"][0]["details"]["embedding"]["tensor_list"]
    rows[0]["statistics"].update(minimum="nan", maximum="inf", mean="nan", nan=3, inf=2, norm="inf")
    rows[1]["statistics"] = None
    rows += [page_report.tensor("constant", (3,), std=0, mean=2), page_report.tensor("empty", (0,))]
    rows[-1]["statistics"].update(minimum="nan", maximum="nan", mean="nan", std="nan", histogram=[])
    page.open(report, "#v0-c2")
    page.wait(lambda: page.title() == "embedding")
    for button in page.all("tbody .opens"):
        page.click(button)
    assert page.texts(".notes") == ["3 NaN2 inftied", "", "", ""]
    assert "maximum∞" in page.texts(".opened-tensor dl div")
    assert "Its values were not read." in page.texts(".opened-tensor p")


def test_difference(page: Page) -> None:
    """The difference has its tensors by how far they moved, sorts by the others too, and filters by part."""
    page.open(page_report.two())
    assert page.texts('#views [aria-pressed="true"]') == ["Changes"]
    minus = "\N{MINUS SIGN}"
    moved = [float(text.replace(minus, "-")) for text in page.texts(".moved")]
    assert len(moved) == 22
    assert moved == sorted(moved, reverse=True)
    heading = next(button for button in page.all(".sort") if button.text.startswith("Cosine"))
    page.click(heading)
    page.click(heading)
    assert page.js("return arguments[0].parentElement.ariaSort", heading) == "ascending"
    assert [float(text.replace(minus, "-")) for text in page.texts(".moved")] == moved
    page.click(page.all("tbody .opens")[0])
    assert [path.get_attribute("class") for path in page.all(".opened-tensor figure path")][1:3] == ["ghost", "bars"]
    chips = {chip.text.split("\n")[0].rstrip("0123456789 "): chip for chip in page.all(".chip")}
    assert list(chips) == ["All changes", "tensors", "components", "versions", "config", "source", "values", "packages"]
    page.click(chips["packages"])
    assert page.texts("tbody .plus") == ["2.14.1", "1.5.0"]
    assert page.all(".moved") == []
    assert page.focused().startswith("packages")


def test_difference_in_the_tree(page: Page) -> None:
    """The tree marks what changed; a component stands before beside after, its source as a diff."""
    page.open(page_report.two())
    assert page.row("pooler").find_element("css selector", ".mark").get_attribute("class") == "mark added"
    assert page.row("blocks.1").find_element("css selector", ".mark").get_attribute("class") == "mark within"
    assert len(page.all(".mark.removed")) == 1
    assert page.row("vocabulary").find_elements("css selector", ".mark") == []
    page.click(page.row("attention"))
    page.wait(lambda: page.title() == "attention")
    assert page.texts(".differs") == ["version1.4.01.5.0"]
    assert len(page.all(".side .code")) == 2
    assert "+    def reset(self) -> None:" in page.texts(".line.plus")
    assert "-    def __init__(self, width: int, heads: int, dropout: float = 0.1) -> None:" in page.texts(".line.minus")
    page.click(page.all(".tree .row")[-1])
    page.wait(lambda: page.title() == "pooler")
    assert "It was not there." in page.texts(".compare td")


def test_tensors_of_the_difference(page: Page) -> None:
    """A rectangle and a search result of the difference lead to the change of their tensor, whatever part is shown."""
    page.open(page_report.two())
    page.click(next(chip for chip in page.all(".chip") if chip.text.startswith("packages")))
    cell = page.wait(lambda: page.all('.map g[aria-label^="down.weight of blocks.0.mlp"]'))[0]
    page.click(cell)
    page.wait(lambda: page.focused() == "down.weight")
    assert page.title() == "mlp"
    page.press("/", *"norm weight")
    page.wait(lambda: page.texts("#found") == ["0 components, 5 tensors"])
    page.press(Keys.ARROW_DOWN, Keys.ENTER)
    page.wait(lambda: page.focused() == "weight")
    assert page.texts(".path a") == ["root", "blocks.0"]


def test_views_of_each_save(page: Page) -> None:
    """Both saves can be looked at by themselves, and the browser goes back to the difference."""
    page.open(page_report.two())
    page.click(page.all("#views button")[2])
    page.wait(lambda: page.texts('#views [aria-pressed="true"]') == ["After"])
    assert "pooler" in page.texts(".tree .label")
    page.click(page.all("#views button")[1])
    page.wait(lambda: page.texts('#views [aria-pressed="true"]') == ["Before"])
    assert "pooler" not in page.texts(".tree .label")
    page.driver.back()
    page.wait(lambda: page.texts('#views [aria-pressed="true"]') == ["After"])
    assert page.complaints() == []


def brightness(page: Page, selector: str = "body") -> float:
    """Return how bright the background of an element is, from 0 to 255."""
    color = page.js("return getComputedStyle(document.querySelector(arguments[0])).backgroundColor", selector)
    return sum(map(float, color.removeprefix("rgb(").removesuffix(")").split(","))) / 3


def test_dark_and_light(page: Page) -> None:
    """The page is dark where the system is."""
    page.open(page_report.one())
    assert brightness(page) > 230
    page.media(prefers_color_scheme="dark")
    assert brightness(page) < 40
    assert brightness(page, ".details") < 50


@pytest.mark.parametrize("name", ["one", "two", "hostile"])
@pytest.mark.parametrize("width", [360, 700, 1100])
def test_no_scrolling_sideways(page: Page, name: str, width: int) -> None:
    """At a phone's width and at others the page is as wide as the window, whatever is open."""
    page.resize(width, 740)
    page.open(getattr(page_report, name)())
    for fragment in ("#v0-c2", "#v0-c0"):
        page.js("location.hash = arguments[0]", fragment)
        page.wait(lambda: page.all(".details"))
        page.js("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        for button in page.all("tbody .opens")[:3]:
            page.js("arguments[0].click()", button)
        wide, inside, window = page.js(
            "const at = document.documentElement; return [at.scrollWidth, at.clientWidth, innerWidth]"
        )
        assert (wide, window) == (inside, width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("width", [360, 1400])
def test_accessible(page: Page, name: str, scheme: str, width: int) -> None:
    """axe-core finds nothing wrong, with rows opened, a search, and each part of the page shown."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (npm install --no-save axe-core)")
    page.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    page.resize(width, 900)
    page.open(getattr(page_report, name)())
    page.js(AXE.read_text(encoding="utf-8"))
    found = []
    fragments = ["", "#v0-c2", "#v0-c1", "#v0-c5"] + (["#vd-c5", "#vd-c15"] if name == "two" else [])
    for fragment in fragments:
        page.js("location.hash = arguments[0]", fragment)
        time.sleep(0.1)
        page.js("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        for button in page.all("tbody .opens")[:2]:
            page.js("arguments[0].click()", button)
        if fragment == fragments[-1]:
            page.js("const field = document.getElementById('search'); field.value = 'norm'")
            page.js("document.getElementById('search').dispatchEvent(new Event('input'))")
            page.wait(lambda: page.all(".results .row"))
        result = page.driver.execute_async_script(
            "axe.run(document, {resultTypes: ['violations']}).then(arguments[0], (no) => arguments[0](String(no)))"
        )
        assert isinstance(result, dict), result
        found += [
            (fragment, violation["id"], node["html"][:200], node.get("failureSummary"))
            for violation in result["violations"]
            for node in violation["nodes"]
        ]
    assert found == []


def test_hostile_save_runs_nothing(page: Page) -> None:
    """Nothing of a hostile save runs, becomes an element, or gets an id, wherever it is shown."""
    page.open(page_report.hostile())
    expected = page.js("return [...document.querySelectorAll('[id]')].map((found) => found.id).sort()")
    for fragment in ("#v0-c0", "#v0-c1", "#v0-c2", "#v1-c7", "#vd-c3", "#vd-c0", "#v0-c999999", "#vx-c0", "#v9-c1-t1"):
        page.js("location.hash = arguments[0]", fragment)
        time.sleep(0.1)
        page.js("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        for button in page.all("tbody .opens"):
            page.js("arguments[0].click()", button)
        ids = page.js("return [...document.querySelectorAll('[id]')].map((found) => found.id).sort()")
        assert ids == expected
    for query in page_report.ATTACKS[:4]:
        page.js("document.getElementById('search').value = arguments[0]", query)
        page.js("document.getElementById('search').dispatchEvent(new Event('input'))")
        page.wait(lambda: page.texts("#found")[0] != "")
    elements = page.js("return [...new Set([...document.querySelectorAll('*')].map((found) => found.localName))]")
    handlers = page.js(
        "return [...document.querySelectorAll('*')].flatMap((found) => found.getAttributeNames())"
        ".filter((name) => name.startsWith('on') || name === 'src')"
    )
    styles = page.js("return [...document.querySelectorAll('[style]')].map((found) => found.getAttribute('style'))")
    links = page.js("return [...document.querySelectorAll('a')].map((found) => found.getAttribute('href'))")
    assert page.js("return typeof window.__hacked") == "undefined"
    assert set(elements) & {"img", "iframe", "object", "embed", "base", "form"} == set()
    assert page.js("return document.scripts.length") == 2
    assert handlers == []
    assert [style for style in styles if not re.fullmatch(r"--level: \d+;", style)] == []
    assert [link for link in links if not link.startswith("#")] == []


def test_policy_holds(page: Page) -> None:
    """In the page, markup made of text is refused, and so are scripts, styles and requests that came later."""
    page.open(page_report.one())
    refused = page.js("try { document.body.innerHTML = '<b>x</b>'; return false; } catch { return true; }")
    page.js(
        "const added = document.createElement('style'); added.textContent = 'body { opacity: 0.5 }';"
        "document.head.append(added);"
    )
    fetched = page.driver.execute_async_script(
        "fetch('http://127.0.0.1:9/').then(() => arguments[0](true), () => arguments[0](false))"
    )
    assert refused
    assert not fetched
    assert page.js("return getComputedStyle(document.body).opacity") == "1"
    assert len(page.complaints()) >= 2


def test_huge_report(page: Page) -> None:
    """A page of 10,000 components and 100,000 tensors opens in seconds, answers a search, and shows what is asked."""
    start = time.monotonic()
    page.open(page_report.huge())
    page.wait(lambda: page.all(".map .cell"))
    opened = time.monotonic() - start
    assert len(page.all(".map .cell")) <= 400
    assert len(page.all(".tree .row")) < 1000
    took = page.driver.execute_async_script(
        "const done = arguments[0], start = performance.now(), field = document.getElementById('search');"
        "new MutationObserver(() => done(performance.now() - start))"
        ".observe(document.getElementById('found'), {childList: true});"
        "field.value = 'weight_7'; field.dispatchEvent(new Event('input'));"
    )
    assert page.texts("#found") == ["0 components, 9,997 tensors"]
    assert len(page.all(".results .row")) == 200
    page.click(page.one(".results .more"))
    assert len(page.all(".results .row")) == 400
    page.press("/", Keys.ESCAPE)
    page.click(page.row("wide"))
    page.wait(lambda: page.title() == "wide")
    page.click(page.row("wide"))
    rows = len(page.all(".tree .row"))
    page.click(page.one(".tree .rest"))
    assert len(page.all(".tree .row")) == rows + 200
    page.js("location.hash = '#v0-c5302'")
    page.wait(lambda: page.title() == "next")
    assert page.all('.tree [aria-selected="true"]')[0].get_attribute("aria-level") == "302"
    assert opened < 20, "with the time to make the report and to render it"
    assert took < 2000, "milliseconds"


def test_from_the_server(page: Page) -> None:
    """The page works as it is served, and the browser has nothing to complain of there either."""
    with PageServer(render(page_report.two())) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            page.open(server.url)
            page.click(page.row("attention"))
            page.wait(lambda: page.title() == "attention")
        finally:
            server.shutdown()
            thread.join()
    assert page.complaints() == []
